//! System V semaphores, message queues and shared memory, made anew with their ids before any process runs.

use super::{
    host::Host,
    inodes,
    world::{SystemV, World},
    OrRefuse, Refusal, Restored,
};
use crate::sys::ipc;
use shared_region::context::{IpcPerm, MessageQueue, SemaphoreSet, SharedSegment};
use std::{fs, io};

/// The id that the next set or queue gets (Documentation/admin-guide/sysctl/kernel.rst).
const NEXT_SEMAPHORES: &str = "/proc/sys/kernel/sem_next_id";
const NEXT_QUEUE: &str = "/proc/sys/kernel/msg_next_id";
const NEXT_SEGMENT: &str = "/proc/sys/kernel/shm_next_id";

/// Makes all of a namespace, in which the caller is. Returns what could not be made, for the report.
pub fn make(ipc: &SystemV, world: &World<'_>, host: &dyn Host) -> Vec<String> {
    let sets = ipc
        .semaphores
        .iter()
        .map(|set| semaphores(set).map_err(|refusal| format!("System V semaphores {}: {refusal}", set.perm.id)));
    let queues = ipc
        .message_queues
        .iter()
        .map(|record| queue(record).map_err(|refusal| format!("System V message queue {}: {refusal}", record.perm.id)));
    let segments = ipc.segments.iter().map(|record| {
        let made = segment(record, world, host);
        made.map_err(|refusal| format!("System V shared memory {}: {refusal}", record.perm.id))
    });
    sets.chain(queues).chain(segments).filter_map(Result::err).collect()
}

/// Makes an object with its id, as whoever made it first; `remove` takes one with another id away.
fn with_id(next: &str, perm: &IpcPerm, make: impl FnOnce() -> io::Result<i32>, remove: fn(i32)) -> Restored<i32> {
    fs::write(next, perm.id.to_string()).or_refuse(|| next)?;
    let made = ipc::act_as(perm.cuid, perm.cgid).and_then(|()| make());
    ipc::act_as(0, 0).or_refuse(|| "being root again")?;
    let id = made.or_refuse(|| "making")?;
    if id as u32 == perm.id {
        return Ok(id);
    }
    remove(id);
    Err(Refusal::new("id", "it is taken"))
}

fn semaphores(set: &SemaphoreSet) -> Restored<()> {
    let perm = &set.perm;
    let make = || ipc::make_semaphores(perm.key, set.values.len(), perm.mode);
    let id = with_id(NEXT_SEMAPHORES, perm, make, ipc::remove_semaphores)?;
    ipc::set_semaphores(id, &set.values).or_refuse(|| "values")?;
    ipc::own_semaphores(id, perm.uid, perm.gid, perm.mode).or_refuse(|| "owner")
}

fn queue(record: &MessageQueue) -> Restored<()> {
    let perm = &record.perm;
    let make = || ipc::make_queue(perm.key, perm.mode);
    let id = with_id(NEXT_QUEUE, perm, make, ipc::remove_queue)?;
    ipc::own_queue(id, perm.uid, perm.gid, perm.mode, record.limit).or_refuse(|| "owner")?;
    record
        .messages
        .iter()
        .try_for_each(|(kind, text)| ipc::send(id, *kind, text).or_refuse(|| "a message"))
}

/// With its content. One that is removed stays until every process has attached it.
fn segment(record: &SharedSegment, world: &World<'_>, host: &dyn Host) -> Restored<()> {
    let perm = &record.perm;
    let content = world.shared.get(&record.inode);
    let content = content.ok_or_else(|| Refusal::new("content", "there is no record of it"))?;
    let make = || ipc::make_segment(perm.key, record.size, perm.mode);
    let id = with_id(NEXT_SEGMENT, perm, make, ipc::remove_segment)?;
    let fill = || {
        let fd = ipc::open_segment(id, record.size).or_refuse(|| "content")?;
        inodes::fill(&fd, content.runs(), content.record.size, host)?;
        inodes::put(&fd, world.read_from_swap(record.inode)?)?;
        ipc::own_segment(id, perm.uid, perm.gid, perm.mode).or_refuse(|| "owner")
    };
    let filled = fill();
    if filled.is_err() {
        ipc::remove_segment(id);
    }
    filled
}

/// What is left to do with segments of a namespace, in which the caller is, when every process has attached its own.
pub fn complete(ipc: &SystemV) {
    for record in &ipc.segments {
        let id = record.perm.id as i32;
        if record.locked {
            if let Err(error) = ipc::lock_segment(id) {
                crate::boot::log::warning(format_args!("System V shared memory {id}: lock: {error}"));
            }
        }
        if record.removed {
            ipc::remove_segment(id);
        }
    }
}
