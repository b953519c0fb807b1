//! How a thread goes on that was stopped inside a system call.
//!
//! In this order: a call that is over keeps its result; one that can be repeated exactly is repeated, with the time-out
//! that remains; one that had part of its effect gets the result of that part; one that only waited is answered as a
//! signal would have it answered. What is none of this refuses the process: an effect is never repeated in silence.

pub mod chain;
mod effects;
pub mod exec;
mod frozen;
pub mod kept_registers;
mod restart_block;
mod ring_enter;
mod socket_calls;
pub mod stack;
mod tcp_calls;
mod terminal_calls;
mod transfer;
mod vfork;
mod waits;

use crate::addr::{Kva, Uva};
use crate::calls::{self, Way};
use crate::context::Context;
use crate::files::{self, Descriptor};
use crate::inodes;
use crate::memory::PhysMem;
use crate::paging::PageTables;
use crate::refusal::{Refusal, Result};
use crate::registers::{Origin, Place, Registers, UserRegs, SYSCALL_INSN};
use crate::user_memory;
use alloc::rc::Rc;
use alloc::vec::Vec;
use chain::Chain;
pub use restart_block::RestartBlock;
use shared_region::context::{Caught, Resume};
use shared_region::reasons;
use socket_calls::Buffers;

const ENOSYS: i64 = -38;
const EINTR: i64 = -4;
/// `ERESTARTSYS`, `ERESTARTNOINTR`, `ERESTARTNOHAND`: to be made again unless a handler runs (`include/linux/errno.h`).
const RESTART_CODES: [i64; 3] = [-512, -513, -514];
/// `ERESTART_RESTARTBLOCK`: to be gone on with as `restart_block` says.
const RESTART_BLOCK: i64 = -516;
/// TIMER_ABSTIME.
const TIMER_ABSTIME: u64 = 1;
/// The two bytes of `syscall`.
const SYSCALL: [u8; 2] = [0x0F, 0x05];
/// The function that ends in the loop of a dead kernel.
const PANIC: [&str; 1] = ["panic"];

/// How a thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Registers to set; `orig_ax` is −1, so that no kernel takes them for those of an interrupted call.
    pub regs: UserRegs,
    /// What else there is to do.
    pub resume: Resume,
    /// Where it was.
    pub caught: Caught,
    /// An open file whose offset has moved by a part of the call.
    pub moved: Option<(Kva, u64)>,
    /// A socket whose lock it has, at a place where that is held over nothing unfinished.
    pub locks: Option<Kva>,
}

/// A thread, as far as its calls are concerned.
pub struct Thread<'t> {
    /// The task.
    pub task: Kva,
    /// Its registers.
    pub registers: Registers,
    /// Its process's page tables.
    pub tables: PageTables,
    /// Its open files.
    pub descriptors: &'t [Descriptor],
    /// First and last address of the vDSO's code.
    pub vdso: (u64, u64),
}

/// Decides how a thread goes on.
///
/// # Errors
/// It is in a call that can be neither repeated nor completed, or something cannot be read.
pub fn decide<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, thread: &Thread<'_>) -> Result<Decision> {
    let regs = thread.registers.user;
    let user = UserRegs {
        orig_ax: u64::MAX,
        ..regs
    };
    let stands = |regs, caught| Decision {
        regs,
        resume: Resume::Registers,
        caught,
        moved: None,
        locks: None,
    };
    if thread.registers.origin != Origin::Stack || !regs.in_syscall() {
        let caught = if (thread.vdso.0..thread.vdso.1).contains(&regs.ip) {
            Caught::Vdso
        } else {
            Caught::User
        };
        return Ok(stands(user, caught));
    }
    let number = regs.orig_ax as u32;
    let caught = Caught::Syscall(number);
    match regs.ax as i64 {
        ENOSYS => {
            let decision = Call::new(context, thread, number).decide()?;
            Ok(Decision { caught, ..decision })
        }
        code if RESTART_CODES.contains(&code) => Ok(stands(restarted(regs), caught)),
        RESTART_BLOCK => {
            let decision = restart_block::decide(context, thread)?;
            Ok(Decision { caught, ..decision })
        }
        // What cannot be looked at leaves it an answer that is true.
        EINTR if frozen::is_made_again(context, thread).unwrap_or(false) => Ok(stands(restarted(regs), caught)),
        // The registers are the new program's one by one, the result first.
        0 if calls::way(number) == Way::Exec && exec::is_under_way(context, thread.task)? => {
            let decision = Call::new(context, thread, number).exec()?;
            Ok(Decision { caught, ..decision })
        }
        // The call is over.
        _ => Ok(stands(user, caught)),
    }
}

