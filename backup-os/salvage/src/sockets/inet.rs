//! Sockets of IP (`include/net/inet_sock.h`): addresses and options.

use super::{datagrams, multicast, refuse, tcp, Queues, Reading, Related, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;
use shared_region::context::{InetAddress, SocketState};

/// Protocols (`include/uapi/linux/in.h`).
const IPPROTO_TCP: u64 = 6;
/// Options of `IPPROTO_IP` (`include/uapi/linux/in.h`).
const IPPROTO_IP: i32 = 0;
const IP_TOS: i32 = 1;
const IP_TTL: i32 = 2;
const IP_HDRINCL: i32 = 3;
const IP_RECVOPTS: i32 = 6;
const IP_RETOPTS: i32 = 7;
const IP_PKTINFO: i32 = 8;
const IP_MTU_DISCOVER: i32 = 10;
const IP_RECVERR: i32 = 11;
const IP_RECVTTL: i32 = 12;
const IP_RECVTOS: i32 = 13;
const IP_FREEBIND: i32 = 15;
const IP_TRANSPARENT: i32 = 19;
const IP_ORIGDSTADDR: i32 = 20;
const IP_MINTTL: i32 = 21;
const IP_NODEFRAG: i32 = 22;
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;
const IP_RECVFRAGSIZE: i32 = 25;
const IP_RECVERR_RFC4884: i32 = 26;
const IP_UNICAST_IF: i32 = 50;
/// A time to live that nobody has set.
const DEFAULT_TTL: i64 = -1;

/// Bits of `inet_sock.inet_flags` (`enum` in `include/net/inet_sock.h`), into which those of older kernels are translated.
pub mod bits {
    #![allow(missing_docs)]
    pub const PKTINFO: u64 = 1 << 0;
    pub const TTL: u64 = 1 << 1;
    pub const TOS: u64 = 1 << 2;
    pub const RECVOPTS: u64 = 1 << 3;
    pub const RETOPTS: u64 = 1 << 4;
    pub const ORIGDSTADDR: u64 = 1 << 6;
    pub const RECVFRAGSIZE: u64 = 1 << 8;
    pub const RECVERR: u64 = 1 << 9;
    pub const RECVERR_RFC4884: u64 = 1 << 10;
    pub const FREEBIND: u64 = 1 << 11;
    pub const HDRINCL: u64 = 1 << 12;
    pub const MC_LOOP: u64 = 1 << 13;
    pub const MC_ALL: u64 = 1 << 14;
    pub const TRANSPARENT: u64 = 1 << 15;
    pub const IS_ICSK: u64 = 1 << 16;
    pub const NODEFRAG: u64 = 1 << 17;
    pub const BIND_ADDRESS_NO_PORT: u64 = 1 << 18;
    pub const MC6_LOOP: u64 = 1 << 20;
    pub const MC6_ALL: u64 = 1 << 22;
    pub const DONTFRAG: u64 = 1 << 25;
    pub const RECVERR6: u64 = 1 << 26;
    /// Set by the kernel alone, or looked at elsewhere.
    pub const PLAIN: u64 = MC_LOOP | MC_ALL | IS_ICSK | MC6_LOOP | MC6_ALL | HDRINCL | DONTFRAG | RECVERR6;
}

/// Options that are a bit.
const FLAGS: [(u64, i32); 12] = [
    (bits::PKTINFO, IP_PKTINFO),
    (bits::TTL, IP_RECVTTL),
    (bits::TOS, IP_RECVTOS),
    (bits::RECVOPTS, IP_RECVOPTS),
    (bits::RETOPTS, IP_RETOPTS),
    (bits::ORIGDSTADDR, IP_ORIGDSTADDR),
    (bits::RECVFRAGSIZE, IP_RECVFRAGSIZE),
    (bits::RECVERR, IP_RECVERR),
    (bits::RECVERR_RFC4884, IP_RECVERR_RFC4884),
    (bits::FREEBIND, IP_FREEBIND),
    (bits::TRANSPARENT, IP_TRANSPARENT),
    (bits::BIND_ADDRESS_NO_PORT, IP_BIND_ADDRESS_NO_PORT),
];

crate::mirrors! {
    /// A socket of IP.
    #[allow(missing_docs)]
    pub struct InetSock = "inet_sock" {
        pinet6: Field,
        inet_saddr: Field,
        inet_sport: Field,
        uc_ttl: Field,
        mc_ttl: Field,
        inet_opt: Field,
        tos: Field,
        min_ttl: Field,
        pmtudisc: Field,
        convert_csum: Field,
        uc_index: Field,
        mc_index: Field,
        mc_addr: Field,
        mc_list: Field,
        // A structure of two ports, or both in one word from Linux 6.8 on (d9f28735af87).
        local_port_range: Field,
        // Bits in one word from Linux 6.6 on (c274af224269); bit-fields before.
        inet_flags: Option<Field> = "inet_flags",
        cmsg_flags: Option<Field> = "cmsg_flags",
        recverr: Option<Field> = "recverr",
        freebind: Option<Field> = "freebind",
        hdrincl: Option<Field> = "hdrincl",
        transparent: Option<Field> = "transparent",
        nodefrag: Option<Field> = "nodefrag",
        bind_address_no_port: Option<Field> = "bind_address_no_port",
        recverr_rfc4884: Option<Field> = "recverr_rfc4884",
        mc_loop: Option<Field> = "mc_loop",
        mc_all: Option<Field> = "mc_all",
        defer_connect: Option<Field> = "defer_connect",
    }
}

/// Reads a socket of IP.
///
/// # Errors
/// It is in a state that is not restored, or cannot be read.
pub fn read<M: PhysMem + ?Sized>(
    reading: &mut Reading<'_, '_, '_, M>,
    queues: &mut Queues,
    related: &mut Related,
    six: bool,
) -> Result<SocketState> {
    let kernel = reading.context.kernel;
    let layout = &kernel.types.layouts.sock;
    let flags = flags(reading)?;
    let (kind, protocol) = (reading.field(layout.sk_type)?, reading.field(layout.sk_protocol)?);
    // A raw socket of IPv6 has no options of IPv4 (`ipv6_setsockopt`).
    let four = !(six && kind == SOCK_RAW);
    match four {
        true => options(reading, flags)?,
        false if flags & !bits::PLAIN != 0 => {
            return Err(refuse(&alloc::format!("raw, with options {flags:#x} of IP")))
        }
        false => {}
    }
    if six {
        super::inet6::options(reading, flags)?;
    }
    if kind != SOCK_STREAM && four {
        multicast::options(reading, flags, six)?;
    }
    if kind != SOCK_STREAM && six {
        multicast::options6(reading, flags)?;
    }
    match (kind, protocol) {
        (SOCK_STREAM, IPPROTO_TCP) => tcp::read(reading, queues, related, six),
        (SOCK_RAW, _) => datagrams::raw(reading, flags, six),
        (SOCK_DGRAM, _) if flags & bits::HDRINCL == 0 => datagrams::read(reading, six),
        _ => Err(refuse(&alloc::format!("type {kind}, protocol {protocol}"))),
    }
}

/// The options that are bits, see [`bits`].
fn flags<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>) -> Result<u64> {
    let layout = &reading.context.kernel.types.layouts.inet_sock;
    if let Some(flags) = layout.inet_flags {
        return reading.field(flags);
    }
    let mut flags = reading.optional(layout.cmsg_flags)?;
    for (field, bit) in [
        (layout.recverr, bits::RECVERR),
        (layout.recverr_rfc4884, bits::RECVERR_RFC4884),
        (layout.freebind, bits::FREEBIND),
        (layout.hdrincl, bits::HDRINCL),
        (layout.transparent, bits::TRANSPARENT),
        (layout.nodefrag, bits::NODEFRAG),
        (layout.bind_address_no_port, bits::BIND_ADDRESS_NO_PORT),
        (layout.mc_loop, bits::MC_LOOP),
        (layout.mc_all, bits::MC_ALL),
    ] {
        if reading.optional(field)? != 0 {
            flags |= bit;
        }
    }
    Ok(flags)
}

