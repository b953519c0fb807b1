//! vfat: what its disk does not have (`fs/fat/`).
//!
//! Everything that vfat writes but data of files lies in the page cache of the device, with a mark at each block that is newer:
//! the FATs and the directories. What is in the inode alone (size, first cluster, attributes, times) is written to the file's
//! entry in its directory, whose place the inode knows (`i_pos`, `__fat_write_inode()`). Data gets its blocks when it is written
//! to the page cache, so that the FAT says where all of it belongs.
//!
//! There is no log, and an operation changes one block after another: whoever puts the blocks on the disk has to look whether one was
//! under way. Names are changed under the lock of their directory, and what is known of a name (`struct dentry`) changes when
//! the operation has succeeded; so the names of directories that are locked are recorded too.
//!
//! vfat is a module upon another, `fat`, whose BTF has the structures.

use crate::addr::{Kva, PAGE_SHIFT, PAGE_SIZE};
use crate::block_devices;
use crate::context::Context;
use crate::dentry;
use crate::directories;
use crate::ext4::{self, is_write_locked};
use crate::inodes::{self, S_IFDIR, S_IFMT, S_IFREG};
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::page_cache::{buffer_at, entries, NEWER};
use crate::refusal::{Refusal, Result};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;
use shared_region::context::{FatBlock, FatDirectory, FatFileSystem, FatGeometry, FatInode};
use shared_region::reasons;

/// Type of the file system.
const NAME: &[u8] = b"vfat";
/// Name of the module that has its structures.
pub const MODULE: &str = "fat";
/// Blocks of the device that are newer than the disk.
const MAX_BLOCKS: usize = 1 << 20;
/// Inodes in memory.
const MAX_INODES: usize = 1 << 20;
/// Directories that somebody is changing, and dentries of one inode.
const MAX_CHANGING: usize = 256;
const MAX_ALIASES: u64 = 16;
/// `MSDOS_ROOT_INO`.
const ROOT: u64 = 1;
/// Attributes of an entry (`include/uapi/linux/msdos_fs.h`).
const ATTR_RO: u64 = 1;
const ATTR_DIR: u64 = 16;
/// `S_IWUGO`.
const S_IWUGO: u64 = 0o222;
/// Lowest bits of `mutex.owner` that say nothing of who holds it.
const MUTEX_FLAGS: u64 = 7;

crate::mirrors! {
    /// A mounted FAT.
    #[allow(missing_docs)]
    pub struct FatInfo = "msdos_sb_info" {
        sec_per_clus: Field,
        fats: Field,
        fat_bits: Field,
        fat_start: Field,
        fat_length: Field,
        dir_start: Field,
        dir_entries: Field,
        data_start: Field,
        max_cluster: Field,
        root_cluster: Field,
        fsinfo_sector: Field,
        fat_lock: Field = "fat_lock.owner.counter",
        s_lock: Field = "s_lock.owner.counter",
        prev_free: Field,
        fs_fmask: Field = "options.fs_fmask",
        fs_dmask: Field = "options.fs_dmask",
        time_offset: Field = "options.time_offset",
        tz_set: Field = "options.tz_set",
        rodir: Field = "options.rodir",
        vol_id: Field,
        dirty: Field,
    }

    /// An inode.
    #[allow(missing_docs)]
    pub struct FatInodeLayout = "msdos_inode_info" {
        i_start: Field,
        i_logstart: Field,
        i_attrs: Field,
        i_pos: Field,
        crtime: Field = "i_crtime.tv_sec",
        crtime_nsec: Field = "i_crtime.tv_nsec",
        i_rwsem: Field = "vfs_inode.i_rwsem.count.counter",
        vfs_inode: Field,
    }
}

crate::mirror_set! {
    /// The mirrors of vfat.
    pub struct Layouts {
        /// `struct msdos_sb_info`.
        info: FatInfo,
        /// `struct msdos_inode_info`.
        inode: FatInodeLayout,
    }
}

