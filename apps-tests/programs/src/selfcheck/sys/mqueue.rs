//! POSIX message queues.

use super::{check, errno, file};
use anyhow::Result;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;

/// Opens a queue; with `O_CREAT`, for so many messages of so many bytes.
pub fn open(name: &str, flags: i32, limits: (i64, i64)) -> Result<File> {
    let name = CString::new(name)?;
    // `struct mq_attr`: flags, limits, number of messages, and what is reserved.
    let attributes = [0, limits.0, limits.1, 0, 0, 0, 0, 0];
    // SAFETY: name and attributes are valid for the whole call.
    let ret = unsafe { libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, 0o640, attributes.as_ptr()) };
    Ok(File::from(file::own("mq_open", ret)?))
}

/// Takes a name away.
pub fn unlink(name: &str) -> Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the name is valid for the whole call.
    check("mq_unlink", unsafe {
        libc::syscall(libc::SYS_mq_unlink, name.as_ptr())
    })
    .map(drop)
}

/// Flags, limits, number of messages.
pub fn attributes(queue: &File) -> Result<[i64; 4]> {
    let mut attributes = [0i64; 8];
    // SAFETY: a `struct mq_attr` is eight words; no new one is given.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mq_getsetattr,
            queue.as_raw_fd(),
            0usize,
            attributes.as_mut_ptr(),
        )
    };
    check("mq_getsetattr", ret)?;
    Ok([attributes[0], attributes[1], attributes[2], attributes[3]])
}

/// Sends a message, not restarted: errno, 0 for success.
pub fn send(queue: &File, priority: u32, text: &[u8]) -> i32 {
    // SAFETY: the text is valid for the whole call, and its length is given; there is no time-out.
    errno(unsafe {
        let fd = queue.as_raw_fd();
        libc::syscall(libc::SYS_mq_timedsend, fd, text.as_ptr(), text.len(), priority, 0usize)
    })
}

/// Receives a message, not restarted: its priority and text. Errors carry the errno.
pub fn receive(queue: &File) -> Result<(u32, Vec<u8>), i32> {
    let (mut text, mut priority) = (vec![0; 16 << 10], 0u32);
    // SAFETY: room for the length that is given, and for the priority; there is no time-out.
    let ret = unsafe {
        let fd = queue.as_raw_fd();
        libc::syscall(
            libc::SYS_mq_timedreceive,
            fd,
            text.as_mut_ptr(),
            text.len(),
            &raw mut priority,
            0usize,
        )
    };
    match errno(ret) {
        0 => {
            text.truncate(ret as usize);
            Ok((priority, text))
        }
        errno => Err(errno),
    }
}
