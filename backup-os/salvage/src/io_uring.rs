//! Rings of io_uring (`io_uring/`, `include/linux/io_uring_types.h`). One with requests under way is refused: nobody knows how
//! far a device has come with them.
//!
//! The kernel keeps the memory of requests that have ended for the next ones, and each piece of it holds a reference to its
//! ring for as long as it is there. So nothing is under way exactly if the references, beside that of the ring itself, are as
//! many as the pieces kept for later: whatever a request waits for, and wherever it is listed.

use crate::addr::{Kva, PAGE_SIZE};
use crate::btf::{Btf, BtfError};
use crate::context::Context;
use crate::files::Descriptor;
use crate::memory::PhysMem;
use crate::mirror::{Field, Mirror};
use crate::refusal::{Refusal, Result};
use alloc::format;
use alloc::vec::Vec;
use shared_region::context::{IoUring, COMPLETIONS_OFFSET, REQUESTS_OFFSET, RING_OFFSET};
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

/// The operations of a ring's descriptor.
pub const RING: &str = "io_uring_fops";
/// `IORING_MAX_ENTRIES` and `IORING_MAX_CQ_ENTRIES` (`io_uring/io_uring.c`).
const MAX_REQUESTS: u64 = 32_768;
const MAX_COMPLETIONS: u64 = 2 * MAX_REQUESTS;
/// More pieces of memory for requests than a ring keeps.
const MAX_KEPT: u64 = 1 << 22;
/// More threads than wait for one ring.
const MAX_WAITERS: u64 = 4 << 20;
/// `PERCPU_COUNT_BIAS` (`lib/percpu-refcount.c`), and the reference of the ring itself.
const BIAS: u64 = 1 << 63;
const OWN: u64 = BIAS + 1;
/// `__PERCPU_REF_ATOMIC_DEAD` (`include/linux/percpu-refcount.h`): not counted by CPU, or being destroyed.
const ATOMIC_OR_DEAD: u64 = 3;
/// Pages in one record.
const PIECE: usize = 64;

/// Flags of a ring that are kept: IORING_SETUP_CQSIZE, CLAMP, R_DISABLED, SUBMIT_ALL, COOP_TASKRUN, TASKRUN_FLAG, SQE128, CQE32 and
/// NO_SQARRAY (`include/uapi/linux/io_uring.h`).
const KEPT_FLAGS: u32 = 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 16;
/// Flags that are not.
const REFUSED_FLAGS: [(u32, &str); 7] = [
    (1 << 0, "IORING_SETUP_IOPOLL"),
    (1 << 1, "IORING_SETUP_SQPOLL"),
    (1 << 5, "IORING_SETUP_ATTACH_WQ"),
    (1 << 12, "IORING_SETUP_SINGLE_ISSUER"),
    (1 << 13, "IORING_SETUP_DEFER_TASKRUN"),
    (1 << 14, "IORING_SETUP_NO_MMAP"),
    (1 << 15, "IORING_SETUP_REGISTERED_FD_ONLY"),
];

