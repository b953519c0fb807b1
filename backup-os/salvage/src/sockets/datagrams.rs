//! Sockets of UDP, UDP-Lite and ICMP (`include/linux/udp.h`, `net/ipv4/ping.c`), and raw ones (`net/ipv4/raw.c`,
//! `net/ipv6/raw.c`).
//!
//! None of them promises anything: datagrams that nobody has taken yet are lost, as they are when a queue is full.

use super::{inet, refuse, skb, Reading};
use crate::addr::Kva;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;
use shared_region::context::{InetAddress, SocketOption, SocketState};

/// Protocols (`include/uapi/linux/in.h`).
const IPPROTO_ICMP: u64 = 1;
const IPPROTO_UDP: u64 = 17;
const IPPROTO_ICMPV6: u64 = 58;
const IPPROTO_UDPLITE: u64 = 136;
const IPPROTO_RAW: u64 = 255;
/// Options of `SOL_UDP` and `SOL_UDPLITE` (`include/uapi/linux/udp.h`, `include/net/udplite.h`), whose numbers are those of the protocols.
const UDP_CORK: i32 = 1;
const UDPLITE_SEND_CSCOV: i32 = 10;
const UDPLITE_RECV_CSCOV: i32 = 11;
const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
/// Options of raw sockets: `SOL_RAW` (`include/uapi/linux/icmp.h`, `in6.h`) and `SOL_ICMPV6` (`include/uapi/linux/icmpv6.h`).
const SOL_RAW: i32 = 255;
const SOL_ICMPV6: i32 = 58;
const ICMP_FILTER: i32 = 1;
const ICMPV6_FILTER: i32 = 1;
const IPV6_CHECKSUM: i32 = 7;
/// Bytes of `struct icmp6_filter`.
const ICMPV6_FILTER_SIZE: u32 = 32;
/// `TCP_CLOSE`, in which a socket of another protocol is that has no peer, and `TCP_ESTABLISHED`.
const CLOSE: u64 = 7;
const ESTABLISHED: u64 = 1;
/// `SOCK_BINDADDR_LOCK`.
const BOUND_ADDRESS: u64 = 4;

/// Bits of `udp_sock.udp_flags` (`enum` in `include/linux/udp.h`, from Linux 6.7 on and in 6.1.64: 81b36803ac13).
mod bits {
    pub const CORK: u64 = 1 << 0;
    pub const NO_CHECK6_TX: u64 = 1 << 1;
    pub const NO_CHECK6_RX: u64 = 1 << 2;
    pub const GRO_ENABLED: u64 = 1 << 3;
    pub const ACCEPT_L4: u64 = 1 << 5;
    /// Comes with `UDP_GRO` and stays.
    pub const ENCAP_ENABLED: u64 = 1 << 6;
    pub const UDPLITE_SEND_CC: u64 = 1 << 7;
    pub const UDPLITE_RECV_CC: u64 = 1 << 8;
    /// Together.
    pub const GRO: u64 = GRO_ENABLED | ACCEPT_L4 | ENCAP_ENABLED;
}

crate::mirrors! {
    /// A socket of UDP.
    #[allow(missing_docs)]
    pub struct UdpSock = "udp_sock" {
        pending: Field,
        encap_type: Field,
        gso_size: Field,
        pcslen: Field,
        pcrlen: Field,
        udp_flags: Option<Field> = "udp_flags",
        // The bits of UDP-Lite before Linux 6.7 (882af43a0fc3).
        pcflag: Option<Field> = "pcflag",
    }

    /// A raw socket of IPv4.
    #[allow(missing_docs)]
    pub struct RawSock = "raw_sock" {
        filter: Field,
        ipmr_table: Option<Field> = "ipmr_table",
    }

    /// A raw socket of IPv6.
    #[allow(missing_docs)]
    pub struct Raw6Sock = "raw6_sock" {
        checksum: Field,
        offset: Field,
        filter: Field,
        ip6mr_table: Option<Field> = "ip6mr_table",
    }

    /// What routers' programs have in a network namespace.
    #[allow(missing_docs)]
    pub struct RouterState = "net" {
        ra_chain: Field = "ipv4.ra_chain",
        devconf_all: Field = "ipv6.devconf_all",
    }

    /// Settings of IPv6 of all links.
    #[allow(missing_docs)]
    pub struct Ipv6Devconf = "ipv6_devconf" {
        mc_forwarding: Option<Field> = "mc_forwarding",
    }
}

