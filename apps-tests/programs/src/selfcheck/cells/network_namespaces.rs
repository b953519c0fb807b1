//! Network namespaces, as a service manager makes them for services that need no network: what is kept of sockets of the
//! first one is kept of theirs.

use super::{connecting, namespaces, netlink, packets, sockets, unix_sockets};
use crate::cell::{same, Cell, Context};
use crate::sys::namespace;
use crate::sys::process::{fork, Child};
use anyhow::{ensure, Result};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::time::Duration;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "network-namespace/settings",
        what: "settings, addresses of the loopback link, and ports that others have in the first namespace, where a child looks at those",
        covers: &[
            "NamespaceKind.Network",
            "NetworkNamespace.up",
            "NetworkNamespace.addresses",
            "NetworkNamespace.settings",
            "InNamespace.namespace",
        ],
        caught: None,
        run: settings,
    },
    Cell {
        name: "network-namespace/link-down",
        what: "a loopback link that is down: nobody is reached by it",
        covers: &["NetworkNamespace.up"],
        caught: None,
        run: link_down,
    },
    Cell {
        name: "network-namespace/no-address",
        what: "a loopback link whose address of IPv4 was taken away",
        covers: &["NetworkNamespace.addresses", "NetworkNamespace.lives"],
        caught: None,
        run: no_address,
    },
    Cell {
        name: "network-namespace/abstract",
        what: "an abstract name that somebody else has in the first namespace, with connections to both",
        covers: &["UnixSocket.name"],
        caught: None,
        run: abstract_names,
    },
    Cell {
        name: "network-namespace/across",
        what: "a connection by the name of a file to a process in the first namespace, with data on the way in both directions",
        covers: &["UnixSocket.peer"],
        caught: None,
        run: across,
    },
    Cell {
        name: "network-namespace/connected",
        what: "sockets/connected in a namespace of its own",
        covers: &["SocketState.Connected"],
        caught: None,
        run: |context| inside(context, sockets::connected4),
    },
    Cell {
        name: "network-namespace/connected-ipv6",
        what: "sockets/connected-ipv6 in a namespace of its own",
        covers: &["NetworkNamespace.lives", "SocketState.Connected"],
        caught: None,
        run: |context| inside(context, sockets::connected6),
    },
    Cell {
        name: "network-namespace/waiting",
        what: "sockets/waiting in a namespace of its own",
        covers: &["SocketState.Listening"],
        caught: None,
        run: |context| inside(context, sockets::waiting),
    },
    Cell {
        name: "network-namespace/closing",
        what: "sockets/closing in a namespace of its own",
        covers: &["TcpConnection.shutdown"],
        caught: None,
        run: |context| inside(context, sockets::closing),
    },
    Cell {
        name: "network-namespace/asked",
        what: "connecting/asked in a namespace of its own",
        covers: &["SocketState.Connecting"],
        caught: None,
        run: |context| inside(context, connecting::asked),
    },
    Cell {
        name: "network-namespace/udp",
        what: "sockets/udp in a namespace of its own",
        covers: &["SocketState.Plain"],
        caught: None,
        run: |context| inside(context, sockets::udp),
    },
    Cell {
        name: "network-namespace/datagrams",
        what: "unix-sockets/datagrams in a namespace of its own",
        covers: &["UnixSocket.limit"],
        caught: None,
        run: |context| inside(context, unix_sockets::datagrams),
    },
    Cell {
        name: "network-namespace/netlink",
        what: "netlink/answer in a namespace of its own",
        covers: &["SocketState.Netlink"],
        caught: None,
        run: |context| inside(context, netlink::answer),
    },
    Cell {
        name: "network-namespace/packets",
        what: "packets/raw in a namespace of its own",
        covers: &["Socket.protocol"],
        caught: None,
        run: |context| inside(context, packets::raw),
    },
];

/// How long somebody is waited for who was told to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// An address that the loopback link is given, and by which name.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 7);
const LABEL: &str = "lo:7";

/// A network of its own, with a loopback link that is up.
fn new(context: &Context) -> Result<()> {
    context.need_root()?;
    namespaces::new(libc::CLONE_NEWNET)?;
    namespace::set_up("lo", true)
}

/// Runs a cell in a network of its own.
fn inside(context: &mut Context, cell: fn(&mut Context) -> Result<()>) -> Result<()> {
    new(context)?;
    cell(context)
}

/// That a socket is of the network this process is in.
fn is_own(socket: &impl AsFd) -> Result<()> {
    let own = fs::metadata("/proc/self/ns/net")?;
    let of_socket = namespace::of_socket(socket)?.metadata()?;
    same("the network of a socket", of_socket.ino(), own.ino())
}

/// What is set in the namespace: each other than the kernel sets it.
const SETTINGS: [(&str, &str); 8] = [
    ("net/core/somaxconn", "99"),
    ("net/ipv4/conf/lo/accept_local", "1"),
    ("net/ipv4/ip_default_ttl", "77"),
    ("net/ipv4/ip_local_port_range", "40000\t40100"),
    ("net/ipv4/ip_unprivileged_port_start", "80"),
    ("net/ipv4/tcp_keepalive_time", "1234"),
    ("net/ipv6/conf/lo/hop_limit", "33"),
    ("net/unix/max_dgram_qlen", "21"),
];

fn seen() -> Result<Vec<String>> {
    let read = |(name, _)| Ok(fs::read_to_string(format!("/proc/sys/{name}"))?.trim().to_owned());
    SETTINGS.into_iter().map(read).collect()
}

