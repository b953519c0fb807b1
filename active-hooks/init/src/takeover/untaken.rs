//! Files that file systems which are mounted have not taken: a full one, one that is only read, one whose disk answers errors.
//!
//! What we know on entry: everything that can be put back is, and no process of the dead kernel runs yet. What we are
//! responsible for: how each such file was left is told so that whoever changes it later is noticed.

use super::handles;
use crate::restore::world::World;
use rustix::{
    fs::{fstat, OFlags},
    time::{clock_gettime, ClockId},
};
use shared_region::{
    context::{Id, LeftAt},
    rescue_area,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// How long the clock of file systems may stand still: a tick is 10 ms at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// Them, by the device numbers of their file systems, with the names of these.
#[derive(Debug, Default)]
pub struct Untaken {
    systems: BTreeMap<u64, (String, rescue_area::Untaken)>,
}

impl Untaken {
    /// `failed` are the files, `names` the file systems on which no name was put back; of those in `committed` the journal is
    /// complete, and those in `unmounted` are others' business. Only an ext4 with a journal, or an XFS,
    /// is known well enough to be found again.
    pub fn of(
        world: &World<'_>,
        failed: &BTreeSet<Id>,
        names: &BTreeSet<u64>,
        (committed, unmounted): (&BTreeSet<u64>, &BTreeSet<u64>),
    ) -> Self {
        let mut systems = BTreeMap::new();
        for (device, _, name) in world.file_systems().filter(|(device, ..)| !unmounted.contains(device)) {
            let files = failed.iter().filter_map(|&id| Some((id, file_of(world, id)?)));
            let files = files.filter(|(_, key)| key.0 == device);
            let untaken = rescue_area::Untaken {
                is_committed: committed.contains(&device),
                names: names.contains(&device),
                files: files.map(|(id, key)| (id, left_at(world, key))).collect(),
            };
            if untaken.names || !untaken.files.is_empty() {
                systems.insert(device, (name.to_owned(), untaken));
            }
        }
        if !systems.is_empty() {
            wait_for_tick();
        }
        Self { systems }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.systems.is_empty()
    }

    /// How many.
    pub fn files(&self) -> usize {
        self.systems.values().map(|(_, untaken)| untaken.files.len()).sum()
    }

    /// Names of their file systems.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.systems.values().map(|(name, _)| name.as_str())
    }

    /// What each file system has not taken.
    pub fn by_device(&self) -> BTreeMap<u64, rescue_area::Untaken> {
        let one = |(&device, (_, untaken)): (&u64, &(String, rescue_area::Untaken))| (device, untaken.clone());
        self.systems.iter().map(one).collect()
    }

    /// A line of the report for each file system.
    pub fn remarks(&self, what_becomes_of_it: &str) -> Vec<String> {
        let line = |(name, untaken): &(String, rescue_area::Untaken)| {
            let names = if untaken.names {
                " and the names that had changed"
            } else {
                ""
            };
            let files = untaken.files.len();
            format!("file system on {name} has not taken {files} files{names}: {what_becomes_of_it}")
        };
        self.systems.values().map(line).collect()
    }
}

/// Device, number and generation of a file.
type Key = (u64, u64, u32);

fn file_of(world: &World<'_>, id: Id) -> Option<Key> {
    let of_dirty = || {
        let record = &world.dirty_files.get(&id)?.record;
        Some((record.device, record.number, record.generation))
    };
    let of_inode = |record: &shared_region::context::Inode| (record.device, record.number, record.generation);
    let inode = world.inodes.get(&id).map(|inode| of_inode(&inode.record));
    inode.or_else(of_dirty)
}

fn left_at(world: &World<'_>, (device, number, generation): Key) -> Option<LeftAt> {
    let file = handles::regular(world, device, number, generation, OFlags::RDONLY)?;
    let found = fstat(&file).ok()?;
    let seconds = found.st_ctime.saturating_mul(1_000_000_000);
    let changed = seconds.saturating_add_unsigned(found.st_ctime_nsec);
    Some(LeftAt { changed })
}

/// Waits until a change of a file gets another time than one that was made before.
fn wait_for_tick() {
    let begin = Instant::now();
    let time = clock_gettime(ClockId::RealtimeCoarse);
    while clock_gettime(ClockId::RealtimeCoarse) == time && begin.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::world::Content;
    use shared_region::context::{DirtyFile, IdleJournal, Journal};

    #[test]
    fn files_are_told_by_file_system() {
        let file = |device| Content {
            record: DirtyFile {
                device,
                ..DirtyFile::default()
            },
            frames: Vec::new(),
        };
        let journal = Journal {
            device: 1,
            name: "vda".into(),
            ..Journal::default()
        };
        let idle = |device| IdleJournal {
            device,
            name: format!("vd{device}"),
            ..IdleJournal::default()
        };
        let world = World {
            journals: vec![journal],
            idle_journals: vec![idle(2), idle(3)],
            dirty_files: [(10, file(1)), (11, file(1)), (12, file(2)), (13, file(4))].into(),
            ..World::default()
        };
        let (failed, names, committed, unmounted) = ([10, 12, 13].into(), [3].into(), [1].into(), BTreeSet::new());
        let found = Untaken::of(&world, &failed, &names, (&committed, &unmounted));
        assert_eq!(found.names().collect::<Vec<_>>(), ["vda", "vd2", "vd3"]);
        assert_eq!(found.files(), 2);
        let by_device = found.by_device();
        assert_eq!(by_device[&1].files, BTreeMap::from([(10, None)]));
        assert!(by_device[&1].is_committed && !by_device[&2].is_committed && by_device[&3].names);
        let remarks = found.remarks("lost");
        assert_eq!(remarks[0], "file system on vda has not taken 1 files: lost");
        assert!(
            remarks[2].contains("0 files and the names that had changed"),
            "{remarks:?}"
        );
        let of_mounted = Untaken::of(&world, &failed, &names, (&committed, &[1, 2].into()));
        assert_eq!(of_mounted.names().collect::<Vec<_>>(), ["vd3"]);
        assert!(Untaken::of(&world, &BTreeSet::new(), &unmounted, (&committed, &unmounted)).is_empty());
    }

    #[test]
    fn a_change_gets_another_time() {
        let time = clock_gettime(ClockId::RealtimeCoarse);
        wait_for_tick();
        assert_ne!(clock_gettime(ClockId::RealtimeCoarse), time);
    }
}
