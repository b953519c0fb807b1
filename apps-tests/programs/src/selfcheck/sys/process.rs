//! Processes, ids, credentials, restrictions.

use super::{check, errno, scalar_calls};
use anyhow::{ensure, Context, Result};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

scalar_calls! {
    /// Process id.
    getpid() = SYS_getpid;
    /// Thread id.
    gettid() = SYS_gettid;
    /// Parent's process id.
    getppid() = SYS_getppid;
    /// Process group.
    getpgid(pid) = SYS_getpgid;
    /// Sets a process group.
    setpgid(pid, pgid) = SYS_setpgid;
    /// Session.
    getsid(pid) = SYS_getsid;
    /// Makes a session.
    setsid() = SYS_setsid;
    /// 20 − nice value.
    getpriority(which, who) = SYS_getpriority;
    /// Sets the nice value.
    setpriority(which, who, nice) = SYS_setpriority;
    /// I/O priority.
    ioprio_get(which, who) = SYS_ioprio_get;
    /// Sets the I/O priority.
    ioprio_set(which, who, value) = SYS_ioprio_set;
    /// Execution domain; 0xFFFFFFFF asks only.
    personality(persona) = SYS_personality;
    /// User ids of the calling thread.
    setresuid(real, effective, saved) = SYS_setresuid;
    /// Group ids of the calling thread.
    setresgid(real, effective, saved) = SYS_setresgid;
    /// File-system user id; −1 asks only.
    setfsuid(uid) = SYS_setfsuid;
    /// File-system group id; −1 asks only.
    setfsgid(gid) = SYS_setfsgid;
    /// Sends a signal to a process.
    kill(pid, signal) = SYS_kill;
    /// Sends a signal to a thread.
    tgkill(pid, tid, signal) = SYS_tgkill;
    /// `membarrier`: commands and registrations.
    membarrier(command, flags, cpu) = SYS_membarrier;
    /// Gives the CPU away.
    sched_yield() = SYS_sched_yield;
}

/// A process attribute that `prctl` gets as its result and sets from an integer.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    get: i32,
    set: i32,
}

/// `no_new_privs`.
pub const NO_NEW_PRIVS: Attribute = Attribute {
    get: libc::PR_GET_NO_NEW_PRIVS,
    set: libc::PR_SET_NO_NEW_PRIVS,
};
/// Whether a core may be dumped and ptrace attach.
pub const DUMPABLE: Attribute = Attribute {
    get: libc::PR_GET_DUMPABLE,
    set: libc::PR_SET_DUMPABLE,
};
/// What root may do by being root.
pub const SECUREBITS: Attribute = Attribute {
    get: libc::PR_GET_SECUREBITS,
    set: libc::PR_SET_SECUREBITS,
};
/// Slack of timers in nanoseconds.
pub const TIMERSLACK: Attribute = Attribute {
    get: libc::PR_GET_TIMERSLACK,
    set: libc::PR_SET_TIMERSLACK,
};
/// No transparent huge pages.
pub const THP_DISABLE: Attribute = Attribute {
    get: libc::PR_GET_THP_DISABLE,
    set: libc::PR_SET_THP_DISABLE,
};

impl Attribute {
    /// The value.
    pub fn get(self) -> Result<i64> {
        // SAFETY: these options take no pointer and answer by the result.
        let ret = unsafe { libc::syscall(libc::SYS_prctl, self.get, 0, 0, 0, 0) };
        check("prctl", ret)
    }

    /// Sets it.
    pub fn set(self, value: i64) -> Result<()> {
        // SAFETY: these options take no pointer.
        let ret = unsafe { libc::syscall(libc::SYS_prctl, self.set, value, 0, 0, 0) };
        check("prctl", ret).map(drop)
    }
}

fn prctl_int(option: i32) -> Result<i32> {
    let mut value = 0i32;
    // SAFETY: the two options used below write one int.
    let ret = unsafe { libc::syscall(libc::SYS_prctl, option, &mut value, 0, 0, 0) };
    check("prctl", ret)?;
    Ok(value)
}

/// Signal at the parent's death.
pub fn death_signal() -> Result<i32> {
    prctl_int(libc::PR_GET_PDEATHSIG)
}

/// Sets the signal at the parent's death.
pub fn set_death_signal(signal: i32) -> Result<()> {
    // SAFETY: takes an integer.
    let ret = unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) };
    check("prctl(PR_SET_PDEATHSIG)", ret).map(drop)
}

/// Whether orphaned descendants come to this process.
pub fn subreaper() -> Result<bool> {
    Ok(prctl_int(libc::PR_GET_CHILD_SUBREAPER)? != 0)
}

