//! Sockets of AF_UNIX, made in two steps.
//!
//! Before any process is built ([`Unix::make`]) they are made, bound and connected: connected ones in pairs, so both ends at
//! once, whoever they belong to. When all processes are built ([`Unix::finish`]), what lies in queues is sent once more,
//! in the name of those who had sent it, and with it descriptors. Ends and senders that nobody has are closed then: their
//! peers see what they would have seen.

pub mod messages;
pub mod names;

use self::names::{Bound, Scratch};
use super::{buffers, options, peers, peers::Peers, raw, SocketContent};
use crate::restore::{
    high::High,
    host::Host,
    namespaces::{Namespaces, Visited},
    world::World,
    OrRefuse, Refusal, Restored,
};
use rustix::fs::Uid;
use shared_region::context::{Id, OpenFileKind, SocketState, UnixPeer, UnixSocket};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::OwnedFd,
};

/// Bits of [`UnixSocket::shutdown`].
const RECEIVING: u32 = 1;
const SENDING: u32 = 2;
/// How many datagrams may wait in a socket that is made.
const DATAGRAMS: &str = "/proc/sys/net/unix/max_dgram_qlen";
/// Bytes that may be on their way while queues are filled: more than was allowed before.
const ROOM: u32 = 64 << 20;
const SO_SNDBUFFORCE: i32 = 32;

/// Sockets that were made.
#[derive(Debug, Default)]
pub struct Unix {
    ends: BTreeMap<Id, Restored<End>>,
    /// Those that belong to an open file.
    held: BTreeSet<Id>,
    /// Those that wait to be accepted, with whom they are connected to. They have no descriptor.
    waiting: BTreeMap<Id, Id>,
    /// Those connected to a service of the system.
    served: BTreeSet<Id>,
    /// Datagram sockets that are connected in the second step.
    to_connect: BTreeSet<Id>,
}

#[derive(Debug)]
struct End {
    fd: High,
    bound: Bound,
}

/// A socket among the records.
type Content<'w, 'a> = (&'w SocketContent<'a>, &'w UnixSocket);

fn find<'w, 'a>(world: &'w World<'a>, id: Id) -> Restored<Content<'w, 'a>> {
    let content = world.sockets.get(&id);
    let found = content.and_then(|content| match &content.record.state {
        SocketState::Unix(unix) => Some((content, unix)),
        _ => None,
    });
    found.ok_or_else(|| Refusal::new("socket", "there is no record of it"))
}

fn all<'w, 'a>(world: &'w World<'a>) -> impl Iterator<Item = (Id, Content<'w, 'a>)> + 'w {
    let ids = world.sockets.keys().copied();
    ids.filter_map(|id| find(world, id).ok().map(|content| (id, content)))
}

fn peer_of(unix: &UnixSocket) -> Option<Id> {
    match unix.peer {
        UnixPeer::None => None,
        UnixPeer::Socket(id) => Some(id),
    }
}

fn is_datagram(content: &SocketContent<'_>) -> bool {
    content.record.kind == libc::SOCK_DGRAM as u32
}

impl Unix {
    /// Makes all of them. What goes wrong with one is told when it is asked for.
    pub fn make(world: &World<'_>, networks: &Namespaces, base: u32, peers: &mut Peers) -> Self {
        let mut unix = Self::default();
        for file in world.files.values() {
            if let OpenFileKind::Socket { socket } = file.what {
                unix.held.insert(socket);
            }
        }
        for (_, (_, record)) in all(world) {
            for &id in record.listening.iter().flatten() {
                if let Some(peer) = find(world, id).ok().and_then(|(_, waiting)| peer_of(waiting)) {
                    unix.waiting.insert(id, peer);
                }
            }
        }
        let places =
            std::iter::once(None).chain(world.network_of.values().collect::<BTreeSet<_>>().into_iter().map(Some));
        let limit = |place: Option<&Id>| {
            let read = || fs::read_to_string(DATAGRAMS).or_refuse(|| DATAGRAMS);
            Some((place.copied(), networks.inside(Visited::Network, place, read).ok()?))
        };
        let limits: Vec<(Option<Id>, String)> = places.filter_map(limit).collect();
        let mut maker = Maker {
            world,
            networks,
            base,
            scratch: Scratch::default(),
            unix,
        };
        maker.make(peers);
        for (place, limit) in limits {
            // What was there a moment ago is taken again.
            let write = || fs::write(DATAGRAMS, limit.trim()).or_refuse(|| DATAGRAMS);
            let _ = networks.inside(Visited::Network, place.as_ref(), write);
        }
        maker.unix
    }

