//! Inodes as they lie in the inode tables of an ext4 (`struct ext4_inode`, `fs/ext4/ext4.h`). A table's block that was
//! changed since the last commit is in the page cache of the device.

use crate::addr::Kva;
use crate::context::Context;
use crate::ext4::{block, device_mapping};
use crate::ext4_attributes::content;
use crate::inodes::{S_IFMT, S_IFREG};
use crate::memory::PhysMem;
use crate::refusal::Result;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use shared_region::crc32c::crc32c;

/// Where in a group's descriptor stands where its inode table begins (`bg_inode_table_lo`, `_hi`).
const TABLE_LOW: u64 = 8;
const TABLE_HIGH: u64 = 0x28;
/// Where it says how many of its last inodes were never used (`bg_itable_unused_lo`, `_hi`), two bytes each.
const UNUSED_LOW: u64 = 0x1C;
const UNUSED_HIGH: u64 = 0x32;
/// Bytes of an inode before what newer file systems have added, and where the halves of its checksum stand.
const OLD_INODE: usize = 128;
const CHECK_LOW: usize = 124;
const CHECK_HIGH: usize = 130;
/// Bytes of a descriptor that has the upper half.
const WIDE_DESCRIPTOR: u64 = 64;
/// Where in an inode the way to its blocks stands (`i_block`), and its bytes.
const MAP: usize = 40;
const MAP_BYTES: usize = 60;
/// Bytes before the names of a directory that stands in its inode: the number of the one above.
const PARENT: usize = 4;
/// Where in an inode its mode and the count of its names stand.
const MODE: usize = 0;
const LINKS: usize = 26;
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
    /// What all checksums begin with.
    seed: u32,
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
            seed: field(own.s_csum_seed)? as u32,
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
        let index = number.checked_sub(1)?;
        let group = index.checked_div(self.per_group).filter(|&group| group < self.groups)?;
        let start = self.group(context, group)?.start;
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

    /// The part of a group of blocks.
    fn group<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, group: u64) -> Option<Group> {
        let kernel = context.kernel;
        let slot = group.wrapping_shr(self.descriptors_bits as u32).checked_mul(8)?;
        let buffer = kernel.mem.pointer(self.descriptors.offset(slot)).ok()?;
        let data = kernel.mem.ptr(buffer, kernel.types.layouts.buffer_head.b_data).ok()?;
        let within = group & 1u64.wrapping_shl(self.descriptors_bits as u32).wrapping_sub(1);
        let descriptor = data.offset(within.checked_mul(self.descriptor_size)?);
        let mut start = u64::from(kernel.mem.u32(descriptor.offset(TABLE_LOW)).ok()?);
        let mut unused = u64::from(kernel.mem.u32(descriptor.offset(UNUSED_LOW)).ok()?) & 0xFFFF;
        if self.descriptor_size >= WIDE_DESCRIPTOR {
            start |= u64::from(kernel.mem.u32(descriptor.offset(TABLE_HIGH)).ok()?) << 32;
            unused |= (u64::from(kernel.mem.u32(descriptor.offset(UNUSED_HIGH)).ok()?) & 0xFFFF) << 16;
        }
        Some(Group {
            start,
            used: self.per_group.checked_sub(unused)?,
        })
    }

    /// Where all parts begin, to tell what lies in a block; nothing if there are no checksums.
    pub fn parts<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>) -> Parts {
        let groups = (0..self.groups).take_while(|_| self.checks);
        let found = groups.filter_map(|group| Some((self.group(context, group)?, group)));
        Parts {
            table: *self,
            groups: found.map(|(part, group)| (part.start, (group, part.used))).collect(),
        }
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

/// The inodes of a group of blocks.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// First block.
    start: u64,
    /// Inodes that have ever been used; what lies behind them may be anything.
    used: u64,
}

/// Where which inodes lie.
#[derive(Clone, Debug)]
pub struct Parts {
    table: Table,
    /// By first block: the group, and its inodes that have ever been used.
    groups: BTreeMap<u64, (u64, u64)>,
}

impl Parts {
    /// The first inode in a block whose checksum is wrong; none if no inodes lie in it.
    pub fn wrong_in(&self, block: u64, bytes: &[u8]) -> Option<u64> {
        let table = &self.table;
        let (start, &(group, used)) = self.groups.range(..=block).next_back()?;
        let per_block = (bytes.len() as u64).checked_div(table.inode_size)?;
        let before = block.checked_sub(*start)?.checked_mul(per_block)?;
        let inodes = bytes.chunks_exact(table.inode_size as usize);
        for (index, raw) in (before..used.min(table.per_group)).zip(inodes) {
            let number = group.checked_mul(table.per_group)?.checked_add(index)?.checked_add(1)?;
            if !is_whole(raw, table.seed, number as u32) {
                return Some(number);
            }
        }
        None
    }
}

