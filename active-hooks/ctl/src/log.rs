//! `orthros-ctl log`.

use crate::exit::Exit;
use crate::snapshot::{open_region, Source};
use anyhow::{ensure, Result};
use shared_region::layout::{Part, EPITAPH, LOG};
use shared_region::log_ring::{unroll, HEADER_SIZE};
use std::io::Write;

/// The text of a ring, oldest first. Bytes that were overwritten while it was copied are left out.
pub fn text(source: &impl Source, part: Part) -> Vec<u8> {
    let word = |bytes: &[u8]| {
        bytes
            .get(..8)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    let bytes = source.copy(part, part.size as usize);
    let written = word(&bytes);
    let capacity = usize::try_from(word(bytes.get(8..).unwrap_or_default())).unwrap_or(0);
    let room = bytes.get(HEADER_SIZE..).unwrap_or_default();
    let area = room.get(..capacity).unwrap_or(room);
    let text = unroll(area, written);
    let after = word(&source.copy(part, 8));
    let lost = usize::try_from(after.saturating_sub(written)).unwrap_or(usize::MAX);
    let full = written > area.len() as u64;
    let start = if full { lost.min(text.len()) } else { 0 };
    text[start..].to_vec()
}

/// Prints the log, or the epitaph.
pub fn run(epitaph: bool) -> Result<Exit> {
    let (_device, region) = open_region()?;
    let text = text(&region, if epitaph { EPITAPH } else { LOG });
    if epitaph {
        ensure!(
            !text.is_empty(),
            "there is no epitaph: the backup OS has never given this machine up"
        );
    }
    std::io::stdout().write_all(&text)?;
    Ok(Exit::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fake::Fake;

    #[test]
    fn the_ring_is_read_oldest_first() {
        let mut fake = Fake::default();
        fake.set_word(LOG, 0, 11);
        fake.set_word(LOG, 1, 8);
        fake.set_word(LOG, 8, u64::from_le_bytes(*b"89Adefgh"));
        assert_eq!(text(&fake, LOG), b"defgh89A");
    }

    #[test]
    fn an_absurd_capacity_is_bounded_by_the_part() {
        let mut fake = Fake::default();
        fake.set_word(LOG, 0, 3);
        fake.set_word(LOG, 1, u64::MAX);
        fake.set_word(LOG, 8, u64::from_le_bytes(*b"abcdefgh"));
        assert_eq!(text(&fake, LOG), b"abc");
    }
}
