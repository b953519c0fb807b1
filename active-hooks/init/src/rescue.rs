//! Puts back what a rescue area holds, in a system that was booted as after any crash.
//!
//! What we know on entry: records that the backup OS has written as it gave the machine up, and frames with digests. File
//! systems may be mounted or not, and somebody may have changed on them what he liked since. What we are responsible for: only
//! ext4, XFS and btrfs that is mounted for writing, or an ext4 that nobody has used, is touched, and nothing on it that was changed after the failure;
//! a file is put back whole or named with the reason.
//!
//! That something has not changed is told by its status-change time (ctime), which every change sets, and which nobody can set.

mod already;
pub mod file;
pub mod partition;
pub mod place;
mod private;
mod room;

pub use private::Private;

use self::already::Part;
use crate::{
    boot::ext4,
    mountinfo,
    restore::{
        host::Host,
        world::{Content, World},
        OrRefuse, Refusal, Restored,
    },
    sys::{self, magic_path},
    takeover::{
        dirty_files,
        disk::{self, FromDisk, Since},
        files,
        handles::{self, BTRFS},
        subvolumes, to_rescue,
    },
};
use orthros_device::Adopted;
use rustix::fs::{fstat, open, Mode, OFlags, Stat};
use shared_region::{
    context::{ChangedInodes, DirtyFile, FrameRun, Id, Inode, LeftAt, Mount, Name, Names, Node, Subvolume},
    device::{ResumeCall, TaskState},
    rescue_area::{Area, Source},
    PAGE_SIZE,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ffi::{CString, OsStr},
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// A partition or a file.
#[derive(Debug)]
pub struct Place(pub File);

impl Source for Place {
    fn read(&self, at: u64, bytes: &mut [u8]) -> bool {
        self.0.read_exact_at(bytes, at).is_ok()
    }
}

/// The frames of an area.
pub struct Frames(pub RefCell<Area<Place>>);

impl Host for Frames {
    fn adopt(&self, _: u32, _: &[u8]) -> Restored<Adopted> {
        Err(Refusal::new("memory", NO_PROCESS))
    }

    fn read_frames(&self, pfn: u64, bytes: &mut [u8]) -> Restored<()> {
        let mut area = self.0.borrow_mut();
        let mut pages = (pfn..).zip(bytes.chunks_mut(PAGE_SIZE as usize));
        pages.try_for_each(|(pfn, page)| area.frame(pfn, page).or_refuse(|| "its data"))
    }

    fn resume_call(&self, _: ResumeCall) -> Restored<()> {
        Err(Refusal::new("system call", NO_PROCESS))
    }

    fn set_times(&self, _: TaskState) -> Restored<()> {
        Err(Refusal::new("times", NO_PROCESS))
    }
}

const NO_PROCESS: &str = "no process is restored from a rescue area";
const CHANGED: &str = "was changed after the failure";

/// A file that can be put back, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rescued {
    /// Its path, or its number if it has none that is known.
    pub name: String,
    /// Bytes of data.
    pub bytes: u64,
}

/// What can be put back, and what cannot.
#[derive(Debug, Default)]
pub struct Plan {
    /// Files with data.
    pub files: Vec<Rescued>,
    /// Directories in which names are compared.
    pub directories: usize,
    /// Files that have it already.
    pub already: usize,
    /// What is refused, with the reason.
    pub refused: Vec<String>,
    /// Some of it because its file system is not there now, or has no room: the area must be kept for that.
    pub is_kept: bool,
}

