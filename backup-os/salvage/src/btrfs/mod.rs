//! btrfs: what its last commit does not have (`fs/btrfs/`).
//!
//! A commit writes a whole new tree. Until then what was changed is in blocks of the tree in memory that are newer than the last
//! commit ([`tree`]), in what is to be done to inodes' items (`struct btrfs_delayed_node`), and in extents of data that the tree is
//! not told of yet (`struct btrfs_ordered_extent`). An inode says in which transaction it was changed last
//! (`btrfs_inode.last_trans`), and its item does (`transid`). Whoever gives or takes a name changes the inode's own item of names
//! (`BTRFS_INODE_REF_KEY`), so that these are all names that were given, and say which were taken away; entries of directories, which
//! are delayed, are not needed.
//!
//! All of that is each subvolume's own: a file is known by its subvolume and its number. btrfs is a module, as XFS is.

mod block;
mod chunks;
mod layouts;
mod record;
mod subvolumes;
mod tree;

use self::block::{Block, InodeItem, Key};
pub use self::layouts::Layouts;
pub use self::record::InMemory;
pub use self::subvolumes::{of_inode, Btrfs, ROOT};
use self::tree::{Part, Taken, Tree};
use crate::addr::{Kva, PhysAddr, PAGE_SIZE};
use crate::context::Context;
use crate::ext4::{self, Ahead};
use crate::memory::PhysMem;
use crate::page_cache::cached;
use crate::refusal::{Refusal, Result};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use shared_region::context::{self, DiskContent, DiskRun, FrameRun, PagePart};
use shared_region::reasons;

/// Type of the file system, and name of the module.
pub const NAME: &str = "btrfs";
/// Sizes of blocks (`BTRFS_MAX_METADATA_BLOCKSIZE`).
const NODE_SIZES: core::ops::RangeInclusive<u64> = 4096..=65536;
/// Extents of one file on their way to the disk.
const MAX_ORDERED: u64 = 1 << 20;
/// Longest name of a device.
const MAX_DEVICE_NAME: usize = 4096;
/// Directories above another.
const MAX_DEPTH: u32 = 4096;
/// `BTRFS_DELAYED_NODE_INODE_DIRTY` and `BTRFS_DELAYED_NODE_DEL_IREF` (`fs/btrfs/delayed-inode.h`).
const ITEM_IS_DELAYED: u64 = 1 << 1;
const NAMES_ARE_GONE: u64 = 1 << 2;

/// A mounted btrfs, without what its subvolumes have.
#[derive(Clone, Debug)]
struct FileSystem {
    layouts: Rc<Layouts>,
    superblock: Kva,
    info: Kva,
    /// The last transaction that the disk has.
    committed: u64,
}

/// A subvolume.
#[derive(Clone, Debug)]
pub struct Subvolume {
    of: FileSystem,
    root: Kva,
    number: u64,
    /// Device number by which records tell its files from those of others.
    device: u64,
    tree: Tree,
    /// Names by the directory that has them, as far as the tree says: the name, and the number that it leads to.
    by_directory: BTreeMap<u64, Vec<(Vec<u8>, u64)>>,
}

/// How far the disk is behind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// It does not have the inode as it is.
    pub inode: bool,
    /// It may not have the content as it is, but for pages with a mark.
    pub content: bool,
}

