//! Threads: registers, TLS, and what the kernel keeps for each of them.

use crate::cell::{join, same, Cell, Context};
use crate::sys::memory::Region;
use crate::sys::registers::{self, Hold, Registers};
use crate::sys::{process, signal};
use anyhow::{ensure, Result};
use std::cell::Cell as StdCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "threads/registers",
        what: "general, flags, x87, MXCSR and vector registers of a thread in user mode",
        covers: &["Thread.regs", "Thread.xstate", "Caught.User"],
        caught: Some("user mode, known registers"),
        run: registers_in_user_mode,
    },
    Cell {
        name: "threads/registers-in-call",
        what: "the same registers of a thread asleep in a system call",
        covers: &["Thread.regs", "Thread.xstate", "Caught.Syscall"],
        caught: Some("nanosleep, known registers"),
        run: registers_in_call,
    },
    Cell {
        name: "threads/eight",
        what: "eight threads, half in user mode and half in a call, each with registers, TLS and thread id of its own",
        covers: &["Thread.regs", "Thread.xstate", "Thread.tid"],
        caught: Some("user mode and nanosleep, known registers"),
        run: eight,
    },
    Cell {
        name: "threads/segment-bases",
        what: "FS and GS base",
        covers: &["Thread.regs"],
        caught: None,
        run: segment_bases,
    },
    Cell {
        name: "threads/names",
        what: "the name of each thread",
        covers: &["Thread.comm"],
        caught: None,
        run: names,
    },
    Cell {
        name: "threads/join",
        what: "the kernel clears the word of a thread that ends afterwards, and wakes who waits for it",
        covers: &["Thread.clear_child_tid"],
        caught: None,
        run: clear_tid,
    },
    Cell {
        name: "threads/robust-list",
        what: "a lock whose owner ends afterwards is marked as orphaned",
        covers: &["Thread.robust_list"],
        caught: None,
        run: robust_list,
    },
    Cell {
        name: "threads/rseq",
        what: "the kernel still writes the CPU number into the rseq area",
        covers: &["Thread.rseq"],
        caught: None,
        run: rseq,
    },
    Cell {
        name: "threads/membarrier",
        what: "what the process registered for with membarrier: expedited barriers go on working",
        covers: &["AddressSpace.membarrier"],
        caught: None,
        run: membarrier,
    },
    Cell {
        name: "threads/masks",
        what: "signal mask, alternate stack and affinity of each of four threads",
        covers: &["Thread.blocked", "Thread.sigaltstack", "Thread.affinity"],
        caught: None,
        run: masks,
    },
];

fn compare(found: &Registers, expected: &Registers) -> Result<()> {
    const NAMES: [&str; 15] = [
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    ];
    for (name, (found, expected)) in NAMES.iter().zip(found.general.iter().zip(&expected.general)) {
        same(name, found, expected)?;
    }
    same("direction flag", found.flags & registers::DIRECTION, expected.flags)?;
    for (number, (found, expected)) in found.vector.iter().zip(&expected.vector).enumerate() {
        same(&format!("vector register {number}"), found, expected)?;
    }
    ensure!(
        found.x87 == expected.x87,
        "x87: {:?}, was {:?}",
        found.x87,
        expected.x87
    );
    same(
        "MXCSR exception masks and modes",
        found.mxcsr & !0x3F,
        expected.mxcsr & !0x3F,
    )?;
    same("x87 control word", found.x87_control, expected.x87_control)
}

fn hold_and_compare(seed: u64, place: Hold, mutate: bool) -> Result<()> {
    let pattern = Registers::from_seed(seed);
    let found = registers::hold(&pattern, place);
    let expected = if mutate {
        Registers::from_seed(seed + 1)
    } else {
        pattern
    };
    compare(&found, &expected)
}

fn one_thread(context: &Context, place: Hold) -> Result<()> {
    let partner = context.partner(registers::release);
    context.ready(|| Ok(()))?;
    let result = hold_and_compare(60, place, context.mutate());
    join(partner)?;
    context.expect_failover("the wait")?;
    result
}

fn registers_in_user_mode(context: &mut Context) -> Result<()> {
    one_thread(context, Hold::User)
}

fn registers_in_call(context: &mut Context) -> Result<()> {
    one_thread(context, Hold::Syscall)
}

