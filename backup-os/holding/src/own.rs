//! An address of this program's own, which no kernel has: ARP, pings, the page, and messages to whoever keeps the log.
//!
//! It is asked for on the wire first (RFC 5227), and given up when anybody else says that it is his. TCP and UDP are
//! smoltcp's; it sees only what is for this address and this page, so that it has nothing to refuse. What is sent is made
//! one frame at a time, when there is room for it: all waiting is done in buffers of fixed sizes, and a connection that takes
//! too long makes room for the next.

use crate::answer::{self, Answer};
use crate::news::News;
use crate::page;
use crate::state::State;
use crate::syslog::{self, Queue};
use crate::FRAME;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;
use shared_region::context::{Network, NetworkRoute};
use shared_region::record::{Kind, Stream};
use shared_region::status_page::{LogTarget, StatusAddress};
use smoltcp::iface::{Config, Interface, Route, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{self, State as TcpState};
use smoltcp::socket::udp;
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet,
    IpAddress, IpCidr, IpEndpoint, IpProtocol, Ipv4Address, Ipv4Cidr, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket,
    TcpRepr,
};

/// The page's port.
pub const PORT: u16 = 80;
/// Connections at a time.
pub const CONNECTIONS: usize = 4;
/// How long one may take, in milliseconds.
pub const DEADLINE: u64 = 5_000;
/// How long somebody who has the address may take to say so, in milliseconds.
pub const PROBE: u64 = 250;
/// Where messages come from (RFC 5426, 3.3), and how many wait for the hardware address of who gets them.
const LOG_PORT: u16 = 514;
const DATAGRAMS: usize = 4;
/// `RTN_UNICAST` (include/uapi/linux/rtnetlink.h).
const UNICAST: u8 = 1;

/// Where the address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub address: StatusAddress,
    /// Which of the cards.
    pub card: usize,
    /// Routes to what is not in its network, one to everybody and one to the target, if there are.
    pub routes: Vec<(Ipv4Cidr, Ipv4Address)>,
}

/// Why the address is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silent {
    /// What addresses the machine has is not known.
    Unknown,
    /// The machine has the address itself.
    TheMachines,
    /// No card is held that had a link.
    NoCard,
}

impl Silent {
    /// In words, behind the address.
    pub fn text(self) -> &'static str {
        match self {
            Self::Unknown => "is silent: it is not known whether the machine has it itself",
            Self::TheMachines => "is silent: the machine has it itself",
            Self::NoCard => "is silent: no card is held that had a link",
        }
    }
}

impl Place {
    /// Finds a place by what the records know of the network: the card in whose network the address is, else the first that
    /// was in use.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(
        stream: &Stream<'_>,
        address: StatusAddress,
        target: Option<LogTarget>,
        cards: &[[u8; 6]],
    ) -> Result<Self, Silent> {
        let mut records = stream.records().map_while(Result::ok);
        let network = records.find(|record| record.kind == Kind::Network);
        let network = network.and_then(|record| record.decode::<Network>().ok());
        Self::within(&network.ok_or(Silent::Unknown)?, address, target, cards)
    }

    fn within(
        network: &Network,
        address: StatusAddress,
        target: Option<LogTarget>,
        cards: &[[u8; 6]],
    ) -> Result<Self, Silent> {
        let own = address.address.octets();
        if network.addresses.iter().any(|known| ends_in(&known.local, own)) {
            return Err(Silent::TheMachines);
        }
        let link = |card: &[u8; 6]| network.links.iter().find(|link| link.hardware == *card);
        let linked = || {
            cards
                .iter()
                .enumerate()
                .filter_map(|(at, card)| Some((at, link(card)?.index)))
        };
        let is_near = |&(_, link): &(usize, u32)| {
            let mut addresses = network.addresses.iter().filter(|known| known.link == link);
            addresses.any(|known| <[u8; 4]>::try_from(&*known.local).is_ok_and(|four| address.is_near(four.into())))
        };
        let (card, link) = linked()
            .find(is_near)
            .or_else(|| linked().next())
            .ok_or(Silent::NoCard)?;
        let gateway = |to: Ipv4Address| gateway(&network.routes, link, to).filter(|via| address.is_near(*via));
        let mut routes: Vec<_> = gateway(Ipv4Address::UNSPECIFIED)
            .map(|via| (Ipv4Cidr::new(Ipv4Address::UNSPECIFIED, 0), via))
            .into_iter()
            .collect();
        if let Some(target) = target.filter(|target| !address.is_near(target.address)) {
            let via = gateway(target.address);
            routes.extend(via.map(|via| (Ipv4Cidr::new(target.address, 32), via)));
        }
        Ok(Self { address, card, routes })
    }

    /// Whether there is a way to an address.
    pub fn reaches(&self, to: Ipv4Address) -> bool {
        self.address.is_near(to) || self.routes.iter().any(|(network, _)| network.contains_addr(&to))
    }
}

