//! Where the region and the two nurseries go.

use crate::{memory_map, span::highest_free, span::Span};
use shared_region::{
    header::MemoryRange,
    layout::{NURSERY_SIZE, REGION_SIZE, WINDOW_ALIGN},
};

/// RAM that the first kernel must have left; nursery 1 is part of it.
pub const MIN_LINUX_RAM: u64 = 512 << 20;
/// What is taken away from the first kernel.
pub const RESERVATION: u64 = REGION_SIZE + NURSERY_SIZE;
/// Windows lie below this, so that a kernel in a nursery has memory for 32-bit devices.
const LIMIT: u64 = 1 << 32;
/// Everything below stays free for the first kernel's image and for firmware habits.
const FLOOR: u64 = 16 << 20;

/// The three windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Base of the region.
    pub region: u64,
    /// Bases of nursery 0 and 1.
    pub nursery: [u64; 2],
}

/// Why there is no place for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowError {
    /// The machine has too little RAM.
    TooLittleRam {
        /// Bytes there are.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// There is enough RAM, but not in pieces that fit.
    NoRoom {
        /// The window that found no place.
        window: &'static str,
        /// The largest free piece of RAM below 4 GB, in bytes.
        largest: u64,
    },
}

impl core::fmt::Display for WindowError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooLittleRam { have, need } => write!(
                f,
                "too little RAM: the machine has {} MB, {} MB are needed ({} MB reserved, {} MB for Linux)",
                have >> 20,
                need >> 20,
                RESERVATION >> 20,
                MIN_LINUX_RAM >> 20
            ),
            Self::NoRoom { window, largest } => write!(
                f,
                "no room for the {window}: it needs 256 MB below 4 GB, aligned to 128 MB at both ends and clear of the \
                 boot modules; the largest free piece has {} MB",
                largest >> 20
            ),
        }
    }
}

impl core::error::Error for WindowError {}

/// Chooses the windows: as high as possible below 4 GB, region first.
///
/// `used` is memory that holds something now (this program, boot modules). The region and nursery 0 stay clear of it;
/// nursery 1 is ordinary memory of the first kernel and need not.
///
/// # Errors
/// [`WindowError`], with numbers.
pub fn choose(firmware: &[MemoryRange], used: &[Span]) -> Result<Windows, WindowError> {
    let have = memory_map::ram_bytes(firmware);
    // Firmware keeps some of what is sold as RAM for itself: an eighth of the smallest machine is forgiven.
    let need = RESERVATION + MIN_LINUX_RAM;
    if have < need - need / 8 {
        return Err(WindowError::TooLittleRam { have, need });
    }
    let mut taken = used.to_vec();
    let mut place = |window: &'static str, size: u64, avoid: Option<&[Span]>| {
        let obstacles = avoid.map_or_else(|| taken.clone(), <[Span]>::to_vec);
        let found = memory_map::ram(firmware)
            .filter_map(|ram| {
                let within = Span {
                    start: ram.start.max(FLOOR),
                    end: ram.end.min(LIMIT) & !(WINDOW_ALIGN - 1),
                };
                highest_free(within, size, WINDOW_ALIGN, &obstacles)
            })
            .max();
        let base = found.ok_or_else(|| WindowError::NoRoom {
            window,
            largest: largest_free(firmware, &obstacles),
        })?;
        taken.push(Span::of(base, size));
        Ok(base)
    };
    let region = place("region", REGION_SIZE, None)?;
    let nursery0 = place("nursery 0", NURSERY_SIZE, None)?;
    let windows_only = [Span::of(region, REGION_SIZE), Span::of(nursery0, NURSERY_SIZE)];
    let nursery1 = place("nursery 1", NURSERY_SIZE, Some(&windows_only))?;
    Ok(Windows {
        region,
        nursery: [nursery0, nursery1],
    })
}

