//! Files and shared-memory objects that open files and mappings refer to.

use super::{
    high::High,
    host::Host,
    mount_namespaces::is_same,
    world::{Content, World},
    OrRefuse, Refusal, Restored, Setting,
};
use crate::sys;
use rustix::{
    fs::{
        fcntl_add_seals, fstat, ftruncate, memfd_create, open, FileType, MemfdFlags, Mode, OFlags, SealFlags, Timespec,
        Timestamps,
    },
    io::pwrite,
    mm::{mmap_anonymous, munmap, MapFlags, ProtFlags},
};
use shared_region::{
    context::{FrameRun, Id, Inode, SharedMemory},
    PAGE_SIZE,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    rc::Rc,
};

/// Bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// What lies there.
    pub bytes: Vec<u8>,
}

/// Pages moved from frames to a file in one go.
const COPY_PAGES: u64 = 256;

/// Where an object can be opened.
#[derive(Debug)]
enum Place {
    /// Under a name.
    Named(Vec<u8>),
    /// Without a name, through a descriptor of the agent.
    Held(High),
}

/// Every inode and shared-memory object, opened when first needed.
#[derive(Debug, Default)]
pub struct Inodes {
    places: BTreeMap<Id, Place>,
    maps: BTreeMap<(Id, bool), High>,
    rewritten: BTreeSet<Id>,
    held: BTreeMap<Id, Rc<OwnedFd>>,
    failed: BTreeMap<Id, Refusal>,
}

impl Inodes {
    /// What was put back, and what was not.
    pub fn new(setting: &Setting) -> Self {
        Self {
            rewritten: setting.rewritten.clone(),
            held: setting.held.clone(),
            failed: setting.failed.clone(),
            ..Self::default()
        }
    }

    /// Opens an object anew with O_* `flags`.
    pub fn open(&mut self, world: &World, host: &dyn Host, base: u32, id: Id, flags: OFlags) -> Restored<OwnedFd> {
        self.locate(world, host, base, id)?;
        let (path, what) = match self.places.get(&id) {
            Some(Place::Named(path)) => (path.clone(), String::from_utf8_lossy(path).into_owned()),
            Some(Place::Held(held)) => (sys::magic_path(held).into_bytes(), format!("nameless file {id:#x}")),
            None => return Err(Refusal::new(format!("inode {id:#x}"), "it was not found")),
        };
        open(OsStr::from_bytes(&path), flags | OFlags::CLOEXEC, Mode::empty()).or_refuse(|| what)
    }

    /// As [`Self::open`], by a path that leads to the same file through other mounts. What has no name is opened as it is.
    pub fn open_through(
        &mut self,
        world: &World,
        host: &dyn Host,
        base: u32,
        id: Id,
        flags: OFlags,
        path: &[u8],
    ) -> Restored<OwnedFd> {
        self.locate(world, host, base, id)?;
        let Some(Place::Named(named)) = self.places.get(&id) else {
            return self.open(world, host, base, id, flags);
        };
        let name = || String::from_utf8_lossy(named).into_owned();
        let fd = open(OsStr::from_bytes(path), flags | OFlags::CLOEXEC, Mode::empty()).or_refuse(name)?;
        let wanted = rustix::fs::stat(OsStr::from_bytes(named)).or_refuse(name)?;
        match is_same(&fstat(&fd).or_refuse(name)?, &wanted) {
            true => Ok(fd),
            false => Err(Refusal::new(name(), "another file has its name in its mount namespace")),
        }
    }

    /// A descriptor to map an object by.
    pub fn for_mapping(&mut self, world: &World, host: &dyn Host, base: u32, id: Id, writable: bool) -> Restored<u32> {
        if let Some(high) = self.maps.get(&(id, writable)) {
            return Ok(high.number());
        }
        let flags = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let high = High::raise(self.open(world, host, base, id, flags)?, base)?;
        let number = high.number();
        self.maps.insert((id, writable), high);
        Ok(number)
    }

    /// Seals memfds as they were, when everything that needs to write has been mapped.
    pub fn seal(&self, world: &World) -> Restored<()> {
        for (id, place) in &self.places {
            let seals = world.shared.get(id).and_then(|shared| shared.record.seals);
            if let (Place::Held(held), Some(seals)) = (place, seals.filter(|seals| *seals != 0)) {
                let seals = SealFlags::from_bits_retain(seals);
                fcntl_add_seals(held, seals).or_refuse(|| format!("seals of memfd {id:#x}"))?;
            }
        }
        Ok(())
    }

