//! What a successor does besides booting: it takes over from the kernel that died.
//!
//! What we know on entry: the module is loaded and says that this kernel is a successor. What we are responsible for:
//! nothing is added and no disk is written before the salvage gate is open; each level of the commit point is gone to before its
//! first act, and every step is marked, so that the backup OS knows how far we have come; and the machine boots on, whatever
//! cannot be taken over. Until processes run this kernel may be replaced at any instant, and the next one does it all again.

pub mod block_devices;
pub mod blocks;
pub mod clock;
pub mod dirty_files;
pub mod disk;
pub mod earlier;
pub mod fail_at;
pub mod fat;
pub mod files;
pub mod gate;
pub mod grace;
pub mod handles;
pub mod haste;
pub mod journal;
pub mod limits;
pub mod links;
pub mod mapped_devices;
pub mod mounts;
pub mod names;
pub mod netfilter;
pub mod netlink;
pub mod network;
pub mod network_settings;
pub mod plan;
pub mod report;
pub mod subvolumes;
pub mod swap;
pub mod to_rescue;
pub mod units;
pub mod unmounted;
pub mod untaken;
pub mod warm_cache;

use self::haste::Haste;
use crate::{
    boot::{self, log},
    restore::{
        self,
        meter::{self, Part},
        world::World,
        Setting,
    },
    standby,
};
use anyhow::{bail, Result};
use orthros_device::{Device, DeviceError, Region};
use shared_region::{
    context::{FileCache, Id},
    control::{Cause, CommitPoint, ControlWords, SalvageGate, SuccessorPhase},
    device::{Mark, Release},
    fail_at::FailAt,
    record::Stream,
    timeline::Event,
};
use std::{collections::BTreeMap, mem::offset_of};

/// What this boot is.
pub enum Role {
    /// An ordinary one: nothing is taken over.
    Ordinary,
    /// The successor of a kernel that died.
    Successor {
        /// The module.
        device: Device,
        /// The region.
        region: Region,
        /// TSC when this program started.
        started: u64,
    },
}

impl Role {
    /// Asks the module.
    pub fn find(device: Option<Device>, started: u64) -> Self {
        let Some(device) = device else { return Self::Ordinary };
        let successor = device.info().map(|info| info.successor != 0);
        match (successor, device.region()) {
            (Ok(true), Ok(region)) => Self::Successor {
                device,
                region,
                started,
            },
            (Ok(false), _) => Self::Ordinary,
            (Err(error), _) | (_, Err(error)) => {
                log::error(format_args!("{error}; nothing is taken over"));
                Self::Ordinary
            }
        }
    }
}

/// A takeover under way: memory and clocks are there, file systems and processes are not.
pub struct Takeover {
    inner: Option<Inner>,
}

struct Inner {
    device: Device,
    haste: Option<Haste>,
    /// What is added when the processes run.
    later: blocks::Later,
    saved: Option<Saved>,
    offsets: (i64, i64),
    mapped: mapped_devices::Made,
    from_disk: disk::FromDisk,
    earlier: earlier::Earlier,
    /// `None` if journals, and files that no protected process holds, are left as an ordinary crash leaves them.
    committed: Option<journal::Committed>,
    /// See [`warm_cache::versions`].
    versions: BTreeMap<Id, u64>,
    /// RAM in pages at boot, and of the old kernel.
    ram: (u64, u64),
}

/// The Essential Context, read.
struct Saved {
    failover: u64,
    cause: Cause,
    world: World<'static>,
}

impl Saved {
    /// Reads it, or tells why no process is restored.
    fn read(region: &'static Region) -> Option<Self> {
        let stream = match region.context().map(Stream::open) {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                log::error(format_args!("Essential Context: {error}; no process is restored"));
                return None;
            }
            Err(error) => {
                log::error(format_args!("{error}; no process is restored"));
                return None;
            }
        };
        let cause = region.control(offset_of!(ControlWords, failure_cause));
        Some(Self {
            failover: stream.header.failover,
            cause: Cause::from_word(cause).unwrap_or_default(),
            world: World::read(&stream),
        })
    }
}

