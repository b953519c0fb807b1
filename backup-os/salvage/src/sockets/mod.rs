//! Sockets (`include/linux/net.h`, `include/net/sock.h`): what all kinds have, and which kind is read where.

pub mod datagrams;
pub mod inet;
pub mod inet6;
pub mod multicast;
pub mod netlink;
pub mod options;
pub mod orphans;
pub mod packet;
pub mod skb;
pub mod tcp;
pub mod unix;

use crate::addr::Kva;
use crate::context::Context;
use crate::files;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::namespaces;
use crate::refusal::{Refusal, Result};
use crate::tasks::ProcessEntry;
use alloc::vec::Vec;
use hashbrown::HashSet;
use shared_region::context::{InNamespace, Socket as Record, SocketOption, SocketState};
use shared_region::reasons;
use shared_region::record::{flags, Kind, RecordError, Writer};

/// Families (`include/linux/socket.h`).
const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;
const AF_PACKET: u64 = 17;
/// Types (`include/linux/net.h`).
const SOCK_STREAM: u64 = 1;
const SOCK_DGRAM: u64 = 2;
const SOCK_RAW: u64 = 3;
/// Sockets that one leads to: peers, those that wait to be accepted, senders of datagrams.
const MAX_RELATED: usize = 1 << 16;
/// Open files on their way within open files on their way ….
const MAX_NESTING: u32 = 4;
/// `ECONNRESET` and `ENOBUFS`.
const ECONNRESET: u64 = 104;
const ENOBUFS: u64 = 105;
/// `SOCK_SNDBUF_LOCK` and `SOCK_RCVBUF_LOCK`.
const BUFFER_LOCKS: u64 = 3;

crate::mirrors! {
    /// A socket, as a file has it.
    #[allow(missing_docs)]
    pub struct Socket = "socket" {
        flags: Field,
        state: Field,
        sk: Field,
    }

    /// A socket, as a protocol has it.
    #[allow(missing_docs)]
    pub struct Sock = "sock" {
        family: Field = "__sk_common.skc_family",
        state: Field = "__sk_common.skc_state",
        reuse: Field = "__sk_common.skc_reuse",
        reuseport: Field = "__sk_common.skc_reuseport",
        ipv6only: Field = "__sk_common.skc_ipv6only",
        bound_dev_if: Field = "__sk_common.skc_bound_dev_if",
        net: Field = "__sk_common.skc_net.net",
        daddr: Field = "__sk_common.skc_daddr",
        rcv_saddr: Field = "__sk_common.skc_rcv_saddr",
        dport: Field = "__sk_common.skc_dport",
        num: Field = "__sk_common.skc_num",
        v6_daddr: Field = "__sk_common.skc_v6_daddr",
        v6_rcv_saddr: Field = "__sk_common.skc_v6_rcv_saddr",
        sk_flags: Field = "__sk_common.skc_flags",
        slock: Field = "sk_lock.slock.rlock.raw_lock",
        owned: Field = "sk_lock.owned",
        sk_receive_queue: Field,
        sk_write_queue: Field,
        sk_error_queue: Field,
        tcp_rtx_queue: Field,
        sk_rcvbuf: Field,
        sk_sndbuf: Field,
        sk_userlocks: Field,
        sk_rcvtimeo: Field,
        sk_sndtimeo: Field,
        sk_rcvlowat: Field,
        sk_err: Field,
        sk_shutdown: Field,
        sk_type: Field,
        sk_protocol: Field,
        sk_lingertime: Field,
        sk_ack_backlog: Field,
        sk_max_ack_backlog: Field,
        sk_priority: Field,
        sk_mark: Field,
        sk_filter: Field,
        sk_user_data: Field,
        sk_peek_off: Field,
        sk_tsflags: Field,
        sk_max_pacing_rate: Field,
        sk_ll_usec: Field,
        sk_reserved_mem: Field,
        sk_no_check_tx: Field,
        sk_zckey: Field,
        sk_reuseport_cb: Field,
        sk_uid: Field,
        sk_socket: Field,
        sk_peer_pid: Field,
        sk_peer_cred: Field,
        hash: Field = "__sk_common.skc_hash",
        nulls_node: Field = "__sk_common.skc_nulls_node",
    }
}

/// A socket that is being read.
pub struct Reading<'c, 'k, 'm, M: PhysMem + ?Sized> {
    /// What is known.
    pub context: &'c Context<'k, 'm, M>,
    /// The `struct sock`.
    pub sk: Kva,
    /// Its options so far.
    pub options: Vec<SocketOption>,
}

