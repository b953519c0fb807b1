//! One thread into its record.

use crate::addr::Kva;
use crate::context::Context;
use crate::creds;
use crate::fpu;
use crate::interrupted::{self, Decision};
use crate::io_uring;
use crate::library;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use crate::registers;
use crate::seccomp;
use crate::signals;
use alloc::vec::Vec;
use shared_region::context::{Caught, Sched, Thread};
use shared_region::reasons;

/// `PFA_NO_NEW_PRIVS` in `atomic_flags` (`include/linux/sched.h`).
const NO_NEW_PRIVS: u64 = 1;
/// `PFA_SPEC_*`: speculation controls.
const SPECULATION: u64 = 0b1111_1000;
/// `DEFAULT_PRIO`, the static priority of nice value 0 (`include/linux/sched/prio.h`).
const NICE_BASE: i64 = 120;
/// Size of `struct rseq` that every kernel accepts (`ORIG_RSEQ_SIZE`).
const RSEQ_SIZE: u64 = 32;
/// Mode bits of a memory policy beside its kind (`MPOL_MODE_FLAGS`).
const MPOL_MODE_FLAGS: u64 = 0xE000;
/// Words of a `cpumask_t` (`NR_CPUS_RANGE_END` is 8192, `arch/x86/Kconfig`).
const MAX_CPU_WORDS: u64 = 128;

crate::mirrors! {
    /// Input and output of a task.
    #[allow(missing_docs)]
    pub struct IoContext = "io_context" {
        ioprio: Field,
    }

    /// A memory policy.
    #[allow(missing_docs)]
    pub struct Mempolicy = "mempolicy" {
        mode: Field,
        flags: Field,
        nodes: Field = "nodes" | "v.nodes",
    }
}

/// Refuses what hangs on a task and cannot be restored.
///
/// # Errors
/// The reason.
pub fn check<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<()> {
    let kernel = context.kernel;
    let layout = &kernel.types.layouts.task;
    let mem = &kernel.mem;
    let set = |field: Option<Field>| field.map_or(Ok(0), |field| mem.uint(task, field));
    context.namespaces.check(kernel, task)?;
    // `features_locked` and an IO bitmap aside, each of these is null or zero unless the feature is in use.
    let words = [
        (Some(layout.ptrace), reasons::PTRACE),
        (layout.io_bitmap, reasons::IO_PORTS),
        (layout.iopl_emul, reasons::IO_PORTS),
        (Some(layout.ptrace_dr7), reasons::HW_BREAKPOINT),
        (layout.features, reasons::SHADOW_STACK),
        (layout.syscall_dispatch_len, reasons::SYSCALL_DISPATCH),
        (layout.syscall_dispatch_selector, reasons::SYSCALL_DISPATCH),
        (layout.core_cookie, reasons::CORE_SCHED),
        (layout.compat_robust_list, reasons::COMPAT),
        (layout.utask, reasons::UPROBES),
    ];
    for (field, reason) in words {
        if set(field)? != 0 {
            return Err(Refusal::new(reason, ""));
        }
    }
    io_uring::check_thread(context, task)?;
    // Every process with threads has a list; it is empty unless `semop` was used with SEM_UNDO.
    let undo = Kva(set(layout.sysvsem_undo)?);
    if let Some(list) = kernel.types.layouts.sem_undo_list.as_ref().filter(|_| !undo.is_null()) {
        let head = undo.offset(u64::from(list.list_proc.offset));
        if mem.pointer(head)? != head {
            return Err(Refusal::new(reasons::SYSV_SEM, ""));
        }
    }
    let tls = mem.bytes(
        task.offset(u64::from(layout.tls_array.offset)),
        layout.tls_array.size as usize,
    )?;
    if tls.iter().any(|&byte| byte != 0) {
        return Err(Refusal::new(reasons::TLS_SEGMENTS, ""));
    }
    if let Some(events) = layout.perf_event_list {
        let head = task.offset(u64::from(events.offset));
        if mem.pointer(head)? != head {
            return Err(Refusal::new(reasons::PERF, ""));
        }
    }
    Ok(())
}

