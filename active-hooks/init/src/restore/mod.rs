//! The restore agent: from records to running processes.
//!
//! What we know on entry: the file systems are mounted as the processes saw them and the agent's root is theirs; the
//! clocks go on; the pid counter is past every saved id; the agent is single-threaded and root.
//!
//! What we are responsible for: every process is restored whole or not at all, and none runs before all are built.
//! What goes wrong with one process costs that process and names the reason.
//!
//! The order: [`world`] reads the records, [`objects`] opens what processes refer to, [`build`] creates the processes
//! in the order that [`tree`] found, and each is filled in by the modules named after the kinds of state.

pub mod aio;
pub mod arena;
pub mod attached;
pub mod batch;
pub mod build;
pub mod clock;
pub mod cow;
pub mod creds;
pub mod descriptors;
pub mod elf;
pub mod file_locks;
pub mod groups;
pub mod helper;
pub mod high;
pub mod host;
pub mod inodes;
pub mod inotify;
pub mod io_uring;
pub mod keyrings;
pub mod library;
pub mod memory;
pub mod meter;
pub mod mount_namespaces;
pub mod mqueue;
pub mod namespaces;
pub mod objects;
pub mod pid_namespaces;
pub mod pipes;
pub mod private_network;
pub mod process;
mod process_files;
pub mod refusal;
pub mod restrictions;
pub mod signals;
pub mod sockets;
pub mod sysv_ipc;
pub mod terminals;
pub mod threads;
pub mod timers;
pub mod tracee;
pub mod tree;
pub mod user_memory;
pub mod vdso;
pub mod world;

pub use refusal::{OrRefuse, Refusal, Restored};

use self::{
    arena::Arena,
    build::Builder,
    clock::Elapsed,
    host::Host,
    inodes::Inodes,
    meter::Part,
    mount_namespaces::MountNamespaces,
    namespaces::Namespaces,
    objects::Objects,
    process::{Built, Finish},
    threads::ClockOffsets,
    tree::Tree,
    world::World,
};
use shared_region::{
    context::{Id, OpenFileKind, Outcome, Process, SocketState},
    control::Cause,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    rc::Rc,
};

/// What the agent is told beside the records.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// Inodes whose file was put back under its name.
    pub rewritten: BTreeSet<Id>,
    /// Open files of inodes without a name.
    pub held: BTreeMap<Id, Rc<OwnedFd>>,
    /// Inodes with a name whose files have not the content they had, with the reason.
    pub failed: BTreeMap<Id, Refusal>,
    /// Offsets of CLOCK_MONOTONIC and CLOCK_BOOTTIME in this time namespace, in nanoseconds.
    pub offsets: ClockOffsets,
    /// Processes that are refused for a reason found before, with it.
    pub refused: BTreeMap<u32, Refusal>,
    /// Why this failover took place, for handlers.
    pub cause: Cause,
    /// Failovers since the machine was started, this one included.
    pub failover: u64,
}

/// The processes, ready to run, and those that are not.
pub struct Ready {
    built: BTreeMap<u32, Built>,
    /// What was given up. The kernel writes to the memory of what is killed, so that is not done while another successor may
    /// have to begin with it.
    condemned: Vec<Built>,
    refused: BTreeMap<u32, Refusal>,
    connections: Option<sockets::Connections>,
    inotifies: inotify::Inotifies,
    listening: BTreeMap<&'static str, OwnedFd>,
}

/// Builds every process that can be restored. None of them runs before [`Ready::release`].
///
/// # Errors
/// Only what keeps every process from being restored; what concerns one of them is in the outcomes.
pub fn restore(world: &World<'_>, host: &dyn Host, setting: &Setting) -> Restored<Ready> {
    crate::sys::block_child_signal();
    let base = lowest_free_descriptor(world);
    let room = u64::from(base)
        + (world.files.len() + 4 * world.sockets.len() + 2 * world.inodes.len() + 2 * world.shared.len()) as u64
        + 4096;
    let limit = crate::sys::limit(libc::RLIMIT_NOFILE).or_refuse(|| "descriptors of the agent")?;
    let set_limit = |soft: u64, hard: u64| {
        crate::sys::set_limit(0, libc::RLIMIT_NOFILE, soft, hard).or_refuse(|| "descriptors of the agent")
    };
    set_limit(room.max(limit.0), room.max(limit.1))?;
    let ready = restore_with(world, host, setting, base);
    set_limit(limit.0, limit.1)?;
    ready
}

