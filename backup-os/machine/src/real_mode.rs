//! From long mode down to real mode, for a kernel that is woken: firmware calls a waking vector in real mode
//! (ACPI 6.5, 5.2.10), and what lies there expects nothing else.
//!
//! The way leads through compatibility mode without paging and through a 16-bit segment (Intel SDM vol. 3A, 10.8.5.3
//! and 10.9.2). The code is copied to [`TRAMPOLINE`], one page below 1 MB that every kernel is told to leave alone, and
//! holds no address of the program it came from. One CPU passes at a time.

use crate::Ring0;
use shared_region::layout::TRAMPOLINE;

/// Where the far pointer to the waking vector lies in the page.
const TARGET_OFFSET: u64 = 0xE00;

core::arch::global_asm!(
    ".pushsection .text.orthros_real_mode, \"ax\"",
    ".code64",
    ".globl orthros_real_mode_begin",
    "orthros_real_mode_begin:",
    "cli",
    "cld",
    "lgdt orthros_real_mode_gdtr(%rip)",
    "pushq ${code32}",
    "leaq orthros_real_mode_32(%rip), %rax",
    "pushq %rax",
    "lretq",
    ".code32",
    "orthros_real_mode_32:",
    "movl ${data16}, %eax", // limits as real mode has them stay in force when PE is cleared
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %ss",
    "movl %eax, %fs",
    "movl %eax, %gs",
    "movl %cr0, %eax",
    "andl $0x7FFFFFFF, %eax", // PG off: out of long mode
    "movl %eax, %cr0",
    "movl $0xC0000080, %ecx", // EFER
    "xorl %eax, %eax",
    "xorl %edx, %edx",
    "wrmsr",
    "movl %eax, %cr4",
    "movl %eax, %cr3",
    "ljmpl ${code16}, $({base} + orthros_real_mode_16 - orthros_real_mode_begin)",
    ".code16",
    "orthros_real_mode_16:",
    "lidtl ({base} + orthros_real_mode_idtr - orthros_real_mode_begin)",
    "movl $0x10, %eax", // ET alone: PE off, caches on
    "movl %eax, %cr0",
    "ljmpw ${segment}, $(orthros_real_mode_0 - orthros_real_mode_begin)",
    "orthros_real_mode_0:",
    "xorl %eax, %eax",
    "movw %ax, %ds",
    "movw %ax, %es",
    "movw %ax, %ss",
    "movw %ax, %fs",
    "movw %ax, %gs",
    "ljmpw *{target}",
    ".balign 8",
    "orthros_real_mode_gdtr:",
    ".short 4 * 8 - 1",
    ".quad {base} + orthros_real_mode_gdt - orthros_real_mode_begin",
    "orthros_real_mode_idtr:", // the vectors of the BIOS
    ".short 0x3FF",
    ".long 0",
    ".balign 8",
    "orthros_real_mode_gdt:",
    ".quad 0, 0x00CF9B000000FFFF, 0x00009B000000FFFF, 0x000093000000FFFF",
    ".globl orthros_real_mode_end",
    "orthros_real_mode_end:",
    ".popsection",
    base = const TRAMPOLINE,
    segment = const TRAMPOLINE >> 4,
    target = const TRAMPOLINE + TARGET_OFFSET,
    code32 = const 0x08,
    code16 = const 0x10,
    data16 = const 0x18,
    options(att_syntax),
);

unsafe extern "C" {
    static orthros_real_mode_begin: u8;
    static orthros_real_mode_end: u8;
}

/// Copies the code into its page, to leave for the real-mode address `vector`, below 1 MB.
///
/// # Safety
/// No CPU is in the page or has its descriptor table there, and nobody holds a reference into it.
pub unsafe fn install(_: Ring0, vector: u32) {
    // SAFETY: only the addresses of the two symbols are used, and both lie in one section, in this order.
    let (begin, length) = unsafe {
        let begin = &raw const orthros_real_mode_begin;
        (begin, (&raw const orthros_real_mode_end).offset_from(begin) as usize)
    };
    assert!(length as u64 <= TARGET_OFFSET, "code longer than its page");
    let target = (vector >> 4 & 0xFFFF) << 16 | vector & 0xF;
    // SAFETY: 1. the page is mapped at its own address (`Ring0`). 2. Nobody else uses it (the caller's promise). 3. The
    // source is `length` bytes of this program's text.
    unsafe {
        core::ptr::copy_nonoverlapping(begin, TRAMPOLINE as *mut u8, length);
        ((TRAMPOLINE + TARGET_OFFSET) as *mut u32).write_volatile(target);
    }
}

/// Leaves for the vector: real mode, interrupts off, CR0 and CR4 as after a reset with caches on.
///
/// # Safety
/// 1. [`install`] was called for this CPU. 2. The page tables in force map the page at its own address and let code run
///    there. 3. The calling program is not needed any more by this CPU.
pub unsafe fn leave(_: Ring0) -> ! {
    x86_64::instructions::interrupts::disable();
    // SAFETY: the caller's promises.
    unsafe { core::arch::asm!("jmp {page}", page = in(reg) TRAMPOLINE, options(noreturn)) }
}
