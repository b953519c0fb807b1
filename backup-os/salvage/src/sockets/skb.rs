//! What lies in queues (`include/linux/skbuff.h`).

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::reasons;

/// More buffers than any limit of a socket allows in one queue.
pub const MAX_BUFFERS: u64 = 1 << 20;
/// What of one queue is kept: the backup OS takes it through memory of its own. By default no queue grows so large
/// (`tcp_rmem`, `tcp_wmem`).
pub const MAX_QUEUE: usize = 8 << 20;
/// More bytes than a buffer can carry: 64 KB of headers and 17 fragments, or a super-packet of IPv6 (`GSO_MAX_SIZE`).
const MAX_BYTES: u64 = 1 << 20;
/// More buffers than hang on one (`skb_shared_info.frag_list`), of which each has a byte at least.
const MAX_PARTS: u64 = MAX_BYTES;
/// `NET_IOV`, the mark of memory that is not the kernel's (`include/net/netmem.h`).
const NET_IOV: u64 = 1;

crate::mirrors! {
    /// A buffer.
    #[allow(missing_docs)]
    pub struct SkBuff = "sk_buff" {
        next: Field,
        rbnode: Field,
        cb: Field,
        len: Field,
        data_len: Field,
        head: Field,
        data: Field,
        end: Field,
        sk: Field,
    }

    /// A queue of them.
    #[allow(missing_docs)]
    pub struct SkBuffHead = "sk_buff_head" {
        qlen: Field,
    }

    /// What is behind the linear part.
    #[allow(missing_docs)]
    pub struct SkbSharedInfo = "skb_shared_info" {
        nr_frags: Field,
        frag_list: Field,
        frags: Field,
    }

    /// A fragment, from Linux 6.10 on (21d2e6737c97); before it was a `struct bio_vec`.
    #[allow(missing_docs)]
    pub struct SkbFrag = "skb_frag" {
        page: Field = "netmem" | "page" | "bv_page",
        len: Field = "len" | "size" | "bv_len",
        offset: Field = "offset" | "page_offset" | "bv_offset",
    }

    /// A part of a page.
    #[allow(missing_docs)]
    pub struct BioVec = "bio_vec" {
        page: Field = "bv_page",
        len: Field = "bv_len",
        offset: Field = "bv_offset",
    }
}

/// The buffers of a queue, oldest first.
///
/// # Errors
/// The queue makes no sense.
pub fn queue<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, socket: Kva, queue: Field) -> Result<Vec<Kva>> {
    let layouts = &context.kernel.types.layouts;
    let head = socket.offset(u64::from(queue.offset));
    let count = context.kernel.mem.uint(head, layouts.sk_buff_head.qlen)?;
    let list = context.kernel.list(head, layouts.sk_buff.next).bounded(MAX_BUFFERS);
    let buffers = list.collect::<core::result::Result<Vec<_>, _>>()?;
    if buffers.len() as u64 != count {
        return Err(Refusal::new(
            reasons::UNREADABLE,
            alloc::format!("a queue of {count} buffers has {}", buffers.len()),
        ));
    }
    Ok(buffers)
}

/// The bytes of a buffer from `skip` on.
///
/// # Errors
/// It makes no sense, or lies in memory that is not the kernel's.
pub fn bytes<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, skb: Kva, skip: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (at, len) in pieces(context, skb, true)? {
        bytes.extend_from_slice(&context.kernel.mem.bytes(at, len as usize)?);
    }
    let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
    Ok(bytes.split_off(skip))
}

/// How far into a buffer the byte is that lies at an address. `None` if it has none there, or more than one.
///
/// # Errors
/// As for [`bytes`].
pub fn place<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, skb: Kva, address: Kva) -> Result<Option<u64>> {
    Ok(place_in(&pieces(context, skb, true)?, address))
}

fn place_in(pieces: &[(Kva, u64)], address: Kva) -> Option<u64> {
    let (mut before, mut found) = (0u64, None);
    for &(at, len) in pieces {
        let within = address.0.wrapping_sub(at.0);
        if within < len && found.replace(before.saturating_add(within)).is_some() {
            return None;
        }
        before = before.saturating_add(len);
    }
    found
}

