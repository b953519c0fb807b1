//! An address of this program's own, as a peer on the wire sees it.

use holding::own::{Own, CONNECTIONS, DEADLINE, PORT, PROBE};
use holding::place::Place;
use holding::state::{State, Word};
use holding::syslog::MOST;
use holding::FRAME;
use proptest::prelude::*;
use shared_region::control::Cause;
use shared_region::status_page::{LogTarget, StatusAddress};
use shared_region::timeline::Event;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::*;
use std::collections::VecDeque;

mod frames;
use frames::{arp, framed, packet4, ping, sums, tcp4, who_has, OWN, PEER, PEER4};

const ADDRESS: Ipv4Address = Ipv4Address::new(10, 0, 0, 7);

/// The address, and a clock.
struct Bench {
    own: Own,
    now: u64,
}

impl Bench {
    /// One that nobody has been asked about yet.
    fn new(target: Option<&str>) -> Self {
        let place = Place {
            address: StatusAddress::new(ADDRESS, 24).unwrap(),
            card: 0,
            routes: Vec::new(),
        };
        let target = target.map(|target| LogTarget::parse(target).unwrap());
        let mut own = Own::new(&place, OWN.0, target, 5);
        own.state = State {
            failover: 1,
            cause: Cause::Panic,
            failed: Word::new("6.1.0-56-amd64"),
            stopped_at: Some(0),
            ..State::default()
        };
        own.state.steps[Event::Stopped as usize] = Some(0);
        Self { own, now: 0 }
    }

    fn started(target: Option<&str>) -> Self {
        let mut bench = Self::new(target);
        assert_eq!(bench.sent().len(), 1);
        bench.now += PROBE;
        bench
    }

    fn ask(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0; FRAME];
        let takes = self.own.takes(frame, self.now);
        let length = takes.then(|| self.own.answer(frame, self.now, &mut out)).flatten();
        length.map(|length| out[..length].to_vec())
    }

    /// What is sent without being asked.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        let mut out = [0; FRAME];
        let next = || self.own.next(self.now, &mut out).map(|length| out[..length].to_vec());
        let sent: Vec<_> = std::iter::from_fn(next).take(1000).collect();
        assert!(sent.len() < 1000, "it does not end");
        sent
    }
}

fn arp_in(frame: &[u8]) -> Option<ArpRepr> {
    let frame = EthernetFrame::new_checked(frame).unwrap();
    let packet = ArpPacket::new_checked(frame.payload()).ok()?;
    (frame.ethertype() == EthernetProtocol::Arp).then(|| ArpRepr::parse(&packet).unwrap())
}

/// That somebody has an address.
fn is_at(hardware: EthernetAddress, address: Ipv4Address) -> ArpRepr {
    ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: hardware,
        source_protocol_addr: address,
        target_hardware_addr: OWN,
        target_protocol_addr: ADDRESS,
    }
}

#[test]
fn the_wire_is_asked_before_the_address_is_used() {
    let mut bench = Bench::new(Some("10.0.0.9"));
    assert_eq!(bench.ask(&arp(who_has(ADDRESS))), None);
    let sent = bench.sent();
    let expected = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: OWN,
        source_protocol_addr: Ipv4Address::UNSPECIFIED,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: ADDRESS,
    };
    assert_eq!(
        sent.iter().map(|frame| arp_in(frame)).collect::<Vec<_>>(),
        [Some(expected)]
    );
    bench.now += PROBE - 1;
    assert_eq!((bench.ask(&arp(who_has(ADDRESS))), bench.sent().len()), (None, 0));
    bench.now += 1;
    let told = arp_in(&bench.ask(&arp(who_has(ADDRESS))).expect("an answer"));
    let expected = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: OWN,
        source_protocol_addr: ADDRESS,
        target_hardware_addr: PEER,
        target_protocol_addr: PEER4,
    };
    assert_eq!(told, Some(expected));
    assert_eq!(bench.ask(&arp(who_has(Ipv4Address::new(10, 0, 0, 1)))), None);
}

