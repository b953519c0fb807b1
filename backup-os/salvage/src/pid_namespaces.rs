//! Pid namespaces of processes (`kernel/pid_namespace.c`, `kernel/pid.c`): numbers of their own for processes, threads, groups and
//! sessions, beside those that they have in the namespaces around.
//!
//! A namespace goes with its first process, so one whose first process has ended is not kept.

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::namespaces;
use crate::refusal::{Refusal, Result};
use crate::tasks;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::{InnerIds, NamespaceKind};
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

/// Most namespaces inside each other (`MAX_PID_NS_LEVEL`).
const MAX_LEVEL: u64 = 32;
/// `PIDNS_ADDING`: the first process has not ended.
const ADDING: u64 = 1 << 31;

fn refuse(what: impl Into<String>) -> Refusal {
    Refusal::new(reasons::NS_PID, what)
}

/// How deep a `struct pid` lies: 0 for one that has a number in the first namespace alone.
///
/// # Errors
/// It cannot be read, or the value makes no sense.
pub fn level<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, pid: Kva) -> Result<u64> {
    let level = context.kernel.mem.uint(pid, context.kernel.types.layouts.pid.level)?;
    match level > MAX_LEVEL {
        true => Err(Refusal::new(
            reasons::UNREADABLE,
            format!("a process id at level {level}"),
        )),
        false => Ok(level),
    }
}

/// The number of a `struct pid` as a task sees it.
///
/// # Errors
/// It has none there, or it cannot be read.
pub fn number_for<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva, pid: Kva) -> Result<u32> {
    let own = context
        .kernel
        .mem
        .ptr(task, context.kernel.types.layouts.task.thread_pid)?;
    let at = level(context, own)?;
    if level(context, pid)? < at {
        return Err(refuse("and would see an id from outside of it"));
    }
    Ok(tasks::pid_at_level(context.kernel, pid, at)?.0)
}

/// The id of a process in the first namespace, that a message or a socket names.
///
/// # Errors
/// It has ended, and had a number in another namespace, which nobody else can have; or it cannot be read.
pub fn named<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, pid: Kva) -> Result<u32> {
    let layouts = &context.kernel.types.layouts;
    // Heads of lists of one word each.
    let kind = u64::from(layouts.pid_types.tgid).wrapping_mul(8);
    let tasks = pid.offset(u64::from(layouts.pid.tasks.offset)).offset(kind);
    if level(context, pid)? != 0 && context.kernel.mem.u64(tasks)? == 0 {
        return Err(refuse("and a socket names a process of it that has ended"));
    }
    Ok(tasks::pid_number(context.kernel, pid)?)
}

/// What a task's own id is; null for a task that is being removed.
fn of_task<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<Kva> {
    Ok(context
        .kernel
        .mem
        .ptr(task, context.kernel.types.layouts.task.thread_pid)?)
}

/// The namespace that children of a task are born in.
///
/// # Errors
/// It cannot be read.
pub fn of_children<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<Kva> {
    namespaces::of_task(context, task, context.kernel.types.layouts.nsproxy.pid_ns_for_children)
}

/// Translates a namespace: what it is, and the one around it.
///
/// # Errors
/// It cannot be made anew, or cannot be read.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, namespace: Kva) -> Result<(NamespaceKind, Kva)> {
    let layout = &context.kernel.types.layouts.pid_namespace;
    let mem = &context.kernel.mem;
    let first = context.namespaces.pid();
    let functions = context.kernel.prepared.globals.pidns_operations;
    if functions.is_some_and(|functions| mem.ptr(namespace, layout.ns_ops) != Ok(functions)) {
        return Err(Refusal::new(reasons::UNREADABLE, "not a pid namespace"));
    }
    if mem.ptr(namespace, layout.user_ns)? != context.namespaces.user {
        return Err(refuse("it is of another user namespace than the first"));
    }
    if mem.uint(namespace, layout.pid_allocated)? & ADDING == 0 {
        return Err(refuse("its first process has ended"));
    }
    if let Some(field) = layout.memfd_noexec_scope {
        if mem.uint(namespace, field)? != mem.uint(first, field)? {
            return Err(refuse("vm.memfd_noexec is set in it"));
        }
    }
    let parent = mem.ptr(namespace, layout.parent)?;
    let what = NamespaceKind::Pid {
        parent: if parent == first { 0 } else { parent.0 },
        last: (mem.uint(namespace, layout.idr_next)? as u32).saturating_sub(1),
    };
    Ok((what, parent))
}

/// Records the numbers that the ids of a process have in other namespaces than the first, and those namespaces: of the threads,
/// the group and the session.
///
/// # Errors
/// One cannot be made anew, or there is no room.
pub fn write_of_process<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    signal: Kva,
    tasks: &[Kva],
) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let mut ids: Vec<Kva> = Vec::new();
    for kind in [layouts.pid_types.pgid, layouts.pid_types.sid] {
        let slot = signal.offset(u64::from(layouts.signal.pids.offset));
        ids.push(
            context
                .kernel
                .mem
                .pointer(slot.offset(u64::from(kind).wrapping_mul(8)))?,
        );
    }
    for &task in tasks {
        ids.push(of_task(context, task)?);
    }
    ids.into_iter().try_for_each(|pid| write(context, writer, pid))
}

/// Records the numbers that an id has in other namespaces than the first.
///
/// # Errors
/// A namespace cannot be made anew, or there is no room.
pub fn write<M: PhysMem + ?Sized>(context: &mut Context<'_, '_, M>, writer: &mut Writer<'_>, pid: Kva) -> Result<()> {
    if pid.is_null() {
        return Ok(());
    }
    let deepest = level(context, pid)?;
    let (id, _) = tasks::pid_at_level(context.kernel, pid, 0)?;
    if deepest == 0 || !context.first(Kind::InnerIds, id.into()) {
        return Ok(());
    }
    let mut record = InnerIds::default();
    for level in (1..=deepest).rev() {
        let (number, namespace) = tasks::pid_at_level(context.kernel, pid, level)?;
        if level == deepest {
            record.namespace = namespace.0;
            namespaces::write_pid(context, writer, namespace)?;
        }
        record.numbers.push(number);
    }
    Ok(writer.push(Kind::InnerIds, 1, flags::MUST_UNDERSTAND, id.into(), &record)?)
}
