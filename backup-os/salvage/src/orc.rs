//! Call chains on kernel stacks, by the ORC tables the kernel carries for itself
//! (`Documentation/arch/x86/orc-unwinder.rst`, `arch/x86/include/asm/orc_types.h`).
//!
//! For every range of text an entry says from which register, and at what distance, the caller's stack pointer follows.
//! Each module has tables of its own for its text.

use crate::addr::Kva;
use crate::error::{About, Reason, WalkError};
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::modules::{self, OrcTables};
use crate::tables::THREAD_SIZE;
use alloc::vec::Vec;

/// Longest chain that is followed.
const MAX_FRAMES: usize = 128;
/// Entries that are looked at for the beginning of one function.
const MAX_MOVES: usize = 32;
/// Entries a kernel does not have more of.
const MAX_ENTRIES: u64 = 16 << 20;

crate::mirrors! {
    /// An entry of the table: 6 bytes, packed.
    pub struct OrcEntry = "orc_entry" {
        /// Distance of the caller's stack pointer.
        sp_offset: Field,
        /// Distance of the place where the caller's frame pointer was saved.
        bp_offset: Field,
        /// What `sp_offset` counts from.
        sp_reg: Field,
        /// What `bp_offset` counts from.
        bp_reg: Field,
        /// What lies on the stack.
        kind: Field = "type",
        /// The frame was interrupted (Linux 6.3).
        signal: Option<Field> = "signal",
        /// The last frame; with it, `type` counts from another zero (up to Linux 6.3).
        end: Option<Field> = "end",
    }

    /// What a task that is not running has on top of its stack.
    pub struct InactiveTaskFrame = "inactive_task_frame" {
        /// Frame pointer.
        bp: Field,
        /// Where it goes on.
        ret_addr: Field,
    }

    /// A task, as far as its stack is concerned.
    pub struct StackTask = "task_struct" {
        /// Lowest address of the stack.
        stack: Field,
        /// Stack pointer while it is not running.
        sp: Field = "thread.sp",
    }
}

crate::symbols! {
    /// The tables, and text that is special.
    pub struct OrcSymbols {
        /// Where each entry's text begins, relative to the word itself.
        ips: Option<Kva> = "__start_orc_unwind_ip",
        /// End of these.
        ips_end: Option<Kva> = "__stop_orc_unwind_ip",
        /// The entries.
        entries: Option<Kva> = "__start_orc_unwind",
        /// Where a new task begins: nothing was called.
        ret_from_fork: Option<Kva> = "ret_from_fork_asm" | "ret_from_fork",
        /// The function that ends in the loop of a dead kernel.
        panic: Option<Kva>,
    }
}

crate::mirror_set! {
    /// The mirrors of the unwinder.
    pub struct OrcTypes {
        /// `struct orc_entry`.
        entry: Option<OrcEntry>,
        /// `struct inactive_task_frame`.
        inactive: InactiveTaskFrame,
        /// `struct task_struct`.
        task: StackTask,
    }
}

/// Where a chain begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Instruction pointer.
    pub ip: Kva,
    /// Stack pointer.
    pub sp: Kva,
    /// Frame pointer.
    pub bp: Kva,
    /// Whether the instruction pointer is that of an interrupted instruction rather than behind a call.
    pub interrupted: bool,
}

/// A frame of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Instruction pointer: behind a call, or that of an interrupted instruction.
    pub ip: Kva,
    /// Lowest address of what the function has on the stack.
    pub sp: Kva,
    /// First address after it, where its caller's part begins. Equal to `sp` if that is not known: in the last frame, and
    /// in entry code.
    pub end: Kva,
    /// Whether the function was interrupted rather than calls the frame before.
    pub interrupted: bool,
    /// Where the interrupt has saved all its registers (`struct pt_regs`), if it did.
    pub registers: Option<Kva>,
}

impl Frame {
    /// An address within the instruction that the function is at.
    pub fn text(&self) -> Kva {
        if self.interrupted {
            self.ip
        } else {
            self.ip.back(1)
        }
    }
}

/// What `sp_reg` and `bp_reg` count from (`ORC_REG_*`).
mod reg {
    pub const UNDEFINED: u64 = 0;
    pub const PREV_SP: u64 = 1;
    pub const DX: u64 = 2;
    pub const DI: u64 = 3;
    pub const BP: u64 = 4;
    pub const SP: u64 = 5;
    pub const R10: u64 = 6;
    pub const R13: u64 = 7;
    pub const BP_INDIRECT: u64 = 8;
    pub const SP_INDIRECT: u64 = 9;
}

