//! System V semaphores, message queues and shared memory. They belong to no process but to an IPC namespace: all are kept of the
//! first one, and of those that kept processes are in.

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

/// An object of an IPC namespace other than that of the first process ([`crate::record::Kind::IpcObject`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpcObject {
    /// A set of semaphores.
    Semaphores(SemaphoreSet),
    /// A message queue.
    Messages(MessageQueue),
    /// A segment of shared memory.
    Segment(SharedSegment),
    /// A POSIX message queue, by its id.
    PosixQueue(Id),
}

impl Default for IpcObject {
    fn default() -> Self {
        Self::PosixQueue(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are an interface between programs of different age.
    #[test]
    fn golden_bytes() {
        let bytes = |object: &IpcObject| postcard::to_allocvec(object).unwrap();
        let perm = IpcPerm {
            id: 1,
            key: 2,
            uid: 3,
            gid: 4,
            cuid: 5,
            cgid: 6,
            mode: 7,
        };
        let set = IpcObject::Semaphores(SemaphoreSet {
            perm,
            values: [8, 9].into(),
        });
        assert_eq!(bytes(&set), [0, 1, 4, 3, 4, 5, 6, 7, 2, 8, 9]);
        let queue = IpcObject::Messages(MessageQueue {
            perm,
            limit: 8,
            messages: [(-1, b"a".to_vec())].into(),
        });
        assert_eq!(bytes(&queue), [1, 1, 4, 3, 4, 5, 6, 7, 8, 1, 1, 1, b'a']);
        let segment = IpcObject::Segment(SharedSegment {
            perm,
            size: 8,
            inode: 9,
            removed: true,
            locked: false,
        });
        assert_eq!(bytes(&segment), [2, 1, 4, 3, 4, 5, 6, 7, 8, 9, 1, 0]);
        assert_eq!(bytes(&IpcObject::PosixQueue(5)), [3, 5]);
    }
}