/// That a connection to an address comes to this listener.
fn reaches(listener: &TcpListener, address: SocketAddr) -> Result<()> {
    is_own(listener)?;
    let mut client = TcpStream::connect_timeout(&address, PATIENCE)?;
    let (mut server, from) = listener.accept()?;
    same("who connects", from, client.local_addr()?)?;
    client.write_all(b"there")?;
    let mut data = [0; 5];
    server.read_exact(&mut data)?;
    same("data", &data, b"there")
}

fn settings(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = outside.local_addr()?;
    let of_first = seen()?;
    let child = fork(|| {
        context.wait()?;
        same("settings of the first namespace", seen()?, of_first.clone())?;
        reaches(&outside, address)
    })?;
    drop(outside);
    new(context)?;
    for (name, value) in SETTINGS {
        fs::write(format!("/proc/sys/{name}"), value)?;
    }
    namespace::set_address(LABEL, ADDRESS)?;
    let before = seen()?;
    ensure!(
        before.iter().zip(&of_first).all(|(own, first)| own != first),
        "something is not set: {before:?}, {of_first:?}"
    );
    let listeners = [Ipv4Addr::LOCALHOST, ADDRESS].map(|ip| TcpListener::bind((ip, address.port())));
    let [own, added] = listeners;
    let (own, added) = (own?, added?);
    context.failover(|| Ok(fs::write("/proc/sys/net/ipv4/ip_default_ttl", "78")?))?;
    same("settings", seen()?, before)?;
    reaches(&own, address)?;
    reaches(&added, (ADDRESS, address.port()).into())?;
    let links = fs::read_to_string("/proc/self/net/dev")?;
    same("links", links.lines().count(), 3)?;
    child.join("child")
}

fn link_down(context: &mut Context) -> Result<()> {
    context.need_root()?;
    namespaces::new(libc::CLONE_NEWNET)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    let reached = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|error| error.kind());
    same("before", reached().err(), Some(ErrorKind::NetworkUnreachable))?;
    context.failover(|| namespace::set_up("lo", true))?;
    is_own(&listener)?;
    same("after", reached().err(), Some(ErrorKind::NetworkUnreachable))?;
    namespace::set_up("lo", true)?;
    ensure!(reached().is_ok(), "it is not reached when the link is up");
    Ok(())
}

fn no_address(context: &mut Context) -> Result<()> {
    new(context)?;
    namespace::set_address("lo", Ipv4Addr::UNSPECIFIED)?;
    let bound = |address: &str| TcpListener::bind(address).map(drop).map_err(|error| error.kind());
    let state = || ["127.0.0.1:0", "[::1]:0"].map(bound);
    let before = state();
    same("before", before, [Err(ErrorKind::AddrNotAvailable), Ok(())])?;
    context.failover(|| namespace::set_address("lo", Ipv4Addr::LOCALHOST))?;
    same("after", state(), before)
}

/// Answers one connection with a word.
fn answer(listener: &UnixListener, word: &[u8]) -> Result<()> {
    is_own(listener)?;
    let (mut stream, _) = listener.accept()?;
    Ok(stream.write_all(word)?)
}

/// Five bytes.
fn five(stream: &mut UnixStream) -> Result<[u8; 5]> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut data = [0; 5];
    stream.read_exact(&mut data)?;
    Ok(data)
}

fn abstract_names(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let name = UnixAddress::from_abstract_name(format!("selfcheck-networks-{}", std::process::id()))?;
    let outside = UnixListener::bind_addr(&name)?;
    let child: Child = fork(|| {
        let (mut client, mut server) = (UnixStream::connect_addr(&name)?, outside.accept()?.0);
        server.write_all(b"first")?;
        context.wait()?;
        same("data in the first namespace", &five(&mut client)?, b"first")?;
        let mut client = UnixStream::connect_addr(&name)?;
        answer(&outside, b"outer")?;
        same("who answers in the first namespace", &five(&mut client)?, b"outer")
    })?;
    drop(outside);
    new(context)?;
    let own = UnixListener::bind_addr(&name)?;
    let (mut client, mut server) = (UnixStream::connect_addr(&name)?, own.accept()?.0);
    server.write_all(b"other")?;
    context.failover(|| five(&mut client.try_clone()?).map(drop))?;
    client.set_nonblocking(true)?;
    same("data", &five(&mut client)?, b"other")?;
    same(
        "name of the accepted end",
        server.local_addr()?.as_abstract_name(),
        name.as_abstract_name(),
    )?;
    for socket in [&client, &server] {
        is_own(socket)?;
    }
    let mut client = UnixStream::connect_addr(&name)?;
    answer(&own, b"inner")?;
    same("who answers", &five(&mut client)?, b"inner")?;
    child.join("child")
}

fn across(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let path = context.path("socket");
    let listener = UnixListener::bind(&path)?;
    let child = fork(|| {
        let (mut server, _) = listener.accept()?;
        server.write_all(b"there")?;
        context.wait()?;
        same("data of the other namespace", &five(&mut server)?, b"hello")?;
        same("own name", server.local_addr()?.as_pathname(), Some(&*path))?;
        Ok(server.write_all(b"again")?)
    })?;
    drop(listener);
    new(context)?;
    let mut client = UnixStream::connect(&path)?;
    client.write_all(b"hello")?;
    context.failover(|| five(&mut client.try_clone()?).map(drop))?;
    is_own(&client)?;
    same("data of the first namespace", &five(&mut client)?, b"there")?;
    same("the peer's name", client.peer_addr()?.as_pathname(), Some(&*path))?;
    same("data afterwards", &five(&mut client)?, b"again")?;
    child.join("child")
}