    fn locate(&mut self, world: &World, host: &dyn Host, base: u32, id: Id) -> Restored<()> {
        if self.places.contains_key(&id) {
            return Ok(());
        }
        if let Some(why) = self.failed.get(&id) {
            let inode = world.inodes.get(&id);
            let name = inode.map(|inode| String::from_utf8_lossy(&inode.record.path).into_owned());
            return Err(Refusal::new(name.unwrap_or_default(), why));
        }
        let place = if let Some(inode) = world.inodes.get(&id) {
            if let Some(held) = self.held.get(&id) {
                let again = held.try_clone().or_refuse(|| "deleted file")?;
                Place::Held(High::raise(again, base)?)
            } else if inode.record.path.is_empty() {
                let from_swap = Some(world.read_from_swap(id)?).filter(|pieces| !pieces.is_empty());
                Place::Held(High::raise(revive(inode, from_swap, host)?, base)?)
            } else {
                self.check(id, &inode.record)?;
                Place::Named(inode.record.path.clone())
            }
        } else if let Some(shared) = world.shared.get(&id) {
            Place::Held(High::raise(share(shared, world.read_from_swap(id)?, host)?, base)?)
        } else {
            return Err(Refusal::new(format!("inode {id:#x}"), "there is no record of it"));
        };
        self.places.insert(id, place);
        Ok(())
    }

    /// The file under the name must be the one the process had.
    fn check(&self, id: Id, inode: &Inode) -> Restored<()> {
        let name = || String::from_utf8_lossy(&inode.path).into_owned();
        let path = Path::new(OsStr::from_bytes(&inode.path));
        let found = rustix::fs::stat(path).or_refuse(name)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::from_raw_mode(inode.mode) {
            return Err(Refusal::new(name(), "it is of another type now"));
        }
        let numbered = !matches!(
            inode.fstype.as_slice(),
            b"tmpfs" | b"devtmpfs" | b"ramfs" | b"rootfs" | b"overlay"
        );
        if numbered && found.st_ino != inode.number && !self.rewritten.contains(&id) {
            return Err(Refusal::new(name(), "another file has its name now"));
        }
        Ok(())
    }
}

/// A deleted file, made again without a name from its cached pages and from what was read from its disk.
pub fn revive(inode: &Content<'_, Inode>, from_disk: Option<&[Piece]>, host: &dyn Host) -> Restored<OwnedFd> {
    let record = &inode.record;
    let name = || format!("deleted file {}", String::from_utf8_lossy(&record.last_path));
    if FileType::from_raw_mode(record.mode) != FileType::RegularFile {
        return Err(Refusal::new(name(), "it is not a regular file"));
    }
    if !record.fully_cached && from_disk.is_none() {
        return Err(Refusal::new(name(), "not all of it was in memory"));
    }
    let last = record
        .last_path
        .strip_suffix(b" (deleted)")
        .unwrap_or(&record.last_path);
    // Its directory may be gone as well.
    let mut above = Path::new(OsStr::from_bytes(last)).ancestors().skip(1);
    let directory = above.find(|above| above.is_dir()).unwrap_or(Path::new("/"));
    let mode = Mode::from_raw_mode(record.mode & 0o7777);
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = open(directory, flags, mode).or_refuse(name)?;
    let filled = fill(&fd, inode.runs(), record.size, host).and_then(|_| put(&fd, from_disk.unwrap_or_default()));
    filled.map_err(|refusal| Refusal::new(name(), refusal))?;
    let owner = (
        rustix::fs::Uid::from_raw(record.uid),
        rustix::fs::Gid::from_raw(record.gid),
    );
    rustix::fs::fchown(&fd, Some(owner.0), Some(owner.1)).or_refuse(name)?;
    rustix::fs::fchmod(&fd, mode).or_refuse(name)?;
    let times = times([record.times[0], record.times[1]]);
    rustix::fs::futimens(&fd, &times).or_refuse(name)?;
    // A file that is open for writing cannot be made a process's executable.
    open(sys::magic_path(&fd), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).or_refuse(name)
}

