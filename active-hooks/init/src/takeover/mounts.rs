//! Mounts that protected processes could see, besides the root.

use crate::{boot::log, mountinfo, restore::world::World};
use rustix::mount::{mount, mount_remount, MountFlags};
use shared_region::context::{Mount, CONTROL_FILE_SYSTEMS, CREDENTIALS};
use std::{
    ffi::{CString, OsStr},
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// File systems that come from the initramfs, or that the real init brings.
const CARRIED: [&[u8]; 4] = [b"proc", b"sysfs", b"devtmpfs", b"rootfs"];
/// Mounts them again, parents first. What cannot be mounted is told; whoever needs it is refused by its path.
pub fn bring_back(world: &World<'_>) {
    let mut mounts: Vec<&Mount> = world.mounts.iter().collect();
    mounts.sort_by_key(|mount| mount.mountpoint.len());
    for record in mounts {
        let at = Path::new(OsStr::from_bytes(&record.mountpoint));
        let flags = kept_flags(record);
        if at == Path::new("/") && !CARRIED.contains(&record.fstype.as_slice()) && !flags.contains(MountFlags::RDONLY) {
            // The boot loader may have asked for a root that is only read until it is checked.
            if let Err(error) = mount_remount(at, flags, c"") {
                log::warning(format_args!("making the root file system writable: {error}"));
            }
        }
        let kind = record.fstype.as_slice();
        // No file is kept in what only controls something, and the kernel may have to load a module for each, with processes
        // waiting. Where credentials are mounted already, the service manager cannot write them.
        let by_others = CARRIED.contains(&kind)
            || CONTROL_FILE_SYSTEMS.contains(&kind)
            || at.starts_with(OsStr::from_bytes(CREDENTIALS));
        if by_others || at == Path::new("/") || is_mounted(at) {
            continue;
        }
        if let Err(error) = bring_back_one(record, at) {
            log::warning(format_args!("mount {}: {error}", at.display()));
        }
    }
}

fn bring_back_one(record: &Mount, at: &Path) -> Result<(), String> {
    if !record.is_whole() && !record.root.is_empty() {
        return Err("only a part of its file system was mounted there".into());
    }
    fs::create_dir_all(at).map_err(|error| error.to_string())?;
    let flags = kept_flags(record);
    let source = OsStr::from_bytes(&record.source);
    let fstype = OsStr::from_bytes(&record.fstype);
    let options = CString::new(record.options.as_slice()).map_err(|error| error.to_string())?;
    let options = (!options.is_empty()).then_some(options.as_c_str());
    // The mode of a fresh tmpfs is that of /tmp already.
    mount(source, at, fstype, flags, options).map_err(|error| error.to_string())
}

fn kept_flags(record: &Mount) -> MountFlags {
    MountFlags::from_bits_truncate(record.flags as u32)
        & (MountFlags::RDONLY
            | MountFlags::NOSUID
            | MountFlags::NODEV
            | MountFlags::NOEXEC
            | MountFlags::NOATIME
            | MountFlags::NODIRATIME
            | MountFlags::RELATIME)
}

/// Those that are missing: what lies below them must not come to the file system beneath.
#[derive(Debug, Default)]
pub struct Missing<'w> {
    all: &'w [Mount],
    missing: Vec<&'w [u8]>,
}

impl<'w> Missing<'w> {
    /// Looks for mounts of whole file systems and subvolumes.
    pub fn of(world: &'w World<'_>) -> Self {
        let is_whole = |mount: &&Mount| mount.is_whole() && mount.mountpoint != b"/";
        let points = world.mounts.iter().filter(is_whole).map(|mount| &*mount.mountpoint);
        Self {
            all: &world.mounts,
            missing: points
                .filter(|at| !is_mounted(Path::new(OsStr::from_bytes(at))))
                .collect(),
        }
    }

    /// Whether the file system that had this path is not there.
    pub fn had(&self, path: &Path) -> bool {
        let points = self.all.iter().map(|mount| &*mount.mountpoint);
        let above = points.filter(|at| path.starts_with(OsStr::from_bytes(at)));
        above
            .max_by_key(|at| at.len())
            .is_some_and(|at| self.missing.contains(&at))
    }
}

/// Whether anything is mounted at a path.
pub fn is_mounted(at: &Path) -> bool {
    let is_there = |text: String| mountinfo::lines(&text).any(|line| Path::new(line.point) == at);
    fs::read_to_string(mountinfo::OWN).is_ok_and(is_there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_mounted_has_nothing() {
        let mount = |mountpoint: &str, root: &str| Mount {
            mountpoint: mountpoint.into(),
            root: root.into(),
            ..Mount::default()
        };
        let world = World {
            mounts: vec![
                mount("/", "/"),
                mount("/proc", "/"),
                mount("/nowhere", "/"),
                mount("/nowhere/part", "/x"),
            ],
            ..World::default()
        };
        let missing = Missing::of(&world);
        let had = |path: &str| missing.had(Path::new(path));
        assert!(had("/nowhere/file") && had("/nowhere"));
        assert!(!had("/file") && !had("/proc/file") && !had("/nowhere-else/file") && !had("/nowhere/part/file"));
    }
}
