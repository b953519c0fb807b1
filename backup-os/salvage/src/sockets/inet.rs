//! Sockets of IP (`include/net/inet_sock.h`): addresses and options; UDP.

use super::{refuse, skb, tcp, Queues, Reading, Related};
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;
use alloc::vec::Vec;
use shared_region::context::{InetAddress, SocketState};

/// Types and protocols.
const SOCK_STREAM: u64 = 1;
const SOCK_DGRAM: u64 = 2;
const IPPROTO_TCP: u64 = 6;
const IPPROTO_UDP: u64 = 17;
/// Options of `IPPROTO_IP` (`include/uapi/linux/in.h`).
const IPPROTO_IP: i32 = 0;
const IP_TOS: i32 = 1;
const IP_TTL: i32 = 2;
const IP_PKTINFO: i32 = 8;
const IP_MTU_DISCOVER: i32 = 10;
const IP_RECVERR: i32 = 11;
const IP_RECVTTL: i32 = 12;
const IP_RECVTOS: i32 = 13;
const IP_FREEBIND: i32 = 15;
const IP_MINTTL: i32 = 21;
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;
/// `TCP_CLOSE`, in which a socket of another protocol is that has no peer, and `TCP_ESTABLISHED`.
const CLOSE: u64 = 7;
const ESTABLISHED: u64 = 1;
/// `SOCK_BINDADDR_LOCK` and `SOCK_BINDPORT_LOCK`.
const BOUND: u64 = 4 | 8;
/// `inet_sock.mc_ttl` after `socket`.
const DEFAULT_MULTICAST_TTL: u64 = 1;
/// A time to live that nobody has set.
const DEFAULT_TTL: i64 = -1;

/// Bits of `inet_sock.inet_flags` (`enum` in `include/net/inet_sock.h`), into which those of older kernels are translated.
mod bits {
    pub const PKTINFO: u64 = 1 << 0;
    pub const TTL: u64 = 1 << 1;
    pub const TOS: u64 = 1 << 2;
    pub const RECVERR: u64 = 1 << 9;
    pub const FREEBIND: u64 = 1 << 11;
    pub const MC_LOOP: u64 = 1 << 13;
    pub const MC_ALL: u64 = 1 << 14;
    pub const IS_ICSK: u64 = 1 << 16;
    pub const BIND_ADDRESS_NO_PORT: u64 = 1 << 18;
    pub const MC6_LOOP: u64 = 1 << 20;
    pub const MC6_ALL: u64 = 1 << 22;
    /// Of datagrams to groups, in sockets of IPv4 and of IPv6.
    pub const GROUPS: u64 = MC_LOOP | MC_ALL;
    pub const GROUPS6: u64 = MC6_LOOP | MC6_ALL;
    /// Set by the kernel alone, or looked at elsewhere.
    pub const PLAIN: u64 = GROUPS | IS_ICSK | GROUPS6;
    /// Restored.
    pub const KEPT: u64 = PKTINFO | TTL | TOS | RECVERR | FREEBIND | BIND_ADDRESS_NO_PORT;
}

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

    /// A socket of UDP.
    #[allow(missing_docs)]
    pub struct UdpSock = "udp_sock" {
        pending: Field,
        encap_type: Field,
        gso_size: Field,
        udp_flags: Option<Field> = "udp_flags",
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
    options(reading, six)?;
    if six {
        super::inet6::options(reading)?;
    }
    let (kind, protocol) = (reading.field(layout.sk_type)?, reading.field(layout.sk_protocol)?);
    match (kind, protocol) {
        (SOCK_STREAM, IPPROTO_TCP) => tcp::read(reading, queues, related, six),
        (SOCK_DGRAM, IPPROTO_UDP) => udp(reading, six),
        _ => Err(refuse(&alloc::format!("type {kind}, protocol {protocol}"))),
    }
}