crate::mirrors! {
    /// A ring.
    #[allow(missing_docs)]
    pub struct IoRingCtx = "io_ring_ctx" {
        references_by_cpu: Field = "refs.percpu_count_ptr",
        references: Field = "refs.data",
        rings: Field,
        flags: Field,
        uring_lock: Field = "uring_lock.owner.counter",
        completion_lock: Field = "completion_lock.rlock.raw_lock",
        sq_array: Field,
        sq_sqes: Field,
        sq_entries: Field,
        cq_entries: Field,
        cached_sq_head: Field,
        cached_cq_tail: Field,
        cq_extra: Field,
        cq_timeouts: Field = "cq_timeouts.counter",
        cq_last_tm_flush: Field,
        drain_next: Field,
        drain_disabled: Field,
        check_cq: Field,
        free_list: Field = "submit_state.free_list.next",
        compl_reqs: Field = "submit_state.compl_reqs.first",
        // In Linux 6.1; gone by 6.12.
        locked_free_list: Option<Field> = "locked_free_list.first",
        work_llist: Field = "work_llist.first",
        cq_overflow_list: Field,
        cq_wait: Field = "cq_wait.head",
        io_ev_fd: Field,
        nr_user_files: Field,
        nr_user_bufs: Field,
        // Of the first groups, a table of its own in Linux 6.1; gone by 6.12.
        io_bl: Option<Field> = "io_bl",
        io_bl_xa: Field = "io_bl_xa.xa_head",
        personalities: Field = "personalities.xa_head",
        restricted: Field,
        restrictions: Field = "restrictions.registered",
        iowq_limits_set: Field,
        napi_enabled: Option<Field> = "napi_enabled",
        // By Linux 6.12.
        clockid: Option<Field> = "clockid",
        clock_offset: Option<Field> = "clock_offset",
    }

    /// What a ring shares with its process.
    #[allow(missing_docs)]
    pub struct IoRings = "io_rings" {
        sq_head: Field = "sq.head",
        sq_tail: Field = "sq.tail",
        cq_head: Field = "cq.head",
        cq_tail: Field = "cq.tail",
        sq_ring_mask: Field,
        cq_ring_mask: Field,
        sq_ring_entries: Field,
        cq_ring_entries: Field,
        sq_dropped: Field,
        sq_flags: Field,
        cq_flags: Field,
        cq_overflow: Field,
        cqes: Field,
    }

    /// Who is told of completions.
    #[allow(missing_docs)]
    pub struct IoEvFd = "io_ev_fd" {
        cq_ev_fd: Field,
        eventfd_async: Field,
        ops: Field = "ops.counter",
    }

    /// References, where they are not counted by CPU.
    #[allow(missing_docs)]
    pub struct PercpuRefData = "percpu_ref_data" {
        count: Field = "count.counter",
    }

    /// What a thread has of io_uring.
    #[allow(missing_docs)]
    pub struct IoUringTask = "io_uring_task" {
        cached_refs: Field,
        registered_rings: Field,
        inflight: Field = "inflight.count",
        inflight_by_cpu: Field = "inflight.counters",
    }

    /// A thread that waits.
    #[allow(missing_docs)]
    pub struct WaitQueueEntry = "wait_queue_entry" {
        private: Field,
        entry: Field,
    }
}

crate::mirror_set! {
    /// The structures of io_uring.
    pub struct Structures {
        /// `struct io_ring_ctx`.
        ring: IoRingCtx,
        /// `struct io_rings`.
        shared: IoRings,
        /// `struct io_ev_fd`.
        told: IoEvFd,
        /// `struct percpu_ref_data`.
        references: PercpuRefData,
        /// `struct io_uring_task`.
        task: IoUringTask,
        /// `struct wait_queue_entry`.
        waiter: WaitQueueEntry,
    }
}

/// The structures of io_uring, if all of them are what is known here: they change often, and only processes with a ring
/// need them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known(Option<Structures>);

impl Mirror for Known {
    fn load(btf: &Btf<'_>) -> core::result::Result<Self, BtfError> {
        Ok(Self(Structures::load(btf).ok()))
    }
}

fn refuse(detail: &str) -> Refusal {
    Refusal::new(reasons::IO_URING, detail)
}

fn unreadable() -> Refusal {
    Refusal::new(reasons::UNREADABLE, "a ring of io_uring")
}

fn structures<'k, M: PhysMem + ?Sized>(context: &Context<'k, '_, M>) -> Result<&'k Structures> {
    let known = context.kernel.types.layouts.io_uring.0.as_ref();
    known.ok_or_else(|| refuse("its structures in this kernel are not known"))
}

