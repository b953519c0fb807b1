//! Whether a large piece of memory is still as it was, chunk by chunk: a digest over the pages that held something, and
//! for the others, which are most of a small kernel's memory, that they are still zero. The latter takes a fraction of
//! the time.

use crate::digest;
use alloc::vec::Vec;
use core::ops::Range;

/// Bytes in a page.
pub const PAGE: usize = shared_region::PAGE_SIZE as usize;
/// Pages in a chunk.
pub const CHUNK_PAGES: usize = 16;
/// Bytes in a chunk; the last one of a piece may be shorter.
pub const CHUNK: usize = CHUNK_PAGES * PAGE;

/// Whether a page holds nothing.
pub fn is_zero(page: &[u8]) -> bool {
    let or = |all: u64, word: &[u8]| all | word.try_into().map_or(0, u64::from_le_bytes);
    page.chunks_exact(128).all(|line| line.chunks_exact(8).fold(0, or) == 0)
        && page.chunks_exact(128).remainder().iter().all(|&byte| byte == 0)
}

/// What a chunk held at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// A bit for each page, in order: 1 if it held anything.
    used: u16,
    /// Over the pages that did.
    digest: u64,
}

impl Chunk {
    /// Looks at a chunk.
    pub fn of(bytes: &[u8]) -> Self {
        let mut chunk = Self {
            used: 0,
            digest: digest::start(),
        };
        for (number, page) in bytes.chunks(PAGE).take(CHUNK_PAGES).enumerate() {
            if !is_zero(page) {
                chunk.digest = digest::extend(chunk.digest, page);
                chunk.used |= 1 << number;
            }
        }
        chunk
    }

    /// Whether the chunk holds the same still.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut sum = digest::start();
        for (number, page) in bytes.chunks(PAGE).enumerate() {
            if self.holds(number) {
                sum = digest::extend(sum, page);
            } else if !is_zero(page) {
                return false;
            }
        }
        sum == self.digest
    }

    /// Whether these are the pages that held something, one after another.
    pub fn is_of(&self, pages: &[u8]) -> bool {
        let sum = pages.chunks(PAGE).fold(digest::start(), digest::extend);
        pages.len() == self.pages() * PAGE && sum == self.digest
    }

    /// Whether a page held something.
    pub const fn holds(&self, number: usize) -> bool {
        number < CHUNK_PAGES && self.used >> number & 1 == 1
    }

    /// Pages that held something.
    pub const fn pages(&self) -> usize {
        self.used.count_ones() as usize
    }

    /// The digest over these pages, one after another.
    pub const fn digest(&self) -> u64 {
        self.digest
    }
}

/// Pieces of memory, cut into chunks: where they lie, not what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces {
    /// Start and bytes of each chunk.
    chunks: Vec<(u64, u64)>,
}

impl Pieces {
    /// Pieces by start and length in bytes.
    pub fn new(pieces: &[(u64, u64)]) -> Self {
        let mut chunks = Vec::new();
        for &(start, length) in pieces {
            for at in (0..length).step_by(CHUNK) {
                chunks.push((start + at, (length - at).min(CHUNK as u64)));
            }
        }
        Self { chunks }
    }

    /// Chunks in all of them together.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Start and bytes of a chunk.
    pub fn chunk(&self, number: usize) -> Option<(u64, u64)> {
        self.chunks.get(number).copied()
    }
}

/// What memory held at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    chunks: Vec<Chunk>,
}

