//! Maple trees.

use super::fixture::{at, enode, sorted_out, World, MAPLE};
use crate::addr::Kva;
use crate::containers::maple::{Entry, MapleWalk};
use crate::error::Reason;

const TREE: Kva = at(0x40);
const TOP: Kva = at(0x1000);
const LEFT: Kva = at(0x1100);
const RIGHT: Kva = at(0x1200);
const LEAF: u64 = 1;
const ARANGE: u64 = 3;

/// Parent word of a child in a slot (`MAPLE_PARENT_RANGE64`).
const fn parent(node: Kva, slot: u64) -> u64 {
    node.0 | slot << 3 | 6
}

/// Two leaves below a node with gaps: 0x10…0x1f, 0x30…0x3f and 0x100…max.
fn two_leaves() -> World {
    let mut world = World::new();
    world.put(TREE.offset(8), enode(TOP, ARANGE) | 2);
    world.maple(
        TOP,
        TREE.0 | 1,
        &[0x4F, u64::MAX],
        &[enode(LEFT, LEAF), enode(RIGHT, LEAF)],
        false,
    );
    world.maple(
        LEFT,
        parent(TOP, 0),
        &[0xF, 0x1F, 0x2F, 0x3F, 0x4F],
        &[0, 0xA00, 0, 0xB00, 0],
        true,
    );
    world.maple(RIGHT, parent(TOP, 1), &[0xFF], &[0, 0xC00], true);
    world
}

fn entry(first: u64, last: u64, value: u64) -> Entry {
    Entry { first, last, value }
}

#[test]
fn ranges_come_in_order() {
    let world = two_leaves();
    let memory = world.memory();
    let (good, bad) = sorted_out(MapleWalk::new(&memory, MAPLE, TREE).unwrap());
    assert_eq!(bad, []);
    assert_eq!(
        good,
        [
            entry(0x10, 0x1F, 0xA00),
            entry(0x30, 0x3F, 0xB00),
            entry(0x100, u64::MAX, 0xC00)
        ]
    );
}

#[test]
fn a_root_can_be_one_entry_or_none() {
    let mut world = World::new();
    world.put(TREE.offset(8), 0x5000);
    let memory = world.memory();
    let (good, _) = sorted_out(MapleWalk::new(&memory, MAPLE, TREE).unwrap());
    assert_eq!(good, [entry(0, 0, 0x5000)]);
    let mut world = World::new();
    world.put(TREE.offset(8), 0);
    assert_eq!(MapleWalk::new(&world.memory(), MAPLE, TREE).unwrap().count(), 0);
}

#[test]
fn a_full_leaf_ends_with_its_sixteenth_slot() {
    let mut world = World::new();
    let pivots: alloc::vec::Vec<u64> = (0..15).map(|i| i * 2 + 1).collect();
    world.put(TREE.offset(8), enode(LEFT, LEAF) | 2);
    world.maple(LEFT, TREE.0 | 1, &pivots, &[0x77; 16], true);
    let memory = world.memory();
    let (good, bad) = sorted_out(MapleWalk::new(&memory, MAPLE, TREE).unwrap());
    assert_eq!(bad, []);
    assert_eq!(good.len(), 16);
    assert_eq!(good[15], entry(30, u64::MAX, 0x77));
}

#[test]
fn a_dense_node_has_an_index_a_slot() {
    let mut world = two_leaves();
    for place in 0..32 {
        world.put(RIGHT.offset(place * 8), 0);
    }
    world.put(RIGHT, parent(TOP, 1));
    world.put(RIGHT.offset(8 + 5 * 8), 0xD00);
    world.put(TOP.offset(80 + 8), enode(RIGHT, 0));
    world.put(TOP.offset(8 + 8), 0x60);
    let memory = world.memory();
    let (good, bad) = sorted_out(MapleWalk::new(&memory, MAPLE, TREE).unwrap());
    assert_eq!(bad, []);
    assert_eq!(good[2], entry(0x55, 0x55, 0xD00));
}

#[test]
fn reserved_entries_are_left_out() {
    let mut world = two_leaves();
    world.put(LEFT.offset(128 + 8), 257 << 2 | 2);
    let memory = world.memory();
    let (good, bad) = sorted_out(MapleWalk::new(&memory, MAPLE, TREE).unwrap());
    assert_eq!((good.len(), bad.len()), (2, 0));
}

#[test]
fn a_child_that_does_not_lead_back_costs_its_subtree() {
    for wrong in [parent(RIGHT, 0), parent(TOP, 1)] {
        let mut world = two_leaves();
        world.put(LEFT, wrong);
        let memory = world.memory();
        let (good, bad) = sorted_out(MapleWalk::new(&memory, MAPLE, TREE).unwrap());
        assert_eq!(good, [entry(0x100, u64::MAX, 0xC00)]);
        assert_eq!(bad[0].address, LEFT);
    }
}

#[test]
fn pivots_that_run_back_end_their_node() {
    let mut world = two_leaves();
    world.put(LEFT.offset(8 + 16), 5);
    let memory = world.memory();
    let (good, bad) = sorted_out(MapleWalk::new(&memory, MAPLE, TREE).unwrap());
    assert_eq!(good, [entry(0x10, 0x1F, 0xA00), entry(0x100, u64::MAX, 0xC00)]);
    assert_eq!(bad[0].reason, Reason::BadValue("pivot", 5));
}

#[test]
fn an_unknown_node_type_is_named() {
    let mut world = two_leaves();
    world.put(TOP.offset(80), enode(LEFT, 7));
    let memory = world.memory();
    let (_, bad) = sorted_out(MapleWalk::new(&memory, MAPLE, TREE).unwrap());
    assert_eq!(bad[0].reason, Reason::BadValue("node type", 7));
}
