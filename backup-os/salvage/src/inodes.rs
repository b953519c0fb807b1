//! Files of file systems (`include/linux/fs.h`).
//!
//! Of a file that is written to, dirty, deleted or has no disk under it, all cached pages are recorded; any other is
//! read from its disk again.

use crate::addr::{Kva, Pfn};
use crate::btrfs;
use crate::containers::list::List;
use crate::context::Context;
use crate::dentry::{self, Path};
use crate::directories;
use crate::ext4;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::page_cache::{cached, entries, pages_of, NEWER};
use crate::refusal::{Refusal, Result};
use crate::xfs::Xfs;
use alloc::vec::Vec;
use shared_region::context::{FrameRun, Inode, NameGone, SharedMemory};
use shared_region::reasons;
use shared_region::record::{Kind, Writer};

/// `S_IFMT` and its values (`include/uapi/linux/stat.h`).
pub const S_IFMT: u64 = 0o170_000;
/// A regular file.
pub const S_IFREG: u64 = 0o100_000;
/// A directory.
pub const S_IFDIR: u64 = 0o040_000;
/// A character device.
pub const S_IFCHR: u64 = 0o020_000;
/// A FIFO.
pub const S_IFIFO: u64 = 0o010_000;
/// A socket.
pub const S_IFSOCK: u64 = 0o140_000;
/// `I_DIRTY_ALL`: inode, data attributes, pages, and times that are only in memory. The first three were bits 0 to 2 up to
/// Linux 6.11, and are 3 to 5 since; what the other kernel has there is rare, and dirty for safety.
const I_DIRTY: u64 = 0x3F | 1 << 11;
/// File systems that are looked at.
const MAX_FILE_SYSTEMS: u64 = 1 << 12;
/// Inodes of one of them.
const MAX_INODES: u64 = 1 << 24;
/// Longest name of a file system type.
const MAX_TYPE: usize = 32;
/// File systems on disks whose files are found again by path.
const DISK: [&[u8]; 7] = [b"ext4", b"ext3", b"ext2", b"xfs", b"btrfs", b"squashfs", b"iso9660"];
/// File systems without a disk, whose files are copied.
const MEMORY: [&[u8]; 4] = [b"tmpfs", b"ramfs", b"devtmpfs", b"rootfs"];

crate::mirrors! {
    /// A file.
    #[allow(missing_docs)]
    pub struct InodeLayout = "inode" {
        i_mode: Field,
        i_uid: Field,
        i_gid: Field,
        i_sb: Field,
        i_mapping: Field,
        i_data: Field,
        i_ino: Field,
        i_private: Field,
        i_nlink: Field = "__i_nlink" | "i_nlink",
        i_rdev: Field,
        i_blkbits: Field,
        i_size: Field,
        // One structure each up to Linux 6.10 (3aa63a569c64), then seconds and nanoseconds apart.
        atime: Field = "i_atime_sec" | "i_atime.tv_sec" | "__i_atime.tv_sec",
        atime_nsec: Field = "i_atime_nsec" | "i_atime.tv_nsec" | "__i_atime.tv_nsec",
        mtime: Field = "i_mtime_sec" | "i_mtime.tv_sec" | "__i_mtime.tv_sec",
        mtime_nsec: Field = "i_mtime_nsec" | "i_mtime.tv_nsec" | "__i_mtime.tv_nsec",
        ctime: Field = "i_ctime_sec" | "__i_ctime.tv_sec" | "i_ctime.tv_sec",
        ctime_nsec: Field = "i_ctime_nsec" | "__i_ctime.tv_nsec" | "i_ctime.tv_nsec",
        i_state: Field,
        i_rwsem_owner: Field = "i_rwsem.owner.counter",
        i_writecount: Field = "i_writecount.counter",
        i_flctx: Field,
        i_generation: Field,
        i_version: Field = "i_version.counter",
        i_sb_list: Field,
        i_dentry: Field,
    }

    /// A mounted file system.
    #[allow(missing_docs)]
    pub struct SuperBlock = "super_block" {
        s_dev: Field,
        s_type: Field,
        s_flags: Field,
        s_fs_info: Field,
        s_op: Field,
        s_bdev: Field,
        s_uuid: Field,
        s_blocksize_bits: Field,
        s_list: Field,
        s_inodes: Field,
        s_id: Field,
    }

    /// A type of file system.
    #[allow(missing_docs)]
    pub struct FileSystemType = "file_system_type" {
        name: Field,
        fs_flags: Field,
    }

    /// A file of shmem.
    #[allow(missing_docs)]
    pub struct ShmemInode = "shmem_inode_info" {
        vfs_inode: Field,
        seals: Field,
        swapped: Field,
    }

}

