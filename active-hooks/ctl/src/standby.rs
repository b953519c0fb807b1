//! What there is to say about the standby.

use crate::snapshot::Source;
use crate::units::bytes;
use serde_json::{json, Value};
use shared_region::layout::STANDBY_WORDS;
use shared_region::standby::{Missing, StandbyState, StandbyWords};
use std::mem::offset_of;

/// The standby's words at one moment.
#[derive(Clone, Debug)]
pub struct Standby {
    /// None if the word is of another version.
    state: Option<StandbyState>,
    missing: Option<Missing>,
    /// In thousandths.
    put_back: u64,
    image_bytes: [u64; 2],
}

impl Standby {
    /// Reads them.
    pub fn read(source: &impl Source) -> Self {
        let copy = source.copy(STANDBY_WORDS, size_of::<StandbyWords>());
        let word = |offset: usize| {
            let bytes = copy.get(offset..offset + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_le_bytes)
        };
        let images = offset_of!(StandbyWords, image_bytes);
        Self {
            state: StandbyState::from_word(word(offset_of!(StandbyWords, state))),
            missing: Missing::from_word(word(offset_of!(StandbyWords, missing))),
            put_back: word(offset_of!(StandbyWords, put_back)),
            image_bytes: [word(images), word(images + 8)],
        }
    }

    /// For people; none if no standby was asked for.
    pub fn text(&self) -> Option<String> {
        let cold = "the next successor starts cold";
        let state = match self.state? {
            StandbyState::None => format!("none: {}; {cold}", self.reason()?),
            StandbyState::Starting => "is being booted".into(),
            StandbyState::Asleep => "asleep; a failover wakes it".into(),
            StandbyState::Waking => "is being woken".into(),
            StandbyState::Awake => format!("was woken, and is the kernel that runs; {cold}"),
            StandbyState::Failed => format!("failed, `orthros-ctl log` says how; {cold}"),
            StandbyState::PuttingBack => {
                format!(
                    "is being put back, {} % are done; until then {cold}",
                    self.put_back / 10
                )
            }
        };
        let image = |nursery: usize| match self.image_bytes[nursery] {
            0 => format!("none for nursery {nursery}"),
            length => format!("{} for nursery {nursery}", bytes(length)),
        };
        Some(format!("{state}; images: {}, {}", image(0), image(1)))
    }

    fn reason(&self) -> Option<&'static str> {
        Some(match self.missing? {
            Missing::Nothing => return None,
            Missing::NoImage => "none was packed for the reserved nursery, `orthros-ctl log` says why",
            Missing::TooLarge => "its packed image is larger than its room",
            Missing::Damaged => "its packed image was written to",
            Missing::OtherKernel => "another kernel is staged than the one that slept",
        })
    }

    /// Its name in JSON.
    pub fn name(&self) -> Option<&'static str> {
        Some(match self.state? {
            StandbyState::None => "none",
            StandbyState::Starting => "starting",
            StandbyState::Asleep => "asleep",
            StandbyState::Waking => "waking",
            StandbyState::Awake => "awake",
            StandbyState::Failed => "failed",
            StandbyState::PuttingBack => "putting-back",
        })
    }

    /// What stands beside the name in JSON.
    pub fn details(&self) -> Value {
        json!({
            "none_because": self.reason(),
            "put_back": (self.state == Some(StandbyState::PuttingBack)).then_some(self.put_back as f64 / 1000.0),
            "image_bytes": self.image_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fake::Fake;

    fn standby(state: u64, missing: u64, put_back: u64, images: [u64; 2]) -> Standby {
        let mut fake = Fake::default();
        for (offset, value) in [
            (offset_of!(StandbyWords, state), state),
            (offset_of!(StandbyWords, missing), missing),
            (offset_of!(StandbyWords, put_back), put_back),
            (offset_of!(StandbyWords, image_bytes), images[0]),
            (offset_of!(StandbyWords, image_bytes) + 8, images[1]),
        ] {
            fake.set_word(STANDBY_WORDS, offset / 8, value);
        }
        Standby::read(&fake)
    }

    #[test]
    fn one_that_was_not_asked_for_is_not_spoken_of() {
        let standby = Standby::read(&Fake::default());
        assert_eq!((standby.text(), standby.name()), (None, Some("none")));
    }

    #[test]
    fn progress_and_images_are_shown() {
        let standby = standby(6, 0, 374, [23 << 20, 0]);
        assert_eq!(
            standby.text().unwrap(),
            "is being put back, 37 % are done; until then the next successor starts cold; \
             images: 23 MB for nursery 0, none for nursery 1"
        );
        assert_eq!(standby.details()["put_back"], 0.374);
    }

    #[test]
    fn every_state_and_reason_has_words() {
        for state in 1..=6 {
            let standby = standby(state, 0, 0, [1 << 20; 2]);
            assert!(standby.text().is_some() && standby.name().is_some(), "{state}");
        }
        for missing in 1..=4 {
            let text = standby(0, missing, 0, [0; 2]).text().unwrap();
            assert!(text.starts_with("none: ") && text.contains("starts cold"), "{text}");
        }
        assert_eq!(standby(77, 0, 0, [0; 2]).name(), None);
    }
}
