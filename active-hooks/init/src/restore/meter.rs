//! Where the time of a hand-over goes.
//!
//! At every moment the agent works at one part of the whole; going over to another part and back costs two readings of
//! the time-stamp counter. A part that is entered from within another stops the other's clock, so the parts add up to
//! the whole.

use crate::takeover::clock::tsc;
use shared_region::context::Cost;
use std::cell::RefCell;

/// What the agent may be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Part {
    /// Anything else.
    Rest,
    /// Reading the records.
    Records,
    /// Mounting what was mounted.
    Mounts,
    /// Putting files back.
    Files,
    /// Opening what processes refer to.
    Opening,
    /// Finding out which pages are shared, and in which order processes are made.
    Planning,
    /// Making processes and threads.
    Cloning,
    /// Calls that run in the processes.
    Calls,
    /// Handing frames over.
    Adoption,
    /// Putting calls for a process together.
    Preparing,
    /// What is set from outside: limits, control groups and the like.
    Outside,
    /// Registers and what else belongs to a thread alone.
    Registers,
    /// Letting threads run.
    Release,
}

/// Names for the report, in the order of [`Part`].
const NAMES: [&str; 13] = [
    "rest",
    "records",
    "mounts",
    "files",
    "opening",
    "planning",
    "cloning",
    "calls",
    "adoption",
    "preparing",
    "outside",
    "registers",
    "release",
];

#[derive(Clone, Copy, Default)]
struct Entry {
    ticks: u64,
    times: u64,
}

struct Meter {
    entries: [Entry; NAMES.len()],
    at: Part,
    since: u64,
}

thread_local! {
    static METER: RefCell<Meter> = const {
        RefCell::new(Meter { entries: [Entry { ticks: 0, times: 0 }; NAMES.len()], at: Part::Rest, since: 0 })
    };
}

fn turn_to(part: Part) -> Part {
    METER.with_borrow_mut(|meter| {
        let now = tsc();
        // The first reading is where everything starts.
        let passed = if meter.since == 0 {
            0
        } else {
            now.saturating_sub(meter.since)
        };
        meter.entries[meter.at as usize].ticks += passed;
        meter.since = now;
        std::mem::replace(&mut meter.at, part)
    })
}

/// Does `work` as a part of the whole.
pub fn at<T>(part: Part, work: impl FnOnce() -> T) -> T {
    let before = turn_to(part);
    METER.with_borrow_mut(|meter| meter.entries[part as usize].times += 1);
    let result = work();
    turn_to(before);
    result
}

/// What each part has taken so far, with a counter that ticks `tsc_hz` times a second.
pub fn read(tsc_hz: u64) -> Vec<Cost> {
    let at = METER.with_borrow(|meter| meter.at);
    turn_to(at);
    let nanoseconds = |ticks: u64| {
        let scaled = u128::from(ticks) * 1_000_000_000 / u128::from(tsc_hz.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX)
    };
    METER.with_borrow(|meter| {
        let entries = NAMES.iter().zip(&meter.entries).filter(|(_, entry)| entry.ticks != 0);
        let cost = |(name, entry): (&&str, &Entry)| Cost {
            part: (*name).into(),
            times: entry.times,
            nanoseconds: nanoseconds(entry.ticks),
        };
        entries.map(cost).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn spend(time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {}
    }

    #[test]
    fn a_part_within_another_stops_its_clock() {
        let step = Duration::from_millis(20);
        at(Part::Files, || {
            spend(step);
            at(Part::Adoption, || spend(4 * step));
            at(Part::Adoption, || ());
        });
        let costs = read(1_000_000_000);
        let cost = |name: &str| costs.iter().find(|cost| cost.part == name).unwrap();
        assert_eq!((cost("files").times, cost("adoption").times), (1, 2));
        assert!(cost("adoption").nanoseconds > 2 * cost("files").nanoseconds);
        assert!(cost("files").nanoseconds > 0);
    }
}
