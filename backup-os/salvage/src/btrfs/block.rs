//! Blocks of a tree, as they are on the disk too (`include/uapi/linux/btrfs_tree.h`).

use alloc::vec::Vec;
use shared_region::context::Attribute;

/// Bytes of `struct btrfs_header`, `struct btrfs_item` and `struct btrfs_key_ptr`.
const HEADER: usize = 101;
const ITEM: usize = 25;
const POINTER: usize = 33;
/// Levels of a tree (`BTRFS_MAX_LEVEL`).
const MAX_LEVEL: u8 = 8;

/// What an item is about, by which a tree is sorted (`struct btrfs_key`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Number, of an inode here.
    pub objectid: u64,
    /// One of the kinds below.
    pub kind: u8,
    /// Depends on the kind.
    pub offset: u64,
}

impl Key {
    /// `BTRFS_INODE_ITEM_KEY`.
    pub const INODE: u8 = 1;
    /// `BTRFS_INODE_REF_KEY`: names in the directory `offset`.
    pub const NAMES: u8 = 12;
    /// `BTRFS_INODE_EXTREF_KEY`: further names.
    pub const FURTHER_NAMES: u8 = 13;
    /// `BTRFS_XATTR_ITEM_KEY`.
    pub const ATTRIBUTE: u8 = 24;
    /// `BTRFS_EXTENT_DATA_KEY`: what lies from `offset` on in a file.
    pub const DATA: u8 = 108;
    /// None comes after it.
    pub const LAST: Self = Self::new(u64::MAX, u8::MAX, u64::MAX);

    /// A key.
    pub const fn new(objectid: u64, kind: u8, offset: u64) -> Self {
        Self { objectid, kind, offset }
    }

    /// The first and the last of an inode's of some kinds.
    pub const fn range(objectid: u64, first: u8, last: u8) -> (Self, Self) {
        (Self::new(objectid, first, 0), Self::new(objectid, last, u64::MAX))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (objectid, rest) = bytes.split_first_chunk()?;
        let (&kind, rest) = rest.split_first()?;
        Some(Self {
            objectid: u64::from_le_bytes(*objectid),
            kind,
            offset: u64::from_le_bytes(*rest.first_chunk()?),
        })
    }
}

/// Where a child lies, what it has to be, and its first key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// The first key that may stand in it.
    pub key: Key,
    /// Its place, in bytes, as the file system counts them.
    pub at: u64,
    /// The transaction that made it.
    pub generation: u64,
}

/// A block whose header is right.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its place, in bytes, as the file system counts them.
    pub at: u64,
    /// Distance from the leaves.
    pub level: u8,
    /// The transaction that made it.
    pub generation: u64,
    count: usize,
    bytes: Vec<u8>,
}

impl Block {
    /// Takes a block that has to lie at a place. `None` if its header says something else.
    pub fn parse(bytes: Vec<u8>, at: u64) -> Option<Self> {
        let block = Self {
            at,
            level: *bytes.get(100)?,
            generation: u64_at(&bytes, 80)?,
            count: u32_at(&bytes, 96)? as usize,
            bytes,
        };
        let is_sound = u64_at(&block.bytes, 48)? == at && block.level < MAX_LEVEL && block.count != 0;
        is_sound.then_some(block)
    }

    /// The children of a node; `None` if it is none, or they are out of order.
    pub fn pointers(&self) -> Option<Vec<Pointer>> {
        let end = self.count.checked_mul(POINTER)?.checked_add(HEADER)?;
        let all = self.bytes.get(HEADER..end)?.chunks_exact(POINTER);
        let all: Vec<Pointer> = all
            .map(|bytes| {
                Some(Pointer {
                    key: Key::parse(bytes)?,
                    at: u64_at(bytes, 17)?,
                    generation: u64_at(bytes, 25)?,
                })
            })
            .collect::<Option<_>>()?;
        let is_sorted = all.is_sorted_by(|one, next| one.key < next.key);
        (self.level != 0 && is_sorted).then_some(all)
    }

