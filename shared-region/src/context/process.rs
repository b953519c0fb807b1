//! Processes, their signals and timers.

use super::Id;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

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
    /// Session keyring, shared by processes that name the same; 0 if it has none.
    pub session_keyring: Id,
    /// Foreground process group of its controlling terminal; 0 if it has none.
    pub foreground: u32,
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
