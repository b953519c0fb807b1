//! Frames as they come from the wire, and what is said to them.

use holding::answer::Answered;
use holding::known::Known;
use holding::tcp::Connection;
use holding::FRAME;
use proptest::prelude::*;
use smoltcp::wire::*;

mod frames;
use frames::{framed, sums, who_has, OWN, PEER, PEER4};

const OWN4: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);
const OWN6: Ipv6Address = Ipv6Address::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 1);
const PEER6: Ipv6Address = Ipv6Address::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 9);
/// Where the peer is, and where this side is.
const NEXT: u32 = u32::MAX - 1;
const SENT: u32 = 700;

fn known() -> Known {
    let connection = Connection {
        next: NEXT,
        sent: SENT,
        stamp: Some(1000),
    };
    let flows = [
        (OWN4.into(), 80, PEER4.into(), 4000),
        (OWN6.into(), 80, PEER6.into(), 4000),
    ];
    Known {
        hardware: OWN,
        addresses: vec![OWN4.into(), OWN6.into()],
        connections: flows.map(|flow| (flow, connection)).into(),
        pings: true,
    }
}

fn packet6(to: EthernetAddress, ip: Ipv6Repr, payload: &[u8]) -> Vec<u8> {
    let mut head = vec![0; ip.buffer_len()];
    ip.emit(&mut Ipv6Packet::new_unchecked(&mut head[..]));
    framed(to, EthernetProtocol::Ipv6, &[&head, payload].concat())
}

fn segment(control: TcpControl, seq: u32, payload: &[u8]) -> TcpRepr<'_> {
    TcpRepr {
        src_port: 4000,
        dst_port: 80,
        control,
        seq_number: TcpSeqNumber(seq as i32),
        ack_number: (control != TcpControl::Syn).then_some(TcpSeqNumber(SENT as i32)),
        window_len: 100,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: Some(TcpTimestampRepr::new(55, 44)),
        payload,
    }
}

fn tcp4(segment: &TcpRepr<'_>) -> Vec<u8> {
    frames::tcp4(OWN4, segment)
}

fn ping(data: &[u8]) -> Vec<u8> {
    frames::ping(OWN4, data)
}

fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut answered) = ([0; FRAME], Answered::default());
    let length = known().answer(frame, 7, &mut out, &mut answered);
    let Answered {
        neighbours,
        pings,
        segments,
        ignored,
    } = answered;
    assert_eq!(neighbours + pings + segments, u64::from(length.is_some()));
    assert_eq!(ignored, u64::from(length.is_none()));
    length.map(|length| out[..length].to_vec())
}

/// The IPv4 packet in an answer to the peer.
fn answered4(frame: &[u8]) -> Option<Vec<u8>> {
    let answer = answer(frame)?;
    let frame = EthernetFrame::new_checked(&answer[..]).unwrap();
    assert_eq!((frame.dst_addr(), frame.src_addr()), (PEER, OWN));
    let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
    let ip = Ipv4Repr::parse(&packet, &sums()).unwrap();
    assert_eq!((ip.src_addr, ip.dst_addr), (OWN4, PEER4));
    Some(packet.payload().to_vec())
}

#[test]
fn it_is_told_who_has_an_address() {
    let ask = |arp: ArpRepr| answer(&frames::arp(arp));
    let told = ask(who_has(OWN4)).expect("an answer");
    let frame = EthernetFrame::new_checked(&told[..]).unwrap();
    assert_eq!((frame.dst_addr(), frame.src_addr()), (PEER, OWN));
    let expected = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: OWN,
        source_protocol_addr: OWN4,
        target_hardware_addr: PEER,
        target_protocol_addr: PEER4,
    };
    assert_eq!(
        ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()),
        Ok(expected)
    );
    // Of others nothing is known, and those who only say who they are do not ask.
    assert_eq!(ask(who_has(PEER4)), None);
    assert_eq!(ask(who_has(Ipv4Address::new(10, 0, 0, 2))), None);
    let ArpRepr::EthernetIpv4 {
        source_hardware_addr,
        target_hardware_addr,
        ..
    } = who_has(OWN4)
    else {
        unreachable!()
    };
    let announced = |operation| ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr: OWN4,
        target_hardware_addr,
        target_protocol_addr: OWN4,
    };
    assert_eq!(ask(announced(ArpOperation::Request)), None);
    assert_eq!(ask(announced(ArpOperation::Reply)), None);
}