    /// The items of a leaf; `None` if it is none, they are out of order, or do not lie one before the other.
    pub fn items(&self) -> Option<Vec<(Key, &[u8])>> {
        let end = self.count.checked_mul(ITEM)?.checked_add(HEADER)?;
        let heads = self.bytes.get(HEADER..end)?.chunks_exact(ITEM);
        let body = self.bytes.get(HEADER..)?;
        let mut limit = body.len();
        let all: Vec<(Key, &[u8])> = heads
            .map(|bytes| {
                let at = u32_at(bytes, 17)? as usize;
                let after = at.checked_add(u32_at(bytes, 21)? as usize)?;
                if after != limit || at.checked_add(HEADER)? < end {
                    return None;
                }
                limit = at;
                Some((Key::parse(bytes)?, body.get(at..after)?))
            })
            .collect::<Option<_>>()?;
        let is_sorted = all.is_sorted_by(|one, next| one.0 < next.0);
        (self.level == 0 && is_sorted).then_some(all)
    }

    /// Bytes of this block.
    pub fn part(&self, from: u64, bytes: u64) -> Option<&[u8]> {
        let from = usize::try_from(from).ok()?;
        self.bytes.get(from..from.checked_add(usize::try_from(bytes).ok()?)?)
    }

    /// Where the bytes of an item of this block begin in it.
    pub fn place_of(&self, part: &[u8]) -> usize {
        (part.as_ptr() as usize).wrapping_sub(self.bytes.as_ptr() as usize)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// An inode (`struct btrfs_inode_item`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeItem {
    /// The transaction in which it was made.
    pub generation: u64,
    /// The one in which it was changed last.
    pub transid: u64,
    /// Link count.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// File type and permissions.
    pub mode: u32,
    /// Device number of a device, as the kernel has it.
    pub rdev: u64,
    /// Access and modification time in nanoseconds since 1970.
    pub times: [i64; 2],
}

impl InodeItem {
    /// Bytes.
    pub const BYTES: usize = 160;

    /// `None` if it is too short.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        bytes.get(..Self::BYTES)?;
        let time = |at: usize| {
            let seconds = u64_at(bytes, at)?.cast_signed().wrapping_mul(1_000_000_000);
            Some(seconds.wrapping_add(u32_at(bytes, at.checked_add(8)?)?.into()))
        };
        Some(Self {
            generation: u64_at(bytes, 0)?,
            transid: u64_at(bytes, 8)?,
            nlink: u32_at(bytes, 40)?,
            uid: u32_at(bytes, 44)?,
            gid: u32_at(bytes, 48)?,
            mode: u32_at(bytes, 52)?,
            rdev: u64_at(bytes, 56)?,
            times: [time(112)?, time(136)?],
        })
    }
}

/// A name, and the number of the directory that has it.
pub type Place = (u64, Vec<u8>);

/// The names in an item (`struct btrfs_inode_ref`, `struct btrfs_inode_extref`); `None` if they make no sense.
pub fn names(key: Key, bytes: &[u8]) -> Option<Vec<Place>> {
    let is_further = key.kind == Key::FURTHER_NAMES;
    let head = if is_further { 18 } else { 10 };
    let (mut rest, mut found) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (fixed, body) = rest.split_at_checked(head)?;
        let length = u16_at(fixed, head.checked_sub(2)?)?;
        let (name, next) = body.split_at_checked(usize::from(length))?;
        let directory = if is_further { u64_at(fixed, 0)? } else { key.offset };
        let is_name = !name.is_empty() && !name.contains(&b'/') && !name.contains(&0);
        found.push((directory, is_name.then_some(name)?.to_vec()));
        rest = next;
    }
    Some(found)
}

/// The extended attributes in an item (`struct btrfs_dir_item`); `None` if they make no sense.
pub fn attributes(bytes: &[u8]) -> Option<Vec<Attribute>> {
    const HEAD: usize = 30;
    let (mut rest, mut found) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (head, body) = rest.split_at_checked(HEAD)?;
        let (name, body) = body.split_at_checked(usize::from(u16_at(head, 27)?))?;
        let (value, next) = body.split_at_checked(usize::from(u16_at(head, 25)?))?;
        found.push(Attribute {
            name: name.to_vec(),
            value: value.to_vec(),
        });
        rest = next;
    }
    Some(found)
}

