//! How a thread goes on that was stopped inside a system call.
//!
//! In this order: a call that is over keeps its result; one that can be repeated exactly is repeated, with the time-out
//! that remains; one that had part of its effect gets the result of that part; one that only waited is answered as a
//! signal would have it answered. What is none of this refuses the process: an effect is never repeated in silence.

use crate::addr::{Kva, Uva};
use crate::calls::{self, Way};
use crate::context::Context;
use crate::files::{self, Descriptor};
use crate::inodes;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::paging::PageTables;
use crate::pipes;
use crate::refusal::{Refusal, Result};
use crate::registers::{Origin, Registers, UserRegs, SYSCALL_INSN};
use crate::stack_scan::{Sleeper, Stack};
use crate::timers::clocks;
use crate::user_memory;
use alloc::vec::Vec;
use shared_region::context::{Caught, Resume};
use shared_region::reasons;

const ENOSYS: i64 = -38;
const EINTR: i64 = -4;
/// `ERESTARTSYS`, `ERESTARTNOINTR`, `ERESTARTNOHAND`: to be made again unless a handler runs (`include/linux/errno.h`).
const RESTART_CODES: [i64; 3] = [-512, -513, -514];
/// `ERESTART_RESTARTBLOCK`: to be gone on with as `restart_block` says.
const RESTART_BLOCK: i64 = -516;
/// TIMER_ABSTIME.
const TIMER_ABSTIME: u64 = 1;
/// Operations of `futex`, and the flags beside them (`include/uapi/linux/futex.h`).
const FUTEX_CMD: u64 = 0x7F;
const FUTEX_WAIT: u64 = 0;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_WAIT_REQUEUE_PI: u64 = 11;
const FUTEX_FLAGS: u64 = 0x180;
/// O_APPEND, O_CREAT | O_EXCL.
const O_APPEND: u64 = 0o2000;
const O_CREAT_EXCL: u64 = 0o300;
/// SIG_BLOCK and SIG_UNBLOCK.
const SIG_BLOCK: u64 = 0;
const SIG_UNBLOCK: u64 = 1;
/// Tables of functions of pipes and FIFOs.
const PIPES: [&str; 2] = ["pipefifo_fops", "pipeanon_fops"];
/// SEEK_CUR.
const SEEK_CUR: u64 = 1;
/// `UIO_MAXIOV`.
const MAX_VECTOR: u64 = 1024;
/// The two bytes of `syscall`.
const SYSCALL: [u8; 2] = [0x0F, 0x05];
/// Where a call that moved data may be between its effect and its result, or not have begun: functions that neither
/// sleep nor move anything themselves.
const EDGES: [&str; 18] = [
    "ksys_read",
    "ksys_write",
    "vfs_read",
    "vfs_write",
    "vfs_readv",
    "vfs_writev",
    "do_readv",
    "do_writev",
    "pipe_read",
    "pipe_write",
    "do_sendfile",
    "do_splice",
    "__do_splice",
    "splice_file_to_pipe",
    "do_syscall_64",
    "x64_sys_call",
    "syscall_exit_to_user_mode",
    "__f_unlock_pos",
];

crate::mirrors! {
    /// How an interrupted call is to be gone on with.
    #[allow(missing_docs)]
    pub struct RestartBlock = "restart_block" {
        function: Field = "fn",
        futex_uaddr: Field = "futex.uaddr",
        futex_val: Field = "futex.val",
        futex_bitset: Field = "futex.bitset",
        futex_time: Field = "futex.time",
        sleep_clock: Field = "nanosleep.clockid",
        sleep_rmtp: Field = "nanosleep.rmtp",
        sleep_expires: Field = "nanosleep.expires",
        poll_ufds: Field = "poll.ufds",
        poll_nfds: Field = "poll.nfds",
        poll_sec: Field = "poll.tv_sec",
        poll_nsec: Field = "poll.tv_nsec",
    }
}

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
            let mut call = Call {
                context,
                thread,
                number,
                stack: None,
            };
            let decision = call.decide()?;
            Ok(Decision { caught, ..decision })
        }
        code if RESTART_CODES.contains(&code) => Ok(stands(restarted(regs), caught)),
        RESTART_BLOCK => {
            let decision = restart_block(context, thread)?;
            Ok(Decision { caught, ..decision })
        }
        // The call is over.
        _ => Ok(stands(user, caught)),
    }
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
    stack: Option<Stack>,
}

