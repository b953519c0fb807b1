//! Mounts.

use super::check;
use anyhow::Result;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Gives this process, which must have one thread, a copy of its mounts.
pub fn new_namespace() -> Result<()> {
    // SAFETY: takes a number.
    check("unshare", unsafe { libc::unshare(libc::CLONE_NEWNS) }.into()).map(drop)
}

/// `mount(2)` with the type `tmpfs`, which binds and changes do not look at.
pub fn mount(source: &Path, target: &Path, flags: u64, options: &str) -> Result<()> {
    mount_as(c"tmpfs", source, target, flags, options)
}

/// As [`mount`], of a file system of another type.
pub fn mount_as(fstype: &CStr, source: &Path, target: &Path, flags: u64, options: &str) -> Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (source, target, options) = (text(source)?, text(target)?, CString::new(options)?);
    // SAFETY: all texts are live and end with a NUL.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            fstype.as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    };
    check("mount", result.into()).map(drop)
}

/// Takes a mount away, whoever uses it.
pub fn unmount(target: &Path) -> Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: the text is live and ends with a NUL.
    let result = unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    check("umount", result.into()).map(drop)
}

/// Makes a device for characters.
pub fn character_device(path: &Path, (major, minor): (u32, u32), mode: u32) -> Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the text is live and ends with a NUL.
    let result = unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | mode, libc::makedev(major, minor)) };
    check("mknod", result.into()).map(drop)
}
