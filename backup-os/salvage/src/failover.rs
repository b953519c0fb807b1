//! The salvage of a dead kernel, from beginning to end: the entry for the backup OS and for the host's inspector.
//!
//! What we know on entry: a kernel that was prepared while it lived, none of its CPUs running any more, the table of
//! protected processes and what each CPU left when it was stopped. What we are responsible for: an Essential Context in
//! which each protected process stands whole or not at all, a [`Lost`](shared_region::context::Lost) record for
//! everything that is not in it, and a mark in the bitmap for every frame whose contents must outlive the kernel.

use crate::addr::PhysAddr;
use crate::clock::{self, Readings};
use crate::context::Context;
use crate::device_mapper;
use crate::dirty_files;
use crate::evidence;
use crate::kernel::Kernel;
use crate::link_setup;
use crate::machine;
use crate::memory::PhysMem;
use crate::mount_namespaces;
use crate::mounts;
use crate::mqueue;
use crate::namespaces::Namespaces;
use crate::netfilter;
use crate::network;
use crate::network6;
use crate::network_namespaces;
use crate::process::{self, Written};
use crate::protected;
use crate::refusal::Refusal;
use crate::sockets;
use crate::sysv_ipc;
use crate::tasks::{self, ProcessEntry};
use crate::warm_cache;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use shared_region::context::{Lost, Rules, Summary};
use shared_region::facts::Facts;
use shared_region::reasons;
use shared_region::record::{Kind, RecordError, Writer};

/// Bytes of the area that are kept for saying what is not in it.
const LOST_ROOM: usize = 256 << 10;

/// Which processes are to be kept.
#[derive(Clone, Copy, Debug)]
pub enum Protected<'i> {
    /// Those the administrator asked for: bytes of a [`shared_region::protect::ProtectTable`].
    Table(&'i [u8]),
    /// Every process but init; for looking at an image.
    All,
    /// One process by id; for looking at an image.
    One(u32),
}

/// What CPUs left when they were stopped.
#[derive(Clone, Copy, Debug)]
pub enum Stopped {
    /// In the parking slots. A CPU whose slot is not of this generation left nothing.
    Slots {
        /// Physical address of slot 0 ([`shared_region::layout::PARKING_SLOTS`]).
        slots: PhysAddr,
        /// [`shared_region::control::ControlWords::stop_request`].
        generation: u64,
    },
    /// Nowhere: an image taken by somebody else. What was only in a CPU is then missing, and is named but not held
    /// against the process.
    Image,
}

/// Everything salvage is told beyond the kernel itself.
#[derive(Clone, Copy, Debug)]
pub struct Input<'i> {
    /// What the module published. `None` over an image of a machine without it.
    pub facts: Option<&'i Facts>,
    /// Which processes.
    pub protected: Protected<'i>,
    /// What the CPUs left.
    pub stopped: Stopped,
    /// Counters, if they were read.
    pub readings: Option<Readings>,
    /// Number of the failover ([`shared_region::record::StreamHeader::failover`]).
    pub failover: u64,
    /// The CPU that hung, if it was not a panic.
    pub suspect: Option<usize>,
    /// Pages that disks have as well and that are kept all the same, at most.
    pub warm_pages: u64,
    /// Nobody will complete the journals: names and files are to be put back one by one on all file systems.
    pub by_file: bool,
}

/// What [`run`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Bytes of the area in use, stream header included.
    pub bytes: usize,
    /// Whether something was left out for want of room.
    pub truncated: bool,
    /// Numbers for the report; also the last record.
    pub summary: Summary,
}

