//! Lists and hash chains.

use super::fixture::{at, sorted_out, World, HLIST, LIST};
use crate::addr::Kva;
use crate::containers::hlist::Hlist;
use crate::containers::list::List;
use crate::error::Reason;
use alloc::vec::Vec;

const MEMBER: u32 = 0x10;

fn nodes(count: u64) -> Vec<Kva> {
    (0..count).map(|i| at(0x1000 + i * 0x100)).collect()
}

fn elements(nodes: &[Kva]) -> Vec<Kva> {
    nodes.iter().map(|node| node.back(MEMBER.into())).collect()
}

#[test]
fn a_list_is_walked_in_order() {
    let mut world = World::new();
    let nodes = nodes(5);
    world.circle(&nodes);
    let memory = world.memory();
    let (good, bad) = sorted_out(List::new(&memory, &LIST, nodes[0], MEMBER));
    assert_eq!(good, elements(&nodes[1..]));
    assert_eq!(bad, []);
}

#[test]
fn an_empty_list_has_no_elements() {
    let mut world = World::new();
    world.circle(&nodes(1));
    assert_eq!(List::new(&world.memory(), &LIST, nodes(1)[0], 0).count(), 0);
}

#[test]
fn a_wild_pointer_costs_only_what_lies_behind_nothing() {
    let mut world = World::new();
    let nodes = nodes(6);
    world.circle(&nodes);
    world.put(nodes[2], 0xDEAD_0000_0000_0100);
    let memory = world.memory();
    let (good, bad) = sorted_out(List::new(&memory, &LIST, nodes[0], MEMBER));
    let mut expected = elements(&nodes[1..3]);
    expected.extend(elements(&[nodes[5], nodes[4], nodes[3]]));
    assert_eq!(good, expected);
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0].address, Kva(0xDEAD_0000_0000_0100).offset(8));
}

#[test]
fn an_insertion_that_was_cut_short_loses_nothing() {
    let mut world = World::new();
    let nodes = nodes(6);
    world.circle(&nodes);
    // `__list_add` has written `next->prev = new` only.
    world.put(nodes[4].offset(8), at(0x9000).0);
    let memory = world.memory();
    let (mut good, bad) = sorted_out(List::new(&memory, &LIST, nodes[0], MEMBER));
    good.sort();
    assert_eq!(good, elements(&nodes[1..]));
    assert_eq!(bad[0].reason, Reason::BackLink(at(0x9000)));
    assert_eq!(bad.len(), 1);
}

#[test]
fn a_removal_that_was_cut_short_loses_nothing_that_stays() {
    let mut world = World::new();
    let nodes = nodes(6);
    world.circle(&nodes);
    // `__list_del` of the fourth has written `next->prev = prev` only.
    world.put(nodes[4].offset(8), nodes[2].0);
    let memory = world.memory();
    let (mut good, bad) = sorted_out(List::new(&memory, &LIST, nodes[0], MEMBER));
    good.sort();
    assert_eq!(good, elements(&nodes[1..]));
    assert_eq!(bad.len(), 1);
}

#[test]
fn a_cycle_that_leaves_the_head_out_ends() {
    let mut world = World::new();
    let nodes = nodes(6);
    world.circle(&nodes);
    world.put(nodes[5], nodes[2].0);
    let memory = world.memory();
    let (good, bad) = sorted_out(List::new(&memory, &LIST, nodes[0], MEMBER));
    assert_eq!(good, elements(&nodes[1..]));
    assert_eq!(bad.len(), 1);
}

#[test]
fn a_list_stops_at_its_bound() {
    let mut world = World::new();
    let nodes = nodes(9);
    world.circle(&nodes);
    let memory = world.memory();
    let (good, bad) = sorted_out(List::new(&memory, &LIST, nodes[0], MEMBER).bounded(3));
    assert_eq!(good.len(), 3);
    assert_eq!(bad[0].reason, Reason::Bound(3));
}

#[test]
fn a_chain_is_walked_in_order() {
    let mut world = World::new();
    let nodes = nodes(4);
    for end in [0, 0x27] {
        world.chain(&nodes, end);
        let memory = world.memory();
        let (good, bad) = sorted_out(Hlist::new(&memory, &HLIST, nodes[0], MEMBER));
        assert_eq!(good, elements(&nodes[1..]));
        assert_eq!(bad, []);
    }
}

#[test]
fn a_chain_ends_where_its_link_does_not_lead_back() {
    let mut world = World::new();
    let nodes = nodes(5);
    world.chain(&nodes, 0);
    world.put(nodes[4], nodes[1].0);
    let memory = world.memory();
    let (good, bad) = sorted_out(Hlist::new(&memory, &HLIST, nodes[0], MEMBER));
    assert_eq!(good, elements(&nodes[1..]));
    assert_eq!(bad[0].reason, Reason::BackLink(nodes[0]));
}
