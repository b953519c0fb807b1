//! What ext4 knows of a file that its disk may not know yet (`fs/ext4/ext4.h`, `fs/ext4/ext4_extents.h`), and where on
//! the disk the file's blocks lie.
//!
//! A block that was written back is on the disk, but the extent that leads to it is only in the running transaction for
//! up to five seconds more, and a page that was written back may leave memory. After the replay of the journal such a
//! block belongs to no file. Blocks of a deleted file are freed when its file system is mounted. Both can be read from
//! the device before, by the extents the dead kernel had in memory.

use crate::addr::{Kva, Pfn, PAGE_SHIFT, PAGE_SIZE};
use crate::context::Context;
use crate::ext4_table::Table;
use crate::jbd2::{self, is_uncommitted};
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::page_cache::{buffer_at, buffer_is_valid, entries};
use crate::refusal::Result;
use alloc::vec::Vec;
use core::cell::Cell;
use shared_region::context::{DiskContent, DiskRun};
use shared_region::crc32c::crc32c;

/// `EXT4_EXTENTS_FL`.
const EXTENTS: u64 = 0x8_0000;
/// What makes blocks on the disk differ from pages, and names from what is asked for: `EXT4_ENCRYPT_FL`,
/// `EXT4_INLINE_DATA_FL`, `EXT4_CASEFOLD_FL`.
const OTHERWISE_STORED: u64 = ENCRYPTED | INLINE | 0x4000_0000;
/// `EXT4_ENCRYPT_FL`.
const ENCRYPTED: u64 = 0x800;
/// `EXT4_INLINE_DATA_FL`: what it holds stands in the inode.
const INLINE: u64 = 0x1000_0000;
/// `EXT4_JOURNAL_DATA_FL`.
const JOURNALLED: u64 = 0x4000;
/// `EXT4_MOUNT_DATA_FLAGS` and `EXT4_MOUNT_JOURNAL_DATA`.
const DATA_MODE: u64 = 0xC00;
const JOURNAL_DATA: u64 = 0x400;
/// `EXT4_MOUNT_WRITEBACK_DATA` and `EXT4_MOUNT_DELALLOC`.
const WRITEBACK_DATA: u64 = 0xC00;
const DELALLOC: u64 = 0x800_0000;
/// `EXT4_EXT_MAGIC`.
const MAGIC: u16 = 0xF30A;
/// Bytes of a header, of an extent and of an index.
const ENTRY: usize = 12;
/// `EXT_INIT_MAX_LEN`: longer ones are unwritten, and that much shorter.
const INIT_MAX_LEN: u16 = 1 << 15;
/// `EXT4_MAX_EXTENT_DEPTH`.
const MAX_DEPTH: u16 = 5;
/// Extents of a file that are recorded.
const MAX_RUNS: usize = 1 << 16;
/// Nodes of a tree that are read.
const MAX_NODES: u32 = 1 << 12;

crate::mirrors! {
    /// A file of ext4.
    #[allow(missing_docs)]
    pub struct Ext4Inode = "ext4_inode_info" {
        vfs_inode: Field,
        i_data: Field,
        i_flags: Field,
        i_disksize: Field,
        i_sync_tid: Field,
        i_datasync_tid: Field,
        i_file_acl: Field,
        i_csum_seed: Field,
        i_raw_lock: Field,
        i_data_sem: Field = "i_data_sem.count.counter",
        xattr_sem: Field = "xattr_sem.count.counter",
    }

    /// A mounted ext4.
    #[allow(missing_docs)]
    pub struct Ext4Super = "ext4_sb_info" {
        s_journal: Field,
        s_csum_seed: Field,
        s_mount_opt: Field,
        s_es: Field,
        s_desc_size: Field,
        s_inodes_per_group: Field,
        s_desc_per_block_bits: Field,
        s_inode_size: Field,
        s_groups_count: Field,
        s_group_desc: Field,
    }
}

/// How far the dead kernel's memory is ahead of what a replay of the journal brings back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// In anything about the inode.
    pub inode: bool,
    /// In its size or in where its blocks are.
    pub content: bool,
}

/// The journal of a file system, null if it has none.
///
/// # Errors
/// It cannot be read.
pub fn journal<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<Kva> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let Some(mounted) = &layouts.ext4_super else {
        return Ok(Kva::NULL);
    };
    Ok(mem.ptr(mem.ptr(superblock, layouts.super_block.s_fs_info)?, mounted.s_journal)?)
}

