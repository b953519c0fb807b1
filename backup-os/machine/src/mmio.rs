//! Memory-mapped registers and firmware structures below 4 GB.

use crate::Ring0;

/// The end of what [`Ring0`] promises to be mapped.
const MAPPED_END: u64 = 1 << 32;

fn pointer<T>(address: u64) -> *mut T {
    let size = core::mem::size_of::<T>() as u64;
    assert!(
        address != 0 && address.is_multiple_of(core::mem::align_of::<T>() as u64) && address <= MAPPED_END - size,
        "register outside the mapped 4 GB, or unaligned"
    );
    address as *mut T
}

/// Reads one byte at a physical address below 4 GB.
///
/// # Panics
/// If the address is not below 4 GB.
pub fn read8(_: Ring0, address: u64) -> u8 {
    // SAFETY: as in `read32`.
    unsafe { pointer::<u8>(address).read_volatile() }
}

/// Reads 16 bits at a physical address below 4 GB.
///
/// # Panics
/// If the address is not below 4 GB or not aligned.
pub fn read16(_: Ring0, address: u64) -> u16 {
    // SAFETY: as in `read32`.
    unsafe { pointer::<u16>(address).read_volatile() }
}

/// Reads 32 bits at a physical address below 4 GB.
///
/// # Panics
/// If the address is not below 4 GB or not aligned.
pub fn read32(_: Ring0, address: u64) -> u32 {
    // SAFETY: 1. mapped at its own address (`Ring0`, 2) and aligned (checked). 2. Any bit pattern is a u32.
    unsafe { pointer::<u32>(address).read_volatile() }
}

/// Writes 32 bits at a physical address below 4 GB.
///
/// # Safety
/// The address is a device register, or memory that nobody holds a reference to.
///
/// # Panics
/// If the address is not below 4 GB or not aligned.
pub unsafe fn write32(_: Ring0, address: u64, value: u32) {
    // SAFETY: 1. mapped writable at its own address (`Ring0`, 2) and aligned (checked). 2. Not referenced: the
    // caller's promise.
    unsafe { pointer::<u32>(address).write_volatile(value) }
}

/// Reads 64 bits at a physical address below 4 GB, in one access.
///
/// # Panics
/// If the address is not below 4 GB or not aligned.
pub fn read64(_: Ring0, address: u64) -> u64 {
    // SAFETY: as in `read32`.
    unsafe { pointer::<u64>(address).read_volatile() }
}

/// Writes 64 bits at a physical address below 4 GB, in one access.
///
/// # Safety
/// As [`write32`].
///
/// # Panics
/// If the address is not below 4 GB or not aligned.
pub unsafe fn write64(_: Ring0, address: u64, value: u64) {
    // SAFETY: as in `write32`.
    unsafe { pointer::<u64>(address).write_volatile(value) }
}

/// Writes 16 bits at a physical address below 4 GB.
///
/// # Safety
/// As [`write32`].
///
/// # Panics
/// If the address is not below 4 GB or not aligned.
pub unsafe fn write16(_: Ring0, address: u64, value: u16) {
    // SAFETY: as in `write32`.
    unsafe { pointer::<u16>(address).write_volatile(value) }
}

/// Writes one byte at a physical address below 4 GB.
///
/// # Safety
/// As [`write32`].
///
/// # Panics
/// If the address is not below 4 GB.
pub unsafe fn write8(_: Ring0, address: u64, value: u8) {
    // SAFETY: as in `write32`.
    unsafe { pointer::<u8>(address).write_volatile(value) }
}
