//! The tick of the reserved core, from its own local APIC timer: between two looks the core sleeps.

use crate::interrupts::{SPURIOUS_VECTOR, TIMER_VECTOR};
use machine::apic::LocalApic;
use machine::clock::Clock;
use machine::Ring0;

/// Microseconds between two looks.
pub const TICK_US: u64 = 1_000;
/// How long the timer is measured for, in microseconds.
const MEASURE_US: u64 = 20_000;

/// Starts the tick; returns the rate of the timer in counts a second.
///
/// # Safety
/// This program's interrupt descriptor table is loaded.
pub unsafe fn start(ring0: Ring0, clock: &Clock) -> u64 {
    let apic = LocalApic::current(ring0);
    apic.enable(SPURIOUS_VECTOR);
    let rate = apic.measure_timer(clock, MEASURE_US);
    let count = rate * TICK_US / 1_000_000;
    apic.start_timer(TIMER_VECTOR, u32::try_from(count).unwrap_or(u32::MAX));
    rate
}

/// Sleeps until the next interrupt, which is the next tick at the latest.
pub fn sleep() {
    // One pair of instructions: no interrupt can come between them and be slept over.
    x86_64::instructions::interrupts::enable_and_hlt();
    x86_64::instructions::interrupts::disable();
}
