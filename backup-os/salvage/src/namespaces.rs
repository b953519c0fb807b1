//! Namespaces (`include/linux/nsproxy.h`). Kept processes live in those of the first process, but for mounts
//! ([`crate::mount_namespaces`]), names of the machine, ids ([`crate::user_namespaces`]), System V and message queues
//! ([`crate::ipc_namespaces`]), numbers of processes ([`crate::pid_namespaces`]),
//! control groups, and networks ([`crate::network_namespaces`]); any other is refused.

use crate::addr::Kva;
use crate::context::Context;
use crate::ipc_namespaces;
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::network_namespaces;
use crate::pid_namespaces;
use crate::process;
use crate::refusal::{Refusal, Result};
use crate::tasks::ProcessEntry;
use crate::user_namespaces;
use shared_region::context::{InNamespace, Namespace, NamespaceKind};
use shared_region::reasons::{self, Reason};
use shared_region::record::{flags, Kind, Writer};

crate::mirrors! {
    /// The namespaces of a task.
    #[allow(missing_docs)]
    pub struct Nsproxy = "nsproxy" {
        uts_ns: Field,
        ipc_ns: Field,
        mnt_ns: Field,
        pid_ns_for_children: Field,
        net_ns: Field,
        time_ns: Option<Field> = "time_ns",
        time_ns_for_children: Option<Field> = "time_ns_for_children",
        cgroup_ns: Field,
    }
}

/// Namespaces of the first process; null where it could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    uts: Kva,
    ipc: Kva,
    /// Mounts.
    pub mount: Kva,
    pid: Kva,
    /// Network.
    pub net: Kva,
    /// Clocks.
    pub time: Kva,
    time_for_children: Kva,
    cgroup: Kva,
    /// Ids.
    pub user: Kva,
}

impl Namespaces {
    /// Those of process 1, or, if it is gone, those the kernel began with.
    pub fn of_init<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, processes: &[ProcessEntry]) -> Self {
        let of_task = |task| kernel.mem.ptr(task, kernel.types.layouts.task.nsproxy).ok();
        let init = processes
            .iter()
            .find(|process| process.tgid == 1)
            .and_then(|process| of_task(process.leader));
        let proxy = init
            .filter(|proxy| !proxy.is_null())
            .or(kernel.prepared.globals.init_nsproxy);
        let first = proxy
            .and_then(|proxy| Self::read(kernel, proxy).ok())
            .unwrap_or_default();
        Self {
            user: kernel.prepared.globals.init_user_ns.unwrap_or_default(),
            ..first
        }
    }

    /// Numbers of processes.
    pub const fn pid(&self) -> Kva {
        self.pid
    }

    fn read<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, proxy: Kva) -> Result<Self> {
        let layout = &kernel.types.layouts.nsproxy;
        let mem = &kernel.mem;
        let optional = |field: Option<Field>| field.map_or(Ok(Kva::NULL), |field| mem.ptr(proxy, field));
        Ok(Self {
            uts: mem.ptr(proxy, layout.uts_ns)?,
            ipc: mem.ptr(proxy, layout.ipc_ns)?,
            mount: mem.ptr(proxy, layout.mnt_ns)?,
            pid: mem.ptr(proxy, layout.pid_ns_for_children)?,
            net: mem.ptr(proxy, layout.net_ns)?,
            time: optional(layout.time_ns)?,
            time_for_children: optional(layout.time_ns_for_children)?,
            cgroup: mem.ptr(proxy, layout.cgroup_ns)?,
            user: Kva::NULL,
        })
    }

    /// Refuses a task in another namespace than the first process, but for those that are made anew.
    ///
    /// # Errors
    /// The namespace, or the task cannot be read.
    pub fn check<M: PhysMem + ?Sized>(&self, kernel: &Kernel<'_, M>, task: Kva) -> Result<()> {
        let proxy = kernel.mem.ptr(task, kernel.types.layouts.task.nsproxy)?;
        let own = Self::read(kernel, proxy)?;
        let pairs: [(Kva, Kva, Reason); 2] = [
            (self.time, own.time, reasons::NS_TIME),
            (self.time_for_children, own.time_for_children, reasons::NS_TIME),
        ];
        match pairs.iter().find(|(first, own, _)| first != own) {
            Some(&(_, _, reason)) => Err(Refusal::new(reason, "")),
            None => Ok(()),
        }
    }
}

