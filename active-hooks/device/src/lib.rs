//! The module's device node, `/dev/orthros`, for user land: typed ioctls, the region, frames of a dead kernel.
//!
//! What the numbers and structures mean is in [`shared_region::device`]. Everything here is safe to call: arguments
//! that the kernel reads or writes are owned structures or slices, and the region is only handed out as copies and
//! words, except for the Essential Context once its writer has closed it.
#![warn(missing_docs)]

mod error;
mod ioctl;
mod region;

pub use error::DeviceError;
pub use region::Region;

use rustix::fs::{Mode, OFlags};
use shared_region::{
    context::FrameRun,
    control::CommitPoint,
    device::{
        lazy_step, AddMemory, Adopt, Cache, Commit, Configure, Info, InotifyEvent, IoUring, Lazy, Mark, Netlink,
        PeerCredentials, Protect, Release, RescueArea, Rest, ResumeCall, StageBegin, StageCommit, StageWrite,
        TaskState, Tcp, TcpEnd, Test, Update, Wake, Warm, WriteReport, ADD_MEMORY, ADOPT, CACHE, COMMIT, CONFIGURE,
        INFO, INOTIFY_EVENT, IO_URING, LAZY, MARK, NETLINK, PATH, PEER_CREDENTIALS, PROTECT, RELEASE, RESCUE_AREA,
        REST, RESUME, STAGE_BEGIN, STAGE_COMMIT, STAGE_WRITE, TASK_STATE, TCP, TCP_END, TEST, UNPROTECT, UPDATE, WAKE,
        WARM, WRITE_REPORT,
    },
    standby::IDLE_BLOCK,
    timeline::Event,
    PAGE_SIZE,
};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// An open `/dev/orthros`.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
}

/// What [`Device::adopt`] did with a list of runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Frames that are now the process's own memory, in place.
    pub in_place: u64,
    /// Frames whose contents were copied into fresh pages.
    pub copied: u64,
}

