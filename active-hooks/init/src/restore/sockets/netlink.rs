//! Sockets of netlink.

use super::{buffers, new, options, raw, SocketContent};
use crate::restore::{host::Host, OrRefuse, Refusal, Restored};
use shared_region::context::{NetlinkMessage, NetlinkSocket};
use std::os::fd::{AsFd, OwnedFd};

/// Makes one with what is in its queue. Its groups come last, so that what they are told comes behind that.
pub fn make(content: &SocketContent<'_>, netlink: &NetlinkSocket, host: &dyn Host) -> Restored<OwnedFd> {
    let fd = new(&content.record)?;
    options(&fd, &content.record, true)?;
    if let Some(port) = netlink.port {
        raw::bind(&fd, &address(port, 0)).or_refuse(|| format!("port {port} of netlink"))?;
    }
    if let Some((port, group)) = netlink.peer {
        // `connect` takes a set of groups and keeps the first.
        let set = group.checked_sub(1).and_then(|bit| 1u32.checked_shl(bit)).unwrap_or(0);
        raw::connect(&fd, &address(port, set)).or_refuse(|| "connection of netlink")?;
    }
    let received = content.received.concat();
    let mut rest = received.as_slice();
    for message in &netlink.messages {
        let parts = rest.split_at_checked(message.length as usize);
        let (data, behind) = parts.ok_or_else(|| Refusal::new("socket of netlink", "its queue is cut short"))?;
        if !data.is_empty() {
            host.netlink(fd.as_fd(), message, data)?;
        }
        rest = behind;
    }
    options(&fd, &content.record, false)?;
    buffers(&fd, &content.record)?;
    if netlink.missed {
        host.netlink(fd.as_fd(), &NetlinkMessage::default(), &[])?;
    }
    Ok(fd)
}

/// `struct sockaddr_nl`: family, padding, port, set of groups.
fn address(port: u32, groups: u32) -> Vec<u8> {
    let family = (libc::AF_NETLINK as u16).to_ne_bytes();
    [&family[..], &[0; 2], &port.to_ne_bytes(), &groups.to_ne_bytes()].concat()
}
