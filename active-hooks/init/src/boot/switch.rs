//! From the initramfs to the root file system.

use super::{log, mounts};
use anyhow::{Context, Result};
use rustix::{
    fs::{openat, unlinkat, AtFlags, Dir, FileType, Mode, OFlags, CWD},
    mount::mount_move,
};
use std::{
    convert::Infallible,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
};

/// The initramfs is at most this deep.
const DEPTH: u32 = 16;

/// Makes a mounted directory the root directory, with `/proc`, `/sys`, `/dev` and `/run` in it. Returns the old root.
///
/// # Errors
/// The move that did not work.
pub fn to(target: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old_root = openat(CWD, "/", flags, Mode::empty()).context("cannot open the initramfs")?;
    for at in mounts::carried() {
        let there = format!("{target}{at}");
        if let Err(error) = mount_move(at, &there) {
            // A root file system may lack a directory; what is in it is then reached by nobody.
            log::warning(format_args!("cannot move {at} to {there}: {error}"));
        }
    }
    std::env::set_current_dir(target).with_context(|| format!("cannot enter {target}"))?;
    mount_move(".", "/").context("cannot move the root file system")?;
    rustix::process::chroot(".").context("cannot change the root directory")?;
    std::env::set_current_dir("/").context("cannot enter the root directory")?;
    Ok(old_root)
}

/// Empties the initramfs, so that its memory is free, and becomes the real init, with these arguments before those that
/// the kernel gave.
///
/// # Errors
/// The init cannot be started; the initramfs is empty by then.
pub fn exec(old_root: OwnedFd, init: &str, arguments: Vec<String>) -> Result<Infallible> {
    std::fs::metadata(init)?;
    let device = rustix::fs::fstat(&old_root)?.st_dev;
    empty(&old_root, device, DEPTH);
    drop(old_root);
    // The agent waits with a signal blocked; the real init must not inherit that.
    crate::sys::unblock_all_signals();
    // Words of the command line that the kernel does not know are for the real init.
    let words = std::env::args_os().skip(1);
    Err(Command::new(init).args(arguments).args(words).exec().into())
}

fn empty(directory: &OwnedFd, device: u64, depth: u32) {
    let Ok(entries) = Dir::read_from(directory) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let mut flags = AtFlags::empty();
        if entry.file_type() == FileType::Directory {
            let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(inner) = openat(directory.as_fd(), name, open, Mode::empty()) else {
                continue;
            };
            // Other file systems mounted in it are not ours to empty.
            if rustix::fs::fstat(&inner).map(|stat| stat.st_dev) != Ok(device) || depth == 0 {
                continue;
            }
            empty(&inner, device, depth - 1);
            flags = AtFlags::REMOVEDIR;
        }
        // What cannot be removed costs a little memory.
        let _ = unlinkat(directory.as_fd(), name, flags);
    }
}