    /// The socket of an open file.
    pub fn open(&mut self, id: Id) -> Restored<OwnedFd> {
        match self.ends.get(&id) {
            Some(Ok(end)) => rustix::io::fcntl_dupfd_cloexec(&end.fd, 0).or_refuse(|| "descriptor"),
            Some(Err(refusal)) => Err(refusal.clone()),
            None => Err(Refusal::new("socket", "it was not made")),
        }
    }

    /// Fills queues and sets what comes last; `files` are the numbers of open files on their way. Returns what went wrong.
    pub fn finish(self, world: &World<'_>, host: &dyn Host, files: &BTreeMap<Id, Restored<u32>>) -> Vec<(Id, Refusal)> {
        let mut wrong = Vec::new();
        let mut note = |id: Id, result: Restored<()>| {
            if let Err(refusal) = result {
                wrong.push((id, refusal));
            }
        };
        let is_needed = |id: Id| self.held.contains(&id) || self.waiting.contains_key(&id);
        for (id, content) in all(world) {
            let filled = self.fill(world, id, content, files);
            // One that nobody has takes what it has not read with it.
            if is_needed(id) {
                note(id, filled);
            }
        }
        for id in self.order_of_connecting(world) {
            note(id, self.connect_datagram(world, id));
        }
        for (id, content) in all(world).filter(|&(id, _)| is_needed(id)) {
            note(id, self.complete(id, content, host));
        }
        wrong
    }

    fn end(&self, id: Id) -> Restored<&End> {
        match self.ends.get(&id) {
            Some(Ok(end)) => Ok(end),
            Some(Err(refusal)) => Err(refusal.clone()),
            None => Err(Refusal::new("socket", "its peer was not made")),
        }
    }

    fn fill(
        &self,
        world: &World<'_>,
        id: Id,
        (content, unix): Content<'_, '_>,
        files: &BTreeMap<Id, Restored<u32>>,
    ) -> Restored<()> {
        let whole = content.received.concat();
        let mut rest = whole.as_slice();
        let peer = peer_of(unix);
        for message in &unix.messages {
            if self.served.contains(&id) {
                return Err(Refusal::new(
                    name(&unix.name),
                    "what a service had sent cannot be had again",
                ));
            }
            let (data, after) = (rest.split_at_checked(message.length as usize))
                .ok_or_else(|| Refusal::new("socket", "its messages are longer than its queue"))?;
            rest = after;
            let sender = if is_datagram(content) {
                Some(message.sender)
            } else {
                peer
            };
            let sender = sender.ok_or_else(|| Refusal::new("socket", "a message that came from nobody"))?;
            let from = &self.end(sender)?.fd;
            raw::set_number(from, libc::SOL_SOCKET, SO_SNDBUFFORCE, ROOM).or_refuse(|| "buffer")?;
            let to = match is_datagram(content) && !self.are_pair(world, id, sender) {
                true => self.end(id)?.bound.address(&unix.name)?,
                false => Vec::new(),
            };
            let control = messages::Control::new(message, files)?;
            let what = || format!("{}, {} bytes not read yet", name(&unix.name), data.len());
            control.with(|control| messages::send(from, data, &to, control, is_stream(content)).or_refuse(what))?;
        }
        // What the peer loses when it is closed.
        if let (true, Some(peer)) = (unix.reset, peer) {
            if !self.held.contains(&peer) && !self.served.contains(&id) {
                raw::send(&self.end(id)?.fd, &[0]).or_refuse(|| "peer")?;
            }
        }
        Ok(())
    }

    /// Whether two datagram sockets were made connected to each other.
    fn are_pair(&self, world: &World<'_>, one: Id, other: Id) -> bool {
        let leads = |from, to| find(world, from).is_ok_and(|(_, unix)| peer_of(unix) == Some(to));
        leads(one, other) && !self.to_connect.contains(&one) || leads(other, one) && !self.to_connect.contains(&other)
    }

    /// Nobody can be connected to by others any more once it is connected itself.
    fn order_of_connecting(&self, world: &World<'_>) -> Vec<Id> {
        let mut left = self.to_connect.clone();
        let mut order = Vec::new();
        while !left.is_empty() {
            let targets: BTreeSet<Id> = (left.iter())
                .filter_map(|&id| find(world, id).ok().and_then(|(_, unix)| peer_of(unix)))
                .collect();
            let (later, now): (BTreeSet<Id>, BTreeSet<Id>) = left.iter().partition(|id| targets.contains(id));
            // A circle cannot have come about. The kernel refuses it.
            if now.is_empty() {
                order.extend(later);
                break;
            }
            order.extend(now);
            left = later;
        }
        order
    }

