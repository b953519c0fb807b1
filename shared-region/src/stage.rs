//! Kernels held ready to be booted.
//!
//! Writer: the loader at boot (the successor in slot 0, the first kernel in slot 1), the backup OS later. Reader: the
//! backup OS, which checks the digests again before it jumps.

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
