//! System V semaphores, message queues and shared memory. They belong to no process: all of the machine's own are kept.

use super::Id;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Names and permissions of an object, `struct ipc_perm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpcPerm {
    /// The id that `semget` or `msgget` gave.
    pub id: u32,
    /// The key, 0 (IPC_PRIVATE) if it has none.
    pub key: i32,
    /// Owner.
    pub uid: u32,
    /// Group of the owner.
    pub gid: u32,
    /// Who made it.
    pub cuid: u32,
    /// Group of who made it.
    pub cgid: u32,
    /// Permissions.
    pub mode: u32,
}

/// A set of semaphores ([`crate::record::Kind::SemaphoreSet`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SemaphoreSet {
    /// Names and permissions.
    pub perm: IpcPerm,
    /// Value of each semaphore.
    pub values: Vec<u16>,
}

/// A message queue ([`crate::record::Kind::MessageQueue`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageQueue {
    /// Names and permissions.
    pub perm: IpcPerm,
    /// Most bytes in the queue (`msg_qbytes`).
    pub limit: u64,
    /// Type and text of each message, in order.
    pub messages: Vec<(i64, Vec<u8>)>,
}

/// A segment of shared memory ([`crate::record::Kind::SharedSegment`]); its content is that of a
/// [`crate::record::Kind::SharedMemory`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSegment {
    /// Names and permissions.
    pub perm: IpcPerm,
    /// Bytes.
    pub size: u64,
    /// Inode id of its content.
    pub inode: Id,
    /// It is removed when nobody has it attached any more (`IPC_RMID`).
    pub removed: bool,
    /// It stays in memory (`SHM_LOCK`).
    pub locked: bool,
}
