//! As much of an XFS superblock as tells a file system by its UUID (fs/xfs/libxfs/xfs_format.h).

use super::ext4::devices;
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 4] = b"XFSB";
const UUID: usize = 32;

/// Reads the UUID from a block device or image.
///
/// # Errors
/// `InvalidData` if it holds no such file system.
fn uuid(path: &Path) -> io::Result<[u8; 16]> {
    let mut block = [0; 64];
    File::open(path)?.read_exact_at(&mut block, 0)?;
    parse(&block).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(block: &[u8; 64]) -> Option<[u8; 16]> {
    let uuid = block[UUID..].first_chunk()?;
    block.starts_with(MAGIC).then_some(*uuid)
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
        let mut block = [0; 64];
        block[UUID..UUID + 16].fill(7);
        assert_eq!(parse(&block), None);
        block[..4].copy_from_slice(MAGIC);
        assert_eq!(parse(&block), Some([7; 16]));
    }
}
