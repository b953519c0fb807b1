//! Locks on files, and leases (`fs/locks.c`). A lock belongs to an open file (`flock`, `F_OFD_SETLK`) or to a file table (`F_SETLK`).
//! Who waits for one has it not yet: the call is made again.

use crate::addr::Kva;
use crate::context::Context;
use crate::files::Descriptor;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::format;
use alloc::vec::Vec;
use shared_region::context::{FileLock, FileLockKind, FileLocks};
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

/// More locks than a file has.
const MAX_LOCKS: u64 = 1 << 20;

/// `FL_POSIX`, `FL_FLOCK` and `FL_OFDLCK` (`include/linux/filelock.h`), the kinds that are kept.
const FL_POSIX: u64 = 1;
const FL_FLOCK: u64 = 2;
const FL_OFDLCK: u64 = 1024;
/// `FL_LEASE`.
const FL_LEASE: u64 = 32;
/// `FL_SLEEP` and `FL_CLOSE`: how the lock was asked for, and what its release is part of.
const HARMLESS: u64 = 128 | 64;
/// `F_RDLCK` and `F_WRLCK`.
const F_RDLCK: u64 = 0;
const F_WRLCK: u64 = 1;
/// `OFFSET_MAX`, the last byte of a lock without an end.
const OFFSET_MAX: u64 = i64::MAX as u64;

crate::mirrors! {
    /// The locks on an inode.
    #[allow(missing_docs)]
    pub struct FileLockContext = "file_lock_context" {
        flc_flock: Field,
        flc_posix: Field,
        flc_lease: Field,
    }

    /// A lock. From Linux 6.9 on (4ca52f539865) its members are in `struct file_lock_core`, with which a lease begins too.
    #[allow(missing_docs)]
    pub struct FileLockLayout = "file_lock" {
        list: Field = "c.flc_list" | "fl_list",
        owner: Field = "c.flc_owner" | "fl_owner",
        flags: Field = "c.flc_flags" | "fl_flags",
        kind: Field = "c.flc_type" | "fl_type",
        file: Field = "c.flc_file" | "fl_file",
        fl_start: Field,
        fl_end: Field,
    }
}

/// Writes the locks that are held through the open files of a table, or by the table on their inodes.
///
/// # Errors
/// A lock is of another kind, or cannot be read, or there is no room.
pub fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    table: &[Descriptor],
    files: Kva,
) -> Result<()> {
    let mut open: Vec<(Kva, u32)> = table
        .iter()
        .map(|descriptor| (descriptor.file, descriptor.fd))
        .collect();
    open.sort_unstable();
    open.dedup_by_key(|&mut (file, _)| file);
    for &(file, fd) in &open {
        let found = held(context, &open, files, file).map_err(|refusal| refusal.of(|| format!("fd {fd}")))?;
        let first = context.first(Kind::FileLocks, file.0);
        for locks in found {
            // What belongs to the open file is the same in every table that has it.
            if !locks.locks.is_empty() && (locks.table != 0 || first) {
                writer.push(Kind::FileLocks, 1, flags::MUST_UNDERSTAND, file.0, &locks)?;
            }
        }
    }
    Ok(())
}

/// The locks of an open file, and those that its table set through it.
fn held<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    open: &[(Kva, u32)],
    files: Kva,
    file: Kva,
) -> Result<[FileLocks; 2]> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.file_lock;
    let mem = &context.kernel.mem;
    let mut of_file = FileLocks::default();
    let mut of_table = FileLocks {
        table: files.0,
        locks: Vec::new(),
    };
    let inode = mem.ptr(file, layouts.file.f_inode)?;
    let on_inode = mem.ptr(inode, layouts.inode.i_flctx)?;
    if on_inode.is_null() {
        return Ok([of_file, of_table]);
    }
    let heads = &layouts.file_lock_context;
    for head in [heads.flc_flock, heads.flc_posix, heads.flc_lease] {
        let head = on_inode.offset(u64::from(head.offset));
        for lock in context.kernel.list(head, layout.list).bounded(MAX_LOCKS) {
            let lock = lock?;
            let owner = mem.ptr(lock, layout.owner)?;
            if owner != file && owner != files {
                continue;
            }
            let through = mem.ptr(lock, layout.file)?;
            // Closing a file takes the table's locks away with it, so that it is open for as long as there is one.
            if owner == files && open.binary_search_by_key(&through, |&(file, _)| file).is_err() {
                return Err(Refusal::new(reasons::FILE_LOCK, "through a file that is closed"));
            }
            if through == file {
                let of = if owner == file { &mut of_file } else { &mut of_table };
                of.locks.push(read(context, lock, owner == file)?);
            }
        }
    }
    Ok([of_file, of_table])
}

/// Whether an open file has a lease.
///
/// # Errors
/// The leases cannot be read.
pub fn has_lease<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, file: Kva) -> Result<bool> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let inode = mem.ptr(file, layouts.file.f_inode)?;
    let on_inode = mem.ptr(inode, layouts.inode.i_flctx)?;
    if on_inode.is_null() {
        return Ok(false);
    }
    let head = on_inode.offset(u64::from(layouts.file_lock_context.flc_lease.offset));
    for lease in context.kernel.list(head, layouts.file_lock.list).bounded(MAX_LOCKS) {
        if mem.ptr(lease?, layouts.file_lock.owner)? == file {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A lease, which nobody wants to break.
fn lease<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, lease: Kva) -> Result<FileLock> {
    Ok(FileLock {
        kind: FileLockKind::Lease,
        exclusive: is_exclusive(context, lease)?,
        ..FileLock::default()
    })
}

fn is_exclusive<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, lock: Kva) -> Result<bool> {
    match context
        .kernel
        .mem
        .uint(lock, context.kernel.types.layouts.file_lock.kind)?
    {
        F_RDLCK => Ok(false),
        F_WRLCK => Ok(true),
        other => Err(Refusal::new(reasons::FILE_LOCK, format!("type {other}"))),
    }
}

/// A lock, of an open file or of a table.
fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, lock: Kva, of_file: bool) -> Result<FileLock> {
    let layout = &context.kernel.types.layouts.file_lock;
    let mem = &context.kernel.mem;
    let flags = mem.uint(lock, layout.flags)?;
    let kind = match (flags & !HARMLESS, of_file) {
        (FL_FLOCK, true) => FileLockKind::Flock,
        (both, true) if both == FL_POSIX | FL_OFDLCK => FileLockKind::OpenFile,
        (FL_POSIX, false) => FileLockKind::Posix,
        (FL_LEASE, true) => return lease(context, lock),
        (other, _) if other & FL_LEASE != 0 => {
            return Err(Refusal::new(reasons::LEASE, "which somebody wants to break"));
        }
        _ => return Err(Refusal::new(reasons::FILE_LOCK, format!("flags {flags:#x}"))),
    };
    let (start, end) = (mem.uint(lock, layout.fl_start)?, mem.uint(lock, layout.fl_end)?);
    let exclusive = is_exclusive(context, lock)?;
    let length = match end {
        OFFSET_MAX => 0,
        end => end
            .checked_sub(start)
            .filter(|_| end < OFFSET_MAX)
            .and_then(|last| last.checked_add(1))
            .ok_or_else(|| Refusal::new(reasons::UNREADABLE, format!("a lock from {start} to {end}")))?,
    };
    Ok(FileLock {
        kind,
        exclusive,
        start,
        length,
    })
}