/// Reads a socket of UDP, UDP-Lite or ICMP.
///
/// # Errors
/// It is in a state that is not restored, or cannot be read.
pub fn read<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, six: bool) -> Result<SocketState> {
    let layouts = &reading.context.kernel.types.layouts;
    match reading.field(layouts.sock.sk_protocol)? {
        protocol @ (IPPROTO_UDP | IPPROTO_UDPLITE) => udp(reading, protocol)?,
        IPPROTO_ICMP if !six => {}
        IPPROTO_ICMPV6 if six => {}
        protocol => return Err(refuse(&alloc::format!("datagrams of protocol {protocol}"))),
    }
    let (mut local, peer) = (inet::local(reading, six)?, peer(reading, six)?);
    if let (Some(local), true) = (&mut local, peer.is_some()) {
        // The address that connecting chose is not one it is bound to.
        if reading.field(layouts.sock.sk_userlocks)? & BOUND_ADDRESS == 0 {
            local.address.fill(0);
        }
    }
    Ok(SocketState::Plain { local, peer })
}

fn peer<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>, six: bool) -> Result<Option<InetAddress>> {
    let layout = &reading.context.kernel.types.layouts.sock;
    reading.none_of(&[(Some(layout.sk_shutdown), "shut down")])?;
    if !skb::queue(reading.context, reading.sk, layout.sk_write_queue)?.is_empty() {
        return Err(refuse("with a datagram that is being put together"));
    }
    match reading.field(layout.state)? {
        CLOSE => Ok(None),
        ESTABLISHED => inet::peer(reading, six).map(Some),
        state => Err(refuse(&alloc::format!("state {state}"))),
    }
}

/// The bits for `udp_sock.pcflag`, in which two say that a coverage was chosen (`UDPLITE_SEND_CC`, `UDPLITE_RECV_CC`).
fn lite_flags(pcflag: u64) -> u64 {
    let bit = |is_set, bit| if is_set { bit } else { 0 };
    bit(pcflag & 2 != 0, bits::UDPLITE_SEND_CC) | bit(pcflag & 4 != 0, bits::UDPLITE_RECV_CC)
}

fn udp<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, protocol: u64) -> Result<()> {
    let layout = &reading.context.kernel.types.layouts.udp_sock;
    reading.none_of(&[
        (Some(layout.pending), "with a datagram that is being put together"),
        (Some(layout.encap_type), "with a tunnel"),
    ])?;
    let of_lite = reading.optional(layout.pcflag)?;
    let flags = reading.optional(layout.udp_flags)? | lite_flags(of_lite);
    let level = protocol as i32;
    let gro = flags & bits::GRO;
    let (mut known, mut options) = (bits::GRO | bits::CORK, alloc::vec![(bits::CORK, UDP_CORK, 1)]);
    if protocol == IPPROTO_UDPLITE {
        let (sent, received) = (reading.field(layout.pcslen)?, reading.field(layout.pcrlen)?);
        options.push((bits::UDPLITE_SEND_CC, UDPLITE_SEND_CSCOV, sent));
        options.push((bits::UDPLITE_RECV_CC, UDPLITE_RECV_CSCOV, received));
    }
    options.push((bits::NO_CHECK6_TX, UDP_NO_CHECK6_TX, 1));
    options.push((bits::NO_CHECK6_RX, UDP_NO_CHECK6_RX, 1));
    for (bit, name, value) in options {
        known |= bit;
        if flags & bit != 0 {
            reading.option(level, name, value);
        }
    }
    if flags & !known != 0 || ![0, bits::ENCAP_ENABLED, bits::GRO].contains(&gro) {
        return Err(refuse(&alloc::format!("with options {flags:#x} of UDP")));
    }
    reading.option_if(level, UDP_GRO, u64::from(gro == bits::GRO));
    let segment = reading.field(layout.gso_size)?;
    reading.option_if(level, UDP_SEGMENT, segment);
    Ok(())
}

