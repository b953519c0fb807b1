//! Sockets of AF_UNIX (`include/net/af_unix.h`).
//!
//! A message lies in the receive queue of the socket that it was sent to; a connection that nobody has accepted yet is a
//! socket without a file, held by a buffer in the queue of the one that listens. Ends that nobody who is protected has, and
//! senders of datagrams, are recorded by their names alone: the agent makes them for as long as it needs them.

use super::{refuse, skb, Queues, Reading, Related, ECONNRESET};
use crate::addr::Kva;
use crate::context::Context;
use crate::creds;
use crate::dentry::{self, Path};
use crate::directories;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::pid_namespaces;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::context::{
    Socket as Record, SocketFile, SocketState, UnixCredentials, UnixMessage, UnixPeer, UnixSocket,
};
use shared_region::reasons;
use shared_region::record::Writer;

/// States: `TCP_ESTABLISHED`, `TCP_CLOSE`, `TCP_LISTEN`.
const ESTABLISHED: u64 = 1;
const CLOSE: u64 = 7;
const LISTEN: u64 = 10;
/// `SOCK_STREAM` and `SOCK_DGRAM`.
const SOCK_STREAM: u64 = 1;
const SOCK_DGRAM: u64 = 2;
/// Family of all this.
const AF_UNIX: u32 = 1;
/// Bytes before the name in an address, and of the longest one (`struct sockaddr_un`).
const FAMILY: u64 = 2;
const MAX_ADDRESS: u64 = 110;
/// From there on `sock.sk_hash` is that of an abstract name by which a socket is found (`UNIX_HASH_MOD`).
const FOUND_BY_NAME: u64 = 256;
/// Permissions among the bits of a mode.
const PERMISSIONS: u64 = 0o7777;

crate::mirrors! {
    /// A socket of AF_UNIX.
    #[allow(missing_docs)]
    pub struct UnixSock = "unix_sock" {
        addr: Field,
        path_mnt: Field = "path.mnt",
        path_dentry: Field = "path.dentry",
        peer: Field,
        lock: Field = "lock.rlock.raw_lock",
        oob_skb: Option<Field> = "oob_skb",
    }

    /// What a buffer carries beside its bytes.
    #[allow(missing_docs)]
    pub struct UnixSkbParms = "unix_skb_parms" {
        pid: Field,
        uid: Field,
        gid: Field,
        fp: Field,
        consumed: Field,
    }

    /// Open files on their way.
    #[allow(missing_docs)]
    pub struct ScmFpList = "scm_fp_list" {
        count: Field,
        fp: Field,
    }

    /// What one is bound to.
    #[allow(missing_docs)]
    pub struct UnixAddress = "unix_address" {
        len: Field,
        name: Field,
    }
}

/// Reads a socket of AF_UNIX.
///
/// # Errors
/// It is in a state that is not restored, or cannot be read.
pub fn read<M: PhysMem + ?Sized>(
    reading: &mut Reading<'_, '_, '_, M>,
    queues: &mut Queues,
    related: &mut Related,
) -> Result<UnixSocket> {
    let context = reading.context;
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.unix_sock;
    reading.none_of(&[
        (Some(layout.lock), "in use at the instant the kernel died"),
        (layout.oob_skb, "AF_UNIX, with urgent data"),
    ])?;
    let (state, kind) = (reading.field(layouts.sock.state)?, reading.field(layouts.sock.sk_type)?);
    let peer = Kva(reading.field(layout.peer)?);
    let listening = match state {
        LISTEN => Some(waiting(context, reading.sk)?),
        CLOSE | ESTABLISHED if kind == SOCK_DGRAM => None,
        CLOSE if peer.is_null() => None,
        ESTABLISHED if !peer.is_null() => None,
        _ => return Err(refuse("AF_UNIX, without a peer it had")),
    };
    let messages = if listening.is_some() {
        Vec::new()
    } else {
        messages(reading, kind, &mut queues.received, related)?
    };
    if kind == SOCK_DGRAM {
        related
            .sockets
            .extend(messages.iter().map(|message| Kva(message.sender)));
    }
    related.sockets.extend(listening.iter().flatten());
    let reset = if peer.is_null() {
        false
    } else {
        related.sockets.push(peer);
        reading.field(layouts.sock.sk_err)? == ECONNRESET || loses(context, kind, peer)?
    };
    let name = name(context, reading.sk)?;
    let is_abstract = name.first() == Some(&0);
    let found_by_file = kind == SOCK_DGRAM || state != ESTABLISHED;
    Ok(UnixSocket {
        inherited: is_abstract && reading.field(layouts.sock.hash)? < FOUND_BY_NAME,
        file: if found_by_file {
            file(context, reading.sk)?
        } else {
            None
        },
        name,
        peer: if peer.is_null() {
            UnixPeer::None
        } else {
            UnixPeer::Socket(peer.0)
        },
        listening: listening.map(|waiting| waiting.iter().map(|sk| sk.0).collect()),
        limit: reading.field(layouts.sock.sk_max_ack_backlog)? as u32,
        shutdown: reading.field(layouts.sock.sk_shutdown)? as u32,
        reset,
        credentials: credentials(reading)?,
        messages,
    })
}

