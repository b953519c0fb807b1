//! Maps of physical memory: the firmware's, and those handed to kernels as e820 tables.

use crate::span::Span;
use alloc::vec::Vec;
use shared_region::{
    header::{Header, MemoryRange, MAX_RAM_RANGES},
    layout,
};

/// e820 types (ACPI 6.5, table 15.1).
pub mod kind {
    /// Usable RAM.
    pub const RAM: u64 = 1;
    /// Not to be touched.
    pub const RESERVED: u64 = 2;
}

/// Below this, memory is divided among the kernels by [`layout::low_range`].
const LOW_MEMORY_END: u64 = 0xA_0000;
/// The low range of a kernel that shares low memory with nobody.
pub const ALL_LOW_MEMORY: (u64, u64) = (0, LOW_MEMORY_END);
/// The BIOS's read-only copy. Left out of the maps: a reserved range that touches one starting below 1 MB is marked
/// busy as a whole (`e820__reserve_resources`, arch/x86/kernel/e820.c), and then /dev/mem and memremap refuse it.
const BIOS_ROM: Span = Span {
    start: 0xF_0000,
    end: 0x10_0000,
};

/// Why a firmware map cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// There is none, or no RAM in it.
    Empty,
    /// It has more ranges than the region's header holds.
    TooManyRanges(usize),
    /// RAM reaches beyond what the region's tables have room for.
    TooMuchRam {
        /// End of the highest RAM.
        end: u64,
    },
}

impl core::fmt::Display for MapError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Empty => write!(f, "memory map: the firmware reports no RAM"),
            Self::TooManyRanges(count) => {
                write!(
                    f,
                    "memory map: {count} ranges after merging, at most {MAX_RAM_RANGES} are supported"
                )
            }
            Self::TooMuchRam { end } => write!(
                f,
                "memory map: RAM up to {:#x}; at most {} GB of address space are supported",
                end,
                layout::MAX_RAM >> 30
            ),
        }
    }
}

impl core::error::Error for MapError {}

/// Sorts a map, merges neighbours of one type and resolves overlaps: what any range calls other than RAM is not RAM.
fn normalise(ranges: &[MemoryRange]) -> Vec<MemoryRange> {
    let mut edges: Vec<u64> = ranges
        .iter()
        .filter(|r| r.start < r.end)
        .flat_map(|r| [r.start, r.end])
        .collect();
    edges.sort_unstable();
    edges.dedup();
    let mut out: Vec<MemoryRange> = Vec::new();
    for pair in edges.windows(2) {
        let &[start, end] = pair else { continue };
        let kinds = ranges
            .iter()
            .filter(|r| r.start <= start && end <= r.end)
            .map(|r| r.kind);
        let Some(kind) = kinds.reduce(|a, b| if a == kind::RAM { b } else { a }) else {
            continue;
        };
        match out.last_mut() {
            Some(last) if last.end == start && last.kind == kind => last.end = end,
            _ => out.push(MemoryRange { start, end, kind }),
        }
    }
    out
}

/// Puts the firmware's map into the form the region's header holds.
///
/// # Errors
/// [`MapError`].
pub fn from_firmware(ranges: &[MemoryRange]) -> Result<Vec<MemoryRange>, MapError> {
    // Overlap resolution is quadratic; no firmware has a thousand ranges, and a table that claims so is noise.
    const SANE: usize = 1024;
    if ranges.len() > SANE {
        return Err(MapError::TooManyRanges(ranges.len()));
    }
    let map = normalise(ranges);
    if map.len() > MAX_RAM_RANGES {
        return Err(MapError::TooManyRanges(map.len()));
    }
    match map.iter().filter(|r| r.kind == kind::RAM).map(|r| r.end).max() {
        None => Err(MapError::Empty),
        Some(end) if end > layout::MAX_RAM => Err(MapError::TooMuchRam { end }),
        Some(_) => Ok(map),
    }
}

/// The RAM in a map.
pub fn ram(map: &[MemoryRange]) -> impl Iterator<Item = Span> + Clone + '_ {
    map.iter().filter(|r| r.kind == kind::RAM).map(|r| Span {
        start: r.start,
        end: r.end,
    })
}

/// Bytes of RAM in a map.
pub fn ram_bytes(map: &[MemoryRange]) -> u64 {
    ram(map).map(|s| s.len()).sum()
}

/// What becomes of `span` when only `keep` of the RAM below 640 KB belongs to the kernel.
fn low_memory(span: Span, keep: (u64, u64), out: &mut Vec<MemoryRange>) {
    let mut push = |start: u64, end: u64, kind: u64| {
        let (start, end) = (start.max(span.start), end.min(span.end));
        if start < end {
            out.push(MemoryRange { start, end, kind });
        }
    };
    push(0, keep.0, kind::RESERVED);
    push(keep.0, keep.1, kind::RAM);
    push(keep.1, LOW_MEMORY_END, kind::RESERVED);
}

/// Splits a firmware map at 640 KB, so that low memory can be treated on its own.
fn at_low_memory_end(map: &[MemoryRange]) -> impl Iterator<Item = MemoryRange> + '_ {
    map.iter().flat_map(|r| {
        let low = MemoryRange {
            end: r.end.min(LOW_MEMORY_END),
            ..*r
        };
        let high = MemoryRange {
            start: r.start.max(LOW_MEMORY_END),
            ..*r
        };
        [low, high].into_iter().filter(|r| r.start < r.end)
    })
}

fn in_bios_rom(range: &MemoryRange) -> bool {
    BIOS_ROM.contains(&Span {
        start: range.start,
        end: range.end,
    })
}

