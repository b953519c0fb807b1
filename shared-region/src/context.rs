//! The Essential Context: what a process is, in terms of system-call ABI, hardware and protocols.
//!
//! Nothing here follows one kernel's structures. Ids of address spaces, file tables, open files and inodes are opaque
//! numbers, unique within one failover (two records that name the same id share the object). Paths are bytes without
//! a trailing NUL, as seen from the root of the mount namespace. Times are nanoseconds. All enums and structures are
//! append-only within a record version.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// An opaque object id.
pub type Id = u64;

/// The dead kernel and its clocks ([`crate::record::Kind::Machine`]).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -r` of the dead kernel.
    pub release: String,
    /// Its GNU build id.
    pub build_id: Vec<u8>,
    /// `uname -n`.
    pub hostname: String,
    /// `uname -v` domain name.
    pub domainname: String,
    /// CPUs that were online.
    pub cpus: u32,
    /// MemTotal in pages.
    pub total_ram_pages: u64,
    /// The clocks at one instant.
    pub clock: Clock,
    /// XCR0 at the time of the failure.
    pub xcr0: u64,
    /// Highest thread or process id in use.
    pub last_pid: u32,
}

/// All clocks at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// TSC of the instant.
    pub tsc: u64,
    /// TSC ticks in a second.
    pub tsc_hz: u64,
    /// CLOCK_MONOTONIC. Not earlier than any reading a process can have taken.
    pub monotonic: u64,
    /// CLOCK_BOOTTIME.
    pub boottime: u64,
    /// CLOCK_REALTIME.
    pub realtime: i64,
    /// TAI − UTC in seconds.
    pub tai_offset: i32,
    /// Frequency correction as `adjtimex` shows it (ppm × 2^16).
    pub frequency: i64,
}

/// A mount of the old system that a protected process can see ([`crate::record::Kind::Mount`]).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Mount id.
    pub id: u32,
    /// Mount id of the parent, its own for the root.
    pub parent: u32,
    /// `mnt_devname`: `/dev/vda1`, `tmpfs`.
    pub source: Vec<u8>,
    /// `ext4`, `tmpfs` ….
    pub fstype: Vec<u8>,
    /// Path within the file system that is mounted.
    pub root: Vec<u8>,
    /// Where it is mounted.
    pub mountpoint: Vec<u8>,
    /// MS_* flags of the mount and the superblock.
    pub flags: u64,
    /// Device number (`st_dev`, major << 20 | minor).
    pub device: u64,
}

/// A protected process ([`crate::record::Kind::Process`]).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the initial pid namespace.
    pub tgid: u32,
    /// Parent, as `getppid` would say.
    pub ppid: u32,
    /// Process group.
    pub pgid: u32,
    /// Session.
    pub sid: u32,
    /// 0 unless the process is a zombie; then `wait` status in `exit_status`.
    pub zombie: bool,
    /// Status as `wait4` would give it.
    pub exit_status: u32,
    /// Signal sent to the parent at exit.
    pub exit_signal: u32,
    /// CLOCK_BOOTTIME when it started.
    pub start_time: u64,
    /// Address space.
    pub mm: Id,
    /// File table; shared by processes that named CLONE_FILES.
    pub files: Id,
    /// `fs_struct`; shared by processes that named CLONE_FS.
    pub fs: Id,
    /// `sighand_struct`.
    pub sighand: Id,
    /// Working directory.
    pub cwd: Vec<u8>,
    /// Root directory.
    pub root: Vec<u8>,
    /// File-mode creation mask.
    pub umask: u32,
    /// RLIMIT_* as (soft, hard), indexed by resource number.
    pub rlimits: Vec<(u64, u64)>,
    /// Signal dispositions, for signal `i + 1`.
    pub sigactions: Vec<SigAction>,
    /// Signals pending for the process, oldest first.
    pub pending: Vec<SigInfo>,
    /// Pending signals without queued info, as a mask (bit 0 = signal 1).
    pub pending_mask: u64,
    /// ITIMER_REAL, VIRTUAL, PROF as (value, interval).
    pub itimers: [(u64, u64); 3],
    /// POSIX timers.
    pub posix_timers: Vec<PosixTimer>,
    /// `oom_score_adj`.
    pub oom_score_adj: i32,
    /// PR_SET_CHILD_SUBREAPER.
    pub child_subreaper: bool,
    /// Stopped by a signal (job control), with that signal.
    pub stopped_by: u32,
    /// cgroup v2 path.
    pub cgroup: Vec<u8>,
    /// Controlling terminal's path, empty if none.
    pub tty: Vec<u8>,
    /// `kernel.core_pattern`-independent dump filter (`/proc/PID/coredump_filter`).
    pub coredump_filter: u32,
}

