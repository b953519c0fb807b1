//! The network of the machine, as far as connections need it.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Links, addresses and routes ([`crate::record::Kind::Network`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Links that were up.
    pub links: Vec<NetworkLink>,
    /// Addresses that do not expire, and those that do as if they did not.
    pub addresses: Vec<NetworkAddress>,
    /// Routes of IPv4 in the main table that do not come with an address.
    pub routes: Vec<NetworkRoute>,
    /// What there was beside it.
    pub left_out: Vec<Vec<u8>>,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkLink {
    /// Number, for the other records.
    pub index: u32,
    /// Name.
    pub name: Vec<u8>,
    /// Hardware address.
    pub hardware: Vec<u8>,
    /// Bytes of a packet.
    pub mtu: u32,
}

/// An address of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAddress {
    /// The link.
    pub link: u32,
    /// The address, 4 or 16 bytes.
    pub local: Vec<u8>,
    /// The peer's address on a point-to-point link, else the same.
    pub address: Vec<u8>,
    /// Bits of the network's part.
    pub prefix: u8,
    /// RT_SCOPE_*.
    pub scope: u8,
    /// Broadcast address of IPv4, 0 for none.
    pub broadcast: u32,
    /// Label of IPv4.
    pub label: Vec<u8>,
}

/// A route of IPv4 to one neighbour or link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRoute {
    /// Where to.
    pub destination: [u8; 4],
    /// Bits of it.
    pub prefix: u8,
    /// The neighbour, if there is one in between.
    pub gateway: Option<[u8; 4]>,
    /// The link.
    pub link: u32,
    /// Address to send from, 0 for any.
    pub source: [u8; 4],
    /// Metric.
    pub priority: u32,
    /// RTPROT_*, RT_SCOPE_*, RTN_*.
    pub protocol: u8,
    /// See `protocol`.
    pub scope: u8,
    /// See `protocol`.
    pub kind: u8,
}

/// What there is to a link beside [`NetworkLink`] ([`crate::record::Kind::LinkSetups`]): that it is no hardware, lies on
/// another or belongs to another, or was given another address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSetup {
    /// [`NetworkLink::index`].
    pub index: u32,
    /// The hardware address that it came with; empty if it has none.
    pub permanent: Vec<u8>,
    /// What it is made as (`rtnl_link_ops.kind`), empty if it is hardware.
    pub kind: Vec<u8>,
    /// Why it cannot be made again; empty if it can.
    pub not_made: Vec<u8>,
    /// The link it lies on, 0 for none.
    pub lower: u32,
    /// The link it is a port of, 0 for none.
    pub master: u32,
    /// `IFLA_INFO_DATA` to make it with.
    pub first: Vec<LinkAttribute>,
    /// What is set once its ports run.
    pub later: Vec<LinkAttribute>,
}

/// An attribute of a kind of link, as netlink takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkAttribute {
    /// `IFLA_*`.
    pub kind: u16,
    /// The value.
    pub value: Vec<u8>,
}

/// What there is beside [`Network`] of IPv6 ([`crate::record::Kind::Network6`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network6 {
    /// How long addresses of [`Network::addresses`] are good.
    pub lives: Vec<AddressLife>,
    /// Routes in the main table that do not come with an address.
    pub routes: Vec<NetworkRoute6>,
}

/// How long an address of IPv6 is good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressLife {
    /// The link.
    pub link: u32,
    /// The address.
    pub address: [u8; 16],
    /// `IFA_F_*`.
    pub flags: u32,
    /// Seconds for which it is used for new connections, all ones for ever.
    pub preferred: u32,
    /// Seconds until it goes away, all ones for never.
    pub valid: u32,
}

/// A route of IPv6 to one neighbour or link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRoute6 {
    /// Where to.
    pub destination: [u8; 16],
    /// Bits of it.
    pub prefix: u8,
    /// The neighbour, if there is one in between.
    pub gateway: Option<[u8; 16]>,
    /// The link.
    pub link: u32,
    /// Address to send from, 0 for any.
    pub source: [u8; 16],
    /// Metric.
    pub priority: u32,
    /// RTPROT_*, RTN_*.
    pub protocol: u8,
    /// See `protocol`.
    pub kind: u8,
    /// Preference of a router, as in its advertisement (RFC 4191): 0, 1 for high, 3 for low.
    pub preference: u8,
    /// Seconds until it goes away, if it does.
    pub expires: Option<u32>,
}

/// What a network namespace has beside its loopback link ([`crate::record::Kind::NamespaceNetwork`]). Numbers of links are those of the
/// namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceNetwork {
    /// All links but loopback, their addresses, and routes.
    pub network: Network,
    /// The same of IPv6.
    pub network6: Network6,
    /// What each link is. One end of a pair lies on ([`LinkSetup::lower`]) the other, a link of the first namespace.
    pub setups: Vec<LinkSetup>,
    /// Links that are not up.
    pub down: Vec<u32>,
}

/// The name by which the other end of a pair (`veth`) waits in the first namespace for the one that it belongs to; `index` is the
/// [`LinkSetup::index`] of the end that stays.
pub fn waiting_end(index: u32) -> String {
    alloc::format!("orthros{index}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are an interface between programs of different age.
    #[test]
    fn golden_bytes() {
        let setup = LinkSetup {
            index: 7,
            permanent: [2, 0, 0, 0, 0, 1].to_vec(),
            kind: b"vlan".to_vec(),
            not_made: b"x".to_vec(),
            lower: 2,
            master: 200,
            first: [LinkAttribute {
                kind: 1,
                value: [9, 8].to_vec(),
            }]
            .to_vec(),
            later: Vec::new(),
        };
        let expected = [
            &[7, 6, 2, 0, 0, 0, 0, 1, 4][..],
            b"vlan",
            &[1, b'x', 2, 200, 1, 1, 1, 2, 9, 8, 0],
        ];
        assert_eq!(postcard::to_allocvec(&setup).unwrap(), expected.concat());
        let inside = NamespaceNetwork {
            network: Network {
                links: [NetworkLink {
                    index: 2,
                    name: b"a".to_vec(),
                    hardware: Vec::new(),
                    mtu: 9,
                }]
                .to_vec(),
                ..Network::default()
            },
            down: [2].to_vec(),
            ..NamespaceNetwork::default()
        };
        let expected = [1, 2, 1, b'a', 0, 9, 0, 0, 0, 0, 0, 0, 1, 2];
        assert_eq!(postcard::to_allocvec(&inside).unwrap(), expected);
    }
}