fn largest_free(firmware: &[MemoryRange], used: &[Span]) -> u64 {
    memory_map::ram(firmware)
        .filter(|ram| ram.start < LIMIT)
        .map(|ram| {
            let end = ram.end.min(LIMIT);
            let starts = used.iter().map(|u| u.end).chain([ram.start]);
            starts
                .filter(|&s| s >= ram.start && s < end && !used.iter().any(|u| u.start <= s && s < u.end))
                .map(|s| {
                    used.iter()
                        .map(|u| u.start)
                        .filter(|&u| u >= s)
                        .min()
                        .unwrap_or(end)
                        .min(end)
                        - s
                })
                .max()
                .unwrap_or(0)
        })
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::kind;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn map(ram: &[(u64, u64)]) -> Vec<MemoryRange> {
        ram.iter()
            .map(|&(start, end)| MemoryRange {
                start,
                end,
                kind: kind::RAM,
            })
            .collect()
    }

    #[test]
    fn two_gigabytes_of_a_pc() {
        let windows = choose(&map(&[(0, 0x9_FC00), (0x10_0000, 0x7FFE_0000)]), &[]).unwrap();
        assert_eq!(
            windows,
            Windows {
                region: 0x6800_0000,
                nursery: [0x5800_0000, 0x4800_0000]
            }
        );
    }

    #[test]
    fn memory_above_4_gb_is_not_used_for_windows() {
        let windows = choose(&map(&[(0x10_0000, 0x8000_0000), (1 << 32, 6 << 30)]), &[]).unwrap();
        assert_eq!(windows.region, 0x7000_0000);
    }

    #[test]
    fn one_gigabyte_is_enough_and_768_mb_are_not() {
        assert!(choose(&map(&[(0x10_0000, 0x3FFE_0000)]), &[]).is_ok());
        assert_eq!(
            choose(&map(&[(0x10_0000, 0x3000_0000)]), &[]),
            Err(WindowError::TooLittleRam {
                have: 0x2FF0_0000,
                need: 1 << 30
            })
        );
    }

    #[test]
    fn modules_in_the_way_are_avoided_or_reported() {
        let ram = map(&[(0x10_0000, 0x7FFE_0000)]);
        let module = Span::of(0x7000_0000, 0x1000);
        assert_eq!(choose(&ram, &[module]).unwrap().region, 0x6000_0000);
        let everywhere: Vec<Span> = (1..16).map(|i| Span::of(i * 0x800_0000, 0x1000)).collect();
        assert!(matches!(
            choose(&ram, &everywhere),
            Err(WindowError::NoRoom {
                window: "region",
                largest: 0x7FF_F000
            })
        ));
    }

    proptest! {
        #[test]
        fn chosen_windows_are_ram_aligned_and_disjoint(
            ram in proptest::collection::vec((0u64..6 << 30, 0u64..3 << 30), 1..6),
            used in proptest::collection::vec((0u64..4 << 30, 0u64..256 << 20), 0..6),
        ) {
            let ranges: Vec<(u64, u64)> = ram.iter().map(|&(s, l)| (s, s + l)).collect();
            let firmware = match memory_map::from_firmware(&map(&ranges)) {
                Ok(firmware) => firmware,
                Err(_) => return Ok(()),
            };
            let used: Vec<Span> = used.into_iter().map(|(s, l)| Span::of(s, l)).collect();
            if let Ok(w) = choose(&firmware, &used) {
                let windows = [
                    Span::of(w.region, REGION_SIZE),
                    Span::of(w.nursery[0], NURSERY_SIZE),
                    Span::of(w.nursery[1], NURSERY_SIZE),
                ];
                for (i, window) in windows.iter().enumerate() {
                    prop_assert!(window.start % WINDOW_ALIGN == 0 && window.end <= LIMIT);
                    prop_assert!(memory_map::ram(&firmware).any(|r| r.contains(window)));
                    prop_assert!(windows.iter().skip(i + 1).all(|other| !other.overlaps(window)));
                    prop_assert!(i == 2 || used.iter().all(|u| !u.overlaps(window)));
                }
            }
        }
    }
}
