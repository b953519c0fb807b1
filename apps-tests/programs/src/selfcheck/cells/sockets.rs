//! Sockets of IP within the machine.

use crate::cell::{same, Cell, Context};
use crate::sys::socket;
use anyhow::{ensure, Context as _, Result};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::{fchown, MetadataExt};
use std::time::Duration;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "sockets/listening",
        what: "a listening socket of TCP, with its options; a new connection is accepted",
        covers: &[
            "OpenFileKind.Socket",
            "Socket.family",
            "Socket.kind",
            "Socket.protocol",
            "Socket.options",
            "Socket.user",
            "SocketOption.level",
            "SocketOption.name",
            "SocketOption.value",
            "SocketState.Listening",
            "InetAddress.address",
            "InetAddress.port",
        ],
        caught: None,
        run: listening,
    },
    Cell {
        name: "sockets/connected",
        what: "a connection of TCP over IPv4: addresses, options, buffers, and data on the way in both directions",
        covers: CONNECTED,
        caught: None,
        run: connected4,
    },
    Cell {
        name: "sockets/connected-ipv6",
        what: "the same over IPv6",
        covers: CONNECTED,
        caught: None,
        run: connected6,
    },
    Cell {
        name: "sockets/waiting",
        what: "connections of TCP that nobody has accepted yet, with data, one shut; then a new one",
        covers: &["SocketState.Listening", "SocketState.Connected"],
        caught: None,
        run: waiting,
    },
    Cell {
        name: "sockets/half-closed",
        what: "a connection of TCP shut in one direction, with unread data: the end, and the other direction goes on",
        covers: &["TcpConnection.shutdown", "TcpConnection.fin", "PeerFin.First"],
        caught: None,
        run: half_closed,
    },
    Cell {
        name: "sockets/closing",
        what: "both ends shut with full queues: every byte and the end come both ways",
        covers: &["TcpConnection.shutdown", "PeerFin.None", "TcpConnection.unsent"],
        caught: None,
        run: closing,
    },
    Cell {
        name: "sockets/in-recv",
        what: "a `recv` that waits on a connection: it gets what is sent after the failover",
        covers: &["SocketState.Connected"],
        caught: Some("recvfrom"),
        run: in_recv,
    },
    Cell {
        name: "sockets/in-recv-all",
        what: "a `recv` with MSG_WAITALL that has got a part: it says how much, and the rest follows",
        covers: &["TcpConnection.receive_seq"],
        caught: Some("recvfrom"),
        run: in_recv_all,
    },
    Cell {
        name: "sockets/in-send",
        what: "a `send` that waits for room: it has sent what it says",
        covers: &["SocketState.Connected", "TcpConnection.send_seq"],
        caught: Some("sendto"),
        run: in_send,
    },
    Cell {
        name: "sockets/udp",
        what: "sockets of UDP, bound and connected: datagrams go both ways",
        covers: &["SocketState.Plain"],
        caught: None,
        run: udp,
    },
    Cell {
        name: "sockets/unconnected",
        what: "sockets of TCP and AF_UNIX that were only made",
        covers: &[
            "SocketState.Plain",
            "SocketState.Unix",
            "UnixSocket.peer",
            "UnixPeer.None",
        ],
        caught: None,
        run: unconnected,
    },
];

const CONNECTED: &[&str] = &[
    "SocketState.Connected",
    "Socket.buffers",
    "Socket.buffer_locks",
    "TcpConnection.local",
    "TcpConnection.peer",
    "TcpConnection.receive_seq",
    "TcpConnection.send_seq",
    "TcpConnection.mss",
    "TcpConnection.window_scale",
    "TcpConnection.sack",
    "TcpConnection.timestamp",
    "TcpConnection.unsent",
    "TcpConnection.window",
];
/// A user that a socket is given to.
const USER: u32 = 1234;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Options that are set and looked at: level, name, value.
const OPTIONS: [(i32, i32, i32); 6] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 1234),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 77),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 5),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 1_000_000),
];

fn set(fd: &impl AsFd) -> Result<()> {
    OPTIONS
        .iter()
        .try_for_each(|&(level, name, value)| socket::set_option(fd, level, name, value))
}

