//! File systems that nobody has mounted since the failure: their journals are completed, as a successor would have done, and they
//! are mounted where nobody else sees them until files are put back. So are subvolumes of a btrfs that somebody has mounted for
//! writing, each whole, wherever he sees which.
//!
//! What we know on entry: a kernel took over that could not mount them, and nothing more. What we are responsible for: one that was
//! mounted, checked or changed since is left alone, which its superblock tells, and one that somebody uses.

use super::{is_writable_btrfs, Mount};
use crate::{
    boot::ext4,
    mountinfo,
    restore::{host::Host, world::World},
    sys,
    takeover::{disk, journal, subvolumes},
};
use rustix::{
    fs::OFlags,
    mount::{mount, mount_change, unmount, MountFlags, MountPropagationFlags, UnmountFlags},
};
use shared_region::context::Journal;
use std::{
    collections::BTreeSet,
    ffi::{CString, OsStr},
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// What was done with them.
#[derive(Debug, Default)]
pub struct Private {
    /// Device numbers, in the dead kernel, of those whose disks now have all but data of files.
    pub committed: BTreeSet<u64>,
    /// Of those that could be completed and mounted, if this is only to be told.
    pub would_be: BTreeSet<u64>,
    /// What was done.
    pub remarks: Vec<String>,
    /// What was not, and why.
    pub refused: Vec<String>,
    /// Where, and where they were.
    mounted: Vec<(PathBuf, PathBuf)>,
    /// Subvolumes that are mounted until this ends.
    subvolumes: subvolumes::Mounted,
    /// Where those are, and where they were.
    subvolumes_at: Vec<(PathBuf, PathBuf)>,
    is_hidden: bool,
}

impl Private {
    /// Completes and mounts them. With `only_look` nothing is changed.
    ///
    /// # Errors
    /// The clock of this system is behind that of the dead kernel, so that nothing can be told of any file system; or what is mounted
    /// cannot be hidden.
    pub fn make(world: &World<'_>, host: &dyn Host, only_look: bool) -> Result<Self, String> {
        super::check_clock(world)?;
        let mut done = Self::default();
        done.mount_subvolumes(world)?;
        if world.saved_by.is_none() {
            return Ok(done);
        }
        let journals = world.journals.iter().map(|it| (it.device, it.uuid, &it.name));
        let idle = world.idle_journals.iter().map(|it| (it.device, it.uuid, &it.name));
        for (device, uuid, name) in journals.chain(idle) {
            let disk = match usable(uuid, world.machine.clock.realtime) {
                Ok(disk) => disk,
                Err(why) => {
                    // Of one whose journal is idle, or that a successor has mounted, files are all there is.
                    let has_more = |it: &Journal| !it.blocks.is_empty() || !it.revoked.is_empty();
                    if world.journals.iter().any(|it| it.device == device && has_more(it)) {
                        let uuid = ext4::uuid_text(&uuid);
                        done.refused
                            .push(format!("what the journal of {uuid} ({name}) has not: {why}"));
                    }
                    continue;
                }
            };
            if only_look {
                done.would_be.insert(device);
                continue;
            }
            let name = format!("file system on {}", disk.display());
            match done.complete(world, device, &disk, host) {
                Ok(said) => done.remarks.push(format!("{name}: {said}")),
                Err(why) => done.refused.push(format!("{name}: {why}")),
            }
        }
        Ok(done)
    }

    fn complete(&mut self, world: &World<'_>, device: u64, disk: &Path, host: &dyn Host) -> Result<String, String> {
        let record = world.journals.iter().find(|it| it.device == device);
        // An error that nobody has heard of is told to whoever asks next (`errseq_sample`): what somebody could not write before, as
        // a mount that failed, is not to be taken for ours.
        let _ = File::open(disk).and_then(|disk| disk.sync_all());
        let log = record.map(|record| journal::commit_one(world, record, host));
        let (is_whole, said) = match log {
            None => (true, "its log has all of its transactions".into()),
            Some(Ok((is_whole, said))) => (is_whole, said),
            // What is known of it comes back file by file.
            Some(Err(why)) if record.is_some_and(|record| !record.refused.is_empty()) => (false, why),
            Some(Err(why)) => return Err(why),
        };
        self.hide()?;
        let was = world.mounts.iter().find(|it| it.device == device && it.root == b"/");
        let at = PathBuf::from(format!(
            "/run/orthros-rescue-{}-{}",
            std::process::id(),
            self.mounted.len()
        ));
        fs::create_dir(&at).map_err(|error| format!("{}: {error}", at.display()))?;
        if let Err(why) = mount_at(disk, &at, was) {
            let _ = fs::remove_dir(&at);
            return Err(format!("{said}; it cannot be mounted: {why}"));
        }
        let before = was.map_or(&b"/"[..], |was| &was.mountpoint);
        self.mounted.push((at, OsStr::from_bytes(before).into()));
        if is_whole {
            self.committed.insert(device);
        }
        Ok(said)
    }

    /// The path that a file had in the dead kernel.
    pub fn as_it_was(&self, path: &str) -> String {
        let inside = |(at, before): &(PathBuf, PathBuf)| {
            let inside = Path::new(path).strip_prefix(at).ok()?;
            Some(before.join(inside).display().to_string())
        };
        let mut all = self.mounted.iter().chain(&self.subvolumes_at);
        all.find_map(inside).unwrap_or_else(|| path.to_owned())
    }

    /// Mounts subvolumes. That changes nothing on the disk: their file systems are mounted already.
    fn mount_subvolumes(&mut self, world: &World<'_>) -> Result<(), String> {
        let mounts = fs::read_to_string(mountinfo::OWN).map_err(|error| error.to_string())?;
        let may_be = |uuid| is_writable_btrfs(uuid, &mounts);
        if !world.subvolumes.iter().any(|it| may_be(it.uuid)) {
            return Ok(());
        }
        self.hide()?;
        self.subvolumes = subvolumes::Mounted::of(world, |it| may_be(it.uuid));
        let at = |it| Some((subvolumes::root_of(it)?.0, subvolumes::was_at(world, it)));
        self.subvolumes_at = world.subvolumes.iter().filter_map(at).collect();
        Ok(())
    }

    /// From here on nobody else sees what this process mounts.
    fn hide(&mut self) -> Result<(), String> {
        if self.is_hidden {
            return Ok(());
        }
        sys::unshare(libc::CLONE_NEWNS).map_err(|error| error.to_string())?;
        let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", flags).map_err(|error| error.to_string())?;
        self.is_hidden = true;
        Ok(())
    }

    /// Unmounts them. Returns what could not be.
    pub fn end(&mut self) -> Vec<String> {
        self.subvolumes = subvolumes::Mounted::default();
        let end = |(at, _): (PathBuf, PathBuf)| {
            let done = unmount(&at, UnmountFlags::empty()).map_err(|error| format!("{}: {error}", at.display()));
            // Nothing but an empty directory stays.
            let _ = fs::remove_dir(&at);
            done.err()
        };
        self.mounted.drain(..).filter_map(end).collect()
    }
}

/// The device of a file system that nobody uses, and nobody has used since the failure, in nanoseconds since 1970.
fn usable(uuid: [u8; 16], failure: i64) -> Result<PathBuf, String> {
    let disk = disk::locate(uuid, Duration::ZERO)?;
    let name = |error: std::io::Error| format!("{}: {error}", disk.display());
    let exclusive = OFlags::EXCL.bits() as i32;
    let opened = File::options()
        .read(true)
        .write(true)
        .custom_flags(exclusive)
        .open(&disk);
    drop(opened.map_err(|_| format!("{} is mounted, or otherwise in use", disk.display()))?);
    // Its times are in whole seconds.
    if ext4::last_used(&disk).map_err(name)? >= failure / 1_000_000_000 {
        return Err(format!("{} was mounted or checked after the failure", disk.display()));
    }
    Ok(disk)
}

fn mount_at(disk: &Path, at: &Path, was: Option<&Mount>) -> Result<(), String> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    let options = was.map_or(&[][..], |was| &was.options);
    let options = CString::new(options).map_err(|error| error.to_string())?;
    let options = (!options.is_empty()).then_some(options.as_c_str());
    mount(disk, at, "ext4", flags, options).map_err(|error| error.to_string())
}
