//! Red-black trees.

use super::fixture::{at, sorted_out, World, RB};
use crate::addr::Kva;
use crate::containers::rbtree::RbTree;
use crate::error::Reason;
use alloc::vec::Vec;

const ROOT: Kva = at(0x100);

/// A complete tree of seven nodes; node `i` has key `i`.
fn seven() -> (World, Vec<Kva>) {
    let mut world = World::new();
    let n: Vec<Kva> = (0..8).map(|i| at(0x1000 + i * 0x40)).collect();
    world.put(ROOT, n[4].0);
    world.rb(n[4], Kva::NULL, n[2], n[6]);
    world.rb(n[2], n[4], n[1], n[3]);
    world.rb(n[6], n[4], n[5], n[7]);
    for (leaf, parent) in [(1, 2), (3, 2), (5, 6), (7, 6)] {
        world.rb(n[leaf], n[parent], Kva::NULL, Kva::NULL);
    }
    (world, n)
}

#[test]
fn a_tree_is_walked_in_the_order_of_its_keys() {
    let (world, n) = seven();
    let memory = world.memory();
    let (good, bad) = sorted_out(RbTree::new(&memory, &RB, ROOT, 0x18).unwrap());
    assert_eq!(good, n[1..].iter().map(|node| node.back(0x18)).collect::<Vec<_>>());
    assert_eq!(bad, []);
}

#[test]
fn an_empty_tree_has_no_elements() {
    let mut world = World::new();
    world.put(ROOT, 0);
    assert_eq!(RbTree::new(&world.memory(), &RB, ROOT, 0).unwrap().count(), 0);
}

#[test]
fn a_child_that_does_not_lead_back_costs_its_subtree() {
    let (mut world, n) = seven();
    world.put(n[2], n[6].0);
    let memory = world.memory();
    let (good, bad) = sorted_out(RbTree::new(&memory, &RB, ROOT, 0).unwrap());
    assert_eq!(good, n[4..]);
    assert_eq!(
        (bad.len(), bad[0].address, bad[0].reason),
        (1, n[2], Reason::BackLink(n[6]))
    );
}

#[test]
fn a_wild_right_child_comes_after_its_parent() {
    let (mut world, n) = seven();
    world.put(n[4].offset(8), 0x1234_5678);
    let memory = world.memory();
    let (good, bad) = sorted_out(RbTree::new(&memory, &RB, ROOT, 0).unwrap());
    assert_eq!(good, n[1..5]);
    assert_eq!(bad.len(), 1);
}

#[test]
fn a_child_linked_twice_is_visited_once() {
    let (mut world, n) = seven();
    world.put(n[4].offset(8), n[2].0);
    let memory = world.memory();
    let (good, bad) = sorted_out(RbTree::new(&memory, &RB, ROOT, 0).unwrap());
    assert_eq!(good, n[1..5]);
    assert_eq!(bad[0].reason, Reason::BadNode("both children are the same"));
}

#[test]
fn a_chain_of_left_children_is_too_deep() {
    let mut world = World::new();
    let n: Vec<Kva> = (0..300).map(|i| at(0x1000 + i * 0x40)).collect();
    world.put(ROOT, n[0].0);
    for i in 0..299 {
        let parent = if i == 0 { Kva::NULL } else { n[i - 1] };
        world.rb(n[i], parent, n[i + 1], Kva::NULL);
    }
    let memory = world.memory();
    let (good, bad) = sorted_out(RbTree::new(&memory, &RB, ROOT, 0).unwrap());
    assert_eq!(good.len(), 128);
    assert_eq!(bad[0].reason, Reason::TooDeep);
}

#[test]
fn a_tree_stops_at_its_bound() {
    let (world, _) = seven();
    let memory = world.memory();
    let (good, bad) = sorted_out(RbTree::new(&memory, &RB, ROOT, 0).unwrap().bounded(2));
    assert_eq!((good.len(), bad.len()), (2, 1));
}
