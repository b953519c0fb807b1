//! Clocks that go on where the dead kernel's stopped.
//!
//! The time-stamp counter never stopped, so it tells how long nobody kept time. CLOCK_REALTIME is set. CLOCK_MONOTONIC
//! and CLOCK_BOOTTIME cannot be set: this process enters a time namespace in which they are ahead by what the dead
//! kernel's were, and with it everything it will ever start.

use crate::{
    boot::log,
    restore::clock::{now, SECOND},
};
use rustix::{
    thread::{move_into_link_name_space, LinkNameSpaceType},
    time::{clock_settime, ClockId, Timespec},
};
use shared_region::context::Clock;
use std::{fs, io, os::fd::AsFd};

/// The time-stamp counter of this CPU.
pub fn tsc() -> u64 {
    // SAFETY: every x86_64 CPU has the instruction; it changes nothing but its result registers.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Lets all clocks go on from the saved instant. Returns by how much CLOCK_MONOTONIC and CLOCK_BOOTTIME are ahead of
/// this kernel's own, in nanoseconds. What cannot be set is told and stays as it is.
pub fn go_on(then: &Clock) -> (i64, i64) {
    if then.tsc_hz == 0 {
        log::error(format_args!("the saved clocks name no frequency; clocks start anew"));
        return (0, 0);
    }
    let passed = || passed(then, tsc());
    let ahead = |saved: u64, clock: ClockId| (saved + passed()) as i64 - now(clock) as i64;
    let offsets = (
        ahead(then.monotonic, ClockId::Monotonic),
        ahead(then.boottime, ClockId::Boottime),
    );
    let offsets = match enter_time_namespace(offsets) {
        Ok(()) => offsets,
        Err(error) => {
            log::error(format_args!("CLOCK_MONOTONIC starts anew: {error}"));
            (0, 0)
        }
    };
    let real = then.realtime.saturating_add_unsigned(passed());
    let real = Timespec {
        tv_sec: real.div_euclid(SECOND as i64),
        tv_nsec: real.rem_euclid(SECOND as i64),
    };
    if let Err(error) = clock_settime(ClockId::Realtime, real) {
        log::error(format_args!("CLOCK_REALTIME cannot be set: {error}"));
    }
    discipline(then);
    log::info(format_args!(
        "clocks go on: CLOCK_MONOTONIC is {} ms ahead, {} ms after the last instant",
        offsets.0 / 1_000_000,
        passed() / 1_000_000
    ));
    offsets
}

/// Nanoseconds between the saved instant and a reading of the time-stamp counter.
fn passed(then: &Clock, tsc: u64) -> u64 {
    let ticks = u128::from(tsc.saturating_sub(then.tsc));
    u64::try_from(ticks * u128::from(SECOND) / u128::from(then.tsc_hz)).unwrap_or(u64::MAX)
}

fn enter_time_namespace((monotonic, boottime): (i64, i64)) -> io::Result<()> {
    // SAFETY: takes a number; it concerns children of this process only, until the namespace is entered below.
    if unsafe { libc::unshare(libc::CLONE_NEWTIME) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let line = |name: &str, offset: i64| {
        let second = SECOND as i64;
        format!("{name} {} {}\n", offset.div_euclid(second), offset.rem_euclid(second))
    };
    let text = line("monotonic", monotonic) + &line("boottime", boottime);
    fs::write("/proc/self/timens_offsets", text)?;
    let namespace = fs::File::open("/proc/self/ns/time_for_children")?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Time))?;
    Ok(())
}

/// Sets the frequency correction and the offset of TAI.
fn discipline(then: &Clock) {
    // SAFETY: the structure is plain numbers, all zero is "change nothing", and it lives for the calls.
    unsafe {
        let mut settings: libc::timex = std::mem::zeroed();
        settings.modes = libc::ADJ_FREQUENCY;
        settings.freq = then.frequency as libc::c_long;
        libc::adjtimex(&mut settings);
        if then.tai_offset != 0 {
            settings.modes = libc::ADJ_TAI;
            settings.constant = then.tai_offset.into();
            libc::adjtimex(&mut settings);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_with_the_counter() {
        let then = Clock {
            tsc: 1_000,
            tsc_hz: 2_000_000_000,
            ..Clock::default()
        };
        assert_eq!(passed(&then, 4_000_001_000), 2 * SECOND);
        assert_eq!(passed(&then, 0), 0);
    }
}
