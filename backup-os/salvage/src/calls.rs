//! System calls of x86_64 (`arch/x86/entry/syscalls/syscall_64.tbl`), and how each can be gone on with when it was
//! interrupted at any point: the one table of that knowledge.

/// How a call is gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the start: it has no effect before it completes, or one that is the same when it happens again.
    Restart,
    /// From the start while it sleeps, because what must not happen twice comes after everything that sleeps: a new
    /// descriptor, the old value of what was set, a moved position.
    Late,
    /// It can be neither repeated nor completed once it may have had its effect.
    Once,
    /// Reads from a file, at its offset (`true`) or at a given one; `vector`: into several buffers.
    Read {
        /// At the file's offset, which moves.
        moves: bool,
        /// Several buffers.
        vector: bool,
    },
    /// Writes to a file; as [`Way::Read`].
    Write {
        /// At the file's offset, which moves.
        moves: bool,
        /// Several buffers.
        vector: bool,
    },
    /// Moves data between files without a buffer: the descriptors are these arguments.
    Move {
        /// Argument with the descriptor read from.
        from: usize,
        /// Argument with the descriptor written to.
        to: usize,
    },
    /// `nanosleep`.
    Sleep,
    /// `clock_nanosleep`.
    ClockSleep,
    /// `futex`.
    Futex,
    /// `futex_waitv`.
    FutexVector,
    /// `poll`.
    Poll,
    /// Waits with a time-out that is this argument, in milliseconds, negative for none: EINTR once it sleeps.
    WaitMs(usize),
    /// Waits with a time-out that this argument points to, null for none: EINTR once it sleeps.
    WaitPointer(usize),
    /// Waits for events of asynchronous input and output: nothing is taken while it sleeps, if one is enough.
    AioEvents,
    /// `io_uring_enter`: hands requests over, then waits for completions, which stay where they are.
    RingEnter,
    /// Receives from a socket, with MSG_* in this argument.
    Receive(usize),
    /// `recvmsg`, the same.
    ReceiveMessage(usize),
    /// `connect`.
    Connect,
    /// `sendto`.
    Send,
    /// `sendmsg`.
    SendMessage,
    /// `close`: the descriptor is gone before anything can fail.
    Close,
    /// Makes a thread or process.
    Fork,
    /// Starts a program.
    Exec,
    /// `wait4` and `waitid`.
    Reap,
    /// `lseek`.
    Seek,
    /// Opens a file, with flags in this argument.
    Open(usize),
    /// `fcntl`.
    Fcntl,
    /// Waits for a semaphore or message of System V, with a time-out that this argument points to, null for none.
    SysvIpc(Option<usize>),
    /// Waits for a POSIX message queue, until a point in time.
    PosixQueue,
    /// `rt_sigprocmask`.
    SignalMask,
    /// `restart_syscall`.
    RestartBlock,
    /// Ends the thread or process.
    Exit,
}

use Way::{Once, Restart};

