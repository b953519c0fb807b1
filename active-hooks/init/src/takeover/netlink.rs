//! Requests to the kernel's network (rtnetlink(7)), each answered before the next.

use crate::restore::sockets::raw;
use std::{io, os::fd::OwnedFd};

/// NLM_F_REQUEST, ACK, EXCL, CREATE (include/uapi/linux/netlink.h).
const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// See [`REQUEST`].
pub const EXCL: u16 = 0x200;
/// See [`REQUEST`].
pub const CREATE: u16 = 0x400;
/// NLMSG_ERROR.
const ERROR: u16 = 2;
/// Bytes of a message's head.
const HEAD: usize = 16;
/// `NETLINK_ROUTE`.
const ROUTE: u32 = 0;

/// A connection to the kernel.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

/// The payload of a request.
#[derive(Debug, Default)]
pub struct Payload(Vec<u8>);

impl Payload {
    /// Begins with a structure of the kind of request.
    pub fn new(head: &[u8]) -> Self {
        Self(head.to_vec())
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        // struct rtattr: length and type, then the value, padded to 4 bytes.
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let length = (4 + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

impl Netlink {
    /// Opens one.
    ///
    /// # Errors
    /// The kernel has none.
    pub fn open() -> io::Result<Self> {
        let socket = raw::socket(libc::AF_NETLINK as u32, libc::SOCK_RAW as u32, ROUTE)?;
        rustix::fs::fcntl_setfl(&socket, rustix::fs::OFlags::empty())?;
        // struct timeval: the kernel answers at once or never.
        let seconds = [5u64.to_ne_bytes(), 0u64.to_ne_bytes()].concat();
        raw::set(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &seconds)?;
        Ok(Self { socket })
    }

    /// Makes a request and waits for its end.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn ask(&self, kind: u16, flags: u16, payload: Payload) -> io::Result<()> {
        let mut message = Vec::new();
        message.extend(((HEAD + payload.0.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | ACK | flags).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(payload.0);
        raw::send(&self.socket, &message)?;
        let mut answer = [0; 4096];
        let length = raw::receive(&self.socket, &mut answer)?;
        let word = |at: usize| {
            let bytes = answer.get(..length)?.get(at..at + 4)?;
            Some(i32::from_ne_bytes(bytes.try_into().ok()?))
        };
        match (word(4).map(|kind| kind as u16), word(HEAD)) {
            (Some(ERROR), Some(0)) => Ok(()),
            (Some(ERROR), Some(error)) => Err(io::Error::from_raw_os_error(-error)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded() {
        let payload = Payload::new(&[1, 2]).with(3, b"lo\0").with(6, &[9]);
        let expected = [&[1, 2, 0, 0][..], &[7, 0, 3, 0], b"lo\0\0", &[5, 0, 6, 0, 9, 0, 0, 0]].concat();
        assert_eq!(payload.0, expected);
    }
}
