//! Files that protected processes hold open or map: what had not reached the disk is put back, at file level.

use crate::{
    boot::log,
    restore::{
        host::Host,
        inodes,
        world::{Content, World},
        OrRefuse, Refusal, Restored,
    },
};
use rustix::fs::{
    chmodat, chownat, mknodat, open, rename, utimensat, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps,
    Uid, CWD,
};
use shared_region::context::{frame_kind, Id, Inode};
use std::{collections::BTreeSet, ffi::OsStr, fs, os::unix::ffi::OsStrExt, os::unix::fs::MetadataExt, path::Path};

const NANOSECONDS: i64 = 1_000_000_000;

/// What was done.
#[derive(Debug, Default)]
pub struct PutBack {
    /// Inodes that have a new file under their name.
    pub rewritten: BTreeSet<Id>,
    /// What could not be put back. Whoever needs it is refused when it is opened.
    pub remarks: Vec<String>,
}

/// Puts all of them back.
pub fn put_back(world: &World<'_>, host: &dyn Host) -> PutBack {
    let mut done = PutBack::default();
    for (&id, inode) in &world.inodes {
        if inode.record.path.is_empty() {
            continue;
        }
        match put_back_one(inode, host) {
            Ok(true) => drop(done.rewritten.insert(id)),
            Ok(false) => {}
            Err(refusal) => {
                let remark = format!("{}: {refusal}", String::from_utf8_lossy(&inode.record.path));
                log::warning(format_args!("file {remark}"));
                done.remarks.push(remark);
            }
        }
    }
    done
}

/// Returns whether the file under the name is a new one.
fn put_back_one(inode: &Content<'_, Inode>, host: &dyn Host) -> Restored<bool> {
    let record = &inode.record;
    let path = Path::new(OsStr::from_bytes(&record.path));
    let there = fs::symlink_metadata(path).ok();
    let same = there.as_ref().is_some_and(|found| {
        found.ino() == record.number && FileType::from_raw_mode(found.mode()) == FileType::from_raw_mode(record.mode)
    });
    match (FileType::from_raw_mode(record.mode), same) {
        (FileType::RegularFile, true) => {
            if record.dirty {
                refresh(inode, path, host)?;
            }
            Ok(false)
        }
        (FileType::RegularFile, false) => replace(inode, path, host).map(|()| true),
        (FileType::Fifo, false) if there.is_none() => {
            make_parents(path)?;
            mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(record.mode & 0o7777), 0).or_refuse(|| "FIFO")?;
            attributes(record, path)?;
            Ok(true)
        }
        (FileType::Directory, false) if there.is_none() => {
            fs::create_dir_all(path).or_refuse(|| "directory")?;
            attributes(record, path)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The file the journal has kept, with the pages, the size and the attributes it has not.
fn refresh(inode: &Content<'_, Inode>, path: &Path, host: &dyn Host) -> Restored<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = open(path, flags, Mode::empty()).or_refuse(|| "opening")?;
    let dirty = inode.runs().filter(|run| run.kind() == frame_kind::FILE_DIRTY);
    inodes::fill(&fd, dirty, inode.record.size, host)?;
    attributes(&inode.record, path)
}

/// A file whose name did not reach the disk, made from its pages.
fn replace(inode: &Content<'_, Inode>, path: &Path, host: &dyn Host) -> Restored<()> {
    if !inode.record.fully_cached {
        return Err(Refusal::new(
            "its name",
            "is not on the disk, and not all of its content was in memory",
        ));
    }
    make_parents(path)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".orthros-restored");
    let beside = Path::new(&beside);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = open(beside, flags, Mode::RUSR | Mode::WUSR).or_refuse(|| "making it anew")?;
    inodes::fill(&fd, inode.runs(), inode.record.size, host)?;
    attributes(&inode.record, beside)?;
    rename(beside, path).or_refuse(|| "its name")
}

fn make_parents(path: &Path) -> Restored<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).or_refuse(|| "its directory")
}

fn attributes(record: &Inode, path: &Path) -> Restored<()> {
    let owner = (Uid::from_raw(record.uid), Gid::from_raw(record.gid));
    chownat(CWD, path, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW).or_refuse(|| "owner")?;
    chmodat(CWD, path, Mode::from_raw_mode(record.mode & 0o7777), AtFlags::empty()).or_refuse(|| "permissions")?;
    let time = |nanoseconds: i64| Timespec {
        tv_sec: nanoseconds.div_euclid(NANOSECONDS),
        tv_nsec: nanoseconds.rem_euclid(NANOSECONDS),
    };
    let times = Timestamps {
        last_access: time(record.times[0]),
        last_modification: time(record.times[1]),
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).or_refuse(|| "times")
}