impl FileSystem {
    /// The name of the device, as it was given when the file system was mounted. What a mount says need not be one: up to Linux 6.7 it
    /// is; that of 6.12 is `none`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn device_name<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>) -> Result<Vec<u8>> {
        let mem = &context.kernel.mem;
        let devices = mem.ptr(self.info, self.layouts.info.fs_devices)?;
        let device = mem.ptr(devices, self.layouts.devices.latest_dev)?;
        let name = mem.ptr(device, self.layouts.device.name)?;
        let text = name.offset(u64::from(self.layouts.string.text.offset));
        Ok(mem.cstr(text, MAX_DEVICE_NAME)?)
    }

    /// The block at a place, as the file system counts them.
    fn block_at<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, at: u64) -> Result<Taken> {
        Ok(match self.buffer(context, at)? {
            Some(buffer) => self.block(context, buffer)?,
            None => Taken::Absent,
        })
    }

    /// The `struct extent_buffer` of the block at a place.
    fn buffer<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, at: u64) -> Result<Option<Kva>> {
        let layout = &self.layouts.info;
        let bits = context.kernel.mem.uint(self.info, layout.sectorsize_bits)?.min(63) as u32;
        let index = at.wrapping_shr(bits);
        let buffers = self.info.offset(u64::from(layout.buffer_radix.offset));
        let entry = context
            .kernel
            .xarray(buffers)?
            .within(index, index)
            .next()
            .transpose()?;
        Ok(entry.map(|entry| Kva(entry.value)))
    }

    fn block<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, buffer: Kva) -> Result<Taken> {
        let mem = &context.kernel.mem;
        let layout = &self.layouts.buffer;
        let size = mem.uint(self.info, self.layouts.info.nodesize)?;
        let valid = 1u64.wrapping_shl(self.layouts.buffer_bits.uptodate);
        let is_held = ext4::is_write_locked(mem.uint(buffer, layout.lock)?);
        if is_held || mem.uint(buffer, layout.bflags)? & valid == 0 || !NODE_SIZES.contains(&size) {
            return Ok(Taken::Busy);
        }
        let mut bytes = Vec::new();
        for index in 0..size / PAGE_SIZE {
            let page = self.page(context, buffer, index)?;
            bytes.extend(mem.bytes(context.kernel.phys_to_kva(page), PAGE_SIZE as usize)?);
        }
        let block = Block::parse(bytes, mem.uint(buffer, layout.start)?);
        Ok(block.map_or(Taken::Busy, Taken::Is))
    }

    /// Where a page of a block lies.
    fn page<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, buffer: Kva, index: u64) -> Result<PhysAddr> {
        let pages = buffer.offset(u64::from(self.layouts.buffer.pages.offset));
        let page = context.kernel.mem.pointer(pages.offset(index.wrapping_mul(8)))?;
        Ok(context.kernel.page_to_pfn(page)?.phys())
    }

    /// The `struct btrfs_inode` around an inode.
    fn own(&self, inode: Kva) -> Kva {
        inode.back(u64::from(self.layouts.inode.vfs_inode.offset))
    }

    /// The extents of a file that the tree is not told of yet.
    fn ordered<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva) -> Result<Vec<Kva>> {
        let tree = self
            .own(inode)
            .offset(u64::from(self.layouts.inode.ordered_tree.offset));
        let all = context.kernel.rbtree(tree, self.layouts.ordered.rb_node)?;
        let all: core::result::Result<_, _> = all.bounded(MAX_ORDERED).collect();
        Ok(all?)
    }

    fn uuid<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>) -> Result<[u8; 16]> {
        let uuid = u64::from(context.kernel.types.layouts.super_block.s_uuid.offset);
        Ok(context.kernel.mem.array::<16>(self.superblock.offset(uuid))?)
    }

    /// Where an extent is written to that the tree is not told of yet.
    fn on_its_way<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, extent: Kva) -> Result<Way> {
        let (layout, bits) = (&self.layouts.ordered, &self.layouts.ordered_bits);
        let field = |field| context.kernel.mem.uint(extent, field);
        let flags = field(layout.flags)?;
        let is = |bit: u32| flags & 1u64.wrapping_shl(bit) != 0;
        // Without the page cache nobody is told before all of it is written.
        if is(bits.nocow) || is(bits.ioerr) || (is(bits.direct) && !is(bits.io_done)) {
            return Ok(Way::Nothing);
        }
        if is(bits.compressed) || is(bits.encoded) {
            return Ok(Way::Unknown);
        }
        let bytes = match is(bits.truncated) {
            true => field(layout.truncated_len)?,
            false => field(layout.num_bytes)?,
        };
        Ok(Way::To(DiskRun {
            offset: field(layout.file_offset)?,
            at: field(layout.disk_bytenr)?.saturating_add(field(layout.offset)?),
            bytes,
        }))
    }
}

