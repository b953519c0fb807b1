//! A little kernel memory, written word by word, with the layouts of Linux 6.12.

use crate::addr::{Kva, PhysAddr};
use crate::containers::maple::{MapleArange64, MapleKinds, MapleNode, MapleRange64, MapleTree, MapleTypes};
use crate::containers::xarray::{XArray, XArrayTypes, XaMarks, XaNode};
use crate::error::WalkError;
use crate::kernel_memory::{AddressSpace, KernelMemory};
use crate::memory::SparseMemory;
use crate::mirror::Field;
use crate::paging::{Levels, PageTables};
use crate::types::{HlistNode, ListHead, RbNode};
use alloc::vec::Vec;

/// Where the direct map of the fixture begins.
pub const BASE: u64 = 0xFFFF_8880_0000_0000;

const fn word(offset: u32) -> Field {
    Field::plain(offset, 8)
}

const fn words(offset: u32, count: u32) -> Field {
    Field {
        offset,
        size: count * 8,
        element: 8,
        bit: 0,
        bit_size: 0,
    }
}

pub const LIST: ListHead = ListHead {
    struct_size: 16,
    next: word(0),
    prev: word(8),
};
pub const HLIST: HlistNode = HlistNode {
    struct_size: 16,
    next: word(0),
    pprev: word(8),
};
pub const RB: RbNode = RbNode {
    struct_size: 24,
    parent: word(0),
    rb_right: word(8),
    rb_left: word(16),
};
pub const XARRAY: XArrayTypes<'static> = XArrayTypes {
    head: &XArray {
        struct_size: 16,
        xa_head: word(8),
        xa_flags: Field::plain(4, 4),
    },
    node: &XaNode {
        struct_size: 576,
        shift: Field::plain(0, 1),
        offset: Field::plain(1, 1),
        parent: word(8),
        slots: words(40, 64),
        marks: words(552, 3),
    },
    marks: &XaMarks {
        gfp_bits_shift: Some(25),
    },
};
pub const MAPLE: MapleTypes<'static> = MapleTypes {
    tree: &MapleTree {
        struct_size: 16,
        ma_root: word(8),
        ma_flags: Field::plain(4, 4),
    },
    node: &MapleNode {
        struct_size: 256,
        parent: word(0),
        slot: words(8, 31),
    },
    range_64: &MapleRange64 {
        struct_size: 256,
        pivot: words(8, 15),
        slot: words(128, 16),
    },
    arange_64: &MapleArange64 {
        struct_size: 248,
        pivot: words(8, 9),
        slot: words(80, 10),
    },
    kinds: &MapleKinds {
        dense: 0,
        leaf_64: 1,
        range_64: 2,
        arange_64: 3,
    },
};

/// Address of a byte of the fixture.
pub const fn at(offset: u64) -> Kva {
    Kva(BASE + offset)
}

/// Memory under construction.
pub struct World(pub SparseMemory);

impl World {
    pub fn new() -> Self {
        Self(SparseMemory::new())
    }

    pub fn put(&mut self, to: Kva, value: u64) {
        self.0.write_u64(PhysAddr(to.0 - BASE), value);
    }

    pub fn put_byte(&mut self, to: Kva, value: u8) {
        self.0.write(PhysAddr(to.0 - BASE), &[value]);
    }

    pub fn memory(&self) -> KernelMemory<'_, SparseMemory> {
        let space = AddressSpace {
            tables: PageTables {
                root: PhysAddr(0),
                levels: Levels::Four,
            },
            image: Kva::NULL..Kva::NULL,
            phys_base: 0,
            direct_map: at(0)..at(1 << 40),
        };
        KernelMemory::new(&self.0, space)
    }

    /// Links a list of nodes in a circle; the first is the head.
    pub fn circle(&mut self, nodes: &[Kva]) {
        for (i, node) in nodes.iter().enumerate() {
            let next = nodes[(i + 1) % nodes.len()];
            self.put(*node, next.0);
            self.put(next.offset(8), node.0);
        }
    }

    /// Links a hash chain; the first is the head.
    pub fn chain(&mut self, nodes: &[Kva], end: u64) {
        for (i, node) in nodes.iter().enumerate() {
            match nodes.get(i + 1) {
                Some(next) => {
                    self.put(*node, next.0);
                    self.put(next.offset(8), node.0);
                }
                None => self.put(*node, end),
            }
        }
    }

    /// Links children to a node of a red-black tree.
    pub fn rb(&mut self, node: Kva, parent: Kva, left: Kva, right: Kva) {
        self.put(node, parent.0 | 1);
        self.put(node.offset(8), right.0);
        self.put(node.offset(16), left.0);
    }

    /// Writes the head of an xarray node.
    pub fn xa_node(&mut self, node: Kva, shift: u8, offset: u8, parent: Kva) {
        self.put(node, 0);
        self.put_byte(node, shift);
        self.put_byte(node.offset(1), offset);
        self.put(node.offset(8), parent.0);
        for place in 0..67 {
            self.put(node.offset(40 + place * 8), 0);
        }
    }

    /// Sets a slot of an xarray node.
    pub fn xa_slot(&mut self, node: Kva, slot: u64, value: u64) {
        self.put(node.offset(40 + slot * 8), value);
    }

    /// Sets the bitmap of a mark of an xarray node.
    pub fn xa_mark(&mut self, node: Kva, mark: u64, slots: u64) {
        self.put(node.offset(552 + mark * 8), slots);
    }

    /// Writes a leaf or inner node of a maple tree.
    pub fn maple(&mut self, node: Kva, parent: u64, pivots: &[u64], slots: &[u64], wide: bool) {
        for place in 0..32 {
            self.put(node.offset(place * 8), 0);
        }
        self.put(node, parent);
        for (place, pivot) in (0..).zip(pivots) {
            self.put(node.offset(8 + place * 8), *pivot);
        }
        let start = if wide { 128 } else { 80 };
        for (place, slot) in (0..).zip(slots) {
            self.put(node.offset(start + place * 8), *slot);
        }
    }
}

/// Encodes the address of a maple node as a child of another.
pub const fn enode(node: Kva, kind: u64) -> u64 {
    node.0 | kind << 3 | 4
}

/// Splits what a walk yields into elements and errors.
pub fn sorted_out<T>(walk: impl Iterator<Item = Result<T, WalkError>>) -> (Vec<T>, Vec<WalkError>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for item in walk {
        match item {
            Ok(element) => good.push(element),
            Err(error) => bad.push(error),
        }
    }
    (good, bad)
}
