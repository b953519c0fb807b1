//! Options of sockets that are not about connections: what comes with a datagram, filters, groups, links.

use crate::cell::{same, Cell, Context};
use crate::sys::socket;
use anyhow::{ensure, Result};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "socket-options/ipv4",
        what: "options of a socket of UDP over IPv4: what comes with datagrams, time stamps, a link, how it sends to groups",
        covers: &["SocketOption.name", "SocketOption.value"],
        caught: None,
        run: ipv4,
    },
    Cell {
        name: "socket-options/ipv6",
        what: "the same over IPv6",
        covers: &["SocketOption.level", "SocketOption.name", "SocketOption.value"],
        caught: None,
        run: ipv6,
    },
    Cell {
        name: "socket-options/filter",
        what: "filters of sockets, one of them for good: they let through what they let through",
        covers: &["SocketOption.value"],
        caught: None,
        run: filter,
    },
    Cell {
        name: "socket-options/groups",
        what: "memberships in multicast groups of IPv4 and IPv6: datagrams to them arrive",
        covers: &["SocketOption.value"],
        caught: None,
        run: groups,
    },
];

/// The loopback link.
const LOOPBACK: i32 = 1;
/// Options (include/uapi/asm-generic/socket.h, linux/in.h, in6.h).
const SO_TIMESTAMPING: i32 = 37;
const SO_RXQ_OVFL: i32 = 40;
const SO_SELECT_ERR_QUEUE: i32 = 45;
const SO_MAX_PACING_RATE: i32 = 47;
const SO_BINDTOIFINDEX: i32 = 62;
const IP_MULTICAST_ALL: i32 = 49;
const IPV6_MULTICAST_ALL: i32 = 29;
const IPV6_MINHOPCOUNT: i32 = 73;
/// `SOF_TIMESTAMPING_RX_SOFTWARE` and `SOF_TIMESTAMPING_SOFTWARE`.
const STAMPS: i32 = 8 | 16;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// A group of each kind, of this machine alone.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const GROUP6: [u8; 16] = [0xFF, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34];

const OF_IPV4: [(i32, i32, i32); 16] = [
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1),
    (libc::SOL_SOCKET, SO_TIMESTAMPING, STAMPS),
    (libc::SOL_SOCKET, SO_RXQ_OVFL, 1),
    (libc::SOL_SOCKET, SO_SELECT_ERR_QUEUE, 1),
    (libc::SOL_SOCKET, SO_MAX_PACING_RATE, 1_000_000),
    (libc::SOL_SOCKET, SO_BINDTOIFINDEX, LOOPBACK),
    (libc::SOL_SOCKET, libc::SO_NO_CHECK, 1),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE, 1),
    (libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
    (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR, 1),
    (libc::IPPROTO_IP, libc::IP_RECVOPTS, 1),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, 5),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, 0),
    (libc::IPPROTO_IP, IP_MULTICAST_ALL, 0),
    (libc::SOL_UDP, libc::UDP_GRO, 1),
];
const OF_IPV6: [(i32, i32, i32); 14] = [
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPOPTS, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1),
    (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, 7),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, 9),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, 0),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, LOOPBACK),
    (libc::IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 0x20),
];

fn options(context: &mut Context, family: i32, list: &[(i32, i32, i32)]) -> Result<()> {
    context.need_root()?;
    let Ok(fd) = socket::socket(family, libc::SOCK_DGRAM) else {
        return context.skip(format!("no sockets of family {family}"));
    };
    for &(level, name, value) in list {
        socket::set_option(&fd, level, name, value)?;
    }
    // All of one that nobody has touched beside the others.
    let untouched = socket::socket(family, libc::SOCK_DGRAM)?;
    let state = |fd: &OwnedFd| -> Result<Vec<(i32, i32, i32)>> {
        let all = list.iter();
        all.map(|&(level, name, _)| Ok((level, name, socket::option(fd, level, name)?)))
            .collect()
    };
    let before = [state(&fd)?, state(&untouched)?];
    ensure!(before[0] != before[1], "the options make no difference");
    context.failover(|| {
        let &(level, name, value) = list.last().unwrap_or(&(0, 0, 0));
        socket::set_option(&fd, level, name, i32::from(value == 0))
    })?;
    same("options", [state(&fd)?, state(&untouched)?], before)
}

fn ipv4(context: &mut Context) -> Result<()> {
    options(context, libc::AF_INET, &OF_IPV4)
}

fn ipv6(context: &mut Context) -> Result<()> {
    options(context, libc::AF_INET6, &OF_IPV6)
}

/// A filter that drops datagrams of UDP that begin with a byte.
fn without(byte: u8) -> [libc::sock_filter; 4] {
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    [
        // The byte behind the head.
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 8),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, byte.into()),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0xFFFF),
    ]
}

fn filter(context: &mut Context) -> Result<()> {
    let open = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let locked = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    for fd in [&open, &locked] {
        socket::attach_filter(fd, &without(b'x'))?;
        fd.set_read_timeout(Some(PATIENCE))?;
    }
    socket::set_option(&locked, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)?;
    context.failover(|| socket::set_option(&open, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0))?;
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    for fd in [&open, &locked] {
        for data in [b"x first", b"y other"] {
            sender.send_to(data, fd.local_addr()?)?;
        }
        let mut found = [0; 16];
        let length = fd.recv(&mut found)?;
        same("what comes first", &found[..length], &b"y other"[..])?;
    }
    let detach = |fd: &UdpSocket| socket::set_long(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &[0; 4]);
    same("detaching", [detach(&open), detach(&locked)], [0, libc::EPERM])
}

/// `struct ip_mreqn`: group, address, link.
fn membership() -> Vec<u8> {
    [&GROUP.octets()[..], &[0; 4], &LOOPBACK.to_ne_bytes()].concat()
}

/// `struct ipv6_mreq`: group, link.
fn membership6() -> Vec<u8> {
    [&GROUP6[..], &LOOPBACK.to_ne_bytes()].concat()
}

fn groups(context: &mut Context) -> Result<()> {
    let join = |fd: &dyn AsFd| socket::set_long(&fd.as_fd(), libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &membership());
    let join6 = |fd: &dyn AsFd| {
        let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP);
        socket::set_long(&fd.as_fd(), level, name, &membership6())
    };
    let member = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    if join(&member) != 0 {
        return context.skip("no groups on the loopback link");
    }
    let six = socket::socket(libc::AF_INET6, libc::SOCK_DGRAM).ok();
    let six = six.filter(|six| join6(six) == 0);
    member.set_read_timeout(Some(PATIENCE))?;
    context.failover(|| {
        let (level, name) = (libc::IPPROTO_IP, libc::IP_DROP_MEMBERSHIP);
        same("leaving", socket::set_long(&member, level, name, &membership()), 0)
    })?;
    same("joining again", join(&member), libc::EADDRINUSE)?;
    if let Some(six) = six {
        same("joining again over IPv6", join6(&six), libc::EADDRINUSE)?;
    }
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    // The link by which it goes out: struct ip_mreqn.
    let link = [&[0; 8][..], &LOOPBACK.to_ne_bytes()].concat();
    same(
        "link",
        socket::set_long(&sender, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &link),
        0,
    )?;
    sender.send_to(b"to all", (GROUP, member.local_addr()?.port()))?;
    let mut found = [0; 16];
    let length = member.recv(&mut found)?;
    same("what comes to the group", &found[..length], &b"to all"[..])
}