/// Places in `struct pt_regs`, in bytes: the layout is that of the ptrace ABI.
mod pt_regs {
    pub const R13: u64 = 2 * 8;
    pub const BP: u64 = 4 * 8;
    pub const R10: u64 = 7 * 8;
    pub const DX: u64 = 12 * 8;
    pub const DI: u64 = 14 * 8;
    pub const IP: u64 = 16 * 8;
    pub const CS: u64 = 17 * 8;
    pub const SP: u64 = 19 * 8;
}

/// What lies on the stack (`ORC_TYPE_*` of Linux 6.4 and later).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Undefined,
    End,
    Call,
    Regs,
    RegsPartial,
}

/// An entry, read.
#[derive(Clone, Copy, Debug)]
struct Entry {
    sp_offset: u64,
    bp_offset: u64,
    sp_reg: u64,
    bp_reg: u64,
    kind: Kind,
    signal: bool,
}

/// A chain under way: the frames from the innermost outwards.
#[derive(Debug)]
pub struct Unwind<'k, 'm, M: PhysMem + ?Sized> {
    kernel: &'k Kernel<'m, M>,
    at: Option<Start>,
    /// Registers saved by an interrupt, and whether all of them were.
    regs: Option<(Kva, bool)>,
    left: usize,
    /// What is wrong behind the frame yielded last.
    failed: Option<WalkError>,
    /// Registers of user mode, where the chain ended.
    user: Option<Kva>,
}

impl<'k, 'm, M: PhysMem + ?Sized> Unwind<'k, 'm, M> {
    /// The chain from a known set of registers on.
    pub fn new(kernel: &'k Kernel<'m, M>, start: Start) -> Self {
        Self {
            kernel,
            at: Some(start),
            regs: None,
            left: MAX_FRAMES,
            failed: None,
            user: None,
        }
    }

    /// The chain of a task that is not running.
    ///
    /// # Errors
    /// The task or its stack cannot be read.
    pub fn sleeping(kernel: &'k Kernel<'m, M>, task: Kva) -> Result<Self, WalkError> {
        let types = &kernel.types.orc;
        let frame = kernel.mem.ptr(task, types.task.sp).about("task_struct")?;
        let ip = kernel
            .mem
            .ptr(frame, types.inactive.ret_addr)
            .about("inactive_task_frame")?;
        let bp = kernel.mem.ptr(frame, types.inactive.bp).about("inactive_task_frame")?;
        let interrupted = kernel.prepared.orc.ret_from_fork == Some(ip);
        let sp = frame.offset(u64::from(types.inactive.struct_size));
        Ok(Self::new(
            kernel,
            Start {
                ip,
                sp,
                bp,
                interrupted,
            },
        ))
    }

