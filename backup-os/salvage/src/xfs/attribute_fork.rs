//! Blocks that an inode has for its extended attributes, as far as they are in memory.

use super::attributes::{self, Entry};
use super::{Buffers, Xfs, SECTOR};
use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::refusal::Result;
use alloc::vec::Vec;
use shared_region::context::{Attribute, DiskRun};

/// `XFS_XATTR_SIZE_MAX`.
const MAX_VALUE: usize = 64 << 10;

/// Those of one inode.
pub(super) struct AttributeFork<'a, 'k, 'm, M: PhysMem + ?Sized> {
    xfs: &'a Xfs,
    context: &'a Context<'k, 'm, M>,
    buffers: &'a Buffers,
    runs: Vec<DiskRun>,
    /// Bytes of a block.
    block: u64,
    /// The inode's number.
    pub inode: u64,
}

impl<'a, 'k, 'm, M: PhysMem + ?Sized> AttributeFork<'a, 'k, 'm, M> {
    /// That of an inode; `None` if it is not known where it lies.
    pub fn of(xfs: &'a Xfs, context: &'a Context<'k, 'm, M>, own: Kva, buffers: &'a Buffers) -> Result<Option<Self>> {
        let extents = xfs.extents(context, own, &xfs.layouts.inode.attributes())?;
        let geometry = xfs.geometry(context)?;
        let inode = own.offset(u64::from(xfs.layouts.inode.i_vnode.offset));
        let number = context.kernel.types.layouts.inode.i_ino;
        let inode = context.kernel.mem.uint(inode, number)?;
        let runs = extents.and_then(|extents| geometry.runs(&extents));
        Ok(runs.map(|runs| Self {
            xfs,
            context,
            buffers,
            runs,
            block: 1u64.wrapping_shl(geometry.block_bits),
            inode,
        }))
    }

    /// Where a block lies, in units of 512 bytes, and what is in it; `None` if it is not in memory.
    pub fn block(&self, number: u64) -> Result<Option<(u64, Vec<u8>)>> {
        let offset = number.saturating_mul(self.block);
        let holds = |run: &&DiskRun| (run.offset..run.offset.saturating_add(run.bytes)).contains(&offset);
        let Some(run) = self.runs.iter().find(holds) else {
            return Ok(None);
        };
        let place = run.at.saturating_add(offset.saturating_sub(run.offset)) / SECTOR;
        // Blocks of a value may be one buffer.
        let Some((&first, &buffer)) = self.buffers.range(..=place).next_back() else {
            return Ok(None);
        };
        let (mem, layout) = (&self.context.kernel.mem, &self.xfs.layouts.buffer);
        let end = first.saturating_add(mem.uint(buffer, layout.b_length)?);
        if place.saturating_add(self.block / SECTOR) > end {
            return Ok(None);
        }
        let at = mem
            .ptr(buffer, layout.b_addr)?
            .offset(place.saturating_sub(first).saturating_mul(SECTOR));
        Ok(Some((place, mem.bytes(at, self.block as usize)?)))
    }

    /// An attribute with its value; `None` if that is not all in memory.
    pub fn whole(&self, entry: Entry) -> Result<Option<Attribute>> {
        let (name, flags, mut at, bytes) = match entry {
            Entry::Here(attribute) => return Ok(Some(attribute)),
            Entry::Elsewhere { name, flags, at, bytes } => (name, flags, at, bytes),
        };
        let mut value = Vec::new();
        while value.len() < bytes {
            let block = if bytes > MAX_VALUE { None } else { self.block(at)? };
            let part = block
                .as_ref()
                .and_then(|(place, block)| attributes::part(block, self.inode, *place, value.len()));
            let Some(part) = part else { return Ok(None) };
            value.extend_from_slice(part);
            at = at.saturating_add(1);
        }
        let is_whole = value.len() == bytes;
        Ok(is_whole.then(|| attributes::attribute(&name, &value, flags)).flatten())
    }
}
