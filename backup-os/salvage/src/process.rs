//! One process into its records.

use crate::addr::Kva;
use crate::context::Context;
use crate::dentry;
use crate::directories;
use crate::files;
use crate::frames;
use crate::inodes;
use crate::interrupted;
use crate::keyrings;
use crate::launch::Launch;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::mm::{self, Space};
use crate::mount_namespaces;
use crate::namespaces;
use crate::pid_namespaces;
use crate::refusal::{Refusal, Result};
use crate::signals;
use crate::tasks::{self, ProcessEntry, EXIT_DEAD, PF_DUMPCORE, PF_EXITING, PF_WORKER, TASK_NEW};
use crate::terminals;
use crate::thread;
use crate::timers;
use alloc::vec::Vec;
use shared_region::context::{Backing, Process};
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

/// `SIGNAL_STOP_STOPPED` and `SIGNAL_GROUP_EXIT` (`include/linux/sched/signal.h`).
const STOP_STOPPED: u64 = 1;
const GROUP_EXIT: u64 = 4;
/// Number of SIGSTOP.
const SIGSTOP: u32 = 19;
/// `JOBCTL_STOP_PENDING` and the signal beside it (`include/linux/sched/jobctl.h`).
const STOP_PENDING: u64 = 1 << 17;
const STOP_SIGNAL: u64 = 0xFFFF;
/// Resource limits (`RLIM_NLIMITS`).
const LIMITS: u64 = 16;
/// Longest path of a cgroup.
const MAX_CGROUP: usize = 256;

crate::mirrors! {
    /// Directories of a process.
    #[allow(missing_docs)]
    pub struct FsStruct = "fs_struct" {
        umask: Field,
        in_exec: Field,
        root_mnt: Field = "root.mnt",
        root_dentry: Field = "root.dentry",
        pwd_mnt: Field = "pwd.mnt",
        pwd_dentry: Field = "pwd.dentry",
    }

    /// A task's cgroups.
    #[allow(missing_docs)]
    pub struct TaskCgroups = "task_struct" {
        cgroups: Option<Field> = "cgroups",
    }

    /// A cgroup namespace.
    #[allow(missing_docs)]
    pub struct CgroupNamespace = "cgroup_namespace" {
        ns_ops: Field = "ns.ops",
        user_ns: Field,
        root_cset: Field,
    }

    /// A set of cgroups.
    #[allow(missing_docs)]
    pub struct CssSet = "css_set" {
        dfl_cgrp: Field,
    }

    /// A cgroup.
    #[allow(missing_docs)]
    pub struct Cgroup = "cgroup" {
        kn: Field,
    }

    /// Its directory. The parent's member got its prefix in Linux 6.15 (633488947ef6).
    #[allow(missing_docs)]
    pub struct KernfsNode = "kernfs_node" {
        parent: Field = "__parent" | "parent",
        name: Field,
    }
}

/// What became of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Recorded, with so many threads.
    Alive(u32),
    /// Recorded as having ended.
    Ended,
    /// It had ended and was being removed, or had not begun: there is nothing of it.
    Gone,
}

