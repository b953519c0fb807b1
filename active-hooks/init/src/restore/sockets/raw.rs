//! The calls about sockets, with checked arguments and `io::Error`s.

use super::super::high;
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// `socket`, closed on exec and never waiting.
pub fn socket(family: u32, kind: u32, protocol: u32) -> io::Result<OwnedFd> {
    let kind = kind as i32 | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers and returns a new descriptor.
    let fd = unsafe { libc::socket(family as i32, kind, protocol as i32) };
    check(fd as isize)?;
    // SAFETY: a descriptor that a call just returned belongs to the caller alone.
    Ok(unsafe { high::own(fd) })
}

/// `socketpair`, as [`socket`].
pub fn pair(family: u32, kind: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = kind as i32 | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let mut fds = [0; 2];
    // SAFETY: the kernel writes two descriptors into the array, which is live.
    check(unsafe { libc::socketpair(family as i32, kind, 0, fds.as_mut_ptr()) } as isize)?;
    // SAFETY: descriptors that a call just returned belong to the caller alone.
    Ok(unsafe { (high::own(fds[0]), high::own(fds[1])) })
}

/// `setsockopt`.
pub fn set(fd: &impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the value is live and as long as said; the kernel reads it only.
    let result = unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as libc::socklen_t) };
    check(result as isize).map(drop)
}

/// [`set`] with a number.
pub fn set_number(fd: &impl AsFd, level: i32, name: i32, value: u32) -> io::Result<()> {
    set(fd, level, name, &value.to_ne_bytes())
}

/// Attaches a filter: the instructions of a program of BPF, eight bytes each.
pub fn attach_filter(fd: &impl AsFd, program: &[u8]) -> io::Result<()> {
    /// Bytes of an instruction (`struct sock_filter`).
    const INSTRUCTION: usize = 8;
    let length = u16::try_from(program.len() / INSTRUCTION).map_err(|_| io::ErrorKind::InvalidInput)?;
    // struct sock_fprog: length, padding, address (include/uapi/linux/filter.h).
    let head = [u64::from(length), program.as_ptr() as u64].map(u64::to_ne_bytes);
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, head.as_flattened())
}

/// `getsockopt`, of at most so many bytes.
#[cfg(test)]
pub fn get(fd: &impl AsFd, level: i32, name: i32, length: usize) -> io::Result<Vec<u8>> {
    let fd = fd.as_fd().as_raw_fd();
    let mut value = vec![0u8; length];
    let mut length = length as libc::socklen_t;
    // SAFETY: the kernel writes no more than the length, which is the buffer's, and says how much that was.
    let result = unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut length) };
    check(result as isize)?;
    value.truncate(length as usize);
    Ok(value)
}

/// `bind` to an address as the kernel has it in memory.
pub fn bind(fd: &impl AsFd, address: &[u8]) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the address is live and as long as said; the kernel reads it only.
    let result = unsafe { libc::bind(fd, address.as_ptr().cast(), address.len() as libc::socklen_t) };
    check(result as isize).map(drop)
}

/// `connect`, as [`bind`].
pub fn connect(fd: &impl AsFd, address: &[u8]) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the address is live and as long as said; the kernel reads it only.
    let result = unsafe { libc::connect(fd, address.as_ptr().cast(), address.len() as libc::socklen_t) };
    check(result as isize).map(drop)
}

/// `listen`.
pub fn listen(fd: &impl AsFd, backlog: u32) -> io::Result<()> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: takes numbers.
    check(unsafe { libc::listen(fd.as_fd().as_raw_fd(), backlog) } as isize).map(drop)
}

/// `accept`, as [`socket`].
pub fn accept(fd: &impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: nothing is asked for but a new descriptor.
    let fd = unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    check(fd as isize)?;
    // SAFETY: a descriptor that a call just returned belongs to the caller alone.
    Ok(unsafe { high::own(fd) })
}

/// `shutdown`.
pub fn shutdown(fd: &impl AsFd, how: i32) -> io::Result<()> {
    // SAFETY: takes numbers.
    check(unsafe { libc::shutdown(fd.as_fd().as_raw_fd(), how) } as isize).map(drop)
}

/// `send`, without a signal when nobody listens. Returns how much was taken.
pub fn send(fd: &impl AsFd, data: &[u8]) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the data is live and as long as said; the kernel reads it only.
    check(unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) })
}

/// `sendmsg`, without waiting and without a signal when nobody listens. Returns how much was taken.
pub fn send_message(fd: &impl AsFd, data: &[u8], to: &[u8], control: &[u8]) -> io::Result<usize> {
    let mut part = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    // SAFETY: a `struct msghdr` of zeros is valid: nothing of anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    (message.msg_name, message.msg_namelen) = (to.as_ptr().cast_mut().cast(), to.len() as libc::socklen_t);
    (message.msg_control, message.msg_controllen) = (control.as_ptr().cast_mut().cast(), control.len());
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: all parts are live and as long as said; the kernel reads them only.
    check(unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &raw const message, flags) })
}

/// `recv`. Returns how much was there.
pub fn receive(fd: &impl AsFd, data: &mut [u8]) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes no more than the length, which is the buffer's.
    check(unsafe { libc::recv(fd, data.as_mut_ptr().cast(), data.len(), 0) })
}
