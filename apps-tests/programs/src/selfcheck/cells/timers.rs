//! Interval timers and POSIX timers.

use crate::cell::{same, Cell, Context};
use crate::sys::clock;
use crate::sys::process;
use crate::sys::signal::{self, bit, Timer};
use anyhow::{ensure, Result};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "timers/real",
        what: "ITIMER_REAL: what is left and the interval",
        covers: &["Process.itimers"],
        caught: None,
        run: real,
    },
    Cell {
        name: "timers/real-fires",
        what: "ITIMER_REAL goes on firing",
        covers: &["Process.itimers"],
        caught: None,
        run: real_fires,
    },
    Cell {
        name: "timers/cpu",
        what: "ITIMER_VIRTUAL and ITIMER_PROF: what is left and the interval",
        covers: &["Process.itimers"],
        caught: None,
        run: cpu,
    },
    Cell {
        name: "timers/posix",
        what: "POSIX timers on four clocks: id, what is left, interval; a disarmed one",
        covers: &[
            "Process.posix_timers",
            "PosixTimer.id",
            "PosixTimer.clock",
            "PosixTimer.value",
            "PosixTimer.interval",
        ],
        caught: None,
        run: posix,
    },
    Cell {
        name: "timers/posix-fires",
        what: "a POSIX timer fires afterwards, for one thread, with its signal and value",
        covers: &[
            "PosixTimer.notify",
            "PosixTimer.signo",
            "PosixTimer.sigval",
            "PosixTimer.notify_tid",
        ],
        caught: None,
        run: posix_fires,
    },
    Cell {
        name: "timers/posix-absolute",
        what: "an absolute POSIX timer on CLOCK_REALTIME",
        covers: &["PosixTimer.clock", "PosixTimer.value"],
        caught: None,
        run: posix_absolute,
    },
];

const SECOND: u64 = 1_000_000_000;
const REAL: i32 = 0;
const VIRTUAL: i32 = 1;
const PROF: i32 = 2;
const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD_ID: i32 = 4;

/// The time on a clock around an action: a program can be kept from running for seconds between two calls.
type Around = (u64, u64);

fn around<T>(clock: i32, action: impl FnOnce() -> Result<T>) -> Result<(Around, T)> {
    let before = clock::read(clock);
    let result = action()?;
    Ok(((before, clock::read(clock)), result))
}

/// Expects a deadline to be kept to a second. `set` is the time around setting it, `span` after that it is due; `asked`
/// is the time around asking, and `left` the answer.
fn due(what: &str, set: Around, span: u64, asked: Around, left: u64) -> Result<()> {
    let early = (set.0 + span).saturating_sub(asked.1 + left);
    let late = (asked.0 + left).saturating_sub(set.1 + span);
    ensure!(
        early < SECOND && late < SECOND,
        "{what}: it will fire {early} ns early or {late} ns late"
    );
    Ok(())
}

fn real(context: &mut Context) -> Result<()> {
    let monotonic = libc::CLOCK_MONOTONIC;
    let (set, ()) = around(monotonic, || signal::set_itimer(REAL, 2_000_000_000, 3_000_000))?;
    context.failover(|| signal::set_itimer(REAL, 1_000_000_000, 3_000_000))?;
    let (asked, (left, interval)) = around(monotonic, || signal::itimer(REAL))?;
    due("ITIMER_REAL", set, 2000 * SECOND, asked, left * 1000)?;
    same("interval", interval, 3_000_000)
}

fn real_fires(context: &mut Context) -> Result<()> {
    signal::count(libc::SIGALRM, libc::SA_RESTART, 0)?;
    signal::set_itimer(REAL, 30_000, 30_000)?;
    context.failover(|| signal::set_itimer(REAL, 0, 0))?;
    let before = signal::counted(libc::SIGALRM);
    let deadline = clock::now() + 2 * SECOND;
    while signal::counted(libc::SIGALRM) < before + 3 && clock::now() < deadline {
        clock::nanosleep(std::time::Duration::from_millis(10));
    }
    let fired = signal::counted(libc::SIGALRM) - before;
    ensure!(fired >= 3, "it fired {fired} times in two seconds");
    Ok(())
}