/// As [`decide`], but a call that can be neither repeated nor completed is left to the process itself if it has a hook for
/// it. The call in which the kernel died is not: it would be made again.
///
/// # Errors
/// As there.
pub fn decide_or_ask<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    thread: &Thread<'_>,
    has_hook: impl FnOnce(u32) -> bool,
) -> Result<Decision> {
    let decided = decide(context, thread);
    let regs = thread.registers.user;
    let number = regs.orig_ax as u32;
    let undecided = matches!(&decided, Err(refusal) if refusal.reason == reasons::CALL_EFFECT);
    if !undecided || thread.registers.origin != Origin::Stack || !regs.in_syscall() || !has_hook(number) {
        return decided;
    }
    let chain = Chain::of(context, thread.task, &thread.registers);
    if chain.is_some_and(|chain| chain.has(&PANIC)) {
        return decided;
    }
    let regs = UserRegs {
        orig_ax: u64::MAX,
        ..regs
    };
    Ok(Decision {
        regs,
        resume: Resume::Undecided,
        caught: Caught::Syscall(number),
        moved: None,
        locks: None,
    })
}

/// Registers that make the call again.
fn restarted(regs: UserRegs) -> UserRegs {
    UserRegs {
        ax: regs.orig_ax,
        ip: regs.ip.wrapping_sub(SYSCALL_INSN),
        orig_ax: u64::MAX,
        ..regs
    }
}

/// A call under way.
struct Call<'c, 'k, 'm, 't, M: PhysMem + ?Sized> {
    context: &'c Context<'k, 'm, M>,
    thread: &'c Thread<'t>,
    number: u32,
    /// Once it was looked for.
    chain: Option<Option<Rc<Chain>>>,
}

impl<'c, 'k, 'm, 't, M: PhysMem + ?Sized> Call<'c, 'k, 'm, 't, M> {
    fn new(context: &'c Context<'k, 'm, M>, thread: &'c Thread<'t>, number: u32) -> Self {
        Self {
            context,
            thread,
            number,
            chain: None,
        }
    }

    fn decide(&mut self) -> Result<Decision> {
        match self.by_its_way() {
            Err(_) if self.is_before() => self.restart(),
            decided => decided,
        }
    }

    fn by_its_way(&mut self) -> Result<Decision> {
        match calls::way(self.number) {
            Way::Restart | Way::Exit => self.restart(),
            Way::Once => Err(self.refuse("")),
            Way::Late => self.restart_if_off(),
            Way::Receive(flags) => self.receive(Some(flags), Buffers::One),
            Way::ReceiveMessage(flags) => self.receive(Some(flags), Buffers::Message),
            Way::Connect => self.connect(),
            Way::Send => self.send(Buffers::One),
            Way::SendMessage => self.send(Buffers::Message),
            Way::Read { moves, vector } => self.transfer(false, moves, vector),
            Way::Write { moves, vector } => self.transfer(true, moves, vector),
            Way::Move { from, to } => self.move_data(from, to),
            Way::Sleep => self.sleep(self.argument(1)),
            Way::ClockSleep if self.argument(1) & TIMER_ABSTIME != 0 => self.restart(),
            Way::ClockSleep => self.clock_sleep(),
            Way::Futex => self.futex(),
            Way::FutexVector => {
                if self.is_asleep()? {
                    self.restart()
                } else {
                    Err(self.refuse("may have been woken"))
                }
            }
            Way::Poll => self.poll(),
            Way::WaitMs(timeout) => self.wait((self.argument(timeout) as i32) < 0),
            Way::WaitPointer(timeout) => self.wait(self.argument(timeout) == 0),
            Way::AioEvents if self.argument(1) as i64 > 1 => Err(self.refuse("")),
            Way::AioEvents => self.wait(self.argument(4) == 0),
            Way::RingEnter => self.ring_enter(),
            Way::Close => self.close(),
            Way::Fork => self.fork(),
            Way::Exec => self.exec(),
            Way::Reap => self.reap(),
            Way::Seek => self.seek(),
            Way::Open(flags) => self.open(flags),
            Way::Fcntl => self.fcntl(),
            Way::SignalMask => self.signal_mask(),
            Way::SysvIpc(timeout) => self.sysv_ipc(timeout),
            Way::PosixQueue => self.posix_queue(),
            Way::RestartBlock => restart_block::decide(self.context, self.thread),
        }
    }

    /// An argument, counted from 0.
    fn argument(&self, index: usize) -> u64 {
        let regs = &self.thread.registers.user;
        let arguments = [regs.di, regs.si, regs.dx, regs.r10, regs.r8, regs.r9];
        arguments.get(index).copied().unwrap_or(0)
    }