/// Whether a file system is served by ext4.
pub fn is_ext4<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<bool> {
    let layouts = &context.kernel.types.layouts;
    let operations = context.kernel.mem.ptr(superblock, layouts.super_block.s_op)?;
    Ok(layouts.ext4_inode.is_some() && context.symbol(operations).as_deref() == Some("ext4_sops"))
}

/// Whether ext4's copy of an inode is behind: the size (delayed allocation), or the transaction that changed it last.
///
/// # Errors
/// It cannot be read.
pub fn ahead<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    inode: Kva,
    superblock: Kva,
    size: u64,
) -> Result<Ahead> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let (Some(own), Some(_), Some(log)) = (&layouts.ext4_inode, &layouts.ext4_super, &layouts.journal) else {
        return Ok(Ahead {
            inode: true,
            content: true,
        });
    };
    let info = inode.back(u64::from(own.vfs_inode.offset));
    let resized = mem.uint(info, own.i_disksize)? != size;
    let journal = journal(context, superblock)?;
    if journal.is_null() {
        // Without a journal nothing tells what has been written.
        return Ok(Ahead {
            inode: resized,
            content: resized,
        });
    }
    // Transaction numbers wrap (`tid_gt`).
    let committed = jbd2::committed(context, journal, log)?;
    let after = |changed: u64| ((changed as u32).wrapping_sub(committed) as i32) > 0;
    let content = resized || after(mem.uint(info, own.i_datasync_tid)?);
    Ok(Ahead {
        inode: content || after(mem.uint(info, own.i_sync_tid)?),
        content,
    })
}

/// Whether ext4's copy of an inode without blocks of its own is behind.
///
/// # Errors
/// It cannot be read.
pub fn ahead_of_inode<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva, superblock: Kva) -> Result<bool> {
    let size = context
        .kernel
        .mem
        .uint(inode, context.kernel.types.layouts.inode.i_size)?;
    Ok(ahead(context, inode, superblock, size)?.inode)
}

/// Whether what a file holds goes through the journal as well (`data=journal`, or an attribute of the file): pages may be
/// newer than the disk without being dirty.
///
/// # Errors
/// It cannot be read.
pub fn journals_data<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva, superblock: Kva) -> Result<bool> {
    let (Some(options), Some(flags)) = (mount_options(context, superblock)?, flags(context, inode)?) else {
        return Ok(true);
    };
    Ok(options & DATA_MODE == JOURNAL_DATA || flags & JOURNALLED != 0)
}

/// Whether small files may stand in inodes. A file that grows out of its inode has its first block in the journal, as if it were
/// metadata, but the block is freed as data, without being revoked (`ext4_convert_inline_data_nolock`): a replay can bring it
/// back over whatever lies there by then.
///
/// # Errors
/// It cannot be read.
pub fn has_inline_data<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<bool> {
    /// `s_feature_incompat` of the superblock on the disk, and `EXT4_FEATURE_INCOMPAT_INLINE_DATA`.
    const INCOMPAT: u64 = 96;
    const INLINE_DATA: u32 = 0x8000;
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let Some(mounted) = &layouts.ext4_super else {
        return Ok(false);
    };
    let own = mem.ptr(mem.ptr(superblock, layouts.super_block.s_fs_info)?, mounted.s_es)?;
    Ok(mem.u32(own.offset(INCOMPAT))? & INLINE_DATA != 0)
}

/// How a file system was told to bring data to its disk, where that is not how ext4 does it by itself.
///
/// # Errors
/// It cannot be read.
pub fn data_options<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<&'static [u8]> {
    let Some(options) = mount_options(context, superblock)? else {
        return Ok(b"");
    };
    Ok(match (options & DATA_MODE, options & DELALLOC != 0) {
        // Without delayed allocation, whatever is said.
        (JOURNAL_DATA, _) => b"data=journal",
        (WRITEBACK_DATA, true) => b"data=writeback",
        (WRITEBACK_DATA, false) => b"data=writeback,nodelalloc",
        (_, true) => b"",
        (_, false) => b"nodelalloc",
    })
}

/// `EXT4_MOUNT_*` of a file system; `None` if this kernel's ext4 is not known.
fn mount_options<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<Option<u64>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let Some(mounted) = &layouts.ext4_super else {
        return Ok(None);
    };
    let info = mem.ptr(superblock, layouts.super_block.s_fs_info)?;
    Ok(Some(mem.uint(info, mounted.s_mount_opt)?))
}

