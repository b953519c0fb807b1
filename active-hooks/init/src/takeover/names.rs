//! Names, links and attributes on file systems whose journals could not be completed.
//!
//! What we know on entry: such a file system is mounted as its disk has it, which is as it was at its last commit, and
//! records say what all directories that were changed since have to have in them. What we are responsible for: every file
//! is known by number and generation, wherever it is; what is not where it belongs is put aside first, and deleted last,
//! when everything else has its names, so that nothing is lost that a record leads to; and if anything that changed is not
//! known, nothing is deleted at all.
//!
//! In this order: [`place`] moves what there is and makes directories, links and special files; regular files that are not
//! on the disk are made where they belong by whoever has their content; [`Trees::link`] gives those their further names and
//! deletes what has none; [`Trees::finish`] sets owners, permissions, attributes and times.

mod attributes;

use super::{
    disk::{self, Reader, Since},
    handles, subvolumes,
};
use crate::{
    boot::log,
    restore::world::World,
    sys::{self, magic_path},
};
use rustix::{
    fs::{
        fstat, linkat, mkdirat, mknodat, open, openat, renameat, statat, statx, symlinkat, AtFlags, FileType, Mode,
        OFlags, StatxFlags, CWD,
    },
    io::Errno,
    time::{clock_gettime, ClockId},
};
use shared_region::{
    context::{ChangedInodes, FreeNumbers, Names, Node},
    ext4_dir,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CString, OsStr},
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// Where what is not where it belongs is put aside, in the root of its file system, and what it is called if it stays.
const ASIDE: &str = ".orthros-aside";
const KEPT: &str = ".orthros-displaced";
/// Number of the root directory of an ext4.
const ROOT: u64 = 2;

/// Number and generation.
type Key = (u64, u32);
/// Names of a directory, and to what each leads; the generation may be unknown.
type Wanted = BTreeMap<Vec<u8>, (u64, Option<u32>)>;

/// File systems at work.
#[derive(Debug, Default)]
pub struct Trees<'w> {
    trees: Vec<Tree<'w>>,
    /// Device numbers of file systems on which nothing could be done.
    pub failed: BTreeSet<u64>,
    /// What could not be done.
    pub remarks: Vec<String>,
}

#[derive(Debug)]
struct Tree<'w> {
    /// Device number it has now.
    number: u64,
    /// Inode number of its root directory.
    top: u64,
    /// Where it is mounted.
    at: PathBuf,
    /// What it is called in messages: where it was mounted.
    name: PathBuf,
    root: OwnedFd,
    aside: OwnedFd,
    /// Directories in which names have changed.
    directories: BTreeMap<Key, OwnedFd>,
    /// Regular files that are not on the disk, and their names.
    anew: BTreeMap<Key, Vec<(Key, Vec<u8>)>>,
    /// Other files that were made here, by one of their names.
    made: BTreeMap<Key, (Key, Vec<u8>)>,
    nodes: BTreeMap<Key, &'w Node>,
    /// Where names that nothing else is known of are the disk's: the inodes of which that is not so.
    changed: Option<&'w ChangedInodes>,
    /// Numbers that no inode has, if that is known.
    free: Option<&'w FreeNumbers>,
    /// When the kernel failed, in nanoseconds since 1970.
    failed: i64,
    /// Everything that changed is known.
    is_complete: bool,
    /// Names that were given, moved or taken away.
    count: u64,
    /// Of what was put aside last.
    next: u64,
    /// What may have become of the disk since the failure.
    since: Since,
    /// When the work on names has begun, as the clock of file systems was, in nanoseconds since 1970.
    begun: i64,
    /// Names of what was put aside although somebody had changed it since the failure.
    late: BTreeSet<Vec<u8>>,
    remarks: Vec<String>,
}

/// Moves, removes and makes names. What an earlier successor has made anew stays, and nothing is deleted that somebody has changed
/// after an ordinary boot.
pub fn place<'w>(world: &'w World<'_>, reader: &mut Reader, since: Since) -> Trees<'w> {
    let devices: BTreeSet<u64> = world.names.iter().map(|names| names.device).collect();
    let mut all = Trees::default();
    for device in devices {
        let names: Vec<&Names> = world.names.iter().filter(|names| names.device == device).collect();
        match Tree::open(world, device, &names, since) {
            Ok(mut tree) => {
                tree.place(world, &names, reader);
                all.trees.push(tree);
            }
            Err(why) => {
                all.failed.insert(device);
                all.remarks.push(format!(
                    "names that were changed last on device {}:{} are not put back: {why}",
                    device >> 20,
                    device & 0xF_FFFF
                ));
            }
        }
    }
    all
}