/// Everything before the root file system is mounted: gate, memory, clocks, ids, what mounting would free.
///
/// # Errors
/// Only if the boot must not go on.
pub fn prepare(role: Role, mut haste: Option<Haste>) -> Result<Takeover> {
    let Role::Successor {
        device,
        region,
        started,
    } = role
    else {
        haste.iter_mut().for_each(Haste::end);
        return Ok(Takeover { inner: None });
    };
    stamp_at(&device, Event::InitStarted, started);
    stamp(&device, Event::ModuleLoaded);
    standby::prepare_lazily(&device);
    let gate = meter::at(Part::Gate, || gate::wait(&region));
    log::info(format_args!("salvage gate: {gate:?}"));
    fail_at::choose(&region);
    fail_at::here(FailAt::Gate);
    match gate {
        SalvageGate::Open | SalvageGate::Failed => {}
        SalvageGate::Forbidden => {
            gate::rest_until_reset();
            bail!("a CPU of the dead kernel could not be parked: nothing may be added and no disk written");
        }
        SalvageGate::None | SalvageGate::Busy => {
            log::error(format_args!(
                "nothing is taken over; the old kernel's memory stays out of use"
            ));
            haste.iter_mut().for_each(Haste::end);
            commit(&device, CommitPoint::Disks)?;
            return Ok(Takeover { inner: None });
        }
    }
    commit(&device, CommitPoint::Memory)?;
    stamp(&device, Event::GatePassed);
    let ram_at_boot = limits::ram_pages();
    // It stays mapped until this program gives way to the real init: the records are read where they lie.
    let region: &'static Region = Box::leak(Box::new(region));
    let mut saved = meter::at(Part::Records, || Saved::read(region));
    let later = meter::at(Part::Memory, || {
        blocks::add(&device, region, saved.as_ref().map(|saved| &saved.world))
    });
    phase(&device, Some(Event::MemoryAdded), SuccessorPhase::MemoryAdded, 0);
    fail_at::here(FailAt::Memory);

    let mut offsets = (0, 0);
    let mut mapped = mapped_devices::Made::default();
    let mut from_disk = disk::FromDisk::new();
    let mut earlier = earlier::Earlier::default();
    let mut ram = (0, 0);
    if let Some(Saved { world, failover, .. }) = &mut saved {
        earlier = earlier::Earlier::read(region, *failover);
        let machine = &world.machine;
        offsets = meter::at(Part::Clocks, || {
            let offsets = clock::go_on(&machine.clock);
            boot::pids::start_at(machine.last_pid.saturating_add(1));
            set_names(machine);
            offsets
        });
        mapped = meter::at(Part::Mounts, || mapped_devices::make(world));
        from_disk = meter::at(Part::Files, || disk::read_ahead(world, earlier.wrote_to_disks));
        ram = (ram_at_boot.unwrap_or(0), machine.total_ram_pages);
        meter::at(Part::Files, || swap::read(world, earlier.wrote_to_disks));
        meter::at(Part::Limits, || limits::adapt(ram.0, ram.1));
    }
    Ok(Takeover {
        inner: Some(Inner {
            device,
            haste,
            later,
            saved,
            offsets,
            mapped,
            from_disk,
            earlier,
            committed: None,
            versions: BTreeMap::new(),
            ram,
        }),
    })
}

/// Whether journals and files that no protected process holds are to be as an ordinary crash leaves them.
fn leaves_uncommitted() -> bool {
    let line = boot::cmdline::Cmdline::of_this_kernel().unwrap_or_default();
    line.value("orthros.uncommitted") == Some("leave")
}

/// Gives back what the first request has found nobody to claim, and adds up. The machine is watched again meanwhile: nothing
/// depends on it, and frames with what was program text are cleared slowly under emulation.
fn release_rest(device: &Device, first: Release) -> Result<Release, DeviceError> {
    let mut sum = first;
    while sum.left > 0 {
        let more = device.release()?;
        if more.released == 0 {
            break;
        }
        sum = Release {
            released: sum.released + more.released,
            left: more.left,
            nanoseconds: sum.nanoseconds + more.nanoseconds,
        };
    }
    Ok(sum)
}

/// Asks leave to go to a level.
fn commit(device: &Device, level: CommitPoint) -> Result<()> {
    let Err(error) = device.commit(level) else {
        return Ok(());
    };
    log::error(format_args!("{error}"));
    gate::rest_until_reset();
    bail!("this kernel is being replaced, and must not touch what is left of the dead one");
}

impl Takeover {
    /// To be called before a file system is mounted: completes journals.
    ///
    /// # Errors
    /// This kernel is being replaced.
    pub fn before_mount(&mut self) -> Result<()> {
        let Some(inner) = &mut self.inner else { return Ok(()) };
        fail_at::here(FailAt::Mount);
        commit(&inner.device, CommitPoint::Disks)?;
        let Some(Saved { world, .. }) = &mut inner.saved else {
            return Ok(());
        };
        if leaves_uncommitted() {
            world.names.clear();
            return Ok(());
        }
        let again = inner.earlier.wrote_to_disks;
        let commit = || {
            let mut committed = journal::commit(world, again, &inner.device);
            let journal::Committed {
                file_systems, remarks, ..
            } = &mut committed;
            fat::write_back(world, &inner.device, file_systems, remarks);
            committed
        };
        inner.committed = Some(meter::at(Part::Journals, commit));
        Ok(())
    }

