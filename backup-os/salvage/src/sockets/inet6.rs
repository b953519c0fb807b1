//! Options of sockets of IPv6 (`struct ipv6_pinfo`, `include/linux/ipv6.h`).

use super::{refuse, Reading};
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;

/// Options of `IPPROTO_IPV6` (`include/uapi/linux/in6.h`).
const IPPROTO_IPV6: i32 = 41;
const IPV6_UNICAST_HOPS: i32 = 16;
const IPV6_MTU_DISCOVER: i32 = 23;
const IPV6_V6ONLY: i32 = 26;
const IPV6_TCLASS: i32 = 67;
/// `SOCK_STREAM`.
const SOCK_STREAM: u64 = 1;
/// `ipv6_pinfo.mcast_hops` after `socket`.
const DEFAULT_MULTICAST_HOPS: u64 = 1;
/// A number of hops that nobody has set.
const DEFAULT_HOPS: i64 = -1;

crate::mirrors! {
    /// What a socket of IPv6 has beside one of IP.
    #[allow(missing_docs)]
    pub struct Ipv6Pinfo = "ipv6_pinfo" {
        flow_label: Field,
        opt: Field,
        hop_limit: Field,
        pmtudisc: Field,
        tclass: Field,
        frag_size: Field,
        ucast_oif: Field,
        mcast_oif: Field,
        mcast_hops: Field,
        rxopt: Field = "rxopt.all",
        srcprefs: Field,
        min_hopcount: Field,
        sticky_if: Field = "sticky_pktinfo.ipi6_ifindex",
        ipv6_mc_list: Field,
        ipv6_ac_list: Field,
        // Among the bits of `inet_sock` from Linux 6.6 on (3fa29971c695).
        recverr: Option<Field> = "recverr",
        mc_loop: Option<Field> = "mc_loop",
        mc_all: Option<Field> = "mc_all",
        sndflow: Option<Field> = "sndflow",
        repflow: Option<Field> = "repflow",
        dontfrag: Option<Field> = "dontfrag",
        autoflowlabel_set: Option<Field> = "autoflowlabel_set",
    }
}

/// Reads them.
///
/// # Errors
/// There is one that is not restored, or they cannot be read.
pub fn options<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>) -> Result<()> {
    let kernel = reading.context.kernel;
    let layouts = &kernel.types.layouts;
    let layout = &layouts.ipv6_pinfo;
    let mem = &kernel.mem;
    let pinfo = mem.ptr(reading.sk, layouts.inet_sock.pinet6)?;
    let six = Reading {
        context: reading.context,
        sk: pinfo,
        options: alloc::vec::Vec::new(),
    };
    six.none_of(&[
        (Some(layout.flow_label), "with a flow label"),
        (Some(layout.opt), "with options of IPv6"),
        (Some(layout.frag_size), "with IPV6_MTU"),
        (Some(layout.ucast_oif), "with IPV6_UNICAST_IF"),
        (Some(layout.rxopt), "with options of IPv6 to be received"),
        (Some(layout.srcprefs), "with IPV6_ADDR_PREFERENCES"),
        (Some(layout.min_hopcount), "with IPV6_MINHOPCOUNT"),
        (Some(layout.sticky_if), "with IPV6_PKTINFO"),
        (Some(layout.ipv6_mc_list), "in a multicast group"),
        (Some(layout.ipv6_ac_list), "with an anycast address"),
        (layout.recverr, "with IPV6_RECVERR"),
        (layout.sndflow, "with IPV6_FLOWINFO_SEND"),
        (layout.repflow, "with a reflected flow label"),
        (layout.dontfrag, "with IPV6_DONTFRAG"),
        (layout.autoflowlabel_set, "with IPV6_AUTOFLOWLABEL"),
    ])?;
    // In a connection of TCP the kernel keeps there where its first segment came from.
    if reading.field(layouts.sock.sk_type)? != SOCK_STREAM {
        six.none_of(&[(Some(layout.mcast_oif), "with IPV6_MULTICAST_IF")])?;
        let off = |field: Option<Field>| Ok::<_, crate::refusal::Refusal>(field.is_some() && six.optional(field)? == 0);
        if six.field(layout.mcast_hops)? != DEFAULT_MULTICAST_HOPS || off(layout.mc_loop)? || off(layout.mc_all)? {
            return Err(refuse("with options of multicast"));
        }
    }
    let (only, class, discover) = (
        reading.field(layouts.sock.ipv6only)?,
        six.field(layout.tclass)?,
        six.field(layout.pmtudisc)?,
    );
    let hops = mem.int(pinfo, layout.hop_limit)?;
    reading.option(IPPROTO_IPV6, IPV6_V6ONLY, only);
    reading.option_if(IPPROTO_IPV6, IPV6_TCLASS, class);
    reading.option(IPPROTO_IPV6, IPV6_MTU_DISCOVER, discover);
    if hops != DEFAULT_HOPS {
        reading.option(IPPROTO_IPV6, IPV6_UNICAST_HOPS, hops as u64);
    }
    if discover > 5 {
        return Err(refuse("with options of IPv6 that make no sense"));
    }
    Ok(())
}
