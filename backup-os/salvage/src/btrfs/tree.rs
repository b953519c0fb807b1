//! What of a tree the disk may not have, and what is known of its inodes by that.
//!
//! A block is never changed in place once it is on the disk: whoever changes it writes a copy elsewhere, and a copy of all blocks
//! above. So a block of a committed transaction is as the disk has it, and all below it. What was changed since lies in blocks
//! that are newer, and they are read; what such a leaf does not have is gone, as far as it reaches.

use super::block::{self, Block, Data, InodeItem, Key, Place, Pointer};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use shared_region::context::Attribute;

/// Blocks that are read of one tree.
const MAX_BLOCKS: u32 = 1 << 18;
/// Numbers of files (`BTRFS_FIRST_FREE_OBJECTID`, `BTRFS_LAST_FREE_OBJECTID`).
pub const FIRST: u64 = 256;
const LAST: u64 = u64::MAX - 255;

/// A block that was looked for.
#[derive(Debug)]
pub enum Taken {
    /// Here it is.
    Is(Block),
    /// Memory does not have it.
    Absent,
    /// Somebody was changing it, or it makes no sense.
    Busy,
}

/// What is known of a range of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All its items.
    Known,
    /// It is as the disk has it.
    Old,
    /// It has changed, and is not known.
    Torn,
}

/// What is known of a range of keys, which may be of several kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// A part is known.
    pub known: bool,
    /// A part is as the disk has it.
    pub old: bool,
    /// A part has changed and is not known.
    pub torn: bool,
}

impl Coverage {
    /// All of it is known.
    pub const fn is_whole(self) -> bool {
        !self.old && !self.torn
    }

    /// All of it is as the disk has it.
    pub const fn is_as_on_disk(self) -> bool {
        !self.known && !self.torn
    }
}

/// What a part of a file is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Bytes of a block of the tree: that block's place, where in it they begin, and how many.
    Inline(u64, u64, u64),
    /// So many bytes lie there, as the file system counts them; the last is the transaction that has put them there.
    At(u64, u64, u64),
    /// Only the file system can read it.
    Encoded,
}

/// What is known of an inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its item.
    pub item: Option<InodeItem>,
    /// Names, as far as they are known.
    pub names: Vec<Place>,
    /// Its names are gone, all of them.
    pub is_unlinked: bool,
    /// Extended attributes, as far as they are known.
    pub attributes: Vec<Attribute>,
    /// Content by ascending offset, without holes, as far as it is known.
    pub parts: Vec<(u64, Part)>,
    /// An item of it makes no sense.
    pub is_torn: bool,
}

/// See the module's comment.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// By number.
    pub inodes: BTreeMap<u64, Found>,
    /// Where ranges begin, ascending; each ends where the next begins.
    states: Vec<(Key, State)>,
}

impl Tree {
    /// Reads a tree from its root on. `committed` is the last transaction that the disk has.
    pub fn walk(root: Taken, committed: u64, read: impl Fn(u64) -> Taken) -> Self {
        let mut tree = Self::default();
        let Taken::Is(root) = root else {
            tree.mark(Key::default(), State::Torn);
            return tree;
        };
        if root.generation <= committed {
            tree.mark(Key::default(), State::Old);
            return tree;
        }
        // What is to be looked at, the next one last.
        let mut todo = tree.block(Key::default(), &root, committed);
        for _ in 0..MAX_BLOCKS {
            let Some(child) = todo.pop() else { return tree };
            let block = match child.is_wanted.then(|| read(child.pointer.at)) {
                Some(Taken::Is(block)) if child.is(&block) => block,
                _ => {
                    tree.mark(child.pointer.key, child.otherwise);
                    continue;
                }
            };
            todo.extend(tree.block(child.pointer.key, &block, committed));
        }
        for child in todo.into_iter().rev() {
            tree.mark(child.pointer.key, child.otherwise);
        }
        tree
    }

    /// Takes what a block has from a key on. Returns its children, the first one last.
    fn block(&mut self, from: Key, block: &Block, committed: u64) -> Vec<Child> {
        if block.level == 0 {
            self.leaf(from, block);
            return Vec::new();
        }
        match block.pointers() {
            Some(children) => children_of(block.level, &children, committed),
            None => {
                self.mark(from, State::Torn);
                Vec::new()
            }
        }
    }

    fn mark(&mut self, from: Key, state: State) {
        if self.states.last().is_none_or(|last| last.1 != state) {
            self.states.push((from, state));
        }
    }

    fn leaf(&mut self, from: Key, block: &Block) {
        let items = block.items().unwrap_or_default();
        if items.first().is_none_or(|(first, _)| *first < from) {
            return self.mark(from, State::Torn);
        }
        self.mark(from, State::Known);
        for (key, body) in items {
            if !(FIRST..=LAST).contains(&key.objectid) {
                continue;
            }
            let found = self.inodes.entry(key.objectid).or_default();
            if found.add(key, body, block).is_none() {
                found.is_torn = true;
            }
        }
    }