    fn refuse(&self, detail: &str) -> Refusal {
        let name = calls::name(self.number);
        let task = self
            .context
            .kernel
            .mem
            .uint(self.thread.task, self.context.kernel.types.layouts.task.pid)
            .unwrap_or(0);
        let detail = if detail.is_empty() {
            alloc::string::String::new()
        } else {
            alloc::format!(" ({detail})")
        };
        Refusal::new(
            reasons::CALL_EFFECT,
            alloc::format!(
                "thread {task} in {name} [{}]{detail} at {}",
                self.number,
                chain::place(self.context.kernel, self.thread.task, &self.thread.registers)
            ),
        )
    }

    fn decision(&self, regs: UserRegs, resume: Resume) -> Decision {
        Decision {
            regs,
            resume,
            caught: Caught::Syscall(self.number),
            moved: None,
            locks: None,
        }
    }

    /// From the start.
    fn restart(&self) -> Result<Decision> {
        let regs = self.thread.registers.user;
        let at = regs.ip.wrapping_sub(SYSCALL_INSN);
        let mut instruction = SYSCALL;
        // A page of code that is not in memory comes from its file again, and is what it was.
        let _ = user_memory::read(
            self.context.kernel.phys(),
            &self.thread.tables,
            Uva(at),
            &mut instruction,
        );
        if instruction != SYSCALL {
            return Err(Refusal::new(
                reasons::COMPAT,
                alloc::format!("system call at {at:#x} by another instruction"),
            ));
        }
        Ok(self.decision(restarted(regs), Resume::Registers))
    }

    /// With a result.
    fn result(&self, value: u64) -> Decision {
        let regs = UserRegs {
            ax: value,
            orig_ax: u64::MAX,
            ..self.thread.registers.user
        };
        self.decision(regs, Resume::Registers)
    }

    /// The functions it is in. `None` if they cannot be found.
    fn chain(&mut self) -> Result<Option<Rc<Chain>>> {
        if self.chain.is_none() {
            let chain = Chain::of(self.context, self.thread.task, &self.thread.registers);
            if chain.as_ref().is_some_and(|chain| chain.has(&PANIC)) {
                return Err(self.refuse("in which the kernel died"));
            }
            self.chain = Some(chain.map(Rc::new));
        }
        Ok(self.chain.clone().flatten())
    }

    /// Whether the thread gave its CPU up inside the call.
    fn is_off(&mut self) -> Result<bool> {
        Ok(match self.chain()? {
            Some(chain) => chain.is_off(),
            None => self.thread.registers.place == Place::Off,
        })
    }

    /// Whether the call has not begun.
    fn is_before(&mut self) -> bool {
        matches!(self.chain(), Ok(Some(chain)) if chain.is_before_the_call())
    }

    /// The open file that an argument names.
    fn descriptor(&self, argument: usize) -> Option<Kva> {
        let fd = self.argument(argument) as u32;
        self.thread
            .descriptors
            .iter()
            .find(|descriptor| descriptor.fd == fd)
            .map(|descriptor| descriptor.file)
    }

    /// Name of a file's table of functions, and its type.
    fn kind_of(&self, file: Kva) -> Result<(alloc::string::String, u64)> {
        let kernel = self.context.kernel;
        let layouts = &kernel.types.layouts;
        let inode = kernel.mem.ptr(file, layouts.file.f_inode)?;
        let mode = kernel.mem.uint(inode, layouts.inode.i_mode)? & inodes::S_IFMT;
        let operations = self.context.symbol(kernel.mem.ptr(file, layouts.file.f_op)?);
        Ok((operations.as_deref().unwrap_or_default().into(), mode))
    }
}

/// What interrupted calls have left of objects that other threads have as well.
#[derive(Debug, Default)]
pub struct Left {
    /// Open files with the offsets that they have moved.
    pub moved: Vec<(Kva, u64)>,
    /// Sockets that they hold locked, with nothing unfinished.
    pub locked: Vec<Kva>,
}

/// What the calls of all these threads have left.
pub fn left<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, threads: &[Thread<'_>]) -> Left {
    let mut left = Left::default();
    for decision in threads.iter().filter_map(|thread| decide(context, thread).ok()) {
        left.moved.extend(decision.moved);
        left.locked.extend(decision.locks);
    }
    left
}

/// The descriptors of a thread's process, for [`Thread::descriptors`].
///
/// # Errors
/// They cannot be read.
pub fn descriptors<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, files: Kva) -> Result<Vec<Descriptor>> {
    files::descriptors(context, files)
}