fn options(fd: &impl AsFd) -> Result<Vec<i32>> {
    OPTIONS
        .iter()
        .map(|&(level, name, _)| socket::option(fd, level, name))
        .collect()
}

fn user(fd: &impl AsFd) -> Result<u32> {
    let fd = fd.as_fd().try_clone_to_owned()?;
    Ok(std::fs::File::from(fd).metadata()?.uid())
}

fn pair(context: &Context, address: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let listener = match TcpListener::bind(address) {
        Ok(listener) => listener,
        Err(error) => return context.skip(format!("{address}: {error}")),
    };
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
    }
    Ok((client, server))
}

fn listening(context: &mut Context) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    set(&listener)?;
    fchown(&listener, Some(USER), None)?;
    let state = || Ok::<_, anyhow::Error>((listener.local_addr()?, options(&listener)?, user(&listener)?));
    let mut before = state()?;
    context.failover(|| {
        before.1[2] += 1;
        Ok(())
    })?;
    same("address, options and user", state()?, before.clone())?;
    let mut client = TcpStream::connect(before.0)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"new")?;
    let mut data = [0; 3];
    server.read_exact(&mut data)?;
    same("data of a new connection", &data, b"new")
}

pub(super) fn connected4(context: &mut Context) -> Result<()> {
    connected(context, (Ipv4Addr::LOCALHOST, 0).into())
}

pub(super) fn connected6(context: &mut Context) -> Result<()> {
    connected(context, (Ipv6Addr::LOCALHOST, 0).into())
}

/// Sends as much as there is room for; returns how much that was.
fn fill(end: &mut TcpStream, data: &[u8]) -> Result<usize> {
    end.set_nonblocking(true)?;
    let mut count = 0;
    while let Ok(more @ 1..) = end.write(&data[count..]) {
        count += more;
    }
    end.set_nonblocking(false)?;
    end.set_read_timeout(Some(PATIENCE))?;
    Ok(count)
}

fn connected(context: &mut Context, address: SocketAddr) -> Result<()> {
    let (mut client, mut server) = pair(context, address)?;
    set(&client)?;
    for end in [&client, &server] {
        socket::set_option(end, libc::SOL_SOCKET, libc::SO_SNDBUF, 50_000)?;
    }
    // More than one buffer holds: some is received, some is not acknowledged yet.
    let data: Vec<u8> = (0..400_000u32).flat_map(u32::to_le_bytes).collect();
    let mut sent = Vec::new();
    for end in [&mut client, &mut server] {
        sent.push(fill(end, &data)?);
    }
    ensure!(
        sent.iter().all(|&count| count > 1000 && count < data.len()),
        "sent {sent:?}"
    );
    let ends = |client: &TcpStream, server: &TcpStream| -> Result<_> {
        Ok((
            [client.local_addr()?, client.peer_addr()?],
            [server.local_addr()?, server.peer_addr()?],
            options(client)?,
            socket::option(server, libc::SOL_SOCKET, libc::SO_SNDBUF)?,
        ))
    };
    let before = ends(&client, &server)?;
    let stamps = |end: &TcpStream| socket::option(end, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP);
    let stamped = [stamps(&client)?, stamps(&server)?];
    let wrong = usize::from(context.mutate());
    context.failover(|| Ok(()))?;
    same("addresses, options and buffer", ends(&client, &server)?, before)?;
    for (end, before) in [&client, &server].into_iter().zip(stamped) {
        let passed = stamps(end)?.wrapping_sub(before);
        ensure!((0..3_600_000).contains(&passed), "time stamps went on by {passed} ms");
    }
    let mut found = vec![0; sent[1]];
    client.read_exact(&mut found).context("what the server has sent")?;
    ensure!(found[wrong..] == data[..sent[1] - wrong], "data to the client is wrong");
    let mut found = vec![0; sent[0]];
    server.read_exact(&mut found).context("what the client has sent")?;
    ensure!(found == data[..sent[0]], "data to the server is wrong");
    // It goes on.
    client.write_all(b"more")?;
    let mut more = [0; 4];
    server.read_exact(&mut more)?;
    same("data after it", &more, b"more")?;
    drop(client);
    same("bytes at its end", server.read(&mut more)?, 0)
}

