//! A kernel to be salvaged: what was prepared while it was healthy, over its memory.

use crate::addr::{Kva, Pfn, PhysAddr};
use crate::containers::hlist::Hlist;
use crate::containers::list::List;
use crate::containers::maple::{MapleTypes, MapleWalk};
use crate::containers::rbtree::RbTree;
use crate::containers::xarray::{XArrayTypes, XArrayWalk};
use crate::error::{ReadError, Reason, WalkError};
use crate::kallsyms::Kallsyms;
use crate::kernel_memory::KernelMemory;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::prepared::{Prepared, Symbols};
use crate::types::Types;
use alloc::string::String;

/// A kernel. Cheap to make; each CPU that salvages makes its own.
#[derive(Debug)]
pub struct Kernel<'m, M: PhysMem + ?Sized> {
    /// Its memory, for typed reads.
    pub mem: KernelMemory<'m, M>,
    /// Offsets of members.
    pub types: &'m Types,
    /// Addresses of variables.
    pub symbols: &'m Symbols,
    /// All its symbols.
    pub kallsyms: &'m Kallsyms,
    /// All that was prepared.
    pub prepared: &'m Prepared,
}

impl<'m, M: PhysMem + ?Sized> Kernel<'m, M> {
    /// Puts what was prepared over memory.
    pub fn new(phys: &'m M, prepared: &'m Prepared) -> Self {
        Self {
            mem: KernelMemory::new(phys, prepared.space.clone()),
            types: &prepared.types,
            symbols: &prepared.symbols,
            kallsyms: &prepared.kallsyms,
            prepared,
        }
    }

    /// The physical memory below.
    pub fn phys(&self) -> &'m M {
        self.mem.phys()
    }

    /// Number of possible CPUs.
    pub fn cpu_count(&self) -> usize {
        self.prepared.per_cpu.len()
    }

    /// Address of a CPU's copy of a per-CPU variable. `None` if there is no such CPU.
    pub fn per_cpu(&self, cpu: usize, variable: Kva) -> Option<Kva> {
        self.prepared.per_cpu.get(cpu).map(|&offset| variable.offset(offset))
    }

    /// The frame a `struct page` stands for.
    ///
    /// # Errors
    /// The address is not that of an element of `vmemmap`, or the frame is beyond RAM.
    pub fn page_to_pfn(&self, page: Kva) -> Result<Pfn, WalkError> {
        let bad = |reason| WalkError::new("page", page, reason);
        let size = u64::from(self.types.page.struct_size);
        let within = page.0.wrapping_sub(self.prepared.vmemmap.0);
        if within.checked_rem(size) != Some(0) {
            return Err(bad(Reason::Misaligned));
        }
        let pfn = Pfn(within.checked_div(size).unwrap_or(u64::MAX));
        if pfn >= self.phys().end().pfn() {
            return Err(bad(Reason::BadValue("frame number", pfn.0)));
        }
        Ok(pfn)
    }

    /// The `struct page` of a frame.
    pub fn pfn_to_page(&self, pfn: Pfn) -> Kva {
        self.prepared
            .vmemmap
            .offset(pfn.0.wrapping_mul(u64::from(self.types.page.struct_size)))
    }

    /// Where the direct map shows a physical address.
    pub fn phys_to_kva(&self, phys: PhysAddr) -> Kva {
        self.prepared.space.direct_map.start.offset(phys.0)
    }

    /// Name of the symbol that starts exactly at an address: the name of a table of functions, for instance.
    pub fn symbol_name(&self, address: Kva) -> Option<String> {
        self.kallsyms.name_at(address)
    }

    /// Elements of the list with head `head`; `member` is their `list_head`.
    pub fn list(&self, head: Kva, member: Field) -> List<'_, 'm, M> {
        List::new(&self.mem, &self.types.list_head, head, member.offset)
    }

    /// Elements of the hash chain with head `head`; `member` is their `hlist_node` or `hlist_nulls_node`.
    pub fn hlist(&self, head: Kva, member: Field) -> Hlist<'_, 'm, M> {
        Hlist::new(&self.mem, &self.types.hlist_node, head, member.offset)
    }

    /// Elements of the red-black tree with its `rb_root` at `root`; `member` is their `rb_node`.
    ///
    /// # Errors
    /// The root cannot be read.
    pub fn rbtree(&self, root: Kva, member: Field) -> Result<RbTree<'_, 'm, M>, WalkError> {
        RbTree::new(&self.mem, &self.types.rb_node, root, member.offset)
    }

    /// Entries of the xarray (or radix tree) at `array`; of an IDR, give the address of its `idr_rt`.
    ///
    /// # Errors
    /// The head cannot be read.
    pub fn xarray(&self, array: Kva) -> Result<XArrayWalk<'_, 'm, M>, WalkError> {
        let types = XArrayTypes {
            head: &self.types.xarray,
            node: &self.types.xa_node,
            marks: &self.types.xa_marks,
        };
        XArrayWalk::new(&self.mem, types, array)
    }

    /// Entries of the maple tree at `tree`.
    ///
    /// # Errors
    /// The head cannot be read.
    pub fn maple(&self, tree: Kva) -> Result<MapleWalk<'_, 'm, M>, WalkError> {
        let types = MapleTypes {
            tree: &self.types.maple_tree,
            node: &self.types.maple_node,
            range_64: &self.types.maple_range_64,
            arange_64: &self.types.maple_arange_64,
            kinds: &self.types.maple_kinds,
        };
        MapleWalk::new(&self.mem, types, tree)
    }

    /// The string a pointer variable or member at `at` points to; see [`KernelMemory::cstr`].
    ///
    /// # Errors
    /// The pointer or the string cannot be read, or the string is longer than `max` bytes.
    pub fn cstr_at(&self, at: Kva, max: usize) -> Result<alloc::vec::Vec<u8>, ReadError> {
        self.mem.cstr(self.mem.pointer(at)?, max)
    }
}
