//! Files by inode number and generation: what a name is believed to lead to is checked, and a file that is on the disk
//! under another name, or under none that is known, is found.

use super::subvolumes;
use crate::{restore::world::World, sys};
use rustix::fs::{open, Mode, OFlags};
use shared_region::context::{Inode, Mount};
use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Whether inode numbers of this type of file system outlive its mount.
pub fn is_numbered(fstype: &[u8]) -> bool {
    !matches!(fstype, b"tmpfs" | b"devtmpfs" | b"ramfs" | b"rootfs" | b"overlay")
}

/// Whether an open file is the one a record is about.
pub fn is_same(fd: &impl AsFd, record: &Inode) -> bool {
    let Ok(found) = rustix::fs::fstat(fd) else { return false };
    let kind = |mode: u32| mode & libc::S_IFMT;
    if !is_numbered(&record.fstype) || found.st_ino != record.number || kind(found.st_mode) != kind(record.mode) {
        return false;
    }
    match sys::generation(fd.as_fd()) {
        Ok(generation) => generation == record.generation,
        // Not every file system has any, and it cannot be asked of what is open by path only.
        Err(_) => true,
    }
}

/// Opens what is under the recorded name if it is the recorded file.
pub fn by_name(record: &Inode, path: &[u8]) -> Option<OwnedFd> {
    let flags = to_look(record) | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = open(OsStr::from_bytes(path), flags, Mode::empty()).ok()?;
    is_same(&fd, record).then_some(fd)
}

/// Opens the recorded file by its number, if its file system can do that and has it.
pub fn by_number(world: &World<'_>, record: &Inode) -> Option<OwnedFd> {
    // Other file systems have other handles.
    if !matches!(record.fstype.as_slice(), b"ext4" | b"ext3" | b"ext2" | b"xfs" | BTRFS) {
        return None;
    }
    let (device, number, generation) = (record.device, record.number, record.generation);
    // What is to be linked has to be found by the mount where it gets its name.
    let path = Path::new(OsStr::from_bytes(&record.last_path));
    let above = subvolumes::with_device(world, device).and_then(|subvolume| subvolumes::above(subvolume, path));
    let found = above.and_then(|above| on_mount(&above, number, generation, to_look(record)));
    let found = found.filter(|fd| is_same(fd, record));
    found.or_else(|| {
        by_handle(world, device, number, generation, to_look(record), |fd| {
            is_same(fd, record)
        })
    })
}

/// Type of a file system that has the same numbers in each of its subvolumes.
pub const BTRFS: &[u8] = b"btrfs";

/// How a file is opened to be looked at.
fn to_look(record: &Inode) -> OFlags {
    match record.mode & libc::S_IFMT {
        // Opening a FIFO without a reader or writer at the other end waits, or disturbs it.
        libc::S_IFIFO => OFlags::PATH,
        _ => OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME,
    }
}

/// Opens a file by its handle, below whichever of its mounts has one that is the file; one of btrfs on its subvolume.
fn by_handle(
    world: &World<'_>,
    device: u64,
    number: u64,
    generation: u32,
    access: OFlags,
    is_it: impl Fn(&OwnedFd) -> bool,
) -> Option<OwnedFd> {
    if let Some(subvolume) = subvolumes::with_device(world, device) {
        let (_, root) = subvolumes::root_of(subvolume)?;
        return on_mount(&root, number, generation, access).filter(|fd| is_it(fd));
    }
    let is_of_it = |mount: &&Mount| mount.device == device && mount.fstype != BTRFS;
    let mut mounts = world.mounts.iter().filter(is_of_it);
    mounts.find_map(|mount| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = open(OsStr::from_bytes(&mount.mountpoint), flags, Mode::empty()).ok()?;
        // Another file system may be mounted there now.
        on_mount(&at, number, generation, access).filter(|fd| is_it(fd))
    })
}

/// Opens a file of the ext4, XFS or subvolume of btrfs that `mount` lies on by its number and generation.
pub fn on_mount(mount: &impl AsFd, number: u64, generation: u32, access: OFlags) -> Option<OwnedFd> {
    let fd = sys::open_by_handle(mount.as_fd(), number, generation, access.bits() as i32).ok()?;
    // Generation 0, which files have that were made with their file system, would match any.
    let same = sys::handle_of(fd.as_fd(), c"").is_ok_and(|found| found == (number, generation));
    same.then_some(fd)
}

/// Opens a regular file by its number and generation, if it is there.
pub fn regular(world: &World<'_>, device: u64, number: u64, generation: u32, access: OFlags) -> Option<OwnedFd> {
    by_handle(world, device, number, generation, access | OFlags::NONBLOCK, |fd| {
        let found = rustix::fs::fstat(fd);
        let regular = |mode: u32| mode & libc::S_IFMT == libc::S_IFREG;
        found.is_ok_and(|found| found.st_ino == number && regular(found.st_mode))
            && sys::generation(fd.as_fd()).is_ok_and(|found| found == generation)
    })
}

/// Another name of the recorded file in the same directory as `path`: what it was called before it was renamed.
pub fn neighbour(record: &Inode, path: &Path) -> Option<std::path::PathBuf> {
    use std::os::unix::fs::DirEntryExt;
    let entries = std::fs::read_dir(path.parent()?).ok()?;
    let mut names = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.ino() == record.number);
    names.find_map(|entry| (entry.path() != path).then(|| entry.path()))
}

/// Gives an open file a name that nobody has.
pub fn link(fd: &OwnedFd, path: &Path) -> rustix::io::Result<()> {
    rustix::fs::linkat(fd, c"", rustix::fs::CWD, path, rustix::fs::AtFlags::EMPTY_PATH)
}
