//! A thread under construction: stopped by ptrace, run only inside the arena.

use super::{
    arena::Arena,
    meter::{self, Part},
    OrRefuse, Refusal, Restored,
};
use crate::sys::{self, Stop, Tid};
use std::time::{Duration, Instant};

/// How long a tracee may take for a batch of calls.
const PATIENCE: Duration = Duration::from_secs(20);

/// Selector of user code (arch/x86/include/asm/segment.h).
pub const USER_CS: u64 = 0x33;
/// Selector of user data.
pub const USER_DS: u64 = 0x2B;

pub use index::{CS, EFLAGS, ORIG_RAX, RAX, RBP, RIP, RSP, SS};
/// Where the arguments of a system call are in [`sys::Registers`]; the first three are those of a function, too.
pub const ARGUMENTS: [usize; 6] = [index::RDI, index::RSI, index::RDX, index::R10, index::R8, index::R9];

/// Indices into [`sys::Registers`].
#[allow(missing_docs)]
mod index {
    pub const RBP: usize = 4;
    pub const R10: usize = 7;
    pub const R9: usize = 8;
    pub const R8: usize = 9;
    pub const RAX: usize = 10;
    pub const RDX: usize = 12;
    pub const RSI: usize = 13;
    pub const RDI: usize = 14;
    pub const ORIG_RAX: usize = 15;
    pub const RIP: usize = 16;
    pub const CS: usize = 17;
    pub const EFLAGS: usize = 18;
    pub const RSP: usize = 19;
    pub const SS: usize = 20;
}

/// All signals but the one that ends a batch.
const ALL_BUT_TRAP: u64 = !(1 << (libc::SIGTRAP - 1));

/// Options while a thread runs instructions of its own: it is under its restrictions, and what it starts is its own.
const OWN_OPTIONS: i32 = libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;

const OPTIONS: i32 = libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_EXITKILL;

/// A stopped thread that the agent drives. It is killed with the agent until [`Tracee::release`].
#[derive(Debug)]
pub struct Tracee {
    tid: Tid,
}

impl Tracee {
    /// Takes over a process that [`sys::spawn_paused`] made.
    pub fn seize(tid: Tid) -> Restored<Self> {
        sys::seize(tid, OPTIONS).or_refuse(|| "tracing")?;
        sys::interrupt(tid).or_refuse(|| "tracing")?;
        let tracee = Self { tid };
        tracee.expect_first_stop()?;
        Ok(tracee)
    }

    /// Takes over what a tracee's fork or clone just made; it is attached already.
    fn born(tid: Tid) -> Restored<Self> {
        let tracee = Self { tid };
        tracee.expect_first_stop()?;
        Ok(tracee)
    }

    /// Another handle on a tracee that somebody else keeps.
    pub fn borrowed(tid: Tid) -> Self {
        Self { tid }
    }

    /// Its thread id.
    pub fn tid(&self) -> Tid {
        self.tid
    }

    fn expect_first_stop(&self) -> Restored<()> {
        match self.wait()? {
            Stop::Event(libc::PTRACE_EVENT_STOP) => {}
            other => return Err(self.unexpected(other)),
        }
        sys::set_signal_mask(self.tid, ALL_BUT_TRAP).or_refuse(|| "signal mask")
    }

    fn wait(&self) -> Restored<Stop> {
        sys::wait(self.tid, Instant::now() + PATIENCE).or_refuse(|| format!("waiting for thread {}", self.tid))
    }

    fn unexpected(&self, stop: Stop) -> Refusal {
        Refusal::new(format!("thread {}", self.tid), format!("unexpected stop: {stop:?}"))
    }

    /// Runs the calls in the arena to their end.
    pub fn run(&self, arena: &Arena) -> Restored<()> {
        meter::at(Part::Calls, || {
            self.start(arena)?;
            match self.wait_past_signals(sys::cont)? {
                Stop::Signal(libc::SIGTRAP) => Ok(()),
                other => Err(self.unexpected(other)),
            }
        })
    }

    /// Runs the calls in the arena, the only one of which forks or clones; returns the new thread.
    pub fn run_clone(&self, arena: &mut Arena) -> Restored<Self> {
        self.start(arena)?;
        match self.wait_past_signals(sys::cont)? {
            Stop::Event(libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE) => {}
            Stop::Signal(libc::SIGTRAP) => {
                let error = std::io::Error::from_raw_os_error(-arena.result(0) as i32);
                return Err(Refusal::new("clone", error));
            }
            other => return Err(self.unexpected(other)),
        }
        let child = sys::event_message(self.tid).or_refuse(|| "clone")? as Tid;
        let born = Self::born(child);
        sys::cont(self.tid).or_refuse(|| "clone")?;
        match self.wait_past_signals(sys::cont)? {
            Stop::Signal(libc::SIGTRAP) => born,
            other => Err(self.unexpected(other)),
        }
    }

    fn start(&self, arena: &Arena) -> Restored<()> {
        let mut registers = sys::Registers::default();
        registers[index::RDI] = arena.first_call();
        registers[index::RSI] = arena.calls() as u64;
        registers[index::RIP] = arena.entry();
        self.resume_at(arena, registers, sys::cont)
    }

