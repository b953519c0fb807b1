//! Namespaces (`include/linux/nsproxy.h`). Kept processes live in those of the first process, but for the mounts
//! ([`crate::mount_namespaces`]); any other is refused.

use crate::addr::Kva;
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use crate::tasks::ProcessEntry;
use shared_region::reasons::{self, Reason};

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
        proxy
            .and_then(|proxy| Self::read(kernel, proxy).ok())
            .unwrap_or_default()
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
        })
    }

    /// Refuses a task in another namespace than the first process, but for its mounts.
    ///
    /// # Errors
    /// The namespace, or the task cannot be read.
    pub fn check<M: PhysMem + ?Sized>(&self, kernel: &Kernel<'_, M>, task: Kva) -> Result<()> {
        let proxy = kernel.mem.ptr(task, kernel.types.layouts.task.nsproxy)?;
        let own = Self::read(kernel, proxy)?;
        let pairs: [(Kva, Kva, Reason); 7] = [
            (self.uts, own.uts, reasons::NS_UTS),
            (self.ipc, own.ipc, reasons::NS_IPC),
            (self.pid, own.pid, reasons::NS_PID),
            (self.net, own.net, reasons::NS_NET),
            (self.time, own.time, reasons::NS_TIME),
            (self.time_for_children, own.time_for_children, reasons::NS_TIME),
            (self.cgroup, own.cgroup, reasons::NS_CGROUP),
        ];
        match pairs.iter().find(|(first, own, _)| first != own) {
            Some(&(_, _, reason)) => Err(Refusal::new(reason, "")),
            None => Ok(()),
        }
    }
}
