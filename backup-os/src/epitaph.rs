//! The end: why the machine is given up, where it can be read afterwards, and a firmware reset.

use crate::console::{self, Ring};
use core::fmt::{Arguments, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use machine::clock::{self, Clock};
use machine::reset::{self, ResetRegister};
use shared_region::control::WatchState;
use shared_region::layout;
use spin::Mutex;

use crate::region::Region;

/// What is needed at the end, known from the start.
struct Means {
    region: Region,
    clock: Clock,
    register: Option<ResetRegister>,
}

static MEANS: Mutex<Option<Means>> = Mutex::new(None);
static GIVING_UP: AtomicBool = AtomicBool::new(false);

/// Remembers what an end needs.
pub fn prepare(region: Region, clock: Clock, register: Option<ResetRegister>) {
    *MEANS.lock() = Some(Means {
        region,
        clock,
        register,
    });
}

/// Writes the epitaph to its part and to the console, and resets the machine.
pub fn give_up(why: Arguments<'_>) -> ! {
    x86_64::instructions::interrupts::disable();
    // A failure while giving up must not come back here.
    if GIVING_UP.swap(true, Ordering::Relaxed) {
        reset::machine(crate::ring0(), &Clock::new(0), None)
    }
    // SAFETY: this function does not return, so nobody who held the console goes on.
    unsafe { console::seize() };
    // Held by nobody but `prepare`, which cannot fail half-way.
    let guard = MEANS.lock();
    let Some(means) = guard.as_ref() else {
        log::error!("epitaph: {why}");
        reset::machine(crate::ring0(), &Clock::new(0), None)
    };
    // SAFETY: the part is written here only, once.
    let mut ring = unsafe { Ring::create(means.region, layout::EPITAPH) };
    let us = means.clock.nanoseconds(clock::tsc()) / 1000;
    let _ = writeln!(ring, "[{:5}.{:06}] {why}", us / 1_000_000, us % 1_000_000);
    let control = means.region.control();
    control.watch_state.store(WatchState::Dead as u64, Ordering::Release);
    log::error!("epitaph: {why}");
    log::error!("epitaph: resetting the machine");
    reset::machine(crate::ring0(), &means.clock, means.register)
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    give_up(format_args!("the backup OS itself failed: {info}"))
}
