//! Maple trees (`include/linux/maple_tree.h`, Linux 6.1): ranges of 64-bit indices, each with one entry.

use super::DEFAULT_BOUND;
use crate::addr::Kva;
use crate::error::{About, Reason, WalkError};
use crate::kernel_memory::KernelMemory;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::tables::{MAPLE_NODE_MASK, MAPLE_ROOT_PARENT, MAPLE_TYPE_MASK, MAPLE_TYPE_SHIFT, XA_INTERNAL, XA_NODE_MIN};
use alloc::vec::Vec;

/// Deeper than a tree can be: with 10 children a node, 16 levels hold more entries than memory.
const MAX_DEPTH: usize = 16;
/// Bytes of a node; nodes are aligned to it (`struct maple_node`).
const NODE_SIZE: usize = 256;
/// Slots of the widest node (dense).
const MAX_SLOTS: usize = 31;

crate::mirrors! {
    /// The head of a tree.
    pub struct MapleTree = "maple_tree" {
        /// The single entry or the encoded topmost node.
        ma_root: Field,
        /// Height and mode.
        ma_flags: Field,
    }

    /// A node of any type; as it stands, a dense one.
    pub struct MapleNode = "maple_node" {
        /// The encoded node above.
        parent: Field,
        /// Slots of a dense node.
        slot: Field,
    }

    /// A leaf, or an inner node of a tree without gaps.
    pub struct MapleRange64 = "maple_range_64" {
        /// Last index of each slot but the last one.
        pivot: Field,
        /// Entries or nodes.
        slot: Field,
    }

    /// An inner node of a tree that looks for gaps.
    pub struct MapleArange64 = "maple_arange_64" {
        /// Last index of each slot but the last one.
        pivot: Field,
        /// Nodes.
        slot: Field,
    }
}

crate::constants! {
    /// Types of nodes (`enum maple_type`).
    pub struct MapleKinds {
        /// One slot for each index.
        dense: u32 = "maple_dense",
        /// Leaf of up to 16 ranges.
        leaf_64: u32 = "maple_leaf_64",
        /// Inner node of up to 16 children.
        range_64: u32 = "maple_range_64",
        /// Inner node of up to 10 children, with gaps.
        arange_64: u32 = "maple_arange_64",
    }
}

/// The mirrors a walk needs.
#[derive(Clone, Copy, Debug)]
pub struct MapleTypes<'k> {
    /// The head.
    pub tree: &'k MapleTree,
    /// Any node.
    pub node: &'k MapleNode,
    /// Leaves and inner nodes.
    pub range_64: &'k MapleRange64,
    /// Inner nodes with gaps.
    pub arange_64: &'k MapleArange64,
    /// Numbers of the types.
    pub kinds: &'k MapleKinds,
}

/// An entry of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First index of its range.
    pub first: u64,
    /// Last index of its range.
    pub last: u64,
    /// The word stored.
    pub value: u64,
}

/// The entries of a tree, ascending; empty ranges and reserved entries (`XA_ZERO_ENTRY`) are left out.
///
/// A node that is not where and what it has to be costs its subtree: the error is yielded and the walk goes on.
#[derive(Debug)]
pub struct MapleWalk<'k, 'm, M: PhysMem + ?Sized> {
    memory: &'k KernelMemory<'m, M>,
    types: MapleTypes<'k>,
    single: Option<Entry>,
    pending: Option<Pending>,
    path: Vec<Frame>,
    left: u64,
    bound: u64,
}

/// A node to go down into next.
#[derive(Clone, Copy, Debug)]
struct Pending {
    encoded: u64,
    /// The node above and the slot in it; `None` for the root.
    above: Option<(Kva, u64)>,
    min: u64,
    max: u64,
}

#[derive(Debug)]
struct Frame {
    node: Kva,
    leaf: bool,
    slots: [u64; MAX_SLOTS],
    pivots: [u64; MAX_SLOTS],
    slot_count: usize,
    pivot_count: usize,
    next: usize,
    /// First index of the next slot.
    first: u64,
    max: u64,
}

impl<'k, 'm, M: PhysMem + ?Sized> MapleWalk<'k, 'm, M> {
    /// The entries of the tree at `tree`.
    ///
    /// # Errors
    /// The head cannot be read.
    pub fn new(memory: &'k KernelMemory<'m, M>, types: MapleTypes<'k>, tree: Kva) -> Result<Self, WalkError> {
        let root = memory.uint(tree, types.tree.ma_root).about("maple_tree")?;
        let bound = DEFAULT_BOUND;
        let mut walk = Self {
            memory,
            types,
            single: None,
            pending: None,
            path: Vec::new(),
            left: bound,
            bound,
        };
        if is_internal(root) && root > XA_NODE_MIN {
            walk.pending = Some(Pending {
                encoded: root,
                above: None,
                min: 0,
                max: u64::MAX,
            });
        } else if root != 0 && !is_internal(root) {
            walk.single = Some(Entry {
                first: 0,
                last: 0,
                value: root,
            });
        }
        Ok(walk)
    }

    /// Stops with an error after so many entries.
    pub fn bounded(self, bound: u64) -> Self {
        Self {
            left: bound,
            bound,
            ..self
        }
    }