/// Refuses a thread that has requests under way, or refers to rings by numbers that are no descriptors.
///
/// # Errors
/// The reason.
pub fn check_thread<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<()> {
    let field = context.kernel.types.layouts.task.io_uring;
    let mem = &context.kernel.mem;
    let own = field.map_or(Ok(Kva::NULL), |field| mem.ptr(task, field))?;
    if own.is_null() {
        return Ok(());
    }
    let layout = &structures(context)?.task;
    let by_cpu = sum_by_cpu(context, mem.ptr(own, layout.inflight_by_cpu)?, |at| {
        Ok(i64::from(mem.u32(at)? as i32) as u64)
    })?;
    let counted = mem.uint(own, layout.inflight)?.wrapping_add(by_cpu);
    // The counter has the references as well that the thread keeps for its next requests.
    let kept = i64::from(mem.uint(own, layout.cached_refs)? as u32 as i32) as u64;
    under_way(counted, kept)?;
    let field = layout.registered_rings;
    let registered = mem.bytes(own.offset(u64::from(field.offset)), field.size as usize)?;
    match registered.iter().all(|&byte| byte == 0) {
        true => Ok(()),
        false => Err(refuse("registered descriptors of rings (IORING_REGISTER_RING_FDS)")),
    }
}

/// Adds up what CPUs count for themselves; `one` reads a CPU's.
fn sum_by_cpu<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    at: Kva,
    one: impl Fn(Kva) -> Result<u64>,
) -> Result<u64> {
    let mut sum = 0u64;
    for cpu in 0..context.kernel.cpu_count() {
        if let Some(own) = context.kernel.per_cpu(cpu, at) {
            sum = sum.wrapping_add(one(own)?);
        }
    }
    Ok(sum)
}

/// Whether more is counted than is kept for later.
fn under_way(counted: u64, kept: u64) -> Result<()> {
    match counted.wrapping_sub(kept) as i64 {
        0 => Ok(()),
        count if count > 0 => Err(refuse(&format!("requests are under way: {count}"))),
        _ => Err(unreadable()),
    }
}

/// A ring; `table` is where its eventfd has to be open.
///
/// # Errors
/// It has requests under way or cannot be made anew, or it cannot be read.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, table: &[Descriptor], ring: Kva) -> Result<IoUring> {
    let layout = &structures(context)?.ring;
    let mem = &context.kernel.mem;
    let field = |field: Field| mem.uint(ring, field);
    check_flags(field(layout.flags)? as u32)?;
    check_registered(context, ring, layout)?;
    check_idle(context, ring, layout)?;
    let (eventfd, eventfd_async) = told(context, table, mem.ptr(ring, layout.io_ev_fd)?)?;
    let record = IoUring {
        taken: field(layout.cached_sq_head)? as u32,
        completed: field(layout.cached_cq_tail)? as u32,
        extra: field(layout.cq_extra)? as u32,
        timeouts: field(layout.cq_timeouts)? as u32,
        timeouts_flushed: field(layout.cq_last_tm_flush)? as u32,
        drain_disabled: field(layout.drain_disabled)? != 0,
        eventfd,
        eventfd_async,
        ..shape(context, ring)?
    };
    check_sizes(context, ring, &record)?;
    Ok(record)
}

/// What says how much memory a ring has, and what lies where in it; nothing else.
fn shape<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, ring: Kva) -> Result<IoUring> {
    let layout = &structures(context)?.ring;
    let field = |field: Field| context.kernel.mem.uint(ring, field).map(|value| value as u32);
    Ok(IoUring {
        flags: field(layout.flags)?,
        sq_entries: field(layout.sq_entries)?,
        cq_entries: field(layout.cq_entries)?,
        offsets: offsets(context, ring)?,
        ..IoUring::default()
    })
}

fn check_flags(flags: u32) -> Result<()> {
    for (bit, name) in REFUSED_FLAGS {
        if flags & bit != 0 {
            return Err(refuse(name));
        }
    }
    match flags & !KEPT_FLAGS {
        0 => Ok(()),
        unknown => Err(refuse(&format!("a ring with unknown flags {unknown:#x}"))),
    }
}

