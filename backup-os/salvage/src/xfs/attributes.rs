//! Extended attributes as inodes and blocks have them (`fs/xfs/libxfs/xfs_da_format.h`).

use alloc::vec::Vec;
use shared_region::context::Attribute;

/// Extended attributes in an inode (`struct xfs_attr_sf_hdr`). `None` if they make no sense, or one is not a plain attribute.
pub fn short_form(bytes: &[u8]) -> Option<Vec<Attribute>> {
    const HEADER: usize = 4;
    let count = *bytes.get(2)?;
    let mut rest = bytes.get(HEADER..)?;
    let mut found = Vec::new();
    for _ in 0..count {
        let (&[name, value, flags], body) = rest.split_first_chunk::<3>()?;
        let (name, body) = body.split_at_checked(usize::from(name))?;
        let (value, body) = body.split_at_checked(usize::from(value))?;
        found.push(attribute(name, value, flags)?);
        rest = body;
    }
    Some(found)
}

/// A block of the tree of attributes that do not fit into their inode (`struct xfs_da3_blkinfo`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// Attributes, and the block with those behind them, 0 if there is none.
    Leaf(Vec<Entry>, u64),
    /// The first block below.
    Node(u64),
}

/// An attribute in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// All of it stands there.
    Here(Attribute),
    /// Its value lies in blocks of the attribute fork: its name and flags, the first block and how many bytes.
    Elsewhere {
        /// Name without its space.
        name: Vec<u8>,
        /// `XFS_ATTR_ROOT` and the like.
        flags: u8,
        /// First block.
        at: u64,
        /// Bytes.
        bytes: usize,
    },
}

/// `XFS_ATTR_LOCAL`: the value stands where the name does.
const LOCAL: u8 = 1;
/// `XFS_ATTR_ROOT` and `XFS_ATTR_SECURE`.
const ROOT: u8 = 1 << 1;
const SECURE: u8 = 1 << 2;
/// `XFS_ATTR_PARENT`, which the file system keeps for itself, and `XFS_ATTR_INCOMPLETE`, which nobody sees yet or any more.
const HIDDEN: u8 = 1 << 3 | 1 << 7;

/// Reads a block that has to be one of an inode, at a place in units of 512 bytes. `None` if it is not, or makes no sense. Its
/// checksum is as old as the last time it was written.
pub fn block(block: &[u8], inode: u64, place: u64) -> Option<Block> {
    /// `XFS_ATTR3_LEAF_MAGIC` and `XFS_DA3_NODE_MAGIC`.
    const LEAF: usize = 0x3BEE;
    const NODE: usize = 0x3EBE;
    const NEXT_AT: usize = 0;
    const MAGIC_AT: usize = 8;
    const PLACE_AT: usize = 16;
    const INODE_AT: usize = 48;
    const COUNT_AT: usize = 56;
    /// Of the first child in a node: behind a hash.
    const CHILD_AT: usize = 68;
    if long(block, PLACE_AT)? != place || long(block, INODE_AT)? != inode {
        return None;
    }
    match (half(block, MAGIC_AT)?, half(block, COUNT_AT)?) {
        (LEAF, count) => Some(Block::Leaf(leaf(block, count)?, word(block, NEXT_AT)?.into())),
        (NODE, 1..) => Some(Block::Node(word(block, CHILD_AT)?.into())),
        _ => None,
    }
}

/// The attributes of a leaf (`struct xfs_attr3_leafblock`).
fn leaf(block: &[u8], count: usize) -> Option<Vec<Entry>> {
    const ENTRIES_AT: usize = 80;
    const ENTRY: usize = 8;
    let end = count.checked_mul(ENTRY)?.checked_add(ENTRIES_AT)?;
    let entries = block.get(ENTRIES_AT..end)?.chunks_exact(ENTRY);
    let mut found = Vec::new();
    for entry in entries {
        let &[.., high, low, flags, _] = entry.first_chunk::<ENTRY>()?;
        let body = block.get(usize::from(u16::from_be_bytes([high, low]))..)?;
        if flags & HIDDEN != 0 {
            continue;
        }
        found.push(match flags & LOCAL {
            0 => {
                let name = usize::from(*body.get(8)?);
                Entry::Elsewhere {
                    name: body.get(9..)?.get(..name)?.to_vec(),
                    flags,
                    at: word(body, 0)?.into(),
                    bytes: word(body, 4)? as usize,
                }
            }
            _ => {
                let (&[high, low, name], body) = body.split_first_chunk::<3>()?;
                let (name, body) = body.split_at_checked(usize::from(name))?;
                let value = body.get(..usize::from(u16::from_be_bytes([high, low])))?;
                Entry::Here(attribute(name, value, flags & !LOCAL)?)
            }
        });
    }
    Some(found)
}

