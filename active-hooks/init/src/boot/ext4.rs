//! As much of an ext4 superblock as tells a file system by its label or UUID (fs/ext4/ext4.h).

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const SUPERBLOCK: u64 = 1024;
const MAGIC: (usize, u16) = (56, 0xEF53);
const UUID: usize = 104;
const LABEL: usize = 120;

/// What names an ext2, ext3 or ext4 file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// In the form of 8-4-4-4-12 lower-case hexadecimal digits.
    pub uuid: String,
    /// Volume name.
    pub label: String,
}

/// Reads the names from a block device or image.
///
/// # Errors
/// `InvalidData` if it holds no such file system.
pub fn names(path: &Path) -> io::Result<Names> {
    let mut block = [0; 256];
    File::open(path)?.read_exact_at(&mut block, SUPERBLOCK)?;
    parse(&block).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(block: &[u8; 256]) -> Option<Names> {
    if u16::from_le_bytes([block[MAGIC.0], block[MAGIC.0 + 1]]) != MAGIC.1 {
        return None;
    }
    let uuid = uuid_text(&block[UUID..UUID + 16]);
    let label: Vec<u8> = block[LABEL..LABEL + 16]
        .iter()
        .copied()
        .take_while(|&byte| byte != 0)
        .collect();
    Some(Names {
        uuid,
        label: String::from_utf8_lossy(&label).into_owned(),
    })
}

/// When a file system was last mounted, checked, or had its superblock written for another reason, in seconds since 1970.
///
/// # Errors
/// It cannot be read.
pub fn last_used(path: &Path) -> io::Result<i64> {
    let mut block = [0; 1024];
    File::open(path)?.read_exact_at(&mut block, SUPERBLOCK)?;
    Ok(latest(&block))
}

/// `s_mtime`, `s_wtime` and `s_lastcheck`, each with its `_hi`.
const TIMES: [(usize, usize); 3] = [(44, 0x275), (48, 0x274), (64, 0x277)];

fn latest(block: &[u8; 1024]) -> i64 {
    let time = |&(low, high): &(usize, usize)| {
        let low = block[low..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        i64::from(low) | i64::from(block[high]) << 32
    };
    TIMES.iter().map(time).max().unwrap_or(0)
}

/// A UUID as it is written.
pub fn uuid_text(bytes: &[u8]) -> String {
    let mut uuid = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            uuid.push('-');
        }
        uuid.push_str(&format!("{byte:02x}"));
    }
    uuid
}

/// The block device that holds the file system `wanted` picks.
pub fn find(wanted: impl Fn(&Names) -> bool) -> Option<PathBuf> {
    devices().find(|device| names(device).is_ok_and(|names| wanted(&names)))
}

/// Every block device that holds a file system `wanted` picks.
pub fn find_all(wanted: impl Fn(&Names) -> bool) -> Vec<PathBuf> {
    devices()
        .filter(|device| names(device).is_ok_and(|names| wanted(&names)))
        .collect()
}

/// All block devices.
pub fn all_devices() -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    entries.map(|entry| Path::new("/dev").join(entry.file_name()))
}

/// All block devices but those that belong to another (a mapped device, a RAID): what is on them is on that one.
pub fn devices() -> impl Iterator<Item = PathBuf> {
    let holders = |device: &Path| Some(Path::new("/sys/class/block").join(device.file_name()?).join("holders"));
    let is_held = move |device: &Path| {
        holders(device).is_some_and(|folder| std::fs::read_dir(folder).is_ok_and(|mut held| held.next().is_some()))
    };
    all_devices().filter(move |device| !is_held(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> [u8; 256] {
        let mut block = [0; 256];
        block[56..58].copy_from_slice(&0xEF53u16.to_le_bytes());
        for (index, byte) in block[UUID..UUID + 16].iter_mut().enumerate() {
            *byte = index as u8 * 0x11;
        }
        block[LABEL..LABEL + 4].copy_from_slice(b"root");
        block
    }

    #[test]
    fn names_are_read() {
        let names = parse(&block()).unwrap();
        assert_eq!(names.uuid, "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(names.label, "root");
    }

    #[test]
    fn the_latest_use_counts() {
        let mut block = [0; 1024];
        block[44..48].copy_from_slice(&7u32.to_le_bytes());
        block[48..52].copy_from_slice(&9u32.to_le_bytes());
        block[64..68].copy_from_slice(&8u32.to_le_bytes());
        assert_eq!(latest(&block), 9);
        block[0x277] = 1;
        assert_eq!(latest(&block), (1 << 32) + 8);
    }

    #[test]
    fn another_magic_is_no_file_system() {
        let mut block = block();
        block[56] = 0;
        assert_eq!(parse(&block), None);
    }
}
