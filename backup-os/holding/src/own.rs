//! An address of this program's own, which no kernel has: ARP, pings, the page, and messages to whoever keeps the log.
//!
//! It is asked for on the wire first (RFC 5227), and given up when anybody else says that it is his. TCP and UDP are
//! smoltcp's; it sees only what is for this address and this page, so that it has nothing to refuse. What is sent is made
//! one frame at a time, when there is room for it: all waiting is done in buffers of fixed sizes, and a connection that takes
//! too long makes room for the next.

use crate::answer::{self, Answer};
use crate::news::News;
use crate::page;
use crate::place::Place;
use crate::state::State;
use crate::syslog::{self, Queue};
use crate::FRAME;
use alloc::vec;
use alloc::vec::Vec;
use shared_region::status_page::LogTarget;
use smoltcp::iface::{Config, Interface, Route, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{self, State as TcpState};
use smoltcp::socket::udp;
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet,
    IpAddress, IpCidr, IpEndpoint, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr,
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
