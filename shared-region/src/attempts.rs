//! Attempts at a successor within one failover, for the report and the epitaph.
//!
//! Until a restored process runs ([`crate::control::CommitPoint`]) a successor that fails is stopped and another one takes
//! its place; each is an attempt. Writer: the backup OS, which clears the words when it detects the next failure; the
//! count is written last. Release.

use core::sync::atomic::AtomicU64;

/// How an attempt ended; [`Attempt::end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum End {
    /// It has not.
    Going = 0,
    /// The successor has taken over.
    TookOver = 1,
    /// Its images are damaged, missing, or cannot be booted on this machine: it was not entered.
    NotPlaced = 2,
    /// The bootstrap processor did not get into it.
    NotEntered = 3,
    /// It did not report in within its time.
    NotInTime = 4,
    /// It panicked and said so.
    Panicked = 5,
    /// It asked for a reset of the machine: what a kernel does that panics before its module is loaded.
    AskedForReset = 6,
    /// It reported in, and showed no sign of life after that.
    Silent = 7,
    /// It was in one phase for too long.
    TooLong = 8,
    /// It was to be woken, and its memory had been written to.
    Damaged = 9,
}

impl End {
    /// All of them, with how reports say it.
    pub const ALL: [(Self, &str); 10] = [
        (Self::Going, "is under way"),
        (Self::TookOver, "took over"),
        (Self::NotPlaced, "could not be put in place"),
        (Self::NotEntered, "could not be entered"),
        (Self::NotInTime, "did not report in time"),
        (Self::Panicked, "panicked"),
        (Self::AskedForReset, "asked for a reset of the machine"),
        (Self::Silent, "stopped moving"),
        (Self::TooLong, "did not go on in time"),
        (Self::Damaged, "had been written to"),
    ];

    /// The end for a stored word, if it is one of ours.
    pub fn from_word(word: u64) -> Option<Self> {
        let mut all = Self::ALL.into_iter().map(|(end, _)| end);
        all.find(|&end| end as u64 == word)
    }

    /// As reports say it, behind "the successor".
    pub fn text(self) -> &'static str {
        let mut all = Self::ALL.into_iter();
        all.find(|&(end, _)| end == self).map_or("", |(_, text)| text)
    }
}

/// One attempt.
#[derive(Debug)]
#[repr(C)]
pub struct Attempt {
    /// Staged-kernel slot of the successor.
    pub slot: AtomicU64,
    /// 1 if it was woken from its sleep, 0 if it was booted.
    pub woken: AtomicU64,
    /// [`End`].
    pub end: AtomicU64,
    /// How far it had come then: [`crate::control::SuccessorPhase`].
    pub phase: AtomicU64,
    /// Time-stamp counter when it was begun.
    pub begun: AtomicU64,
    /// Time-stamp counter when it ended, 0 while it has not.
    pub ended: AtomicU64,
}

/// Attempts that are kept.
pub const MAX: usize = 8;

/// The words, at [`crate::layout::ATTEMPTS`].
#[derive(Debug)]
#[repr(C)]
pub struct AttemptWords {
    /// Attempts in the failover.
    pub count: AtomicU64,
    /// The first of them.
    pub list: [Attempt; MAX],
    /// 1 if the epitaph is of an earlier life of the machine. Writer: the loader; the backup OS clears it when it writes
    /// one.
    pub old_epitaph: AtomicU64,
    /// How far each attempt had gone when it ended: [`crate::control::CommitPoint`]. Written before the next one begins.
    pub levels: [AtomicU64; MAX],
    /// The first so many attempts are of failovers before: of successors that failed with processes in them before they had
    /// taken over everything.
    pub inherited: AtomicU64,
}

const _: () = assert!(core::mem::size_of::<AttemptWords>() <= crate::layout::ATTEMPTS.size as usize);

#[cfg(test)]
mod tests {
    use super::End;

    #[test]
    fn every_end_has_its_word_and_text() {
        for (index, (end, text)) in End::ALL.into_iter().enumerate() {
            assert_eq!(end as u64, index as u64);
            assert_eq!(End::from_word(index as u64), Some(end));
            assert_eq!(end.text(), text);
        }
        assert_eq!(End::from_word(End::ALL.len() as u64), None);
    }
}
