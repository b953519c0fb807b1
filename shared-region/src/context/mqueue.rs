//! POSIX message queues. They belong to no process but to an IPC namespace, as System V objects do.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A queue ([`crate::record::Kind::PosixQueue`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixQueue {
    /// Its name, without a slash.
    pub name: Vec<u8>,
    /// The name is gone (`mq_unlink`).
    pub unlinked: bool,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group of the owner.
    pub gid: u32,
    /// Most messages, and most bytes of one (`mq_maxmsg`, `mq_msgsize`).
    pub limits: (u64, u64),
    /// Priority and text of each message, in the order in which they are received.
    pub messages: Vec<(u32, Vec<u8>)>,
}
