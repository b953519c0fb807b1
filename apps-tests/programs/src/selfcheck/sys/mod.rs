//! The system calls the cells make, as safe functions.
//!
//! This is the only place of the program with unsafe code besides the register patterns in
//! [`registers`]. Calls go to the kernel directly where the C library keeps state of its own beside the kernel's
//! (dispositions, thread ids, credentials of threads), because it is the kernel's state that has to survive.

pub mod aio;
pub mod clock;
pub mod event;
pub mod file;
pub mod inotify;
pub mod io_uring;
pub mod keyring;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod mqueue;
pub mod namespace;
pub mod process;
pub mod registers;
pub mod signal;
pub mod socket;
pub mod sysv;
pub mod terminal;

use anyhow::{bail, Result};
use std::sync::atomic::AtomicU32;

/// Turns a system call's −1 into an error that names the call.
pub fn check(call: &str, ret: i64) -> Result<i64> {
    if ret == -1 {
        let error = std::io::Error::last_os_error();
        bail!("{call}: {error}");
    }
    Ok(ret)
}

/// The errno a failed result carries, 0 for success. For calls whose failure is part of what is checked.
pub fn errno(ret: i64) -> i32 {
    if ret == -1 {
        std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
    } else {
        0
    }
}

/// `futex(FUTEX_WAIT_PRIVATE)`, not restarted: errno, 0 if woken. The time-out is relative, in nanoseconds.
pub fn futex_wait(word: &AtomicU32, value: u32, timeout: Option<u64>) -> i32 {
    let time = clock::timespec(timeout.unwrap_or(0));
    let time = timeout.map_or(std::ptr::null(), |_| &raw const time);
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word is valid for the whole call, the time null or valid.
    errno(unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, time, 0, 0) })
}

/// `futex(FUTEX_WAKE_PRIVATE)` for one waiter.
pub fn futex_wake(word: &AtomicU32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word is valid for the whole call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, 1, 0, 0, 0) };
}

/// `poll` on nothing, not restarted.
pub fn poll_none(timeout_ms: i32) -> i32 {
    // SAFETY: no descriptors.
    errno(unsafe { libc::syscall(libc::SYS_poll, 0, 0, timeout_ms) })
}

/// Defines safe functions for system calls that take integers only.
macro_rules! scalar_calls {
    ($($(#[$doc:meta])* $name:ident($($arg:ident),*) = $number:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name($($arg: i64),*) -> anyhow::Result<i64> {
            // SAFETY: (1) the call takes no pointer and writes no memory of ours; (2) it does not unmap memory or
            // close descriptors behind the back of an owner.
            let ret = unsafe { libc::syscall(libc::$number $(, $arg)*) };
            $crate::sys::check(stringify!($name), ret)
        }
    )*};
}
pub(crate) use scalar_calls;
