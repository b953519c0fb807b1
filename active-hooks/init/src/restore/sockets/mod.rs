//! Sockets and their connections, made in the agent as all open files are.
//!
//! Sockets that listen come first: a connection is bound to the address of the one it was accepted from, which would then
//! keep that one from listening.

mod connecting;
mod ended;
mod links;
mod netlink;
pub mod peers;
pub mod raw;
pub mod tcp;
pub mod unix;

use super::{
    clock::Elapsed,
    host::Host,
    namespaces::Namespaces,
    world::{Member, World},
    OrRefuse, Refusal, Restored,
};
use shared_region::context::{
    Id, InetAddress, OpenFile, OpenFileKind, Socket, SocketOption, SocketState, TcpConnection, UnixPeer,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, ErrorKind},
    os::fd::{AsFd, OwnedFd},
};

/// `SO_SNDBUFFORCE`, `SO_RCVBUFFORCE` and `SO_BUF_LOCK` (include/uapi/asm-generic/socket.h).
const SO_SNDBUFFORCE: i32 = 32;
const SO_RCVBUFFORCE: i32 = 33;
const SO_BUF_LOCK: i32 = 72;
/// Options that decide whether an address can be bound to, or what a bound socket takes: these come before `bind`.
const BEFORE_BIND: [(i32, i32); 10] = [
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    (libc::SOL_SOCKET, links::SO_BINDTOIFINDEX),
    (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
    (libc::SOL_SOCKET, SO_LOCK_FILTER),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
];
const SO_LOCK_FILTER: i32 = 44;
/// Who may ask by pings without privilege: groups from, to. Root is not excepted.
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";
const ALL_GROUPS: &str = "0 2147483647";
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;

/// A socket among the records, with what is in its queues.
#[derive(Clone, Debug, Default)]
pub struct SocketContent<'a> {
    /// Its record.
    pub record: Socket,
    /// Bytes that its process has not taken.
    pub received: Vec<&'a [u8]>,
    /// Bytes that its peer has not acknowledged.
    pub to_send: Vec<&'a [u8]>,
}

/// Sockets that were made and belong to no open file yet.
#[derive(Debug, Default)]
pub struct Sockets {
    listening: BTreeMap<Id, Restored<OwnedFd>>,
    standing: Vec<tcp::Standing>,
    connecting: Vec<connecting::Connecting>,
    links: links::Links,
    unix: unix::Unix,
    /// Services of the system that sockets are connected to.
    pub peers: peers::Peers,
}

impl Sockets {
    /// Makes those that listen with the connections that wait, and all of AF_UNIX, with descriptors at `base` or above. What
    /// goes wrong with one is told when it is asked for.
    pub fn make(&mut self, world: &World<'_>, networks: &Namespaces, host: &dyn Host, elapsed: &Elapsed, base: u32) {
        self.unix = unix::Unix::make(world, networks, base, &mut self.peers);
        self.links = links::Links::of(world);
        for (&id, content) in &world.sockets {
            if let SocketState::Listening { local, backlog, .. } = &content.record.state {
                let record = self.links.renumbered(id, &content.record);
                let listen = |record| networks.in_network_of(world, id, || listening(&record, local, *backlog));
                let made = record.and_then(listen);
                self.listening.insert(id, made);
            }
        }
        for (&id, content) in &world.sockets {
            let SocketState::Listening { waiting, .. } = &content.record.state else {
                continue;
            };
            let mut wait = |waiting| self.wait(world, host, elapsed, id, waiting);
            let made = waiting
                .iter()
                .try_for_each(|&waiting| networks.in_network_of(world, waiting, || wait(waiting)));
            if let Err(refusal) = made {
                self.listening.insert(id, Err(refusal));
            }
        }
        self.make_orphans(world, networks, host, elapsed);
    }

    /// Makes the connections that their processes had closed: they go on without anybody.
    fn make_orphans(&mut self, world: &World<'_>, networks: &Namespaces, host: &dyn Host, elapsed: &Elapsed) {
        for (id, content, connection) in orphans(world) {
            let connect = || tcp::connect(&self.content(id, content)?, connection, host, elapsed);
            match networks.in_network_of(world, id, connect) {
                Ok((_, standing)) => self.standing.push(standing),
                Err(refusal) => crate::boot::log::warning(format_args!("connection that nobody has: {refusal}")),
            }
        }
    }

