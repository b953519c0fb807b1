//! Network namespaces of processes (`net/core/net_namespace.c`), as a service manager makes them for services that need no
//! network, with the loopback link alone, and as containers have them, with links that can be made again, above all the end of a pair.
//! Any with something else that packets meet is refused.

use crate::addr::Kva;
use crate::context::Context;
use crate::inodes;
use crate::link_setup::{self, Kinds};
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::mounts;
use crate::network::{self, IFF_LOOPBACK, IFF_UP};
use crate::network6;
use crate::refusal::{Refusal, Result};
use crate::sysctls;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::{NamespaceNetwork, Network, NetworkNamespace};
use shared_region::reasons;

/// Bytes of a packet of loopback, unless somebody has changed it (`loopback_setup`).
const LOOPBACK_MTU: u64 = 64 * 1024;
/// Hooks of one place that are looked at.
const MAX_HOOKS: u64 = 64;
/// Beginnings of names of functions that security modules have in every namespace, and that do nothing to a packet which
/// nobody has marked.
const OF_SECURITY: [&str; 3] = ["apparmor_", "selinux_", "smack_"];
/// Settings of links that decide where packets go.
const OF_LINKS: [&[u8]; 10] = [
    b"accept_local",
    b"arp_announce",
    b"arp_ignore",
    b"disable_ipv6",
    b"forwarding",
    b"proxy_arp",
    b"proxy_ndp",
    b"route_localnet",
    b"rp_filter",
    b"src_valid_mark",
];
/// Bytes of the name of a congestion control (`TCP_CA_NAME_MAX`).
const MAX_NAME: usize = 64;

crate::mirrors! {
    /// What a namespace has beside links.
    #[allow(missing_docs)]
    pub struct NetworkOfNamespace = "net" {
        user_ns: Field,
        ns: Field,
        ns_ops: Field = "ns.ops",
        sysctls: Option<Field> = "sysctls",
        custom_rules: Option<Field> = "ipv4.fib_has_custom_rules",
        custom_rules6: Option<Field> = "ipv6.fib6_has_custom_rules",
        policies: Option<Field> = "xfrm.policy_count",
        hooks4: Option<Field> = "nf.hooks_ipv4",
        hooks6: Option<Field> = "nf.hooks_ipv6",
        hooks_arp: Option<Field> = "nf.hooks_arp",
        hooks_bridge: Option<Field> = "nf.hooks_bridge",
        ports: Field = "ipv4.ip_local_ports.range",
        congestion_control: Field = "ipv4.tcp_congestion_control",
    }

    /// Functions that packets go through at a place.
    #[allow(missing_docs)]
    pub struct NfHookEntries = "nf_hook_entries" {
        num_hook_entries: Field,
        hooks: Field,
    }

    /// One of them.
    #[allow(missing_docs)]
    pub struct NfHookEntry = "nf_hook_entry" {
        hook: Field,
    }
}

fn refuse(what: impl Into<String>) -> Refusal {
    Refusal::new(reasons::NS_NET, what)
}

/// What there is to one.
#[derive(Debug)]
pub struct Found {
    /// What every one has.
    pub record: NetworkNamespace,
    /// What it has beside, if that is anything.
    pub more: Option<NamespaceNetwork>,
    /// The user namespace it belongs to.
    pub owner: Kva,
}

/// Translates one.
///
/// # Errors
/// It is none, it cannot be made anew, or it cannot be read.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, net: Kva) -> Result<Found> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.network_of_namespace;
    let mem = &context.kernel.mem;
    let functions = context.kernel.prepared.globals.netns_operations;
    if functions.is_some_and(|functions| mem.ptr(net, layout.ns_ops) != Ok(functions)) {
        return Err(Refusal::new(reasons::UNREADABLE, "not a network namespace"));
    }
    let mut record = NetworkNamespace::default();
    let mut more = NamespaceNetwork::default();
    let mut kinds = None;
    for device in network::all_links(context, net)? {
        if mem.uint(device, layouts.net_device.flags)? & IFF_LOOPBACK != 0 {
            let mut of_loopback = Network::default();
            loopback(context, device, &mut record)?;
            network::addresses(context, device, network::LOOPBACK, &mut of_loopback)?;
            network::addresses6(context, device, network::LOOPBACK, &mut of_loopback, &mut record.lives)?;
            record.addresses = of_loopback.addresses;
        } else {
            link(context, device, kinds.get_or_insert_default(), &mut more)?;
        }
    }
    routes(context, net, &mut more)?;
    nothing_else(context, net)?;
    unnamed(context, net)?;
    record.settings = settings(context, net)?;
    let owner = mem.ptr(net, layout.user_ns)?;
    let more = (more != NamespaceNetwork::default()).then_some(more);
    Ok(Found { record, more, owner })
}

