//! Raw sockets, of pings, of UDP-Lite and of packets.

use crate::cell::{same, Cell, Context};
use crate::sys::socket;
use anyhow::{ensure, Result};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "packets/raw",
        what: "raw sockets of IPv4 with a filter for ICMP, connected, and with headers of their own; of IPv6 with a filter",
        covers: &["Socket.protocol", "SocketState.Plain"],
        caught: None,
        run: raw,
    },
    Cell {
        name: "packets/ping",
        what: "a socket for pings without privilege: its number, and that it is answered",
        covers: &["Socket.protocol", "InetAddress.port"],
        caught: None,
        run: ping,
    },
    Cell {
        name: "packets/udp-lite",
        what: "sockets of UDP-Lite with coverages; datagrams go both ways",
        covers: &["Socket.protocol", "SocketOption.level"],
        caught: None,
        run: udp_lite,
    },
    Cell {
        name: "packets/link",
        what: "sockets of packets of one link and of all, with options and a membership: packets are seen",
        covers: &["SocketState.Packet"],
        caught: None,
        run: link,
    },
];

/// Options (include/uapi/linux/icmp.h, in6.h, udp.h, if_packet.h).
const SOL_RAW: i32 = 255;
const ICMP_FILTER: i32 = 1;
const UDPLITE_SEND_CSCOV: i32 = 10;
const UDPLITE_RECV_CSCOV: i32 = 11;
const PACKET_AUXDATA: i32 = 8;
const PACKET_IGNORE_OUTGOING: i32 = 23;
/// Types of ICMP.
const ECHO_REPLY: u8 = 0;
const ECHO: u8 = 8;
/// The loopback link.
const LOOPBACK: u32 = 1;
/// `ETH_P_IP` and `ETH_P_ALL`.
const ETH_P_IP: u16 = 0x800;
const ETH_P_ALL: u16 = 3;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Who may ask by pings: groups from, to.
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";

/// `struct sockaddr_in` of this machine.
fn here(port: u16) -> Vec<u8> {
    let family = (libc::AF_INET as u16).to_ne_bytes();
    [&family[..], &port.to_be_bytes(), &Ipv4Addr::LOCALHOST.octets(), &[0; 8]].concat()
}

/// An echo request: type, code, checksum, identity, number.
fn echo(identity: u16, number: u16) -> Vec<u8> {
    let words = [u16::from(ECHO) << 8, 0, identity, number];
    let mut sum: u32 = words.iter().map(|&word| u32::from(word)).sum();
    sum = (sum & 0xFFFF) + (sum >> 16);
    let words = [words[0], !(sum as u16), identity, number];
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn patient(fd: &OwnedFd) -> Result<()> {
    // struct timeval.
    let time = [PATIENCE.as_secs(), 0].map(u64::to_ne_bytes);
    let (level, name) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO);
    same("patience", socket::set_long(fd, level, name, time.as_flattened()), 0)
}

fn receive(fd: &OwnedFd) -> Result<Vec<u8>> {
    let received = socket::receive_from(fd, 0);
    received
        .map(|(data, _)| data)
        .map_err(|errno| anyhow::anyhow!("nothing comes: {errno}"))
}