    /// The chain of a task that runs `panic()`, from the function that called it on. Registers need not be known: the
    /// return address behind a direct call of `panic` tells the place. `None` if the task does not run it.
    ///
    /// # Errors
    /// The task or its stack cannot be read.
    pub fn panicking(kernel: &'k Kernel<'m, M>, task: Kva) -> Result<Option<Self>, WalkError> {
        let Some(panic) = kernel.prepared.orc.panic else {
            return Ok(None);
        };
        let stack = kernel.mem.ptr(task, kernel.types.orc.task.stack).about("task_struct")?;
        let bytes = kernel.mem.bytes(stack, THREAD_SIZE as usize).about("stack")?;
        let words = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| Kva(u64::from_le_bytes(*word)));
        // `panic` takes a variable number of arguments and therefore sets up a frame: its caller's frame pointer lies
        // right below the return address.
        let mut below = Kva::NULL;
        for (place, ip) in (0u64..).zip(words) {
            if kernel.prepared.space.image.contains(&ip) && calls(kernel, ip, panic) {
                let sp = stack.offset(place.saturating_add(1).saturating_mul(8));
                return Ok(Some(Self::new(
                    kernel,
                    Start {
                        ip,
                        sp,
                        bp: below,
                        interrupted: false,
                    },
                )));
            }
            below = ip;
        }
        Ok(None)
    }

    /// All frames up to the entry from user mode. `None` if the chain does not lead there.
    pub fn to_user_mode(mut self) -> Option<(Vec<Frame>, Kva)> {
        let mut found = Vec::new();
        for frame in self.by_ref() {
            found.push(frame.ok()?);
        }
        Some((found, self.user?))
    }

    /// A register that an interrupt saved.
    fn saved(&self, offset: u64) -> Option<Kva> {
        let (regs, full) = self.regs?;
        let known = full || offset >= pt_regs::IP;
        known
            .then(|| self.kernel.mem.pointer(regs.offset(offset)).ok())
            .flatten()
    }

    /// The frame that called `from`; `None` at the end of the chain.
    fn caller(&mut self, from: Start) -> Result<Option<Start>, WalkError> {
        let bad = |reason| WalkError::new("stack", from.sp, reason);
        // The instruction behind a call can belong to another function, if the callee does not return.
        let text = if from.interrupted { from.ip } else { from.ip.back(1) };
        let Some(entry) = find(self.kernel, text)? else {
            return Ok(None);
        };
        let memory = &self.kernel.mem;
        let unknown = || bad(Reason::BadValue("ORC register", entry.sp_reg));
        let base = match entry.sp_reg {
            reg::SP | reg::SP_INDIRECT => from.sp,
            reg::BP | reg::BP_INDIRECT => from.bp,
            reg::R10 => self.saved(pt_regs::R10).ok_or_else(unknown)?,
            reg::R13 => self.saved(pt_regs::R13).ok_or_else(unknown)?,
            reg::DI => self.saved(pt_regs::DI).ok_or_else(unknown)?,
            reg::DX => self.saved(pt_regs::DX).ok_or_else(unknown)?,
            _ if entry.kind == Kind::End => return Ok(None),
            _ => return Err(unknown()),
        };
        let sp = match entry.sp_reg {
            reg::SP | reg::BP => base.offset(entry.sp_offset),
            reg::BP_INDIRECT => memory.pointer(base.offset(entry.sp_offset)).about("stack")?,
            reg::SP_INDIRECT => memory.pointer(base).about("stack")?.offset(entry.sp_offset),
            _ => base,
        };
        let bp = match entry.bp_reg {
            reg::PREV_SP => memory.pointer(sp.offset(entry.bp_offset)).about("stack")?,
            reg::BP => memory.pointer(from.bp.offset(entry.bp_offset)).about("stack")?,
            reg::UNDEFINED => self.saved(pt_regs::BP).unwrap_or(from.bp),
            other => return Err(bad(Reason::BadValue("ORC register", other))),
        };
        match entry.kind {
            Kind::End => Ok(None),
            Kind::Undefined => Err(bad(Reason::BadNode("text without a known stack layout"))),
            Kind::Call => {
                let ip = memory.pointer(sp.back(8)).about("stack")?;
                self.regs = None;
                // Through a word on the stack it can go on to another stack; frames are counted.
                let same_stack = entry.sp_reg != reg::SP_INDIRECT && entry.sp_reg != reg::BP_INDIRECT;
                if same_stack && sp <= from.sp {
                    return Err(bad(Reason::BackLink(sp)));
                }
                Ok(Some(Start {
                    ip,
                    sp,
                    bp,
                    interrupted: entry.signal,
                }))
            }
            Kind::Regs | Kind::RegsPartial => {
                let full = entry.kind == Kind::Regs;
                let regs = if full { sp } else { sp.back(pt_regs::IP) };
                self.regs = Some((regs, full));
                let word = |offset| memory.u64(regs.offset(offset)).about("stack");
                if word(pt_regs::CS)? & 3 != 0 {
                    self.user = Some(regs);
                    return Ok(None);
                }
                let bp = if full { Kva(word(pt_regs::BP)?) } else { bp };
                let (ip, sp) = (Kva(word(pt_regs::IP)?), Kva(word(pt_regs::SP)?));
                Ok(Some(Start {
                    ip,
                    sp,
                    bp,
                    interrupted: true,
                }))
            }
        }
    }
}

impl<M: PhysMem + ?Sized> Iterator for Unwind<'_, '_, M> {
    type Item = Result<Frame, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        let frame = self.at.take()?;
        self.left = self.left.checked_sub(1)?;
        let saved = self.regs.filter(|&(_, full)| full && frame.interrupted);
        match self.caller(frame) {
            Ok(caller) => self.at = caller,
            Err(error) => self.failed = Some(error),
        }
        let end = self.at.filter(|caller| self.regs.is_none() && caller.sp > frame.sp);
        Some(Ok(Frame {
            ip: frame.ip,
            sp: frame.sp,
            end: end.map_or(frame.sp, |caller| caller.sp),
            interrupted: frame.interrupted,
            registers: saved.map(|(registers, _)| registers),
        }))
    }
}

/// Whether a return address stands behind a direct call (opcode E8, a 32-bit distance) of a function.
fn calls<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, back: Kva, function: Kva) -> bool {
    let opcode = kernel.mem.u8(back.back(5));
    let distance = kernel.mem.i32(back.back(4));
    opcode == Ok(0xE8) && distance.is_ok_and(|distance| back.offset(i64::from(distance) as u64) == function)
}

