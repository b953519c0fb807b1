//! XArrays.

use super::fixture::{at, sorted_out, World, XARRAY};
use crate::addr::Kva;
use crate::containers::xarray::{Entry, XArrayWalk};
use crate::error::Reason;
use alloc::vec;
use alloc::vec::Vec;

const ARRAY: Kva = at(0x100);
const TOP: Kva = at(0x1000);
const LOW: Kva = at(0x2000);

/// Index 0 of the top node's slot 2 is 128: entries at 128 and 130, the latter with mark 0.
fn two_levels() -> World {
    let mut world = World::new();
    world.put(ARRAY, 0);
    world.put(ARRAY.offset(8), TOP.0 | 2);
    world.xa_node(TOP, 6, 17, Kva::NULL);
    world.xa_slot(TOP, 2, LOW.0 | 2);
    world.xa_mark(TOP, 0, 1 << 2);
    world.xa_node(LOW, 0, 2, TOP);
    world.xa_slot(LOW, 0, 0xA0);
    world.xa_slot(LOW, 2, 0xB0);
    world.xa_mark(LOW, 0, 1 << 2);
    world
}

#[test]
fn a_single_entry_has_its_marks_in_the_head() {
    let mut world = World::new();
    world.put(ARRAY, 1 << (32 + 25));
    world.put(ARRAY.offset(8), 0xFFF0);
    let memory = world.memory();
    let (good, _) = sorted_out(XArrayWalk::new(&memory, XARRAY, ARRAY).unwrap());
    assert_eq!(
        good,
        [Entry {
            index: 0,
            span: 1,
            value: 0xFFF0,
            marks: 1
        }]
    );
    assert_eq!(XArrayWalk::new(&memory, XARRAY, ARRAY).unwrap().marked(1).count(), 0);
    assert_eq!(XArrayWalk::new(&memory, XARRAY, ARRAY).unwrap().marked(0).count(), 1);
}

#[test]
fn entries_come_with_index_and_marks() {
    let world = two_levels();
    let memory = world.memory();
    let (good, bad) = sorted_out(XArrayWalk::new(&memory, XARRAY, ARRAY).unwrap());
    assert_eq!(bad, []);
    assert_eq!(
        good,
        [
            Entry {
                index: 128,
                span: 1,
                value: 0xA0,
                marks: 0
            },
            Entry {
                index: 130,
                span: 1,
                value: 0xB0,
                marks: 1
            }
        ]
    );
    let (good, _) = sorted_out(XArrayWalk::new(&memory, XARRAY, ARRAY).unwrap().marked(0));
    assert_eq!(good.len(), 1);
    assert_eq!(good[0].index, 130);
}

#[test]
fn leaves_are_shown_whole() {
    let leaves = |world: &World| {
        let memory = world.memory();
        let mut seen = Vec::new();
        let walk = XArrayWalk::new(&memory, XARRAY, ARRAY).unwrap();
        let end = walk.leaves(|leaf| seen.push((leaf.base, leaf.slots[0], leaf.slots[2], leaf.marked(0))));
        (seen, end.is_ok())
    };
    let mut world = two_levels();
    // An entry of the upper level is none of a leaf.
    world.xa_slot(TOP, 1, 0xD0);
    assert_eq!(leaves(&world), (vec![(128, 0xA0, 0xB0, 1 << 2)], true));
    // A node that says that it is elsewhere.
    world.xa_slot(TOP, 3, LOW.0 | 2);
    assert_eq!(leaves(&world), (vec![(128, 0xA0, 0xB0, 1 << 2)], false));

    let mut single = World::new();
    single.put(ARRAY, 1 << (32 + 25));
    single.put(ARRAY.offset(8), 0xFFF0);
    assert_eq!(leaves(&single), (vec![(0, 0xFFF0, 0, 1)], true));
}

#[test]
fn a_range_leaves_out_what_lies_outside() {
    let mut world = two_levels();
    // An entry of four indices.
    world.xa_slot(LOW, 8, 0xC0);
    for slot in 9..12 {
        world.xa_slot(LOW, slot, 8 << 2 | 2);
    }
    let memory = world.memory();
    let found = |first, last| -> Vec<u64> {
        let walk = XArrayWalk::new(&memory, XARRAY, ARRAY).unwrap().within(first, last);
        walk.map(|entry| entry.unwrap().index).collect()
    };
    assert_eq!(found(0, 127), []);
    assert_eq!(found(0, 128), [128]);
    assert_eq!(found(129, 130), [130]);
    assert_eq!(found(138, 138), [136]);
    assert_eq!(found(140, u64::MAX), []);
}

#[test]
fn siblings_count_with_their_entry() {
    let mut world = two_levels();
    for slot in 9..12 {
        world.xa_slot(LOW, slot, 8 << 2 | 2);
    }
    world.xa_slot(LOW, 8, 0xC0);
    // A retry and a zero entry are no entries.
    world.xa_slot(LOW, 20, 256 << 2 | 2);
    world.xa_slot(LOW, 21, 257 << 2 | 2);
    let memory = world.memory();
    let (good, bad) = sorted_out(XArrayWalk::new(&memory, XARRAY, ARRAY).unwrap());
    assert_eq!(bad, []);
    assert_eq!(good.len(), 3);
    assert_eq!(
        good[2],
        Entry {
            index: 136,
            span: 4,
            value: 0xC0,
            marks: 0
        }
    );
}

#[test]
fn an_entry_above_the_last_level_spans_its_slot() {
    let mut world = two_levels();
    world.xa_slot(TOP, 5, 0xD0);
    let memory = world.memory();
    let (good, _) = sorted_out(XArrayWalk::new(&memory, XARRAY, ARRAY).unwrap());
    assert_eq!(
        good[2],
        Entry {
            index: 320,
            span: 64,
            value: 0xD0,
            marks: 0
        }
    );
}

#[test]
fn a_node_in_the_wrong_place_costs_its_subtree() {
    for (offset, value) in [(8, at(0x3000).0), (0, 0), (0, 0x0200 | 12)] {
        let mut world = two_levels();
        world.xa_slot(TOP, 3, 0xE0);
        world.put(LOW.offset(offset), value);
        let memory = world.memory();
        let (good, bad) = sorted_out(XArrayWalk::new(&memory, XARRAY, ARRAY).unwrap());
        assert_eq!(good.len(), 1);
        assert_eq!((bad.len(), bad[0].address), (1, LOW));
    }
}

#[test]
fn a_node_below_the_last_level_is_refused() {
    let mut world = two_levels();
    world.xa_slot(LOW, 1, TOP.0 | 2);
    let memory = world.memory();
    let (good, bad) = sorted_out(XArrayWalk::new(&memory, XARRAY, ARRAY).unwrap());
    assert_eq!(good.len(), 2);
    assert_eq!(bad[0].reason, Reason::BadNode("below the last level"));
}
