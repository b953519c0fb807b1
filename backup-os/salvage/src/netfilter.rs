//! The firewall: the copy of its rules that the kernel's module keeps (`active-hooks/kmod/netfilter.c`), and the connections
//! that it tracks (`include/net/netfilter/nf_conntrack.h`).
//!
//! The rules are kept if the copy is of the very generation in which the kernel died. Otherwise it is only said that there are
//! some: a wrong rule may let in what must stay out.

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::modules;
use crate::refusal::Result;
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::{Flow, Netfilter, Rules, TrackedConnection};
use shared_region::netfilter::{NetfilterWords, FIRST_GENERATION, MOST};
use zerocopy::FromBytes as _;

/// Tables of the older interface, which are there as soon as somebody has used them.
const OLD_TABLES: [&str; 5] = ["ip_tables", "ip6_tables", "arp_tables", "ebtables", "ip_set"];
/// Buckets that a kernel has at most, and connections that are kept.
const MAX_BUCKETS: u64 = 1 << 22;
const MAX_CONNECTIONS: usize = 1 << 13;
/// `IPS_CONFIRMED`, `IPS_DYING`, and what cannot be made again: helpers, moved sequence numbers, hardware.
const CONFIRMED: u32 = 1 << 3;
const DYING: u32 = 1 << 9;
const BOUND: u32 = 1 << 6 | 1 << 11 | 1 << 13;
/// `AF_INET` and `AF_INET6`; `IPPROTO_TCP` and `IPPROTO_UDP`.
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
const NS_PER_SECOND: u64 = 1_000_000_000;

crate::mirrors! {
    /// A tracked connection.
    #[allow(missing_docs)]
    pub struct NfConn = "nf_conn" {
        timeout: Field,
        zone: Field = "zone.id",
        tuplehash: Field,
        status: Field,
        net: Field = "ct_net.net",
        mark: Option<Field> = "mark",
        state: Field = "proto.tcp.state",
        seen: Field = "proto.tcp.seen",
    }

    /// One side of it.
    #[allow(missing_docs)]
    pub struct NfConntrackTupleHash = "nf_conntrack_tuple_hash" {
        hnnode: Field,
        source: Field = "tuple.src.u3",
        source_port: Field = "tuple.src.u",
        l3num: Field = "tuple.src.l3num",
        destination: Field = "tuple.dst.u3",
        destination_port: Field = "tuple.dst.u",
        protonum: Field = "tuple.dst.protonum",
        dir: Field = "tuple.dst.dir",
    }

    /// What was seen of a side of TCP.
    #[allow(missing_docs)]
    pub struct IpCtTcpState = "ip_ct_tcp_state" {
        td_scale: Field,
        flags: Field,
    }
}

/// Reads the firewall of the first process's namespace: the record, and the rules that follow it.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>) -> (Netfilter, Vec<u8>) {
    let mut record = Netfilter::default();
    let words = words(context);
    let rules = match words
        .as_ref()
        .map_err(Clone::clone)
        .and_then(|words| rules(context, words))
    {
        Ok(rules) => rules,
        Err(why) => {
            record.rules = Rules::Unknown(why);
            Vec::new()
        }
    };
    if !rules.is_empty() {
        record.rules = Rules::Kept;
    }
    if let Some(older) = older(context) {
        record.rules = Rules::Unknown(older);
    }
    if let Ok(words) = words {
        connections(context, &words, &mut record);
    }
    (record, rules)
}

fn words<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>) -> core::result::Result<NetfilterWords, String> {
    // Over an image of a machine without the module nothing is known, and nobody lets anything in.
    let Some(at) = context.input.facts.map(|facts| Kva(facts.netfilter)) else {
        return Err("the kernel's module has said nothing about rules".into());
    };
    let bytes = context.kernel.mem.array::<{ size_of::<NetfilterWords>() }>(at);
    let bytes = bytes.map_err(|error| alloc::format!("the module's words about rules: {error}"))?;
    NetfilterWords::read_from_bytes(&bytes).map_err(|_| "the module's words about rules".into())
}

/// The rules; empty if there are none.
fn rules<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    words: &NetfilterWords,
) -> core::result::Result<Vec<u8>, String> {
    let mem = &context.kernel.mem;
    if words.generation_at == 0 {
        return Ok(Vec::new());
    }
    let now = mem.u32(Kva(words.generation_at));
    let now = now.map_err(|error| alloc::format!("the generation of rules: {error}"))?;
    if now == FIRST_GENERATION {
        return Ok(Vec::new());
    }
    if words.seq & 1 != 0 || words.generation != u64::from(now) {
        let copied = words.generation;
        return Err(alloc::format!(
            "the rules had just been changed: the copy is of generation {copied}, and the kernel at {now}"
        ));
    }
    if words.length > MOST {
        return Err(alloc::format!("a copy of the rules of {} bytes", words.length));
    }
    if words.length == 0 {
        return Ok(Vec::new());
    }
    mem.bytes(Kva(words.rules), words.length as usize)
        .map_err(|error| alloc::format!("the copy of the rules: {error}"))
}

