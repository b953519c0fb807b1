//! Block devices that the device mapper puts together, as a volume manager asks it to.

use super::{BlockDevice, Id};
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// A device of the device mapper, somewhere below a mounted file system ([`crate::record::Kind::MappedDevice`]). Those it
/// lies on come before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedDevice {
    /// Its name among mapped devices, without `/dev/mapper/`.
    pub name: Vec<u8>,
    /// What its maker knows it by; may be empty.
    pub uuid: Vec<u8>,
    /// Nobody can write to it.
    pub is_read_only: bool,
    /// Its parts, in their order and without gaps.
    pub parts: Vec<MappedPart>,
    /// Why it cannot be made again; empty if it can.
    pub refused: String,
}

/// A part of a [`MappedDevice`]: in one piece on another device (`dm-linear`), or by turns on several (`dm-stripe`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedPart {
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// Sectors on one before it is the next one's turn; 0 if there is one alone.
    pub chunk: u64,
    /// What it lies on.
    pub on: Vec<MappedOn>,
}

/// Where a part lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedOn {
    /// On this device ...
    pub device: LowerDevice,
    /// ... from this sector on.
    pub from: u64,
}

/// What a part lies on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LowerDevice {
    /// A disk, or a partition of one.
    Disk(BlockDevice),
    /// Another mapped device, by its owner.
    Mapped(Id),
}

impl Default for LowerDevice {
    fn default() -> Self {
        Self::Mapped(0)
    }
}
