//! Connections of TCP, by `TCP_REPAIR` (net/ipv4/tcp.c): the kernel is told what both sides know instead of asking the
//! peer, and sends nothing meanwhile.

use super::{buffers, new, options, raw, sockaddr, what, SocketContent, SO_RCVBUFFORCE, SO_SNDBUFFORCE};
use crate::restore::{clock::Elapsed, host::Host, OrRefuse, Refusal, Restored};
use shared_region::{
    context::{InetAddress, PeerFin, Socket, SocketOption, TcpConnection},
    device::{tcp_step, Tcp},
};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

/// Bits of [`TcpConnection::shutdown`].
const RECEIVING: u32 = 1;
const SENDING: u32 = 2;

/// Options of `IPPROTO_TCP` (include/uapi/linux/tcp.h).
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29;
/// Values of `TCP_REPAIR`: on; off, asking the peer for its window at once.
const ON: u32 = 1;
const OFF: u32 = 0;
/// Values of `TCP_REPAIR_QUEUE`.
const NO_QUEUE: u32 = 0;
const RECEIVE: u32 = 1;
const SEND: u32 = 2;
/// Options of the protocol (include/net/tcp.h).
const OPTION_MSS: u32 = 2;
const OPTION_WINDOW: u32 = 3;
const OPTION_SACK: u32 = 4;
const OPTION_TIMESTAMP: u32 = 8;
/// The largest window without a scale.
const UNSCALED: u32 = 0xffff;
/// Of a peer that has told nothing (`TCP_MSS_DEFAULT`, include/net/tcp.h).
const DEFAULT_MSS: u32 = 536;
/// Bytes that are put into a queue at a time, and the least when memory is scarce.
const CHUNK: usize = 64 << 10;
const LEAST: usize = 1024;
/// Room for queues beyond their bytes: the kernel counts whole pages and heads.
const ROOM: usize = 256 << 10;

fn repair(fd: &OwnedFd, name: i32, value: u32) -> io::Result<()> {
    raw::set_number(fd, libc::IPPROTO_TCP, name, value)
}

/// Gives a socket an own address, whoever else has it, and the number of its first segment.
pub fn begin_at(fd: &OwnedFd, local: &[u8], seq: u32) -> io::Result<()> {
    repair(fd, TCP_REPAIR, ON)?;
    repair(fd, TCP_REPAIR_QUEUE, SEND)?;
    repair(fd, TCP_QUEUE_SEQ, seq)?;
    repair(fd, TCP_REPAIR_QUEUE, NO_QUEUE)?;
    raw::bind(fd, local)?;
    repair(fd, TCP_REPAIR, OFF)
}

/// Makes a connection as it was. What was not sent yet follows when it goes on.
pub fn connect(
    content: &SocketContent<'_>,
    connection: &TcpConnection,
    host: &dyn Host,
    elapsed: &Elapsed,
) -> Restored<(OwnedFd, Standing)> {
    let fd = new(&content.record)?;
    let name = format!("{} to {}", what(&connection.local), what(&connection.peer));
    let put = put(&fd, content, connection, host, elapsed);
    let unsent = put.map_err(|refusal| Refusal::new(name.as_str(), refusal))?;
    let standing = Standing {
        fd: rustix::io::fcntl_dupfd_cloexec(&fd, 0).or_refuse(|| "descriptor")?,
        record: content.record.clone(),
        unsent,
        name,
        shutdown: connection.shutdown,
        fin: connection.fin,
        listener: None,
    };
    Ok((fd, standing))
}

/// Makes one that is over but for what nobody has read yet, as far as system calls go: [`release`] follows its end.
pub fn with_unread(
    content: &SocketContent<'_>,
    local: &InetAddress,
    peer: &InetAddress,
    host: &dyn Host,
    elapsed: &Elapsed,
) -> Restored<OwnedFd> {
    let connection = TcpConnection {
        local: local.clone(),
        peer: peer.clone(),
        // Nothing is sent any more, so that any number is as good.
        receive_seq: 1,
        send_seq: 1,
        mss: DEFAULT_MSS,
        ..TcpConnection::default()
    };
    let fd = new(&content.record)?;
    put(&fd, content, &connection, host, elapsed)?;
    Ok(fd)
}