/// A map in which `reserved` is not RAM and low memory is the kernel's own range only.
pub fn for_first(firmware: &[MemoryRange], low: (u64, u64), reserved: &[Span]) -> Vec<MemoryRange> {
    let mut out: Vec<MemoryRange> = reserved
        .iter()
        .map(|s| MemoryRange {
            start: s.start,
            end: s.end,
            kind: kind::RESERVED,
        })
        .collect();
    for range in at_low_memory_end(firmware).filter(|r| !in_bios_rom(r)) {
        if range.kind == kind::RAM && range.end <= LOW_MEMORY_END {
            low_memory(
                Span {
                    start: range.start,
                    end: range.end,
                },
                low,
                &mut out,
            );
        } else {
            out.push(range);
        }
    }
    normalise(&out)
}

/// The map of the first kernel: all RAM but the region, nursery 0 and low memory that is not its own.
pub fn first_kernel(header: &Header) -> Vec<MemoryRange> {
    let reserved = usize::from(header.reserved_nursery == 1);
    let nursery = header.nursery.get(reserved).copied().unwrap_or_default();
    for_first(
        header.ram(),
        layout::low_range(1),
        &[
            Span::of(header.base, layout::REGION_SIZE),
            Span::of(nursery, layout::NURSERY_SIZE),
        ],
    )
}

/// The map of a successor that lives in nursery `index`: that window and its low range are its RAM, the region is
/// reserved, what the firmware keeps for itself stays as it is, and all other RAM is a hole, so that it can be
/// hot-added later (a range that is listed as reserved would have to be removed from the resource tree first).
pub fn successor(header: &Header, index: usize) -> Vec<MemoryRange> {
    let nursery = header.nursery.get(index).copied().unwrap_or_default();
    let mut out = alloc::vec![
        MemoryRange {
            start: header.base,
            end: header.base.saturating_add(layout::REGION_SIZE),
            kind: kind::RESERVED,
        },
        MemoryRange {
            start: nursery,
            end: nursery.saturating_add(layout::NURSERY_SIZE),
            kind: kind::RAM,
        },
    ];
    for range in at_low_memory_end(header.ram()).filter(|r| !in_bios_rom(r)) {
        if range.kind != kind::RAM {
            out.push(range);
        } else if range.end <= LOW_MEMORY_END {
            low_memory(
                Span {
                    start: range.start,
                    end: range.end,
                },
                layout::low_range(index),
                &mut out,
            );
        }
    }
    normalise(&out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

    fn range(start: u64, end: u64, kind: u64) -> MemoryRange {
        MemoryRange { start, end, kind }
    }

    #[test]
    fn what_any_range_calls_reserved_is_not_ram() {
        let map = from_firmware(&[range(0, 0x1000, 1), range(0x800, 0xC00, 2), range(0x1000, 0x2000, 1)]).unwrap();
        assert_eq!(
            map,
            [range(0, 0x800, 1), range(0x800, 0xC00, 2), range(0xC00, 0x2000, 1)]
        );
    }

    #[test]
    fn no_ram_and_too_much_ram_are_refused() {
        assert_eq!(from_firmware(&[]), Err(MapError::Empty));
        assert_eq!(from_firmware(&[range(0, 1, 2)]), Err(MapError::Empty));
        let end = layout::MAX_RAM + 1;
        assert_eq!(from_firmware(&[range(0, end, 1)]), Err(MapError::TooMuchRam { end }));
    }

    #[test]
    fn the_first_kernel_gets_all_but_region_nursery_0_and_foreign_low_memory() {
        let header = testing::header();
        assert_eq!(
            first_kernel(&header),
            [
                range(0, 0x5_0000, 2),
                range(0x5_0000, 0x9_F000, 1),
                range(0x9_F000, 0xA_0000, 2),
                range(0x10_0000, 0x5800_0000, 1),
                range(0x5800_0000, 0x7800_0000, 2),
                range(0x7800_0000, 0x7FFE_0000, 1),
                range(0x7FFE_0000, 0x8000_0000, 2),
                range(0xFFFC_0000, 0x1_0000_0000, 2),
                range(0x1_0000_0000, 0x1_8000_0000, 1),
            ]
        );
    }

    #[test]
    fn a_successor_sees_its_nursery_and_holes() {
        let header = testing::header();
        assert_eq!(
            successor(&header, 0),
            [
                range(0, 0x1_0000, 2),
                range(0x1_0000, 0x5_0000, 1),
                range(0x5_0000, 0xA_0000, 2),
                range(0x5800_0000, 0x6800_0000, 1),
                range(0x6800_0000, 0x7800_0000, 2),
                range(0x7FFE_0000, 0x8000_0000, 2),
                range(0xFFFC_0000, 0x1_0000_0000, 2),
            ]
        );
    }

    proptest! {
        #[test]
        fn normalised_maps_are_sorted_disjoint_and_lose_nothing(
            ranges in proptest::collection::vec((0u64..60, 0u64..60, 1u64..5), 0..20)
        ) {
            let ranges: Vec<MemoryRange> = ranges.into_iter().map(|(s, e, k)| range(s, e, k)).collect();
            let map = normalise(&ranges);
            prop_assert!(map.windows(2).all(|w| w[0].end <= w[1].start));
            for at in 0..60 {
                let said: Vec<u64> = ranges.iter().filter(|r| (r.start..r.end).contains(&at)).map(|r| r.kind).collect();
                let now = map.iter().find(|r| (r.start..r.end).contains(&at)).map(|r| r.kind);
                match now {
                    None => prop_assert!(said.is_empty()),
                    Some(kind::RAM) => prop_assert!(said.iter().all(|&k| k == kind::RAM)),
                    Some(k) => prop_assert!(said.contains(&k)),
                }
            }
        }
    }
}
