//! The bitmap of retained frames: page frames of the dead kernel whose contents must outlive it.
//!
//! Bit `pfn % 8` of byte `pfn / 8`. Writer: the salvager, before the gate opens. Reader: the successor's module, which
//! withholds these frames while it adds the old kernel's RAM.

/// Marks `count` frames from `pfn` on. Frames beyond the bitmap are not marked.
///
/// Returns how many were marked now that had not been before.
pub fn mark(bitmap: &mut [u8], pfn: u64, count: u64) -> u64 {
    let end = pfn.saturating_add(count).min(bitmap.len() as u64 * 8);
    let mut fresh = 0;
    let mut frame = pfn;
    while frame < end {
        // The bits of one byte, or of as much of it as is asked for.
        let first = frame % 8;
        let bits = (8 - first).min(end - frame);
        let mask = ((1u16 << bits) - 1) as u8;
        let byte = &mut bitmap[(frame / 8) as usize];
        let mask = mask << first;
        fresh += u64::from((mask & !*byte).count_ones());
        *byte |= mask;
        frame += bits;
    }
    fresh
}

/// Whether the frame is retained. A frame beyond the bitmap is not.
pub fn is_marked(bitmap: &[u8], pfn: u64) -> bool {
    usize::try_from(pfn / 8)
        .ok()
        .and_then(|i| bitmap.get(i))
        .is_some_and(|byte| byte & (1 << (pfn % 8)) != 0)
}

#[cfg(test)]
mod tests {
    use super::{is_marked, mark};

    #[test]
    fn marks_across_bytes_and_counts_each_frame_once() {
        let mut bitmap = [0u8; 4];
        assert_eq!(mark(&mut bitmap, 6, 4), 4);
        assert_eq!(mark(&mut bitmap, 8, 4), 2);
        let marked: alloc::vec::Vec<u64> = (0..32).filter(|&pfn| is_marked(&bitmap, pfn)).collect();
        assert_eq!(marked, [6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn frames_beyond_the_bitmap_are_ignored() {
        let mut bitmap = [0u8; 1];
        assert_eq!(mark(&mut bitmap, 7, 100), 1);
        assert_eq!(mark(&mut bitmap, u64::MAX, 1), 0);
        assert!(!is_marked(&bitmap, 8));
    }
}
