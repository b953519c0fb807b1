//! Address spaces, mappings and the frames behind them.

use super::Id;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// An address space ([`crate::record::Kind::AddressSpace`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressSpace {
    /// `prctl_mm_map` fields: start_code end_code start_data end_data start_brk brk start_stack arg_start arg_end env_start env_end.
    pub bounds: [u64; 11],
    /// The auxiliary vector, in (type, value) pairs flattened.
    pub auxv: Vec<u64>,
    /// Path of the executable.
    pub exe: Vec<u8>,
    /// Open-file id of the executable when its inode was deleted, else 0.
    pub exe_inode: Id,
    /// Address of the vDSO, 0 if there is none.
    pub vdso: u64,
    /// Bytes of the [vvar] mapping before it.
    pub vvar_size: u64,
    /// Dumpable (0, 1, 2).
    pub dumpable: u32,
    /// MCL_* of mlockall for the future.
    pub def_flags: u64,
    /// PR_SET_THP_DISABLE.
    pub thp_disable: bool,
    /// MEMBARRIER_CMD_REGISTER_* that were done.
    pub membarrier: u32,
}

/// What backs a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backing {
    /// Private anonymous memory.
    #[default]
    Anonymous,
    /// A file, private.
    FilePrivate,
    /// A file, shared.
    FileShared,
    /// Shared anonymous memory (shmem without a name), memfd or System V, by inode id.
    SharedMemory,
    /// The vDSO.
    Vdso,
    /// Its data pages.
    Vvar,
    /// Something that cannot be restored; the process is refused.
    Unsupported,
    /// A ring of io_uring, by open-file id.
    IoUring,
}

/// A mapping ([`crate::record::Kind::Mapping`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// PROT_*.
    pub prot: u32,
    /// What backs it.
    pub backing: Backing,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Inode id of what is mapped, of a ring of io_uring its open-file id; 0 for anonymous memory.
    pub inode: Id,
    /// Whether the file was opened for writing (matters for a later mprotect of a shared mapping).
    pub writable_file: bool,
    /// MAP_GROWSDOWN, MAP_LOCKED, MAP_NORESERVE as in `mmap`.
    pub map_flags: u32,
    /// madvise values to apply, in order (MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK, MADV_HUGEPAGE …).
    pub advice: Vec<u32>,
    /// PR_SET_VMA_ANON_NAME, empty if none.
    pub name: Vec<u8>,
    /// Was locked with MLOCK_ONFAULT.
    pub lock_on_fault: bool,
    /// Protection key.
    pub pkey: u32,
    /// VM_* that have no name here, for the report.
    pub unusual: u64,
}

/// How a run of frames is handed over; the low 4 bits of [`FrameRun::word`].
pub mod frame_kind {
    /// One process's own page: adopted in place.
    pub const OWN: u64 = 0;
    /// Shared copy-on-write with another protected process, by fork or by ksmd: adopted once, in the owner that has it as `OWN`, and
    /// inherited from there by fork where the relation allows; else copied from the frame.
    pub const SHARED: u64 = 1;
    /// Page of a file or shmem object: content is put back through the file. `va` is the page index × 4096.
    pub const FILE: u64 = 2;
    /// As `FILE`, and dirty.
    pub const FILE_DIRTY: u64 = 3;
    /// Part of a transparent huge page that is whole and exclusive: adopted in place.
    pub const HUGE: u64 = 4;
    /// A kernel's own page that the process sees (vDSO, vvar): copied into fresh memory.
    pub const COPIED: u64 = 5;
}

/// Consecutive page frames behind consecutive pages ([`crate::record::Kind::Frames`]): 16 bytes, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRun {
    /// First address (or byte offset in the file), page aligned.
    pub va: u64,
    /// pfn << 24 | (pages − 1) << 4 | [`frame_kind`]; pages ≤ 2^20.
    pub word: u64,
}

impl FrameRun {
    /// Bytes of a run in memory.
    pub const SIZE: usize = 16;
    /// Most pages in one run.
    pub const MAX_PAGES: u64 = 1 << 20;

    /// Puts a run together. `pages` is 1…[`Self::MAX_PAGES`].
    #[inline]
    pub const fn new(va: u64, pfn: u64, pages: u64, kind: u64) -> Self {
        Self {
            va,
            word: pfn << 24 | (pages.wrapping_sub(1) & 0xF_FFFF) << 4 | (kind & 0xF),
        }
    }

    /// First page frame number.
    #[inline]
    pub const fn pfn(self) -> u64 {
        self.word >> 24
    }

    /// Number of pages.
    #[inline]
    pub const fn pages(self) -> u64 {
        ((self.word >> 4) & 0xF_FFFF) + 1
    }

    /// One of [`frame_kind`].
    #[inline]
    pub const fn kind(self) -> u64 {
        self.word & 0xF
    }

    /// As it lies in memory.
    #[inline]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.va.to_le_bytes());
        bytes[8..].copy_from_slice(&self.word.to_le_bytes());
        bytes
    }

    /// The runs of a [`crate::record::Kind::Frames`] payload. A torn run at the end is left out.
    pub fn iter(payload: &[u8]) -> impl Iterator<Item = Self> + '_ {
        payload.chunks_exact(Self::SIZE).map(|chunk| {
            let (va, word) = chunk.split_at(8);
            Self {
                va: u64::from_le_bytes(va.try_into().unwrap_or_default()),
                word: u64::from_le_bytes(word.try_into().unwrap_or_default()),
            }
        })
    }
}
