//! Interval timers and POSIX timers (`kernel/time/itimer.c`, `kernel/time/posix-timers.c`).

use crate::addr::Kva;
use crate::clock::Now;
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use crate::tasks;
use alloc::vec::Vec;
use shared_region::context::PosixTimer;
use shared_region::reasons;

/// More timers than `RLIMIT_SIGPENDING` allows.
const MAX_TIMERS: u64 = 1 << 20;
/// `HRTIMER_STATE_ENQUEUED`.
const ENQUEUED: u64 = 1;
/// `ALARMTIMER_STATE_ENQUEUED`.
const ALARM_ENQUEUED: u64 = 1;
/// `SIGEV_THREAD_ID`.
const SIGEV_THREAD_ID: u64 = 4;
/// Clocks (`include/uapi/linux/time.h`).
pub mod clocks {
    /// CLOCK_REALTIME.
    pub const REALTIME: i32 = 0;
    /// CLOCK_MONOTONIC.
    pub const MONOTONIC: i32 = 1;
    /// CLOCK_PROCESS_CPUTIME_ID.
    pub const PROCESS_CPUTIME: i32 = 2;
    /// CLOCK_THREAD_CPUTIME_ID.
    pub const THREAD_CPUTIME: i32 = 3;
    /// CLOCK_BOOTTIME.
    pub const BOOTTIME: i32 = 7;
    /// CLOCK_REALTIME_ALARM.
    pub const REALTIME_ALARM: i32 = 8;
    /// CLOCK_BOOTTIME_ALARM.
    pub const BOOTTIME_ALARM: i32 = 9;
    /// CLOCK_TAI.
    pub const TAI: i32 = 11;
}

crate::mirrors! {
    /// A high-resolution timer.
    #[allow(missing_docs)]
    pub struct Hrtimer = "hrtimer" {
        expires: Field = "node.expires",
        softexpires: Field = "_softexpires",
        function: Field,
        base: Field,
        state: Field,
    }

    /// The timers of one clock on one CPU.
    #[allow(missing_docs)]
    pub struct HrtimerClockBase = "hrtimer_clock_base" {
        clockid: Field,
    }

    /// The timer a sleeping task waits for.
    #[allow(missing_docs)]
    pub struct HrtimerSleeper = "hrtimer_sleeper" {
        timer: Field,
        task: Field,
    }

    /// A timer that wakes the machine.
    #[allow(missing_docs)]
    pub struct Alarm = "alarm" {
        expires: Field = "node.expires",
        state: Field,
        kind: Field = "type",
    }

    /// A POSIX timer.
    #[allow(missing_docs)]
    pub struct KItimer = "k_itimer" {
        list: Field,
        it_clock: Field,
        it_id: Field,
        it_overrun_last: Field,
        it_sigev_notify: Field,
        it_interval: Field,
        it_pid: Field,
        sigq: Field,
        hrtimer: Field = "it.real.timer",
        alarm: Option<Field> = "it.alarm.alarmtimer",
    }

    /// A CPU-time interval timer.
    #[allow(missing_docs)]
    pub struct CpuItimer = "cpu_itimer" {
        expires: Field,
        incr: Field,
    }

    /// CPU times of a process.
    #[allow(missing_docs)]
    pub struct TaskCputime = "task_cputime_atomic" {
        utime: Field,
        stime: Field,
    }
}

/// What is left until a time, at least a nanosecond.
fn left(expires: u64, now: u64) -> u64 {
    (expires.wrapping_sub(now) as i64).max(1) as u64
}

/// What is left until a periodic timer fires next that fired last at `last`.
fn left_of_period(last: u64, interval: u64, now: u64) -> u64 {
    let since = now.saturating_sub(last);
    match since.checked_rem(interval) {
        Some(within) => interval.saturating_sub(within).max(1),
        None => 0,
    }
}

