//! The system-call edge: ptrace, clone3 and waiting, with checked arguments and `io::Error`s.
//!
//! Everything here acts on other processes or on kernel objects; nothing but [`spawn_paused`] touches this process's
//! own memory beyond its arguments.

use std::{
    io, ptr,
    time::{Duration, Instant},
};

pub mod device_mapper;
pub mod ipc;
pub mod terminal;

/// A process or thread id.
pub type Tid = libc::pid_t;

/// `struct user_regs_struct` in the order of the records: r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi
/// orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs (arch/x86/include/asm/user_64.h).
pub type Registers = [u64; 27];

/// `struct clone_args` up to `set_tid_size` (include/uapi/linux/sched.h).
#[derive(Clone, Copy, Debug, Default, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
pub struct CloneArgs {
    /// CLONE_*.
    pub flags: u64,
    /// Where a pidfd is put.
    pub pidfd: u64,
    /// CLONE_CHILD_SETTID address.
    pub child_tid: u64,
    /// CLONE_PARENT_SETTID address.
    pub parent_tid: u64,
    /// Signal sent to the parent at exit.
    pub exit_signal: u64,
    /// Lowest byte of the stack; 0 keeps the stack pointer.
    pub stack: u64,
    /// Bytes of the stack.
    pub stack_size: u64,
    /// Thread pointer for CLONE_SETTLS.
    pub tls: u64,
    /// Address of an array of ids, one for each pid namespace from the innermost out.
    pub set_tid: u64,
    /// Entries in it.
    pub set_tid_size: u64,
}

/// What a waited-for tracee did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Exited with this `wait` status.
    Exited(i32),
    /// About to receive this signal.
    Signal(i32),
    /// In a system-call stop (PTRACE_O_TRACESYSGOOD).
    Syscall,
    /// In a PTRACE_EVENT_* stop.
    Event(i32),
}

/// Changing user ids leaves capabilities alone (include/uapi/linux/securebits.h).
pub const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;

fn check(result: libc::c_long) -> io::Result<i64> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Issues a ptrace request whose address and data are plain numbers.
fn ptrace(request: libc::c_uint, tid: Tid, address: u64, data: u64) -> io::Result<i64> {
    // SAFETY: (1) the requests used with this function take `address` and `data` as numbers, or as pointers that the
    // callers below take from live references of the right size; (2) they change the tracee, never this process.
    check(unsafe { libc::ptrace(request, tid, address, data) })
}

/// Attaches to a thread without stopping it.
pub fn seize(tid: Tid, options: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_SEIZE, tid, 0, options as u64).map(drop)
}

/// Sets PTRACE_O_* options of a stopped tracee.
pub fn set_options(tid: Tid, options: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_SETOPTIONS, tid, 0, options as u64).map(drop)
}

/// Stops a seized tracee.
pub fn interrupt(tid: Tid) -> io::Result<()> {
    ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// Lets a stopped tracee run, without a signal.
pub fn cont(tid: Tid) -> io::Result<()> {
    ptrace(libc::PTRACE_CONT, tid, 0, 0).map(drop)
}

/// Lets a tracee that is stopped on its way to a signal receive this one.
pub fn cont_with(tid: Tid, signal: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_CONT, tid, 0, signal as u64).map(drop)
}

/// Lets a stopped tracee run to the next entry to or exit from a system call.
pub fn cont_to_syscall(tid: Tid) -> io::Result<()> {
    ptrace(libc::PTRACE_SYSCALL, tid, 0, 0).map(drop)
}

/// As [`cont_to_syscall`], with a signal that the tracee is stopped on its way to, or 0.
pub fn cont_to_syscall_with(tid: Tid, signal: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_SYSCALL, tid, 0, signal as u64).map(drop)
}