fn options<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, flags: u64) -> Result<()> {
    let kernel = reading.context.kernel;
    let layout = &kernel.types.layouts.inet_sock;
    reading.none_of(&[
        (Some(layout.inet_opt), "with options of IP"),
        (Some(layout.convert_csum), "with IP_CHECKSUM"),
        (Some(layout.local_port_range), "with IP_LOCAL_PORT_RANGE"),
        (layout.defer_connect, "with a connection that waits for data"),
    ])?;
    let raw = reading.field(kernel.types.layouts.sock.sk_type)? == SOCK_RAW;
    let known = FLAGS.iter().fold(bits::PLAIN, |known, (bit, _)| known | bit);
    let rest = flags & !(known | if raw { bits::NODEFRAG } else { 0 });
    if rest != 0 {
        return Err(refuse(&alloc::format!("with options {rest:#x} of IP")));
    }
    for (bit, name) in FLAGS {
        reading.option_if(IPPROTO_IP, name, u64::from(flags & bit != 0));
    }
    reading.option_if(IPPROTO_IP, IP_NODEFRAG, u64::from(flags & bits::NODEFRAG != 0));
    let (tos, min_ttl, discover, link) = (
        reading.field(layout.tos)?,
        reading.field(layout.min_ttl)?,
        reading.field(layout.pmtudisc)?,
        reading.field(layout.uc_index)? as u32,
    );
    reading.option_if(IPPROTO_IP, IP_TOS, tos);
    reading.option_if(IPPROTO_IP, IP_MINTTL, min_ttl);
    reading.option(IPPROTO_IP, IP_MTU_DISCOVER, discover);
    reading.option_if(IPPROTO_IP, IP_UNICAST_IF, link.swap_bytes().into());
    let ttl = kernel.mem.int(reading.sk, layout.uc_ttl)?;
    if ttl != DEFAULT_TTL {
        reading.option(IPPROTO_IP, IP_TTL, ttl as u64);
    }
    Ok(())
}

