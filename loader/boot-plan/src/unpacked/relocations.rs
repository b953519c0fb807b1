//! The table of relocations behind an unpacked kernel (`arch/x86/tools/relocs.c`).
//!
//! Three lists of 32-bit numbers, read from the end, each up to a zero: 32-bit words to be raised, 32-bit words to be
//! lowered (distances from per-CPU data, which does not move), 64-bit words to be raised. A number is the virtual address
//! of the word, sign-extended. Nothing in the file says so; that the lists are what they are taken for is told by what
//! the words hold.

use super::vmlinux::{KERNEL_IMAGE_SIZE, START_KERNEL_MAP};
use crate::bytes::{array_at, put, u64_at};

/// How many of a hundred words of a list must be addresses of the kernel for it to be a list of addresses. A few hold
/// physical addresses (the first page tables) or differences.
const MOSTLY: usize = 90;
/// How many may be in a list of distances.
const HARDLY: usize = 10;

/// Where the lists are in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// First byte of the 64-bit list, and of its zero.
    words64: (usize, usize),
    inverse: (usize, usize),
    words32: (usize, usize),
}

impl Table {
    /// Finds the lists at the end of a file.
    pub(super) fn find(file: &[u8]) -> Result<Self, &'static str> {
        let words32 = list(file, file.len())?;
        let inverse = list(file, words32.0.saturating_sub(4))?;
        let words64 = list(file, inverse.0.saturating_sub(4))?;
        Ok(Self {
            words64,
            inverse,
            words32,
        })
    }

    /// The first byte that belongs to the table.
    pub(super) const fn start(&self) -> usize {
        self.words64.0.saturating_sub(4)
    }

    /// Moves the kernel in `memory[..filled]` up by `shift`.
    pub(super) fn apply(
        &self,
        memory: &mut [u8],
        filled: usize,
        linked_at: u64,
        shift: u64,
    ) -> Result<(), &'static str> {
        let base = START_KERNEL_MAP.wrapping_add(linked_at);
        let (kernel, lists) = memory.split_at_mut_checked(self.start()).ok_or("no table")?;
        let filled = kernel.get_mut(..filled).ok_or("the table lies in the kernel")?;
        let numbers = |list: (usize, usize)| {
            let (from, to) = (list.0.saturating_sub(self.start()), list.1.saturating_sub(self.start()));
            lists
                .get(from..to)
                .unwrap_or_default()
                .as_chunks::<4>()
                .0
                .iter()
                .map(move |number| {
                    let address = i64::from(i32::from_le_bytes(*number)) as u64;
                    address.wrapping_sub(base) as usize
                })
        };
        let signed = |at: usize| array_at(filled, at).map(|word| i64::from(i32::from_le_bytes(word)) as u64);
        let share = |list, word: &dyn Fn(usize) -> Option<u64>| {
            let (mut all, mut addresses) = (0usize, 0usize);
            for at in numbers(list) {
                let value = word(at).ok_or("one is outside of the kernel")?;
                all = all.saturating_add(1);
                if is_address(value) {
                    addresses = addresses.saturating_add(1);
                }
            }
            Ok::<_, &'static str>((addresses.saturating_mul(100), all))
        };
        let (addresses, all) = share(self.words32, &signed)?;
        if addresses < all.saturating_mul(MOSTLY) || all == 0 {
            return Err("32-bit words that are no addresses");
        }
        let (addresses, all) = share(self.inverse, &|at| u64_at(filled, at))?;
        if addresses > all.saturating_mul(HARDLY) {
            return Err("distances that are addresses");
        }
        let (addresses, all) = share(self.words64, &|at| u64_at(filled, at))?;
        if addresses < all.saturating_mul(MOSTLY) || all == 0 {
            return Err("64-bit words that are no addresses");
        }
        for (list, up) in [(self.words32, true), (self.inverse, false)] {
            let by = if up {
                shift as u32
            } else {
                (shift as u32).wrapping_neg()
            };
            for at in numbers(list) {
                let word = array_at(filled, at).map_or(0, u32::from_le_bytes);
                put(filled, at, &word.wrapping_add(by).to_le_bytes());
            }
        }
        for at in numbers(self.words64) {
            let word = u64_at(filled, at).unwrap_or(0);
            put(filled, at, &word.wrapping_add(shift).to_le_bytes());
        }
        Ok(())
    }
}

/// Whether a value is a virtual address in a kernel's image.
fn is_address(value: u64) -> bool {
    value.wrapping_sub(START_KERNEL_MAP) < KERNEL_IMAGE_SIZE
}

/// The list that ends at `end`: its first byte and its end. A zero stands before it.
fn list(file: &[u8], end: usize) -> Result<(usize, usize), &'static str> {
    let bytes = file.get(..end).unwrap_or_default();
    let numbers = bytes.as_rchunks::<4>().1;
    let count = numbers.iter().rev().take_while(|number| **number != [0; 4]).count();
    if count == numbers.len() {
        return Err("the table has no beginning");
    }
    Ok((end.saturating_sub(count.saturating_mul(4)), end))
}
