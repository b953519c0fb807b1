//! Tasks: `struct task_struct` and the list of all processes.

use crate::addr::Kva;
use crate::error::ReadError;
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use alloc::vec::Vec;

/// More tasks than `pid_max` allows (`PID_MAX_LIMIT` is 4 Mi).
const MAX_TASKS: u64 = 4 << 20;
/// `THREAD_SIZE` where the stack is not in vmalloc (`arch/x86/include/asm/page_64_types.h`, without KASAN).
const THREAD_SIZE: u64 = 16 << 10;
/// Bytes of `struct pt_regs`, which is ABI: 21 words.
pub const PT_REGS: u64 = 21 * 8;

/// `EXIT_ZOMBIE` in `exit_state` (`include/linux/sched.h`).
pub const EXIT_ZOMBIE: u64 = 0x20;
/// `EXIT_DEAD`.
pub const EXIT_DEAD: u64 = 0x10;
/// `PF_EXITING` in `flags`.
pub const PF_EXITING: u64 = 0x4;
/// `PF_KTHREAD`.
pub const PF_KTHREAD: u64 = 0x0020_0000;
/// `PF_IO_WORKER`, and `PF_USER_WORKER`, which replaced it in Linux 6.4 (54e6842d0775) with another bit for the former.
pub const PF_WORKER: u64 = 0x10 | 0x4000;
/// `PF_DUMPCORE`.
pub const PF_DUMPCORE: u64 = 0x200;
/// `TASK_NEW` in `__state`.
pub const TASK_NEW: u64 = 0x800;

crate::mirrors! {
    /// A task.
    #[allow(missing_docs)]
    pub struct Task = "task_struct" {
        thread_info_flags: Field = "thread_info.flags",
        state: Field = "__state" | "state",
        stack: Field,
        flags: Field,
        ptrace: Field,
        static_prio: Field,
        rt_priority: Field,
        policy: Field,
        dl_runtime: Field = "dl.dl_runtime",
        dl_deadline: Field = "dl.dl_deadline",
        dl_period: Field = "dl.dl_period",
        cpus_mask: Field,
        sched_reset_on_fork: Field,
        core_cookie: Option<Field> = "core_cookie",
        tasks: Field,
        mm: Field,
        exit_state: Field,
        exit_code: Field,
        exit_signal: Field,
        pdeath_signal: Field,
        jobctl: Field,
        personality: Field,
        in_execve: Field,
        restore_sigmask: Option<Field> = "restore_sigmask",
        atomic_flags: Field,
        restart_block: Field,
        pid: Field,
        tgid: Field,
        real_parent: Field,
        children: Field,
        sibling: Field,
        group_leader: Field,
        ptraced: Field,
        thread_pid: Field,
        thread_node: Field,
        vfork_done: Field,
        clear_child_tid: Field,
        utime: Field,
        stime: Field,
        sum_exec_runtime: Field = "se.sum_exec_runtime",
        start_boottime: Field = "start_boottime" | "real_start_time",
        cred: Field,
        real_cred: Field,
        comm: Field,
        sysvsem_undo: Option<Field> = "sysvsem.undo_list",
        fs: Field,
        files: Field,
        io_uring: Option<Field> = "io_uring",
        nsproxy: Field,
        signal: Field,
        sighand: Field,
        blocked: Field,
        real_blocked: Field,
        saved_sigmask: Field,
        pending: Field,
        sas_ss_sp: Field,
        sas_ss_size: Field,
        sas_ss_flags: Field,
        seccomp_mode: Option<Field> = "seccomp.mode",
        seccomp_filter: Option<Field> = "seccomp.filter",
        syscall_dispatch_selector: Option<Field> = "syscall_dispatch.selector",
        syscall_dispatch_len: Option<Field> = "syscall_dispatch.len",
        loginuid: Option<Field> = "loginuid.val",
        sessionid: Option<Field> = "sessionid",
        journal_info: Field,
        io_context: Field,
        robust_list: Field,
        compat_robust_list: Option<Field> = "compat_robust_list",
        perf_event_list: Option<Field> = "perf_event_list",
        mempolicy: Option<Field> = "mempolicy",
        rseq: Option<Field> = "rseq" | "rseq.usrptr",
        rseq_len: Option<Field> = "rseq_len" | "rseq.len",
        rseq_sig: Option<Field> = "rseq_sig" | "rseq.sig",
        timer_slack_ns: Field,
        utask: Option<Field> = "utask",
        stack_vm_area: Option<Field> = "stack_vm_area",
        tls_array: Field = "thread.tls_array",
        sp: Field = "thread.sp",
        es: Field = "thread.es",
        ds: Field = "thread.ds",
        fsindex: Field = "thread.fsindex",
        gsindex: Field = "thread.gsindex",
        fsbase: Field = "thread.fsbase",
        gsbase: Field = "thread.gsbase",
        ptrace_dr7: Field = "thread.ptrace_dr7",
        io_bitmap: Option<Field> = "thread.io_bitmap",
        iopl_emul: Option<Field> = "thread.iopl_emul",
        pkru: Option<Field> = "thread.pkru",
        features: Option<Field> = "thread.features",
        fpstate: Field = "thread.fpu.fpstate",
    }

    /// What the threads of a process share.
    #[allow(missing_docs)]
    pub struct Signal = "signal_struct" {
        thread_head: Field,
        shared_pending: Field,
        group_exit_code: Field,
        notify_count: Field,
        group_exec_task: Option<Field> = "group_exec_task" | "group_exit_task",
        flags: Field,
        core_state: Option<Field> = "core_state",
        is_child_subreaper: Field,
        posix_timers: Field,
        real_timer: Field,
        it_real_incr: Field,
        it: Field,
        cputime: Field = "cputimer.cputime_atomic",
        pids: Field,
        tty: Field,
        rlim: Field,
        oom_score_adj: Field,
        oom_score_adj_min: Field,
        utime: Field,
        stime: Field,
    }

    /// Adjustments of System V semaphores at exit.
    #[allow(missing_docs)]
    pub struct SemUndoList = "sem_undo_list" {
        list_proc: Field,
    }

    /// An area of vmalloc.
    #[allow(missing_docs)]
    pub struct VmStruct = "vm_struct" {
        nr_pages: Field,
    }

    /// A process id.
    #[allow(missing_docs)]
    pub struct Pid = "pid" {
        level: Field,
        numbers: Field,
        tasks: Field,
    }

    /// A process id in one namespace.
    #[allow(missing_docs)]
    pub struct Upid = "upid" {
        nr: Field,
        ns: Field,
    }
}

