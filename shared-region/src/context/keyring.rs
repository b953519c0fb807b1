//! Session keyrings.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A session keyring ([`crate::record::Kind::Keyring`]). Its serial number is not kept: the kernel chooses those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyring {
    /// Its name.
    pub description: Vec<u8>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions, as `KEYCTL_SETPERM` takes them.
    pub perm: u32,
    /// What is linked into it.
    pub keys: Vec<LinkedKey>,
}

/// A key in a keyring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkedKey {
    /// The keyring of a user, which is empty.
    UserKeyring {
        /// The user.
        uid: u32,
    },
    /// A key of type `user`.
    User {
        /// Its name.
        description: Vec<u8>,
        /// What it holds.
        payload: Vec<u8>,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Permissions.
        perm: u32,
    },
}
