//! The names in a directory of ext4 (`struct ext4_dir_entry_2`, `fs/ext4/ext4.h`), as far as its blocks are in memory.
//! Blocks that were changed since the last commit always are.

use crate::addr::Kva;
use crate::context::Context;
use crate::ext4;
use crate::memory::PhysMem;
use crate::refusal::Result;
use shared_region::ext4_dir;

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
                .is_some_and(|block| ext4_dir::may_have(&block, name))
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