/// Takes out of the records what cannot be put back here. `private` has what nobody else has mounted; `area` is where the records
/// come from.
pub fn plan(world: &mut World<'_>, host: &dyn Host, private: &Private, area: &Path) -> Plan {
    let failure = world.machine.clock.realtime;
    let places = places(world);
    let mut work = Work {
        rooms: rooms(&places),
        places,
        nodes: world.nodes.iter().map(|node| (node.device, node.number)).collect(),
        failure,
        host,
        private,
        plan: Plan::default(),
        settled: BTreeSet::new(),
        has: BTreeSet::new(),
        area: fs::metadata(area).ok().map(|found| (found.dev(), found.ino())),
        left: std::mem::take(&mut world.left),
        changed: std::mem::take(&mut world.changed),
    };
    let lost = std::mem::take(&mut world.lost);
    work.plan
        .refused
        .extend(lost.iter().map(|(_, lost)| format!("{}: {}", lost.object, lost.reason)));
    let unreadable = world.unreadable.iter().map(|(_, why)| format!("a record: {why}"));
    work.plan.refused.extend(unreadable);
    world.mounts = work.places.values().filter_map(System::mount).collect();
    let mut inodes = std::mem::take(&mut world.inodes);
    inodes.retain(|id, inode| work.keeps_inode(*id, inode));
    let mut dirty = std::mem::take(&mut world.dirty_files);
    dirty.retain(|id, file| work.keeps_dirty(inodes.get(id), *id, file));
    world.dirty_files = dirty;
    world.inodes = inodes;
    let names = world.names.len();
    world.names.retain_mut(|names| work.keeps_names(names));
    let incomplete = names != world.names.len();
    for names in &mut world.names {
        // What has gone from one directory may be in another that is left alone.
        names.is_complete &= !incomplete;
    }
    world.changed = std::mem::take(&mut work.changed);
    for changed in &mut world.changed {
        changed.is_complete &= !incomplete;
    }
    world.nodes.retain(|node| work.keeps_node(node));
    world.names_gone.clear();
    work.plan.directories = world.names.len();
    let mut wanted = work.settled.iter().filter_map(|(device, _)| work.places.get(device));
    let is_missing = |place: &System| place.here.is_err();
    // Of one that no successor has mounted there is more than files.
    let would_stay = |place: &System| is_missing(place) && !private.would_be.contains(&place.device);
    let any_missing = world.saved_by.is_some() && work.places.values().any(would_stay);
    work.plan.is_kept |= wanted.any(is_missing) || any_missing;
    work.plan.refused.extend(private.refused.iter().cloned());
    work.plan
}

/// Whether times can tell what has changed since the failure.
fn check_clock(world: &World<'_>) -> Result<(), String> {
    let (failure, booted) = (world.machine.clock.realtime, booted());
    // The clock of the kernel that has saved it has gone on since.
    let has_saved_it = world
        .saved_by
        .as_ref()
        .is_some_and(|by| by.boot_id == to_rescue::boot_id());
    if booted >= failure || has_saved_it {
        return Ok(());
    }
    Err(format!(
        "this system was started {} s before the failure, by its clock: what has changed since cannot be told",
        (failure - booted) / 1_000_000_000
    ))
}

/// Puts it back. Calls `alive` again and again. Returns what could not be put back, and whether files are among that.
pub fn put_back(world: &World<'_>, host: &dyn Host, private: &Private, alive: &dyn Fn()) -> (Vec<String>, bool) {
    let done = files::put_back(world, &FromDisk::new(), Since::Boot, host);
    let which = (&private.committed, &BTreeSet::new());
    let of_others = dirty_files::put_back(world, which, &done.rewritten, host, alive);
    let remarks = done.remarks.iter().chain(&of_others.remarks);
    let remarks = remarks.map(|remark| private.as_it_was(remark)).collect();
    (remarks, !done.failed.is_empty() || !of_others.failed.is_empty())
}

/// When this system was started, in nanoseconds since 1970, as its clock is now.
fn booted() -> i64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("btime "));
    let seconds: Option<i64> = line.and_then(|line| line.trim().parse().ok());
    seconds.unwrap_or(0).saturating_mul(1_000_000_000)
}

/// A file system of the dead kernel, in this one.
#[derive(Debug)]
struct System {
    device: u64,
    name: String,
    /// Its type.
    fstype: Vec<u8>,
    /// Its root directory and where that is, or why it is not there.
    here: Result<(PathBuf, OwnedFd), String>,
    /// What its paths began with.
    was_at: Vec<PathBuf>,
    /// Device number of the whole file system in the dead kernel: subvolumes share their room.
    file_system: u64,
    /// What says how it is mounted, of a subvolume.
    options: Vec<u8>,
}

impl System {
    fn mount(&self) -> Option<Mount> {
        let (at, _) = self.here.as_ref().ok()?;
        // A subvolume is mounted where nobody sees it, and called by where it was.
        let at = match self.options.is_empty() {
            true => Some(at),
            false => self.was_at.first(),
        };
        Some(Mount {
            device: self.file_system,
            fstype: self.fstype.clone(),
            root: b"/".to_vec(),
            mountpoint: at?.as_os_str().as_bytes().to_vec(),
            options: self.options.clone(),
            ..Mount::default()
        })
    }
}