    /// Makes a connection that is going to wait for being accepted.
    fn wait(&mut self, world: &World<'_>, host: &dyn Host, elapsed: &Elapsed, at: Id, waiting: Id) -> Restored<()> {
        let listener = match self.listening.get(&at) {
            Some(Ok(listener)) => rustix::io::fcntl_dupfd_cloexec(listener, 0).or_refuse(|| "descriptor")?,
            Some(Err(refusal)) => return Err(refusal.clone()),
            None => return Err(Refusal::new("socket", "it was not made")),
        };
        let content = world.sockets.get(&waiting);
        let found = content.and_then(|content| match &content.record.state {
            SocketState::Connected(connection) => Some((content, connection)),
            _ => None,
        });
        let (content, connection) = found.ok_or_else(|| Refusal::new("a connection that waits", "no record of it"))?;
        let content = self.content(waiting, content)?;
        let (_, standing) = tcp::connect(&content, connection, host, elapsed)?;
        self.standing.push(standing.that_waits(listener));
        Ok(())
    }

    /// What is to be made, with the links that there are now.
    fn content<'w>(&self, id: Id, content: &SocketContent<'w>) -> Restored<SocketContent<'w>> {
        let record = self.links.renumbered(id, &content.record)?;
        Ok(SocketContent {
            record,
            ..content.clone()
        })
    }

    /// The socket of an open file.
    pub fn open(
        &mut self,
        world: &World<'_>,
        host: &dyn Host,
        elapsed: &Elapsed,
        file: &OpenFile,
        id: Id,
    ) -> Restored<OwnedFd> {
        let content = world
            .sockets
            .get(&id)
            .ok_or_else(|| Refusal::new("socket", "there is no record of it"))?;
        let content = self.content(id, content)?;
        let record = &content.record;
        let fd = match &record.state {
            SocketState::Listening { .. } => self
                .listening
                .remove(&id)
                .unwrap_or_else(|| Err(Refusal::new("socket", "it was not made")))?,
            SocketState::Plain { local, peer } => plain(record, local.as_ref(), peer.as_ref())?,
            SocketState::Connected(connection) => {
                let (fd, standing) = tcp::connect(&content, connection, host, elapsed)?;
                self.standing.push(standing);
                fd
            }
            SocketState::Connecting { local, peer, send_seq } => {
                let (fd, connecting) = connecting::make(record, local, peer, *send_seq)?;
                self.connecting.push(connecting);
                fd
            }
            SocketState::Ended { .. } => ended::make(&content, host, elapsed)?,
            SocketState::Unix(_) => self.unix.open(id)?,
            SocketState::Netlink(netlink) => netlink::make(&content, netlink, host)?,
            SocketState::Packet { protocol, link } => packets(record, *protocol, *link)?,
        };
        let flags = rustix::fs::OFlags::from_bits_retain(file.flags) & rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&fd, flags).or_refuse(|| "flags of a socket")?;
        Ok(fd)
    }

    /// The connections that go on when the wire is let in.
    pub fn connections(&mut self) -> Connections {
        Connections {
            standing: std::mem::take(&mut self.standing),
            connecting: std::mem::take(&mut self.connecting),
        }
    }

    /// Those of AF_UNIX, to be finished.
    pub fn unix(&mut self) -> unix::Unix {
        std::mem::take(&mut self.unix)
    }
}

/// Connections that are to go on.
#[derive(Debug)]
pub struct Connections {
    /// Still under repair.
    standing: Vec<tcp::Standing>,
    /// Not made yet.
    connecting: Vec<connecting::Connecting>,
}

impl Connections {
    /// Lets them go on; the wire must be let in. Returns what goes wrong.
    pub fn go_on(self, host: &dyn Host) -> Vec<Refusal> {
        let standing = self.standing.into_iter().map(|connection| connection.go_on(host));
        let connecting = self.connecting.into_iter().map(|connection| connection.go_on(host));
        standing.chain(connecting).filter_map(Result::err).collect()
    }
}

/// The connections that belong to no file and wait for nobody.
fn orphans<'w, 'a>(world: &'w World<'a>) -> impl Iterator<Item = (Id, &'w SocketContent<'a>, &'w TcpConnection)> {
    let mut known = BTreeSet::new();
    for file in world.files.values() {
        if let OpenFileKind::Socket { socket } = file.what {
            known.insert(socket);
        }
    }
    for content in world.sockets.values() {
        if let SocketState::Listening { waiting, .. } = &content.record.state {
            known.extend(waiting);
        }
    }
    let all = world.sockets.iter();
    all.filter_map(move |(&id, content)| match &content.record.state {
        SocketState::Connected(connection) if !known.contains(&id) => Some((id, content, connection)),
        _ => None,
    })
}

