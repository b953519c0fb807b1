//! Memory of a process, for the few structures a call's arguments point to.

use crate::addr::{Uva, PAGE_SIZE};
use crate::memory::PhysMem;
use crate::paging::PageTables;

/// Fills `buf` from an address of a process on. `None` if a page of it is not in memory.
pub fn read<M: PhysMem + ?Sized>(memory: &M, tables: &PageTables, at: Uva, buf: &mut [u8]) -> Option<()> {
    let mut at = at;
    let mut rest = buf;
    while !rest.is_empty() {
        if at >= tables.levels.user_end() {
            return None;
        }
        let in_page = PAGE_SIZE.saturating_sub(at.0 & (PAGE_SIZE - 1)) as usize;
        let (now, later) = rest.split_at_mut(in_page.min(rest.len()));
        let found = tables.translate(memory, at.0).ok()?;
        memory.read(found.phys, now).ok()?;
        at = at.offset(now.len() as u64);
        rest = later;
    }
    Some(())
}

/// A 64-bit word of a process.
pub fn word<M: PhysMem + ?Sized>(memory: &M, tables: &PageTables, at: Uva) -> Option<u64> {
    let mut word = [0; 8];
    read(memory, tables, at, &mut word)?;
    Some(u64::from_le_bytes(word))
}