/// The clock a timer runs on, and when it expires on that clock, if it is armed.
///
/// # Errors
/// The timer cannot be read.
pub fn hrtimer<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, at: Kva) -> Result<(i32, u64, bool)> {
    let types = &kernel.types.layouts;
    let mem = &kernel.mem;
    let base = mem.ptr(at, types.hrtimer.base)?;
    let clock = mem.int(base, types.hrtimer_clock_base.clockid)? as i32;
    let armed = mem.uint(at, types.hrtimer.state)? & ENQUEUED != 0;
    Ok((clock, mem.uint(at, types.hrtimer.expires)?, armed))
}

/// Nanoseconds left of a timer, 0 if it is not armed and has no interval. A periodic timer that waits for its signal to
/// be taken is not armed; it goes on at its next period, as `posixtimer_rearm` and `itimer` do.
///
/// # Errors
/// The timer cannot be read.
pub fn remaining<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, at: Kva, interval: u64, now: &Now) -> Result<u64> {
    if kernel.mem.ptr(at, kernel.types.layouts.hrtimer.base)?.is_null() {
        return Ok(0);
    }
    let (clock, expires, armed) = hrtimer(kernel, at)?;
    let now = now.on(clock);
    Ok(match (armed, interval) {
        (true, _) => left(expires, now),
        (false, 0) => 0,
        (false, _) if expires == 0 => 0,
        (false, interval) => left_of_period(expires, interval, now),
    })
}

/// `sigev_notify` of a timer that nobody is told of (include/uapi/asm-generic/siginfo.h).
const SIGEV_NONE: u64 = 1;

/// What is left of a timer that is only ever asked for: the kernel never queues it (`common_timer_get`).
fn unqueued<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, at: Kva, interval: u64, now: &Now) -> Result<u64> {
    if kernel.mem.ptr(at, kernel.types.layouts.hrtimer.base)?.is_null() {
        return Ok(0);
    }
    let (clock, expires, _) = hrtimer(kernel, at)?;
    let now = now.on(clock);
    Ok(match expires {
        0 => 0,
        expires if expires > now => left(expires, now),
        expires => left_of_period(expires, interval, now),
    })
}

/// ITIMER_REAL, VIRTUAL and PROF as (value, interval) in nanoseconds.
///
/// # Errors
/// They cannot be read.
pub fn itimers<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, signal: Kva, now: &Now) -> Result<[(u64, u64); 3]> {
    let types = &kernel.types.layouts;
    let mem = &kernel.mem;
    let interval = mem.uint(signal, types.signal.it_real_incr)?;
    let timer = signal.offset(u64::from(types.signal.real_timer.offset));
    let real = (remaining(kernel, timer, interval, now)?, interval);

    let sample = signal.offset(u64::from(types.signal.cputime.offset));
    let user = mem.uint(sample, types.task_cputime.utime)?;
    let system = mem.uint(sample, types.task_cputime.stime)?;
    // `it` is indexed by CPUCLOCK_PROF (0) and CPUCLOCK_VIRT (1).
    let cpu = |index: u64, sample: u64| -> Result<(u64, u64)> {
        let step = index.wrapping_mul(u64::from(types.cpu_itimer.struct_size));
        let at = signal.offset(u64::from(types.signal.it.offset)).offset(step);
        let expires = mem.uint(at, types.cpu_itimer.expires)?;
        let value = if expires == 0 { 0 } else { left(expires, sample) };
        Ok((value, mem.uint(at, types.cpu_itimer.incr)?))
    };
    Ok([real, cpu(1, user)?, cpu(0, user.wrapping_add(system))?])
}

/// The POSIX timers of a process.
///
/// # Errors
/// They cannot be read, or one counts CPU time.
pub fn posix<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, signal: Kva, now: &Now) -> Result<Vec<PosixTimer>> {
    let types = &kernel.types.layouts;
    let field = types.signal.posix_timers;
    let head = signal.offset(u64::from(field.offset));
    // A `list_head` up to Linux 6.11, then an `hlist_head` (5d916a0988ee), which is one pointer.
    let timers: core::result::Result<Vec<Kva>, _> = if field.size == kernel.types.list_head.struct_size {
        kernel.list(head, types.k_itimer.list).bounded(MAX_TIMERS).collect()
    } else {
        kernel.hlist(head, types.k_itimer.list).bounded(MAX_TIMERS).collect()
    };
    let mut timers: Vec<PosixTimer> = timers?
        .into_iter()
        .map(|at| timer(kernel, at, now))
        .collect::<Result<_>>()?;
    timers.sort_by_key(|timer| timer.id);
    Ok(timers)
}