/// The processes that have a socket.
fn holders<'w>(world: &'w World<'_>, socket: Id) -> impl Iterator<Item = (u32, &'w Member)> {
    world.holders(move |_, file| file.what == OpenFileKind::Socket { socket })
}

/// The processes that cannot do without a socket: those that have it or its peer, or the one that it waits to be accepted from.
pub fn concerned(world: &World<'_>, socket: Id) -> Vec<u32> {
    let mut sockets = vec![socket];
    for (&id, content) in &world.sockets {
        if let SocketState::Unix(unix) = &content.record.state {
            let waits = unix.listening.iter().flatten().any(|&waiting| waiting == socket);
            if waits || unix.peer == UnixPeer::Socket(socket) {
                sockets.push(id);
            }
        }
    }
    sockets
        .into_iter()
        .flat_map(|id| holders(world, id))
        .map(|(id, _)| id)
        .collect()
}

/// The name of the process that has a socket, and its service: the journal knows output by them.
fn output_of(world: &World<'_>, socket: Id) -> (String, String) {
    let member = holders(world, socket).next().map(|(_, member)| member);
    member.map_or_else(Default::default, |member| {
        let service = peers::service_of(&member.record.cgroup);
        (member.comm(), service.map_or_else(String::new, |(name, _)| name))
    })
}

fn what(address: &InetAddress) -> String {
    let port = address.port;
    if let Ok(four) = <[u8; 4]>::try_from(address.address.as_slice()) {
        return format!("socket {}:{port}", std::net::Ipv4Addr::from(four));
    }
    match <[u8; 16]>::try_from(address.address.as_slice()) {
        Ok(six) => format!("socket [{}]:{port}", std::net::Ipv6Addr::from(six)),
        Err(_) => "socket".into(),
    }
}

/// `struct sockaddr_in` or `struct sockaddr_in6` of an address.
fn sockaddr(address: &InetAddress) -> Restored<Vec<u8>> {
    let port = address.port.to_be_bytes();
    match address.address.len() {
        4 => {
            let family = (libc::AF_INET as u16).to_ne_bytes();
            Ok([&family[..], &port, &address.address, &[0; 8]].concat())
        }
        16 => {
            let family = (libc::AF_INET6 as u16).to_ne_bytes();
            Ok([&family[..], &port, &[0; 4], &address.address, &[0; 4]].concat())
        }
        length => Err(Refusal::new("socket", format!("an address of {length} bytes"))),
    }
}

fn new(record: &Socket) -> Restored<OwnedFd> {
    let made = match raw::socket(record.family, record.kind, record.protocol) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied && asks_by_pings(record) => for_everybody(record),
        made => made,
    };
    let fd = made.or_refuse(|| "socket")?;
    let user = Some(rustix::fs::Uid::from_raw(record.user));
    rustix::fs::fchown(&fd, user, None).or_refuse(|| "user of a socket")?;
    Ok(fd)
}

/// Whether a socket is for pings without privilege.
fn asks_by_pings(record: &Socket) -> bool {
    let protocols = [libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6];
    record.kind == libc::SOCK_DGRAM as u32 && protocols.contains(&(record.protocol as i32))
}

/// Makes one while everybody may.
fn for_everybody(record: &Socket) -> io::Result<OwnedFd> {
    let groups = fs::read_to_string(PING_GROUPS)?;
    fs::write(PING_GROUPS, ALL_GROUPS)?;
    let made = raw::socket(record.family, record.kind, record.protocol);
    fs::write(PING_GROUPS, groups)?;
    made
}

/// Sets the options that come before `bind`, or all others.
fn options(fd: &impl AsFd, record: &Socket, before_bind: bool) -> Restored<()> {
    let chosen = |option: &&SocketOption| BEFORE_BIND.contains(&(option.level, option.name)) == before_bind;
    for SocketOption { level, name, value } in record.options.iter().filter(chosen) {
        let set = match (*level, *name) {
            (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER) => raw::attach_filter(fd, value),
            _ => raw::set(fd, *level, *name, value),
        };
        set.or_refuse(|| format!("option {name} of level {level} of a socket"))?;
    }
    Ok(())
}