/// Whether an address of IPv4 or IPv6 is this one of IPv4.
fn ends_in(bytes: &[u8], own: [u8; 4]) -> bool {
    bytes == own || bytes.strip_prefix(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]) == Some(&own[..])
}

/// The neighbour on the way to an address, by the narrowest route of a link; to 0.0.0.0: on the way to everybody.
fn gateway(routes: &[NetworkRoute], link: u32, to: Ipv4Address) -> Option<Ipv4Address> {
    let leads = |route: &&NetworkRoute| {
        let network = (route.prefix <= 32).then(|| Ipv4Cidr::new(route.destination.into(), route.prefix));
        route.link == link && route.kind == UNICAST && network.is_some_and(|network| network.contains_addr(&to))
    };
    let leading = routes.iter().filter(leads);
    let narrowest = leading.max_by_key(|route| (route.prefix, Reverse(route.priority)))?;
    narrowest.gateway.map(Into::into)
}

/// A connection to the page.
struct Visitor {
    handle: SocketHandle,
    /// When it came, in milliseconds.
    since: Option<u64>,
    answered: bool,
}

/// The log on its way to its target.
struct Log {
    handle: SocketHandle,
    target: LogTarget,
    queue: Queue,
    news: News,
}

/// The address, on its card. Times are milliseconds since the stop of the dead kernel.
pub struct Own {
    hardware: EthernetAddress,
    address: Ipv4Address,
    interface: Interface,
    sockets: SocketSet<'static>,
    visitors: [Visitor; CONNECTIONS],
    log: Option<Log>,
    /// When it was asked whether anybody has the address.
    probed: Option<u64>,
    /// Somebody has.
    taken: bool,
    /// What is shown; its time and its messages are kept here.
    pub state: State,
    /// Pages that were shown, refusals among them.
    pub pages: u64,
}

