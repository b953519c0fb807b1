//! Namespaces.

use super::{check, scalar_calls};
use anyhow::Result;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

scalar_calls! {
    /// Gives this process, which must have one thread, namespaces of its own (`CLONE_NEW*`).
    unshare(kinds) = SYS_unshare;
}

/// Names the machine: host, domain.
pub fn set_names(host: &str, domain: &str) -> Result<()> {
    // SAFETY: the kernel reads as many bytes of the live texts as it is told.
    unsafe {
        check(
            "sethostname",
            libc::sethostname(host.as_ptr().cast(), host.len()).into(),
        )?;
        check(
            "setdomainname",
            libc::setdomainname(domain.as_ptr().cast(), domain.len()).into(),
        )?;
    }
    Ok(())
}

/// The user who has made a user namespace.
pub fn owner(namespace: &File) -> Result<u32> {
    // include/uapi/linux/nsfs.h
    const NS_GET_OWNER_UID: libc::c_ulong = 0xB704;
    let mut uid = 0u32;
    // SAFETY: the kernel writes one number of 32 bits, which is live.
    let ret = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_OWNER_UID, &mut uid) };
    check("NS_GET_OWNER_UID", ret.into())?;
    Ok(uid)
}
