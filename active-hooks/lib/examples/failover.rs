//! Tells of each failover what it saw, and how the calls that its threads were in have ended.
//!
//! `orthros-ctl protect -- failover`. The same in C: `failover.c`.

use core::ffi::c_void;
use orthros::{Answer, Call, Failover, Plan};
use std::{
    ffi::CStr,
    io::Error,
    mem::MaybeUninit,
    ptr::null_mut,
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    thread,
    time::Duration,
};

const MS: u64 = 1_000_000;
const HOUR_MS: i32 = 3_600_000;

/// What the handler leaves for the main thread, which may print it.
struct Seen {
    runs: AtomicU32,
    still: AtomicBool,
    /// CLOCK_MONOTONIC as the other thread has last read it.
    last: AtomicU64,
    /// And as it read it first after the handler, 0 until it does.
    first: AtomicU64,
    /// Written in the main thread only.
    failover: std::cell::UnsafeCell<MaybeUninit<Failover>>,
}

// SAFETY: the one field that is not atomic is used by the main thread alone, in which the handler runs too.
unsafe impl Sync for Seen {}

static SEEN: Seen = Seen {
    runs: AtomicU32::new(0),
    still: AtomicBool::new(false),
    last: AtomicU64::new(0),
    first: AtomicU64::new(u64::MAX),
    failover: std::cell::UnsafeCell::new(MaybeUninit::zeroed()),
};

fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time lives for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Async-signal-safe: copies what it is told, and looks for a while whether another thread runs.
extern "C" fn handler(failover: &Failover, _: *mut c_void) {
    let before = SEEN.last.load(Acquire);
    let until = now() + 20 * MS;
    // SAFETY: this is the main thread.
    unsafe { (*SEEN.failover.get()).write(*failover) };
    while now() < until {}
    let still = SEEN.last.load(Acquire) == before && before <= failover.monotonic_before;
    SEEN.still.store(still, Relaxed);
    SEEN.first.store(0, Release);
    SEEN.runs.fetch_add(1, Release);
}

/// A blocked read ends with an error.
extern "C" fn on_read(call: &Call, descriptor: *mut c_void) -> Answer {
    if orthros::plan(call) == Plan::Retry && call.arguments[0] == descriptor as u64 {
        Answer::error(libc::EIO)
    } else {
        Answer::PLANNED
    }
}

/// A sleep is over at once if there is much left of it.
extern "C" fn on_sleep(call: &Call, _: *mut c_void) -> Answer {
    if orthros::plan(call) == Plan::Continue && (60_000 * MS..u64::MAX).contains(&call.left) {
        Answer::error(libc::EINTR)
    } else {
        Answer::PLANNED
    }
}

/// A poll ends as if its time was over.
extern "C" fn on_poll(call: &Call, _: *mut c_void) -> Answer {
    if call.arguments[2] == HOUR_MS as u64 {
        Answer::result(0)
    } else {
        Answer::PLANNED
    }
}

/// Nobody can tell what an interrupted `vmsplice` has done: without this hook it would cost the process.
extern "C" fn on_splice(call: &Call, _: *mut c_void) -> Answer {
    if orthros::plan(call) == Plan::Unknown {
        Answer::error(libc::EAGAIN)
    } else {
        Answer::PLANNED
    }
}

fn said(call: &str, result: i64) {
    let error = match Error::last_os_error().raw_os_error() {
        _ if result >= 0 => "-",
        Some(libc::EIO) => "EIO",
        Some(libc::EINTR) => "EINTR",
        Some(libc::EAGAIN) => "EAGAIN",
        _ => "another error",
    };
    println!("{call} {result} {error}");
}

fn reader(descriptor: i32) -> ! {
    let mut byte = 0u8;
    loop {
        // SAFETY: reads into a live byte.
        let result = unsafe { libc::read(descriptor, std::ptr::from_mut(&mut byte).cast(), 1) };
        said("read", result as i64);
    }
}

fn poller() -> ! {
    loop {
        // SAFETY: no descriptors.
        let result = unsafe { libc::poll(null_mut(), 0, HOUR_MS) };
        println!("poll {result}");
    }
}

