//! Open files: each is opened once, in the agent, and shared from there.

use super::{
    clock::{interval_and_value, Elapsed},
    high::{self, High},
    host::Host,
    inodes::Inodes,
    inotify::Inotifies,
    io_uring,
    mount_namespaces::MountNamespaces,
    mqueue::Queues,
    namespaces::Namespaces,
    pipes::HeldPipe,
    process_files,
    sockets::Sockets,
    terminals::Terminals,
    world::World,
    OrRefuse, Refusal, Restored,
};
use rustix::{
    event::{eventfd, EventfdFlags},
    fs::{fstat, fstatfs, open, seek, Mode, OFlags, SeekFrom},
};
use shared_region::context::{Id, OpenFile, OpenFileKind};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

/// Flags that only say how a file is opened and are not kept by the kernel.
const OPEN_ONLY: OFlags = OFlags::CREATE.union(OFlags::EXCL).union(OFlags::TRUNC);
/// Flags of a file that was made without a name; with them an open makes another one.
const MADE_NAMELESS: OFlags = OFlags::TMPFILE;

/// The open files of the dead kernel, by id.
#[derive(Debug)]
pub struct Objects {
    base: u32,
    files: BTreeMap<Id, High>,
    pipes: BTreeMap<Id, HeldPipe>,
    /// Sockets that belong to no open file yet.
    pub sockets: Sockets,
    /// Pseudo terminals.
    pub terminals: Terminals,
    /// POSIX message queues.
    pub queues: Queues,
    /// inotify descriptors.
    pub inotifies: Inotifies,
    /// Files and shared-memory objects.
    pub inodes: Inodes,
    /// Through whose mounts files are opened.
    pub mount_namespaces: MountNamespaces,
    /// Other namespaces.
    pub namespaces: Namespaces,
}

impl Objects {
    /// Nothing opened yet; descriptors will be at `base` or above.
    pub fn new(base: u32, inodes: Inodes, mount_namespaces: MountNamespaces, namespaces: Namespaces) -> Self {
        Self {
            base,
            files: BTreeMap::new(),
            pipes: BTreeMap::new(),
            sockets: Sockets::default(),
            terminals: Terminals::default(),
            queues: Queues::default(),
            inotifies: Inotifies::default(),
            inodes,
            mount_namespaces,
            namespaces,
        }
    }

    /// The lowest number at which the agent keeps descriptors for others.
    pub fn base(&self) -> u32 {
        self.base
    }

    /// Number of an open file's descriptor, if it was opened.
    pub fn number(&self, id: Id) -> Option<u32> {
        self.files.get(&id).map(High::number)
    }

    /// An open file's descriptor, if it was opened.
    pub fn descriptor(&self, id: Id) -> Option<&High> {
        self.files.get(&id)
    }

    /// Number of a descriptor by which an inode can be mapped.
    pub fn for_mapping(&mut self, world: &World, host: &dyn Host, inode: Id, writable: bool) -> Restored<u32> {
        self.inodes.for_mapping(world, host, self.base, inode, writable)
    }

    /// Opens a file if it is not open yet.
    pub fn ensure(&mut self, world: &World, host: &dyn Host, elapsed: &Elapsed, id: Id) -> Restored<()> {
        if self.files.contains_key(&id) {
            return Ok(());
        }
        let file = world
            .files
            .get(&id)
            .ok_or_else(|| Refusal::new(format!("open file {id:#x}"), "there is no record of it"))?;
        let fd = self.open(world, host, elapsed, id, file)?;
        let fd = High::raise(fd, self.base)?;
        self.files.insert(id, fd);
        Ok(())
    }

