//! The blocks of a directory of ext4 (`struct ext4_dir_entry_2`, `fs/ext4/ext4.h`).

use alloc::vec::Vec;

/// Bytes of an entry before its name.
const HEAD: usize = 8;

/// The names in a block but `.` and `..`, and the inode number of each. Blocks of the index have none. `None` if it is no
/// block of a directory, or was caught being changed.
pub fn names(block: &[u8]) -> Option<Vec<(Vec<u8>, u32)>> {
    let mut found = Vec::new();
    let mut rest = block;
    while !rest.is_empty() {
        let (inode, length, name_length) = head(rest)?;
        let sound = length >= HEAD && length % 4 == 0 && HEAD.checked_add(name_length)? <= length;
        let name = rest.get(HEAD..)?.get(..name_length)?;
        rest = rest.get(length..).filter(|_| sound)?;
        if inode == 0 || matches!(name, b"." | b"..") {
            continue;
        }
        if name.is_empty() || name.contains(&0) || name.contains(&b'/') {
            return None;
        }
        found.push((name.to_vec(), inode));
    }
    Some(found)
}

/// Whether a block has a name, or is none of a directory. Blocks of the index look like empty ones.
pub fn may_have(block: &[u8], name: &[u8]) -> bool {
    let mut rest = block;
    while let Some((inode, length, name_length)) = head(rest) {
        let found = rest.get(HEAD..).and_then(|behind| behind.get(..name_length));
        if inode != 0 && found == Some(name) {
            return true;
        }
        let Some(next) = rest.get(length..).filter(|_| length >= HEAD) else {
            return true;
        };
        rest = next;
    }
    false
}

/// Inode number, length of the entry and of its name.
fn head(entry: &[u8]) -> Option<(u32, usize, usize)> {
    let (inode, rest) = entry.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = match u16::from_le_bytes(*length) {
        // A whole block of 64 KB.
        0 | 0xFFFF => entry.len(),
        length => usize::from(length),
    };
    Some((u32::from_le_bytes(*inode), length, usize::from(*rest.first()?)))
}

#[cfg(test)]
mod tests {
    use super::{may_have, names};
    use alloc::vec::Vec;

    fn block(entries: &[(u32, &[u8])]) -> Vec<u8> {
        let mut block = Vec::new();
        for (at, (inode, name)) in entries.iter().enumerate() {
            let length = if at + 1 == entries.len() {
                1024 - block.len()
            } else {
                (8 + name.len()).next_multiple_of(4)
            };
            let start = block.len();
            block.extend_from_slice(&inode.to_le_bytes());
            block.extend_from_slice(&(length as u16).to_le_bytes());
            block.extend_from_slice(&[name.len() as u8, 1]);
            block.extend_from_slice(name);
            block.resize(start + length, 0);
        }
        block
    }

    #[test]
    fn all_names_of_a_block_are_told() {
        let whole = block(&[(2, b"."), (2, b".."), (12, b"there"), (0, b"gone"), (13, b"last")]);
        let want = [(b"there".to_vec(), 12), (b"last".to_vec(), 13)];
        assert_eq!(names(&whole).unwrap(), want);
        // A block of the index: one entry that is none, as long as the block.
        assert_eq!(names(&block(&[(0, b"")])).unwrap(), []);
    }

    #[test]
    fn a_block_that_is_torn_has_no_names() {
        let two = [(12, &b"one"[..]), (13, b"two")];
        let mut torn = block(&two);
        torn[4] = 13;
        assert_eq!(names(&torn), None);
        let mut long = block(&two);
        long[6] = 5;
        assert_eq!(names(&long), None);
        let mut half = block(&two);
        half[9] = 0;
        assert_eq!(names(&half), None);
        assert_eq!(names(&half[..1022]), None);
    }

    #[test]
    fn names_are_found_if_they_lead_somewhere() {
        let block = block(&[(2, b"."), (2, b".."), (12, b"there"), (0, b"gone"), (13, b"last")]);
        assert!(may_have(&block, b"there") && may_have(&block, b"last"));
        assert!(!may_have(&block, b"gone") && !may_have(&block, b"ther"));
    }

    #[test]
    fn what_is_torn_may_have_any_name() {
        let mut torn = block(&[(12, b"one"), (13, b"two")]);
        torn[4] = 3;
        assert!(may_have(&torn, b"three"));
        let mut beyond = block(&[(12, b"one"), (13, b"two")]);
        beyond[4..6].copy_from_slice(&5000u16.to_le_bytes());
        assert!(may_have(&beyond, b"three"));
    }
}
