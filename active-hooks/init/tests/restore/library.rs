//! Programs that use liborthros, and what must become of them.

use crate::{
    capture::Capture,
    cases::Subject,
    programs::{answer, question},
};
use orthros::{Answer, Call, Failover};
use orthros_init::{
    restore::Setting,
    sys::{self, Tid},
};
use shared_region::{context::Outcome, control::Cause};
use std::{
    collections::BTreeMap,
    ffi::c_void,
    fs::{self, File},
    hint::spin_loop,
    os::unix::fs::FileExt,
    ptr::null_mut,
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

static RUNS: AtomicU64 = AtomicU64::new(0);
static GOOD: AtomicBool = AtomicBool::new(true);
static TICKS: AtomicU64 = AtomicU64::new(0);
static PAUSE_MS: AtomicU64 = AtomicU64::new(0);

fn pause(milliseconds: u64) {
    let until = Instant::now() + Duration::from_millis(milliseconds);
    while Instant::now() < until {
        spin_loop();
    }
}

/// Sees that no other thread runs, and what it is told.
extern "C" fn handler(failover: &Failover, argument: *mut c_void) {
    let runs = RUNS.fetch_add(1, SeqCst) + 1;
    let before = TICKS.load(SeqCst);
    pause(PAUSE_MS.load(SeqCst));
    let told = failover.count == runs
        && failover.cause == Cause::Update as u32
        && failover.monotonic_after > failover.monotonic_before
        && failover.realtime_after > failover.realtime_before
        && failover.release_after.starts_with(b"6.")
        && failover.release_before[0] != 0
        && argument as usize == 7;
    if TICKS.load(SeqCst) != before || !told {
        GOOD.store(false, SeqCst);
    }
    // The thread's own must be what it was.
    // SAFETY: every thread has its own `errno`.
    unsafe { *libc::__errno_location() = 99 };
}

fn register() {
    // SAFETY: the handler uses atomic words and the clock only; its argument is a number.
    unsafe { orthros::on_failover(Some(handler), 7 as *mut c_void) }.unwrap();
}

fn tickers(count: usize) {
    for _ in 0..count {
        std::thread::spawn(|| loop {
            TICKS.fetch_add(1, SeqCst);
            std::thread::sleep(Duration::from_micros(100));
        });
    }
}

/// Runs a program; it returns when it is not asked any more.
pub fn program(name: &str) {
    match name {
        "library-handler" => {
            register();
            PAUSE_MS.store(50, SeqCst);
            tickers(3);
            answer("ready");
            loop {
                question();
                answer(&format!("{} {}", RUNS.load(SeqCst), GOOD.load(SeqCst)));
            }
        }
        "library-hooks" => hooks(),
        "library-registers" => registers(),
        "library-sequence" => sequence(false),
        "library-late-sequence" => sequence(true),
        "library-late" => {
            register();
            orthros::set_deadline(100).unwrap();
            PAUSE_MS.store(1000, SeqCst);
            tickers(1);
            // SAFETY: takes nothing.
            std::thread::spawn(|| unsafe { libc::pause() });
            answer("ready");
            let ticks = || TICKS.load(SeqCst);
            loop {
                question();
                answer(&format!("{} {}", RUNS.load(SeqCst), ticks() != 0));
            }
        }
        "library-fork" => {
            register();
            // SAFETY: this process has one thread.
            let child = unsafe { libc::fork() };
            if child == 0 {
                loop {
                    // SAFETY: takes nothing.
                    unsafe { libc::pause() };
                }
            }
            answer("ready");
            loop {
                question();
                let mut child_runs = [0; 8];
                let memory = File::open(format!("/proc/{child}/mem")).unwrap();
                memory.read_exact_at(&mut child_runs, RUNS.as_ptr() as u64).unwrap();
                answer(&format!("{} {}", RUNS.load(SeqCst), u64::from_le_bytes(child_runs)));
            }
        }
        "library-fails" => {
            extern "C" fn fails(_: &Failover, _: *mut c_void) {
                // SAFETY: it is meant to fault.
                unsafe { null_mut::<u8>().write_volatile(0) };
            }
            // SAFETY: as is said: it is meant to fault.
            unsafe { orthros::on_failover(Some(fails), null_mut()) }.unwrap();
            tickers(2);
            answer("ready");
            question();
        }
        other => panic!("no program {other}"),
    }
}

/// Threads in calls, and what their hooks said.
fn hooks() {
    extern "C" fn on_read(call: &Call, argument: *mut c_void) -> Answer {
        match call.arguments[0] {
            // The question: as planned.
            0 => Answer::PLANNED,
            _ if call.number == 0 && orthros::plan(call) == orthros::Plan::Retry && argument as usize == 11 => {
                Answer::error(libc::EIO)
            }
            _ => Answer::error(libc::EDOM),
        }
    }
    extern "C" fn on_poll(call: &Call, _: *mut c_void) -> Answer {
        if call.arguments[2] == 77_000 {
            Answer::result(5)
        } else {
            Answer::RETRY
        }
    }
    // SAFETY: the hooks look at their arguments only.
    unsafe {
        orthros::on_call(libc::SYS_read, Some(on_read), 11 as *mut c_void).unwrap();
        orthros::on_call(libc::SYS_poll, Some(on_poll), null_mut()).unwrap();
    }
    static FOUND: [AtomicI64; 3] = [const { AtomicI64::new(i64::MIN) }; 3];
    let mut pipe = [0; 2];
    // SAFETY: the array has room for two descriptors.
    unsafe { libc::pipe(pipe.as_mut_ptr()) };
    let [read, write] = pipe;
    std::thread::spawn(move || {
        let mut byte = 0u8;
        // SAFETY: reads into a live byte.
        let result = unsafe { libc::read(read, std::ptr::from_mut(&mut byte).cast(), 1) };
        let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        FOUND[0].store(if result < 0 { -i64::from(error) } else { result as i64 }, SeqCst);
    });
    std::thread::spawn(|| {
        // SAFETY: no descriptors.
        let result = unsafe { libc::poll(null_mut(), 0, 77_000) };
        FOUND[1].store(i64::from(result), SeqCst);
    });
    // No hook: it sleeps on.
    std::thread::spawn(move || {
        let mut set = libc::pollfd {
            fd: write,
            events: 0,
            revents: 0,
        };
        // SAFETY: one live entry.
        let result = unsafe { libc::ppoll(&mut set, 1, std::ptr::null(), std::ptr::null()) };
        FOUND[2].store(i64::from(result), SeqCst);
    });
    until(|| {
        let calls = [libc::SYS_read, libc::SYS_poll, libc::SYS_ppoll];
        calls.into_iter().all(is_in_call)
    });
    answer("ready");
    loop {
        question();
        until(|| FOUND[..2].iter().all(|found| found.load(SeqCst) != i64::MIN));
        let [read, poll, ppoll] = [0, 1, 2].map(|i: usize| FOUND[i].load(SeqCst));
        answer(&format!("{read} {poll} {}", ppoll == i64::MIN));
    }
}

/// Waits for what other threads do, some seconds at most.
fn until(condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a thread of this process sleeps in a system call of this number (proc_pid_syscall(5)).
fn is_in_call(number: libc::c_long) -> bool {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let calls = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("syscall")).ok());
    calls
        .into_iter()
        .any(|call| call.split(' ').next() == Some(&number.to_string()))
}