/// There is no hook for this call: it sleeps on for the time that is left.
fn sleeper() -> ! {
    let time = libc::timespec { tv_sec: 30, tv_nsec: 0 };
    loop {
        let start = now();
        // SAFETY: the time lives for the call; what is left of it is not asked for.
        let result = unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, 0, &time, null_mut()) };
        let whole = now() - start >= 30_000 * MS;
        println!("sleep {result} {}", if whole { "whole" } else { "short" });
    }
}

/// Waits for room in a full pipe.
fn splicer() {
    static BYTE: u8 = 0;
    let byte: *mut c_void = std::ptr::from_ref(&BYTE).cast_mut().cast();
    let piece = libc::iovec {
        iov_base: byte,
        iov_len: 1,
    };
    let mut full = [0; 2];
    // SAFETY: (1) the array has room for two descriptors; (2) one live byte is read.
    unsafe {
        if libc::pipe2(full.as_mut_ptr(), libc::O_NONBLOCK) != 0 {
            return;
        }
        while libc::write(full[1], byte, 1) == 1 {}
        libc::fcntl(full[1], libc::F_SETFL, 0);
    }
    loop {
        // SAFETY: one live byte, which never changes.
        said("vmsplice", unsafe { libc::vmsplice(full[1], &piece, 1, 0) } as i64);
    }
}

fn ticker() -> ! {
    loop {
        SEEN.last.store(now(), Release);
        // Not the reading above: that may have been before the failover.
        if SEEN.first.load(Acquire) == 0 {
            SEEN.first.store(now(), Release);
        }
    }
}

fn text(release: &[u8]) -> &str {
    CStr::from_bytes_until_nul(release)
        .ok()
        .and_then(|text| text.to_str().ok())
        .unwrap_or("?")
}

fn main() -> Result<(), orthros::Error> {
    let mut ends = [0; 2];
    // SAFETY: the array has room for two descriptors.
    unsafe { libc::pipe(ends.as_mut_ptr()) };
    // SAFETY: (1) handler and hooks use atomic words, the clock and their arguments only; (2) each is registered with what
    // it expects; (3) those who read, sleep and poll in this program can bear what the hooks say.
    unsafe {
        orthros::on_failover(Some(handler), null_mut())?;
        orthros::on_call(libc::SYS_read, Some(on_read), ends[0] as usize as *mut c_void)?;
        orthros::on_call(libc::SYS_nanosleep, Some(on_sleep), null_mut())?;
        orthros::on_call(libc::SYS_poll, Some(on_poll), null_mut())?;
        orthros::on_call(libc::SYS_vmsplice, Some(on_splice), null_mut())?;
    }
    thread::spawn(move || reader(ends[0]));
    thread::spawn(|| poller());
    thread::spawn(|| sleeper());
    thread::spawn(splicer);
    thread::spawn(|| ticker());
    println!("ready");
    let mut told = 0;
    loop {
        let hour = libc::timespec {
            tv_sec: 3600,
            tv_nsec: 0,
        };
        // SAFETY: the time lives for the call; what is left of it is not asked for.
        let result = unsafe { libc::syscall(libc::SYS_nanosleep, &hour, null_mut::<c_void>()) };
        said("nanosleep", result);
        // SAFETY: (1) this is the main thread; (2) zeros are a valid value of this type of numbers.
        let seen = unsafe { (*SEEN.failover.get()).assume_init() };
        if seen.count == told {
            continue;
        }
        told = seen.count;
        while SEEN.first.load(Acquire) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        println!(
            "failover {told}, run {}, cause {}, from {} to {}, gap {} ms, by the wall clock {} ms, others {}, {}",
            SEEN.runs.load(Acquire),
            seen.cause,
            text(&seen.release_before),
            text(&seen.release_after),
            (seen.monotonic_after - seen.monotonic_before) / MS,
            (seen.realtime_after - seen.realtime_before) as u64 / MS,
            if SEEN.still.load(Relaxed) { "still" } else { "ran" },
            if SEEN.first.load(Acquire) >= seen.monotonic_after {
                "in order"
            } else {
                "too early"
            },
        );
    }
}