fn timer<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, at: Kva, now: &Now) -> Result<PosixTimer> {
    let types = &kernel.types.layouts;
    let layout = &types.k_itimer;
    let mem = &kernel.mem;
    let clock = mem.int(at, layout.it_clock)? as i32;
    let interval = mem.uint(at, layout.it_interval)?;
    let value = match clock {
        clocks::REALTIME | clocks::MONOTONIC | clocks::BOOTTIME | clocks::TAI => {
            let timer = at.offset(u64::from(layout.hrtimer.offset));
            if mem.uint(at, layout.it_sigev_notify)? == SIGEV_NONE {
                unqueued(kernel, timer, interval, now)?
            } else {
                remaining(kernel, timer, interval, now)?
            }
        }
        clocks::REALTIME_ALARM | clocks::BOOTTIME_ALARM => match layout.alarm {
            Some(alarm) => alarm_remaining(kernel, at.offset(u64::from(alarm.offset)), interval, clock, now)?,
            None => return Err(Refusal::new(reasons::TIMER_KIND, "alarm timer")),
        },
        _ => {
            return Err(Refusal::new(
                reasons::TIMER_KIND,
                alloc::format!("POSIX timer on clock {clock}"),
            ))
        }
    };
    let notify = mem.uint(at, layout.it_sigev_notify)?;
    let info = mem.ptr(at, layout.sigq)?.offset(u64::from(types.sig_queue.info.offset));
    let notify_tid = if notify & SIGEV_THREAD_ID != 0 {
        tasks::pid_number(kernel, mem.ptr(at, layout.it_pid)?)?
    } else {
        0
    };
    Ok(PosixTimer {
        id: mem.int(at, layout.it_id)? as i32,
        clock,
        value,
        interval,
        notify: notify as i32,
        // `si_signo` and, for SI_TIMER, `si_value` (x86_64 ABI).
        signo: mem.i32(info)?,
        sigval: mem.u64(info.offset(24))?,
        notify_tid,
        overrun: mem.int(at, layout.it_overrun_last)?.clamp(0, i64::from(i32::MAX)) as i32,
    })
}

/// Nanoseconds left of an alarm timer.
///
/// # Errors
/// It cannot be read.
pub fn alarm_remaining<M: PhysMem + ?Sized>(
    kernel: &Kernel<'_, M>,
    at: Kva,
    interval: u64,
    clock: i32,
    now: &Now,
) -> Result<u64> {
    let layout = &kernel.types.layouts.alarm;
    let expires = kernel.mem.uint(at, layout.expires)?;
    let armed = kernel.mem.uint(at, layout.state)? & ALARM_ENQUEUED != 0;
    let now = now.on(clock);
    Ok(match (armed, interval) {
        (true, _) => left(expires, now),
        (false, 0) => 0,
        (false, interval) => left_of_period(expires, interval, now),
    })
}

#[cfg(test)]
mod tests {
    use super::{left, left_of_period};

    #[test]
    fn what_is_overdue_fires_at_once() {
        assert_eq!(left(100, 40), 60);
        assert_eq!(left(100, 100), 1);
        assert_eq!(left(100, 500), 1);
    }

    #[test]
    fn a_period_goes_on_in_step() {
        assert_eq!(left_of_period(1000, 300, 1000), 300);
        assert_eq!(left_of_period(1000, 300, 1100), 200);
        assert_eq!(left_of_period(1000, 300, 1900), 300);
        assert_eq!(left_of_period(1000, 0, 1900), 0);
    }
}
