//! inotify.

use super::{check, file};
use anyhow::{Context, Result};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A new descriptor.
pub fn init(flags: i32) -> Result<File> {
    // SAFETY: takes integers.
    let ret = unsafe { libc::syscall(libc::SYS_inotify_init1, flags) };
    Ok(File::from(file::own("inotify_init1", ret)?))
}

/// Watches a path. Returns the number of the watch.
pub fn watch(fd: &File, path: &Path, mask: u32) -> Result<i64> {
    let path = CString::new(path.as_os_str().as_bytes()).context("a path with a NUL")?;
    // SAFETY: the path is valid for the whole call.
    let ret = unsafe { libc::syscall(libc::SYS_inotify_add_watch, fd.as_raw_fd(), path.as_ptr(), mask) };
    check("inotify_add_watch", ret)
}

/// Watches no longer.
pub fn forget(fd: &File, watch: i64) -> Result<()> {
    // SAFETY: takes integers.
    let ret = unsafe { libc::syscall(libc::SYS_inotify_rm_watch, fd.as_raw_fd(), watch) };
    check("inotify_rm_watch", ret).map(drop)
}

/// The events that are there: watch, mask, name. An error carries the errno.
pub fn events(fd: &File) -> Result<Vec<(i64, u32, String)>, i32> {
    let mut buffer = [0; 4096];
    let (count, errno) = file::read_once(fd, &mut buffer);
    if errno != 0 {
        return Err(errno);
    }
    let mut rest = &buffer[..usize::try_from(count).unwrap_or(0)];
    let mut events = Vec::new();
    // `struct inotify_event`: watch, mask, cookie, length of the name.
    while let Some((head, tail)) = rest.split_at_checked(16) {
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (name, tail) = tail.split_at(word(12) as usize);
        let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
        events.push((i64::from(word(0) as i32), word(4), name));
        rest = tail;
    }
    Ok(events)
}
