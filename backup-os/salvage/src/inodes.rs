//! Files of file systems, and what the page cache holds of them (`include/linux/fs.h`, `mm/filemap.c`).
//!
//! Of a file that is written to, dirty, deleted or has no disk under it, all cached pages are recorded; any other is
//! read from its disk again.

use crate::addr::{Kva, Pfn, PAGE_SHIFT};
use crate::context::Context;
use crate::dentry::Path;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use crate::tables::{PAGECACHE_TAG_DIRTY, PAGECACHE_TAG_WRITEBACK};
use alloc::vec::Vec;
use shared_region::context::{frame_kind, FrameRun, Inode, SharedMemory};
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
/// `I_DIRTY_ALL`: inode, data attributes, pages, and times that are only in memory.
const I_DIRTY: u64 = 1 | 2 | 4 | 1 << 11;
/// Longest name of a file system type.
const MAX_TYPE: usize = 32;
/// Bit 0 of a page cache entry that is no page: a shadow of an evicted one, or, in shmem, a swap entry.
const VALUE_ENTRY: u64 = 1;
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
        i_ino: Field,
        i_nlink: Field = "__i_nlink" | "i_nlink",
        i_rdev: Field,
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
    }

    /// A page cache.
    #[allow(missing_docs)]
    pub struct AddressSpaceLayout = "address_space" {
        i_pages: Field,
        i_mmap_writable: Field = "i_mmap_writable.counter",
        a_ops: Field,
    }

    /// A mounted file system.
    #[allow(missing_docs)]
    pub struct SuperBlock = "super_block" {
        s_dev: Field,
        s_type: Field,
        s_flags: Field,
        s_fs_info: Field,
    }

    /// A type of file system.
    #[allow(missing_docs)]
    pub struct FileSystemType = "file_system_type" {
        name: Field,
    }

    /// A file of shmem.
    #[allow(missing_docs)]
    pub struct ShmemInode = "shmem_inode_info" {
        vfs_inode: Field,
        seals: Field,
        swapped: Field,
    }

    /// A file of ext4.
    #[allow(missing_docs)]
    pub struct Ext4Inode = "ext4_inode_info" {
        vfs_inode: Field,
        i_disksize: Field,
        i_sync_tid: Field,
    }

    /// A mounted ext4.
    #[allow(missing_docs)]
    pub struct Ext4Super = "ext4_sb_info" {
        s_journal: Field,
    }

    /// A block in the page cache.
    #[allow(missing_docs)]
    pub struct BufferHead = "buffer_head" {
        b_state: Field,
        b_this_page: Field,
        b_size: Field,
    }

    /// A journal.
    #[allow(missing_docs)]
    pub struct Journal = "journal_s" {
        j_commit_sequence: Field,
    }
}

