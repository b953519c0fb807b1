//! Connections of TCP that the peer has not answered yet.

use crate::cell::{same, Cell, Context};
use crate::sys::process::fork;
use crate::sys::{file, socket};
use anyhow::{ensure, Result};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "connecting/asked",
        what: "a `connect` without waiting that the peer has not answered: it is answered afterwards, from the same address",
        covers: &["SocketState.Connecting"],
        caught: None,
        run: asked,
    },
    Cell {
        name: "connecting/in-connect",
        what: "a `connect` that waits for the peer's answer: the connection comes, with the same address, and carries data",
        covers: &["SocketState.Connecting"],
        caught: Some("connect"),
        run: in_connect,
    },
    Cell {
        name: "connecting/ended",
        what: "connections that are over, of which the process has not taken note: reset, refused, closed by both sides",
        covers: &["SocketState.Ended"],
        caught: None,
        run: ended,
    },
    Cell {
        name: "connecting/ended-unread",
        what: "connections that are over before everything was read: what had come is read, then the end or the error",
        covers: &["SocketState.Ended"],
        caught: None,
        run: ended_unread,
    },
    Cell {
        name: "connecting/closed-early",
        what: "a connection that was closed before its peer had everything: the peer gets every byte and the end",
        covers: &["TcpConnection.unsent", "TcpConnection.shutdown"],
        caught: None,
        run: closed_early,
    },
];

/// How long a peer may take to answer a repetition, in milliseconds: it comes after 1, 2, 4 … seconds.
const PATIENCE: i32 = 120_000;

/// How often a peer is asked before the kernel gives up: more than half an hour, where the usual six take two minutes, which
/// the last of hundreds of cells may need to begin.
const ASKED: i32 = 20;

/// A socket that asks a peer that often.
fn asking(flags: i32) -> Result<OwnedFd> {
    let fd = socket::socket(libc::AF_INET, libc::SOCK_STREAM | flags)?;
    socket::set_option(&fd, libc::IPPROTO_TCP, libc::TCP_SYNCNT, ASKED)?;
    Ok(fd)
}

/// `struct sockaddr_in`.
fn of(address: SocketAddr) -> Vec<u8> {
    let family = (libc::AF_INET as u16).to_ne_bytes();
    [
        &family[..],
        &address.port().to_be_bytes(),
        &Ipv4Addr::LOCALHOST.octets(),
        &[0; 8],
    ]
    .concat()
}

/// One that listens but answers nobody: a connection that waits already is all that it has room for.
fn full() -> Result<(TcpListener, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket::listen(&listener, 0)?;
    let waits = TcpStream::connect(listener.local_addr()?)?;
    Ok((listener, waits))
}

/// Takes the one that waits and the one that follows: that is from `from`.
fn take(listener: &TcpListener, first: &TcpStream, from: Option<SocketAddr>) -> Result<TcpStream> {
    same("who waited", listener.accept()?.1, first.local_addr()?)?;
    let (ready, errno, _) = file::poll(listener, libc::POLLIN, PATIENCE);
    ensure!(ready == 1, "nobody else comes: {errno}");
    let (server, address) = listener.accept()?;
    if let Some(from) = from {
        same("from where it comes", address, from)?;
    }
    Ok(server)
}

pub(super) fn asked(context: &mut Context) -> Result<()> {
    let (listener, first) = full()?;
    let fd = asking(libc::SOCK_NONBLOCK)?;
    let asked = socket::connect(&fd, &of(listener.local_addr()?));
    same("connecting", asked, libc::EINPROGRESS)?;
    let mut client = TcpStream::from(fd);
    let mut local = client.local_addr()?;
    same("poll", file::poll(&client, libc::POLLOUT, 0).0, 0)?;
    context.failover(|| {
        local.set_port(1);
        Ok(())
    })?;
    same("poll afterwards", file::poll(&client, libc::POLLOUT, 0), (0, 0, 0))?;
    same("own address", client.local_addr()?, local)?;
    ensure!(client.peer_addr().is_err(), "it has a peer already");
    let mut server = take(&listener, &first, Some(local))?;
    let (ready, errno, events) = file::poll(&client, libc::POLLOUT, PATIENCE);
    same("poll at last", (ready, errno, events), (1, 0, libc::POLLOUT))?;
    same("error", socket::option(&client, libc::SOL_SOCKET, libc::SO_ERROR)?, 0)?;
    same("peer", client.peer_addr()?, listener.local_addr()?)?;
    client.write_all(b"there")?;
    let mut data = [0; 5];
    server.read_exact(&mut data)?;
    same("data", &data, b"there")
}

fn in_connect(context: &mut Context) -> Result<()> {
    let (listener, first) = full()?;
    let address = listener.local_addr()?;
    let child = fork(|| {
        let fd = asking(0)?;
        let answered = socket::connect(&fd, &of(address));
        context.expect_failover("connect")?;
        same("connect", answered, 0)?;
        let mut client = TcpStream::from(fd);
        same("peer", client.peer_addr()?, address)?;
        client.write_all(b"there")?;
        let mut data = [0; 4];
        client.read_exact(&mut data)?;
        same("data", &data, b"back")
    })?;
    context.failover(|| {
        listener.accept()?;
        std::thread::sleep(std::time::Duration::from_secs(3));
        Ok(())
    })?;
    let mut server = take(&listener, &first, None)?;
    let mut data = [0; 5];
    server.read_exact(&mut data)?;
    same("data", &data, b"there")?;
    server.write_all(b"back")?;
    child.join("child that connected")
}

