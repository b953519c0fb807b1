//! The ioctl interface of `/dev/orthros` (mode 0600), the module's device node.
//!
//! Numbers follow `_IOWR('O', nr, struct)` (include/uapi/asm-generic/ioctl.h). `mmap` gives the region read-only at
//! offset 0. `pread` at a physical address gives the contents of page frames of the dead kernel that are retained.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Path of the node.
pub const PATH: &str = "/dev/orthros";
/// ioctl type byte.
pub const IOC_TYPE: u8 = b'O';

/// `_IOWR('O', nr, T)`.
pub const fn iowr<T>(nr: u8) -> u64 {
    3 << 30 | (core::mem::size_of::<T>() as u64) << 16 | (IOC_TYPE as u64) << 8 | nr as u64
}

/// Reply of [`INFO`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Info {
    /// [`crate::ABI_VERSION`] of the module.
    pub abi_version: u64,
    /// Physical address of the region.
    pub region: u64,
    /// 1 if this kernel is a successor that has something to take over.
    pub successor: u64,
    /// Frames withheld and not yet adopted or released.
    pub withheld: u64,
}
/// Tells about the module and its role.
pub const INFO: u64 = iowr::<Info>(1);

/// Argument of [`PROTECT`] and [`UNPROTECT`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Protect {
    /// One of [`crate::protect::kind`]; 0 in UNPROTECT means all.
    pub kind: u32,
    /// Bits of [`crate::protect::flags`].
    pub flags: u32,
    /// Process id in the caller's pid namespace.
    pub tgid: u64,
    /// Name, NUL-padded.
    pub comm: [u8; 16],
}
/// Protects a process or a name. EEXIST, ESRCH, ENOSPC.
pub const PROTECT: u64 = iowr::<Protect>(2);
/// Takes the protection back. ENOENT.
pub const UNPROTECT: u64 = iowr::<Protect>(3);

/// Argument of [`ADD_MEMORY`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddMemory {
    /// Physical address, aligned to the memory block size.
    pub start: u64,
    /// Bytes, a multiple of the memory block size.
    pub size: u64,
    /// Out: frames withheld in it.
    pub withheld: u64,
    /// Out: frames given to the allocator.
    pub given: u64,
    /// Out: nanoseconds.
    pub nanoseconds: u64,
}
/// Adds and onlines RAM of the dead kernel; retained frames ([`crate::retained`]) and frames outside the firmware's RAM
/// ranges are withheld. EPERM unless the salvage gate is open.
pub const ADD_MEMORY: u64 = iowr::<AddMemory>(4);

/// Argument of [`ADOPT`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Adopt {
    /// Process (in the caller's pid namespace) whose memory receives the frames.
    pub pid: u64,
    /// User address of an array of [`crate::context::FrameRun`]s as in the Essential Context.
    pub runs: u64,
    /// Number of runs.
    pub count: u64,
    /// Out: frames adopted in place.
    pub adopted: u64,
    /// Out: frames copied into fresh pages.
    pub copied: u64,
    /// Out: index of the run at which it stopped, `count` if it did not.
    pub stopped_at: u64,
    /// Out: nanoseconds.
    pub nanoseconds: u64,
}
/// Hands frames to a process as anonymous memory. Runs of kind OWN and HUGE are adopted, SHARED and COPIED copied, and
/// FILE runs are EINVAL. EEXIST if a page is there already, EFAULT outside a private mapping, EPERM if not withheld.
pub const ADOPT: u64 = iowr::<Adopt>(5);

/// Values of [`Lazy::step`].
pub mod lazy_step {
    /// The frames are to become the memory of a stopped process, each when it is needed.
    pub const BEGIN: u64 = 1;
    /// The process is about to run.
    pub const HOLD: u64 = 2;
    /// There will be such processes, and what the first of them would wait for can be done now. For a successor, its gate
    /// open or not, and a standby that has not slept yet.
    pub const READY: u64 = 3;
}