/// What a signal does (`struct sigaction` of the kernel ABI).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigAction {
    /// SIG_DFL, SIG_IGN or the handler's address.
    pub handler: u64,
    /// SA_*.
    pub flags: u64,
    /// Address of the restorer.
    pub restorer: u64,
    /// Signals blocked meanwhile.
    pub mask: u64,
}

/// A queued signal: `siginfo_t`, 128 bytes of the ABI, trailing zeros cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigInfo(pub Vec<u8>);

/// A POSIX timer (`timer_create`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixTimer {
    /// Timer id.
    pub id: i32,
    /// Clock.
    pub clock: i32,
    /// Nanoseconds left until it fires, 0 if disarmed.
    pub value: u64,
    /// Interval.
    pub interval: u64,
    /// SIGEV_*.
    pub notify: i32,
    /// Signal.
    pub signo: i32,
    /// `sigev_value`.
    pub sigval: u64,
    /// Thread for SIGEV_THREAD_ID.
    pub notify_tid: u32,
    /// Overruns so far.
    pub overrun: i32,
}

/// A thread ([`crate::record::Kind::Thread`]).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    /// Thread id.
    pub tid: u32,
    /// Process id.
    pub tgid: u32,
    /// Name, up to 15 bytes.
    pub comm: Vec<u8>,
    /// `struct user_regs_struct` up to gs: r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs
    /// eflags rsp ss fs_base gs_base ds es fs gs. Already as they have to be set: an interrupted call is translated.
    pub regs: [u64; 27],
    /// XSAVE area in the standard format, as NT_X86_XSTATE takes it.
    pub xstate: Vec<u8>,
    /// Where it was caught.
    pub caught: Caught,
    /// What has to be set up beyond registers so that an interrupted call goes on exactly.
    pub resume: Resume,
    /// Blocked signals.
    pub blocked: u64,
    /// Mask to be restored after the signal a `ppoll`-like call was waiting with, if any.
    pub saved_blocked: Option<u64>,
    /// Signals pending for the thread, oldest first.
    pub pending: Vec<SigInfo>,
    /// Pending signals without queued info, as a mask.
    pub pending_mask: u64,
    /// `sigaltstack`: address, size, flags.
    pub sigaltstack: (u64, u64, u32),
    /// `set_robust_list` head.
    pub robust_list: u64,
    /// `set_tid_address`.
    pub clear_child_tid: u64,
    /// rseq area: address, length, signature; address 0 if not registered.
    pub rseq: (u64, u32, u32),
    /// Scheduling.
    pub sched: Sched,
    /// CPU affinity mask, least significant word first.
    pub affinity: Vec<u64>,
    /// Credentials.
    pub creds: Creds,
    /// seccomp.
    pub seccomp: Seccomp,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
    /// PR_SET_PDEATHSIG.
    pub pdeath_signal: i32,
    /// PR_SET_TIMERSLACK in nanoseconds.
    pub timer_slack: u64,
    /// I/O priority as `ioprio_get` gives it; 0 if never set.
    pub ioprio: u32,
    /// `personality`.
    pub personality: u32,
    /// NUMA policy: mode with flags, and node mask; mode 0 is the default.
    pub mempolicy: (u32, Vec<u64>),
    /// Speculation controls and other PR_* states that differ from the default, by name, when they cannot be restored.
    pub unusual: Vec<String>,
    /// CPU time in user mode, in nanoseconds.
    pub utime: u64,
    /// CPU time in the kernel, in nanoseconds.
    pub stime: u64,
}

/// Where a thread was when its kernel died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Caught {
    /// In user mode.
    #[default]
    User,
    /// In user mode, in the vDSO.
    Vdso,
    /// In a system call, by number.
    Syscall(u32),
    /// In the kernel for another reason (page fault, exit to user mode).
    Kernel,
}