/// Two bytes of an inode.
fn half(raw: &[u8], at: usize) -> Option<u16> {
    let bytes = raw.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*bytes))
}

/// Whether the checksum of an inode is right (`ext4_inode_csum`). One that was never used is zeros.
fn is_whole(raw: &[u8], seed: u32, number: u32) -> bool {
    let Some(low) = half(raw, CHECK_LOW) else { return false };
    if raw.iter().all(|&byte| byte == 0) {
        return true;
    }
    let high = half(raw, OLD_INODE)
        .filter(|&extra| usize::from(extra).saturating_add(OLD_INODE) >= CHECK_HIGH.saturating_add(2))
        .and_then(|_| half(raw, CHECK_HIGH));
    let mut bytes = raw.to_vec();
    let cleared = [Some(CHECK_LOW), high.map(|_| CHECK_HIGH)];
    for at in cleared.into_iter().flatten() {
        if let Some(bytes) = bytes.get_mut(at..at.saturating_add(2)) {
            bytes.fill(0);
        }
    }
    let generation = raw.get(GENERATION..).and_then(<[u8]>::first_chunk::<4>);
    let own = crc32c(crc32c(seed, &number.to_le_bytes()), generation.unwrap_or(&[0; 4]));
    let check = crc32c(own, &bytes);
    match high {
        Some(high) => check == u32::from(high) << 16 | u32::from(low),
        None => check & 0xFFFF == u32::from(low),
    }
}

impl Raw {
    /// The two parts in which the names of a directory stand that has no blocks (`fs/ext4/inline.c`).
    pub fn names(&self) -> Option<[&[u8]; 2]> {
        let map = self.bytes.get(MAP..)?.get(..MAP_BYTES)?;
        Some([map.get(PARENT..)?, content(&self.bytes).unwrap_or_default()])
    }

    /// Whether it is that of a regular file that has a name.
    pub fn is_file(&self) -> bool {
        let half = |at| half(&self.bytes, at).unwrap_or(0);
        u64::from(half(MODE)) & S_IFMT == S_IFREG && half(LINKS) != 0
    }

    /// Its generation.
    pub fn generation(&self) -> Option<u32> {
        let bytes = self.bytes.get(GENERATION..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u32 = 0x1234_5678;

    /// An inode of so many bytes with its checksum.
    fn inode(bytes: usize, number: u32) -> Vec<u8> {
        let mut raw: Vec<u8> = (0..bytes).map(|at| at as u8 | 1).collect();
        let wide = bytes > OLD_INODE;
        if wide {
            raw[OLD_INODE..OLD_INODE + 2].copy_from_slice(&32u16.to_le_bytes());
            raw[CHECK_HIGH..CHECK_HIGH + 2].fill(0);
        }
        raw[CHECK_LOW..CHECK_LOW + 2].fill(0);
        let own = crc32c(crc32c(SEED, &number.to_le_bytes()), &raw[GENERATION..GENERATION + 4]);
        let check = crc32c(own, &raw).to_le_bytes();
        raw[CHECK_LOW..CHECK_LOW + 2].copy_from_slice(&check[..2]);
        if wide {
            raw[CHECK_HIGH..CHECK_HIGH + 2].copy_from_slice(&check[2..]);
        }
        raw
    }

    #[test]
    fn an_inode_that_was_changed_is_not_whole() {
        for bytes in [128, 256] {
            let raw = inode(bytes, 12);
            assert!(is_whole(&raw, SEED, 12) && !is_whole(&raw, SEED, 13) && !is_whole(&raw, SEED + 1, 12));
            for at in [0, GENERATION, bytes - 1] {
                let mut torn = raw.clone();
                torn[at] ^= 4;
                assert!(!is_whole(&torn, SEED, 12), "byte {at} of {bytes}");
            }
        }
        assert!(is_whole(&[0; 256], SEED, 12) && !is_whole(&[], SEED, 12));
    }

    #[test]
    fn a_block_is_told_by_where_its_group_begins() {
        let table = Table {
            device: Kva::NULL,
            block_bits: 10,
            checks: true,
            seed: SEED,
            inode_size: 256,
            per_group: 8,
            groups: 2,
            descriptor_size: 64,
            descriptors_bits: 4,
            descriptors: Kva::NULL,
        };
        let parts = Parts {
            table,
            groups: [(100, (0, 8)), (500, (1, 6))].into(),
        };
        // The second block of the second group: inodes 13 to 16, of which the last two were never used.
        let mut block = [inode(256, 13), inode(256, 14), alloc::vec![7; 512]].concat();
        assert_eq!(parts.wrong_in(501, &block), None);
        assert_eq!(parts.wrong_in(101, &block), Some(5));
        block[300] ^= 1;
        assert_eq!(parts.wrong_in(501, &block), Some(14));
        // Nothing of inodes.
        assert_eq!((parts.wrong_in(99, &block), parts.wrong_in(502, &block)), (None, None));
    }
}
