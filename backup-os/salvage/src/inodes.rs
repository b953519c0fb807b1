//! Files of file systems, and what the page cache holds of them (`include/linux/fs.h`, `mm/filemap.c`).
//!
//! Of a file that is written to, dirty, deleted or has no disk under it, all cached pages are recorded; any other is
//! read from its disk again.

use crate::addr::{Kva, Pfn, PAGE_SHIFT};
use crate::context::Context;
use crate::dentry::Path;
use crate::directories;
use crate::ext4;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use crate::tables::{PAGECACHE_TAG_DIRTY, PAGECACHE_TAG_WRITEBACK};
use alloc::vec::Vec;
use shared_region::context::{frame_kind, FrameRun, Inode, NameGone, SharedMemory};
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
        s_op: Field,
        s_bdev: Field,
        s_uuid: Field,
        s_blocksize_bits: Field,
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

    /// A block in the page cache.
    #[allow(missing_docs)]
    pub struct BufferHead = "buffer_head" {
        b_state: Field,
        b_this_page: Field,
        b_size: Field,
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

/// Whether files of this type of file system have no disk and are copied.
pub fn is_in_memory(fstype: &[u8]) -> bool {
    MEMORY.contains(&fstype)
}

/// Whether files of this type of file system are found again on a disk.
pub fn is_on_disk(fstype: &[u8]) -> bool {
    DISK.contains(&fstype)
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

impl Cached {
    /// Nothing of it may be looked for on the disk.
    fn all_dirty(&mut self) {
        for run in &mut self.runs {
            *run = FrameRun::new(run.va, run.pfn(), run.pages(), frame_kind::FILE_DIRTY);
        }
    }
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
    let deleted = path.deleted || record.nlink == 0;
    record.path = if deleted { Vec::new() } else { path.bytes.clone() };
    record.last_path = path.bytes.clone();
    if u64::from(record.mode) & S_IFMT != S_IFREG {
        record.dirty |= in_memory;
        writer.push(Kind::Inode, 1, 0, inode.0, &record)?;
        return directories::write_above(context, writer, path);
    }

    let mut cached = cached(context, mapping, record.size)?;
    if cached.swapped != 0 {
        return Err(Refusal::new(
            reasons::SWAPPED,
            alloc::format!("{} pages of a file in memory", cached.swapped),
        ));
    }
    let written_to =
        mem.int(inode, layout.i_writecount)? > 0 || mem.int(mapping, layouts.address_space.i_mmap_writable)? > 0;
    let is_ext4 = ext4::is_ext4(context, superblock)?;
    let ahead = if is_ext4 {
        ext4::ahead(context, inode, superblock, record.size)?
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
    let disk = if is_ext4 && (ahead.content || (deleted && !record.fully_cached)) {
        ext4::content(context, inode, superblock, record.size)?
    } else {
        None
    };
    if ahead.content && disk.is_none() {
        if is_ext4 && !record.fully_cached {
            let path = alloc::string::String::from_utf8_lossy(&record.last_path).into_owned();
            return Err(Refusal::new(reasons::BLOCKS_UNKNOWN, path));
        }
        // Where its blocks are on the disk may not be where they are looked for: all that is cached goes back.
        cached.all_dirty();
    }
    let unlinked = deleted && record.nlink == 0 && ahead.inode && is_ext4;
    writer.push(Kind::Inode, 1, 0, inode.0, &record)?;
    if let Some(disk) = disk {
        writer.push(Kind::DiskContent, 1, 0, inode.0, &disk)?;
    }
    if wanted {
        write_runs(context, writer, retained, inode, &cached.runs)?;
    }
    if unlinked {
        write_name(context, writer, retained, inode, path)?;
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
        device: mem.uint(superblock, layouts.super_block.s_dev)?,
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
    let operations = context.symbol(kernel.mem.ptr(mapping, kernel.types.layouts.address_space.a_ops)?);
    let is_shmem = operations.as_deref() == Some("shmem_aops");
    let mut cached = Cached::default();
    for entry in kernel.xarray(array)? {
        let entry = entry?;
        if entry.value & VALUE_ENTRY != 0 {
            // In shmem, and there alone, a value is a page on swap.
            if is_shmem {
                cached.swapped = cached.swapped.wrapping_add(entry.span.max(1));
            }
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
            // In shmem it was set aside (`fallocate`) and never written: it reads as zeros.
            if is_dirty && !is_shmem {
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
    let bytes = span.clamp(1, FrameRun::MAX_PAGES) << PAGE_SHIFT;
    let inside = size.saturating_sub(index.wrapping_shl(PAGE_SHIFT)).min(bytes);
    let mut valid = has_buffers(context, flags);
    each_buffer(context, page, bytes, |at, is_valid| valid &= at >= inside || is_valid).is_ok() && valid
}

/// Whether the block at `at` bytes into a page or folio is up to date.
pub fn buffer_is_valid<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, page: Kva, flags: u64, at: u64) -> bool {
    if !has_buffers(context, flags) {
        return flags & 1u64.wrapping_shl(context.kernel.types.layouts.page_flags.uptodate) != 0;
    }
    let mut valid = false;
    let bytes = at.saturating_add(crate::addr::PAGE_SIZE);
    // A folio of several pages may have more behind it.
    let _ = each_buffer(context, page, bytes, |offset, is_valid| {
        valid |= offset == at && is_valid
    });
    valid
}

fn has_buffers<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, flags: u64) -> bool {
    let private = context.kernel.types.layouts.page_flags.private;
    private.is_some_and(|bit| flags & 1u64.wrapping_shl(bit) != 0)
}

/// Shows the blocks of a page or folio of so many bytes: where each lies in it, and whether it is up to date.
fn each_buffer<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    page: Kva,
    bytes: u64,
    mut show: impl FnMut(u64, bool),
) -> Result<()> {
    /// Blocks are 512 bytes at least.
    const SMALLEST: u64 = 512;
    let types = &context.kernel.types;
    let mem = &context.kernel.mem;
    let layout = &types.layouts.buffer_head;
    let first = mem.ptr(page, types.page.private)?;
    let (mut at, mut offset) = (first, 0u64);
    for _ in 0..bytes / SMALLEST {
        let state = mem.uint(at, layout.b_state)?;
        show(
            offset,
            state & 1u64.wrapping_shl(types.layouts.buffer_states.uptodate) != 0,
        );
        offset = offset.saturating_add(mem.uint(at, layout.b_size)?);
        at = mem.ptr(at, layout.b_this_page)?;
        if at == first {
            return Ok(());
        }
    }
    Err(Refusal::new(reasons::UNREADABLE, "blocks of a page without end"))
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