fn cpu(context: &mut Context) -> Result<()> {
    signal::set_itimer(VIRTUAL, 4_000_000_000, 5_000_000)?;
    signal::set_itimer(PROF, 6_000_000_000, 7_000_000)?;
    context.failover(|| signal::set_itimer(PROF, 0, 0))?;
    for (which, value, interval) in [(VIRTUAL, 4_000_000_000u64, 5_000_000), (PROF, 6_000_000_000, 7_000_000)] {
        let (left, now) = signal::itimer(which)?;
        same("interval", now, interval)?;
        // These count time on the CPU: a few seconds at most have gone.
        ensure!(
            left.abs_diff(value) < 60_000_000,
            "timer {which}: {left} µs left of {value}"
        );
    }
    Ok(())
}

fn posix(context: &mut Context) -> Result<()> {
    let clocks = [
        libc::CLOCK_REALTIME,
        libc::CLOCK_MONOTONIC,
        libc::CLOCK_BOOTTIME,
        libc::CLOCK_TAI,
    ];
    // A gap in the ids: one timer is made and deleted between the others.
    let mut timers = Vec::new();
    let mut set = Vec::new();
    for (index, &clock) in clocks.iter().enumerate() {
        let timer = Timer::new(clock, SIGEV_NONE, 0, 0, 0)?;
        let (first, every) = ((1000 + index as u64) * SECOND, (10 + index as u64) * SECOND);
        set.push(around(libc::CLOCK_MONOTONIC, || timer.set(0, first, every))?.0);
        timers.push(timer);
        Timer::new(clock, SIGEV_NONE, 0, 0, 0)?.delete()?;
    }
    let disarmed = Timer::new(libc::CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0)?;
    context.failover(|| timers[1].set(0, 5 * SECOND, 0))?;
    for (index, timer) in timers.iter().enumerate() {
        let (asked, (left, interval)) = around(libc::CLOCK_MONOTONIC, || timer.get())?;
        same("interval", interval, (10 + index as u64) * SECOND)?;
        due("timer", set[index], (1000 + index as u64) * SECOND, asked, left)?;
    }
    same("disarmed timer", disarmed.get()?, (0, 0))?;
    let next = Timer::new(libc::CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0)?;
    ensure!(
        !timers.contains(&next) && next != disarmed,
        "a new timer has the id of an old one"
    );
    Ok(())
}

fn posix_fires(context: &mut Context) -> Result<()> {
    let set = bit(45) | bit(46);
    signal::mask(libc::SIG_SETMASK, set)?;
    let tid = process::gettid()? as i32;
    let to_thread = Timer::new(libc::CLOCK_MONOTONIC, SIGEV_THREAD_ID, 45, 0x1_0000_0001, tid)?;
    let to_process = Timer::new(libc::CLOCK_MONOTONIC, SIGEV_SIGNAL, 46, 0x2_0000_0002, 0)?;
    to_thread.set(0, 3600 * SECOND, 0)?;
    to_process.set(0, 3600 * SECOND, 0)?;
    context.failover(|| to_process.delete())?;
    to_thread.set(0, 1, 0)?;
    let (errno, info) = signal::wait_for(set, Some(SECOND));
    same(
        "signal and value for the thread",
        (errno, info.signal, info.value),
        (0, 45, 0x1_0000_0001),
    )?;
    to_process.set(0, 1, 0)?;
    let (errno, info) = signal::wait_for(set, Some(SECOND));
    same(
        "signal and value for the process",
        (errno, info.signal, info.value),
        (0, 46, 0x2_0000_0002),
    )
}

fn posix_absolute(context: &mut Context) -> Result<()> {
    let timer = Timer::new(libc::CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0)?;
    let at = clock::read(libc::CLOCK_REALTIME) + 7777 * SECOND;
    timer.set(libc::TIMER_ABSTIME, at, 0)?;
    context.failover(|| timer.set(libc::TIMER_ABSTIME, at + 60 * SECOND, 0))?;
    let (asked, (left, _)) = around(libc::CLOCK_REALTIME, || timer.get())?;
    due("absolute timer", (at, at), 0, asked, left)
}
