//! As much of a btrfs superblock as tells a file system by its UUID (`struct btrfs_super_block`, fs/btrfs/accessors.h).

use super::ext4::devices;
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// `BTRFS_SUPER_INFO_OFFSET`.
const SUPERBLOCK: u64 = 64 << 10;
const UUID: usize = 32;
const MAGIC: &[u8; 8] = b"_BHRfS_M";
const MAGIC_AT: usize = 64;

/// Reads the UUID from a block device or image.
///
/// # Errors
/// `InvalidData` if it holds no such file system.
fn uuid(path: &Path) -> io::Result<[u8; 16]> {
    let mut block = [0; MAGIC_AT + MAGIC.len()];
    File::open(path)?.read_exact_at(&mut block, SUPERBLOCK)?;
    parse(&block).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(block: &[u8; MAGIC_AT + MAGIC.len()]) -> Option<[u8; 16]> {
    let uuid = block[UUID..].first_chunk()?;
    block.ends_with(MAGIC).then_some(*uuid)
}

/// Every block device that holds the file system with a UUID.
pub fn find_all(wanted: &[u8; 16]) -> Vec<PathBuf> {
    devices()
        .filter(|device| uuid(device).is_ok_and(|uuid| uuid == *wanted))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_is_read_where_there_is_a_file_system() {
        let mut block = [0; MAGIC_AT + MAGIC.len()];
        block[UUID..UUID + 16].fill(7);
        assert_eq!(parse(&block), None);
        block[MAGIC_AT..].copy_from_slice(MAGIC);
        assert_eq!(parse(&block), Some([7; 16]));
    }
}