/// Records a process with everything that is its own or shared with others and not recorded yet.
///
/// # Errors
/// It is refused. The caller drops what was written.
pub fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    entry: &ProcessEntry,
) -> Result<Written> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let mem = &kernel.mem;
    let leader = entry.leader;
    let signal = mem.ptr(leader, layouts.task.signal)?;
    let group = mem.uint(signal, layouts.signal.flags)?;
    // A child that has not run yet does not exist for anybody: its parent makes it again.
    if entry.exit_state & EXIT_DEAD != 0 || entry.state & TASK_NEW != 0 {
        return Ok(Written::Gone);
    }
    if entry.exit_state != 0 || group & GROUP_EXIT != 0 || mem.ptr(leader, layouts.task.mm)?.is_null() {
        pid_namespaces::write_of_process(context, writer, signal, &[leader])?;
        let record = ended(context, entry, signal, group)?;
        writer.push(Kind::Process, 1, flags::MUST_UNDERSTAND, u64::from(entry.tgid), &record)?;
        return Ok(Written::Ended);
    }
    check_group(context, leader, signal)?;

    let mm = mem.ptr(leader, layouts.task.mm)?;
    // Memory borrowed from the parent is recorded once more, and shared as after `fork`.
    let borrows = !mem.ptr(leader, layouts.task.vfork_done)?.is_null();
    let mm_id = if borrows { leader.0 } else { mm.0 };
    let files = mem.ptr(leader, layouts.task.files)?;
    let tasks = live_threads(context, leader, signal)?;
    let launch = interrupted::exec::launch(context, leader)?;
    let space = match &launch {
        Some(launch) => launch.space(mm::read_but_areas(context, mm)?),
        None => mm::read(context, mm)?,
    };
    let descriptors = interrupted::descriptors(context, files)?;
    let owner = u64::from(entry.tgid);
    let mut record = process(context, entry, signal, group, &space)?;
    record.mm = mm_id;
    if launch.is_some() {
        Launch::forget(&mut record);
    }
    writer.push(Kind::Process, 1, flags::MUST_UNDERSTAND, owner, &record)?;
    mount_namespaces::write_of_process(context, writer, leader, entry.tgid)?;
    namespaces::write_of_process(context, writer, retained, leader, entry.tgid)?;
    pid_namespaces::write_of_process(context, writer, signal, &tasks)?;
    keyrings::write(context, writer, Kva(record.session_keyring))?;
    terminals::write_controlling(context, writer, signal)?;
    let fs = mem.ptr(leader, layouts.task.fs)?;
    for (mnt, dentry) in [
        (layouts.fs.pwd_mnt, layouts.fs.pwd_dentry),
        (layouts.fs.root_mnt, layouts.fs.root_dentry),
    ] {
        let path = dentry::of(context, mem.ptr(fs, mnt)?, mem.ptr(fs, dentry)?)?;
        directories::write(context, writer, &path)?;
    }
    for &task in &tasks {
        let name = || alloc::format!("thread {}", mem.uint(task, layouts.task.pid).unwrap_or(0));
        let mut record = check_shared(context, leader, task)
            .and_then(|()| thread::check(context, task))
            .and_then(|()| thread::view(context, task, &space, &descriptors))
            .and_then(|view| thread::read(context, &view, &space, entry.tgid))
            .map_err(|refusal| refusal.of(name))?;
        if launch.is_some() {
            Launch::forget_of_thread(&mut record);
        }
        writer.push(Kind::Thread, 1, flags::MUST_UNDERSTAND, owner, &record)?;
    }
    files::write(context, writer, retained, files)?;
    match launch {
        Some(launch) => launch.write(writer, mm_id, &space)?,
        None => write_space(context, writer, retained, (mm, mm_id), &space)?,
    }
    Ok(Written::Alive(tasks.len() as u32))
}

/// An address space with its mappings, frames and files, under the given id.
fn write_space<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    (mm, id): (Kva, u64),
    space: &Space,
) -> Result<()> {
    if !context.first(Kind::AddressSpace, id) {
        return Ok(());
    }
    space.write(writer, id)?;
    frames::write(context, writer, retained, id, space)?;
    for area in &space.areas {
        let is_ring = area.mapping.backing == Backing::IoUring;
        if is_ring && !context.is_written(Kind::OpenFile, area.file.0) {
            let name = || alloc::format!("mapping {:#x}-{:#x}", area.mapping.start, area.mapping.end);
            return Err(Refusal::new(reasons::IO_URING, "its descriptor is closed").of(name));
        }
    }
    let mut seen = Vec::new();
    for area in space.areas.iter().filter(|area| !area.inode.is_null()) {
        if seen.contains(&area.inode) {
            continue;
        }
        seen.push(area.inode);
        let path = dentry::of_file(context, area.file)?;
        let name = || alloc::format!("mapping {:#x}-{:#x}", area.mapping.start, area.mapping.end);
        inodes::write(context, writer, retained, area.inode, &path).map_err(|refusal| refusal.of(name))?;
    }
    if !space.exe_inode.is_null() && !seen.contains(&space.exe_inode) {
        let exe = context.kernel.mem.ptr(mm, context.kernel.types.layouts.mm.exe_file)?;
        let path = dentry::of_file(context, exe)?;
        inodes::write(context, writer, retained, space.exe_inode, &path)?;
    }
    Ok(())
}

/// What calls of this process's threads have left of objects that others have as well. What goes wrong here goes wrong again,
/// and is reported, when the process is recorded.
pub fn left_by_calls<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, entry: &ProcessEntry) -> interrupted::Left {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let found = || -> Result<interrupted::Left> {
        let mem = &kernel.mem;
        let mm = mem.ptr(entry.leader, layouts.task.mm)?;
        let signal = mem.ptr(entry.leader, layouts.task.signal)?;
        if mm.is_null() || entry.exit_state != 0 {
            return Ok(interrupted::Left::default());
        }
        let tables = mm::tables(context, mm)?;
        let descriptors = interrupted::descriptors(context, mem.ptr(entry.leader, layouts.task.files)?)?;
        let mut views = Vec::new();
        for task in tasks::threads(kernel, signal)? {
            let registers = crate::registers::read(kernel, context.input, task, context.cpu_of(task));
            if let Ok(registers) = registers {
                views.push(interrupted::Thread {
                    task,
                    registers,
                    tables,
                    descriptors: &descriptors,
                    vdso: (0, 0),
                });
            }
        }
        Ok(interrupted::left(context, &views))
    };
    found().unwrap_or_default()
}