pub(super) fn raw(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let icmp = socket::socket_of(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?;
    patient(&icmp)?;
    // All but answers.
    let filter = !(1u32 << ECHO_REPLY);
    socket::set_option(&icmp, SOL_RAW, ICMP_FILTER, filter as i32)?;
    same("connecting", socket::connect(&icmp, &here(0)), 0)?;
    let own = socket::socket_of(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    let six = socket::socket_of(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6).ok();
    let filter6: Vec<u8> = (0..32).map(|byte| byte * 3).collect();
    if let Some(six) = &six {
        same("filter", socket::set_long(six, libc::IPPROTO_ICMPV6, 1, &filter6), 0)?;
    }
    let state = || -> Result<_> {
        let name = socket::name(&icmp)?;
        let headers = socket::option(&own, libc::IPPROTO_IP, libc::IP_HDRINCL)?;
        let mut filters = vec![socket::long(&icmp, SOL_RAW, ICMP_FILTER, 4)?];
        if let Some(six) = &six {
            filters.push(socket::long(six, libc::IPPROTO_ICMPV6, 1, 32)?);
        }
        Ok((name, headers, filters))
    };
    let before = state()?;
    context.failover(|| socket::set_option(&icmp, SOL_RAW, ICMP_FILTER, -1))?;
    same("addresses, headers and filters", state()?, before)?;
    // What was asked passes by the filter, the answer comes through.
    socket::send_to(&icmp, &echo(0x1234, 1), &[])?;
    // Others on the machine are answered as well.
    let own = |packet: &[u8]| packet.get(24..28) == Some(&[0x12, 0x34, 0, 1]);
    let mut packet = receive(&icmp)?;
    while !own(&packet) {
        packet = receive(&icmp)?;
    }
    same("what comes", packet.get(20), Some(&ECHO_REPLY))
}

fn ping(context: &mut Context) -> Result<()> {
    context.need_root()?;
    std::fs::write(PING_GROUPS, "0 2147483647")?;
    let Ok(fd) = socket::socket_of(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP) else {
        return context.skip("no pings");
    };
    patient(&fd)?;
    socket::bind(&fd, &here(0x4321))?;
    let mut before = socket::name(&fd)?;
    context.failover(|| {
        before[2] ^= 1;
        Ok(())
    })?;
    same("address", &socket::name(&fd)?, &before)?;
    socket::send_to(&fd, &echo(0, 7), &here(0))?;
    let answer = receive(&fd)?;
    same(
        "answer",
        (answer[0], &answer[4..8]),
        (ECHO_REPLY, &[0x43, 0x21, 0, 7][..]),
    )
}

fn udp_lite(context: &mut Context) -> Result<()> {
    let kind = || socket::socket_of(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE);
    let Ok(one) = kind() else {
        return context.skip("no UDP-Lite");
    };
    let other = kind()?;
    for fd in [&one, &other] {
        patient(fd)?;
        socket::bind(fd, &here(0))?;
        socket::set_option(fd, libc::IPPROTO_UDPLITE, UDPLITE_SEND_CSCOV, 12)?;
        socket::set_option(fd, libc::IPPROTO_UDPLITE, UDPLITE_RECV_CSCOV, 10)?;
    }
    let to = socket::name(&other)?;
    same("connecting", socket::connect(&one, &to), 0)?;
    let coverage = |name| socket::option(&one, libc::IPPROTO_UDPLITE, name);
    let state = || {
        Ok::<_, anyhow::Error>((
            coverage(UDPLITE_SEND_CSCOV)?,
            coverage(UDPLITE_RECV_CSCOV)?,
            socket::name(&one)?,
        ))
    };
    let before = state()?;
    context.failover(|| socket::set_option(&one, libc::IPPROTO_UDPLITE, UDPLITE_RECV_CSCOV, 14))?;
    same("coverages and address", state()?, before.clone())?;
    socket::send_to(&one, b"there", &[])?;
    same("there", &receive(&other)?[..], b"there")?;
    socket::send_to(&other, b"back", &before.2)?;
    same("back", &receive(&one)?[..], b"back")
}

/// `struct sockaddr_ll`: family, protocol, link, and what is not looked at.
fn of_link(protocol: u16, link: u32) -> Vec<u8> {
    let family = (libc::AF_PACKET as u16).to_ne_bytes();
    [&family[..], &protocol.to_be_bytes(), &link.to_ne_bytes(), &[0; 12]].concat()
}

/// Sends a datagram until its packet is seen: beside those of everybody else there may be no room for it.
fn sees(fd: &OwnedFd) -> Result<()> {
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let word = format!("a word of process {}", std::process::id());
    let has = |data: &[u8]| data.windows(word.len()).any(|part| part == word.as_bytes());
    for _ in 0..6000 {
        sender.send_to(word.as_bytes(), sender.local_addr()?)?;
        while let Ok((data, _)) = socket::receive_from(fd, libc::MSG_DONTWAIT) {
            if has(&data) {
                return Ok(());
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    anyhow::bail!("the packet is not seen")
}

/// Whether the loopback link hands over all packets, for somebody (`IFF_PROMISC`).
fn sees_all() -> Result<bool> {
    let flags = std::fs::read_to_string("/sys/class/net/lo/flags")?;
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16)?;
    Ok(flags & libc::IFF_PROMISC as u32 != 0)
}

fn link(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let Ok(bound) = socket::socket_of(libc::AF_PACKET, libc::SOCK_RAW, 0) else {
        return context.skip("no sockets of packets");
    };
    let all = socket::socket_of(libc::AF_PACKET, libc::SOCK_DGRAM, ETH_P_ALL.to_be().into())?;
    let none = socket::socket_of(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    for name in [PACKET_AUXDATA, PACKET_IGNORE_OUTGOING] {
        socket::set_option(&bound, libc::SOL_PACKET, name, 1)?;
    }
    // struct packet_mreq: all packets of the link.
    let membership = [
        &LOOPBACK.to_ne_bytes()[..],
        &(libc::PACKET_MR_PROMISC as u16).to_ne_bytes(),
        &[0; 10],
    ]
    .concat();
    let (level, name) = (libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP);
    same("membership", socket::set_long(&bound, level, name, &membership), 0)?;
    socket::bind(&bound, &of_link(ETH_P_IP, LOOPBACK))?;
    let options =
        || [PACKET_AUXDATA, PACKET_IGNORE_OUTGOING].map(|name| socket::option(&bound, libc::SOL_PACKET, name).ok());
    let names = || Ok::<_, anyhow::Error>([socket::name(&bound)?, socket::name(&all)?, socket::name(&none)?]);
    let before = (options(), names()?);
    context.failover(|| socket::bind(&none, &of_link(ETH_P_IP, LOOPBACK)))?;
    same("options and addresses", (options(), names()?), before)?;
    ensure!(sees_all()?, "the link does not hand all packets over any more");
    let (level, name) = (libc::SOL_PACKET, libc::PACKET_DROP_MEMBERSHIP);
    same("leaving", socket::set_long(&bound, level, name, &membership), 0)?;
    ensure!(!sees_all()?, "it was a member twice");
    sees(&bound)?;
    sees(&all)
}
