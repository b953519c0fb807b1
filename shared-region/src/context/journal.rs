//! What the disks do not know of whole file systems: transactions of their journals, and data of files.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// A mounted ext4 and what of its journal (jbd2) had not been committed ([`crate::record::Kind::Journal`]). Block numbers
/// and frames are those at the moment of the failure. It is for an agent that writes the transactions to the log before
/// the file system is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// UUID of the file system.
    pub uuid: [u8; 16],
    /// Device number of the file system.
    pub device: u64,
    /// Where it is known to be, for messages: `vda`.
    pub name: String,
    /// Bytes of a block.
    pub block_size: u32,
    /// The first 80 bytes of the journal's superblock, as memory has it.
    pub superblock: Vec<u8>,
    /// The journal's inode: the 60 bytes that lead to its blocks.
    pub inode: Vec<u8>,
    /// The transaction that was being committed, and its state (`t_state`).
    pub committing: Option<(u32, u32)>,
    /// The transaction that took changes, and its state.
    pub running: Option<(u32, u32)>,
    /// Why the running transaction is not whole; empty if it is. It takes its blocks to be given up.
    pub running_refused: String,
    /// Why nothing may be written; empty if it may.
    pub refused: String,
    /// Blocks of both transactions.
    pub blocks: Vec<JournalBlock>,
    /// Blocks that older transactions must not write any more.
    pub revoked: Vec<RevokedBlock>,
}

/// A mounted ext4 whose journal has nothing that its log has not ([`crate::record::Kind::IdleJournal`]): it tells which
/// file system the files are of that have this device number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleJournal {
    /// UUID of the file system.
    pub uuid: [u8; 16],
    /// Device number of the file system.
    pub device: u64,
    /// As [`Journal::name`].
    pub name: String,
}

/// A block of a transaction that is not committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalBlock {
    /// Its number in the file system.
    pub number: u64,
    /// Physical address of its content; 0 if only [`Self::before`] is known.
    pub at: u64,
    /// Physical address of the content that belongs to the committing transaction, if the running one has changed it.
    pub before: Option<u64>,
    /// Belongs to the committing transaction.
    pub committing: bool,
    /// Belongs to the running transaction.
    pub running: bool,
}

/// A block that was revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedBlock {
    /// Its number in the file system.
    pub number: u64,
    /// By the committing transaction; else by the running one.
    pub committing: bool,
}

/// Blocks of committed transactions that were not written to their places yet ([`crate::record::Kind::Checkpoint`]), as they
/// are in memory, of a file system whose data goes through the journal. What is in none of the transactions, nor here, is in
/// its place. Where the running transaction is refused, those of both transactions are here as well, with an address if they are
/// data of files, for of that any state is better than none: the rest is put back file by file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Device number of the file system.
    pub device: u64,
    /// The blocks.
    pub blocks: Vec<JournalBlock>,
}

/// A file that nobody protected holds, with data that its disk does not have ([`crate::record::Kind::DirtyFile`]). Whole
/// pages follow as [`crate::record::Kind::Frames`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirtyFile {
    /// Device number of the file system.
    pub device: u64,
    /// Inode number.
    pub number: u64,
    /// Generation.
    pub generation: u32,
    /// Bytes.
    pub size: u64,
    /// Access and modification time in nanoseconds since 1970.
    pub times: [i64; 2],
    /// Whether the disk must have the journal's last transactions for this to be all that is missing.
    pub ahead: bool,
    /// Parts of pages.
    pub parts: Vec<PagePart>,
}

/// A part of a page, where not all of the page is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagePart {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Physical address.
    pub at: u64,
    /// Bytes.
    pub bytes: u32,
}

/// A file that the kernel which has written a rescue area could not put back whole ([`crate::record::Kind::LeftAt`]): how it
/// left it. There is none if it has not touched the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftAt {
    /// Status-change time, in nanoseconds since 1970. Whoever changes the file later gives it a later one.
    pub changed: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are an interface between programs of different age.
    #[test]
    fn golden_bytes() {
        let left = LeftAt { changed: -2 };
        assert_eq!(postcard::to_allocvec(&left).unwrap(), [3]);
        let idle = IdleJournal {
            uuid: [7; 16],
            device: 3,
            name: "vda".into(),
        };
        let bytes = postcard::to_allocvec(&idle).unwrap();
        assert_eq!(bytes, [&[7; 16][..], &[3, 3, b'v', b'd', b'a']].concat());
    }
}