/// Where the bytes of a buffer lie, and of those that hang on it, and how many there are at each place.
fn pieces<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, skb: Kva, has_parts: bool) -> Result<Vec<(Kva, u64)>> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.sk_buff;
    let mem = &context.kernel.mem;
    let broken = |what: &str| Refusal::new(reasons::UNREADABLE, alloc::format!("buffer of a socket: {what}"));
    let (len, paged) = (mem.uint(skb, layout.len)?, mem.uint(skb, layout.data_len)?);
    let linear = len.checked_sub(paged).filter(|_| len <= MAX_BYTES);
    let linear = linear.ok_or_else(|| broken("lengths"))?;
    let mut all = alloc::vec![(mem.ptr(skb, layout.data)?, linear)];
    let mut found = linear;
    if paged != 0 {
        // `end` is an offset on 64-bit machines (`NET_SKBUFF_DATA_USES_OFFSET`).
        let shared = mem.ptr(skb, layout.head)?.offset(mem.uint(skb, layout.end)?);
        found = found.saturating_add(fragments(context, shared, &mut all)?);
        let (mut part, mut parts) = (mem.ptr(shared, layouts.skb_shared_info.frag_list)?, 0u64);
        while !part.is_null() {
            parts = parts.saturating_add(1);
            if !has_parts || parts > MAX_PARTS || found > len {
                return Err(broken("what hangs on it"));
            }
            found = found.saturating_add(mem.uint(part, layout.len)?);
            all.extend_from_slice(&pieces(context, part, false)?);
            part = mem.ptr(part, layout.next)?;
        }
    }
    if found != len {
        return Err(broken("not as long as it says"));
    }
    Ok(all)
}

/// Adds the fragments of a buffer, and returns how many bytes they have.
fn fragments<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    shared: Kva,
    pieces: &mut Vec<(Kva, u64)>,
) -> Result<u64> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let (page, len, offset) = match &layouts.skb_frag {
        Some(frag) => (frag.page, frag.len, frag.offset),
        None => (layouts.bio_vec.page, layouts.bio_vec.len, layouts.bio_vec.offset),
    };
    let array = layouts.skb_shared_info.frags;
    let count = mem.uint(shared, layouts.skb_shared_info.nr_frags)?;
    let broken = || Refusal::new(reasons::UNREADABLE, "fragment of a buffer of a socket");
    if count > u64::from(array.count()) {
        return Err(broken());
    }
    let mut found = 0u64;
    for i in 0..count {
        let frag = shared
            .offset(u64::from(array.offset))
            .offset(i.wrapping_mul(u64::from(array.element)));
        let memory = mem.uint(frag, page)?;
        let (len, offset) = (mem.uint(frag, len)?, mem.uint(frag, offset)?);
        if memory & NET_IOV != 0 || len > MAX_BYTES || offset > MAX_BYTES {
            return Err(broken());
        }
        let at = context.kernel.page_to_pfn(Kva(memory))?.phys().checked_add(offset);
        pieces.push((context.kernel.phys_to_kva(at.ok_or_else(broken)?), len));
        found = found.saturating_add(len);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_found_by_its_address() {
        let pieces = [(Kva(0x1000), 10), (Kva(0x9000), 0), (Kva(0x5000), 20)];
        assert_eq!(place_in(&pieces, Kva(0x1009)), Some(9));
        assert_eq!(place_in(&pieces, Kva(0x100A)), None);
        assert_eq!(place_in(&pieces, Kva(0x5000)), Some(10));
        assert_eq!(place_in(&pieces, Kva(0x5013)), Some(29));
        assert_eq!(place_in(&pieces, Kva(0x9000)), None);
        // The same memory twice: which of them it is cannot be told.
        assert_eq!(place_in(&[(Kva(0x1000), 10), (Kva(0x1008), 10)], Kva(0x1009)), None);
    }
}