/// A mounted vfat.
#[derive(Clone, Debug)]
pub struct Vfat {
    layouts: Rc<Layouts>,
    superblock: Kva,
    info: Kva,
}

/// A regular file whose data belongs somewhere on the disk.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its `struct inode`.
    pub inode: Kva,
    /// Bytes.
    pub size: u64,
}

impl Vfat {
    /// That of a superblock; `None` if it is none, or its structures are not known, or an ordinary boot is to put files back,
    /// which mounts before anybody can write.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<Option<Self>> {
        if context.input.by_file || inodes::fs_type(context, superblock)? != NAME {
            return Ok(None);
        }
        let info = context.kernel.types.layouts.super_block.s_fs_info;
        let info = context.kernel.mem.ptr(superblock, info)?;
        Ok(context.vfat().map(|layouts| Self {
            layouts,
            superblock,
            info,
        }))
    }

    /// What its disk does not have, but for data of files, and the files that may have some.
    ///
    /// # Errors
    /// It cannot be read, or memory contradicts itself.
    pub fn read<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>) -> Result<(FatFileSystem, Vec<File>)> {
        let layouts = &context.kernel.types.layouts;
        let mem = &context.kernel.mem;
        let field = |field| mem.uint(self.info, field);
        let own = &self.layouts.info;
        let name = mem.text(self.superblock, layouts.super_block.s_id)?;
        let mut record = FatFileSystem {
            name: alloc::string::String::from_utf8_lossy(&name).into_owned(),
            disk: block_devices::of(context, mem.ptr(self.superblock, layouts.super_block.s_bdev)?)?,
            geometry: self.geometry(context)?,
            was_dirty: field(own.dirty)? != 0,
            last_allocated: field(own.prev_free)? as u32,
            local_offset: self.local_offset(context)?,
            ..FatFileSystem::default()
        };
        record.blocks = self.blocks(context, record.geometry.sector)?;
        let mut behind = !record.blocks.is_empty();
        let mut files = Vec::new();
        let mut positions = BTreeMap::new();
        let mut changing = Vec::new();
        for inode in inodes::in_memory(context, self.superblock) {
            let inode = inode?;
            let at = self.own(inode);
            if mem.ptr(inode, layouts.inode.i_sb)? != self.superblock || positions.len() >= MAX_INODES {
                return Err(Refusal::new(reasons::UNREADABLE, "its inodes"));
            }
            let mode = mem.uint(inode, layouts.inode.i_mode)?;
            let position = mem.uint(at, self.layouts.inode.i_pos)?;
            let is_held = is_write_locked(mem.uint(at, self.layouts.inode.i_rwsem)?);
            let is_gone = mem.uint(inode, layouts.inode.i_nlink)? == 0;
            behind |= is_held || is_gone || inodes::is_behind(context, inode)?;
            positions.insert(inode, position);
            if is_gone {
                continue;
            }
            if is_held && mode & S_IFMT == S_IFDIR {
                changing.push(inode);
            }
            // The root directory has no entry, and the number of its inode instead.
            if position <= ROOT {
                continue;
            }
            record.inodes.push(self.entry(context, inode, position)?);
            if mode & S_IFMT == S_IFREG {
                let size = mem.uint(inode, layouts.inode.i_size)?;
                files.push(File { inode, size });
            }
        }
        let is_held = |field| Ok::<bool, Refusal>(mem.uint(self.info, field)? & !MUTEX_FLAGS != 0);
        record.is_behind = behind || is_held(own.fat_lock)? || is_held(own.s_lock)?;
        if !record.is_behind {
            record.inodes.clear();
            files.clear();
        }
        if changing.len() > MAX_CHANGING {
            return Err(Refusal::new(reasons::UNREADABLE, "locks of its directories"));
        }
        for directory in changing {
            record.changing.push(self.names(context, directory, &positions)?);
        }
        Ok((record, files))
    }

    /// The `struct msdos_inode_info` around an inode.
    fn own(&self, inode: Kva) -> Kva {
        inode.back(u64::from(self.layouts.inode.vfs_inode.offset))
    }

    fn geometry<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>) -> Result<FatGeometry> {
        let mem = &context.kernel.mem;
        let own = &self.layouts.info;
        let field = |field| mem.uint(self.info, field);
        let bits = context.kernel.types.layouts.super_block.s_blocksize_bits;
        let bits = mem.uint(self.superblock, bits)?;
        if !(9..=u64::from(PAGE_SHIFT)).contains(&bits) {
            return Err(Refusal::new(reasons::UNREADABLE, "the size of a sector"));
        }
        let is_wide = field(own.fat_bits)? == 32;
        Ok(FatGeometry {
            sector: 1u32.wrapping_shl(bits as u32),
            cluster: field(own.sec_per_clus)? as u32,
            bits: field(own.fat_bits)? as u32,
            fats: field(own.fats)? as u32,
            fat_start: field(own.fat_start)?,
            fat_sectors: field(own.fat_length)?,
            root_start: field(own.dir_start)?,
            root_entries: field(own.dir_entries)? as u32,
            data_start: field(own.data_start)?,
            clusters: field(own.max_cluster)? as u32,
            root_cluster: field(own.root_cluster)? as u32,
            info_sector: if is_wide { field(own.fsinfo_sector)? } else { 0 },
            volume: field(own.vol_id)? as u32,
        })
    }

    /// What is added to a time before it is written (`fat_tz_offset()`, with the other sign).
    fn local_offset<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>) -> Result<i64> {
        let mem = &context.kernel.mem;
        let own = &self.layouts.info;
        if mem.uint(self.info, own.tz_set)? != 0 {
            return Ok(mem.int(self.info, own.time_offset)?.wrapping_mul(60));
        }
        let Some(zone) = context.kernel.prepared.globals.sys_tz else {
            return Err(Refusal::new(reasons::UNREADABLE, "the time zone"));
        };
        // `tz_minuteswest` is its first member.
        Ok(i64::from(mem.i32(zone)?).wrapping_mul(-60))
    }

    /// Blocks of the device that are newer than the disk, or being written.
    fn blocks<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, sector: u32) -> Result<Vec<FatBlock>> {
        let types = &context.kernel.types;
        let mem = &context.kernel.mem;
        let (layout, states) = (&types.layouts.buffer_head, &types.layouts.buffer_states);
        let bit = |bit: u32| 1u64.wrapping_shl(bit);
        let newer = bit(states.dirty) | bit(states.lock) | bit(states.async_write);
        let sector = u64::from(sector);
        let unsound = |what: &str, index: u64| {
            let detail = alloc::format!("{what} of page {index} of its device");
            Refusal::new(reasons::UNREADABLE, detail)
        };
        let mapping = ext4::device_mapping(context, self.superblock)?;
        let mut marked = BTreeMap::new();
        for mark in NEWER {
            for entry in entries(context, mapping)?.marked(mark) {
                let entry = entry?;
                marked.insert(entry.index, entry);
            }
        }
        let mut blocks = Vec::new();
        for (index, entry) in marked {
            let (pfn, flags, _) = context
                .pages
                .of_cache(&entry, mapping)
                .filter(|_| entry.value & 1 == 0)
                .ok_or_else(|| unsound("the frame", index))?;
            let page = Kva(entry.value & !3);
            let bytes = entry.span.clamp(1, 512).wrapping_mul(PAGE_SIZE);
            let start = index.wrapping_shl(PAGE_SHIFT);
            for at in (0..bytes).step_by(sector as usize) {
                let buffer = buffer_at(context, page, flags, at).ok_or_else(|| unsound("a block", index))?;
                let state = mem.uint(buffer, layout.b_state)?;
                if state & bit(states.uptodate) == 0 || state & newer == 0 {
                    continue;
                }
                let number = mem.uint(buffer, layout.b_blocknr)?;
                let is_there = start.wrapping_add(at) == number.wrapping_mul(sector);
                if !is_there || mem.uint(buffer, layout.b_size)? != sector || blocks.len() >= MAX_BLOCKS {
                    return Err(unsound("the number of a block", index));
                }
                blocks.push(FatBlock {
                    sector: number,
                    at: pfn.wrapping_shl(PAGE_SHIFT).wrapping_add(at),
                });
            }
        }
        Ok(blocks)
    }

    /// What `__fat_write_inode()` writes.
    fn entry<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva, position: u64) -> Result<FatInode> {
        let layout = &context.kernel.types.layouts.inode;
        let mem = &context.kernel.mem;
        let (at, own) = (self.own(inode), &self.layouts.inode);
        let time = |base: Kva, seconds: Field, nanoseconds: Field| -> Result<i64> {
            let seconds = mem.int(base, seconds)?.wrapping_mul(1_000_000_000);
            Ok(seconds.wrapping_add((mem.uint(base, nanoseconds)? & 0x3FFF_FFFF) as i64))
        };
        let mode = mem.uint(inode, layout.i_mode)?;
        let is_directory = mode & S_IFMT == S_IFDIR;
        let (start, logical) = (mem.uint(at, own.i_start)?, mem.uint(at, own.i_logstart)?);
        let size = mem.uint(inode, layout.i_size)?;
        let size = u32::try_from(size).ok().filter(|_| start == logical);
        let Some(size) = size else {
            let detail = alloc::format!("the file whose entry is {position}");
            return Err(Refusal::new(reasons::UNREADABLE, detail));
        };
        Ok(FatInode {
            id: inode.0,
            position,
            start: start as u32,
            size: if is_directory { 0 } else { size },
            attributes: self.attributes(context, at, mode)?,
            times: [
                time(inode, layout.mtime, layout.mtime_nsec)?,
                time(inode, layout.atime, layout.atime_nsec)?,
                time(at, own.crtime, own.crtime_nsec)?,
            ],
        })
    }

    /// Attributes of an entry (`fat_make_attrs()`, `fat_mode_can_hold_ro()`).
    fn attributes<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, at: Kva, mode: u64) -> Result<u8> {
        let mem = &context.kernel.mem;
        let own = &self.layouts.info;
        let mut attributes = mem.uint(at, self.layouts.inode.i_attrs)?;
        let is_directory = mode & S_IFMT == S_IFDIR;
        let mask = match is_directory {
            true => own.fs_dmask,
            false => own.fs_fmask,
        };
        let holds =
            (!is_directory || mem.uint(self.info, own.rodir)? != 0) && !mem.uint(self.info, mask)? & S_IWUGO != 0;
        if is_directory {
            attributes |= ATTR_DIR;
        }
        if holds && mode & S_IWUGO == 0 {
            attributes |= ATTR_RO;
        }
        Ok(attributes as u8)
    }

    /// What is known of names in a directory.
    fn names<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        directory: Kva,
        positions: &BTreeMap<Kva, u64>,
    ) -> Result<FatDirectory> {
        let layouts = &context.kernel.types.layouts;
        let mem = &context.kernel.mem;
        let mut record = FatDirectory {
            start: mem.uint(self.own(directory), self.layouts.inode.i_start)? as u32,
            names: Vec::new(),
        };
        let mut seen = BTreeSet::new();
        let aliases = directory.offset(u64::from(layouts.inode.i_dentry.offset));
        for parent in context
            .kernel
            .hlist(aliases, layouts.dentry.d_alias)
            .bounded(MAX_ALIASES)
        {
            directories::each_child(context, parent?, |child| {
                let is_hashed = !mem.ptr(child, layouts.dentry.pprev)?.is_null();
                if is_hashed && seen.insert(child) {
                    let inode = mem.ptr(child, layouts.dentry.d_inode)?;
                    let position = (!inode.is_null()).then(|| positions.get(&inode).copied().unwrap_or(0));
                    record.names.push((dentry::name(context, child)?, position));
                }
                Ok(true)
            })?;
        }
        Ok(record)
    }
}