impl Subvolume {
    /// Reads one.
    fn read<M: PhysMem + ?Sized>(
        context: &Context<'_, '_, M>,
        of: FileSystem,
        (number, root): (u64, Kva),
        device: u64,
    ) -> Result<Self> {
        let top = context.kernel.mem.ptr(root, of.layouts.root.node)?;
        let top = of.block(context, top)?;
        let tree = Tree::walk(top, of.committed, |at| of.block_at(context, at).unwrap_or(Taken::Busy));
        let mut found = Self {
            of,
            root,
            number,
            device,
            tree,
            by_directory: BTreeMap::new(),
        };
        if found.delayed(context).is_err() {
            found.tree.tear();
        }
        for (&number, inode) in &found.tree.inodes {
            for (directory, name) in &inode.names {
                let names = found.by_directory.entry(*directory).or_default();
                names.push((name.clone(), number));
            }
        }
        Ok(found)
    }

    /// Adds what is to be done to inodes' items yet.
    fn delayed<M: PhysMem + ?Sized>(&mut self, context: &Context<'_, '_, M>) -> Result<()> {
        let mem = &context.kernel.mem;
        let layout = &self.of.layouts.delayed;
        let nodes = self.root.offset(u64::from(self.of.layouts.root.delayed_nodes.offset));
        for entry in context.kernel.xarray(nodes)? {
            let entry = entry?;
            let node = Kva(entry.value);
            let flags = mem.uint(node, layout.flags)?;
            if flags & ITEM_IS_DELAYED != 0 {
                let item = node.offset(u64::from(layout.inode_item.offset));
                let item = InodeItem::parse(&mem.array::<{ InodeItem::BYTES }>(item)?);
                self.tree.inodes.entry(entry.index).or_default().item = item;
            }
            if flags & NAMES_ARE_GONE != 0 {
                let found = self.tree.inodes.entry(entry.index).or_default();
                found.names.clear();
                found.is_unlinked = true;
            }
        }
        Ok(())
    }