#[test]
fn whoever_has_the_address_keeps_it() {
    let other = EthernetAddress([2, 0, 0, 0, 0, 33]);
    for at_once in [true, false] {
        let mut bench = Bench::new(Some("10.0.0.9"));
        bench.sent();
        bench.now += if at_once { 1 } else { PROBE };
        // To whoever asked in nobody's name, and to all.
        let mut claim = arp(is_at(other, ADDRESS));
        claim[6..12].copy_from_slice(other.as_bytes());
        assert_eq!(bench.ask(&claim), None);
        bench.now += PROBE;
        assert!(bench.own.is_taken());
        assert_eq!((bench.ask(&arp(who_has(ADDRESS))), bench.sent().len()), (None, 0));
        assert_eq!(bench.ask(&ping(ADDRESS, b"x")), None);
    }
    // A frame of its own that comes back says nothing new.
    let mut bench = Bench::started(None);
    let mut claim = arp(is_at(OWN, ADDRESS));
    claim[6..12].copy_from_slice(OWN.as_bytes());
    bench.ask(&claim);
    assert!(!bench.own.is_taken());
}

#[test]
fn pings_are_answered_and_nothing_else_that_is_no_page() {
    let mut bench = Bench::started(None);
    assert!(bench.ask(&arp(who_has(ADDRESS))).is_some());
    let told = bench.ask(&ping(ADDRESS, b"are you there")).expect("an answer");
    let frame = EthernetFrame::new_checked(&told[..]).unwrap();
    assert_eq!((frame.dst_addr(), frame.src_addr()), (PEER, OWN));
    let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
    let ip = Ipv4Repr::parse(&packet, &sums()).unwrap();
    assert_eq!((ip.src_addr, ip.dst_addr), (ADDRESS, PEER4));
    let icmp = Icmpv4Packet::new_checked(packet.payload()).unwrap();
    let expected = Icmpv4Repr::EchoReply {
        ident: 3,
        seq_no: 4,
        data: b"are you there",
    };
    assert_eq!(Icmpv4Repr::parse(&icmp, &sums()), Ok(expected));

    let mut to_all = ping(ADDRESS, b"x");
    to_all[..6].fill(0xFF);
    let mut part = ping(ADDRESS, b"x");
    let mut packet = Ipv4Packet::new_unchecked(&mut part[14..]);
    packet.set_more_frags(true);
    packet.fill_checksum();
    let mut other_port = syn(4000);
    other_port.dst_port = PORT + 1;
    for (what, frame) in [
        ("of another", ping(Ipv4Address::new(10, 0, 0, 1), b"x")),
        ("to all", to_all),
        ("a part", part),
        ("UDP", packet4(ADDRESS, IpProtocol::Udp, &[0; 8])),
        ("a protocol", packet4(ADDRESS, IpProtocol::Igmp, &[0; 8])),
        ("another port", tcp4(ADDRESS, &other_port)),
        ("IPv6", framed(OWN, EthernetProtocol::Ipv6, &[0x60; 60])),
    ] {
        assert_eq!((bench.ask(&frame), bench.sent().len()), (None, 0), "{what}");
    }
}

fn syn(from: u16) -> TcpRepr<'static> {
    TcpRepr {
        src_port: from,
        dst_port: PORT,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(100),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// The peer's card: frames that have come, and frames to send.
#[derive(Default)]
struct Card {
    come: VecDeque<Vec<u8>>,
    go: Vec<Vec<u8>>,
}

struct Coming(Vec<u8>);
struct Going<'a>(&'a mut Vec<Vec<u8>>);

impl smoltcp::phy::RxToken for Coming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, with: F) -> R {
        with(&self.0)
    }
}

