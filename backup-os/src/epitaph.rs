//! The end: why the machine, or this program, is given up, where it can be read afterwards, and what happens then.

use crate::console::{self, Ring};
use core::fmt::{Arguments, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use failover::life::{after_own_failure, Way};
use failover::successor::{Limits, Verdict, Watch};
use machine::clock::{self, Clock};
use machine::reset::{self, ResetRegister};
use shared_region::control::{HangLimit, SalvageGate, SuccessorPhase, WatchState};
use shared_region::layout;
use shared_region::standby::StandbyState;
use shared_region::timeline::Event;
use spin::Mutex;

use crate::region::Region;

/// Microseconds between two looks at the successor.
const POLL_US: u64 = 10_000;

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
    let guard = MEANS.lock();
    let means = write(&guard, why);
    reset(&means)
}

/// The log goes out, then the machine is reset.
fn reset(end: &End) -> ! {
    log::error!("epitaph: resetting the machine");
    log::logger().flush();
    reset::machine(crate::ring0(), &end.clock, end.register)
}

/// This program itself failed: an exception, or a condition that cannot be. Nothing of it is relied on any more but
/// its log, and whatever kernel runs is left to itself where that is possible.
pub fn own_failure(why: Arguments<'_>) -> ! {
    // SAFETY: the allocator, the console and whatever else the failed code held will not be used by it again. `MEANS`
    // is held while giving up only, and `write` does not come back then.
    unsafe { MEANS.force_unlock() };
    let guard = MEANS.lock();
    let means = write(&guard, format_args!("the backup OS itself failed: {why}"));
    let control = means.region.control();
    let jumped = means.region.timeline().tsc[Event::Jumped as usize].load(Ordering::Acquire) != 0;
    let starting = means.region.standby().state.load(Ordering::Acquire) == StandbyState::Starting as u64;
    match after_own_failure(means.state, jumped, starting) {
        Way::LeaveActive => log::error!("epitaph: the active runs on, unwatched"),
        Way::LeaveSuccessor => {
            if control.salvage_gate.load(Ordering::Acquire) == SalvageGate::Busy as u64 {
                log::error!("epitaph: nothing was salvaged; the successor starts with nothing to restore");
                control
                    .salvage_gate
                    .store(SalvageGate::Failed as u64, Ordering::Release);
            }
            watch_successor(&means);
        }
        Way::Reset => reset(&means),
    }
    log::logger().flush();
    machine::cpu::stop(crate::ring0())
}

/// The means, and the state in which they were needed.
struct End {
    region: Region,
    clock: Clock,
    register: Option<ResetRegister>,
    state: Option<WatchState>,
}

fn write(means: &Option<Means>, why: Arguments<'_>) -> End {
    x86_64::instructions::interrupts::disable();
    // A failure while giving up must not come back here.
    if GIVING_UP.swap(true, Ordering::Relaxed) {
        reset::machine(crate::ring0(), &Clock::new(0), None)
    }
    // SAFETY: neither caller returns, so nobody who held the console goes on.
    unsafe { console::seize() };
    log::error!("epitaph: {why}");
    let Some(means) = means else {
        reset::machine(crate::ring0(), &Clock::new(0), None)
    };
    // SAFETY: the part is written here only, once.
    let mut ring = unsafe { Ring::create(means.region, layout::EPITAPH) };
    let us = means.clock.nanoseconds(clock::tsc()) / 1000;
    let _ = writeln!(ring, "[{:5}.{:06}] {why}", us / 1_000_000, us % 1_000_000);
    let word = &means.region.control().watch_state;
    let state = WatchState::from_word(word.swap(WatchState::Dead as u64, Ordering::AcqRel));
    End {
        region: means.region,
        clock: means.clock,
        register: means.register,
        state,
    }
}

/// Watches the successor as far as that needs no memory: a successor that does not make it ends in a reset.
fn watch_successor(end: &End) {
    let control = end.region.control();
    let start = clock::tsc();
    let limits = Limits::with_heartbeat(end.region.hang_limit(HangLimit::Successor));
    let mut watch = Watch::new(limits, 0, 0);
    while watch.phase() < SuccessorPhase::Complete {
        end.clock.wait(POLL_US);
        console::catch_up();
        let phase = control.successor_phase.load(Ordering::Acquire);
        let now = end.clock.nanoseconds(clock::tsc().wrapping_sub(start)) / 1000;
        match watch.look(now, phase, control.successor_heartbeat.load(Ordering::Relaxed)) {
            Verdict::Going | Verdict::Reached(_) => {}
            verdict => {
                log::error!("epitaph: the successor: {verdict:?}");
                reset(end)
            }
        }
    }
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    own_failure(format_args!("{info}"))
}