    /// Reads and checks a node and puts it on the path.
    fn enter(&mut self, to: Pending) -> Result<(), WalkError> {
        let object = "maple_node";
        let node = Kva(to.encoded & !MAPLE_NODE_MASK);
        let bad = |reason| WalkError::new(object, node, reason);
        if self.path.len() >= MAX_DEPTH {
            return Err(bad(Reason::TooDeep));
        }
        let bytes = self.memory.array::<NODE_SIZE>(node).about(object)?;
        let parent = word(&bytes, self.types.node.parent.offset as usize);
        let back = Kva(parent & !MAPLE_NODE_MASK);
        match to.above {
            // The root's parent is the tree, marked; slot and type bits are zero.
            None if parent & MAPLE_ROOT_PARENT == 0 => return Err(bad(Reason::BackLink(back))),
            // Range nodes keep the slot in bits 7…3 (`MAPLE_PARENT_SLOT_SHIFT`).
            Some((above, slot)) if back != above || (parent & MAPLE_NODE_MASK) >> 3 != slot => {
                return Err(bad(Reason::BackLink(back)));
            }
            _ => {}
        }

        let kind = ((to.encoded >> MAPLE_TYPE_SHIFT) & MAPLE_TYPE_MASK) as u32;
        let kinds = self.types.kinds;
        let none = Field::plain(0, 0);
        let (slot, pivot, leaf) = if kind == kinds.leaf_64 || kind == kinds.range_64 {
            (
                self.types.range_64.slot,
                self.types.range_64.pivot,
                kind == kinds.leaf_64,
            )
        } else if kind == kinds.arange_64 {
            (self.types.arange_64.slot, self.types.arange_64.pivot, false)
        } else if kind == kinds.dense {
            (self.types.node.slot, none, true)
        } else {
            return Err(bad(Reason::BadValue("node type", u64::from(kind))));
        };
        let (slots, slot_count) = array(&bytes, slot);
        let (mut pivots, mut pivot_count) = array(&bytes, pivot);
        if kind == kinds.dense {
            // One index a slot.
            for (place, pivot) in (0u64..).zip(&mut pivots) {
                *pivot = to.min.saturating_add(place);
            }
            pivot_count = slot_count;
        }
        if slot_count == 0 {
            return Err(bad(Reason::BadNode("no slots")));
        }
        self.path.push(Frame {
            node,
            leaf,
            slots,
            pivots,
            slot_count,
            pivot_count,
            next: 0,
            first: to.min,
            max: to.max,
        });
        Ok(())
    }
}

impl Frame {
    /// The next slot: its number, range and word. `None` at the end of the node, an error if its range is impossible.
    fn step(&mut self) -> Result<Option<(usize, Entry)>, Reason> {
        let place = self.next;
        if place >= self.slot_count {
            return Ok(None);
        }
        let value = self.slots.get(place).copied().unwrap_or(0);
        // A pivot of zero behind the first one stands for the node's last index (`mas_safe_pivot`,
        // `mas_logical_pivot`): the slot is the last one in use.
        let stored = self.pivots.get(place).copied().filter(|_| place < self.pivot_count);
        let last = match stored {
            Some(0) if place > 0 => self.max,
            Some(pivot) => pivot,
            None => self.max,
        };
        if last < self.first || last > self.max {
            self.next = self.slot_count;
            return Err(Reason::BadValue("pivot", last));
        }
        let entry = Entry {
            first: self.first,
            last,
            value,
        };
        if last == self.max {
            self.next = self.slot_count;
        } else {
            self.next = place.saturating_add(1);
            self.first = last.saturating_add(1);
        }
        Ok(Some((place, entry)))
    }
}

impl<M: PhysMem + ?Sized> Iterator for MapleWalk<'_, '_, M> {
    type Item = Result<Entry, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.single.take() {
            return Some(Ok(entry));
        }
        loop {
            if let Some(to) = self.pending.take() {
                // Nodes count against the bound too: links that lead back up would otherwise multiply the work.
                let Some(left) = self.left.checked_sub(1) else {
                    self.path.clear();
                    let node = Kva(to.encoded & !MAPLE_NODE_MASK);
                    return Some(Err(WalkError::new("maple_tree", node, Reason::Bound(self.bound))));
                };
                self.left = left;
                if let Err(error) = self.enter(to) {
                    return Some(Err(error));
                }
            }
            let frame = self.path.last_mut()?;
            let node = frame.node;
            let (place, entry) = match frame.step() {
                Ok(Some(found)) => found,
                Ok(None) => {
                    self.path.pop();
                    continue;
                }
                Err(reason) => return Some(Err(WalkError::new("maple_node", node, reason))),
            };
            if entry.value == 0 {
                continue;
            }
            if !frame.leaf {
                self.pending = Some(Pending {
                    encoded: entry.value,
                    above: Some((node, place as u64)),
                    min: entry.first,
                    max: entry.last,
                });
                continue;
            }
            if is_internal(entry.value) {
                continue;
            }
            let Some(left) = self.left.checked_sub(1) else {
                self.path.clear();
                return Some(Err(WalkError::new("maple_tree", node, Reason::Bound(self.bound))));
            };
            self.left = left;
            return Some(Ok(entry));
        }
    }
}

const fn is_internal(value: u64) -> bool {
    value & 3 == XA_INTERNAL
}

/// The 64-bit word at an offset of a node; zero outside it.
fn word(bytes: &[u8; NODE_SIZE], offset: usize) -> u64 {
    bytes
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// The words of an array in a node, and how many there are.
fn array(bytes: &[u8; NODE_SIZE], field: Field) -> ([u64; MAX_SLOTS], usize) {
    let mut out = [0; MAX_SLOTS];
    let start = field.offset as usize;
    let raw = bytes
        .get(start..start.saturating_add(field.size as usize))
        .unwrap_or(&[]);
    let words = raw.as_chunks::<8>().0;
    for (to, from) in out.iter_mut().zip(words) {
        *to = u64::from_le_bytes(*from);
    }
    (out, words.len().min(MAX_SLOTS))
}
