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

/// Extended attributes in a block of their own (`struct xfs_attr3_leafblock`). `None` if it makes no sense, or one is not a plain
/// attribute, or has its value elsewhere.
pub fn leaf(block: &[u8]) -> Option<Vec<Attribute>> {
    /// `XFS_ATTR3_LEAF_MAGIC`, and where it, the number of entries and the entries stand.
    const MAGIC: [u8; 2] = [0x3B, 0xEE];
    const MAGIC_AT: usize = 8;
    const COUNT_AT: usize = 56;
    const ENTRIES_AT: usize = 80;
    const ENTRY: usize = 8;
    /// `XFS_ATTR_LOCAL`: the value stands here.
    const LOCAL: u8 = 1;
    let half = |at: usize| Some(usize::from(u16::from_be_bytes(*block.get(at..)?.first_chunk()?)));
    if block.get(MAGIC_AT..)?.first_chunk() != Some(&MAGIC) {
        return None;
    }
    let end = half(COUNT_AT)?.checked_mul(ENTRY)?.checked_add(ENTRIES_AT)?;
    let entries = block.get(ENTRIES_AT..end)?.chunks_exact(ENTRY);
    entries
        .map(|entry| {
            let &[.., high, low, flags, _] = entry.first_chunk::<ENTRY>()?;
            let at = usize::from(u16::from_be_bytes([high, low]));
            let (&[high, low, name], body) = block.get(at..)?.split_first_chunk::<3>()?;
            let (name, body) = body.split_at_checked(usize::from(name))?;
            let value = body.get(..usize::from(u16::from_be_bytes([high, low])))?;
            let is_here = flags & LOCAL != 0;
            is_here.then(|| attribute(name, value, flags & !LOCAL)).flatten()
        })
        .collect()
}

/// As `setxattr` takes it. Access lists have a form of their own.
fn attribute(name: &[u8], value: &[u8], flags: u8) -> Option<Attribute> {
    let space: &[u8] = match flags {
        0 => b"user.",
        // `XFS_ATTR_ROOT` and `XFS_ATTR_SECURE`.
        2 if !name.starts_with(b"SGI_ACL") => b"trusted.",
        4 => b"security.",
        _ => return None,
    };
    Some(Attribute {
        name: [space, name].concat(),
        value: value.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_in_a_block_are_read_or_none() {
        let mut block = [0u8; 1024];
        block[8..10].copy_from_slice(&[0x3B, 0xEE]);
        block[57] = 1;
        block[80..88].copy_from_slice(&[1, 2, 3, 4, 0x03, 0xF0, 1, 0]);
        block[0x3F0..0x3FB].copy_from_slice(b"\0\x03\x05churnabc");
        let found = leaf(&block).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].name, &*found[0].value), (&b"user.churn"[..], &b"abc"[..]));
        block[86] = 0;
        assert_eq!(leaf(&block), None, "its value is elsewhere");
        block[86] = 1;
        block[57] = 200;
        assert_eq!(leaf(&block), None, "more entries than there is room for");
        block[57] = 1;
        block[8] = 0;
        assert_eq!(leaf(&block), None, "another kind of block");
    }

    #[test]
    fn attributes_in_an_inode_are_read_or_none() {
        let bytes = b"\0\0\x02\0\x05\x03\0churnabc\x01\0\x04x";
        let found = short_form(bytes).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((&*found[0].name, &*found[0].value), (&b"user.churn"[..], &b"abc"[..]));
        assert_eq!((&*found[1].name, &*found[1].value), (&b"security.x"[..], &b""[..]));
        assert_eq!(short_form(&bytes[..bytes.len() - 1]), None);
        assert_eq!(short_form(b"\0\0\x01\0\x0c\0\x02SGI_ACL_FILE"), None);
    }
}
