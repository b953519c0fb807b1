//! Inodes as they lie in the inode tables of an ext4 (`struct ext4_inode`, `fs/ext4/ext4.h`). A table's block that was
//! changed since the last commit is in the page cache of the device.

use crate::addr::Kva;
use crate::context::Context;
use crate::ext4::{block, device_mapping};
use crate::ext4_attributes::content;
use crate::memory::PhysMem;
use crate::refusal::Result;
use alloc::vec::Vec;

/// Where in a group's descriptor stands where its inode table begins (`bg_inode_table_lo`, `_hi`).
const TABLE_LOW: u64 = 8;
const TABLE_HIGH: u64 = 0x28;
/// Bytes of a descriptor that has the upper half.
const WIDE_DESCRIPTOR: u64 = 64;
/// Where in an inode the way to its blocks stands (`i_block`), and its bytes.
const MAP: usize = 40;
const MAP_BYTES: usize = 60;
/// Bytes before the names of a directory that stands in its inode: the number of the one above.
const PARENT: usize = 4;
/// Where in an inode its generation stands.
const GENERATION: usize = 100;
/// `s_feature_ro_compat` of the superblock, and `EXT4_FEATURE_RO_COMPAT_METADATA_CSUM`.
const RO_COMPAT: u64 = 100;
const METADATA_CSUM: u32 = 0x400;

/// The inode tables of a mounted ext4.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The page cache of its device.
    pub device: Kva,
    /// Its blocks have so many bytes, as a power of two.
    pub block_bits: u32,
    /// Blocks of directories and of extent trees have checksums.
    pub checks: bool,
    inode_size: u64,
    per_group: u64,
    groups: u64,
    descriptor_size: u64,
    descriptors_bits: u64,
    descriptors: Kva,
}

/// An inode as it lies in its table.
#[derive(Debug)]
pub struct Raw {
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// A transaction that is not committed has its block.
    pub is_changed: bool,
}

impl Table {
    /// Those of a file system; `None` if this kernel's ext4 is not known.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<Option<Self>> {
        let layouts = &context.kernel.types.layouts;
        let mem = &context.kernel.mem;
        let Some(own) = &layouts.ext4_super else {
            return Ok(None);
        };
        let info = mem.ptr(superblock, layouts.super_block.s_fs_info)?;
        let field = |field| mem.uint(info, field);
        let block_bits = mem.uint(superblock, layouts.super_block.s_blocksize_bits)?;
        let features = mem.u32(mem.ptr(info, own.s_es)?.offset(RO_COMPAT))?;
        let table = Self {
            device: device_mapping(context, superblock)?,
            block_bits: block_bits as u32,
            checks: features & METADATA_CSUM != 0,
            inode_size: field(own.s_inode_size)?,
            per_group: field(own.s_inodes_per_group)?,
            groups: field(own.s_groups_count)?,
            descriptor_size: field(own.s_desc_size)?,
            descriptors_bits: field(own.s_desc_per_block_bits)?,
            descriptors: mem.ptr(info, own.s_group_desc)?,
        };
        let sound = (10..=16).contains(&block_bits)
            && (128..=1 << block_bits).contains(&table.inode_size)
            && table.inode_size.is_power_of_two()
            && table.descriptors_bits < 16
            && (32..=1024).contains(&table.descriptor_size);
        Ok(Some(table).filter(|_| sound))
    }

    /// An inode, if its block is in memory.
    pub fn raw<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, number: u64) -> Option<Raw> {
        let kernel = context.kernel;
        let index = number.checked_sub(1)?;
        let group = index.checked_div(self.per_group).filter(|&group| group < self.groups)?;
        let slot = group.wrapping_shr(self.descriptors_bits as u32).checked_mul(8)?;
        let buffer = kernel.mem.pointer(self.descriptors.offset(slot)).ok()?;
        let data = kernel.mem.ptr(buffer, kernel.types.layouts.buffer_head.b_data).ok()?;
        let within = group & 1u64.wrapping_shl(self.descriptors_bits as u32).wrapping_sub(1);
        let descriptor = data.offset(within.checked_mul(self.descriptor_size)?);
        let mut start = u64::from(kernel.mem.u32(descriptor.offset(TABLE_LOW)).ok()?);
        if self.descriptor_size >= WIDE_DESCRIPTOR {
            start |= u64::from(kernel.mem.u32(descriptor.offset(TABLE_HIGH)).ok()?) << 32;
        }
        let offset = index.checked_rem(self.per_group)?.checked_mul(self.inode_size)?;
        let number = start.checked_add(offset.wrapping_shr(self.block_bits))?;
        let found = block(context, self.device, self.block_bits, number)?;
        let from = (offset & 1u64.wrapping_shl(self.block_bits).wrapping_sub(1)) as usize;
        let bytes = found.bytes.get(from..)?.get(..self.inode_size as usize)?;
        Some(Raw {
            bytes: bytes.to_vec(),
            is_changed: found.is_changed,
        })
    }

    /// What leads from an inode to its blocks, as it was when the inode was last put into its table. `None` if it is not
    /// there, or being put there.
    pub fn settled_map<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva) -> Option<Vec<u8>> {
        let layouts = &context.kernel.types.layouts;
        let mem = &context.kernel.mem;
        let own = layouts.ext4_inode.as_ref()?;
        let info = inode.back(u64::from(own.vfs_inode.offset));
        if mem.uint(info, own.i_raw_lock).ok()? != 0 {
            return None;
        }
        let raw = self.raw(context, mem.uint(inode, layouts.inode.i_ino).ok()?)?;
        let generation = mem.uint(inode, layouts.inode.i_generation).ok()?;
        let map = raw.bytes.get(MAP..)?.get(..MAP_BYTES)?;
        (u64::from(raw.generation()?) == generation).then(|| map.to_vec())
    }
}

impl Raw {
    /// The two parts in which the names of a directory stand that has no blocks (`fs/ext4/inline.c`).
    pub fn names(&self) -> Option<[&[u8]; 2]> {
        let map = self.bytes.get(MAP..)?.get(..MAP_BYTES)?;
        Some([map.get(PARENT..)?, content(&self.bytes).unwrap_or_default()])
    }

    /// Its generation.
    pub fn generation(&self) -> Option<u32> {
        let bytes = self.bytes.get(GENERATION..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    }
}