impl Own {
    /// A place on a card that is driven. `seed` is a number that nobody guesses.
    pub fn new(place: &Place, hardware: [u8; 6], target: Option<LogTarget>, seed: u64) -> Self {
        let hardware = EthernetAddress(hardware);
        let address = place.address.address;
        let mut config = Config::new(hardware.into());
        config.random_seed = seed;
        let mut nothing = [0; FRAME];
        let mut interface = Interface::new(config, &mut Wire::new(None, &mut nothing), Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // The first of them has room.
            let _ = addresses.push(IpCidr::new(address.into(), place.address.prefix));
        });
        interface.routes_mut().update(|routes| {
            for &(network, via) in &place.routes {
                // Two have room.
                let _ = routes.push(Route {
                    cidr: network.into(),
                    via_router: via.into(),
                    preferred_until: None,
                    expires_at: None,
                });
            }
        });
        let mut sockets = SocketSet::new(Vec::new());
        let visitors = core::array::from_fn(|_| Visitor {
            handle: sockets.add(tcp::Socket::new(
                tcp::SocketBuffer::new(vec![0; page::REQUEST]),
                tcp::SocketBuffer::new(vec![0; page::ANSWER]),
            )),
            since: None,
            answered: false,
        });
        let log = target.map(|target| Log {
            handle: sockets.add(udp_socket()),
            target,
            queue: Queue::new(address),
            news: News::default(),
        });
        Self {
            hardware,
            address,
            interface,
            sockets,
            visitors,
            log,
            probed: None,
            taken: false,
            state: State::default(),
            pages: 0,
        }
    }

    /// The address.
    pub fn address(&self) -> Ipv4Address {
        self.address
    }

    /// Whether somebody else has the address, so that this program does not answer for it.
    pub fn is_taken(&self) -> bool {
        self.taken
    }

    /// Whether a frame is for the address, and is to be answered now.
    pub fn takes(&mut self, frame: &[u8], now: u64) -> bool {
        let asked = self.probed.is_some_and(|at| now.saturating_sub(at) >= PROBE);
        self.concerns(frame).is_some_and(|concerns| concerns) && asked && !self.taken
    }

    fn concerns(&mut self, frame: &[u8]) -> Option<bool> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        let (from, to) = (frame.src_addr(), frame.dst_addr());
        if !from.is_unicast() || from == self.hardware || (to.is_unicast() && to != self.hardware) {
            return None;
        }
        match frame.ethertype() {
            EthernetProtocol::Arp => self.concerns_arp(frame.payload()),
            EthernetProtocol::Ipv4 if to == self.hardware => self.concerns_ipv4(frame.payload()),
            _ => None,
        }
    }

    fn concerns_arp(&mut self, packet: &[u8]) -> Option<bool> {
        let ArpRepr::EthernetIpv4 {
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = ArpRepr::parse(&ArpPacket::new_checked(packet).ok()?).ok()?
        else {
            return None;
        };
        if source_protocol_addr == self.address && source_hardware_addr != self.hardware {
            self.taken = true;
        }
        Some(target_protocol_addr == self.address)
    }

    fn concerns_ipv4(&self, packet: &[u8]) -> Option<bool> {
        let sums = ChecksumCapabilities::default();
        let packet = Ipv4Packet::new_checked(packet).ok()?;
        let ip = Ipv4Repr::parse(&packet, &sums).ok()?;
        let is_part = packet.more_frags() || packet.frag_offset() != 0;
        if is_part || ip.dst_addr != self.address || ip.src_addr == self.address || !answer::is_somebody4(ip.src_addr) {
            return None;
        }
        match ip.next_header {
            IpProtocol::Icmp => {
                let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
                Some(icmp.msg_type() == Icmpv4Message::EchoRequest)
            }
            IpProtocol::Tcp => {
                let tcp = TcpPacket::new_checked(packet.payload()).ok()?;
                let ends = (IpAddress::Ipv4(ip.src_addr), IpAddress::Ipv4(ip.dst_addr));
                let tcp = TcpRepr::parse(&tcp, &ends.0, &ends.1, &sums).ok()?;
                let peer = IpEndpoint::new(ends.0, tcp.src_port);
                // Whoever finds no room asks again later; a refusal would tell him not to.
                let has_room = tcp.control != TcpControl::Syn || self.has_room_for(peer);
                Some(tcp.dst_port == PORT && has_room)
            }
            _ => None,
        }
    }

    fn has_room_for(&self, peer: IpEndpoint) -> bool {
        self.visitors.iter().any(|visitor| {
            let socket = self.sockets.get::<tcp::Socket<'_>>(visitor.handle);
            socket.is_listening() || socket.remote_endpoint() == Some(peer)
        })
    }

    /// Takes a frame that is for the address: writes the answer to `out` and returns its length, if there is one at once.
    pub fn answer(&mut self, frame: &[u8], now: u64, out: &mut [u8; FRAME]) -> Option<usize> {
        let mut wire = Wire::new(Some(frame), out);
        self.interface
            .poll_ingress_single(instant(now), &mut wire, &mut self.sockets);
        wire.length
    }

    /// Writes a frame that is to be sent to `out` and returns its length. To be called until there is none, as long as there
    /// is room on the wire.
    pub fn next(&mut self, now: u64, out: &mut [u8; FRAME]) -> Option<usize> {
        self.state.now = now;
        if self.taken {
            return None;
        }
        let Some(probed) = self.probed else {
            self.probed = Some(now);
            return self.probe(out);
        };
        if now.saturating_sub(probed) < PROBE {
            return None;
        }
        self.send_messages();
        self.show_pages(now);
        let mut wire = Wire::new(None, out);
        self.interface.poll_egress(instant(now), &mut wire, &mut self.sockets);
        wire.length
    }

    /// Asks whether somebody has the address, in nobody's name (RFC 5227, 2.1.1).
    fn probe(&self, out: &mut [u8; FRAME]) -> Option<usize> {
        let question = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: self.hardware,
            source_protocol_addr: Ipv4Address::UNSPECIFIED,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: self.address,
        };
        answer::write(self.hardware, EthernetAddress::BROADCAST, &Answer::Arp(question), out)
    }

    fn send_messages(&mut self) {
        let Some(Log {
            handle,
            target,
            queue,
            news,
        }) = &mut self.log
        else {
            return;
        };
        news.tell(&self.state, queue);
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(*handle);
        let to = IpEndpoint::new(target.address.into(), target.port);
        while let Some(message) = queue.next() {
            if socket.send_slice(message.as_bytes(), to).is_err() {
                break;
            }
            queue.sent();
        }
        self.state.messages = Some(queue.messages);
    }

    fn show_pages(&mut self, now: u64) {
        for visitor in &mut self.visitors {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(visitor.handle);
            if socket.is_listening() {
                continue;
            }
            let since = *visitor.since.get_or_insert(now);
            let late = now.saturating_sub(since) > DEADLINE;
            // Who waits for the last segments of a connection that has ended keeps others away. A peer that is still there
            // learns by its next segment that nobody is.
            if late || matches!(socket.state(), TcpState::Closed | TcpState::TimeWait) {
                socket.abort();
                // The port is not 0 and the socket closed.
                let _ = socket.listen(PORT);
                (visitor.since, visitor.answered) = (None, false);
                continue;
            }
            let opened = !matches!(socket.state(), TcpState::SynReceived);
            if visitor.answered || !opened {
                continue;
            }
            let over = !matches!(socket.state(), TcpState::Established);
            let request = socket.peek(page::REQUEST).unwrap_or_default();
            if let Some(answer) = page::answer(request, over, &self.state) {
                // It fits (a test of the page); one that did not would be cut.
                let _ = socket.send_slice(&answer);
                socket.close();
                visitor.answered = true;
                self.pages = self.pages.saturating_add(1);
            }
        }
    }
}

