//! Contexts of asynchronous input and output (`fs/aio.c`). One with requests under way is refused: nobody knows how far a device
//! has come with them.

use crate::addr::{Kva, Pfn, PAGE_SIZE};
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::page_cache::cached;
use crate::refusal::{Refusal, Result};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use shared_region::context::AioContext;
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

/// The operations of a ring's mapping.
pub const RING: &str = "aio_ring_vm_ops";
/// More contexts than a process has.
const MAX_CONTEXTS: u64 = 1 << 16;
/// Bytes of a ring: of 64 K requests, the most that `fs.aio-max-nr` allows at first, twice.
const MAX_RING: u64 = 8 << 20;
/// `struct aio_ring`: the context's number, then places, head and tail.
const HEAD: usize = 8;
const TAIL: usize = 12;
/// Bytes of the number, which the next kernel chooses.
const NUMBER: usize = 4;

crate::mirrors! {
    /// Contexts of a process.
    #[allow(missing_docs)]
    pub struct KioctxTable = "kioctx_table" {
        nr: Field,
        table: Field,
    }

    /// A context.
    #[allow(missing_docs)]
    pub struct Kioctx = "kioctx" {
        dead: Field = "dead.counter",
        cpu: Field,
        max_reqs: Field,
        nr_events: Field,
        mmap_base: Field,
        mmap_size: Field,
        reqs_available: Field = "reqs_available.counter",
        tail: Field,
        completed_events: Field,
        aio_ring_file: Field,
    }

    /// What a CPU has of a context.
    #[allow(missing_docs)]
    pub struct KioctxCpu = "kioctx_cpu" {
        reqs_available: Field,
    }
}

/// A context and its ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// The record.
    pub record: AioContext,
    /// What lies in the ring.
    content: Vec<u8>,
}

impl Ring {
    /// Writes it, for an address space that was recorded.
    ///
    /// # Errors
    /// There is no room.
    pub fn write(&self, writer: &mut Writer<'_>, space: u64) -> Result<()> {
        writer.push(Kind::AioContext, 1, flags::MUST_UNDERSTAND, space, &self.record)?;
        let at = self.record.address.wrapping_add(NUMBER as u64).to_le_bytes();
        let content = self.content.get(NUMBER..).unwrap_or_default();
        Ok(writer.push_bytes(Kind::Bytes, 1, 0, space, &[&at[..], content].concat())?)
    }
}

/// All contexts of an address space.
///
/// # Errors
/// One has requests under way, or cannot be read.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mm: Kva) -> Result<Vec<Ring>> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let mem = &kernel.mem;
    let table = layouts
        .mm
        .ioctx_table
        .map_or(Ok(Kva::NULL), |field| mem.ptr(mm, field))?;
    let Some(layout) = layouts.kioctx_table.as_ref().filter(|_| !table.is_null()) else {
        return Ok(Vec::new());
    };
    let mut rings = Vec::new();
    for i in 0..mem.uint(table, layout.nr)?.min(MAX_CONTEXTS) {
        let slot = table.offset(u64::from(layout.table.offset)).offset(i.wrapping_mul(8));
        let at = mem.pointer(slot)?;
        if !at.is_null() {
            rings.push(one(context, at)?);
        }
    }
    Ok(rings)
}

fn one<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, at: Kva) -> Result<Ring> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let mem = &kernel.mem;
    let (Some(layout), Some(of_cpu)) = (&layouts.kioctx, &layouts.kioctx_cpu) else {
        return Err(Refusal::new(reasons::AIO, "of an unknown kind"));
    };
    let field = |field: Field| mem.uint(at, field);
    if field(layout.dead)? != 0 {
        return Err(Refusal::new(reasons::AIO, "a context that is being destroyed"));
    }
    let (places, tail, bytes) = (field(layout.nr_events)?, field(layout.tail)?, field(layout.mmap_size)?);
    // Of all places but one, each is free, or has an event that nobody has taken, or is kept for a request.
    let mut free = mem
        .int(at, layout.reqs_available)?
        .wrapping_add(mem.int(at, layout.completed_events)?);
    let per_cpu = mem.ptr(at, layout.cpu)?;
    for cpu in 0..kernel.cpu_count() {
        if let Some(own) = kernel.per_cpu(cpu, per_cpu) {
            free = free.wrapping_add(mem.uint(own, of_cpu.reqs_available)? as i64);
        }
    }
    let under_way = (places as i64).wrapping_sub(1).wrapping_sub(free);
    if under_way != 0 {
        return Err(Refusal::new(
            reasons::AIO,
            format!("{under_way} requests are under way"),
        ));
    }
    let content = content(context, mem.ptr(at, layout.aio_ring_file)?, bytes)?;
    let word = |at: usize| {
        content
            .get(at..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |word| u32::from_le_bytes(*word))
    };
    let (head, shown) = (word(HEAD), word(TAIL));
    if u64::from(head) >= places || tail >= places || u64::from(shown) != tail {
        return Err(Refusal::new(
            reasons::UNREADABLE,
            "a ring of asynchronous input and output",
        ));
    }
    Ok(Ring {
        record: AioContext {
            address: field(layout.mmap_base)?,
            bytes,
            requests: field(layout.max_reqs)? as u32,
            places: places as u32,
            head,
            tail: tail as u32,
        },
        content,
    })
}

fn content<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, file: Kva, bytes: u64) -> Result<Vec<u8>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let unreadable = || Refusal::new(reasons::UNREADABLE, "a ring of asynchronous input and output");
    if bytes == 0 || bytes > MAX_RING {
        return Err(unreadable());
    }
    let mapping = mem.ptr(mem.ptr(file, layouts.file.f_inode)?, layouts.inode.i_mapping)?;
    let mut content = vec![0; bytes as usize];
    for run in cached(context, mapping, bytes)?.runs {
        let pages = (0..run.pages()).map(|page| {
            (
                run.va.wrapping_add(page.wrapping_mul(PAGE_SIZE)),
                run.pfn().wrapping_add(page),
            )
        });
        for (offset, pfn) in pages {
            let end = offset.saturating_add(PAGE_SIZE);
            let part = content.get_mut(offset as usize..end as usize).ok_or_else(unreadable)?;
            context
                .kernel
                .phys()
                .read(Pfn(pfn).phys(), part)
                .map_err(|_| unreadable())?;
        }
    }
    Ok(content)
}