/// The part of a value that a block of its own has (`struct xfs_attr3_rmt_hdr`), which begins so many bytes into it. `None` if the
/// block is not one of that inode at that place, or another part's.
pub fn part(block: &[u8], inode: u64, place: u64, offset: usize) -> Option<&[u8]> {
    const MAGIC: u32 = 0x5841_524D;
    const HEADER: usize = 56;
    let is_it = word(block, 0)? == MAGIC
        && word(block, 4)? as usize == offset
        && long(block, 32)? == inode
        && long(block, 40)? == place;
    let bytes = word(block, 8)? as usize;
    block
        .get(HEADER..)?
        .get(..bytes)
        .filter(|part| is_it && !part.is_empty())
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?)))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// As `setxattr` takes it.
pub fn attribute(name: &[u8], value: &[u8], flags: u8) -> Option<Attribute> {
    let of = |space: &[u8]| [space, name].concat();
    let (name, value) = match (flags, name) {
        (0, _) => (of(b"user."), value.to_vec()),
        (ROOT, b"SGI_ACL_FILE") => (b"system.posix_acl_access".to_vec(), access_list(value)?),
        (ROOT, b"SGI_ACL_DEFAULT") => (b"system.posix_acl_default".to_vec(), access_list(value)?),
        (ROOT, _) => (of(b"trusted."), value.to_vec()),
        (SECURE, _) => (of(b"security."), value.to_vec()),
        _ => return None,
    };
    Some(Attribute { name, value })
}