crate::constants! {
    /// Kinds of process ids, indices of `signal_struct.pids`.
    pub struct PidTypes {
        /// Process.
        tgid: u32 = "PIDTYPE_TGID",
        /// Process group.
        pgid: u32 = "PIDTYPE_PGID",
        /// Session.
        sid: u32 = "PIDTYPE_SID",
    }
}

/// What is needed of every process to choose those that are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessEntry {
    /// Its first thread.
    pub leader: Kva,
    /// Process id in the first pid namespace.
    pub tgid: u32,
    /// Process id of its parent, 0 if it has none.
    pub parent: u32,
    /// CLOCK_BOOTTIME when it started, in nanoseconds.
    pub start_boottime: u64,
    /// Its name.
    pub comm: Vec<u8>,
    /// A kernel thread.
    pub kernel: bool,
    /// `exit_state`.
    pub exit_state: u64,
    /// `__state`.
    pub state: u64,
}

/// All processes. Those that cannot be read are left out and counted in the second value; the walk ends where the list
/// is torn.
pub fn processes<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>) -> (Vec<ProcessEntry>, u32) {
    let task = &kernel.types.layouts.task;
    let head = kernel.symbols.init_task.offset(u64::from(task.tasks.offset));
    let mut found = Vec::new();
    let mut bad = 0u32;
    for leader in kernel.list(head, task.tasks).bounded(MAX_TASKS) {
        match leader.map(|leader| entry(kernel, leader)) {
            Ok(Ok(entry)) => found.push(entry),
            Ok(Err(_)) | Err(_) => bad = bad.saturating_add(1),
        }
    }
    (found, bad)
}

fn entry<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, leader: Kva) -> Result<ProcessEntry, ReadError> {
    let task = &kernel.types.layouts.task;
    let mem = &kernel.mem;
    let parent = mem.ptr(leader, task.real_parent)?;
    let flags = mem.uint(leader, task.flags)?;
    Ok(ProcessEntry {
        leader,
        tgid: mem.uint(leader, task.tgid)? as u32,
        parent: mem.uint(parent, task.tgid)? as u32,
        start_boottime: mem.uint(leader, task.start_boottime)?,
        comm: mem.text(leader, task.comm)?,
        kernel: flags & PF_KTHREAD != 0,
        exit_state: mem.uint(leader, task.exit_state)?,
        state: mem.uint(leader, task.state)?,
    })
}

/// Addresses of the threads of a process.
///
/// # Errors
/// The list of threads is torn: none can be left out.
pub fn threads<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, signal: Kva) -> crate::refusal::Result<Vec<Kva>> {
    let types = &kernel.types.layouts;
    let head = signal.offset(u64::from(types.signal.thread_head.offset));
    let list = kernel.list(head, types.task.thread_node).bounded(MAX_TASKS);
    Ok(list.collect::<core::result::Result<_, _>>()?)
}

/// First byte of a task's kernel stack and the first byte after it.
///
/// # Errors
/// The task cannot be read, or its stack has no size.
pub fn stack<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, task: Kva) -> Result<(Kva, Kva), ReadError> {
    let types = &kernel.types.layouts;
    let bottom = kernel.mem.ptr(task, types.task.stack)?;
    let area = types
        .task
        .stack_vm_area
        .map(|field| kernel.mem.ptr(task, field))
        .transpose()?;
    let pages = match area.filter(|area| !area.is_null()) {
        Some(area) => kernel.mem.uint(area, types.vm_struct.nr_pages)?,
        None => 0,
    };
    // 4 pages, 8 with KASAN; anything else is no stack.
    let size = if (1..=16).contains(&pages) {
        pages << crate::addr::PAGE_SHIFT
    } else {
        THREAD_SIZE
    };
    Ok((bottom, bottom.offset(size)))
}

/// The number of a `struct pid` in the first pid namespace; 0 for none.
///
/// # Errors
/// It cannot be read.
pub fn pid_number<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, pid: Kva) -> Result<u32, ReadError> {
    match pid.is_null() {
        true => Ok(0),
        false => pid_at_level(kernel, pid, 0).map(|(number, _)| number),
    }
}

/// The number of a `struct pid` in the pid namespace at a level, and that namespace.
///
/// # Errors
/// It cannot be read.
pub fn pid_at_level<M: PhysMem + ?Sized>(
    kernel: &Kernel<'_, M>,
    pid: Kva,
    level: u64,
) -> Result<(u32, Kva), ReadError> {
    let types = &kernel.types.layouts;
    // The last of the structure's members.
    let stride = u64::from(types.upid.ns.offset.saturating_add(types.upid.ns.size));
    let first = pid.offset(u64::from(types.pid.numbers.offset));
    let at = first.offset(level.wrapping_mul(stride));
    let number = kernel.mem.uint(at, types.upid.nr)?;
    Ok((number as u32, kernel.mem.ptr(at, types.upid.ns)?))
}
