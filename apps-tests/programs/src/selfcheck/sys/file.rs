//! Descriptors and files.

use super::{check, scalar_calls};
use anyhow::{ensure, Context, Result};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// `fcntl` command: sets the signal that says a descriptor is ready (include/uapi/asm-generic/fcntl.h).
pub const F_SETSIG: i32 = 10;
/// `fcntl` command: asks for it.
pub const F_GETSIG: i32 = 11;

scalar_calls! {
    /// `umask`.
    umask(mask) = SYS_umask;
    /// `lseek`.
    lseek(fd, offset, whence) = SYS_lseek;
}

/// `fcntl` commands whose argument and answer are integers and which create no descriptor.
pub fn fcntl(fd: &impl AsFd, command: i32, argument: i64) -> Result<i64> {
    // SAFETY: (1) the descriptor is borrowed; (2) the callers' commands take an integer.
    let ret = unsafe { libc::syscall(libc::SYS_fcntl, fd.as_fd().as_raw_fd(), command, argument) };
    check("fcntl", ret)
}

/// `F_GETOWN_EX`: type and id of who is signalled.
pub fn owner(fd: &impl AsFd) -> Result<(i32, i32)> {
    const F_GETOWN_EX: i32 = 16;
    let mut owner = [0i32; 2];
    // SAFETY: `struct f_owner_ex` is two ints, valid for the whole call.
    let ret = unsafe { libc::syscall(libc::SYS_fcntl, fd.as_fd().as_raw_fd(), F_GETOWN_EX, &mut owner) };
    check("fcntl(F_GETOWN_EX)", ret)?;
    Ok((owner[0], owner[1]))
}

/// Takes a fresh descriptor number from a system call.
pub fn own(call: &str, ret: i64) -> Result<OwnedFd> {
    let fd = check(call, ret)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `pipe2`: reading end, writing end.
pub fn pipe(flags: i32) -> Result<(File, File)> {
    let mut ends = [0i32; 2];
    // SAFETY: `ends` has room for two descriptors.
    let ret = unsafe { libc::pipe2(ends.as_mut_ptr(), flags) };
    check("pipe2", ret.into())?;
    Ok((
        File::from(own("pipe2", ends[0].into())?),
        File::from(own("pipe2", ends[1].into())?),
    ))
}

/// Duplicates a descriptor to the lowest free number that is at least `least`.
pub fn duplicate_at_least(fd: &impl AsFd, least: i32) -> Result<OwnedFd> {
    own("fcntl(F_DUPFD)", fcntl(fd, libc::F_DUPFD, least.into())?)
}

/// Opens with O_* flags beyond what the standard library knows.
pub fn open(path: &Path, write: bool, flags: i32) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .create(write && flags & libc::O_DIRECTORY == 0)
        .truncate(false)
        .custom_flags(flags)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

/// Drops the clean, unmapped pages of a file from memory.
pub fn evict(file: &impl AsFd) -> Result<()> {
    evict_range(file, 0, 0)
}

/// As [`evict`], for `length` bytes from `offset` on; 0 is all.
pub fn evict_range(file: &impl AsFd, offset: u64, length: u64) -> Result<()> {
    // SAFETY: the descriptor is borrowed; the rest are numbers.
    let ret = unsafe {
        libc::posix_fadvise(
            file.as_fd().as_raw_fd(),
            offset as i64,
            length as i64,
            libc::POSIX_FADV_DONTNEED,
        )
    };
    ensure!(ret == 0, "posix_fadvise: error {ret}");
    Ok(())
}

/// Writes the data of a file to its disk, and not what leads to it.
pub fn write_back(file: &impl AsFd) -> Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is borrowed; the rest are numbers.
    let ret = unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), 0, 0, flags) };
    check("sync_file_range", ret.into()).map(drop)
}

/// `memfd_create`.
pub fn memfd(name: &str, flags: u32) -> Result<File> {
    let name = CString::new(name)?;
    // SAFETY: the name is NUL-terminated for the whole call.
    let ret = unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) };
    Ok(File::from(own("memfd_create", ret)?))
}

/// `mkfifo`.
pub fn mkfifo(path: &Path) -> Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is NUL-terminated for the whole call.
    let ret = unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
    check("mkfifo", ret.into()).map(drop)
}

/// One `read`, not restarted. Returns the result and the errno.
pub fn read_once(fd: &impl AsFd, buffer: &mut [u8]) -> (i64, i32) {
    // SAFETY: the buffer is valid for its length for the whole call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_read,
            fd.as_fd().as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    (ret, super::errno(ret))
}

/// One `write`, not restarted. Returns the result and the errno.
pub fn write_once(fd: &impl AsFd, buffer: &[u8]) -> (i64, i32) {
    // SAFETY: the buffer is valid for its length for the whole call.
    let ret = unsafe { libc::syscall(libc::SYS_write, fd.as_fd().as_raw_fd(), buffer.as_ptr(), buffer.len()) };
    (ret, super::errno(ret))
}

/// Bytes that can be read at once (`FIONREAD`).
pub fn readable_bytes(fd: &impl AsFd) -> Result<usize> {
    let mut bytes = 0i32;
    // SAFETY: FIONREAD writes one int.
    let ret = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &mut bytes) };
    check("ioctl(FIONREAD)", ret.into())?;
    Ok(bytes as usize)
}

/// `poll` on one descriptor. Returns the result, the errno and `revents`.
pub fn poll(fd: &impl AsFd, events: i16, timeout_ms: i32) -> (i64, i32, i16) {
    let mut set = libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    let ret = unsafe { libc::syscall(libc::SYS_poll, &mut set, 1, timeout_ms) };
    (ret, super::errno(ret), set.revents)
}

/// `select` for reading on one descriptor without a time-out. Returns the result and the errno.
pub fn select_read(fd: &impl AsFd) -> (i64, i32) {
    let number = fd.as_fd().as_raw_fd();
    let mut set = [0u64; 16];
    set[number as usize / 64] |= 1 << (number % 64);
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: the set holds 1024 bits, the others are null, and `number` is below 1024 in these programs.
    let ret = unsafe { libc::syscall(libc::SYS_select, number + 1, set.as_mut_ptr(), none, none, none) };
    (ret, super::errno(ret))
}
