//! seccomp filters (`kernel/seccomp.c`). The program as it was given is kept by kernels with `CONFIG_CHECKPOINT_RESTORE`.

use crate::addr::Kva;
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::context::Seccomp;
use shared_region::reasons;

/// `BPF_MAXINSNS` (`include/uapi/linux/bpf_common.h`).
const MAX_INSTRUCTIONS: u64 = 4096;
/// `MAX_INSNS_PER_PATH` over the 4 instructions each filter counts for: more filters than can be installed.
const MAX_FILTERS: usize = 8192;
/// `SECCOMP_MODE_FILTER`.
const MODE_FILTER: u64 = 2;
/// `SECCOMP_FILTER_FLAG_LOG`.
const FLAG_LOG: u32 = 1 << 1;

crate::mirrors! {
    /// One filter.
    #[allow(missing_docs)]
    pub struct SeccompFilter = "seccomp_filter" {
        log: Field,
        prev: Field,
        prog: Field,
        notif: Option<Field> = "notif",
    }

    /// A program.
    #[allow(missing_docs)]
    pub struct BpfProg = "bpf_prog" {
        orig_prog: Field,
    }

    /// A program as it was given.
    #[allow(missing_docs)]
    pub struct SockFprogKern = "sock_fprog_kern" {
        len: Field,
        filter: Field,
    }
}

/// A thread's filters, oldest first.
///
/// # Errors
/// A filter has a supervisor or no original program, or cannot be read.
pub fn read<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, task: Kva) -> Result<Seccomp> {
    let types = &kernel.types.layouts;
    let mem = &kernel.mem;
    let (Some(mode), Some(filter)) = (types.task.seccomp_mode, types.task.seccomp_filter) else {
        return Ok(Seccomp::default());
    };
    let mode = mem.uint(task, mode)?;
    let mut filters = Vec::new();
    let mut at = mem.ptr(task, filter)?;
    if mode == MODE_FILTER {
        let Some(layout) = &types.seccomp_filter else {
            return Err(Refusal::new(reasons::SECCOMP_LOST, ""));
        };
        while !at.is_null() {
            if filters.len() >= MAX_FILTERS {
                return Err(Refusal::new(reasons::UNREADABLE, "its seccomp filters run in a circle"));
            }
            if layout
                .notif
                .map(|field| mem.ptr(at, field))
                .transpose()?
                .is_some_and(|notif| !notif.is_null())
            {
                return Err(Refusal::new(reasons::SECCOMP_NOTIFY, ""));
            }
            let flags = if mem.uint(at, layout.log)? != 0 { FLAG_LOG } else { 0 };
            let Some(program) = program(kernel, mem.ptr(at, layout.prog)?)? else {
                return Err(Refusal::new(reasons::SECCOMP_LOST, ""));
            };
            filters.push((flags, program));
            at = mem.ptr(at, layout.prev)?;
        }
        filters.reverse();
    }
    Ok(Seccomp {
        mode: mode as u32,
        filters,
    })
}

/// Instructions of a program of BPF, as they were given; `None` if the kernel has not kept them.
///
/// # Errors
/// They make no sense, or cannot be read.
pub fn program<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, program: Kva) -> Result<Option<Vec<u64>>> {
    let types = &kernel.types.layouts;
    let mem = &kernel.mem;
    let original = mem.ptr(program, types.bpf_prog.orig_prog)?;
    if original.is_null() {
        return Ok(None);
    }
    let count = mem.uint(original, types.sock_fprog_kern.len)?;
    if count == 0 || count > MAX_INSTRUCTIONS {
        return Err(Refusal::new(
            reasons::UNREADABLE,
            alloc::format!("filter of {count} instructions"),
        ));
    }
    let bytes = mem.bytes(
        mem.ptr(original, types.sock_fprog_kern.filter)?,
        (count as usize).saturating_mul(8),
    )?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(Some(words.iter().map(|&word| u64::from_le_bytes(word)).collect()))
}