/// Makes orphaned descendants come to this process, or not.
pub fn set_subreaper(on: bool) -> Result<()> {
    // SAFETY: takes an integer.
    let ret = unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_CHILD_SUBREAPER, i64::from(on), 0, 0, 0) };
    check("prctl(PR_SET_CHILD_SUBREAPER)", ret).map(drop)
}

/// Name of the calling thread.
pub fn set_thread_name(name: &str) -> Result<()> {
    let name = CString::new(name)?;
    // SAFETY: NUL-terminated; the kernel reads 16 bytes at most.
    let ret = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    check("prctl(PR_SET_NAME)", ret.into()).map(drop)
}

/// Name of the calling thread.
pub fn thread_name() -> Result<String> {
    let mut name = [0u8; 16];
    // SAFETY: PR_GET_NAME writes 16 bytes.
    let ret = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    check("prctl(PR_GET_NAME)", ret.into())?;
    Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
}

/// Real, effective and saved user ids, or group ids.
pub fn ids(groups: bool) -> Result<[u32; 3]> {
    let mut ids = [0u32; 3];
    let [real, effective, saved] = &mut ids;
    let number = if groups {
        libc::SYS_getresgid
    } else {
        libc::SYS_getresuid
    };
    // SAFETY: three valid ints.
    let ret = unsafe { libc::syscall(number, real, effective, saved) };
    check("getresuid", ret)?;
    Ok(ids)
}

/// Supplementary groups.
pub fn groups() -> Result<Vec<u32>> {
    let mut list = [0u32; 64];
    // SAFETY: room for 64 groups, as said.
    let ret = unsafe { libc::syscall(libc::SYS_getgroups, 64, list.as_mut_ptr()) };
    let count = check("getgroups", ret)?;
    Ok(list[..count as usize].to_vec())
}

/// Sets the supplementary groups of the calling thread.
pub fn set_groups(list: &[u32]) -> Result<()> {
    // SAFETY: the list is valid for its length.
    let ret = unsafe { libc::syscall(libc::SYS_setgroups, list.len(), list.as_ptr()) };
    check("setgroups", ret).map(drop)
}

/// `struct __user_cap_header_struct` for the 64-bit interface (version 3).
const CAPABILITY_VERSION: [u32; 2] = [0x2008_0522, 0];

/// Effective, permitted and inheritable capabilities.
pub fn capabilities() -> Result<[u64; 3]> {
    let (mut header, mut data) = (CAPABILITY_VERSION, [[0u32; 3]; 2]);
    // SAFETY: version 3 writes two data structures.
    let ret = unsafe { libc::syscall(libc::SYS_capget, &mut header, &mut data) };
    check("capget", ret)?;
    Ok([0, 1, 2].map(|set| u64::from(data[0][set]) | u64::from(data[1][set]) << 32))
}

/// Sets effective, permitted and inheritable capabilities.
pub fn set_capabilities(sets: [u64; 3]) -> Result<()> {
    let mut header = CAPABILITY_VERSION;
    let data = [sets.map(|set| set as u32), sets.map(|set| (set >> 32) as u32)];
    // SAFETY: version 3 reads two data structures.
    let ret = unsafe { libc::syscall(libc::SYS_capset, &mut header, &data) };
    check("capset", ret).map(drop)
}

/// Whether a capability is in the bounding set.
pub fn in_bounding_set(capability: u32) -> Result<bool> {
    // SAFETY: takes an integer.
    let ret = unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_READ, capability, 0, 0, 0) };
    Ok(check("prctl(PR_CAPBSET_READ)", ret)? == 1)
}

/// Drops a capability from the bounding set.
pub fn drop_from_bounding_set(capability: u32) -> Result<()> {
    // SAFETY: takes an integer.
    let ret = unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    check("prctl(PR_CAPBSET_DROP)", ret).map(drop)
}

/// `PR_CAP_AMBIENT` with PR_CAP_AMBIENT_RAISE, LOWER or IS_SET; the last answers 0 or 1.
pub fn ambient(operation: i32, capability: u32) -> Result<i64> {
    // SAFETY: takes integers.
    let ret = unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAP_AMBIENT, operation, capability, 0, 0) };
    check("prctl(PR_CAP_AMBIENT)", ret)
}

/// A limit of this process as (soft, hard).
pub fn limit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = [0u64; 2];
    let none = std::ptr::null::<u64>();
    // SAFETY: `struct rlimit64` is two u64, valid for the whole call; no new limit is set.
    let ret = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, none, &mut limit) };
    check("prlimit64", ret)?;
    Ok((limit[0], limit[1]))
}

