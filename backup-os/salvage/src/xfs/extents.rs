//! Where the content of a file is.

use alloc::vec::Vec;
use shared_region::context::DiskRun;

/// An extent of a file, in blocks (`struct xfs_iext_rec`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub start: u64,
    pub blocks: u64,
    pub at: u64,
    pub is_unwritten: bool,
}

impl Extent {
    pub const BYTES: u64 = 16;

    /// `None` for an empty record.
    pub fn parse(record: &[u8; 16]) -> Option<Self> {
        let (low, high) = record.split_at(8);
        let low = u64::from_le_bytes(low.try_into().ok()?);
        let high = u64::from_le_bytes(high.try_into().ok()?);
        (high != 0).then_some(Self {
            start: low & ((1 << 54) - 1),
            blocks: high & ((1 << 21) - 1),
            at: low >> 54 | (high & !((1 << 22) - 1)) >> 12,
            is_unwritten: high & 1 << 21 != 0,
        })
    }

    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.blocks)
    }

    /// Room is set aside, but not where (`isnullstartblock`).
    pub const fn is_delayed(&self) -> bool {
        const MASK: u64 = ((1 << 35) - 1) << 17;
        self.at & MASK == MASK
    }
}

/// How blocks are numbered: the upper bits are the number of the allocation group.
pub(super) struct Geometry {
    pub group_blocks: u64,
    pub group_bits: u32,
    pub block_bits: u32,
}

impl Geometry {
    /// The written blocks of extents, in bytes; `None` if a number makes no sense.
    pub fn runs(&self, extents: &[Extent]) -> Option<Vec<DiskRun>> {
        let bytes = |blocks: u64| blocks.checked_mul(1u64.checked_shl(self.block_bits)?);
        let written = extents.iter().filter(|it| !it.is_unwritten && !it.is_delayed());
        written
            .map(|extent| {
                let group = extent.at.checked_shr(self.group_bits)?;
                let within = extent.at & 1u64.checked_shl(self.group_bits)?.checked_sub(1)?;
                let block = group.checked_mul(self.group_blocks)?.checked_add(within)?;
                (within < self.group_blocks).then_some(DiskRun {
                    offset: bytes(extent.start)?,
                    at: bytes(block)?,
                    bytes: bytes(extent.blocks)?,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(start: u64, blocks: u64, at: u64, unwritten: bool) -> [u8; 16] {
        let low = start | at << 54;
        let high = blocks | (at >> 10) << 22 | u64::from(unwritten) << 21;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        bytes
    }

    #[test]
    fn extents_lead_to_bytes_of_the_device() {
        let geometry = Geometry {
            group_blocks: 1000,
            group_bits: 10,
            block_bits: 12,
        };
        let delayed = ((1u64 << 35) - 1) << 17;
        let extents = [
            record(0, 2, 3 << 10 | 999, false),
            record(7, 1, 5, true),
            record(8, 1, delayed | 4, false),
            record(9, 4, 5, false),
        ]
        .map(|bytes| Extent::parse(&bytes).unwrap());
        assert_eq!(
            geometry.runs(&extents).unwrap(),
            [
                DiskRun {
                    offset: 0,
                    at: 3999 << 12,
                    bytes: 2 << 12
                },
                DiskRun {
                    offset: 9 << 12,
                    at: 5 << 12,
                    bytes: 4 << 12
                }
            ]
        );
        let beyond = Extent::parse(&record(0, 1, 1001, false)).unwrap();
        assert_eq!(geometry.runs(&[beyond]), None);
        assert_eq!(Extent::parse(&[0; 16]), None);
    }
}
