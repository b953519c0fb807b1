//! POSIX message queues, made anew with their messages before any process runs.

use super::{
    namespaces::{Namespaces, Visited},
    world::World,
    OrRefuse, Refusal, Restored,
};
use crate::sys::{self, ipc};
use rustix::fs::{fchmod, fchown, Gid, Mode, Uid};
use shared_region::context::{Id, PosixQueue};
use std::{collections::BTreeMap, ffi::CString, os::fd::OwnedFd};

/// Queues, by their ids.
#[derive(Debug, Default)]
pub struct Queues(BTreeMap<Id, Restored<Made>>);

/// A queue, which keeps its name until all of its open files are there.
#[derive(Debug)]
struct Made {
    name: CString,
    unlinked: bool,
}

impl Queues {
    /// Makes all of them. Returns what could not be made, for the report.
    pub fn make(&mut self, world: &World<'_>, namespaces: &mut Namespaces) -> Vec<String> {
        if world.queues.is_empty() {
            return Vec::new();
        }
        // What the queues of one user may hold is limited, and whatever this program starts inherits the limit.
        let limit = sys::limit(libc::RLIMIT_MSGQUEUE);
        let unlimited = sys::set_limit(0, libc::RLIMIT_MSGQUEUE, u64::MAX, u64::MAX);
        let mut remarks: Vec<String> = unlimited.err().iter().map(ToString::to_string).collect();
        for (&id, record) in &world.queues {
            let made = namespaces.inside(Visited::Ipc, world.namespace_of_queue.get(&id), || make(record));
            if let Err(refusal) = &made {
                remarks.push(refusal.to_string());
                if let Some(&namespace) = world.namespace_of_queue.get(&id) {
                    namespaces.give_up(namespace, refusal.clone());
                }
            }
            self.0.insert(id, made);
        }
        let limited = limit.and_then(|(soft, hard)| sys::set_limit(0, libc::RLIMIT_MSGQUEUE, soft, hard));
        remarks.extend(limited.err().iter().map(ToString::to_string));
        remarks
    }

    /// An open file of a queue.
    pub fn open(&self, world: &World<'_>, namespaces: &Namespaces, id: Id, flags: u32) -> Restored<OwnedFd> {
        let what = || "POSIX message queue";
        match self.0.get(&id) {
            Some(Ok(made)) => namespaces.inside(Visited::Ipc, world.namespace_of_queue.get(&id), || {
                ipc::open_posix_queue(&made.name, flags as i32).or_refuse(what)
            }),
            Some(Err(refusal)) => Err(refusal.clone()),
            None => Err(Refusal::new(what(), "there is no record of it")),
        }
    }

    /// Takes the names away that are gone. Returns what could not be done.
    pub fn complete(&self, world: &World<'_>, namespaces: &Namespaces) -> Vec<String> {
        let made = self.0.iter().filter_map(|(id, made)| Some((id, made.as_ref().ok()?)));
        made.filter(|(_, made)| made.unlinked)
            .filter_map(|(id, made)| {
                let remove = || ipc::remove_posix_queue(&made.name).or_refuse(|| "POSIX message queue without a name");
                namespaces
                    .inside(Visited::Ipc, world.namespace_of_queue.get(id), remove)
                    .err()
            })
            .map(|refusal| refusal.to_string())
            .collect()
    }
}

fn make(record: &PosixQueue) -> Restored<Made> {
    let what = || format!("POSIX message queue {}", String::from_utf8_lossy(&record.name));
    let name = CString::new(record.name.as_slice()).or_refuse(what)?;
    let fd = ipc::make_posix_queue(&name, record.mode, record.limits).or_refuse(what)?;
    let filled = || -> Restored<()> {
        for (priority, text) in &record.messages {
            ipc::send_posix(&fd, *priority, text).or_refuse(what)?;
        }
        fchown(&fd, Some(Uid::from_raw(record.uid)), Some(Gid::from_raw(record.gid))).or_refuse(what)?;
        fchmod(&fd, Mode::from_raw_mode(record.mode)).or_refuse(what)
    };
    let filled = filled();
    if filled.is_err() {
        ipc::remove_posix_queue(&name).or_refuse(what)?;
    }
    let unlinked = record.unlinked;
    filled.map(|()| Made { name, unlinked })
}