/// Ends the repair of one that is over.
pub fn release(fd: &OwnedFd) -> Restored<()> {
    repair(fd, TCP_REPAIR, OFF).or_refuse(|| "end of the repair")
}

/// Returns what was not sent yet.
fn put(
    fd: &OwnedFd,
    content: &SocketContent<'_>,
    connection: &TcpConnection,
    host: &dyn Host,
    elapsed: &Elapsed,
) -> Restored<Vec<u8>> {
    let (received, mut to_send) = (content.received.concat(), content.to_send.concat());
    let sent = to_send.len().checked_sub(connection.unsent as usize);
    let unsent = to_send.split_off(sent.ok_or_else(|| Refusal::new("queue", "more was sent than there is"))?);
    repair(fd, TCP_REPAIR, ON).or_refuse(|| "repair")?;
    options(fd, &content.record, true)?;
    // It went its own way with this address already, whoever else has it.
    repair(fd, TCP_REPAIR, ON).or_refuse(|| "repair")?;
    for (queue, seq) in [(RECEIVE, connection.receive_seq), (SEND, connection.send_seq)] {
        repair(fd, TCP_REPAIR_QUEUE, queue).or_refuse(|| "repair")?;
        repair(fd, TCP_QUEUE_SEQ, seq).or_refuse(|| "sequence number")?;
    }
    repair(fd, TCP_REPAIR_QUEUE, NO_QUEUE).or_refuse(|| "repair")?;
    raw::bind(fd, &sockaddr(&connection.local)?).or_refuse(|| "own address")?;
    if connection.window_scale.is_none() {
        // `connect` chooses a scale by the largest window, and under repair no answer of the peer takes it back: the peer would
        // take a window for a small part of what it is.
        raw::set_number(fd, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, UNSCALED).or_refuse(|| "largest window")?;
    }
    raw::connect(fd, &sockaddr(&connection.peer)?).or_refuse(|| "connection")?;
    raw::set(fd, libc::IPPROTO_TCP, TCP_REPAIR_OPTIONS, &negotiated(connection)).or_refuse(|| "options of TCP")?;
    if let Some(then) = connection.timestamp {
        repair(fd, TCP_TIMESTAMP, stamp_now(then, elapsed)).or_refuse(|| "time stamp")?;
    }
    fill(fd, RECEIVE, SO_RCVBUFFORCE, &received).or_refuse(|| format!("{} bytes received", received.len()))?;
    fill(fd, SEND, SO_SNDBUFFORCE, &to_send).or_refuse(|| format!("{} bytes to be sent", to_send.len()))?;
    repair(fd, TCP_REPAIR_QUEUE, NO_QUEUE).or_refuse(|| "repair")?;
    if let Some((data, seq)) = connection.urgent_received {
        host.tcp(step(
            fd,
            tcp_step::URGENT_RECEIVED,
            u64::from(data) << 32 | u64::from(seq),
        ))?;
    }
    if let Some(end) = connection.urgent_to_send {
        host.tcp(step(fd, tcp_step::URGENT_TO_SEND, end.into()))?;
    }
    if connection.fin != PeerFin::None {
        host.tcp(step(fd, tcp_step::FIN, 0))?;
    }
    let window: Vec<u8> = connection.window.iter().flat_map(|word| word.to_ne_bytes()).collect();
    raw::set(fd, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &window).or_refuse(|| "windows")?;
    buffers(fd, &content.record)?;
    Ok(unsent)
}

/// A connection that stands but is still under repair.
#[derive(Debug)]
pub struct Standing {
    fd: OwnedFd,
    record: Socket,
    unsent: Vec<u8>,
    name: String,
    shutdown: u32,
    fin: PeerFin,
    /// Whom it waits to be accepted from.
    listener: Option<OwnedFd>,
}