/// Sets how much may lie in the queues: last, because restoring them may have needed more.
fn buffers(fd: &impl AsFd, record: &Socket) -> Restored<()> {
    let (received, to_send) = record.buffers;
    let locks = record.buffer_locks;
    for (name, value) in [
        (SO_RCVBUFFORCE, received / 2),
        (SO_SNDBUFFORCE, to_send / 2),
        (SO_BUF_LOCK, locks),
    ] {
        raw::set_number(fd, libc::SOL_SOCKET, name, value).or_refuse(|| "buffers of a socket")?;
    }
    Ok(())
}

fn listening(record: &Socket, local: &InetAddress, backlog: u32) -> Restored<OwnedFd> {
    let fd = plain(record, Some(local), None)?;
    raw::listen(&fd, backlog).or_refuse(|| what(local))?;
    Ok(fd)
}

fn plain(record: &Socket, local: Option<&InetAddress>, peer: Option<&InetAddress>) -> Restored<OwnedFd> {
    let fd = new(record)?;
    options(&fd, record, true)?;
    if let Some(local) = local {
        raw::bind(&fd, &sockaddr(local)?).or_refuse(|| what(local))?;
    }
    if let Some(peer) = peer {
        raw::connect(&fd, &sockaddr(peer)?).or_refuse(|| what(peer))?;
    }
    options(&fd, record, false)?;
    buffers(&fd, record)?;
    Ok(fd)
}

/// One of packets: until it is bound it takes none.
fn packets(record: &Socket, protocol: u16, link: u32) -> Restored<OwnedFd> {
    let fd = new(record)?;
    options(&fd, record, true)?;
    options(&fd, record, false)?;
    if protocol != 0 || link != 0 {
        // struct sockaddr_ll: family, protocol, link; the rest is not looked at.
        let family = (libc::AF_PACKET as u16).to_ne_bytes();
        let address = [&family[..], &protocol.to_be_bytes(), &link.to_ne_bytes(), &[0; 12]].concat();
        raw::bind(&fd, &address).or_refuse(|| format!("packets of link {link}"))?;
    }
    buffers(&fd, record)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_the_kernel_has_them() {
        let four = InetAddress {
            address: vec![10, 0, 2, 15],
            port: 80,
        };
        assert_eq!(
            sockaddr(&four).unwrap(),
            [2, 0, 0, 80, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        let six = InetAddress {
            address: vec![1; 16],
            port: 0x1234,
        };
        let bytes = sockaddr(&six).unwrap();
        assert_eq!(
            (bytes.len(), &bytes[..8], &bytes[8..10]),
            (28, &[10, 0, 0x12, 0x34, 0, 0, 0, 0][..], &[1, 1][..])
        );
        assert!(sockaddr(&InetAddress::default()).is_err());
        assert_eq!(what(&four), "socket 10.0.2.15:80");
    }

    #[test]
    fn a_port_that_is_taken_and_an_address_that_is_gone_are_named() {
        let taken = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        let record = Socket {
            family: libc::AF_INET as u32,
            kind: libc::SOCK_STREAM as u32,
            ..Socket::default()
        };
        let refused = |address: [u8; 4], port| {
            let address = InetAddress {
                address: address.to_vec(),
                port,
            };
            plain(&record, Some(&address), None)
                .expect_err("nobody can have it")
                .to_string()
        };
        let port = taken.local_addr().unwrap().port();
        let words = refused([127, 0, 0, 1], port);
        assert!(
            words.contains(&format!("socket 127.0.0.1:{port}")) && words.contains("in use"),
            "{words}"
        );
        // For documentation (RFC 5737): no machine has it.
        let words = refused([192, 0, 2, 77], 7100);
        assert!(
            words.contains("socket 192.0.2.77:7100") && words.contains("assign"),
            "{words}"
        );
    }

    #[test]
    fn only_what_belongs_to_nobody_is_an_orphan() {
        let connected = |send_seq| {
            SocketState::Connected(TcpConnection {
                send_seq,
                ..TcpConnection::default()
            })
        };
        let listening = SocketState::Listening {
            local: InetAddress::default(),
            backlog: 1,
            waiting: vec![2],
        };
        let mut world = World::default();
        for (id, state) in [(1, connected(1)), (2, connected(2)), (3, listening), (4, connected(4))] {
            let record = Socket {
                state,
                ..Socket::default()
            };
            world.sockets.entry(id).or_default().record = record;
        }
        let of_file = OpenFile {
            what: OpenFileKind::Socket { socket: 1 },
            ..OpenFile::default()
        };
        world.files.insert(77, of_file);
        let found: Vec<u32> = orphans(&world).map(|(_, _, connection)| connection.send_seq).collect();
        assert_eq!(found, [4]);
    }
}
