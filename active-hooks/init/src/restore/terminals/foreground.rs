//! Who is in the foreground of a terminal.

use super::super::{
    batch::{Arg, Batch, Expect},
    build::Builder,
    world::World,
    Refusal, Restored,
};
use shared_region::context::Id;
use std::collections::BTreeSet;

/// Puts the foreground groups of terminals there, in the leaders of the sessions. Every process has to be in its group.
pub fn foregrounds(builder: &mut Builder<'_>) {
    let ids: Vec<u32> = builder.built.keys().copied().collect();
    for id in ids {
        let Some(process) = builder.world.processes.get(&id).map(|member| &member.record) else {
            continue;
        };
        let group = process.foreground;
        if process.sid != id || process.tty.is_empty() || group == 0 || group == id {
            continue;
        }
        let in_group = |other: &u32| {
            let member = builder.world.processes.get(other);
            member.is_some_and(|member| member.record.pgid == group)
        };
        let is_there = builder.built.keys().any(in_group);
        let Some(built) = builder.built.get_mut(&id) else {
            continue;
        };
        if !is_there {
            built.remarks.push(format!(
                "foreground group {group} is gone: its session's leader is in the foreground"
            ));
            continue;
        }
        let Some(group) = builder.world.seen_by(id, group) else {
            let why = "it is outside of the pid namespace";
            builder.refuse(id, Refusal::new(format!("foreground group {group}"), why));
            continue;
        };
        let free = lowest_free(builder.world, process.files);
        let set = built
            .leader()
            .and_then(|leader| foreground(Batch::new(&mut builder.arena, leader), free, group));
        if let Err(refusal) = set {
            builder.refuse(id, refusal);
        }
    }
}

fn foreground(mut batch: Batch<'_>, free: u32, group: u32) -> Restored<()> {
    let what = || format!("foreground group {group}");
    let opened = Expect::Value(free.into());
    let (path, flags) = (Arg::Bytes(b"/dev/tty\0"), libc::O_RDWR | libc::O_CLOEXEC);
    batch.expect(
        what(),
        libc::SYS_openat,
        [libc::AT_FDCWD.into(), path, flags.into()],
        opened,
    )?;
    let group = Arg::Bytes(&group.to_le_bytes());
    batch.call(what(), libc::SYS_ioctl, [free.into(), libc::TIOCSPGRP.into(), group])?;
    batch.call(what(), libc::SYS_close, [free.into()])?;
    batch.finish()
}

/// The number that the next file of a table gets.
fn lowest_free(world: &World<'_>, table: Id) -> u32 {
    let used: BTreeSet<u32> = world
        .tables
        .get(&table)
        .into_iter()
        .flat_map(|table| table.descriptors.iter().map(|&(fd, ..)| fd))
        .collect();
    (0..).find(|fd| !used.contains(fd)).unwrap_or(0)
}
