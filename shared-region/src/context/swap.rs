//! Memory on swap.

use super::{BlockDevice, DiskRun};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// An area of swap that pages of processes lie on ([`crate::record::Kind::SwapArea`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapArea {
    /// The device, or what is to be found on it.
    pub device: SwapDevice,
    /// Where on the device the area's header lies, in bytes.
    pub header: u64,
    /// Pages of the area, the header's included.
    pub pages: u32,
    /// What `/proc/swaps` calls it, for messages.
    pub name: Vec<u8>,
}

/// How the device of an area of swap is found again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwapDevice {
    /// The device of the file system with this UUID, in which the area is a file.
    FileSystem([u8; 16]),
    /// A disk or partition.
    Block(BlockDevice),
}

impl Default for SwapDevice {
    fn default() -> Self {
        Self::FileSystem([0; 16])
    }
}

/// Pages of an address space or of shared memory that lie on swap ([`crate::record::Kind::SwappedPages`]). One object may have
/// several such records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwappedPages {
    /// The area's id; 0 if there are only zeros.
    pub area: super::Id,
    /// Where they lie: [`DiskRun::offset`] is the address in the address space, or the offset in the object.
    pub runs: Vec<DiskRun>,
    /// Pages of private mappings of files that are zero: address, bytes.
    pub zeros: Vec<(u64, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// The bytes are an interface between programs of different age: a change here is a new version.
    #[test]
    fn golden_bytes() {
        let area = SwapArea {
            device: SwapDevice::Block(BlockDevice {
                path: b"d".to_vec(),
                start: 2048,
                sectors: 8,
                partition: b"u".to_vec(),
            }),
            header: 4096,
            pages: 300,
            name: b"n".to_vec(),
        };
        let want = vec![1, 1, b'd', 0x80, 16, 8, 1, b'u', 0x80, 32, 0xAC, 2, 1, b'n'];
        assert_eq!(postcard::to_allocvec(&area).unwrap(), want);
        let file = SwapArea {
            device: SwapDevice::FileSystem([7; 16]),
            ..SwapArea::default()
        };
        let want = [[0].as_slice(), &[7; 16], &[0, 0, 0]].concat();
        assert_eq!(postcard::to_allocvec(&file).unwrap(), want);
        let pages = SwappedPages {
            area: 2,
            runs: vec![DiskRun {
                offset: 0x1000,
                at: 0x2000,
                bytes: 0x3000,
            }],
            zeros: vec![(0x4000, 0x1000)],
        };
        let want = vec![2, 1, 0x80, 32, 0x80, 64, 0x80, 96, 1, 0x80, 0x80, 1, 0x80, 32];
        assert_eq!(postcard::to_allocvec(&pages).unwrap(), want);
    }
}