/// Writes pieces to where they belong in a file.
pub fn put(fd: &OwnedFd, pieces: &[Piece]) -> Restored<()> {
    pieces
        .iter()
        .try_for_each(|piece| write_all(fd, &piece.bytes, piece.offset))
}

/// A shared-memory object, made again from its pages and from what was on swap.
fn share(shared: &Content<'_, SharedMemory>, from_swap: &[Piece], host: &dyn Host) -> Restored<OwnedFd> {
    let record = &shared.record;
    let name = || format!("shared memory {}", String::from_utf8_lossy(&record.name));
    if record.swapped != 0 {
        return Err(Refusal::new(
            name(),
            format!("{} pages were swapped out", record.swapped),
        ));
    }
    let text = record.name.strip_suffix(b" (deleted)").unwrap_or(&record.name);
    let fd = if let Some(memfd) = text.strip_prefix(b"/memfd:") {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create(OsStr::from_bytes(memfd), flags).or_refuse(name)?;
        ftruncate(&fd, record.size).or_refuse(name)?;
        fd
    } else if text == b"/dev/zero" {
        nameless(record.size).or_refuse(name)?
    } else {
        return Err(Refusal::new(
            name(),
            "only anonymous shared memory and memfds can be made again",
        ));
    };
    let filled = fill(&fd, shared.runs(), record.size, host).and_then(|_| put(&fd, from_swap));
    filled.map_err(|refusal| Refusal::new(name(), refusal))?;
    Ok(fd)
}

/// Shared anonymous memory has no descriptor of its own: it is mapped once and opened through `map_files`.
fn nameless(size: u64) -> io::Result<OwnedFd> {
    let length = size.next_multiple_of(PAGE_SIZE) as usize;
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no memory of this process.
    let at = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            length,
            prot,
            MapFlags::SHARED | MapFlags::NORESERVE,
        )
    }?;
    let fd = sys::open_mapped(at as usize, at as usize + length);
    // SAFETY: mapped above, and nothing refers to it.
    unsafe { munmap(at, length) }?;
    fd
}

/// What of a file is there again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Its pages.
    pub pages: u64,
    /// Those of them that are copies of the frames.
    pub copied: u64,
}

/// Writes frames to where they belong in a file of `size` bytes, or makes them its pages.
pub fn fill(fd: &OwnedFd, runs: impl Iterator<Item = FrameRun>, size: u64, host: &dyn Host) -> Restored<Filled> {
    if fstat(fd).or_refuse(|| "size")?.st_size as u64 != size {
        ftruncate(fd, size).or_refuse(|| "size")?;
    }
    let runs: Vec<FrameRun> = runs.collect();
    let whole: Vec<FrameRun> = runs.iter().filter_map(|&run| whole_pages(run, size)).collect();
    let (mut handed, mut copied) = match whole.as_slice() {
        [] => (0, 0),
        whole => host.cache(fd.as_fd(), whole),
    };
    let mut filled = Filled { pages: handed, copied };
    let mut buffer = Vec::new();
    for run in runs {
        let mut page = handed.min(whole_pages(run, size).map_or(0, FrameRun::pages));
        handed -= page;
        while page < run.pages() {
            let offset = run.va.saturating_add(page * PAGE_SIZE);
            if offset >= size {
                break;
            }
            let pages = (run.pages() - page).min(COPY_PAGES);
            buffer.resize((pages * PAGE_SIZE) as usize, 0);
            host.read_frames(run.pfn() + page, &mut buffer)?;
            let wanted = (buffer.len() as u64).min(size - offset) as usize;
            write_all(fd, &buffer[..wanted], offset)?;
            page += pages;
            filled.pages += pages;
            copied += pages;
        }
    }
    filled.copied = copied;
    Ok(filled)
}