/// Calls with a way of their own.
const SPECIAL: &[(u32, &str, Way)] = &[
    (
        0,
        "read",
        Way::Read {
            moves: true,
            vector: false,
        },
    ),
    (
        1,
        "write",
        Way::Write {
            moves: true,
            vector: false,
        },
    ),
    (2, "open", Way::Open(1)),
    (3, "close", Way::Close),
    (7, "poll", Way::Poll),
    (8, "lseek", Way::Seek),
    (14, "rt_sigprocmask", Way::SignalMask),
    (
        17,
        "pread64",
        Way::Read {
            moves: false,
            vector: false,
        },
    ),
    (
        18,
        "pwrite64",
        Way::Write {
            moves: false,
            vector: false,
        },
    ),
    (
        19,
        "readv",
        Way::Read {
            moves: true,
            vector: true,
        },
    ),
    (
        20,
        "writev",
        Way::Write {
            moves: true,
            vector: true,
        },
    ),
    (23, "select", Way::WaitPointer(4)),
    (35, "nanosleep", Way::Sleep),
    (40, "sendfile", Way::Move { from: 1, to: 0 }),
    (42, "connect", Way::Connect),
    (44, "sendto", Way::Send),
    (45, "recvfrom", Way::Receive(3)),
    (46, "sendmsg", Way::SendMessage),
    (47, "recvmsg", Way::ReceiveMessage(2)),
    (56, "clone", Way::Fork),
    (57, "fork", Way::Fork),
    (58, "vfork", Way::Fork),
    (59, "execve", Way::Exec),
    (60, "exit", Way::Exit),
    (61, "wait4", Way::Reap),
    (65, "semop", Way::SysvIpc(None)),
    (69, "msgsnd", Way::SysvIpc(None)),
    (70, "msgrcv", Way::SysvIpc(None)),
    (72, "fcntl", Way::Fcntl),
    (128, "rt_sigtimedwait", Way::WaitPointer(2)),
    (202, "futex", Way::Futex),
    (219, "restart_syscall", Way::RestartBlock),
    (220, "semtimedop", Way::SysvIpc(Some(3))),
    (208, "io_getevents", Way::AioEvents),
    (230, "clock_nanosleep", Way::ClockSleep),
    (231, "exit_group", Way::Exit),
    (232, "epoll_wait", Way::WaitMs(3)),
    (242, "mq_timedsend", Way::PosixQueue),
    (243, "mq_timedreceive", Way::PosixQueue),
    (247, "waitid", Way::Reap),
    (257, "openat", Way::Open(2)),
    (270, "pselect6", Way::WaitPointer(4)),
    (271, "ppoll", Way::WaitPointer(2)),
    (275, "splice", Way::Move { from: 0, to: 2 }),
    (276, "tee", Way::Move { from: 0, to: 1 }),
    (281, "epoll_pwait", Way::WaitMs(3)),
    (
        295,
        "preadv",
        Way::Read {
            moves: false,
            vector: true,
        },
    ),
    (
        296,
        "pwritev",
        Way::Write {
            moves: false,
            vector: true,
        },
    ),
    (322, "execveat", Way::Exec),
    (326, "copy_file_range", Way::Move { from: 0, to: 2 }),
    // The offset −1 of the newer two means the file's own.
    (
        327,
        "preadv2",
        Way::Read {
            moves: true,
            vector: true,
        },
    ),
    (
        328,
        "pwritev2",
        Way::Write {
            moves: true,
            vector: true,
        },
    ),
    (426, "io_uring_enter", Way::RingEnter),
    (435, "clone3", Way::Fork),
    (441, "epoll_pwait2", Way::WaitPointer(3)),
    (449, "futex_waitv", Way::FutexVector),
];

/// Calls whose effect must not happen twice, or whose answer would be another the second time.
const ONCE: &[(u32, &str)] = &[
    (25, "mremap"),
    (37, "alarm"),
    (62, "kill"),
    (82, "rename"),
    (83, "mkdir"),
    (84, "rmdir"),
    (86, "link"),
    (87, "unlink"),
    (88, "symlink"),
    (95, "umask"),
    (101, "ptrace"),
    (112, "setsid"),
    (122, "setfsuid"),
    (123, "setfsgid"),
    (129, "rt_sigqueueinfo"),
    (133, "mknod"),
    (155, "pivot_root"),
    (165, "mount"),
    (166, "umount2"),
    (200, "tkill"),
    (209, "io_submit"),
    (226, "timer_delete"),
    (233, "epoll_ctl"),
    (234, "tgkill"),
    (258, "mkdirat"),
    (259, "mknodat"),
    (263, "unlinkat"),
    (264, "renameat"),
    (265, "linkat"),
    (266, "symlinkat"),
    (272, "unshare"),
    (278, "vmsplice"),
    (297, "rt_tgsigqueueinfo"),
    (299, "recvmmsg"),
    (307, "sendmmsg"),
    (308, "setns"),
    (316, "renameat2"),
    (424, "pidfd_send_signal"),
];

/// Calls with [`Way::Late`].
const LATE: &[(u32, &str)] = &[
    (13, "rt_sigaction"),
    (22, "pipe"),
    (32, "dup"),
    (38, "setitimer"),
    (41, "socket"),
    (43, "accept"),
    (78, "getdents"),
    (85, "creat"),
    (213, "epoll_create"),
    (217, "getdents64"),
    (222, "timer_create"),
    (223, "timer_settime"),
    (282, "signalfd"),
    (283, "timerfd_create"),
    (284, "eventfd"),
    (286, "timerfd_settime"),
    (288, "accept4"),
    (289, "signalfd4"),
    (290, "eventfd2"),
    (291, "epoll_create1"),
    (293, "pipe2"),
    (294, "inotify_init1"),
    (319, "memfd_create"),
    (437, "openat2"),
];