impl Trees<'_> {
    /// Gives files that were made anew their further names, and deletes what has none.
    pub fn link(&mut self) {
        for tree in &mut self.trees {
            tree.link();
            tree.clear();
        }
    }

    /// Sets what is not content, and tells what was done.
    pub fn finish(&mut self) {
        for tree in &mut self.trees {
            tree.attributes();
            tree.tell_further_names();
            log::info(format_args!(
                "{}: {} names are put back in {} directories",
                tree.name.display(),
                tree.count,
                tree.directories.len()
            ));
            self.remarks.append(&mut tree.remarks);
        }
        for remark in &self.remarks {
            log::warning(format_args!("{remark}"));
        }
    }
}

impl<'w> Tree<'w> {
    fn open(world: &'w World<'_>, device: u64, names: &[&Names], since: Since) -> Result<Self, String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let changed = world.changed.iter().find(|changed| changed.device == device);
        let (at, name, root) = match subvolumes::with_device(world, device) {
            Some(subvolume) => {
                let (at, root) = subvolumes::root_of(subvolume)
                    .ok_or_else(|| format!("subvolume {} is not there", subvolume.number))?;
                (at, subvolumes::name(world, subvolume), root)
            }
            None => {
                let uuid = names.first().map(|names| names.uuid).unwrap_or_default();
                let (at, root) = whole(world, device, uuid, changed.is_some())?;
                (at.clone(), at, root)
            }
        };
        let top = fstat(&root).map_err(|error| error.to_string())?;
        let (number, top) = (top.st_dev, top.st_ino);
        match mkdirat(&root, ASIDE, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.to_string()),
        }
        let aside = openat(&root, ASIDE, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(|error| error.to_string())?;
        let nodes = world.nodes.iter().filter(|node| node.device == device);
        Ok(Self {
            number,
            top,
            at,
            name,
            root,
            aside,
            directories: BTreeMap::new(),
            anew: BTreeMap::new(),
            made: BTreeMap::new(),
            nodes: nodes.map(|node| ((node.number, node.generation), node)).collect(),
            changed,
            free: world.free.iter().find(|free| free.device == device),
            failed: world.machine.clock.realtime,
            is_complete: true,
            count: 0,
            next: 0,
            since,
            begun: now(),
            late: BTreeSet::new(),
            remarks: Vec::new(),
        })
    }

    fn place(&mut self, world: &World<'_>, all: &[&Names], reader: &mut Reader) {
        let mut wanted: BTreeMap<Key, (Wanted, &Names, bool)> = BTreeMap::new();
        let lists: Vec<_> = all
            .iter()
            .map(|names| (*names, listed_or_read(names, reader)))
            .collect();
        let named: BTreeSet<u64> = lists.iter().flat_map(|(names, whole)| leads_to(names, whole)).collect();
        for (names, whole) in lists {
            let key = (names.number, names.generation);
            if self.is_unborn(names, &named) {
                continue;
            }
            let is_complete = names.is_complete && whole.is_ok();
            let others_are_known = self.changed.is_some_and(|changed| changed.is_complete) && whole.is_ok();
            self.is_complete &= is_complete || others_are_known;
            let list = whole.unwrap_or_else(|why| {
                self.remarks.push(format!("{}: {why}", self.name_of(names)));
                listed(names)
            });
            match self.directory(key) {
                Ok(fd) => drop(self.directories.insert(key, fd)),
                Err(error) => {
                    self.is_complete = false;
                    self.remarks.push(format!("{}: {error}", self.name_of(names)));
                    continue;
                }
            }
            wanted.insert(key, (list, names, is_complete));
        }
        let since = (self.since == Since::Attempt).then_some(world.machine.clock.realtime);
        for (&key, (list, names, is_complete)) in &wanted {
            self.put_aside(key, list, names, *is_complete, since);
        }
        for (&key, (list, names, _)) in &wanted {
            for (name, &of) in list {
                if let Err(why) = self.give(key, name, of, since) {
                    let name = String::from_utf8_lossy(name);
                    self.remarks.push(format!("{}/{name}: {why}", self.name_of(names)));
                }
            }
        }
    }

    /// Whether a directory was being made when the kernel died: the disk does not have it, and no name leads to it. Nobody can
    /// have moved anything into it. (Where only those names are known that changed, one that is not known may.)
    fn is_unborn(&self, names: &Names, named: &BTreeSet<u64>) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.changed.is_none()
            && names.number != self.top
            && names.path.is_empty()
            && !named.contains(&names.number)
            && self.by_handle((names.number, names.generation), flags).is_none()
    }

    fn name_of(&self, names: &Names) -> String {
        match names.path.is_empty() {
            true => format!("{}, directory {}", self.name.display(), names.number),
            false => String::from_utf8_lossy(&names.path).into_owned(),
        }
    }

    /// A directory, which is made aside if the disk does not have it.
    fn directory(&mut self, key: Key) -> Result<OwnedFd, String> {
        if key.0 == self.top {
            return self.root.try_clone().map_err(|error| error.to_string());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Some(found) = self.by_handle(key, flags) {
            return Ok(found);
        }
        let name = self.free()?;
        mkdirat(&self.aside, name.as_c_str(), Mode::RWXU).map_err(|error| error.to_string())?;
        self.count += 1;
        openat(&self.aside, name.as_c_str(), flags, Mode::empty()).map_err(|error| error.to_string())
    }

    fn by_handle(&self, (number, generation): Key, flags: OFlags) -> Option<OwnedFd> {
        let fd = handles::on_mount(&self.root, number, generation, flags)?;
        (fstat(&fd).ok()?.st_nlink != 0 && !self.is_of_another(&fd)).then_some(fd)
    }

    /// Whether something was made here since the failure.
    fn is_of_another(&self, fd: &OwnedFd) -> bool {
        self.changed.is_some() && handles::is_made_since(fd, self.failed)
    }

    /// Whether what has a name was changed by somebody between the failure and an ordinary boot's rescue.
    fn is_late(&self, directory: &OwnedFd, name: &[u8]) -> bool {
        let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
        self.since == Since::Boot && found.is_ok_and(|found| self.is_between(&found))
    }

    /// Whether a status-change time lies between the failure and when this has begun: what it does itself comes later.
    fn is_between(&self, found: &rustix::fs::Stat) -> bool {
        let seconds = found.st_ctime.saturating_mul(1_000_000_000);
        let changed = seconds.saturating_add_unsigned(found.st_ctime_nsec);
        changed > self.failed && changed < self.begun
    }

    /// Whether there is anything in what was put aside that somebody has changed since the failure.
    fn has_late(&self) -> bool {
        let mut below = vec![(magic_path(&self.aside).into(), true)];
        while let Some((directory, is_top)) = below.pop() {
            let directory: PathBuf = directory;
            // What cannot be looked at may be.
            let Ok(all) = fs::read_dir(&directory) else { return true };
            for entry in all {
                let Ok(entry) = entry else { return true };
                let Ok(found) = rustix::fs::lstat(entry.path()) else {
                    return true;
                };
                let is_late = match is_top {
                    true => self.late.contains(entry.file_name().as_bytes()),
                    false => self.is_between(&found),
                };
                if is_late {
                    return true;
                }
                if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                    below.push((entry.path(), false));
                }
            }
        }
        false
    }

    /// A name that nothing put aside has.
    fn free(&mut self) -> Result<CString, String> {
        loop {
            self.next += 1;
            let name = CString::new(self.next.to_string()).map_err(|error| error.to_string())?;
            if sys::handle_of(self.aside.as_fd(), &name).is_err() {
                return Ok(name);
            }
        }
    }

    /// Moves away what is not where it belongs.
    fn put_aside(&mut self, key: Key, wanted: &Wanted, names: &Names, is_complete: bool, since: Option<i64>) {
        let there = self.directories.get(&key).map(entries);
        let there = match there {
            Some(Ok(there)) => there,
            Some(Err(error)) => {
                self.is_complete = false;
                return self.remarks.push(format!("{}: {error}", self.name_of(names)));
            }
            None => return,
        };
        let gone: BTreeSet<&[u8]> = names.gone.iter().map(Vec::as_slice).collect();
        for name in there {
            let ours = key.0 == self.top && [ASIDE, KEPT].iter().any(|own| name.starts_with(own.as_bytes()));
            let of = wanted.get(&name).copied();
            let stays = of.is_none() && !is_complete && !gone.contains(&*name) && !self.is_stale(key, &name);
            if ours || stays || self.is_in_place(key, &name, of, since) {
                continue;
            }
            let done = self.free().and_then(|free| {
                let directory = self.directories.get(&key).ok_or("it is not there")?;
                let is_late = self.is_late(directory, &name);
                let done = renameat(directory, &*name, &self.aside, free.as_c_str());
                done.map_err(|error| error.to_string())?;
                Ok(is_late.then(|| free.into_bytes()))
            });
            match done {
                Ok(late) => {
                    self.count += 1;
                    self.late.extend(late);
                }
                Err(why) => {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    self.remarks
                        .push(format!("{}/{name}: is back: {why}", self.name_of(names)));
                }
            }
        }
    }

    /// Whether a name that nothing is known of leads to an inode that has lost it.
    fn is_stale(&self, key: Key, name: &[u8]) -> bool {
        let Some((changed, directory)) = self.changed.zip(self.directories.get(&key)) else {
            return false;
        };
        // Its number may have been given out again.
        if self.is_late(directory, name) {
            return false;
        }
        let found = CString::new(name)
            .ok()
            .and_then(|name| sys::handle_of(directory.as_fd(), &name).ok());
        found.is_some_and(|(number, generation)| match changed.of(number) {
            Some(it) => it.is_stale(generation),
            None => self.free.is_some_and(|free| free.has(number)),
        })
    }

    /// Whether a name leads to what it has to.
    fn is_in_place(&self, key: Key, name: &[u8], of: Option<(u64, Option<u32>)>, since: Option<i64>) -> bool {
        let Some(directory) = self.directories.get(&key) else {
            return false;
        };
        let Ok(text) = CString::new(name) else { return false };
        // What another file system is mounted on cannot be looked at, and not be moved either.
        let covered = |there: rustix::fs::Stat| there.st_dev != self.number;
        if statat(directory, text.as_c_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok_and(covered) {
            return true;
        }
        let Some((number, generation)) = of else { return false };
        match sys::handle_of(directory.as_fd(), &text) {
            Ok((there, born)) => {
                let is_it = there == number && generation.is_none_or(|generation| generation == born);
                is_it || since.is_some_and(|since| is_file_since(directory, name, since))
            }
            Err(_) => false,
        }
    }

    /// Gives a name to what it has to lead to.
    fn give(&mut self, key: Key, name: &[u8], of: (u64, Option<u32>), since: Option<i64>) -> Result<(), String> {
        if self.is_in_place(key, name, Some(of), since) {
            return Ok(());
        }
        let text = |error: Errno| error.to_string();
        let (number, Some(generation)) = of else {
            return Err("what it led to is not known".into());
        };
        let what = (number, generation);
        let Some(directory) = self.directories.get(&key) else {
            return Err("its directory is not there".into());
        };
        if let Some(moved) = self.directories.get(&what) {
            let old = fs::read_link(magic_path(moved)).map_err(|error| error.to_string())?;
            renameat(CWD, &old, directory, name).map_err(text)?;
        } else if let Some(found) = self.by_handle(what, OFlags::PATH | OFlags::NOFOLLOW) {
            let kind = fstat(&found).map_err(text)?.st_mode;
            if FileType::from_raw_mode(kind) == FileType::Directory {
                let old = fs::read_link(magic_path(&found)).map_err(|error| error.to_string())?;
                renameat(CWD, &old, directory, name).map_err(text)?;
            } else {
                linkat(&found, c"", directory, name, AtFlags::EMPTY_PATH).map_err(text)?;
            }
        } else if let Some((of, old)) = self.made.get(&what) {
            let from = self.directories.get(of).ok_or("its other name is not there")?;
            linkat(from, old.as_slice(), directory, name, AtFlags::empty()).map_err(text)?;
        } else {
            let Some(node) = self.nodes.get(&what) else {
                return Err("it is not on the disk, and not in memory".into());
            };
            match FileType::from_raw_mode(node.mode) {
                FileType::RegularFile => {
                    self.anew.entry(what).or_default().push((key, name.to_vec()));
                    return Ok(());
                }
                FileType::Symlink if !node.target.is_empty() => {
                    symlinkat(node.target.as_slice(), directory, name).map_err(text)?;
                }
                kind @ (FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice) => {
                    mknodat(directory, name, kind, Mode::RUSR | Mode::WUSR, node.rdev).map_err(text)?;
                }
                _ => return Err("it is not on the disk, and what it was is not known".into()),
            }
            self.made.insert(what, (key, name.to_vec()));
        }
        self.count += 1;
        Ok(())
    }

    /// See [`Trees::link`].
    fn link(&mut self) {
        for (what, places) in std::mem::take(&mut self.anew) {
            let mut missing = Vec::new();
            let mut found = None;
            for (key, name) in &places {
                let directory = self.directories.get(key);
                let is_there = directory.is_some_and(|directory| {
                    CString::new(name.as_slice()).is_ok_and(|name| sys::handle_of(directory.as_fd(), &name).is_ok())
                });
                match (is_there, found) {
                    (true, None) => found = Some((key, name)),
                    (true, Some(_)) => {}
                    (false, _) => missing.push((key, name)),
                }
            }
            for (key, name) in missing {
                let done = match (found, self.directories.get(key)) {
                    (Some((of, old)), Some(directory)) => match self.directories.get(of) {
                        Some(from) => linkat(from, old.as_slice(), directory, name.as_slice(), AtFlags::empty())
                            .map_err(|error| error.to_string()),
                        None => Err("its other name is not there".into()),
                    },
                    _ => Err("it is not on the disk, and could not be made".into()),
                };
                match done {
                    Ok(()) => self.count += 1,
                    Err(why) => {
                        let name = String::from_utf8_lossy(name).into_owned();
                        self.remarks.push(format!("{}, {name}: {why}", self.name.display()));
                    }
                }
            }
            if let Some((key, name)) = found {
                self.made.insert(what, (*key, name.clone()));
            }
        }
    }

    /// Deletes what was put aside and has no name, or keeps it all.
    fn clear(&mut self) {
        let aside = self.at.join(ASIDE);
        if self.is_complete && self.remarks.is_empty() && !(self.since == Since::Boot && self.has_late()) {
            if let Err(error) = fs::remove_dir_all(&aside) {
                self.remarks.push(format!("{}: {error}", aside.display()));
            }
            return;
        }
        // An empty directory has nothing to be kept for.
        if fs::remove_dir(&aside).is_ok() {
            return;
        }
        let mut free = (0..).map(|number| format!("{KEPT}-{number}"));
        let kept = free.find(|kept| self.at.join(kept).symlink_metadata().is_err());
        let kept = kept.unwrap_or_default();
        let done = fs::rename(&aside, self.at.join(&kept));
        self.remarks.push(match done {
            Ok(()) => format!("{}: has what was removed or moved last", self.name.join(kept).display()),
            Err(error) => format!("{}: {error}", aside.display()),
        });
    }

    /// See [`Trees::finish`].
    fn attributes(&mut self) {
        let (directories, others): (Vec<_>, Vec<_>) = self
            .nodes
            .iter()
            .map(|(&key, &node)| (key, node))
            .partition(|(_, node)| FileType::from_raw_mode(node.mode) == FileType::Directory);
        for (key, node) in others.into_iter().chain(directories) {
            if let Err(why) = self.attributes_of(key, node) {
                self.remarks
                    .push(format!("{}, inode {}: {why}", self.name.display(), node.number));
            }
        }
    }

    /// Tells of files that have more names than they had: not all were known, and which of them was taken away is not.
    fn tell_further_names(&mut self) {
        let changed = self.changed.into_iter().flat_map(|changed| &changed.inodes);
        for it in changed.filter(|it| it.nlink != 0 && !it.names_are_known) {
            let found = self.by_handle((it.number, it.generation), OFlags::PATH | OFlags::NOFOLLOW);
            let Some(Ok(found)) = found.map(fstat) else { continue };
            let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
            if !is_directory && found.st_nlink > it.nlink.into() {
                self.remarks.push(format!(
                    "{}, inode {}: has a name that it had lost",
                    self.name.display(),
                    it.number
                ));
            }
        }
    }

    fn attributes_of(&self, key: Key, node: &Node) -> Result<(), String> {
        let kind = FileType::from_raw_mode(node.mode);
        let readable = matches!(kind, FileType::RegularFile | FileType::Directory);
        let access = match readable {
            true => OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW,
            false => OFlags::PATH | OFlags::NOFOLLOW,
        };
        let made = || {
            let (of, name) = self.made.get(&key)?;
            openat(self.directories.get(of)?, name.as_slice(), access, Mode::empty()).ok()
        };
        let found = match self.directories.get(&key) {
            Some(directory) => directory.try_clone().ok(),
            None => self.by_handle(key, access).or_else(made),
        };
        // Where it could not be made that was said.
        let Some(fd) = found else { return Ok(()) };
        attributes::set(&fd, node, readable)
    }
}

