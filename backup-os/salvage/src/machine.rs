//! What the dead kernel said about itself and its machine.

use crate::addr::Kva;
use crate::failover::Input;
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::{Clock, Machine};

/// CPUs a `cpumask` is read for.
const MAX_CPUS: usize = 8192;

crate::mirrors! {
    /// Names of the system.
    pub struct NewUtsname = "new_utsname" {
        /// Host name.
        nodename: Field,
        /// `uname -r`.
        release: Field,
        /// NIS domain.
        domainname: Field,
    }

    /// A UTS namespace.
    pub struct UtsNamespace = "uts_namespace" {
        /// The names.
        name: Field,
        /// In which user namespace it may be changed.
        user_ns: Field,
        /// What tells that it is one.
        ns_ops: Field = "ns.ops",
    }

    /// A pid namespace.
    pub struct PidNamespace = "pid_namespace" {
        /// The cursor of the id allocator: the id that is tried next.
        idr_next: Field = "idr.idr_next",
        /// Ids in use, as an xarray.
        idr_rt: Field = "idr.idr_rt",
        /// Nesting.
        level: Field,
        /// The one it is in.
        parent: Field,
        /// In which user namespace it may be changed.
        user_ns: Field,
        /// What tells that it is one.
        ns_ops: Field = "ns.ops",
        /// How many ids it has given, and whether it gives more.
        pid_allocated: Field,
        /// Whether files without a name may be executable, since Linux 6.3 (105ff5339f49).
        memfd_noexec_scope: Option<Field> = "memfd_noexec_scope",
    }
}

/// The record about the machine. What cannot be read is left empty.
pub fn read<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, input: &Input<'_>, clock: Clock) -> Machine {
    let globals = &kernel.prepared.globals;
    let types = &kernel.types.layouts;
    let name = |field| {
        let text = globals.init_uts_ns.map(|namespace| {
            let names = namespace.offset(u64::from(types.uts_namespace.name.offset));
            kernel.mem.text(names, field).unwrap_or_default()
        });
        String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
    };
    Machine {
        release: name(types.new_utsname.release),
        build_id: kernel.prepared.info.build_id().map(hex).unwrap_or_default(),
        hostname: name(types.new_utsname.nodename),
        domainname: name(types.new_utsname.domainname),
        cpus: kernel.cpu_count() as u32,
        total_ram_pages: total_ram(kernel, input),
        clock,
        xcr0: input.facts.map_or(0, |facts| facts.xcr0),
        last_pid: highest_pid(kernel).unwrap_or(0),
    }
}

/// MemTotal in pages, now rather than when the facts were published.
fn total_ram<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, input: &Input<'_>) -> u64 {
    let now = kernel.prepared.globals.totalram_pages;
    now.and_then(|at| kernel.mem.u64(at).ok())
        .unwrap_or_else(|| input.facts.map_or(0, |facts| facts.total_ram_pages))
}

/// Highest id in use.
fn highest_pid<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>) -> Option<u32> {
    let namespace = kernel.prepared.globals.init_pid_ns?;
    let ids = namespace.offset(u64::from(kernel.types.layouts.pid_namespace.idr_rt.offset));
    let highest = kernel.xarray(ids).ok()?.flatten().map(|entry| entry.index).max()?;
    u32::try_from(highest).ok()
}

/// Whether a bit of the bitmap of a `struct cpumask` is set.
pub fn in_mask<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, mask: Kva, cpu: usize) -> bool {
    if cpu >= MAX_CPUS {
        return false;
    }
    let byte = kernel.mem.u8(mask.offset((cpu >> 3) as u64));
    byte.is_ok_and(|byte| byte & (1 << (cpu & 7)) != 0)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let (pairs, _) = digits.as_chunks::<2>();
    pairs.iter().map(|[high, low]| high << 4 | low).collect()
}