/// Refuses what `io_uring_register` has added to a ring, but an eventfd.
fn check_registered<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, ring: Kva, layout: &IoRingCtx) -> Result<()> {
    let set = |field: Field| context.kernel.mem.uint(ring, field).map(|value| value != 0);
    let features = [
        (Some(layout.nr_user_files), "registered files"),
        (Some(layout.nr_user_bufs), "registered buffers"),
        (layout.io_bl, "provided buffers"),
        (Some(layout.io_bl_xa), "provided buffers"),
        (Some(layout.personalities), "registered personalities"),
        (Some(layout.restricted), "restrictions"),
        (Some(layout.restrictions), "restrictions"),
        (Some(layout.iowq_limits_set), "a limit of its workers"),
        (layout.napi_enabled, "busy polling"),
        (layout.clock_offset, "a clock of its own"),
        (
            Some(layout.drain_next),
            "a list of requests that the next one is to wait for",
        ),
    ];
    for (field, what) in features {
        if field.map_or(Ok(false), set)? {
            return Err(refuse(what));
        }
    }
    const CLOCK_MONOTONIC: u64 = 1;
    let clock = layout.clockid.map(|field| context.kernel.mem.uint(ring, field));
    match clock.transpose()? {
        None | Some(CLOCK_MONOTONIC) => Ok(()),
        Some(_) => Err(refuse("a clock of its own")),
    }
}

fn check_idle<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, ring: Kva, layout: &IoRingCtx) -> Result<()> {
    let mem = &context.kernel.mem;
    let field = |field: Field| mem.uint(ring, field);
    if field(layout.uring_lock)? != 0 || field(layout.completion_lock)? != 0 {
        return Err(refuse("it was being used at the instant the kernel died"));
    }
    if field(layout.compl_reqs)? != 0 || field(layout.work_llist)? != 0 {
        return Err(refuse("requests are under way"));
    }
    let by_cpu = field(layout.references_by_cpu)?;
    if by_cpu & ATOMIC_OR_DEAD != 0 {
        return Err(refuse("a ring that is being destroyed"));
    }
    let counted = sum_by_cpu(context, Kva(by_cpu), |at| Ok(mem.u64(at)?))?;
    let references = mem.uint(mem.ptr(ring, layout.references)?, structures(context)?.references.count)?;
    let mut kept = length(context, mem.ptr(ring, layout.free_list)?)?;
    if let Some(list) = layout.locked_free_list {
        kept = kept.wrapping_add(length(context, mem.ptr(ring, list)?)?);
    }
    under_way(references.wrapping_sub(OWN).wrapping_add(counted), kept)?;
    let overflow = ring.offset(u64::from(layout.cq_overflow_list.offset));
    if mem.pointer(overflow)? != overflow || field(layout.check_cq)? != 0 {
        return Err(refuse("completions that found no room"));
    }
    Ok(())
}

/// Length of a list of `struct io_wq_work_node`, which is nothing but the address of the next.
fn length<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, first: Kva) -> Result<u64> {
    let mut at = first;
    let mut length = 0u64;
    while !at.is_null() {
        if length >= MAX_KEPT || !at.is_aligned(8) {
            return Err(unreadable());
        }
        length = length.wrapping_add(1);
        at = context.kernel.mem.pointer(at)?;
    }
    Ok(length)
}

/// The eventfd that is told of completions, by the id of an open file, and whether of those of workers only.
fn told<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, table: &[Descriptor], told: Kva) -> Result<(u64, bool)> {
    if told.is_null() {
        return Ok((0, false));
    }
    let layout = &structures(context)?.told;
    let mem = &context.kernel.mem;
    if mem.uint(told, layout.ops)? != 0 {
        return Err(refuse(
            "its eventfd was being told of completions at the instant the kernel died",
        ));
    }
    let wanted = mem.ptr(told, layout.cq_ev_fd)?;
    let files = &context.kernel.types.layouts.file;
    for descriptor in table {
        let file = descriptor.file;
        let is_eventfd = context.symbol(mem.ptr(file, files.f_op)?).as_deref() == Some("eventfd_fops");
        if is_eventfd && mem.ptr(file, files.private_data)? == wanted {
            return Ok((file.0, mem.uint(told, layout.eventfd_async)? != 0));
        }
    }
    Err(refuse("its eventfd is not open any more"))
}

