//! Sockets and their connections. What is in the queues follows as [`crate::record::Kind::ReceiveQueue`] and
//! [`crate::record::Kind::SendQueue`].

use super::Id;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A socket ([`crate::record::Kind::Socket`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// AF_*.
    pub family: u32,
    /// SOCK_*.
    pub kind: u32,
    /// IPPROTO_*.
    pub protocol: u32,
    /// Options that are not as they are after `socket`, or whose default is a setting of the machine.
    pub options: Vec<SocketOption>,
    /// Bytes that may lie in its queues, as the kernel counts them (twice what `setsockopt` takes): received, to be sent.
    pub buffers: (u32, u32),
    /// Which of these were set by the program (`SO_BUF_LOCK`).
    pub buffer_locks: u32,
    /// User it belongs to.
    pub user: u32,
    /// Where it is in its life.
    pub state: SocketState,
}

/// An option, as `setsockopt` takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOption {
    /// SOL_*, IPPROTO_*.
    pub level: i32,
    /// SO_*, TCP_* ….
    pub name: i32,
    /// The value.
    pub value: Vec<u8>,
}

/// Where a socket is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketState {
    /// Of IP, and without a connection of a protocol; perhaps bound, perhaps (UDP) with a peer.
    Plain {
        /// Own address.
        local: Option<InetAddress>,
        /// Address of the peer.
        peer: Option<InetAddress>,
    },
    /// Listens (TCP), with no connection waiting.
    Listening {
        /// Own address.
        local: InetAddress,
        /// As given to `listen`.
        backlog: u32,
    },
    /// Connected (TCP).
    Connected(TcpConnection),
    /// Of AF_UNIX.
    Unix(UnixSocket),
}

impl Default for SocketState {
    fn default() -> Self {
        Self::Plain {
            local: None,
            peer: None,
        }
    }
}

/// An address and port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InetAddress {
    /// 4 bytes, or 16 in an IPv6 socket.
    pub address: Vec<u8>,
    /// Port.
    pub port: u16,
}

/// A connection of TCP in which both sides can still send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpConnection {
    /// Own address.
    pub local: InetAddress,
    /// Address of the peer.
    pub peer: InetAddress,
    /// Sequence number of the first byte in the receive queue.
    pub receive_seq: u32,
    /// Sequence number of the first byte in the send queue: the first that the peer has not acknowledged.
    pub send_seq: u32,
    /// Largest segment that the peer takes.
    pub mss: u32,
    /// Shifts of the windows (of the peer's, of the own), if both sides scale them.
    pub window_scale: Option<(u8, u8)>,
    /// Both sides can acknowledge selectively.
    pub sack: bool,
    /// The time stamp that would have been sent at the instant of the records, if both sides use them.
    pub timestamp: Option<u32>,
    /// Bytes at the end of the send queue that were not sent yet.
    pub unsent: u32,
    /// The windows as `struct tcp_repair_window` has them: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup.
    pub window: [u32; 5],
}

/// A socket of AF_UNIX.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixSocket {
    /// What it is bound to, as in `sun_path`: a path, or an abstract name after a NUL; empty if it is not bound.
    pub name: Vec<u8>,
    /// Whom it is connected to.
    pub peer: UnixPeer,
    /// Directions that are closed: 1 receiving, 2 sending.
    pub shutdown: u32,
}

/// Whom a socket of AF_UNIX is connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixPeer {
    /// Nobody.
    #[default]
    None,
    /// Another socket, which may be among the records or not.
    Socket {
        /// Its id.
        socket: Id,
        /// What that one is bound to.
        name: Vec<u8>,
    },
}
