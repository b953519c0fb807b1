//! Whether a large piece of memory is still as it was: a digest over the pages that held something, and for the others,
//! which are most of a small kernel's memory, that they are still zero. The latter takes a fraction of the time.

use crate::digest;
use alloc::vec::Vec;

const PAGE: usize = shared_region::PAGE_SIZE as usize;

/// What memory held at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// A bit for each page, in order: 1 if it held anything.
    used: Vec<u64>,
    /// Over the pages that did.
    digest: u64,
}

fn is_zero(page: &[u8]) -> bool {
    let or = |all: u64, word: &[u8]| all | word.try_into().map_or(0, u64::from_le_bytes);
    page.chunks_exact(64).all(|line| line.chunks_exact(8).fold(0, or) == 0)
        && page.chunks_exact(64).remainder().iter().all(|&byte| byte == 0)
}

impl Fingerprint {
    /// Looks at pieces of memory, each a whole number of pages.
    pub fn of(pieces: &[&[u8]]) -> Self {
        let mut used = Vec::new();
        let mut sum = digest::start();
        for (number, page) in pieces.iter().flat_map(|piece| piece.chunks(PAGE)).enumerate() {
            if number % 64 == 0 {
                used.push(0);
            }
            if !is_zero(page) {
                sum = digest::extend(sum, page);
                if let Some(word) = used.last_mut() {
                    *word |= 1 << (number % 64);
                }
            }
        }
        Self { used, digest: sum }
    }

    /// Whether the same pieces hold the same still.
    pub fn matches(&self, pieces: &[&[u8]]) -> bool {
        let mut sum = digest::start();
        let mut pages = pieces.iter().flat_map(|piece| piece.chunks(PAGE));
        for &word in &self.used {
            for (bit, page) in pages.by_ref().take(64).enumerate() {
                if word >> bit & 1 == 1 {
                    sum = digest::extend(sum, page);
                } else if !is_zero(page) {
                    return false;
                }
            }
        }
        pages.next().is_none() && sum == self.digest
    }

    /// Pages that held something.
    pub fn pages(&self) -> u64 {
        self.used.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The digest, for the log.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::{Fingerprint, PAGE};
    use alloc::vec;
    use alloc::vec::Vec;

    fn memory() -> (Vec<u8>, Vec<u8>) {
        let mut large = vec![0; 100 * PAGE];
        large[3 * PAGE + 17] = 1;
        large[70 * PAGE..71 * PAGE].fill(0xA5);
        (large, vec![7; 3 * PAGE])
    }

    #[test]
    fn what_is_unchanged_matches() {
        let (large, small) = memory();
        let print = Fingerprint::of(&[&large, &small]);
        assert_eq!(print.pages(), 5);
        assert!(print.matches(&[&large, &small]));
    }

    #[test]
    fn a_change_in_any_page_is_found() {
        let (large, small) = memory();
        let print = Fingerprint::of(&[&large, &small]);
        for page in 0..103 {
            for at in [0, PAGE / 2 + 3, PAGE - 1] {
                let (mut large, mut small) = (large.clone(), small.clone());
                let byte = match page {
                    0..100 => &mut large[page * PAGE + at],
                    _ => &mut small[(page - 100) * PAGE + at],
                };
                *byte ^= 0x10;
                assert!(!print.matches(&[&large, &small]), "page {page} byte {at}");
            }
        }
    }

    #[test]
    fn other_pieces_do_not_match() {
        let (large, small) = memory();
        let print = Fingerprint::of(&[&large, &small]);
        assert!(!print.matches(&[&large]));
        assert!(!print.matches(&[&large, &small, &small]));
        assert!(!print.matches(&[&small, &large]));
    }
}
