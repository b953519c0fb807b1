//! Files of `/proc`, `/sys` and control groups, whose content the kernel makes as it is read (`fs/proc/proc_sysctl.c`,
//! `fs/proc/inode.c`, `fs/seq_file.c`, `fs/kernfs/file.c`). They are opened again by name.
//!
//! A read makes what is behind the position anew, so the position is all there is to keep; but for what a `seq_file` has
//! made already and nobody has read. That is refused: the rest of a text that the next kernel would not write.

use crate::addr::Kva;
use crate::context::Context;
use crate::files::FMODE_WRITE;
use crate::inodes;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;

crate::mirrors! {
    /// An inode of `/proc`.
    #[allow(missing_docs)]
    pub struct ProcInode = "proc_inode" {
        pde: Field,
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
    }
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
