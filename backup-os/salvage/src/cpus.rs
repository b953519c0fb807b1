//! What each CPU ran, and what it left when it was stopped.

use crate::addr::{Kva, PhysAddr};
use crate::failover::{Input, Stopped};
use crate::interrupted::chain;
use crate::kernel::Kernel;
use crate::machine::in_mask;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::orc::{Start, Unwind};
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::offset_of;
use shared_region::parking::{ParkSlot, ParkState, SLOT_SIZE, XSAVE_OFFSET, XSAVE_SIZE};

/// Words of `struct pt_regs`.
pub const REGS: usize = 21;

crate::mirrors! {
    /// Hot per-CPU data (Linux 6.2, c063a217bc07, to 6.14).
    pub struct PcpuHot = "pcpu_hot" {
        /// The running task.
        current_task: Field,
    }

    /// The task-state segment.
    pub struct Tss = "tss_struct" {
        /// Stack pointer of user mode while a system call begins.
        sp2: Field = "x86_tss.sp2",
    }
}

/// What a CPU left in its parking slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// What the NMI interrupted, as `struct pt_regs`.
    pub regs: [u64; REGS],
    /// FS base.
    pub fs_base: u64,
    /// The user's GS base.
    pub gs_base: u64,
    /// XSAVE area in the standard format.
    pub xsave: Option<PhysAddr>,
}

impl Left {
    /// Where the chain of functions begins that it was in.
    pub fn start(&self) -> Start {
        let [_, _, _, _, bp, .., ip, _, _, sp, _] = self.regs;
        Start {
            ip: Kva(ip),
            sp: Kva(sp),
            bp: Kva(bp),
            interrupted: true,
        }
    }

    /// Whether that was in the kernel.
    pub fn in_kernel(&self) -> bool {
        let [.., cs, _, _, _] = self.regs;
        cs & 3 == 0
    }
}

/// A CPU of the dead kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub number: usize,
    /// The task that ran on it.
    pub current: Kva,
    /// What it left.
    pub left: Option<Left>,
    /// Whether it was inside the kernel's own stop path, so that the registers of its task are on the kernel stack.
    pub in_kernel: bool,
}

/// Looks at all CPUs. One whose current task cannot be read is left out.
pub fn read<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, input: &Input<'_>) -> Vec<Cpu> {
    let globals = &kernel.prepared.globals;
    let panicked = kernel.mem.i32(kernel.symbols.panic_cpu).unwrap_or(-1);
    (0..kernel.cpu_count())
        .filter_map(|number| {
            let left = left(kernel, input, number);
            let variable = current_variable(kernel)?;
            let current = kernel.mem.pointer(kernel.per_cpu(number, variable)?).ok()?;
            let online = globals.cpu_online_mask.is_none_or(|mask| in_mask(kernel, mask, number));
            Some(Cpu {
                number,
                current,
                left,
                // `stop_this_cpu` takes the CPU out of the mask; the CPU that panics stays in it.
                in_kernel: !online || i32::try_from(number) == Ok(panicked),
            })
        })
        .collect()
}

/// What a CPU ran, and the functions it was stopped in, for people to read. `None` if it was in user mode, or nothing is known.
pub fn place<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, cpu: &Cpu) -> Option<String> {
    let left = cpu.left.as_ref().filter(|left| left.in_kernel())?;
    let comm = kernel.mem.text(cpu.current, kernel.types.layouts.task.comm).ok()?;
    let functions = chain::in_words(kernel, Unwind::new(kernel, left.start()));
    Some(alloc::format!("{} at {functions}", String::from_utf8_lossy(&comm)))
}

/// The per-CPU variable that holds the running task: part of `pcpu_hot` where that exists.
fn current_variable<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>) -> Option<Kva> {
    let globals = &kernel.prepared.globals;
    match (globals.pcpu_hot, &kernel.types.layouts.pcpu_hot) {
        (Some(hot), Some(layout)) => Some(hot.offset(u64::from(layout.current_task.offset))),
        _ => globals.current_task,
    }
}

/// Reads a CPU's slot, if it was filled for this stop.
fn left<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, input: &Input<'_>, number: usize) -> Option<Left> {
    let Stopped::Slots { slots, generation } = input.stopped else {
        return None;
    };
    let apic = *input.facts?.apic_id_of_cpu.get(number)?;
    if usize::from(apic) >= shared_region::layout::MAX_CPUS {
        return None;
    }
    let slot = slots.checked_add(u64::from(apic).wrapping_mul(SLOT_SIZE as u64))?;
    let word = |offset: usize| {
        let mut word = [0; 8];
        kernel.phys().read(slot.checked_add(offset as u64)?, &mut word).ok()?;
        Some(u64::from_le_bytes(word))
    };
    if word(offset_of!(ParkSlot, generation))? != generation
        || word(offset_of!(ParkSlot, state))? < ParkState::Saved as u64
    {
        return None;
    }
    let mut regs = [0; REGS];
    for (i, register) in regs.iter_mut().enumerate() {
        *register = word(offset_of!(ParkSlot, regs).wrapping_add(i.wrapping_mul(8)))?;
    }
    let valid = word(offset_of!(ParkSlot, xsave_valid))? == 1;
    let xsave = slot.checked_add(XSAVE_OFFSET as u64).filter(|_| valid);
    Some(Left {
        regs,
        fs_base: word(offset_of!(ParkSlot, fs_base))?,
        gs_base: word(offset_of!(ParkSlot, kernel_gs_base))?,
        xsave,
    })
}

/// Bytes of the XSAVE area in a slot.
pub const SLOT_XSAVE: usize = XSAVE_SIZE;
