//! Identity page tables (Intel SDM vol. 3A, 4.5): every physical address at its own place, in the largest pages the
//! CPU has.

/// One table of 512 entries.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Table(pub [u64; 512]);

impl Table {
    /// A table that maps nothing.
    pub const EMPTY: Self = Self([0; 512]);
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const POINTER: u64 = PRESENT | WRITABLE | ACCESSED;
const LEAF: u64 = PRESENT | WRITABLE | ACCESSED | DIRTY | LARGE;

const GIB: u64 = 1 << 30;
const MIB2: u64 = 2 << 20;
/// What one top-level entry spans.
const SPAN_512G: u64 = 512 * GIB;

/// Why tables cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagingError {
    /// More tables are needed than there is room for.
    Room {
        /// Needed.
        needed: usize,
        /// Given.
        given: usize,
    },
    /// More than a root table can map (256 TB).
    TooLarge,
}

impl core::fmt::Display for PagingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Room { needed, given } => {
                write!(f, "identity map: {needed} page tables needed, room for {given}")
            }
            Self::TooLarge => write!(f, "identity map: more memory than page tables can map"),
        }
    }
}

impl core::error::Error for PagingError {}

/// The low 4 GB are mapped whatever RAM there is: device registers lie there.
const fn rounded(end: u64) -> u64 {
    if end <= 4 * GIB {
        4 * GIB
    } else {
        end.next_multiple_of(GIB)
    }
}

/// How many tables an identity map of `0..end` takes. `large` if the CPU has 1 GB pages.
pub const fn tables_needed(end: u64, large: bool) -> usize {
    let end = rounded(end);
    let upper = end.div_ceil(SPAN_512G) as usize;
    let leaves = if large { 0 } else { end.div_ceil(GIB) as usize };
    1 + upper + leaves
}

/// Fills `tables` with an identity map of physical memory `0..end`, rounded up to 1 GB and at least 4 GB. The first table is the root:
/// its address goes into CR3.
///
/// `base` is the physical address of `tables`.
///
/// # Errors
/// [`PagingError`] if the tables do not suffice.
pub fn identity(tables: &mut [Table], base: u64, end: u64, large: bool) -> Result<(), PagingError> {
    if end > 256 * SPAN_512G {
        return Err(PagingError::TooLarge);
    }
    let end = rounded(end);
    let needed = tables_needed(end, large);
    let given = tables.len();
    let Some(tables) = tables.get_mut(..needed) else {
        return Err(PagingError::Room { needed, given });
    };
    tables.fill(Table::EMPTY);
    let address = |index: usize| base + 4096 * index as u64;
    let upper = end.div_ceil(SPAN_512G) as usize;
    for index in 0..upper {
        tables[0].0[index] = address(1 + index) | POINTER;
    }
    for gib in 0..(end / GIB) as usize {
        let entry = if large {
            (gib as u64 * GIB) | LEAF
        } else {
            let leaf = 1 + upper + gib;
            for (at, slot) in tables[leaf].0.iter_mut().enumerate() {
                *slot = (gib as u64 * GIB + at as u64 * MIB2) | LEAF;
            }
            address(leaf) | POINTER
        };
        tables[1 + gib / 512].0[gib % 512] = entry;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;

    /// Walks the tables as the CPU would.
    fn translate(tables: &[Table], base: u64, address: u64) -> Option<u64> {
        let mut table = &tables[0];
        for shift in [39, 30, 21] {
            let entry = table.0[(address >> shift) as usize & 511];
            if entry & PRESENT == 0 {
                return None;
            }
            let target = entry & 0x000F_FFFF_FFFF_F000;
            if shift != 39 && entry & LARGE != 0 {
                return Some(target + (address & ((1 << shift) - 1)));
            }
            table = &tables[((target - base) / 4096) as usize];
        }
        None
    }

    #[test]
    fn every_address_maps_to_itself_with_both_page_sizes() {
        for large in [false, true] {
            for end in [4 * GIB, 6 * GIB, 513 * GIB] {
                let mut tables = vec![Table::EMPTY; tables_needed(end, large)];
                identity(&mut tables, 0x7000_0000, end, large).unwrap();
                for address in [0, 0x8000, 0xFEE0_0020, 4 * GIB - 1, end - 1] {
                    assert_eq!(translate(&tables, 0x7000_0000, address), Some(address));
                }
                assert_eq!(translate(&tables, 0x7000_0000, end), None);
            }
        }
    }

    #[test]
    fn too_few_tables_are_refused_with_numbers() {
        let mut tables = vec![Table::EMPTY; 3];
        assert_eq!(
            identity(&mut tables, 0, GIB, false),
            Err(PagingError::Room { needed: 6, given: 3 })
        );
    }
}