/// What is set in one: the name of each setting below `/proc/sys`, and what is written there.
///
/// # Errors
/// They cannot be read.
pub fn settings<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, net: Kva) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let field = context.kernel.types.layouts.network_of_namespace.sysctls;
    let field = field.ok_or_else(|| refuse("whose settings cannot be read"))?;
    let mut settings = sysctls::read(context, net.offset(u64::from(field.offset)))?;
    settings.extend([
        (b"net/ipv4/ip_local_port_range".to_vec(), ports(context, net)?),
        (
            b"net/ipv4/tcp_congestion_control".to_vec(),
            congestion_control(context, net)?,
        ),
    ]);
    Ok(settings)
}

/// Of them, those of the machine's network that the next kernel is given before it brings its network itself: all that are not of a link, and
/// of links what decides where packets go.
///
/// # Errors
/// See [`settings`].
pub fn of_machine<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut settings = settings(context, context.namespaces.net)?;
    settings.retain(|(name, _)| matters(name));
    Ok(settings)
}

fn matters(name: &[u8]) -> bool {
    let mut parts = name.split(|&byte| byte == b'/').skip(2);
    let is_of_link = parts.next() == Some(b"conf");
    !is_of_link || parts.nth(1).is_some_and(|last| OF_LINKS.contains(&last))
}

/// Notes what there is to another link, which must be one that can be made again.
fn link<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    device: Kva,
    kinds: &Kinds,
    more: &mut NamespaceNetwork,
) -> Result<()> {
    let layout = &context.kernel.types.layouts.net_device;
    let mem = &context.kernel.mem;
    let name = mem.text(device, layout.name)?;
    let with = |why: &str| refuse(format!("with the link {}{why}", String::from_utf8_lossy(&name)));
    let setup = link_setup::setup(context, kinds, device)?;
    if setup.kind.is_empty() {
        return Err(with(", which is hardware"));
    }
    if !setup.not_made.is_empty() {
        return Err(with(&format!(": {}", String::from_utf8_lossy(&setup.not_made))));
    }
    let index = network::link(context, device, &mut more.network, &mut more.network6.lives)?;
    more.setups.push(setup);
    if mem.uint(device, layout.flags)? & IFF_UP == 0 {
        more.down.push(index);
    }
    Ok(())
}

/// Notes routes.
fn routes<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, net: Kva, more: &mut NamespaceNetwork) -> Result<()> {
    network::routes(context, net, &mut more.network)?;
    more.network6.routes = network6::routes_of(context, net, &mut more.network)?;
    match more.network.left_out.first() {
        Some(what) => Err(refuse(format!("with a {}", String::from_utf8_lossy(what)))),
        None => Ok(()),
    }
}

/// Notes what there is to the loopback link.
fn loopback<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    device: Kva,
    record: &mut NetworkNamespace,
) -> Result<()> {
    let layout = &context.kernel.types.layouts.net_device;
    let mem = &context.kernel.mem;
    let flags = mem.uint(device, layout.flags)?;
    let is_first = mem.uint(device, layout.ifindex)? == u64::from(network::LOOPBACK);
    if !is_first || mem.text(device, layout.name)? != b"lo" || mem.uint(device, layout.mtu)? != LOOPBACK_MTU {
        return Err(refuse("with a loopback link that was changed"));
    }
    record.up = flags & IFF_UP != 0;
    Ok(())
}