/// Argument of [`LAZY`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Lazy {
    /// One of [`lazy_step`].
    pub step: u64,
    /// Process (in the caller's pid namespace); not for READY.
    pub pid: u64,
    /// BEGIN: user address of an array of [`crate::context::FrameRun`]s in ascending order.
    pub runs: u64,
    /// BEGIN: number of runs.
    pub count: u64,
    /// Out, BEGIN: frames that the process will have.
    pub pages: u64,
    /// Out: nanoseconds.
    pub nanoseconds: u64,
}
/// Hands frames to a process that runs already before all are in. From HOLD on until all are, its mappings cannot change.
/// The module completes the memory by itself soon after; the first [`RELEASE`] waits for that. EINVAL if the runs are not ascending
/// or of other kinds than OWN and HUGE, EPERM if a frame is not withheld, EFAULT outside a private mapping, EEXIST if the
/// process has such memory already.
pub const LAZY: u64 = iowr::<Lazy>(48);

/// Argument of [`CACHE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Cache {
    /// Descriptor of a regular file that is open for writing.
    pub fd: u64,
    /// User address of an array of [`crate::context::FrameRun`]s, whose `va` is the offset in the file.
    pub runs: u64,
    /// Number of runs.
    pub count: u64,
    /// Out: pages that the file has now, in the order of the runs.
    pub pages: u64,
    /// Out: how many of them are copies.
    pub copied: u64,
    /// Out: nanoseconds.
    pub nanoseconds: u64,
}
/// Makes frames pages of a file that are yet to be written to its disk. Whole pages within its size only. EOPNOTSUPP if the
/// file system is none of those that are known (ext4), EINVAL beyond the size, EPERM if a frame is not retained, else what
/// the file system says to a write.
pub const CACHE: u64 = iowr::<Cache>(64);

/// Argument of [`WARM`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Warm {
    /// Descriptor of a regular file.
    pub fd: u64,
    /// User address of an array of [`crate::context::FrameRun`]s, whose `va` is the offset in the file.
    pub runs: u64,
    /// Number of runs. With none, the file is only asked for its version.
    pub count: u64,
    /// Bytes that the file has.
    pub size: u64,
    /// The number that every change of it increments; out, where there are no runs.
    pub version: u64,
    /// Out: pages that are in its cache now.
    pub pages: u64,
    /// Out: nanoseconds.
    pub nanoseconds: u64,
}
/// Puts frames into the cache of a file whose disk has what is in them, where it has no pages. EOPNOTSUPP if the file system is
/// none of those that are known (ext4), ESTALE if the file is not what it was, EINVAL beyond the size. A frame that is not
/// withheld is left out.
pub const WARM: u64 = iowr::<Warm>(65);

/// Argument of [`RELEASE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Release {
    /// Out: frames given to the allocator, zeroed.
    pub released: u64,
    /// Out: frames for which there was no time.
    pub left: u64,
    /// Out: nanoseconds.
    pub nanoseconds: u64,
}
/// At first waits until every process has its memory: from then on nobody can adopt a frame. Then gives withheld frames to the
/// allocator, zeroed first, for 20 ms at a time: to be repeated while there are some left.
pub const RELEASE: u64 = iowr::<Release>(6);

/// Argument of [`RESUME`]: sets a thread's restart block so that `restart_syscall` goes on with an interrupted call.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResumeCall {
    /// Thread id in the caller's pid namespace; it must be stopped by ptrace.
    pub tid: u64,
    /// One of [`resume_kind`].
    pub kind: u64,
    /// SLEEP: clock. FUTEX: expected value. POLL: number of entries.
    pub a: u64,
    /// SLEEP: address for the remainder. FUTEX, POLL: user address.
    pub b: u64,
    /// Absolute expiry in nanoseconds on the clock of the *initial* time namespace.
    pub expires: u64,
    /// FUTEX: flags in the low, bitset in the high 32 bits.
    pub c: u64,
}
/// Kinds of [`ResumeCall`].
pub mod resume_kind {
    /// nanosleep, clock_nanosleep.
    pub const SLEEP: u64 = 1;
    /// futex wait.
    pub const FUTEX: u64 = 2;
    /// poll.
    pub const POLL: u64 = 3;
}
/// See [`ResumeCall`]. ESRCH, EINVAL, EBUSY if the thread is not stopped.
pub const RESUME: u64 = iowr::<ResumeCall>(7);