/// A request for the module.
pub fn step(fd: &OwnedFd, step: u64, listener: u64) -> Tcp {
    Tcp {
        fd: fd.as_raw_fd() as u64,
        step,
        listener,
    }
}

impl Standing {
    /// It belongs to no descriptor: it waits to be accepted from a socket that listens.
    pub fn that_waits(self, listener: OwnedFd) -> Self {
        let listener = Some(listener);
        Self { listener, ..self }
    }

    /// Ends the repair: from here on the kernel speaks with the peer, asks it at once how far it has got, and tells it how much
    /// room there is.
    ///
    /// # Errors
    /// What does not work. The connection is broken off then: its process and its peer are told so when they use it.
    pub fn go_on(self, host: &dyn Host) -> Restored<()> {
        let result = self.try_to_go_on(host);
        if result.is_err() {
            // struct sockaddr of AF_UNSPEC: what is left of the connection is given up with a reset.
            let _ = raw::connect(&self.fd, &[0; 16]);
        }
        result.map_err(|refusal| Refusal::new(self.name, refusal))
    }

    fn try_to_go_on(&self, host: &dyn Host) -> Restored<()> {
        let Self { fd, record, unsent, .. } = self;
        repair(fd, TCP_REPAIR, OFF).or_refuse(|| "end of the repair")?;
        // Without it the peer asks when its time has come.
        let _ = host.tcp(step(fd, tcp_step::SPEAK, 0));
        // The repair takes `SO_REUSEADDR` away, and holds timers back. The others that come before `bind` stand.
        let reuse = |option: &&SocketOption| (option.level, option.name) == (libc::SOL_SOCKET, libc::SO_REUSEADDR);
        for option in record.options.iter().filter(reuse) {
            raw::set(fd, option.level, option.name, &option.value).or_refuse(|| "SO_REUSEADDR")?;
        }
        options(fd, record, false)?;
        if !unsent.is_empty() {
            push(fd, SO_SNDBUFFORCE, unsent).or_refuse(|| format!("{} bytes to be sent", unsent.len()))?;
            buffers(fd, record)?;
        }
        // An end that was on its way, or acknowledged, goes out once more, with the same number.
        let how = match self.shutdown & (RECEIVING | SENDING) {
            0 => None,
            RECEIVING if self.fin != PeerFin::None => None,
            RECEIVING => Some(libc::SHUT_RD),
            SENDING => Some(libc::SHUT_WR),
            _ => Some(libc::SHUT_RDWR),
        };
        if let Some(how) = how {
            raw::shutdown(fd, how).or_refuse(|| "its end")?;
        }
        if self.fin == PeerFin::Crossed {
            host.tcp(step(fd, tcp_step::CROSSED, 0))?;
        }
        match &self.listener {
            Some(listener) => host.tcp(step(fd, tcp_step::WAIT, listener.as_raw_fd() as u64)),
            None => Ok(()),
        }
    }
}

/// What both sides have agreed on, as a list of `struct tcp_repair_opt`.
fn negotiated(connection: &TcpConnection) -> Vec<u8> {
    let mut list = vec![(OPTION_MSS, connection.mss)];
    if let Some((peers, own)) = connection.window_scale {
        list.push((OPTION_WINDOW, u32::from(peers) | u32::from(own) << 16));
    }
    if connection.sack {
        list.push((OPTION_SACK, 0));
    }
    if connection.timestamp.is_some() {
        list.push((OPTION_TIMESTAMP, 0));
    }
    list.into_iter()
        .flat_map(|(code, value)| [code.to_ne_bytes(), value.to_ne_bytes()])
        .flatten()
        .collect()
}

/// The time stamp to go on with, in milliseconds. Its lowest bit would ask for microseconds, from Linux 6.7 on
/// (614e8316aa4c).
fn stamp_now(then: u32, elapsed: &Elapsed) -> u32 {
    let passed = elapsed.passed() / 1_000_000;
    then.wrapping_add(passed as u32).wrapping_add(1) & !1
}