/// The number of the call that a tracee in a system-call stop is about to make; `None` if it has made it.
pub fn call_entered(tid: Tid) -> io::Result<Option<u64>> {
    /// `PTRACE_SYSCALL_INFO_ENTRY` (include/uapi/linux/ptrace.h).
    const ENTRY: u8 = 1;
    // struct ptrace_syscall_info up to `entry.nr`: op, padding, arch, instruction pointer, stack pointer, number.
    let mut words = [0u64; 4];
    let size = size_of_val(&words) as u64;
    ptrace(libc::PTRACE_GET_SYSCALL_INFO, tid, size, words.as_mut_ptr() as u64)?;
    Ok((words[0] as u8 == ENTRY).then_some(words[3]))
}

/// Lets go of a stopped tracee; it runs on with the registers it has.
pub fn detach(tid: Tid) -> io::Result<()> {
    ptrace(libc::PTRACE_DETACH, tid, 0, 0).map(drop)
}

/// The message of the last event stop: the new thread's id after a clone or fork event.
pub fn event_message(tid: Tid) -> io::Result<u64> {
    let mut message = 0u64;
    ptrace(libc::PTRACE_GETEVENTMSG, tid, 0, ptr::from_mut(&mut message) as u64)?;
    Ok(message)
}

const NT_PRSTATUS: u64 = 1;
const NT_X86_XSTATE: u64 = 0x202;

/// General registers of a stopped tracee.
pub fn registers(tid: Tid) -> io::Result<Registers> {
    let mut registers = Registers::default();
    let mut vector = libc::iovec {
        iov_base: registers.as_mut_ptr().cast(),
        iov_len: size_of::<Registers>(),
    };
    let vector = ptr::from_mut(&mut vector) as u64;
    ptrace(libc::PTRACE_GETREGSET, tid, NT_PRSTATUS, vector)?;
    Ok(registers)
}

/// Sets the general registers of a stopped tracee.
pub fn set_registers(tid: Tid, registers: &Registers) -> io::Result<()> {
    let mut vector = libc::iovec {
        iov_base: registers.as_ptr().cast_mut().cast(),
        iov_len: size_of::<Registers>(),
    };
    let vector = ptr::from_mut(&mut vector) as u64;
    ptrace(libc::PTRACE_SETREGSET, tid, NT_PRSTATUS, vector).map(drop)
}

/// The extended state of a stopped tracee, in the standard XSAVE format.
pub fn xstate(tid: Tid) -> io::Result<Vec<u8>> {
    let mut area = vec![0u8; 0x4000];
    let mut vector = libc::iovec {
        iov_base: area.as_mut_ptr().cast(),
        iov_len: area.len(),
    };
    let address = ptr::from_mut(&mut vector) as u64;
    ptrace(libc::PTRACE_GETREGSET, tid, NT_X86_XSTATE, address)?;
    area.truncate(vector.iov_len);
    Ok(area)
}

/// Sets the extended state of a stopped tracee.
pub fn set_xstate(tid: Tid, area: &[u8]) -> io::Result<()> {
    let mut vector = libc::iovec {
        iov_base: area.as_ptr().cast_mut().cast(),
        iov_len: area.len(),
    };
    let vector = ptr::from_mut(&mut vector) as u64;
    ptrace(libc::PTRACE_SETREGSET, tid, NT_X86_XSTATE, vector).map(drop)
}

const PTRACE_GETSIGMASK: libc::c_uint = 0x420A;
const PTRACE_SETSIGMASK: libc::c_uint = 0x420B;
const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420F;

/// The blocked signals of a stopped tracee.
pub fn signal_mask(tid: Tid) -> io::Result<u64> {
    let mut mask = 0u64;
    ptrace(PTRACE_GETSIGMASK, tid, 8, ptr::from_mut(&mut mask) as u64)?;
    Ok(mask)
}

/// Sets the blocked signals of a stopped tracee.
pub fn set_signal_mask(tid: Tid, mask: u64) -> io::Result<()> {
    ptrace(PTRACE_SETSIGMASK, tid, 8, ptr::from_ref(&mask) as u64).map(drop)
}

