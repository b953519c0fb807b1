//! Known values in every register while the thread spins in user mode or sleeps in a system call.
//!
//! The code below loads all general registers, the x87 stack, MXCSR and the vector registers from a [`Registers`],
//! waits until [`release`] is called, and stores what it finds. Between load and store no compiled code runs.

use super::memory::pattern;
use std::sync::atomic::{AtomicU8, Ordering};

/// Goes from 0 to 1 when the patterns are to be checked.
static RELEASED: AtomicU8 = AtomicU8::new(0);

/// Lets every thread that holds a pattern go on.
pub fn release() {
    RELEASED.store(1, Ordering::Release);
}

/// All registers. The offsets are used by the assembly below.
#[derive(Clone, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Registers {
    /// rax rbx rcx rdx rsi rdi rbp r8 … r15.
    pub general: [u64; 15],
    /// RFLAGS as found.
    pub flags: u64,
    /// ymm0 … ymm15 (or xmm in the low half).
    pub vector: [[u64; 4]; 16],
    /// x87 ST0 … ST2 as doubles, at 640.
    pub x87: [f64; 3],
    /// MXCSR, at 664.
    pub mxcsr: u32,
    /// x87 control word, at 668.
    pub x87_control: u16,
}

const _: () = {
    assert!(std::mem::offset_of!(Registers, vector) == 128);
    assert!(std::mem::offset_of!(Registers, x87) == 640);
    assert!(std::mem::offset_of!(Registers, mxcsr) == 664);
    assert!(std::mem::offset_of!(Registers, x87_control) == 668);
};

/// Direction flag: set all through the wait, to see that flags are kept.
pub const DIRECTION: u64 = 1 << 10;

impl Registers {
    /// A pattern that differs between seeds in every register.
    pub fn from_seed(seed: u64) -> Self {
        let mut index = 0;
        let mut next = || {
            index += 1;
            pattern(seed, index)
        };
        Self {
            general: std::array::from_fn(|_| next()),
            flags: DIRECTION,
            vector: std::array::from_fn(|_| std::array::from_fn(|_| next())),
            x87: std::array::from_fn(|_| (next() >> 12) as f64),
            // Rounding towards zero, flush to zero, all exceptions masked.
            mxcsr: 0xFF80,
            // Rounding up, double precision, all exceptions masked.
            x87_control: 0x0A7F,
        }
    }

    fn empty() -> Self {
        Self {
            general: [0; 15],
            flags: 0,
            vector: [[0; 4]; 16],
            x87: [0.0; 3],
            mxcsr: 0,
            x87_control: 0,
        }
    }
}

/// Where the registers are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// In a loop in user mode.
    User,
    /// In `nanosleep`, over and over.
    Syscall,
}

/// Whether the CPU has AVX (else the low halves of the vector registers are used).
pub fn has_avx() -> bool {
    std::is_x86_feature_detected!("avx")
}

/// Holds the pattern until [`release`] and returns what the registers were then. In a system call RAX, RCX and R11
/// are the kernel's and RDI, RSI are arguments; they come back as in `pattern`.
pub fn hold(pattern: &Registers, place: Hold) -> Registers {
    let mut found = Registers::empty();
    // SAFETY: (1) both structures are valid and have the layout the assembly uses; (2) the functions keep to the C
    // calling convention and put MXCSR, x87 and the direction flag back; (3) AVX is used only if it is there.
    unsafe {
        match (place, has_avx()) {
            (Hold::User, true) => hold_user_avx(pattern, &mut found),
            (Hold::User, false) => hold_user_sse(pattern, &mut found),
            (Hold::Syscall, true) => hold_syscall_avx(pattern, &mut found),
            (Hold::Syscall, false) => hold_syscall_sse(pattern, &mut found),
        }
    }
    if place == Hold::Syscall {
        for clobbered in [0, 2, 4, 5, 10] {
            found.general[clobbered] = pattern.general[clobbered];
        }
    }
    if !has_avx() {
        for (found, pattern) in found.vector.iter_mut().zip(&pattern.vector) {
            found[2..].copy_from_slice(&pattern[2..]);
        }
    }
    found
}