/// Bytes that file systems can still take.
fn rooms(places: &BTreeMap<u64, System>) -> BTreeMap<u64, u64> {
    let here = places
        .values()
        .filter_map(|place| Some((place.file_system, &place.here.as_ref().ok()?.1)));
    here.map(|(file_system, root)| (file_system, room::of(root))).collect()
}

fn places(world: &World<'_>) -> BTreeMap<u64, System> {
    let text = fs::read_to_string(mountinfo::OWN).unwrap_or_default();
    let one = |(device, uuid, _): (u64, [u8; 16], &str)| {
        let mounts = || world.mounts.iter().filter(|mount| mount.device == device);
        let fstype = mounts()
            .next()
            .map_or_else(|| b"ext4".to_vec(), |mount| mount.fstype.clone());
        let place = System {
            device,
            name: ext4::uuid_text(&uuid),
            was_at: mounts().filter(|mount| mount.root == b"/").map(point).collect(),
            file_system: device,
            options: Vec::new(),
            fstype,
            here: here(uuid, &text),
        };
        (device, place)
    };
    let subvolume = |it: &Subvolume| (it.device, of_subvolume(world, it, &text));
    let subvolumes = world.subvolumes.iter().map(subvolume);
    world.file_systems().map(one).chain(subvolumes).collect()
}

fn point(mount: &Mount) -> PathBuf {
    OsStr::from_bytes(&mount.mountpoint).into()
}

/// A subvolume, which is mounted where nobody else sees it if somebody has mounted its file system for writing.
fn of_subvolume(world: &World<'_>, subvolume: &Subvolume, mounts: &str) -> System {
    let absent = || match disk::locate(subvolume.uuid, Duration::ZERO) {
        Ok(disk) if !is_writable_btrfs(subvolume.uuid, mounts) => {
            format!("{} is not mounted for writing", disk.display())
        }
        Ok(_) => format!("subvolume {} cannot be mounted", subvolume.number),
        Err(why) => why,
    };
    System {
        device: subvolume.device,
        name: format!("{}, subvolume {}", ext4::uuid_text(&subvolume.uuid), subvolume.number),
        fstype: BTRFS.to_vec(),
        here: subvolumes::root_of(subvolume).ok_or_else(absent),
        was_at: vec![subvolumes::was_at(world, subvolume)],
        file_system: subvolume.file_system,
        options: subvolume.option().into_bytes(),
    }
}

/// Whether a btrfs is mounted somewhere for writing, by whichever of its subvolumes.
fn is_writable_btrfs(uuid: [u8; 16], mounts: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let is_it = |at: &Path| {
        let root = open(at, flags, Mode::empty());
        root.is_ok_and(|root| sys::btrfs_uuid(root.as_fd()).is_ok_and(|found| found == uuid))
    };
    mountinfo::lines(mounts)
        .filter(|line| line.is_writable() && line.kind.as_bytes() == BTRFS)
        .any(|line| is_it(Path::new(line.point)))
}