impl<M: PhysMem + ?Sized> Reading<'_, '_, '_, M> {
    /// A member of the socket.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn field(&self, field: Field) -> Result<u64> {
        Ok(self.context.kernel.mem.uint(self.sk, field)?)
    }

    /// The same of a member that not every kernel has; 0 where there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn optional(&self, field: Option<Field>) -> Result<u64> {
        field.map_or(Ok(0), |field| self.field(field))
    }

    /// Adds an option that is a number.
    pub fn option(&mut self, level: i32, name: i32, value: u64) {
        let value = (value as u32).to_le_bytes().to_vec();
        self.options.push(SocketOption { level, name, value });
    }

    /// Adds an option that is a structure of these numbers.
    pub fn words(&mut self, level: i32, name: i32, words: &[u32]) {
        let value = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.options.push(SocketOption { level, name, value });
    }

    /// The bytes of a member, at most so many.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn bytes(&self, field: Field, most: u32) -> Result<Vec<u8>> {
        let at = self.sk.offset(u64::from(field.offset));
        Ok(self.context.kernel.mem.bytes(at, field.size.min(most) as usize)?)
    }

    /// The same if it is not 0.
    pub fn option_if(&mut self, level: i32, name: i32, value: u64) {
        if value != 0 {
            self.option(level, name, value);
        }
    }

    /// Nanoseconds of a number of the kernel's ticks.
    ///
    /// # Errors
    /// The length of a tick is not known.
    pub fn ticks(&self, ticks: u64) -> Result<u64> {
        let tick = self
            .context
            .tick()
            .ok_or_else(|| refuse("a time-out in unknown units"))?;
        Ok(ticks.saturating_mul(tick))
    }

    /// Refuses what is not zero.
    ///
    /// # Errors
    /// If one of the members is set: what stands beside it.
    pub fn none_of(&self, fields: &[(Option<Field>, &str)]) -> Result<()> {
        for &(field, what) in fields {
            if self.optional(field)? != 0 {
                return Err(refuse(what));
            }
        }
        Ok(())
    }
}

/// A refusal of a socket for a state that is not restored.
pub fn refuse(what: &str) -> Refusal {
    Refusal::new(reasons::SOCKET_STATE, what)
}

/// The `struct sock` behind an open file's `private_data`.
///
/// # Errors
/// It cannot be read.
pub fn of_file<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, socket: Kva) -> Result<Kva> {
    let layouts = &context.kernel.types.layouts;
    let sk = context.kernel.mem.ptr(socket, layouts.socket.sk)?;
    if sk.is_null() {
        return Err(refuse("being closed"));
    }
    Ok(sk)
}

/// The sockets that processes hold, with those that wait to be accepted from them. What cannot be read here is told when its
/// process is recorded.
pub fn held<'p, M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    processes: impl Iterator<Item = &'p ProcessEntry>,
) -> HashSet<Kva> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let mut held = HashSet::new();
    let mut tables = HashSet::new();
    for process in processes {
        let Ok(table) = mem.ptr(process.leader, layouts.task.files) else {
            continue;
        };
        if table.is_null() || !tables.insert(table) {
            continue;
        }
        for descriptor in files::descriptors(context, table).unwrap_or_default() {
            let Ok(Some(sk)) = behind(context, descriptor.file) else {
                continue;
            };
            if held.insert(sk) {
                held.extend(unix::waiting(context, sk).unwrap_or_default());
                held.extend(tcp::waiting(context, sk).unwrap_or_default());
            }
        }
    }
    held
}

/// The `struct sock` of an open file, if that is a socket.
///
/// # Errors
/// It cannot be read.
pub fn behind<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, file: Kva) -> Result<Option<Kva>> {
    let layout = &context.kernel.types.layouts.file;
    let mem = &context.kernel.mem;
    let operations = context.symbol(mem.ptr(file, layout.f_op)?);
    if operations.as_deref() != Some(files::SOCKETS) {
        return Ok(None);
    }
    of_file(context, mem.ptr(file, layout.private_data)?).map(Some)
}

/// What a socket leads to.
#[derive(Debug, Default)]
pub struct Related {
    /// Sockets.
    pub sockets: Vec<Kva>,
    /// Open files on their way.
    pub files: Vec<Kva>,
}

/// Writes a socket with what is in its queues, and what belongs to it.
///
/// # Errors
/// It is in a state that is not restored, or cannot be read.
pub fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    socket: Kva,
) -> Result<()> {
    let mut related = Related::default();
    related.sockets.push(of_file(context, socket)?);
    let mut count = 0usize;
    while let Some(sk) = related.sockets.pop() {
        count = count.saturating_add(1);
        if count > MAX_RELATED {
            return Err(refuse("with too many others that belong to it"));
        }
        if context.first(Kind::Socket, sk.0) {
            one(context, writer, sk, &mut related)?;
        }
    }
    if related.files.is_empty() {
        return Ok(());
    }
    if context.nesting >= MAX_NESTING {
        return Err(refuse("AF_UNIX, with descriptors on their way in sockets on their way"));
    }
    context.nesting = context.nesting.saturating_add(1);
    let written = files::write_passed(context, writer, retained, &related.files);
    context.nesting = context.nesting.saturating_sub(1);
    written
}

