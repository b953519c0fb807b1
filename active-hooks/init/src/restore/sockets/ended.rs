//! Sockets of TCP whose connection is over: no call brings a socket there without a peer.

use super::{buffers, new, options, sockaddr, tcp, what};
use crate::restore::{host::Host, OrRefuse, Refusal, Restored};
use shared_region::context::{Socket, SocketState};
use shared_region::device::TcpEnd;
use std::os::fd::{AsRawFd, OwnedFd};

/// Makes one.
pub fn make(record: &Socket, host: &dyn Host) -> Restored<OwnedFd> {
    let SocketState::Ended {
        local,
        bound,
        peer,
        error,
        done,
        state,
    } = &record.state
    else {
        return Err(Refusal::new("socket", "its connection is not over"));
    };
    let fd = new(record)?;
    options(&fd, record, true)?;
    if *bound {
        tcp::begin_at(&fd, &sockaddr(local)?, 0).or_refuse(|| what(local))?;
        options(&fd, record, true)?;
    }
    options(&fd, record, false)?;
    buffers(&fd, record)?;
    host.tcp_end(TcpEnd {
        fd: fd.as_raw_fd() as u64,
        error: *error,
        done: (*done).into(),
        state: *state,
        ports: [local.port, peer.port],
        local: padded(&local.address),
        peer: padded(&peer.address),
    })?;
    Ok(fd)
}

fn padded(address: &[u8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(address) {
        *to = *from;
    }
    bytes
}
