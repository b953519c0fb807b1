//! Namespaces.

use super::{check, scalar_calls, socket};
use anyhow::{ensure, Result};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};

scalar_calls! {
    /// Gives this process, which must have one thread, namespaces of its own (`CLONE_NEW*`).
    unshare(kinds) = SYS_unshare;
}

/// Enters a namespace; that of pids only children of this process are in.
pub fn enter(namespace: &File, kind: i32) -> Result<()> {
    // SAFETY: takes numbers.
    let ret = unsafe { libc::setns(namespace.as_raw_fd(), kind) };
    check("setns", ret.into()).map(drop)
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

/// The network namespace of a socket.
pub fn of_socket(socket: &impl AsFd) -> Result<File> {
    // include/uapi/linux/sockios.h
    const SIOCGSKNS: libc::c_ulong = 0x894C;
    // SAFETY: takes no more than numbers.
    let fd = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCGSKNS) };
    check("SIOCGSKNS", fd.into())?;
    // SAFETY: a descriptor that a call just returned belongs to the caller alone.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// A request about a link (`struct ifreq`), with what stands behind its name.
fn ask_link(request: libc::c_ulong, link: &str, rest: &[u8]) -> Result<()> {
    const NAME: usize = 16;
    const WHOLE: usize = 40;
    ensure!(link.len() < NAME && rest.len() <= WHOLE - NAME, "too long");
    let mut bytes = [0u8; WHOLE];
    bytes[..link.len()].copy_from_slice(link.as_bytes());
    bytes[NAME..NAME + rest.len()].copy_from_slice(rest);
    let fd = socket::socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    // SAFETY: the kernel reads and writes a `struct ifreq`, which is as long as the live bytes.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request, bytes.as_mut_ptr()) };
    check("a request about a link", ret.into()).map(drop)
}

/// Sets a link up or down.
pub fn set_up(link: &str, up: bool) -> Result<()> {
    const SIOCSIFFLAGS: libc::c_ulong = 0x8914;
    let flags = if up { libc::IFF_UP as u16 } else { 0 };
    ask_link(SIOCSIFFLAGS, link, &flags.to_ne_bytes())
}

/// Gives a link its address of IPv4, or takes it away by that of nobody.
pub fn set_address(link: &str, address: Ipv4Addr) -> Result<()> {
    const SIOCSIFADDR: libc::c_ulong = 0x8916;
    let family = (libc::AF_INET as u16).to_ne_bytes();
    ask_link(SIOCSIFADDR, link, &[&family[..], &[0; 2], &address.octets()].concat())
}
