//! Frames and what is in them: who has an address (RFC 826, RFC 4861), and whether it is there (RFC 792, RFC 4443).

use crate::{tcp, Known, FRAME};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet,
    Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, Ipv6Address,
    Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr, TcpPacket, TcpRepr,
};

/// Hops that an answer may take, and that a message about neighbours must still have (RFC 4861, 7.1.1).
const HOPS: u8 = 64;
const ALL_HOPS: u8 = 255;
/// All nodes of the link (RFC 4291, 2.7.1), to whom one speaks whose asker has no address yet.
const ALL_NODES: Ipv6Address = Ipv6Address::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_HARDWARE: EthernetAddress = EthernetAddress([0x33, 0x33, 0, 0, 0, 1]);

/// How often what was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Who has an address.
    pub neighbours: u64,
    /// Pings.
    pub pings: u64,
    /// Peers of connections.
    pub segments: u64,
    /// Nothing.
    pub ignored: u64,
}

/// What an answer says, behind the head of its frame.
pub(crate) enum Answer<'a> {
    Arp(ArpRepr),
    Ping4(Ipv4Repr, Icmpv4Repr<'a>),
    Six(Ipv6Repr, Icmpv6Repr<'a>),
    Tcp4(Ipv4Repr, TcpRepr<'a>),
    Tcp6(Ipv6Repr, TcpRepr<'a>),
}

impl Answer<'_> {
    fn length(&self) -> usize {
        let (head, body) = match self {
            Self::Arp(arp) => (0, arp.buffer_len()),
            Self::Ping4(ip, icmp) => (ip.buffer_len(), icmp.buffer_len()),
            Self::Six(ip, icmp) => (ip.buffer_len(), icmp.buffer_len()),
            Self::Tcp4(ip, tcp) => (ip.buffer_len(), tcp.buffer_len()),
            Self::Tcp6(ip, tcp) => (ip.buffer_len(), tcp.buffer_len()),
        };
        EthernetFrame::<&[u8]>::header_len()
            .saturating_add(head)
            .saturating_add(body)
    }

    fn kind(&self) -> EthernetProtocol {
        match self {
            Self::Arp(_) => EthernetProtocol::Arp,
            Self::Ping4(..) | Self::Tcp4(..) => EthernetProtocol::Ipv4,
            Self::Six(..) | Self::Tcp6(..) => EthernetProtocol::Ipv6,
        }
    }

    /// Writes it behind the head of a frame. The room is just what it takes.
    fn emit(&self, room: &mut [u8]) -> Option<()> {
        let sums = ChecksumCapabilities::default();
        match self {
            Self::Arp(arp) => arp.emit(&mut ArpPacket::new_unchecked(room)),
            Self::Ping4(ip, icmp) => {
                let (head, body) = room.split_at_mut_checked(ip.buffer_len())?;
                ip.emit(&mut Ipv4Packet::new_unchecked(head), &sums);
                icmp.emit(&mut Icmpv4Packet::new_unchecked(body), &sums);
            }
            Self::Six(ip, icmp) => {
                let (head, body) = room.split_at_mut_checked(ip.buffer_len())?;
                ip.emit(&mut Ipv6Packet::new_unchecked(head));
                icmp.emit(
                    &ip.src_addr,
                    &ip.dst_addr,
                    &mut Icmpv6Packet::new_unchecked(body),
                    &sums,
                );
            }
            Self::Tcp4(ip, tcp) => {
                let (head, body) = room.split_at_mut_checked(ip.buffer_len())?;
                ip.emit(&mut Ipv4Packet::new_unchecked(head), &sums);
                let ends = (IpAddress::Ipv4(ip.src_addr), IpAddress::Ipv4(ip.dst_addr));
                tcp.emit(&mut TcpPacket::new_unchecked(body), &ends.0, &ends.1, &sums);
            }
            Self::Tcp6(ip, tcp) => {
                let (head, body) = room.split_at_mut_checked(ip.buffer_len())?;
                ip.emit(&mut Ipv6Packet::new_unchecked(head));
                let ends = (IpAddress::Ipv6(ip.src_addr), IpAddress::Ipv6(ip.dst_addr));
                tcp.emit(&mut TcpPacket::new_unchecked(body), &ends.0, &ends.1, &sums);
            }
        }
        Some(())
    }
}

/// Writes a frame with its head to `out` and returns its length.
pub(crate) fn write(
    from: EthernetAddress,
    to: EthernetAddress,
    answer: &Answer<'_>,
    out: &mut [u8; FRAME],
) -> Option<usize> {
    let frame = out.get_mut(..answer.length())?;
    let mut frame = EthernetFrame::new_unchecked(frame);
    let head = EthernetRepr {
        src_addr: from,
        dst_addr: to,
        ethertype: answer.kind(),
    };
    head.emit(&mut frame);
    answer.emit(frame.payload_mut())?;
    Some(answer.length())
}

impl Known {
    /// Answers a frame: writes the answer to `out` and returns its length. `elapsed` are milliseconds since the instant of the
    /// records.
    pub fn answer(&self, frame: &[u8], elapsed: u32, out: &mut [u8; FRAME], answered: &mut Answered) -> Option<usize> {
        let length = self
            .find_answer(frame, elapsed, answered)
            .and_then(|(to, answer)| write(self.hardware, to, &answer, out));
        if length.is_none() {
            answered.ignored = answered.ignored.saturating_add(1);
        }
        length
    }

    fn find_answer<'f>(
        &self,
        frame: &'f [u8],
        elapsed: u32,
        answered: &mut Answered,
    ) -> Option<(EthernetAddress, Answer<'f>)> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        let (from, to) = (frame.src_addr(), frame.dst_addr());
        if !from.is_unicast() || from == self.hardware || (to.is_unicast() && to != self.hardware) {
            return None;
        }
        let (kind, payload) = (frame.ethertype(), frame.payload());
        let alone = to == self.hardware;
        let (to, answer) = match kind {
            EthernetProtocol::Arp => (from, Answer::Arp(self.arp(payload)?)),
            EthernetProtocol::Ipv4 if alone => (from, self.ipv4(payload, elapsed)?),
            EthernetProtocol::Ipv6 => self.ipv6(payload, elapsed, from, alone)?,
            _ => return None,
        };
        let count = match &answer {
            Answer::Arp(_) | Answer::Six(_, Icmpv6Repr::Ndisc(_)) => &mut answered.neighbours,
            Answer::Ping4(..) | Answer::Six(..) => &mut answered.pings,
            Answer::Tcp4(..) | Answer::Tcp6(..) => &mut answered.segments,
        };
        *count = count.saturating_add(1);
        Some((to, answer))
    }

    fn has(&self, address: IpAddress) -> bool {
        self.addresses.contains(&address)
    }

    fn arp(&self, packet: &[u8]) -> Option<ArpRepr> {
        let packet = ArpPacket::new_checked(packet).ok()?;
        let ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = ArpRepr::parse(&packet).ok()?
        else {
            return None;
        };
        // Whoever says that he is us does not ask.
        let asks = source_protocol_addr != target_protocol_addr && source_hardware_addr.is_unicast();
        (asks && self.has(target_protocol_addr.into())).then_some(ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: self.hardware,
            source_protocol_addr: target_protocol_addr,
            target_hardware_addr: source_hardware_addr,
            target_protocol_addr: source_protocol_addr,
        })
    }

    fn ipv4<'f>(&self, packet: &'f [u8], elapsed: u32) -> Option<Answer<'f>> {
        let sums = ChecksumCapabilities::default();
        let packet = Ipv4Packet::new_checked(packet).ok()?;
        let ip = Ipv4Repr::parse(&packet, &sums).ok()?;
        if packet.more_frags()
            || packet.frag_offset() != 0
            || !is_somebody4(ip.src_addr)
            || !self.has(ip.dst_addr.into())
        {
            return None;
        }
        let back = |payload_len| Ipv4Repr {
            src_addr: ip.dst_addr,
            dst_addr: ip.src_addr,
            next_header: ip.next_header,
            payload_len,
            hop_limit: HOPS,
        };
        match ip.next_header {
            IpProtocol::Icmp if self.pings => {
                let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
                let Icmpv4Repr::EchoRequest { ident, seq_no, data } = Icmpv4Repr::parse(&icmp, &sums).ok()? else {
                    return None;
                };
                let reply = Icmpv4Repr::EchoReply { ident, seq_no, data };
                Some(Answer::Ping4(back(reply.buffer_len()), reply))
            }
            IpProtocol::Tcp => {
                let ends = (ip.dst_addr.into(), ip.src_addr.into());
                let segment = tcp::answer(self, ends, packet.payload(), elapsed)?;
                Some(Answer::Tcp4(back(segment.buffer_len()), segment))
            }
            _ => None,
        }
    }

    fn ipv6<'f>(
        &self,
        packet: &'f [u8],
        elapsed: u32,
        from: EthernetAddress,
        alone: bool,
    ) -> Option<(EthernetAddress, Answer<'f>)> {
        let sums = ChecksumCapabilities::default();
        let packet = Ipv6Packet::new_checked(packet).ok()?;
        let ip = Ipv6Repr::parse(&packet).ok()?;
        let back = |src_addr, dst_addr, hop_limit, payload_len| Ipv6Repr {
            src_addr,
            dst_addr,
            next_header: ip.next_header,
            payload_len,
            hop_limit,
        };
        let own = alone && self.has(ip.dst_addr.into()) && is_somebody6(ip.src_addr);
        match ip.next_header {
            IpProtocol::Icmpv6 => {
                let icmp = Icmpv6Packet::new_checked(packet.payload()).ok()?;
                match Icmpv6Repr::parse(&ip.src_addr, &ip.dst_addr, &icmp, &sums).ok()? {
                    Icmpv6Repr::EchoRequest { ident, seq_no, data } if own && self.pings => {
                        let reply = Icmpv6Repr::EchoReply { ident, seq_no, data };
                        let head = back(ip.dst_addr, ip.src_addr, HOPS, reply.buffer_len());
                        Some((from, Answer::Six(head, reply)))
                    }
                    Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. })
                        if ip.hop_limit == ALL_HOPS && self.has(target_addr.into()) =>
                    {
                        // One without an address wants to know whether it may have this one.
                        let nameless = ip.src_addr.is_unspecified();
                        if !nameless && !is_somebody6(ip.src_addr) {
                            return None;
                        }
                        let (to, hardware, flags) = if nameless {
                            (ALL_NODES, ALL_NODES_HARDWARE, NdiscNeighborFlags::OVERRIDE)
                        } else {
                            let flags = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
                            (ip.src_addr, from, flags)
                        };
                        let reply = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                            flags,
                            target_addr,
                            lladdr: Some(self.hardware.into()),
                        });
                        let head = back(target_addr, to, ALL_HOPS, reply.buffer_len());
                        Some((hardware, Answer::Six(head, reply)))
                    }
                    _ => None,
                }
            }
            IpProtocol::Tcp if own => {
                let ends = (ip.dst_addr.into(), ip.src_addr.into());
                let segment = tcp::answer(self, ends, packet.payload(), elapsed)?;
                let head = back(ip.dst_addr, ip.src_addr, HOPS, segment.buffer_len());
                Some((from, Answer::Tcp6(head, segment)))
            }
            _ => None,
        }
    }
}

/// Whether an address is that of a machine elsewhere.
pub(crate) fn is_somebody4(address: Ipv4Address) -> bool {
    !(address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback())
}

fn is_somebody6(address: Ipv6Address) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback())
}