fn udp_socket() -> udp::Socket<'static> {
    let buffer = |count: usize| {
        let bytes = vec![0; count.saturating_mul(syslog::LENGTH)];
        udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; count], bytes)
    };
    let mut socket = udp::Socket::new(buffer(0), buffer(DATAGRAMS));
    // The port is not 0 and the socket new.
    let _ = socket.bind(LOG_PORT);
    socket
}

fn instant(ms: u64) -> Instant {
    Instant::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// The card as smoltcp sees it: at most one frame that has come, and room for one.
struct Wire<'a> {
    frame: Option<&'a [u8]>,
    out: &'a mut [u8; FRAME],
    length: Option<usize>,
}

impl<'a> Wire<'a> {
    fn new(frame: Option<&'a [u8]>, out: &'a mut [u8; FRAME]) -> Self {
        let length = None;
        Self { frame, out, length }
    }
}

struct Coming<'a>(&'a [u8]);

struct Going<'a> {
    out: &'a mut [u8; FRAME],
    length: &'a mut Option<usize>,
}

impl RxToken for Coming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, with: F) -> R {
        with(self.0)
    }
}

impl TxToken for Going<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, with: F) -> R {
        match self.out.get_mut(..length) {
            Some(out) => {
                *self.length = Some(length);
                with(out)
            }
            // Longer than a frame: it is not sent.
            None => with(&mut vec![0; length]),
        }
    }
}

