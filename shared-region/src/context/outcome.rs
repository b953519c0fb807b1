//! What was lost, why the kernel died, and what became of it all.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Something that could not be saved ([`crate::record::Kind::Lost`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// What: `fd 5`, `mapping 7f00…`, `process`.
    pub object: String,
    /// Why.
    pub reason: String,
    /// Whether the process is refused for it.
    pub fatal: bool,
    /// The process's name.
    pub comm: String,
}

/// Why the kernel died ([`crate::record::Kind::Evidence`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The end of the kernel's log.
    pub dmesg: String,
    /// CPU that panicked, −1 if none did.
    pub panic_cpu: i64,
    /// Task that ran there.
    pub task: String,
    /// Return addresses found on its stack, as `symbol+offset`.
    pub stack: Vec<String>,
    /// `pid comm state` of every task.
    pub tasks: Vec<String>,
}

/// Numbers for the report ([`crate::record::Kind::Summary`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Processes recorded.
    pub processes: u32,
    /// Threads recorded.
    pub threads: u32,
    /// Processes that were protected but are refused.
    pub refused: u32,
    /// Frames to be adopted.
    pub own_frames: u64,
    /// Frames shared copy-on-write.
    pub shared_frames: u64,
    /// Frames of files.
    pub file_frames: u64,
    /// Frames marked as retained.
    pub retained_frames: u64,
}

/// What became of a process ([`crate::record::Kind::Outcome`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name.
    pub comm: String,
    /// Whether it runs again.
    pub resumed: bool,
    /// Why not, or what it had to do without.
    pub remarks: Vec<String>,
    /// Frames adopted in place.
    pub adopted: u64,
    /// Frames copied.
    pub copied: u64,
}

/// What became of data and names that the disks did not have ([`crate::record::Kind::FileCache`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCache {
    /// Each file system, and how it got what its journal had not committed.
    pub file_systems: Vec<FileSystem>,
    /// Files of which data was put back, besides those that protected processes hold.
    pub files: u64,
    /// Their data, in bytes.
    pub bytes: u64,
    /// Pages of it that are the dead kernel's own.
    pub in_place: u64,
    /// Pages that were copied.
    pub copied: u64,
    /// Time in all.
    pub nanoseconds: u64,
}

/// A file system in a [`FileCache`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// Where it was known to be: `vda`.
    pub name: String,
    /// What was done, or why not.
    pub done: String,
}

/// What a part of the hand-over has taken ([`crate::record::Kind::Costs`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Which: `adoption`, `calls` ...
    pub part: String,
    /// How many times it was done.
    pub times: u64,
    /// Time in all, without the parts that were done within it.
    pub nanoseconds: u64,
}