/// Refuses a process whose threads are about to become others.
fn check_group<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, leader: Kva, signal: Kva) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let set = |field: Option<Field>| field.map_or(Ok(0), |field| mem.uint(signal, field));
    if set(layouts.signal.core_state)? != 0 || mem.uint(leader, layouts.task.flags)? & PF_DUMPCORE != 0 {
        return Err(Refusal::new(reasons::CORE_DUMP, ""));
    }
    if set(layouts.signal.group_exec_task)? != 0 {
        return Err(Refusal::new(reasons::EXEC, ""));
    }
    let tracees = leader.offset(u64::from(layouts.task.ptraced.offset));
    if mem.pointer(tracees)? != tracees {
        return Err(Refusal::new(reasons::PTRACE, "it traces another"));
    }
    Ok(())
}

/// The threads that go on. One that was ending by itself goes on ending: its last call is made again.
fn live_threads<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, leader: Kva, signal: Kva) -> Result<Vec<Kva>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let mut threads = Vec::new();
    for task in tasks::threads(context.kernel, signal)? {
        let flags = mem.uint(task, layouts.task.flags)?;
        // It has nothing of its own: the next kernel makes new ones. What it works on is a request of another thread.
        if flags & PF_WORKER != 0 {
            continue;
        }
        // Past the release of its memory nobody can tell that it has not ended; before, it ends once more.
        let ended = mem.uint(task, layouts.task.exit_state)? != 0 || mem.ptr(task, layouts.task.mm)?.is_null();
        let ending_by_signal = flags & PF_EXITING != 0 && !ends_by_call(context, task)?;
        let unborn = mem.uint(task, layouts.task.state)? & TASK_NEW != 0;
        if ended || ending_by_signal || unborn {
            if task == leader && !unborn {
                return Err(Refusal::new(reasons::GROUP_CHANGING, "its first thread has ended"));
            }
            continue;
        }
        threads.push(task);
    }
    if threads.is_empty() {
        return Err(Refusal::new(reasons::GROUP_CHANGING, "no thread is left"));
    }
    Ok(threads)
}

/// Whether a thread that ends was in the call that ends it.
fn ends_by_call<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<bool> {
    let (_, top) = tasks::stack(context.kernel, task)?;
    // `orig_ax` is the 16th word of `struct pt_regs`.
    let number = context.kernel.mem.u64(top.back(tasks::PT_REGS).offset(15 * 8))?;
    Ok(u32::try_from(number).is_ok_and(|number| crate::calls::way(number) == crate::calls::Way::Exit))
}

/// Threads of a process share more by definition than the records can tell apart.
fn check_shared<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, leader: Kva, task: Kva) -> Result<()> {
    let layout = &context.kernel.types.layouts.task;
    let mem = &context.kernel.mem;
    let keyring = |task| keyrings::of_task(context, task);
    if keyring(leader)? != keyring(task)? {
        return Err(Refusal::new(
            reasons::KEYRING,
            "a session keyring of its own in one thread",
        ));
    }
    if mount_namespaces::of_task(context, leader)? != mount_namespaces::of_task(context, task)? {
        return Err(Refusal::new(reasons::NS_MOUNT, "one thread in another than the first"));
    }
    namespaces::check_shared(context, leader, task)?;
    for (field, what) in [(layout.files, "file table"), (layout.fs, "directories")] {
        if mem.ptr(leader, field)? != mem.ptr(task, field)? {
            return Err(Refusal::new(
                reasons::UNKNOWN,
                alloc::format!("a {what} of its own in one thread"),
            ));
        }
    }
    Ok(())
}

/// Ids that a process and one that has ended have alike.
fn identity<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, entry: &ProcessEntry, signal: Kva) -> Result<Process> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let mem = &kernel.mem;
    let id = |kind: u32| -> Result<u32> {
        let slot = signal
            .offset(u64::from(layouts.signal.pids.offset))
            .offset(u64::from(kind).wrapping_mul(8));
        Ok(tasks::pid_number(kernel, mem.pointer(slot)?)?)
    };
    Ok(Process {
        tgid: entry.tgid,
        ppid: entry.parent,
        pgid: id(layouts.pid_types.pgid)?,
        sid: id(layouts.pid_types.sid)?,
        exit_signal: mem.uint(entry.leader, layouts.task.exit_signal)? as u32,
        start_time: context.now.to_process(timers::clocks::BOOTTIME, entry.start_boottime),
        ..Process::default()
    })
}