    fn connect_datagram(&self, world: &World<'_>, id: Id) -> Restored<()> {
        let (_, unix) = find(world, id)?;
        let Some(peer) = peer_of(unix) else { return Ok(()) };
        let (_, target) = find(world, peer)?;
        let to = self.end(peer)?.bound.address(&target.name)?;
        raw::connect(&self.end(id)?.fd, &to).or_refuse(|| name(&target.name))
    }

    fn complete(&self, id: Id, (content, unix): Content<'_, '_>, host: &dyn Host) -> Restored<()> {
        if let Some(client) = self.waiting.get(&id) {
            return messages::credentials(host, &self.end(*client)?.fd, true, unix);
        }
        let fd = &self.end(id)?.fd;
        let record = &content.record;
        for before_bind in [true, false] {
            options(fd, record, before_bind)?;
        }
        if unix.shutdown != 0 {
            let how = match unix.shutdown {
                RECEIVING => libc::SHUT_RD,
                SENDING => libc::SHUT_WR,
                _ => libc::SHUT_RDWR,
            };
            raw::shutdown(fd, how).or_refuse(|| name(&unix.name))?;
        }
        buffers(fd, record)?;
        if self.served.contains(&id) {
            return Ok(());
        }
        messages::credentials(host, fd, false, unix)
    }
}

fn is_stream(content: &SocketContent<'_>) -> bool {
    content.record.kind == libc::SOCK_STREAM as u32
}

/// The first step.
struct Maker<'w, 'a> {
    world: &'w World<'a>,
    networks: &'w Namespaces,
    base: u32,
    scratch: Scratch,
    unix: Unix,
}

impl<'w, 'a> Maker<'w, 'a> {
    fn make(&mut self, peers: &mut Peers) {
        let world = self.world;
        // Abstract names of connections come first: the socket that listens by one keeps others from it.
        let (first, then): (Vec<_>, Vec<_>) = self.pairs().into_iter().partition(|&(one, other)| {
            let inherits = |id| find(world, id).is_ok_and(|(_, unix)| unix.inherited);
            inherits(one) || inherits(other)
        });
        for (one, other) in first.into_iter().chain(then) {
            if let Err(refusal) = self.pair(one, other) {
                self.unix.ends.insert(one, Err(refusal.clone()));
                self.unix.ends.insert(other, Err(refusal));
            }
        }
        for (id, content) in all(world) {
            if self.unix.ends.contains_key(&id) || self.unix.waiting.contains_key(&id) {
                continue;
            }
            let made = self.single(id, content, peers);
            self.unix.ends.insert(id, made);
        }
        for (id, (_, unix)) in all(world) {
            for &waiting in unix.listening.iter().flatten() {
                if let Err(refusal) = self.wait(id, unix, waiting) {
                    self.unix.ends.insert(id, Err(refusal));
                    break;
                }
            }
        }
    }

    /// What is made at once: connected streams, and datagram sockets that are connected to each other, or to one without a name
    /// that nobody has.
    fn pairs(&self) -> Vec<(Id, Id)> {
        let mut taken = BTreeSet::new();
        let mut pairs = Vec::new();
        for (id, (content, unix)) in all(self.world) {
            let Some(peer) = peer_of(unix).filter(|peer| *peer != id) else {
                continue;
            };
            let Ok((_, other)) = find(self.world, peer) else {
                continue;
            };
            let waits = self.unix.waiting.contains_key(&id) || self.unix.waiting.contains_key(&peer);
            let mutual = peer_of(other) == Some(id);
            let gone = !self.unix.held.contains(&peer);
            let served = gone && Peers::known(&other.name).is_some();
            // Others may be connected to the same one, by its name.
            let together = !is_datagram(content) || mutual || gone && other.name.is_empty();
            if waits || served || !together || taken.contains(&id) || taken.contains(&peer) {
                continue;
            }
            taken.extend([id, peer]);
            pairs.push((id, peer));
        }
        pairs
    }

    fn pair(&mut self, one: Id, other: Id) -> Restored<()> {
        let ((first, first_unix), (second, second_unix)) = (find(self.world, one)?, find(self.world, other)?);
        if self.world.network_of.get(&one) != self.world.network_of.get(&other) {
            return Err(Refusal::new(name(&first_unix.name), "its peer is of another network"));
        }
        let kind = first.record.kind;
        let made = self.networks.in_network_of(self.world, one, || {
            set_limit(first_unix.limit.max(second_unix.limit), kind);
            match (first_unix.inherited, second_unix.inherited) {
                (false, false) => raw::pair(libc::AF_UNIX as u32, kind).or_refuse(|| "pair of sockets"),
                (true, false) => {
                    let (client, server) = accepted(kind, &first_unix.name)?;
                    Ok((server, client))
                }
                (false, true) => accepted(kind, &second_unix.name),
                (true, true) => Err(Refusal::new(
                    name(&first_unix.name),
                    "both ends have the name of another",
                )),
            }
        })?;
        let first_end = self.end(made.0, first, first_unix)?;
        let second_end = self.end(made.1, second, second_unix)?;
        self.unix.ends.insert(one, Ok(first_end));
        self.unix.ends.insert(other, Ok(second_end));
        Ok(())
    }