fn restore_with(world: &World<'_>, host: &dyn Host, setting: &Setting, base: u32) -> Restored<Ready> {
    let arena = Arena::new(memory::find_hole(world.spaces.values(), build::ROOM)?)?;
    let namespaces = Namespaces::make(world, host, base)?;
    let mount_namespaces = MountNamespaces::make(world, &namespaces, base)?;
    let inodes = Inodes::new(setting);
    let objects = Objects::new(base, inodes, mount_namespaces, namespaces);
    let elapsed = Elapsed {
        then: world.machine.clock,
    };
    let mut refused = setting.refused.clone();
    refuse_by_record(world, &mut refused);
    let mut builder = Builder::new(world, host, elapsed, objects, arena, refused)?;

    let base = builder.objects.base();
    let objects = &mut builder.objects;
    objects
        .sockets
        .make(world, &objects.namespaces, host, &builder.elapsed, base);
    builder.objects.terminals.make(world);
    for remark in builder.objects.queues.make(world, &mut builder.objects.namespaces) {
        crate::boot::log::warning(format_args!("{remark}"));
    }
    for (&id, member) in &world.processes {
        if builder.refused.contains_key(&id) {
            continue;
        }
        let prepared =
            process::check(member, world).and_then(|()| meter::at(Part::Opening, || builder.prepare(member)));
        if let Err(refusal) = prepared {
            builder.refused.insert(id, refusal);
        }
    }
    let wanted: Vec<&Process> = world
        .processes
        .iter()
        .filter(|(id, _)| !builder.refused.contains_key(id))
        .map(|(_, member)| &member.record)
        // The zombie of a parent that is not restored has nobody to collect it.
        .filter(|process| !process.zombie || world.processes.contains_key(&process.ppid))
        .collect();
    let tree = Tree::plan(wanted.into_iter());
    builder.refused.extend(tree.refused.iter().cloned());
    let own = creds::Own::now()?;
    meter::at(Part::Preparing, || {
        builder.build_all(&tree);
        builder.seal_keyrings();
        groups::arrange(&mut builder);
        terminals::foregrounds(&mut builder);
        MountNamespaces::complete(&mut builder);
        finish(&mut builder, setting, own);
        terminals::complete_all(&mut builder);
        finish_sockets(&mut builder);
        descriptors::ask_for_signals(&mut builder);
    });
    builder.objects.inodes.seal(world)?;
    sysv_ipc::complete(&world.ipc);
    builder.objects.namespaces.complete(world);
    let is_built = |id| builder.built.contains_key(&id);
    for remark in pid_namespaces::complete(world, &builder.objects.namespaces, is_built) {
        crate::boot::log::warning(format_args!("{remark}"));
    }
    for remark in builder.objects.queues.complete(world, &builder.objects.namespaces) {
        crate::boot::log::warning(format_args!("{remark}"));
    }
    inotify::watch_all(&mut builder, &setting.rewritten);
    let inotifies = std::mem::take(&mut builder.objects.inotifies);
    let connections = Some(builder.objects.sockets.connections());
    let listening = builder.objects.sockets.peers.take();
    let Builder {
        mut arena,
        built,
        refused,
        stand_ins,
        condemned,
        ..
    } = builder;
    for (_, stand_in) in stand_ins {
        build::dismiss(&mut arena, stand_in, None)?;
    }
    Ok(Ready {
        built,
        condemned,
        refused,
        connections,
        inotifies,
        listening,
    })
}