/// The rseq registration of a stopped tracee: address, length, signature.
pub fn rseq(tid: Tid) -> io::Result<(u64, u32, u32)> {
    // struct ptrace_rseq_configuration (include/uapi/linux/ptrace.h): u64 pointer, u32 size, signature, flags, pad.
    let mut words = [0u64; 3];
    let size = size_of_val(&words) as u64;
    ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, size, words.as_mut_ptr() as u64)?;
    Ok((words[0], words[1] as u32, (words[1] >> 32) as u32))
}

fn decode(status: i32) -> Stop {
    if !libc::WIFSTOPPED(status) {
        return Stop::Exited(status);
    }
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
        0 => Stop::Signal(signal),
        event => Stop::Event(event),
    }
}

/// Waits until a thread stops or exits, at most until `deadline`.
///
/// # Errors
/// `TimedOut` at the deadline; ECHILD if the thread is neither a child nor a tracee.
pub fn wait(tid: Tid, deadline: Instant) -> io::Result<Stop> {
    loop {
        if let Some(stop) = try_wait(tid)? {
            return Ok(stop);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        wait_for_child_signal(left.min(Duration::from_millis(20)));
    }
}

/// What a thread did, if it has stopped or exited since it was last asked.
///
/// # Errors
/// ECHILD if the thread is neither a child nor a tracee.
pub fn try_wait(tid: Tid) -> io::Result<Option<Stop>> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a live integer; the call writes nothing else.
        let waited = unsafe { libc::waitpid(tid, &mut status, libc::__WALL | libc::WNOHANG) };
        if waited == tid {
            return Ok(Some(decode(status)));
        }
        if waited == 0 {
            return Ok(None);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Blocks SIGCHLD in this thread, so that [`wait`] can sleep until one comes.
pub fn block_child_signal() {
    // SAFETY: both calls only touch the live set and the calling thread's mask.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut());
    }
}

/// Unblocks every signal in this thread.
pub fn unblock_all_signals() {
    // SAFETY: both calls only touch the live set and the calling thread's mask.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

/// Starts a copy of this process that runs `work` and ends. This process must have one thread. Returns its id.
pub fn in_child(work: impl FnOnce()) -> io::Result<Tid> {
    // SAFETY: with one thread no lock is held by anybody else, so the child may go on with this process's state; it
    // ends without returning into the caller.
    unsafe {
        match libc::fork() {
            0 => {
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                libc::_exit(done.is_err().into())
            }
            pid => check(pid.into()).map(|pid| pid as Tid),
        }
    }
}

/// Gives this process, which must have one thread, a namespace of its own (`CLONE_NEW*`).
///
/// # Errors
/// As `unshare`.
pub fn unshare(kind: i32) -> io::Result<()> {
    // SAFETY: takes a number; descriptors stay as they are.
    check(unsafe { libc::unshare(kind) }.into()).map(drop)
}

/// Lets this process, which must have one thread, enter a namespace of this kind.
///
/// # Errors
/// As `setns`.
pub fn enter_namespace(entrance: impl std::os::fd::AsFd, kind: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: takes numbers; the descriptor is live.
    check(unsafe { libc::setns(entrance.as_fd().as_raw_fd(), kind) }.into()).map(drop)
}

/// The user namespace that a namespace belongs to; of a user namespace, its parent.
///
/// # Errors
/// As `NS_GET_USERNS`: EPERM if that is none this process may see.
pub fn owner_of_namespace(namespace: impl std::os::fd::AsFd) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::{AsRawFd, FromRawFd};
    // include/uapi/linux/nsfs.h
    const NS_GET_USERNS: libc::c_ulong = 0xB701;
    // SAFETY: the request takes no pointer; the descriptor is live.
    let owner = check(unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_USERNS) }.into())?;
    // SAFETY: the kernel has just made this descriptor for the caller alone.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(owner as i32) })
}