/// The record of a thread; `space` is that of its process.
///
/// # Errors
/// It cannot be restored or read.
pub fn read<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    view: &interrupted::Thread<'_>,
    space: &crate::mm::Space,
    tgid: u32,
) -> Result<Thread> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let layout = &layouts.task;
    let mem = &kernel.mem;
    let task = view.task;
    let field = |field| mem.uint(task, field);
    let cpu = context.cpu_of(task);
    let has_hook = |number| library::has_hook(context, space, tgid, number);
    let decision = interrupted::decide_or_ask(context, view, has_hook)?;
    let (xstate, stale) = fpu::read(kernel, context.input, &context.xstate, task, cpu)?;
    let pending = signals::pending(kernel, task.offset(u64::from(layout.pending.offset)))?;
    let slack = field(layout.timer_slack_ns)?;
    let flags = field(layout.atomic_flags)?;
    let mut unusual = Vec::new();
    if flags & SPECULATION != 0 {
        unusual.push("speculation control (PR_SET_SPECULATION_CTRL)".into());
    }
    if stale {
        unusual.push("floating-point registers that were only in its CPU".into());
    }
    let io = mem.ptr(task, layout.io_context)?;
    let (utime, stime) = cpu_times(
        field(layout.utime)?,
        field(layout.stime)?,
        field(layout.sum_exec_runtime)?,
    );
    let login = match (layout.loginuid, layout.sessionid) {
        (Some(user), Some(session)) => (field(user)? as u32, field(session)? as u32),
        _ => (0, 0),
    };
    Ok(Thread {
        tid: field(layout.pid)? as u32,
        tgid,
        comm: mem.text(task, layout.comm)?,
        regs: user_regs(context, task, &decision)?,
        xstate,
        caught: decision.caught,
        resume: decision.resume,
        blocked: blocked(context, task, decision.caught)?,
        saved_blocked: None,
        pending: pending.queued,
        pending_mask: pending.mask,
        sigaltstack: (
            field(layout.sas_ss_sp)?,
            field(layout.sas_ss_size)?,
            field(layout.sas_ss_flags)? as u32,
        ),
        robust_list: field(layout.robust_list)?,
        clear_child_tid: field(layout.clear_child_tid)?,
        rseq: rseq(context, task)?,
        sched: sched(context, task)?,
        affinity: affinity(context, task)?,
        creds: creds(context, task)?,
        seccomp: seccomp::read(kernel, task)?,
        no_new_privs: flags & NO_NEW_PRIVS != 0,
        pdeath_signal: mem.int(task, layout.pdeath_signal)? as i32,
        timer_slack: slack,
        ioprio: if io.is_null() {
            0
        } else {
            mem.uint(io, layouts.io_context.ioprio)? as u32
        },
        personality: field(layout.personality)? as u32,
        mempolicy: mempolicy(context, task)?,
        unusual,
        utime,
        stime,
        login,
    })
}

/// The registers with segments, as `PTRACE_SETREGS` takes them.
fn user_regs<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva, decision: &Decision) -> Result<[u64; 27]> {
    let layout = &context.kernel.types.layouts.task;
    let field = |field| context.kernel.mem.uint(task, field);
    let left = context.cpu_of(task).and_then(|cpu| cpu.left.as_ref());
    let (fs_base, gs_base) = match left {
        Some(left) => (left.fs_base, left.gs_base),
        None => (field(layout.fsbase)?, field(layout.gsbase)?),
    };
    let segments = [
        fs_base,
        gs_base,
        field(layout.ds)?,
        field(layout.es)?,
        field(layout.fsindex)?,
        field(layout.gsindex)?,
    ];
    Ok(decision.regs.to_user_regs_struct(segments))
}

/// User and system time in proportion to what the ticks say, together the exact run time (`cputime_adjust`).
fn cpu_times(utime: u64, stime: u64, exact: u64) -> (u64, u64) {
    let share = u128::from(exact).wrapping_mul(u128::from(utime));
    let user = match share.checked_div(u128::from(utime).wrapping_add(u128::from(stime))) {
        Some(user) => u64::try_from(user).unwrap_or(exact).min(exact),
        None => exact,
    };
    (user, exact.saturating_sub(user))
}

/// Number of `rt_sigsuspend` (arch/x86/entry/syscalls/syscall_64.tbl).
const RT_SIGSUSPEND: u32 = 130;

