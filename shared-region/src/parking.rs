//! Where a stopped CPU leaves what it had in its registers, and waits.
//!
//! A CPU enters the parking code with interrupts off, `CR3` = the root in
//! [`crate::control::ControlWords::park_root_l4`] (or `_l5`), at the address in `park_entry`, with `RDI` = physical
//! address of its slot. From there on its code, page tables, descriptor tables and stack all lie in the region. The
//! stack is the last page of the slot.
//!
//! Writer: the CPU itself (the module's NMI handler up to [`ParkState::Saved`], the parking code after that). Reader:
//! the backup OS. `command` is the only word the backup OS writes while a CPU is in its slot; `question` it writes while
//! the CPU runs the active.

use core::sync::atomic::AtomicU64;

/// Bytes of a slot.
pub const SLOT_SIZE: usize = 0x4000;
/// Offset of the XSAVE area in a slot.
pub const XSAVE_OFFSET: usize = 0x400;
/// Room for the XSAVE area (standard format; AMX needs 11 KB).
pub const XSAVE_SIZE: usize = 0x2C00;

/// [`ParkSlot::question`] and all answers before the first question.
pub const NO_QUESTION: u64 = u64::MAX;

/// Where a CPU is; [`ParkSlot::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub enum ParkState {
    /// It runs the active, or nothing.
    Running = 0,
    /// The NMI handler has begun to fill the slot.
    Saving = 1,
    /// The slot is whole; the CPU is about to leave the old kernel. Release.
    Saved = 2,
    /// The CPU waits in the parking code. Release.
    Parked = 3,
    /// Put into wait-for-SIPI by an INIT; nothing was saved unless `generation` matches.
    WaitForSipi = 4,
}

/// Values of [`ParkSlot::command`].
pub mod command {
    /// Wait on.
    pub const WAIT: u64 = 0;
    /// Leave long mode's old settings behind and jump to `argument` (below 4 GB) with `argument2` in RDI, under a plain
    /// 4-level identity map of the low 4 GB.
    pub const BOOT: u64 = 1;
    /// Written by the CPU when it has taken the command.
    pub const TAKEN: u64 = 2;
}

/// A slot, at [`crate::layout::PARKING_SLOTS`] + local APIC id × [`SLOT_SIZE`].
#[derive(Debug)]
#[repr(C)]
pub struct ParkSlot {
    /// [`ParkState`].
    pub state: AtomicU64,
    /// The `stop_request` that this slot was filled for; an older one is stale.
    pub generation: AtomicU64,
    /// Linux CPU number.
    pub cpu: AtomicU64,
    /// Virtual address of the CPU's current `task_struct`.
    pub current_task: AtomicU64,
    /// CR2 (linear address of the last page fault).
    pub cr2: AtomicU64,
    /// CR3 of the interrupted context.
    pub cr3: AtomicU64,
    /// IA32_FS_BASE.
    pub fs_base: AtomicU64,
    /// IA32_KERNEL_GS_BASE: the user's GS base while in the kernel.
    pub kernel_gs_base: AtomicU64,
    /// What the NMI interrupted: `struct pt_regs` as the kernel lays it out, r15 first, ss last.
    pub regs: [AtomicU64; 21],
    /// 1 if `xsave` was filled.
    pub xsave_valid: AtomicU64,
    /// TSC when the slot was filled.
    pub tsc: AtomicU64,
    /// [`command`]. Release by the backup OS, acquire by the CPU.
    pub command: AtomicU64,
    /// See [`command`].
    pub argument: AtomicU64,
    /// See [`command`].
    pub argument2: AtomicU64,
    /// NMIs that came while parked.
    pub nmis: AtomicU64,
    /// What the parking code found in the CPU's own registers before it said [`ParkState::Parked`]: the proof that
    /// nothing of the old kernel is in use any more. Instruction pointer.
    pub parked_rip: AtomicU64,
    /// Stack pointer; see `parked_rip`.
    pub parked_rsp: AtomicU64,
    /// CR3; see `parked_rip`.
    pub parked_cr3: AtomicU64,
    /// GDTR base; see `parked_rip`.
    pub parked_gdt: AtomicU64,
    /// IDTR base; see `parked_rip`.
    pub parked_idt: AtomicU64,
    /// NMIs of this stop that found the CPU in the middle of a call and let it go on. Release by the CPU.
    pub let_go_on: AtomicU64,
    /// While the active runs: number of the last question put to this CPU. The backup OS writes it and then sends an NMI.
    /// The module makes it [`NO_QUESTION`] when it begins to answer; 0 where nobody answers, and then none is put. Release.
    pub question: AtomicU64,
    /// The question to which the CPU's NMI handler answered. Written last of what it writes. Release.
    pub answer_nmi: AtomicU64,
    /// The question to which the CPU answered from an interrupt: it takes interrupts.
    pub answer_interrupt: AtomicU64,
    /// The question to which an ordinary thread answered on the CPU: its scheduler works.
    pub answer_thread: AtomicU64,
    /// Instruction pointer that the NMI interrupted.
    pub answer_ip: AtomicU64,
    /// RFLAGS in bits 0..32; bit 32 if it was user mode.
    pub answer_flags: AtomicU64,
    /// Id of the thread that the NMI interrupted.
    pub answer_tid: AtomicU64,
    /// Up to [`XSAVE_OFFSET`].
    pub reserved: [AtomicU64; 80],
    /// XSAVE area in the standard format, everything in XCR0, aligned to 64 bytes.
    pub xsave: [u8; XSAVE_SIZE],
    /// Stack of the parking code; it grows down from the end.
    pub stack: [u8; 0x1000],
}

const _: () = {
    assert!(core::mem::size_of::<ParkSlot>() == SLOT_SIZE);
    assert!(core::mem::offset_of!(ParkSlot, xsave) == XSAVE_OFFSET);
    assert!(SLOT_SIZE * crate::layout::MAX_CPUS == crate::layout::PARKING_SLOTS.size as usize);
};
