//! Steps of a hand-over at which a test lets a successor fail, and how it fails there.
//!
//! Chosen in the kernel that is to die ([`crate::control::inject::SUCCESSOR_AT`]), kept over its death by the backup OS
//! ([`crate::control::ControlWords::successor_fails_at`]), and carried out by orthros-init, in the first attempt only and only
//! if its module allows tests.

/// Bits of the word that hold the step; [`FailHow`] is in those above.
const STEP_BITS: u32 = 4;
/// Bits of [`FailHow`].
const HOW_BITS: u32 = 2;
/// All bits of the word.
pub const MASK: u64 = (1 << (STEP_BITS + HOW_BITS)) - 1;

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum FailAt {
    /// The gate is open, nothing is touched.
    Gate = 1,
    /// One block of RAM has been added.
    FirstBlock = 2,
    /// All RAM has been added.
    Memory = 3,
    /// The root file system is about to be mounted.
    Mount = 4,
    /// It is mounted.
    Mounted = 5,
    /// Half of the files are put back.
    Files = 6,
    /// One process is built.
    Built = 7,
    /// All are built, none runs.
    AllBuilt = 8,
    /// All have been let go.
    Resumed = 9,
    /// The distribution's init is about to be started.
    Init = 10,
    /// The backup OS knows that everything was taken over, and does not watch yet. The distribution's init waits then.
    Complete = 11,
}

impl FailAt {
    /// All of them, in order, with the name used on command lines.
    pub const ALL: [(Self, &str); 11] = [
        (Self::Gate, "gate"),
        (Self::FirstBlock, "first-block"),
        (Self::Memory, "memory"),
        (Self::Mount, "mount"),
        (Self::Mounted, "mounted"),
        (Self::Files, "files"),
        (Self::Built, "built"),
        (Self::AllBuilt, "all-built"),
        (Self::Resumed, "resumed"),
        (Self::Init, "init"),
        (Self::Complete, "complete"),
    ];

    /// The step of a stored word, `None` for 0 and what is none of ours.
    pub fn from_word(word: u64) -> Option<Self> {
        let mut all = Self::ALL.into_iter().map(|(step, _)| step);
        all.find(|&step| step as u64 == word)
    }

    /// The step of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|&(_, known)| known == name).map(|(step, _)| step)
    }
}

/// How it fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u64)]
pub enum FailHow {
    /// It panics.
    #[default]
    Panic = 0,
    /// Every CPU spins with interrupts off.
    Hang = 1,
    /// orthros-init stands still; the kernel is well.
    Stall = 2,
    /// orthros-init takes [`SLOW_MS`] for the step, shows that it lives, and goes on.
    Slow = 3,
}

/// Milliseconds that [`FailHow::Slow`] takes.
pub const SLOW_MS: u64 = 60_000;

impl FailHow {
    /// All of them, with the name used on command lines.
    pub const ALL: [(Self, &str); 4] = [
        (Self::Panic, "panic"),
        (Self::Hang, "hang"),
        (Self::Stall, "stall"),
        (Self::Slow, "slow"),
    ];

    /// The way of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|&(_, known)| known == name).map(|(how, _)| how)
    }
}

/// The word for a step and a way.
pub const fn word(step: FailAt, how: FailHow) -> u64 {
    step as u64 | (how as u64) << STEP_BITS
}

/// What a word says, `None` for 0 and what is none of ours.
pub fn parse(word: u64) -> Option<(FailAt, FailHow)> {
    let step = FailAt::from_word(word & ((1 << STEP_BITS) - 1))?;
    let mut all = FailHow::ALL.into_iter().map(|(how, _)| how);
    Some((step, all.find(|&how| how as u64 == word >> STEP_BITS)?))
}

#[cfg(test)]
mod tests {
    use super::{parse, word, FailAt, FailHow, MASK};
    use crate::control::inject::{SUCCESSOR_AT, SUCCESSOR_AT_SHIFT};

    #[test]
    fn every_step_has_its_word_and_name_and_fits_its_bits() {
        assert_eq!(SUCCESSOR_AT >> SUCCESSOR_AT_SHIFT, MASK);
        for (index, (step, name)) in FailAt::ALL.into_iter().enumerate() {
            assert_eq!(step as u64, index as u64 + 1);
            assert_eq!(FailAt::from_word(step as u64), Some(step));
            assert_eq!(FailAt::from_name(name), Some(step));
            for (how, name) in FailHow::ALL {
                assert_eq!(parse(word(step, how)), Some((step, how)));
                assert_eq!(word(step, how) & !MASK, 0);
                assert_eq!(FailHow::from_name(name), Some(how));
            }
        }
        assert_eq!(FailAt::from_name("nowhere"), None);
        assert_eq!(FailHow::from_name("somehow"), None);
        for none in [0, 0xF, word(FailAt::Gate, FailHow::Hang) - 1, u64::MAX] {
            assert_eq!(parse(none), None);
        }
    }
}