crate::constants! {
    /// Bits of `buffer_head.b_state`.
    pub struct BufferStates {
        /// Contents are valid.
        uptodate: u32 = "BH_Uptodate",
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

/// Cached pages of an inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cached {
    runs: Vec<FrameRun>,
    /// Pages recorded below the end of the file.
    pages: u64,
    dirty: bool,
    swapped: u64,
}

/// Writes an inode and, where they are needed, its cached pages. `path` is one of its names.
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
    if is_anonymous_shmem(context, inode)? {
        return write_shared_memory(context, writer, retained, inode, path);
    }
    if path.detached {
        let path = alloc::string::String::from_utf8_lossy(&path.bytes).into_owned();
        return Err(Refusal::new(reasons::HIDDEN_PATH, path));
    }
    if !context.first(Kind::Inode, inode.0) {
        return Ok(());
    }
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.inode;
    let mem = &context.kernel.mem;
    let field = |field| mem.uint(inode, field);
    let superblock = mem.ptr(inode, layout.i_sb)?;
    let mapping = mem.ptr(inode, layout.i_mapping)?;
    let size = field(layout.i_size)?;
    let mut fstype = fs_type(context, superblock)?;
    let in_memory = MEMORY.contains(&fstype.as_slice());
    if fstype == b"rootfs" {
        let shmem = context.symbol(mem.ptr(mapping, layouts.address_space.a_ops)?);
        fstype = if shmem.as_deref() == Some("shmem_aops") {
            b"tmpfs".to_vec()
        } else {
            b"ramfs".to_vec()
        };
    }
    let nlink = field(layout.i_nlink)? as u32;
    let cached = cached(context, mapping, size)?;
    let dirty = cached.dirty
        || field(layout.i_state)? & I_DIRTY != 0
        || (fstype == b"ext4" && ext4_is_ahead(context, inode, superblock, size)?);
    if cached.swapped != 0 {
        return Err(Refusal::new(
            reasons::SWAPPED,
            alloc::format!("{} pages of a file in memory", cached.swapped),
        ));
    }
    let written_to =
        mem.int(inode, layout.i_writecount)? > 0 || mem.int(mapping, layouts.address_space.i_mmap_writable)? > 0;
    let deleted = path.deleted || nlink == 0;
    let wanted = dirty || written_to || deleted || in_memory;

    let time = |seconds: Field, nanoseconds: Field| -> Result<i64> {
        let seconds = mem.int(inode, seconds)?.wrapping_mul(1_000_000_000);
        // From Linux 6.13 on the upper bits of the nanoseconds of ctime have flags (4e40eff0b573).
        Ok(seconds.wrapping_add((mem.uint(inode, nanoseconds)? & 0x3FFF_FFFF) as i64))
    };
    let record = Inode {
        path: if deleted { Vec::new() } else { path.bytes.clone() },
        last_path: path.bytes.clone(),
        number: field(layout.i_ino)?,
        generation: field(layout.i_generation)? as u32,
        device: mem.uint(superblock, layouts.super_block.s_dev)?,
        fstype,
        mode: field(layout.i_mode)? as u32,
        uid: field(layout.i_uid)? as u32,
        gid: field(layout.i_gid)? as u32,
        size,
        nlink,
        times: [
            time(layout.atime, layout.atime_nsec)?,
            time(layout.mtime, layout.mtime_nsec)?,
            time(layout.ctime, layout.ctime_nsec)?,
        ],
        dirty,
        // What is not cached of a file in memory was never written: it is a hole.
        fully_cached: wanted && (in_memory || cached.pages >= pages_of(size)),
    };
    writer.push(Kind::Inode, 1, 0, inode.0, &record)?;
    if wanted {
        write_runs(context, writer, retained, inode, &cached.runs)?;
    }
    Ok(())
}

/// Writes shared memory without a path.
fn write_shared_memory<M: PhysMem + ?Sized>(
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
    if cached.swapped != 0 {
        return Err(Refusal::new(
            reasons::SWAPPED,
            alloc::format!("{} pages of shared memory", cached.swapped),
        ));
    }
    let name = match path.bytes.as_slice() {
        b"/dev/zero" | b"/" => b"/dev/zero".to_vec(),
        other => other.to_vec(),
    };
    if name.starts_with(b"/SYSV") {
        return Err(Refusal::new(reasons::SYSV_SHM, ""));
    }
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
    write_runs(context, writer, retained, inode, &cached.runs)
}

fn write_runs<M: PhysMem + ?Sized>(
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

/// The cached pages of an inode.
fn cached<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mapping: Kva, size: u64) -> Result<Cached> {
    let kernel = context.kernel;
    let flags = &kernel.types.layouts.page_flags;
    let bit = |bit: u32| 1u64.wrapping_shl(bit);
    let poison = flags.hwpoison.map_or(0, bit);
    let (uptodate, dirty) = (bit(flags.uptodate), bit(flags.dirty));
    let array = mapping.offset(u64::from(kernel.types.layouts.address_space.i_pages.offset));
    let marked = 1u8 << PAGECACHE_TAG_DIRTY | 1 << PAGECACHE_TAG_WRITEBACK;
    let mut cached = Cached::default();
    for entry in kernel.xarray(array)? {
        let entry = entry?;
        if entry.value & VALUE_ENTRY != 0 {
            // In shmem, and there alone, a value is a page on swap.
            cached.swapped = cached.swapped.wrapping_add(entry.span.max(1));
            continue;
        }
        let Some((pfn, flags, _)) = context.pages.of_entry(Kva(entry.value & !3)) else {
            return Err(Refusal::new(
                reasons::UNREADABLE,
                alloc::format!("page {} of a file", entry.index),
            ));
        };
        if flags & poison != 0 {
            return Err(Refusal::new(
                reasons::POISONED,
                alloc::format!("page {} of a file", entry.index),
            ));
        }
        let is_dirty = entry.marks & marked != 0 || flags & dirty != 0;
        let whole = || blocks_are_whole(context, Kva(entry.value & !3), flags, entry.index, entry.span, size);
        if flags & uptodate == 0 && !whole() {
            if is_dirty {
                let page = alloc::format!("page {} was read only in part", entry.index);
                return Err(Refusal::new(reasons::UNREADABLE, page));
            }
            continue;
        }
        cached.dirty |= is_dirty;
        let kind = if is_dirty {
            frame_kind::FILE_DIRTY
        } else {
            frame_kind::FILE
        };
        let span = entry.span.clamp(1, FrameRun::MAX_PAGES);
        cached.pages = cached
            .pages
            .saturating_add(span.min(pages_of(size).saturating_sub(entry.index)));
        append(
            &mut cached.runs,
            FrameRun::new(entry.index.wrapping_shl(PAGE_SHIFT), pfn, span, kind),
        );
    }
    let shmem = context.symbol(kernel.mem.ptr(mapping, kernel.types.layouts.address_space.a_ops)?);
    if shmem.as_deref() != Some("shmem_aops") {
        cached.swapped = 0;
    }
    Ok(cached)
}

