//! What names and attributes files have on a file system whose journal cannot be completed.

use super::DiskRun;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The names in a directory, some of which its disk may not have, or have still ([`crate::record::Kind::Names`]). All that
/// is neither here nor in [`Self::rest`] is gone, if [`Self::is_complete`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Device number of the file system.
    pub device: u64,
    /// Inode number of the directory.
    pub number: u64,
    /// Its generation.
    pub generation: u32,
    /// Its path, for messages; may be empty.
    pub path: Vec<u8>,
    /// Names but `.` and `..`.
    pub entries: Vec<Name>,
    /// Names that are known to be gone, whatever [`Self::rest`] says.
    pub gone: Vec<Vec<u8>>,
    /// UUID of the file system.
    pub uuid: [u8; 16],
    /// Blocks of the directory that were not in memory, and have not changed therefore.
    pub rest: Vec<DiskRun>,
    /// Nothing that could be read is left out.
    pub is_complete: bool,
}

/// A name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// The name.
    pub name: Vec<u8>,
    /// Inode number of what it leads to.
    pub number: u64,
    /// Its generation, if it is known; else it is what the disk says.
    pub generation: Option<u32>,
}

/// Everything on a file system that its disk may not know as it is ([`crate::record::Kind::ChangedInodes`]). A name that the disk
/// has and no [`Names`] says anything about is right, unless it leads to one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedInodes {
    /// Device number of the file system.
    pub device: u64,
    /// Every directory among them has its [`Names`].
    pub is_complete: bool,
    /// By ascending number.
    pub inodes: Vec<ChangedInode>,
}

impl ChangedInodes {
    /// That with a number.
    pub fn of(&self, number: u64) -> Option<&ChangedInode> {
        let at = self.inodes.binary_search_by_key(&number, |it| it.number).ok()?;
        self.inodes.get(at)
    }
}

/// An inode that has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedInode {
    /// Inode number.
    pub number: u64,
    /// Generation.
    pub generation: u32,
    /// Link count, 0 if it is deleted or free.
    pub nlink: u32,
    /// All names that lead to it stand in [`Names`], or in directories that have not changed.
    pub names_are_known: bool,
}

impl ChangedInode {
    /// Whether a name that the disk has and nothing else is known of, and that leads to this number with a generation, is one that
    /// was taken away.
    pub const fn is_stale(&self, generation: u32) -> bool {
        self.nlink == 0 || self.generation != generation || self.names_are_known
    }
}

/// Numbers of a file system that no inode has, whatever its disk says ([`crate::record::Kind::FreeNumbers`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreeNumbers {
    /// Device number of the file system.
    pub device: u64,
    /// First and last number of each range, ascending. Those that are among the [`ChangedInodes`] are not free.
    pub ranges: Vec<(u64, u64)>,
}

impl FreeNumbers {
    /// Whether a number lies in a range.
    pub fn has(&self, number: u64) -> bool {
        let at = self.ranges.partition_point(|(first, _)| *first <= number);
        let range = at.checked_sub(1).and_then(|at| self.ranges.get(at));
        range.is_some_and(|(_, last)| number <= *last)
    }
}

/// Any kind of file that its disk may not know as it is ([`crate::record::Kind::Node`]), but for what a regular file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Device number of the file system.
    pub device: u64,
    /// Inode number.
    pub number: u64,
    /// Generation.
    pub generation: u32,
    /// File type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Access and modification time in nanoseconds since 1970.
    pub times: [i64; 2],
    /// Device number of a device, as `mknod` takes it.
    pub rdev: u64,
    /// Where a symbolic link leads; empty if that is not known.
    pub target: Vec<u8>,
    /// Extended attributes; `None` if they are those on the disk, or not known.
    pub attributes: Option<Vec<Attribute>>,
}

/// An extended attribute, as `setxattr` takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// Its name.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::FreeNumbers;
    use alloc::vec;

    #[test]
    fn a_number_is_free_within_a_range_alone() {
        let free = FreeNumbers {
            device: 0,
            ranges: vec![(256, 300), (310, 310), (400, u64::MAX)],
        };
        let all = [255, 256, 300, 301, 310, 311, 400, u64::MAX];
        let want = [false, true, true, false, true, false, true, true];
        assert_eq!(all.map(|number| free.has(number)), want);
        assert!(!FreeNumbers::default().has(0));
    }
}