/// One of the namespaces of a task, by its field of [`Nsproxy`].
///
/// # Errors
/// It cannot be read.
pub fn of_task<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva, field: Field) -> Result<Kva> {
    let mem = &context.kernel.mem;
    let proxy = mem.ptr(task, context.kernel.types.layouts.task.nsproxy)?;
    Ok(mem.ptr(proxy, field)?)
}

fn ipc_of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<Kva> {
    of_task(context, task, context.kernel.types.layouts.nsproxy.ipc_ns)
}

fn cgroup_of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<Kva> {
    of_task(context, task, context.kernel.types.layouts.nsproxy.cgroup_ns)
}

fn net_of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<Kva> {
    of_task(context, task, context.kernel.types.layouts.nsproxy.net_ns)
}

fn uts_of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<Kva> {
    of_task(context, task, context.kernel.types.layouts.nsproxy.uts_ns)
}

/// Refuses a thread that is in another namespace than the first thread of its process.
///
/// # Errors
/// It is, or it cannot be read.
pub fn check_shared<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, leader: Kva, task: Kva) -> Result<()> {
    let differs = |reason| Err(Refusal::new(reason, "one thread in another than the first"));
    if uts_of(context, leader)? != uts_of(context, task)? {
        return differs(reasons::NS_UTS);
    }
    if ipc_of(context, leader)? != ipc_of(context, task)? {
        return differs(reasons::NS_IPC);
    }
    if net_of(context, leader)? != net_of(context, task)? {
        return differs(reasons::NS_NET);
    }
    if cgroup_of(context, leader)? != cgroup_of(context, task)? {
        return differs(reasons::NS_CGROUP);
    }
    if pid_namespaces::of_children(context, leader)? != pid_namespaces::of_children(context, task)? {
        return differs(reasons::NS_PID);
    }
    if user_namespaces::of_task(context, leader)? != user_namespaces::of_task(context, task)? {
        return differs(reasons::NS_USER);
    }
    Ok(())
}

/// Records the namespaces that a process is in and the first process is not, and that it is in them.
///
/// # Errors
/// One cannot be made anew, or there is no room.
pub fn write_of_process<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    leader: Kva,
    tgid: u32,
) -> Result<()> {
    let (user, uts) = (user_namespaces::of_task(context, leader)?, uts_of(context, leader)?);
    if user != context.namespaces.user {
        write_user(context, writer, user)?;
        write_membership(writer, tgid, user)?;
    }
    if uts != context.namespaces.uts {
        write_uts(context, writer, uts)?;
        write_membership(writer, tgid, uts)?;
    }
    let ipc = ipc_of(context, leader)?;
    if ipc != context.namespaces.ipc {
        write_ipc(context, writer, retained, ipc)?;
        write_membership(writer, tgid, ipc)?;
    }
    let net = net_of(context, leader)?;
    if net != context.namespaces.net {
        write_network(context, writer, net)?;
        write_membership(writer, tgid, net)?;
    }
    let cgroup = cgroup_of(context, leader)?;
    if cgroup != context.namespaces.cgroup {
        write_cgroup(context, writer, cgroup)?;
        write_membership(writer, tgid, cgroup)?;
    }
    let pid = pid_namespaces::of_children(context, leader)?;
    if pid != context.namespaces.pid {
        write_pid(context, writer, pid)?;
        write_membership(writer, tgid, pid)?;
    }
    Ok(())
}

/// Records a pid namespace that is not the first, and those it is in, unless it is recorded.
///
/// # Errors
/// It cannot be made anew, or there is no room.
pub fn write_pid<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    namespace: Kva,
) -> Result<()> {
    let mut at = namespace;
    // What is recorded is so with those around it.
    while at != context.namespaces.pid && !context.is_written(Kind::Namespace, at.0) {
        let (what, parent) = pid_namespaces::read(context, at)?;
        write(context, writer, at, &Namespace { owned_by: 0, what })?;
        at = parent;
    }
    Ok(())
}