/// Names the machine, in this process's UTS namespace.
///
/// # Errors
/// As `sethostname` and `setdomainname`.
pub fn set_machine_names(host: &[u8], domain: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes of the live slices as it is told.
    unsafe {
        check(libc::sethostname(host.as_ptr().cast(), host.len()).into())?;
        check(libc::setdomainname(domain.as_ptr().cast(), domain.len()).into())?;
    }
    Ok(())
}

/// Gives this process, which must have one thread, these ids and leaves it its capabilities.
///
/// # Errors
/// As `setresuid` and the like.
pub fn change_ids(uid: u32, gid: u32) -> io::Result<()> {
    let keep = libc::c_long::from(SECBIT_NO_SETUID_FIXUP);
    // SAFETY: all take numbers only.
    unsafe {
        check(libc::prctl(libc::PR_SET_SECUREBITS, keep).into())?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Waits for signals until one ends this process.
pub fn pause() -> ! {
    loop {
        // SAFETY: takes nothing.
        unsafe { libc::pause() };
    }
}

/// Sets and clears attributes of a mount (`MOUNT_ATTR_*`), and how it takes part in what becomes of others (`MS_SHARED`,
/// `MS_SLAVE`, `MS_PRIVATE`, 0 for no change).
///
/// # Errors
/// As `mount_setattr`.
pub fn mount_setattr(mount: std::os::fd::BorrowedFd<'_>, set: u64, clear: u64, propagation: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // struct mount_attr (include/uapi/linux/mount.h); the last is a descriptor that is not used.
    let attributes = [set, clear, propagation, 0];
    // SAFETY: (1) the path is a live empty string; (2) the kernel reads as many bytes of the live array as it is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    check(result).map(drop)
}

/// Sleeps until a child has something to tell, or this time is over. See [`block_child_signal`].
pub fn wait_for_child_signal(longest: Duration) {
    let timeout = libc::timespec {
        tv_sec: longest.as_secs() as libc::time_t,
        tv_nsec: longest.subsec_nanos().into(),
    };
    // SAFETY: the set and the time-out are live for the call; no information is asked for.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigtimedwait(&set, ptr::null_mut(), &timeout);
    }
}

/// `struct sched_attr`, first version (include/uapi/linux/sched/types.h).
#[derive(Debug)]
#[repr(C)]
pub struct SchedAttr {
    /// Bytes of this.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Of ordinary policies.
    pub nice: i32,
    /// Of real-time policies.
    pub priority: u32,
    /// Runtime, deadline, period, in nanoseconds.
    pub deadline: [u64; 3],
}

/// Sets how a thread is scheduled.
///
/// # Errors
/// As `sched_setattr`.
pub fn set_scheduling(tid: Tid, attributes: &SchedAttr) -> io::Result<()> {
    let attributes = ptr::from_ref(attributes);
    // SAFETY: the structure lives for the call, and says its size itself.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, tid, attributes, 0) }).map(drop)
}

/// Sets the priority of a thread's input and output.
///
/// # Errors
/// As `ioprio_set`.
pub fn set_io_priority(tid: Tid, priority: u32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, priority) }).map(drop)
}

/// Sends a signal.
pub fn kill(pid: Tid, signal: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Lets this thread run before all ordinary ones while `work` is done.
pub fn ahead_of_others<T>(work: impl FnOnce() -> T) -> T {
    let set = |policy: i32, priority: i32| {
        let parameter = libc::sched_param {
            sched_priority: priority,
        };
        // SAFETY: the parameter lives for the call. Failing is slower, not wrong.
        unsafe { libc::sched_setscheduler(0, policy, &parameter) };
    };
    set(libc::SCHED_FIFO, 1);
    let result = work();
    set(libc::SCHED_OTHER, 0);
    result
}

/// Does something that many wait for with nearly all of the CPU it needs, however many processes compete (nice -20).
/// A child that is made meanwhile stays so.
pub fn before_others<T>(work: impl FnOnce() -> T) -> T {
    const FIRST: i32 = -20;
    // SAFETY: takes no pointer; concerns this process alone. Failing is slower, not wrong.
    let set = |nice: i32| unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    set(FIRST);
    let result = work();
    set(0);
    result
}

/// Sets a resource limit of a process.
pub fn set_limit(pid: Tid, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the limit lives until the call returns; the old one is not asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            ptr::from_ref(&limit),
            ptr::null_mut::<u8>(),
        )
    })
    .map(drop)
}