/// Where its process looks for what.
fn offsets<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, ring: Kva) -> Result<[u32; 14]> {
    let Structures {
        ring: layout, shared, ..
    } = structures(context)?;
    let mem = &context.kernel.mem;
    let array = mem.ptr(ring, layout.sq_array)?;
    let array = match array.is_null() {
        true => 0,
        false => array.0.wrapping_sub(mem.ptr(ring, layout.rings)?.0),
    };
    Ok([
        shared.sq_head.offset,
        shared.sq_tail.offset,
        shared.sq_ring_mask.offset,
        shared.sq_ring_entries.offset,
        shared.sq_flags.offset,
        shared.sq_dropped.offset,
        u32::try_from(array).map_err(|_| unreadable())?,
        shared.cq_head.offset,
        shared.cq_tail.offset,
        shared.cq_ring_mask.offset,
        shared.cq_ring_entries.offset,
        shared.cq_overflow.offset,
        shared.cqes.offset,
        shared.cq_flags.offset,
    ])
}

/// What a ring says about itself in several places has to be the same.
fn check_sizes<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, ring: Kva, record: &IoUring) -> Result<()> {
    let Structures {
        ring: layout, shared, ..
    } = structures(context)?;
    let mem = &context.kernel.mem;
    let rings = mem.ptr(ring, layout.rings)?;
    let told = |field: Field| mem.uint(rings, field);
    let is_size = |entries: u32, most: u64| entries.is_power_of_two() && u64::from(entries) <= most;
    let is_sound = is_size(record.sq_entries, MAX_REQUESTS)
        && is_size(record.cq_entries, MAX_COMPLETIONS)
        && told(shared.sq_ring_entries)? == u64::from(record.sq_entries)
        && told(shared.cq_ring_entries)? == u64::from(record.cq_entries)
        && told(shared.sq_head)? == u64::from(record.taken)
        && told(shared.cq_tail)? == u64::from(record.completed)
        && record.ring_bytes() <= MAX_COMPLETIONS.wrapping_mul(64);
    match is_sound {
        true => Ok(()),
        false => Err(unreadable()),
    }
}

/// Writes a ring that was [read](read), with what lies in its memory.
///
/// # Errors
/// It cannot be read, or there is no room.
pub fn write<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    file: Kva,
    record: &IoUring,
) -> Result<()> {
    let layout = &structures(context)?.ring;
    let mem = &context.kernel.mem;
    let ring = mem.ptr(file, context.kernel.types.layouts.file.private_data)?;
    writer.push(Kind::IoUring, 1, flags::MUST_UNDERSTAND, file.0, record)?;
    let parts = [
        (layout.rings, record.ring_bytes(), RING_OFFSET),
        (layout.sq_sqes, record.request_bytes(), REQUESTS_OFFSET),
    ];
    for (pointer, bytes, offset) in parts {
        let size = bytes.next_multiple_of(PAGE_SIZE);
        let content = mem.bytes(mem.ptr(ring, pointer)?, size as usize)?;
        for (at, piece) in pieces(&content) {
            let offset = offset.wrapping_add(at as u64).to_le_bytes();
            writer.push_bytes(
                Kind::IoUringBytes,
                1,
                flags::MUST_UNDERSTAND,
                file.0,
                &[&offset[..], piece].concat(),
            )?;
        }
    }
    Ok(())
}

