//! IPv6 beside what [`crate::network`] reads: how long addresses are good (`include/net/if_inet6.h`), and routes
//! (`include/net/ip6_fib.h`).

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::context::{AddressLife, Network, Network6, NetworkRoute6};
use shared_region::reasons;

/// Nodes and routes of a machine that is no router of the Internet.
const MAX_NODES: usize = 1 << 16;
const MAX_ROUTES: usize = 1 << 14;
/// `RTPROT_KERNEL`: comes with an address or a link.
const BY_KERNEL: u64 = 2;
/// `AF_INET6`.
const AF_INET6: u64 = 10;
/// `RTF_EXPIRES`; `RTF_PREF` and where it begins.
const EXPIRES: u64 = 0x0040_0000;
const PREFERENCE_SHIFT: u32 = 27;
const NS_PER_SECOND: u64 = 1_000_000_000;
/// A life without an end.
const FOR_EVER: u32 = u32::MAX;

crate::mirrors! {
    /// A table of routes of IPv6.
    #[allow(missing_docs)]
    pub struct Fib6Table = "fib6_table" {
        tb6_root: Field,
    }

    /// A node of its tree.
    #[allow(missing_docs)]
    pub struct Fib6Node = "fib6_node" {
        left: Field,
        right: Field,
        leaf: Field,
        fn_flags: Field,
    }

    /// A route.
    #[allow(missing_docs)]
    pub struct Fib6Info = "fib6_info" {
        fib6_next: Field,
        fib6_nsiblings: Field,
        expires: Field,
        destination: Field = "fib6_dst.addr",
        prefix: Field = "fib6_dst.plen",
        fib6_flags: Field,
        from: Field = "fib6_src.plen",
        source: Field = "fib6_prefsrc.addr",
        fib6_metric: Field,
        fib6_protocol: Field,
        fib6_type: Field,
        nh: Field,
        fib6_nh: Field,
    }

    /// Where it leads.
    #[allow(missing_docs)]
    pub struct Fib6Nh = "fib6_nh" {
        oif: Field = "nh_common.nhc_oif",
        gw_family: Field = "nh_common.nhc_gw_family",
        gw: Field = "nh_common.nhc_gw",
    }
}

/// Reads it. What cannot be read is named in [`Network::left_out`].
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, network: &mut Network) -> Network6 {
    let mut record = Network6::default();
    let net = context.namespaces.net;
    if net.is_null() {
        return record;
    }
    if let Err(refusal) = routes(context, net, network, &mut record) {
        let what = alloc::format!("routes of IPv6: {refusal}");
        network.left_out.push(what.into_bytes());
    }
    record
}

/// The routes of a namespace that do not come with an address or a link.
///
/// # Errors
/// They cannot be read.
pub fn routes_of<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    net: Kva,
    network: &mut Network,
) -> Result<Vec<NetworkRoute6>> {
    let mut record = Network6::default();
    routes(context, net, network, &mut record)?;
    Ok(record.routes)
}

/// Seconds until an instant in ticks, at least one.
fn seconds_until(now: u64, then: u64, tick: u64) -> u32 {
    let left = u64::try_from(then.wrapping_sub(now) as i64).unwrap_or(0);
    let seconds = left.saturating_mul(tick) / NS_PER_SECOND;
    u32::try_from(seconds).unwrap_or(FOR_EVER).max(1)
}

/// What is left of a life that was counted in seconds at an instant in ticks.
fn rest_of(life: u32, since: u64, now: u64, tick: u64) -> u32 {
    if life == FOR_EVER {
        return life;
    }
    let passed = now.wrapping_sub(since).saturating_mul(tick) / NS_PER_SECOND;
    life.saturating_sub(u32::try_from(passed).unwrap_or(FOR_EVER))
}

/// How long an address is good.
///
/// # Errors
/// It cannot be read.
pub fn life<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, at: Kva, link: u32) -> Result<AddressLife> {
    let layout = &context.kernel.types.layouts.inet6_ifaddr;
    let mem = &context.kernel.mem;
    let (now, tick) = (context.jiffies()?, context.tick().unwrap_or(1));
    let since = mem.uint(at, layout.tstamp)?;
    let rest = |field: Field| Ok::<_, Refusal>(rest_of(mem.uint(at, field)? as u32, since, now, tick));
    Ok(AddressLife {
        link,
        address: mem.array(at.offset(u64::from(layout.addr.offset)))?,
        flags: mem.uint(at, layout.flags)? as u32,
        preferred: rest(layout.prefered_lft)?,
        valid: rest(layout.valid_lft)?,
    })
}

