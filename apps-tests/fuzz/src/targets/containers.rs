//! Walks over linked structures in a memory of 16 KB in which every other word is likely to be a pointer.

use salvage::addr::{Kva, PhysAddr};
use salvage::containers::hlist::Hlist;
use salvage::containers::list::List;
use salvage::containers::maple::{
    MapleArange64, MapleKinds, MapleNode, MapleRange64, MapleTree, MapleTypes, MapleWalk,
};
use salvage::containers::rbtree::RbTree;
use salvage::containers::xarray::{XArray, XArrayTypes, XArrayWalk, XaMarks, XaNode};
use salvage::kernel_memory::{AddressSpace, KernelMemory};
use salvage::memory::Image;
use salvage::mirror::Field;
use salvage::paging::{Levels, PageTables};
use salvage::types::{HlistNode, ListHead, RbNode};

/// Start of the direct map with 4-level paging.
const BASE: u64 = 0xFFFF_8880_0000_0000;
/// Bytes of the memory.
const SIZE: usize = 0x4000;
/// Most elements of a walk.
const BOUND: u64 = 200;
/// With an error for every slot of every node.
const MOST: usize = 200 + 64 * 64;

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

// The layouts of Linux 6.12.
const LIST: ListHead = ListHead {
    struct_size: 16,
    next: word(0),
    prev: word(8),
};
const HLIST: HlistNode = HlistNode {
    struct_size: 16,
    next: word(0),
    pprev: word(8),
};
const RB: RbNode = RbNode {
    struct_size: 24,
    parent: word(0),
    rb_right: word(8),
    rb_left: word(16),
};
const XARRAY: XArrayTypes<'static> = XArrayTypes {
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
const MAPLE: MapleTypes<'static> = MapleTypes {
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

/// Words of the input with the topmost bit set stay as they are; of the rest, those that are even in their second
/// byte from the top become pointers into the memory, tag bits included, and the others small numbers.
fn memory_of(data: &[u8]) -> Vec<u8> {
    let mut memory = vec![0; SIZE];
    for (to, from) in memory.chunks_exact_mut(8).zip(data.chunks_exact(8)) {
        let word = from.iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
        let word = match (word >> 63, word >> 48 & 1) {
            (1, _) => word,
            (_, 0) if word != 0 => BASE + (word & (SIZE as u64 - 1)),
            _ => word & 0xFFFF_FFFF_FFFF,
        };
        to.copy_from_slice(&word.to_le_bytes());
    }
    memory
}

/// Walks a container of each kind from eight heads.
pub fn containers(data: &[u8]) {
    let bytes = memory_of(data);
    let image = Image::flat(&bytes);
    let space = AddressSpace {
        tables: PageTables {
            root: PhysAddr(0),
            levels: Levels::Four,
        },
        image: Kva::NULL..Kva::NULL,
        phys_base: 0,
        direct_map: Kva(BASE)..Kva(BASE + (1 << 40)),
    };
    let memory = KernelMemory::new(&image, space);
    for head in (0..8).map(|number| Kva(BASE + number * 0x100)) {
        assert!(List::new(&memory, &LIST, head, 0).bounded(BOUND).count() <= MOST);
        assert!(Hlist::new(&memory, &HLIST, head, 0).bounded(BOUND).count() <= MOST);
        if let Ok(walk) = RbTree::new(&memory, &RB, head, 0) {
            assert!(walk.bounded(BOUND).count() <= MOST);
        }
        if let Ok(walk) = XArrayWalk::new(&memory, XARRAY, head) {
            assert!(walk.bounded(BOUND).count() <= MOST);
        }
        if let Ok(walk) = MapleWalk::new(&memory, MAPLE, head) {
            assert!(walk.bounded(BOUND).count() <= MOST);
        }
        // The same bytes as page tables.
        let tables = PageTables {
            root: PhysAddr(0),
            levels: Levels::Four,
        };
        let _ = tables.translate_kernel(&image, head);
    }
}