#[test]
fn neighbours_of_ipv6_are_answered() {
    let ask = |src_addr, hop_limit, target_addr| {
        let dst_addr = Ipv6Address::new(0xFF02, 0, 0, 0, 0, 1, 0xFF00, 1);
        let icmp = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
            target_addr,
            lladdr: None,
        });
        let mut bytes = vec![0; icmp.buffer_len()];
        let mut packet = Icmpv6Packet::new_unchecked(&mut bytes[..]);
        icmp.emit(&src_addr, &dst_addr, &mut packet, &sums());
        let ip = Ipv6Repr {
            src_addr,
            dst_addr,
            next_header: IpProtocol::Icmpv6,
            payload_len: bytes.len(),
            hop_limit,
        };
        let told = answer(&packet6(EthernetAddress([0x33, 0x33, 0xFF, 0, 0, 1]), ip, &bytes))?;
        let frame = EthernetFrame::new_checked(&told[..]).unwrap();
        let packet = Ipv6Packet::new_checked(frame.payload()).unwrap();
        let ip = Ipv6Repr::parse(&packet).unwrap();
        assert_eq!((ip.src_addr, ip.hop_limit), (OWN6, 255));
        let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
        let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
            flags,
            target_addr,
            lladdr,
        }) = Icmpv6Repr::parse(&ip.src_addr, &ip.dst_addr, &icmp, &sums()).unwrap()
        else {
            panic!("no advertisement")
        };
        assert_eq!((target_addr, lladdr), (OWN6, Some(OWN.into())));
        Some((
            frame.dst_addr(),
            ip.dst_addr,
            flags.contains(NdiscNeighborFlags::SOLICITED),
        ))
    };
    assert_eq!(ask(PEER6, 255, OWN6), Some((PEER, PEER6, true)));
    // Who has no address yet is told with all others.
    let all = Ipv6Address::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);
    let nameless = ask(Ipv6Address::UNSPECIFIED, 255, OWN6);
    assert_eq!(nameless, Some((EthernetAddress([0x33, 0x33, 0, 0, 0, 1]), all, false)));
    assert_eq!(ask(PEER6, 254, OWN6), None, "from another link");
    assert_eq!(ask(PEER6, 255, PEER6), None);
}

#[test]
fn pings_are_answered_with_what_they_bring() {
    for length in [0, 1, 56, FRAME - 14 - 20 - 8] {
        let data = vec![0xA5; length];
        let told = answered4(&ping(&data)).expect("an answer");
        let packet = Icmpv4Packet::new_checked(&told[..]).unwrap();
        let expected = Icmpv4Repr::EchoReply {
            ident: 3,
            seq_no: 4,
            data: &data,
        };
        assert_eq!(Icmpv4Repr::parse(&packet, &sums()), Ok(expected));
    }
    // A ping to everybody is not for us, nor is one that is only a part.
    let mut broadcast = ping(&[1]);
    broadcast[..6].fill(0xFF);
    assert_eq!(answer(&broadcast), None);
    let mut part = ping(&[1]);
    let mut packet = Ipv4Packet::new_unchecked(&mut part[14..]);
    packet.set_more_frags(true);
    packet.fill_checksum();
    assert_eq!(answer(&part), None);
    let behind_a_firewall = Known {
        pings: false,
        ..known()
    };
    let mut out = [0; FRAME];
    assert_eq!(
        behind_a_firewall.answer(&ping(&[1]), 7, &mut out, &mut Answered::default()),
        None
    );
}

