//! Which processes the administrator asked to keep.
//!
//! Writer: the module, on behalf of `orthros-ctl`, under its own lock. Reader: the salvager, when the active is dead.
//! A torn entry (the active died while writing) is seen by `seq` being odd; the entries are then read all the same,
//! each by itself, and one that makes no sense is reported and skipped.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Entries in the table.
pub const MAX_ENTRIES: usize = 1024;

/// What [`ProtectEntry::kind`] says.
pub mod kind {
    /// The slot is free.
    pub const FREE: u32 = 0;
    /// One process, by `tgid` and `start_boottime`.
    pub const PROCESS: u32 = 1;
    /// Every process whose `comm` is the entry's, whenever it started.
    pub const COMM: u32 = 2;
}

/// Bits of [`ProtectEntry::flags`].
pub mod flags {
    /// Descendants of the process are protected with it.
    pub const DESCENDANTS: u32 = 1;
}

/// One wish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProtectEntry {
    /// One of [`kind`].
    pub kind: u32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Thread group id in the initial pid namespace.
    pub tgid: u64,
    /// `task_struct.start_boottime` in nanoseconds, so that a recycled id is not mistaken; 0 is "any".
    pub start_boottime: u64,
    /// `task_struct.comm`, NUL-padded.
    pub comm: [u8; 16],
}

/// The table, at [`crate::layout::PROTECT`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProtectTable {
    /// Even when no entry is being written.
    pub seq: u64,
    /// The entries, free ones in between.
    pub entries: [ProtectEntry; MAX_ENTRIES],
}

const _: () = assert!(core::mem::size_of::<ProtectTable>() <= crate::layout::PROTECT.size as usize);