/// The size that the disk will have of a file (`i_disksize`).
///
/// # Errors
/// It cannot be read.
pub fn disk_size<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<u64> {
    let layouts = &context.kernel.types.layouts;
    let Some(own) = &layouts.ext4_inode else {
        return Ok(context.kernel.mem.uint(inode, layouts.inode.i_size)?);
    };
    let info = inode.back(u64::from(own.vfs_inode.offset));
    Ok(context.kernel.mem.uint(info, own.i_disksize)?)
}

/// What leads from an inode to its blocks, as it lies on the disk: the 60 bytes of `i_block`.
///
/// # Errors
/// It cannot be read.
pub fn block_map<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<Vec<u8>> {
    let Some(own) = &context.kernel.types.layouts.ext4_inode else {
        return Ok(Vec::new());
    };
    let info = inode.back(u64::from(own.vfs_inode.offset));
    let data = info.offset(u64::from(own.i_data.offset));
    Ok(context.kernel.mem.bytes(data, own.i_data.size.min(60) as usize)?)
}

/// Whether what an inode holds stands neither in extents nor in any other way that is not known here.
///
/// # Errors
/// It cannot be read.
pub fn is_plain<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<bool> {
    Ok(flags(context, inode)?.is_some_and(|flags| flags & (EXTENTS | OTHERWISE_STORED) == 0))
}

/// Whether what an inode holds stands in it, and its names are what is asked for.
///
/// # Errors
/// It cannot be read.
pub fn is_inline<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<bool> {
    Ok(flags(context, inode)?.is_some_and(|flags| flags & OTHERWISE_STORED == INLINE))
}

/// Whether a file's content and names on the disk are encrypted by a key that its owner has to give.
///
/// # Errors
/// It cannot be read.
pub fn is_encrypted<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<bool> {
    Ok(flags(context, inode)?.is_some_and(|flags| flags & ENCRYPTED != 0))
}

/// `EXT4_*_FL` of an inode; `None` if this kernel's ext4 is not known.
fn flags<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<Option<u64>> {
    let Some(own) = &context.kernel.types.layouts.ext4_inode else {
        return Ok(None);
    };
    let info = inode.back(u64::from(own.vfs_inode.offset));
    Ok(Some(context.kernel.mem.uint(info, own.i_flags)?))
}

/// Where the written blocks of a file or directory lie.
#[derive(Debug)]
pub struct Blocks {
    /// By ascending offset.
    pub runs: Vec<DiskRun>,
    device: Kva,
    block_bits: u32,
}

impl Blocks {
    /// By the extents in memory. `None` if they cannot be told, or if what lies there is not what the pages hold.
    ///
    /// # Errors
    /// The inode cannot be read.
    pub fn of<M: PhysMem + ?Sized>(
        context: &Context<'_, '_, M>,
        inode: Kva,
        superblock: Kva,
        size: u64,
    ) -> Result<Option<Self>> {
        let layouts = &context.kernel.types.layouts;
        let mem = &context.kernel.mem;
        let Some(own) = &layouts.ext4_inode else {
            return Ok(None);
        };
        let info = inode.back(u64::from(own.vfs_inode.offset));
        let flags = mem.uint(info, own.i_flags)?;
        if flags & EXTENTS == 0 || flags & OTHERWISE_STORED != 0 {
            return Ok(None);
        }
        let block_bits = mem.uint(superblock, layouts.super_block.s_blocksize_bits)?;
        if !(10..=16).contains(&block_bits) {
            return Ok(None);
        }
        let (device, block_bits) = (device_mapping(context, superblock)?, block_bits as u32);
        let is_changing = is_write_locked(mem.uint(info, own.i_data_sem)?);
        let (mut checks, seed) = (false, mem.uint(info, own.i_csum_seed)? as u32);
        let root = match is_changing {
            false => block_map(context, inode)?,
            // Somebody was changing it: as it was before.
            true => {
                let table = Table::of(context, superblock)?;
                let Some(root) = table.and_then(|table| table.settled_map(context, inode)) else {
                    return Ok(None);
                };
                checks = table.is_some_and(|table| table.checks);
                root
            }
        };
        let tree = Tree {
            block: |number| {
                let node = cached_block(context, device, block_bits, number)?;
                // Below the root nothing but a checksum tells that a node is whole while somebody changes the tree.
                (!is_changing || (checks && node_is_whole(seed, &node))).then_some(node)
            },
            block_bits,
            size,
            nodes: Cell::new(MAX_NODES),
        };
        let mut runs = Vec::new();
        Ok(tree.node(&root, None, &mut runs).map(|()| Self {
            runs,
            device,
            block_bits,
        }))
    }