fn finish(builder: &mut Builder<'_>, setting: &Setting, own: creds::Own) {
    let mut done = descriptors::Done::default();
    let process_files = process_files::open_all(builder);
    let sections = sections(builder, setting.failover);
    let ids: Vec<u32> = builder.built.keys().copied().collect();
    for id in ids {
        let context = Finish {
            world: builder.world,
            host: builder.host,
            elapsed: &builder.elapsed,
            offsets: setting.offsets,
            own,
            process_files: &process_files,
        };
        let (Some(built), Some(member)) = (builder.built.get_mut(&id), builder.world.processes.get(&id)) else {
            continue;
        };
        let in_sections = sections.get(&id).map_or(&[][..], Vec::as_slice);
        let finished = process::finish(&mut builder.arena, built, member, &context, in_sections, &mut done);
        if let Err(refusal) = finished {
            builder.refuse(id, refusal);
        }
    }
    process_files.settle(builder);
}

/// Fills the queues of sockets of AF_UNIX: those who have sent what is in them are there now.
fn finish_sockets(builder: &mut Builder<'_>) {
    let world = builder.world;
    let mut passed = BTreeMap::new();
    for content in world.sockets.values() {
        let SocketState::Unix(unix) = &content.record.state else {
            continue;
        };
        for &id in unix.messages.iter().flat_map(|message| &message.files) {
            passed.entry(id).or_insert_with(|| builder.open_for_passing(id));
        }
    }
    let unix = builder.objects.sockets.unix();
    for (socket, refusal) in unix.finish(world, builder.host, &passed) {
        for id in sockets::concerned(world, socket) {
            if builder.built.contains_key(&id) {
                builder.refuse(id, Refusal::new("socket", &refusal));
            }
        }
    }
}

/// The restartable sequences that the threads of each process were in. Registering the area clears them, in memory that
/// another successor may have to begin with: it is told beforehand, or such processes are refused by this one.
fn sections(builder: &mut Builder<'_>, failover: u64) -> BTreeMap<u32, Vec<Option<u64>>> {
    let mut all = BTreeMap::new();
    let mut at_stake = Vec::new();
    for &id in builder.built.keys() {
        let threads = builder.world.processes.get(&id).map(|member| &member.threads);
        let found: Vec<Option<u64>> = (threads.into_iter().flatten())
            .map(|thread| threads::rseq_section(id, thread))
            .collect();
        if found.iter().any(Option::is_some) {
            at_stake.push(id);
        }
        all.insert(id, found);
    }
    if !at_stake.is_empty() {
        if let Err(refusal) = builder.host.note_at_stake(failover, &at_stake) {
            for id in at_stake {
                builder.refuse(id, refusal.clone());
            }
        }
    }
    all
}

/// Refuses what the salvager, or the reading of its records, has found incomplete.
fn refuse_by_record(world: &World<'_>, refused: &mut BTreeMap<u32, Refusal>) {
    for (id, lost) in world.lost.iter().filter(|(_, lost)| lost.fatal) {
        refused.insert(*id, Refusal::new(&lost.object, &lost.reason));
    }
    for (owner, why) in &world.unreadable {
        for (&id, member) in &world.processes {
            let process = &member.record;
            let concerned = [u64::from(id), process.mm, process.files, process.session_keyring];
            if *owner == 0 || concerned.contains(owner) || refers_to(world, process, *owner) {
                refused.insert(id, Refusal::new("records", why));
            }
        }
    }
}

/// Whether a process has an open file or mapping whose id this is.
fn refers_to(world: &World<'_>, process: &Process, id: Id) -> bool {
    let files = world.tables.get(&process.files);
    let opened = files.is_some_and(|table| table.descriptors.iter().any(|&(_, file, _)| file == id));
    let space = world.spaces.get(&process.mm);
    opened || space.is_some_and(|space| space.mappings.iter().any(|mapping| mapping.inode == id))
}

