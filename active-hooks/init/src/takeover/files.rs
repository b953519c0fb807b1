//! Files that protected processes hold open or map: what had not reached the disk is put back, at file level.
//!
//! In this order, because each step writes to file systems from which the one before still reads: every file is looked
//! for, and what it has lost is read; names are put back that were changed where a journal could not be completed;
//! directories get their names; files without a name are opened or made again; files
//! get names and content; names that were gone are taken away again; directories get their times.

use super::{
    disk::{missing, Blocks, FromDisk, Reader, Since, WRITTEN_TO},
    fail_at, handles,
    mounts::Missing,
    names::{self, Trees},
    plan::Plan,
};
use crate::{
    boot::log,
    restore::{
        host::Host,
        inodes::{self, Piece},
        world::{Content, World},
        OrRefuse, Refusal, Restored,
    },
    sys::magic_path,
};
use rustix::fs::{
    chmodat, chownat, fallocate, linkat, mkdir, mknodat, open, rename, statx, unlink, utimensat, AtFlags,
    FallocateFlags, FileType, Gid, Mode, OFlags, StatxFlags, Uid, CWD,
};
use shared_region::{
    context::{DiskContent, Id, Inode},
    fail_at::FailAt,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

/// What was done.
#[derive(Debug, Default)]
pub struct PutBack {
    /// Inodes that have a new file under their name.
    pub rewritten: BTreeSet<Id>,
    /// Inodes without a name.
    pub held: BTreeMap<Id, Rc<OwnedFd>>,
    /// Inodes that have a name and not the content they had, with the reason: whoever needs one is refused when it is opened.
    pub failed: BTreeMap<Id, Refusal>,
    /// File systems, by their device numbers, on which no name was put back, although some had changed.
    pub names_failed: BTreeSet<u64>,
    /// What could not be put back.
    pub remarks: Vec<String>,
}

/// Where a file was found, and what it lacks.
#[derive(Debug)]
struct Found {
    /// On its disk, under its name or another, or under none.
    file: Option<OwnedFd>,
    /// It has its name.
    named: bool,
    /// What it lacks; if it was not found, [`Plan::pieces`] and all its frames make the whole.
    plan: Result<Plan, String>,
}

/// Puts all of them back. `from_disk` is what was read of files before their file systems were mounted; `since` says
/// what may have become of them since the failure.
pub fn put_back(world: &World<'_>, from_disk: &FromDisk, since: Since, host: &dyn Host) -> PutBack {
    let mut work = Work {
        world,
        host,
        from_disk,
        since,
        found: BTreeMap::new(),
        directories: Vec::new(),
        displaced: Vec::new(),
        missing: Missing::of(world),
        done: PutBack::default(),
    };
    let mut trees = work.find();
    work.each(is_directory, Work::directory);
    work.each(|record| record.path.is_empty() && !is_directory(record), Work::nameless);
    work.each(|record| !record.path.is_empty() && !is_directory(record), Work::named);
    trees.link();
    work.take_names_away();
    work.tell_displaced();
    work.set_directory_times();
    trees.finish();
    work.done.names_failed = std::mem::take(&mut trees.failed);
    work.done.remarks.append(&mut trees.remarks);
    work.done
}

/// Ends the name of a file on its way to its own.
const BESIDE: &str = ".orthros-restored";
/// Ends the name of a file whose name another has got.
const DISPLACED: &str = ".orthros-displaced";

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

struct Work<'w, 'a> {
    world: &'w World<'a>,
    host: &'w dyn Host,
    from_disk: &'w FromDisk,
    since: Since,
    found: BTreeMap<Id, Found>,
    /// Directories that something was changed in or about.
    directories: Vec<(PathBuf, &'w Inode)>,
    /// Other names of files whose name somebody else has got.
    displaced: Vec<PathBuf>,
    missing: Missing<'w>,
    done: PutBack,
}

impl<'w> Work<'w, '_> {
    /// Looks for every file, and then puts names back that were changed on file systems without a whole journal.
    fn find(&mut self) -> Trees<'w> {
        // What is mounted is there, and what is not keeps nobody waiting.
        let mut reader = Reader::within_memory(Duration::ZERO);
        let mut of_files = match self.since {
            Since::Boot => Reader::of_nothing(),
            Since::Nothing | Since::Attempt => Reader::within_memory(Duration::ZERO),
        };
        for (&id, inode) in &self.world.inodes {
            if handles::is_numbered(&inode.record.fstype) {
                let mut blocks = match self.from_disk.get(&id) {
                    Some(read) if self.world.uncached.contains_key(&id) => Blocks::Ahead(read),
                    _ => Blocks::Device(&mut of_files),
                };
                self.found
                    .insert(id, find_one(self.world, id, inode, self.since, &mut blocks));
            }
        }
        let trees = names::place(self.world, &mut reader, self.since);
        if !self.world.names.is_empty() {
            for (id, found) in &mut self.found {
                let inode = self.world.inodes.get(id).filter(|inode| !inode.record.path.is_empty());
                found.named = inode.is_some_and(|inode| handles::by_name(&inode.record, &inode.record.path).is_some());
            }
        }
        trees
    }

    /// Does one step for every inode it is for, those with short paths first: directories before what is in them.
    fn each(
        &mut self,
        which: impl Fn(&Inode) -> bool,
        step: impl Fn(&mut Self, Id, &'w Content<'w, Inode>) -> Restored<()>,
    ) {
        let world = self.world;
        let mut chosen: Vec<_> = world.inodes.iter().filter(|(_, inode)| which(&inode.record)).collect();
        chosen.sort_by_key(|(_, inode)| inode.record.path.len());
        let half = chosen.len() / 2;
        for (index, (&id, inode)) in chosen.into_iter().enumerate() {
            if index == half {
                fail_at::here(FailAt::Files);
            }
            let done = match self.missing.had(path_of(&inode.record)) {
                false => step(self, id, inode),
                true => Err(Refusal::new("its file system", "is not mounted")),
            };
            if let Err(refusal) = done {
                let remark = format!("{}: {refusal}", String::from_utf8_lossy(&inode.record.last_path));
                log::warning(format_args!("file {remark}"));
                self.done.remarks.push(remark);
            }
        }
    }

    fn directory(&mut self, id: Id, inode: &'w Content<'w, Inode>) -> Restored<()> {
        let record = &inode.record;
        let path = path_of(record);
        let found = self.found.remove(&id);
        let mut made = false;
        if !path.is_dir() {
            // It may have been renamed: the descriptor knows its old name.
            let old = found.and_then(|found| fs::read_link(magic_path(&found.file?)).ok());
            match old.filter(|old| old.is_dir()) {
                Some(old) => rename(&old, path).or_refuse(|| "its name")?,
                None => mkdir(path, Mode::from_raw_mode(record.mode & 0o7777)).or_refuse(|| "directory")?,
            }
            made = true;
        }
        if made || record.dirty {
            ownership(record, path)?;
            self.directories.push((path.into(), record));
        }
        Ok(())
    }

    /// A file without a name: the disk may still have it, by a name that was gone or by another.
    fn nameless(&mut self, id: Id, inode: &'w Content<'w, Inode>) -> Restored<()> {
        let fd = match self.found.remove(&id) {
            Some(Found {
                file: Some(file), plan, ..
            }) => {
                if inode.record.dirty {
                    content(&file, inode, plan, self.host)?;
                    attributes(&file, &inode.record)?;
                }
                file
            }
            _ => {
                let pieces = match self.from_disk.get(&id) {
                    Some(Ok(pieces)) => Some(pieces.as_slice()),
                    Some(Err(why)) => return Err(Refusal::new("its content", why)),
                    None => self.read_from_swap(id)?,
                };
                inodes::revive(inode, pieces, self.host)?
            }
        };
        self.done.held.insert(id, Rc::new(fd));
        Ok(())
    }

    fn named(&mut self, id: Id, inode: &'w Content<'w, Inode>) -> Restored<()> {
        let in_place = self.name_and_content(id, inode);
        let is_file = FileType::from_raw_mode(inode.record.mode) == FileType::RegularFile;
        let in_place = in_place.inspect_err(|why| {
            if is_file {
                self.done.failed.insert(id, why.clone());
            }
        })?;
        // What has all it needs may lie where nothing can be written.
        match in_place.filter(|_| is_file && inode.record.dirty) {
            Some(file) => attributes(&file, &inode.record),
            None => Ok(()),
        }
    }

    /// Returns the file, if it was on the disk.
    fn name_and_content(&mut self, id: Id, inode: &'w Content<'w, Inode>) -> Restored<Option<OwnedFd>> {
        let record = &inode.record;
        let path = path_of(record);
        let (file, named, plan) = match self.found.remove(&id) {
            Some(found) => (found.file, found.named, found.plan),
            None => (None, false, Ok(Plan::default())),
        };
        if let Some(parent) = path.parent().filter(|parent| !parent.is_dir()) {
            fs::create_dir_all(parent).or_refuse(|| "its directory")?;
        }
        if let (Some(file), false) = (&file, named) {
            self.give_name(file, record, path)?;
        }
        match (FileType::from_raw_mode(record.mode), file) {
            (FileType::RegularFile, Some(file)) => {
                if record.dirty {
                    content(&file, inode, plan, self.host)?;
                }
                return Ok(Some(file));
            }
            (FileType::RegularFile, None) => {
                let pieces = self
                    .world
                    .disk
                    .get(&id)
                    .map(|_| plan.map(|plan| plan.pieces))
                    .transpose();
                let pieces = pieces.map_err(|why| Refusal::new("its content", why))?;
                let pieces = match &pieces {
                    Some(pieces) => Some(pieces.as_slice()),
                    None => self.read_from_swap(id)?,
                };
                let beside = make(inode, pieces, path, self.host)?;
                self.make_way(record, path)?;
                rename(&beside, path).or_refuse(|| "its name")?;
            }
            (FileType::Fifo, None) if fs::symlink_metadata(path).is_err() => {
                mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(record.mode & 0o7777), 0)
                    .or_refuse(|| "FIFO")?;
                ownership(record, path)?;
                set_times(record, path)?;
            }
            (_, file) => return Ok(file),
        }
        self.done.rewritten.insert(id);
        Ok(None)
    }

    /// What a file in memory had on swap.
    fn read_from_swap(&self, id: Id) -> Restored<Option<&'w [Piece]>> {
        let pieces = self.world.read_from_swap(id)?;
        Ok((!pieces.is_empty()).then_some(pieces))
    }

    /// The file is on the disk, but was renamed or linked later.
    fn give_name(&mut self, file: &OwnedFd, record: &Inode, path: &Path) -> Restored<()> {
        let links = rustix::fs::fstat(file).or_refuse(|| "its name")?.st_nlink;
        let further = links < u64::from(record.nlink);
        if let Some(old) = handles::neighbour(record, path).filter(|_| !further) {
            self.make_way(record, path)?;
            return rename(&old, path).or_refuse(|| "its new name");
        }
        let beside = with_suffix(path, BESIDE);
        let _ = unlink(&beside);
        handles::link(file, &beside).or_refuse(|| "its name")?;
        self.make_way(record, path)?;
        rename(&beside, path).or_refuse(|| "its name")?;
        if further {
            return Ok(());
        }
        let remark = format!("{}: has its old name as well", path.display());
        log::warning(format_args!("file {remark}"));
        self.done.remarks.push(remark);
        Ok(())
    }

    /// Before a file gets a name: whoever has it on the disk keeps another, unless it is known that it was deleted. It may
    /// be a file that was renamed as well, and that nobody here knows of.
    fn make_way(&mut self, of: &Inode, path: &Path) -> Restored<()> {
        let Some(there) = fs::symlink_metadata(path)
            .ok()
            .filter(|_| handles::is_numbered(&of.fstype))
        else {
            return Ok(());
        };
        let kept = with_suffix(path, DISPLACED);
        if self.since == Since::Attempt && self.is_from_earlier(path) {
            if kept.symlink_metadata().is_ok() {
                self.displaced.push(kept);
            }
            return Ok(());
        }
        // A number that was given to a new file is that of a deleted one.
        let deleted = self.world.inodes.values().any(|inode| {
            let record = &inode.record;
            let is_there = record.number == there.ino() && record.device == of.device;
            is_there && (record.nlink == 0 || handles::by_name(record, path.as_os_str().as_bytes()).is_none())
        });
        if there.nlink() > 1 || deleted || there.is_dir() {
            return Ok(());
        }
        let _ = unlink(&kept);
        linkat(CWD, path, CWD, &kept, AtFlags::empty()).or_refuse(|| "the file that has its name")?;
        self.displaced.push(kept);
        Ok(())
    }

    /// Whether what has a name was made since the failure. Nobody else has made files meanwhile.
    fn is_from_earlier(&self, path: &Path) -> bool {
        let wanted = StatxFlags::BTIME;
        let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted).ok();
        let born = found
            .filter(|found| found.stx_mask & wanted.bits() != 0)
            .map(|found| found.stx_btime);
        born.is_some_and(|born| nanoseconds(born.tv_sec, born.tv_nsec) >= self.world.machine.clock.realtime)
    }

    /// What was displaced and has not been given its own name since stays where it is.
    fn tell_displaced(&mut self) {
        for kept in std::mem::take(&mut self.displaced) {
            if kept.symlink_metadata().is_err() {
                continue;
            }
            let remark = format!("{}: had the name of a file that was put back", kept.display());
            log::warning(format_args!("file {remark}"));
            self.done.remarks.push(remark);
        }
    }

    /// Names that the journal has brought back.
    fn take_names_away(&mut self) {
        for (id, gone) in &self.world.names_gone {
            let Some(inode) = self.world.inodes.get(id) else {
                continue;
            };
            let path = Path::new(OsStr::from_bytes(&gone.path));
            if handles::by_name(&inode.record, &gone.path).is_none() {
                continue;
            }
            if let Err(error) = unlink(path) {
                let remark = format!("{}: was deleted and is back: {error}", path.display());
                log::warning(format_args!("file {remark}"));
                self.done.remarks.push(remark);
            }
        }
    }

    fn set_directory_times(&mut self) {
        for (path, record) in self.directories.iter().rev() {
            if let Err(refusal) = set_times(record, path) {
                log::warning(format_args!("directory {}: {refusal}", path.display()));
            }
        }
    }
}

