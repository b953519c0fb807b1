//! How a cell notices that its kernel was replaced, without holding anything open.
//!
//! `times` counts ticks since the running kernel started, while CLOCK_MONOTONIC goes on over a failover: when their
//! difference jumps, `boot_id` is read to be sure. Polling a file of /proc instead would leave a descriptor of it open
//! at some failures, and the cell would be refused for that rather than for what it tests.

use crate::sys::{clock, memory::Region};
use anyhow::Result;
use std::sync::atomic::{AtomicI64, Ordering};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// A jump of less is drift of the tick counter.
const JUMP_NS: i64 = 700_000_000;

/// Notices a failover. Children inherit it.
pub struct Watch {
    boot_id: Vec<u8>,
    base: AtomicI64,
    /// Without a real failover: word 0 is the instant (CLOCK_MONOTONIC) from which one is assumed, 0 not yet.
    assumed: Option<Region>,
}

fn offset() -> i64 {
    clock::ticks()
        .wrapping_mul(10_000_000)
        .wrapping_sub(clock::now() as i64)
}

impl Watch {
    /// Remembers the running kernel. With `assume`, a failover is assumed some time after [`Watch::arm`].
    pub fn new(assume: bool) -> Result<Self> {
        Ok(Self {
            boot_id: std::fs::read(BOOT_ID)?,
            base: AtomicI64::new(offset()),
            assumed: if assume { Some(Region::shared(1)?) } else { None },
        })
    }

    /// Starts the time after which a failover is assumed, in nanoseconds.
    pub fn arm(&self, after: u64) {
        if let Some(word) = &self.assumed {
            word.set(0, clock::now() + after);
        }
    }

    /// Whether the kernel is another one than at the start.
    pub fn seen(&self) -> bool {
        if let Some(word) = &self.assumed {
            let instant = word.get(0);
            return instant != 0 && clock::now() >= instant;
        }
        let now = offset();
        if (now - self.base.load(Ordering::Relaxed)).abs() < JUMP_NS {
            return false;
        }
        // Under chroot there is no /proc; the jump has to do.
        match std::fs::read(BOOT_ID) {
            Ok(id) if id == self.boot_id => {
                self.base.store(now, Ordering::Relaxed);
                false
            }
            _ => true,
        }
    }
}
