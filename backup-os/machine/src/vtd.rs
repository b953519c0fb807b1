//! A DMA remapping hardware unit (Intel Virtualization Technology for Directed I/O specification 4.1, chapter 11),
//! turned off between two kernels: the tables of the first one are gone, and without them every transfer would fault.

use crate::{clock::Clock, mmio, Ring0, Timeout};

/// Register offsets (11.4).
mod register {
    pub const GLOBAL_COMMAND: u64 = 0x18;
    pub const GLOBAL_STATUS: u64 = 0x1C;
    pub const PROTECTED_MEMORY: u64 = 0x64;
}

/// Translation enable, interrupt remapping enable, queued invalidation enable: the same bits in command and status.
const TRANSLATION: u32 = 1 << 31;
const INTERRUPT_REMAPPING: u32 = 1 << 25;
const QUEUED_INVALIDATION: u32 = 1 << 26;
/// Status bits that are written back when another one changes (11.4.4.1); the others are one-shot commands.
const KEEP: u32 = 0x96FF_FFFF;
/// Protected memory: enabled, and its status.
const PROTECTED: u32 = 1 << 31;
const PROTECTED_STATUS: u32 = 1;
const STEP_US: u64 = 10_000;

/// Turns translation, interrupt remapping and queued invalidation of the unit at `base` off, in this order.
///
/// Returns whether anything was on.
///
/// # Errors
/// [`Timeout`] if the unit does not follow.
pub fn disable(ring0: Ring0, clock: &Clock, base: u64) -> Result<bool, Timeout> {
    let status = || mmio::read32(ring0, base + register::GLOBAL_STATUS);
    let mut was_on = false;
    for bit in [TRANSLATION, INTERRUPT_REMAPPING, QUEUED_INVALIDATION] {
        let now = status();
        if now & bit == 0 {
            continue;
        }
        was_on = true;
        // SAFETY: a device register, by the firmware's table.
        unsafe { mmio::write32(ring0, base + register::GLOBAL_COMMAND, now & KEEP & !bit) };
        clock.wait_for(STEP_US, "turning a DMA remapping unit off", || status() & bit == 0)?;
    }
    let protected = || mmio::read32(ring0, base + register::PROTECTED_MEMORY);
    if protected() & PROTECTED != 0 {
        was_on = true;
        let value = protected() & !PROTECTED;
        // SAFETY: a device register, by the firmware's table.
        unsafe { mmio::write32(ring0, base + register::PROTECTED_MEMORY, value) };
        clock.wait_for(STEP_US, "opening protected memory", || {
            protected() & PROTECTED_STATUS == 0
        })?;
    }
    Ok(was_on)
}