/// Where a function has moved its stack pointer up to the instruction at `text`: each place in its text, and how far its
/// caller's stack pointer is from there on. Ends with the place where that is counted from another register, if there is one.
///
/// # Errors
/// The tables cannot be read.
pub fn distances<M: PhysMem + ?Sized>(
    kernel: &Kernel<'_, M>,
    start: Kva,
    text: Kva,
) -> Result<Vec<(Kva, Option<u64>)>, WalkError> {
    let mut found = Vec::new();
    let Some(tables) = tables(kernel, text)? else {
        return Ok(found);
    };
    let (Some(first), Some(last)) = (number(kernel, tables, start)?, number(kernel, tables, text)?) else {
        return Ok(found);
    };
    for place in (first..=last).take(MAX_MOVES) {
        let Some(entry) = entry(kernel, tables, place)? else {
            break;
        };
        let distance = (entry.sp_reg == reg::SP).then_some(entry.sp_offset);
        found.push((begins(kernel, tables, place)?, distance));
        if distance.is_none() {
            break;
        }
    }
    Ok(found)
}

/// The entry for an address of text; `None` if it has none.
fn find<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, text: Kva) -> Result<Option<Entry>, WalkError> {
    let Some(tables) = tables(kernel, text)? else {
        return Ok(None);
    };
    match number(kernel, tables, text)? {
        Some(place) => entry(kernel, tables, place),
        None => Ok(None),
    }
}

/// The tables that an address of text is in: the kernel's own, or those of a module.
fn tables<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, text: Kva) -> Result<Option<OrcTables>, WalkError> {
    let space = &kernel.prepared.space;
    if !space.image.contains(&text) {
        let module = (text >= space.image.end).then(|| modules::of_text(kernel, text));
        return Ok(module.transpose()?.flatten().and_then(|(_, tables)| tables));
    }
    let symbols = &kernel.prepared.orc;
    let (Some(ips), Some(end), Some(entries)) = (symbols.ips, symbols.ips_end, symbols.entries) else {
        return Ok(None);
    };
    Ok(Some(OrcTables {
        ips,
        count: end.0.saturating_sub(ips.0) >> 2,
        entries,
    }))
}

/// Where the text of an entry begins.
fn begins<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, tables: OrcTables, place: u64) -> Result<Kva, WalkError> {
    let word = tables.ips.offset(place.wrapping_mul(4));
    Ok(word.offset(i64::from(kernel.mem.i32(word).about("orc_unwind_ip")?) as u64))
}

/// The number of the entry for an address; `None` if there is none.
fn number<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, tables: OrcTables, text: Kva) -> Result<Option<u64>, WalkError> {
    // The rightmost of those that begin at or before the address.
    let (mut low, mut high) = (0, tables.count.min(MAX_ENTRIES));
    while low < high {
        let middle = low.saturating_add(high.saturating_sub(low) >> 1);
        if begins(kernel, tables, middle)? <= text {
            low = middle.saturating_add(1);
        } else {
            high = middle;
        }
    }
    Ok(low.checked_sub(1))
}

/// The entry of a number.
fn entry<M: PhysMem + ?Sized>(
    kernel: &Kernel<'_, M>,
    tables: OrcTables,
    place: u64,
) -> Result<Option<Entry>, WalkError> {
    let Some(types) = &kernel.types.orc.entry else {
        return Ok(None);
    };
    let at = tables.entries.offset(place.wrapping_mul(u64::from(types.struct_size)));
    let about = "orc_entry";
    let unsigned = |field| kernel.mem.uint(at, field).about(about);
    let signed = |field| kernel.mem.int(at, field).about(about).map(|value| value as u64);
    let kind = unsigned(types.kind)?;
    let kind = match types.end {
        Some(end) if unsigned(end)? != 0 => Kind::End,
        // The old numbers lack the first two.
        Some(_) => kind_of(kind.saturating_add(2), at)?,
        None => kind_of(kind, at)?,
    };
    let signal = match types.signal {
        Some(field) => unsigned(field)? != 0,
        None => kind != Kind::Call,
    };
    Ok(Some(Entry {
        sp_offset: signed(types.sp_offset)?,
        bp_offset: signed(types.bp_offset)?,
        sp_reg: unsigned(types.sp_reg)?,
        bp_reg: unsigned(types.bp_reg)?,
        kind,
        signal,
    }))
}

fn kind_of(number: u64, at: Kva) -> Result<Kind, WalkError> {
    const KINDS: [Kind; 5] = [Kind::Undefined, Kind::End, Kind::Call, Kind::Regs, Kind::RegsPartial];
    let kind = usize::try_from(number).ok().and_then(|number| KINDS.get(number));
    kind.copied()
        .ok_or(WalkError::new("orc_entry", at, Reason::BadValue("type", number)))
}

/// Instruction pointers of the frames of a chain, and what ended it early.
pub fn frames<M: PhysMem + ?Sized>(chain: Unwind<'_, '_, M>) -> (Vec<Kva>, Option<WalkError>) {
    let mut found = Vec::new();
    for frame in chain {
        match frame {
            Ok(frame) => found.push(frame.ip),
            Err(error) => return (found, Some(error)),
        }
    }
    (found, None)
}
