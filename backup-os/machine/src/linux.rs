//! The jump into a Linux kernel (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use crate::{gdt, Ring0};
use x86_64::registers::control::{Cr4, Cr4Flags};

/// Enters a kernel: interrupts off, CS = 0x10, DS = ES = SS = 0x18, RSI = `boot_params`, all other registers 0.
///
/// # Safety
/// 1. `entry` is the 64-bit entry (load address + 0x200) of a kernel that was loaded as its setup header asks, or
///    `startup_64` of one that is unpacked and relocated.
/// 2. `boot_params` is the physical address of a filled-in `struct boot_params`.
/// 3. The page tables in force map the kernel, boot_params, command line and initramfs at their own addresses, and lie,
///    like this program's descriptor table, where the kernel does not write before it has its own.
/// 4. The calling program is not needed any more by this CPU.
pub unsafe fn enter(ring0: Ring0, entry: u64, boot_params: u64) -> ! {
    x86_64::instructions::interrupts::disable();
    // A kernel that is entered unpacked counts on a TLB without global entries of another (`machine_kexec` leaves CR4 so,
    // too). What cannot be changed in VMX or SMX operation stays.
    let kept = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
        | Cr4Flags::L5_PAGING
        | Cr4Flags::MACHINE_CHECK_EXCEPTION
        | Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS
        | Cr4Flags::SAFER_MODE_EXTENSIONS;
    // SAFETY: 1. paging goes on as it is: only features on top of it end. 2. Nothing here uses any of them.
    unsafe { Cr4::write_raw(Cr4::read_raw() & kept.bits()) };
    // SAFETY: nothing of the caller is needed any more (4).
    unsafe { gdt::load(ring0) };
    // SAFETY: the caller's promises 1 to 3; the direction flag is clear by the Rust ABI.
    unsafe {
        core::arch::asm!(
            "xor ebx, ebx",
            "xor ebp, ebp",
            "xor edi, edi",
            "jmp rax",
            in("rax") entry,
            in("rsi") boot_params,
            options(noreturn),
        );
    }
}
