//! Links, addresses and routes (`include/linux/netdevice.h`, `include/linux/inetdevice.h`, `net/ipv4/fib_trie.c`): what
//! connections need before a network manager runs.

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::network6;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::context::{AddressLife, Network, NetworkAddress, NetworkLink, NetworkRoute};
use shared_region::reasons;

/// `IFF_UP` and `IFF_LOOPBACK`.
pub const IFF_UP: u64 = 1;
/// See [`IFF_UP`].
pub const IFF_LOOPBACK: u64 = 8;
/// The number of the loopback link (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;
/// `RT_SCOPE_LINK`: of the link alone, and made by it.
const SCOPE_LINK: u64 = 253;
/// `IFA_LINK` of `inet6_ifaddr.scope`.
const IPV6_LINK_LOCAL: u64 = 0x20;
/// `RT_TABLE_MAIN`, and tables in a hash of as many (`FIB_TABLE_HASHSZ`).
const MAIN: u64 = 254;
const TABLES: u64 = 256;
/// `RTPROT_KERNEL`: comes with an address.
const BY_KERNEL: u64 = 2;
/// `AF_INET`.
const AF_INET: u64 = 2;
/// Bits of a key (`KEYLENGTH`).
const KEY: u64 = 32;
/// More than a machine has that is not a router of the Internet.
const MAX_LINKS: u64 = 4096;
const MAX_ADDRESSES: usize = 4096;
const MAX_NODES: usize = 1 << 16;

crate::mirrors! {
    /// A network namespace.
    #[allow(missing_docs)]
    pub struct Net = "net" {
        dev_base_head: Field,
        fib_table_hash: Field = "ipv4.fib_table_hash",
        fib6_main_tbl: Option<Field> = "ipv6.fib6_main_tbl",
    }

    /// A link.
    #[allow(missing_docs)]
    pub struct NetDevice = "net_device" {
        name: Field,
        ifindex: Field,
        flags: Field,
        mtu: Field,
        dev_list: Field,
        ip_ptr: Field,
        ip6_ptr: Field,
        dev_addr: Field,
        perm_addr: Field,
        rtnl_link_ops: Field,
        upper: Field = "adj_list.upper",
        addr_len: Field,
        net: Field = "nd_net.net",
    }

    /// Its part of IPv4.
    #[allow(missing_docs)]
    pub struct InDevice = "in_device" {
        ifa_list: Field,
    }

    /// An address of IPv4.
    #[allow(missing_docs)]
    pub struct InIfaddr = "in_ifaddr" {
        ifa_next: Field,
        ifa_local: Field,
        ifa_address: Field,
        ifa_broadcast: Field,
        ifa_prefixlen: Field,
        ifa_scope: Field,
        ifa_label: Field,
    }

    /// Its part of IPv6.
    #[allow(missing_docs)]
    pub struct Inet6Dev = "inet6_dev" {
        addr_list: Field,
    }

    /// An address of IPv6.
    #[allow(missing_docs)]
    pub struct Inet6Ifaddr = "inet6_ifaddr" {
        addr: Field,
        flags: Field,
        tstamp: Field,
        valid_lft: Field,
        prefered_lft: Field,
        prefix_len: Field,
        scope: Field,
        if_list: Field,
    }

    /// A table of routes.
    #[allow(missing_docs)]
    pub struct FibTable = "fib_table" {
        tb_hlist: Field,
        tb_id: Field,
        tb_data: Field,
    }

    /// A node of its trie.
    #[allow(missing_docs)]
    pub struct KeyVector = "key_vector" {
        key: Field,
        pos: Field,
        bits: Field,
        leaf: Field,
    }

    /// A route at a leaf.
    #[allow(missing_docs)]
    pub struct FibAlias = "fib_alias" {
        fa_list: Field,
        fa_info: Field,
        fa_type: Field,
        fa_slen: Field,
        tb_id: Field,
    }

    /// Where it leads.
    #[allow(missing_docs)]
    pub struct FibInfo = "fib_info" {
        fib_protocol: Field,
        fib_scope: Field,
        fib_prefsrc: Field,
        fib_priority: Field,
        fib_nhs: Field,
        nh: Option<Field> = "nh",
        fib_nh: Field,
    }

    /// By whom.
    #[allow(missing_docs)]
    pub struct FibNh = "fib_nh" {
        oif: Field = "nh_common.nhc_oif",
        gw_family: Field = "nh_common.nhc_gw_family",
        gw: Field = "nh_common.nhc_gw",
    }
}