/// The main thread computes in vector registers, with a rounding mode of its own, while it is interrupted.
fn registers() {
    extern "C" fn clobbers(_: &Failover, _: *mut c_void) {
        RUNS.fetch_add(1, SeqCst);
        let mut control = 0u32;
        // SAFETY: stores a register into a live word, and changes vector registers that a function may change.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &mut control);
            std::arch::asm!(
                "pcmpeqd xmm0, xmm0", "pcmpeqd xmm1, xmm1", "pcmpeqd xmm7, xmm7", "pcmpeqd xmm15, xmm15",
                out("xmm0") _, out("xmm1") _, out("xmm7") _, out("xmm15") _,
            );
        }
        // As at the start of a program, not as the thread has it.
        if control != 0x1F80 {
            GOOD.store(false, SeqCst);
        }
    }
    static GO: AtomicBool = AtomicBool::new(false);
    // SAFETY: the handler uses atomic words only.
    unsafe { orthros::on_failover(Some(clobbers), null_mut()) }.unwrap();
    std::thread::spawn(|| loop {
        question();
        GO.store(true, SeqCst);
    });
    answer("ready");
    // Rounds to zero from here on.
    let (towards_zero, mut control) = (0x7F80u32, 0u32);
    let mut lanes = [1.0f64; 8];
    let mut rounds = 0u64;
    let mut flags = 0u64;
    // SAFETY: (1) loads and stores the control register from and to live words; (2) no code between relies on rounding
    // to nearest.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &towards_zero) };
    while !GO.load(SeqCst) {
        for lane in &mut lanes {
            *lane = *lane * 1.000_000_1 + 1.0;
        }
        rounds += 1;
        // A value that lives in the red zone and the flags only, most of the time.
        // SAFETY: the function called has no side effects; the stack is left as it was.
        unsafe {
            std::arch::asm!(
                "mov [rsp - 8], {r}", "mov {t}, 500", "2:", "dec {t}", "jnz 2b", "mov {t}, [rsp - 8]", "xor {t}, {r}",
                "or {f}, {t}", r = in(reg) rounds, t = out(reg) _, f = inout(reg) flags, options(nostack),
            );
        }
    }
    let expected = (0..rounds).fold(1.0f64, |lane, _| lane * 1.000_000_1 + 1.0);
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &mut control);
        std::arch::asm!("ldmxcsr [{}]", in(reg) &0x1F80u32);
    }
    let same = lanes.iter().all(|lane| lane.to_bits() == expected.to_bits());
    let good = same && control & !0x3F == towards_zero && flags == 0 && GOOD.load(SeqCst);
    answer(&format!("{good} {}", RUNS.load(SeqCst)));
    std::thread::sleep(Duration::from_secs(60));
}