/// An access list of XFS (`struct xfs_acl`) as `setxattr` takes it (`include/uapi/linux/posix_acl_xattr.h`).
fn access_list(bytes: &[u8]) -> Option<Vec<u8>> {
    const ENTRY: usize = 12;
    /// `POSIX_ACL_XATTR_VERSION`.
    const VERSION: u32 = 2;
    /// `ACL_USER` and `ACL_GROUP` have a number; others have `ACL_UNDEFINED_ID`.
    const NUMBERED: [u16; 2] = [2, 8];
    const NO_NUMBER: u32 = u32::MAX;
    let entries = bytes.get(4..)?;
    if (word(bytes, 0)? as usize).checked_mul(ENTRY)? != entries.len() {
        return None;
    }
    let mut found = VERSION.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(ENTRY) {
        let tag = u16::try_from(word(entry, 0)?).ok()?;
        let number = match NUMBERED.contains(&tag) {
            true => word(entry, 4)?,
            false => NO_NUMBER,
        };
        found.extend(tag.to_le_bytes());
        found.extend((half(entry, 8)? as u16).to_le_bytes());
        found.extend(number.to_le_bytes());
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const INODE: u64 = 131;
    const PLACE: u64 = 1 << 33;

    /// A block with a header and room.
    fn empty(magic: [u8; 2], count: u8) -> [u8; 1024] {
        let mut block = [0u8; 1024];
        block[8..10].copy_from_slice(&magic);
        block[16..24].copy_from_slice(&PLACE.to_be_bytes());
        block[48..56].copy_from_slice(&INODE.to_be_bytes());
        block[57] = count;
        block
    }

    #[test]
    fn attributes_in_a_block_are_read_or_none() {
        let mut bytes = empty([0x3B, 0xEE], 2);
        bytes[3] = 7;
        bytes[80..88].copy_from_slice(&[1, 2, 3, 4, 0x03, 0xF0, 1, 0]);
        bytes[88..96].copy_from_slice(&[1, 2, 3, 4, 0x03, 0xE0, ROOT, 0]);
        bytes[0x3F0..0x3FB].copy_from_slice(b"\0\x03\x05churnabc");
        bytes[0x3E0..0x3ED].copy_from_slice(b"\0\0\0\x09\0\0\x30\x39\x04long");
        let here = attribute(b"churn", b"abc", 0).unwrap();
        let elsewhere = Entry::Elsewhere {
            name: b"long".to_vec(),
            flags: ROOT,
            at: 9,
            bytes: 12345,
        };
        let want = Block::Leaf(vec![Entry::Here(here.clone()), elsewhere], 7);
        assert_eq!((&*here.name, &*here.value), (&b"user.churn"[..], &b"abc"[..]));
        assert_eq!(block(&bytes, INODE, PLACE), Some(want));
        assert_eq!(block(&bytes, INODE + 1, PLACE), None, "another file's");
        assert_eq!(block(&bytes, INODE, PLACE + 8), None, "another place's");
        let mut hidden = bytes;
        (hidden[86], hidden[94]) = (LOCAL | 1 << 7, 1 << 3);
        assert_eq!(block(&hidden, INODE, PLACE), Some(Block::Leaf(Vec::new(), 7)));
        bytes[57] = 200;
        assert_eq!(block(&bytes, INODE, PLACE), None, "more entries than there is room for");
        assert_eq!(
            block(&empty([0x3C, 0xEE], 1), INODE, PLACE),
            None,
            "another kind of block"
        );
    }

    #[test]
    fn a_node_leads_to_its_first_child() {
        let mut bytes = empty([0x3E, 0xBE], 1);
        bytes[64..72].copy_from_slice(&[9, 9, 9, 9, 0, 0, 0, 5]);
        assert_eq!(block(&bytes, INODE, PLACE), Some(Block::Node(5)));
        assert_eq!(block(&empty([0x3E, 0xBE], 0), INODE, PLACE), None, "it has none");
    }

    #[test]
    fn a_part_of_a_value_is_the_one_that_is_looked_for() {
        let mut bytes = [0u8; 512];
        bytes[..4].copy_from_slice(b"XARM");
        bytes[4..8].copy_from_slice(&456u32.to_be_bytes());
        bytes[8..12].copy_from_slice(&5u32.to_be_bytes());
        bytes[32..40].copy_from_slice(&INODE.to_be_bytes());
        bytes[40..48].copy_from_slice(&PLACE.to_be_bytes());
        bytes[56..61].copy_from_slice(b"value");
        assert_eq!(part(&bytes, INODE, PLACE, 456), Some(&b"value"[..]));
        assert_eq!(part(&bytes, INODE, PLACE, 0), None);
        assert_eq!(part(&bytes, INODE + 1, PLACE, 456), None);
        assert_eq!(part(&bytes, INODE, PLACE + 1, 456), None);
        bytes[8..12].copy_from_slice(&457u32.to_be_bytes());
        assert_eq!(part(&bytes, INODE, PLACE, 456), None, "it has no room for that");
    }

    #[test]
    fn attributes_in_an_inode_are_read_or_none() {
        let bytes = b"\0\0\x02\0\x05\x03\0churnabc\x01\0\x04x";
        let found = short_form(bytes).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((&*found[0].name, &*found[0].value), (&b"user.churn"[..], &b"abc"[..]));
        assert_eq!((&*found[1].name, &*found[1].value), (&b"security.x"[..], &b""[..]));
        assert_eq!(short_form(&bytes[..bytes.len() - 1]), None);
        assert_eq!(short_form(b"\0\0\x01\0\x0c\0\x02SGI_ACL_FILE"), None, "no access list");
    }

    #[test]
    fn an_access_list_has_numbers_where_there_are_some() {
        let entry = |tag: u32, number: u32, permissions: u16| {
            let body = [tag.to_be_bytes(), number.to_be_bytes()].concat();
            [&body[..], &permissions.to_be_bytes(), &[0, 0]].concat()
        };
        // The owner, a user, and everybody else.
        let entries = [entry(1, 77, 6), entry(2, 1000, 4), entry(0x20, u32::MAX, 0)].concat();
        let bytes = [&3u32.to_be_bytes()[..], &entries].concat();
        let found = attribute(b"SGI_ACL_FILE", &bytes, ROOT).unwrap();
        let want = [
            &[2, 0, 0, 0][..],
            &[1, 0, 6, 0, 0xFF, 0xFF, 0xFF, 0xFF],
            &[2, 0, 4, 0, 0xE8, 3, 0, 0],
            &[0x20, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF],
        ];
        assert_eq!(
            (found.name, found.value),
            (b"system.posix_acl_access".to_vec(), want.concat())
        );
        assert_eq!(attribute(b"SGI_ACL_DEFAULT", &bytes[..bytes.len() - 1], ROOT), None);
    }
}
