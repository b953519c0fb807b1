//! Which physical memory is the active kernel's.

use alloc::vec::Vec;
use shared_region::header::Header;
use shared_region::layout;

/// e820 type of RAM.
const RAM: u64 = 1;

/// A range of physical addresses, end exclusive.
pub type Range = (u64, u64);

fn without(ranges: Vec<Range>, hole: Range) -> Vec<Range> {
    let mut out = Vec::with_capacity(ranges.len() + 1);
    for (start, end) in ranges {
        out.extend(
            [(start, end.min(hole.0)), (start.max(hole.1), end)]
                .into_iter()
                .filter(|(s, e)| s < e),
        );
    }
    out
}

/// The RAM that belongs to the active kernel, and not to us or its successor.
#[derive(Clone, Debug)]
pub struct ActiveRam {
    ranges: Vec<Range>,
}

impl ActiveRam {
    /// Reads the header's map; `reserved_nursery` is the one in which the successor starts.
    pub fn new(header: &Header, reserved_nursery: usize) -> Self {
        let ram = header.ram().iter().filter(|range| range.kind == RAM);
        let mut ranges: Vec<Range> = ram.map(|range| (range.start, range.end)).collect();
        let nursery = header.nursery[reserved_nursery.min(1)];
        for hole in [
            (header.base, header.base + header.size),
            (nursery, nursery + layout::NURSERY_SIZE),
            layout::low_range(reserved_nursery),
            (layout::TRAMPOLINE, layout::TRAMPOLINE + shared_region::PAGE_SIZE),
            (0, shared_region::PAGE_SIZE),
        ] {
            ranges = without(ranges, hole);
        }
        Self { ranges }
    }

    /// What a kernel has that lives in a nursery and has been given nothing else yet. Its real-mode memory is left out.
    pub fn of_nursery(header: &Header, nursery: usize) -> Self {
        let start = header.nursery[nursery.min(1)];
        Self {
            ranges: Vec::from([(start, start + layout::NURSERY_SIZE)]),
        }
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Whether the bytes lie in one range.
    pub fn holds(&self, address: u64, len: usize) -> bool {
        let Some(end) = address.checked_add(len as u64) else {
            return false;
        };
        self.ranges.iter().any(|&(from, to)| address >= from && end <= to)
    }

    /// The first address after the highest byte.
    pub fn end(&self) -> u64 {
        self.ranges.iter().map(|&(_, end)| end).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::{without, ActiveRam};
    use shared_region::header::{Header, MemoryRange};
    use shared_region::layout::{LOW_RANGE_0, LOW_RANGE_1, NURSERY_SIZE, REGION_SIZE};
    use zerocopy::FromZeros;

    const REGION: u64 = 0x6800_0000;
    const NURSERIES: [u64; 2] = [0x5800_0000, 0x4800_0000];

    fn header() -> Header {
        let mut header = Header::new_zeroed();
        (header.base, header.size, header.nursery) = (REGION, REGION_SIZE, NURSERIES);
        header.ram_count = 4;
        for (range, (start, end, kind)) in header.ram.iter_mut().zip([
            (0, 0x9_FC00, 1),
            (0x10_0000, 0x7FFE_0000, 1),
            (0x7FFE_0000, 0x8000_0000, 2),
            (1 << 32, 5 << 30, 1),
        ]) {
            *range = MemoryRange { start, end, kind };
        }
        header
    }

    #[test]
    fn a_hole_cuts_one_range_and_leaves_the_others() {
        assert_eq!(
            without([(0, 10), (20, 30)].into(), (22, 25)),
            [(0, 10), (20, 22), (25, 30)]
        );
        assert_eq!(without([(0, 10)].into(), (0, 10)), []);
        assert_eq!(without([(0, 10)].into(), (10, 20)), [(0, 10)]);
        assert_eq!(without([(10, 20)].into(), (0, 10)), [(10, 20)]);
    }

    #[test]
    fn region_nursery_and_the_successors_low_memory_are_not_the_actives() {
        for reserved in [0, 1] {
            let ram = ActiveRam::new(&header(), reserved);
            assert!(!ram.holds(REGION, 1) && !ram.holds(REGION + REGION_SIZE - 1, 1));
            assert!(!ram.holds(NURSERIES[reserved], 1));
            assert!(!ram.holds(NURSERIES[reserved] + NURSERY_SIZE - 1, 1));
            assert!(ram.holds(NURSERIES[1 - reserved], NURSERY_SIZE as usize));
            assert_eq!(ram.holds(LOW_RANGE_0.0, 4096), reserved == 1);
            assert_eq!(ram.holds(LOW_RANGE_1.0, 4096), reserved == 0);
        }
    }

    #[test]
    fn a_kernel_that_was_given_nothing_has_its_nursery() {
        let ram = ActiveRam::of_nursery(&header(), 1);
        assert!(ram.holds(NURSERIES[1], NURSERY_SIZE as usize));
        assert!(!ram.holds(NURSERIES[0], 1) && !ram.holds(0x10_0000, 1) && !ram.holds(REGION, 1));
    }

    #[test]
    fn only_ram_is_held_and_no_range_is_left() {
        let ram = ActiveRam::new(&header(), 0);
        assert!(ram.holds(0x10_0000, 4096) && ram.holds(1 << 32, 4096));
        assert!(!ram.holds(0x7FFE_0000, 1) && !ram.holds(0x7FFD_FFFF, 2));
        assert!(!ram.holds(0, 1) && !ram.holds(0x8000, 4096));
        assert!(!ram.holds(u64::MAX, 2));
        assert_eq!(ram.end(), 5 << 30);
    }
}