/// A resource limit of this process: soft, hard.
pub fn limit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit lives until the call returns, which fills it in; none is set.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            ptr::null::<u8>(),
            ptr::from_mut(&mut limit),
        )
    })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Keeps a process from writing a core file.
pub fn no_core_dump(pid: Tid) -> io::Result<()> {
    set_limit(pid, libc::RLIMIT_CORE, 0, 0)
}

/// The process group of a process.
///
/// # Errors
/// ESRCH if there is none.
pub fn group_of(pid: Tid) -> io::Result<Tid> {
    // SAFETY: takes a number.
    check(unsafe { libc::getpgid(pid) }.into()).map(|group| group as Tid)
}

/// Creates a copy of this process with the given ids, from the innermost pid namespace out, or any if there are none, that does
/// nothing but wait for signals. It is not traced yet. `flags` are CLONE_NEW*. Returns its id.
///
/// # Errors
/// EEXIST if the id is taken, EPERM without CAP_CHECKPOINT_RESTORE.
pub fn spawn_paused_as(ids: &[Tid], flags: i32, exit_signal: u32) -> io::Result<Tid> {
    let arguments = CloneArgs {
        flags: flags as u32 as u64,
        exit_signal: exit_signal.into(),
        set_tid: if ids.is_empty() { 0 } else { ids.as_ptr() as u64 },
        set_tid_size: ids.len() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: (1) the arguments and the ids live until the call returns; (2) without CLONE_VM the child has memory of
    // its own; (3) the child calls nothing but pause() until it is killed or its state replaced, so locks that other
    // threads may have held at this instant do not matter to it.
    unsafe {
        let size = size_of::<CloneArgs>();
        let child = check(libc::syscall(libc::SYS_clone3, ptr::from_ref(&arguments), size))?;
        if child == 0 {
            loop {
                libc::syscall(libc::SYS_pause);
            }
        }
        Ok(child as Tid)
    }
}

/// As [`spawn_paused_as`], in this process's pid namespace, with any id if it is 0.
///
/// # Errors
/// As there.
pub fn spawn_paused(pid: Tid, exit_signal: u32) -> io::Result<Tid> {
    let ids = [pid];
    spawn_paused_as(if pid == 0 { &[] } else { &ids }, 0, exit_signal)
}

/// Gives inotify the number of its next watch.
///
/// # Errors
/// As `ioctl`; EINVAL for a kernel without CONFIG_CHECKPOINT_RESTORE.
pub fn next_watch(fd: std::os::fd::BorrowedFd<'_>, number: u32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    /// `INOTIFY_IOC_SETNEXTWD`: `_IOW('I', 0, __s32)` (include/uapi/linux/inotify.h); the argument is the number.
    const INOTIFY_IOC_SETNEXTWD: libc::c_ulong = 0x4004_4900;
    // SAFETY: (1) the descriptor is borrowed; (2) the request takes an integer.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), INOTIFY_IOC_SETNEXTWD, number as libc::c_long) };
    check(result.into()).map(drop)
}

/// A path by which an open file can be opened once more (proc_pid_fd(5)).
pub fn magic_path(fd: &impl std::os::fd::AsFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Opens for reading and writing what is mapped in this process, as one mapping, from `start` to before `end`
/// (`/proc/PID/map_files`, proc_pid_map_files(5)).
///
/// # Errors
/// As `open`.
pub fn open_mapped(start: usize, end: usize) -> io::Result<std::os::fd::OwnedFd> {
    let path = format!("/proc/self/map_files/{start:x}-{end:x}");
    let opened = std::fs::OpenOptions::new().read(true).write(true).open(path);
    opened.map(Into::into)
}

/// The generation of an open file's inode (FS_IOC_GETVERSION).
///
/// # Errors
/// ENOTTY if its file system has none.
pub fn generation(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<u32> {
    use std::os::fd::AsRawFd;
    /// `_IOR('v', 1, long)` (include/uapi/linux/fs.h); what is written is an int.
    const FS_IOC_GETVERSION: libc::c_ulong = 0x8008_7601;
    let mut generation = 0u64;
    // SAFETY: (1) the descriptor is borrowed; (2) the request writes a long at most, for which there is room.
    check(i64::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), FS_IOC_GETVERSION, &mut generation)
    }))?;
    Ok(generation as u32)
}