    /// Everything after the root directory is the old system's: files, processes, the report, what is left over.
    /// Returns what the real init is to know.
    ///
    /// # Errors
    /// This kernel is being replaced.
    pub fn complete(&mut self) -> Result<units::HandOver> {
        let Some(mut inner) = self.inner.take() else {
            return Ok(units::HandOver::default());
        };
        fail_at::here(FailAt::Mounted);
        let saved = inner.saved.take();
        let (hand_over, mut left) = match &saved {
            Some(saved) => inner.restore(saved)?,
            None => {
                phase(&inner.device, Some(Event::FilesReady), SuccessorPhase::Files, 0);
                (units::HandOver::default(), None)
            }
        };
        fail_at::here(FailAt::Resumed);
        let device = &inner.device;
        phase(device, None, SuccessorPhase::Resumed, 0);
        inner.haste.iter_mut().for_each(Haste::speak);
        // Until the machine is armed again nothing would survive; the processes that run need not be idle for that.
        let left_over = crate::sys::before_others(|| {
            inner.later.add(device);
            let line = boot::cmdline::Cmdline::of_this_kernel().unwrap_or_default();
            limits::huge_pages(inner.ram.0, inner.ram.1, line.value("transparent_hugepage"));
            let known = saved.as_ref().zip(inner.committed.as_ref());
            let warm = known.map(|(Saved { world, .. }, committed)| {
                (world, warm_cache::Pages::of(world, &committed.devices, &inner.versions))
            });
            crate::sys::in_child(|| {
                let alive = || phase(device, None, SuccessorPhase::Resumed, 0);
                if let Some(left) = &mut left {
                    left.save(device, &alive);
                }
                if let Some((world, pages)) = &warm {
                    pages.put_in(world, device, &alive);
                }
                let first = device.release();
                inner.haste.iter_mut().for_each(Haste::end);
                phase(device, Some(Event::Complete), SuccessorPhase::Complete, 0);
                if let Ok(region) = device.region() {
                    fail_at::here_when_complete(&region);
                }
                match first.and_then(|first| release_rest(device, first)) {
                    Ok(done) => {
                        log::info(format_args!(
                            "{} frames nobody claimed are free again, after {} ms",
                            done.released,
                            done.nanoseconds / 1_000_000
                        ));
                        if done.left > 0 {
                            log::error(format_args!("{} frames nobody claimed stay out of use", done.left));
                        }
                    }
                    Err(error) => log::error(format_args!("{error}; frames nobody claimed stay out of use")),
                }
            })
        });
        if let Err(error) = left_over {
            log::error(format_args!("frames nobody claimed stay out of use: {error}"));
        }
        Ok(hand_over)
    }
}

/// What is left to be written to the rescue area, and the report that tells what became of it.
struct Left {
    report: report::Report,
    not_put_back: to_rescue::NotPutBack,
    to_save: to_rescue::ToSave,
}

impl Left {
    fn save(&mut self, device: &Device, alive: &dyn Fn()) {
        let said = self.to_save.write(device, alive);
        self.report.file_remarks.extend(self.not_put_back.remarks(&said));
        self.report.store(device);
    }
}

/// Why a process is refused that an earlier successor had begun with.
const TOUCHED: &str = "was in a restartable sequence, which a successor that failed has ended";

