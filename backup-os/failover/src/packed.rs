//! Packed chunks of memory: the pages that hold something, one after another, in one block of lz4 (its block format), or
//! as they are where that would not make them smaller.
//!
//! What is packed carries no description of its own: its [`Chunk`] says which pages are in it, and the digest over them
//! tells whether they are the right ones.

use crate::fingerprint::{is_zero, Chunk, CHUNK, PAGE};
use alloc::vec;
use alloc::vec::Vec;
use lz4_flex::block::{compress_into_with_table, decompress_into, CompressTable};

/// Why a chunk cannot be packed or unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackError {
    /// It does not fit into the room that is left.
    Full,
    /// The memory does not hold what it held.
    Changed,
    /// What was packed does not unpack to what the chunk held.
    Damaged,
}

impl core::fmt::Display for PackError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Full => "it does not fit into its room",
            Self::Changed => "it was written to while it was being packed",
            Self::Damaged => "the packed image is damaged",
        })
    }
}

impl core::error::Error for PackError {}

/// Packs chunks.
pub struct Packer {
    table: CompressTable,
    pages: Vec<u8>,
    packed: Vec<u8>,
}

impl Default for Packer {
    fn default() -> Self {
        Self {
            table: CompressTable::large(),
            pages: vec![0; CHUNK],
            packed: vec![0; lz4_flex::block::get_maximum_output_size(CHUNK)],
        }
    }
}

impl Packer {
    /// Packs what `chunk` says of `bytes` into the beginning of `room`. Returns the bytes used; 0 for a chunk that is empty.
    ///
    /// # Errors
    /// [`PackError::Changed`], [`PackError::Full`].
    pub fn pack(&mut self, chunk: &Chunk, bytes: &[u8], room: &mut [u8]) -> Result<usize, PackError> {
        if !chunk.matches(bytes) {
            return Err(PackError::Changed);
        }
        let mut length = 0;
        let held = bytes
            .chunks_exact(PAGE)
            .enumerate()
            .filter(|&(number, _)| chunk.holds(number));
        for ((_, page), to) in held.zip(self.pages.chunks_exact_mut(PAGE)) {
            to.copy_from_slice(page);
            length += PAGE;
        }
        let pages = self.pages.get(..length).unwrap_or_default();
        if pages.is_empty() {
            return Ok(0);
        }
        let packed = compress_into_with_table(pages, &mut self.packed, &mut self.table)
            .ok()
            .and_then(|length| self.packed.get(..length))
            .filter(|packed| packed.len() < pages.len())
            .unwrap_or(pages);
        room.get_mut(..packed.len())
            .ok_or(PackError::Full)?
            .copy_from_slice(packed);
        Ok(packed.len())
    }
}

/// Unpacks chunks.
pub struct Unpacker {
    pages: Vec<u8>,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self { pages: vec![0; CHUNK] }
    }
}

impl Unpacker {
    /// Makes `memory`, as long as the chunk was, what the chunk held. Writes only pages that differ, and nothing at all if
    /// what was packed is not what the chunk held. Returns the pages written.
    ///
    /// # Errors
    /// [`PackError::Damaged`].
    pub fn unpack(&mut self, chunk: &Chunk, packed: &[u8], memory: &mut [u8]) -> Result<usize, PackError> {
        let pages = self.pages.get_mut(..chunk.pages() * PAGE).ok_or(PackError::Damaged)?;
        let held = memory
            .chunks(PAGE)
            .enumerate()
            .filter(|&(number, _)| chunk.holds(number));
        if held.count() != chunk.pages() {
            return Err(PackError::Damaged);
        }
        if packed.len() == pages.len() {
            pages.copy_from_slice(packed);
        } else if !decompress_into(packed, pages).is_ok_and(|length| length == pages.len()) {
            return Err(PackError::Damaged);
        }
        if !chunk.is_of(pages) {
            return Err(PackError::Damaged);
        }
        let mut pages = pages.chunks_exact(PAGE);
        let mut written = 0;
        for (number, to) in memory.chunks_mut(PAGE).enumerate() {
            if !chunk.holds(number) {
                if !is_zero(to) {
                    to.fill(0);
                    written += 1;
                }
            } else if let Some(page) = pages.next().filter(|page| differs(page, to)) {
                to.copy_from_slice(page);
                written += 1;
            }
        }
        Ok(written)
    }
}

