//! Flat segments at the selectors the Linux 64-bit boot protocol asks for (Documentation/arch/x86/boot.rst).

use crate::Ring0;

/// 32-bit code, for the way through protected mode.
pub const CODE32: u16 = 0x08;
/// 64-bit code: `__BOOT_CS`.
pub const CODE64: u16 = 0x10;
/// Data: `__BOOT_DS`.
pub const DATA: u16 = 0x18;

/// The descriptors (Intel SDM vol. 3A, 3.4.5): present, ring 0, base 0, limit 4 GB, accessed.
pub const DESCRIPTORS: [u64; 4] = [0, 0x00CF_9B00_0000_FFFF, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];

static TABLE: [u64; 4] = DESCRIPTORS;

/// Loads the table of this program and every segment register; FS and GS bases become 0.
///
/// # Safety
/// Nothing relies on the segment bases or on a task-state segment loaded before.
pub unsafe fn load(_: Ring0) {
    let pointer = x86_64::structures::DescriptorTablePointer {
        limit: (core::mem::size_of_val(&TABLE) - 1) as u16,
        base: x86_64::VirtAddr::from_ptr(&raw const TABLE),
    };
    // SAFETY: 1. `Ring0`: the instructions are allowed. 2. The table lives as long as the program. 3. Its code segment is
    // a 64-bit one at the same base as before, so execution goes on after the far return.
    unsafe {
        x86_64::instructions::tables::lgdt(&pointer);
        core::arch::asm!(
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "mov fs, {data:e}",
            "mov gs, {data:e}",
            code = in(reg) u64::from(CODE64),
            data = in(reg) u32::from(DATA),
            scratch = out(reg) _,
        );
    }
}
