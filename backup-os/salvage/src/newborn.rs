//! A kernel that has just been started and whose module has not told anything yet: whether it panics.
//!
//! Some time into its boot a kernel writes its VMCOREINFO into a page of its own (`crash_save_vmcoreinfo_init()`, an early
//! `subsys_initcall`). From it the symbol table is found, and in that `panic_cpu`. Texts of kernels that lived in the same
//! memory before must have been wiped by then: theirs may have panicked.

use crate::addr::{Kva, PhysAddr, PAGE_SIZE};
use crate::kallsyms::{Kallsyms, KallsymsTables};
use crate::kernel_memory::{AddressSpace, KernelMemory};
use crate::memory::PhysMem;
use crate::prepared::KernelFacts;
use crate::tables::START_KERNEL_MAP;
use crate::vmcoreinfo::VmCoreInfo;
use alloc::vec::Vec;

/// How a text begins; it is the first thing in its page (`get_zeroed_page()`).
const START: &[u8; 10] = b"OSRELEASE=";

/// Physical addresses of the pages in a range that begin like a VMCOREINFO text.
pub fn texts<M: PhysMem + ?Sized>(memory: &M, start: PhysAddr, end: PhysAddr) -> Vec<PhysAddr> {
    let first = start.0.next_multiple_of(PAGE_SIZE);
    (first..end.0)
        .step_by(PAGE_SIZE as usize)
        .map(PhysAddr)
        .filter(|&page| {
            let mut head = [0; START.len()];
            memory.read(page, &mut head).is_ok() && head == *START
        })
        .collect()
}

/// Physical address of `panic_cpu` of the kernel that wrote the text in this page. `None` if the text is none, or does not
/// belong to a kernel that is there.
pub fn panic_cpu<M: PhysMem + ?Sized>(memory: &M, text: PhysAddr) -> Option<PhysAddr> {
    let mut page = [0; PAGE_SIZE as usize];
    memory.read(text, &mut page).ok()?;
    let info = VmCoreInfo::parse(&page).ok()?;
    let tables = KallsymsTables::from_vmcoreinfo(&info).ok()?;
    let phys_base = info.phys_base();
    let facts = KernelFacts::from_vmcoreinfo(info).ok()?;
    facts.validate(memory).ok()?;
    let image = START_KERNEL_MAP..Kva(u64::MAX);
    let space = AddressSpace {
        tables: facts.tables,
        image,
        phys_base,
        direct_map: Kva::NULL..Kva::NULL,
    };
    let symbols = Kallsyms::read(&KernelMemory::new(memory, space), &tables).ok()?;
    let address = symbols.lookup("panic_cpu")?;
    let phys = address.0.wrapping_sub(START_KERNEL_MAP.0).wrapping_add(phys_base);
    let mut word = [0; 4];
    memory.read(PhysAddr(phys), &mut word).ok()?;
    Some(PhysAddr(phys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::SparseMemory;

    #[test]
    fn texts_are_found_at_the_start_of_pages_only() {
        let mut memory = SparseMemory::new();
        memory.write(PhysAddr(0x1000), b"OSRELEASE=6.1\n");
        memory.write(PhysAddr(0x2010), b"OSRELEASE=6.1\n");
        memory.write(PhysAddr(0x5000), b"OSRELEASE=6.12\n");
        memory.write(PhysAddr(0x8000), b"OSRELEASE=6.12\n");
        let found = texts(&memory, PhysAddr(0x800), PhysAddr(0x8000));
        assert_eq!(found, [PhysAddr(0x1000), PhysAddr(0x5000)]);
    }

    #[test]
    fn a_text_without_its_kernel_is_none() {
        let mut memory = SparseMemory::new();
        memory.write(
            PhysAddr(0x1000),
            b"OSRELEASE=6.1\nSYMBOL(swapper_pg_dir)=ffffffff82000000\nNUMBER(phys_base)=0\n",
        );
        assert_eq!(panic_cpu(&memory, PhysAddr(0x1000)), None);
        assert_eq!(panic_cpu(&memory, PhysAddr(0x7000)), None);
    }
}
