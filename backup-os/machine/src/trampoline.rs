//! From real mode to long mode, for a CPU that got a start-up IPI or came through the warm-reset vector.
//!
//! The code is copied to [`TRAMPOLINE`](shared_region::layout::TRAMPOLINE), one page below 1 MB that every kernel is
//! told to leave alone, and entered there at CS = page / 16, IP = 0. It holds no address of the program it came from:
//! what it needs lies in [`Start`], at a fixed place in the same page. One CPU passes at a time.
//!
//! On arrival: 64-bit mode, interrupts off, page tables [`Start::cr3`], selectors as in [`crate::gdt`] (the table is the
//! trampoline's own: load another one before the page is written again), no IDT, RDI = [`Start::argument`], RSP =
//! [`Start::stack`] − 8 with a zero return address, CR0 and CR4 as in the code, caches on.

use crate::Ring0;
use shared_region::layout::TRAMPOLINE;

/// Where [`Start`] lies in the page.
const START_OFFSET: u64 = 0xF00;
/// Bytes of [`Start`] before `arrived`, for the assembly.
const CR3: u64 = TRAMPOLINE + START_OFFSET;
const EFER_BITS: u64 = CR3 + 8;
const STACK: u64 = CR3 + 16;
const ENTRY: u64 = CR3 + 24;
const ARGUMENT: u64 = CR3 + 32;
const ARRIVED: u64 = CR3 + 40;

/// EFER.LME.
const LONG_MODE: u64 = 1 << 8;
/// EFER.NXE.
const NO_EXECUTE: u64 = 1 << 11;

core::arch::global_asm!(
    ".pushsection .text.orthros_trampoline, \"ax\"",
    ".code16",
    ".globl orthros_trampoline_begin",
    "orthros_trampoline_begin:",
    "cli",
    "cld",
    "movw %cs, %ax",
    "movw %ax, %ds",
    "lgdtl (orthros_trampoline_gdtr - orthros_trampoline_begin)",
    "movl %cr0, %eax",
    "andl $0x9FFFFFFF, %eax", // CD and NW off: caches on
    "orl $1, %eax",           // PE
    "movl %eax, %cr0",
    "ljmpl ${code32}, $({base} + orthros_trampoline_32 - orthros_trampoline_begin)",
    ".code32",
    "orthros_trampoline_32:",
    "movl ${data}, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %ss",
    "movl %eax, %fs",
    "movl %eax, %gs",
    "movl $0x620, %eax", // PAE, OSFXSR, OSXMMEXCPT; LA57 off
    "movl %eax, %cr4",
    "movl {cr3}, %eax",
    "movl %eax, %cr3",
    "movl $0xC0000080, %ecx", // EFER
    "rdmsr",
    "orl {efer}, %eax",
    "wrmsr",
    "movl %cr0, %eax",
    "andl $0xFFFFFFF3, %eax", // EM and TS off
    "orl $0x80010023, %eax",  // PG, WP, NE, MP, PE
    "movl %eax, %cr0",
    "ljmpl ${code64}, $({base} + orthros_trampoline_64 - orthros_trampoline_begin)",
    ".code64",
    "orthros_trampoline_64:",
    "movq {stack}, %rsp",
    "movq {argument}, %rdi",
    "pushq $0",
    "xorl %ebp, %ebp",
    "movl $1, {arrived}",
    "jmpq *{entry}",
    ".balign 8",
    "orthros_trampoline_gdtr:",
    ".short 4 * 8 - 1",
    ".long {base} + orthros_trampoline_gdt - orthros_trampoline_begin",
    ".balign 8",
    "orthros_trampoline_gdt:",
    ".quad {gdt0}, {gdt1}, {gdt2}, {gdt3}",
    ".globl orthros_trampoline_end",
    "orthros_trampoline_end:",
    ".popsection",
    base = const TRAMPOLINE,
    code32 = const crate::gdt::CODE32,
    code64 = const crate::gdt::CODE64,
    data = const crate::gdt::DATA,
    cr3 = const CR3,
    efer = const EFER_BITS,
    stack = const STACK,
    entry = const ENTRY,
    argument = const ARGUMENT,
    arrived = const ARRIVED,
    gdt0 = const crate::gdt::DESCRIPTORS[0],
    gdt1 = const crate::gdt::DESCRIPTORS[1],
    gdt2 = const crate::gdt::DESCRIPTORS[2],
    gdt3 = const crate::gdt::DESCRIPTORS[3],
    options(att_syntax),
);

unsafe extern "C" {
    static orthros_trampoline_begin: u8;
    static orthros_trampoline_end: u8;
}

/// What a CPU is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Physical address of a 4-level root table, below 4 GB. It maps the trampoline's page at its own address.
    pub cr3: u32,
    /// Initial stack pointer, a multiple of 16.
    pub stack: u64,
    /// Where to go: `extern "C" fn(argument: u64) -> !`.
    pub entry: u64,
    /// Handed over in RDI.
    pub argument: u64,
}

impl Start {
    /// Copies the trampoline into its page, ready for one CPU.
    ///
    /// # Safety
    /// 1. No CPU is in the page or has its descriptor table there. 2. Nobody holds a reference into the page.
    /// 3. The tables at `cr3` map what `stack`, `entry` and the trampoline need.
    pub unsafe fn install(&self, _: Ring0) {
        // SAFETY: only the addresses of the two symbols are used, and both lie in one section, in this order.
        let (begin, length) = unsafe {
            let begin = &raw const orthros_trampoline_begin;
            (begin, (&raw const orthros_trampoline_end).offset_from(begin) as usize)
        };
        assert!(length as u64 <= START_OFFSET, "trampoline longer than its page");
        let efer = if crate::cpu::features().no_execute {
            LONG_MODE | NO_EXECUTE
        } else {
            LONG_MODE
        };
        // SAFETY: 1. the page is mapped at its own address (`Ring0`). 2. Nobody else uses it (the caller's promises 1
        // and 2). 3. The source is `length` bytes of this program's text.
        unsafe {
            core::ptr::copy_nonoverlapping(begin, TRAMPOLINE as *mut u8, length);
            for (address, value) in [
                (CR3, u64::from(self.cr3)),
                (EFER_BITS, efer),
                (STACK, self.stack),
                (ENTRY, self.entry),
                (ARGUMENT, self.argument),
                (ARRIVED, 0),
            ] {
                (address as *mut u64).write_volatile(value);
            }
        }
    }
}

/// Whether the CPU has left the trampoline.
pub fn arrived(ring0: Ring0) -> bool {
    crate::mmio::read32(ring0, ARRIVED) != 0
}
