//! The mirrors and constants everything else rests on, gathered into [`Types`].
//!
//! Mirrors used by one subsystem alone stand in that subsystem's file; this file gathers them, so that they are all
//! loaded at once.

use crate::containers::maple::{MapleArange64, MapleKinds, MapleNode, MapleRange64, MapleTree};
use crate::containers::xarray::{XArray, XaMarks, XaNode};
use crate::mirror::Field;

crate::mirrors! {
    /// A doubly linked list, head or node.
    pub struct ListHead = "list_head" {
        /// The next node.
        next: Field,
        /// The node before.
        prev: Field,
    }

    /// A node of a hash chain.
    pub struct HlistNode = "hlist_node" {
        /// The next node, null at the end.
        next: Field,
        /// Address of the link that leads here.
        pprev: Field,
    }

    /// A node of a red-black tree.
    pub struct RbNode = "rb_node" {
        /// Parent and colour.
        parent: Field = "__rb_parent_color",
        /// Child with lower keys.
        rb_left: Field,
        /// Child with higher keys.
        rb_right: Field,
    }

    /// What the kernel knows about a page frame.
    pub struct Page = "page" {
        /// Flags (`PG_*`), zone and node.
        flags: Field,
        /// Owner, or low-bit-tagged anonymous mapping.
        mapping: Field,
        /// Index in the mapping.
        index: Field = "index" | "__folio_index",
        /// Address of the head page, plus one, in tail pages.
        compound_head: Field,
        /// Owner's word.
        private: Field,
        /// References.
        refcount: Field = "_refcount.counter",
        /// Mappings, minus one.
        mapcount: Field = "_mapcount.counter",
    }

    /// The core of time keeping.
    pub struct Timekeeper = "timekeeper" {
        /// CLOCK_REALTIME in whole seconds.
        xtime_sec: Field,
    }
}

crate::mirror_set! {
    /// All mirrors.
    pub struct Types {
        /// `struct list_head`.
        list_head: ListHead,
        /// `struct hlist_node`.
        hlist_node: HlistNode,
        /// `struct rb_node`.
        rb_node: RbNode,
        /// `struct page`.
        page: Page,
        /// `struct timekeeper`.
        timekeeper: Timekeeper,
        /// `struct xarray`.
        xarray: XArray,
        /// `struct xa_node`.
        xa_node: XaNode,
        /// Marks of an `xarray` with a single entry.
        xa_marks: XaMarks,
        /// `struct maple_tree`.
        maple_tree: MapleTree,
        /// `struct maple_node`.
        maple_node: MapleNode,
        /// `struct maple_range_64`.
        maple_range_64: MapleRange64,
        /// `struct maple_arange_64`.
        maple_arange_64: MapleArange64,
        /// `enum maple_type`.
        maple_kinds: MapleKinds,
        /// The log.
        printk: crate::printk::PrintkTypes,
        /// Modules.
        modules: crate::modules::ModuleTypes,
        /// Tasks as they are shown.
        overview: crate::overview::OverviewTypes,
        /// Stacks.
        orc: crate::orc::OrcTypes,
        /// Processes and files.
        layouts: crate::layouts::Layouts,
    }
}