/// The pages in which something stands, those that follow one another together, each with the place of its first byte.
fn pieces(content: &[u8]) -> Vec<(usize, &[u8])> {
    const PAGE: usize = PAGE_SIZE as usize;
    let mut pieces: Vec<(usize, &[u8])> = Vec::new();
    for (index, page) in content.chunks(PAGE).enumerate() {
        if page.iter().all(|&byte| byte == 0) {
            continue;
        }
        let at = index.wrapping_mul(PAGE);
        match pieces.last_mut() {
            Some((first, piece)) if first.wrapping_add(piece.len()) == at && piece.len() < PIECE.wrapping_mul(PAGE) => {
                let end = at.wrapping_add(page.len());
                *piece = content.get(*first..end).unwrap_or_default();
            }
            _ => pieces.push((at, page)),
        }
    }
    pieces
}

/// Refuses a mapping of a ring that cannot be made anew: another part than its beginning.
///
/// # Errors
/// It is one, or the ring cannot be read.
pub fn check_mapping<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    file: Kva,
    offset: u64,
    bytes: u64,
) -> Result<()> {
    let ring = context
        .kernel
        .mem
        .ptr(file, context.kernel.types.layouts.file.private_data)?;
    let record = shape(context, ring)?;
    let whole = |bytes: u64| bytes.next_multiple_of(PAGE_SIZE);
    let is_usual = match offset {
        RING_OFFSET | COMPLETIONS_OFFSET => bytes <= whole(record.ring_bytes()),
        REQUESTS_OFFSET => bytes == whole(record.request_bytes()),
        _ => false,
    };
    match is_usual {
        true => Ok(()),
        false => Err(refuse("a part of a ring is mapped")),
    }
}

/// Whether a thread waits for completions of a ring.
///
/// # Errors
/// It cannot be told.
pub fn is_waited_for<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, file: Kva, task: Kva) -> Result<bool> {
    let Structures {
        ring: layout, waiter, ..
    } = structures(context)?;
    let kernel = context.kernel;
    let ring = kernel.mem.ptr(file, kernel.types.layouts.file.private_data)?;
    let head = ring.offset(u64::from(layout.cq_wait.offset));
    for entry in kernel.list(head, waiter.entry).bounded(MAX_WAITERS) {
        if kernel.mem.ptr(entry?, waiter.private)? == task {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_of_other_kinds_are_refused_by_name() {
        assert!(check_flags(KEPT_FLAGS).is_ok());
        for (bit, name) in REFUSED_FLAGS {
            assert_eq!(check_flags(KEPT_FLAGS | bit).unwrap_err().detail, name);
        }
        // IORING_SETUP_SQ_AFF goes with SQPOLL only; the newest flag is unknown.
        assert!(check_flags(1 << 2).unwrap_err().detail.contains("0x4"));
        assert!(check_flags(1 << 31).unwrap_err().detail.contains("unknown"));
    }

    #[test]
    fn more_references_than_pieces_of_memory_are_requests_under_way() {
        assert!(under_way(16, 16).is_ok());
        assert_eq!(under_way(17, 16).unwrap_err().detail, "requests are under way: 1");
        assert_eq!(under_way(15, 16).unwrap_err().reason, reasons::UNREADABLE);
        // A thread owes references that it has not taken yet.
        assert!(under_way(0u64.wrapping_sub(3), 0u64.wrapping_sub(3)).is_ok());
    }

    #[test]
    fn only_pages_with_something_in_them_are_written() {
        const PAGE: usize = PAGE_SIZE as usize;
        let mut content = alloc::vec![0u8; 5 * PAGE];
        assert!(pieces(&content).is_empty());
        content[0] = 1;
        content[PAGE * 3 - 1] = 2;
        content[PAGE * 3] = 3;
        let found: Vec<_> = pieces(&content).iter().map(|(at, piece)| (*at, piece.len())).collect();
        assert_eq!(found, [(0, PAGE), (2 * PAGE, 2 * PAGE)]);
        let full = alloc::vec![1u8; (PIECE + 1) * PAGE];
        let found: Vec<_> = pieces(&full).iter().map(|(at, piece)| (*at, piece.len())).collect();
        assert_eq!(found, [(0, PIECE * PAGE), (PIECE * PAGE, PAGE)]);
    }
}