fn find_one(world: &World<'_>, id: Id, inode: &Content<'_, Inode>, since: Since, blocks: &mut Blocks<'_>) -> Found {
    let record = &inode.record;
    let again = since == Since::Attempt;
    // Whoever has made a file after an ordinary boot may have been given the number.
    let is_it = |file: &OwnedFd| since != Since::Boot || !handles::is_made_since(file, world.machine.clock.realtime);
    let by_name = (!record.path.is_empty())
        .then(|| handles::by_name(record, &record.path))
        .flatten()
        .filter(is_it);
    let named = by_name.is_some();
    let file = by_name.or_else(|| handles::by_number(world, record).filter(is_it));
    let disk = world.disk.get(&id);
    let plan = match (&file, disk) {
        (Some(_), Some(disk)) if again => Plan::again(inode, disk),
        (None, Some(disk)) if again => match missing(inode, disk).is_empty() {
            true => Ok(Plan::default()),
            false => Err(WRITTEN_TO.into()),
        },
        (Some(file), Some(disk)) => Plan::compare(inode, disk, file, blocks),
        (Some(_), None) => Ok(Plan::dirty(inode)),
        // A deleted file was read before.
        (None, Some(disk)) if !record.path.is_empty() => all_of(inode, disk, blocks),
        (None, _) => Ok(Plan::default()),
    };
    Found { file, named, plan }
}