fn here(uuid: [u8; 16], mounts: &str) -> Result<(PathBuf, OwnedFd), String> {
    let disk = disk::locate(uuid, Duration::ZERO)?;
    let number = fs::metadata(&disk).map_err(|error| error.to_string())?.rdev();
    let at = mounted_at(mounts, libc::major(number), libc::minor(number));
    let at = at.ok_or_else(|| format!("{} is not mounted for writing", disk.display()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(&at, flags, Mode::empty()).map_err(|error| error.to_string())?;
    match fstat(&root) {
        Ok(found) if found.st_dev == number => Ok((at, root)),
        _ => Err(format!("{} is covered by another file system", at.display())),
    }
}

/// Where the whole of a file system is mounted for writing, by lines of `/proc/self/mountinfo`. A path with blanks is left alone.
fn mounted_at(mounts: &str, major: u32, minor: u32) -> Option<PathBuf> {
    let number = format!("{major}:{minor}");
    let is_it = |line: &mountinfo::Line<'_>| line.device == number && line.root == "/" && !line.point.contains('\\');
    let mut all = mountinfo::lines(mounts);
    let found = all.find(|line| is_it(line) && line.is_writable())?;
    Some(found.point.into())
}

struct Work<'h> {
    places: BTreeMap<u64, System>,
    /// Bytes that file systems can still take, by [`System::file_system`].
    rooms: BTreeMap<u64, u64>,
    /// Device and number of what has a record of its attributes.
    nodes: BTreeSet<(u64, u64)>,
    /// In nanoseconds since 1970.
    failure: i64,
    host: &'h dyn Host,
    private: &'h Private,
    plan: Plan,
    /// By device and number: what was refused, or needs nothing.
    settled: BTreeSet<(u64, u64)>,
    /// What has its content already.
    has: BTreeSet<(u64, u64)>,
    /// Device and number of the area, which may be a file that was being written to when the kernel failed.
    area: Option<(u64, u64)>,
    /// See [`World::left`].
    left: BTreeMap<Id, LeftAt>,
    /// See [`World::changed`].
    changed: Vec<ChangedInodes>,
}

impl Work<'_> {
    /// The file, if it is there.
    fn find(&self, device: u64, number: u64, generation: u32, flags: OFlags) -> Result<Option<OwnedFd>, String> {
        let place = self
            .places
            .get(&device)
            .ok_or("its file system is no ext4, XFS or btrfs, or is not known")?;
        let why = |why| format!("its file system {}: {why}", place.name);
        let (_, root) = place.here.as_ref().map_err(why)?;
        let found = handles::on_mount(root, number, generation, flags | OFlags::NONBLOCK);
        let is_there = |fd: &OwnedFd| fstat(fd).is_ok_and(|found| found.st_nlink != 0);
        // Its number may have been given out again, and its generation, too.
        Ok(found.filter(|fd| is_there(fd) && !handles::is_made_since(fd, self.failure)))
    }

    fn is_old(&self, fd: &OwnedFd) -> bool {
        fstat(fd).is_ok_and(|found| nanoseconds(found.st_ctime, found.st_ctime_nsec) <= self.failure)
    }

    /// Whether a file is the area itself, which has what it is to have.
    fn is_area(&mut self, key: (u64, u64), fd: &OwnedFd) -> bool {
        let is_it = fstat(fd).is_ok_and(|found| Some((found.st_dev, found.st_ino)) == self.area);
        if is_it {
            self.settled.insert(key);
        }
        is_it
    }

    /// Whether nobody has changed a file since the failure but the kernel that has saved it, which could not put it back whole.
    fn is_unchanged(&self, id: Id, fd: &OwnedFd) -> bool {
        let left = self.left.get(&id).map(|left| left.changed);
        let is_as_left = |found: Stat| left == Some(nanoseconds(found.st_ctime, found.st_ctime_nsec));
        self.is_old(fd) || fstat(fd).is_ok_and(is_as_left)
    }

    /// Whether a file that was changed has what would be put back, as after a rescue that could not do all.
    fn has_it(&mut self, key: (u64, u64), fd: &OwnedFd, size: u64, parts: impl Iterator<Item = Part>) -> bool {
        let has = already::has(fd, size, parts, self.host);
        if has {
            self.has.insert(key);
            self.plan.already += 1;
        }
        has
    }

    /// Whether what a file needs has room on its file system, which it then has not for others.
    fn has_room(
        &mut self,
        device: u64,
        found: Option<&OwnedFd>,
        runs: impl Iterator<Item = FrameRun>,
    ) -> Result<(), String> {
        let Some(place) = self.places.get(&device) else {
            return Ok(());
        };
        let needed = room::needed(found, runs);
        let room = self.rooms.entry(place.file_system).or_default();
        match room.checked_sub(needed) {
            Some(left) => *room = left,
            None => {
                self.plan.is_kept = true;
                return Err(format!(
                    "its file system {} has no room for its {needed} bytes",
                    place.name
                ));
            }
        }
        Ok(())
    }

    fn refuse(&mut self, (device, number): (u64, u64), name: &str, why: &str) -> bool {
        self.settled.insert((device, number));
        self.plan.refused.push(format!("{name}: {why}"));
        false
    }

    fn keeps_inode(&mut self, id: Id, inode: &mut Content<'_, Inode>) -> bool {
        let record = &inode.record;
        let key = (record.device, record.number);
        let name = String::from_utf8_lossy(&record.path).into_owned();
        if self.private.would_be.contains(&key.0) {
            return self.takes(key, name, self.whole(inode.runs(), record.size));
        }
        let found = match self.find(key.0, key.1, record.generation, OFlags::RDONLY | OFlags::NOFOLLOW) {
            Ok(found) => found,
            Err(why) => return self.refuse(key, &name, &why),
        };
        match moved(&self.places, record) {
            Some(path) => {
                inode.record.last_path.clone_from(&path);
                inode.record.path = path;
            }
            None => return self.refuse(key, &name, "where it was is not known"),
        }
        let record = &inode.record;
        let path = Path::new(OsStr::from_bytes(&record.path));
        // Nobody has to be in the way of a file that is not there, or not by its name.
        let number = found
            .as_ref()
            .and_then(|found| fstat(found).ok())
            .map(|found| found.st_ino);
        let there = fs::symlink_metadata(path)
            .ok()
            .filter(|there| Some(there.ino()) != number);
        let late = there.is_some_and(|there| nanoseconds(there.ctime(), there.ctime_nsec() as u64) > self.failure);
        match &found {
            Some(found) if self.is_area(key, found) => return false,
            Some(found) if !self.is_unchanged(id, found) => {
                return !self.has_it(key, found, record.size, inode.runs().map(Part::from))
                    && self.refuse(key, &name, CHANGED)
            }
            // It may have been made anew by a rescue that could not do all.
            _ if late => {
                let has_it = record.fully_cached
                    && dirty_files::by_name(&record.path)
                        .is_some_and(|there| self.has_it(key, &there, record.size, inode.runs().map(Part::from)));
                return !has_it && self.refuse(key, &name, "what has its name now was changed after the failure");
            }
            _ => {}
        }
        let bytes = self.whole(inode.runs(), record.size);
        let room = bytes.and_then(|bytes| self.has_room(key.0, found.as_ref(), inode.runs()).map(|()| bytes));
        self.takes(key, name, room)
    }

    /// A file that can be put back, unless something of it is not there.
    fn takes(&mut self, key: (u64, u64), name: String, bytes: Result<u64, String>) -> bool {
        match bytes {
            Ok(bytes) => {
                self.plan.files.push(Rescued { name, bytes });
                true
            }
            Err(why) => self.refuse(key, &name, &why),
        }
    }

    fn keeps_dirty(&mut self, inode: Option<&Content<'_, Inode>>, id: Id, file: &Content<'_, DirtyFile>) -> bool {
        let record = &file.record;
        let key = (record.device, record.number);
        if self.settled.contains(&key) || self.has.contains(&key) {
            return false;
        }
        let parts = record
            .parts
            .iter()
            .map(|part| FrameRun::new(part.offset, part.at / PAGE_SIZE, 1, 0));
        let bytes = self.whole(file.runs().chain(parts), record.size);
        if inode.is_some() {
            let name = inode.map(|inode| String::from_utf8_lossy(&inode.record.path).into_owned());
            return match bytes {
                Ok(_) => true,
                Err(why) => self.refuse(key, &name.unwrap_or_default(), &why),
            };
        }
        let number = format!("inode {} of {}", record.number, self.name(record.device));
        if self.private.would_be.contains(&key.0) {
            return self.takes(key, number, bytes);
        }
        let found = match self.find(key.0, key.1, record.generation, OFlags::RDONLY) {
            Ok(Some(found)) => found,
            Ok(None) => return self.refuse(key, &number, "is not there any more"),
            Err(why) => return self.refuse(key, &number, &why),
        };
        let name = path_of(&found).map_or(number, |path| self.private.as_it_was(&path));
        if self.is_area(key, &found) {
            return false;
        }
        if !self.is_unchanged(id, &found) {
            let parts = file.runs().map(Part::from).chain(record.parts.iter().map(Part::from));
            return !self.has_it(key, &found, record.size, parts) && self.refuse(key, &name, CHANGED);
        }
        if record.ahead && !self.private.committed.contains(&key.0) {
            return self.refuse(
                key,
                &name,
                "its blocks were not committed: it has lost what was written last",
            );
        }
        let room = bytes.and_then(|bytes| self.has_room(key.0, Some(&found), file.runs()).map(|()| bytes));
        self.takes(key, name, room)
    }

    /// Whether names are those of a root directory that has not changed, and is recorded to find its file system by.
    fn is_only_root(&self, names: &Names, found: &OwnedFd) -> bool {
        let here = self
            .places
            .get(&names.device)
            .and_then(|place| place.here.as_ref().ok());
        let is_root = here.is_some_and(|(_, root)| {
            let key = |fd: &OwnedFd| fstat(fd).ok().map(|found| (found.st_dev, found.st_ino));
            key(root).is_some() && key(root) == key(found)
        });
        is_root
            && self.changed.iter().any(|changed| changed.device == names.device)
            && !self.nodes.contains(&(names.device, names.number))
    }

    fn keeps_names(&mut self, names: &mut Names) -> bool {
        let key = (names.device, names.number);
        let name = match names.path.is_empty() {
            true => format!("directory {} of {}", names.number, self.name(names.device)),
            false => String::from_utf8_lossy(&names.path).into_owned(),
        };
        if self.private.would_be.contains(&key.0) {
            return true;
        }
        match self.find(key.0, key.1, names.generation, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(Some(found)) if !self.is_old(&found) && self.is_only_root(names, &found) => {
                names.gone.clear();
                match as_it_is(&found) {
                    Ok(entries) => {
                        names.entries = entries;
                        true
                    }
                    Err(error) => self.refuse(
                        key,
                        &format!("names that were changed last in {name}"),
                        &error.to_string(),
                    ),
                }
            }
            Ok(Some(found)) if !self.is_old(&found) => {
                self.refuse(key, &format!("names that were changed last in {name}"), CHANGED)
            }
            Ok(_) => true,
            Err(why) => self.refuse(key, &format!("names that were changed last in {name}"), &why),
        }
    }

    fn keeps_node(&mut self, node: &Node) -> bool {
        let key = (node.device, node.number);
        let found = self.find(key.0, key.1, node.generation, OFlags::PATH | OFlags::NOFOLLOW);
        // Whatever has changed was named if there was more to it than attributes.
        match found {
            Ok(Some(found)) if self.is_area(key, &found) => false,
            Ok(Some(found)) if !self.is_old(&found) && has_attributes(&found, node) => false,
            Ok(Some(found)) if !self.is_old(&found) => {
                let number = || format!("inode {} of {}", node.number, self.name(node.device));
                let path = path_of(&found).map_or_else(number, |path| self.private.as_it_was(&path));
                let attributes = format!("attributes of {path}");
                !self.settled.contains(&key) && self.refuse(key, &attributes, CHANGED)
            }
            Ok(_) => true,
            Err(_) => false,
        }
    }

    fn name(&self, device: u64) -> &str {
        self.places
            .get(&device)
            .map_or("an unknown file system", |place| &place.name)
    }

    /// Reads all frames of a file once: it is put back whole or not at all. Returns its bytes.
    fn whole(&self, runs: impl Iterator<Item = FrameRun>, size: u64) -> Result<u64, String> {
        let mut page = vec![0; PAGE_SIZE as usize];
        let mut bytes = 0u64;
        for run in runs {
            for pfn in (run.pfn()..).take(run.pages() as usize) {
                self.host
                    .read_frames(pfn, &mut page)
                    .map_err(|refusal| refusal.to_string())?;
            }
            bytes = bytes.saturating_add((run.pages() * PAGE_SIZE).min(size.saturating_sub(run.va)));
        }
        Ok(bytes)
    }
}

