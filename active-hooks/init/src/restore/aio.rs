//! Contexts of asynchronous input and output.
//!
//! `io_setup` makes a ring where the kernel likes, and moving its mapping gives the context its old name. The kernel counts for
//! itself where in the ring it goes on: it is brought there by requests that do nothing.

use super::{
    arena::Arena,
    batch::{self, Arg, Batch, Expect},
    tracee::Tracee,
    user_memory::UserMemory,
    Refusal, Restored,
};
use shared_region::context::AioContext;

/// `IOCB_CMD_PREAD` (include/uapi/linux/aio_abi.h).
const READ: u16 = 0;
/// In a ring, behind the number of its context: places, then head.
const PLACES: u64 = 4;
const HEAD: u64 = 8;

/// Makes a context. Nothing may be mapped where its ring was; `null` is a descriptor of `/dev/null`. What lay in the ring is
/// written over what this leaves there.
pub fn make(arena: &mut Arena, process: &Tracee, context: &AioContext, null: u32) -> Restored<()> {
    let what = || format!("context of asynchronous input and output at {:#x}", context.address);
    let mut batch = Batch::new(arena, process);
    // The kernel must not choose a place that overlaps with this one.
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let nothing = [
        context.address.into(),
        context.bytes.into(),
        libc::PROT_NONE.into(),
        flags.into(),
        (-1).into(),
        0u64.into(),
    ];
    batch.expect(what(), libc::SYS_mmap, nothing, Expect::Value(context.address))?;
    batch.finish()?;
    let arguments = |at: u64| [context.requests.into(), at, 0, 0, 0, 0];
    let (result, data) = batch::query(arena, process, libc::SYS_io_setup, arguments, &[0; 8])?;
    if result != 0 {
        return Err(Refusal::new(what(), std::io::Error::from_raw_os_error(-result as i32)));
    }
    let made = data.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    let memory = UserMemory::of(process.tid() as u32)?;
    let places = u32::from_le_bytes(memory.read(made + PLACES)?);
    if places != context.places {
        return Err(Refusal::new(
            what(),
            format!("this kernel gives it {places} places, not {}", context.places),
        ));
    }
    let mut batch = Batch::new(arena, process);
    let moved = [
        made.into(),
        context.bytes.into(),
        context.bytes.into(),
        (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED).into(),
        context.address.into(),
    ];
    batch.expect(what(), libc::SYS_mremap, moved, Expect::Value(context.address))?;
    // First to the head, all of which is taken, then to the tail.
    for _ in 0..context.head {
        submit(&mut batch, context, null)?;
    }
    batch.finish()?;
    memory.write(context.address + HEAD, &context.head.to_le_bytes())?;
    let mut batch = Batch::new(arena, process);
    for _ in 0..(context.tail + context.places - context.head) % context.places {
        submit(&mut batch, context, null)?;
    }
    batch.finish()
}

/// A read of nothing from nowhere, which is over at once.
fn submit(batch: &mut Batch<'_>, context: &AioContext, null: u32) -> Restored<()> {
    // struct iocb: what to do at 16, the descriptor at 20.
    let mut request = [0; 64];
    request[16..18].copy_from_slice(&READ.to_le_bytes());
    request[20..24].copy_from_slice(&null.to_le_bytes());
    let list = Arg::Linked {
        outer: &[0; 8],
        at: 0,
        inner: &request,
    };
    let arguments = [context.address.into(), 1u64.into(), list];
    batch.expect(
        "asynchronous input and output",
        libc::SYS_io_submit,
        arguments,
        Expect::Value(1),
    )
}