/// The first descriptor number that no process uses, nor an epoll set remembers.
fn lowest_free_descriptor(world: &World<'_>) -> u32 {
    let used = world
        .tables
        .values()
        .flat_map(|table| table.descriptors.iter().map(|&(fd, ..)| fd));
    let watched = world.files.values().flat_map(|file| match &file.what {
        OpenFileKind::Epoll { watches } => watches.as_slice(),
        _ => &[],
    });
    let highest = used.chain(watched.map(|watch| watch.fd)).max().unwrap_or(0);
    highest.saturating_add(1).max(LOWEST_BASE)
}

/// Descriptors of the agent's own stay below this.
const LOWEST_BASE: u32 = 64;

impl Ready {
    /// How many processes are ready.
    pub fn len(&self) -> usize {
        self.built.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.built.is_empty()
    }

    /// Ends every process, without its having run.
    ///
    /// # Errors
    /// The first that was refused, and why.
    pub fn strike(self) -> Restored<()> {
        self.built.into_values().rev().for_each(Built::kill);
        self.refused.into_values().next().map_or(Ok(()), Err)
    }

    /// Sockets of services of the system that connections wait at.
    pub fn listening(&mut self) -> BTreeMap<&'static str, OwnedFd> {
        std::mem::take(&mut self.listening)
    }

    /// Lets the connections go on; the wire must be let in.
    pub fn go_on_with_connections(&mut self, host: &dyn Host) {
        let connections = self.connections.take();
        for refusal in connections.map(|all| all.go_on(host)).unwrap_or_default() {
            crate::boot::log::error(format_args!("connection: {refusal}"));
        }
    }

    /// Lets every process run, after what its handlers have to do, and tells what became of each.
    pub fn release(mut self, world: &World<'_>, host: &dyn Host, setting: &Setting) -> BTreeMap<u32, Outcome> {
        for (id, refusal) in std::mem::take(&mut self.inotifies).settle(world, host) {
            for (holder, _) in world.holders(|file, _| file == id) {
                for id in world.dependents(holder).into_iter().chain([holder]) {
                    if let Some(built) = self.built.remove(&id) {
                        self.condemned.push(built);
                        self.refused.insert(id, refusal.clone());
                    }
                }
            }
        }
        // A parent sees its child killed.
        self.condemned
            .sort_by_key(|built| built.id().map(|id| world.order_of_death(id)));
        self.condemned.drain(..).for_each(Built::kill);
        let mut outcomes = BTreeMap::new();
        let comm = |id: &u32| world.processes.get(id).map_or_else(String::new, world::Member::comm);
        let handlers = library::run::Handlers::start(&mut self.built, world, host, setting);
        // Children first: a parent must find them as it left them. Ids nearly always grow from parent to child.
        for (id, built) in self.built.into_iter().rev() {
            let mut outcome = Outcome {
                comm: comm(&id),
                resumed: true,
                remarks: built.remarks,
                adopted: built.adopted,
                copied: built.copied,
            };
            for thread in built.threads {
                if let Err(refusal) = meter::at(Part::Release, || thread.release()) {
                    outcome.remarks.push(refusal.to_string());
                }
            }
            outcomes.insert(id, outcome);
        }
        for (id, library::run::Ended { built, resumed }) in handlers.finish() {
            let outcome = Outcome {
                comm: comm(&id),
                resumed,
                remarks: built.remarks,
                adopted: built.adopted,
                copied: built.copied,
            };
            outcomes.insert(id, outcome);
        }
        // What was not recorded is told by the salvager.
        for (id, refusal) in self
            .refused
            .into_iter()
            .filter(|(id, _)| world.processes.contains_key(id))
        {
            outcomes.insert(
                id,
                Outcome {
                    comm: comm(&id),
                    remarks: vec![refusal.to_string()],
                    ..Outcome::default()
                },
            );
        }
        outcomes
    }
}

/// The outcomes when nothing could be restored at all.
pub fn all_refused(world: &World<'_>, refusal: &Refusal) -> BTreeMap<u32, Outcome> {
    let outcome = |(id, member): (&u32, &world::Member)| {
        let outcome = Outcome {
            comm: member.comm(),
            remarks: vec![refusal.to_string()],
            ..Outcome::default()
        };
        (*id, outcome)
    };
    world.processes.iter().map(outcome).collect()
}
