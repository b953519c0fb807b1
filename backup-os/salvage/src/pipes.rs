//! Pipes and FIFOs with what nobody has read yet (`fs/pipe.c`, `include/linux/pipe_fs_i.h`).

use crate::addr::Kva;
use crate::context::Context;
use crate::dentry::{self, Path};
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::context::Pipe;
use shared_region::reasons;
use shared_region::record::{Kind, Writer};

/// `PIPE_BUF_FLAG_PACKET`.
const PACKET: u64 = 0x8;
/// More slots than `fs.pipe-max-size` allows an administrator to ask for.
const MAX_SLOTS: u64 = 1 << 20;

crate::mirrors! {
    /// A pipe.
    #[allow(missing_docs)]
    pub struct PipeInodeInfo = "pipe_inode_info" {
        head: Field,
        tail: Field,
        max_usage: Field,
        ring_size: Field,
        readers: Field,
        writers: Field,
        bufs: Field,
        watch_queue: Option<Field> = "watch_queue",
        mutex_owner: Field = "mutex.owner.counter",
    }

    /// A slot of its ring.
    #[allow(missing_docs)]
    pub struct PipeBuffer = "pipe_buffer" {
        page: Field,
        offset: Field,
        len: Field,
        flags: Field,
        ops: Field,
    }
}

/// Whether a task holds the lock of a pipe: only then can anything be going into or out of it on its behalf.
///
/// # Errors
/// The pipe cannot be read.
pub fn is_locked_by<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, file: Kva, task: Kva) -> Result<bool> {
    let layouts = &context.kernel.types.layouts;
    let pipe = context.kernel.mem.ptr(file, layouts.file.private_data)?;
    let owner = context.kernel.mem.uint(pipe, layouts.pipe.mutex_owner)?;
    // The low bits are flags (`MUTEX_FLAGS`).
    Ok(owner & !7 == task.0)
}

/// Whether what is to be read next from a pipe lies in one page: it is then copied in one go.
///
/// # Errors
/// The pipe cannot be read.
pub fn next_is_in_one_page<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, file: Kva) -> Result<bool> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let pipe = mem.ptr(file, layouts.file.private_data)?;
    let slots = mem.uint(pipe, layouts.pipe.ring_size)?;
    let index = mem.uint(pipe, layouts.pipe.tail)? & slots.wrapping_sub(1);
    let slot = mem
        .ptr(pipe, layouts.pipe.bufs)?
        .offset(index.wrapping_mul(u64::from(layouts.pipe_buffer.struct_size)));
    let (offset, len) = (
        mem.uint(slot, layouts.pipe_buffer.offset)?,
        mem.uint(slot, layouts.pipe_buffer.len)?,
    );
    Ok(offset.saturating_add(len) <= crate::addr::PAGE_SIZE)
}

/// Writes a pipe and its unread data, unless that was done for its other end.
///
/// # Errors
/// The ring makes no sense, or there is no room.
pub fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    inode: Kva,
    file: Kva,
    path: &Path,
) -> Result<()> {
    if !context.first(Kind::Pipe, inode.0) {
        return Ok(());
    }
    let path = dentry::in_first(context, path)?.filter(|path| !path.detached && !path.deleted);
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.pipe;
    let mem = &context.kernel.mem;
    let pipe = mem.ptr(file, layouts.file.private_data)?;
    let field = |field| mem.uint(pipe, field);
    if layout
        .watch_queue
        .map(field)
        .transpose()?
        .is_some_and(|queue| queue != 0)
    {
        return Err(Refusal::new(reasons::FILE_TYPE, "notification pipe"));
    }
    let slots = field(layout.ring_size)?;
    let used = (field(layout.head)? as u32).wrapping_sub(field(layout.tail)? as u32);
    if !slots.is_power_of_two() || slots > MAX_SLOTS || u64::from(used) > slots {
        return Err(Refusal::new(
            reasons::UNREADABLE,
            alloc::format!("pipe with {used} of {slots} slots in use"),
        ));
    }
    let bufs = mem.ptr(pipe, layout.bufs)?;
    let (mut data, mut lengths, mut packets) = (Vec::new(), Vec::new(), false);
    for i in 0..u64::from(used) {
        let index = field(layout.tail)?.wrapping_add(i) & slots.wrapping_sub(1);
        let slot = bufs.offset(index.wrapping_mul(u64::from(layouts.pipe_buffer.struct_size)));
        let (bytes, packet) = slot_data(context, slot)?;
        packets |= packet;
        // A slot that is being filled has no length yet; what is in it was not acknowledged to the writer.
        if !bytes.is_empty() {
            lengths.push(bytes.len() as u32);
        }
        data.extend_from_slice(&bytes);
    }
    let record = Pipe {
        path: path.map_or_else(Vec::new, |path| path.bytes),
        capacity: (field(layout.max_usage)?.saturating_mul(crate::addr::PAGE_SIZE)).min(u64::from(u32::MAX)) as u32,
        packets: if packets { lengths } else { Vec::new() },
        readers: field(layout.readers)? as u32,
        writers: field(layout.writers)? as u32,
    };
    writer.push(Kind::Pipe, 1, 0, inode.0, &record)?;
    if !data.is_empty() {
        writer.push_bytes(Kind::Bytes, 1, 0, inode.0, &data)?;
    }
    Ok(())
}

/// The bytes in a slot, and whether they are a packet.
fn slot_data<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, slot: Kva) -> Result<(Vec<u8>, bool)> {
    let layout = &context.kernel.types.layouts.pipe_buffer;
    let mem = &context.kernel.mem;
    let (offset, len) = (mem.uint(slot, layout.offset)?, mem.uint(slot, layout.len)?);
    let packet = mem.uint(slot, layout.flags)? & PACKET != 0;
    // A slot that is being taken into use still has what was in it before, but no functions.
    if len == 0 || mem.ptr(slot, layout.ops)?.is_null() {
        return Ok((Vec::new(), packet));
    }
    // A slot can hold a large folio that was spliced in, but never more than 2 MB.
    if offset.saturating_add(len) > 2 << 20 {
        return Err(Refusal::new(
            reasons::PIPE_PAGES,
            alloc::format!("{len} bytes at {offset}"),
        ));
    }
    let first = context.kernel.page_to_pfn(mem.ptr(slot, layout.page)?)?.phys();
    let mut bytes = alloc::vec![0; len as usize];
    let read = first
        .checked_add(offset)
        .map(|at| context.kernel.phys().read(at, &mut bytes));
    match read {
        Some(Ok(())) => Ok((bytes, packet)),
        _ => Err(Refusal::new(reasons::UNREADABLE, "the page of a pipe")),
    }
}
