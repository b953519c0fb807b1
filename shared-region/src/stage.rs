//! Kernels held ready to be booted.
//!
//! Writer: the loader at boot (the successor in slot 0, the first kernel in slot 1); the module, which fills the slot that
//! the running kernel is not from, and makes it the current one with one word; the backup OS during a failover. Reader: the
//! backup OS, which checks the digests again before it jumps.

use core::sync::atomic::AtomicU64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes for a kernel command line with its NUL (`COMMAND_LINE_SIZE`, arch/x86/include/asm/setup.h).
pub const CMDLINE_SIZE: usize = 2048;

/// In [`crate::control::ControlWords::successor_slot`]: the running kernel is in no slot.
pub const NO_SLOT: u64 = u64::MAX;

/// What is in one slot.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StagedKernel {
    /// 1 if the slot holds a kernel.
    pub valid: u64,
    /// Physical address of the bzImage.
    pub kernel: u64,
    /// Its length in bytes.
    pub kernel_len: u64,
    /// Physical address of the initramfs.
    pub initramfs: u64,
    /// Its length in bytes.
    pub initramfs_len: u64,
    /// CRC-32/ISO-HDLC of the bzImage.
    pub kernel_digest: u32,
    /// CRC-32/ISO-HDLC of the initramfs.
    pub initramfs_digest: u32,
    /// Command line, NUL-terminated, as the administrator gave it.
    pub cmdline: [u8; CMDLINE_SIZE],
}

/// The table, at [`crate::layout::STAGE_TABLE`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StageTable {
    /// The slot the next successor is booted from.
    pub current: u64,
    /// The slots.
    pub slots: [StagedKernel; 2],
    /// 1 for a slot whose kernel has failed as a successor: it is not tried again while there is another one.
    pub failed: [u64; 2],
}

impl StagedKernel {
    /// The command line up to its NUL.
    pub fn cmdline(&self) -> &[u8] {
        let end = self.cmdline.iter().position(|&b| b == 0).unwrap_or(CMDLINE_SIZE);
        &self.cmdline[..end]
    }
}

/// The digest used for staged images.
pub fn digest(image: &[u8]) -> u32 {
    const CRC: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISO_HDLC);
    CRC.checksum(image)
}

const _: () = assert!(core::mem::size_of::<StageTable>() <= crate::layout::STAGE_TABLE.size as usize);
const _: () = assert!(core::mem::size_of::<StageWords>() <= crate::layout::STAGE_WORDS.size as usize);

/// What has become of the kernel that was staged last; [`StageWords::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum StageState {
    /// Nothing has been looked at.
    None = 0,
    /// Its digests are being compared and it is put in its place.
    Checking = 1,
    /// It lies in the nursery and could take over; it is being unpacked.
    Placed = 2,
    /// It lies in the nursery as it will be entered.
    Ready = 3,
    /// It cannot take over: [`StageWords::why`] says why. The kernel before is the current one again.
    Refused = 4,
}

impl StageState {
    /// The state for a stored word, if it is one of ours.
    pub const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            0 => Self::None,
            1 => Self::Checking,
            2 => Self::Placed,
            3 => Self::Ready,
            4 => Self::Refused,
            _ => return None,
        })
    }
}

/// Bytes of [`StageWords::why`].
pub const WHY_SIZE: usize = 192;

/// Question and answer about a kernel that is staged by a running one, at [`crate::layout::STAGE_WORDS`].
#[derive(Debug)]
#[repr(C)]
pub struct StageWords {
    /// Number of kernels that were staged since the machine was started, the loader's not counted. Writer: the module,
    /// after the table. Release.
    pub request: AtomicU64,
    /// The request that `state` and `why` are about. Writer: the backup OS, after those. Release.
    pub answered: AtomicU64,
    /// [`StageState`]. Writer: the backup OS. Release.
    pub state: AtomicU64,
    /// Why it was refused, as text, NUL-padded. Writer: the backup OS.
    pub why: [AtomicU64; WHY_SIZE / 8],
}