fn routes<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    net: Kva,
    network: &mut Network,
    record: &mut Network6,
) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let (node, route) = (&layouts.fib6_node, &layouts.fib6_info);
    let mem = &context.kernel.mem;
    let Some(main) = layouts.net.fib6_main_tbl else {
        return Ok(());
    };
    let main = mem.ptr(net, main)?;
    if main.is_null() {
        return Ok(());
    }
    let mut waiting = alloc::vec![main.offset(u64::from(layouts.fib6_table.tb6_root.offset))];
    let (mut nodes, mut seen) = (0usize, 0usize);
    while let Some(at) = waiting.pop() {
        nodes = nodes.saturating_add(1);
        if nodes > MAX_NODES {
            return Err(Refusal::new(reasons::UNREADABLE, "a table of routes without end"));
        }
        for child in [mem.ptr(at, node.left)?, mem.ptr(at, node.right)?] {
            if !child.is_null() {
                waiting.push(child);
            }
        }
        // A node without a route of its own shows another's, or that which says there is none.
        if mem.uint(at, node.fn_flags)? & HAS_ROUTES == 0 {
            continue;
        }
        let mut next = mem.ptr(at, node.leaf)?;
        while !next.is_null() {
            seen = seen.saturating_add(1);
            if seen > MAX_ROUTES {
                return Err(Refusal::new(reasons::UNREADABLE, "a chain of routes without end"));
            }
            leaf(context, next, network, record)?;
            next = mem.ptr(next, route.fib6_next)?;
        }
    }
    Ok(())
}

/// `RTN_RTINFO`: the node has routes of its own.
const HAS_ROUTES: u64 = 4;

fn leaf<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    at: Kva,
    network: &mut Network,
    record: &mut Network6,
) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let (route, hop) = (&layouts.fib6_info, &layouts.fib6_nh);
    let mem = &context.kernel.mem;
    if mem.uint(at, route.fib6_protocol)? == BY_KERNEL {
        return Ok(());
    }
    let address = |base: Kva, field: Field| mem.array::<16>(base.offset(u64::from(field.offset)));
    let destination = address(at, route.destination)?;
    let by = at.offset(u64::from(route.fib6_nh.offset));
    let objects = !mem.ptr(at, route.nh)?.is_null();
    // With an object in its place there is nothing behind the route.
    let family = if objects { 0 } else { mem.uint(by, hop.gw_family)? };
    if objects
        || mem.uint(at, route.fib6_nsiblings)? != 0
        || mem.uint(at, route.from)? != 0
        || ![0, AF_INET6].contains(&family)
    {
        let to = core::net::Ipv6Addr::from(destination);
        let what = alloc::format!("route to {to}, by several neighbours or only from some addresses");
        network.left_out.push(what.into_bytes());
        return Ok(());
    }
    let flags = mem.uint(at, route.fib6_flags)?;
    let expires = match (flags & EXPIRES != 0, context.tick()) {
        (true, Some(tick)) => Some(seconds_until(context.jiffies()?, mem.uint(at, route.expires)?, tick)),
        _ => None,
    };
    record.routes.push(NetworkRoute6 {
        destination,
        prefix: mem.uint(at, route.prefix)? as u8,
        gateway: if family == AF_INET6 {
            Some(address(by, hop.gw)?)
        } else {
            None
        },
        link: mem.uint(by, hop.oif)? as u32,
        source: address(at, route.source)?,
        priority: mem.uint(at, route.fib6_metric)? as u32,
        protocol: mem.uint(at, route.fib6_protocol)? as u8,
        kind: mem.uint(at, route.fib6_type)? as u8,
        preference: (flags >> PREFERENCE_SHIFT & 3) as u8,
        expires,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{rest_of, seconds_until, FOR_EVER};

    const TICK: u64 = 4_000_000;

    #[test]
    fn lives_are_shortened_by_what_has_passed() {
        assert_eq!(rest_of(1800, 1000, 1000 + 250 * 600, TICK), 1200);
        assert_eq!(rest_of(10, 1000, 1000 + 250 * 600, TICK), 0);
        assert_eq!(rest_of(FOR_EVER, 0, u64::MAX, TICK), FOR_EVER);
    }

    #[test]
    fn what_has_run_out_ends_at_once() {
        assert_eq!(seconds_until(1000, 1000 + 250 * 30, TICK), 30);
        assert_eq!(seconds_until(1000, 900, TICK), 1);
    }
}
