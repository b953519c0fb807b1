//! Options and addresses of sockets, and sockets that the standard library does not make.

use super::{check, errno};
use anyhow::Result;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A socket.
pub fn socket(family: i32, kind: i32) -> Result<OwnedFd> {
    socket_of(family, kind, 0)
}

/// A socket of a protocol.
pub fn socket_of(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: takes numbers.
    let fd = check(
        "socket",
        unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) }.into(),
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

/// An option of at most so many bytes.
pub fn long(fd: &impl AsFd, level: i32, name: i32, most: usize) -> Result<Vec<u8>> {
    let (mut value, mut length) = (vec![0; most], most as libc::socklen_t);
    let (fd, at) = (fd.as_fd().as_raw_fd(), value.as_mut_ptr().cast());
    // SAFETY: the kernel writes no more than the length, which is that of the value.
    let ret = unsafe { libc::getsockopt(fd, level, name, at, &raw mut length) };
    check("getsockopt", ret.into())?;
    value.truncate(length as usize);
    Ok(value)
}

/// Sets an option of several bytes; returns the errno, 0 for success.
pub fn set_long(fd: &impl AsFd, level: i32, name: i32, value: &[u8]) -> i32 {
    let (fd, at) = (fd.as_fd().as_raw_fd(), value.as_ptr().cast());
    // SAFETY: the value is live and as long as said; the kernel reads it only.
    errno(unsafe { libc::setsockopt(fd, level, name, at, value.len() as libc::socklen_t) }.into())
}

/// Attaches a filter.
pub fn attach_filter(fd: &impl AsFd, program: &[libc::sock_filter]) -> Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    let length = size_of_val(&program) as libc::socklen_t;
    // SAFETY: the program and its instructions are live; the kernel reads them only.
    let ret = unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, (&raw const program).cast(), length) };
    check("SO_ATTACH_FILTER", ret.into()).map(drop)
}

/// `bind` to an address as the kernel has it in memory.
pub fn bind(fd: &impl AsFd, address: &[u8]) -> Result<()> {
    let (fd, at) = (fd.as_fd().as_raw_fd(), address.as_ptr().cast());
    // SAFETY: the address is live and as long as said; the kernel reads it only.
    let ret = unsafe { libc::bind(fd, at, address.len() as libc::socklen_t) };
    check("bind", ret.into()).map(drop)
}

/// `connect`, as [`bind`]; returns the errno, 0 for success.
pub fn connect(fd: &impl AsFd, address: &[u8]) -> i32 {
    let (fd, at) = (fd.as_fd().as_raw_fd(), address.as_ptr().cast());
    // SAFETY: the address is live and as long as said; the kernel reads it only.
    errno(unsafe { libc::connect(fd, at, address.len() as libc::socklen_t) }.into())
}

/// `getsockname`, as the kernel has the address in memory.
pub fn name(fd: &impl AsFd) -> Result<Vec<u8>> {
    let (mut name, mut length) = (vec![0; 128], 128 as libc::socklen_t);
    // SAFETY: the kernel writes no more than the length, which is that of the buffer.
    let ret = unsafe { libc::getsockname(fd.as_fd().as_raw_fd(), name.as_mut_ptr().cast(), &raw mut length) };
    check("getsockname", ret.into())?;
    name.truncate(length as usize);
    Ok(name)
}

/// `sendto`; an empty address is none.
pub fn send_to(fd: &impl AsFd, data: &[u8], address: &[u8]) -> Result<usize> {
    let to = if address.is_empty() {
        std::ptr::null()
    } else {
        address.as_ptr().cast()
    };
    let (fd, length) = (fd.as_fd().as_raw_fd(), address.len() as libc::socklen_t);
    // SAFETY: data and address are live and as long as said, or there is no address; the kernel reads them only.
    let ret = unsafe { libc::sendto(fd, data.as_ptr().cast(), data.len(), 0, to, length) };
    Ok(check("sendto", ret as i64)? as usize)
}

/// `send` of a byte of urgent data.
pub fn send_urgent(fd: &impl AsFd, byte: u8) -> Result<()> {
    // SAFETY: the byte is live; the kernel reads it only.
    let ret = unsafe { libc::send(fd.as_fd().as_raw_fd(), (&raw const byte).cast(), 1, libc::MSG_OOB) };
    check("send", ret as i64).map(drop)
}

/// `recvfrom`: what there was and from whom, or the errno.
pub fn receive_from(fd: &impl AsFd, flags: i32) -> Result<(Vec<u8>, Vec<u8>), i32> {
    let (mut data, mut from, mut length) = (vec![0; 1 << 16], vec![0; 128], 128 as libc::socklen_t);
    let at = from.as_mut_ptr().cast();
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes no more than the lengths, which are those of the buffers.
    let ret = unsafe { libc::recvfrom(raw, data.as_mut_ptr().cast(), data.len(), flags, at, &raw mut length) };
    if ret < 0 {
        return Err(errno(-1));
    }
    data.truncate(ret as usize);
    from.truncate(length as usize);
    Ok((data, from))
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
