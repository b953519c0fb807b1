//! What is known of the machine: its addresses on one link, and its connections.

use crate::links;
use crate::tcp::Connection;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use shared_region::context::{InetAddress, Netfilter, Network, PeerFin, Rules, Socket, SocketState};
use shared_region::record::{Kind, Stream};
use smoltcp::wire::{EthernetAddress, IpAddress, Ipv4Address, Ipv6Address};

/// Addresses and connections that are answered for, at about a hundred bytes each.
const MAX_ADDRESSES: usize = 256;
const MAX_CONNECTIONS: usize = 1 << 14;
/// Addresses of the link itself that come with its hardware address (RFC 4291, appendix A).
const LINK_LOCAL: [u8; 8] = [0xFE, 0x80, 0, 0, 0, 0, 0, 0];

/// An own address and port, then the peer's.
pub type Flow = (IpAddress, u16, IpAddress, u16);

/// What a link is answered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its hardware address.
    pub hardware: EthernetAddress,
    /// Its addresses.
    pub addresses: Vec<IpAddress>,
    /// Connections of the whole machine.
    pub connections: BTreeMap<Flow, Connection>,
    /// Whether pings are answered: not behind a firewall, whose rules may say otherwise.
    pub pings: bool,
}

impl Known {
    /// Looks up in the records what concerns the link with a hardware address. `None` if it was not up, or had no address.
    ///
    /// Records that cannot be read are left out: whom they are about is not answered for.
    pub fn read(stream: &Stream<'_>, hardware: [u8; 6]) -> Option<Self> {
        let mut open = true;
        let mut sockets: BTreeMap<u64, Pending> = BTreeMap::new();
        let mut elsewhere: BTreeSet<u64> = BTreeSet::new();
        for record in stream.records().map_while(Result::ok) {
            let length = record.payload.len() as u32;
            match record.kind {
                Kind::Netfilter => open = record.decode::<Netfilter>().is_ok_and(|of| of.rules == Rules::None),
                // Nothing that comes over a link of the machine is for one of another network.
                Kind::SocketInNamespace => {
                    elsewhere.insert(record.owner);
                }
                Kind::Socket if !elsewhere.contains(&record.owner) && sockets.len() < MAX_CONNECTIONS => {
                    let socket = record.decode::<Socket>().ok();
                    let pending = socket.and_then(|socket| pending(&socket));
                    sockets.extend(pending.map(|pending| (record.owner, pending)));
                }
                Kind::ReceiveQueue => {
                    if let Some(pending) = sockets.get_mut(&record.owner) {
                        pending.connection.next = pending.connection.next.wrapping_add(length);
                    }
                }
                Kind::SendQueue => {
                    if let Some(pending) = sockets.get_mut(&record.owner) {
                        pending.to_send = pending.to_send.saturating_add(length);
                    }
                }
                _ => {}
            }
        }
        let mut known = Self::of_link(&links::unmarked(stream)?, hardware)?;
        known.pings = open;
        known
            .connections
            .extend(sockets.into_values().filter_map(Pending::complete));
        Some(known)
    }

    fn of_link(network: &Network, hardware: [u8; 6]) -> Option<Self> {
        let links: Vec<u32> = links::of_card(network, &hardware).collect();
        let own = network.addresses.iter().filter(|address| links.contains(&address.link));
        let mut addresses: Vec<IpAddress> = own
            .filter_map(|address| ip(&address.local))
            .take(MAX_ADDRESSES)
            .collect();
        if addresses.is_empty() {
            return None;
        }
        addresses.push(link_local(hardware));
        Some(Self {
            hardware: EthernetAddress(hardware),
            addresses,
            connections: BTreeMap::new(),
            pings: true,
        })
    }
}

/// The address of the link itself, made of its hardware address.
fn link_local(hardware: [u8; 6]) -> IpAddress {
    let [a, b, c, d, e, f] = hardware;
    let [p, q, r, s, t, u, v, w] = LINK_LOCAL;
    let octets = [p, q, r, s, t, u, v, w, a ^ 2, b, c, 0xFF, 0xFE, d, e, f];
    IpAddress::Ipv6(Ipv6Address::from(octets))
}

fn ip(bytes: &[u8]) -> Option<IpAddress> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddress::Ipv4(Ipv4Address::from(four)));
    }
    let six = <[u8; 16]>::try_from(bytes).ok()?;
    let six = Ipv6Address::from(six);
    // A socket of IPv6 may speak IPv4.
    Some(six.to_ipv4_mapped().map_or(IpAddress::Ipv6(six), IpAddress::Ipv4))
}

/// A connection of whose queues not all is known.
struct Pending {
    flow: Flow,
    connection: Connection,
    /// Bytes in the queue for the peer, and how many at its end were not sent.
    to_send: u32,
    unsent: u32,
}

fn pending(socket: &Socket) -> Option<Pending> {
    let SocketState::Connected(record) = &socket.state else {
        return None;
    };
    let end = |of: &InetAddress| Some((ip(&of.address)?, of.port));
    let ((local, port), (peer, peers)) = (end(&record.local)?, end(&record.peer)?);
    // The peer's end takes a number behind its last byte.
    let fin = u32::from(record.fin != PeerFin::None);
    Some(Pending {
        flow: (local, port, peer, peers),
        connection: Connection {
            next: record.receive_seq.wrapping_add(fin),
            sent: record.send_seq,
            stamp: record.timestamp,
        },
        to_send: 0,
        unsent: record.unsent,
    })
}

