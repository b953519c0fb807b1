//! Connections of TCP that their process has closed before the peer had everything: they belong to no file.

use super::tcp::{self, Orphan};
use super::{refuse, Related};
use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;
use alloc::vec::Vec;
use shared_region::context::Lost;
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

/// More buckets than a kernel makes (`thash_entries`).
const MAX_BUCKETS: u64 = 1 << 24;
/// Buckets that are read at a time, and bytes of one: a pointer.
const CHUNK: u64 = 512;
const BUCKET: u64 = 8;
/// Connections in one bucket, and what of all is kept: how many, and how many bytes.
const MAX_CHAIN: u64 = 1 << 16;
const MAX_ORPHANS: usize = 1024;
const MAX_BYTES: usize = 32 << 20;
/// `SOL_SOCKET` and `SO_LINGER`: nobody waits for the end any more.
const SOL_SOCKET: i32 = 1;
const SO_LINGER: i32 = 13;

crate::mirrors! {
    /// Where connections of a network namespace are.
    #[allow(missing_docs)]
    pub struct TcpTables = "net" {
        hashinfo: Field = "ipv4.tcp_death_row.hashinfo",
    }

    /// The tables.
    #[allow(missing_docs)]
    pub struct InetHashinfo = "inet_hashinfo" {
        ehash: Field,
        ehash_mask: Field,
    }
}

/// Writes them. What cannot be read is left out, and its peer is told by a reset. Returns what is left out on purpose.
pub fn write<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, writer: &mut Writer<'_>) -> Option<Lost> {
    // Without other sockets the network is not brought back before the new system does it.
    if context.sockets.is_empty() {
        return None;
    }
    let found = find(context).unwrap_or_default();
    write_all(context, writer, found.unfinished);
    (found.over > 0).then(|| Lost {
        object: alloc::format!("{} connections of TCP in TIME_WAIT", found.over),
        reason: reasons::TIME_WAIT.text.into(),
        ..Lost::default()
    })
}

fn write_all<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, writer: &mut Writer<'_>, all: Vec<Kva>) {
    let (mut count, mut bytes) = (0usize, 0usize);
    for sk in all {
        let read = super::read(context, sk, &mut Related::default());
        let (Ok((mut record, queues)), Ok(net)) = (read, super::net_of(context, sk)) else {
            continue;
        };
        record
            .options
            .retain(|option| (option.level, option.name) != (SOL_SOCKET, SO_LINGER));
        count = count.saturating_add(1);
        bytes = bytes.saturating_add(queues.to_send.len());
        if count > MAX_ORPHANS || bytes > MAX_BYTES {
            return;
        }
        let mark = writer.mark();
        let must = flags::MUST_UNDERSTAND;
        let written = super::write_membership(context, writer, sk, net)
            .and_then(|()| writer.push(Kind::Socket, 1, must, sk.0, &record))
            .and_then(|()| match queues.to_send.is_empty() {
                true => Ok(()),
                false => writer.push_bytes(Kind::SendQueue, 1, must, sk.0, &queues.to_send),
            });
        if written.is_err() {
            writer.rewind(mark);
            return;
        }
    }
}

/// Connections that belong to no file.
#[derive(Default)]
struct Found {
    /// The peer has not had everything.
    unfinished: Vec<Kva>,
    /// So many are over on both sides.
    over: u64,
}

fn find<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>) -> Result<Found> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let tables = mem.ptr(context.namespaces.net, layouts.tcp_tables.hashinfo)?;
    let table = mem.ptr(tables, layouts.inet_hashinfo.ehash)?;
    let buckets = mem.uint(tables, layouts.inet_hashinfo.ehash_mask)?.saturating_add(1);
    if buckets > MAX_BUCKETS {
        return Err(refuse("a table of connections without end"));
    }
    let mut found = Found::default();
    for first in (0..buckets).step_by(CHUNK as usize) {
        let at = table.offset(first.wrapping_mul(BUCKET));
        let length = buckets.saturating_sub(first).min(CHUNK).wrapping_mul(BUCKET);
        let bytes = mem.bytes(at, length as usize)?;
        let (words, _) = bytes.as_chunks::<8>();
        for (index, word) in words.iter().enumerate() {
            // The end of a chain is marked by the lowest bit.
            if u64::from_le_bytes(*word) & 1 == 0 {
                let bucket = at.offset((index as u64).wrapping_mul(BUCKET));
                for sk in context.kernel.hlist(bucket, layouts.sock.nulls_node).bounded(MAX_CHAIN) {
                    // What is behind a bad link is not found.
                    let Ok(sk) = sk else { break };
                    match tcp::orphan(context, sk) {
                        Ok(Some(Orphan::Unfinished)) => found.unfinished.push(sk),
                        Ok(Some(Orphan::Over)) => found.over = found.over.saturating_add(1),
                        Ok(None) | Err(_) => {}
                    }
                }
            }
        }
    }
    Ok(found)
}
