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

/// An option, as `setsockopt` takes it. Numbers of links in it are the dead kernel's ([`super::NetworkLink::index`]). Of
/// `SO_ATTACH_FILTER` the value is the program itself.
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
    /// Listens (TCP).
    Listening {
        /// Own address.
        local: InetAddress,
        /// As given to `listen`.
        backlog: u32,
        /// The connections that nobody has accepted yet, the oldest first.
        waiting: Vec<Id>,
    },
    /// Connected (TCP).
    Connected(TcpConnection),
    /// Of AF_UNIX.
    Unix(UnixSocket),
    /// Of netlink.
    Netlink(NetlinkSocket),
    /// Of packets of a link.
    Packet {
        /// ETH_P_*, 0 for none.
        protocol: u16,
        /// Number of the link, 0 for all.
        link: u32,
    },
    /// Has asked a peer for a connection, which has not answered yet (TCP, SYN-SENT).
    Connecting {
        /// Own address.
        local: InetAddress,
        /// Address of the peer.
        peer: InetAddress,
        /// Sequence number of the SYN.
        send_seq: u32,
    },
    /// Had a connection, or asked for one, which is over (TCP, CLOSED). What nobody has read yet is in the receive queue.
    Ended {
        /// Own address.
        local: InetAddress,
        /// Whether it still has the port.
        bound: bool,
        /// Address of the peer.
        peer: InetAddress,
        /// What the next call fails with, 0 if it does not.
        error: u32,
        /// The peer's end was seen before.
        done: bool,
        /// SS_*: whether it was seen to be connected.
        state: u32,
    },
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

/// A connection of TCP.
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
    /// Directions that are closed: 1 receiving, 2 sending. What had to be sent before the end is in the queue.
    pub shutdown: u32,
    /// How the peer's end has come.
    pub fin: PeerFin,
    /// The peer's urgent data, until the process has read past it: `tcp_sock.urg_data` (`TCP_URG_*` with the byte) and the
    /// byte's sequence number.
    pub urgent_received: Option<(u16, u32)>,
    /// Sequence number behind the own urgent data, until that is acknowledged.
    pub urgent_to_send: Option<u32>,
}

/// How the end of what a peer sends has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerFin {
    /// It has not.
    #[default]
    None,
    /// Before the own (CLOSE-WAIT, LAST-ACK).
    First,
    /// At the same time as the own, which is not acknowledged yet (CLOSING).
    Crossed,
}

/// A socket of AF_UNIX. What is in its receive queue belongs to [`UnixSocket::messages`], one after the other.
///
/// Not every one belongs to an open file: there are those that wait to be accepted, and ends of others that nobody who is
/// protected has any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixSocket {
    /// What it is bound to, as in `sun_path`: a path, or an abstract name after a NUL; empty if it is not bound.
    pub name: Vec<u8>,
    /// The name is that of the socket that listened, not one that others find this one by.
    pub inherited: bool,
    /// The file of a path, if it still has a name.
    pub file: Option<SocketFile>,
    /// Whom it is connected to.
    pub peer: UnixPeer,
    /// It listens; these sockets wait to be accepted, the oldest first.
    pub listening: Option<Vec<Id>>,
    /// Connections (if it listens) or datagrams that may wait.
    pub limit: u32,
    /// Directions that are closed: 1 receiving, 2 sending.
    pub shutdown: u32,
    /// The next call fails because what its peer had not read was lost (`ECONNRESET`).
    pub reset: bool,
    /// Whom `SO_PEERCRED` names.
    pub credentials: Option<UnixCredentials>,
    /// What is in its receive queue.
    pub messages: Vec<UnixMessage>,
}

/// The file of a socket of AF_UNIX.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFile {
    /// Its path.
    pub path: Vec<u8>,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
}

/// Who a process was when it made a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixCredentials {
    /// Its id.
    pub process: i32,
    /// Its user.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// What was sent at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixMessage {
    /// Bytes of it.
    pub length: u32,
    /// The socket that it came from.
    pub sender: Id,
    /// Process, user and group that come with it.
    pub credentials: Option<(i32, u32, u32)>,
    /// Open files that come with it.
    pub files: Vec<Id>,
}

/// Whom a socket of AF_UNIX is connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixPeer {
    /// Nobody.
    #[default]
    None,
    /// Another socket, which is among the records.
    Socket(Id),
}

/// A socket of netlink. What is in its receive queue belongs to [`NetlinkSocket::messages`], one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetlinkSocket {
    /// What it is bound to, if it is.
    pub port: Option<u32>,
    /// Whom it is connected to, if it is: port, and number of a group or 0.
    pub peer: Option<(u32, u32)>,
    /// It has missed messages to its groups, which the next call says (`ENOBUFS`).
    pub missed: bool,
    /// What is in its receive queue.
    pub messages: Vec<NetlinkMessage>,
}

/// What came over netlink at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetlinkMessage {
    /// Bytes of it.
    pub length: u32,
    /// Port that it came from, 0 for the kernel.
    pub port: u32,
    /// Number of the group it was sent to, 0 for none.
    pub group: u32,
    /// Process, user and group that come with it.
    pub credentials: (i32, u32, u32),
}
