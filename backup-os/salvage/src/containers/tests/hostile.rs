//! Whatever stands in memory, a walk ends: at most its bound of elements, and an error for what it skipped.

use super::fixture::{at, enode, World, HLIST, LIST, MAPLE, RB, XARRAY};
use crate::addr::Kva;
use crate::containers::hlist::Hlist;
use crate::containers::list::List;
use crate::containers::maple::MapleWalk;
use crate::containers::rbtree::RbTree;
use crate::containers::xarray::XArrayWalk;
use alloc::vec::Vec;
use proptest::prelude::*;

const BOUND: u64 = 200;
/// Errors a walk can add to its elements: one for each slot of each node of the fixture.
const MOST: usize = 200 + 64 * 64;
/// The fixture's bytes; all structures and all pointers into it lie below.
const SIZE: u64 = 0x4000;

/// A word that is likely to lead somewhere: a pointer into the fixture, tagged or not, or anything.
fn pointer() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..SIZE / 8, 0u64..8).prop_map(|(place, tag)| at(place * 8).0 | tag),
        2 => (0..SIZE / 0x100, 0u64..256).prop_map(|(place, tag)| at(place * 0x100).0 | tag),
        1 => any::<u64>(),
        1 => Just(0),
    ]
}

fn walk_all(world: &World) {
    let memory = world.memory();
    for head in (0..8).map(|i| at(i * 0x100)) {
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
    }
}

/// A world with one container of each kind, heads in its first page.
fn world() -> World {
    let mut world = World::new();
    world.put(at(SIZE - 8), 0);
    let list: Vec<Kva> = core::iter::once(at(0))
        .chain((0..8).map(|i| at(0x800 + i * 0x20)))
        .collect();
    world.circle(&list);
    let chain: Vec<Kva> = core::iter::once(at(0x100))
        .chain((0..8).map(|i| at(0xA00 + i * 0x20)))
        .collect();
    world.chain(&chain, 0);
    let n: Vec<Kva> = (0..8).map(|i| at(0xC00 + i * 0x20)).collect();
    world.put(at(0x200), n[4].0);
    world.rb(n[4], Kva::NULL, n[2], n[6]);
    world.rb(n[2], n[4], n[1], n[3]);
    world.rb(n[6], n[4], n[5], n[7]);
    world.put(at(0x308), at(0x1000).0 | 2);
    world.xa_node(at(0x1000), 6, 0, Kva::NULL);
    world.xa_slot(at(0x1000), 1, at(0x1400).0 | 2);
    world.xa_node(at(0x1400), 0, 1, at(0x1000));
    world.xa_slot(at(0x1400), 7, 0xF0);
    world.put(at(0x408), enode(at(0x2000), 3) | 2);
    world.maple(
        at(0x2000),
        at(0x400).0 | 1,
        &[0x4F],
        &[enode(at(0x2100), 1), enode(at(0x2200), 1)],
        false,
    );
    world.maple(at(0x2100), at(0x2000).0 | 6, &[0xF, 0x1F, 0x4F], &[0, 0xA00, 0], true);
    world.maple(at(0x2200), at(0x2000).0 | 0xE, &[0xFF], &[0, 0xC00], true);
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn words_overwritten_at_random(changes in prop::collection::vec((0..SIZE / 8, pointer()), 1..40)) {
        let mut world = world();
        for (place, value) in changes {
            world.put(at(place * 8), value);
        }
        walk_all(&world);
    }

    #[test]
    fn memory_full_of_pointers(words in prop::collection::vec(pointer(), (SIZE / 8) as usize)) {
        let mut world = World::new();
        for (place, value) in (0..).zip(words) {
            world.put(at(place * 8), value);
        }
        walk_all(&world);
    }
}