/// What a system call that was interrupted needs beyond its registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resume {
    /// Nothing: the registers say it all (user mode, a restart from the start, or a result).
    #[default]
    Registers,
    /// `nanosleep`/`clock_nanosleep` relative: go on until `expires` (absolute, on `clock`), then write the rest to `remain`.
    Sleep {
        /// Clock.
        clock: i32,
        /// Absolute expiry.
        expires: u64,
        /// Address of the `struct timespec` for the remainder, 0 if none.
        remain: u64,
    },
    /// `futex(FUTEX_WAIT…)` with a relative time-out.
    Futex {
        /// Address of the futex word.
        uaddr: u64,
        /// Expected value.
        val: u32,
        /// FUTEX_PRIVATE_FLAG, FUTEX_CLOCK_REALTIME.
        flags: u32,
        /// Bit set.
        bitset: u32,
        /// Absolute expiry on CLOCK_MONOTONIC (or REALTIME by flag).
        expires: u64,
    },
    /// `poll` with a time-out.
    Poll {
        /// Address of the `struct pollfd` array.
        fds: u64,
        /// Number of entries.
        count: u32,
        /// Absolute expiry on CLOCK_MONOTONIC.
        expires: u64,
    },
}

/// Scheduling of a thread (`sched_setattr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sched {
    /// SCHED_*.
    pub policy: u32,
    /// SCHED_FLAG_RESET_ON_FORK.
    pub reset_on_fork: bool,
    /// Nice value.
    pub nice: i32,
    /// Real-time priority.
    pub rt_priority: u32,
    /// SCHED_DEADLINE runtime, deadline, period.
    pub deadline: (u64, u64, u64),
}

/// Credentials of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creds {
    /// Real, effective, saved, file-system user id.
    pub uid: [u32; 4],
    /// The same for groups.
    pub gid: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capabilities: inheritable, permitted, effective, bounding, ambient.
    pub caps: [u64; 5],
    /// `PR_SET_SECUREBITS`.
    pub securebits: u32,
    /// LSM label of the task, empty if unconfined.
    pub lsm: Vec<u8>,
    /// User namespace differs from the initial one.
    pub foreign_user_ns: bool,
    /// Keyrings, by name, that differ from the default.
    pub keyrings: Vec<String>,
}

/// seccomp state of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seccomp {
    /// 0 off, 1 strict, 2 filter.
    pub mode: u32,
    /// Filters, oldest first; each is `struct sock_filter` instructions, 8 bytes each, with its SECCOMP_FILTER_FLAG_*.
    pub filters: Vec<(u32, Vec<u64>)>,
}

/// An address space ([`crate::record::Kind::AddressSpace`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressSpace {
    /// `prctl_mm_map` fields: start_code end_code start_data end_data start_brk brk start_stack arg_start arg_end env_start env_end.
    pub bounds: [u64; 11],
    /// The auxiliary vector, in (type, value) pairs flattened.
    pub auxv: Vec<u64>,
    /// Path of the executable.
    pub exe: Vec<u8>,
    /// Open-file id of the executable when its inode was deleted, else 0.
    pub exe_inode: Id,
    /// Address of the vDSO, 0 if there is none.
    pub vdso: u64,
    /// Bytes of the [vvar] mapping before it.
    pub vvar_size: u64,
    /// Dumpable (0, 1, 2).
    pub dumpable: u32,
    /// MCL_* of mlockall for the future.
    pub def_flags: u64,
    /// PR_SET_THP_DISABLE.
    pub thp_disable: bool,
    /// MEMBARRIER_CMD_REGISTER_* that were done.
    pub membarrier: u32,
}

/// What backs a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backing {
    /// Private anonymous memory.
    #[default]
    Anonymous,
    /// A file, private.
    FilePrivate,
    /// A file, shared.
    FileShared,
    /// Shared anonymous memory (shmem without a name), memfd or System V, by inode id.
    SharedMemory,
    /// The vDSO.
    Vdso,
    /// Its data pages.
    Vvar,
    /// Something that cannot be restored; the process is refused.
    Unsupported,
}

/// A mapping ([`crate::record::Kind::Mapping`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// PROT_*.
    pub prot: u32,
    /// What backs it.
    pub backing: Backing,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Inode id of what is mapped, 0 for anonymous memory.
    pub inode: Id,
    /// Whether the file was opened for writing (matters for a later mprotect of a shared mapping).
    pub writable_file: bool,
    /// MAP_GROWSDOWN, MAP_LOCKED, MAP_NORESERVE as in `mmap`.
    pub map_flags: u32,
    /// madvise values to apply, in order (MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK, MADV_HUGEPAGE …).
    pub advice: Vec<u32>,
    /// PR_SET_VMA_ANON_NAME, empty if none.
    pub name: Vec<u8>,
    /// Was locked with MLOCK_ONFAULT.
    pub lock_on_fault: bool,
    /// Protection key.
    pub pkey: u32,
    /// VM_* that have no name here, for the report.
    pub unusual: u64,
}

