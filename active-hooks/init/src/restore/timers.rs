//! Interval timers and POSIX timers.

use super::{
    arena::Arena,
    batch::{self, Arg, Batch},
    clock::{interval_and_value, Elapsed},
    process::Finish,
    tracee::Tracee,
    world::World,
    Refusal, Restored,
};
use shared_region::context::{PosixTimer, Process};

/// The most timers that are made and thrown away to reach a recorded id.
const MOST_IDS: i32 = 100_000;
/// Microseconds in nanoseconds.
const MICROSECOND: u64 = 1000;

/// Starts ITIMER_REAL, VIRTUAL and PROF.
pub fn interval_timers(batch: &mut Batch<'_>, process: &Process, elapsed: &Elapsed) -> Restored<()> {
    for (which, &(value, interval)) in process.itimers.iter().enumerate() {
        let left = match (which, value) {
            (_, 0) if interval == 0 => continue,
            // Its signal is pending, and the kernel starts it again when that is taken.
            (_, 0) => interval,
            // Only ITIMER_REAL goes on while nothing runs.
            (0, _) => elapsed.remaining(value),
            _ => value,
        };
        // 0 would disarm it.
        let left = left.max(MICROSECOND);
        let setting = interval_and_value(interval, left, MICROSECOND);
        batch.call(
            format!("interval timer {which}"),
            libc::SYS_setitimer,
            [(which as u64).into(), Arg::Bytes(&setting), 0u64.into()],
        )?;
    }
    Ok(())
}

/// Creates the POSIX timers of a process under their ids, and starts them. The threads they notify must exist.
///
/// The kernel counts ids up from 0 in a new process, so the ids in between are taken and given back.
pub fn posix_timers(arena: &mut Arena, leader: &Tracee, process: &Process, context: &Finish<'_>) -> Restored<()> {
    let mut timers: Vec<&PosixTimer> = process.posix_timers.iter().collect();
    timers.sort_by_key(|timer| timer.id);
    let mut next = 0;
    for timer in timers {
        let what = || format!("timer {}", timer.id);
        if timer.id < next || timer.id > MOST_IDS {
            return Err(Refusal::new(what(), "its id cannot be reached"));
        }
        while next <= timer.id {
            create(arena, leader, timer, next, context.world)?;
            if next < timer.id {
                let mut batch = Batch::new(arena, leader);
                batch.call(what(), libc::SYS_timer_delete, [next.into()])?;
                batch.finish()?;
            }
            next += 1;
        }
        if timer.value != 0 {
            start(arena, leader, timer, context.elapsed)?;
        }
    }
    Ok(())
}

fn create(arena: &mut Arena, leader: &Tracee, timer: &PosixTimer, id: i32, world: &World<'_>) -> Restored<()> {
    let notified = world.own_number(timer.notify_tid);
    // struct sigevent (include/uapi/asm-generic/siginfo.h), then room for the id.
    let mut data = [0; 72];
    data[..8].copy_from_slice(&timer.sigval.to_le_bytes());
    data[8..12].copy_from_slice(&timer.signo.to_le_bytes());
    data[12..16].copy_from_slice(&timer.notify.to_le_bytes());
    data[16..20].copy_from_slice(&notified.to_le_bytes());
    data[64..68].copy_from_slice(&(-1i32).to_le_bytes());
    let arguments = |at: u64| [i64::from(timer.clock) as u64, at, at + 64, 0, 0, 0];
    let (result, data) = batch::query(arena, leader, libc::SYS_timer_create, arguments, &data)?;
    let what = format!("timer {}", timer.id);
    if result != 0 {
        return Err(Refusal::new(what, std::io::Error::from_raw_os_error(-result as i32)));
    }
    let given = i32::from_le_bytes([data[64], data[65], data[66], data[67]]);
    if given != id {
        return Err(Refusal::new(what, format!("the kernel gave id {given}, not {id}")));
    }
    Ok(())
}

fn start(arena: &mut Arena, leader: &Tracee, timer: &PosixTimer, elapsed: &Elapsed) -> Restored<()> {
    let runs_on = matches!(
        timer.clock,
        libc::CLOCK_REALTIME
            | libc::CLOCK_MONOTONIC
            | libc::CLOCK_BOOTTIME
            | libc::CLOCK_REALTIME_ALARM
            | libc::CLOCK_BOOTTIME_ALARM
            | libc::CLOCK_TAI
    );
    let left = if runs_on {
        elapsed.remaining(timer.value)
    } else {
        timer.value
    };
    let setting = interval_and_value(timer.interval, left, 1);
    let mut batch = Batch::new(arena, leader);
    batch.call(
        format!("timer {}", timer.id),
        libc::SYS_timer_settime,
        [timer.id.into(), 0u64.into(), Arg::Bytes(&setting), 0u64.into()],
    )?;
    batch.finish()
}
