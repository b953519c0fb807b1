//! Connections of TCP that a peer has been asked for and has not answered yet.
//!
//! The question is asked again with the number that it had, so that to a peer that knows it already it is a repetition. Its time stamp has
//! another origin (`tcp_v4_connect` chooses it): a peer's answer to the first question is answered with a reset then, which ends what
//! the peer has begun, and the next repetition, a second later, begins anew.

use super::{buffers, new, options, raw, sockaddr, tcp, what};
use crate::restore::{host::Host, OrRefuse, Refusal, Restored};
use rustix::fs::{fcntl_getfl, fcntl_setfl, OFlags};
use shared_region::context::{InetAddress, Socket};
use shared_region::device::tcp_step;
use std::{io, os::fd::OwnedFd};

/// A connection for which the peer has not been asked again yet.
#[derive(Debug)]
pub struct Connecting {
    fd: OwnedFd,
    peer: Vec<u8>,
    name: String,
}

/// Makes the socket, at the address that it had.
pub fn make(record: &Socket, local: &InetAddress, peer: &InetAddress, seq: u32) -> Restored<(OwnedFd, Connecting)> {
    let fd = new(record)?;
    options(&fd, record, true)?;
    tcp::begin_at(&fd, &sockaddr(local)?, seq).or_refuse(|| what(local))?;
    options(&fd, record, true)?;
    options(&fd, record, false)?;
    buffers(&fd, record)?;
    let connecting = Connecting {
        fd: rustix::io::fcntl_dupfd_cloexec(&fd, 0).or_refuse(|| "descriptor")?,
        peer: sockaddr(peer)?,
        name: format!("{} to {}", what(local), what(peer)),
    };
    Ok((fd, connecting))
}

impl Connecting {
    /// Asks the peer.
    ///
    /// # Errors
    /// What does not work.
    pub fn go_on(self, host: &dyn Host) -> Restored<()> {
        let asked = self.ask(host);
        asked.map_err(|refusal| Refusal::new(self.name, refusal))
    }

    fn ask(&self, host: &dyn Host) -> Restored<()> {
        let flags = fcntl_getfl(&self.fd).or_refuse(|| "flags")?;
        fcntl_setfl(&self.fd, flags | OFlags::NONBLOCK).or_refuse(|| "flags")?;
        let asked = raw::connect(&self.fd, &self.peer);
        fcntl_setfl(&self.fd, flags).or_refuse(|| "flags")?;
        match asked.err().and_then(|error: io::Error| error.raw_os_error()) {
            None | Some(libc::EINPROGRESS) => Ok(()),
            // The process hears of it as if it had happened later.
            Some(errno) => host.tcp(tcp::step(&self.fd, tcp_step::FAIL, errno as u64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::host::Nobody;
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    };

    fn address(of: SocketAddr) -> InetAddress {
        InetAddress {
            address: vec![127, 0, 0, 1],
            port: of.port(),
        }
    }

    #[test]
    fn a_peer_is_asked_from_the_same_address() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let local = {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            free.local_addr().expect("address")
        };
        let record = Socket {
            family: libc::AF_INET as u32,
            kind: libc::SOCK_STREAM as u32,
            protocol: libc::IPPROTO_TCP as u32,
            buffers: (131_072, 87_040),
            ..Socket::default()
        };
        let peer = address(listener.local_addr().expect("address"));
        let (fd, connecting) = match make(&record, &address(local), &peer, 0xFFFF_FFF0) {
            Ok(made) => made,
            Err(refusal) => {
                eprintln!("skipped: {refusal}");
                return;
            }
        };
        fcntl_setfl(&fd, OFlags::empty()).expect("flags");
        connecting.go_on(&Nobody).expect("asked");
        assert_eq!(fcntl_getfl(&fd).expect("flags") & OFlags::NONBLOCK, OFlags::empty());
        let (mut server, from) = listener.accept().expect("accept");
        assert_eq!(from, local);
        let mut client = TcpStream::from(fd);
        client.write_all(b"there").expect("send");
        let mut data = [0; 5];
        server.read_exact(&mut data).expect("receive");
        assert_eq!(&data, b"there");
    }
}
