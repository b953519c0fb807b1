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
    /// Bringing drivers and devices together.
    Devices,
    /// Looking whether the root file system is there.
    Looking,
    /// Waiting for the salvage.
    Gate,
    /// Adding memory.
    Memory,
    /// Clocks, ids and names.
    Clocks,
    /// Limits that depend on the memory.
    Limits,
    /// Writing transactions to journals.
    Journals,
    /// Putting data of files of other processes back.
    DirtyFiles,
}

/// Names for the report, in the order of [`Part`].
const NAMES: [&str; 21] = [
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
    "devices",
    "looking",
    "gate",
    "memory",
    "clocks",
    "limits",
    "journals",
    "dirty files",
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

impl Meter {
    const NEW: Self = Self {
        entries: [Entry { ticks: 0, times: 0 }; NAMES.len()],
        at: Part::Rest,
        since: 0,
    };

    /// Goes over to another part, at a reading of the counter. Returns the part before.
    fn turn_to(&mut self, part: Part, now: u64) -> Part {
        // The first reading is where everything starts.
        if self.since != 0 {
            self.entries[self.at as usize].ticks += now.saturating_sub(self.since);
        }
        self.since = now;
        std::mem::replace(&mut self.at, part)
    }

    fn count(&mut self) {
        self.entries[self.at as usize].times += 1;
    }

    fn costs(&self, tsc_hz: u64) -> Vec<Cost> {
        let nanoseconds = |ticks: u64| {
            let scaled = u128::from(ticks) * 1_000_000_000 / u128::from(tsc_hz.max(1));
            u64::try_from(scaled).unwrap_or(u64::MAX)
        };
        let entries = NAMES.iter().zip(&self.entries).filter(|(_, entry)| entry.ticks != 0);
        let cost = |(name, entry): (&&str, &Entry)| Cost {
            part: (*name).into(),
            times: entry.times,
            nanoseconds: nanoseconds(entry.ticks),
        };
        entries.map(cost).collect()
    }
}

thread_local! {
    static METER: RefCell<Meter> = const { RefCell::new(Meter::NEW) };
}

/// Does `work` as a part of the whole.
pub fn at<T>(part: Part, work: impl FnOnce() -> T) -> T {
    let before = METER.with_borrow_mut(|meter| {
        let before = meter.turn_to(part, tsc());
        meter.count();
        before
    });
    let result = work();
    METER.with_borrow_mut(|meter| meter.turn_to(before, tsc()));
    result
}

/// Forgets what was before.
pub fn begin() {
    METER.with_borrow_mut(|meter| *meter = Meter::NEW);
}

/// What each part has taken so far, with a counter that ticks `tsc_hz` times a second.
pub fn read(tsc_hz: u64) -> Vec<Cost> {
    METER.with_borrow_mut(|meter| {
        meter.turn_to(meter.at, tsc());
        meter.costs(tsc_hz)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_within_another_stops_its_clock() {
        let mut meter = Meter::NEW;
        assert_eq!(meter.turn_to(Part::Files, 1000), Part::Rest);
        meter.count();
        for (start, end) in [(1010, 1050), (1055, 1060)] {
            assert_eq!(meter.turn_to(Part::Adoption, start), Part::Files);
            meter.count();
            assert_eq!(meter.turn_to(Part::Files, end), Part::Adoption);
        }
        meter.turn_to(Part::Rest, 1100);
        let cost = |part: &str, times, nanoseconds| Cost {
            part: part.into(),
            times,
            nanoseconds,
        };
        assert_eq!(
            meter.costs(500_000_000),
            [cost("files", 1, 110), cost("adoption", 2, 90)]
        );
    }
}