    /// What is known of the keys from one to another.
    pub fn coverage(&self, (first, last): (Key, Key)) -> Coverage {
        let begin = self
            .states
            .partition_point(|(from, _)| *from <= first)
            .saturating_sub(1);
        let mut found = Coverage::default();
        for (_, state) in self.states.iter().skip(begin).take_while(|(from, _)| *from <= last) {
            match state {
                State::Known => found.known = true,
                State::Old => found.old = true,
                State::Torn => found.torn = true,
            }
        }
        found
    }

    /// The same of what a file is made of.
    pub fn data(&self, number: u64) -> Coverage {
        self.coverage(Key::range(number, Key::DATA, Key::DATA))
    }

    /// The beginning of a file that stands in the tree itself, as far as it is known: block, where in it, and how many bytes.
    pub fn inline(&self, number: u64) -> Option<(u64, u64, u64)> {
        let parts = &self.inodes.get(&number)?.parts;
        parts.iter().find_map(|part| match *part {
            (0, Part::Inline(at, from, bytes)) => Some((at, from, bytes)),
            _ => None,
        })
    }

    /// The item of an inode, as far as it is known.
    pub fn item(&self, number: u64) -> Option<InodeItem> {
        self.inodes.get(&number)?.item
    }

    /// Nothing is known any more of what has changed.
    pub fn tear(&mut self) {
        self.states = alloc::vec![(Key::default(), State::Torn)];
    }

    /// Whether anything that has changed is not known.
    pub fn is_torn(&self) -> bool {
        self.states.iter().any(|(_, state)| *state == State::Torn)
    }

    /// The numbers of which it is known whether an inode has them: first and last of each range, ascending.
    pub fn numbers(&self) -> Vec<(u64, u64)> {
        let ends = self.states.iter().skip(1).map(|(from, _)| *from).chain([Key::LAST]);
        let known = self.states.iter().zip(ends);
        let known = known.filter(|((_, state), _)| *state == State::Known);
        // An inode's first key is that of its item.
        let from = |key: Key| key.objectid.saturating_add(u64::from(key > item_of(key.objectid)));
        known
            .filter_map(|(&(start, _), end)| {
                let last = from(end).checked_sub(1)?.min(LAST);
                let first = from(start).max(FIRST);
                (first <= last).then_some((first, last))
            })
            .collect()
    }
}

const fn item_of(number: u64) -> Key {
    Key::new(number, Key::INODE, 0)
}

/// What is to be looked at below a node.
#[derive(Clone, Copy, Debug)]
struct Child {
    pointer: Pointer,
    level: u8,
    /// It is to be read.
    is_wanted: bool,
    /// What is known if it is not, or cannot be.
    otherwise: State,
}

impl Child {
    fn is(&self, block: &Block) -> bool {
        block.generation == self.pointer.generation && block.level == self.level
    }
}

/// The children of a node on a level, the first one last.
fn children_of(level: u8, pointers: &[Pointer], committed: u64) -> Vec<Child> {
    let is_new = |index: Option<usize>| {
        let pointer = index.and_then(|index| pointers.get(index));
        pointer.is_some_and(|pointer| pointer.generation > committed)
    };
    let of = |(index, &pointer): (usize, &Pointer)| {
        // Items of one inode may begin in a leaf that has changed and end in one that has not.
        let is_beside = level == 1 && (is_new(index.checked_sub(1)) || is_new(index.checked_add(1)));
        let is_changed = is_new(Some(index));
        Child {
            pointer,
            level: level.saturating_sub(1),
            is_wanted: is_changed || is_beside,
            otherwise: if is_changed { State::Torn } else { State::Old },
        }
    };
    pointers.iter().enumerate().rev().map(of).collect()
}