/// What a part of a file is made of (`struct btrfs_file_extent_item`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'b> {
    /// The bytes stand here.
    Inline(&'b [u8]),
    /// So many bytes lie there, as the file system counts them; the last is the transaction that has put them there.
    At(u64, u64, u64),
    /// Nothing, or nothing that was written.
    Hole,
    /// In a form that only the file system reads.
    Encoded,
}

impl<'b> Data<'b> {
    /// `None` if it makes no sense.
    pub fn parse(bytes: &'b [u8]) -> Option<Self> {
        const INLINE: u8 = 0;
        const REGULAR: u8 = 1;
        const UNWRITTEN: u8 = 2;
        let generation = u64_at(bytes, 0)?;
        // Compression, encryption and another encoding of two bytes.
        let encoding = bytes.get(16..20)?;
        let (kind, body) = bytes.get(20..)?.split_first()?;
        if encoding != [0; 4] {
            return Some(Self::Encoded);
        }
        match *kind {
            INLINE => Some(Self::Inline(body)),
            UNWRITTEN => Some(Self::Hole),
            REGULAR => match u64_at(body, 0)? {
                0 => Some(Self::Hole),
                at => {
                    let (from, bytes) = (u64_at(body, 16)?, u64_at(body, 24)?);
                    Some(Self::At(at.checked_add(from)?, bytes, generation))
                }
            },
            _ => None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use alloc::vec;

    /// A leaf as the kernel writes it.
    pub fn leaf(at: u64, generation: u64, items: &[(Key, &[u8])]) -> Vec<u8> {
        let mut bytes = header(at, generation, 0, items.len());
        let mut end = bytes.len() - HEADER;
        for (index, (key, body)) in items.iter().enumerate() {
            end -= body.len();
            bytes[HEADER + end..][..body.len()].copy_from_slice(body);
            let head = &mut bytes[HEADER + index * ITEM..][..ITEM];
            put_key(head, *key);
            head[17..21].copy_from_slice(&(end as u32).to_le_bytes());
            head[21..25].copy_from_slice(&(body.len() as u32).to_le_bytes());
        }
        bytes
    }

    /// A node as the kernel writes it.
    pub fn node(at: u64, generation: u64, level: u8, children: &[Pointer]) -> Vec<u8> {
        let mut bytes = header(at, generation, level, children.len());
        for (index, child) in children.iter().enumerate() {
            let head = &mut bytes[HEADER + index * POINTER..][..POINTER];
            put_key(head, child.key);
            head[17..25].copy_from_slice(&child.at.to_le_bytes());
            head[25..33].copy_from_slice(&child.generation.to_le_bytes());
        }
        bytes
    }

    fn header(at: u64, generation: u64, level: u8, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[48..56].copy_from_slice(&at.to_le_bytes());
        bytes[80..88].copy_from_slice(&generation.to_le_bytes());
        bytes[96..100].copy_from_slice(&(count as u32).to_le_bytes());
        bytes[100] = level;
        bytes
    }

    fn put_key(bytes: &mut [u8], key: Key) {
        bytes[..8].copy_from_slice(&key.objectid.to_le_bytes());
        bytes[8] = key.kind;
        bytes[9..17].copy_from_slice(&key.offset.to_le_bytes());
    }

    /// An item of names in one directory.
    pub fn names_item(names: &[&[u8]]) -> Vec<u8> {
        let one = |name: &&[u8]| [&[0; 8], &(name.len() as u16).to_le_bytes()[..], name].concat();
        names.iter().flat_map(one).collect()
    }

    /// An item of an inode.
    pub fn inode_item(generation: u64, transid: u64, nlink: u32, mode: u32) -> Vec<u8> {
        let mut bytes = vec![0; InodeItem::BYTES];
        bytes[..8].copy_from_slice(&generation.to_le_bytes());
        bytes[8..16].copy_from_slice(&transid.to_le_bytes());
        bytes[40..44].copy_from_slice(&nlink.to_le_bytes());
        bytes[52..56].copy_from_slice(&mode.to_le_bytes());
        bytes
    }

    #[test]
    fn a_leaf_is_read_or_none() {
        let names_of = names_item(&[b"a", b"b"]);
        let inode = inode_item(7, 9, 2, 0o100_644);
        let keys = [Key::new(300, Key::INODE, 0), Key::new(300, Key::NAMES, 256)];
        let bytes = leaf(1 << 20, 9, &[(keys[0], &inode), (keys[1], &names_of)]);
        let block = Block::parse(bytes.clone(), 1 << 20).unwrap();
        assert_eq!((block.level, block.generation), (0, 9));
        let items = block.items().unwrap();
        assert_eq!(items.iter().map(|it| it.0).collect::<Vec<_>>(), keys);
        assert_eq!(
            names(items[1].0, items[1].1).unwrap(),
            [(256, b"a".to_vec()), (256, b"b".to_vec())]
        );
        let item = InodeItem::parse(items[0].1).unwrap();
        assert_eq!((item.generation, item.transid, item.nlink), (7, 9, 2));
        assert_eq!(block.place_of(items[0].1), 4096 - InodeItem::BYTES);
        assert_eq!(block.pointers(), None);
        assert!(Block::parse(bytes.clone(), 2 << 20).is_none(), "it lies elsewhere");
        // One item was moved and the other was not: somebody was at work.
        let mut torn = bytes.clone();
        torn[HEADER + ITEM + 17] ^= 1;
        assert_eq!(Block::parse(torn, 1 << 20).unwrap().items(), None);
        let mut disorder = bytes;
        disorder[HEADER] ^= 0xFF;
        assert_eq!(Block::parse(disorder, 1 << 20).unwrap().items(), None);
    }

    #[test]
    fn a_node_leads_to_its_children() {
        let child = |objectid, at, generation| Pointer {
            key: Key::new(objectid, 1, 0),
            at,
            generation,
        };
        let children = [child(256, 1 << 20, 9), child(300, 2 << 20, 5)];
        let block = Block::parse(node(5 << 20, 9, 1, &children), 5 << 20).unwrap();
        assert_eq!(block.pointers().unwrap(), children);
        assert_eq!(block.items(), None);
        let block = Block::parse(node(5 << 20, 9, 1, &[children[1], children[0]]), 5 << 20).unwrap();
        assert_eq!(block.pointers(), None, "out of order");
    }

    #[test]
    fn names_and_attributes_end_where_their_item_ends() {
        let further = Key::new(300, Key::FURTHER_NAMES, 0xABCD);
        let item = [&256u64.to_le_bytes()[..], &[0; 8], &[2, 0], b"ab"].concat();
        assert_eq!(names(further, &item).unwrap(), [(256, b"ab".to_vec())]);
        assert_eq!(names(further, &item[..item.len() - 1]), None);
        assert_eq!(names(Key::new(300, Key::NAMES, 256), &names_item(&[b"a/b"])), None);
        let head = [&[0; 25][..], &[3, 0], &[6, 0], &[8]].concat();
        let item = [&head[..], b"user.aabc"].concat();
        let found = attributes(&item).unwrap();
        assert_eq!((&*found[0].name, &*found[0].value), (&b"user.a"[..], &b"abc"[..]));
        assert_eq!(attributes(&item[1..]), None);
    }

    #[test]
    fn data_is_here_there_or_nowhere() {
        let item = |encoding: u8, kind: u8, at: u64, offset: u64, bytes: u64| {
            let numbers = [at, 1 << 20, offset, bytes].map(u64::to_le_bytes).concat();
            [&7u64.to_le_bytes()[..], &[0; 8], &[encoding, 0, 0, 0, kind], &numbers].concat()
        };
        assert_eq!(Data::parse(&item(0, 1, 4096, 512, 99)), Some(Data::At(4608, 99, 7)));
        assert_eq!(Data::parse(&item(0, 1, 0, 0, 99)), Some(Data::Hole));
        assert_eq!(Data::parse(&item(0, 2, 4096, 0, 99)), Some(Data::Hole));
        assert_eq!(Data::parse(&item(1, 1, 4096, 0, 99)), Some(Data::Encoded));
        assert_eq!(Data::parse(&item(0, 3, 4096, 0, 99)), None);
        let inline = [&[0; 21][..], b"abc"].concat();
        assert_eq!(Data::parse(&inline), Some(Data::Inline(b"abc")));
        assert_eq!(Data::parse(&inline[..20]), None);
    }
}