    fn open(
        &mut self,
        world: &World,
        host: &dyn Host,
        elapsed: &Elapsed,
        id: Id,
        file: &OpenFile,
    ) -> Restored<OwnedFd> {
        let through = self.mount_namespaces.path(world, id, file)?;
        let flags = OFlags::from_bits_retain(file.flags).difference(OPEN_ONLY) | OFlags::CLOEXEC | OFlags::NOCTTY;
        let path = through.as_deref().unwrap_or(&file.path);
        match &file.what {
            OpenFileKind::Unsupported(kind) => {
                Err(Refusal::new(path_text(file), format!("a {kind} cannot be restored")))
            }
            OpenFileKind::Regular { inode } => {
                let flags = flags.difference(MADE_NAMELESS);
                let inodes = &mut self.inodes;
                let fd = match &through {
                    Some(path) => inodes.open_through(world, host, self.base, *inode, flags, path)?,
                    None => inodes.open(world, host, self.base, *inode, flags)?,
                };
                at_position(fd, file)
            }
            OpenFileKind::Directory => at_position(open_path(file, path, flags | OFlags::DIRECTORY)?, file),
            OpenFileKind::Device { rdev } | OpenFileKind::Console { rdev } => device(file, path, flags, *rdev),
            OpenFileKind::Path => open_path(file, path, flags | OFlags::PATH),
            OpenFileKind::Pseudo => at_position(pseudo(file, path, flags)?, file),
            OpenFileKind::OfProcess { .. } => process_files::stand_in(),
            OpenFileKind::Pipe { inode } => self.pipe(world, *inode)?.end(file.flags),
            OpenFileKind::EventFd { count, semaphore } => event_fd(*count, *semaphore, flags),
            OpenFileKind::Epoll { .. } => rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)
                .or_refuse(|| "epoll descriptor"),
            OpenFileKind::TimerFd {
                clock,
                value,
                interval,
                ticks,
                settime_flags,
            } => timer_fd(elapsed, flags, *clock, (*value, *interval), *ticks, *settime_flags),
            OpenFileKind::Socket { socket } => self.namespaces.in_network_of(world, *socket, || {
                self.sockets.open(world, host, elapsed, file, *socket)
            }),
            OpenFileKind::SignalFd { mask } => signal_fd(*mask, flags),
            OpenFileKind::PosixQueue { queue } => self.queues.open(world, &self.namespaces, *queue, file.flags),
            OpenFileKind::Inotify { .. } => self.inotifies.open(id, flags),
            OpenFileKind::IoUring => self.ring(world, host, elapsed, id, flags),
            OpenFileKind::PtyMaster { terminal } => self.terminals.master(*terminal),
            OpenFileKind::PtySlave { terminal, rdev } => self.terminals.slave(*terminal, *rdev, flags),
        }
    }

    fn ring(&mut self, world: &World, host: &dyn Host, elapsed: &Elapsed, id: Id, flags: OFlags) -> Restored<OwnedFd> {
        let content = world
            .rings
            .get(&id)
            .ok_or_else(|| Refusal::new("ring of io_uring", "there is no record of it"))?;
        let eventfd = content.record.eventfd;
        if eventfd != 0 {
            self.ensure(world, host, elapsed, eventfd)?;
        }
        io_uring::make(host, content, flags, self.descriptor(eventfd).map(AsFd::as_fd))
    }

    fn pipe(&mut self, world: &World, inode: Id) -> Restored<&mut HeldPipe> {
        use std::collections::btree_map::Entry;
        match self.pipes.entry(inode) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let content = world
                    .pipes
                    .get(&inode)
                    .ok_or_else(|| Refusal::new("pipe", "there is no record of it"))?;
                Ok(entry.insert(HeldPipe::make(content, self.base)?))
            }
        }
    }
}

fn path_text(file: &OpenFile) -> String {
    String::from_utf8_lossy(&file.path).into_owned()
}

fn open_path(file: &OpenFile, path: &[u8], flags: OFlags) -> Restored<OwnedFd> {
    open(OsStr::from_bytes(path), flags, Mode::empty()).or_refuse(|| path_text(file))
}

fn at_position(fd: OwnedFd, file: &OpenFile) -> Restored<OwnedFd> {
    if file.position != 0 {
        seek(&fd, SeekFrom::Start(file.position)).or_refuse(|| path_text(file))?;
    }
    Ok(fd)
}

/// A device is opened by its name, which must still be that device.
fn device(file: &OpenFile, path: &[u8], flags: OFlags, rdev: u64) -> Restored<OwnedFd> {
    let fd = open_path(file, path, flags)?;
    let found = fstat(&fd).or_refuse(|| path_text(file))?.st_rdev;
    let wanted = rustix::fs::makedev((rdev >> 20) as u32, (rdev & 0xF_FFFF) as u32);
    if found != wanted {
        return Err(Refusal::new(path_text(file), "it is another device now"));
    }
    Ok(fd)
}