/// How a run of frames is handed over; the low 4 bits of [`FrameRun::word`].
pub mod frame_kind {
    /// One process's own page: adopted in place.
    pub const OWN: u64 = 0;
    /// Shared copy-on-write with another protected process: adopted once, in the owner that has it as `OWN`, and
    /// inherited from there by fork where the relation allows; else copied from the frame.
    pub const SHARED: u64 = 1;
    /// Page of a file or shmem object: content is put back through the file. `va` is the page index × 4096.
    pub const FILE: u64 = 2;
    /// As `FILE`, and dirty.
    pub const FILE_DIRTY: u64 = 3;
    /// Part of a transparent huge page that is whole and exclusive: adopted in place.
    pub const HUGE: u64 = 4;
    /// KSM page: copied.
    pub const KSM: u64 = 5;
}

/// Consecutive page frames behind consecutive pages ([`crate::record::Kind::Frames`]): 16 bytes, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRun {
    /// First address (or byte offset in the file), page aligned.
    pub va: u64,
    /// pfn << 24 | (pages − 1) << 4 | [`frame_kind`]; pages ≤ 2^20.
    pub word: u64,
}

impl FrameRun {
    /// Bytes of a run in memory.
    pub const SIZE: usize = 16;
    /// Most pages in one run.
    pub const MAX_PAGES: u64 = 1 << 20;

    /// Puts a run together. `pages` is 1…[`Self::MAX_PAGES`].
    #[inline]
    pub const fn new(va: u64, pfn: u64, pages: u64, kind: u64) -> Self {
        Self {
            va,
            word: pfn << 24 | (pages.wrapping_sub(1) & 0xF_FFFF) << 4 | (kind & 0xF),
        }
    }

    /// First page frame number.
    #[inline]
    pub const fn pfn(self) -> u64 {
        self.word >> 24
    }

    /// Number of pages.
    #[inline]
    pub const fn pages(self) -> u64 {
        ((self.word >> 4) & 0xF_FFFF) + 1
    }

    /// One of [`frame_kind`].
    #[inline]
    pub const fn kind(self) -> u64 {
        self.word & 0xF
    }

    /// As it lies in memory.
    #[inline]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.va.to_le_bytes());
        bytes[8..].copy_from_slice(&self.word.to_le_bytes());
        bytes
    }

    /// The runs of a [`crate::record::Kind::Frames`] payload. A torn run at the end is left out.
    pub fn iter(payload: &[u8]) -> impl Iterator<Item = Self> + '_ {
        payload.chunks_exact(Self::SIZE).map(|chunk| {
            let (va, word) = chunk.split_at(8);
            Self {
                va: u64::from_le_bytes(va.try_into().unwrap_or_default()),
                word: u64::from_le_bytes(word.try_into().unwrap_or_default()),
            }
        })
    }
}

/// A table of file descriptors ([`crate::record::Kind::FileTable`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTable {
    /// (descriptor, open-file id, close-on-exec), ascending.
    pub descriptors: Vec<(u32, Id, bool)>,
}

/// An open file description ([`crate::record::Kind::OpenFile`]).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenFile {
    /// What it is.
    pub what: OpenFileKind,
    /// O_* status and access flags.
    pub flags: u32,
    /// Offset in bytes.
    pub position: u64,
    /// `F_SETOWN`: type (F_OWNER_TID, PID, PGRP), id; and `F_SETSIG`.
    pub owner: (u32, i32, i32),
    /// Path, for messages and for what is reopened by name.
    pub path: Vec<u8>,
}

/// Kinds of open files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum OpenFileKind {
    /// Not restorable; the text names it.
    Unsupported(String),
    /// A regular file, by inode id.
    Regular {
        /// Inode id.
        inode: Id,
    },
    /// A directory, reopened by path.
    #[default]
    Directory,
    /// A character device that has no state of its own (null, zero, full, random, urandom), by device number.
    Device {
        /// major << 20 | minor.
        rdev: u64,
    },
    /// An end of a pipe or FIFO.
    Pipe {
        /// Inode id of the pipe.
        inode: Id,
    },
    /// eventfd.
    EventFd {
        /// Counter.
        count: u64,
        /// EFD_SEMAPHORE.
        semaphore: bool,
    },
    /// epoll.
    Epoll {
        /// What is watched.
        watches: Vec<EpollWatch>,
    },
    /// timerfd.
    TimerFd {
        /// Clock.
        clock: i32,
        /// Nanoseconds left until it fires, 0 if disarmed or already fired.
        value: u64,
        /// Interval.
        interval: u64,
        /// Expirations not yet read.
        ticks: u64,
        /// TFD_TIMER_ABSTIME and TFD_TIMER_CANCEL_ON_SET as set.
        settime_flags: u32,
    },
    /// signalfd.
    SignalFd {
        /// Signals taken by it.
        mask: u64,
    },
    /// Opened with O_PATH, by path.
    Path,
    /// The console or another terminal that the new system has by the same name and that carries no state to keep.
    Console {
        /// major << 20 | minor.
        rdev: u64,
    },
}