fn all_of(inode: &Content<'_, Inode>, disk: &DiskContent, blocks: &mut Blocks<'_>) -> Result<Plan, String> {
    Ok(Plan {
        pieces: blocks.read(disk.uuid, &missing(inode, disk))?,
        ..Plan::default()
    })
}

/// A time of a file, as the records have it.
fn nanoseconds(seconds: i64, nanoseconds: u32) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(nanoseconds))
}

fn is_directory(record: &Inode) -> bool {
    FileType::from_raw_mode(record.mode) == FileType::Directory
}

fn path_of(record: &Inode) -> &Path {
    Path::new(OsStr::from_bytes(&record.path))
}

/// The file the journal has kept, with the pages and the size it has not.
fn content(file: &OwnedFd, inode: &Content<'_, Inode>, plan: Result<Plan, String>, host: &dyn Host) -> Restored<()> {
    let plan = plan.map_err(|why| Refusal::new("its content", why))?;
    let size = rustix::fs::fstat(file).or_refuse(|| "its size")?.st_size as u64;
    // What has all it needs may lie where nothing can be written.
    if plan == Plan::default() && size == inode.record.size {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = open(magic_path(file), flags, Mode::empty()).or_refuse(|| "opening")?;
    inodes::fill(&fd, plan.frames.into_iter(), inode.record.size, host)?;
    for (start, end) in plan.holes {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&fd, flags, start, end - start).or_refuse(|| "a hole")?;
    }
    inodes::put(&fd, &plan.pieces)
}