    /// One that is not connected, or not yet, or to a service of the system.
    fn single(&mut self, id: Id, (content, unix): Content<'w, 'a>, peers: &mut Peers) -> Restored<End> {
        let record = &content.record;
        let fd = self.networks.in_network_of(self.world, id, || {
            set_limit(unix.limit, record.kind);
            raw::socket(libc::AF_UNIX as u32, record.kind, 0).or_refuse(|| "socket")
        })?;
        let end = self.end(fd, content, unix)?;
        if unix.listening.is_some() {
            raw::listen(&end.fd, unix.limit).or_refuse(|| name(&unix.name))?;
        }
        let Some(peer) = peer_of(unix) else { return Ok(end) };
        let (of_peer, other) = find(self.world, peer)?;
        if let (false, Some(service)) = (self.unix.held.contains(&peer), Peers::known(&other.name)) {
            peers.listen()?;
            raw::connect(&end.fd, &names::sockaddr(&other.name)?).or_refuse(|| name(&other.name))?;
            if service.path == peers::STDOUT {
                let (identifier, service) = super::output_of(self.world, id);
                send(&end.fd, &peers::header(&identifier, &service)).or_refuse(|| "header")?;
                for part in &of_peer.received {
                    send(&end.fd, part).or_refuse(|| "what was not read yet")?;
                }
            }
            self.unix.served.insert(id);
        } else if is_datagram(content) {
            self.unix.to_connect.insert(id);
        } else if self.unix.waiting.get(&peer) != Some(&id) {
            return Err(Refusal::new(name(&unix.name), "its peer is not connected to it"));
        }
        Ok(end)
    }

    /// Gives a socket its owner and its name.
    fn end(&mut self, fd: OwnedFd, content: &SocketContent<'_>, unix: &UnixSocket) -> Restored<End> {
        let user = Some(Uid::from_raw(content.record.user));
        rustix::fs::fchown(&fd, user, None).or_refuse(|| "user of a socket")?;
        let bound = if unix.name.is_empty() || unix.inherited {
            Bound::default()
        } else {
            self.scratch.bind(&fd, unix)?
        };
        let fd = High::raise(fd, self.base)?;
        Ok(End { fd, bound })
    }

    /// Lets a connection wait to be accepted, as the last so far.
    fn wait(&mut self, listener: Id, unix: &UnixSocket, waiting: Id) -> Restored<()> {
        let client = (self.unix.waiting.get(&waiting).copied())
            .ok_or_else(|| Refusal::new(name(&unix.name), "a connection that waits is not known"))?;
        let to = self.unix.end(listener)?.bound.address(&unix.name)?;
        let made = self.unix.end(client)?;
        raw::connect(&made.fd, &to).or_refuse(|| name(&unix.name))
    }
}

/// A connection to a name that is free: the client's end and the server's.
fn accepted(kind: u32, to: &[u8]) -> Restored<(OwnedFd, OwnedFd)> {
    let address = names::sockaddr(to)?;
    let new = || raw::socket(libc::AF_UNIX as u32, kind, 0).or_refuse(|| "socket");
    let (listener, client) = (new()?, new()?);
    let what = || name(to);
    raw::bind(&listener, &address).or_refuse(what)?;
    raw::listen(&listener, 1).or_refuse(what)?;
    raw::connect(&client, &address).or_refuse(what)?;
    let server = raw::accept(&listener).or_refuse(what)?;
    Ok((client, server))
}

/// How many datagrams may wait is a setting of the machine at the instant a socket is made.
fn set_limit(limit: u32, kind: u32) {
    if kind != libc::SOCK_STREAM as u32 && limit != 0 {
        // Without it no more than usual may wait.
        let _ = fs::write(DATAGRAMS, limit.to_string());
    }
}

fn send(fd: &impl std::os::fd::AsFd, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let taken = raw::send(fd, data)?;
        data = &data[taken..];
    }
    Ok(())
}

/// A name for people.
pub fn name(name: &[u8]) -> String {
    match name.split_first() {
        None => "a socket without a name".into(),
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
        Some(_) => String::from_utf8_lossy(name).into_owned(),
    }
}

#[cfg(test)]
mod tests;
