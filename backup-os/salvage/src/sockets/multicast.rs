//! Datagrams to groups: options and memberships (`include/linux/igmp.h`, `include/net/if_inet6.h`).

use super::inet::bits;
use super::inet6::{self, IPPROTO_IPV6};
use super::{refuse, Reading};
use crate::addr::Kva;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::context::SocketOption;
use shared_region::reasons;

/// Options of `IPPROTO_IP` (`include/uapi/linux/in.h`).
const IPPROTO_IP: i32 = 0;
const IP_MULTICAST_IF: i32 = 32;
const IP_MULTICAST_TTL: i32 = 33;
const IP_MULTICAST_LOOP: i32 = 34;
const IP_ADD_MEMBERSHIP: i32 = 35;
const IP_MULTICAST_ALL: i32 = 49;
/// Options of `IPPROTO_IPV6` (`include/uapi/linux/in6.h`).
const IPV6_MULTICAST_IF: i32 = 17;
const IPV6_MULTICAST_HOPS: i32 = 18;
const IPV6_MULTICAST_LOOP: i32 = 19;
const IPV6_ADD_MEMBERSHIP: i32 = 20;
const IPV6_MULTICAST_ALL: i32 = 29;
/// What `inet_sock.mc_ttl` and `ipv6_pinfo.mcast_hops` are after `socket`.
const DEFAULT_TTL: u64 = 1;
const DEFAULT_HOPS: i64 = 1;
/// `MCAST_EXCLUDE` (`include/uapi/linux/in.h`), with a list of nobody: all sources.
const EXCLUDE: u64 = 0;
/// More groups than a socket can be in (`net.ipv4.igmp_max_memberships`, 20 by default).
const MAX_GROUPS: usize = 1 << 16;

crate::mirrors! {
    /// A membership of IPv4.
    #[allow(missing_docs)]
    pub struct IpMcSocklist = "ip_mc_socklist" {
        next: Field = "next_rcu",
        multi: Field,
        sfmode: Field,
        sflist: Field,
    }

    /// One of IPv6.
    #[allow(missing_docs)]
    pub struct Ipv6McSocklist = "ipv6_mc_socklist" {
        addr: Field,
        ifindex: Field,
        sfmode: Field,
        next: Field,
        sflist: Field,
    }
}

/// Reads the options of IPv4 of a socket that is none of connections, `six` for one of IPv6. `flags`: [`bits`].
///
/// # Errors
/// There is one that is not restored, or they cannot be read.
pub fn options<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, flags: u64, six: bool) -> Result<()> {
    let layout = &reading.context.kernel.types.layouts.inet_sock;
    let has = |bit: u64| u64::from(flags & bit != 0);
    let (ttl, link) = (reading.field(layout.mc_ttl)?, reading.field(layout.mc_index)? as u32);
    let address = reading.field(layout.mc_addr)? as u32;
    if ttl != DEFAULT_TTL {
        reading.option(IPPROTO_IP, IP_MULTICAST_TTL, ttl);
    }
    if has(bits::MC_LOOP) == 0 {
        reading.option(IPPROTO_IP, IP_MULTICAST_LOOP, 0);
    }
    // As after `socket`: one of IPv6 does not have it.
    if has(bits::MC_ALL) == u64::from(six) {
        reading.option(IPPROTO_IP, IP_MULTICAST_ALL, has(bits::MC_ALL));
    }
    if link != 0 {
        // struct ip_mreqn: group, address, link.
        reading.words(IPPROTO_IP, IP_MULTICAST_IF, &[0, address, link]);
    } else if address != 0 {
        return Err(refuse("with IP_MULTICAST_IF of no link"));
    }
    groups(reading)
}

/// The same of a socket of IPv6, beside those.
///
/// # Errors
/// As for [`options`].
pub fn options6<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, flags: u64) -> Result<()> {
    let layouts = &reading.context.kernel.types.layouts;
    let layout = &layouts.ipv6_pinfo;
    let six = inet6::of(reading)?;
    let hops = reading.context.kernel.mem.int(six.sk, layout.mcast_hops)?;
    let link = six.field(layout.mcast_oif)?;
    let own = layouts.inet_sock.inet_flags.is_none();
    let has = |bit: u64, field: Option<Field>| match own {
        true => Ok::<_, Refusal>(six.optional(field)? != 0),
        false => Ok(flags & bit != 0),
    };
    let (looped, all) = (has(bits::MC6_LOOP, layout.mc_loop)?, has(bits::MC6_ALL, layout.mc_all)?);
    if hops != DEFAULT_HOPS {
        reading.option(IPPROTO_IPV6, IPV6_MULTICAST_HOPS, hops as u64);
    }
    for (is_on, name) in [(looped, IPV6_MULTICAST_LOOP), (all, IPV6_MULTICAST_ALL)] {
        if !is_on {
            reading.option(IPPROTO_IPV6, name, 0);
        }
    }
    reading.option_if(IPPROTO_IPV6, IPV6_MULTICAST_IF, link);
    groups6(reading, six.sk)
}

/// The newest comes first in the kernel's list, and last here.
fn add<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, mut found: Vec<SocketOption>) {
    found.reverse();
    reading.options.append(&mut found);
}

fn filtered<M: PhysMem + ?Sized>(
    reading: &Reading<'_, '_, '_, M>,
    at: Kva,
    (mode, list): (Field, Field),
    so_far: usize,
) -> Result<()> {
    let mem = &reading.context.kernel.mem;
    if mem.uint(at, mode)? != EXCLUDE || mem.uint(at, list)? != 0 {
        return Err(refuse("in a multicast group with a list of sources"));
    }
    if so_far >= MAX_GROUPS {
        return Err(Refusal::new(reasons::UNREADABLE, "multicast groups without end"));
    }
    Ok(())
}

fn groups<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>) -> Result<()> {
    let kernel = reading.context.kernel;
    let layout = &kernel.types.layouts.ip_mc_socklist;
    let mut at = kernel.mem.ptr(reading.sk, kernel.types.layouts.inet_sock.mc_list)?;
    let mut found = Vec::new();
    while !at.is_null() {
        filtered(reading, at, (layout.sfmode, layout.sflist), found.len())?;
        let value = kernel.mem.bytes(at.offset(u64::from(layout.multi.offset)), 12)?;
        let (level, name) = (IPPROTO_IP, IP_ADD_MEMBERSHIP);
        found.push(SocketOption { level, name, value });
        at = kernel.mem.ptr(at, layout.next)?;
    }
    add(reading, found);
    Ok(())
}

fn groups6<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, six: Kva) -> Result<()> {
    let kernel = reading.context.kernel;
    let layout = &kernel.types.layouts.ipv6_mc_socklist;
    let mut at = kernel.mem.ptr(six, kernel.types.layouts.ipv6_pinfo.ipv6_mc_list)?;
    let mut found = Vec::new();
    while !at.is_null() {
        filtered(reading, at, (layout.sfmode, layout.sflist), found.len())?;
        let mut value = kernel.mem.bytes(at.offset(u64::from(layout.addr.offset)), 16)?;
        value.extend((kernel.mem.uint(at, layout.ifindex)? as u32).to_le_bytes());
        let (level, name) = (IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP);
        found.push(SocketOption { level, name, value });
        at = kernel.mem.ptr(at, layout.next)?;
    }
    add(reading, found);
    Ok(())
}