/// The pages of a run that lie wholly in a file of this size.
fn whole_pages(run: FrameRun, size: u64) -> Option<FrameRun> {
    let within = (size / PAGE_SIZE).saturating_sub(run.va / PAGE_SIZE);
    let pages = run.pages().min(within);
    (pages != 0).then(|| FrameRun::new(run.va, run.pfn(), pages, run.kind()))
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Restored<()> {
    while !bytes.is_empty() {
        let written = pwrite(fd, bytes, offset).or_refuse(|| format!("writing at {offset}"))?;
        if written == 0 {
            return Err(Refusal::new(format!("writing at {offset}"), "the file takes no more"));
        }
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

/// Access and modification time, in nanoseconds since 1970, the first two of a record's times.
pub fn times([accessed, modified]: [i64; 2]) -> Timestamps {
    const NANOSECONDS: i64 = 1_000_000_000;
    let time = |nanoseconds: i64| Timespec {
        tv_sec: nanoseconds.div_euclid(NANOSECONDS),
        tv_nsec: nanoseconds.rem_euclid(NANOSECONDS),
    };
    Timestamps {
        last_access: time(accessed),
        last_modification: time(modified),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::host::Host;
    use orthros_device::Adopted;
    use shared_region::{
        context::frame_kind,
        device::{ResumeCall, TaskState},
    };
    use std::os::fd::BorrowedFd;

    /// Frames that hold their number in each byte, of which the first so many can be had in place.
    struct Frames(u64);

    impl Host for Frames {
        fn adopt(&self, _: u32, _: &[u8]) -> Restored<Adopted> {
            Err(Refusal::new("memory", "none"))
        }
        fn read_frames(&self, pfn: u64, bytes: &mut [u8]) -> Restored<()> {
            for (index, page) in bytes.chunks_mut(PAGE_SIZE as usize).enumerate() {
                page.fill((pfn + index as u64) as u8);
            }
            Ok(())
        }
        fn cache(&self, file: BorrowedFd<'_>, runs: &[FrameRun]) -> (u64, u64) {
            let pages = runs
                .iter()
                .flat_map(|run| (0..run.pages()).map(move |page| (run, page)));
            let mut done = 0;
            for (run, page) in pages.take(self.0 as usize) {
                let at = run.va + page * PAGE_SIZE;
                let size = fstat(file).unwrap().st_size as u64;
                assert!(at + PAGE_SIZE <= size, "a page at {at} of {size} bytes");
                pwrite(file, &vec![(run.pfn() + page) as u8; PAGE_SIZE as usize], at).unwrap();
                done += 1;
            }
            (done, 0)
        }
        fn resume_call(&self, _: ResumeCall) -> Restored<()> {
            Err(Refusal::new("call", "none"))
        }
        fn set_times(&self, _: TaskState) -> Restored<()> {
            Err(Refusal::new("times", "none"))
        }
    }

    #[test]
    fn what_cannot_be_had_in_place_is_copied() {
        let size = 9 * PAGE_SIZE + 7;
        let run = |page: u64, pfn, pages| FrameRun::new(page * PAGE_SIZE, pfn, pages, frame_kind::FILE_DIRTY);
        // Pages 1, 2; 4, 5; 8, 9 of which the last is not whole, and 10, which is none.
        let runs = [run(1, 11, 2), run(4, 21, 2), run(8, 31, 3)];
        let mut want = vec![0; size as usize];
        for (page, byte) in [(1, 11), (2, 12), (4, 21), (5, 22), (8, 31), (9, 32)] {
            let end = ((page + 1) * PAGE_SIZE).min(size) as usize;
            want[(page * PAGE_SIZE) as usize..end].fill(byte);
        }
        for in_place in 0..=6 {
            let fd = memfd_create("filled", MemfdFlags::CLOEXEC).unwrap();
            let filled = fill(&fd, runs.into_iter(), size, &Frames(in_place)).unwrap();
            let content = std::fs::read(sys::magic_path(&fd)).unwrap();
            assert!(content == want, "{in_place} in place");
            let (pages, in_place) = (filled.pages, in_place.min(5));
            assert!(pages - filled.copied == in_place && pages >= 6, "{filled:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_what_it_was_is_not_opened() {
        let setting = Setting {
            failed: [(1, Refusal::new("its content", "no room"))].into(),
            ..Setting::default()
        };
        let world = World {
            inodes: [(1, Content::default())].into(),
            ..World::default()
        };
        let opened = Inodes::new(&setting).open(&world, &Frames(0), 3, 1, OFlags::RDONLY);
        assert_eq!(opened.unwrap_err().why, "its content: no room");
    }
}