// A restartable sequence that spins until it is told to end, and fails if it goes on although a handler has run within it.
// RDI: the thread's rseq area; RSI: counters of the handler's runs since the last abort, of aborts, and the order to end.
// Returns 1 if it went on.
std::arch::global_asm!(
    ".pushsection .data.orthros_test_section, \"aw\"",
    ".balign 32",
    "orthros_test_section:",
    ".long 0, 0",
    ".quad 2f, 3f - 2f, 5f",
    ".popsection",
    ".pushsection .text.orthros_test_sequence, \"ax\"",
    ".globl orthros_test_sequence",
    "orthros_test_sequence:",
    "lea rax, [rip + orthros_test_section]",
    "mov [rdi + 8], rax",
    "2:",
    "cmp qword ptr [rsi], 0",
    "jne 4f",
    "cmp qword ptr [rsi + 16], 0",
    "je 2b",
    "3:",
    "xor eax, eax",
    "ret",
    "4:",
    "mov eax, 1",
    "ret",
    // RSEQ_SIG, in an instruction that is never reached.
    ".byte 0x0f, 0xb9, 0x3d",
    ".long 0x53053053",
    "5:",
    "mov qword ptr [rsi], 0",
    "inc qword ptr [rsi + 8]",
    "jmp orthros_test_sequence",
    ".popsection",
);

extern "C" {
    /// Offset of the thread's rseq area from its thread pointer (glibc 2.35).
    static __rseq_offset: isize;
    fn orthros_test_sequence(area: *mut u8, words: *const AtomicU64) -> u64;
}