/// Argument of [`MARK`]: stamps an event and moves the successor's phase.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Mark {
    /// Number of a [`crate::timeline::Event`] to stamp now, or `u64::MAX` for none.
    pub event: u64,
    /// [`crate::control::SuccessorPhase`] to set, or `u64::MAX` for none.
    pub phase: u64,
    /// TSC to stamp, 0 for now.
    pub tsc: u64,
    /// Amount added to `processes_resumed`.
    pub resumed: u64,
}
/// See [`Mark`].
pub const MARK: u64 = iowr::<Mark>(8);

/// Argument of [`WRITE_REPORT`]: stores outcome records in the report area.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WriteReport {
    /// User address of a record stream.
    pub data: u64,
    /// Bytes.
    pub length: u64,
}
/// See [`WriteReport`]. EFBIG if it is larger than the area.
pub const WRITE_REPORT: u64 = iowr::<WriteReport>(9);

/// Argument of [`TEST`]: makes the kernel fail in a chosen way.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Test {
    /// One of [`test_kind`].
    pub kind: u64,
    /// CPU to do it on, or `u64::MAX` for the current one. For PANIC_AT: how often the kernel comes by before. For CORRUPT: what
    /// decides on the damage; its remainder by 3 says to what: nodes of page caches, inodes, buffer heads.
    pub cpu: u64,
    /// For INJECT: bits of [`crate::control::inject`]. For UNPARKABLE: the CPU. For PANIC_AT and CORRUPT: user address of a name
    /// with NUL.
    pub value: u64,
}
/// Kinds of [`Test`].
pub mod test_kind {
    /// `panic()` on the chosen CPU.
    pub const PANIC: u64 = 1;
    /// Null dereference in a kernel thread on the chosen CPU.
    pub const NULL_DEREFERENCE: u64 = 2;
    /// BUG() in a timer interrupt on the chosen CPU.
    pub const BUG_IN_INTERRUPT: u64 = 3;
    /// `panic()` here while the chosen CPU spins with interrupts off.
    pub const PANIC_WITH_SPINNER: u64 = 4;
    /// Sets [`crate::control::ControlWords::inject`].
    pub const INJECT: u64 = 5;
    /// Keeps the chosen CPU from parking in the NMI handler.
    pub const UNPARKABLE: u64 = 6;
    /// `panic()` on the chosen CPU, in which a console fails.
    pub const PANIC_IN_PANIC: u64 = 7;
    /// `panic()` on the chosen CPU, which holds locks of a protected process, its siglock too.
    pub const PANIC_HOLDING_LOCKS: u64 = 8;
    /// `panic()` where some thread comes to a function, or to `FUNCTION+OFFSET` (a kprobe).
    pub const PANIC_AT: u64 = 9;
    /// `panic()` right after damage to what the kernel knows of the file system that a path lies on.
    pub const CORRUPT: u64 = 10;
    /// Every CPU spins with interrupts off.
    pub const HANG_ALL: u64 = 16;
    /// The chosen CPU spins with interrupts off.
    pub const HANG_CPU: u64 = 17;
    /// A thread on the chosen CPU spins with preemption off.
    pub const SOFT_LOCKUP: u64 = 18;
    /// Two threads of the highest priority hand the chosen CPU to each other for ever.
    pub const LIVE_LOCK: u64 = 19;
    /// A thread sleeps uninterruptibly.
    pub const STALL: u64 = 20;
    /// The chosen CPU spins with interrupts off, and in the handler of the next NMI.
    pub const HANG_IN_NMI: u64 = 21;
    /// The chosen CPU spins with interrupts off and holds locks of a protected process.
    pub const HANG_HOLDING_LOCKS: u64 = 22;
}
/// See [`Test`]. EPERM unless the module was loaded with `allow_test=1`.
pub const TEST: u64 = iowr::<Test>(10);

/// Argument of [`WAKE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Wake {
    /// Out: 1 once this kernel has the role of a successor.
    pub successor: u64,
}
/// Tells the module, which was loaded before this kernel went to sleep, that it has been woken: it does what it does
/// when a successor loads it. EPERM unless a failover is being handed over.
pub const WAKE: u64 = iowr::<Wake>(12);