    /// Where on the device a byte of the file lies.
    pub fn place(&self, offset: u64) -> Option<u64> {
        let run = self
            .runs
            .iter()
            .find(|run| (run.offset..run.offset.saturating_add(run.bytes)).contains(&offset))?;
        run.at.checked_add(offset.checked_sub(run.offset)?)
    }

    /// Bytes of a block.
    pub const fn block_bytes(&self) -> usize {
        1usize.wrapping_shl(self.block_bits)
    }

    /// The file system's own block at a byte of the device, if it is in memory.
    pub fn cached<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, at: u64) -> Option<Vec<u8>> {
        cached_block(context, self.device, self.block_bits, at.wrapping_shr(self.block_bits))
    }
}

/// Where the written blocks of a file lie, for a record. `None` as for [`Blocks::of`].
///
/// # Errors
/// The inode cannot be read.
pub fn content<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    inode: Kva,
    superblock: Kva,
    size: u64,
) -> Result<Option<DiskContent>> {
    let uuid = u64::from(context.kernel.types.layouts.super_block.s_uuid.offset);
    let uuid = context.kernel.mem.array::<16>(superblock.offset(uuid))?;
    let blocks = Blocks::of(context, inode, superblock, size)?;
    Ok(blocks
        .filter(|_| uuid != [0; 16])
        .map(|Blocks { runs, .. }| DiskContent { uuid, runs }))
}

/// The page cache of the device a file system lies on.
pub fn device_mapping<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<Kva> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let device = mem.ptr(superblock, layouts.super_block.s_bdev)?;
    Ok(match (layouts.block_device.bd_mapping, layouts.block_device.bd_inode) {
        (Some(mapping), _) => mem.ptr(device, mapping)?,
        (None, Some(inode)) => mem.ptr(mem.ptr(device, inode)?, layouts.inode.i_mapping)?,
        (None, None) => Kva::NULL,
    })
}

/// Whether the count of a `struct rw_semaphore` says that somebody may change what it protects (`RWSEM_WRITER_LOCKED`).
pub const fn is_write_locked(count: u64) -> bool {
    count & 1 != 0
}

/// An extent tree: its root in the inode, its other nodes in blocks of the file system.
struct Tree<F: Fn(u64) -> Option<Vec<u8>>> {
    /// A block by its number, if memory has it.
    block: F,
    block_bits: u32,
    /// Of the file, in bytes.
    size: u64,
    /// Nodes that may still be read: a torn tree could name one again and again.
    nodes: Cell<u32>,
}

impl<F: Fn(u64) -> Option<Vec<u8>>> Tree<F> {
    /// The extents below a node that lies `expected` levels above the leaves; the root lies at any. `None` if a node is
    /// torn or not in memory.
    fn node(&self, node: &[u8], expected: Option<u16>, runs: &mut Vec<DiskRun>) -> Option<()> {
        let (entries, rest) = header(node, expected)?;
        let (table, depth) = (rest.get(..entries.checked_mul(ENTRY)?)?, half(node, 6)?);
        for entry in table.chunks_exact(ENTRY) {
            if depth == 0 {
                self.extent(entry, runs)?;
                continue;
            }
            let block = u64::from(half(entry, 8)?) << 32 | u64::from(word(entry, 4)?);
            self.nodes.set(self.nodes.get().checked_sub(1)?);
            self.node(&(self.block)(block)?, depth.checked_sub(1), runs)?;
        }
        Some(())
    }

    fn extent(&self, extent: &[u8], runs: &mut Vec<DiskRun>) -> Option<()> {
        let length = half(extent, 4)?;
        let start = u64::from(half(extent, 6)?) << 32 | u64::from(word(extent, 8)?);
        let offset = u64::from(word(extent, 0)?) << self.block_bits;
        // An unwritten extent reads as zeros; what lies beyond the end of the file does not count.
        if length > INIT_MAX_LEN || offset >= self.size {
            return Some(());
        }
        // A torn tree would not ascend.
        let end = runs
            .last()
            .map_or(0, |run: &DiskRun| run.offset.saturating_add(run.bytes));
        if length == 0 || start == 0 || offset < end || runs.len() >= MAX_RUNS {
            return None;
        }
        runs.push(DiskRun {
            offset,
            at: start.checked_mul(1u64.checked_shl(self.block_bits)?)?,
            bytes: (u64::from(length) << self.block_bits).min(self.size.checked_sub(offset)?),
        });
        Some(())
    }
}

