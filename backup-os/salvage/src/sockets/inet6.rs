//! Options of sockets of IPv6 (`struct ipv6_pinfo`, `include/linux/ipv6.h`).

use super::{inet::bits, refuse, Reading, SOCK_RAW, SOCK_STREAM};
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;

/// Options of `IPPROTO_IPV6` (`include/uapi/linux/in6.h`).
pub const IPPROTO_IPV6: i32 = 41;
const IPV6_UNICAST_HOPS: i32 = 16;
const IPV6_MTU_DISCOVER: i32 = 23;
const IPV6_MTU: i32 = 24;
const IPV6_RECVERR: i32 = 25;
const IPV6_V6ONLY: i32 = 26;
/// See [`IPPROTO_IPV6`].
pub const IPV6_HDRINCL: i32 = 36;
const IPV6_DONTFRAG: i32 = 62;
const IPV6_TCLASS: i32 = 67;
const IPV6_MINHOPCOUNT: i32 = 73;
const IPV6_UNICAST_IF: i32 = 76;
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
        rxinfo: Field = "rxopt.bits.rxinfo",
        rxoinfo: Field = "rxopt.bits.rxoinfo",
        rxhlim: Field = "rxopt.bits.rxhlim",
        rxohlim: Field = "rxopt.bits.rxohlim",
        hopopts: Field = "rxopt.bits.hopopts",
        ohopopts: Field = "rxopt.bits.ohopopts",
        dstopts: Field = "rxopt.bits.dstopts",
        odstopts: Field = "rxopt.bits.odstopts",
        srcrt: Field = "rxopt.bits.srcrt",
        osrcrt: Field = "rxopt.bits.osrcrt",
        rxflow: Field = "rxopt.bits.rxflow",
        rxtclass: Field = "rxopt.bits.rxtclass",
        rxpmtu: Field = "rxopt.bits.rxpmtu",
        rxorigdstaddr: Field = "rxopt.bits.rxorigdstaddr",
        recvfragsize: Field = "rxopt.bits.recvfragsize",
        srcprefs: Field,
        min_hopcount: Field,
        sticky_if: Field = "sticky_pktinfo.ipi6_ifindex",
        ipv6_mc_list: Field,
        ipv6_ac_list: Field,
        // Among the bits of `inet_sock` from Linux 6.6 on (3fa29971c695).
        recverr: Option<Field> = "recverr",
        recverr_rfc4884: Option<Field> = "recverr_rfc4884",
        mc_loop: Option<Field> = "mc_loop",
        mc_all: Option<Field> = "mc_all",
        sndflow: Option<Field> = "sndflow",
        repflow: Option<Field> = "repflow",
        dontfrag: Option<Field> = "dontfrag",
        autoflowlabel_set: Option<Field> = "autoflowlabel_set",
    }
}

/// The `struct ipv6_pinfo` of a socket, in the place of the socket.
///
/// # Errors
/// It cannot be read.
pub fn of<'c, 'k, 'm, M: PhysMem + ?Sized>(reading: &Reading<'c, 'k, 'm, M>) -> Result<Reading<'c, 'k, 'm, M>> {
    let kernel = reading.context.kernel;
    Ok(Reading {
        context: reading.context,
        sk: kernel.mem.ptr(reading.sk, kernel.types.layouts.inet_sock.pinet6)?,
        options: alloc::vec::Vec::new(),
    })
}

/// Reads them. `flags`: [`bits`].
///
/// # Errors
/// There is one that is not restored, or they cannot be read.
pub fn options<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, flags: u64) -> Result<()> {
    let kernel = reading.context.kernel;
    let layouts = &kernel.types.layouts;
    let layout = &layouts.ipv6_pinfo;
    let six = of(reading)?;
    six.none_of(&[
        (Some(layout.flow_label), "with a flow label"),
        (Some(layout.opt), "with options of IPv6"),
        (Some(layout.srcprefs), "with IPV6_ADDR_PREFERENCES"),
        (Some(layout.sticky_if), "with IPV6_PKTINFO"),
        (Some(layout.ipv6_ac_list), "with an anycast address"),
        (layout.recverr_rfc4884, "with IPV6_RECVERR_RFC4884"),
        (layout.sndflow, "with IPV6_FLOWINFO_SEND"),
        (layout.repflow, "with a reflected flow label"),
        (layout.autoflowlabel_set, "with IPV6_AUTOFLOWLABEL"),
    ])?;
    if reading.field(layouts.sock.sk_type)? == SOCK_STREAM {
        six.none_of(&[(Some(layout.ipv6_mc_list), "TCP, in a multicast group")])?;
    }
    received(reading, &six)?;
    let (only, class, discover) = (
        reading.field(layouts.sock.ipv6only)?,
        six.field(layout.tclass)?,
        six.field(layout.pmtudisc)?,
    );
    let hops = kernel.mem.int(six.sk, layout.hop_limit)?;
    // Nobody can choose that of a raw socket.
    if reading.field(layouts.sock.sk_type)? != SOCK_RAW {
        reading.option(IPPROTO_IPV6, IPV6_V6ONLY, only);
    }
    reading.option(IPPROTO_IPV6, IPV6_MTU_DISCOVER, discover);
    if hops != DEFAULT_HOPS {
        reading.option(IPPROTO_IPV6, IPV6_UNICAST_HOPS, hops as u64);
    }
    let link = (six.field(layout.ucast_oif)? as u32).swap_bytes();
    let set = |field, bit| Ok::<_, crate::refusal::Refusal>(six.optional(field)? | u64::from(flags & bit != 0));
    for (name, value) in [
        (IPV6_TCLASS, class),
        (IPV6_MTU, six.field(layout.frag_size)?),
        (IPV6_MINHOPCOUNT, six.field(layout.min_hopcount)?),
        (IPV6_UNICAST_IF, link.into()),
        (IPV6_RECVERR, set(layout.recverr, bits::RECVERR6)?),
        (IPV6_DONTFRAG, set(layout.dontfrag, bits::DONTFRAG)?),
    ] {
        reading.option_if(IPPROTO_IPV6, name, value);
    }
    if discover > 5 {
        return Err(refuse("with options of IPv6 that make no sense"));
    }
    Ok(())
}

/// What is told with each packet.
fn received<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, six: &Reading<'_, '_, '_, M>) -> Result<()> {
    let layout = &reading.context.kernel.types.layouts.ipv6_pinfo;
    // IPV6_2292PKTINFO, _2292HOPOPTS, _2292DSTOPTS, _2292RTHDR, _2292HOPLIMIT, _FLOWINFO, _RECVPKTINFO, _RECVHOPLIMIT,
    // _RECVHOPOPTS, _RECVRTHDR, _RECVDSTOPTS, _RECVPATHMTU, _RECVTCLASS, _RECVORIGDSTADDR, _RECVFRAGSIZE.
    for (field, name) in [
        (layout.rxoinfo, 2),
        (layout.ohopopts, 3),
        (layout.odstopts, 4),
        (layout.osrcrt, 5),
        (layout.rxohlim, 8),
        (layout.rxflow, 11),
        (layout.rxinfo, 49),
        (layout.rxhlim, 51),
        (layout.hopopts, 53),
        (layout.srcrt, 56),
        (layout.dstopts, 58),
        (layout.rxpmtu, 60),
        (layout.rxtclass, 66),
        (layout.rxorigdstaddr, 74),
        (layout.recvfragsize, 77),
    ] {
        let value = six.field(field)?;
        reading.option_if(IPPROTO_IPV6, name, value);
    }
    Ok(())
}
