//! Sockets of AF_UNIX (`include/net/af_unix.h`).

use super::{refuse, skb, Queues, Reading};
use crate::addr::Kva;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::context::{UnixPeer, UnixSocket};
use shared_region::reasons;

/// States: `TCP_ESTABLISHED`, `TCP_CLOSE`, `TCP_LISTEN`.
const CLOSE: u64 = 7;
/// `SOCK_STREAM`.
const SOCK_STREAM: u64 = 1;
const LISTEN: u64 = 10;
/// Bytes before the name in an address, and of the longest one (`struct sockaddr_un`).
const FAMILY: u64 = 2;
const MAX_ADDRESS: u64 = 110;

crate::mirrors! {
    /// A socket of AF_UNIX.
    #[allow(missing_docs)]
    pub struct UnixSock = "unix_sock" {
        addr: Field,
        peer: Field,
    }

    /// What a buffer carries beside its bytes.
    #[allow(missing_docs)]
    pub struct UnixSkbParms = "unix_skb_parms" {
        fp: Field,
        consumed: Field,
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
pub fn read<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, queues: &mut Queues) -> Result<UnixSocket> {
    let context = reading.context;
    let layouts = &context.kernel.types.layouts;
    if reading.field(layouts.sock.state)? == LISTEN {
        return Err(refuse("AF_UNIX, listening"));
    }
    if !skb::queue(context, reading.sk, layouts.sock.sk_receive_queue)?.is_empty() {
        return Err(refuse("AF_UNIX, with unread data"));
    }
    let peer = Kva(reading.field(layouts.unix_sock.peer)?);
    let name = name(reading, reading.sk)?;
    let state = if peer.is_null() {
        if reading.field(layouts.sock.state)? != CLOSE {
            return Err(refuse("AF_UNIX, whose peer is gone"));
        }
        UnixPeer::None
    } else {
        queues.to_send = unread(reading, peer)?;
        UnixPeer::Socket {
            socket: peer.0,
            name: self::name(reading, peer)?,
        }
    };
    Ok(UnixSocket {
        name,
        peer: state,
        shutdown: reading.field(layouts.sock.sk_shutdown)? as u32,
    })
}

/// What the peer of a stream has not read yet.
fn unread<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>, peer: Kva) -> Result<Vec<u8>> {
    let context = reading.context;
    let layouts = &context.kernel.types.layouts;
    if reading.field(layouts.sock.sk_type)? != SOCK_STREAM {
        return Ok(Vec::new());
    }
    let mut bytes = Vec::new();
    for skb in skb::queue(context, peer, layouts.sock.sk_receive_queue)? {
        let control = skb.offset(u64::from(layouts.sk_buff.cb.offset));
        let parameters = &layouts.unix_skb_parms;
        if context.kernel.mem.uint(control, parameters.fp)? != 0 {
            return Err(refuse("AF_UNIX, with descriptors on their way"));
        }
        let consumed = context.kernel.mem.uint(control, parameters.consumed)?;
        bytes.extend(skb::bytes(context, skb, consumed)?);
        if bytes.len() > skb::MAX_QUEUE {
            return Err(refuse("AF_UNIX, with more in a queue than can be kept"));
        }
    }
    Ok(bytes)
}

/// What a socket is bound to.
fn name<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>, sk: Kva) -> Result<Vec<u8>> {
    let layouts = &reading.context.kernel.types.layouts;
    let mem = &reading.context.kernel.mem;
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