/// A block of a file system in the page cache of its device.
#[derive(Debug)]
pub struct CachedBlock {
    /// What lies in it.
    pub bytes: Vec<u8>,
    /// A transaction that is not committed has it.
    pub is_changed: bool,
}

/// A block of a file system, if the page cache of its device has it.
pub fn block<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    device: Kva,
    block_bits: u32,
    number: u64,
) -> Option<CachedBlock> {
    let page = CachedPage::of(context, device, block_bits, number)?;
    if !buffer_is_valid(context, page.at, page.flags, page.within) {
        return None;
    }
    let start = Pfn(page.pfn).phys().checked_add(page.within)?;
    let bytes = 1usize.checked_shl(block_bits)?;
    let kernel = context.kernel;
    Some(CachedBlock {
        bytes: kernel.mem.bytes(kernel.phys_to_kva(start), bytes).ok()?,
        is_changed: buffer_at(context, page.at, page.flags, page.within)
            .is_some_and(|buffer| is_uncommitted(context, buffer)),
    })
}

/// Whether a block that is not valid lies in a page that says that all of it is: what is known of it makes no sense.
pub fn is_torn<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, device: Kva, block_bits: u32, number: u64) -> bool {
    let uptodate = context.kernel.types.layouts.page_flags.uptodate;
    CachedPage::of(context, device, block_bits, number).is_some_and(|page| {
        page.flags & 1u64.wrapping_shl(uptodate) != 0 && !buffer_is_valid(context, page.at, page.flags, page.within)
    })
}

/// A page of the cache of a device.
struct CachedPage {
    /// Its `struct page`.
    at: Kva,
    pfn: u64,
    flags: u64,
    /// Where in it a block lies.
    within: u64,
}

impl CachedPage {
    /// The one with a block.
    fn of<M: PhysMem + ?Sized>(
        context: &Context<'_, '_, M>,
        device: Kva,
        block_bits: u32,
        number: u64,
    ) -> Option<Self> {
        if device.is_null() {
            return None;
        }
        let at = number.checked_mul(1u64.checked_shl(block_bits)?)?;
        let index = at >> PAGE_SHIFT;
        let entry = entries(context, device).ok()?.within(index, index).next()?.ok()?;
        if entry.value & 1 != 0 {
            return None;
        }
        let (pfn, flags, _) = context.pages.of_cache(&entry, device)?;
        Some(Self {
            at: Kva(entry.value & !3),
            pfn,
            flags,
            within: at.checked_sub(entry.index.checked_mul(PAGE_SIZE)?)?,
        })
    }
}

fn cached_block<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    device: Kva,
    block_bits: u32,
    number: u64,
) -> Option<Vec<u8>> {
    block(context, device, block_bits, number).map(|block| block.bytes)
}

/// Whether the checksum of a node of an extent tree, which follows its last entry, is right.
fn node_is_whole(seed: u32, node: &[u8]) -> bool {
    let check = || {
        let end = ENTRY.checked_mul(usize::from(half(node, 4)?).checked_add(1)?)?;
        Some(crc32c(seed, node.get(..end)?) == word(node, end)?)
    };
    check().unwrap_or(false)
}

