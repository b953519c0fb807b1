//! The clocks of a dead kernel (`kernel/time/timekeeping.c`).
//!
//! What a process can have read last lies between the kernel's last update and the moment its CPU was stopped. The
//! counters read after the last CPU was stopped are therefore put through the kernel's own conversion: the result is not
//! earlier than any reading that was given out.

use crate::addr::Kva;
use crate::error::ReadError;
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::tables::TK_CORE_TIMEKEEPER;
use crate::timers::clocks;
use shared_region::context::Clock;

/// Nanoseconds in a second.
const NSEC: u64 = 1_000_000_000;
/// Longest name of a clock source that is looked at.
const MAX_NAME: usize = 32;

crate::mirrors! {
    /// What a reading of a clock is computed from.
    pub struct TkReadBase = "tk_read_base" {
        /// The clock source.
        clock: Field,
        /// Bits of the counter.
        mask: Field,
        /// Counter at the last update.
        cycle_last: Field,
        /// Nanoseconds per tick, times 2^shift.
        mult: Field,
        /// See `mult`.
        shift: Field,
        /// Nanoseconds, times 2^shift, below `base`.
        xtime_nsec: Field,
        /// Nanoseconds at the last update.
        base: Field,
    }

    /// The core of time keeping.
    pub struct TimekeeperClocks = "timekeeper" {
        /// CLOCK_MONOTONIC.
        tkr_mono: Field,
        /// CLOCK_REALTIME − CLOCK_MONOTONIC.
        offs_real: Field,
        /// CLOCK_BOOTTIME − CLOCK_MONOTONIC.
        offs_boot: Field,
        /// CLOCK_TAI − CLOCK_MONOTONIC.
        offs_tai: Field,
        /// TAI − UTC in seconds.
        tai_offset: Field,
    }

    /// A time namespace.
    pub struct TimeNamespace = "time_namespace" {
        /// What is added to CLOCK_MONOTONIC.
        monotonic: Field = "offsets.monotonic",
        /// What is added to CLOCK_BOOTTIME.
        boottime: Field = "offsets.boottime",
    }

    /// A clock source.
    pub struct ClockSource = "clocksource" {
        /// `tsc`, `hpet`, `acpi_pm` ….
        name: Field,
        /// Nanoseconds per tick, times 2^shift.
        mult: Field,
        /// See `mult`.
        shift: Field,
    }
}

/// Counters of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// Time-stamp counter when the kernel was found dead.
    pub tsc: u64,
    /// Main counter of the HPET at the same instant, 0 if there is none.
    pub hpet: u64,
    /// ACPI power-management timer at the same instant, 0 if there is none.
    pub pm_timer: u64,
    /// Time-stamp counter after the last CPU was stopped.
    pub stopped_tsc: u64,
    /// Ticks of the time-stamp counter in a second.
    pub tsc_hz: u64,
}

impl Readings {
    /// The counter of a clock source, and how long after its reading the last CPU was stopped, in nanoseconds.
    fn of(&self, source: &[u8]) -> Option<(u64, u64)> {
        match source {
            // The second for the first second or two of a kernel, until the first is measured (`arch/x86/kernel/tsc.c`).
            b"tsc" | b"tsc-early" => Some((self.stopped_tsc.max(self.tsc), 0)),
            b"hpet" if self.hpet != 0 => Some((self.hpet, self.since_detection())),
            b"acpi_pm" if self.pm_timer != 0 => Some((self.pm_timer, self.since_detection())),
            _ => None,
        }
    }

    fn since_detection(&self) -> u64 {
        ticks_to_ns(self.stopped_tsc.saturating_sub(self.tsc), self.tsc_hz)
    }
}

/// The kernel's own clocks at one instant, in nanoseconds; timers of the kernel expire on these, whatever time namespace
/// a process is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_MONOTONIC.
    pub monotonic: u64,
    /// CLOCK_REALTIME − CLOCK_MONOTONIC.
    pub real: i64,
    /// CLOCK_BOOTTIME − CLOCK_MONOTONIC.
    pub boot: i64,
    /// CLOCK_TAI − CLOCK_MONOTONIC.
    pub tai: i64,
    /// What a time namespace adds to CLOCK_MONOTONIC.
    pub namespace_monotonic: i64,
    /// What a time namespace adds to CLOCK_BOOTTIME.
    pub namespace_boot: i64,
}

impl Now {
    /// The reading of a clock, by its id; unknown clocks read as CLOCK_MONOTONIC.
    pub fn on(&self, clock: i32) -> u64 {
        let offset = match clock {
            clocks::REALTIME | clocks::REALTIME_ALARM => self.real,
            clocks::BOOTTIME | clocks::BOOTTIME_ALARM => self.boot,
            clocks::TAI => self.tai,
            _ => 0,
        };
        self.monotonic.wrapping_add(offset as u64)
    }

    /// A time on a clock of the kernel, as a process sees it.
    pub fn to_process(&self, clock: i32, time: u64) -> u64 {
        let offset = match clock {
            clocks::MONOTONIC => self.namespace_monotonic,
            clocks::BOOTTIME | clocks::BOOTTIME_ALARM => self.namespace_boot,
            _ => 0,
        };
        time.wrapping_add(offset as u64)
    }
}

