//! Sockets of TCP whose connection is over: no call brings a socket there without a peer.

use super::{buffers, new, options, sockaddr, tcp, what, SocketContent};
use crate::restore::{clock::Elapsed, host::Host, OrRefuse, Refusal, Restored};
use shared_region::context::SocketState;
use shared_region::device::TcpEnd;
use std::os::fd::{AsRawFd, OwnedFd};

/// Makes one. What nobody has read of it can be given to a connection only.
pub fn make(content: &SocketContent<'_>, host: &dyn Host, elapsed: &Elapsed) -> Restored<OwnedFd> {
    let record = &content.record;
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
    let end = |fd: &OwnedFd| {
        host.tcp_end(TcpEnd {
            fd: fd.as_raw_fd() as u64,
            error: *error,
            done: (*done).into(),
            bound: (*bound).into(),
            state: *state,
            ports: [local.port, peer.port],
            local: padded(&local.address),
            peer: padded(&peer.address),
        })
    };
    if !content.received.is_empty() {
        let fd = tcp::with_unread(content, local, peer, host, elapsed)?;
        end(&fd)?;
        tcp::release(&fd)?;
        options(&fd, record, true)?;
        options(&fd, record, false)?;
        return Ok(fd);
    }
    let fd = new(record)?;
    options(&fd, record, true)?;
    if *bound {
        tcp::begin_at(&fd, &sockaddr(local)?, 0).or_refuse(|| what(local))?;
        options(&fd, record, true)?;
    }
    options(&fd, record, false)?;
    buffers(&fd, record)?;
    end(&fd)?;
    Ok(fd)
}

fn padded(address: &[u8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(address) {
        *to = *from;
    }
    bytes
}
