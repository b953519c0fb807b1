//! Descriptor tables of the reserved core, and what it does on an interrupt.
//!
//! Only the local APIC's timer is expected. NMIs (the active sends them to all CPUs when it dies) and other vectors are
//! counted; an exception is the end of the backup OS: registers on the console, then what [`crate::epitaph`] says.

use core::sync::atomic::{AtomicU64, Ordering};
use machine::apic::LocalApic;
use machine::{gdt, Ring0};

/// Vector of the local APIC timer.
pub const TIMER_VECTOR: u8 = 0x40;
/// Vector of spurious interrupts; needs no end of interrupt (Intel SDM vol. 3A, 11.9).
pub const SPURIOUS_VECTOR: u8 = 0xFF;
/// Selector of the task-state segment, behind the flat segments of [`gdt`].
const TSS_SELECTOR: u16 = 0x20;
/// Stack that NMIs, double faults and machine checks switch to (interrupt stack table entry 1).
const STACK_SIZE: usize = 0x4000;

/// Interrupts that were not expected, and NMIs.
static STRAY: AtomicU64 = AtomicU64::new(0);

/// Interrupts and NMIs that were not meant for this core.
pub fn stray() -> u64 {
    STRAY.load(Ordering::Relaxed)
}

/// What lies on the stack when [`orthros_interrupt`] is called.
#[repr(C)]
#[derive(Debug)]
struct Frame {
    /// r15 … rax, as pushed by the common stub.
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

const NAMES: [&str; 15] = [
    "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rdi", "rsi", "rbp", "rbx", "rdx", "rcx", "rax",
];

core::arch::global_asm!(
    ".pushsection .text.orthros_interrupts, \"ax\"",
    ".balign 16",
    ".globl orthros_stubs",
    "orthros_stubs:",
    ".set orthros_vector, 0",
    ".rept 256",
    ".balign 16",
    // These push an error code themselves (Intel SDM vol. 3A, 6.13).
    ".if (orthros_vector == 8) || ((orthros_vector >= 10) && (orthros_vector <= 14)) || (orthros_vector == 17) || (orthros_vector == 21) || (orthros_vector == 29) || (orthros_vector == 30)",
    ".else",
    "pushq $0",
    ".endif",
    "pushq $orthros_vector",
    "jmp orthros_interrupt_common",
    ".set orthros_vector, orthros_vector + 1",
    ".endr",
    "orthros_interrupt_common:",
    "pushq %rax",
    "pushq %rcx",
    "pushq %rdx",
    "pushq %rbx",
    "pushq %rbp",
    "pushq %rsi",
    "pushq %rdi",
    "pushq %r8",
    "pushq %r9",
    "pushq %r10",
    "pushq %r11",
    "pushq %r12",
    "pushq %r13",
    "pushq %r14",
    "pushq %r15",
    "cld",
    "movq %rsp, %rdi",
    "movq %rsp, %rbx",
    "andq $-16, %rsp",
    "call {handler}",
    "movq %rbx, %rsp",
    "popq %r15",
    "popq %r14",
    "popq %r13",
    "popq %r12",
    "popq %r11",
    "popq %r10",
    "popq %r9",
    "popq %r8",
    "popq %rdi",
    "popq %rsi",
    "popq %rbp",
    "popq %rbx",
    "popq %rdx",
    "popq %rcx",
    "popq %rax",
    "addq $16, %rsp",
    "iretq",
    ".popsection",
    handler = sym orthros_interrupt,
    options(att_syntax),
);

unsafe extern "C" {
    static orthros_stubs: u8;
}

/// Called by the stubs.
extern "C" fn orthros_interrupt(frame: &Frame) {
    match frame.vector {
        2 => {
            STRAY.fetch_add(1, Ordering::Relaxed);
        }
        0..32 => exception(frame),
        vector => {
            if vector != u64::from(TIMER_VECTOR) {
                STRAY.fetch_add(1, Ordering::Relaxed);
            }
            if vector != u64::from(SPURIOUS_VECTOR) {
                LocalApic::current(crate::ring0()).end_of_interrupt();
            }
        }
    }
}

impl core::fmt::Display for Frame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "exception {} error {:#x} at {:#x} (image + {:#x}), cr2 {:#x}, rsp {:#x}, rflags {:#x}",
            self.vector,
            self.error,
            self.rip,
            self.rip.wrapping_sub(crate::image_base()),
            x86_64::registers::control::Cr2::read_raw(),
            self.rsp,
            self.rflags
        )?;
        NAMES
            .iter()
            .zip(self.registers)
            .try_for_each(|(name, value)| write!(f, ", {name} {value:#x}"))
    }
}