/// Reads a raw socket.
///
/// # Errors
/// As for [`read`].
pub fn raw<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, flags: u64, six: bool) -> Result<SocketState> {
    let kernel = reading.context.kernel;
    let layouts = &kernel.types.layouts;
    not_of_a_router(reading, six)?;
    inet::headers(reading, flags, six);
    let protocol = reading.field(layouts.sock.sk_protocol)?;
    match (protocol, six) {
        (IPPROTO_ICMP, false) => {
            let filter = reading.field(layouts.raw_sock.filter)?;
            reading.option(SOL_RAW, ICMP_FILTER, filter);
        }
        (IPPROTO_ICMPV6, true) => {
            let value = reading.bytes(layouts.raw6_sock.filter, ICMPV6_FILTER_SIZE)?;
            let (level, name) = (SOL_ICMPV6, ICMPV6_FILTER);
            reading.options.push(SocketOption { level, name, value });
        }
        (_, true) if reading.field(layouts.raw6_sock.checksum)? != 0 => {
            let offset = reading.field(layouts.raw6_sock.offset)?;
            reading.option(SOL_RAW, IPV6_CHECKSUM, offset);
        }
        _ => {}
    }
    // What stands for a port is the protocol.
    let local = inet::local(reading, six)?.filter(|local| local.address.iter().any(|&byte| byte != 0));
    Ok(SocketState::Plain {
        local: local.map(|local| InetAddress { port: 0, ..local }),
        peer: peer(reading, six)?,
    })
}

/// Programs of multicast routers, and those that are handed packets for routers (`IP_ROUTER_ALERT`), have more than can be seen
/// from the socket.
fn not_of_a_router<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>, six: bool) -> Result<()> {
    let kernel = reading.context.kernel;
    let layouts = &kernel.types.layouts;
    let mem = &kernel.mem;
    let net = Kva(reading.field(layouts.sock.net)?);
    let layout = &layouts.router_state;
    let (table, is_one) = if six {
        let settings = mem.ptr(net, layout.devconf_all)?;
        let forwards = layouts.ipv6_devconf.mc_forwarding;
        let forwards = forwards.map(|field| mem.uint(settings, field)).transpose()?;
        (layouts.raw6_sock.ip6mr_table, forwards.unwrap_or(0) != 0)
    } else {
        (layouts.raw_sock.ipmr_table, mem.uint(net, layout.ra_chain)? != 0)
    };
    // Of these alone some get packets for routers, which is told by the socket from Linux 6.6 on.
    let alone = six && reading.field(layouts.sock.sk_protocol)? == IPPROTO_RAW;
    if alone && layouts.inet_sock.inet_flags.is_none() {
        return Err(refuse("raw, of IPPROTO_RAW over IPv6"));
    }
    if is_one || reading.optional(table)? != 0 {
        return Err(refuse(
            "raw, on a machine that routes groups or looks into packets for routers",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverages_are_told_in_the_same_way_by_all_kernels() {
        let both = bits::UDPLITE_SEND_CC | bits::UDPLITE_RECV_CC;
        let found = [0, 1, 3, 5, 7].map(lite_flags);
        assert_eq!(found, [0, 0, bits::UDPLITE_SEND_CC, bits::UDPLITE_RECV_CC, both]);
    }
}