#[test]
fn a_peer_that_sends_hears_that_there_is_no_room() {
    for (control, seq, payload) in [
        (TcpControl::None, NEXT, &b"new"[..]),
        (TcpControl::Psh, NEXT.wrapping_sub(10), b"repeated"),
        (TcpControl::None, NEXT.wrapping_add(100), b"ahead"),
        (TcpControl::Fin, NEXT, b""),
        // Is anybody there?
        (TcpControl::None, NEXT.wrapping_sub(1), b""),
        (TcpControl::None, NEXT.wrapping_sub(1), b"x"),
    ] {
        let told = answered4(&tcp4(&segment(control, seq, payload))).expect("an answer");
        let packet = TcpPacket::new_checked(&told[..]).unwrap();
        let said = TcpRepr::parse(&packet, &OWN4.into(), &PEER4.into(), &sums()).unwrap();
        let expected = TcpRepr {
            src_port: 80,
            dst_port: 4000,
            control: TcpControl::None,
            seq_number: TcpSeqNumber(SENT as i32),
            ack_number: Some(TcpSeqNumber(NEXT as i32)),
            window_len: 0,
            timestamp: Some(TcpTimestampRepr::new(1007, 55)),
            ..segment(TcpControl::None, 0, b"")
        };
        assert_eq!(said, expected);
    }
}

#[test]
fn what_asks_for_nothing_gets_nothing() {
    for (control, seq) in [
        (TcpControl::None, NEXT),
        (TcpControl::None, NEXT.wrapping_sub(2)),
        (TcpControl::Rst, NEXT),
        (TcpControl::Syn, NEXT.wrapping_sub(1)),
    ] {
        assert_eq!(answer(&tcp4(&segment(control, seq, b""))), None, "{control:?} {seq}");
    }
    // Nobody is told that there is no such connection.
    let mut other = segment(TcpControl::None, NEXT, b"data");
    other.dst_port = 81;
    assert_eq!(answer(&tcp4(&other)), None);
    other = segment(TcpControl::Syn, NEXT, b"");
    other.src_port = 4001;
    assert_eq!(answer(&tcp4(&other)), None);
    let mut wrong = tcp4(&segment(TcpControl::None, NEXT, b"data"));
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(answer(&wrong), None, "a wrong sum");
}

/// Good frames to start from.
fn seeds() -> Vec<Vec<u8>> {
    vec![
        ping(&[7; 40]),
        tcp4(&segment(TcpControl::None, NEXT, b"data")),
        framed(OWN, EthernetProtocol::Ipv6, &[0x60; 80]),
        framed(EthernetAddress::BROADCAST, EthernetProtocol::Arp, &[1; 28]),
    ]
}

/// Whatever comes: nothing longer than a frame, from us alone, no reset, nothing acknowledged but what was received.
fn check(frame: &[u8]) {
    let Some(told) = answer(frame) else { return };
    assert!(told.len() <= FRAME);
    let frame = EthernetFrame::new_checked(&told[..]).unwrap();
    assert_eq!(frame.src_addr(), OWN);
    let Ok(packet) = Ipv4Packet::new_checked(frame.payload()) else {
        return;
    };
    if frame.ethertype() == EthernetProtocol::Ipv4 && packet.next_header() == IpProtocol::Tcp {
        let segment = TcpPacket::new_checked(packet.payload()).unwrap();
        assert!(!segment.rst() && !segment.syn() && segment.payload().is_empty());
        assert_eq!((segment.ack_number().0 as u32, segment.window_len()), (NEXT, 0));
    }
}

proptest! {
    #[test]
    fn any_frame_is_survived(frame in proptest::collection::vec(any::<u8>(), 0..FRAME)) {
        check(&frame);
    }

    #[test]
    fn any_change_to_a_good_one_is_survived(
        seed in 0usize..4,
        cut in 0usize..120,
        changes in proptest::collection::vec((0usize..120, any::<u8>()), 0..6),
    ) {
        let mut frame = seeds().swap_remove(seed);
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(cut.max(1));
        check(&frame);
    }
}
