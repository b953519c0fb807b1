//! File systems of the dead kernel that this one could not mount.
//!
//! What we know on entry: every file system that is to be mounted is.

use super::mounts;
use crate::restore::world::World;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::Path,
};

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
    /// Its journal lacks blocks.
    has_blocks: bool,
}

impl Unmounted {
    /// Looks for file systems that are not mounted where they were, and that have lost something by that.
    pub fn of(world: &World<'_>) -> Self {
        let systems = world.file_systems().filter(|&(device, ..)| !is_mounted(world, device));
        let systems = systems.filter_map(|(device, _, name)| {
            let dirty = world.dirty_files.values().filter(|file| file.record.device == device);
            let is_held = |record: &shared_region::context::Inode| record.device == device && record.dirty;
            let held = world.inodes.values().filter(|inode| is_held(&inode.record));
            let files = (dirty.count() + held.count()) as u64;
            let name = name.to_owned();
            let journal = world.journals.iter().find(|it| it.device == device);
            let has_blocks = journal.is_some_and(|it| !it.blocks.is_empty() || !it.revoked.is_empty());
            let has_names = has_names(world, device);
            (files != 0 || has_blocks || has_names).then_some((
                device,
                System {
                    name,
                    files,
                    has_blocks,
                },
            ))
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

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.systems.values().map(|system| system.name.as_str())
    }

    /// A line of the report for each.
    pub fn remarks(&self, what_becomes_of_it: &str) -> Vec<String> {
        let line = |system: &System| {
            // A mount replays the journal as it is, and what comes after it has no place any more.
            let what = match system.has_blocks {
                true => "files and what its journal has not, which goes back only before it is mounted",
                false => "files that go back once it is mounted",
            };
            let (name, files) = (&system.name, system.files);
            format!("file system on {name} is not mounted: {files} {what}: {what_becomes_of_it}")
        };
        self.systems.values().map(line).collect()
    }
}

/// Whether names have changed. Some of an XFS are recorded in any case.
fn has_names(world: &World<'_>, device: u64) -> bool {
    match world.changed.iter().find(|changed| changed.device == device) {
        Some(changed) => !changed.inodes.is_empty(),
        None => world.names.iter().any(|names| names.device == device),
    }
}

fn is_mounted(world: &World<'_>, device: u64) -> bool {
    let mut points = world.mounts.iter().filter(|it| it.device == device && it.root == b"/");
    points.any(|it| mounts::is_mounted(Path::new(OsStr::from_bytes(&it.mountpoint))))
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
            remarks[0].starts_with("file system on vd2 is not mounted: 0 files and what its journal has not")
                && remarks[1].contains("vd4 is not mounted: 2 files that go back once it is mounted: gone"),
            "{remarks:?}"
        );
        assert!(Unmounted::default().is_empty());
    }
}
