//! Files of `/proc`, `/sys` and control groups, whose content the kernel makes as it is read (`fs/proc/proc_sysctl.c`,
//! `fs/proc/inode.c`, `fs/seq_file.c`, `fs/kernfs/file.c`). They are opened again by name.
//!
//! A read makes what is behind the position anew, so the position is all there is to keep; but for what a `seq_file` has
//! made already and nobody has read. That is refused: the rest of a text that the next kernel would not write.
//!
//! What belongs to a process (`fs/proc/base.c`, `fs/proc/task_mmu.c`) is found again when that process is. A text about it
//! that is made in one piece has another length each time: it is unread, or read to its end.

use crate::addr::Kva;
use crate::context::Context;
use crate::files::FMODE_WRITE;
use crate::inodes;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;
use shared_region::context::OpenFileKind;
use shared_region::record::Kind;

crate::mirrors! {
    /// An inode of `/proc`.
    #[allow(missing_docs)]
    pub struct ProcInode = "proc_inode" {
        pde: Field,
        sysctl: Field,
        vfs_inode: Field,
    }

    /// What a driver has registered in `/proc`.
    #[allow(missing_docs)]
    pub struct ProcDirEntry = "proc_dir_entry" {
        proc_ops: Field,
    }

    /// Its functions.
    #[allow(missing_docs)]
    pub struct ProcOps = "proc_ops" {
        proc_read: Field,
        proc_read_iter: Field,
    }

    /// A text that is made in pieces.
    #[allow(missing_docs)]
    pub struct SeqFile = "seq_file" {
        count: Field,
        index: Field,
        op: Field,
    }

    /// How it is made.
    #[allow(missing_docs)]
    pub struct SeqOperations = "seq_operations" {
        start: Field,
    }
}

/// Tables of functions of texts about a process. The list of its mappings is made line by line.
const OF_PROCESS: [&str; 5] = [
    "proc_single_file_operations",
    "proc_pid_set_comm_operations",
    "proc_pid_smaps_rollup_operations",
    MAPPINGS,
    "proc_pid_cmdline_ops",
];
const MAPPINGS: &str = "proc_pid_maps_operations";
const COMMAND: &str = "proc_pid_cmdline_ops";
/// Where a text that is made in one piece begins.
const IN_ONE_PIECE: &str = "single_start";
/// Numbers of processes are below this (`PID_MAX_LIMIT`).
const PID_MAX: u32 = 1 << 22;

/// Whether an open file is a setting, or a directory of settings, of a namespace that is recorded: opened again by its name it
/// would be one of the first process's.
///
/// # Errors
/// It cannot be read.
pub fn is_setting_of_namespace<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    operations: &str,
    inode: Kva,
) -> Result<bool> {
    if !["proc_sys_file_operations", "proc_sys_dir_file_operations"].contains(&operations) {
        return Ok(false);
    }
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let proc_inode = inode.back(u64::from(layouts.proc_inode.vfs_inode.offset));
    let row = mem.ptr(proc_inode, layouts.proc_inode.sysctl)?;
    let known = layouts.sysctls.as_ref().filter(|_| !row.is_null());
    let Some(known) = known else {
        return Ok(false);
    };
    let set = mem.ptr(row, known.header.set)?;
    let of_ipc = layouts.ipc_settings.as_ref();
    let places = [
        layouts.network_of_namespace.sysctls,
        of_ipc.and_then(|layout| layout.ipc_set),
        of_ipc.and_then(|layout| layout.mq_set),
    ];
    let is_recorded = |place: Field| context.is_written(Kind::Namespace, set.back(u64::from(place.offset)).0);
    Ok(places.into_iter().flatten().any(is_recorded))
}

/// Whether an open file is one of a `proc` that shows the processes of another pid namespace than the first.
///
/// # Errors
/// It cannot be read.
pub fn is_of_other_processes<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<bool> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let superblock = mem.ptr(inode, layouts.inode.i_sb)?;
    let Some(layout) = &layouts.proc_fs_info else {
        return Ok(false);
    };
    if inodes::fs_type(context, superblock)?.as_slice() != b"proc" {
        return Ok(false);
    }
    let info = mem.ptr(superblock, layouts.super_block.s_fs_info)?;
    Ok(mem.ptr(info, layout.pid_ns)? != context.namespaces.pid())
}