/// An exception of the backup OS itself. Nothing is allocated here: the allocator may be what failed.
fn exception(frame: &Frame) -> ! {
    crate::epitaph::own_failure(format_args!("{frame}"))
}

#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);

/// Intel SDM vol. 3A, figure 7-11.
#[repr(C, packed(4))]
struct TaskState {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}

#[repr(C, align(16))]
struct Tables {
    idt: [[u64; 2]; 256],
    gdt: [u64; 6],
    tss: TaskState,
    stack: Stack,
}

static mut TABLES: Tables = Tables {
    idt: [[0; 2]; 256],
    gdt: [0; 6],
    tss: TaskState {
        reserved0: 0,
        rsp: [0; 3],
        reserved1: 0,
        ist: [0; 7],
        reserved2: 0,
        reserved3: 0,
        io_map: size_of::<TaskState>() as u16,
    },
    stack: Stack([0; STACK_SIZE]),
};

/// Loads the descriptor tables of this program.
///
/// # Safety
/// Called once, on the reserved core, with interrupts off.
pub unsafe fn init(ring0: Ring0) {
    let tables = &raw mut TABLES;
    // SAFETY: (for all places written below) 1. called once, so nobody else uses the static. 2. The CPU uses the tables
    // only after `lgdt`, `lidt` and `ltr` at the end. 3. Selectors CS = CODE64 and data = DATA stay what they were.
    unsafe {
        (*tables).tss.ist[0] = (&raw const (*tables).stack) as u64 + STACK_SIZE as u64;
        let stubs = (&raw const orthros_stubs) as u64;
        for vector in 0..256 {
            let handler = stubs + 16 * vector as u64;
            // NMI, double fault and machine check may come while the stack is of no use.
            let stack = if matches!(vector, 2 | 8 | 18) { 1u64 } else { 0 };
            let low = (handler & 0xFFFF)
                | u64::from(gdt::CODE64) << 16
                | stack << 32
                | 0x8E00 << 32
                | (handler >> 16 & 0xFFFF) << 48;
            (*tables).idt[vector] = [low, handler >> 32];
        }
        for (at, descriptor) in gdt::DESCRIPTORS.into_iter().enumerate() {
            (*tables).gdt[at] = descriptor;
        }
        let tss = (&raw const (*tables).tss) as u64;
        let limit = size_of::<TaskState>() as u64 - 1;
        (*tables).gdt[4] = limit | (tss & 0xFF_FFFF) << 16 | 0x89 << 40 | (tss >> 24 & 0xFF) << 56;
        (*tables).gdt[5] = tss >> 32;

        gdt::load(ring0);
        let pointer = |base: u64, size: usize| x86_64::structures::DescriptorTablePointer {
            limit: (size - 1) as u16,
            base: x86_64::VirtAddr::new_truncate(base),
        };
        x86_64::instructions::tables::lgdt(&pointer((&raw const (*tables).gdt) as u64, 6 * 8));
        x86_64::instructions::tables::lidt(&pointer((&raw const (*tables).idt) as u64, 256 * 16));
        core::arch::asm!("ltr {0:x}", in(reg) TSS_SELECTOR, options(nostack, preserves_flags));
    }
}
