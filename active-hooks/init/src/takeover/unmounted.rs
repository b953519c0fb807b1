//! File systems of the dead kernel that this one could not mount: what their disks do not have goes to the rescue area.
//!
//! What we know on entry: every file system that is to be mounted is, processes run, and no frame has been given back yet. What
//! we are responsible for: nothing is written but to the partition that was named, as the backup OS would; nobody waits for it
//! for ever; and whatever becomes of it stands in the report.

use super::mounts;
use crate::{
    boot::log,
    rescue::partition,
    restore::world::World,
    sys::{self, Tid},
};
use orthros_device::Device;
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    fs::OFlags,
};
use shared_region::{
    context::SavedBy,
    device::RescueArea,
    layout::RESCUE_WORDS,
    record::{Kind, Stream, Writer},
    rescue_area::{only_files, save, Disk, Wanted, What},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, OpenOptionsExt},
        },
    },
    path::Path,
    time::{Duration, Instant},
};
use zerocopy::{FromBytes, FromZeros};

/// How long the area may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two signs of life.
const STEP: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// Room for what the records of an area have beside those they are copied from.
const MORE: usize = 4096;

/// Them, by their device numbers.
#[derive(Debug, Default)]
pub struct Unmounted {
    systems: BTreeMap<u64, System>,
}

/// One of them.
#[derive(Debug, Default)]
struct System {
    name: String,
    /// Files that its disk does not have as they were.
    files: u64,
}

/// What is to be written.
#[derive(Debug)]
pub struct ToSave {
    records: Vec<u8>,
    failover: u64,
    words: RescueArea,
    epitaph: String,
}

impl Unmounted {
    /// Looks for ext4 file systems that are not mounted where they were, and that have lost something by that.
    pub fn of(world: &World<'_>) -> Self {
        let known = world.journals.iter().map(|it| (it.device, &it.name));
        let known = known.chain(world.idle_journals.iter().map(|it| (it.device, &it.name)));
        let systems = known.filter(|&(device, _)| !is_mounted(world, device));
        let systems = systems.filter_map(|(device, name)| {
            let dirty = world.dirty_files.values().filter(|file| file.record.device == device);
            let is_held = |record: &shared_region::context::Inode| record.device == device && record.dirty;
            let held = world.inodes.values().filter(|inode| is_held(&inode.record));
            let files = (dirty.count() + held.count()) as u64;
            let name = name.clone();
            let journal = world.journals.iter().find(|it| it.device == device);
            let has_blocks = journal.is_some_and(|it| !it.blocks.is_empty() || !it.revoked.is_empty());
            let has_names = world.names.iter().any(|names| names.device == device);
            (files != 0 || has_blocks || has_names).then_some((device, System { name, files }))
        });
        Self {
            systems: systems.collect(),
        }
    }

    /// Their device numbers.
    pub fn devices(&self) -> BTreeSet<u64> {
        self.systems.keys().copied().collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.systems.is_empty()
    }

    /// Copies what is to be written out of the region, which whoever writes it does not have.
    ///
    /// # Errors
    /// Why nothing can be.
    pub fn to_save(&self, device: &Device) -> Result<ToSave, String> {
        let region = device.region().map_err(|error| error.to_string())?;
        let bytes = region.copy(RESCUE_WORDS, size_of::<RescueArea>());
        let words = RescueArea::read_from_prefix(&bytes).map_or_else(|_| RescueArea::new_zeroed(), |(words, _)| words);
        if words.state != 1 {
            return Err("no rescue area is named (`orthros-ctl rescue-area --prepare DEVICE` makes one)".into());
        }
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let context = region.context().map_err(|error| text(&error))?;
        let stream = Stream::open(context).map_err(|error| text(&error))?;
        let mut records = vec![0; (stream.header.length as usize).saturating_add(MORE)];
        let mut writer = Writer::new(&mut records, stream.header.failover).map_err(|error| text(&error))?;
        let boot_id = boot_id();
        let by = writer.push(Kind::SavedBy, 1, 0, 0, &SavedBy { boot_id });
        by.and_then(|()| only_files(&stream, &mut writer, Wanted::Unmounted(&self.devices())))
            .map_err(|error| text(&error))?;
        let used = writer.finish();
        records.truncate(used);
        let names: Vec<&str> = self.systems.values().map(|system| system.name.as_str()).collect();
        Ok(ToSave {
            records,
            failover: stream.header.failover,
            words,
            epitaph: format!("a kernel took over that could not mount {}", names.join(", ")),
        })
    }

    /// A line of the report for each.
    pub fn remarks(&self, what_becomes_of_it: &str) -> Vec<String> {
        let line = |system: &System| {
            format!(
                "file system on {} is not mounted: {} files and what its journal has not: {what_becomes_of_it}",
                system.name, system.files
            )
        };
        self.systems.values().map(line).collect()
    }
}

/// Number of this boot, by chance.
pub fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