/// Salvages a dead kernel. Writes a complete record stream into `area` and clears and fills the bitmap `retained`
/// ([`shared_region::retained`]). Allocates; the amount grows with the number of shared objects, not with memory.
///
/// # Errors
/// [`RecordError::Full`] if the area has no room even for the records about the machine. Everything else that goes wrong
/// costs the object concerned and is written down.
pub fn run<M: PhysMem + ?Sized>(
    kernel: &Kernel<'_, M>,
    input: &Input<'_>,
    area: &mut [u8],
    retained: &mut [u8],
) -> Result<Saved, RecordError> {
    retained.fill(0);
    let mut writer = Writer::new(area, input.failover)?;
    let (processes, unreadable) = tasks::processes(kernel);
    let namespaces = Namespaces::of_init(kernel, &processes);
    let time_namespace = Some(namespaces.time).filter(|at| !at.is_null());
    let (clock, now) = clock::read(kernel, input.readings.as_ref(), time_namespace).unwrap_or_default();
    writer.push(Kind::Machine, 1, 0, 0, &machine::read(kernel, input, clock))?;
    let room = writer.room();
    writer.reserve(LOST_ROOM.min(room >> 2));

    let mut context = Context::new(kernel, input, now, namespaces);
    for mount in mounts::read(&context) {
        // A mount that finds no room is missed by those who need it, and they say so.
        let _ = writer.push(Kind::Mount, 1, 0, u64::from(mount.id), &mount);
    }
    // As with mounts.
    let _ = device_mapper::write(&mut context, &mut writer);
    let (mut links, lives) = network::read(&context);
    let mut six = network6::read(&context, &mut links);
    six.lives = lives;
    let _ = writer.push(Kind::Network, 1, 0, 0, &links);
    let _ = writer.push(Kind::Network6, 1, 0, 0, &six);
    let _ = writer.push(Kind::LinkSetups, 1, 0, 0, &link_setup::read(&context));
    let settings = network_namespaces::of_machine(&context);
    let _ = settings.map(|settings| writer.push(Kind::NetworkSettings, 1, 0, 0, &settings));
    write_netfilter(&context, &mut writer);
    let choice = protected::choose(input.protected, &processes);
    let chosen = || choice.processes.iter().filter_map(|&i| processes.get(i));
    for entry in chosen() {
        mount_namespaces::expect(&mut context, entry.leader);
    }
    for entry in chosen() {
        let left = process::left_by_calls(&context, entry);
        context.positions.extend(left.moved);
        context.locked.extend(left.locked);
    }
    context.sockets = sockets::held(&context, chosen());
    let mut lost: Vec<(u32, Lost)> = Vec::new();
    for entry in chosen() {
        let (mark, checkpoint) = (writer.mark(), context.checkpoint());
        let written = process::write(&mut context, &mut writer, retained, entry);
        if written.is_ok() {
            context.commit();
        }
        match written {
            Ok(Written::Alive(threads)) => {
                context.tally.processes = context.tally.processes.saturating_add(1);
                context.tally.threads = context.tally.threads.saturating_add(threads);
            }
            Ok(Written::Ended) => context.tally.processes = context.tally.processes.saturating_add(1),
            Ok(Written::Gone) => {}
            Err(refusal) => {
                writer.rewind(mark);
                context.rollback(checkpoint);
                context.tally.refused = context.tally.refused.saturating_add(1);
                lost.push((entry.tgid, lost_process(entry, &refusal)));
            }
        }
    }
    lost.extend(choice.bad_entries.into_iter().map(|object| (0, senseless(object))));
    if unreadable != 0 {
        lost.push((
            0,
            senseless(alloc::format!("{unreadable} entries of the list of processes")),
        ));
    }

    let of_connections = sockets::orphans::write(&context, &mut writer);
    lost.extend(of_connections.map(|lost| (0, lost)));
    let of_machine = sysv_ipc::write(&mut context, &mut writer, retained);
    lost.extend(of_machine.into_iter().map(|lost| (0, lost)));
    let queues = mqueue::write_all(&mut context, &mut writer);
    lost.extend(queues.into_iter().map(|lost| (0, lost)));
    let (of_files, whole) = dirty_files::write(&mut context, &mut writer, retained);
    lost.extend(of_files.into_iter().map(|lost| (0, lost)));
    warm_cache::write(&mut context, &mut writer, retained, &whole, input.warm_pages);

    writer.reserve(0);
    let summary = context.tally;
    let evidence = evidence::read(&context);
    // What finds no room now is only missed by the reader of the report; the stream says that it was cut short.
    for (tgid, lost) in &lost {
        let _ = writer.push(Kind::Lost, 1, 0, u64::from(*tgid), lost);
    }
    let mark = writer.mark();
    let _ = writer.push(Kind::Evidence, 1, 0, 0, &evidence);
    if writer.push(Kind::Summary, 1, 0, 0, &summary).is_err() {
        writer.rewind(mark);
        writer.push(Kind::Summary, 1, 0, 0, &summary)?;
    }
    let truncated = writer.truncated();
    Ok(Saved {
        bytes: writer.finish(),
        truncated,
        summary,
    })
}

/// The firewall. Rules without room are as good as unknown.
fn write_netfilter<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, writer: &mut Writer<'_>) {
    let (mut record, rules) = netfilter::read(context);
    let mark = writer.mark();
    let written = writer
        .push(Kind::Netfilter, 1, 0, 0, &record)
        .and_then(|()| writer.push_bytes(Kind::NetfilterRules, 1, 0, 0, &rules));
    if written.is_err() {
        writer.rewind(mark);
        record.rules = Rules::Unknown("there was no room for the rules".into());
        record.connections.clear();
        let _ = writer.push(Kind::Netfilter, 1, 0, 0, &record);
    }
}

/// The record of a process that is refused.
fn lost_process(entry: &ProcessEntry, refusal: &Refusal) -> Lost {
    Lost {
        object: if refusal.object.is_empty() {
            String::from("process")
        } else {
            refusal.object.clone()
        },
        reason: refusal.to_string(),
        fatal: true,
        comm: String::from_utf8_lossy(&entry.comm).into_owned(),
    }
}

/// The record of something that cannot be read and costs no process.
fn senseless(object: String) -> Lost {
    Lost {
        object,
        reason: String::from(reasons::UNREADABLE.text),
        ..Lost::default()
    }
}
