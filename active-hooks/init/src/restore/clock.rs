//! How much time went by between the last instant of the dead kernel and now.

use rustix::time::{clock_gettime, ClockId};
use shared_region::context::Clock;

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// The clocks of the dead kernel, which this process's go on from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Elapsed {
    /// The dead kernel's clocks at its last instant.
    pub then: Clock,
}

impl Elapsed {
    /// Nanoseconds since that instant.
    pub fn passed(&self) -> u64 {
        now(ClockId::Monotonic).saturating_sub(self.then.monotonic)
    }

    /// What is left at this moment of a time-out that had `left` nanoseconds to run; at least 1, as 0 means "never".
    pub fn remaining(&self, left: u64) -> u64 {
        left.saturating_sub(self.passed()).max(1)
    }
}

/// A clock in nanoseconds.
pub fn now(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    (time.tv_sec as u64).saturating_mul(SECOND) + time.tv_nsec as u64
}

/// A pair of `struct timespec` or the like: interval, value.
pub fn interval_and_value(interval: u64, value: u64, unit: u64) -> [u8; 32] {
    let words = [
        interval / SECOND,
        interval % SECOND / unit,
        value / SECOND,
        value % SECOND / unit,
    ];
    let mut bytes = [0; 32];
    for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