/// Reads the network of the first process's namespace, with the lives of addresses of IPv6. What cannot be read is named in
/// [`Network::left_out`].
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>) -> (Network, Vec<AddressLife>) {
    let (mut network, mut lives) = (Network::default(), Vec::new());
    let net = context.namespaces.net;
    if net.is_null() {
        return (network, lives);
    }
    let said = |refusal: Refusal, what: &str| alloc::format!("{what}: {refusal}").into_bytes();
    if let Err(refusal) = links(context, &mut network, &mut lives) {
        network.left_out.push(said(refusal, "links"));
    }
    if let Err(refusal) = routes(context, net, &mut network) {
        network.left_out.push(said(refusal, "routes"));
    }
    (network, lives)
}

/// The links of the first process's namespace that run, but for loopback: each a `struct net_device`.
///
/// # Errors
/// Their list makes no sense.
pub fn links_that_run<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>) -> Result<Vec<Kva>> {
    let flags = context.kernel.types.layouts.net_device.flags;
    let net = context.namespaces.net;
    if net.is_null() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for device in all_links(context, net)? {
        let flags = context.kernel.mem.uint(device, flags)?;
        if flags & IFF_UP != 0 && flags & IFF_LOOPBACK == 0 {
            found.push(device);
        }
    }
    Ok(found)
}

/// The links of a namespace: each a `struct net_device`.
///
/// # Errors
/// Their list makes no sense.
pub fn all_links<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, net: Kva) -> Result<Vec<Kva>> {
    let layouts = &context.kernel.types.layouts;
    let head = net.offset(u64::from(layouts.net.dev_base_head.offset));
    let devices = context.kernel.list(head, layouts.net_device.dev_list);
    Ok(devices.bounded(MAX_LINKS).collect::<core::result::Result<_, _>>()?)
}

fn links<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    network: &mut Network,
    lives: &mut Vec<AddressLife>,
) -> Result<()> {
    for device in links_that_run(context)? {
        link(context, device, network, lives)?;
    }
    Ok(())
}

/// Adds a link with its addresses; its number.
///
/// # Errors
/// It cannot be read.
pub fn link<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    device: Kva,
    network: &mut Network,
    lives: &mut Vec<AddressLife>,
) -> Result<u32> {
    let layout = &context.kernel.types.layouts.net_device;
    let mem = &context.kernel.mem;
    let index = mem.uint(device, layout.ifindex)? as u32;
    let length = mem.uint(device, layout.addr_len)?.min(32);
    network.links.push(NetworkLink {
        index,
        name: mem.text(device, layout.name)?,
        hardware: mem.bytes(mem.ptr(device, layout.dev_addr)?, length as usize)?,
        mtu: mem.uint(device, layout.mtu)? as u32,
    });
    addresses(context, device, index, network)?;
    addresses6(context, device, index, network, lives)?;
    Ok(index)
}

/// Adds the addresses of IPv4 of a device, whose number is `link`.
///
/// # Errors
/// One cannot be read, or there is no end of them.
pub fn addresses<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    device: Kva,
    link: u32,
    network: &mut Network,
) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.in_ifaddr;
    let mem = &context.kernel.mem;
    let of = mem.ptr(device, layouts.net_device.ip_ptr)?;
    if of.is_null() {
        return Ok(());
    }
    let mut at = mem.ptr(of, layouts.in_device.ifa_list)?;
    while !at.is_null() {
        if network.addresses.len() >= MAX_ADDRESSES {
            return Err(Refusal::new(reasons::UNREADABLE, "addresses without end"));
        }
        let bytes = |field: Field| mem.bytes(at.offset(u64::from(field.offset)), 4);
        network.addresses.push(NetworkAddress {
            link,
            local: bytes(layout.ifa_local)?,
            address: bytes(layout.ifa_address)?,
            prefix: mem.uint(at, layout.ifa_prefixlen)? as u8,
            scope: mem.uint(at, layout.ifa_scope)? as u8,
            broadcast: mem.uint(at, layout.ifa_broadcast)? as u32,
            label: mem.text(at, layout.ifa_label)?,
        });
        at = mem.ptr(at, layout.ifa_next)?;
    }
    Ok(())
}