thread_local! {
    static LOCAL: StdCell<u64> = const { StdCell::new(0) };
}

fn eight(context: &mut Context) -> Result<()> {
    let running = Arc::new(AtomicUsize::new(0));
    let mutate = context.mutate();
    let threads: Vec<_> = (0..8u64)
        .map(|number| {
            let running = running.clone();
            std::thread::spawn(move || -> Result<()> {
                LOCAL.set(number * 1000);
                let tid = process::gettid()?;
                running.fetch_add(1, Ordering::Release);
                let place = if number % 2 == 0 { Hold::User } else { Hold::Syscall };
                hold_and_compare(70 + 2 * number, place, mutate && number == 5)?;
                same("thread-local word", LOCAL.get(), number * 1000)?;
                same("thread id", process::gettid()?, tid)
            })
        })
        .collect();
    while running.load(Ordering::Acquire) < 8 {
        std::thread::yield_now();
    }
    let waited = context.failover(|| Ok(()));
    registers::release();
    for thread in threads {
        join(thread)??;
    }
    waited
}

fn segment_bases(context: &mut Context) -> Result<()> {
    process::set_gs_base(0x1234_5678_9000)?;
    let before = process::segment_bases()?;
    context.failover(|| process::set_gs_base(0x1000))?;
    same("FS and GS base", process::segment_bases()?, before)
}

/// Runs one function in each of four threads: first part, then wait for the failover, then second part.
fn in_four_threads<S: 'static>(
    context: &Context,
    setup: fn(usize) -> Result<S>,
    verify: fn(usize, S) -> Result<()>,
    mutation: fn() -> Result<()>,
) -> Result<()> {
    let running = Arc::new(AtomicUsize::new(0));
    let go_on = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let (running, go_on) = (running.clone(), go_on.clone());
            std::thread::spawn(move || -> Result<()> {
                let state = setup(number);
                running.fetch_add(1, Ordering::Release);
                while go_on.load(Ordering::Acquire) < 2 {
                    if number == 2
                        && go_on
                            .compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed)
                            .is_ok()
                    {
                        mutation()?;
                        running.fetch_add(1, Ordering::Release);
                    }
                    crate::sys::clock::nanosleep(std::time::Duration::from_millis(5));
                }
                verify(number, state?)
            })
        })
        .collect();
    let until = |count| {
        while running.load(Ordering::Acquire) < count {
            std::thread::yield_now();
        }
    };
    until(4);
    let waited = context.failover(|| {
        go_on.store(1, Ordering::Release);
        until(5);
        Ok(())
    });
    go_on.store(2, Ordering::Release);
    for thread in threads {
        join(thread)??;
    }
    waited
}

fn names(context: &mut Context) -> Result<()> {
    in_four_threads(
        context,
        |number| process::set_thread_name(&format!("cell-thread-{number}")),
        |number, ()| same("thread name", process::thread_name()?, format!("cell-thread-{number}")),
        || process::set_thread_name("other"),
    )
}

fn masks(context: &mut Context) -> Result<()> {
    type State = (u64, (usize, usize, i32), [u64; 16]);
    fn state() -> Result<State> {
        Ok((signal::blocked()?, signal::alternate_stack()?, process::affinity()?))
    }
    in_four_threads(
        context,
        |number| {
            let number = number as i32;
            signal::mask(
                libc::SIG_SETMASK,
                signal::bit(libc::SIGUSR1 + number) | signal::bit(50 + number),
            )?;
            signal::set_alternate_stack(Region::private(16 + number as usize)?)?;
            let all = process::affinity()?;
            // Each thread keeps one of the CPUs it may use.
            let mut allowed = (0..1024).filter(|cpu| all[cpu / 64] & (1 << (cpu % 64)) != 0);
            let mut mine = [0u64; 16];
            let count = allowed.clone().count().max(1);
            if let Some(cpu) = allowed.nth(number as usize % count) {
                mine[cpu / 64] = 1 << (cpu % 64);
                process::set_affinity(&mine)?;
            }
            state()
        },
        |_, before| same("mask, alternate stack, affinity", state()?, before),
        || signal::mask(libc::SIG_BLOCK, signal::bit(60)).map(drop),
    )
}

