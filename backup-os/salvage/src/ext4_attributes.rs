//! Extended attributes of ext4 as they lie in an inode and in a block of their own (`fs/ext4/xattr.h`, `fs/ext4/acl.h`).

use alloc::vec::Vec;
use shared_region::context::Attribute;

/// `EXT4_XATTR_MAGIC`.
const MAGIC: u32 = 0xEA02_0000;
/// Bytes of an inode before `i_extra_isize`, which counts from there.
const GOOD_OLD_INODE: usize = 128;
/// Bytes of `struct ext4_xattr_header`, before the first entry of a block.
const BLOCK_HEADER: usize = 32;
/// Bytes of an entry before its name.
const ENTRY: usize = 16;
/// What names begin with, by `e_name_index`.
const PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];
/// `EXT4_XATTR_INDEX_SYSTEM`, of which `data` is the content of the file.
const SYSTEM: u8 = 7;
/// Attributes of one file.
const MAX: usize = 1 << 12;
/// Tags of an entry of an access list that has an id: `ACL_USER` and `ACL_GROUP`.
const WITH_ID: [u16; 2] = [2, 8];

/// What stands in an inode behind its map of blocks, if it holds its content (`system.data`).
pub fn content(inode: &[u8]) -> Option<&[u8]> {
    let start = GOOD_OLD_INODE.checked_add(usize::from(half(inode, GOOD_OLD_INODE)?))?;
    let body = inode.get(start..).filter(|body| word(body, 0) == Some(MAGIC))?;
    let base = body.get(4..)?;
    let mut rest = base;
    while word(rest, 0)? != 0 {
        let (length, index) = (usize::from(*rest.first()?), *rest.get(1)?);
        let name = rest.get(ENTRY..)?.get(..length)?;
        if index == SYSTEM && name == b"data" {
            let (offset, size) = (usize::from(half(rest, 2)?), word(rest, 8)? as usize);
            return base.get(offset..)?.get(..size);
        }
        rest = rest.get(ENTRY.checked_add(length)?.checked_next_multiple_of(4)?..)?;
    }
    None
}

/// Those in an inode. `None` if they make no sense, or there is one of a kind that is not known here.
pub fn in_inode(inode: &[u8]) -> Option<Vec<Attribute>> {
    let Some(extra) = half(inode, GOOD_OLD_INODE) else {
        return Some(Vec::new());
    };
    let start = GOOD_OLD_INODE.checked_add(usize::from(extra))?;
    let Some(body) = inode.get(start..).filter(|body| body.len() >= 4) else {
        return Some(Vec::new());
    };
    match word(body, 0)? {
        // Values are counted from the first entry.
        MAGIC => entries(body.get(4..)?, body.get(4..)?),
        _ => Some(Vec::new()),
    }
}

/// Those in a block of their own. `None` as for [`in_inode`].
pub fn in_block(block: &[u8]) -> Option<Vec<Attribute>> {
    if word(block, 0)? != MAGIC {
        return None;
    }
    entries(block.get(BLOCK_HEADER..)?, block)
}

fn entries(mut rest: &[u8], base: &[u8]) -> Option<Vec<Attribute>> {
    let mut found = Vec::new();
    // The end is marked by four zeros, or by the end of the room.
    while rest.len() >= 4 && word(rest, 0)? != 0 {
        let (length, index) = (usize::from(*rest.first()?), *rest.get(1)?);
        let (offset, size) = (usize::from(half(rest, 2)?), word(rest, 8)? as usize);
        let name = rest.get(ENTRY..)?.get(..length)?;
        let in_its_place = word(rest, 4)? == 0;
        if !in_its_place || found.len() >= MAX {
            return None;
        }
        let value = base.get(offset..)?.get(..size)?;
        match PREFIXES.iter().find(|(known, _)| *known == index) {
            Some((2 | 3, prefix)) => found.push(Attribute {
                name: prefix.to_vec(),
                value: access_list(value)?,
            }),
            Some((_, prefix)) => found.push(Attribute {
                name: [prefix, name].concat(),
                value: value.to_vec(),
            }),
            None if index == SYSTEM && name == b"data" => {}
            None => return None,
        }
        rest = rest.get(ENTRY.checked_add(length)?.checked_next_multiple_of(4)?..)?;
    }
    Some(found)
}