/// The attributes it has not.
fn attributes(file: &OwnedFd, record: &Inode) -> Restored<()> {
    let path = magic_path(file);
    ownership(record, Path::new(&path))?;
    set_times(record, Path::new(&path))
}

/// A file that did not reach the disk, made beside its name from its pages and from what blocks of it were read.
fn make(inode: &Content<'_, Inode>, pieces: Option<&[Piece]>, path: &Path, host: &dyn Host) -> Restored<PathBuf> {
    if !inode.record.fully_cached && pieces.is_none() {
        return Err(Refusal::new(
            "its name",
            "is not on the disk, and not all of its content was in memory",
        ));
    }
    let beside = with_suffix(path, BESIDE);
    // What an earlier successor has left there may be another name of a file that is wanted.
    let _ = unlink(&beside);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = open(&beside, flags, Mode::RUSR | Mode::WUSR).or_refuse(|| "making it anew")?;
    let made = inodes::fill(&fd, inode.runs(), inode.record.size, host)
        .and_then(|_| inodes::put(&fd, pieces.unwrap_or_default()))
        .and_then(|()| ownership(&inode.record, &beside))
        .and_then(|()| set_times(&inode.record, &beside));
    // Half a file has no use, and on a full disk it takes the room that others need.
    if let Err(why) = made {
        let _ = unlink(&beside);
        return Err(why);
    }
    Ok(beside)
}

/// Owner and permissions. What is right is left alone: a change of the owner takes file capabilities away.
fn ownership(record: &Inode, path: &Path) -> Restored<()> {
    let found = fs::metadata(path).or_refuse(|| "owner")?;
    if (found.uid(), found.gid()) != (record.uid, record.gid) {
        let owner = (Uid::from_raw(record.uid), Gid::from_raw(record.gid));
        chownat(CWD, path, Some(owner.0), Some(owner.1), AtFlags::empty()).or_refuse(|| "owner")?;
    }
    chmodat(CWD, path, Mode::from_raw_mode(record.mode & 0o7777), AtFlags::empty()).or_refuse(|| "permissions")
}

fn set_times(record: &Inode, path: &Path) -> Restored<()> {
    utimensat(
        CWD,
        path,
        &inodes::times([record.times[0], record.times[1]]),
        AtFlags::empty(),
    )
    .or_refuse(|| "times")
}

#[cfg(test)]
mod tests;