pub(super) fn waiting(context: &mut Context) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let mut first = TcpStream::connect(address)?;
    first.write_all(b"first")?;
    let mut second = TcpStream::connect(address)?;
    second.write_all(b"second")?;
    second.shutdown(Shutdown::Write)?;
    let names =
        |first: &TcpStream, second: &TcpStream| -> Result<_> { Ok([first.local_addr()?, second.local_addr()?]) };
    let before = names(&first, &second)?;
    context.failover(|| {
        listener.accept()?;
        Ok(())
    })?;
    same("addresses", names(&first, &second)?, before)?;
    listener.set_nonblocking(true)?;
    let mut data = [0; 16];
    for (client, address, words) in [(&first, before[0], &b"first"[..]), (&second, before[1], b"second")] {
        let (mut waited, from) = listener.accept().context("it waits no more")?;
        waited.set_nonblocking(false)?;
        waited.set_read_timeout(Some(PATIENCE))?;
        client.set_read_timeout(Some(PATIENCE))?;
        same("address of its client", from, address)?;
        waited.read_exact(&mut data[..words.len()])?;
        same("its data", &data[..words.len()], words)?;
        if client.local_addr()? == before[1] {
            same("bytes at its end", waited.read(&mut data)?, 0)?;
        }
        waited.write_all(b"answer")?;
        let mut client = client;
        client.read_exact(&mut data[..6])?;
        same("answer", &data[..6], b"answer")?;
    }
    ensure!(listener.accept().is_err(), "more wait than there were");
    let new = TcpStream::connect(address).context("a new connection")?;
    listener.set_nonblocking(false)?;
    same("its address", listener.accept()?.1, new.local_addr()?)
}

fn half_closed(context: &mut Context) -> Result<()> {
    let (mut client, mut server) = pair(context, (Ipv4Addr::LOCALHOST, 0).into())?;
    client.write_all(b"all there is")?;
    client.shutdown(Shutdown::Write)?;
    for end in [&client, &server] {
        end.set_read_timeout(Some(PATIENCE))?;
    }
    let mut data = [0; 16];
    server.read_exact(&mut data[..4])?;
    context.failover(|| server.try_clone()?.read_exact(&mut [0]).map_err(Into::into))?;
    let mut found = Vec::new();
    server.read_to_end(&mut found)?;
    same("what was there", &found[..], b"there is")?;
    ensure!(client.write_all(b"x").is_err(), "it still sends");
    server.write_all(b"the other way")?;
    client.read_exact(&mut data[..13])?;
    same("the other way", &data[..13], b"the other way")?;
    drop(server);
    same("bytes at its end", client.read(&mut data)?, 0)
}

pub(super) fn closing(context: &mut Context) -> Result<()> {
    let (mut client, mut server) = pair(context, (Ipv4Addr::LOCALHOST, 0).into())?;
    let data: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let mut sent = Vec::new();
    for end in [&mut client, &mut server] {
        socket::set_option(end, libc::SOL_SOCKET, libc::SO_SNDBUF, 400_000)?;
        sent.push(fill(end, &data)?);
        end.shutdown(Shutdown::Write)?;
    }
    let wrong = usize::from(context.mutate());
    context.failover(|| Ok(()))?;
    let mut other = client.try_clone()?;
    // Both at once: neither end comes before the data.
    let reader = std::thread::spawn(move || -> std::io::Result<Vec<u8>> {
        let mut found = Vec::new();
        other.read_to_end(&mut found).map(|_| found)
    });
    let mut found = Vec::new();
    server.read_to_end(&mut found)?;
    same("bytes of the client", found.len(), sent[0] + wrong)?;
    ensure!(found == data[..sent[0]], "data of the client is wrong");
    let found = crate::cell::join(reader)??;
    same("bytes of the server", found.len(), sent[1])?;
    ensure!(found == data[..sent[1]], "data of the server is wrong");
    Ok(())
}

