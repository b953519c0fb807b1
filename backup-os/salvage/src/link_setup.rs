//! Links that the kernel makes when it is asked to, and what links are to each other (`net/core/dev.c`,
//! `net/core/rtnetlink.c`): the addresses of a machine may be on a bridge, on a bond or in a VLAN.
//!
//! What these are made of is private to modules, whose structures are looked up when a failure finds one.

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::module_types::Module;
use crate::network::links_that_run;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::context::{waiting_end, LinkAttribute, LinkSetup};
use shared_region::reasons;

/// What lies behind a `struct net_device` begins at a multiple of so many bytes (`NETDEV_ALIGN`).
const ALIGN: u64 = 32;
/// Links above one.
const MAX_UPPER: u64 = 256;
/// Longest name of a kind of link (`MODULE_NAME_LEN`).
const MAX_KIND: usize = 56;
/// Longest hardware address (`MAX_ADDR_LEN`).
const MAX_ADDRESS: u64 = 32;
/// Nanoseconds of what user space counts the times of a bridge in (`USER_HZ`).
const USER_TICK: u64 = 10_000_000;
/// `IFLA_BR_FORWARD_DELAY`, `IFLA_BR_AGEING_TIME` and `IFLA_BR_STP_STATE` (include/uapi/linux/if_link.h).
const BR_FORWARD_DELAY: u16 = 1;
const BR_AGEING_TIME: u16 = 4;
const BR_STP_STATE: u16 = 5;
/// `BROPT_VLAN_ENABLED` (`enum net_bridge_opts`).
const BR_VLANS: u64 = 1;
/// `IFLA_VLAN_ID`, `IFLA_VLAN_FLAGS` and `IFLA_VLAN_PROTOCOL`.
const VLAN_ID: u16 = 1;
const VLAN_FLAGS: u16 = 2;
const VLAN_PROTOCOL: u16 = 5;
/// `VLAN_FLAG_REORDER_HDR` to `VLAN_FLAG_BRIDGE_BINDING` (include/uapi/linux/if_vlan.h).
const VLAN_SETTABLE: u32 = 0b1_1111;
/// `VETH_INFO_PEER` (include/uapi/linux/veth.h), and what stands in it: `IFLA_IFNAME` behind a `struct ifinfomsg`.
const VETH_PEER: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFINFOMSG: usize = 16;
/// `IFLA_BOND_MODE` ….
const BOND_MODE: u16 = 1;
const BOND_MIIMON: u16 = 3;
const BOND_UPDELAY: u16 = 4;
const BOND_DOWNDELAY: u16 = 5;
const BOND_FAIL_OVER_MAC: u16 = 13;
const BOND_XMIT_HASH_POLICY: u16 = 14;
const BOND_MIN_LINKS: u16 = 18;
const BOND_AD_LACP_RATE: u16 = 21;
const BOND_AD_SELECT: u16 = 22;
/// `BOND_MODE_8023AD`.
const BOND_8023AD: u64 = 4;

crate::mirrors! {
    /// What a kind of link is.
    #[allow(missing_docs)]
    pub struct RtnlLinkOps = "rtnl_link_ops" {
        kind: Field,
    }

    /// That a link has to do with another.
    #[allow(missing_docs)]
    pub struct NetdevAdjacent = "netdev_adjacent" {
        dev: Field,
        master: Field,
        list: Field,
    }

    /// A bridge (`net/bridge/br_private.h`).
    #[allow(missing_docs)]
    pub struct NetBridge = "net_bridge" {
        options: Field,
        stp_enabled: Field,
        forward_delay: Field = "bridge_forward_delay",
        ageing_time: Field,
    }

    /// A VLAN (`include/linux/if_vlan.h`).
    #[allow(missing_docs)]
    pub struct VlanDevPriv = "vlan_dev_priv" {
        vlan_proto: Field,
        vlan_id: Field,
        flags: Field,
        nr_ingress_mappings: Field,
        nr_egress_mappings: Field,
        real_dev: Field,
    }

    /// A bond (`include/net/bonding.h`).
    #[allow(missing_docs)]
    pub struct Bonding = "bonding" {
        mode: Field = "params.mode",
        xmit_policy: Field = "params.xmit_policy",
        miimon: Field = "params.miimon",
        arp_interval: Field = "params.arp_interval",
        fail_over_mac: Field = "params.fail_over_mac",
        updelay: Field = "params.updelay",
        downdelay: Field = "params.downdelay",
        lacp_fast: Field = "params.lacp_fast",
        min_links: Field = "params.min_links",
        ad_select: Field = "params.ad_select",
    }

    /// An end of a pair (`drivers/net/veth.c`).
    #[allow(missing_docs)]
    pub struct VethPriv = "veth_priv" {
        peer: Field,
    }
}

