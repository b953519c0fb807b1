//! The general registers of a thread, as they were in user mode (`struct pt_regs`, `arch/x86/entry/`).
//!
//! Every entry into the kernel leaves them at the top of the thread's kernel stack. Three cases are special: a CPU that
//! was stopped in user mode left them in its slot; one that was stopped in the first instructions of a system call has
//! them still in its registers, with the instruction pointer in RCX and the flags in R11; and one stopped in the first
//! instructions of an interrupt has them half saved on another stack.

use crate::addr::Kva;
use crate::cpus::{Cpu, REGS};
use crate::failover::{Input, Stopped};
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::orc;
use crate::refusal::{Refusal, Result};
use crate::tasks::{self, PT_REGS};
use shared_region::reasons;

/// First address that is not user space with 4-level and 5-level paging alike is at least this far up: kernel addresses
/// have bit 63 set.
const KERNEL_BIT: u64 = 1 << 63;

/// User registers. The fields have the kernel's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct UserRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub bp: u64,
    pub bx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub ax: u64,
    pub cx: u64,
    pub dx: u64,
    pub si: u64,
    pub di: u64,
    pub orig_ax: u64,
    pub ip: u64,
    pub cs: u64,
    pub flags: u64,
    pub sp: u64,
    pub ss: u64,
}

/// `__USER_CS`, `__USER_DS` and `__USER32_CS` (`arch/x86/include/asm/segment.h`).
const USER_CS: u64 = 0x33;
const USER_DS: u64 = 0x2B;
const USER32_CS: u64 = 0x23;
/// Length of the `syscall` instruction.
pub const SYSCALL_INSN: u64 = 2;

impl UserRegs {
    /// From words in the order of `struct pt_regs`. With FRED (Linux 6.9) the upper bits of the words of `cs` and `ss`
    /// hold other things.
    pub fn from_words(words: &[u64; REGS]) -> Self {
        let [r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss] = *words;
        Self {
            r15,
            r14,
            r13,
            r12,
            bp,
            bx,
            r11,
            r10,
            r9,
            r8,
            ax,
            cx,
            dx,
            si,
            di,
            orig_ax,
            ip,
            cs: cs & 0xFFFF,
            flags,
            sp,
            ss: ss & 0xFFFF,
        }
    }

    /// As `struct user_regs_struct`; the last six are FS base, GS base, DS, ES, FS and GS.
    pub fn to_user_regs_struct(self, segments: [u64; 6]) -> [u64; 27] {
        let s = self;
        let [fs_base, gs_base, ds, es, fs, gs] = segments;
        [
            s.r15, s.r14, s.r13, s.r12, s.bp, s.bx, s.r11, s.r10, s.r9, s.r8, s.ax, s.cx, s.dx, s.si, s.di, s.orig_ax,
            s.ip, s.cs, s.flags, s.sp, s.ss, fs_base, gs_base, ds, es, fs, gs,
        ]
    }

    /// Whether the thread was in a system call, as far as `orig_ax` says.
    pub fn in_syscall(&self) -> bool {
        (self.orig_ax as i64) >= 0
    }
}

/// Where the registers were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The thread was in user mode when its CPU was stopped.
    User,
    /// On the kernel stack: it had entered the kernel.
    Stack,
    /// It had executed `syscall`, and the kernel had done nothing yet.
    Entering,
}

/// A thread's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// In user mode.
    pub user: UserRegs,
    /// Where they were.
    pub origin: Origin,
    /// Where it was in the kernel.
    pub place: Place,
}

/// Where a thread was in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It was not running; what it was doing is on its stack.
    Off,
    /// It was stopped on a CPU, here.
    At(orc::Start),
    /// It was on a CPU; nothing more is known, or it was not in the kernel.
    Unknown,
}

/// Finds the registers of a thread; `cpu` is the CPU it was running on, if it was.
///
/// # Errors
/// They are lost or half saved, or the task or its stack cannot be read.
pub fn read<M: PhysMem + ?Sized>(
    kernel: &Kernel<'_, M>,
    input: &Input<'_>,
    task: Kva,
    cpu: Option<&Cpu>,
) -> Result<Registers> {
    let (_, top) = tasks::stack(kernel, task)?;
    let frame = top.back(PT_REGS);
    let mut words = [0; REGS];
    for (i, word) in words.iter_mut().enumerate() {
        *word = kernel.mem.u64(frame.offset((i as u64).wrapping_mul(8)))?;
    }
    let stacked = UserRegs::from_words(&words);
    let found = match cpu {
        None => Registers {
            user: stacked,
            origin: Origin::Stack,
            place: Place::Off,
        },
        Some(cpu) => on_cpu(kernel, input, cpu, stacked, top)?,
    };
    match found.user.cs {
        USER_CS => Ok(found),
        USER32_CS => Err(Refusal::new(reasons::COMPAT, "")),
        other => Err(Refusal::new(
            reasons::UNREADABLE,
            alloc::format!("code segment {other:#x} in its saved registers"),
        )),
    }
}

