//! Dispositions, masks, pending signals.

use crate::cell::{same, Cell, Context};
use crate::sys::memory::Region;
use crate::sys::process;
use crate::sys::signal::{self, bit, Info, RT};
use anyhow::{ensure, Result};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "signals/dispositions",
        what: "handler, flags, restorer and mask of all 64 signals, and that a handler still runs",
        covers: &[
            "Process.sigactions",
            "Process.sighand",
            "SigAction.handler",
            "SigAction.flags",
            "SigAction.restorer",
            "SigAction.mask",
        ],
        caught: None,
        run: dispositions,
    },
    Cell {
        name: "signals/blocked",
        what: "the mask of blocked signals",
        covers: &["Thread.blocked"],
        caught: None,
        run: blocked,
    },
    Cell {
        name: "signals/pending-process",
        what: "signals pending for the process, with sender, code and value, in order",
        covers: &["Process.pending", "Process.pending_mask"],
        caught: None,
        run: pending_process,
    },
    Cell {
        name: "signals/pending-thread",
        what: "signals pending for the thread, with sender, code and value, in order",
        covers: &["Thread.pending", "Thread.pending_mask"],
        caught: None,
        run: pending_thread,
    },
    Cell {
        name: "signals/alternate-stack",
        what: "the alternate stack, and that a handler runs on it",
        covers: &["Thread.sigaltstack"],
        caught: None,
        run: alternate_stack,
    },
    Cell {
        name: "signals/suspend",
        what: "rt_sigsuspend: the mask it waits with, and the one it puts back",
        covers: &["Thread.saved_blocked"],
        caught: Some("rt_sigsuspend"),
        run: suspend,
    },
];

/// Signals a program may set: neither KILL and STOP nor the two the C library keeps.
fn settable() -> impl Iterator<Item = i32> {
    (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP, 32, 33].contains(signal))
}

fn dispositions(context: &mut Context) -> Result<()> {
    for number in settable() {
        match number % 4 {
            0 => signal::ignore(number, true)?,
            1 => signal::ignore(number, false)?,
            2 => signal::count(number, libc::SA_RESTART | libc::SA_NODEFER, bit(number % 31 + 1))?,
            _ => signal::count(number, libc::SA_SIGINFO | libc::SA_ONSTACK, 1 << 40 | 1 << 3)?,
        }
    }
    let state = || (1..=64).map(signal::disposition).collect::<Result<Vec<_>>>();
    let before = state()?;
    context.failover(|| signal::count(40, libc::SA_RESETHAND, 0))?;
    for (index, (now, before)) in state()?.into_iter().zip(before).enumerate() {
        same(&format!("disposition of signal {}", index + 1), now, before)?;
    }
    process::kill(process::getpid()?, libc::SIGUSR1.into())?;
    same("runs of the handler of SIGUSR1", signal::counted(libc::SIGUSR1), 1)
}

fn blocked(context: &mut Context) -> Result<()> {
    let set = bit(libc::SIGUSR1) | bit(libc::SIGHUP) | bit(RT + 3) | bit(64);
    signal::mask(libc::SIG_SETMASK, set)?;
    context.failover(|| signal::mask(libc::SIG_UNBLOCK, bit(libc::SIGHUP)).map(drop))?;
    same("mask", signal::blocked()?, set)
}

/// Queues three values of a real-time signal and one SIGUSR1, blocked, and expects them afterwards.
fn pending(context: &Context, tid: Option<i64>) -> Result<()> {
    const SI_QUEUE: i32 = -1;
    let set = bit(RT) | bit(RT + 5) | bit(libc::SIGUSR1);
    signal::mask(libc::SIG_SETMASK, set)?;
    let pid = process::getpid()?;
    let info = |signal, value: u64| Info {
        signal,
        code: SI_QUEUE,
        pid: 4000 + value as i32,
        uid: 50,
        value: 0x1234_5678_0000_0000 + value,
    };
    let queued = [
        info(RT, 1),
        info(RT, 2),
        info(RT + 5, 3),
        info(RT, 4),
        info(libc::SIGUSR1, 5),
    ];
    for info in queued {
        signal::queue(pid, tid, info)?;
    }
    context.failover(|| signal::queue(pid, tid, info(RT, 6)))?;
    same("pending signals", signal::pending()?, set)?;
    let order = [queued[4], queued[0], queued[1], queued[3], queued[2]];
    for expected in order {
        same("pending signal", signal::wait_for(set, Some(0)), (0, expected))?;
    }
    let (errno, more) = signal::wait_for(set, Some(0));
    ensure!(errno == libc::EAGAIN, "one more signal is pending: {more:?}");
    Ok(())
}

fn pending_process(context: &mut Context) -> Result<()> {
    pending(context, None)
}

fn pending_thread(context: &mut Context) -> Result<()> {
    pending(context, Some(process::gettid()?))
}

fn alternate_stack(context: &mut Context) -> Result<()> {
    let memory = Region::private(16)?;
    let range = memory.address()..memory.address() + memory.bytes();
    signal::set_alternate_stack(memory)?;
    let before = signal::alternate_stack()?;
    signal::count(libc::SIGUSR1, libc::SA_ONSTACK, 0)?;
    context.failover(signal::disable_alternate_stack)?;
    same("alternate stack", signal::alternate_stack()?, before)?;
    process::kill(process::getpid()?, libc::SIGUSR1.into())?;
    same("runs of the handler", signal::counted(libc::SIGUSR1), 1)?;
    let at = signal::handler_stack();
    ensure!(
        range.contains(&at),
        "the handler ran at {at:#x}, not on the alternate stack"
    );
    Ok(())
}

fn suspend(context: &mut Context) -> Result<()> {
    let outside = bit(libc::SIGUSR1) | bit(libc::SIGUSR2) | bit(RT);
    let inside = bit(libc::SIGUSR2) | bit(RT + 1);
    signal::mask(libc::SIG_SETMASK, outside)?;
    signal::count(libc::SIGUSR1, 0, 0)?;
    signal::count(libc::SIGUSR2, 0, 0)?;
    let (pid, tid) = (process::getpid()?, process::gettid()?);
    let mut expected = outside;
    let partner = context.partner(move || -> Result<()> {
        // Blocked outside and inside: must not end the wait.
        process::tgkill(pid, tid, libc::SIGUSR2.into())?;
        crate::sys::clock::nanosleep(std::time::Duration::from_millis(20));
        process::tgkill(pid, tid, libc::SIGUSR1.into()).map(drop)
    });
    context.ready(|| {
        expected ^= bit(RT);
        Ok(())
    })?;
    let errno = signal::suspend(inside);
    context.expect_failover("rt_sigsuspend")?;
    crate::cell::join(partner)??;
    same("errno of rt_sigsuspend", errno, libc::EINTR)?;
    same(
        "runs of the handlers",
        (signal::counted(libc::SIGUSR1), signal::counted(libc::SIGUSR2)),
        (1, 0),
    )?;
    same("mask afterwards", signal::blocked()?, expected)
}
