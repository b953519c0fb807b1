//! Hooks that a process has registered through liborthros, for calls of which it cannot be told what they have done.
//!
//! The table is the process's own memory and an allegation: it only decides whether such a process is refused here, or is
//! restored up to the point where its hook has the say.

use crate::addr::Uva;
use crate::context::Context;
use crate::dentry;
use crate::memory::PhysMem;
use crate::mm::Space;
use crate::user_memory;
use shared_region::context::Backing;
use shared_region::library::{Memory, Table, MAPPING};
use shared_region::PAGE_SIZE;

/// `PROT_READ | PROT_WRITE`, `PROT_EXEC`.
const PROT_OWN: u32 = 3;
const PROT_EXEC: u32 = 4;

impl Memory for Space {
    fn is_code(&self, at: u64) -> bool {
        let mut mappings = self.areas.iter().map(|area| &area.mapping);
        let found = mappings.find(|mapping| (mapping.start..mapping.end).contains(&at));
        found.is_some_and(|mapping| mapping.prot & PROT_EXEC != 0)
    }

    fn is_own(&self, start: u64, end: u64) -> bool {
        let mut mappings = self.areas.iter().map(|area| &area.mapping);
        let found = mappings.find(|mapping| mapping.start <= start && end <= mapping.end);
        found.is_some_and(|mapping| {
            mapping.prot & PROT_OWN == PROT_OWN && matches!(mapping.backing, Backing::Anonymous | Backing::FilePrivate)
        })
    }
}

/// Whether a process has a hook for a system call.
pub fn has_hook<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, space: &Space, tgid: u32, number: u32) -> bool {
    let tables = space.areas.iter().filter(|area| {
        area.mapping.backing == Backing::FilePrivate && area.mapping.offset == 0 && !area.file.is_null()
    });
    let mut tables = tables.filter(|area| {
        let path = dentry::of_file(context, area.file);
        path.is_ok_and(|path| path.bytes == MAPPING.as_bytes())
    });
    tables.any(|area| {
        let mut bytes = [0; PAGE_SIZE as usize];
        let at = Uva(area.mapping.start);
        let read = user_memory::read(context.kernel.phys(), &space.tables, at, &mut bytes);
        let table = read.and_then(|()| Table::parse(&bytes, tgid, space).ok().flatten());
        table.is_some_and(|table| table.hook_for(number).is_some())
    })
}