/// The registers of a thread that was running.
fn on_cpu<M: PhysMem + ?Sized>(
    kernel: &Kernel<'_, M>,
    input: &Input<'_>,
    cpu: &Cpu,
    stacked: UserRegs,
    top: Kva,
) -> Result<Registers> {
    let on_stack = Registers {
        user: stacked,
        origin: Origin::Stack,
        place: Place::Unknown,
    };
    let Some(left) = &cpu.left else {
        if cpu.in_kernel || matches!(input.stopped, Stopped::Image) {
            // With interrupts as the last entry, the thread was in user mode; `orig_ax` tells.
            return Ok(on_stack);
        }
        return Err(Refusal::new(
            reasons::REGISTERS_LOST,
            alloc::format!("CPU {}", cpu.number),
        ));
    };
    let stopped = UserRegs::from_words(&left.regs);
    if stopped.cs & 3 == 3 {
        return Ok(Registers {
            user: UserRegs {
                orig_ax: u64::MAX,
                ..stopped
            },
            origin: Origin::User,
            ..on_stack
        });
    }
    let bottom = top.back(crate::addr::PAGE_SIZE.wrapping_mul(16));
    let on_own_stack = (bottom.0..top.0).contains(&stopped.sp);
    let saved = on_own_stack && stopped.sp <= top.back(PT_REGS).0;
    let globals = &kernel.prepared.globals;
    let within = |from: Option<Kva>, to: Option<Kva>| {
        from.zip(to)
            .is_some_and(|(from, to)| (from.0..to.0).contains(&stopped.ip))
    };
    let in_kernel = Registers {
        place: Place::At(orc::Start {
            ip: Kva(stopped.ip),
            sp: Kva(stopped.sp),
            bp: Kva(stopped.bp),
            interrupted: true,
        }),
        ..on_stack
    };
    if !within(globals.entry_text_start, globals.entry_text_end) || saved {
        return Ok(in_kernel);
    }
    let name = kernel
        .kallsyms
        .symbolize(Kva(stopped.ip))
        .map(|found| found.name)
        .unwrap_or_default();
    if name.starts_with("entry_SYSCALL_64") {
        let sp = if stopped.sp & KERNEL_BIT == 0 {
            stopped.sp
        } else {
            interrupted_sp(kernel, cpu)?
        };
        // SYSCALL put the instruction pointer into RCX and the flags into R11 (Intel SDM vol. 2B, SYSCALL).
        let user = UserRegs {
            ip: stopped.cx.wrapping_sub(SYSCALL_INSN),
            flags: stopped.r11,
            sp,
            cs: USER_CS,
            ss: USER_DS,
            orig_ax: u64::MAX,
            ..stopped
        };
        return Ok(Registers {
            user,
            origin: Origin::Entering,
            ..in_kernel
        });
    }
    if RETURN_PATH.iter().any(|prefix| name.starts_with(prefix)) {
        return Ok(in_kernel);
    }
    Err(Refusal::new(reasons::ENTRY_CODE, name))
}

/// Parts of the entry code that return to user mode: the frame on the kernel stack is whole and stays so.
const RETURN_PATH: [&str; 6] = [
    "swapgs_restore_regs_and_return_to_usermode",
    "common_interrupt_return",
    "syscall_return_via_sysret",
    "entry_SYSRETQ",
    "native_irq_return",
    "ret_from_fork",
];

/// The user's stack pointer, as `entry_SYSCALL_64` put it aside.
fn interrupted_sp<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, cpu: &Cpu) -> Result<u64> {
    let unknown = || Refusal::new(reasons::ENTRY_CODE, "stack pointer");
    let (variable, layout) = kernel
        .prepared
        .globals
        .cpu_tss_rw
        .zip(kernel.types.layouts.tss.as_ref())
        .ok_or_else(unknown)?;
    let tss = kernel.per_cpu(cpu.number, variable).ok_or_else(unknown)?;
    Ok(kernel.mem.uint(tss, layout.sp2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_go_where_user_regs_struct_has_them() {
        let words: [u64; REGS] = core::array::from_fn(|i| i as u64 + 100);
        let regs = UserRegs::from_words(&words).to_user_regs_struct([1, 2, 3, 4, 5, 6]);
        assert_eq!(regs[..21], words);
        assert_eq!(regs[21..], [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn fred_words_do_not_leak_into_segments() {
        let mut words = [0; REGS];
        words[17] = 0x1_0000_0033;
        words[20] = 0xFF_0000_002B;
        let regs = UserRegs::from_words(&words);
        assert_eq!((regs.cs, regs.ss), (USER_CS, USER_DS));
    }
}
