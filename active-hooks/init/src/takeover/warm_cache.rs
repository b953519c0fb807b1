//! Pages of files that their disks have as well, put into the cache again.
//!
//! What we know on entry: the records are of file systems of whose journals all was known. Where there was anything that a
//! log did not have, the log has it if the file system is in `committed`; a file of the recorded version has the recorded
//! content then. What we are responsible for: nobody waits for this, processes run
//! meanwhile, and a file that has changed since is left to its disk.

use super::{dirty_files::stretches, handles};
use crate::{boot::log, restore::world::World};
use orthros_device::Device;
use rustix::fs::OFlags;
use shared_region::context::{CachedFile, FrameRun, Id};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

/// Files that were changed while they were put back and are asked for their version, with processes waiting.
const MAX_ASKED: usize = 64;

/// Versions of the files that were changed while they were put back. To be asked before a process can change them again.
pub fn versions(world: &World<'_>, device: &Device) -> BTreeMap<Id, u64> {
    let changed = world.cached.iter().filter(|(id, _)| is_changed(world, *id));
    let asked = changed.take(MAX_ASKED).filter_map(|(id, file)| {
        let fd = open(world, &file.record)?;
        Some((*id, device.version(fd.as_fd()).ok()?))
    });
    asked.collect()
}

/// Whether putting back what its disk did not have has changed a file.
fn is_changed(world: &World<'_>, id: Id) -> bool {
    world.dirty_files.contains_key(&id) || world.inodes.get(&id).is_some_and(|inode| inode.record.dirty)
}

fn open(world: &World<'_>, record: &CachedFile) -> Option<OwnedFd> {
    let access = OFlags::RDONLY | OFlags::NOATIME;
    handles::regular(world, record.device, record.number, record.generation, access)
}

/// What can be put in, copied from the records: whoever puts it in does not have the region.
#[derive(Debug, Default)]
pub struct Pages {
    /// With the version that each has if it has not changed.
    files: Vec<(CachedFile, u64, Vec<Vec<FrameRun>>)>,
    /// Files that are left to their disks.
    left: u64,
}

impl Pages {
    /// Chooses them. `versions` is what [`versions`] found.
    pub fn of(world: &World<'_>, committed: &BTreeSet<u64>, versions: &BTreeMap<Id, u64>) -> Self {
        let mut pages = Self::default();
        for (id, file) in &world.cached {
            let version = match is_changed(world, *id) {
                true => versions.get(id).copied(),
                false => Some(file.record.version),
            };
            let device = file.record.device;
            let is_whole = committed.contains(&device) || world.journals.iter().all(|journal| journal.device != device);
            match version.filter(|_| is_whole) {
                Some(version) => {
                    let runs = stretches(file.runs());
                    pages.files.push((file.record.clone(), version, runs));
                }
                None => pages.left += 1,
            }
        }
        pages
    }

    /// Puts all of them in. Calls `alive` again and again meanwhile.
    pub fn put_in(&self, world: &World<'_>, device: &Device, alive: &dyn Fn()) {
        let begin = Instant::now();
        let (mut pages, mut files) = (0, 0);
        for (record, version, runs) in &self.files {
            let Some(fd) = open(world, record) else { continue };
            let whole = runs.iter().all(|stretch| {
                alive();
                let (put, error) = device.warm(fd.as_fd(), stretch, record.size, *version);
                pages += put;
                error.is_none()
            });
            files += u64::from(whole);
        }
        let others = self.left + self.files.len() as u64 - files;
        if files + others != 0 {
            log::info(format_args!(
                "{pages} pages of {files} files need not be read again, those of {others} files do, after {} ms",
                begin.elapsed().as_millis()
            ));
        }
    }
}
