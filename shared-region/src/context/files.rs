//! Descriptors, open files and what is behind them.

use super::Id;
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

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
    /// A socket.
    Socket {
        /// Socket id.
        socket: Id,
    },
    /// A file of `/proc`, `/sys` or a control group whose content the kernel makes as it is read, reopened by path.
    Pseudo,
    /// inotify.
    Inotify {
        /// What is watched, by ascending number.
        watches: Vec<InotifyWatch>,
        /// The number after the last one that was given.
        next: u32,
    },
    /// A POSIX message queue.
    PosixQueue {
        /// Inode id of the queue.
        queue: Id,
    },
    /// The master of a pseudo terminal.
    PtyMaster {
        /// The pseudo terminal's id.
        terminal: Id,
    },
    /// A slave of a pseudo terminal.
    PtySlave {
        /// The pseudo terminal's id.
        terminal: Id,
        /// What it was opened by, major << 20 | minor: itself, or `/dev/tty` (5, 0).
        rdev: u64,
    },
    /// A file or directory of `/proc` that belongs to a process, reopened by path when all processes are there.
    OfProcess {
        /// The process's id.
        process: u32,
        /// Whether the file was read to its end.
        ended: bool,
        /// Of a list of mappings, the address at which it goes on; 0 of all others.
        address: u64,
    },
    /// A ring of io_uring ([`super::IoUring`]).
    IoUring,
}

/// Locks on a file that belong to one owner ([`crate::record::Kind::FileLocks`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLocks {
    /// The owner if that is a file table, as of POSIX locks; 0 if it is the open file.
    pub table: Id,
    /// The locks.
    pub locks: Vec<FileLock>,
}

/// A lock on a file, as `flock` and `fcntl` set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLock {
    /// Which call it is of.
    pub kind: FileLockKind,
    /// Nobody else may have one: LOCK_EX, F_WRLCK.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Bytes; 0 for all that follow.
    pub length: u64,
}

/// Kinds of locks on files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileLockKind {
    /// `flock`, of the whole file; of an open file.
    #[default]
    Flock,
    /// `F_SETLK`, of a file table.
    Posix,
    /// `F_OFD_SETLK`, of an open file.
    OpenFile,
    /// `F_SETLEASE`, of an open file; of the whole file.
    Lease,
}

/// A watch of inotify.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InotifyWatch {
    /// Its number.
    pub wd: u32,
    /// IN_* events, and IN_EXCL_UNLINK and IN_ONESHOT.
    pub mask: u32,
    /// Inode id of what is watched.
    pub inode: Id,
    /// Inode number.
    pub number: u64,
    /// A path of it.
    pub path: Vec<u8>,
}

/// An event of inotify that nobody has read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InotifyEvent {
    /// Number of the watch, -1 for the end of the queue's room.
    pub wd: i32,
    /// IN_* events, and bit 27 if it is one of a file in the directory that is watched.
    pub mask: u32,
    /// What ties the two ends of a renaming together.
    pub cookie: u32,
    /// Name in the directory, or empty.
    pub name: Vec<u8>,
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

/// Where the content of a file lies on a disk, as the dead kernel knew it ([`crate::record::Kind::DiskContent`]). With
/// it, everything about the content is known: what is neither here nor among the frames reads as zeros; where both say
/// something, the frames hold. The blocks are to be read before anything is written to the file system, and those of a
/// deleted file before it is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskContent {
    /// UUID of the file system.
    pub uuid: [u8; 16],
    /// Written blocks, by ascending offset.
    pub runs: Vec<DiskRun>,
}

/// Bytes of a file that lie together on its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRun {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Offset on the device, in bytes.
    pub at: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A name that a deleted file had and that nobody has now ([`crate::record::Kind::NameGone`]). The disk may still know
/// the file by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameGone {
    /// The path.
    pub path: Vec<u8>,
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

/// A file of which pages are kept that its disk has as well ([`crate::record::Kind::CachedFile`]), so that nobody need read
/// them again. They follow as [`crate::record::Kind::CachedFrames`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedFile {
    /// Device number of the file system.
    pub device: u64,
    /// Inode number.
    pub number: u64,
    /// Generation.
    pub generation: u32,
    /// Bytes.
    pub size: u64,
    /// The number that every change of the file increments (`i_version`).
    pub version: u64,
}