/// An end that nobody who is protected has: its name, and of a stream what it had not read, as far as that can be told.
///
/// # Errors
/// It cannot be read.
pub fn of_others<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, sk: Kva) -> Result<(Record, Queues)> {
    let layouts = &context.kernel.types.layouts;
    let reading = Reading {
        context,
        sk,
        options: Vec::new(),
    };
    if reading.field(layouts.sock.family)? as u32 != AF_UNIX {
        return Err(Refusal::new(reasons::UNREADABLE, "the peer of a socket"));
    }
    let kind = reading.field(layouts.sock.sk_type)?;
    let name = name(context, sk)?;
    let is_abstract = name.first() == Some(&0);
    let mut queues = Queues::default();
    let mut unread = Vec::new();
    if kind == SOCK_STREAM && reading.field(layouts.sock.state)? == ESTABLISHED {
        let read = messages(&reading, kind, &mut unread, &mut Related::default());
        if read.is_ok_and(|messages| messages.iter().all(|message| message.files.is_empty())) {
            queues.received = unread;
        }
    }
    let unix = UnixSocket {
        inherited: is_abstract && reading.field(layouts.sock.hash)? < FOUND_BY_NAME,
        name,
        ..UnixSocket::default()
    };
    let record = Record {
        family: AF_UNIX,
        kind: kind as u32,
        state: SocketState::Unix(unix),
        ..Record::default()
    };
    Ok((record, queues))
}

/// The sockets that wait to be accepted from one that listens.
///
/// # Errors
/// Its queue cannot be read.
pub fn waiting<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, sk: Kva) -> Result<Vec<Kva>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let (family, state) = (mem.uint(sk, layouts.sock.family)?, mem.uint(sk, layouts.sock.state)?);
    if family as u32 != AF_UNIX || state != LISTEN {
        return Ok(Vec::new());
    }
    let buffers = skb::queue(context, sk, layouts.sock.sk_receive_queue)?;
    let owners = buffers.into_iter().map(|skb| mem.ptr(skb, layouts.sk_buff.sk));
    Ok(owners.collect::<core::result::Result<_, _>>()?)
}

/// Records the directories above the file of a socket.
///
/// # Errors
/// One cannot be read, or there is no room.
pub fn write_above<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    sk: Kva,
) -> Result<()> {
    match path(context, sk)? {
        Some(path) => directories::write_above(context, writer, &path),
        None => Ok(()),
    }
}

/// Whether a peer that nobody who is protected has takes something with it that it has not read.
fn loses<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, kind: u64, peer: Kva) -> Result<bool> {
    if kind == SOCK_DGRAM || context.sockets.contains(&peer) {
        return Ok(false);
    }
    let queue = context.kernel.types.layouts.sock.sk_receive_queue;
    Ok(!skb::queue(context, peer, queue)?.is_empty())
}

/// What lies in the receive queue; the bytes come to `bytes`.
fn messages<M: PhysMem + ?Sized>(
    reading: &Reading<'_, '_, '_, M>,
    kind: u64,
    bytes: &mut Vec<u8>,
    related: &mut Related,
) -> Result<Vec<UnixMessage>> {
    let context = reading.context;
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.unix_skb_parms;
    let mem = &context.kernel.mem;
    let mut messages = Vec::new();
    for skb in skb::queue(context, reading.sk, layouts.sock.sk_receive_queue)? {
        let control = skb.offset(u64::from(layouts.sk_buff.cb.offset));
        let consumed = match kind {
            SOCK_STREAM => mem.uint(control, layout.consumed)?,
            _ => 0,
        };
        let part = skb::bytes(context, skb, consumed)?;
        let files = files(context, mem.ptr(control, layout.fp)?)?;
        // What was urgent and has been taken leaves an empty buffer.
        if kind == SOCK_STREAM && part.is_empty() {
            continue;
        }
        let pid = mem.ptr(control, layout.pid)?;
        let credentials = if pid.is_null() {
            None
        } else {
            Some((
                pid_namespaces::named(context, pid)? as i32,
                mem.uint(control, layout.uid)? as u32,
                mem.uint(control, layout.gid)? as u32,
            ))
        };
        messages.push(UnixMessage {
            length: part.len() as u32,
            sender: mem.ptr(skb, layouts.sk_buff.sk)?.0,
            credentials,
            files: files.iter().map(|file| file.0).collect(),
        });
        related.files.extend(files);
        bytes.extend(part);
        if bytes.len() > skb::MAX_QUEUE {
            return Err(refuse("AF_UNIX, with more in a queue than can be kept"));
        }
    }
    Ok(messages)
}

