//! inotify: descriptors are made with the other files, and watch when everything is built.
//!
//! What the agent does until processes run may be something that is watched: those events are nobody's. All that are there
//! before a process runs are taken out again, and those that were waiting when the kernel died are put in.

use super::{build::Builder, host::Host, world::World, OrRefuse, Refusal, Restored};
use rustix::{
    fs::{
        fcntl_getfl, fcntl_setfl,
        inotify::{add_watch, init, CreateFlags, WatchFlags},
        OFlags,
    },
    io::Errno,
};
use shared_region::context::{Id, InotifyWatch, OpenFileKind};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
};

/// Reads before a queue must be empty: more than its longest (`fs.inotify.max_queued_events`).
const MAX_READS: u32 = 1 << 16;

/// Descriptors, by the ids of their open files.
#[derive(Debug, Default)]
pub struct Inotifies(BTreeMap<Id, OwnedFd>);

impl Inotifies {
    /// A new one, which watches nothing yet.
    pub fn open(&mut self, id: Id, flags: OFlags) -> Restored<OwnedFd> {
        let mut options = CreateFlags::CLOEXEC;
        options.set(CreateFlags::NONBLOCK, flags.contains(OFlags::NONBLOCK));
        let fd = init(options).or_refuse(|| "inotify descriptor")?;
        self.0.insert(id, fd.try_clone().or_refuse(|| "inotify descriptor")?);
        Ok(fd)
    }

    /// Lets each have those events that were there when the kernel died, and no others. Returns those with which it goes
    /// wrong.
    pub fn settle(self, world: &World<'_>, host: &dyn Host) -> Vec<(Id, Refusal)> {
        let settle = |(id, fd): (Id, OwnedFd)| {
            let events = world.inotify_events.get(&id).map_or(&[][..], Vec::as_slice);
            let put = |()| {
                events
                    .iter()
                    .try_for_each(|event| host.inotify_event(fd.as_fd(), event))
            };
            let refusal = forget(&fd).and_then(put).err()?;
            Some((id, refusal))
        };
        self.0.into_iter().filter_map(settle).collect()
    }
}

/// Lets all of them watch. Who has one with which it goes wrong is refused.
pub fn watch_all(builder: &mut Builder<'_>, rewritten: &BTreeSet<Id>) {
    let mut failed = Vec::new();
    for (&id, fd) in &builder.objects.inotifies.0 {
        let Some(OpenFileKind::Inotify { watches, next }) = builder.world.files.get(&id).map(|file| &file.what) else {
            continue;
        };
        if let Err(refusal) = watch(fd, watches, *next, rewritten) {
            failed.push((id, refusal));
        }
    }
    for (id, refusal) in failed {
        builder.refuse_holders(|file, _| file == id, &refusal);
    }
}

fn watch(fd: &OwnedFd, watches: &[InotifyWatch], next: u32, rewritten: &BTreeSet<Id>) -> Restored<()> {
    for watch in watches {
        let what = || format!("watch on {}", String::from_utf8_lossy(&watch.path));
        let path = Path::new(OsStr::from_bytes(&watch.path));
        let found = path.symlink_metadata().or_refuse(what)?;
        if found.ino() != watch.number && is_numbered(path) && !rewritten.contains(&watch.inode) {
            return Err(Refusal::new(what(), "another file has its name now"));
        }
        crate::sys::next_watch(fd.as_fd(), watch.wd).or_refuse(what)?;
        let flags = WatchFlags::from_bits_retain(watch.mask) | WatchFlags::DONT_FOLLOW;
        let number = add_watch(fd, path, flags).or_refuse(what)?;
        if number as u32 != watch.wd {
            return Err(Refusal::new(
                what(),
                format!("the kernel gave {number}, not {}", watch.wd),
            ));
        }
    }
    crate::sys::next_watch(fd.as_fd(), next.max(1)).or_refuse(|| "next watch")
}

/// Whether a file keeps its number when its kernel is replaced: it is on a disk.
fn is_numbered(path: &Path) -> bool {
    /// Magic number of ext4 (include/uapi/linux/magic.h).
    const EXT4: i64 = 0xEF53;
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == EXT4)
}

/// Takes every event out.
fn forget(fd: &OwnedFd) -> Restored<()> {
    let what = || "events of the agent's own";
    let flags = fcntl_getfl(fd).or_refuse(what)?;
    fcntl_setfl(fd, flags | OFlags::NONBLOCK).or_refuse(what)?;
    let mut buffer = [0; 4096];
    let mut result = Err(Refusal::new(what(), "there is no end of them"));
    for _ in 0..MAX_READS {
        match rustix::io::read(fd, &mut buffer) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                result = Ok(());
                break;
            }
            Err(error) => {
                result = Err(Refusal::new(what(), error));
                break;
            }
        }
    }
    fcntl_setfl(fd, flags).or_refuse(what)?;
    result
}