/// One entry of an epoll set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpollWatch {
    /// Descriptor number at the time of `epoll_ctl`.
    pub fd: u32,
    /// Open-file id.
    pub file: Id,
    /// EPOLL* events.
    pub events: u32,
    /// `epoll_data`.
    pub data: u64,
    /// Disabled by EPOLLONESHOT.
    pub fired: bool,
}

/// A file of a file system ([`crate::record::Kind::Inode`]); its cached pages follow as [`crate::record::Kind::Frames`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// Path, empty if deleted.
    pub path: Vec<u8>,
    /// Last path, for messages.
    pub last_path: Vec<u8>,
    /// Inode number.
    pub number: u64,
    /// Generation (NFS sense).
    pub generation: u32,
    /// Device number of the file system.
    pub device: u64,
    /// File-system type.
    pub fstype: Vec<u8>,
    /// File type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Link count, 0 if deleted.
    pub nlink: u32,
    /// atime, mtime, ctime in nanoseconds since 1970.
    pub times: [i64; 3],
    /// Whether anything about it may not have reached the disk.
    pub dirty: bool,
    /// Whether every page up to the size is among the frames.
    pub fully_cached: bool,
}

/// A shared-memory object without a file of its own to reopen ([`crate::record::Kind::SharedMemory`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedMemory {
    /// Bytes.
    pub size: u64,
    /// Name as `/proc/PID/maps` shows it (`/dev/zero`, `/memfd:x`, `/SYSV…`).
    pub name: Vec<u8>,
    /// memfd seals, if it is a memfd.
    pub seals: Option<u32>,
    /// Pages on swap, which are lost to this version.
    pub swapped: u64,
    /// Permissions.
    pub mode: u32,
}

/// A pipe or FIFO ([`crate::record::Kind::Pipe`]); the unread data follows as [`crate::record::Kind::Bytes`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipe {
    /// Path of a FIFO, empty for a pipe.
    pub path: Vec<u8>,
    /// Capacity in bytes (`F_GETPIPE_SZ`).
    pub capacity: u32,
    /// Lengths of the packets in the data, for O_DIRECT pipes; empty otherwise.
    pub packets: Vec<u32>,
    /// Readers and writers, protected or not.
    pub readers: u32,
    /// See `readers`.
    pub writers: u32,
}

/// Something that could not be saved ([`crate::record::Kind::Lost`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// What: `fd 5`, `mapping 7f00…`, `process`.
    pub object: String,
    /// Why.
    pub reason: String,
    /// Whether the process is refused for it.
    pub fatal: bool,
    /// The process's name.
    pub comm: String,
}

/// Why the kernel died ([`crate::record::Kind::Evidence`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The end of the kernel's log.
    pub dmesg: String,
    /// CPU that panicked, −1 if none did.
    pub panic_cpu: i64,
    /// Task that ran there.
    pub task: String,
    /// Return addresses found on its stack, as `symbol+offset`.
    pub stack: Vec<String>,
    /// `pid comm state` of every task.
    pub tasks: Vec<String>,
}

/// Numbers for the report ([`crate::record::Kind::Summary`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Processes recorded.
    pub processes: u32,
    /// Threads recorded.
    pub threads: u32,
    /// Processes that were protected but are refused.
    pub refused: u32,
    /// Frames to be adopted.
    pub own_frames: u64,
    /// Frames shared copy-on-write.
    pub shared_frames: u64,
    /// Frames of files.
    pub file_frames: u64,
    /// Frames marked as retained.
    pub retained_frames: u64,
}

/// What became of a process ([`crate::record::Kind::Outcome`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name.
    pub comm: String,
    /// Whether it runs again.
    pub resumed: bool,
    /// Why not, or what it had to do without.
    pub remarks: Vec<String>,
    /// Frames adopted in place.
    pub adopted: u64,
    /// Frames copied.
    pub copied: u64,
}
