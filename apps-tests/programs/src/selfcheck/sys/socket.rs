//! Options and addresses of sockets, and sockets that the standard library does not make.

use super::check;
use anyhow::Result;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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

/// `listen`.
pub fn listen(fd: &impl AsFd, backlog: i32) -> Result<()> {
    // SAFETY: takes numbers.
    let ret = unsafe { libc::listen(fd.as_fd().as_raw_fd(), backlog) };
    check("listen", ret.into()).map(drop)
}

/// `recv` with MSG_WAITALL: returns how much there was.
pub fn receive_all(fd: &impl AsFd, data: &mut [u8]) -> Result<usize> {
    let (fd, at) = (fd.as_fd().as_raw_fd(), data.as_mut_ptr().cast());
    // SAFETY: the kernel writes no more than the length, which is that of the data.
    let ret = unsafe { libc::recv(fd, at, data.len(), libc::MSG_WAITALL) };
    Ok(check("recv", ret as i64)? as usize)
}

/// Two sockets of AF_UNIX, connected to each other.
pub fn pair(kind: i32) -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the kernel writes two descriptors into the array.
    let ret = unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) };
    check("socketpair", ret.into())?;
    // SAFETY: the call has just made the descriptors, and nobody else has them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// `SO_PEERCRED`: process, user and group.
pub fn peer(fd: &impl AsFd) -> Result<(i32, u32, u32)> {
    let mut words = [0u32; 3];
    long_option(fd, libc::SO_PEERCRED, &mut words)?;
    Ok((words[0] as i32, words[1], words[2]))
}

/// `SO_PEERGROUPS`.
pub fn peer_groups(fd: &impl AsFd) -> Result<Vec<u32>> {
    let mut words = [0u32; 64];
    let count = long_option(fd, libc::SO_PEERGROUPS, &mut words)?;
    Ok(words[..count].to_vec())
}

/// An option of several numbers; returns how many there are.
fn long_option(fd: &impl AsFd, name: i32, words: &mut [u32]) -> Result<usize> {
    let mut length = size_of_val(words) as libc::socklen_t;
    let (fd, at) = (fd.as_fd().as_raw_fd(), words.as_mut_ptr().cast());
    // SAFETY: the kernel writes no more than the length, which is that of the numbers.
    let ret = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, at, &raw mut length) };
    check("getsockopt", ret.into())?;
    Ok(length as usize / 4)
}

/// Bytes of a header of a control message.
const HEADER: usize = size_of::<libc::cmsghdr>();

fn message(data: &mut libc::iovec, control: &mut [u64], length: usize) -> libc::msghdr {
    // SAFETY: a `struct msghdr` of zeros is valid: nothing of anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (data, 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), length);
    message
}

/// Sends data with descriptors.
pub fn send_with(fd: &impl AsFd, data: &[u8], files: &[BorrowedFd<'_>]) -> Result<()> {
    let mut words = vec![
        (HEADER + 4 * files.len()) as u64,
        u64::from(libc::SOL_SOCKET as u32) | (libc::SCM_RIGHTS as u64) << 32,
    ];
    for numbers in files.chunks(2) {
        let number = |index: usize| numbers.get(index).map_or(0, |file| file.as_raw_fd() as u64);
        words.push(number(0) | number(1) << 32);
    }
    let mut part = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let length = if files.is_empty() { 0 } else { 8 * words.len() };
    let message = message(&mut part, &mut words, length);
    // SAFETY: all parts of the message are live and as long as said; the kernel reads them only.
    let sent = unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &raw const message, 0) };
    check("sendmsg", sent as i64)?;
    Ok(())
}

/// What was received at once.
pub struct Received {
    /// The bytes.
    pub data: Vec<u8>,
    /// Descriptors that came with them.
    pub files: Vec<OwnedFd>,
    /// Process and user that they are from, if that was asked for.
    pub sender: Option<(i32, u32)>,
}

/// Receives up to 64 bytes with what comes with them.
pub fn receive_with(fd: &impl AsFd) -> Result<Received> {
    let (mut data, mut words) = (vec![0; 64], vec![0u64; 32]);
    let mut part = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let room = 8 * words.len();
    let mut message = message(&mut part, &mut words, room);
    // SAFETY: all parts of the message are live and as long as said.
    let length = check(
        "recvmsg",
        unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut message, 0) } as i64,
    )?;
    data.truncate(length as usize);
    let (mut files, mut sender, mut at) = (Vec::new(), None, 0);
    let word = |at: usize| (words[at / 8] >> (8 * (at % 8))) as u32;
    while at + HEADER <= message.msg_controllen {
        let (length, kind) = (words[at / 8] as usize, word(at + 12) as i32);
        let numbers: Vec<u32> = (at + HEADER..at + length).step_by(4).map(word).collect();
        match kind {
            // SAFETY: the kernel has just made the descriptors, and nobody else has them.
            libc::SCM_RIGHTS => files.extend(numbers.iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })),
            _ => sender = Some((numbers[0] as i32, numbers[1])),
        }
        at += length.next_multiple_of(8);
    }
    Ok(Received { data, files, sender })
}