/// File systems whose files the kernel makes as they are read (include/uapi/linux/magic.h): proc, sysfs, cgroup2.
const PSEUDO: [i64; 3] = [0x9FA0, 0x6265_6572, 0x6367_7270];

/// A file that the kernel makes is opened by its name, where there must still be such a file system.
fn pseudo(file: &OpenFile, path: &[u8], flags: OFlags) -> Restored<OwnedFd> {
    let fd = open_path(file, path, flags)?;
    let found = fstatfs(&fd).or_refuse(|| path_text(file))?.f_type;
    if !PSEUDO.contains(&found) {
        return Err(Refusal::new(path_text(file), "it is on another file system now"));
    }
    Ok(fd)
}

fn event_fd(count: u64, semaphore: bool, flags: OFlags) -> Restored<OwnedFd> {
    let mut options = EventfdFlags::CLOEXEC;
    options.set(EventfdFlags::SEMAPHORE, semaphore);
    options.set(EventfdFlags::NONBLOCK, flags.contains(OFlags::NONBLOCK));
    let fd = eventfd(0, options).or_refuse(|| "eventfd")?;
    if count != 0 {
        rustix::io::write(&fd, &count.to_ne_bytes()).or_refuse(|| "eventfd counter")?;
    }
    Ok(fd)
}

/// `TFD_IOC_SET_TICKS`: `_IOW('T', 0, __u64)` (include/uapi/linux/timerfd.h).
const TFD_IOC_SET_TICKS: libc::Ioctl = 0x4008_5400;
const TFD_TIMER_ABSTIME: u32 = 1;

fn timer_fd(
    elapsed: &Elapsed,
    flags: OFlags,
    clock: i32,
    (value, interval): (u64, u64),
    ticks: u64,
    settime_flags: u32,
) -> Restored<OwnedFd> {
    let what = || "timerfd";
    let options = libc::TFD_CLOEXEC | (flags & OFlags::NONBLOCK).bits() as i32;
    // SAFETY: takes numbers and returns a new descriptor.
    let fd = owned(unsafe { libc::timerfd_create(clock, options) }).or_refuse(what)?;
    if value != 0 {
        let absolute = settime_flags & TFD_TIMER_ABSTIME != 0;
        let first = match (absolute, clock) {
            (false, _) => elapsed.remaining(value),
            (true, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM) => elapsed.then.realtime as u64 + value,
            (true, libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM) => elapsed.then.boottime + value,
            (true, _) => elapsed.then.monotonic + value,
        };
        let setting = interval_and_value(interval, first, 1);
        // SAFETY: the setting is a live `struct itimerspec` (two timespecs, 32 bytes); the old one is not asked for.
        let result = unsafe {
            libc::timerfd_settime(
                fd.as_raw_fd(),
                settime_flags as i32,
                setting.as_ptr().cast(),
                std::ptr::null_mut(),
            )
        };
        checked(result).or_refuse(what)?;
    }
    if ticks != 0 {
        // SAFETY: the ioctl reads a 64-bit number from the address, which is live.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), TFD_IOC_SET_TICKS, std::ptr::from_ref(&ticks)) };
        checked(result).or_refuse(|| "timerfd expirations")?;
    }
    Ok(fd)
}

fn signal_fd(mask: u64, flags: OFlags) -> Restored<OwnedFd> {
    let options = libc::SFD_CLOEXEC | (flags & OFlags::NONBLOCK).bits() as i32;
    // SAFETY: the kernel reads 8 bytes of mask from the address, which is live.
    let result = unsafe { libc::syscall(libc::SYS_signalfd4, -1, std::ptr::from_ref(&mask), 8, options) };
    owned(result as i32).or_refuse(|| "signalfd")
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(result: i32) -> io::Result<OwnedFd> {
    // SAFETY: a descriptor that a call just returned belongs to the caller alone.
    checked(result).map(|fd| unsafe { high::own(fd) })
}
