//! What is staged, as the region says.

use crate::snapshot::{control, Snapshot, Source};
use crate::units::bytes;
use boot_plan::bzimage;
use serde_json::{json, Value};
use shared_region::layout::{self, STAGE_TABLE, STAGE_WORDS};
use shared_region::stage::{StageState, StageTable, StageWords, StagedKernel, WHY_SIZE};
use std::mem::offset_of;
use zerocopy::FromBytes;

/// Bytes of an image in which its release stands.
const HEAD: usize = 64 << 10;

/// A slot that holds a kernel.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Its number.
    pub index: usize,
    /// What it holds.
    pub staged: StagedKernel,
    /// `uname -r` of its kernel, if its image says so.
    pub release: Option<String>,
    /// Whether a failover starts with it.
    pub next: bool,
    /// Whether the running kernel is from it.
    pub running: bool,
    /// Whether it has failed as a successor.
    pub failed: bool,
}

/// How the backup OS has answered to what was staged last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request it is about.
    pub request: u64,
    /// How far it is; none if the word is of another version.
    pub state: Option<StageState>,
    /// Why it was refused.
    pub why: String,
}

/// The slots that hold a kernel, the one that is next first.
pub fn read(source: &impl Source, snapshot: &Snapshot) -> Vec<Slot> {
    let table = source.copy(STAGE_TABLE, size_of::<StageTable>());
    let Ok((table, _)) = StageTable::read_from_prefix(&table) else {
        return Vec::new();
    };
    let running = control!(snapshot, successor_slot);
    let mut slots: Vec<Slot> = table
        .slots
        .iter()
        .enumerate()
        .filter(|(_, staged)| staged.valid == 1)
        .map(|(index, staged)| Slot {
            index,
            staged: *staged,
            release: bzimage::release(&source.copy(layout::staged_slot(index), HEAD)).map(str::to_owned),
            next: table.current == index as u64,
            running: running == index as u64,
            failed: table.failed[index] != 0,
        })
        .collect();
    slots.sort_by_key(|slot| !slot.next);
    slots
}

/// `uname -r` of the kernel that takes over next, if there is one and its image says so.
pub fn next_release(source: &impl Source) -> Option<String> {
    let table = source.copy(STAGE_TABLE, size_of::<StageTable>());
    let (table, _) = StageTable::read_from_prefix(&table).ok()?;
    let index = usize::try_from(table.current).ok()?;
    let valid = table.slots.get(index).is_some_and(|staged| staged.valid == 1);
    let head = source.copy(layout::staged_slot(index), HEAD);
    bzimage::release(&head).filter(|_| valid).map(str::to_owned)
}

/// Reads the answer.
pub fn answer(source: &impl Source) -> Answer {
    let bytes = source.copy(STAGE_WORDS, size_of::<StageWords>());
    let word = |at: usize| {
        let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    let why = offset_of!(StageWords, why);
    let text = bytes.get(why..why + WHY_SIZE).unwrap_or_default();
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    Answer {
        request: word(offset_of!(StageWords, answered)),
        state: StageState::from_word(word(offset_of!(StageWords, state))),
        why: String::from_utf8_lossy(&text[..end]).into_owned(),
    }
}

impl Slot {
    /// For people.
    pub fn text(&self) -> String {
        let mut marks = Vec::new();
        if self.next {
            marks.push("takes over next");
        }
        if self.running {
            marks.push("runs now");
        }
        if self.failed {
            marks.push("has failed as a successor");
        }
        let marks = marks.iter().map(|mark| format!(", {mark}")).collect::<String>();
        format!(
            "{} in slot {}{marks}; kernel of {}, initramfs of {}, `{}`",
            self.release.as_deref().unwrap_or("a kernel that does not say which"),
            self.index,
            bytes(self.staged.kernel_len),
            bytes(self.staged.initramfs_len),
            String::from_utf8_lossy(self.staged.cmdline())
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "slot": self.index,
            "release": self.release,
            "next": self.next,
            "running": self.running,
            "failed": self.failed,
            "kernel_bytes": self.staged.kernel_len,
            "initramfs_bytes": self.staged.initramfs_len,
            "command_line": String::from_utf8_lossy(self.staged.cmdline()),
        })
    }
}

/// How ready the staged kernel is, in words.
pub fn state_text(answer: &Answer) -> Option<String> {
    Some(match answer.state? {
        StageState::None => return None,
        StageState::Checking => "is being checked".into(),
        StageState::Placed => "in its place, being unpacked".into(),
        StageState::Ready => "ready".into(),
        StageState::Refused => format!("what was staged last was refused: {}", answer.why),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fake::Fake;
    use shared_region::control::ControlWords;

    #[test]
    fn slots_are_shown_with_what_they_are_for() {
        let mut fake = Fake::armed();
        let table = size_of::<StagedKernel>() / 8;
        fake.set_word(STAGE_TABLE, 0, 1);
        for slot in [0, 1] {
            fake.set_word(STAGE_TABLE, 1 + slot * table, 1);
            fake.set_word(STAGE_TABLE, 1 + slot * table + 2, 10 << 20);
        }
        fake.set_word(STAGE_TABLE, 1 + 2 * table, 1);
        fake.set_control(offset_of!(ControlWords, successor_slot), 0);
        let slots = read(&fake, &Snapshot::take(&fake));
        let texts: Vec<String> = slots.iter().map(Slot::text).collect();
        assert_eq!(
            texts,
            [
                "a kernel that does not say which in slot 1, takes over next; kernel of 10 MB, initramfs of 0 KB, ``",
                "a kernel that does not say which in slot 0, runs now, has failed as a successor; kernel of 10 MB, initramfs of 0 KB, ``",
            ]
        );
        assert_eq!(slots[0].json()["next"], true);
    }

    #[test]
    fn a_refusal_says_why() {
        let mut fake = Fake::default();
        assert_eq!(state_text(&answer(&fake)), None);
        fake.set_word(STAGE_WORDS, 1, 7);
        fake.set_word(STAGE_WORDS, 2, StageState::Refused as u64);
        fake.set_word(STAGE_WORDS, 3, u64::from_le_bytes(*b"digest\0\0"));
        assert_eq!(answer(&fake).request, 7);
        assert_eq!(
            state_text(&answer(&fake)).as_deref(),
            Some("what was staged last was refused: digest")
        );
    }
}