/// Rules that nf_tables does not know of.
fn older<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>) -> Option<String> {
    for module in modules::modules(context.kernel) {
        match module {
            Ok(module) if OLD_TABLES.contains(&module.name.as_str()) => {
                return Some(alloc::format!("rules of {}, which are not kept", module.name));
            }
            Ok(_) => {}
            Err(error) => return Some(alloc::format!("modules: {error}")),
        }
    }
    None
}

fn connections<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, words: &NetfilterWords, record: &mut Netfilter) {
    if words.connections == 0 {
        return;
    }
    let mem = &context.kernel.mem;
    let types = &context.kernel.types.layouts;
    let (Some(side), Some(_), Some(tick)) = (&types.nf_conntrack_tuple_hash, &types.nf_conn, context.tick()) else {
        record.left_out.push("tracked connections, of an unknown kind".into());
        return;
    };
    let (Ok(table), Ok(buckets)) = (
        mem.pointer(Kva(words.connections)),
        mem.u32(Kva(words.connections_count)),
    ) else {
        record.left_out.push("tracked connections, which cannot be read".into());
        return;
    };
    let mut missed = 0u64;
    for bucket in 0..u64::from(buckets).min(MAX_BUCKETS) {
        let head = table.offset(bucket.wrapping_mul(8));
        for at in context.kernel.hlist(head, side.hnnode) {
            match at.map_err(Into::into).and_then(|at| connection(context, at, tick)) {
                Ok(Some(connection)) if record.connections.len() < MAX_CONNECTIONS => {
                    record.connections.push(connection);
                }
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => missed = missed.saturating_add(1),
            }
        }
    }
    if missed != 0 {
        record.left_out.push(alloc::format!("{missed} tracked connections"));
    }
}

/// A connection by its first side; `None` for the other side, and for what is not kept.
fn connection<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    at: Kva,
    tick: u64,
) -> Result<Option<TrackedConnection>> {
    let types = &context.kernel.types.layouts;
    let (Some(side), Some(conn), Some(seen)) = (&types.nf_conntrack_tuple_hash, &types.nf_conn, &types.ip_ct_tcp_state)
    else {
        return Ok(None);
    };
    let mem = &context.kernel.mem;
    if mem.uint(at, side.dir)? != 0 {
        return Ok(None);
    }
    let protocol = mem.uint(at, side.protonum)? as u8;
    let whole = at.back(u64::from(conn.tuplehash.offset));
    let status = mem.uint(whole, conn.status)? as u32;
    if !matches!(protocol, TCP | UDP)
        || status & CONFIRMED == 0
        || status & (DYING | BOUND) != 0
        || mem.uint(whole, conn.zone)? != 0
        || mem.ptr(whole, conn.net)? != context.namespaces.net
    {
        return Ok(None);
    }
    // Ticks until it is forgotten; in the past, it is already.
    let now = context.jiffies()?;
    let left = (mem.uint(whole, conn.timeout)? as u32).wrapping_sub(now as u32) as i32;
    let timeout = u64::try_from(left).unwrap_or(0).saturating_mul(tick) / NS_PER_SECOND;
    if timeout == 0 {
        return Ok(None);
    }
    let mut record = TrackedConnection {
        protocol,
        original: flow(context, at)?,
        reply: flow(context, at.offset(u64::from(conn.tuplehash.element)))?,
        status,
        mark: conn.mark.map_or(Ok(0), |mark| mem.uint(whole, mark))? as u32,
        timeout: timeout as u32,
        ..TrackedConnection::default()
    };
    if protocol == TCP {
        record.state = mem.uint(whole, conn.state)? as u8;
        let first = whole.offset(u64::from(conn.seen.offset));
        for (i, (scale, flags)) in record.scales.iter_mut().zip(&mut record.flags).enumerate() {
            let at = first.offset((i as u64).wrapping_mul(u64::from(conn.seen.element)));
            *scale = mem.uint(at, seen.td_scale)? as u8;
            *flags = mem.uint(at, seen.flags)? as u8;
        }
    }
    Ok(Some(record))
}

fn flow<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, at: Kva) -> Result<Flow> {
    let mem = &context.kernel.mem;
    let Some(side) = &context.kernel.types.layouts.nf_conntrack_tuple_hash else {
        return Ok(Flow::default());
    };
    let length = match mem.uint(at, side.l3num)? {
        AF_INET => 4,
        AF_INET6 => 16,
        other => {
            let what = alloc::format!("a tracked connection of family {other}");
            return Err(crate::refusal::Refusal::new(shared_region::reasons::UNREADABLE, what));
        }
    };
    let bytes = |field: Field| mem.bytes(at.offset(u64::from(field.offset)), length);
    let port = |field: Field| {
        mem.array::<2>(at.offset(u64::from(field.offset)))
            .map(u16::from_be_bytes)
    };
    Ok(Flow {
        source: bytes(side.source)?,
        destination: bytes(side.destination)?,
        source_port: port(side.source_port)?,
        destination_port: port(side.destination_port)?,
    })
}