/// Argument of [`REST`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rest {
    /// Out: blocks that are held, of [`crate::standby::IDLE_BLOCK`] bytes.
    pub blocks: u64,
}
/// Holds free memory until [`WAKE`], and says where it is, so that nobody need keep what is in it. EPERM in a kernel that is
/// not to sleep.
pub const REST: u64 = iowr::<Rest>(13);

/// Argument of [`TASK_STATE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TaskState {
    /// Thread id in the caller's pid namespace; it must be stopped by ptrace.
    pub tid: u64,
    /// `task_struct.start_boottime` to set, in nanoseconds of the initial time namespace; 0 leaves it.
    pub start_boottime: u64,
    /// User and system CPU time in nanoseconds; 0 leaves them.
    pub utime: u64,
    /// See `utime`.
    pub stime: u64,
    /// `task_struct.loginuid` and, in the upper half, `sessionid`, which counts from 1; 0 leaves them.
    pub login: u64,
}
/// Sets what no system call can: see [`TaskState`]. ESRCH, EBUSY.
pub const TASK_STATE: u64 = iowr::<TaskState>(11);

/// Argument of [`CONFIGURE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Configure {
    /// A [`crate::control::HangLimit`], [`WARM_CACHE_LIMIT`], [`STATUS_ADDRESS`] or [`LOG_TARGET`].
    pub limit: u64,
    /// Milliseconds, or megabytes: 0 for the default, all ones for off. Of the last two, the word.
    pub value: u64,
}
/// [`Configure::limit`] for [`crate::control::ControlWords::warm_cache`].
pub const WARM_CACHE_LIMIT: u64 = 64;
/// [`Configure::limit`] for [`crate::control::ControlWords::status_address`].
pub const STATUS_ADDRESS: u64 = 65;
/// [`Configure::limit`] for [`crate::control::ControlWords::log_target`].
pub const LOG_TARGET: u64 = 66;
/// Sets a limit or an address. EINVAL.
pub const CONFIGURE: u64 = iowr::<Configure>(16);

/// Argument of [`UPDATE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Update {
    /// How long to wait for a moment that fits, in microseconds.
    pub deadline: u64,
    /// Bits of [`update_flags`].
    pub flags: u64,
    /// Out: threads that are protected.
    pub threads: u64,
    /// Out: how often they were looked at.
    pub attempts: u64,
    /// Out: a thread that was in the way, 0 if none was.
    pub tid: u64,
    /// Out: the system call it was in.
    pub call: u64,
    /// Out: threads whose call ends with EINTR.
    pub interrupted: u64,
}
/// Bits of [`Update::flags`].
pub mod update_flags {
    /// Only look and count; nothing happens.
    pub const DRY_RUN: u64 = 1;
    /// Threads whose call ends with EINTR are no obstacle.
    pub const ALLOW_INTERRUPTED: u64 = 2;
    /// Nor are threads with requests of io_uring under way; their processes are lost.
    pub const ALLOW_BUSY: u64 = 4;
}
/// Waits until every protected thread can be stopped exactly, and then hands the machine to the backup OS. Does not return
/// if that succeeds. EAGAIN if a thread was in the way until the deadline, ENODEV if not armed, ETIMEDOUT if the backup OS
/// did not take over.
pub const UPDATE: u64 = iowr::<Update>(17);

/// Argument of [`PEER_CREDENTIALS`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PeerCredentials {
    /// Descriptor of a socket of AF_UNIX.
    pub fd: u64,
    /// Not 0: the socket that it is connected to is meant.
    pub of_peer: u64,
    /// Id of a process.
    pub process: u64,
    /// Its user.
    pub user: u64,
    /// Its group.
    pub group: u64,
    /// User address of further groups, 32 bits each.
    pub groups: u64,
    /// Their number.
    pub count: u64,
}
/// Sets whom `SO_PEERCRED` names. ESRCH if there is no such process, ENOTCONN if there is no peer, EINVAL if it is no socket of
/// AF_UNIX.
pub const PEER_CREDENTIALS: u64 = iowr::<PeerCredentials>(80);