/// All clocks at the instant of `readings.stopped_tsc`; without readings (an image that somebody else took), at the
/// kernel's last update. `namespace` is the time namespace user space is in, if any: [`Clock`] has the times as processes
/// see them.
///
/// # Errors
/// The timekeeper cannot be read.
pub fn read<M: PhysMem + ?Sized>(
    kernel: &Kernel<'_, M>,
    readings: Option<&Readings>,
    namespace: Option<Kva>,
) -> Result<(Clock, Now), ReadError> {
    let mem = &kernel.mem;
    let types = &kernel.types.layouts;
    let timekeeper = current(kernel)?;
    let mono = timekeeper.offset(u64::from(types.timekeeper.tkr_mono.offset));
    let base = &types.tk_read_base;
    let field = |field| mem.uint(mono, field);

    let name = mem
        .cstr(
            mem.pointer(
                mem.ptr(mono, base.clock)?
                    .offset(u64::from(types.clocksource.name.offset)),
            )?,
            MAX_NAME,
        )
        .unwrap_or_default();
    let counted = readings.and_then(|readings| readings.of(&name));
    let (cycles, later) = match (counted, readings) {
        (Some(counted), _) => counted,
        // A clock source that was not read at the failure (jiffies, kvm-clock): the last update is all there is.
        (None, readings) => (field(base.cycle_last)?, readings.map_or(0, Readings::since_detection)),
    };
    let last = field(base.cycle_last)?;
    let mut delta = cycles.wrapping_sub(last) & field(base.mask)?;
    // A counter a little behind the last update (another CPU's TSC) reads as a huge step forward
    // (`clocksource_delta`); such a step counts as none.
    if delta > field(base.mask)? >> 1 {
        delta = 0;
    }
    let shift = field(base.shift)?.min(63);
    let scaled = u128::from(delta)
        .saturating_mul(u128::from(field(base.mult)?))
        .saturating_add(u128::from(field(base.xtime_nsec)?));
    let nanoseconds = u64::try_from(scaled.wrapping_shr(shift as u32)).unwrap_or(0);
    let monotonic = field(base.base)?.wrapping_add(nanoseconds).wrapping_add(later);

    // A `timespec64`: seconds and nanoseconds.
    let added = |at: Option<Kva>| -> Result<i64, ReadError> {
        let Some(at) = at else { return Ok(0) };
        let seconds = mem.i64(at)?.wrapping_mul(NSEC as i64);
        Ok(seconds.wrapping_add(mem.i64(at.offset(8))?))
    };
    let within = |field: Field| namespace.map(|at| at.offset(u64::from(field.offset)));
    let time_namespace = types.time_namespace.as_ref();
    let now = Now {
        monotonic,
        real: mem.int(timekeeper, types.timekeeper.offs_real)?,
        boot: mem.int(timekeeper, types.timekeeper.offs_boot)?,
        tai: mem.int(timekeeper, types.timekeeper.offs_tai)?,
        namespace_monotonic: added(time_namespace.and_then(|layout| within(layout.monotonic)))?,
        namespace_boot: added(time_namespace.and_then(|layout| within(layout.boottime)))?,
    };
    let clock = Clock {
        tsc: readings.map_or(0, |r| r.stopped_tsc.max(r.tsc)),
        tsc_hz: readings.map_or(0, |r| r.tsc_hz),
        monotonic: now.to_process(clocks::MONOTONIC, monotonic),
        boottime: now.to_process(clocks::BOOTTIME, now.on(clocks::BOOTTIME)),
        realtime: now.on(clocks::REALTIME) as i64,
        tai_offset: mem.int(timekeeper, types.timekeeper.tai_offset)? as i32,
        frequency: frequency(kernel),
    };
    Ok((clock, now))
}

/// The timekeeper that is whole: the one readers use, or, if the kernel died while it was being replaced (odd sequence
/// number), the copy it was being replaced with.
fn current<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>) -> Result<Kva, ReadError> {
    let core = kernel.symbols.tk_core;
    let sequence = kernel.mem.u32(core)?;
    match kernel.prepared.globals.shadow_timekeeper {
        Some(shadow) if sequence & 1 == 1 => Ok(shadow),
        _ => Ok(core.offset(TK_CORE_TIMEKEEPER)),
    }
}

/// The frequency correction, as `adjtimex` shows it: ppm × 2^16. `time_freq` holds nanoseconds per second × 2^32
/// (`kernel/time/ntp.c`), which is ppm × 1000 × 2^32.
fn frequency<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>) -> i64 {
    let raw = kernel.prepared.globals.time_freq.and_then(|at| kernel.mem.i64(at).ok());
    raw.map_or(0, |raw| (raw >> 16) / 1000)
}

/// Ticks of a counter in nanoseconds, rounded up.
fn ticks_to_ns(ticks: u64, hz: u64) -> u64 {
    let scaled = u128::from(ticks).saturating_mul(u128::from(NSEC));
    scaled
        .checked_div(u128::from(hz))
        .map_or(0, |ns| u64::try_from(ns).unwrap_or(u64::MAX).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::{ticks_to_ns, Readings};

    #[test]
    fn a_clock_source_is_read_at_the_stop_or_carried_on_to_it() {
        let readings = Readings {
            tsc: 1_000,
            hpet: 77,
            pm_timer: 0,
            stopped_tsc: 3_000,
            tsc_hz: 1_000_000_000,
        };
        // A kernel that has just started reads the same counter by another name.
        for source in ["tsc", "tsc-early"] {
            assert_eq!(readings.of(source.as_bytes()), Some((3_000, 0)), "{source}");
        }
        assert_eq!(readings.of(b"hpet"), Some((77, 2_001)));
        assert_eq!(readings.of(b"acpi_pm"), None);
        assert_eq!(readings.of(b"jiffies"), None);
    }

    #[test]
    fn ticks_are_rounded_up_and_an_unknown_frequency_is_no_time() {
        assert_eq!(ticks_to_ns(2_500_000_000, 2_500_000_000), 1_000_000_001);
        assert_eq!(ticks_to_ns(1, 0), 0);
        assert_eq!(ticks_to_ns(u64::MAX, 1), u64::MAX);
    }
}
