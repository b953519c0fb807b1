//! liborthros: what a process has to say about a failover.
//!
//! A process that Orthros protects goes on after a failure of the kernel without knowing of it. One that wants to know
//! registers a *handler*, which runs before any other instruction of the process, and *hooks*, each of which decides how
//! an interrupted system call of one number ends. Nothing changes for a process that is not protected, or on a machine
//! without Orthros: the functions succeed and nothing is ever called.
//!
//! ```no_run
//! extern "C" fn handler(failover: &orthros::Failover, _: *mut core::ffi::c_void) {
//!     // Only what may be done in a signal handler.
//!     let _gap = failover.monotonic_after - failover.monotonic_before;
//! }
//!
//! // SAFETY: the handler touches nothing but its argument.
//! unsafe { orthros::on_failover(Some(handler), core::ptr::null_mut()) }.unwrap();
//! ```
//!
//! # When and where they run
//!
//! The handler runs once for each failover, in the main thread, on a stack of the library's own, while all other threads
//! of the process stand still. Then each thread that was in a call with a hook runs that hook, one after the other. Then
//! all go on. Handler and hooks have [`set_deadline`] (5 s unless set, 30 s at most) together; if they need longer, the
//! other threads go on beside them, calls not asked about yet end as planned, and `orthros-ctl report` says so.
//!
//! They run like the handler of a signal with every other signal blocked (all but those that tell of a fault of their
//! own), at an arbitrary point of the thread: only *async-signal-safe* functions may be called (signal-safety(7)). A lock
//! that another thread holds is not released before the deadline. They must return; leaving by `longjmp` or by ending the
//! thread is not a return. Calls that the process may not make (seccomp) are not allowed here either, and where a filter
//! forbids `rt_sigreturn`, a handler that outlasts its deadline cannot return.
//!
//! A signal that was pending at the failure is delivered after them. A process that was stopped (SIGSTOP) runs them and is
//! stopped again. A restartable sequence (rseq) that was under way is aborted, as by a signal.
//!
//! # Which calls a hook is asked about
//!
//! Those that have no result yet: the plan is to make them again ([`Plan::Retry`]), to go on with the time that is left
//! ([`Plan::Continue`]), or to end them with EINTR, as a signal would have. A call that has had an effect (bytes read, a
//! descriptor opened) has its exact result, and no hook is asked: making it again would repeat the effect.
//!
//! Of a few calls, caught at the wrong instant, it cannot be told what they have done ([`Plan::Unknown`]): a `rename` under
//! way, a `vmsplice`. Without a hook for it such a call costs the process. With one, the process says which is right for it:
//! to make the call again, or to take it for done, or failed.
//!
//! # Fork and exec
//!
//! What is registered is the process's own. A child made by `fork` has nothing registered until it registers itself, and
//! neither has a program started by `exec`.
#![warn(missing_docs)]

mod dispatch;
mod ffi;
mod table;

pub use shared_region::library::{Call, Failover};

use core::ffi::c_void;
use std::fmt;

/// Runs first after a failover.
pub type Handler = extern "C" fn(failover: &Failover, argument: *mut c_void);

/// Decides how an interrupted call ends.
pub type Hook = extern "C" fn(call: &Call, argument: *mut c_void) -> Answer;

/// How a call goes on if no hook says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is made again from the start.
    Retry,
    /// It goes on with the time that is left: [`Call::left`].
    Continue,
    /// It ends with a result, an error as the kernel returns it: −EINTR.
    Result(i64),
    /// It cannot be told whether it has had its effect. Unless the hook decides, the process is lost.
    Unknown,
}

/// The plan for a call.
pub fn plan(call: &Call) -> Plan {
    use shared_region::library::planned;
    match call.planned {
        planned::RETRY => Plan::Retry,
        planned::CONTINUE => Plan::Continue,
        planned::RESULT => Plan::Result(call.result),
        _ => Plan::Unknown,
    }
}

/// What a hook says. Laid out as in C: `struct orthros_answer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Answer {
    action: u64,
    result: i64,
}

impl Answer {
    /// As planned.
    pub const PLANNED: Self = Self {
        action: shared_region::library::answer::PLANNED,
        result: 0,
    };
    /// Make the call again from the start, with its full time-out.
    pub const RETRY: Self = Self {
        action: shared_region::library::answer::RETRY,
        result: 0,
    };

    /// End the call with a result.
    pub const fn result(result: i64) -> Self {
        Self {
            action: shared_region::library::answer::RESULT,
            result,
        }
    }

    /// End the call with an error (`libc::EIO`).
    pub const fn error(errno: i32) -> Self {
        Self::result(-(errno as i64))
    }
}

/// Why something could not be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is a hook for 64 calls already.
    Full,
    /// A handler or hook is running in this process.
    Running,
    /// The deadline is 0 or longer than 30 s, or the number is not that of a system call.
    Invalid,
    /// The kernel refused the memory for the table, with this `errno`.
    System(i32),
}

impl Error {
    /// As an `errno`.
    pub const fn errno(self) -> i32 {
        match self {
            Self::Full => libc::ENOSPC,
            Self::Running => libc::EBUSY,
            Self::Invalid => libc::EINVAL,
            Self::System(errno) => errno,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "there are hooks for as many calls as there can be"),
            Self::Running => write!(f, "nothing can be registered while a handler or hook runs"),
            Self::Invalid => write!(f, "out of range"),
            Self::System(errno) => {
                let error = std::io::Error::from_raw_os_error(*errno);
                write!(f, "no memory for the table of handlers: {error}")
            }
        }
    }
}

impl std::error::Error for Error {}

/// Registers the handler, in place of the one before; `None` takes it back.
///
/// # Errors
/// [`Error::System`], [`Error::Running`].
///
/// # Safety
/// (1) The handler calls async-signal-safe functions only, and does not unwind. (2) `argument` is what it expects, from any
/// moment on until it is taken back.
pub unsafe fn on_failover(handler: Option<Handler>, argument: *mut c_void) -> Result<(), Error> {
    table::with(|table| {
        table.set_handler(handler.map_or(0, |handler| handler as usize as u64), argument as u64);
        Ok(())
    })
}

/// Registers the hook for a system call, in place of the one before; `None` takes it back.
///
/// # Errors
/// [`Error::Full`], [`Error::Invalid`], [`Error::System`], [`Error::Running`].
///
/// # Safety
/// As for [`on_failover`]. Besides, what the hook says is what the thread finds: a result must be one that the code around
/// the call can bear.
pub unsafe fn on_call(number: libc::c_long, hook: Option<Hook>, argument: *mut c_void) -> Result<(), Error> {
    let number = u32::try_from(number).map_err(|_| Error::Invalid)?;
    table::with(|table| table.set_hook(number, hook.map_or(0, |hook| hook as usize as u64), argument as u64))
}

/// Sets how long handler and hooks may take together before the other threads go on, in milliseconds up to 30,000.
///
/// # Errors
/// [`Error::Invalid`], [`Error::System`], [`Error::Running`].
pub fn set_deadline(milliseconds: u32) -> Result<(), Error> {
    let milliseconds = u64::from(milliseconds);
    if !(1..=shared_region::library::LONGEST_DEADLINE_MS).contains(&milliseconds) {
        return Err(Error::Invalid);
    }
    table::with(|table| {
        table.set_deadline(milliseconds);
        Ok(())
    })
}