impl smoltcp::phy::TxToken for Going<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, with: F) -> R {
        let mut frame = vec![0; length];
        let result = with(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Card {
    type RxToken<'t> = Coming;
    type TxToken<'t> = Going<'t>;

    fn receive(&mut self, _: Instant) -> Option<(Coming, Going<'_>)> {
        let frame = self.come.pop_front()?;
        Some((Coming(frame), Going(&mut self.go)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Going<'_>> {
        Some(Going(&mut self.go))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

/// A peer with connections.
struct Peer {
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    port: u16,
}

impl Peer {
    fn new() -> Self {
        let mut card = Card::default();
        let mut interface = Interface::new(Config::new(PEER.into()), &mut card, Instant::ZERO);
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(PEER4.into(), 24)).unwrap());
        Self {
            card,
            interface,
            sockets: SocketSet::new(Vec::new()),
            port: 40_000,
        }
    }

    /// Begins a connection.
    fn connect(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 8192]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        self.port += 1;
        let to = (IpAddress::from(ADDRESS), PORT);
        socket.connect(self.interface.context(), to, self.port).unwrap();
        self.sockets.add(socket)
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Lets both sides speak for so many milliseconds.
    fn speak(&mut self, bench: &mut Bench, ms: u64) {
        for _ in 0..ms {
            self.interface.poll(
                Instant::from_millis(bench.now as i64),
                &mut self.card,
                &mut self.sockets,
            );
            for frame in std::mem::take(&mut self.card.go) {
                self.card.come.extend(bench.ask(&frame));
            }
            self.card.come.extend(bench.sent());
            bench.now += 1;
        }
    }

    /// Sends a request over a connection of its own, and returns what comes until it ends.
    fn ask(&mut self, bench: &mut Bench, request: &str) -> String {
        let handle = self.connect();
        self.speak(bench, 20);
        self.socket(handle).send_slice(request.as_bytes()).unwrap();
        let answer = self.read(bench, handle);
        self.sockets.remove(handle);
        answer
    }

    fn read(&mut self, bench: &mut Bench, handle: SocketHandle) -> String {
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        for _ in 0..1000 {
            self.speak(bench, 1);
            let socket = self.socket(handle);
            while let Ok(length @ 1..) = socket.recv_slice(&mut piece) {
                answer.extend_from_slice(&piece[..length]);
            }
            if !socket.may_recv() {
                socket.close();
                self.speak(bench, 20);
                return String::from_utf8(answer).unwrap();
            }
        }
        panic!("the connection does not end")
    }
}

#[test]
fn the_page_is_served_again_and_again() {
    let (mut bench, mut peer) = (Bench::started(None), Peer::new());
    for _ in 0..3 * CONNECTIONS {
        let page = peer.ask(&mut bench, "GET / HTTP/1.0\r\n\r\n");
        let (head, body) = page.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
        assert!(
            body.contains("failed: 6.1.0-56-amd64") && body.contains("cause: panic"),
            "{body}"
        );
    }
    let json = peer.ask(&mut bench, "GET /status.json HTTP/1.0\r\n\r\n");
    assert!(json.contains("\"cause\":\"panic\""), "{json}");
    let head = peer.ask(&mut bench, "HEAD / HTTP/1.0\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.0 200 OK") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let refused = peer.ask(&mut bench, "POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc");
    assert!(refused.starts_with("HTTP/1.0 405 "), "{refused}");
    let long = peer.ask(&mut bench, &"x".repeat(3000));
    assert!(long.starts_with("HTTP/1.0 431 "), "{long}");
    assert_eq!(bench.own.pages, 3 * CONNECTIONS as u64 + 4);
    // All that in less time than a connection may take.
    assert!(bench.now < DEADLINE);
}

#[test]
fn a_request_may_come_in_pieces_and_must_have_an_end() {
    let (mut bench, mut peer) = (Bench::started(None), Peer::new());
    let handle = peer.connect();
    peer.speak(&mut bench, 20);
    for piece in ["GET /", " HTTP/1.0\r", "\n\r\n"] {
        peer.socket(handle).send_slice(piece.as_bytes()).unwrap();
        peer.speak(&mut bench, 100);
    }
    assert!(peer.read(&mut bench, handle).starts_with("HTTP/1.0 200 OK"));
    // One that goes before it has asked.
    let handle = peer.connect();
    peer.speak(&mut bench, 20);
    peer.socket(handle).send_slice(b"GET / HT").unwrap();
    peer.socket(handle).close();
    assert!(peer.read(&mut bench, handle).starts_with("HTTP/1.0 400 "));
}

#[test]
fn connections_that_take_too_long_make_room() {
    let (mut bench, mut peer) = (Bench::started(None), Peer::new());
    let slow: Vec<_> = (0..CONNECTIONS).map(|_| peer.connect()).collect();
    peer.speak(&mut bench, 20);
    for &handle in &slow {
        assert_eq!(peer.socket(handle).state(), tcp::State::Established);
        peer.socket(handle).send_slice(b"GET /").unwrap();
    }
    // One more is not refused, but waits.
    let last = peer.connect();
    peer.speak(&mut bench, 100);
    assert_eq!(peer.socket(last).state(), tcp::State::SynSent);
    peer.speak(&mut bench, DEADLINE);
    while peer.socket(last).state() == tcp::State::SynSent {
        assert!(bench.now < 4 * DEADLINE);
        peer.speak(&mut bench, 10);
    }
    peer.socket(last).send_slice(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(peer.read(&mut bench, last).starts_with("HTTP/1.0 200 OK"));
    // The slow ones learn that nobody listens to them any more.
    for &handle in &slow {
        let _ = peer.socket(handle).send_slice(b" HTTP/1.0\r\n\r\n");
    }
    peer.speak(&mut bench, 2000);
    for &handle in &slow {
        assert_eq!(peer.socket(handle).state(), tcp::State::Closed);
    }
}

#[test]
fn a_flood_of_beginnings_is_outlived() {
    let mut bench = Bench::started(None);
    bench.ask(&arp(who_has(ADDRESS)));
    bench.sent();
    let mut said = 0;
    for port in 1000..3000 {
        said += usize::from(bench.ask(&tcp4(ADDRESS, &syn(port))).is_some()) + bench.sent().len();
    }
    assert_eq!(said, CONNECTIONS, "an answer for each that has room");
    // Everything is as it was when their time is over.
    bench.now += DEADLINE + 1;
    bench.sent();
    let mut peer = Peer::new();
    let page = peer.ask(&mut bench, "GET / HTTP/1.0\r\n\r\n");
    assert!(page.starts_with("HTTP/1.0 200 OK"), "{page}");
}

/// The datagram in a frame to the peer.
fn message_in(frame: &[u8]) -> Option<String> {
    let frame = EthernetFrame::new_checked(frame).unwrap();
    let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
    let ip = Ipv4Repr::parse(&packet, &sums()).ok()?;
    assert_eq!((frame.dst_addr(), ip.src_addr, ip.dst_addr), (PEER, ADDRESS, PEER4));
    let udp = UdpPacket::new_checked(packet.payload()).unwrap();
    let ends = (ip.src_addr.into(), ip.dst_addr.into());
    let head = UdpRepr::parse(&udp, &ends.0, &ends.1, &sums()).unwrap();
    assert_eq!((head.src_port, head.dst_port), (514, 5514));
    Some(String::from_utf8(udp.payload().to_vec()).unwrap())
}

#[test]
fn messages_wait_for_the_hardware_address_of_who_gets_them() {
    let mut bench = Bench::started(Some("10.0.0.9:5514"));
    let sent = bench.sent();
    let [ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_protocol_addr: ADDRESS,
        target_protocol_addr: PEER4,
        ..
    }] = sent.iter().filter_map(|frame| arp_in(frame)).collect::<Vec<_>>()[..]
    else {
        panic!("nobody is asked for: {sent:?}")
    };
    assert_eq!((sent.len(), bench.sent().len()), (1, 0));
    bench.own.state.steps[Event::Quiesced as usize] = Some(7);
    assert_eq!(bench.ask(&arp(is_at(PEER, PEER4))), None);
    let said: Vec<_> = bench.sent().iter().filter_map(|frame| message_in(frame)).collect();
    assert_eq!(
        said,
        [
            "<29>1 1970-01-01T00:00:00.250Z 10.0.0.7 orthros - - - failover 1: the kernel 6.1.0-56-amd64 failed: panic",
            "<30>1 1970-01-01T00:00:00.000Z 10.0.0.7 orthros - - - failover 1: step stopped, 0 ms after the stop",
            "<30>1 1970-01-01T00:00:00.007Z 10.0.0.7 orthros - - - failover 1: step quiesced, 7 ms after the stop",
        ]
    );
    assert_eq!(bench.own.state.messages.unwrap().sent, 3);
    assert!(bench.sent().is_empty());
}

#[test]
fn messages_that_have_no_room_are_dropped_and_counted() {
    let mut bench = Bench::started(Some("10.0.0.9:5514"));
    for round in 0..3 * MOST {
        // The same step again and again, as of successors that fail.
        bench.own.state.steps[Event::Jumped as usize] = (round % 2 == 0).then_some(round as i64);
        bench.now += 1;
        // Nothing but questions for the target, one a second.
        assert!(bench.sent().iter().all(|frame| arp_in(frame).is_some()));
    }
    let messages = bench.own.state.messages.unwrap();
    assert!(messages.dropped > 0, "{messages:?}");
    bench.ask(&arp(is_at(PEER, PEER4)));
    let said: Vec<_> = bench.sent().iter().filter_map(|frame| message_in(frame)).collect();
    let counted = format!("{} messages were dropped so far", messages.dropped);
    assert!(said.iter().any(|text| text.ends_with(&counted)), "{said:?}");
    assert!(said.len() <= MOST + 8, "{}", said.len());
}

/// Whatever comes: what is said comes from this address, and is a frame.
fn check(bench: &mut Bench, frame: &[u8]) {
    let mut told: Vec<_> = bench.ask(frame).into_iter().collect();
    told.extend(bench.sent());
    assert!(told.len() <= 16);
    for told in told {
        assert!(told.len() <= FRAME);
        let frame = EthernetFrame::new_checked(&told[..]).unwrap();
        assert_eq!(frame.src_addr(), OWN);
        match frame.ethertype() {
            EthernetProtocol::Arp => {}
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
                assert_eq!(packet.src_addr(), ADDRESS);
            }
            other => panic!("{other}"),
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let request = TcpRepr {
        control: TcpControl::Psh,
        ack_number: Some(TcpSeqNumber(1)),
        payload: b"GET / HTTP/1.0\r\n\r\n",
        ..syn(4000)
    };
    vec![
        arp(who_has(ADDRESS)),
        arp(is_at(PEER, PEER4)),
        ping(ADDRESS, &[7; 40]),
        tcp4(ADDRESS, &syn(4000)),
        tcp4(ADDRESS, &request),
    ]
}

proptest! {
    #[test]
    fn any_frames_are_survived(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..FRAME), 1..8)) {
        let mut bench = Bench::started(Some("10.0.0.9:5514"));
        for frame in &frames {
            check(&mut bench, frame);
        }
    }

    #[test]
    fn any_changes_to_good_ones_are_survived(
        all in proptest::collection::vec(
            (0usize..5, 0usize..120, proptest::collection::vec((0usize..120, any::<u8>()), 0..4), 0u64..2000),
            1..20,
        ),
    ) {
        let mut bench = Bench::started(Some("10.0.0.9:5514"));
        for (seed, cut, changes, later) in all {
            let mut frame = seeds().swap_remove(seed);
            let changed = !changes.is_empty();
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            if changed {
                frame.truncate(cut.max(1));
            }
            bench.now += later;
            check(&mut bench, &frame);
        }
    }
}