/// What a process can see of a connection that is over, without taking note.
fn seen(fd: &OwnedFd) -> Result<(i16, Vec<u8>)> {
    let asked = libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP;
    let (_, errno, events) = file::poll(fd, asked, 1000);
    same("poll", errno, 0)?;
    Ok((events, socket::name(fd)?))
}

/// What it then hears: from reading twice, and from connecting again.
fn hears(fd: &OwnedFd, address: SocketAddr) -> [i64; 3] {
    let read =
        || socket::receive_from(fd, libc::MSG_DONTWAIT).map_or_else(i64::from, |(data, _)| -(data.len() as i64) - 1);
    [read(), read(), socket::connect(fd, &of(address)).into()]
}

/// Closes a connection with a reset.
fn abort(end: TcpStream) -> Result<()> {
    let linger = [1u32, 0].map(u32::to_ne_bytes);
    let set = socket::set_long(&end, libc::SOL_SOCKET, libc::SO_LINGER, linger.as_flattened());
    drop(end);
    same("lingering", set, 0)
}

fn ended(context: &mut Context) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let connected = || Ok::<_, anyhow::Error>((TcpStream::connect(address)?, listener.accept()?.0));
    // A reset by a peer that does not linger.
    let (reset, server) = connected()?;
    abort(server)?;
    // Nobody listens.
    let refused = socket::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK)?;
    socket::connect(&refused, &of(nobody));
    // An own end, then the peer's.
    let (closed, server) = connected()?;
    closed.shutdown(std::net::Shutdown::Write)?;
    drop(server);
    std::thread::sleep(std::time::Duration::from_millis(200));
    let all = [reset.into(), refused, closed.into()];
    let state = || all.iter().map(seen).collect::<Result<Vec<_>>>();
    let before = state()?;
    context.failover(|| {
        let taken = socket::option(&all[0], libc::SOL_SOCKET, libc::SO_ERROR)?;
        same("the error", taken, libc::ECONNRESET)
    })?;
    same("events and addresses", state()?, before)?;
    let unconnected = |fd: &OwnedFd| {
        TcpStream::from(fd.try_clone()?)
            .peer_addr()
            .err()
            .ok_or_else(|| anyhow::anyhow!("it has a peer"))
    };
    for fd in &all {
        unconnected(fd)?;
    }
    // -1: nothing more comes.
    let isconn = i64::from(libc::EISCONN);
    same(
        "after a reset",
        hears(&all[0], address),
        [libc::ECONNRESET.into(), -1, isconn],
    )?;
    same("after both ends", hears(&all[2], address), [-1, -1, isconn])?;
    same(
        "after a refusal",
        hears(&all[1], nobody)[..2].to_vec(),
        vec![libc::ECONNREFUSED.into(), -1],
    )
}

fn ended_unread(context: &mut Context) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let data: Vec<u8> = (0..2000u32).flat_map(u32::to_le_bytes).collect();
    let sent = || {
        let (client, mut server) = (TcpStream::connect(address)?, listener.accept()?.0);
        server.write_all(&data)?;
        Ok::<_, anyhow::Error>((client, server))
    };
    // A reset by a peer that does not linger.
    let (reset, server) = sent()?;
    abort(server)?;
    // The peer's end, then a reset because nobody is there any more.
    let (mut closed, server) = sent()?;
    drop(server);
    closed.write_all(b"is somebody there?")?;
    std::thread::sleep(std::time::Duration::from_millis(200));
    let all: [OwnedFd; 2] = [reset.into(), closed.into()];
    let state = || {
        let state = |fd| Ok((seen(fd)?, file::readable_bytes(fd)?));
        all.iter().map(state).collect::<Result<Vec<_>>>()
    };
    let before = state()?;
    let read = |fd: &OwnedFd| socket::receive_from(fd, libc::MSG_DONTWAIT).map(|(data, _)| data);
    context.failover(|| {
        same("data", read(&all[0]), Ok(data.clone()))?;
        same("data", read(&all[1]), Ok(data.clone()))
    })?;
    same("events, addresses and how much is unread", state()?, before)?;
    for (fd, error) in all.iter().zip([Err(libc::ECONNRESET), Ok(Vec::new())]) {
        same("data", read(fd), Ok(data.clone()))?;
        same("what follows", read(fd), error)?;
        same("the end", read(fd), Ok(Vec::new()))?;
    }
    Ok(())
}

fn closed_early(context: &mut Context) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let data: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    server.set_nonblocking(true)?;
    let mut sent = 0;
    while let Ok(more @ 1..) = server.write(&data[sent..]) {
        sent += more;
    }
    drop(server);
    ensure!(sent > 100_000 && sent < data.len(), "{sent} bytes were sent");
    let wrong = usize::from(context.mutate());
    context.failover(|| Ok(()))?;
    client.set_read_timeout(Some(std::time::Duration::from_millis(PATIENCE as u64)))?;
    let mut found = Vec::new();
    client.read_to_end(&mut found)?;
    same("bytes that come", found.len(), sent)?;
    ensure!(found[wrong..] == data[..sent - wrong], "other bytes than were sent");
    Ok(())
}