/// The signal mask as it is outside of any call: a call that waits with another mask keeps the true one aside.
fn blocked<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva, caught: Caught) -> Result<u64> {
    let layout = &context.kernel.types.layouts.task;
    let mask = |field: Field| context.kernel.mem.u64(task.offset(u64::from(field.offset)));
    let waits = layout
        .restore_sigmask
        .map(|field| context.kernel.mem.uint(task, field))
        .transpose()?;
    // `sigsuspend` says so only when it has been woken.
    if waits.is_some_and(|waits| waits != 0) || caught == Caught::Syscall(RT_SIGSUSPEND) {
        return Ok(mask(layout.saved_sigmask)?);
    }
    // `sigtimedwait` unblocks what it waits for.
    match mask(layout.real_blocked)? {
        0 => Ok(mask(layout.blocked)?),
        real => Ok(real),
    }
}

fn creds<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<shared_region::context::Creds> {
    let layout = &context.kernel.types.layouts.task;
    let cred = context.kernel.mem.ptr(task, layout.cred)?;
    if cred != context.kernel.mem.ptr(task, layout.real_cred)? {
        return Err(Refusal::new(reasons::UNKNOWN, "borrowed credentials"));
    }
    creds::read(context.kernel, cred)
}

fn rseq<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<(u64, u32, u32)> {
    let layout = &context.kernel.types.layouts.task;
    let field = |field: Option<Field>, default| field.map_or(Ok(default), |field| context.kernel.mem.uint(task, field));
    let address = field(layout.rseq, 0)?;
    if address == 0 {
        return Ok((0, 0, 0));
    }
    Ok((
        address,
        field(layout.rseq_len, RSEQ_SIZE)? as u32,
        field(layout.rseq_sig, 0)? as u32,
    ))
}

fn sched<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<Sched> {
    let layout = &context.kernel.types.layouts.task;
    let field = |field| context.kernel.mem.uint(task, field);
    Ok(Sched {
        policy: field(layout.policy)? as u32,
        reset_on_fork: field(layout.sched_reset_on_fork)? != 0,
        nice: context
            .kernel
            .mem
            .int(task, layout.static_prio)?
            .saturating_sub(NICE_BASE) as i32,
        rt_priority: field(layout.rt_priority)? as u32,
        deadline: (
            field(layout.dl_runtime)?,
            field(layout.dl_deadline)?,
            field(layout.dl_period)?,
        ),
    })
}

/// The affinity mask, as many words as there are CPUs for.
fn affinity<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<Vec<u64>> {
    let field = context.kernel.types.layouts.task.cpus_mask;
    let words = (context.kernel.cpu_count() as u64).div_ceil(64).min(MAX_CPU_WORDS);
    let first = task.offset(u64::from(field.offset));
    let read = (0..words).map(|i| context.kernel.mem.u64(first.offset(i.wrapping_mul(8))));
    Ok(read.collect::<core::result::Result<_, _>>()?)
}

/// Mode with flags, and nodes.
fn mempolicy<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<(u32, Vec<u64>)> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let policy = layouts.task.mempolicy.map(|field| mem.ptr(task, field)).transpose()?;
    let (Some(policy), Some(layout)) = (policy.filter(|policy| !policy.is_null()), &layouts.mempolicy) else {
        return Ok((0, Vec::new()));
    };
    let mode = mem.uint(policy, layout.mode)? | (mem.uint(policy, layout.flags)? & MPOL_MODE_FLAGS);
    let bytes = mem.bytes(
        policy.offset(u64::from(layout.nodes.offset)),
        (layout.nodes.size as usize).min(1024),
    )?;
    let (words, _) = bytes.as_chunks::<8>();
    let mut nodes: Vec<u64> = words.iter().map(|&word| u64::from_le_bytes(word)).collect();
    let used = nodes
        .iter()
        .rposition(|&word| word != 0)
        .map_or(0, |last| last.saturating_add(1));
    nodes.truncate(used);
    Ok((mode as u32, nodes))
}

/// The registers of a thread and what is needed to judge its call.
///
/// # Errors
/// The registers are lost.
pub fn view<'t, M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    task: Kva,
    space: &crate::mm::Space,
    descriptors: &'t [crate::files::Descriptor],
) -> Result<interrupted::Thread<'t>> {
    let vdso = space
        .areas
        .iter()
        .find(|area| area.mapping.backing == shared_region::context::Backing::Vdso)
        .map_or((0, 0), |area| (area.mapping.start, area.mapping.end));
    Ok(interrupted::Thread {
        task,
        registers: registers::read(context.kernel, context.input, task, context.cpu_of(task))?,
        tables: space.tables,
        descriptors,
        vdso,
    })
}