/// The name of a superblock's type. The initial RAM file system has the name of what it is made of.
///
/// # Errors
/// It cannot be read.
pub fn fs_type<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<Vec<u8>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let kind = mem.ptr(superblock, layouts.super_block.s_type)?;
    Ok(mem.cstr(mem.ptr(kind, layouts.file_system_type.name)?, MAX_TYPE)?)
}

/// Whether an inode is shared memory without a path: on the kernel's own mount of tmpfs.
///
/// # Errors
/// It cannot be read.
pub fn is_anonymous_shmem<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<bool> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let Some(variable) = context.kernel.prepared.globals.shm_mnt else {
        return Ok(false);
    };
    let vfsmount = mem.pointer(variable)?;
    let own = mem.ptr(vfsmount.back(u64::from(layouts.mount.mnt.offset)), layouts.mount.mnt_sb)?;
    Ok(mem.ptr(inode, layouts.inode.i_sb)? == own)
}

/// Refuses files that cannot be mapped or opened again by path.
///
/// # Errors
/// The reason.
pub fn check_mappable<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    if mem.uint(inode, layouts.inode.i_mode)? & S_IFMT != S_IFREG {
        return Err(Refusal::new(reasons::DEVICE_MEMORY, ""));
    }
    check_file_system(context, inode)
}

/// Refuses files of file systems that are not on the list.
///
/// # Errors
/// The name of the file system.
pub fn check_file_system<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<()> {
    let kind = fs_type(
        context,
        context.kernel.mem.ptr(inode, context.kernel.types.layouts.inode.i_sb)?,
    )?;
    if DISK.contains(&kind.as_slice()) || MEMORY.contains(&kind.as_slice()) {
        return Ok(());
    }
    Err(Refusal::new(
        reasons::FILE_SYSTEM,
        alloc::string::String::from_utf8_lossy(&kind),
    ))
}

/// The superblocks of all mounted file systems.
pub fn file_systems<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>) -> Vec<Kva> {
    let Some(head) = context.kernel.prepared.globals.super_blocks else {
        return Vec::new();
    };
    let member = context.kernel.types.layouts.super_block.s_list;
    let all = context.kernel.list(head, member).bounded(MAX_FILE_SYSTEMS);
    all.flatten().collect()
}

/// Every inode of a file system that is in memory.
pub fn in_memory<'k, 'm, M: PhysMem + ?Sized>(context: &Context<'k, 'm, M>, superblock: Kva) -> List<'k, 'm, M> {
    let layouts = &context.kernel.types.layouts;
    let head = superblock.offset(u64::from(layouts.super_block.s_inodes.offset));
    context.kernel.list(head, layouts.inode.i_sb_list).bounded(MAX_INODES)
}

/// Whether an inode or one of its pages has not been written to its disk, as far as the file system tells it.
///
/// # Errors
/// It cannot be read.
pub fn is_behind<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<bool> {
    let state = context
        .kernel
        .mem
        .uint(inode, context.kernel.types.layouts.inode.i_state)?;
    Ok(state & I_DIRTY != 0 || has_new_pages(context, inode)?)
}

/// Whether a page of an inode is dirty or under writeback.
///
/// # Errors
/// It cannot be read.
pub fn has_new_pages<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<bool> {
    let field = context.kernel.types.layouts.inode.i_mapping;
    let mapping = context.kernel.mem.ptr(inode, field)?;
    for mark in NEWER {
        if entries(context, mapping)?.marked(mark).next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether files of this type of file system have no disk and are copied.
pub fn is_in_memory(fstype: &[u8]) -> bool {
    MEMORY.contains(&fstype)
}

/// Whether files of this type of file system are found again on a disk.
pub fn is_on_disk(fstype: &[u8]) -> bool {
    DISK.contains(&fstype)
}

/// Writes an inode and, where they are needed, its cached pages, and the directories above it. `path` is one of its
/// names.
///
/// # Errors
/// It cannot be read, has a page that is no good, or there is no room.
pub fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    inode: Kva,
    path: &Path,
) -> Result<()> {
    write_as(context, writer, retained, inode, path, As::default())
}

/// How a file is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct As {
    /// Pages of which not all blocks are known are left out, because they are recorded elsewhere; else there must be none.
    pub parts_follow: bool,
    /// It has its name, whatever its links count, and the directories above are recorded elsewhere.
    pub named: bool,
}