/// An access list as `setxattr` takes it (`include/uapi/linux/posix_acl_xattr.h`).
fn access_list(stored: &[u8]) -> Option<Vec<u8>> {
    if word(stored, 0)? != 1 {
        return None;
    }
    let mut list = 2u32.to_le_bytes().to_vec();
    let mut rest = stored.get(4..)?;
    while !rest.is_empty() {
        let (tag, permissions) = (half(rest, 0)?, half(rest, 2)?);
        let (id, length) = match WITH_ID.contains(&tag) {
            true => (word(rest, 4)?, 8),
            false => (u32::MAX, 4),
        };
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&permissions.to_le_bytes());
        list.extend_from_slice(&id.to_le_bytes());
        rest = rest.get(length..)?;
    }
    Some(list)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(room: &mut [u8], entry_at: usize, base: usize, value_at: usize, index: u8, name: &[u8], value: &[u8]) {
        room[entry_at] = name.len() as u8;
        room[entry_at + 1] = index;
        room[entry_at + 2..entry_at + 4].copy_from_slice(&((value_at - base) as u16).to_le_bytes());
        room[entry_at + 8..entry_at + 12].copy_from_slice(&(value.len() as u32).to_le_bytes());
        room[entry_at + 16..entry_at + 16 + name.len()].copy_from_slice(name);
        room[value_at..value_at + value.len()].copy_from_slice(value);
    }

    fn inode() -> [u8; 256] {
        let mut inode = [0; 256];
        inode[128] = 32;
        inode[160..164].copy_from_slice(&MAGIC.to_le_bytes());
        put(&mut inode, 164, 164, 250, 1, b"churn", b"value");
        put(&mut inode, 188, 164, 240, 6, b"x", b"more");
        inode
    }

    #[test]
    fn those_in_an_inode_have_their_whole_names() {
        let found = in_inode(&inode()).unwrap();
        let names: Vec<&[u8]> = found.iter().map(|one| &*one.name).collect();
        assert_eq!(names, [&b"user.churn"[..], b"security.x"]);
        assert_eq!(found[0].value, b"value");
        assert_eq!(in_inode(&[0; 256]).unwrap(), []);
        assert_eq!(in_inode(&[0; 128]).unwrap(), []);
    }

    #[test]
    fn those_in_a_block_are_counted_from_its_start() {
        let mut block = [0; 1024];
        block[..4].copy_from_slice(&MAGIC.to_le_bytes());
        put(&mut block, 32, 0, 1000, 4, b"big", b"value");
        let found = in_block(&block).unwrap();
        assert_eq!(
            (&*found[0].name, &*found[0].value),
            (&b"trusted.big"[..], &b"value"[..])
        );
        assert_eq!(in_block(&[0; 1024]), None);
    }

    #[test]
    fn content_is_no_attribute_that_can_be_set() {
        let mut inode = inode();
        put(&mut inode, 208, 164, 232, SYSTEM, b"data", b"content");
        assert_eq!(content(&inode).unwrap(), b"content");
        assert_eq!(in_inode(&inode).unwrap().len(), 2);
        assert_eq!(content(&[0; 256]), None);
    }

    #[test]
    fn what_makes_no_sense_is_not_believed() {
        let mut beyond = inode();
        beyond[166..168].copy_from_slice(&200u16.to_le_bytes());
        assert_eq!(in_inode(&beyond), None);
        let mut unknown = inode();
        unknown[165] = 99;
        assert_eq!(in_inode(&unknown), None);
        let mut elsewhere = inode();
        elsewhere[168] = 1;
        assert_eq!(in_inode(&elsewhere), None);
    }

    #[test]
    fn access_lists_get_the_form_that_is_set() {
        // Owner rw, user 1000 r.
        let stored = [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 0xE8, 3, 0, 0];
        let want = [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 0xE8, 3, 0, 0];
        assert_eq!(access_list(&stored).unwrap(), want);
        assert_eq!(access_list(&stored[..14]), None);
    }
}