/// Defines a function `(pattern: rdi, found: rsi)` that loads, waits, stores. `$moves` is the vector move instruction,
/// `$width` the register name's prefix, `$wait` the loop between the labels 2 and 3.
macro_rules! holder {
    ($name:ident, $move:literal, $width:literal, $clean:literal, $wait:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(pattern: *const Registers, found: *mut Registers) {
            std::arch::naked_asm!(
                "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
                // [rsp] = MXCSR, [rsp + 4] = x87 control word, [rsp + 8] = found, [rsp + 16] = timespec of 20 ms.
                "sub rsp, 40",
                "stmxcsr [rsp]",
                "fnstcw [rsp + 4]",
                "mov [rsp + 8], rsi",
                "mov qword ptr [rsp + 16], 0",
                "mov qword ptr [rsp + 24], 20000000",
                "mov rsi, rdi",
                concat!($move, " ", $width, "mm0, [rsi + 128]"),
                concat!($move, " ", $width, "mm1, [rsi + 160]"),
                concat!($move, " ", $width, "mm2, [rsi + 192]"),
                concat!($move, " ", $width, "mm3, [rsi + 224]"),
                concat!($move, " ", $width, "mm4, [rsi + 256]"),
                concat!($move, " ", $width, "mm5, [rsi + 288]"),
                concat!($move, " ", $width, "mm6, [rsi + 320]"),
                concat!($move, " ", $width, "mm7, [rsi + 352]"),
                concat!($move, " ", $width, "mm8, [rsi + 384]"),
                concat!($move, " ", $width, "mm9, [rsi + 416]"),
                concat!($move, " ", $width, "mm10, [rsi + 448]"),
                concat!($move, " ", $width, "mm11, [rsi + 480]"),
                concat!($move, " ", $width, "mm12, [rsi + 512]"),
                concat!($move, " ", $width, "mm13, [rsi + 544]"),
                concat!($move, " ", $width, "mm14, [rsi + 576]"),
                concat!($move, " ", $width, "mm15, [rsi + 608]"),
                "ldmxcsr [rsi + 664]",
                "fninit",
                "fldcw [rsi + 668]",
                "fld qword ptr [rsi + 656]",
                "fld qword ptr [rsi + 648]",
                "fld qword ptr [rsi + 640]",
                "mov rax, [rsi]", "mov rbx, [rsi + 8]", "mov rcx, [rsi + 16]", "mov rdx, [rsi + 24]",
                "mov rdi, [rsi + 40]", "mov rbp, [rsi + 48]", "mov r8, [rsi + 56]", "mov r9, [rsi + 64]",
                "mov r10, [rsi + 72]", "mov r11, [rsi + 80]", "mov r12, [rsi + 88]", "mov r13, [rsi + 96]",
                "mov r14, [rsi + 104]", "mov r15, [rsi + 112]", "mov rsi, [rsi + 32]",
                "std",
                "2:",
                $wait,
                "cmp byte ptr [rip + {released}], 0",
                "je 2b",
                // rax = found; its own value waits in [rsp + 32].
                "mov [rsp + 32], rax",
                "mov rax, [rsp + 8]",
                "mov [rax + 8], rbx", "mov [rax + 16], rcx", "mov [rax + 24], rdx", "mov [rax + 32], rsi",
                "mov [rax + 40], rdi", "mov [rax + 48], rbp", "mov [rax + 56], r8", "mov [rax + 64], r9",
                "mov [rax + 72], r10", "mov [rax + 80], r11", "mov [rax + 88], r12", "mov [rax + 96], r13",
                "mov [rax + 104], r14", "mov [rax + 112], r15",
                "mov rbx, [rsp + 32]",
                "mov [rax], rbx",
                "pushfq",
                "pop rbx",
                "mov [rax + 120], rbx",
                "cld",
                concat!($move, " [rax + 128], ", $width, "mm0"),
                concat!($move, " [rax + 160], ", $width, "mm1"),
                concat!($move, " [rax + 192], ", $width, "mm2"),
                concat!($move, " [rax + 224], ", $width, "mm3"),
                concat!($move, " [rax + 256], ", $width, "mm4"),
                concat!($move, " [rax + 288], ", $width, "mm5"),
                concat!($move, " [rax + 320], ", $width, "mm6"),
                concat!($move, " [rax + 352], ", $width, "mm7"),
                concat!($move, " [rax + 384], ", $width, "mm8"),
                concat!($move, " [rax + 416], ", $width, "mm9"),
                concat!($move, " [rax + 448], ", $width, "mm10"),
                concat!($move, " [rax + 480], ", $width, "mm11"),
                concat!($move, " [rax + 512], ", $width, "mm12"),
                concat!($move, " [rax + 544], ", $width, "mm13"),
                concat!($move, " [rax + 576], ", $width, "mm14"),
                concat!($move, " [rax + 608], ", $width, "mm15"),
                "stmxcsr [rax + 664]",
                "fnstcw [rax + 668]",
                "fstp qword ptr [rax + 640]",
                "fstp qword ptr [rax + 648]",
                "fstp qword ptr [rax + 656]",
                $clean,
                "fninit",
                "fldcw [rsp + 4]",
                "ldmxcsr [rsp]",
                "add rsp, 40",
                "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
                "ret",
                released = sym RELEASED,
            )
        }
    };
}

// `nanosleep` is call 35; its arguments go through RDI and RSI, and R11 takes RFLAGS, so DF survives there as well.
holder!(hold_user_avx, "vmovups", "y", "vzeroupper", "");
holder!(hold_user_sse, "movups", "x", "", "");
holder!(
    hold_syscall_avx,
    "vmovups",
    "y",
    "vzeroupper",
    "mov eax, 35\nlea rdi, [rsp + 16]\nxor esi, esi\nsyscall"
);
holder!(
    hold_syscall_sse,
    "movups",
    "x",
    "",
    "mov eax, 35\nlea rdi, [rsp + 16]\nxor esi, esi\nsyscall"
);
