//! Options and addresses of sockets, and sockets that the standard library does not make.

use super::check;
use anyhow::Result;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// A socket.
pub fn socket(family: i32, kind: i32) -> Result<OwnedFd> {
    // SAFETY: takes numbers.
    let fd = check(
        "socket",
        unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) }.into(),
    )?;
    // SAFETY: the call has just made the descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// An option that is a number.
pub fn option(fd: &impl AsFd, level: i32, name: i32) -> Result<i32> {
    let (mut value, mut length) = (0i32, 4 as libc::socklen_t);
    // SAFETY: the kernel writes no more than the length, which is that of the number.
    let ret = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    check("getsockopt", ret.into())?;
    Ok(value)
}

/// Sets an option that is a number.
pub fn set_option(fd: &impl AsFd, level: i32, name: i32, value: i32) -> Result<()> {
    // SAFETY: the number is live and as long as said.
    let ret = unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), 4) };
    check("setsockopt", ret.into()).map(drop)
}
