//! XFS: what its log on the disk does not have (`fs/xfs/`).
//!
//! A transaction pins the inodes that it has changed, until the part of the log that has them is on the disk
//! (`xfs_inode.i_pincount`), and a pinned inode stays in its allocation group's tree of inodes, also when it was freed
//! (`xfs_reclaim_inode`). So an inode that is not pinned comes back as it was, and so do its names, because whoever gives or takes
//! a name changes the inode as well (link count, time of change).
//!
//! XFS is a module: its BTF continues that of its kernel, and is read when a failure finds one mounted.

mod attribute_fork;
mod attributes;
mod extents;
mod layouts;

use self::attribute_fork::AttributeFork;
use self::attributes::Block;
use self::extents::{Extent, Geometry};
use self::layouts::Fork;
pub use self::layouts::Layouts;
use crate::addr::Kva;
use crate::context::Context;
use crate::dentry;
use crate::ext4::{self, Ahead};
use crate::inodes;
use crate::memory::PhysMem;
use crate::names::{self, Paths};
use crate::refusal::{Refusal, Result};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use shared_region::context::{Attribute, ChangedInode, ChangedInodes, DiskContent, Lost, Name, Names};
use shared_region::reasons;
use shared_region::record::{Kind, Writer};

/// Type of the file system, and name of the module.
pub const NAME: &str = "xfs";
/// Inodes of a file system that are in memory.
const MAX_INODES: usize = 1 << 24;
/// Extents of a file.
const MAX_EXTENTS: u64 = 1 << 22;
/// Levels of a tree of extents.
const MAX_HEIGHT: u64 = 16;
/// Blocks of an allocation group that are in memory.
const MAX_BUFFERS: u64 = 1 << 22;
/// What places on the device are counted in, in bytes.
const SECTOR: u64 = 512;
/// Blocks that attributes of one inode are looked for in.
const MAX_ATTRIBUTE_BLOCKS: u32 = 1 << 16;
/// Bytes of what stands in an inode.
const MAX_LOCAL: u64 = 4096;
/// `XFS_DINODE_FMT_LOCAL` and `XFS_DINODE_FMT_BTREE` (`fs/xfs/libxfs/xfs_format.h`).
const LOCAL: u64 = 1;
const BTREE: u64 = 3;
/// `XFS_DIFLAG_REALTIME`: the blocks are on another device.
const REALTIME: u64 = 1;

/// The `struct xfs_buf` of blocks, by their places.
type Buffers = BTreeMap<u64, Kva>;

/// What is known of an inode by its allocation group's tree.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its `struct inode`.
    pub inode: Kva,
    /// The log on the disk does not have it as it is.
    pub is_pinned: bool,
}

/// A mounted XFS.
#[derive(Clone, Debug)]
pub struct Xfs {
    layouts: Rc<Layouts>,
    superblock: Kva,
    mount: Kva,
}

