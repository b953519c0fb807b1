//! What the disk of a mounted vfat does not have: its own blocks, entries of its directories, data of files.

use super::{BlockDevice, Id, PagePart};
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// A mounted vfat ([`crate::record::Kind::FatFileSystem`]). It is for an agent that writes to the device before the file system is
/// mounted. Clusters count from 2, as in the FAT; sectors are those of the file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FatFileSystem {
    /// Where it is known to be, for messages: `vda1`.
    pub name: String,
    /// The disk or partition.
    pub disk: BlockDevice,
    /// How it is laid out.
    pub geometry: FatGeometry,
    /// Its disk may lack something; else all lists are empty.
    pub is_behind: bool,
    /// It was marked as not unmounted cleanly before it was mounted.
    pub was_dirty: bool,
    /// Where a free cluster was found last.
    pub last_allocated: u32,
    /// What is added to a time since 1970 before it is written, in seconds.
    pub local_offset: i64,
    /// Its own blocks that are newer than the disk.
    pub blocks: Vec<FatBlock>,
    /// All files and directories that are in memory and have an entry.
    pub inodes: Vec<FatInode>,
    /// Directories that somebody was changing.
    pub changing: Vec<FatDirectory>,
}

/// Layout of a FAT file system, as its boot sector says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FatGeometry {
    /// Bytes of a sector.
    pub sector: u32,
    /// Sectors of a cluster.
    pub cluster: u32,
    /// Bits of an entry of the FAT: 12, 16 or 32.
    pub bits: u32,
    /// Copies of the FAT.
    pub fats: u32,
    /// First sector of the first FAT.
    pub fat_start: u64,
    /// Sectors of a FAT.
    pub fat_sectors: u64,
    /// First sector of a root directory that is not in clusters.
    pub root_start: u64,
    /// Its entries; 0 if it is in clusters.
    pub root_entries: u32,
    /// First sector of cluster 2.
    pub data_start: u64,
    /// The first cluster behind the last.
    pub clusters: u32,
    /// First cluster of the root directory; 0 if it is not in clusters.
    pub root_cluster: u32,
    /// Sector with the number of free clusters; 0 if there is none.
    pub info_sector: u64,
    /// Number of the volume.
    pub volume: u32,
}

/// A block in the page cache of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FatBlock {
    /// Its sector.
    pub sector: u64,
    /// Physical address of its content.
    pub at: u64,
}

/// A file or directory, as its entry has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FatInode {
    /// Its inode.
    pub id: Id,
    /// Place of its entry, counted in entries from the start of the device.
    pub position: u64,
    /// First cluster; 0 if it has none.
    pub start: u32,
    /// Bytes; of a directory 0.
    pub size: u32,
    /// Attributes (`ATTR_*`).
    pub attributes: u8,
    /// Times of modification, access and birth in nanoseconds since 1970.
    pub times: [i64; 3],
}

/// A directory that somebody was changing, and what is known of names in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FatDirectory {
    /// First cluster; 0 for a root directory that is not in clusters.
    pub start: u32,
    /// Names, with the place of the entry of each that leads somewhere: 0 if it has none any more.
    pub names: Vec<(Vec<u8>, Option<u64>)>,
}

/// Data of a file that its disk does not have ([`crate::record::Kind::FatFile`]). Whole pages follow as
/// [`crate::record::Kind::Frames`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FatFile {
    /// Parts of pages.
    pub parts: Vec<PagePart>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// The bytes are an interface between programs of different age: a change here is a new version.
    #[test]
    fn golden_bytes() {
        let record = FatFileSystem {
            name: "n".into(),
            disk: BlockDevice {
                path: b"d".to_vec(),
                start: 1,
                sectors: 2,
                partition: b"u".to_vec(),
            },
            geometry: FatGeometry {
                sector: 3,
                cluster: 4,
                bits: 5,
                fats: 6,
                fat_start: 7,
                fat_sectors: 8,
                root_start: 9,
                root_entries: 10,
                data_start: 11,
                clusters: 12,
                root_cluster: 13,
                info_sector: 14,
                volume: 15,
            },
            is_behind: true,
            was_dirty: false,
            last_allocated: 16,
            local_offset: -9,
            blocks: vec![FatBlock { sector: 18, at: 19 }],
            inodes: vec![FatInode {
                id: 20,
                position: 21,
                start: 22,
                size: 23,
                attributes: 24,
                times: [-13, 13, 14],
            }],
            changing: vec![FatDirectory {
                start: 29,
                names: vec![(b"x".to_vec(), None), (b"y".to_vec(), Some(30))],
            }],
        };
        let want = vec![
            1, b'n', 1, b'd', 1, 2, 1, b'u', 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1, 0, 16, 17, 1, 18, 19, 1,
            20, 21, 22, 23, 24, 25, 26, 28, 1, 29, 2, 1, b'x', 0, 1, b'y', 1, 30,
        ];
        assert_eq!(postcard::to_allocvec(&record).unwrap(), want);
        let file = FatFile {
            parts: vec![PagePart {
                offset: 1,
                at: 2,
                bytes: 3,
            }],
        };
        assert_eq!(postcard::to_allocvec(&file).unwrap(), [1, 1, 2, 3]);
    }
}
