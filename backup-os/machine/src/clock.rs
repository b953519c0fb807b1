//! Time: the time-stamp counter, measured once against the ACPI PM timer.

use crate::{port, Ring0, Timeout};

/// Ticks of the PM timer in a second (ACPI 6.5, 4.8.3.3).
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// The PM timer counts 24 bits; on some machines 32, of which the upper ones are ignored.
const PM_TIMER_MASK: u32 = 0xFF_FFFF;

/// Reads the time-stamp counter.
///
/// Not ordered against other instructions; good to some dozens of cycles.
pub fn tsc() -> u64 {
    // SAFETY: RDTSC exists on every CPU with long mode, and CR4.TSD does not forbid it in ring 0 (nor is it set in
    // ring 3 by any system this crate is tested under).
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The ACPI power-management timer.
#[derive(Clone, Copy, Debug)]
pub struct PmTimer {
    ring0: Ring0,
    port: u16,
}

impl PmTimer {
    /// The timer at a port (FADT PM_TMR_BLK or X_PM_TMR_BLK).
    pub const fn new(ring0: Ring0, port: u16) -> Self {
        Self { ring0, port }
    }

    /// The counter, 24 bits; wraps every 4.7 seconds.
    pub fn read(&self) -> u32 {
        port::read::<u32>(self.ring0, self.port) & PM_TIMER_MASK
    }

    /// Measures how many time-stamp counter ticks a second has, over `us` microseconds (50,000 gives about 0.01 %).
    ///
    /// # Errors
    /// [`Timeout`] if the timer does not run.
    pub fn measure_tsc(&self, us: u32) -> Result<u64, Timeout> {
        let wanted = u64::from(us) * PM_TIMER_HZ / 1_000_000;
        let mut last = self.read();
        let start = tsc();
        let mut elapsed = 0u64;
        let mut still = 0u32;
        while elapsed < wanted {
            let now = self.read();
            let step = now.wrapping_sub(last) & PM_TIMER_MASK;
            // A port read takes about a microsecond, so a running timer moves every few reads.
            still = if step == 0 { still + 1 } else { 0 };
            if still > 1_000_000 {
                return Err(Timeout("a tick of the ACPI PM timer"));
            }
            elapsed += u64::from(step);
            last = now;
        }
        let ticks = u128::from(tsc() - start);
        Ok((ticks * u128::from(PM_TIMER_HZ) / u128::from(elapsed)) as u64)
    }
}

/// The time-stamp counter with its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    hz: u64,
}

impl Clock {
    /// A clock of `hz` ticks a second; 0 is taken as 1 GHz, which makes waits end early or late but end.
    pub const fn new(hz: u64) -> Self {
        Self {
            hz: if hz == 0 { 1_000_000_000 } else { hz },
        }
    }

    /// Ticks in a second.
    pub const fn hz(&self) -> u64 {
        self.hz
    }

    /// Ticks in `us` microseconds.
    pub const fn ticks(&self, us: u64) -> u64 {
        (us as u128 * self.hz as u128 / 1_000_000) as u64
    }

    /// `ticks` in nanoseconds.
    pub const fn nanoseconds(&self, ticks: u64) -> u64 {
        (ticks as u128 * 1_000_000_000 / self.hz as u128) as u64
    }

    /// The instant `us` microseconds from now.
    pub fn deadline(&self, us: u64) -> Deadline {
        Deadline {
            start: tsc(),
            ticks: self.ticks(us),
        }
    }

    /// Spins for `us` microseconds.
    pub fn wait(&self, us: u64) {
        let deadline = self.deadline(us);
        while !deadline.passed() {
            core::hint::spin_loop();
        }
    }

    /// Spins until `condition` holds.
    ///
    /// # Errors
    /// [`Timeout`] with `what` after `us` microseconds.
    pub fn wait_for(&self, us: u64, what: &'static str, mut condition: impl FnMut() -> bool) -> Result<(), Timeout> {
        let deadline = self.deadline(us);
        loop {
            if condition() {
                return Ok(());
            }
            if deadline.passed() {
                return Err(Timeout(what));
            }
            core::hint::spin_loop();
        }
    }
}

/// An instant in the future.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    start: u64,
    ticks: u64,
}

impl Deadline {
    /// Whether it has passed.
    pub fn passed(&self) -> bool {
        tsc().wrapping_sub(self.start) >= self.ticks
    }
}
