//! What earlier successors of this failover did before they failed.
//!
//! One that fails before processes run is replaced, and this kernel does it all again, on what the other has left: memory
//! as it was, disks perhaps written to, and of some processes memory that could not be left as it was.

use orthros_device::Region;
use shared_region::{
    attempts::{AttemptWords, MAX},
    control::CommitPoint,
    layout::{ATTEMPTS, REPORT},
    record::{Kind, Stream},
};
use std::{collections::BTreeSet, mem::offset_of};

/// See the module's comment.
#[derive(Debug, Default)]
pub struct Earlier {
    /// Whether disks have been written to.
    pub wrote_to_disks: bool,
    /// Processes whose memory may have been changed.
    pub touched: BTreeSet<u32>,
}

impl Earlier {
    /// Reads it from the region. `failover` is the number of the one under way.
    pub fn read(region: &Region, failover: u64) -> Self {
        let count = word(region, offset_of!(AttemptWords, count)).min(MAX as u64) as usize;
        let first = word(region, offset_of!(AttemptWords, inherited)).min(MAX as u64) as usize;
        let earlier = first..count.saturating_sub(1);
        let mut levels = earlier
            .clone()
            .map(|index| word(region, offset_of!(AttemptWords, levels) + 8 * index));
        // One for which there was no room could have done anything.
        let wrote_to_disks = levels.any(|level| level >= CommitPoint::Disks as u64) || count == MAX;
        let touched = if earlier.is_empty() && count < MAX {
            BTreeSet::new()
        } else {
            touched(&region.copy(REPORT, REPORT.size as usize), failover)
        };
        Self {
            wrote_to_disks,
            touched,
        }
    }
}

/// Attempts of this failover, the one under way included.
pub fn attempts(region: &Region) -> u64 {
    let inherited = word(region, offset_of!(AttemptWords, inherited));
    word(region, offset_of!(AttemptWords, count)).saturating_sub(inherited)
}

/// A word of [`AttemptWords`].
fn word(region: &Region, offset: usize) -> u64 {
    region.word(ATTEMPTS.offset + offset as u64)
}

/// What an earlier successor has noted ([`crate::restore::host::at_stake`]).
fn touched(report: &[u8], failover: u64) -> BTreeSet<u32> {
    let Some(stream) = Stream::open(report)
        .ok()
        .filter(|stream| stream.header.failover == failover)
    else {
        return BTreeSet::new();
    };
    let notes = stream
        .records()
        .filter_map(Result::ok)
        .filter(|record| record.kind == Kind::Lost);
    notes.filter_map(|record| u32::try_from(record.owner).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_this_failover_are_found_and_others_are_not() {
        let mut area = vec![0; 4096];
        let used = crate::restore::host::at_stake(&mut area, 7, &[70, 71]).unwrap();
        assert_eq!(touched(&area[..used], 7), BTreeSet::from([70, 71]));
        assert_eq!(touched(&area[..used], 8), BTreeSet::new());
        assert_eq!(touched(&[0; 64], 7), BTreeSet::new());
    }
}