    /// Whether an inode is of this subvolume.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn has<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva) -> Result<bool> {
        let root = context.kernel.mem.ptr(self.of.own(inode), self.of.layouts.inode.root)?;
        Ok(root == self.root)
    }

    /// Device number by which records tell its files from those of others.
    pub const fn device(&self) -> u64 {
        self.device
    }

    /// What records tell of it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn record<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>) -> Result<context::Subvolume> {
        let device = context.kernel.types.layouts.super_block.s_dev;
        Ok(context::Subvolume {
            device: self.device,
            file_system: context.kernel.mem.uint(self.of.superblock, device)?,
            uuid: self.of.uuid(context)?,
            number: self.number,
        })
    }

    /// How far the disk is behind of a file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn behind<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva) -> Result<Behind> {
        let mem = &context.kernel.mem;
        let layouts = &context.kernel.types.layouts.inode;
        let number = mem.uint(inode, layouts.i_ino)?;
        let ordered = self.of.ordered(context, inode)?;
        let is_changed = mem.uint(self.of.own(inode), self.of.layouts.inode.last_trans)? > self.of.committed;
        let is_new = mem.uint(inode, layouts.i_generation)? > self.of.committed & u64::from(u32::MAX);
        let data = self.tree.data(number);
        let content = !ordered.is_empty() || (is_changed && (is_new || !data.is_as_on_disk()));
        Ok(Behind {
            inode: is_changed || !ordered.is_empty(),
            content,
        })
    }

    /// As [`Self::behind`], for what a record of a file asks.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn ahead<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva) -> Result<Ahead> {
        let Behind { inode, content } = self.behind(context, inode)?;
        Ok(Ahead { inode, content })
    }

    /// The size of a file that its disk knows or is told with the next commit, in bytes.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn disk_size<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva) -> Result<u64> {
        Ok(context
            .kernel
            .mem
            .uint(self.of.own(inode), self.of.layouts.inode.disk_i_size)?)
    }

    /// Where the written blocks of a file lie, for a record, as the file system counts them; what the tree itself has of it
    /// ([`Self::parts`]) is left out. `None` if that is not known.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn content<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        inode: Kva,
    ) -> Result<Option<DiskContent>> {
        let layouts = &context.kernel.types.layouts;
        let number = context.kernel.mem.uint(inode, layouts.inode.i_ino)?;
        let coverage = self.tree.data(number);
        let found = self.tree.inodes.get(&number);
        if !coverage.is_whole() || found.is_some_and(|found| found.is_torn) {
            return Ok(None);
        }
        let mut runs = Vec::new();
        for (offset, part) in found.iter().flat_map(|found| &found.parts) {
            match *part {
                Part::At(at, bytes, _) => runs.push(DiskRun {
                    offset: *offset,
                    at,
                    bytes,
                }),
                Part::Inline(..) => {}
                Part::Encoded => return Ok(None),
            }
        }
        for extent in self.of.ordered(context, inode)? {
            match self.of.on_its_way(context, extent)? {
                Way::To(run) => over(&mut runs, run),
                Way::Nothing => {}
                Way::Unknown => return Ok(None),
            }
        }
        let uuid = self.of.uuid(context)?;
        Ok(Some(DiskContent { uuid, runs }))
    }

    /// What only the dead kernel's file has and its cache has not, where it lies on the device: of a file whose hole was being
    /// made, for example, pages go before blocks. Read-only for everybody until the file system is mounted again: nobody else has
    /// these blocks.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn uncached<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        inode: Kva,
        cached: &[FrameRun],
    ) -> Result<Option<DiskContent>> {
        let mem = &context.kernel.mem;
        let layouts = &context.kernel.types.layouts.inode;
        let found = self.tree.inodes.get(&mem.uint(inode, layouts.i_ino)?);
        let size = mem.uint(inode, layouts.i_size)?;
        let mut runs = Vec::new();
        for (offset, part) in found.iter().flat_map(|found| &found.parts) {
            if let Part::At(at, bytes, generation) = *part {
                if generation > self.of.committed {
                    runs.extend(without(
                        cached,
                        DiskRun {
                            offset: *offset,
                            at,
                            bytes,
                        },
                        size,
                    ));
                }
            }
        }
        if runs.is_empty() {
            return Ok(None);
        }
        let chunks = self.of.chunks(context)?;
        for run in &mut runs {
            let Some(at) = chunks::place(&chunks, run.at, run.bytes) else {
                return Ok(None);
            };
            run.at = at;
        }
        let uuid = self.of.uuid(context)?;
        Ok(Some(DiskContent { uuid, runs }))
    }

    /// Whether the tree itself has the beginning of a file: it has no blocks there, as if there were nothing, and does not tell
    /// whether the disk has it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_inline<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva) -> Result<bool> {
        let layouts = &context.kernel.types.layouts.inode;
        let number = context.kernel.mem.uint(inode, layouts.i_ino)?;
        Ok(self.tree.inline(number).is_some())
    }

    /// What of a file stands in the tree itself and not in its cache, page by page.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn parts<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva) -> Result<Vec<PagePart>> {
        let layouts = &context.kernel.types.layouts;
        let mem = &context.kernel.mem;
        let number = mem.uint(inode, layouts.inode.i_ino)?;
        let Some((at, from, bytes)) = self.tree.inline(number) else {
            return Ok(Vec::new());
        };
        let size = mem.uint(inode, layouts.inode.i_size)?;
        let mapping = mem.ptr(inode, layouts.inode.i_mapping)?;
        let pages = cached(context, mapping, size)?;
        if pages.runs.first().is_some_and(|run| run.va == 0) {
            return Ok(Vec::new());
        }
        let unknown = || Refusal::new(reasons::UNREADABLE, "a block of its tree");
        let buffer = self.of.buffer(context, at)?.ok_or_else(unknown)?;
        let end = from.saturating_add(bytes.min(size));
        let (mut parts, mut start) = (Vec::new(), from);
        while start < end {
            let within = start % PAGE_SIZE;
            let length = (PAGE_SIZE.saturating_sub(within)).min(end.saturating_sub(start));
            let page = self.of.page(context, buffer, start / PAGE_SIZE)?;
            parts.push(PagePart {
                offset: start.saturating_sub(from),
                at: page.0.saturating_add(within),
                bytes: length as u32,
            });
            start = start.saturating_add(length);
        }
        Ok(parts)
    }

    /// Whether nobody knows a name of an inode: it is being made.
    pub fn is_nameless(&self, number: u64) -> bool {
        let found = self.tree.inodes.get(&number);
        self.names_are_known(number) && found.is_none_or(|found| found.names.is_empty())
    }

    /// Whether all names of an inode are known by the tree.
    fn names_are_known(&self, number: u64) -> bool {
        let found = self.tree.inodes.get(&number);
        let coverage = self.tree.coverage(Key::range(number, Key::NAMES, Key::FURTHER_NAMES));
        let is_torn = found.is_some_and(|found| found.is_torn);
        found.is_some_and(|found| found.is_unlinked) || (coverage.is_whole() && !is_torn)
    }
}

