//! Locks on files (`fs/locks.c`): not restored, so that who holds one is refused.

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use shared_region::reasons;

/// More locks than a file has.
const MAX_LOCKS: u64 = 1 << 20;

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
    pub struct FileLock = "file_lock" {
        list: Field = "c.flc_list" | "fl_list",
        owner: Field = "c.flc_owner" | "fl_owner",
    }
}

/// Refuses a file on which a lock is held through it or by the owner of its file table.
///
/// # Errors
/// The kind of lock, or the list is torn.
pub fn check<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, files: Kva, file: Kva) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let inode = mem.ptr(file, layouts.file.f_inode)?;
    let locks = mem.ptr(inode, layouts.inode.i_flctx)?;
    if locks.is_null() {
        return Ok(());
    }
    let layout = &layouts.file_lock_context;
    for (head, reason) in [
        (layout.flc_flock, reasons::FILE_LOCK),
        (layout.flc_posix, reasons::FILE_LOCK),
        (layout.flc_lease, reasons::LEASE),
    ] {
        let head = locks.offset(u64::from(head.offset));
        for lock in context.kernel.list(head, layouts.file_lock.list).bounded(MAX_LOCKS) {
            // The owner of a POSIX lock is the file table; of any other, the open file.
            let owner = mem.ptr(lock?, layouts.file_lock.owner)?;
            if owner == files || owner == file {
                return Err(Refusal::new(reason, ""));
            }
        }
    }
    Ok(())
}