/// `FILEID_INO32_GEN` (include/linux/exportfs.h): number and generation.
const NARROW: u32 = 1;
/// `FILEID_INO32_GEN` with `XFS_FILEID_TYPE_64FLAG` (fs/xfs/xfs_export.h): a number of 64 bits, and generation.
const WIDE: u32 = 0x81;

/// `FILEID_BTRFS_WITHOUT_PARENT` (include/linux/exportfs.h): a number, that of the subvolume, of 64 bits each, and generation.
const BTRFS: u32 = 0x4D;
/// `MAX_HANDLE_SZ` (include/linux/exportfs.h), in words.
const HANDLE_WORDS: usize = 32;
/// `struct file_handle` (include/linux/fs.h): bytes of the handle, its type, the handle.
type FileHandle = [u32; 2 + HANDLE_WORDS];

/// Opens a file of ext4, XFS or btrfs by inode number and generation, on the file system or the subvolume that `mount` lies on.
///
/// # Errors
/// ESTALE if there is no such file.
pub fn open_by_handle(
    mount: std::os::fd::BorrowedFd<'_>,
    number: u64,
    generation: u32,
    flags: i32,
) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::{AsRawFd, FromRawFd};
    let (low, high) = (number as u32, (number >> 32) as u32);
    let mut handle: FileHandle = [0; 2 + HANDLE_WORDS];
    match whole_handle_of(mount, c"") {
        Ok([20, BTRFS, _, _, low_root, high_root, ..]) => {
            handle[..7].copy_from_slice(&[20, BTRFS, low, high, low_root, high_root, generation]);
        }
        // XFS takes both.
        _ if high == 0 => handle[..4].copy_from_slice(&[8, NARROW, low, generation]),
        _ => handle[..5].copy_from_slice(&[12, WIDE, low, high, generation]),
    }
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: (1) the descriptor is borrowed; (2) the handle is as long as it says and lives for the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), handle.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd as i32) })
}