/// Where data is on its way to.
enum Way {
    To(DiskRun),
    /// It changes nothing about where the content is, or nobody was told of it yet.
    Nothing,
    Unknown,
}

/// The parts of a run below the end of its file that no page holds.
fn without(cached: &[FrameRun], run: DiskRun, size: u64) -> Vec<DiskRun> {
    let end = run.offset.saturating_add(run.bytes).min(size);
    let mut at = run.offset;
    let mut left = Vec::new();
    let mut leave = |from: u64, to: u64| {
        if from < to {
            left.push(DiskRun {
                offset: from,
                at: run.at.saturating_add(from.saturating_sub(run.offset)),
                bytes: to.saturating_sub(from),
            });
        }
    };
    for pages in cached {
        let (first, last) = (
            pages.va,
            pages.va.saturating_add(pages.pages().saturating_mul(PAGE_SIZE)),
        );
        if last > at && first < end {
            leave(at, first);
            at = last;
        }
    }
    leave(at, end);
    left
}

/// Lays a run over others.
fn over(runs: &mut Vec<DiskRun>, new: DiskRun) {
    let end = |run: &DiskRun| run.offset.saturating_add(run.bytes);
    let mut all = Vec::new();
    for run in runs.iter() {
        let (before, after) = (new.offset.min(end(run)), end(&new).max(run.offset));
        if run.offset < before {
            all.push(DiskRun {
                bytes: before.saturating_sub(run.offset),
                ..*run
            });
        }
        if after < end(run) {
            all.push(DiskRun {
                offset: after,
                at: run.at.saturating_add(after.saturating_sub(run.offset)),
                bytes: end(run).saturating_sub(after),
            });
        }
    }
    all.push(new);
    all.retain(|run| run.bytes != 0);
    all.sort_unstable_by_key(|run| run.offset);
    *runs = all;
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_region::context::frame_kind;

    #[test]
    fn what_no_page_holds_is_left() {
        let page = |page: u64, pages| FrameRun::new(page * PAGE_SIZE, 77, pages, frame_kind::FILE);
        let run = |from: u64, at: u64, bytes| DiskRun {
            offset: from * PAGE_SIZE,
            at: at * PAGE_SIZE,
            bytes,
        };
        let whole = run(2, 100, 8 * PAGE_SIZE);
        let cached = [page(0, 3), page(5, 1), page(7, 9)];
        let want = [run(3, 101, 2 * PAGE_SIZE), run(6, 104, PAGE_SIZE)];
        assert_eq!(without(&cached, whole, 100 * PAGE_SIZE), want);
        let end = 6 * PAGE_SIZE + 5;
        assert_eq!(without(&cached, whole, end), [want[0], run(6, 104, 5)]);
        assert_eq!(without(&[], whole, 2 * PAGE_SIZE), []);
        assert_eq!(without(&[page(0, 20)], whole, 100 * PAGE_SIZE), []);
    }

    #[test]
    fn a_run_lies_over_those_of_the_tree() {
        let run = |offset, at, bytes| DiskRun { offset, at, bytes };
        let mut runs = alloc::vec![run(0, 1000, 40), run(40, 2000, 10), run(60, 3000, 20)];
        over(&mut runs, run(10, 7000, 20));
        assert_eq!(
            runs[..4],
            [
                run(0, 1000, 10),
                run(10, 7000, 20),
                run(30, 1030, 10),
                run(40, 2000, 10)
            ]
        );
        over(&mut runs, run(35, 8000, 30));
        let want = [
            run(0, 1000, 10),
            run(10, 7000, 20),
            run(30, 1030, 5),
            run(35, 8000, 30),
            run(65, 3005, 15),
        ];
        assert_eq!(runs, want);
        over(&mut runs, run(90, 9000, 0));
        assert_eq!(runs, want, "nothing of it is left");
    }
}