impl Device for Wire<'_> {
    type RxToken<'t>
        = Coming<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Going<'t>
    where
        Self: 't;

    fn receive(&mut self, now: Instant) -> Option<(Coming<'_>, Going<'_>)> {
        let frame = self.frame.take()?;
        Some((Coming(frame), self.transmit(now)?))
    }

    fn transmit(&mut self, _: Instant) -> Option<Going<'_>> {
        self.length.is_none().then_some(Going {
            out: self.out,
            length: &mut self.length,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_region::context::{NetworkAddress, NetworkLink};

    const FIRST: [u8; 6] = [2, 0, 0, 0, 0, 7];
    const SECOND: [u8; 6] = [2, 0, 0, 0, 0, 8];

    fn network() -> Network {
        let link = |index, hardware: [u8; 6]| NetworkLink {
            index,
            hardware: hardware.to_vec(),
            ..NetworkLink::default()
        };
        let local = |link, local: &[u8]| NetworkAddress {
            link,
            local: local.to_vec(),
            ..NetworkAddress::default()
        };
        let route = |destination, prefix, gateway: [u8; 4], priority| NetworkRoute {
            destination,
            prefix,
            gateway: Some(gateway),
            link: 3,
            priority,
            kind: UNICAST,
            ..NetworkRoute::default()
        };
        let mut mapped = vec![0; 16];
        mapped[10..].copy_from_slice(&[0xFF, 0xFF, 10, 1, 0, 7]);
        Network {
            links: vec![link(2, FIRST), link(3, SECOND)],
            addresses: vec![local(2, &[10, 0, 0, 2]), local(3, &[10, 1, 0, 2]), local(3, &mapped)],
            routes: vec![
                route([0; 4], 0, [10, 1, 0, 254], 100),
                route([0; 4], 0, [10, 1, 0, 1], 5),
                route([10, 9, 0, 0], 16, [10, 1, 0, 9], 0),
                route([10, 9, 9, 0], 24, [10, 2, 0, 9], 0),
            ],
            left_out: Vec::new(),
        }
    }

    fn find(address: &str, target: Option<&str>, cards: &[[u8; 6]]) -> Result<Place, Silent> {
        let target = target.map(|target| LogTarget::parse(target).unwrap());
        Place::within(&network(), StatusAddress::parse(address).unwrap(), target, cards)
    }

    #[test]
    fn an_address_of_the_machine_is_never_answered_for() {
        for address in ["10.0.0.2/24", "10.1.0.2/8", "10.1.0.7/24"] {
            assert_eq!(find(address, None, &[FIRST, SECOND]), Err(Silent::TheMachines));
        }
        let mut area = vec![0; 4096];
        let writer = shared_region::record::Writer::new(&mut area, 1).unwrap();
        writer.finish();
        let stream = Stream::open(&area).unwrap();
        let address = StatusAddress::parse("10.0.0.3/24").unwrap();
        assert_eq!(Place::find(&stream, address, None, &[FIRST]), Err(Silent::Unknown));
    }

    #[test]
    fn the_place_is_on_the_card_of_its_network() {
        let card = |address, cards: &[[u8; 6]]| find(address, None, cards).map(|place| place.card);
        assert_eq!(card("10.1.0.3/24", &[FIRST, SECOND]), Ok(1));
        assert_eq!(card("10.0.0.3/24", &[FIRST, SECOND]), Ok(0));
        assert_eq!(
            card("192.168.0.3/24", &[[1; 6], SECOND, FIRST]),
            Ok(1),
            "the first with a link"
        );
        assert_eq!(card("10.0.0.3/24", &[[1; 6]]), Err(Silent::NoCard));
    }

    #[test]
    fn who_is_not_near_is_reached_by_the_machines_routes() {
        let everybody = (
            Ipv4Cidr::new(Ipv4Address::UNSPECIFIED, 0),
            Ipv4Address::new(10, 1, 0, 1),
        );
        let near = find("10.1.0.3/24", Some("10.1.0.2:514"), &[SECOND]).unwrap();
        assert_eq!(near.routes, [everybody]);
        assert!(near.reaches(Ipv4Address::new(192, 0, 2, 1)));
        let far = find("10.1.0.3/24", Some("10.9.1.1"), &[SECOND]).unwrap();
        let to_target = Ipv4Cidr::new(Ipv4Address::new(10, 9, 1, 1), 32);
        assert_eq!(far.routes, [everybody, (to_target, Ipv4Address::new(10, 1, 0, 9))]);
        // A neighbour who is not on this wire is none.
        let none = find("10.1.0.3/24", Some("10.9.9.1"), &[SECOND]).unwrap();
        assert_eq!(none.routes, [everybody]);
        let other = find("10.0.0.3/24", Some("10.9.9.1"), &[FIRST]).unwrap();
        assert!(other.routes.is_empty() && !other.reaches(Ipv4Address::new(10, 9, 9, 1)));
    }
}