impl Fingerprint {
    /// Looks at every chunk of some pieces; `memory` gives the bytes from a start on.
    pub fn of<'a>(pieces: &Pieces, memory: impl Fn(u64, u64) -> &'a [u8]) -> Self {
        let numbers = 0..pieces.chunks();
        let places = numbers.filter_map(|number| pieces.chunk(number));
        Self {
            chunks: places.map(|(start, length)| Chunk::of(memory(start, length))).collect(),
        }
    }

    /// The first of a range of chunks that does not hold the same any more.
    pub fn changed<'a>(
        &self,
        range: Range<usize>,
        pieces: &Pieces,
        memory: impl Fn(u64, u64) -> &'a [u8],
    ) -> Option<(u64, u64)> {
        let mut places = range.map(|number| (self.chunks.get(number), pieces.chunk(number)));
        places.find_map(|(chunk, place)| match (chunk, place) {
            (Some(chunk), Some((start, length))) if chunk.matches(memory(start, length)) => None,
            (_, place) => Some(place.unwrap_or_default()),
        })
    }

    /// What a chunk held.
    pub fn chunk(&self, number: usize) -> Option<&Chunk> {
        self.chunks.get(number)
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether nothing was looked at.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Pages that held something.
    pub fn pages(&self) -> usize {
        self.chunks.iter().map(Chunk::pages).sum()
    }

    /// One digest over everything, for the log.
    pub fn digest(&self) -> u64 {
        let words = self
            .chunks
            .iter()
            .flat_map(|chunk| [u64::from(chunk.used), chunk.digest]);
        words.fold(digest::start(), |sum, word| digest::extend(sum, &word.to_le_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Chunk, Fingerprint, Pieces, CHUNK, PAGE};
    use alloc::vec;
    use alloc::vec::Vec;

    /// Memory from address 0 on: two pieces with a gap of a page between them.
    fn memory() -> (Vec<u8>, Pieces) {
        let mut memory = vec![0; 104 * PAGE];
        memory[3 * PAGE + 17] = 1;
        memory[70 * PAGE..71 * PAGE].fill(0xA5);
        memory[101 * PAGE..].fill(7);
        (
            memory,
            Pieces::new(&[(0, 100 * PAGE as u64), (101 * PAGE as u64, 3 * PAGE as u64)]),
        )
    }

    fn at<'a>(memory: &'a [u8]) -> impl Fn(u64, u64) -> &'a [u8] {
        |start, length| &memory[start as usize..][..length as usize]
    }

    #[test]
    fn pieces_are_cut_without_rest() {
        let (_, pieces) = memory();
        assert_eq!(pieces.chunks(), 8);
        let places: Vec<_> = (0..8).map(|number| pieces.chunk(number).unwrap()).collect();
        assert_eq!(places[6], (6 * CHUNK as u64, 4 * PAGE as u64));
        assert_eq!(places[7], (101 * PAGE as u64, 3 * PAGE as u64));
        assert_eq!(pieces.chunk(8), None);
        let bytes: u64 = places.iter().map(|place| place.1).sum();
        assert_eq!(bytes, 103 * PAGE as u64);
    }

    #[test]
    fn what_is_unchanged_matches() {
        let (memory, pieces) = memory();
        let print = Fingerprint::of(&pieces, at(&memory));
        assert_eq!((print.pages(), print.len()), (5, 8));
        assert_eq!(print.changed(0..8, &pieces, at(&memory)), None);
    }

    #[test]
    fn a_change_in_any_page_is_found_in_its_chunk() {
        let (memory, pieces) = memory();
        let print = Fingerprint::of(&pieces, at(&memory));
        for page in (0..100).chain(101..104) {
            for offset in [0, PAGE / 2 + 3, PAGE - 1] {
                let mut memory = memory.clone();
                memory[page * PAGE + offset] ^= 0x10;
                let found = print.changed(0..8, &pieces, at(&memory)).unwrap();
                let place = (page * PAGE) as u64;
                assert!(
                    (found.0..found.0 + found.1).contains(&place),
                    "page {page} byte {offset}"
                );
            }
        }
    }

    #[test]
    fn the_page_between_does_not_count() {
        let (mut memory, pieces) = memory();
        let print = Fingerprint::of(&pieces, at(&memory));
        memory[100 * PAGE] = 1;
        assert_eq!(print.changed(0..8, &pieces, at(&memory)), None);
    }

    #[test]
    fn more_chunks_than_were_looked_at_do_not_match() {
        let (memory, pieces) = memory();
        let print = Fingerprint::of(&pieces, at(&memory));
        assert!(print.changed(0..9, &pieces, at(&memory)).is_some());
        assert!(Fingerprint::default().changed(0..1, &pieces, at(&memory)).is_some());
    }

    #[test]
    fn which_pages_are_used_is_part_of_the_digest() {
        let mut first = vec![0; CHUNK];
        let mut second = first.clone();
        first[0] = 1;
        second[PAGE] = 1;
        let (first, second) = (Chunk::of(&first), Chunk::of(&second));
        assert_eq!(first.digest(), second.digest());
        let digest = |chunk| Fingerprint { chunks: vec![chunk] }.digest();
        assert_ne!(digest(first), digest(second));
    }
}
