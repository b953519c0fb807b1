//! Subvolumes of btrfs, each mounted once more, whole, as long as files are put back.
//!
//! What we know on entry: every file system that is to be mounted is, some of them more than once, by several subvolumes, and some
//! subvolumes nowhere. What we are responsible for: names and files of a subvolume are found by its own root directory, whatever
//! mount shows it and whatever else is mounted there, so that each is put back once; and nothing of that stays mounted.

use super::{disk, handles::BTRFS};
use crate::{boot::log, restore::world::World, sys};
use rustix::{
    fs::{open, Mode, OFlags},
    mount::{mount, unmount, MountFlags, UnmountFlags},
};
use shared_region::context::{Mount, Subvolume};
use std::{
    collections::BTreeSet,
    ffi::{CString, OsStr},
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// Where they are mounted.
const AT: &str = "/run/orthros-subvolumes";

/// Those that are mounted for this, until it is dropped.
#[derive(Debug, Default)]
pub struct Mounted {
    at: Vec<PathBuf>,
}

impl Mounted {
    /// Mounts those of which records say that the disk is behind. On one that cannot be mounted nothing is put back.
    pub fn of(world: &World<'_>) -> Self {
        let behind = behind(world);
        let mut mounted = Self::default();
        for subvolume in world.subvolumes.iter().filter(|it| behind.contains(&it.device)) {
            match mount_one(subvolume) {
                Ok(at) => mounted.at.push(at),
                Err(why) => log::warning(format_args!("subvolume {}: {why}", subvolume.number)),
            }
        }
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for at in &self.at {
            if let Err(error) = unmount(at, UnmountFlags::DETACH) {
                log::warning(format_args!("unmounting {}: {error}", at.display()));
            }
            let _ = fs::remove_dir(at);
        }
        let _ = fs::remove_dir(AT);
    }
}

/// Device numbers of all of which something is to be put back.
fn behind(world: &World<'_>) -> BTreeSet<u64> {
    let names = world.names.iter().map(|names| names.device);
    let changed = world.changed.iter().map(|changed| changed.device);
    let dirty = world.dirty_files.values().map(|file| file.record.device);
    let held = world.inodes.values().filter(|inode| inode.record.dirty);
    let held = held.map(|inode| inode.record.device);
    names.chain(changed).chain(dirty).chain(held).collect()
}

fn mount_one(subvolume: &Subvolume) -> Result<PathBuf, String> {
    let device = disk::locate(subvolume.uuid, Duration::ZERO)?;
    let at = place(subvolume);
    fs::create_dir_all(&at).map_err(|error| error.to_string())?;
    let options = CString::new(format!("subvolid={}", subvolume.number)).map_err(|error| error.to_string())?;
    mount(
        &device,
        &at,
        OsStr::from_bytes(BTRFS),
        MountFlags::empty(),
        options.as_c_str(),
    )
    .map_err(|error| error.to_string())?;
    Ok(at)
}

fn place(subvolume: &Subvolume) -> PathBuf {
    Path::new(AT).join(subvolume.device.to_string())
}

/// The subvolume whose files have a device number in records, if there is one.
pub fn with_device<'w>(world: &'w World<'_>, device: u64) -> Option<&'w Subvolume> {
    world.subvolumes.iter().find(|it| it.device == device)
}

/// The root directory of a subvolume that is mounted for this, and its path.
pub fn root_of(subvolume: &Subvolume) -> Option<(PathBuf, OwnedFd)> {
    let at = place(subvolume);
    let root = directory(&at).filter(|root| is_on(root, subvolume))?;
    Some((at, root))
}

/// The directory, of those above a path, that is nearest to it and there, if it lies on a subvolume.
pub fn above(subvolume: &Subvolume, path: &Path) -> Option<OwnedFd> {
    let above = path.ancestors().skip(1).find_map(directory)?;
    is_on(&above, subvolume).then_some(above)
}

fn directory(at: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(at, flags, Mode::empty()).ok()
}

fn is_on(file: &OwnedFd, subvolume: &Subvolume) -> bool {
    sys::btrfs_uuid(file.as_fd()).is_ok_and(|uuid| uuid == subvolume.uuid)
        && sys::subvolume_of(file.as_fd()).is_ok_and(|number| number == subvolume.number)
}

/// What a subvolume is called in messages: by a place where the dead kernel had it mounted.
pub fn name(world: &World<'_>, subvolume: &Subvolume) -> PathBuf {
    let of_it = |mount: &&Mount| mount.device == subvolume.file_system;
    let mounts = || world.mounts.iter().filter(of_it);
    let own = mounts().find(|mount| mount.subvolume() == Some(subvolume.number));
    if let Some(mount) = own {
        return OsStr::from_bytes(&mount.mountpoint).into();
    }
    let any = mounts().next().map(|mount| String::from_utf8_lossy(&mount.mountpoint));
    format!("subvolume {} of {}", subvolume.number, any.unwrap_or_default()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subvolume_is_called_by_where_it_was_mounted() {
        let mount = |device, mountpoint: &str, options: &str| Mount {
            device,
            fstype: BTRFS.into(),
            root: b"/@".into(),
            mountpoint: mountpoint.into(),
            options: options.into(),
            ..Mount::default()
        };
        let world = World {
            mounts: vec![
                mount(1, "/other", "subvolid=257"),
                mount(2, "/all", "subvolid=5"),
                mount(2, "/srv", "subvolid=257"),
            ],
            ..World::default()
        };
        let name = |number| {
            let subvolume = Subvolume {
                file_system: 2,
                number,
                ..Subvolume::default()
            };
            name(&world, &subvolume).display().to_string()
        };
        assert_eq!([name(257), name(258)], ["/srv", "subvolume 258 of /all"]);
    }

    #[test]
    fn what_is_no_subvolume_is_on_none() {
        let at = directory(Path::new("/proc")).unwrap();
        assert!(!is_on(&at, &Subvolume::default()));
        assert!(root_of(&Subvolume::default()).is_none());
        assert!(above(&Subvolume::default(), Path::new("/proc/nowhere")).is_none());
    }
}