/// Sets a limit of this process.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: `struct rlimit64` is two u64, valid for the whole call.
    let ret = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &limit, none) };
    check("prlimit64", ret).map(drop)
}

/// CPUs the calling thread may run on, first 1024.
pub fn affinity() -> Result<[u64; 16]> {
    let mut mask = [0u64; 16];
    // SAFETY: the mask is 128 bytes long, as said.
    let ret = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, 128, mask.as_mut_ptr()) };
    check("sched_getaffinity", ret)?;
    Ok(mask)
}

/// Sets the CPUs the calling thread may run on.
pub fn set_affinity(mask: &[u64; 16]) -> Result<()> {
    // SAFETY: the mask is 128 bytes long, as said.
    let ret = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, 128, mask.as_ptr()) };
    check("sched_setaffinity", ret).map(drop)
}

/// The CPU the calling thread runs on.
pub fn current_cpu() -> Result<u32> {
    let mut cpu = 0u32;
    // SAFETY: the CPU number is valid; the others may be null.
    let ret = unsafe { libc::syscall(libc::SYS_getcpu, &mut cpu, 0, 0) };
    check("getcpu", ret)?;
    Ok(cpu)
}

/// Policy (with SCHED_RESET_ON_FORK) and real-time priority of the calling thread.
pub fn scheduler() -> Result<(i64, i32)> {
    let mut priority = 0i32;
    // SAFETY: takes an integer.
    let policy = check("sched_getscheduler", unsafe {
        libc::syscall(libc::SYS_sched_getscheduler, 0)
    })?;
    // SAFETY: `struct sched_param` is one int.
    check("sched_getparam", unsafe {
        libc::syscall(libc::SYS_sched_getparam, 0, &mut priority)
    })?;
    Ok((policy, priority))
}

/// Sets the policy and real-time priority of the calling thread.
pub fn set_scheduler(policy: i32, priority: i32) -> Result<()> {
    // SAFETY: `struct sched_param` is one int.
    let ret = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &priority) };
    check("sched_setscheduler", ret).map(drop)
}

/// `chroot`.
pub fn chroot(path: &Path) -> Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: NUL-terminated.
    let ret = unsafe { libc::chroot(path.as_ptr()) };
    check("chroot", ret.into()).map(drop)
}

/// Puts a seccomp filter on the calling thread.
pub fn add_filter(filter: &[libc::sock_filter]) -> Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).context("filter length")?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program points to `len` instructions, which the kernel copies.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) };
    check("seccomp", ret).map(drop)
}

/// Puts the calling thread under strict seccomp: `read`, `write`, `exit` and `rt_sigreturn` only.
pub fn set_strict() -> Result<()> {
    // SAFETY: takes integers.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_prctl,
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_STRICT,
            0,
            0,
            0,
        )
    };
    check("prctl(PR_SET_SECCOMP)", ret).map(drop)
}

/// Ends the calling thread at once (the process, if it is the only one) by the one exit call strict seccomp allows.
pub fn exit_thread(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe {
        libc::syscall(libc::SYS_exit, code);
    }
    std::process::abort()
}

/// Address and length of the calling thread's robust list.
pub fn robust_list() -> Result<(usize, usize)> {
    let (mut head, mut length) = (0usize, 0usize);
    // SAFETY: two valid words.
    let ret = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &mut head, &mut length) };
    check("get_robust_list", ret)?;
    Ok((head, length))
}

/// Replaces the calling thread's robust list by one that lies in `memory`: `head` is the word index of
/// `struct robust_list_head` (next, futex offset, pending).
pub fn set_robust_list(memory: &super::memory::Region, head: usize) -> Result<()> {
    let address = memory.word(head).as_ptr();
    // SAFETY: (1) the head lies in a live mapping; (2) the kernel walks it only when the thread ends, faulting safely.
    let ret = unsafe { libc::syscall(libc::SYS_set_robust_list, address, 24) };
    check("set_robust_list", ret).map(drop)
}

/// Makes the kernel write 0 to this word and wake it when the calling thread ends.
pub fn set_tid_address(word: &'static std::sync::atomic::AtomicU64) {
    // SAFETY: the word is there for ever.
    unsafe { libc::syscall(libc::SYS_set_tid_address, word.as_ptr()) };
}

extern "C" {
    /// Offset of the thread's `struct rseq` from its thread pointer (glibc 2.35).
    static __rseq_offset: isize;
    /// Bytes of it in use, 0 if the C library has not registered any.
    static __rseq_size: u32;
}