/// Argument of [`TCP`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tcp {
    /// Descriptor of a connection.
    pub fd: u64,
    /// A value of [`tcp_step`].
    pub step: u64,
    /// With [`tcp_step::WAIT`], the descriptor of the socket that listens; with [`tcp_step::FAIL`], the error; with
    /// [`tcp_step::URGENT_RECEIVED`] and [`tcp_step::URGENT_TO_SEND`] what they say.
    pub listener: u64,
}
/// Values of [`Tcp::step`].
pub mod tcp_step {
    /// The peer's end has come, behind what was received: ESTABLISHED, under repair, becomes CLOSE-WAIT.
    pub const FIN: u64 = 1;
    /// It came at the same time as the own: LAST-ACK becomes CLOSING.
    pub const CROSSED: u64 = 2;
    /// The connection waits to be accepted from a socket that listens. The descriptor leads to nothing afterwards.
    pub const WAIT: u64 = 3;
    /// After the repair: the peer is told at once how far this side has got and how much room there is, and segments are as long
    /// as was agreed.
    pub const SPEAK: u64 = 4;
    /// A connection that was asked for is not to be had: the next call fails with an error.
    pub const FAIL: u64 = 5;
    /// Under repair: among what was received, or next to come, is urgent data. Its sequence number is in the low 32 bits,
    /// `tcp_sock.urg_data` in the 16 above.
    pub const URGENT_RECEIVED: u64 = 6;
    /// Under repair: what is to be sent is urgent up to this sequence number.
    pub const URGENT_TO_SEND: u64 = 7;
}
/// Does with a connection what no system call does. EINVAL if it is none, or is not in the state that the step begins with.
pub const TCP: u64 = iowr::<Tcp>(81);

/// Argument of [`TCP_END`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TcpEnd {
    /// Descriptor of a socket of TCP: never connected, or ESTABLISHED under repair with what nobody has read.
    pub fd: u64,
    /// What its next call fails with, 0 if it does not.
    pub error: u32,
    /// 1 if the peer's end was seen.
    pub done: u16,
    /// 1 if it still has the port.
    pub bound: u16,
    /// SS_*.
    pub state: u32,
    /// Ports: own (looked at if it is not bound), the peer's.
    pub ports: [u16; 2],
    /// Addresses of the same, of IPv4 in the first four bytes.
    pub local: [u8; 16],
    /// See `local`.
    pub peer: [u8; 16],
}
/// Lets a socket of TCP be as after a connection. EINVAL if it is none or was used.
pub const TCP_END: u64 = iowr::<TcpEnd>(87);

/// Argument of [`INOTIFY_EVENT`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InotifyEvent {
    /// Descriptor of inotify.
    pub fd: u64,
    /// As in `struct inotify_event` (inotify(7)).
    pub wd: i32,
    /// See `wd`.
    pub mask: u32,
    /// See `wd`.
    pub cookie: u32,
    /// Bytes of the name, without NUL.
    pub name_len: u32,
    /// User address of the name.
    pub name: u64,
}
/// Puts an event at the end of the queue of inotify. EINVAL if the descriptor is another, ENOSPC if the queue is full.
pub const INOTIFY_EVENT: u64 = iowr::<InotifyEvent>(82);

/// Argument of [`IO_URING`]: counts of [`crate::context::IoUring`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoUring {
    /// Descriptor of the ring.
    pub fd: u64,
    /// Requests taken.
    pub taken: u32,
    /// Completions.
    pub completed: u32,
    /// More of them than requests.
    pub extra: u32,
    /// Those of time-outs.
    pub timeouts: u32,
    /// Up to where time-outs have been looked at.
    pub timeouts_flushed: u32,
    /// 1 if no request may wait for all before it.
    pub drain_disabled: u32,
}
/// Lets a ring of io_uring go on counting from where another was. What lies in its memory must say the same already. EINVAL if the
/// descriptor is another or the memory says something else, EBUSY if the ring has been used.
pub const IO_URING: u64 = iowr::<IoUring>(83);

