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
/// Behind what is there already (NLM_F_APPEND).
pub const APPEND: u16 = 0x800;
/// NLMSG_ERROR.
const ERROR: u16 = 2;
/// Bytes of a message's head.
const HEAD: usize = 16;
/// `NETLINK_ROUTE`.
const ROUTE: u32 = 0;
/// `NETLINK_NETFILTER`.
pub const NETFILTER: u32 = 12;
/// `SO_SNDBUFFORCE`: what is asked together goes in one piece.
const SEND_BUFFER: i32 = 32;

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

    /// What has been put together.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A message of a subsystem of netfilter, taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its kind.
    pub kind: u16,
    /// `struct nfgenmsg`: family, version, resource.
    pub head: &'a [u8; 4],
    /// Attributes.
    pub body: &'a [u8],
}

/// The messages in a row of them; `None` in the end if the last is cut short.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Option<Message<'_>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let message = next_message(&mut bytes);
        if message.is_none() {
            bytes = &[];
        }
        Some(message)
    })
}

fn next_message<'a>(bytes: &mut &'a [u8]) -> Option<Message<'a>> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let (head, body) = bytes.get(HEAD..length)?.split_first_chunk()?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(Message { kind, head, body })
}

/// The attributes in a row of them, as far as they are whole.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A message with its head (`struct nlmsghdr`).
pub fn message(kind: u16, flags: u16, number: u32, payload: &Payload) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEAD + payload.0.len());
    message.extend(((HEAD + payload.0.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(number.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(&payload.0);
    message
}

impl Netlink {
    /// Opens one to the kernel's network.
    ///
    /// # Errors
    /// The kernel has none.
    pub fn open() -> io::Result<Self> {
        Self::open_to(ROUTE)
    }

    /// Opens one to a part of the kernel.
    ///
    /// # Errors
    /// The kernel has no such part.
    pub fn open_to(part: u32) -> io::Result<Self> {
        let socket = raw::socket(libc::AF_NETLINK as u32, libc::SOCK_RAW as u32, part)?;
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
        raw::send(&self.socket, &message(kind, REQUEST | ACK | flags, 0, &payload))?;
        self.answer()
    }

    /// Makes requests of a subsystem of netfilter, between two that say where they begin and end: the kernel does all of them
    /// or none.
    ///
    /// # Errors
    /// What the kernel answers to the first that it does not do.
    pub fn ask_together(&self, begin: u16, end: u16, requests: &[(u16, u16, Payload)]) -> io::Result<()> {
        let Some(((last, _, _), _)) = requests.split_last() else {
            return Ok(());
        };
        // struct nfgenmsg, whose resource is the subsystem, in network order.
        let subsystem = Payload::new(&[0, 0, 0, (last >> 8) as u8]);
        let mut all = message(begin, REQUEST, 0, &subsystem);
        for (number, (kind, flags, payload)) in (1..).zip(requests) {
            // Only what fails is answered, and the last.
            let ack = if number as usize == requests.len() { ACK } else { 0 };
            all.extend(message(*kind, REQUEST | ack | flags, number, payload));
        }
        all.extend(message(end, REQUEST, 0, &subsystem));
        let room = u32::try_from(all.len() * 2).map_err(|_| io::ErrorKind::FileTooLarge)?;
        raw::set_number(&self.socket, libc::SOL_SOCKET, SEND_BUFFER, room)?;
        raw::send(&self.socket, &all)?;
        self.answer()
    }

    fn answer(&self) -> io::Result<()> {
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