impl Found {
    /// Adds an item of a leaf; `None` if it makes no sense.
    fn add(&mut self, key: Key, body: &[u8], leaf: &Block) -> Option<()> {
        match key.kind {
            Key::INODE => self.item = Some(InodeItem::parse(body)?),
            // The root directory has its own `..`, which is no name.
            Key::NAMES if key.offset == key.objectid => {}
            Key::NAMES | Key::FURTHER_NAMES => self.names.extend(block::names(key, body)?),
            Key::ATTRIBUTE => self.attributes.extend(block::attributes(body)?),
            Key::DATA => {
                let part = match Data::parse(body)? {
                    Data::Inline(bytes) => Part::Inline(leaf.at, leaf.place_of(bytes) as u64, bytes.len() as u64),
                    Data::At(at, bytes, generation) => Part::At(at, bytes, generation),
                    Data::Encoded => Part::Encoded,
                    Data::Hole => return Some(()),
                };
                self.parts.push((key.offset, part));
            }
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::tests::{inode_item, leaf, names_item, node};
    use super::*;
    use alloc::vec;

    const OLD: u64 = 5;
    const NEW: u64 = 9;

    fn pointer(key: Key, at: u64, generation: u64) -> Pointer {
        Pointer { key, at, generation }
    }

    fn number(number: u64) -> Key {
        item_of(number)
    }

    /// A tree with five leaves, of which the second is new, and what memory has of it.
    fn tree(read: impl Fn(u64) -> Taken) -> Tree {
        let children = [
            pointer(number(256), 1 << 16, OLD),
            pointer(number(300), 2 << 16, NEW),
            pointer(Key::new(320, Key::DATA, 0), 3 << 16, OLD),
            pointer(number(400), 4 << 16, OLD),
        ];
        let root = Block::parse(node(9 << 16, NEW, 1, &children), 9 << 16).unwrap();
        Tree::walk(Taken::Is(root), OLD, read)
    }

    fn block(at: u64, generation: u64, items: &[(Key, &[u8])]) -> Taken {
        Taken::Is(Block::parse(leaf(at, generation, items), at).unwrap())
    }

    fn memory(at: u64) -> Taken {
        let item = inode_item(NEW, NEW, 1, 0o100_644);
        let name = names_item(&[b"name"]);
        let extent = [
            &[0; 20][..],
            &[1],
            &[1u64 << 20, 4096, 0, 4096].map(u64::to_le_bytes).concat(),
        ]
        .concat();
        match at >> 16 {
            2 => block(
                at,
                NEW,
                &[
                    (number(300), &item),
                    (number(320), &item),
                    (Key::new(320, Key::NAMES, 256), &name),
                ],
            ),
            3 => block(at, OLD, &[(Key::new(320, Key::DATA, 0), &extent)]),
            _ => Taken::Absent,
        }
    }

    #[test]
    fn what_a_new_leaf_does_not_have_is_gone() {
        let tree = tree(memory);
        assert_eq!(tree.numbers(), [(300, 399)]);
        assert_eq!(tree.inodes.keys().copied().collect::<Vec<_>>(), [300, 320]);
        assert_eq!(tree.inodes[&320].names, [(256, b"name".to_vec())]);
        assert!(!tree.is_torn());
        let of = |number| tree.coverage(Key::range(number, Key::NAMES, Key::FURTHER_NAMES));
        assert!(of(320).is_whole() && of(310).is_whole());
        assert!(of(256).is_as_on_disk() && of(500).is_as_on_disk());
    }

    #[test]
    fn the_neighbour_of_a_new_leaf_is_read_if_it_is_there() {
        let data = Key::range(320, Key::DATA, Key::DATA);
        let whole = tree(memory);
        assert!(whole.coverage(data).is_whole());
        assert_eq!(whole.inodes[&320].parts, [(0, Part::At(1 << 20, 4096, 0))]);
        let part = tree(|at| if at >> 16 == 2 { memory(at) } else { Taken::Absent });
        assert!(part.coverage(data).is_as_on_disk());
        assert_eq!(part.numbers(), [(300, 320)]);
        assert!(part.inodes[&320].parts.is_empty());
    }

    #[test]
    fn a_new_leaf_that_is_not_there_leaves_its_range_unknown() {
        let old = |at| block(at, OLD, &[(number(300), &[0; 160])]);
        let others = |at| block(at, NEW, &[(number(299), &[0; 160])]);
        for missing in [|_| Taken::Absent, |_| Taken::Busy, old, others] {
            let tree = tree(|at| if at >> 16 == 2 { missing(at) } else { Taken::Absent });
            assert!(tree.is_torn() && tree.numbers().is_empty());
            assert!(tree.coverage(Key::range(310, 0, 255)).torn);
            assert!(tree.coverage(Key::range(256, 0, 255)).is_as_on_disk());
        }
    }

    #[test]
    fn a_tree_without_a_new_root_is_the_disks() {
        let root = || block(1 << 16, OLD, &[(number(256), &[0; 160])]);
        let tree = Tree::walk(root(), OLD, |_| Taken::Absent);
        assert!(tree.coverage((Key::default(), Key::LAST)).is_as_on_disk());
        let newer = Tree::walk(root(), OLD - 1, |_| Taken::Absent);
        assert_eq!(newer.numbers(), [(256, LAST)]);
        assert!(Tree::walk(Taken::Busy, OLD, |_| Taken::Absent).is_torn());
    }

    #[test]
    fn bytes_in_a_leaf_are_told_by_their_place() {
        let inline = [&[0; 21][..], b"abc"].concat();
        let at = 7 << 16;
        let Taken::Is(root) = block(at, NEW, &[(Key::new(300, Key::DATA, 0), &inline)]) else {
            panic!()
        };
        let read = |_| Taken::Absent;
        let node = Block::parse(node(8 << 16, NEW, 1, &[pointer(number(300), at, NEW)]), 8 << 16).unwrap();
        let below = Tree::walk(Taken::Is(node), OLD, |_| Taken::Is(root.clone()));
        assert_eq!(below.inodes[&300].parts, vec![(0, Part::Inline(at, 4096 - 3, 3))]);
        assert_eq!([below.inline(300), below.inline(301)], [Some((at, 4096 - 3, 3)), None]);
        let torn = block(at, NEW, &[(Key::new(300, Key::NAMES, 256), b"x")]);
        assert!(Tree::walk(torn, OLD, read).inodes[&300].is_torn);
    }
}