/// The modules of links that are made again.
#[derive(Debug)]
pub struct Kinds {
    veth: Module<VethPriv>,
    bridge: Module<NetBridge>,
    vlan: Module<VlanDevPriv>,
    bond: Module<Bonding>,
}

impl Default for Kinds {
    fn default() -> Self {
        Self {
            veth: Module::new("veth"),
            bridge: Module::new("bridge"),
            vlan: Module::new("8021q"),
            bond: Module::new("bonding"),
        }
    }
}

/// What there is to say of the links that run. One that cannot be read is left out, and then not there.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>) -> Vec<LinkSetup> {
    let links = links_that_run(context).unwrap_or_default();
    let kinds = Kinds::default();
    let setups = links
        .into_iter()
        .filter_map(|device| setup(context, &kinds, device).ok());
    setups
        .filter(|setup| {
            let hardware = setup.kind.is_empty() && setup.master == 0;
            !hardware || !setup.permanent.is_empty()
        })
        .collect()
}

/// What there is to say of a link.
///
/// # Errors
/// It cannot be read.
pub fn setup<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, kinds: &Kinds, device: Kva) -> Result<LinkSetup> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.net_device;
    let mem = &context.kernel.mem;
    let length = mem.uint(device, layout.addr_len)?.min(MAX_ADDRESS) as usize;
    let mut permanent = mem.bytes(device.offset(u64::from(layout.perm_addr.offset)), length)?;
    if permanent.iter().all(|&byte| byte == 0) {
        permanent.clear();
    }
    let operations = mem.ptr(device, layout.rtnl_link_ops)?;
    let kind = match operations.is_null() {
        true => Vec::new(),
        false => mem.cstr(mem.ptr(operations, layouts.rtnl_link_ops.kind)?, MAX_KIND)?,
    };
    let mut setup = LinkSetup {
        index: mem.uint(device, layout.ifindex)? as u32,
        permanent,
        kind,
        master: master(context, device)?,
        ..LinkSetup::default()
    };
    let private = device.offset(u64::from(layout.struct_size).next_multiple_of(ALIGN));
    let made = match setup.kind.as_slice() {
        b"" | b"dummy" => Ok(()),
        b"veth" => veth(context, &kinds.veth, (device, private), &mut setup),
        b"bridge" => bridge(context, &kinds.bridge, private, &mut setup),
        b"vlan" => vlan(context, &kinds.vlan, (device, private), &mut setup),
        b"bond" => bond(context, &kinds.bond, private, &mut setup),
        _ => Err(unknown("links of its kind are not made again")),
    };
    if let Err(refusal) = made {
        setup.not_made = match refusal.detail.is_empty() {
            true => alloc::format!("{refusal}").into_bytes(),
            false => refusal.detail.into_bytes(),
        };
    }
    Ok(setup)
}

/// The number of the link that one is a port of, 0 for none.
fn master<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, device: Kva) -> Result<u32> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.netdev_adjacent;
    let mem = &context.kernel.mem;
    let head = device.offset(u64::from(layouts.net_device.upper.offset));
    for at in context.kernel.list(head, layout.list).bounded(MAX_UPPER) {
        let at = at?;
        if mem.uint(at, layout.master)? & 1 != 0 {
            let master = mem.ptr(at, layout.dev)?;
            return Ok(mem.uint(master, layouts.net_device.ifindex)? as u32);
        }
    }
    Ok(0)
}

fn attribute(kind: u16, value: &[u8]) -> LinkAttribute {
    LinkAttribute {
        kind,
        value: value.into(),
    }
}

fn word(kind: u16, value: u64) -> LinkAttribute {
    attribute(kind, &(value as u32).to_ne_bytes())
}

fn byte(kind: u16, value: u64) -> LinkAttribute {
    attribute(kind, &[value as u8])
}

fn unknown(what: &str) -> Refusal {
    Refusal::new(reasons::UNKNOWN, what)
}

/// A port forwards nothing for as long as the bridge learns; these have done so.
fn bridge<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    module: &Module<NetBridge>,
    at: Kva,
    setup: &mut LinkSetup,
) -> Result<()> {
    let layout = module.structures(context.kernel).ok_or_else(|| unknown("bridge"))?;
    let mem = &context.kernel.mem;
    if mem.uint(at, layout.options)? & BR_VLANS != 0 {
        return Err(unknown("a bridge that tells VLANs apart"));
    }
    let tick = context.tick().ok_or_else(|| unknown("times in unknown units"))?;
    let time = |field| {
        let ticks = mem.uint(at, field)?;
        Ok::<_, Refusal>(ticks.saturating_mul(tick) / USER_TICK)
    };
    setup.first = alloc::vec![
        word(BR_FORWARD_DELAY, 0),
        word(BR_AGEING_TIME, time(layout.ageing_time)?)
    ];
    setup.later = alloc::vec![
        word(BR_FORWARD_DELAY, time(layout.forward_delay)?),
        word(BR_STP_STATE, u64::from(mem.uint(at, layout.stp_enabled)? != 0)),
    ];
    Ok(())
}