/// Whether every block of a page or folio that lies in the file is up to date: with blocks smaller than pages, the rest
/// of the last page never is.
fn blocks_are_whole<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    page: Kva,
    flags: u64,
    index: u64,
    span: u64,
    size: u64,
) -> bool {
    let types = &context.kernel.types;
    let mem = &context.kernel.mem;
    let layout = &types.layouts.buffer_head;
    let states = &types.layouts.buffer_states;
    let has_private = types.layouts.page_flags.private.map_or(0, |bit| 1u64.wrapping_shl(bit));
    if flags & has_private == 0 {
        return false;
    }
    let walk = || -> Result<bool> {
        let first = mem.ptr(page, types.page.private)?;
        let (mut at, mut offset) = (first, 0u64);
        // Blocks are 512 bytes at least.
        for _ in 0..span.max(1).saturating_mul(8) {
            let inside = index.wrapping_shl(PAGE_SHIFT).saturating_add(offset) < size;
            let valid = mem.uint(at, layout.b_state)? & 1u64.wrapping_shl(states.uptodate) != 0;
            if inside && !valid {
                return Ok(false);
            }
            offset = offset.saturating_add(mem.uint(at, layout.b_size)?);
            at = mem.ptr(at, layout.b_this_page)?;
            if at == first {
                return Ok(true);
            }
        }
        Ok(false)
    };
    walk().unwrap_or(false)
}

/// Appends a run, or lengthens the last.
fn append(runs: &mut Vec<FrameRun>, run: FrameRun) {
    if let Some(last) = runs.last_mut() {
        let pages = last.pages().wrapping_add(run.pages());
        let follows = last.kind() == run.kind()
            && last.va.wrapping_add(last.pages() << PAGE_SHIFT) == run.va
            && last.pfn().wrapping_add(last.pages()) == run.pfn();
        if follows && pages <= FrameRun::MAX_PAGES {
            *last = FrameRun::new(last.va, last.pfn(), pages, last.kind());
            return;
        }
    }
    runs.push(run);
}

/// Pages a file of so many bytes has.
const fn pages_of(size: u64) -> u64 {
    size.div_ceil(crate::addr::PAGE_SIZE)
}

/// Whether ext4's copy of an inode is behind: the size (delayed allocation), or the transaction that changed it last.
fn ext4_is_ahead<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    inode: Kva,
    superblock: Kva,
    size: u64,
) -> Result<bool> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let (Some(own), Some(mounted), Some(log)) = (&layouts.ext4_inode, &layouts.ext4_super, &layouts.journal) else {
        return Ok(true);
    };
    let info = inode.back(u64::from(own.vfs_inode.offset));
    if mem.uint(info, own.i_disksize)? != size {
        return Ok(true);
    }
    let journal = mem.ptr(mem.ptr(superblock, layouts.super_block.s_fs_info)?, mounted.s_journal)?;
    if journal.is_null() {
        return Ok(false);
    }
    // Transaction numbers wrap (`tid_gt`).
    let committed = mem.uint(journal, log.j_commit_sequence)? as u32;
    let changed = mem.uint(info, own.i_sync_tid)? as u32;
    Ok((changed.wrapping_sub(committed) as i32) > 0)
}
