//! The kernel's own file systems.

use anyhow::{Context, Result};
use rustix::{
    io::Errno,
    mount::{mount, MountFlags},
};
use std::fs;

/// Mount point, file-system type, flags, options.
const EARLY: [(&str, &str, MountFlags, &str); 4] = [
    ("/proc", "proc", SAFE, ""),
    ("/sys", "sysfs", SAFE, ""),
    ("/dev", "devtmpfs", MountFlags::NOSUID, "mode=0755"),
    (
        "/run",
        "tmpfs",
        MountFlags::NOSUID.union(MountFlags::NODEV),
        "mode=0755",
    ),
];

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Mounts `/proc`, `/sys`, `/dev` and `/run`.
///
/// # Errors
/// The one that cannot be mounted.
pub fn early() -> Result<()> {
    for (at, fstype, flags, options) in EARLY {
        fs::create_dir_all(at).with_context(|| format!("cannot make {at}"))?;
        let options = std::ffi::CString::new(options).unwrap_or_default();
        match mount(fstype, at, fstype, flags, options.as_c_str()) {
            // The kernel may have done it already.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot mount {fstype} on {at}")),
        }
    }
    Ok(())
}

/// Mount points to be carried over into the new root.
pub fn carried() -> impl Iterator<Item = &'static str> {
    EARLY.into_iter().map(|(at, ..)| at)
}