/// Whether an open file is one that the next kernel makes the same way: a setting, or a text that is only read and of which
/// no piece is waiting to be read.
///
/// # Errors
/// It cannot be read.
pub fn is_remade<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    operations: &str,
    file: Kva,
    inode: Kva,
) -> Result<bool> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let is_text = match operations {
        "proc_sys_file_operations" => return Ok(true),
        "proc_reg_file_ops" | "proc_iter_file_ops" | "proc_reg_file_ops_compat" | "proc_iter_file_ops_compat" => {
            is_proc_text(context, inode)?
        }
        "kernfs_file_fops" => is_attribute(context, inode)?,
        _ => false,
    };
    // What was written may have made a state, like a trigger of `memory.pressure`.
    if !is_text || mem.uint(file, layouts.file.f_mode)? & FMODE_WRITE != 0 {
        return Ok(false);
    }
    let text = mem.ptr(file, layouts.file.private_data)?;
    Ok(mem.uint(text, layouts.seq_file.count)? == 0)
}

/// A directory of `/proc`, or a text that is only read, if it belongs to a process. `None` for anything else, and for a text
/// of which a part was made or read and would not be continued.
///
/// # Errors
/// It cannot be read.
pub fn of_process<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    operations: &str,
    file: Kva,
    inode: Kva,
    path: &[u8],
) -> Result<Option<OpenFileKind>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let Some(process) = process_of(path) else {
        return Ok(None);
    };
    if inodes::fs_type(context, mem.ptr(inode, layouts.inode.i_sb)?)?.as_slice() != b"proc" {
        return Ok(None);
    }
    let kind = |ended, address| {
        let kind = OpenFileKind::OfProcess {
            process,
            ended,
            address,
        };
        Ok(Some(kind))
    };
    if mem.uint(inode, layouts.inode.i_mode)? & inodes::S_IFMT == inodes::S_IFDIR {
        return kind(false, 0);
    }
    let is_written = mem.uint(file, layouts.file.f_mode)? & FMODE_WRITE != 0;
    if is_written || !OF_PROCESS.contains(&operations) {
        return Ok(None);
    }
    if operations == COMMAND {
        return kind(false, 0);
    }
    let text = mem.ptr(file, layouts.file.private_data)?;
    let (waiting, index) = (
        mem.uint(text, layouts.seq_file.count)?,
        mem.uint(text, layouts.seq_file.index)?,
    );
    if waiting != 0 {
        return Ok(None);
    }
    if operations == MAPPINGS {
        // There is none behind the last.
        let ended = index == u64::MAX;
        return kind(ended, if ended { 0 } else { index });
    }
    let start = mem.ptr(mem.ptr(text, layouts.seq_file.op)?, layouts.seq_operations.start)?;
    match index {
        0 | 1 if context.symbol(start).as_deref() == Some(IN_ONE_PIECE) => kind(index == 1, 0),
        _ => Ok(None),
    }
}

/// The process to whose part of `/proc` a path leads.
fn process_of(path: &[u8]) -> Option<u32> {
    let first = path.strip_prefix(b"/proc/")?.split(|&byte| byte == b'/').next()?;
    let id = core::str::from_utf8(first).ok()?.parse().ok()?;
    (1..PID_MAX).contains(&id).then_some(id)
}

/// Whether a file of `/proc` that belongs to no process is read as a `seq_file`.
fn is_proc_text<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<bool> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let proc_inode = inode.back(u64::from(layouts.proc_inode.vfs_inode.offset));
    let entry = mem.ptr(proc_inode, layouts.proc_inode.pde)?;
    let functions = mem.ptr(entry, layouts.proc_dir_entry.proc_ops)?;
    let is = |field, name| -> Result<bool> {
        let function = mem.ptr(functions, field)?;
        Ok(context.symbol(function).as_deref() == Some(name))
    };
    Ok(is(layouts.proc_ops.proc_read, "seq_read")? || is(layouts.proc_ops.proc_read_iter, "seq_read_iter")?)
}

/// Whether a file of a kernfs is one of `/sys` or of a control group. Their files are read as `seq_file`s, but for binary ones.
fn is_attribute<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<bool> {
    let superblock = context.kernel.mem.ptr(inode, context.kernel.types.layouts.inode.i_sb)?;
    let fstype = inodes::fs_type(context, superblock)?;
    Ok(matches!(fstype.as_slice(), b"sysfs" | b"cgroup2"))
}

#[cfg(test)]
mod tests {
    use super::process_of;

    #[test]
    fn paths_below_the_number_of_a_process_belong_to_it() {
        assert_eq!(process_of(b"/proc/2001/task/2002/stat"), Some(2001));
        assert_eq!(process_of(b"/proc/7"), Some(7));
        for other in [
            "/proc",
            "/proc/",
            "/proc/self/maps",
            "/proc/0/stat",
            "/proc/99999999/stat",
            "/srv/proc/1",
        ] {
            assert_eq!(process_of(other.as_bytes()), None, "{other}");
        }
    }
}
