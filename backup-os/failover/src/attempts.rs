//! Which successor is tried, and which one after it has failed.
//!
//! Until a restored process runs, what was salvaged is whole, and a successor that fails is replaced: a standby by the same
//! kernel started cold, and that by the last good kernel. If that fails too, the machine is given up.

use crate::life::Start;
use shared_region::control::CommitPoint;
use shared_region::stage::StageTable;

/// Whether a successor that has failed with this in the word `commit_point` may be replaced: how far it had gone, `None` if
/// processes run in it, or the word is none of ours.
pub fn replaceable(word: u64) -> Option<CommitPoint> {
    match CommitPoint::from_word(word)? {
        CommitPoint::Processes => None,
        // Nobody but the asker revokes; it was before the successor could go anywhere.
        CommitPoint::Revoked => Some(CommitPoint::Open),
        level => Some(level),
    }
}

/// The furthest of these levels; what is none of ours could be anything.
pub fn furthest(words: impl Iterator<Item = u64>) -> CommitPoint {
    let level = |word| match CommitPoint::from_word(word) {
        Some(CommitPoint::Revoked) => CommitPoint::Open,
        Some(level) => level,
        None => CommitPoint::Processes,
    };
    // Revoked aside, the values grow with the levels.
    words
        .map(level)
        .max_by_key(|&level| level as u64)
        .unwrap_or(CommitPoint::Open)
}

/// What can be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Staged-kernel slot (0 or 1).
    pub slot: usize,
    /// How it starts.
    pub start: Start,
}

/// What the stage table and the control words say of the slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// The one the next successor is to come from.
    pub current: usize,
    /// The one the dead kernel came from, if it was in one: a kernel that has run on this machine.
    pub running: Option<usize>,
    /// Which hold a kernel.
    pub filled: [bool; 2],
    /// Which have failed as a successor.
    pub failed: [bool; 2],
}

impl Slots {
    /// Reads the table; `running` is the control word `successor_slot`.
    pub fn read(table: &StageTable, running: u64) -> Self {
        Self {
            current: (table.current & 1) as usize,
            running: match running {
                0 => Some(0),
                1 => Some(1),
                _ => None,
            },
            filled: table.slots.map(|slot| slot.valid == 1),
            failed: table.failed.map(|word| word != 0),
        }
    }

    /// The kernel to go back to when the one of `slot` has failed: the last one that ran, else any other, else the same
    /// again, for it may have been chance.
    pub fn after(&self, slot: usize) -> usize {
        let usable = |other: usize| other != slot && self.filled[other] && !self.failed[other];
        match self.running {
            Some(running) if running < 2 && usable(running) => running,
            _ if usable(1 - slot) => 1 - slot,
            _ => slot,
        }
    }
}

/// The attempts of one failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    slots: Slots,
    last: Option<Candidate>,
    cold: u32,
}

/// Kernels that are booted before the machine is given up.
const COLD_ATTEMPTS: u32 = 2;

impl Attempts {
    /// At the failure.
    pub fn new(slots: Slots) -> Self {
        Self {
            slots,
            last: None,
            cold: 0,
        }
    }

    /// What is tried next; `standby` is the slot of a kernel that sleeps and can be woken. `None` when the machine is to
    /// be given up.
    pub fn next(&mut self, standby: Option<usize>) -> Option<Candidate> {
        let next = match (self.last, standby) {
            (None, Some(slot)) => Candidate {
                slot: slot & 1,
                start: Start::Standby,
            },
            _ if self.cold == COLD_ATTEMPTS => return None,
            (None, None) => Candidate {
                slot: self.slots.current & 1,
                start: Start::Cold,
            },
            // What kept a standby from waking need not keep the same kernel from booting.
            (Some(last), _) if last.start == Start::Standby => Candidate {
                slot: last.slot,
                start: Start::Cold,
            },
            (Some(last), _) => Candidate {
                slot: self.slots.after(last.slot),
                start: Start::Cold,
            },
        };
        self.cold += u32::from(next.start == Start::Cold);
        self.last = Some(next);
        Some(next)
    }

    /// Whether the machine is given up when the attempt under way fails.
    pub fn is_last(&self) -> bool {
        self.cold == COLD_ATTEMPTS
    }
}

#[cfg(test)]
mod tests {
    use super::{furthest, replaceable, Attempts, Candidate, Slots};
    use crate::life::Start;
    use shared_region::control::CommitPoint::{self, Disks, Memory, Open, Processes, Revoked};

    fn all(slots: Slots, standby: Option<usize>) -> alloc::vec::Vec<(usize, Start)> {
        let mut attempts = Attempts::new(slots);
        core::iter::from_fn(|| attempts.next(standby))
            .map(|Candidate { slot, start }| (slot, start))
            .take(10)
            .collect()
    }

    const BOTH: Slots = Slots {
        current: 0,
        running: Some(1),
        filled: [true, true],
        failed: [false, false],
    };

    #[test]
    fn the_last_good_kernel_follows_the_staged_one() {
        assert_eq!(all(BOTH, None), [(0, Start::Cold), (1, Start::Cold)]);
        let other_way = Slots {
            current: 1,
            running: Some(0),
            ..BOTH
        };
        assert_eq!(all(other_way, None), [(1, Start::Cold), (0, Start::Cold)]);
    }

    #[test]
    fn a_standby_is_followed_by_its_own_kernel_started_cold() {
        let expected = [(0, Start::Standby), (0, Start::Cold), (1, Start::Cold)];
        assert_eq!(all(BOTH, Some(0)), expected);
    }

    #[test]
    fn a_kernel_that_runs_from_the_staged_slot_is_followed_by_the_other_one() {
        let same = Slots {
            running: Some(0),
            ..BOTH
        };
        assert_eq!(all(same, None), [(0, Start::Cold), (1, Start::Cold)]);
    }

    #[test]
    fn without_another_kernel_the_same_is_tried_twice() {
        for slots in [
            Slots {
                filled: [true, false],
                running: None,
                ..BOTH
            },
            Slots {
                failed: [false, true],
                ..BOTH
            },
        ] {
            assert_eq!(all(slots, None), [(0, Start::Cold), (0, Start::Cold)]);
        }
    }

    #[test]
    fn a_successor_is_replaced_until_processes_run_in_it() {
        for level in [Open, Memory, Disks] {
            assert_eq!(replaceable(level as u64), Some(level));
        }
        assert_eq!(replaceable(Revoked as u64), Some(Open));
        assert_eq!(replaceable(Processes as u64), None);
        assert_eq!(replaceable(99), None);
    }

    #[test]
    fn the_furthest_level_counts_whoever_reached_it() {
        let of = |words: &[CommitPoint]| furthest(words.iter().map(|&word| word as u64));
        assert_eq!(of(&[]), Open);
        assert_eq!(of(&[Memory, Revoked]), Memory);
        assert_eq!(of(&[Disks, Memory, Open]), Disks);
        assert_eq!(furthest([1, 77].into_iter()), Processes);
    }

    #[test]
    fn the_last_attempt_is_known_as_such() {
        let mut attempts = Attempts::new(BOTH);
        attempts.next(Some(0));
        assert!(!attempts.is_last());
        attempts.next(None);
        assert!(!attempts.is_last());
        attempts.next(None);
        assert!(attempts.is_last());
        assert_eq!(attempts.next(None), None);
    }
}
