//! Threads, where they were stopped and how they go on.

use super::SigInfo;
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

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
    /// As whom somebody has logged in, and the number of that login (`/proc/PID/loginuid`, `sessionid`): `u32::MAX` for
    /// nobody. 0 and 0 where the kernel does not know.
    pub login: (u32, u32),
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
    /// It is not known what the call has done, and the process has a hook that decides ([`crate::library`]). The registers
    /// are those behind the call, with no result. Without an answer the process cannot go on.
    Undecided,
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
    /// Keyrings of the process or thread, by name. The session keyring stands in [`super::Process`].
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