/// Argument of [`NETLINK`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Netlink {
    /// Descriptor of a socket of netlink.
    pub fd: u64,
    /// User address of a message.
    pub data: u64,
    /// Bytes of it. Without any, the socket is told that it has missed messages: its next call fails with ENOBUFS.
    pub length: u64,
    /// Port it comes from, 0 for the kernel.
    pub port: u32,
    /// Number of the group that it was sent to, 0 for none.
    pub group: u32,
    /// Process that it comes from.
    pub process: u32,
    /// Its user.
    pub user: u32,
    /// Its group.
    pub gid: u32,
    /// 0.
    pub reserved: u32,
}
/// Puts a message at the end of the queue of a socket of netlink. EINVAL if the descriptor is another or the message is longer than any
/// queue.
pub const NETLINK: u64 = iowr::<Netlink>(86);

/// Argument of [`COMMIT`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Commit {
    /// A level of [`crate::control::CommitPoint`].
    pub level: u64,
}
/// Goes to a level of the commit point ([`crate::control::CommitPoint`]), if that has not been done. ECANCELED if this kernel
/// is being replaced, EPERM if it is no successor, EINVAL if it is no level.
pub const COMMIT: u64 = iowr::<Commit>(32);

/// Reply of [`STAGE_BEGIN`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StageBegin {
    /// Out: the slot that will be written to.
    pub slot: u64,
    /// Out: bytes it has room for.
    pub room: u64,
}
/// Begins to stage a kernel: empties the slot that the running kernel is not from. Until [`STAGE_COMMIT`] the other slot's
/// kernel is the one that would take over. EBUSY while a failover is being handed over.
pub const STAGE_BEGIN: u64 = iowr::<StageBegin>(33);

/// Argument of [`STAGE_WRITE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StageWrite {
    /// Bytes from the start of the slot.
    pub offset: u64,
    /// User address of the data.
    pub data: u64,
    /// Bytes, [`STAGE_WRITE_MOST`] at most.
    pub length: u64,
}
/// Writes a piece of an image into the slot. EBADFD without [`STAGE_BEGIN`], EFBIG if it does not fit.
pub const STAGE_WRITE: u64 = iowr::<StageWrite>(34);
/// The longest piece, so that a request does not take long.
pub const STAGE_WRITE_MOST: u64 = 1 << 20;

/// Argument of [`STAGE_COMMIT`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StageCommit {
    /// Bytes of the bzImage, which lies at the start of the slot.
    pub kernel_len: u64,
    /// Where the initramfs lies in the slot, on a page.
    pub initramfs_offset: u64,
    /// Its bytes.
    pub initramfs_len: u64,
    /// [`crate::stage::digest`] of the bzImage.
    pub kernel_digest: u64,
    /// The same of the initramfs.
    pub initramfs_digest: u64,
    /// User address of the command line, without NUL.
    pub cmdline: u64,
    /// Its bytes, less than [`crate::stage::CMDLINE_SIZE`].
    pub cmdline_len: u64,
    /// Out: number of the request ([`crate::stage::StageWords::request`]).
    pub request: u64,
}
/// Makes what was written the kernel that takes over next. The backup OS then checks it
/// ([`crate::stage::StageWords::state`]). EBADFD without [`STAGE_BEGIN`], EINVAL if the pieces do not lie in the slot.
pub const STAGE_COMMIT: u64 = iowr::<StageCommit>(35);

/// Argument of [`RESCUE_AREA`]: as [`crate::rescue_area::RescueWords`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RescueArea {
    /// 1 for an area, 0 for none.
    pub state: u64,
    /// The disk's PCI function: bus << 8 | device << 3 | function.
    pub function: u64,
    /// First sector of the area on its disk.
    pub start: u64,
    /// Its sectors.
    pub sectors: u64,
    /// Sectors of the disk.
    pub disk_sectors: u64,
    /// What is written in its head.
    pub id: [u64; 2],
    /// Serial number of the disk, padded with zeros.
    pub serial: [u64; 3],
}
/// Says where data of files is to be written if no kernel can be booted any more. EINVAL if it does not lie on the disk.
pub const RESCUE_AREA: u64 = iowr::<RescueArea>(96);
