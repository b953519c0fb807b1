//! The names in a directory of ext4 (`struct ext4_dir_entry_2`, `fs/ext4/ext4.h`), as far as its blocks are in memory.
//! Blocks that were changed since the last commit always are.

use crate::addr::Kva;
use crate::context::Context;
use crate::ext4;
use crate::memory::PhysMem;
use crate::refusal::Result;
use shared_region::ext4_dir::{head, HEAD};

/// Blocks of a directory that are looked at.
const MAX_BLOCKS: u64 = 1 << 14;

/// Whether a block in memory of a directory has a name. True as well if that cannot be told.
///
/// # Errors
/// The directory's inode cannot be read.
pub fn may_have<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    directory: Kva,
    superblock: Kva,
    name: &[u8],
) -> Result<bool> {
    let size = context
        .kernel
        .mem
        .uint(directory, context.kernel.types.layouts.inode.i_size)?;
    let Some(blocks) = ext4::Blocks::of(context, directory, superblock, size)? else {
        return Ok(true);
    };
    let bytes = blocks.block_bytes();
    let mut left = MAX_BLOCKS;
    for run in &blocks.runs {
        for at in (run.at..run.at.saturating_add(run.bytes)).step_by(bytes) {
            let Some(fewer) = left.checked_sub(1) else {
                return Ok(true);
            };
            left = fewer;
            if blocks
                .cached(context, at)
                .is_some_and(|block| block_may_have(&block, name))
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether a block has a name, or is none of a directory. Blocks of the index look like empty ones.
fn block_may_have(block: &[u8], name: &[u8]) -> bool {
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

#[cfg(test)]
mod tests {
    use super::block_may_have;
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
    fn names_are_found_if_they_lead_somewhere() {
        let block = block(&[(2, b"."), (2, b".."), (12, b"there"), (0, b"gone"), (13, b"last")]);
        assert!(block_may_have(&block, b"there") && block_may_have(&block, b"last"));
        assert!(!block_may_have(&block, b"gone") && !block_may_have(&block, b"ther"));
    }

    #[test]
    fn what_is_torn_may_have_any_name() {
        let mut torn = block(&[(12, b"one"), (13, b"two")]);
        torn[4] = 3;
        assert!(block_may_have(&torn, b"three"));
        let mut beyond = block(&[(12, b"one"), (13, b"two")]);
        beyond[4..6].copy_from_slice(&5000u16.to_le_bytes());
        assert!(block_may_have(&beyond, b"three"));
    }
}