fn is_mounted(world: &World<'_>, device: u64) -> bool {
    let mut points = world.mounts.iter().filter(|it| it.device == device && it.root == b"/");
    points.any(|it| mounts::is_mounted(Path::new(OsStr::from_bytes(&it.mountpoint))))
}

impl ToSave {
    /// Writes it, in a process of its own: a disk may keep whoever writes to it waiting for ever. Calls `alive` meanwhile. Returns
    /// what became of it.
    pub fn write(&self, device: &Device, alive: &dyn Fn()) -> String {
        let said = self.helped(device, alive).unwrap_or_else(|why| {
            log::error(format_args!("rescue area: {why}"));
            format!("lost, because the rescue area was not written: {why}")
        });
        log::info(format_args!("rescue area: {said}"));
        said
    }

    fn helped(&self, device: &Device, alive: &dyn Fn()) -> Result<String, String> {
        let (told, telling) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| error.to_string())?;
        let mut telling = Some(telling);
        let helper = sys::in_child(|| {
            let (sign, answer) = match self.write_now(device) {
                Ok(done) => ('+', done),
                Err(why) => ('-', why),
            };
            let telling = telling.take().map(File::from);
            // Nobody hears it if it cannot be given.
            let _ = telling.map(|mut telling| telling.write_all(format!("{sign}{answer}").as_bytes()));
        });
        let helper = helper.map_err(|error| error.to_string())?;
        drop(telling);
        let answer = answer(helper, told, alive)?;
        match answer.split_at_checked(1) {
            Some(("+", done)) => Ok(done.to_owned()),
            Some(("-", why)) => Err(why.to_owned()),
            _ => Err("its writer has failed inside".into()),
        }
    }

    fn write_now(&self, device: &Device) -> Result<String, String> {
        let (path, head) = partition::to_write_to(&self.words)?;
        let name = |error: io::Error| format!("{}: {error}", path.display());
        // Nobody else may have it mounted or otherwise in use.
        let file = File::options()
            .write(true)
            .custom_flags(OFlags::EXCL.bits() as i32)
            .open(&path);
        let mut file = Area(file.map_err(name)?);
        let what = What {
            failover: self.failover,
            epitaph: self.epitaph.as_bytes(),
            records: &self.records,
        };
        let frame = |number: u64, page: &mut [u8]| device.read_frames(number, page).is_ok();
        let saved = save(&mut file, &head, &what, &frame).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(format!(
            "{} pages are in the rescue area{}, `orthros-ctl rescue` puts them back when the disk is there",
            saved.frames,
            if saved.left_out {
                ", which has no room for more"
            } else {
                ""
            }
        ))
    }
}

/// What the writer says, in time.
fn answer(helper: Tid, told: OwnedFd, alive: &dyn Fn()) -> Result<String, String> {
    let deadline = Instant::now() + PATIENCE;
    while poll(&mut [PollFd::new(&told, PollFlags::IN)], Some(&STEP)).map_err(|error| error.to_string())? == 0 {
        alive();
        if Instant::now() > deadline {
            // Without the frames, which are given back now, it cannot go on either.
            let _ = sys::kill(helper, libc::SIGKILL);
            return Err(format!("its disk has taken more than {PATIENCE:?}"));
        }
    }
    let mut text = String::new();
    File::from(told)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    Ok(text)
}

/// The partition.
struct Area(File);

impl Disk for Area {
    type Error = io::Error;

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::world::Content;
    use shared_region::context::{DirtyFile, IdleJournal, Journal, JournalBlock, Mount};

    #[test]
    fn only_file_systems_that_are_not_mounted_and_lose_something_are_meant() {
        let mount = |device, mountpoint: &str| Mount {
            device,
            root: b"/".to_vec(),
            mountpoint: mountpoint.into(),
            ..Mount::default()
        };
        let journal = |device, blocks| Journal {
            device,
            name: format!("vd{device}"),
            blocks,
            ..Journal::default()
        };
        let idle = |device| IdleJournal {
            device,
            name: format!("vd{device}"),
            ..IdleJournal::default()
        };
        let file = |device| Content {
            record: DirtyFile {
                device,
                ..DirtyFile::default()
            },
            frames: Vec::new(),
        };
        let world = World {
            mounts: vec![mount(1, "/"), mount(2, "/nowhere"), mount(4, "/nowhere/else")],
            journals: vec![journal(1, Vec::new()), journal(2, vec![JournalBlock::default()])],
            idle_journals: vec![idle(3), idle(4)],
            dirty_files: [(10, file(1)), (11, file(4)), (12, file(4))].into(),
            ..World::default()
        };
        let found = Unmounted::of(&world);
        assert_eq!(found.devices(), BTreeSet::from([2, 4]));
        let remarks = found.remarks("gone");
        assert!(
            remarks[0].starts_with("file system on vd2 is not mounted: 0 files")
                && remarks[1].contains("vd4 is not mounted: 2 files"),
            "{remarks:?}"
        );
        assert!(Unmounted::default().is_empty());
    }
}