/// Calls that can be made again from the start: first and last of each run of numbers.
const RESTART: &[(u32, u32)] = &[
    (4, 6),     // stat fstat lstat
    (9, 12),    // mmap mprotect munmap brk
    (15, 16),   // rt_sigreturn ioctl
    (21, 21),   // access
    (24, 24),   // sched_yield
    (26, 28),   // msync mincore madvise
    (33, 34),   // dup2 pause
    (36, 36),   // getitimer
    (39, 39),   // getpid
    (48, 55),   // shutdown … getsockopt
    (63, 63),   // uname
    (73, 77),   // flock fsync fdatasync truncate ftruncate
    (79, 81),   // getcwd chdir fchdir
    (89, 94),   // readlink chmod fchmod chown fchown lchown
    (96, 100),  // gettimeofday getrlimit getrusage sysinfo times
    (102, 111), // getuid … setpgid getppid getpgrp
    (113, 121), // setreuid … getpgid
    (124, 127), // getsid capget capset rt_sigpending
    (130, 132), // rt_sigsuspend sigaltstack utime
    (135, 135), // personality
    (137, 152), // statfs … setpriority, sched_*, mlock … munlockall
    (157, 158), // prctl arch_prctl
    (160, 162), // setrlimit chroot sync
    (186, 199), // gettid readahead, extended attributes
    (201, 201), // time
    (203, 204), // sched_setaffinity sched_getaffinity
    (218, 218), // set_tid_address
    (221, 221), // fadvise64
    (224, 225), // timer_gettime timer_getoverrun
    (228, 229), // clock_gettime clock_getres
    (235, 235), // utimes
    (237, 239), // mbind set_mempolicy get_mempolicy
    (251, 252), // ioprio_set ioprio_get
    (260, 262), // fchownat futimesat newfstatat
    (267, 269), // readlinkat fchmodat faccessat
    (273, 274), // set_robust_list get_robust_list
    (277, 277), // sync_file_range
    (280, 280), // utimensat
    (285, 285), // fallocate
    (287, 287), // timerfd_gettime
    (292, 292), // dup3
    (302, 302), // prlimit64
    (306, 306), // syncfs
    (309, 309), // getcpu
    (314, 315), // sched_setattr sched_getattr
    (317, 318), // seccomp getrandom
    (324, 325), // membarrier mlock2
    (332, 332), // statx
    (334, 334), // rseq
    (436, 436), // close_range
    (439, 439), // faccessat2
    (452, 452), // fchmodat2
];

/// How to go on with a call. A call that is not in the table is like one that must not be repeated.
pub fn way(number: u32) -> Way {
    if let Some(&(.., way)) = SPECIAL.iter().find(|&&(nr, ..)| nr == number) {
        return way;
    }
    if RESTART.iter().any(|&(first, last)| (first..=last).contains(&number)) {
        return Restart;
    }
    if LATE.iter().any(|&(nr, _)| nr == number) {
        return Way::Late;
    }
    Once
}

/// The name of a call in the table, for messages; empty for others.
pub fn name(number: u32) -> &'static str {
    let special = SPECIAL.iter().map(|&(nr, name, _)| (nr, name));
    special
        .chain(ONCE.iter().copied())
        .chain(LATE.iter().copied())
        .find(|&(nr, _)| nr == number)
        .map_or("", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_in_two_lists() {
        let mut seen = alloc::collections::BTreeSet::new();
        let special = SPECIAL.iter().map(|&(nr, ..)| nr);
        let once = ONCE.iter().chain(LATE).map(|&(nr, _)| nr);
        let restart = RESTART.iter().flat_map(|&(first, last)| first..=last);
        for number in special.chain(once).chain(restart) {
            assert!(seen.insert(number), "{number}");
        }
    }

    #[test]
    fn unknown_calls_are_not_repeated() {
        assert_eq!(way(9999), Once);
        assert_eq!(way(34), Restart);
        assert_eq!((way(87), name(87)), (Once, "unlink"));
    }
}