/// As [`write`], in another way.
///
/// # Errors
/// As [`write`].
pub fn write_as<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    inode: Kva,
    path: &Path,
    how: As,
) -> Result<()> {
    if is_anonymous_shmem(context, inode)? {
        return write_shared_memory(context, writer, retained, inode, path);
    }
    let hidden = || {
        Refusal::new(
            reasons::HIDDEN_PATH,
            alloc::string::String::from_utf8_lossy(&path.bytes),
        )
    };
    let in_first = dentry::in_first(context, path)?.filter(|path| !path.detached);
    let path = &in_first.ok_or_else(hidden)?;
    if !context.first(Kind::Inode, inode.0) {
        return Ok(());
    }
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.inode;
    let mem = &context.kernel.mem;
    let superblock = mem.ptr(inode, layout.i_sb)?;
    let mapping = mem.ptr(inode, layout.i_mapping)?;
    let mut fstype = fs_type(context, superblock)?;
    let in_memory = is_in_memory(&fstype);
    if fstype == b"rootfs" {
        let shmem = context.symbol(mem.ptr(mapping, layouts.address_space.a_ops)?);
        fstype = if shmem.as_deref() == Some("shmem_aops") {
            b"tmpfs".to_vec()
        } else {
            b"ramfs".to_vec()
        };
    }
    let mut record = record(context, inode, superblock, fstype)?;
    if how.named {
        record.nlink = record.nlink.max(1);
    }
    let deleted = path.deleted || record.nlink == 0;
    record.path = if deleted { Vec::new() } else { path.bytes.clone() };
    record.last_path = path.bytes.clone();
    if u64::from(record.mode) & S_IFMT != S_IFREG {
        record.dirty |= in_memory;
        writer.push(Kind::Inode, 1, 0, inode.0, &record)?;
        return directories::write_above(context, writer, path);
    }

    let mut cached = cached(context, mapping, record.size)?;
    if let Some(page) = cached.in_part.filter(|_| !how.parts_follow) {
        let page = alloc::format!("page {page} was read only in part");
        return Err(Refusal::new(reasons::UNREADABLE, page));
    }
    let written_to =
        mem.int(inode, layout.i_writecount)? > 0 || mem.int(mapping, layouts.address_space.i_mmap_writable)? > 0;
    let is_ext4 = ext4::is_ext4(context, superblock)?;
    let xfs = Xfs::of(context, superblock)?;
    let btrfs = btrfs::of_inode(context, superblock, inode)?;
    // The file system tells what its disk has.
    let tells = is_ext4 || xfs.is_some() || btrfs.is_some();
    let ahead = if is_ext4 {
        ext4::ahead(context, inode, superblock, record.size)?
    } else if let Some(xfs) = &xfs {
        xfs.ahead(context, inode)?
    } else if let Some(btrfs) = &btrfs {
        btrfs.ahead(context, inode)?
    } else {
        // Other file systems do not tell what their journals have not written.
        ext4::Ahead {
            inode: written_to && !in_memory,
            content: written_to && !in_memory,
        }
    };
    record.dirty |= cached.dirty || ahead.inode;
    let wanted = record.dirty || written_to || deleted || in_memory;
    // What is not cached of a file in memory was never written: it is a hole.
    record.fully_cached = wanted && (in_memory || cached.pages >= pages_of(record.size));
    let disk = match (&xfs, &btrfs) {
        _ if !ahead.content && (!deleted || record.fully_cached) => None,
        (Some(xfs), _) => xfs.content(context, inode)?,
        (_, Some(btrfs)) if !deleted => btrfs.content(context, inode)?,
        _ if is_ext4 => ext4::content(context, inode, superblock, record.size)?,
        _ => None,
    };
    if ahead.content && disk.is_none() {
        if tells && !record.fully_cached {
            let path = alloc::string::String::from_utf8_lossy(&record.last_path).into_owned();
            return Err(Refusal::new(reasons::BLOCKS_UNKNOWN, path));
        }
        // Where its blocks are on the disk may not be where they are looked for: all that is cached goes back.
        cached.all_dirty();
    }
    let blocks_tell_nothing = || match &btrfs {
        Some(btrfs) => btrfs.is_inline(context, inode),
        None => Ok(is_ext4 && ext4::journals_data(context, inode, superblock)?),
    };
    if ahead.content && blocks_tell_nothing()? {
        cached.all_dirty();
    }
    let unlinked = deleted && record.nlink == 0 && ahead.inode && is_ext4;
    writer.push(Kind::Inode, 1, 0, inode.0, &record)?;
    if let Some(disk) = disk {
        writer.push(Kind::DiskContent, 1, 0, inode.0, &disk)?;
        if let Some(btrfs) = &btrfs {
            if let Some(blocks) = btrfs.uncached(context, inode, &cached.runs)? {
                writer.push(Kind::UncachedBlocks, 1, 0, inode.0, &blocks)?;
            }
        }
    }
    if wanted {
        write_runs(context, writer, retained, inode, &cached.runs)?;
        cached.swapped.write(context, writer, inode.0)?;
    }
    if unlinked {
        write_name(context, writer, retained, inode, path)?;
    }
    if how.named {
        return Ok(());
    }
    directories::write_above(context, writer, path)
}