fn write_membership(writer: &mut Writer<'_>, tgid: u32, namespace: Kva) -> Result<()> {
    let record = InNamespace { namespace: namespace.0 };
    Ok(writer.push(Kind::InNamespace, 1, flags::MUST_UNDERSTAND, u64::from(tgid), &record)?)
}

/// Records a network namespace that is not the first process's, unless it is recorded.
///
/// # Errors
/// It cannot be made anew, or there is no room.
pub fn write_network<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    net: Kva,
) -> Result<()> {
    if context.is_written(Kind::Namespace, net.0) {
        return Ok(());
    }
    let found = network_namespaces::read(context, net)?;
    let owned_by = write_owner(context, writer, found.owner)?;
    let what = NamespaceKind::Network(found.record);
    // Nobody takes one for all there is if there is no room for this.
    if let Some(more) = found.more {
        writer.push(Kind::NamespaceNetwork, 1, flags::MUST_UNDERSTAND, net.0, &more)?;
    }
    write(context, writer, net, &Namespace { owned_by, what })
}

fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    namespace: Kva,
    record: &Namespace,
) -> Result<()> {
    match context.first(Kind::Namespace, namespace.0) {
        true => Ok(writer.push(Kind::Namespace, 1, 0, namespace.0, record)?),
        false => Ok(()),
    }
}

fn write_user<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    namespace: Kva,
) -> Result<()> {
    let record = Namespace {
        owned_by: 0,
        what: NamespaceKind::User(user_namespaces::read(context, namespace)?),
    };
    write(context, writer, namespace, &record)
}

fn write_uts<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    namespace: Kva,
) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.uts_namespace;
    let mem = &context.kernel.mem;
    let functions = context.kernel.prepared.globals.utsns_operations;
    if functions.is_some_and(|functions| mem.ptr(namespace, layout.ns_ops) != Ok(functions)) {
        return Err(Refusal::new(reasons::UNREADABLE, "not a UTS namespace"));
    }
    let owner = mem.ptr(namespace, layout.user_ns)?;
    let names = namespace.offset(u64::from(layout.name.offset));
    let what = NamespaceKind::Uts {
        host: mem.text(names, layouts.new_utsname.nodename)?,
        domain: mem.text(names, layouts.new_utsname.domainname)?,
    };
    let owned_by = write_owner(context, writer, owner)?;
    write(context, writer, namespace, &Namespace { owned_by, what })
}

fn write_cgroup<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    namespace: Kva,
) -> Result<()> {
    let layout = context.kernel.types.layouts.cgroup_namespace.as_ref();
    let layout = layout.ok_or_else(|| Refusal::new(reasons::NS_CGROUP, "this kernel's cannot be read"))?;
    let mem = &context.kernel.mem;
    let functions = context.kernel.prepared.globals.cgroupns_operations;
    if functions.is_some_and(|functions| mem.ptr(namespace, layout.ns_ops) != Ok(functions)) {
        return Err(Refusal::new(reasons::UNREADABLE, "not a cgroup namespace"));
    }
    let owner = mem.ptr(namespace, layout.user_ns)?;
    let what = NamespaceKind::Cgroup {
        root: process::cgroup_of(context, mem.ptr(namespace, layout.root_cset)?)?,
    };
    let owned_by = write_owner(context, writer, owner)?;
    write(context, writer, namespace, &Namespace { owned_by, what })
}

/// Records the user namespace that something belongs to; its id, 0 if it is the first.
fn write_owner<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    owner: Kva,
) -> Result<u64> {
    if owner == context.namespaces.user {
        return Ok(0);
    }
    write_user(context, writer, owner)?;
    Ok(owner.0)
}

/// With all that is in it.
fn write_ipc<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    namespace: Kva,
) -> Result<()> {
    if context.is_written(Kind::Namespace, namespace.0) {
        return Ok(());
    }
    let (what, owner) = ipc_namespaces::read(context, namespace)?;
    let owned_by = write_owner(context, writer, owner)?;
    write(context, writer, namespace, &Namespace { owned_by, what })?;
    ipc_namespaces::write_content(context, writer, retained, namespace)
}
