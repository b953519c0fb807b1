//! Sockets of AF_UNIX.

use super::{buffers, new, options, peers, peers::Peers, raw, SocketContent};
use crate::restore::{OrRefuse, Refusal, Restored};
use shared_region::context::{UnixPeer, UnixSocket};
use std::{io, os::fd::OwnedFd};

/// Bits of [`UnixSocket::shutdown`].
const RECEIVING: u32 = 1;
const SENDING: u32 = 2;

/// Makes a socket of AF_UNIX.
pub fn open(
    content: &SocketContent<'_>,
    unix: &UnixSocket,
    output: &(String, String),
    peers: &mut Peers,
) -> Restored<OwnedFd> {
    let record = &content.record;
    let fd = new(record)?;
    options(&fd, record, true)?;
    if !unix.name.is_empty() {
        raw::bind(&fd, &sockaddr(&unix.name)?).or_refuse(|| name(&unix.name))?;
    }
    if let UnixPeer::Socket { name: peer, .. } = &unix.peer {
        connect(&fd, content, output, peer, peers).map_err(|refusal| {
            let what = format!("socket connected to {}", name(peer));
            Refusal::new(what, refusal)
        })?;
    }
    options(&fd, record, false)?;
    buffers(&fd, record)?;
    let how = match unix.shutdown {
        0 => return Ok(fd),
        RECEIVING => libc::SHUT_RD,
        SENDING => libc::SHUT_WR,
        _ => libc::SHUT_RDWR,
    };
    raw::shutdown(&fd, how).or_refuse(|| name(&unix.name))?;
    Ok(fd)
}

/// Connects to a service of the system, with what it had not read yet.
fn connect(
    fd: &OwnedFd,
    content: &SocketContent<'_>,
    (identifier, unit): &(String, String),
    peer: &[u8],
    peers: &mut Peers,
) -> Restored<()> {
    let Some(listener) = Peers::known(peer) else {
        return Err(Refusal::new("peer", "it is not restored"));
    };
    peers.listen()?;
    raw::connect(fd, &sockaddr(peer)?).or_refuse(|| "connection")?;
    if listener.path == peers::STDOUT {
        send(fd, &peers::header(identifier, unit)).or_refuse(|| "header")?;
        for part in &content.to_send {
            send(fd, part).or_refuse(|| "what was not read yet")?;
        }
    }
    Ok(())
}

fn send(fd: &OwnedFd, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let taken = raw::send(fd, data)?;
        data = &data[taken..];
    }
    Ok(())
}

/// A name for people.
fn name(name: &[u8]) -> String {
    match name.split_first() {
        None => "a socket without a name".into(),
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
        Some(_) => String::from_utf8_lossy(name).into_owned(),
    }
}

/// `struct sockaddr_un`.
pub fn sockaddr(path: &[u8]) -> Restored<Vec<u8>> {
    const LONGEST: usize = 108;
    let end: &[u8] = if path.first() == Some(&0) { &[] } else { &[0] };
    if path.len() + end.len() > LONGEST {
        return Err(Refusal::new(name(path), "its name is too long"));
    }
    Ok([&(libc::AF_UNIX as u16).to_ne_bytes()[..], path, end].concat())
}