/// Whether headers come from the program, which only a raw socket can ask for; those of `IPPROTO_RAW` have it from the beginning.
pub fn headers<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, flags: u64, six: bool) {
    let (level, name) = match six {
        true => (super::inet6::IPPROTO_IPV6, super::inet6::IPV6_HDRINCL),
        false => (IPPROTO_IP, IP_HDRINCL),
    };
    reading.option(level, name, u64::from(flags & bits::HDRINCL != 0));
}

/// A port in network byte order.
pub fn port(word: u64) -> u16 {
    (word as u16).swap_bytes()
}

/// The own address; `None` if it is not bound.
///
/// # Errors
/// It cannot be read.
pub fn local<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>, six: bool) -> Result<Option<InetAddress>> {
    let layouts = &reading.context.kernel.types.layouts;
    let port = reading.field(layouts.sock.num)? as u16;
    let field = if six {
        layouts.sock.v6_rcv_saddr
    } else {
        layouts.sock.rcv_saddr
    };
    let address = reading.bytes(field, 16)?;
    let bound = port != 0 || address.iter().any(|&byte| byte != 0);
    Ok(bound.then_some(InetAddress { address, port }))
}

/// The peer's address.
///
/// # Errors
/// It cannot be read.
pub fn peer<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>, six: bool) -> Result<InetAddress> {
    let layout = &reading.context.kernel.types.layouts.sock;
    Ok(InetAddress {
        address: reading.bytes(if six { layout.v6_daddr } else { layout.daddr }, 16)?,
        port: port(reading.field(layout.dport)?),
    })
}
