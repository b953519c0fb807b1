//! The high-precision event timer (IA-PC HPET specification 1.0a, 2.3).

use crate::{mmio, Ring0};

const CONFIGURATION: u64 = 0x10;
const MAIN_COUNTER: u64 = 0xF0;
/// ENABLE_CNF and LEG_RT_CNF.
const ENABLE_AND_LEGACY: u64 = 3;

/// Stops the counter and gives the legacy interrupt lines back to the PIT and the RTC.
///
/// `base` is the address in the ACPI "HPET" table.
pub fn quiet(ring0: Ring0, base: u64) {
    let value = mmio::read64(ring0, base + CONFIGURATION);
    // SAFETY: a device register by the firmware's word.
    unsafe { mmio::write64(ring0, base + CONFIGURATION, value & !ENABLE_AND_LEGACY) }
}

/// The main counter; it stands still after [`quiet`].
pub fn counter(ring0: Ring0, base: u64) -> u64 {
    mmio::read64(ring0, base + MAIN_COUNTER)
}
