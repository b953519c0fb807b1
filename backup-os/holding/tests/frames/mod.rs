//! Frames of a peer on the wire.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::*;

pub const OWN: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
pub const PEER: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 9]);
pub const PEER4: Ipv4Address = Ipv4Address::new(10, 0, 0, 9);

pub fn sums() -> ChecksumCapabilities {
    ChecksumCapabilities::default()
}

pub fn framed(to: EthernetAddress, kind: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    [to.as_bytes(), PEER.as_bytes(), &u16::from(kind).to_be_bytes(), payload].concat()
}

/// A packet to an address of the machine.
pub fn packet4(to: Ipv4Address, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let ip = Ipv4Repr {
        src_addr: PEER4,
        dst_addr: to,
        next_header: protocol,
        payload_len: payload.len(),
        hop_limit: 9,
    };
    let mut head = vec![0; ip.buffer_len()];
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut head[..]), &sums());
    framed(OWN, EthernetProtocol::Ipv4, &[&head, payload].concat())
}

pub fn ping(to: Ipv4Address, data: &[u8]) -> Vec<u8> {
    let icmp = Icmpv4Repr::EchoRequest {
        ident: 3,
        seq_no: 4,
        data,
    };
    let mut bytes = vec![0; icmp.buffer_len()];
    icmp.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[..]), &sums());
    packet4(to, IpProtocol::Icmp, &bytes)
}

pub fn tcp4(to: Ipv4Address, segment: &TcpRepr<'_>) -> Vec<u8> {
    let mut bytes = vec![0; segment.buffer_len()];
    let mut packet = TcpPacket::new_unchecked(&mut bytes[..]);
    segment.emit(&mut packet, &PEER4.into(), &to.into(), &sums());
    packet4(to, IpProtocol::Tcp, &bytes)
}

pub fn arp(arp: ArpRepr) -> Vec<u8> {
    let mut bytes = vec![0; arp.buffer_len()];
    arp.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    framed(EthernetAddress::BROADCAST, EthernetProtocol::Arp, &bytes)
}

/// Who has an address?
pub fn who_has(target: Ipv4Address) -> ArpRepr {
    ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: PEER,
        source_protocol_addr: PEER4,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    }
}