/// As the clock of file systems is, in nanoseconds since 1970: it goes on tick by tick, and nothing gets a time before this one any more.
fn now() -> i64 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// Where a file system is mounted whole, and its root directory. Of ext4, whose inodes are not `told`, that has a number of its own.
fn whole(world: &World<'_>, device: u64, uuid: [u8; 16], told: bool) -> Result<(PathBuf, OwnedFd), String> {
    let disk = disk::locate(uuid, Duration::ZERO);
    let number = disk.and_then(|disk| Ok(fs::metadata(disk).map_err(|error| error.to_string())?.rdev()));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut mounts = world.mounts.iter().filter(|it| it.device == device && it.root == b"/");
    let found = mounts.find_map(|mount| {
        let at = Path::new(OsStr::from_bytes(&mount.mountpoint));
        let root = open(at, flags, Mode::empty()).ok()?;
        let top = fstat(&root).ok()?;
        let is_it = number == Ok(top.st_dev) && (told || top.st_ino == ROOT);
        is_it.then(|| (at.to_owned(), root))
    });
    found.ok_or_else(|| number.err().unwrap_or_else(|| "it is not mounted".into()))
}

/// Names in a directory.
fn entries(directory: &OwnedFd) -> std::io::Result<Vec<Vec<u8>>> {
    let all = fs::read_dir(magic_path(directory))?;
    all.map(|entry| entry.map(|entry| entry.file_name().as_bytes().to_vec()))
        .collect()
}