/// The calling thread's rseq area, if it is registered.
fn rseq_area() -> Option<*mut u32> {
    // SAFETY: both are constants that the C library sets before `main`.
    let (offset, size) = unsafe { (__rseq_offset, __rseq_size) };
    // SAFETY: the first word at the thread pointer is the thread pointer itself (x86_64 psABI, variant II TLS).
    let pointer: usize = unsafe {
        let pointer;
        std::arch::asm!("mov {}, fs:[0]", out(reg) pointer, options(nostack, readonly, preserves_flags));
        pointer
    };
    (size > 0).then_some(pointer.wrapping_add_signed(offset) as *mut u32)
}

/// What the kernel last wrote as the current CPU (`rseq.cpu_id`). `None` without rseq.
pub fn rseq_cpu() -> Option<u32> {
    // SAFETY: `cpu_id` is the second word of the area, which lives as long as the thread; the kernel writes it.
    rseq_area().map(|area| unsafe { area.add(1).read_volatile() })
}

/// Takes the rseq registration of the calling thread away.
pub fn unregister_rseq() -> Result<()> {
    const SIGNATURE: u32 = 0x5305_3053;
    const UNREGISTER: i32 = 1;
    let Some(area) = rseq_area() else { return Ok(()) };
    // SAFETY: the area and signature are those the C library registered; it copes with a missing registration.
    let ret = unsafe { libc::syscall(libc::SYS_rseq, area, 32, UNREGISTER, SIGNATURE) };
    check("rseq", ret).map(drop)
}

/// Sets the GS base of the calling thread, which no C library uses on x86_64.
pub fn set_gs_base(base: u64) -> Result<()> {
    const ARCH_SET_GS: i32 = 0x1001;
    // SAFETY: nothing addresses memory through GS in this program.
    let ret = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
    check("arch_prctl(ARCH_SET_GS)", ret).map(drop)
}

/// FS and GS base of the calling thread.
pub fn segment_bases() -> Result<[u64; 2]> {
    const ARCH_GET_FS: i32 = 0x1003;
    const ARCH_GET_GS: i32 = 0x1004;
    let mut bases = [0u64; 2];
    for (base, code) in bases.iter_mut().zip([ARCH_GET_FS, ARCH_GET_GS]) {
        // SAFETY: writes one word.
        let ret = unsafe { libc::syscall(libc::SYS_arch_prctl, code, base) };
        check("arch_prctl", ret)?;
    }
    Ok(bases)
}

/// A child made by [`fork`].
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: i64,
}

/// Forks. The child runs `body` and exits: 0 if it succeeds, else 1 after naming the error on standard output.
///
/// Only single-threaded cells fork, so that the child may use everything.
pub fn fork(body: impl FnOnce() -> Result<()>) -> Result<Child> {
    // SAFETY: the process has one thread, so the child's memory is whole and no lock is held.
    let pid = check("fork", unsafe { libc::fork() }.into())?;
    if pid != 0 {
        return Ok(Child { pid });
    }
    let code = match body() {
        Ok(()) => 0,
        Err(error) => {
            println!("CHILD {}: {error:#}", std::process::id());
            1
        }
    };
    // SAFETY: ends the child without running the parent's exit handlers.
    unsafe { libc::_exit(code) }
}

/// Ends this process at once with a code.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// One `wait4`, not restarted: result, errno, status.
pub fn wait4(pid: i64, options: i32) -> (i64, i32, i32) {
    let mut status = 0i32;
    // SAFETY: the status is valid; no usage is asked for.
    let ret = unsafe { libc::syscall(libc::SYS_wait4, pid, &mut status, options, 0) };
    (ret, errno(ret), status)
}

impl Child {
    /// Waits for the child and returns its `wait` status.
    pub fn status(&self) -> Result<i32> {
        loop {
            match wait4(self.pid, 0) {
                (-1, libc::EINTR, _) => {}
                (-1, error, _) => anyhow::bail!("wait4: {}", std::io::Error::from_raw_os_error(error)),
                (_, _, status) => return Ok(status),
            }
        }
    }

    /// Waits for the child and expects that it has found nothing wrong.
    pub fn join(&self, what: &str) -> Result<()> {
        let status = self.status()?;
        ensure!(
            status == 0,
            "{what}: the child found something wrong (wait status {status:#x})"
        );
        Ok(())
    }
}

/// A field of `/proc/self/stat`, numbered from 1 as in proc(5).
pub fn stat_field(number: usize) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace()
        .nth(number - 3)
        .and_then(|field| field.parse().ok())
        .with_context(|| format!("/proc/self/stat has no field {number}"))
}

/// A value of `/proc/PID/status` by its name.
pub fn status_field(pid: i64, name: &str) -> Result<String> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).context(path)?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
        .with_context(|| format!("no {name} in status"))
}