    fn resume_at(
        &self,
        arena: &Arena,
        mut registers: sys::Registers,
        resume: fn(Tid) -> std::io::Result<()>,
    ) -> Restored<()> {
        registers[index::CS] = USER_CS;
        registers[index::SS] = USER_DS;
        registers[index::EFLAGS] = 0x202;
        registers[index::RSP] = arena.end();
        // No system call to restart on the way back to user mode.
        registers[index::ORIG_RAX] = u64::MAX;
        sys::set_registers(self.tid, &registers).or_refuse(|| "registers")?;
        resume(self.tid).or_refuse(|| "tracing")
    }

    /// Waits for a stop that means something: a signal on its way to a process under construction (a child's death,
    /// say) belongs to the building, not to the process, and is dropped.
    fn wait_past_signals(&self, resume: fn(Tid) -> std::io::Result<()>) -> Restored<Stop> {
        loop {
            match self.wait()? {
                Stop::Signal(signal) if signal != libc::SIGTRAP => {
                    if matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGSYS) {
                        return Ok(Stop::Signal(signal));
                    }
                    resume(self.tid).or_refuse(|| "tracing")?;
                }
                stop => return Ok(stop),
            }
        }
    }

    /// Issues one call and leaves the thread in the stop at its exit, so that the call may take away the arena.
    pub fn single(&self, arena: &Arena, number: i64, arguments: [u64; 6]) -> Restored<i64> {
        meter::at(Part::Calls, || self.issue(arena, number, arguments))
    }

    fn issue(&self, arena: &Arena, number: i64, arguments: [u64; 6]) -> Restored<i64> {
        let mut registers = sys::Registers::default();
        registers[index::RAX] = number as u64;
        let places = [index::RDI, index::RSI, index::RDX, index::R10, index::R8, index::R9];
        for (place, argument) in places.into_iter().zip(arguments) {
            registers[place] = argument;
        }
        registers[index::RIP] = arena.single();
        self.resume_at(arena, registers, sys::cont_to_syscall)?;
        for at_entry in [true, false] {
            match self.wait_past_signals(sys::cont_to_syscall)? {
                Stop::Syscall if at_entry => sys::cont_to_syscall(self.tid).or_refuse(|| "tracing")?,
                Stop::Syscall => {}
                other => return Err(self.unexpected(other)),
            }
        }
        Ok(sys::registers(self.tid).or_refuse(|| "registers")?[index::RAX] as i64)
    }

    /// Lets the process end with this `wait` status.
    pub fn end(self, arena: &mut Arena, status: u32) -> Restored<()> {
        let signal = (status & 0x7F) as Tid;
        if signal == 0 {
            arena.clear();
            arena.push([
                libc::SYS_exit_group as u64,
                u64::from(status >> 8 & 0xFF),
                0,
                0,
                0,
                0,
                0,
                0,
            ]);
            self.start(arena)?;
        } else {
            sys::no_core_dump(self.tid).or_refuse(|| "exit status")?;
            sys::set_signal_mask(self.tid, 0).or_refuse(|| "exit status")?;
            sys::kill(self.tid, signal).or_refuse(|| "exit status")?;
            sys::cont(self.tid).or_refuse(|| "exit status")?;
        }
        loop {
            match self.wait()? {
                Stop::Exited(_) => return Ok(()),
                Stop::Signal(stopped) => sys::cont_with(self.tid, stopped).or_refuse(|| "exit status")?,
                other => return Err(self.unexpected(other)),
            }
        }
    }

    /// Lets a thread that is not the first of its process end.
    pub fn leave(self, arena: &mut Arena) -> Restored<()> {
        arena.clear();
        arena.push([libc::SYS_exit as u64, 0, 0, 0, 0, 0, 0, 0]);
        self.start(arena)?;
        match self.wait()? {
            Stop::Exited(_) => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    /// Suspends seccomp while the thread is traced.
    pub fn suspend_seccomp(&self) -> Restored<()> {
        sys::set_options(self.tid, OPTIONS | libc::PTRACE_O_SUSPEND_SECCOMP).or_refuse(|| "seccomp")
    }

    /// Lets the thread run instructions of its own up to its next system call, under all its restrictions.
    pub fn run_own(&self) -> Restored<()> {
        sys::set_options(self.tid, OWN_OPTIONS).or_refuse(|| "tracing")?;
        sys::cont_to_syscall(self.tid).or_refuse(|| "tracing")
    }

    /// Gives the thread its final registers, extended state and signal mask.
    pub fn set_state(&self, registers: &sys::Registers, xstate: &[u8], blocked: u64) -> Restored<()> {
        let mut registers = *registers;
        registers[index::ORIG_RAX] = u64::MAX;
        if !xstate.is_empty() {
            sys::set_xstate(self.tid, xstate).or_refuse(|| "extended registers")?;
        }
        sys::set_registers(self.tid, &registers).or_refuse(|| "registers")?;
        sys::set_signal_mask(self.tid, blocked).or_refuse(|| "signal mask")
    }

    /// Lets the thread go on by itself.
    pub fn release(self) -> Restored<()> {
        sys::detach(self.tid).or_refuse(|| format!("releasing thread {}", self.tid))
    }
}