/// Word by word: where no vector instructions may be used that is the fastest.
fn differs(a: &[u8], b: &[u8]) -> bool {
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let mut lines = a.chunks_exact(64).zip(b.chunks_exact(64));
    let different = |(a, b): (&[u8], &[u8])| {
        let words = a.chunks_exact(8).zip(b.chunks_exact(8));
        words.fold(0, |all, (a, b)| all | (word(a) ^ word(b))) != 0
    };
    a.len() != b.len() || !a.len().is_multiple_of(64) || lines.any(different)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A chunk of pages: empty, of one byte, of text, or of noise.
    fn pages() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec((0u8..4, any::<u64>()), 1..=16).prop_map(|kinds| {
            let mut bytes = vec![0; kinds.len() * PAGE];
            for ((kind, mut state), page) in kinds.into_iter().zip(bytes.chunks_mut(PAGE)) {
                match kind {
                    0 => {}
                    1 => page[state as usize % PAGE] = 1 | state as u8,
                    2 => page
                        .iter_mut()
                        .enumerate()
                        .for_each(|(at, byte)| *byte = b"some text "[at % 10]),
                    _ => {
                        for byte in page {
                            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
                            *byte = (state >> 56) as u8;
                        }
                    }
                }
            }
            bytes
        })
    }

    fn packed(bytes: &[u8]) -> (Chunk, Vec<u8>) {
        let chunk = Chunk::of(bytes);
        let mut room = vec![0; 2 * CHUNK];
        let length = Packer::default().pack(&chunk, bytes, &mut room).unwrap();
        room.truncate(length);
        (chunk, room)
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back_over_anything(bytes in pages(), before in pages()) {
            let (chunk, packed) = packed(&bytes);
            prop_assert!(packed.len() <= chunk.pages() * PAGE);
            let mut memory = before;
            memory.resize(bytes.len(), 0xAA);
            Unpacker::default().unpack(&chunk, &packed, &mut memory).unwrap();
            prop_assert!(memory == bytes);
            // Nothing is left to write.
            prop_assert_eq!(Unpacker::default().unpack(&chunk, &packed, &mut memory), Ok(0));
        }

        #[test]
        fn a_changed_byte_is_found_and_nothing_is_written(bytes in pages(), at: usize, bit in 0u8..8) {
            let (chunk, mut packed) = packed(&bytes);
            prop_assume!(!packed.is_empty());
            let at = at % packed.len();
            packed[at] ^= 1 << bit;
            let mut memory = vec![0x55; bytes.len()];
            match Unpacker::default().unpack(&chunk, &packed, &mut memory) {
                Err(error) => {
                    prop_assert_eq!(error, PackError::Damaged);
                    prop_assert!(memory.iter().all(|&byte| byte == 0x55));
                }
                // Another way to pack the same.
                Ok(_) => prop_assert!(memory == bytes),
            }
        }

        #[test]
        fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..5000), bytes in pages()) {
            let chunk = Chunk::of(&bytes);
            prop_assume!(chunk.pages() > 0);
            let mut memory = vec![0; bytes.len()];
            prop_assert_eq!(Unpacker::default().unpack(&chunk, &noise, &mut memory), Err(PackError::Damaged));
        }
    }

    #[test]
    fn what_does_not_fit_or_has_changed_is_not_packed() {
        let bytes = vec![7; 3 * PAGE];
        let chunk = Chunk::of(&bytes);
        let mut packer = Packer::default();
        assert_eq!(packer.pack(&chunk, &bytes, &mut [0; 4]), Err(PackError::Full));
        assert_eq!(
            packer.pack(&chunk, &[8; 3 * PAGE], &mut [0; 400]),
            Err(PackError::Changed)
        );
        assert!(packer.pack(&chunk, &bytes, &mut [0; 400]).is_ok());
    }

    #[test]
    fn memory_of_another_length_is_refused() {
        let (chunk, packed) = packed(&[7; 3 * PAGE]);
        let mut memory = vec![0; 2 * PAGE];
        assert_eq!(
            Unpacker::default().unpack(&chunk, &packed, &mut memory),
            Err(PackError::Damaged)
        );
    }
}
