//! Ranges of physical memory without a type.

/// `start..end`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
}

impl Span {
    /// A span of `length` bytes; saturates at the end of the address space.
    pub const fn of(start: u64, length: u64) -> Self {
        Self {
            start,
            end: start.saturating_add(length),
        }
    }

    /// Bytes.
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it holds no byte.
    pub const fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Whether the two share a byte.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end && !self.is_empty() && !other.is_empty()
    }

    /// Whether `other` lies inside.
    pub const fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

impl core::fmt::Display for Span {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.end)
    }
}

/// The lowest place of `length` bytes in `within`, aligned to `align` (a power of two), clear of every span in `used`.
pub fn lowest_free(within: Span, length: u64, align: u64, used: &[Span]) -> Option<u64> {
    let mut at = within.start.checked_next_multiple_of(align)?;
    // Each step passes the end of one more used span, so there are at most `used.len()` steps.
    for _ in 0..=used.len() {
        let candidate = Span {
            start: at,
            end: at.checked_add(length)?,
        };
        if candidate.end > within.end {
            return None;
        }
        match used.iter().filter(|u| u.overlaps(&candidate)).map(|u| u.end).max() {
            None => return Some(at),
            Some(end) => at = end.checked_next_multiple_of(align)?,
        }
    }
    None
}

/// The highest place, by the rules of [`lowest_free`].
pub fn highest_free(within: Span, length: u64, align: u64, used: &[Span]) -> Option<u64> {
    let mut end = within.end;
    for _ in 0..=used.len() {
        let start = end.checked_sub(length)? & !(align - 1);
        let candidate = Span::of(start, length);
        if candidate.start < within.start {
            return None;
        }
        match used.iter().filter(|u| u.overlaps(&candidate)).map(|u| u.start).min() {
            None => return Some(start),
            Some(start) => end = start,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_free_place_is_inside_aligned_and_clear(
            used in proptest::collection::vec((0u64..2000, 0u64..300), 0..12),
            length in 1u64..500,
            shift in 0u32..7,
        ) {
            let used: alloc::vec::Vec<Span> = used.into_iter().map(|(s, l)| Span::of(s, l)).collect();
            let within = Span { start: 100, end: 1900 };
            let align = 1 << shift;
            let fits = |start: u64| {
                let place = Span::of(start, length);
                start.is_multiple_of(align) && within.contains(&place) && !used.iter().any(|u| u.overlaps(&place))
            };
            let lowest = (0..2000).find(|&s| fits(s));
            let highest = (0..2000).rev().find(|&s| fits(s));
            prop_assert_eq!(lowest_free(within, length, align, &used), lowest);
            prop_assert_eq!(highest_free(within, length, align, &used), highest);
        }
    }
}