/// Inode number and generation of what a name of ext4, XFS or btrfs leads to, or of what is open if the name is empty; a symbolic
/// link is not followed (`name_to_handle_at(2)`).
///
/// # Errors
/// ENOENT if there is none; `Unsupported` if the file system has other handles.
pub fn handle_of(directory: std::os::fd::BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<(u64, u32)> {
    let wide = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    match whole_handle_of(directory, name)? {
        [8, NARROW, number, generation, ..] => Ok((number.into(), generation)),
        [12, WIDE, low, high, generation, ..] => Ok((wide(low, high), generation)),
        [20, BTRFS, low, high, _, _, generation, ..] => Ok((wide(low, high), generation)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// The number of the subvolume of btrfs that an open file lies on.
///
/// # Errors
/// `Unsupported` if its file system has other handles.
pub fn subvolume_of(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<u64> {
    match whole_handle_of(fd, c"")? {
        [20, BTRFS, _, _, low, high, ..] => Ok(u64::from(high) << 32 | u64::from(low)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn whole_handle_of(directory: std::os::fd::BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<FileHandle> {
    use std::os::fd::AsRawFd;
    let mut handle: FileHandle = [0; 2 + HANDLE_WORDS];
    handle[0] = 4 * HANDLE_WORDS as u32;
    let mut mount = 0i32;
    // SAFETY: (1) the descriptor is borrowed and the name ends with NUL; (2) the handle has as much room as it says;
    // (3) `mount` is a live integer.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            directory.as_raw_fd(),
            name.as_ptr(),
            handle.as_mut_ptr(),
            &mut mount,
            libc::AT_EMPTY_PATH,
        )
    })?;
    Ok(handle)
}

/// The UUID of the btrfs that an open file lies on (BTRFS_IOC_FS_INFO).
///
/// # Errors
/// ENOTTY if it is none.
pub fn btrfs_uuid(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<[u8; 16]> {
    use std::os::fd::AsRawFd;
    /// `_IOR(0x94, 31, struct btrfs_ioctl_fs_info_args)` (include/uapi/linux/btrfs.h), which is of 1024 bytes.
    const BTRFS_IOC_FS_INFO: libc::c_ulong = 0x8400_941F;
    /// Behind the highest number of a device, and how many there are.
    const UUID: usize = 16;
    let mut info = [0u8; 1024];
    // SAFETY: (1) the descriptor is borrowed; (2) the request writes as many bytes as there is room for.
    check(i64::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), BTRFS_IOC_FS_INFO, info.as_mut_ptr())
    }))?;
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&info[UUID..UUID + 16]);
    Ok(uuid)
}

/// An extent of a file on its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Offset on the device, in bytes.
    pub at: u64,
    /// Bytes.
    pub bytes: u64,
    /// FIEMAP_EXTENT_*.
    pub flags: u32,
}

/// The extents of an open file (FS_IOC_FIEMAP).
///
/// # Errors
/// EOPNOTSUPP if its file system does not tell.
pub fn extents(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<Vec<Extent>> {
    use std::os::fd::AsRawFd;
    /// `_IOWR('f', 11, struct fiemap)` (include/uapi/linux/fs.h).
    const FS_IOC_FIEMAP: libc::c_ulong = 0xC020_660B;
    const FIEMAP_EXTENT_LAST: u32 = 1;
    /// Extents asked for at once.
    const COUNT: usize = 256;
    /// Words of `struct fiemap` and of `struct fiemap_extent` (include/uapi/linux/fiemap.h).
    const HEAD: usize = 4;
    const EXTENT: usize = 7;
    let mut found = Vec::new();
    let mut start = 0u64;
    loop {
        let mut words = [0u64; HEAD + COUNT * EXTENT];
        // Start; length; flags and number of extents filled in; room.
        words[0] = start;
        words[1] = u64::MAX - start;
        words[3] = COUNT as u64;
        // SAFETY: (1) the descriptor is borrowed; (2) the request writes as many extents as it is told there is room
        // for, and there is.
        check(i64::from(unsafe {
            libc::ioctl(fd.as_raw_fd(), FS_IOC_FIEMAP, words.as_mut_ptr())
        }))?;
        let filled = ((words[2] >> 32) as usize).min(COUNT);
        for extent in words[HEAD..].chunks_exact(EXTENT).take(filled) {
            found.push(Extent {
                offset: extent[0],
                at: extent[1],
                bytes: extent[2],
                flags: extent[5] as u32,
            });
        }
        let Some(last) = found.last().filter(|_| filled != 0) else {
            return Ok(found);
        };
        start = last.offset.saturating_add(last.bytes);
        if last.flags & FIEMAP_EXTENT_LAST != 0 || start == u64::MAX {
            return Ok(found);
        }
    }
}