/// The main thread is in a restartable sequence.
fn sequence(late: bool) {
    static WORDS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
    extern "C" fn runs(_: &Failover, _: *mut c_void) {
        WORDS[0].store(1, SeqCst);
        RUNS.fetch_add(1, SeqCst);
        pause(PAUSE_MS.load(SeqCst));
    }
    if late {
        orthros::set_deadline(100).unwrap();
        PAUSE_MS.store(300, SeqCst);
    }
    // SAFETY: the handler uses atomic words and the clock only.
    unsafe { orthros::on_failover(Some(runs), null_mut()) }.unwrap();
    std::thread::spawn(|| loop {
        question();
        WORDS[2].store(1, SeqCst);
    });
    answer("ready");
    let area: *mut u8;
    // SAFETY: (1) the first word at the thread pointer is its own address (x86-64 psABI, TLS); (2) the C library has
    // registered the area; (3) the sequence changes its second word only, as sequences do.
    let went_on = unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) area);
        orthros_test_sequence(area.offset(__rseq_offset), WORDS.as_ptr())
    };
    let aborted = WORDS[1].load(SeqCst) != 0;
    answer(&format!("{went_on} {aborted} {}", RUNS.load(SeqCst)));
    std::thread::sleep(Duration::from_secs(60));
}

fn setting(count: u64) -> Setting {
    Setting {
        cause: Cause::Update,
        failover: count,
        ..Setting::default()
    }
}

fn fail(subject: &mut Subject, count: u64, pids: &[Tid]) -> BTreeMap<u32, Outcome> {
    let outcomes = subject.through_with_remarks(Capture::new(), pids, &setting(count));
    // Calls begin again.
    std::thread::sleep(Duration::from_millis(20));
    assert!(outcomes.values().all(|outcome| outcome.resumed), "{outcomes:?}");
    outcomes
}

fn remarks(outcomes: &BTreeMap<u32, Outcome>, pid: Tid) -> String {
    outcomes[&(pid as u32)].remarks.join("; ")
}

pub fn a_handler_runs_first_each_time() {
    let mut subject = Subject::start("library-handler", &[]);
    let pid = subject.pid;
    assert_eq!(subject.ask(), "0 true");
    for count in 1..=3 {
        let outcomes = fail(&mut subject, count, &[pid]);
        assert_eq!(remarks(&outcomes, pid), "");
        assert_eq!(subject.ask(), format!("{count} true"));
    }
}

pub fn hooks_end_calls() {
    let mut subject = Subject::start("library-hooks", &[]);
    let pid = subject.pid;
    let outcomes = fail(&mut subject, 1, &[pid]);
    assert_eq!(remarks(&outcomes, pid), "");
    assert_eq!(subject.ask(), format!("{} 5 true", -libc::EIO));
}

pub fn hooks_decide_what_nobody_knows() {
    let through = |number: libc::c_long| {
        let mut subject = Subject::start("library-hooks", &[]);
        let mut capture = Capture::new();
        capture.undecided = Some(number);
        let outcomes = subject.through_with_remarks(capture, &[subject.pid], &setting(1));
        let outcome = outcomes[&(subject.pid as u32)].clone();
        (subject, outcome)
    };
    let (mut subject, outcome) = through(libc::SYS_poll);
    assert_eq!((outcome.resumed, outcome.remarks.len()), (true, 0), "{outcome:?}");
    assert_eq!(subject.ask(), format!("{} 5 true", -libc::EIO));

    // There is no hook for `ppoll`, and the one for `read` leaves the main thread's as it was planned.
    for number in [libc::SYS_ppoll, libc::SYS_read] {
        let (subject, outcome) = through(number);
        assert!(!outcome.resumed, "{outcome:?}");
        assert!(outcome.remarks.join("; ").contains("no hook decided"), "{outcome:?}");
        assert!(fs::metadata(format!("/proc/{}", subject.pid)).is_err());
    }
}

pub fn registers_outlive_a_handler() {
    let mut subject = Subject::start("library-registers", &[]);
    let pid = subject.pid;
    for count in 1..=5 {
        let outcomes = fail(&mut subject, count, &[pid]);
        assert_eq!(remarks(&outcomes, pid), "");
    }
    assert_eq!(subject.ask(), "true 5");
}