impl Xfs {
    /// That of a superblock; `None` if it is none, or its structures are not known, or an ordinary boot is to put files back,
    /// which does not work on one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<Option<Self>> {
        if context.input.by_file || inodes::fs_type(context, superblock)? != NAME.as_bytes() {
            return Ok(None);
        }
        let info = context.kernel.types.layouts.super_block.s_fs_info;
        let mount = context.kernel.mem.ptr(superblock, info)?;
        Ok(context.xfs().map(|layouts| Self {
            layouts,
            superblock,
            mount,
        }))
    }

    /// The `struct xfs_inode` around an inode.
    fn own(&self, inode: Kva) -> Kva {
        inode.back(u64::from(self.layouts.inode.i_vnode.offset))
    }

    /// Whether the log on the disk does not have an inode as it is.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_ahead<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva) -> Result<bool> {
        let pins = context.kernel.mem.int(self.own(inode), self.layouts.inode.i_pincount)?;
        Ok(pins != 0)
    }

    /// The same, for what a record of a file asks.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn ahead<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva) -> Result<Ahead> {
        let is_ahead = self.is_ahead(context, inode)?;
        Ok(Ahead {
            inode: is_ahead,
            content: is_ahead,
        })
    }

    /// The size of a file that its disk is told with the next change of the inode, in bytes.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn disk_size<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva) -> Result<u64> {
        Ok(context
            .kernel
            .mem
            .uint(self.own(inode), self.layouts.inode.i_disk_size)?)
    }

    /// Where the written blocks of a file lie, for a record. `None` if that is not known, or if somebody was changing it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn content<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        inode: Kva,
    ) -> Result<Option<DiskContent>> {
        let mem = &context.kernel.mem;
        let (own, layout) = (self.own(inode), &self.layouts.inode);
        let is_held = ext4::is_write_locked(mem.uint(own, layout.i_lock)?);
        if is_held || mem.uint(own, layout.i_diflags)? & REALTIME != 0 {
            return Ok(None);
        }
        let Some(extents) = self.extents(context, own, &layout.data())? else {
            return Ok(None);
        };
        let geometry = self.geometry(context)?;
        let uuid = u64::from(context.kernel.types.layouts.super_block.s_uuid.offset);
        let uuid = mem.array::<16>(self.superblock.offset(uuid))?;
        let runs = geometry.runs(&extents);
        Ok(runs.filter(|_| uuid != [0; 16]).map(|runs| DiskContent { uuid, runs }))
    }

    fn geometry<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>) -> Result<Geometry> {
        let layout = &self.layouts.mount;
        let field = |field| context.kernel.mem.uint(self.mount, field);
        Ok(Geometry {
            group_blocks: field(layout.sb_agblocks)?,
            group_bits: field(layout.sb_agblklog)?.min(63) as u32,
            block_bits: field(layout.sb_blocklog)?.min(16) as u32,
        })
    }

    /// The extents of a fork (`fs/xfs/libxfs/xfs_iext_tree.c`). `None` if they are not in memory, or torn.
    fn extents<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        own: Kva,
        fork: &Fork,
    ) -> Result<Option<Vec<Extent>>> {
        /// Where the pointers of a node begin; records of a leaf, and where its successor stands.
        const POINTERS: u64 = 128;
        const RECORDS: u64 = 15;
        const NEXT: u64 = 248;
        let mem = &context.kernel.mem;
        let (height, format) = (mem.uint(own, fork.height)?, mem.uint(own, fork.format)?);
        let count = mem.uint(own, fork.bytes)?.wrapping_div(Extent::BYTES);
        let is_known = format != LOCAL && !(format == BTREE && height == 0);
        if !is_known || height > MAX_HEIGHT || count > MAX_EXTENTS || (height == 0) != (count == 0) {
            return Ok(None);
        }
        let mut at = mem.ptr(own, fork.data)?;
        for _ in 1..height {
            at = mem.pointer(at.offset(POINTERS))?;
        }
        let mut found: Vec<Extent> = Vec::new();
        let mut left = count;
        while left != 0 {
            // A root that is a leaf is only as long as its records.
            for index in 0..left.min(RECORDS) {
                let record = mem.array::<16>(at.offset(index.wrapping_mul(Extent::BYTES)))?;
                let Some(extent) = Extent::parse(&record) else {
                    break;
                };
                if found.last().is_some_and(|last| last.end() > extent.start) {
                    return Ok(None);
                }
                found.push(extent);
            }
            let now = count.saturating_sub(found.len() as u64);
            if now == left {
                return Ok(None);
            }
            left = now;
            if left != 0 {
                at = mem.pointer(at.offset(NEXT))?;
            }
        }
        Ok(Some(found))
    }

    /// Where a symbolic link leads; empty if that is not in the inode.
    fn target<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, own: Kva) -> Result<Vec<u8>> {
        let mem = &context.kernel.mem;
        let layout = &self.layouts.inode;
        let bytes = mem.uint(own, layout.df_bytes)?;
        if mem.uint(own, layout.df_format)? != LOCAL || bytes > MAX_LOCAL {
            return Ok(Vec::new());
        }
        Ok(mem.bytes(mem.ptr(own, layout.df_data)?, bytes as usize)?)
    }

    /// The blocks of the file system that are in memory: the `struct xfs_buf` of each, by where it lies on the device, in units of
    /// 512 bytes.
    fn buffers<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>) -> Result<Buffers> {
        let kernel = context.kernel;
        let mut found = Buffers::new();
        let groups = self.mount.offset(u64::from(self.layouts.mount.groups.offset));
        for group in kernel.xarray(groups)? {
            let mut table = kernel.mem.ptr(Kva(group?.value), self.layouts.group.buffers)?;
            // While it is made larger there is a second one.
            for _ in 0..2 {
                if table.is_null() {
                    break;
                }
                self.buffers_of(context, table, &mut found)?;
                table = kernel.mem.ptr(table, self.layouts.table.future_tbl)?;
            }
        }
        Ok(found)
    }

    fn buffers_of<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        table: Kva,
        found: &mut Buffers,
    ) -> Result<()> {
        let mem = &context.kernel.mem;
        let (layout, buffer) = (&self.layouts.table, &self.layouts.buffer);
        let size = mem.uint(table, layout.size)?;
        if mem.uint(table, layout.nest)? != 0 || size > MAX_BUFFERS {
            return Err(Refusal::new(reasons::UNREADABLE, "its table of blocks"));
        }
        let buckets = table.offset(u64::from(layout.buckets.offset));
        for index in 0..size {
            // The lowest bit of a bucket is its lock; a chain ends with an odd number.
            let mut link = mem.u64(buckets.offset(index.wrapping_mul(8)))? & !1;
            let mut left = MAX_BUFFERS;
            while link != 0 && link & 1 == 0 && left != 0 {
                let at = Kva(link).back(u64::from(buffer.b_rhash_head.offset));
                found.insert(mem.uint(at, buffer.b_rhash_key)?, at);
                link = mem.uint(at, buffer.b_rhash_head)?;
                left = left.wrapping_sub(1);
            }
        }
        Ok(())
    }

    /// Extended attributes in blocks of their own; `None` if one is not in memory, or makes no sense.
    fn attributes_in_blocks<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        own: Kva,
        buffers: &Buffers,
    ) -> Result<Option<Vec<Attribute>>> {
        let Some(fork) = AttributeFork::of(self, context, own, buffers)? else {
            return Ok(None);
        };
        let (mut at, mut found) = (0, Vec::new());
        for _ in 0..MAX_ATTRIBUTE_BLOCKS {
            let Some((place, bytes)) = fork.block(at)? else {
                return Ok(None);
            };
            let (entries, next) = match attributes::block(&bytes, fork.inode, place) {
                Some(Block::Leaf(entries, next)) => (entries, next),
                Some(Block::Node(first)) if found.is_empty() => {
                    at = first;
                    continue;
                }
                _ => return Ok(None),
            };
            for entry in entries {
                let Some(attribute) = fork.whole(entry)? else {
                    return Ok(None);
                };
                found.push(attribute);
            }
            match next {
                0 => return Ok(Some(found)),
                next => at = next,
            }
        }
        Ok(None)
    }

    /// Extended attributes; `None` if they are not all in memory, or somebody was changing them.
    fn attributes<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        own: Kva,
        buffers: &Buffers,
    ) -> Result<Option<Vec<Attribute>>> {
        let mem = &context.kernel.mem;
        let layout = &self.layouts.inode;
        let bytes = mem.uint(own, layout.af_bytes)?;
        if mem.uint(own, layout.i_forkoff)? == 0 || bytes == 0 {
            return Ok(Some(Vec::new()));
        }
        if mem.uint(own, layout.af_format)? != LOCAL {
            return match ext4::is_write_locked(mem.uint(own, layout.i_lock)?) {
                true => Ok(None),
                false => self.attributes_in_blocks(context, own, buffers),
            };
        }
        if bytes > MAX_LOCAL {
            return Ok(None);
        }
        let bytes = mem.bytes(mem.ptr(own, layout.af_data)?, bytes as usize)?;
        Ok(attributes::short_form(&bytes))
    }

    /// All inodes that are in memory, by number, also those that were freed.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn inodes<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>) -> Result<BTreeMap<u64, Known>> {
        let kernel = context.kernel;
        let layouts = &kernel.types.layouts;
        let mut found = BTreeMap::new();
        let groups = self.mount.offset(u64::from(self.layouts.mount.groups.offset));
        for group in kernel.xarray(groups)? {
            let tree = Kva(group?.value).offset(u64::from(self.layouts.group.pag_ici_root.offset));
            for entry in kernel.xarray(tree)? {
                let own = Kva(entry?.value);
                let inode = own.offset(u64::from(self.layouts.inode.i_vnode.offset));
                let known = Known {
                    inode,
                    is_pinned: self.is_ahead(context, inode)?,
                };
                if kernel.mem.ptr(inode, layouts.inode.i_sb)? != self.superblock || found.len() >= MAX_INODES {
                    return Err(Refusal::new(reasons::UNREADABLE, "its inodes"));
                }
                found.insert(kernel.mem.uint(inode, layouts.inode.i_ino)?, known);
            }
        }
        Ok(found)
    }

    /// Records names and attributes that the disk may not know, and tells what is not recorded. Returns a path of each inode
    /// that has one in a directory that has changed.
    ///
    /// # Errors
    /// The file system cannot be read, or there is no room.
    pub fn write_names<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        writer: &mut Writer<'_>,
        known: &BTreeMap<u64, Known>,
        file_system: &str,
        lost: &mut Vec<Lost>,
    ) -> Result<Paths> {
        let mut tell = |number: u64, why: Refusal| {
            let why = why.of(|| alloc::format!("inode {number}"));
            lost.push(why.lost_of(file_system.into()));
        };
        let changed = || known.iter().filter(|(_, known)| known.is_pinned);
        let mut all = ChangedInodes {
            device: context
                .kernel
                .mem
                .uint(self.superblock, context.kernel.types.layouts.super_block.s_dev)?,
            is_complete: true,
            inodes: Vec::new(),
        };
        let mut paths = Paths::new();
        let root = context.kernel.mem.uint(self.mount, self.layouts.mount.sb_rootino)?;
        // By its root directory the file system is found, whatever has changed.
        let root = known.get_key_value(&root).filter(|(_, known)| !known.is_pinned);
        for (&number, known) in root.into_iter().chain(changed()) {
            if known.is_pinned {
                all.inodes.push(self.changed(context, number, known.inode)?);
            }
            match self.names(context, known.inode) {
                Ok(Some(names)) => {
                    names::add_paths(&mut paths, &names);
                    writer.push(Kind::Names, 1, 0, known.inode.0, &names)?;
                }
                Ok(None) => {}
                Err(why) => {
                    // What has gone from another may be in it.
                    all.is_complete = false;
                    tell(number, why);
                }
            }
        }
        writer.push(Kind::ChangedInodes, 1, 0, self.superblock.0, &all)?;
        let buffers = self.buffers(context)?;
        for (&number, known) in changed() {
            let inode = known.inode;
            if all.of(number).is_none_or(|it| it.nlink == 0) && !paths.contains_key(&number) {
                continue;
            }
            let own = self.own(inode);
            let node = self.target(context, own).and_then(|target| {
                let attributes = self.attributes(context, own, &buffers)?;
                names::node(context, (self.superblock, inode), target, attributes)
            });
            match node {
                Ok(node) => {
                    if node.attributes.is_none() {
                        tell(number, Refusal::new(reasons::UNREADABLE, "extended attributes"));
                    }
                    writer.push(Kind::Node, 1, 0, inode.0, &node)?;
                }
                Err(why) => tell(number, why),
            }
        }
        Ok(paths)
    }

    fn changed<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        number: u64,
        inode: Kva,
    ) -> Result<ChangedInode> {
        let kernel = context.kernel;
        let layouts = &kernel.types.layouts;
        let nlink = match kernel.mem.uint(inode, layouts.inode.i_mode)? {
            0 => 0,
            _ => kernel.mem.uint(inode, layouts.inode.i_nlink)? as u32,
        };
        let names = dentry::count_of_inode(context, inode)?;
        Ok(ChangedInode {
            number,
            generation: kernel.mem.uint(inode, layouts.inode.i_generation)? as u32,
            nlink,
            names_are_known: names >= u64::from(nlink),
        })
    }

    /// What is known of the names in a directory.
    fn names<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva) -> Result<Option<Names>> {
        // Names without a dentry are the disk's, but for those of inodes that have changed: it is not complete.
        let Some(mut names) = names::of_directory(context, (self.superblock, inode))? else {
            return Ok(None);
        };
        let mut found = BTreeMap::new();
        names::overlay(context, (self.superblock, inode), &mut names, &mut found)?;
        for (name, (number, inode)) in found {
            let generation = context.kernel.types.layouts.inode.i_generation;
            let generation = Some(context.kernel.mem.uint(inode, generation)? as u32);
            names.entries.push(Name {
                name,
                number,
                generation,
            });
        }
        Ok(Some(names))
    }
}
