//! As much of the superblocks of XFS (fs/xfs/libxfs/xfs_format.h) and btrfs (`struct btrfs_super_block`, fs/btrfs/accessors.h) as
//! tells a file system by its UUID.

use super::ext4::devices;
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Where a kind of file system says which one it is.
struct Kind {
    /// Of the superblock on the device.
    at: u64,
    magic: &'static [u8],
    /// Of the magic in the superblock.
    magic_at: usize,
}

const XFS: Kind = Kind {
    at: 0,
    magic: b"XFSB",
    magic_at: 0,
};
const BTRFS: Kind = Kind {
    // `BTRFS_SUPER_INFO_OFFSET`
    at: 64 << 10,
    magic: b"_BHRfS_M",
    magic_at: 64,
};
/// Where the UUID stands in both.
const UUID: usize = 32;
/// Bytes that are read.
const BYTES: usize = 72;

impl Kind {
    /// Reads the UUID from a block device or image.
    ///
    /// # Errors
    /// `InvalidData` if it holds no such file system.
    fn uuid(&self, path: &Path) -> io::Result<[u8; 16]> {
        let mut block = [0; BYTES];
        File::open(path)?.read_exact_at(&mut block, self.at)?;
        self.parse(&block).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(&self, block: &[u8; BYTES]) -> Option<[u8; 16]> {
        let uuid = block[UUID..].first_chunk()?;
        block[self.magic_at..].starts_with(self.magic).then_some(*uuid)
    }
}

/// Every block device that holds the XFS or btrfs whose UUID `wanted` picks.
pub fn find_all(wanted: impl Fn(&[u8; 16]) -> bool) -> Vec<PathBuf> {
    let is_it = |device: &PathBuf| {
        let mut kinds = [XFS, BTRFS].into_iter();
        kinds.any(|kind| kind.uuid(device).is_ok_and(|uuid| wanted(&uuid)))
    };
    devices().filter(is_it).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_is_read_where_there_is_a_file_system() {
        for kind in [XFS, BTRFS] {
            let mut block = [0; BYTES];
            block[UUID..UUID + 16].fill(7);
            assert_eq!(kind.parse(&block), None);
            block[kind.magic_at..][..kind.magic.len()].copy_from_slice(kind.magic);
            assert_eq!(kind.parse(&block), Some([7; 16]));
        }
    }
}
