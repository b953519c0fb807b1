//! Process groups. When all processes are there and in their sessions, each is put into its group; a group whose
//! leader is not restored is opened by a stand-in.

use super::{
    batch::Batch,
    build::{self, Builder},
    pid_namespaces,
    tracee::Tracee,
    Refusal, Restored,
};

/// Puts every process into its group. One that cannot be is refused.
pub fn arrange(builder: &mut Builder<'_>) {
    let mut members: Vec<(u32, u32)> = builder
        .built
        .keys()
        .filter_map(|id| Some((*id, builder.world.processes.get(id)?.record.pgid)))
        .collect();
    // Leaders first.
    members.sort_by_key(|(id, group)| (id != group, *id));
    let mut helpers = Vec::new();
    for (id, group) in members {
        if let Err(refusal) = join(builder, id, group, &mut helpers) {
            builder.refuse(id, refusal);
        }
    }
    for (helper, parent) in helpers {
        let parent = builder.built.get(&parent).and_then(|built| built.leader().ok());
        // A parent that is gone has taken its helper with it.
        let _ = build::dismiss(&mut builder.arena, helper, parent);
    }
}

fn join(builder: &mut Builder<'_>, id: u32, group: u32, helpers: &mut Vec<(Tracee, u32)>) -> Restored<()> {
    let Some(built) = builder.built.get(&id) else {
        return Ok(());
    };
    let leader = built.leader()?;
    if built.session == id {
        return if group == id {
            Ok(())
        } else {
            Err(Refusal::new("process group", "a session leader cannot leave its own"))
        };
    }
    let world = builder.world;
    let Some(number) = world.seen_by(id, group) else {
        return join_from_outside(builder, id, group);
    };
    let led = group == id
        || builder.built.contains_key(&group)
        || builder.stand_ins.contains_key(&group)
        || helpers.iter().any(|(helper, _)| helper.tid() as u32 == group);
    if !led {
        let helper = build::clone(&mut builder.arena, leader, &world.numbers(group), 0, 0)?;
        let mut batch = Batch::new(&mut builder.arena, &helper);
        batch.call("process group", libc::SYS_setpgid, [0u64.into(), 0u64.into()])?;
        batch.finish()?;
        helpers.push((helper, id));
    }
    let mut batch = Batch::new(&mut builder.arena, leader);
    batch.call(
        format!("process group {group}"),
        libc::SYS_setpgid,
        [0u64.into(), number.into()],
    )?;
    batch.finish()
}

/// A process that does not see its group, in a pid namespace around its own, was born in it; or its parent can put it there.
fn join_from_outside(builder: &mut Builder<'_>, id: u32, group: u32) -> Restored<()> {
    if pid_namespaces::group_of(id)? == group {
        return Ok(());
    }
    let what = || format!("process group {group}");
    let world = builder.world;
    let parent = world.processes.get(&id).map_or(0, |member| member.record.ppid);
    let numbers = (world.seen_by(parent, id), world.seen_by(parent, group));
    let (Some(built), (Some(child), Some(group))) = (builder.built.get(&parent), numbers) else {
        return Err(Refusal::new(what(), "it is outside of its pid namespace"));
    };
    let mut batch = Batch::new(&mut builder.arena, built.leader()?);
    batch.call(what(), libc::SYS_setpgid, [child.into(), group.into()])?;
    batch.finish()
}