fn options<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, six: bool) -> Result<()> {
    let kernel = reading.context.kernel;
    let layout = &kernel.types.layouts.inet_sock;
    reading.none_of(&[
        (Some(layout.inet_opt), "with options of IP"),
        (Some(layout.convert_csum), "with IP_CHECKSUM"),
        (Some(layout.uc_index), "with IP_UNICAST_IF"),
        (Some(layout.mc_list), "in a multicast group"),
        (Some(layout.local_port_range), "with IP_LOCAL_PORT_RANGE"),
        (layout.hdrincl, "with IP_HDRINCL"),
        (layout.transparent, "with IP_TRANSPARENT"),
        (layout.nodefrag, "with IP_NODEFRAG"),
        (layout.recverr_rfc4884, "with IP_RECVERR_RFC4884"),
        (layout.defer_connect, "with a connection that waits for data"),
    ])?;
    let flags = match layout.inet_flags {
        Some(flags) => reading.field(flags)?,
        None => {
            let bit = |field, bit: u64| -> Result<u64> { Ok(if reading.optional(field)? != 0 { bit } else { 0 }) };
            reading.optional(layout.cmsg_flags)?
                | bit(layout.recverr, bits::RECVERR)?
                | bit(layout.freebind, bits::FREEBIND)?
                | bit(layout.bind_address_no_port, bits::BIND_ADDRESS_NO_PORT)?
                | bit(layout.mc_loop, bits::MC_LOOP)?
                | bit(layout.mc_all, bits::MC_ALL)?
        }
    };
    let datagrams = reading.field(kernel.types.layouts.sock.sk_type)? == SOCK_DGRAM;
    // As after `socket`: one of IPv6 does not have the second bit.
    let groups = if six { bits::MC_LOOP } else { bits::GROUPS };
    let of_six = match (six, layout.inet_flags) {
        (true, Some(_)) => bits::GROUPS6,
        _ => 0,
    };
    let usual = flags & (bits::GROUPS | bits::GROUPS6) == groups | of_six;
    if datagrams && !(usual && reading.field(layout.mc_ttl)? == DEFAULT_MULTICAST_TTL) {
        return Err(refuse("with options of multicast"));
    }
    let rest = flags & !(bits::PLAIN | bits::KEPT);
    if rest != 0 {
        return Err(refuse(&alloc::format!("with options {rest:#x} of IP")));
    }
    for (bit, name) in [
        (bits::PKTINFO, IP_PKTINFO),
        (bits::TTL, IP_RECVTTL),
        (bits::TOS, IP_RECVTOS),
        (bits::RECVERR, IP_RECVERR),
        (bits::FREEBIND, IP_FREEBIND),
        (bits::BIND_ADDRESS_NO_PORT, IP_BIND_ADDRESS_NO_PORT),
    ] {
        reading.option_if(IPPROTO_IP, name, u64::from(flags & bit != 0));
    }
    let (tos, min_ttl, discover) = (
        reading.field(layout.tos)?,
        reading.field(layout.min_ttl)?,
        reading.field(layout.pmtudisc)?,
    );
    reading.option_if(IPPROTO_IP, IP_TOS, tos);
    reading.option_if(IPPROTO_IP, IP_MINTTL, min_ttl);
    reading.option(IPPROTO_IP, IP_MTU_DISCOVER, discover);
    let ttl = kernel.mem.int(reading.sk, layout.uc_ttl)?;
    if ttl != DEFAULT_TTL {
        reading.option(IPPROTO_IP, IP_TTL, ttl as u64);
    }
    Ok(())
}

/// A port in network byte order.
fn port(word: u64) -> u16 {
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
    let address = bytes(reading, field)?;
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
        address: bytes(reading, if six { layout.v6_daddr } else { layout.daddr })?,
        port: port(reading.field(layout.dport)?),
    })
}

fn bytes<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>, field: Field) -> Result<Vec<u8>> {
    let at = reading.sk.offset(u64::from(field.offset));
    Ok(reading.context.kernel.mem.bytes(at, field.size.min(16) as usize)?)
}

/// UDP promises nothing: datagrams that nobody has taken yet are lost, as they are when a queue is full.
fn udp<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>, six: bool) -> Result<SocketState> {
    let layouts = &reading.context.kernel.types.layouts;
    reading.none_of(&[
        // In a connection of TCP the kernel keeps there where its first segment came from.
        (Some(layouts.inet_sock.mc_index), "with IP_MULTICAST_IF"),
        (Some(layouts.inet_sock.mc_addr), "with IP_MULTICAST_IF"),
        (
            Some(layouts.udp_sock.pending),
            "with a datagram that is being put together",
        ),
        (Some(layouts.udp_sock.encap_type), "with a tunnel"),
        (Some(layouts.udp_sock.gso_size), "with UDP_SEGMENT"),
        (layouts.udp_sock.udp_flags, "with options of UDP"),
        (Some(layouts.sock.sk_shutdown), "shut down"),
    ])?;
    if !skb::queue(reading.context, reading.sk, layouts.sock.sk_write_queue)?.is_empty() {
        return Err(refuse("with a datagram that is being put together"));
    }
    let peer = match reading.field(layouts.sock.state)? {
        CLOSE => None,
        ESTABLISHED => Some(peer(reading, six)?),
        state => return Err(refuse(&alloc::format!("state {state}"))),
    };
    let mut local = local(reading, six)?;
    if let (Some(local), true) = (&mut local, peer.is_some()) {
        // The address that connecting chose is not one it is bound to.
        if reading.field(layouts.sock.sk_userlocks)? & BOUND & 4 == 0 {
            local.address.fill(0);
        }
    }
    Ok(SocketState::Plain { local, peer })
}
