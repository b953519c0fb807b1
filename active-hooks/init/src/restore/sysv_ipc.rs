//! System V semaphores and message queues, made anew with their ids before any process runs.

use super::{world::World, OrRefuse, Restored};
use crate::sys::ipc;
use shared_region::context::{IpcPerm, MessageQueue, SemaphoreSet};
use std::{fs, io};

/// The id that the next set or queue gets (Documentation/admin-guide/sysctl/kernel.rst).
const NEXT_SEMAPHORES: &str = "/proc/sys/kernel/sem_next_id";
const NEXT_QUEUE: &str = "/proc/sys/kernel/msg_next_id";

/// Makes all of them. Returns what could not be made, for the report.
pub fn make(world: &World<'_>) -> Vec<String> {
    let sets = world
        .semaphores
        .iter()
        .map(|set| semaphores(set).map_err(|refusal| format!("System V semaphores {}: {refusal}", set.perm.id)));
    let queues = world
        .message_queues
        .iter()
        .map(|record| queue(record).map_err(|refusal| format!("System V message queue {}: {refusal}", record.perm.id)));
    sets.chain(queues).filter_map(Result::err).collect()
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
    Err(super::Refusal::new("id", "it is taken"))
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