/// Adds the addresses of IPv6; those of the link itself are made with it.
///
/// # Errors
/// One cannot be read.
pub fn addresses6<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    device: Kva,
    link: u32,
    network: &mut Network,
    lives: &mut Vec<AddressLife>,
) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.inet6_ifaddr;
    let mem = &context.kernel.mem;
    let of = mem.ptr(device, layouts.net_device.ip6_ptr)?;
    if of.is_null() {
        return Ok(());
    }
    let head = of.offset(u64::from(layouts.inet6_dev.addr_list.offset));
    for at in context.kernel.list(head, layout.if_list).bounded(MAX_LINKS) {
        let at = at?;
        let scope = mem.uint(at, layout.scope)?;
        if scope == IPV6_LINK_LOCAL || scope == SCOPE_LINK {
            continue;
        }
        let local = mem.bytes(at.offset(u64::from(layout.addr.offset)), 16)?;
        lives.push(network6::life(context, at, link)?);
        network.addresses.push(NetworkAddress {
            link,
            address: local.clone(),
            local,
            prefix: mem.uint(at, layout.prefix_len)? as u8,
            ..NetworkAddress::default()
        });
    }
    Ok(())
}

/// Adds the routes of the main table that do not come with an address.
///
/// # Errors
/// The table cannot be read.
pub fn routes<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, net: Kva, network: &mut Network) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let (table, node) = (&layouts.fib_table, &layouts.key_vector);
    let mem = &context.kernel.mem;
    let hash = mem.ptr(net, layouts.net.fib_table_hash)?;
    let bucket = hash.offset((MAIN & (TABLES - 1)).wrapping_mul(8));
    let mut main = None;
    for at in context.kernel.hlist(bucket, table.tb_hlist) {
        let at = at?;
        if mem.uint(at, table.tb_id)? == MAIN {
            main = Some(at);
        }
    }
    let Some(main) = main else { return Ok(()) };
    // The first node is no node but holds the root in its place for a child (`struct trie`).
    let children = u64::from(node.leaf.offset);
    let root = mem.pointer(mem.ptr(main, table.tb_data)?.offset(children))?;
    let mut waiting = alloc::vec![root];
    let mut seen = 0usize;
    while let Some(at) = waiting.pop() {
        if at.is_null() {
            continue;
        }
        seen = seen.saturating_add(1);
        let bits = mem.uint(at, node.bits)?;
        if seen > MAX_NODES || bits >= KEY || mem.uint(at, node.pos)? >= KEY {
            return Err(Refusal::new(reasons::UNREADABLE, "a table of routes without end"));
        }
        if bits == 0 {
            leaf(context, at, network)?;
            continue;
        }
        for i in 0..1u64 << bits {
            if waiting.len() > MAX_NODES {
                return Err(Refusal::new(reasons::UNREADABLE, "a table of routes without end"));
            }
            let child = mem.pointer(at.offset(children).offset(i.wrapping_mul(8)))?;
            if !child.is_null() {
                waiting.push(child);
            }
        }
    }
    Ok(())
}

/// The routes at a leaf.
fn leaf<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, node: Kva, network: &mut Network) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let (alias, info, hop) = (&layouts.fib_alias, &layouts.fib_info, &layouts.fib_nh);
    let mem = &context.kernel.mem;
    let key = mem.uint(node, layouts.key_vector.key)? as u32;
    let head = node.offset(u64::from(layouts.key_vector.leaf.offset));
    for at in context.kernel.hlist(head, alias.fa_list) {
        let at = at?;
        let to = mem.ptr(at, alias.fa_info)?;
        if mem.uint(at, alias.tb_id)? != MAIN || mem.uint(to, info.fib_protocol)? == BY_KERNEL {
            continue;
        }
        let word = |base: Kva, field: Field| mem.array::<4>(base.offset(u64::from(field.offset)));
        let by = to.offset(u64::from(info.fib_nh.offset));
        let objects = info.nh.map_or(Ok(0), |nh| mem.uint(to, nh))?;
        let family = mem.uint(by, hop.gw_family)?;
        if mem.uint(to, info.fib_nhs)? != 1 || objects != 0 || (family != 0 && family != AF_INET) {
            let what = alloc::format!("route to {:?}, by several neighbours", key.to_be_bytes());
            network.left_out.push(what.into_bytes());
            continue;
        }
        network.routes.push(NetworkRoute {
            destination: key.to_be_bytes(),
            prefix: KEY.saturating_sub(mem.uint(at, alias.fa_slen)?) as u8,
            gateway: if family == AF_INET {
                Some(word(by, hop.gw)?)
            } else {
                None
            },
            link: mem.uint(by, hop.oif)? as u32,
            source: word(to, info.fib_prefsrc)?,
            priority: mem.uint(to, info.fib_priority)? as u32,
            protocol: mem.uint(to, info.fib_protocol)? as u8,
            scope: mem.uint(to, info.fib_scope)? as u8,
            kind: mem.uint(at, alias.fa_type)? as u8,
        });
    }
    Ok(())
}
