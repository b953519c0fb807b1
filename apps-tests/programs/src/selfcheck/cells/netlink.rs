//! Sockets of netlink.

use crate::cell::{same, Cell, Context};
use crate::sys::socket;
use anyhow::{ensure, Result};
use std::os::fd::OwnedFd;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "netlink/answer",
        what: "an answer of the kernel that nobody has read, byte for byte, port and options; a further question is answered",
        covers: &[
            "SocketState.Netlink",
            "NetlinkSocket.port",
            "NetlinkSocket.messages",
            "NetlinkMessage.length",
            "NetlinkMessage.port",
        ],
        caught: None,
        run: answer,
    },
    Cell {
        name: "netlink/groups",
        what: "sockets that hear what becomes of links and devices: they are told that they have missed something, once, and hear on",
        covers: &["NetlinkSocket.missed"],
        caught: None,
        run: groups,
    },
    Cell {
        name: "netlink/between-processes",
        what: "two sockets of NETLINK_USERSOCK, one connected to the other, with a message on its way: sender and credentials",
        covers: &["NetlinkSocket.peer", "NetlinkMessage.credentials", "NetlinkMessage.group"],
        caught: None,
        run: between,
    },
];

/// Options of `SOL_NETLINK` (include/uapi/linux/netlink.h).
const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
const OPTIONS: [i32; 3] = [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK, 12];
/// `RTM_NEWLINK` and `RTM_GETLINK` (include/uapi/linux/rtnetlink.h).
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
/// `RTNLGRP_LINK`, and the one group of NETLINK_KOBJECT_UEVENT.
const LINKS: i32 = 1;
const EVENTS: i32 = 1;
/// A file that makes the kernel tell of the device again.
const EVENT: &str = "/sys/devices/virtual/mem/null/uevent";

fn make(protocol: i32) -> Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK;
    socket::socket_of(libc::AF_NETLINK, kind, protocol)
}

/// `struct sockaddr_nl`: family, padding, port, set of groups.
fn address(port: u32) -> Vec<u8> {
    let family = (libc::AF_NETLINK as u16).to_ne_bytes();
    [&family[..], &[0; 2], &port.to_ne_bytes(), &[0; 4]].concat()
}

/// Asks about the loopback link: `struct nlmsghdr`, `struct ifinfomsg`.
fn ask(fd: &OwnedFd, number: u32) -> Result<()> {
    let head = [32u32.to_ne_bytes(), (u32::from(GET_LINK) | 1 << 16).to_ne_bytes()].concat();
    let link = [&[0; 4][..], &1u32.to_ne_bytes(), &[0; 8]].concat();
    let message = [&head[..], &number.to_ne_bytes(), &[0; 4], &link].concat();
    same(
        "bytes asked",
        socket::send_to(fd, &message, &address(0))?,
        message.len(),
    )
}

/// What is in a queue first, without taking it.
fn first(fd: &OwnedFd) -> Result<(Vec<u8>, Vec<u8>), i32> {
    socket::receive_from(fd, libc::MSG_PEEK | libc::MSG_DONTWAIT)
}

pub(super) fn answer(context: &mut Context) -> Result<()> {
    let fd = make(libc::NETLINK_ROUTE)?;
    for name in OPTIONS {
        socket::set_option(&fd, libc::SOL_NETLINK, name, 1)?;
    }
    let unbound = make(libc::NETLINK_ROUTE)?;
    ask(&fd, 77)?;
    let (data, from) = first(&fd).map_err(|errno| anyhow::anyhow!("no answer: {errno}"))?;
    same("who answers", &from, &address(0))?;
    let options = || OPTIONS.map(|name| socket::option(&fd, libc::SOL_NETLINK, name).ok());
    let state = || Ok::<_, anyhow::Error>((socket::name(&fd)?, options(), socket::name(&unbound)?));
    let before = state()?;
    ensure!(before.0 != before.2, "it has no port");
    context.failover(|| {
        let taken = socket::receive_from(&fd, libc::MSG_DONTWAIT);
        ensure!(taken.is_ok(), "there was nothing");
        Ok(())
    })?;
    same("ports and options", state()?, before)?;
    let found = socket::receive_from(&fd, libc::MSG_DONTWAIT);
    let sizes = found.as_ref().map(|(found, from)| (found.len(), from.len()));
    ensure!(found == Ok((data, from)), "another answer, with sizes {sizes:?}");
    same("a second one", first(&fd), Err(libc::EAGAIN))?;
    ask(&fd, 78)?;
    let (data, _) = first(&fd).map_err(|errno| anyhow::anyhow!("no further answer: {errno}"))?;
    same("its kind", data.get(4..6), Some(&NEW_LINK.to_ne_bytes()[..]))?;
    same("its number", data.get(8..12), Some(&78u32.to_ne_bytes()[..]))
}

fn groups(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let sockets = [make(libc::NETLINK_ROUTE)?, make(libc::NETLINK_KOBJECT_UEVENT)?];
    for (fd, group) in sockets.iter().zip([LINKS, EVENTS]) {
        socket::bind(fd, &address(0))?;
        socket::set_option(fd, libc::SOL_NETLINK, ADD_MEMBERSHIP, group)?;
    }
    if std::fs::write(EVENT, "change").is_err() {
        return context.skip("no device to hear of");
    }
    context.failover(|| socket::set_option(&sockets[0], libc::SOL_NETLINK, DROP_MEMBERSHIP, LINKS))?;
    if !context.is_assumed() {
        for fd in &sockets {
            let said = socket::receive_from(fd, libc::MSG_DONTWAIT).map(|(data, _)| data.len());
            same("what it is told first", said, Err(libc::ENOBUFS))?;
        }
    }
    let heard = |fd: &OwnedFd, word: &str| {
        let texts = std::iter::from_fn(|| socket::receive_from(fd, libc::MSG_DONTWAIT).ok());
        texts
            .filter(|(data, _)| String::from_utf8_lossy(data).contains(word))
            .count()
    };
    heard(&sockets[1], "");
    std::fs::write(EVENT, "change")?;
    ensure!(
        heard(&sockets[1], "change@/devices/virtual/mem/null") == 1,
        "it does not hear"
    );
    let (level, name) = (libc::SOL_NETLINK, libc::NETLINK_LIST_MEMBERSHIPS);
    same(
        "groups",
        socket::long(&sockets[0], level, name, 4)?,
        vec![1 << (LINKS - 1), 0, 0, 0],
    )
}

fn between(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let port = std::process::id() << 1;
    let (one, other) = (make(libc::NETLINK_USERSOCK)?, make(libc::NETLINK_USERSOCK)?);
    socket::bind(&one, &address(port | 0x4000_0000))?;
    socket::bind(&other, &address(port | 0x4000_0001))?;
    socket::set_option(&other, libc::SOL_SOCKET, libc::SO_PASSCRED, 1)?;
    same("connecting", socket::connect(&one, &address(port | 0x4000_0001)), 0)?;
    socket::send_to(&one, b"on its way", &[])?;
    let mutated = u8::from(context.mutate());
    context.failover(|| Ok(()))?;
    let received = socket::receive_with(&other)?;
    let process = std::process::id() as i32 + i32::from(mutated);
    same("data", &received.data[..], &b"on its way"[..])?;
    same("its sender", received.sender, Some((process, 0)))?;
    socket::send_to(&one, b"more", &[])?;
    let more = socket::receive_from(&other, libc::MSG_DONTWAIT);
    same("more", more, Ok((b"more".to_vec(), address(port | 0x4000_0000))))
}