impl Pending {
    fn complete(self) -> Option<(Flow, Connection)> {
        let sent = self.to_send.checked_sub(self.unsent)?;
        let connection = Connection {
            sent: self.connection.sent.wrapping_add(sent),
            ..self.connection
        };
        Some((self.flow, connection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_region::context::{InNamespace, LinkSetup, NetworkAddress, NetworkLink, TcpConnection};
    use shared_region::record::Writer;

    fn address(octets: [u8; 4], port: u16) -> InetAddress {
        let address = octets.to_vec();
        InetAddress { address, port }
    }

    #[test]
    fn records_tell_who_the_machine_is() {
        let mut area = alloc::vec![0; 4096];
        let mut writer = Writer::new(&mut area, 1).unwrap();
        let link = |index, last| NetworkLink {
            index,
            hardware: alloc::vec![2, 0, 0, 0, 0, last],
            ..NetworkLink::default()
        };
        let local = |link, local: &[u8]| NetworkAddress {
            link,
            local: local.to_vec(),
            ..NetworkAddress::default()
        };
        let network = Network {
            // The fifth is a bridge with the first for a port, the sixth a VLAN on it.
            links: alloc::vec![link(2, 7), link(3, 8), link(4, 9), link(5, 7), link(6, 7)],
            addresses: alloc::vec![
                local(2, &[10, 0, 0, 2]),
                local(3, &[10, 1, 0, 2]),
                local(5, &[1; 16]),
                local(6, &[10, 7, 0, 2])
            ],
            ..Network::default()
        };
        writer.push(Kind::Network, 1, 0, 0, &network).unwrap();
        let setup = |index, kind: &[u8]| LinkSetup {
            index,
            kind: kind.to_vec(),
            ..LinkSetup::default()
        };
        let setups = [setup(5, b"bridge"), setup(6, b"vlan")].to_vec();
        writer.push(Kind::LinkSetups, 1, 0, 0, &setups).unwrap();
        let record = TcpConnection {
            local: address([10, 0, 0, 2], 80),
            peer: address([10, 0, 0, 9], 4000),
            receive_seq: u32::MAX,
            send_seq: 100,
            unsent: 3,
            fin: PeerFin::First,
            timestamp: Some(5),
            ..TcpConnection::default()
        };
        let socket = Socket {
            state: SocketState::Connected(record),
            ..Socket::default()
        };
        writer.push(Kind::Socket, 1, 0, 77, &socket).unwrap();
        for piece in [&b"abc"[..], b"de"] {
            writer.push_bytes(Kind::ReceiveQueue, 1, 0, 77, piece).unwrap();
            writer.push_bytes(Kind::SendQueue, 1, 0, 77, piece).unwrap();
        }
        writer.push_bytes(Kind::SendQueue, 1, 0, 78, b"whose").unwrap();
        let mut elsewhere = socket.clone();
        if let SocketState::Connected(record) = &mut elsewhere.state {
            record.local.port = 81;
        }
        let network = InNamespace { namespace: 5 };
        writer.push(Kind::SocketInNamespace, 1, 0, 79, &network).unwrap();
        writer.push(Kind::Socket, 1, 0, 79, &elsewhere).unwrap();
        writer.finish();
        let stream = Stream::open(&area).unwrap();

        let known = Known::read(&stream, [2, 0, 0, 0, 0, 7]).unwrap();
        let link_local = [0xFE, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFE, 0, 0, 7];
        let addresses = [ip(&[10, 0, 0, 2]), ip(&[1; 16]), ip(&link_local)].map(Option::unwrap);
        assert_eq!(known.addresses, addresses);
        let flow = (ip(&[10, 0, 0, 2]).unwrap(), 80, ip(&[10, 0, 0, 9]).unwrap(), 4000);
        let connection = Connection {
            next: 5,
            sent: 102,
            stamp: Some(5),
        };
        assert_eq!(known.connections, [(flow, connection)].into());
        assert!(known.pings);

        assert_eq!(Known::read(&stream, [2, 0, 0, 0, 0, 9]), None, "without an address");
        assert_eq!(Known::read(&stream, [2, 0, 0, 0, 0, 6]), None, "not known");
    }

    #[test]
    fn behind_a_firewall_pings_are_not_answered() {
        let mut area = alloc::vec![0; 4096];
        let mut writer = Writer::new(&mut area, 1).unwrap();
        let hardware = [2, 0, 0, 0, 0, 7];
        let network = Network {
            links: alloc::vec![NetworkLink {
                index: 2,
                hardware: hardware.to_vec(),
                ..NetworkLink::default()
            }],
            addresses: alloc::vec![NetworkAddress {
                link: 2,
                local: alloc::vec![10, 0, 0, 2],
                ..NetworkAddress::default()
            }],
            ..Network::default()
        };
        let netfilter = Netfilter {
            rules: Rules::Kept,
            ..Netfilter::default()
        };
        writer.push(Kind::Network, 1, 0, 0, &network).unwrap();
        writer.push(Kind::Netfilter, 1, 0, 0, &netfilter).unwrap();
        writer.finish();
        assert!(!Known::read(&Stream::open(&area).unwrap(), hardware).unwrap().pings);
    }

    #[test]
    fn a_socket_that_speaks_both_is_found_by_the_shorter_address() {
        let mut mapped = [0; 16];
        mapped[10..].copy_from_slice(&[0xFF, 0xFF, 10, 0, 0, 2]);
        assert_eq!(ip(&mapped), ip(&[10, 0, 0, 2]));
        assert_eq!(ip(&[1; 5]), None);
    }
}