/// One end of a pair, of which the other is in the first namespace or belongs to another.
fn veth<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    module: &Module<VethPriv>,
    (device, at): (Kva, Kva),
    setup: &mut LinkSetup,
) -> Result<()> {
    let layout = module.structures(context.kernel).ok_or_else(|| unknown("veth"))?;
    let mem = &context.kernel.mem;
    let of = &context.kernel.types.layouts.net_device;
    let peer = mem.ptr(at, layout.peer)?;
    if peer.is_null() {
        return Err(unknown("a pair without its other end"));
    }
    let first = context.namespaces.net;
    match (mem.ptr(device, of.net)? == first, mem.ptr(peer, of.net)? == first) {
        (true, false) => {
            let name = [waiting_end(setup.index).as_bytes(), &[0]].concat();
            let length = 4usize.saturating_add(name.len()) as u16;
            let mut value = alloc::vec![0; IFINFOMSG];
            value.extend([length, IFLA_IFNAME].map(u16::to_ne_bytes).concat());
            value.extend(name);
            setup.first = alloc::vec![attribute(VETH_PEER, &value)];
            Ok(())
        }
        (false, true) => {
            setup.lower = mem.uint(peer, of.ifindex)? as u32;
            Ok(())
        }
        (true, true) => Err(unknown("a pair in one namespace")),
        (false, false) => Err(unknown("a pair without an end in the first namespace")),
    }
}

fn vlan<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    module: &Module<VlanDevPriv>,
    (device, at): (Kva, Kva),
    setup: &mut LinkSetup,
) -> Result<()> {
    let layout = module.structures(context.kernel).ok_or_else(|| unknown("vlan"))?;
    let mem = &context.kernel.mem;
    for mappings in [layout.nr_ingress_mappings, layout.nr_egress_mappings] {
        if mem.uint(at, mappings)? != 0 {
            return Err(unknown("a VLAN with priorities"));
        }
    }
    let below = mem.ptr(at, layout.real_dev)?;
    let of = &context.kernel.types.layouts.net_device;
    if mem.ptr(below, of.net)? != mem.ptr(device, of.net)? {
        return Err(unknown("a VLAN of a link in another namespace"));
    }
    setup.lower = mem.uint(below, of.ifindex)? as u32;
    let flags = mem.uint(at, layout.flags)? as u32;
    setup.first = alloc::vec![
        attribute(VLAN_ID, &(mem.uint(at, layout.vlan_id)? as u16).to_ne_bytes()),
        // In network order in both places.
        attribute(VLAN_PROTOCOL, &(mem.uint(at, layout.vlan_proto)? as u16).to_ne_bytes()),
        // struct ifla_vlan_flags: flags, and which of them count.
        attribute(
            VLAN_FLAGS,
            &[flags & VLAN_SETTABLE, VLAN_SETTABLE].map(u32::to_ne_bytes).concat()
        ),
    ];
    Ok(())
}

fn bond<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    module: &Module<Bonding>,
    at: Kva,
    setup: &mut LinkSetup,
) -> Result<()> {
    let layout = module.structures(context.kernel).ok_or_else(|| unknown("bond"))?;
    let field = |field| context.kernel.mem.uint(at, field);
    if field(layout.arp_interval)? != 0 {
        return Err(unknown("a bond that asks its neighbours"));
    }
    let mode = field(layout.mode)?;
    let miimon = field(layout.miimon)?;
    setup.first = alloc::vec![
        byte(BOND_MODE, mode),
        word(BOND_MIIMON, miimon),
        byte(BOND_FAIL_OVER_MAC, field(layout.fail_over_mac)?),
        byte(BOND_XMIT_HASH_POLICY, field(layout.xmit_policy)?),
        word(BOND_MIN_LINKS, field(layout.min_links)?),
    ];
    if miimon != 0 {
        // Counted in looks at the ports.
        let delay = |kind, looks: u64| word(kind, looks.saturating_mul(miimon));
        setup.first.push(delay(BOND_UPDELAY, field(layout.updelay)?));
        setup.first.push(delay(BOND_DOWNDELAY, field(layout.downdelay)?));
    }
    if mode == BOND_8023AD {
        setup.first.push(byte(BOND_AD_LACP_RATE, field(layout.lacp_fast)?));
        setup.first.push(byte(BOND_AD_SELECT, field(layout.ad_select)?));
    }
    Ok(())
}
