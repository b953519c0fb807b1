//! A set of page frames, as bitmaps of the stretches of memory it touches: a process of many gigabytes that forked has
//! all of its frames in it.

use alloc::boxed::Box;
use hashbrown::HashMap;

/// log2 of the frames in one bitmap (128 MB of memory, 4 KB of bitmap).
const SHIFT: u32 = 15;
/// Words of a bitmap.
const WORDS: usize = 1 << (SHIFT - 6);

/// The set.
#[derive(Clone, Debug, Default)]
pub struct FrameSet {
    stretches: HashMap<u64, Box<[u64; WORDS]>>,
}

impl FrameSet {
    const fn place(pfn: u64) -> (u64, usize, u64) {
        let within = pfn & ((1 << SHIFT) - 1);
        (pfn >> SHIFT, (within >> 6) as usize, 1 << (within & 63))
    }

    /// Whether a frame is in the set.
    pub fn contains(&self, pfn: u64) -> bool {
        let (stretch, word, bit) = Self::place(pfn);
        let words = self.stretches.get(&stretch);
        words
            .and_then(|words| words.get(word))
            .is_some_and(|word| word & bit != 0)
    }

    /// Adds a frame; `false` if it was there.
    pub fn insert(&mut self, pfn: u64) -> bool {
        let (stretch, word, bit) = Self::place(pfn);
        let words = self.stretches.entry(stretch).or_insert_with(|| Box::new([0; WORDS]));
        let Some(word) = words.get_mut(word) else {
            return false;
        };
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// Takes all frames of another set, which is empty afterwards.
    pub fn append(&mut self, other: &mut Self) {
        for (stretch, words) in other.stretches.drain() {
            match self.stretches.get_mut(&stretch) {
                Some(own) => own.iter_mut().zip(words.iter()).for_each(|(own, word)| *own |= word),
                None => {
                    self.stretches.insert(stretch, words);
                }
            }
        }
    }

    /// Removes all frames.
    pub fn clear(&mut self) {
        self.stretches.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::FrameSet;

    #[test]
    fn frames_are_counted_once_and_sets_join() {
        let (mut all, mut some) = (FrameSet::default(), FrameSet::default());
        assert!(all.insert(5) && !all.insert(5) && all.insert(u64::MAX));
        assert!(some.insert(6) && some.insert(1 << 15));
        all.append(&mut some);
        assert!(all.contains(5) && all.contains(6) && all.contains(1 << 15) && !all.contains(7));
        assert!(!some.contains(6));
    }
}