pub fn a_restartable_sequence_is_aborted() {
    for name in ["library-sequence", "library-late-sequence"] {
        let mut subject = Subject::start(name, &[]);
        let pid = subject.pid;
        let outcomes = fail(&mut subject, 1, &[pid]);
        assert_eq!(remarks(&outcomes, pid).is_empty(), name == "library-sequence");
        assert_eq!(subject.ask(), "0 true 1", "{name}");
    }
}

pub fn a_late_handler_returns_by_itself() {
    let mut subject = Subject::start("library-late", &[]);
    let pid = subject.pid;
    let started = Instant::now();
    let outcomes = fail(&mut subject, 1, &[pid]);
    assert!(remarks(&outcomes, pid).contains("had not returned after 100 ms"));
    // It is asked when the handler has led the thread back.
    assert_eq!(subject.ask(), "1 true");
    assert!(started.elapsed() > Duration::from_millis(1000));
}

pub fn a_handler_that_was_running_goes_on() {
    let mut subject = Subject::start("library-late", &[]);
    let pid = subject.pid;
    fail(&mut subject, 1, &[pid]);
    let outcomes = fail(&mut subject, 2, &[pid]);
    assert!(remarks(&outcomes, pid).contains("had not returned"));
    // The first one is at its end now; the next failover finds nothing in the way.
    assert_eq!(subject.ask(), "1 true");
    let outcomes = fail(&mut subject, 3, &[pid]);
    assert!(remarks(&outcomes, pid).contains("had not returned"));
    assert_eq!(subject.ask(), "2 true");
}

pub fn a_child_has_no_handler() {
    let mut subject = Subject::start("library-fork", &[]);
    let pid = subject.pid;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let child = children.trim().parse().unwrap();
    let outcomes = fail(&mut subject, 1, &[pid, child]);
    assert_eq!(
        (remarks(&outcomes, pid), remarks(&outcomes, child)),
        (String::new(), String::new())
    );
    assert_eq!(subject.ask(), "1 0");
}

pub fn a_handler_may_fail() {
    let mut subject = Subject::start("library-fails", &[]);
    let pid = subject.pid;
    let outcomes = fail(&mut subject, 1, &[pid]);
    assert!(remarks(&outcomes, pid).contains("ended with signal 11"), "{outcomes:?}");
    assert_eq!(remarks(&outcomes, pid).matches(';').count(), 0, "{outcomes:?}");
    assert!(fs::metadata(format!("/proc/{pid}")).is_err(), "it is gone, all of it");
}

pub fn a_damaged_table_is_named() {
    let mut subject = Subject::start("library-handler", &[]);
    let pid = subject.pid;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let line = maps.lines().find(|line| line.contains("/memfd:orthros")).unwrap();
    let at = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
    let memory = File::options().write(true).open(format!("/proc/{pid}/mem")).unwrap();
    // Its dispatcher is no code.
    let dispatcher = std::mem::offset_of!(shared_region::library::Table, dispatcher) as u64;
    memory.write_all_at(&at.to_le_bytes(), at + dispatcher).unwrap();
    let outcomes = fail(&mut subject, 1, &[pid]);
    assert!(remarks(&outcomes, pid).contains("dispatcher"), "{outcomes:?}");
    assert_eq!(subject.ask(), "0 true");
}

pub fn a_stopped_process_stays_stopped() {
    let mut subject = Subject::start("library-handler", &[]);
    let pid = subject.pid;
    let mut capture = Capture::new();
    capture.stopped = true;
    let outcomes = subject.through_with_remarks(capture, &[pid], &setting(1));
    assert_eq!(remarks(&outcomes, pid), "");
    let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !stat().contains(") T ") {
        assert!(Instant::now() < deadline, "{}", stat());
        std::thread::sleep(Duration::from_millis(10));
    }
    sys::kill(pid, libc::SIGCONT).unwrap();
    assert_eq!(subject.ask(), "1 true");
}
