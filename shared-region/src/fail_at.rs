//! Steps of a hand-over at which a test lets a successor panic.
//!
//! Chosen in the kernel that is to die ([`crate::control::inject::SUCCESSOR_AT`]), kept over its death by the backup OS
//! ([`crate::control::ControlWords::successor_fails_at`]), and carried out by orthros-init, in the first attempt only and only
//! if its module allows tests.

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
}

impl FailAt {
    /// All of them, in order, with the name used on command lines.
    pub const ALL: [(Self, &str); 10] = [
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

#[cfg(test)]
mod tests {
    use super::FailAt;
    use crate::control::inject::{SUCCESSOR_AT, SUCCESSOR_AT_SHIFT};

    #[test]
    fn every_step_has_its_word_and_name_and_fits_its_bits() {
        for (index, (step, name)) in FailAt::ALL.into_iter().enumerate() {
            assert_eq!(step as u64, index as u64 + 1);
            assert_eq!(FailAt::from_word(step as u64), Some(step));
            assert_eq!(FailAt::from_name(name), Some(step));
            assert!(step as u64 <= SUCCESSOR_AT >> SUCCESSOR_AT_SHIFT);
        }
        assert_eq!(FailAt::from_word(0), None);
        assert_eq!(FailAt::from_name("nowhere"), None);
    }
}