fn fill(fd: &OwnedFd, queue: u32, buffer: i32, data: &[u8]) -> io::Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    repair(fd, TCP_REPAIR_QUEUE, queue)?;
    push(fd, buffer, data)
}

/// Puts bytes into the queue that is chosen, and makes room for them.
fn push(fd: &OwnedFd, buffer: i32, data: &[u8]) -> io::Result<()> {
    let room = u32::try_from(2 * data.len() + ROOM).unwrap_or(i32::MAX as u32 / 2);
    raw::set_number(fd, libc::SOL_SOCKET, buffer, room)?;
    let (mut rest, mut chunk) = (data, CHUNK);
    while !rest.is_empty() {
        match raw::send(fd, &rest[..chunk.min(rest.len())]) {
            Ok(taken) => rest = &rest[taken..],
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && chunk > LEAST => chunk /= 2,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::{clock, host::Nobody};
    use shared_region::context::Clock;
    use std::{
        io::{Read, Write},
        net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
        time::Duration,
    };

    fn address(of: SocketAddr) -> InetAddress {
        let address = match of {
            SocketAddr::V4(four) => four.ip().octets().to_vec(),
            SocketAddr::V6(six) => six.ip().octets().to_vec(),
        };
        InetAddress {
            address,
            port: of.port(),
        }
    }

    fn stream(family: i32, options: Vec<SocketOption>) -> Socket {
        Socket {
            family: family as u32,
            options,
            kind: libc::SOCK_STREAM as u32,
            protocol: libc::IPPROTO_TCP as u32,
            buffers: (131_072, 87_040),
            ..Socket::default()
        }
    }

    fn word(fd: &OwnedFd, name: i32) -> u32 {
        let bytes = raw::get(fd, libc::IPPROTO_TCP, name, 4).expect("a number");
        u32::from_ne_bytes(bytes.try_into().expect("four bytes"))
    }

    /// What the salvager would have recorded of an end with this much in its receive queue and nothing to be sent.
    fn record(end: &OwnedFd, received: u32, local: SocketAddr, peer: SocketAddr) -> TcpConnection {
        /// Offset of the options and the scales in `struct tcp_info`, and of time stamps, SACK and scales in the options.
        const OPTIONS: usize = 5;
        const SCALES: usize = 6;
        repair(end, TCP_REPAIR, ON).expect("repair");
        let info = raw::get(end, libc::IPPROTO_TCP, libc::TCP_INFO, 64).expect("information");
        let seq = |queue| {
            repair(end, TCP_REPAIR_QUEUE, queue).expect("queue");
            word(end, TCP_QUEUE_SEQ)
        };
        let (receive, send) = (seq(RECEIVE), seq(SEND));
        let window = raw::get(end, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, 20).expect("windows");
        let (words, _) = window.as_chunks::<4>();
        let mut windows = [0; 5];
        for (to, from) in windows.iter_mut().zip(words) {
            *to = u32::from_ne_bytes(*from);
        }
        TcpConnection {
            local: address(local),
            peer: address(peer),
            receive_seq: receive.wrapping_sub(received),
            send_seq: send,
            mss: word(end, libc::TCP_MAXSEG),
            window_scale: (info[OPTIONS] & 4 != 0).then_some((info[SCALES] & 15, info[SCALES] >> 4)),
            sack: info[OPTIONS] & 2 != 0,
            timestamp: (info[OPTIONS] & 1 != 0).then(|| word(end, TCP_TIMESTAMP)),
            // The last word of what is to be sent.
            unsent: 12,
            window: windows,
            ..TcpConnection::default()
        }
    }

    #[test]
    fn a_connection_goes_on_without_its_peer_noticing() {
        goes_on(Ipv4Addr::LOCALHOST.into(), libc::AF_INET, Vec::new(), 0);
    }

    #[test]
    fn a_connection_without_window_scales_gets_none() {
        let largest = |window_scale| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
            let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
            let (server, _) = listener.accept().expect("accept");
            let (local, peer) = (server.local_addr().ok()?, server.peer_addr().ok()?);
            let server = OwnedFd::from(server);
            repair(&server, TCP_REPAIR, ON).ok()?;
            let connection = TcpConnection {
                window_scale,
                unsent: 0,
                ..record(&server, 0, local, peer)
            };
            drop(server);
            let content = SocketContent {
                record: stream(libc::AF_INET, Vec::new()),
                ..SocketContent::default()
            };
            let elapsed = Elapsed { then: Clock::default() };
            let (fd, _standing) = connect(&content, &connection, &Nobody, &elapsed).expect("restored");
            drop(client);
            Some(word(&fd, libc::TCP_WINDOW_CLAMP))
        };
        let Some(unscaled) = largest(None) else {
            eprintln!("skipped: TCP_REPAIR is not allowed here");
            return;
        };
        // That shows whether the kernel has chosen a scale: it limits a window to what can be told with it.
        assert_eq!(unscaled, UNSCALED);
        assert!(largest(Some((7, 7))).expect("repair") > UNSCALED);
    }

    #[test]
    fn an_end_that_was_on_its_way_comes_behind_the_data() {
        goes_on(Ipv4Addr::LOCALHOST.into(), libc::AF_INET, Vec::new(), SENDING);
    }

    #[test]
    fn so_does_one_of_ipv6_with_an_option_that_only_comes_before_its_address() {
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            eprintln!("skipped: there is no IPv6 here");
            return;
        }
        let only = SocketOption {
            level: libc::IPPROTO_IPV6,
            name: libc::IPV6_V6ONLY,
            value: 0u32.to_ne_bytes().to_vec(),
        };
        goes_on(Ipv6Addr::LOCALHOST.into(), libc::AF_INET6, vec![only], 0);
    }

    fn goes_on(host: IpAddr, family: i32, options: Vec<SocketOption>, shutdown: u32) {
        let listener = TcpListener::bind((host, 0)).expect("listen");
        let mut client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (server, _) = listener.accept().expect("accept");
        client.write_all(b"received but not taken").expect("send");
        std::thread::sleep(Duration::from_millis(50));
        let (local, peer) = (
            server.local_addr().expect("address"),
            server.peer_addr().expect("address"),
        );
        let server = OwnedFd::from(server);
        if repair(&server, TCP_REPAIR, ON).is_err() {
            eprintln!("skipped: TCP_REPAIR is not allowed here");
            return;
        }
        let connection = TcpConnection {
            shutdown,
            ..record(&server, 22, local, peer)
        };
        // Under repair an end goes away without a word.
        drop(server);

        let content = SocketContent {
            record: stream(family, options),
            received: vec![b"received but ", b"not taken"],
            to_send: vec![b"sent but not ", b"acknowledged"],
        };
        let now = clock::now(rustix::time::ClockId::Monotonic);
        let then = Clock {
            monotonic: now,
            ..Clock::default()
        };
        let (fd, standing) = connect(&content, &connection, &Nobody, &Elapsed { then }).expect("restored");
        standing.go_on(&Nobody).expect("goes on");
        rustix::fs::fcntl_setfl(&fd, rustix::fs::OFlags::empty()).expect("flags");
        let mut server = TcpStream::from(fd);
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_secs(20))).expect("time-out");
        }
        let mut data = [0; 25];
        client.read_exact(&mut data).expect("what was sent");
        assert_eq!(&data, b"sent but not acknowledged");
        server.read_exact(&mut data[..22]).expect("what was received");
        assert_eq!(&data[..22], b"received but not taken");
        client
            .write_all(b"on")
            .and_then(|()| server.read_exact(&mut data[..2]))
            .expect("there");
        if shutdown != 0 {
            assert_eq!(client.read(&mut data).expect("end"), 0);
            assert!(server.write_all(b"back").is_err());
            return;
        }
        server
            .write_all(b"back")
            .and_then(|()| client.read_exact(&mut data[..4]))
            .expect("back");
        assert_eq!(&data[..4], b"back");
        drop(client);
        assert_eq!(server.read(&mut data).expect("end"), 0);
    }
}