/// The open files that come with a message.
fn files<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, list: Kva) -> Result<Vec<Kva>> {
    if list.is_null() {
        return Ok(Vec::new());
    }
    let layout = &context.kernel.types.layouts.scm_fp_list;
    let mem = &context.kernel.mem;
    let count = mem.uint(list, layout.count)?;
    if count > u64::from(layout.fp.count()) {
        return Err(Refusal::new(reasons::UNREADABLE, "descriptors on their way"));
    }
    let first = list.offset(u64::from(layout.fp.offset));
    let pointers = (0..count).map(|i| mem.pointer(first.offset(i.wrapping_mul(8))));
    Ok(pointers.collect::<core::result::Result<_, _>>()?)
}

fn credentials<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>) -> Result<Option<UnixCredentials>> {
    let kernel = reading.context.kernel;
    let layout = &kernel.types.layouts.sock;
    let (pid, cred) = (reading.field(layout.sk_peer_pid)?, reading.field(layout.sk_peer_cred)?);
    if pid == 0 || cred == 0 {
        return Ok(None);
    }
    let of = &kernel.types.layouts.cred;
    Ok(Some(UnixCredentials {
        process: pid_namespaces::named(reading.context, Kva(pid))? as i32,
        user: kernel.mem.uint(Kva(cred), of.euid)? as u32,
        group: kernel.mem.uint(Kva(cred), of.egid)? as u32,
        groups: creds::groups(kernel, Kva(cred))?,
    }))
}

/// The path of the file that a socket is bound to, if it has one.
fn path<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, sk: Kva) -> Result<Option<Path>> {
    let layout = &context.kernel.types.layouts.unix_sock;
    let mem = &context.kernel.mem;
    let (mount, dentry) = (mem.ptr(sk, layout.path_mnt)?, mem.ptr(sk, layout.path_dentry)?);
    if dentry.is_null() {
        return Ok(None);
    }
    let path = dentry::in_first(context, &dentry::of(context, mount, dentry)?)?;
    let path = path.filter(|path| !path.detached);
    let path = path.ok_or_else(|| refuse("AF_UNIX, with a file that has no name here"))?;
    Ok(Some(path).filter(|path| !path.deleted))
}

fn file<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, sk: Kva) -> Result<Option<SocketFile>> {
    let Some(path) = path(context, sk)? else {
        return Ok(None);
    };
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let inode = mem.ptr(path.dentry, layouts.dentry.d_inode)?;
    Ok(Some(SocketFile {
        path: path.bytes,
        mode: (mem.uint(inode, layouts.inode.i_mode)? & PERMISSIONS) as u32,
        user: mem.uint(inode, layouts.inode.i_uid)? as u32,
        group: mem.uint(inode, layouts.inode.i_gid)? as u32,
    }))
}

/// What a socket is bound to.
fn name<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, sk: Kva) -> Result<Vec<u8>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let address = mem.ptr(sk, layouts.unix_sock.addr)?;
    if address.is_null() {
        return Ok(Vec::new());
    }
    let length = mem.uint(address, layouts.unix_address.len)?;
    let Some(length) = length.checked_sub(FAMILY).filter(|_| length <= MAX_ADDRESS) else {
        return Err(Refusal::new(reasons::UNREADABLE, "the address of a socket"));
    };
    let at = address
        .offset(u64::from(layouts.unix_address.name.offset))
        .offset(FAMILY);
    let mut name = mem.bytes(at, length as usize)?;
    // The NUL at the end of a path counts; those of an abstract name are part of it.
    if name.first() != Some(&0) {
        if let Some(end) = name.iter().position(|&byte| byte == 0) {
            name.truncate(end);
        }
    }
    Ok(name)
}