/// The path of a file that was opened by its number, if the kernel has come to know it; else it says `/`.
fn path_of(file: &OwnedFd) -> Option<String> {
    let path = fs::read_link(magic_path(file)).ok()?;
    (path != Path::new("/")).then(|| path.display().to_string())
}

/// Whether a file has this owner and these permissions.
fn has_attributes(file: &OwnedFd, node: &Node) -> bool {
    let is_it = |found: Stat| (found.st_mode, found.st_uid, found.st_gid) == (node.mode, node.uid, node.gid);
    fstat(file).is_ok_and(is_it)
}

fn nanoseconds(seconds: i64, nanoseconds: u64) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add_unsigned(nanoseconds)
}

/// What a directory has in it now. Nothing is looked for there, and nothing that is known of a file makes a name in it one that was
/// taken away.
fn as_it_is(directory: &OwnedFd) -> std::io::Result<Vec<Name>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(magic_path(directory))? {
        let name = entry?.file_name().into_encoded_bytes();
        let text = CString::new(name.as_slice())?;
        // What has none is let be by whoever compares.
        if let Ok((number, generation)) = sys::handle_of(directory.as_fd(), &text) {
            entries.push(Name {
                name,
                number,
                generation: Some(generation),
            });
        }
    }
    Ok(entries)
}

/// The path that a file has here.
fn moved(places: &BTreeMap<u64, System>, record: &Inode) -> Option<Vec<u8>> {
    let path = Path::new(OsStr::from_bytes(&record.path));
    let place = places.get(&record.device)?;
    let above = place.was_at.iter().filter_map(|at| path.strip_prefix(at).ok());
    let inside = above.min_by_key(|inside| inside.as_os_str().len())?;
    let (at, _) = place.here.as_ref().ok()?;
    Some(at.join(inside).into_os_string().as_bytes().to_vec())
}

#[cfg(test)]
mod tests;