impl<M: PhysMem + ?Sized> Call<'_, '_, '_, '_, M> {
    fn decide(&mut self) -> Result<Decision> {
        match calls::way(self.number) {
            Way::Restart | Way::Exit => self.restart(),
            Way::Once => Err(self.refuse("")),
            Way::Read { moves, vector } => self.transfer(false, moves, vector),
            Way::Write { moves, vector } => self.transfer(true, moves, vector),
            Way::Move { from, to } => self.move_data(from, to),
            Way::Sleep => self.sleep(self.argument(1)),
            Way::ClockSleep if self.argument(1) & TIMER_ABSTIME != 0 => self.restart(),
            Way::ClockSleep => self.clock_sleep(),
            Way::Futex => self.futex(),
            Way::Poll => self.poll(),
            Way::WaitMs(timeout) if (self.argument(timeout) as i32) < 0 => self.restart(),
            Way::WaitPointer(timeout) if self.argument(timeout) == 0 => self.restart(),
            Way::WaitMs(_) | Way::WaitPointer(_) => match self.sleeper()? {
                Some(_) => Ok(self.result(EINTR as u64)),
                None => self.restart(),
            },
            Way::Close => {
                let open = self.descriptor(0).is_some();
                if open {
                    self.restart()
                } else {
                    Ok(self.result(0))
                }
            }
            Way::Fork => self.restart(),
            Way::Exec => {
                let field = self.context.kernel.types.layouts.task.in_execve;
                if self.context.kernel.mem.uint(self.thread.task, field)? != 0 {
                    return Err(Refusal::new(reasons::EXEC, ""));
                }
                self.restart()
            }
            Way::Seek if self.argument(2) == SEEK_CUR && self.argument(1) != 0 => Err(self.refuse("")),
            Way::Seek => self.restart(),
            Way::Open(flags) if self.argument(flags) & O_CREAT_EXCL == O_CREAT_EXCL => Err(self.refuse("O_EXCL")),
            Way::Open(_) => self.restart(),
            Way::SignalMask => self.signal_mask(),
            Way::RestartBlock => restart_block(self.context, self.thread),
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
            alloc::format!("thread {task} in {name} [{}]{detail}", self.number),
        )
    }