/// Number of entries of a node, and what stands behind its header.
fn header(node: &[u8], expected: Option<u16>) -> Option<(usize, &[u8])> {
    let (entries, most, depth) = (half(node, 2)?, half(node, 4)?, half(node, 6)?);
    let fits = half(node, 0)? == MAGIC
        && entries <= most
        && depth <= MAX_DEPTH
        && expected.is_none_or(|expected| expected == depth);
    fits.then_some((usize::from(entries), node.get(ENTRY..)?))
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

    const BLOCK: u64 = 4096;

    fn node(depth: u16, entries: &[[u8; ENTRY]]) -> Vec<u8> {
        let mut node = Vec::new();
        for half in [MAGIC, entries.len() as u16, 340, depth, 0, 0] {
            node.extend_from_slice(&half.to_le_bytes());
        }
        node.extend(entries.iter().flatten());
        node
    }

    fn entry(block: u32, halves: [u16; 4]) -> [u8; ENTRY] {
        let mut entry = [0; ENTRY];
        entry[..4].copy_from_slice(&block.to_le_bytes());
        for (at, half) in halves.into_iter().enumerate() {
            entry[4 + 2 * at..6 + 2 * at].copy_from_slice(&half.to_le_bytes());
        }
        entry
    }

    fn extent(block: u32, length: u16, start: u64) -> [u8; ENTRY] {
        entry(
            block,
            [length, (start >> 32) as u16, start as u16, (start >> 16) as u16],
        )
    }

    fn index(block: u32, leaf: u64) -> [u8; ENTRY] {
        entry(block, [leaf as u16, (leaf >> 16) as u16, (leaf >> 32) as u16, 0])
    }

    fn read(root: &[u8], size: u64, block: impl Fn(u64) -> Option<Vec<u8>>) -> Option<Vec<DiskRun>> {
        let tree = Tree {
            block,
            block_bits: 12,
            size,
            nodes: Cell::new(MAX_NODES),
        };
        let mut runs = Vec::new();
        tree.node(root, None, &mut runs).map(|()| runs)
    }

    fn run(offset: u64, at: u64, bytes: u64) -> DiskRun {
        DiskRun {
            offset: offset * BLOCK,
            at: at * BLOCK,
            bytes,
        }
    }

    #[test]
    fn extents_stand_in_the_inode() {
        let unwritten = extent(4, INIT_MAX_LEN + 3, 900);
        let root = node(
            0,
            &[
                extent(0, 2, 0x1_2345_6789),
                unwritten,
                extent(8, 5, 77),
                extent(20, 1, 78),
            ],
        );
        let size = 9 * BLOCK + 100;
        let want = [run(0, 0x1_2345_6789, 2 * BLOCK), run(8, 77, BLOCK + 100)];
        assert_eq!(read(&root, size, |_| None).unwrap(), want);
    }

    #[test]
    fn deeper_nodes_are_read_from_the_cache_or_nothing_is_known() {
        let root = node(1, &[index(0, 500), index(10, 1 << 40 | 501)]);
        let block = |number| match number {
            500 => Some(node(0, &[extent(0, 10, 1000)])),
            0x100_0000_01F5 => Some(node(0, &[extent(10, 1, 2000)])),
            _ => None,
        };
        let want = [run(0, 1000, 10 * BLOCK), run(10, 2000, BLOCK)];
        assert_eq!(read(&root, 11 * BLOCK, block).unwrap(), want);
        assert_eq!(
            read(&root, 11 * BLOCK, |number| block(number).filter(|_| number == 500)),
            None
        );
    }

    #[test]
    fn a_node_that_is_being_changed_is_not_whole() {
        let mut whole = node(0, &[extent(0, 10, 1000)]);
        whole[4..6].copy_from_slice(&2u16.to_le_bytes());
        whole.resize(ENTRY * 3, 0);
        let check = crc32c(7, &whole);
        whole.extend_from_slice(&check.to_le_bytes());
        assert!(node_is_whole(7, &whole) && !node_is_whole(8, &whole));
        whole[14] ^= 1;
        assert!(!node_is_whole(7, &whole) && !node_is_whole(7, &[]));
    }

    #[test]
    fn torn_trees_are_not_believed_and_end() {
        let size = 1 << 30;
        let mut magic = node(0, &[extent(0, 1, 5)]);
        magic[0] = 0;
        let mut many = node(0, &[extent(0, 1, 5)]);
        many[2] = 4;
        let descending = node(0, &[extent(5, 1, 5), extent(0, 1, 6)]);
        let overlapping = node(0, &[extent(0, 9, 5), extent(8, 1, 99)]);
        let nowhere = node(0, &[extent(0, 1, 0)]);
        for bad in [&magic, &many, &descending, &overlapping, &nowhere, &Vec::new()] {
            assert_eq!(read(bad, size, |_| None), None);
        }
        // Wrong depth below, and a node that names itself.
        let root = node(2, &[index(0, 7)]);
        assert_eq!(read(&root, size, |_| Some(node(0, &[extent(0, 1, 5)]))), None);
        // A block's number is its depth here: 200 to the fifth nodes, none of which has an extent.
        let crowd = |depth: u64| node(depth as u16, &[index(0, depth.wrapping_sub(1)); 200]);
        let deeper = |depth| Some(if depth == 0 { node(0, &[]) } else { crowd(depth) });
        assert_eq!(read(&crowd(5), size, deeper), None);
    }
}