impl Inner {
    fn restore(&mut self, Saved { failover, cause, world }: &Saved) -> Result<(units::HandOver, Option<Left>)> {
        let device = &self.device;
        meter::at(Part::Mounts, || {
            mounts::bring_back(world);
            self.mapped.tell_udev();
        });
        let subvolumes = meter::at(Part::Mounts, || subvolumes::Mounted::of(world));
        let again = self.earlier.wrote_to_disks;
        let since = match again {
            true => disk::Since::Attempt,
            false => disk::Since::Nothing,
        };
        let mut put_back = meter::at(Part::Files, || files::put_back(world, &self.from_disk, since, device));
        put_back.remarks.append(&mut self.mapped.remarks);
        let mut files = FileCache::default();
        let mut not_put_back = to_rescue::NotPutBack::default();
        if let Some(committed) = &self.committed {
            put_back.remarks.extend(committed.remarks.iter().cloned());
            let alive = || phase(device, None, SuccessorPhase::MemoryAdded, 0);
            let unmounted = unmounted::Unmounted::of(world);
            let which = (&committed.devices, &unmounted.devices());
            let of_others = || dirty_files::put_back(world, which, &put_back.rewritten, device, &alive);
            let mut of_others = meter::at(Part::DirtyFiles, of_others);
            put_back.remarks.append(&mut of_others.remarks);
            of_others.failed.extend(put_back.failed.keys());
            not_put_back = to_rescue::NotPutBack {
                untaken: untaken::Untaken::of(
                    world,
                    &of_others.failed,
                    &put_back.names_failed,
                    (&committed.devices, &unmounted.devices()),
                ),
                unmounted,
            };
            files = FileCache {
                file_systems: committed.file_systems.clone(),
                ..of_others.done
            };
        }
        drop(subvolumes);
        self.versions = warm_cache::versions(world, device);
        phase(device, Some(Event::FilesReady), SuccessorPhase::Files, 0);
        network::let_in();
        let held = netfilter::put_back(world).then(|| network::bring_back(world)).flatten();

        put_back
            .remarks
            .extend(restore::sysv_ipc::make(&world.ipc, world, device));
        let setting = Setting {
            rewritten: put_back.rewritten,
            held: put_back.held,
            failed: put_back.failed,
            offsets: self.offsets,
            cause: *cause,
            failover: *failover,
            refused: (self.earlier.touched.iter())
                .map(|&pid| (pid, restore::Refusal::new("memory", TOUCHED)))
                .collect(),
        };
        let ready = restore::restore(world, device, &setting);
        fail_at::here(FailAt::AllBuilt);
        // From here on nobody else can give them what is theirs.
        commit(device, CommitPoint::Processes)?;
        let mut listening = std::collections::BTreeMap::new();
        let outcomes = match ready {
            Ok(mut ready) => {
                stamp(device, Event::FirstResumed);
                let count = ready.len() as u64;
                if let Some(held) = held {
                    held.let_go();
                }
                ready.go_on_with_connections(device);
                listening = ready.listening();
                // Those released first must not keep the others waiting.
                crate::sys::ahead_of_others(|| {
                    let outcomes = ready.release(world, device, &setting);
                    phase(device, Some(Event::AllResumed), SuccessorPhase::Resumed, count);
                    outcomes
                })
            }
            Err(refusal) => {
                if let Some(held) = held {
                    held.let_go();
                }
                restore::all_refused(world, &refusal)
            }
        };
        self.haste.iter_mut().for_each(Haste::speak);
        let hand_over = units::HandOver::new(&units::services(world, &outcomes), world, listening);
        let left = crate::sys::before_others(|| {
            report::tell(&outcomes, &world.lost);
            let mut report = report::Report {
                failover: *failover,
                outcomes,
                files,
                file_remarks: put_back.remarks,
                costs: meter::read(world.machine.clock.tsc_hz),
            };
            let to_save = (!not_put_back.is_empty()).then(|| not_put_back.to_save(device));
            let left = match to_save {
                None => None,
                Some(Ok(to_save)) => Some(to_save),
                Some(Err(why)) => {
                    let remarks = not_put_back.remarks(&format!("lost: {why}"));
                    remarks.iter().for_each(|remark| log::warning(format_args!("{remark}")));
                    report.file_remarks.extend(remarks);
                    None
                }
            };
            let told = report.file_remarks.len();
            if left.is_some() {
                let remarks = not_put_back.remarks("being written to the rescue area");
                report.file_remarks.extend(remarks);
            }
            report.store(device);
            report.file_remarks.truncate(told);
            left.map(|to_save| Left {
                report,
                not_put_back,
                to_save,
            })
        });
        Ok((hand_over, left))
    }
}

fn stamp(device: &Device, event: Event) {
    stamp_at(device, event, 0);
}

fn stamp_at(device: &Device, event: Event, tsc: u64) {
    mark(
        device,
        Mark {
            event: event as u64,
            phase: u64::MAX,
            tsc,
            resumed: 0,
        },
    );
}

fn phase(device: &Device, event: Option<Event>, phase: SuccessorPhase, resumed: u64) {
    mark(
        device,
        Mark {
            event: event.map_or(u64::MAX, |event| event as u64),
            phase: phase as u64,
            tsc: 0,
            resumed,
        },
    );
}

fn mark(device: &Device, mark: Mark) {
    if let Err(error) = device.mark(mark) {
        log::warning(format_args!("{error}"));
    }
}

fn set_names(machine: &shared_region::context::Machine) {
    for (file, name) in [("hostname", &machine.hostname), ("domainname", &machine.domainname)] {
        if name.is_empty() {
            continue;
        }
        if let Err(error) = std::fs::write(format!("/proc/sys/kernel/{file}"), name) {
            log::warning(format_args!("{file} {name}: {error}"));
        }
    }
}