impl Device {
    /// Opens the node and checks that the module speaks this program's ABI version.
    ///
    /// # Errors
    /// [`DeviceError`]: the node is missing (no module), not ours to open, or of another version.
    pub fn open() -> Result<Self, DeviceError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let fd = rustix::fs::open(PATH, flags, Mode::empty()).map_err(|e| DeviceError::Open(e.into()))?;
        let device = Self { fd };
        let info = device.info()?;
        if info.abi_version != u64::from(shared_region::ABI_VERSION) {
            return Err(DeviceError::Version(info.abi_version));
        }
        Ok(device)
    }

    /// The module's version, the region's address and the role of this kernel.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn info(&self) -> Result<Info, DeviceError> {
        let mut info = Info::default();
        ioctl::update::<INFO, Info>(&self.fd, "INFO", &mut info)?;
        Ok(info)
    }

    /// Maps the region read-only.
    ///
    /// # Errors
    /// [`DeviceError::Map`].
    pub fn region(&self) -> Result<Region, DeviceError> {
        Region::map(&self.fd)
    }

    /// Asks for a process, or every process of a name, to be kept through a failure.
    ///
    /// # Errors
    /// EEXIST, ESRCH (no such process), ENOSPC (the table is full).
    pub fn protect(&self, mut wish: Protect) -> Result<(), DeviceError> {
        ioctl::update::<PROTECT, Protect>(&self.fd, "PROTECT", &mut wish)
    }

    /// Takes a wish back; a `kind` of 0 takes all of them back.
    ///
    /// # Errors
    /// ENOENT if there was none.
    pub fn unprotect(&self, mut wish: Protect) -> Result<(), DeviceError> {
        ioctl::update::<UNPROTECT, Protect>(&self.fd, "UNPROTECT", &mut wish)
    }

    /// Adds and onlines `size` bytes of the dead kernel's RAM from physical address `start` on. Both are multiples
    /// of the memory block size.
    ///
    /// # Errors
    /// EPERM unless the salvage gate is open; EEXIST if a resource is in the way.
    pub fn add_memory(&self, start: u64, size: u64) -> Result<AddMemory, DeviceError> {
        let mut request = AddMemory {
            start,
            size,
            ..AddMemory::default()
        };
        ioctl::update::<ADD_MEMORY, AddMemory>(&self.fd, "ADD_MEMORY", &mut request)?;
        Ok(request)
    }

    /// Hands frames to a process as anonymous memory. `runs` is the payload of a record of kind `Frames`, read by
    /// the kernel where it lies.
    ///
    /// # Errors
    /// EEXIST if a page is there already, EFAULT outside a private mapping, EPERM if a frame is not withheld; the
    /// error names the run at which the module stopped.
    pub fn adopt(&self, pid: u32, runs: &[u8]) -> Result<Adopted, DeviceError> {
        let mut request = Adopt {
            pid: u64::from(pid),
            runs: runs.as_ptr() as u64,
            count: (runs.len() / FrameRun::SIZE) as u64,
            ..Adopt::default()
        };
        ioctl::update::<ADOPT, Adopt>(&self.fd, "ADOPT", &mut request).map_err(|error| {
            let at = usize::try_from(request.stopped_at).unwrap_or(usize::MAX);
            let address = FrameRun::iter(runs).nth(at).map_or(0, |run| run.va);
            error.at_address(address)
        })?;
        Ok(Adopted {
            in_place: request.adopted,
            copied: request.copied,
        })
    }

    /// Hands frames to a stopped process that gets them when it needs them, from [`Device::hold`] on in any case soon.
    /// `runs` as for [`Device::adopt`], ascending, of kinds OWN and HUGE. Returns how many frames there are.
    ///
    /// # Errors
    /// As [`Device::adopt`]; also if this kernel does not offer what it takes. Nothing has happened then.
    pub fn adopt_lazily(&self, pid: u32, runs: &[u8]) -> Result<u64, DeviceError> {
        let mut request = Lazy {
            step: lazy_step::BEGIN,
            pid: u64::from(pid),
            runs: runs.as_ptr() as u64,
            count: (runs.len() / FrameRun::SIZE) as u64,
            ..Lazy::default()
        };
        ioctl::update::<LAZY, Lazy>(&self.fd, "LAZY", &mut request)?;
        Ok(request.pages)
    }

    /// Makes frames pages of a file that its disk does not have yet; `runs` name whole pages within its size. Returns how
    /// many pages there are in the order of the runs, how many of them are copies, and why it is not all of them.
    pub fn cache(&self, file: BorrowedFd<'_>, runs: &[FrameRun]) -> (u64, u64, Option<DeviceError>) {
        let bytes: Vec<u8> = runs.iter().flat_map(|run| run.to_bytes()).collect();
        let mut request = Cache {
            fd: file.as_raw_fd() as u64,
            runs: bytes.as_ptr() as u64,
            count: runs.len() as u64,
            ..Cache::default()
        };
        let done = ioctl::update::<CACHE, Cache>(&self.fd, "CACHE", &mut request);
        (request.pages, request.copied, done.err())
    }

    /// Puts frames into the cache of a file whose disk has what is in them, if the file has this size and version still.
    /// Returns how many are there, and why it is not all of the runs.
    pub fn warm(&self, file: BorrowedFd<'_>, runs: &[FrameRun], size: u64, version: u64) -> (u64, Option<DeviceError>) {
        let bytes: Vec<u8> = runs.iter().flat_map(|run| run.to_bytes()).collect();
        let mut request = Warm {
            fd: file.as_raw_fd() as u64,
            runs: bytes.as_ptr() as u64,
            count: runs.len() as u64,
            size,
            version,
            ..Warm::default()
        };
        let done = ioctl::update::<WARM, Warm>(&self.fd, "WARM", &mut request);
        (request.pages, done.err())
    }

    /// The number that every change of a file increments, from now on at the latest.
    ///
    /// # Errors
    /// EOPNOTSUPP if it has none.
    pub fn version(&self, file: BorrowedFd<'_>) -> Result<u64, DeviceError> {
        let mut request = Warm {
            fd: file.as_raw_fd() as u64,
            ..Warm::default()
        };
        ioctl::update::<WARM, Warm>(&self.fd, "WARM", &mut request)?;
        Ok(request.version)
    }

    /// The last step before a process with memory from [`Device::adopt_lazily`] runs.
    ///
    /// # Errors
    /// ENOENT if it has none.
    pub fn hold(&self, pid: u32) -> Result<(), DeviceError> {
        let mut request = Lazy {
            step: lazy_step::HOLD,
            pid: u64::from(pid),
            ..Lazy::default()
        };
        ioctl::update::<LAZY, Lazy>(&self.fd, "LAZY", &mut request)
    }

    /// Prepares this kernel for [`Device::adopt_lazily`], ahead of time. Undone by [`Device::release`].
    ///
    /// # Errors
    /// EPERM in a kernel that is no successor and not to sleep; else what keeps this kernel from offering it.
    pub fn prepare_lazily(&self) -> Result<(), DeviceError> {
        let mut request = Lazy {
            step: lazy_step::READY,
            ..Lazy::default()
        };
        ioctl::update::<LAZY, Lazy>(&self.fd, "LAZY", &mut request)
    }

    /// At first waits until every process has its memory. Then gives frames that nobody adopted to the allocator, zeroed: those
    /// for which a moment is enough. To be repeated while some are left.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn release(&self) -> Result<Release, DeviceError> {
        let mut request = Release::default();
        ioctl::update::<RELEASE, Release>(&self.fd, "RELEASE", &mut request)?;
        Ok(request)
    }

    /// Sets the restart block of a thread that is stopped by ptrace.
    ///
    /// # Errors
    /// ESRCH, EINVAL, EBUSY if the thread is not stopped.
    pub fn resume_call(&self, mut call: ResumeCall) -> Result<(), DeviceError> {
        ioctl::update::<RESUME, ResumeCall>(&self.fd, "RESUME", &mut call)
    }

    /// Sets start time and CPU time of a thread that is stopped by ptrace.
    ///
    /// # Errors
    /// ESRCH, EBUSY if the thread is not stopped.
    pub fn task_state(&self, mut state: TaskState) -> Result<(), DeviceError> {
        ioctl::update::<TASK_STATE, TaskState>(&self.fd, "TASK_STATE", &mut state)
    }

    /// Tells the module that this kernel slept and has been woken to take over.
    ///
    /// # Errors
    /// EPERM unless a failover is being handed over.
    pub fn wake(&self) -> Result<(), DeviceError> {
        ioctl::update::<WAKE, Wake>(&self.fd, "WAKE", &mut Wake::default())
    }

    /// Holds free memory until [`Device::wake`]. Returns the bytes.
    ///
    /// # Errors
    /// EPERM in a kernel that is not to sleep.
    pub fn rest(&self) -> Result<u64, DeviceError> {
        let mut rest = Rest::default();
        ioctl::update::<REST, Rest>(&self.fd, "REST", &mut rest)?;
        Ok(rest.blocks * IDLE_BLOCK)
    }

    /// Stamps an event of the timeline with the TSC of this moment.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn stamp(&self, event: Event) -> Result<(), DeviceError> {
        self.mark(Mark {
            event: event as u64,
            phase: u64::MAX,
            ..Mark::default()
        })
    }

    /// Stamps, moves the successor's phase, and counts resumed processes.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn mark(&self, mut mark: Mark) -> Result<(), DeviceError> {
        ioctl::update::<MARK, Mark>(&self.fd, "MARK", &mut mark)
    }

    /// Goes to a level of the commit point, before the first act of that level.
    ///
    /// # Errors
    /// ECANCELED if this kernel is being replaced.
    pub fn commit(&self, level: CommitPoint) -> Result<(), DeviceError> {
        let mut request = Commit { level: level as u64 };
        ioctl::update::<COMMIT, Commit>(&self.fd, "COMMIT", &mut request)
    }

    /// Stores a record stream in the report area.
    ///
    /// # Errors
    /// EFBIG if it is larger than the area.
    pub fn write_report(&self, stream: &[u8]) -> Result<(), DeviceError> {
        let mut request = WriteReport {
            data: stream.as_ptr() as u64,
            length: stream.len() as u64,
        };
        ioctl::update::<WRITE_REPORT, WriteReport>(&self.fd, "WRITE_REPORT", &mut request)
    }

    /// Begins to stage a kernel: empties a slot.
    ///
    /// # Errors
    /// EBUSY while a failover is being handed over.
    pub fn stage_begin(&self) -> Result<StageBegin, DeviceError> {
        let mut reply = StageBegin::default();
        ioctl::update::<STAGE_BEGIN, StageBegin>(&self.fd, "STAGE_BEGIN", &mut reply)?;
        Ok(reply)
    }

    /// Writes a piece into the slot, at `offset` bytes from its start.
    ///
    /// # Errors
    /// EBADFD without [`Device::stage_begin`], EFBIG if it does not fit.
    pub fn stage_write(&self, offset: u64, piece: &[u8]) -> Result<(), DeviceError> {
        let mut request = StageWrite {
            offset,
            data: piece.as_ptr() as u64,
            length: piece.len() as u64,
        };
        ioctl::update::<STAGE_WRITE, StageWrite>(&self.fd, "STAGE_WRITE", &mut request)
    }

    /// Makes what was written the kernel that takes over next, with this command line. Returns the number of the request,
    /// which the backup OS answers.
    ///
    /// # Errors
    /// EBADFD without [`Device::stage_begin`], EINVAL if the pieces do not lie in the slot.
    pub fn stage_commit(&self, mut request: StageCommit, cmdline: &[u8]) -> Result<u64, DeviceError> {
        request.cmdline = cmdline.as_ptr() as u64;
        request.cmdline_len = cmdline.len() as u64;
        ioctl::update::<STAGE_COMMIT, StageCommit>(&self.fd, "STAGE_COMMIT", &mut request)?;
        Ok(request.request)
    }

    /// Makes the kernel fail, or prepares a fault.
    ///
    /// # Errors
    /// EPERM unless the module was loaded with `allow_test=1`.
    pub fn test(&self, mut test: Test) -> Result<(), DeviceError> {
        ioctl::update::<TEST, Test>(&self.fd, "TEST", &mut test)
    }

    /// Sets whom `SO_PEERCRED` names. The groups must stay where they are during the call.
    ///
    /// # Errors
    /// ESRCH if there is no such process, ENOTCONN if there is no peer.
    pub fn peer_credentials(&self, mut request: PeerCredentials) -> Result<(), DeviceError> {
        ioctl::update::<PEER_CREDENTIALS, PeerCredentials>(&self.fd, "PEER_CREDENTIALS", &mut request)
    }

    /// Does with a connection of TCP what no system call does.
    ///
    /// # Errors
    /// EINVAL if it is none, or not in the state that the step begins with.
    pub fn tcp(&self, mut request: Tcp) -> Result<(), DeviceError> {
        ioctl::update::<TCP, Tcp>(&self.fd, "TCP", &mut request)
    }

    /// Lets a socket of TCP be as after a connection.
    ///
    /// # Errors
    /// As for the request.
    pub fn tcp_end(&self, mut request: TcpEnd) -> Result<(), DeviceError> {
        ioctl::update::<TCP_END, TcpEnd>(&self.fd, "TCP_END", &mut request)
    }

    /// Puts a message at the end of the queue of a socket of netlink. It must stay where it is during the call.
    ///
    /// # Errors
    /// As for the request.
    pub fn netlink(&self, mut request: Netlink) -> Result<(), DeviceError> {
        ioctl::update::<NETLINK, Netlink>(&self.fd, "NETLINK", &mut request)
    }

    /// Puts an event at the end of the queue of inotify. The name must stay where it is during the call.
    ///
    /// # Errors
    /// EINVAL if the descriptor is another, ENOSPC if the queue is full.
    pub fn inotify_event(&self, mut request: InotifyEvent) -> Result<(), DeviceError> {
        ioctl::update::<INOTIFY_EVENT, InotifyEvent>(&self.fd, "INOTIFY_EVENT", &mut request)
    }

    /// Lets a ring of io_uring go on counting from where another was.
    ///
    /// # Errors
    /// EINVAL if the descriptor is another or the ring's memory says something else, EBUSY if the ring has been used.
    pub fn io_uring(&self, mut request: IoUring) -> Result<(), DeviceError> {
        ioctl::update::<IO_URING, IoUring>(&self.fd, "IO_URING", &mut request)
    }

    /// Sets a deadline.
    ///
    /// # Errors
    /// EINVAL if it is out of range.
    pub fn configure(&self, mut request: Configure) -> Result<(), DeviceError> {
        ioctl::update::<CONFIGURE, Configure>(&self.fd, "CONFIGURE", &mut request)
    }

    /// Says where data of files is to be written if no kernel can be booted any more.
    ///
    /// # Errors
    /// EINVAL if it does not lie on the disk.
    pub fn rescue_area(&self, mut area: RescueArea) -> Result<(), DeviceError> {
        ioctl::update::<RESCUE_AREA, RescueArea>(&self.fd, "RESCUE_AREA", &mut area)
    }

    /// Looks for a moment in which all protected threads can be stopped exactly, and hands the machine over in it. Does
    /// not return then. What was found is in `request` in any case.
    ///
    /// # Errors
    /// EAGAIN if a thread was in the way until the deadline, ENODEV if not armed, ETIMEDOUT if nobody took over.
    pub fn update(&self, request: &mut Update) -> Result<(), DeviceError> {
        ioctl::update::<UPDATE, Update>(&self.fd, "UPDATE", request)
    }

    /// Keeps others from calling this until the value is dropped; whether nobody else does.
    pub fn lock(&self) -> bool {
        rustix::fs::flock(&self.fd, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// Reads the contents of withheld frames, from frame number `pfn` on, filling `bytes`.
    ///
    /// # Errors
    /// [`DeviceError::Frame`] if a frame is not withheld.
    pub fn read_frames(&self, pfn: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let mut done = 0;
        while done < bytes.len() {
            let at = pfn * PAGE_SIZE + done as u64;
            let frame = at / PAGE_SIZE;
            match rustix::io::pread(&self.fd, &mut bytes[done..], at) {
                Ok(0) => {
                    return Err(DeviceError::Frame {
                        frame,
                        source: rustix::io::Errno::NODATA.into(),
                    })
                }
                Ok(read) => done += read,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return Err(DeviceError::Frame {
                        frame,
                        source: error.into(),
                    })
                }
            }
        }
        Ok(())
    }
}
