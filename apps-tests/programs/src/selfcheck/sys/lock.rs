//! Locks on files.

use super::{check, errno};
use anyhow::Result;
use std::os::fd::{AsFd, AsRawFd};

/// `flock`: errno, 0 for success.
pub fn whole(fd: &impl AsFd, operation: i32) -> i32 {
    // SAFETY: the descriptor is borrowed; the call takes integers.
    errno(unsafe { libc::syscall(libc::SYS_flock, fd.as_fd().as_raw_fd(), operation) })
}

/// Bytes of a file from the first on; 0 for all that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range(pub i64, pub i64);

fn description(kind: i32, range: Range) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: range.0,
        l_len: range.1,
        l_pid: 0,
    }
}

/// `fcntl` with F_SETLK, F_SETLKW, F_OFD_SETLK or F_OFD_SETLKW: errno, 0 for success.
pub fn set(fd: &impl AsFd, command: i32, kind: i32, range: Range) -> i32 {
    let lock = description(kind, range);
    // SAFETY: the descriptor is borrowed; the description is valid for the whole call.
    errno(unsafe { libc::syscall(libc::SYS_fcntl, fd.as_fd().as_raw_fd(), command, &lock) })
}

/// `fcntl` with F_GETLK or F_OFD_GETLK: type, range and process of a lock that is in the way; the type is F_UNLCK if
/// there is none.
pub fn get(fd: &impl AsFd, command: i32, kind: i32, range: Range) -> Result<(i32, Range, i32)> {
    let mut lock = description(kind, range);
    // SAFETY: the descriptor is borrowed; the description is valid for the whole call.
    let ret = unsafe { libc::syscall(libc::SYS_fcntl, fd.as_fd().as_raw_fd(), command, &mut lock) };
    check("fcntl", ret)?;
    Ok((lock.l_type.into(), Range(lock.l_start, lock.l_len), lock.l_pid))
}