fn one<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    sk: Kva,
    related: &mut Related,
) -> Result<()> {
    let net = net_of(context, sk)?;
    let is_held = context.sockets.contains(&sk);
    if is_held && net != context.namespaces.net {
        namespaces::write_network(context, writer, net)?;
    }
    let (record, queues) = if is_held {
        read(context, sk, related)?
    } else {
        unix::of_others(context, sk)?
    };
    write_membership(context, writer, sk, net)?;
    writer.push(Kind::Socket, 1, flags::MUST_UNDERSTAND, sk.0, &record)?;
    for (kind, bytes) in [
        (Kind::ReceiveQueue, &queues.received),
        (Kind::SendQueue, &queues.to_send),
    ] {
        if !bytes.is_empty() {
            writer.push_bytes(kind, 1, flags::MUST_UNDERSTAND, sk.0, bytes)?;
        }
    }
    match &record.state {
        SocketState::Unix(unix) if unix.file.is_some() => unix::write_above(context, writer, sk),
        _ => Ok(()),
    }
}

/// The network namespace of a socket.
///
/// # Errors
/// It cannot be read.
pub fn net_of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, sk: Kva) -> Result<Kva> {
    Ok(context.kernel.mem.ptr(sk, context.kernel.types.layouts.sock.net)?)
}

/// Whether what is of a network namespace is kept: it is the first process's, or recorded.
pub fn is_kept<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, net: Kva) -> bool {
    net == context.namespaces.net || context.is_written(Kind::Namespace, net.0)
}

/// Records the network namespace that a socket is of, if it is recorded itself.
fn write_membership<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    sk: Kva,
    net: Kva,
) -> core::result::Result<(), RecordError> {
    // What others have of a namespace that is not, has nothing of it but its name.
    if net == context.namespaces.net || !is_kept(context, net) {
        return Ok(());
    }
    let record = InNamespace { namespace: net.0 };
    writer.push(Kind::SocketInNamespace, 1, flags::MUST_UNDERSTAND, sk.0, &record)
}

/// The bytes in the queues of a socket.
#[derive(Debug, Default)]
pub struct Queues {
    /// Received and not yet taken by the process.
    pub received: Vec<u8>,
    /// Given by the process and not yet acknowledged by the peer.
    pub to_send: Vec<u8>,
}

fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, sk: Kva, related: &mut Related) -> Result<(Record, Queues)> {
    let layout = &context.kernel.types.layouts.sock;
    let mut reading = Reading {
        context,
        sk,
        options: Vec::new(),
    };
    // Between a lock and its release nothing about a socket can be relied on, unless it is known where its holder is.
    let owned = reading.field(layout.owned)? != 0 && !context.locked.contains(&sk);
    if owned || reading.field(layout.slock)? != 0 {
        return Err(refuse("in use at the instant the kernel died"));
    }
    if !is_kept(context, net_of(context, sk)?) {
        return Err(Refusal::new(reasons::NS_NET, "a socket of another one"));
    }
    options::read(&mut reading)?;
    let family = reading.field(layout.family)?;
    let error = reading.field(layout.sk_err)?;
    let kept = [(AF_UNIX, ECONNRESET), (AF_NETLINK, ENOBUFS)].contains(&(family, error));
    if error != 0 && !kept && !tcp::has_ended(&reading)? {
        return Err(refuse("with an error that nobody has seen"));
    }
    let mut queues = Queues::default();
    let state = match family {
        AF_UNIX => SocketState::Unix(unix::read(&mut reading, &mut queues, related)?),
        AF_INET | AF_INET6 => inet::read(&mut reading, &mut queues, related, family == AF_INET6)?,
        AF_NETLINK => SocketState::Netlink(netlink::read(&mut reading, &mut queues)?),
        AF_PACKET => packet::read(&mut reading)?,
        other => return Err(refuse(&alloc::format!("family {other}"))),
    };
    let record = Record {
        family: family as u32,
        kind: reading.field(layout.sk_type)? as u32,
        protocol: reading.field(layout.sk_protocol)? as u32,
        buffers: (
            reading.field(layout.sk_rcvbuf)? as u32,
            reading.field(layout.sk_sndbuf)? as u32,
        ),
        buffer_locks: (reading.field(layout.sk_userlocks)? & BUFFER_LOCKS) as u32,
        user: reading.field(layout.sk_uid)? as u32,
        options: reading.options,
        state,
    };
    Ok((record, queues))
}