/// Of a file that was deleted just before: the file that has its name now, or that the name is gone. The disk may still
/// know the old one by it.
fn write_name<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    inode: Kva,
    path: &Path,
) -> Result<()> {
    let Some((dentry, successor)) = directories::successor(context, path)? else {
        // A name that is not in memory may be one all the same.
        if directories::may_have_name(context, path)? {
            return Ok(());
        }
        let name = NameGone {
            path: path.bytes.clone(),
        };
        return Ok(writer.push(Kind::NameGone, 1, 0, inode.0, &name)?);
    };
    let layouts = &context.kernel.types.layouts;
    if context.kernel.mem.uint(successor, layouts.inode.i_mode)? & S_IFMT != S_IFREG {
        return Ok(());
    }
    let path = Path {
        bytes: path.bytes.clone(),
        dentry,
        deleted: false,
        ..*path
    };
    write(context, writer, retained, successor, &path)
}

/// The device number by which records tell an inode from those of other file systems: on btrfs each subvolume has its own.
///
/// # Errors
/// It cannot be read.
pub fn device<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva, inode: Kva) -> Result<u64> {
    match btrfs::of_inode(context, superblock, inode)? {
        Some(subvolume) => Ok(subvolume.device()),
        None => {
            let field = context.kernel.types.layouts.super_block.s_dev;
            Ok(context.kernel.mem.uint(superblock, field)?)
        }
    }
}

/// What every kind of file has. Names, and what depends on cached pages, are left to the caller.
///
/// # Errors
/// It cannot be read.
pub fn record<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    inode: Kva,
    superblock: Kva,
    fstype: Vec<u8>,
) -> Result<Inode> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.inode;
    let mem = &context.kernel.mem;
    let field = |field| mem.uint(inode, field);
    let time = |seconds: Field, nanoseconds: Field| -> Result<i64> {
        let seconds = mem.int(inode, seconds)?.wrapping_mul(1_000_000_000);
        // From Linux 6.13 on the upper bits of the nanoseconds of ctime have flags (4e40eff0b573).
        Ok(seconds.wrapping_add((mem.uint(inode, nanoseconds)? & 0x3FFF_FFFF) as i64))
    };
    Ok(Inode {
        path: Vec::new(),
        last_path: Vec::new(),
        number: field(layout.i_ino)?,
        generation: field(layout.i_generation)? as u32,
        device: device(context, superblock, inode)?,
        fstype,
        mode: field(layout.i_mode)? as u32,
        uid: field(layout.i_uid)? as u32,
        gid: field(layout.i_gid)? as u32,
        size: field(layout.i_size)?,
        nlink: field(layout.i_nlink)? as u32,
        times: [
            time(layout.atime, layout.atime_nsec)?,
            time(layout.mtime, layout.mtime_nsec)?,
            time(layout.ctime, layout.ctime_nsec)?,
        ],
        dirty: field(layout.i_state)? & I_DIRTY != 0,
        fully_cached: false,
    })
}

/// Writes shared memory without a path, unless it is written.
///
/// # Errors
/// It cannot be read, or there is no room.
pub fn write_shared_memory<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    inode: Kva,
    path: &Path,
) -> Result<()> {
    if !context.first(Kind::SharedMemory, inode.0) {
        return Ok(());
    }
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let info = inode.back(u64::from(layouts.shmem_inode.vfs_inode.offset));
    let size = mem.uint(inode, layouts.inode.i_size)?;
    let cached = cached(context, mem.ptr(inode, layouts.inode.i_mapping)?, size)?;
    let name = match path.bytes.as_slice() {
        b"/dev/zero" | b"/" => b"/dev/zero".to_vec(),
        other => other.to_vec(),
    };
    let record = SharedMemory {
        size,
        seals: if name.starts_with(b"/memfd:") {
            Some(mem.uint(info, layouts.shmem_inode.seals)? as u32)
        } else {
            None
        },
        name,
        swapped: 0,
        mode: mem.uint(inode, layouts.inode.i_mode)? as u32,
    };
    writer.push(Kind::SharedMemory, 1, 0, inode.0, &record)?;
    write_runs(context, writer, retained, inode, &cached.runs)?;
    cached.swapped.write(context, writer, inode.0)
}

/// Writes frames of a file or of shared memory, and retains them.
///
/// # Errors
/// There is no room.
pub fn write_runs<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    inode: Kva,
    runs: &[FrameRun],
) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let mut record = writer.begin_flat(Kind::Frames, 1, 0, inode.0);
    for run in runs {
        record.extend(&run.to_bytes())?;
        context.retain(retained, Pfn(run.pfn()), run.pages());
        context.tally.file_frames = context.tally.file_frames.wrapping_add(run.pages());
    }
    record.finish()?;
    Ok(())
}
