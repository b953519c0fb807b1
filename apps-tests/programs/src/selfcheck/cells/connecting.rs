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
];

/// How long a peer may take to answer a repetition, in milliseconds: it comes after 1, 2, 4 … seconds.
const PATIENCE: i32 = 120_000;

/// `struct sockaddr_in`.
fn of(address: SocketAddr) -> Vec<u8> {
    let family = (libc::AF_INET as u16).to_ne_bytes();
    [&family[..], &address.port().to_be_bytes(), &Ipv4Addr::LOCALHOST.octets(), &[0; 8]].concat()
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

fn asked(context: &mut Context) -> Result<()> {
    let (listener, first) = full()?;
    let fd: OwnedFd = socket::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK)?;
    let asked = socket::connect(&fd, &of(listener.local_addr()?));
    same("connecting", asked, libc::EINPROGRESS)?;
    let mut client = TcpStream::from(fd);
    let mut local = client.local_addr()?;
    same("poll", file::poll(&client, libc::POLLOUT, 0).0, 0)?;
    context.failover(|| {
        local.set_port(1);
        Ok(())
    })?;
    same("poll afterwards", file::poll(&client, libc::POLLOUT, 0).0, 0)?;
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
        let fd = socket::socket(libc::AF_INET, libc::SOCK_STREAM)?;
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