fn in_recv(context: &mut Context) -> Result<()> {
    let (mut client, mut server) = pair(context, (Ipv4Addr::LOCALHOST, 0).into())?;
    let expected: &[u8; 4] = if context.mutate() { b"then" } else { b"late" };
    let partner = context.partner(move || client.write_all(b"late").map(|()| client));
    context.ready(|| Ok(()))?;
    let mut data = [0; 4];
    let length = server.read(&mut data)?;
    context.expect_failover("recv")?;
    same("bytes", length, 4)?;
    same("data", &data, expected)?;
    crate::cell::join(partner)?.map(drop).context("the sender")
}

fn in_recv_all(context: &mut Context) -> Result<()> {
    let (mut client, server) = pair(context, (Ipv4Addr::LOCALHOST, 0).into())?;
    let expected: &[u8; 8] = if context.mutate() { b"all then" } else { b"all late" };
    client.write_all(b"all ")?;
    let partner = context.partner(move || client.write_all(b"late").map(|()| client));
    context.ready(|| Ok(()))?;
    let mut data = [0; 8];
    let mut length = socket::receive_all(&server, &mut data)?;
    context.expect_failover("recv")?;
    ensure!(length >= 4, "{length} bytes of the 4 that were there");
    while length < data.len() {
        length += socket::receive_all(&server, &mut data[length..])?;
    }
    same("data", &data, expected)?;
    crate::cell::join(partner)?.map(drop).context("the sender")
}

fn in_send(context: &mut Context) -> Result<()> {
    let (mut client, mut server) = pair(context, (Ipv4Addr::LOCALHOST, 0).into())?;
    let data: Vec<u8> = (0..4_000_000u32).flat_map(u32::to_le_bytes).collect();
    let wanted = data.len();
    let partner = context.partner(move || {
        let mut found = Vec::new();
        server.read_to_end(&mut found).map(|_| found)
    });
    context.ready(|| Ok(()))?;
    let first = client.write(&data)?;
    context.expect_failover("send")?;
    ensure!(first != 0, "nothing was sent");
    client.write_all(&data[first..])?;
    drop(client);
    let found = crate::cell::join(partner)??;
    let wrong = usize::from(context.mutate());
    same("bytes", found.len(), wanted + wrong)?;
    ensure!(found == data, "data is wrong");
    Ok(())
}

pub(super) fn udp(context: &mut Context) -> Result<()> {
    let bound = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let connected = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    connected.connect(bound.local_addr()?)?;
    connected.set_broadcast(true)?;
    let state = |bound: &UdpSocket, connected: &UdpSocket| -> Result<_> {
        Ok((
            bound.local_addr()?,
            connected.local_addr()?,
            connected.peer_addr()?,
            connected.broadcast()?,
        ))
    };
    let before = state(&bound, &connected)?;
    context.failover(|| Ok(connected.set_broadcast(false)?))?;
    same("addresses and option", state(&bound, &connected)?, before)?;
    let mut data = [0; 8];
    for socket in [&bound, &connected] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    connected.send(b"there")?;
    let (length, from) = bound.recv_from(&mut data)?;
    same("datagram", &data[..length], &b"there"[..])?;
    bound.send_to(b"back", from)?;
    let length = connected.recv(&mut data)?;
    same("answer", &data[..length], &b"back"[..])
}

fn unconnected(context: &mut Context) -> Result<()> {
    let tcp = socket::socket(libc::AF_INET, libc::SOCK_STREAM)?;
    let unix = socket::socket(libc::AF_UNIX, libc::SOCK_DGRAM)?;
    socket::set_option(&tcp, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    let state = || -> Result<_> {
        Ok((
            socket::option(&tcp, libc::IPPROTO_TCP, libc::TCP_NODELAY)?,
            socket::option(&tcp, libc::SOL_SOCKET, libc::SO_TYPE)?,
            socket::option(&unix, libc::SOL_SOCKET, libc::SO_DOMAIN)?,
            socket::option(&unix, libc::SOL_SOCKET, libc::SO_TYPE)?,
        ))
    };
    let before = state()?;
    context.failover(|| socket::set_option(&tcp, libc::IPPROTO_TCP, libc::TCP_NODELAY, 0))?;
    same("options", state()?, before)
}
