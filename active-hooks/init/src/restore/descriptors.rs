//! The descriptor table of a process, and what epoll sets watch through it.

use super::{
    batch::{Arg, Batch, Expect},
    build::Builder,
    objects::Objects,
    world::World,
    OrRefuse, Refusal, Restored,
};
use rustix::fs::OFlags;
use shared_region::context::{EpollWatch, FileTable, Id, OpenFileKind};
use std::collections::BTreeSet;

/// Closes what a process has inherited at the numbers of its own table.
pub fn clear(batch: &mut Batch<'_>, objects: &Objects) -> Restored<()> {
    let last = u64::from(objects.base() - 1);
    batch.call(
        "descriptors",
        libc::SYS_close_range,
        [0u64.into(), last.into(), 0u64.into()],
    )
}

/// Fills epoll sets that this process is the first to have. Entries are remembered by the kernel under the descriptor
/// numbers of the time, so each file is put at that number for the moment; the table must be empty.
pub fn watch(
    batch: &mut Batch<'_>,
    table: &FileTable,
    world: &World,
    objects: &Objects,
    filled: &mut BTreeSet<Id>,
) -> Restored<()> {
    for &(fd, id, _) in &table.descriptors {
        let Some(OpenFileKind::Epoll { watches }) = world.files.get(&id).map(|file| &file.what) else {
            continue;
        };
        let (Some(epoll), true) = (objects.number(id), filled.insert(id)) else {
            continue;
        };
        for watch in watches {
            add_watch(batch, fd, epoll, watch, objects)?;
        }
    }
    Ok(())
}

fn add_watch(batch: &mut Batch<'_>, fd: u32, epoll: u32, watch: &EpollWatch, objects: &Objects) -> Restored<()> {
    let what = || format!("fd {fd}, watch on descriptor {}", watch.fd);
    let file = objects
        .number(watch.file)
        .ok_or_else(|| Refusal::new(what(), "the watched file is not restored"))?;
    if watch.fd >= objects.base() {
        return Err(Refusal::new(what(), "its number is too high"));
    }
    // struct epoll_event is packed on x86_64 (include/uapi/linux/eventpoll.h).
    let mut event = [0; 12];
    event[..4].copy_from_slice(&watch.events.to_le_bytes());
    event[4..].copy_from_slice(&watch.data.to_le_bytes());
    let number = Arg::from(watch.fd);
    batch.call(what(), libc::SYS_dup3, [file.into(), number, 0u64.into()])?;
    batch.call(
        what(),
        libc::SYS_epoll_ctl,
        [epoll.into(), libc::EPOLL_CTL_ADD.into(), number, Arg::Bytes(&event)],
    )?;
    batch.call(what(), libc::SYS_close, [number])
}

/// Puts every open file at its numbers.
pub fn place(batch: &mut Batch<'_>, table: &FileTable, objects: &Objects) -> Restored<()> {
    for &(fd, id, close_on_exec) in &table.descriptors {
        let file = objects
            .number(id)
            .ok_or_else(|| Refusal::new(format!("fd {fd}"), "its open file is not restored"))?;
        let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
        batch.expect(
            format!("fd {fd}"),
            libc::SYS_dup3,
            [file.into(), fd.into(), flags.into()],
            Expect::Value(fd.into()),
        )?;
    }
    Ok(())
}

/// Closes the agent's descriptors in a process that will bear no more children.
pub fn drop_inherited(batch: &mut Batch<'_>, objects: &Objects) -> Restored<()> {
    batch.call(
        "descriptors",
        libc::SYS_close_range,
        [objects.base().into(), u32::MAX.into(), 0u64.into()],
    )
}

/// Asks for signals on input and output of sockets, when nothing that the agent does can cause one.
pub fn ask_for_signals(builder: &mut Builder<'_>) {
    let asynchronous = OFlags::from_bits_retain(libc::O_ASYNC as u32);
    let world = builder.world;
    for (&id, file) in &world.files {
        let flags = OFlags::from_bits_retain(file.flags);
        let is_socket = matches!(file.what, OpenFileKind::Socket { .. });
        let Some(fd) = builder
            .objects
            .descriptor(id)
            .filter(|_| is_socket && flags.contains(asynchronous))
        else {
            continue;
        };
        let flags = flags & (OFlags::NONBLOCK | asynchronous);
        if let Err(refusal) = rustix::fs::fcntl_setfl(fd, flags).or_refuse(|| "O_ASYNC") {
            builder.refuse_holders(|holder, _| holder == id, &refusal);
        }
    }
}

const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;

/// Open files, by id, that have what only one of the processes that share them has to set.
#[derive(Debug, Default)]
pub struct Done {
    /// Who is told by a signal.
    pub owners: BTreeSet<Id>,
    /// Their locks.
    pub locks: BTreeSet<Id>,
}

/// Sets who is told by a signal when something happens on a file. Done once for a file, by a process that has it.
pub fn owners(batch: &mut Batch<'_>, setter: u32, table: &FileTable, world: &World, done: &mut Done) -> Restored<()> {
    for &(fd, id, _) in &table.descriptors {
        let Some(file) = world.files.get(&id) else { continue };
        let (kind, owner, signal) = file.owner;
        if owner == 0 && signal == 0 || !done.owners.insert(id) {
            continue;
        }
        let what = || format!("owner of fd {fd}");
        if owner != 0 {
            let mut words = [0; 8];
            words[..4].copy_from_slice(&kind.to_le_bytes());
            // A group is negative in `F_SETOWN` alone.
            let number = world.seen_by(setter, owner as u32);
            let number = number.ok_or_else(|| Refusal::new(what(), "it is outside of the pid namespace"))?;
            words[4..].copy_from_slice(&number.to_le_bytes());
            batch.call(
                what(),
                libc::SYS_fcntl,
                [fd.into(), F_SETOWN_EX.into(), Arg::Bytes(&words)],
            )?;
        }
        if signal != 0 {
            batch.call(what(), libc::SYS_fcntl, [fd.into(), F_SETSIG.into(), signal.into()])?;
        }
    }
    Ok(())
}