    fn decision(&self, regs: UserRegs, resume: Resume) -> Decision {
        Decision {
            regs,
            resume,
            caught: Caught::Syscall(self.number),
            moved: None,
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

    fn stack(&mut self) -> Result<&Stack> {
        if self.stack.is_none() {
            self.stack = Some(Stack::read(
                self.context,
                self.thread.task,
                self.thread.registers.kernel_sp,
            )?);
        }
        self.stack
            .as_ref()
            .ok_or_else(|| Refusal::new(reasons::UNREADABLE, "kernel stack"))
    }

    fn sleeper(&mut self) -> Result<Option<Sleeper>> {
        let (context, task) = (self.context, self.thread.task);
        Ok(self.stack()?.sleeper(context, task))
    }

    /// A relative sleep, until the time it was to end.
    fn sleep(&mut self, remain: u64) -> Result<Decision> {
        let Some(Sleeper { clock, expires }) = self.sleeper()? else {
            return self.restart();
        };
        let expires = self.context.now.to_process(clock, expires);
        let regs = UserRegs {
            ax: 0,
            orig_ax: u64::MAX,
            ..self.thread.registers.user
        };
        Ok(self.decision(regs, Resume::Sleep { clock, expires, remain }))
    }

    /// A relative sleep on a clock of choice. CPU clocks and alarm clocks have other timers.
    fn clock_sleep(&mut self) -> Result<Decision> {
        match self.argument(0) as i32 {
            clocks::REALTIME | clocks::MONOTONIC | clocks::BOOTTIME | clocks::TAI => self.sleep(self.argument(3)),
            clock => Err(self.refuse(&alloc::format!("clock {clock}"))),
        }
    }

    fn futex(&mut self) -> Result<Decision> {
        let (uaddr, op, val) = (self.argument(0), self.argument(1), self.argument(2) as u32);
        let command = op & FUTEX_CMD;
        if command == FUTEX_WAIT_REQUEUE_PI {
            return Err(self.refuse("FUTEX_WAIT_REQUEUE_PI"));
        }
        if command != FUTEX_WAIT && command != FUTEX_WAIT_BITSET {
            return self.restart();
        }
        let bitset = if command == FUTEX_WAIT {
            u32::MAX
        } else {
            self.argument(5) as u32
        };
        let (context, task) = (self.context, self.thread.task);
        // A wake-up that was given to this thread must not get lost.
        if self.stack()?.futex_woken(context, task, bitset) == Some(true) {
            return Ok(self.result(0));
        }
        if command == FUTEX_WAIT_BITSET || self.argument(3) == 0 {
            return self.restart();
        }
        let Some(Sleeper { clock, expires }) = self.sleeper()? else {
            return self.restart();
        };
        let expires = self.context.now.to_process(clock, expires);
        let flags = (op & FUTEX_FLAGS) as u32;
        let regs = UserRegs {
            ax: 0,
            orig_ax: u64::MAX,
            ..self.thread.registers.user
        };
        Ok(self.decision(
            regs,
            Resume::Futex {
                uaddr,
                val,
                flags,
                bitset,
                expires,
            },
        ))
    }

    fn poll(&mut self) -> Result<Decision> {
        if (self.argument(2) as i32) <= 0 {
            return self.restart();
        }
        let Some(Sleeper { clock, expires }) = self.sleeper()? else {
            return self.restart();
        };
        let expires = self.context.now.to_process(clock, expires);
        let regs = UserRegs {
            ax: 0,
            orig_ax: u64::MAX,
            ..self.thread.registers.user
        };
        let (fds, count) = (self.argument(0), self.argument(1) as u32);
        Ok(self.decision(regs, Resume::Poll { fds, count, expires }))
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

    /// `read`, `write` and their like.
    fn transfer(&mut self, writes: bool, moves: bool, vector: bool) -> Result<Decision> {
        let Some(file) = self.descriptor(0) else {
            return self.restart();
        };
        let (_, mode) = self.kind_of(file)?;
        let done = self.progress(vector)?;
        if self.at_edge() && done != Some(0) && (moves || mode != inodes::S_IFREG) {
            return Err(self.refuse("at its very end or beginning"));
        }
        let done = done.unwrap_or(0);
        if mode != inodes::S_IFREG {
            let (context, buffer, length) = (self.context, self.argument(1), self.argument(2));
            if !vector && self.stack()?.is_ambiguous(context, buffer, length) {
                // A reader asleep on an empty pipe has read nothing: with anything read it would not wait.
                if !writes && self.is_asleep()? {
                    return self.restart();
                }
                return Err(self.refuse("with traces of earlier calls on its stack"));
            }
            // What was moved was taken out of or put into the object; the rest has not begun.
            return if done == 0 {
                self.restart()
            } else {
                Ok(self.result(done))
            };
        }
        let flags = self
            .context
            .kernel
            .mem
            .uint(file, self.context.kernel.types.layouts.file.f_flags)?;
        if writes && flags & O_APPEND != 0 {
            return self.append(file, done);
        }
        // The offset of the file moves at the end of the call only, and the same bytes go to the same place.
        self.restart()
    }

    /// Whether the thread waits in a way that a signal would end (`TASK_INTERRUPTIBLE`).
    fn is_asleep(&self) -> Result<bool> {
        let state = self.context.kernel.types.layouts.task.state;
        Ok(self.context.kernel.mem.uint(self.thread.task, state)? & 1 != 0)
    }

    /// A write at the end of a file. The size says how much of it is there.
    fn append(&mut self, file: Kva, done: u64) -> Result<Decision> {
        let context = self.context;
        let kernel = context.kernel;
        let layouts = &kernel.types.layouts;
        let Some(position) = self.stack()?.position(context, file).filter(|_| done != 0) else {
            return self.restart();
        };
        let inode = kernel.mem.ptr(file, layouts.file.f_inode)?;
        let size = kernel.mem.uint(inode, layouts.inode.i_size)?;
        let owner = kernel.mem.uint(inode, layouts.inode.i_rwsem_owner)?;
        // Low bits of the owner are flags (`RWSEM_OWNER_FLAGS_MASK`).
        let (start, written) = if owner & !7 == self.thread.task.0 {
            (position, size.saturating_sub(position).min(done))
        } else {
            // The lock is released, and with that everything that goes into the file is in it.
            (position.saturating_sub(done), done)
        };
        if written == 0 {
            return self.restart();
        }
        let mut decision = self.result(written);
        decision.moved = Some((file, start.wrapping_add(written)));
        Ok(decision)
    }

    /// `sendfile`, `splice` and their like. Between regular files they can be made again. With a pipe at one end they
    /// wait before they have moved anything, and not after; while they move something they hold the lock of the pipe.
    fn move_data(&mut self, from: usize, to: usize) -> Result<Decision> {
        let (Some(from), Some(to)) = (self.descriptor(from), self.descriptor(to)) else {
            return self.restart();
        };
        let ((from_operations, source), (to_operations, target)) = (self.kind_of(from)?, self.kind_of(to)?);
        let mut pipes = 0u32;
        for (file, operations) in [(from, from_operations), (to, to_operations)] {
            if PIPES.contains(&operations.as_str()) {
                pipes = pipes.saturating_add(1);
                if pipes::is_locked_by(self.context, file, self.thread.task)? {
                    return Err(self.refuse("while it moved data"));
                }
            }
        }
        if pipes != 0 {
            return if self.at_edge() {
                Err(self.refuse("at its very end or beginning"))
            } else {
                self.restart()
            };
        }
        let flags = self
            .context
            .kernel
            .mem
            .uint(to, self.context.kernel.types.layouts.file.f_flags)?;
        if source == inodes::S_IFREG && target == inodes::S_IFREG && flags & O_APPEND == 0 {
            return self.restart();
        }
        Err(self.refuse("to or from something else than a regular file or a pipe"))
    }

    /// A change of the signal mask. Without the old mask being asked for it is the same the second time; with it, only
    /// as long as it has not been made.
    fn signal_mask(&self) -> Result<Decision> {
        let (how, set, old) = (self.argument(0), self.argument(1), self.argument(2));
        if set == 0 || old == 0 {
            return self.restart();
        }
        let kernel = self.context.kernel;
        let field = kernel.types.layouts.task.blocked;
        let blocked = kernel.mem.u64(self.thread.task.offset(u64::from(field.offset)))?;
        let given = user_memory::word(kernel.phys(), &self.thread.tables, Uva(set));
        let after = given.map(|given| match how {
            SIG_BLOCK => blocked | given,
            SIG_UNBLOCK => blocked & !given,
            _ => given,
        });
        // SIGKILL (9) and SIGSTOP (19) are never blocked.
        if after.is_some_and(|after| after & !(1 << 8 | 1 << 18) != blocked) {
            return self.restart();
        }
        Err(self.refuse("the mask may have been changed already"))
    }

    /// Bytes moved through the buffers of the call.
    fn progress(&mut self, vector: bool) -> Result<Option<u64>> {
        let (context, buffer, length) = (self.context, self.argument(1), self.argument(2));
        if !vector {
            return Ok(self.stack()?.progress(context, buffer, length));
        }
        let phys = context.kernel.phys();
        let mut buffers: Vec<(u64, u64)> = Vec::new();
        for i in 0..length.min(MAX_VECTOR) {
            let at = Uva(buffer).offset(i.wrapping_mul(16));
            let word = |at| user_memory::word(phys, &self.thread.tables, at);
            let (Some(address), Some(length)) = (word(at), word(at.offset(8))) else {
                return Ok(None);
            };
            buffers.push((address, length));
        }
        Ok(self.stack()?.vector_progress(context, &buffers))
    }

    /// Whether the thread was stopped on a CPU in code where a transfer's result may be known to nobody but a register.
    fn at_edge(&self) -> bool {
        let Some(ip) = self.thread.registers.kernel_ip else {
            return false;
        };
        let name = self
            .context
            .kernel
            .kallsyms
            .symbolize(Kva(ip))
            .map(|found| found.name)
            .unwrap_or_default();
        EDGES.contains(&name.as_str()) || name.starts_with("__x64_sys_")
    }
}

/// A call that a signal interrupted and that no handler was run for.
fn restart_block<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, thread: &Thread<'_>) -> Result<Decision> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let layout = &layouts.restart_block;
    let mem = &kernel.mem;
    let block = thread.task.offset(u64::from(layouts.task.restart_block.offset));
    let field = |field: Field| mem.uint(block, field);
    let function = context.symbol(mem.ptr(block, layout.function)?);
    let regs = UserRegs {
        ax: 0,
        orig_ax: u64::MAX,
        ..thread.registers.user
    };
    let now = &context.now;
    let resume = match function.as_deref().unwrap_or_default() {
        "hrtimer_nanosleep_restart" => {
            let clock = mem.int(block, layout.sleep_clock)? as i32;
            Resume::Sleep {
                clock,
                expires: now.to_process(clock, field(layout.sleep_expires)?),
                remain: field(layout.sleep_rmtp)?,
            }
        }
        // The kernel's own flags have another meaning in each version; the arguments of the call still stand.
        "futex_wait_restart" => Resume::Futex {
            uaddr: field(layout.futex_uaddr)?,
            val: field(layout.futex_val)? as u32,
            flags: (regs.si & FUTEX_FLAGS) as u32,
            bitset: field(layout.futex_bitset)? as u32,
            expires: now.to_process(clocks::MONOTONIC, field(layout.futex_time)?),
        },
        "do_restart_poll" => {
            let seconds = field(layout.poll_sec)?.wrapping_mul(1_000_000_000);
            Resume::Poll {
                fds: field(layout.poll_ufds)?,
                count: field(layout.poll_nfds)? as u32,
                expires: now.to_process(clocks::MONOTONIC, seconds.wrapping_add(field(layout.poll_nsec)?)),
            }
        }
        "do_no_restart_syscall" => {
            let regs = UserRegs {
                ax: EINTR as u64,
                ..regs
            };
            return Ok(Decision {
                regs,
                resume: Resume::Registers,
                caught: Caught::Kernel,
                moved: None,
            });
        }
        other => {
            return Err(Refusal::new(
                reasons::CALL_EFFECT,
                alloc::format!("to be gone on with by {other}"),
            ))
        }
    };
    Ok(Decision {
        regs,
        resume,
        caught: Caught::Kernel,
        moved: None,
    })
}

/// Offsets that interrupted calls of all these threads have moved.
pub fn moved_files<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, threads: &[Thread<'_>]) -> Vec<(Kva, u64)> {
    threads
        .iter()
        .filter_map(|thread| decide(context, thread).ok()?.moved)
        .collect()
}

/// The descriptors of a thread's process, for [`Thread::descriptors`].
///
/// # Errors
/// They cannot be read.
pub fn descriptors<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, files: Kva) -> Result<Vec<Descriptor>> {
    files::descriptors(context, files)
}
