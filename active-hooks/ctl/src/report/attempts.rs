//! The successors that were tried in a failover.

use crate::snapshot::Source;
use serde_json::{json, Value};
use shared_region::attempts::{Attempt, AttemptWords, End, MAX};
use shared_region::control::{CommitPoint, SuccessorPhase};
use shared_region::layout::ATTEMPTS;
use std::mem::{offset_of, size_of};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Staged-kernel slot.
    pub slot: u64,
    /// Whether it was woken from its sleep.
    pub woken: bool,
    /// How it ended; none if the word is of another version.
    pub end: Option<End>,
    /// How far it had come.
    pub phase: Option<SuccessorPhase>,
    /// What it had done that cannot be taken back.
    pub level: Option<CommitPoint>,
}

/// Reads them. Those for which there was no room are left out.
pub fn read(source: &impl Source) -> Vec<Tried> {
    let bytes = source.copy(ATTEMPTS, size_of::<AttemptWords>());
    let word = |at: usize| {
        let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    let count = usize::try_from(word(offset_of!(AttemptWords, count))).map_or(MAX, |count| count.min(MAX));
    (0..count)
        .map(|index| {
            let at = |offset: usize| word(offset_of!(AttemptWords, list) + index * size_of::<Attempt>() + offset);
            Tried {
                slot: at(offset_of!(Attempt, slot)),
                woken: at(offset_of!(Attempt, woken)) == 1,
                end: End::from_word(at(offset_of!(Attempt, end))),
                phase: SuccessorPhase::from_word(at(offset_of!(Attempt, phase))),
                level: CommitPoint::from_word(word(offset_of!(AttemptWords, levels) + 8 * index)),
            }
        })
        .collect()
}

/// Whether the epitaph was written in the life of the machine before this one.
pub fn epitaph_is_old(source: &impl Source) -> bool {
    let at = offset_of!(AttemptWords, old_epitaph);
    let bytes = source.copy(ATTEMPTS, at + 8);
    bytes.get(at).is_some_and(|&byte| byte == 1)
}

impl Tried {
    /// For people.
    pub fn text(&self) -> String {
        let how = if self.woken { "woken" } else { "booted" };
        let end = self.end.map_or("ended in a way this program does not know", End::text);
        let level = match (self.end, self.level) {
            (Some(End::TookOver | End::Going), _) | (_, None | Some(CommitPoint::Open)) => String::new(),
            (_, Some(level)) => format!(", {}", level.text()),
        };
        let phase = match (self.end, self.phase) {
            (Some(End::TookOver | End::Going | End::NotPlaced | End::NotEntered | End::Damaged), _) | (_, None) => "",
            (_, Some(SuccessorPhase::None)) => " before its module was loaded",
            (_, Some(_)) => " after its module was loaded",
        };
        format!("the kernel of slot {}, {how}: {end}{phase}{level}", self.slot)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "slot": self.slot,
            "woken": self.woken,
            "end": self.end.map(|end| format!("{end:?}")),
            "phase": self.phase.map(|phase| format!("{phase:?}").to_lowercase()),
            "level": self.level.map(|level| format!("{level:?}").to_lowercase()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fake::Fake;

    #[test]
    fn attempts_are_read_and_absurd_numbers_bounded() {
        let mut fake = Fake::default();
        assert!(read(&fake).is_empty() && !epitaph_is_old(&fake));
        // count; slot, woken, end, phase, begun, ended
        for (at, value) in [
            2,
            0,
            0,
            End::Panicked as u64,
            1,
            10,
            20,
            1,
            0,
            End::TookOver as u64,
            5,
            30,
            40,
        ]
        .into_iter()
        .enumerate()
        {
            fake.set_word(ATTEMPTS, at, value);
        }
        let levels = offset_of!(AttemptWords, levels) / 8;
        fake.set_word(ATTEMPTS, levels, CommitPoint::Disks as u64);
        fake.set_word(ATTEMPTS, levels + 1, CommitPoint::Processes as u64);
        let texts: Vec<String> = read(&fake).iter().map(Tried::text).collect();
        assert_eq!(
            texts,
            [
                "the kernel of slot 0, booted: panicked after its module was loaded, having written to disks",
                "the kernel of slot 1, booted: took over"
            ]
        );
        fake.set_word(ATTEMPTS, 0, u64::MAX);
        fake.set_word(ATTEMPTS, offset_of!(AttemptWords, old_epitaph) / 8, 1);
        assert_eq!(read(&fake).len(), MAX);
        assert!(epitaph_is_old(&fake));
    }
}