fn clear_tid(context: &mut Context) -> Result<()> {
    static WORD: AtomicU64 = AtomicU64::new(0);
    static OTHER: AtomicU64 = AtomicU64::new(0);
    static STEP: AtomicUsize = AtomicUsize::new(0);
    // The thread is never joined: the C library no longer hears of its end, the word does.
    std::thread::spawn(|| {
        WORD.store(process::gettid().unwrap_or(1) as u64, Ordering::Relaxed);
        process::set_tid_address(&WORD);
        STEP.store(1, Ordering::Release);
        loop {
            match STEP.load(Ordering::Acquire) {
                2 => {
                    process::set_tid_address(&OTHER);
                    STEP.store(1, Ordering::Release);
                }
                3 => process::exit_thread(0),
                _ => {
                    crate::sys::clock::nanosleep(std::time::Duration::from_millis(5));
                }
            }
        }
    });
    let until_one = || {
        while STEP.load(Ordering::Acquire) != 1 {
            std::thread::yield_now();
        }
    };
    until_one();
    let tid = WORD.load(Ordering::Relaxed);
    context.failover(|| {
        STEP.store(2, Ordering::Release);
        until_one();
        Ok(())
    })?;
    same("the word before the thread ends", WORD.load(Ordering::Acquire), tid)?;
    STEP.store(3, Ordering::Release);
    let deadline = crate::sys::clock::now() + 3_000_000_000;
    while WORD.load(Ordering::Acquire) != 0 {
        ensure!(
            crate::sys::clock::now() < deadline,
            "the word was not cleared when the thread ended"
        );
        std::thread::yield_now();
    }
    Ok(())
}

fn robust_list(context: &mut Context) -> Result<()> {
    const OWNER_DIED: u64 = 0x4000_0000;
    // One lock in shared memory. Words: 0 list entry, 1 the futex, 4 head.next, 5 futex offset, 6 pending.
    let memory = Region::shared(1)?;
    let empty = Region::shared(1)?;
    let child = process::fork(|| {
        memory.set(0, memory.word(4).as_ptr() as u64);
        memory.set(1, process::gettid()? as u64);
        memory.set(4, memory.word(0).as_ptr() as u64);
        memory.set(5, 8);
        process::set_robust_list(&memory, 4)?;
        let before = process::robust_list()?;
        memory.set(10, 1);
        if context.mutate() {
            empty.set(0, empty.word(0).as_ptr() as u64);
            process::set_robust_list(&empty, 0)?;
        }
        context.wait()?;
        same("robust list", process::robust_list()?, before)
    })?;
    while memory.get(10) == 0 {
        std::thread::yield_now();
    }
    context.failover(|| Ok(()))?;
    child.join("owner of the lock")?;
    let word = memory.get(1);
    ensure!(word & OWNER_DIED != 0, "the lock is {word:#x}, not marked as orphaned");
    Ok(())
}

fn rseq(context: &mut Context) -> Result<()> {
    if process::rseq_cpu().is_none() {
        return context.skip("the C library has not registered rseq");
    }
    let all = process::affinity()?;
    context.failover(process::unregister_rseq)?;
    for cpu in (0..1024usize).filter(|cpu| all[cpu / 64] & (1 << (cpu % 64)) != 0) {
        let mut one = [0; 16];
        one[cpu / 64] = 1 << (cpu % 64);
        process::set_affinity(&one)?;
        process::sched_yield()?;
        same(
            "CPU in the rseq area",
            process::rseq_cpu(),
            Some(process::current_cpu()?),
        )?;
        same("CPU", process::current_cpu()?, cpu as u32)?;
    }
    process::set_affinity(&all)
}

fn membarrier(context: &mut Context) -> Result<()> {
    // MEMBARRIER_CMD_PRIVATE_EXPEDITED and _SYNC_CORE, with their registrations (include/uapi/linux/membarrier.h).
    const COMMANDS: [(i64, i64); 2] = [(8, 16), (32, 64)];
    for (command, register) in COMMANDS {
        // There is no way to take a registration back, so a mutated run leaves one out.
        if !context.mutate() || command != 8 {
            process::membarrier(register, 0, 0)?;
        }
    }
    context.failover(|| Ok(()))?;
    for (command, _) in COMMANDS {
        process::membarrier(command, 0, 0)?;
    }
    Ok(())
}