/// The record of a process that has ended, or is ending as a whole.
fn ended<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    entry: &ProcessEntry,
    signal: Kva,
    group: u64,
) -> Result<Process> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    // `wait_task_zombie`: the group's code if the group ended, else the first thread's.
    let status = if group & GROUP_EXIT != 0 {
        mem.uint(signal, layouts.signal.group_exit_code)?
    } else {
        mem.uint(entry.leader, layouts.task.exit_code)?
    };
    Ok(Process {
        zombie: true,
        exit_status: status as u32,
        ..identity(context, entry, signal)?
    })
}

/// The record of a process.
fn process<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    entry: &ProcessEntry,
    signal: Kva,
    group: u64,
    space: &Space,
) -> Result<Process> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let mem = &kernel.mem;
    let leader = entry.leader;
    let task = &layouts.task;
    let fs = mem.ptr(leader, task.fs)?;
    let sighand = mem.ptr(leader, task.sighand)?;
    let pending = signals::pending(kernel, signal.offset(u64::from(layouts.signal.shared_pending.offset)))?;
    let stopped_by = if group & STOP_STOPPED != 0 {
        // A parent that has waited for it has cleared the signal.
        match mem.uint(signal, layouts.signal.group_exit_code)? as u32 {
            0 => SIGSTOP,
            signal => signal,
        }
    } else {
        match mem.uint(leader, task.jobctl)? {
            jobctl if jobctl & STOP_PENDING != 0 => (jobctl & STOP_SIGNAL) as u32,
            _ => 0,
        }
    };
    let (tty, foreground) = terminals::controlling(context, signal)?;
    Ok(Process {
        files: mem.ptr(leader, task.files)?.0,
        fs: fs.0,
        sighand: sighand.0,
        cwd: directory(context, fs, layouts.fs.pwd_mnt, layouts.fs.pwd_dentry)?,
        root: directory(context, fs, layouts.fs.root_mnt, layouts.fs.root_dentry)?,
        umask: mem.uint(fs, layouts.fs.umask)? as u32,
        rlimits: rlimits(context, signal)?,
        sigactions: signals::actions(kernel, sighand)?,
        pending: pending.queued,
        pending_mask: pending.mask,
        itimers: timers::itimers(kernel, signal, &context.now)?,
        posix_timers: timers::posix(kernel, signal, &context.now)?,
        oom_score_adj: mem.int(signal, layouts.signal.oom_score_adj)? as i32,
        child_subreaper: mem.uint(signal, layouts.signal.is_child_subreaper)? != 0,
        stopped_by,
        cgroup: cgroup(context, leader).unwrap_or_default(),
        tty,
        coredump_filter: space.coredump_filter,
        session_keyring: keyrings::of_task(context, leader)?.0,
        foreground,
        ..identity(context, entry, signal)?
    })
}

/// The path of a working or root directory.
fn directory<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, fs: Kva, mnt: Field, dentry: Field) -> Result<Vec<u8>> {
    let mem = &context.kernel.mem;
    let path = dentry::of(context, mem.ptr(fs, mnt)?, mem.ptr(fs, dentry)?)?;
    let text = alloc::string::String::from_utf8_lossy(&path.bytes).into_owned();
    if path.deleted {
        return Err(Refusal::new(reasons::DELETED_DIRECTORY, text));
    }
    if path.detached {
        return Err(Refusal::new(reasons::HIDDEN_PATH, text));
    }
    Ok(path.bytes)
}

fn rlimits<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, signal: Kva) -> Result<Vec<(u64, u64)>> {
    let field = context.kernel.types.layouts.signal.rlim;
    let count = u64::from(field.size >> 4).min(LIMITS);
    let first = signal.offset(u64::from(field.offset));
    let mem = &context.kernel.mem;
    (0..count)
        .map(|i| {
            let at = first.offset(i.wrapping_mul(16));
            Ok((mem.u64(at)?, mem.u64(at.offset(8))?))
        })
        .collect()
}

/// Path in the default cgroup hierarchy.
fn cgroup<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<Vec<u8>> {
    let mem = &context.kernel.mem;
    match context.kernel.types.layouts.task_cgroups.cgroups {
        Some(field) => cgroup_of(context, mem.ptr(task, field)?),
        None => Ok(Vec::new()),
    }
}

/// Path in the default cgroup hierarchy of what a `struct css_set` leads to.
///
/// # Errors
/// It cannot be read.
pub fn cgroup_of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, set: Kva) -> Result<Vec<u8>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let group = mem.ptr(set, layouts.css_set.dfl_cgrp)?;
    let mut node = mem.ptr(group, layouts.cgroup.kn)?;
    let mut names = Vec::new();
    for _ in 0..MAX_CGROUP {
        let parent = mem.ptr(node, layouts.kernfs_node.parent)?;
        if parent.is_null() {
            break;
        }
        names.push(mem.cstr(mem.ptr(node, layouts.kernfs_node.name)?, 255)?);
        node = parent;
    }
    let mut path = Vec::new();
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    Ok(path)
}