/// Whether a name leads to something else than a directory that was made since a time.
fn is_file_since(directory: &OwnedFd, name: &[u8], since: i64) -> bool {
    let wanted = StatxFlags::BTIME | StatxFlags::TYPE;
    let found = statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, wanted);
    found.is_ok_and(|found| {
        let kind = FileType::from_raw_mode(found.stx_mode.into());
        let is_known = found.stx_mask & StatxFlags::TYPE.bits() != 0;
        is_known && kind != FileType::Directory && handles::birth(&found).is_some_and(|born| born >= since)
    })
}

/// The names that are recorded.
fn listed(names: &Names) -> Wanted {
    let entries = names.entries.iter();
    entries
        .map(|entry| (entry.name.clone(), (entry.number, entry.generation)))
        .collect()
}

/// The numbers to which a directory's names lead, as far as they are known.
fn leads_to(names: &Names, whole: &Result<Wanted, String>) -> Vec<u64> {
    match whole {
        Ok(all) => all.values().map(|(number, _)| *number).collect(),
        Err(_) => names.entries.iter().map(|entry| entry.number).collect(),
    }
}

/// All names of a directory: those that are recorded, and those in blocks that have not changed.
fn listed_or_read(names: &Names, reader: &mut Reader) -> Result<Wanted, String> {
    let mut all = listed(names);
    if names.rest.is_empty() {
        return Ok(all);
    }
    let gone: BTreeSet<&[u8]> = names.gone.iter().map(Vec::as_slice).collect();
    for piece in reader.read(names.uuid, &names.rest)? {
        let found = ext4_dir::names(&piece.bytes).ok_or("a block of it makes no sense")?;
        for (name, number) in found.into_iter().filter(|(name, _)| !gone.contains(&**name)) {
            all.entry(name).or_insert((number.into(), None));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