/// Refuses one with rules or a firewall.
fn nothing_else<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, net: Kva) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.network_of_namespace;
    let mem = &context.kernel.mem;
    for (field, what) in [
        (layout.custom_rules, "with rules for routes"),
        (layout.custom_rules6, "with rules for routes"),
    ] {
        if field.map_or(Ok(0), |field| mem.uint(net, field))? != 0 {
            return Err(refuse(what));
        }
    }
    for field in layout.policies.into_iter() {
        let first = net.offset(u64::from(field.offset));
        if mem.bytes(first, field.size as usize)?.iter().any(|&byte| byte != 0) {
            return Err(refuse("with policies of IPsec"));
        }
    }
    let hooks = [layout.hooks4, layout.hooks6, layout.hooks_arp, layout.hooks_bridge];
    for field in hooks.into_iter().flatten() {
        for index in 0..u64::from(field.count()) {
            let place = net
                .offset(u64::from(field.offset))
                .offset(index.wrapping_mul(u64::from(field.element)));
            not_filtered(context, mem.pointer(place)?)?;
        }
    }
    let hashinfo = layouts.tcp_tables.hashinfo;
    if mem.ptr(net, hashinfo)? != mem.ptr(context.namespaces.net, hashinfo)? {
        return Err(refuse("with a table of connections of its own"));
    }
    Ok(())
}

/// Refuses functions at a place that are not those of a security module.
fn not_filtered<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, entries: Kva) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    if entries.is_null() {
        return Ok(());
    }
    let (Some(layout), Some(entry)) = (&layouts.nf_hook_entries, &layouts.nf_hook_entry) else {
        return Err(refuse("with a firewall"));
    };
    let count = mem.uint(entries, layout.num_hook_entries)?;
    if count > MAX_HOOKS {
        return Err(Refusal::new(reasons::UNREADABLE, "functions for packets without end"));
    }
    let first = entries.offset(u64::from(layout.hooks.offset));
    for index in 0..count {
        let at = first.offset(index.wrapping_mul(u64::from(entry.struct_size)));
        let name = context.symbol(mem.ptr(at, entry.hook)?);
        let is_known = name
            .as_deref()
            .is_some_and(|name| OF_SECURITY.iter().any(|beginning| name.starts_with(beginning)));
        // What takes the place of one that is gone until the row is made anew.
        if !is_known && name.as_deref() != Some("accept_all") {
            return Err(refuse("with a firewall"));
        }
    }
    Ok(())
}

/// Refuses one that has a name as a file (`ip netns`): it would be another that is found there.
fn unnamed<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, net: Kva) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let common = net.offset(u64::from(layouts.network_of_namespace.ns.offset));
    for mount in mounts::all(context, context.namespaces.mount) {
        let superblock = mem.ptr(mount, layouts.mount.mnt_sb)?;
        if inodes::fs_type(context, superblock)? != b"nsfs" {
            continue;
        }
        let inode = mem.ptr(mem.ptr(mount, layouts.mount.mnt_root)?, layouts.dentry.d_inode)?;
        if mem.ptr(inode, layouts.inode.i_private)? == common {
            return Err(refuse("that is mounted as a file"));
        }
    }
    Ok(())
}

/// The ports that sockets are given: two numbers, in one of 32 bits since Linux 6.8.
fn ports<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, net: Kva) -> Result<Vec<u8>> {
    let field = context.kernel.types.layouts.network_of_namespace.ports;
    let mem = &context.kernel.mem;
    let at = net.offset(u64::from(field.offset));
    let (low, high) = match field.size {
        4 => {
            let range = mem.u32(at)?;
            (range & 0xFFFF, range >> 16)
        }
        _ => (mem.u32(at)?, mem.u32(at.offset(4))?),
    };
    Ok(format!("{low}\t{high}").into_bytes())
}

fn congestion_control<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, net: Kva) -> Result<Vec<u8>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let chosen = mem.ptr(net, layouts.network_of_namespace.congestion_control)?;
    let name = mem.text(chosen, layouts.tcp_congestion_ops.name)?;
    match name.is_empty() || name.len() > MAX_NAME {
        true => Err(Refusal::new(reasons::UNREADABLE, "the name of a congestion control")),
        false => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_links_only_what_decides_where_packets_go_is_set_for_the_machine() {
        for (name, wanted) in [
            (&b"net/ipv4/ip_forward"[..], true),
            (b"net/core/somaxconn", true),
            (b"net/ipv4/conf/eth0/rp_filter", true),
            (b"net/ipv6/conf/all/forwarding", true),
            (b"net/ipv6/conf/eth0/hop_limit", false),
            (b"net/ipv4/conf", false),
        ] {
            assert_eq!(matters(name), wanted, "{}", String::from_utf8_lossy(name));
        }
    }
}
