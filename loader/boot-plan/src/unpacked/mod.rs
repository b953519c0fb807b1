//! A kernel unpacked and relocated ahead of time, so that it need not do that itself when every millisecond counts.
//!
//! A bzImage is a small program that unpacks the real kernel (`vmlinux`, an ELF file with a table of relocations behind
//! it), picks a random place for it and jumps there (`arch/x86/boot/compressed/misc.c`). Done ahead of time:
//! [`payload`] finds the packed kernel, [`place`] says where the unpacked one goes, [`unpack`] unpacks it a step at a time, [`vmlinux`] lays it out in memory and
//! moves it to its random virtual address, in steps as well. Its first instruction, `startup_64`, takes the same `boot_params` as the
//! bzImage's and runs wherever it lies in physical memory at a multiple of 2 MB.
//!
//! Whatever is unusual (another compression, relocations that do not look like a kernel's) is an error, and the bzImage
//! is booted as it is.

pub mod payload;
pub mod place;
mod relocations;
#[cfg(test)]
mod tests;
pub mod unpack;
pub mod vmlinux;

/// Bytes after which a step that copies ends: a watcher that does this between two looks keeps looking.
const STEP: usize = 1 << 20;

/// Why a kernel cannot be unpacked ahead of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnpackError {
    /// The image names a packed kernel outside of itself.
    Payload,
    /// Packed in a way that is not known here; the first four bytes.
    Packing([u8; 4]),
    /// The packed kernel is damaged.
    Damaged(&'static str),
    /// It unpacks to more than it says, or than there is room for.
    Room {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        room: u64,
    },
    /// What was unpacked is not a kernel's ELF file.
    Vmlinux(&'static str),
    /// The relocations are not as this code knows them.
    Relocations(&'static str),
}

impl core::fmt::Display for UnpackError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Payload => write!(f, "the packed kernel lies outside of its image"),
            Self::Packing(magic) => write!(f, "packed in an unknown way ({magic:02x?})"),
            Self::Damaged(what) => write!(f, "the packed kernel is damaged: {what}"),
            Self::Room { needed, room } => write!(f, "the kernel unpacks to {needed} bytes, there is room for {room}"),
            Self::Vmlinux(what) => write!(f, "the unpacked kernel: {what}"),
            Self::Relocations(what) => write!(f, "the kernel's relocations: {what}"),
        }
    }
}

impl core::error::Error for UnpackError {}
