//! The page cache of a file (`mm/filemap.c`, `include/linux/buffer_head.h`): which pages it has, and which of them the
//! disk does not know.

use crate::addr::{Kva, PAGE_SHIFT, PAGE_SIZE};
use crate::containers::xarray::{Entry, XArrayWalk};
use crate::context::Context;
use crate::inodes::fs_type;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::paging::SwapEntry;
use crate::refusal::{Refusal, Result};
use crate::swap::{self, Holder, Swapped};
use crate::tables::{PAGECACHE_TAG_DIRTY, PAGECACHE_TAG_WRITEBACK};
use crate::xfs;
use alloc::vec::Vec;
use shared_region::context::{frame_kind, FrameRun};
use shared_region::reasons;

/// Bit 0 of a page cache entry that is no page: a shadow of an evicted one, or, in shmem, a swap entry.
const VALUE_ENTRY: u64 = 1;

crate::mirrors! {
    /// A page cache.
    #[allow(missing_docs)]
    pub struct AddressSpaceLayout = "address_space" {
        host: Field,
        i_pages: Field,
        i_mmap_writable: Field = "i_mmap_writable.counter",
        nrpages: Field,
        a_ops: Field,
    }

    /// Which blocks of a page are up to date, where there are several.
    #[allow(missing_docs)]
    pub struct IomapState = "iomap_folio_state" {
        state: Field,
    }

    /// The same up to Linux 6.5 (cc86181a3b76).
    #[allow(missing_docs)]
    pub struct IomapPage = "iomap_page" {
        uptodate: Field,
    }

    /// A block in the page cache.
    #[allow(missing_docs)]
    pub struct BufferHead = "buffer_head" {
        b_state: Field,
        b_this_page: Field,
        b_size: Field,
        b_blocknr: Field,
        b_data: Field,
        b_bdev: Field,
        b_private: Field,
    }
}

crate::constants! {
    /// Bits of `buffer_head.b_state`.
    pub struct BufferStates {
        /// Contents are valid.
        uptodate: u32 = "BH_Uptodate",
        /// They are newer than the disk.
        dirty: u32 = "BH_Dirty",
        /// They are being written, or read.
        lock: u32 = "BH_Lock",
        /// They are being written with their page.
        async_write: u32 = "BH_Async_Write",
    }
}

/// Marks of pages that are newer than the disk.
pub const NEWER: [u8; 2] = [PAGECACHE_TAG_DIRTY, PAGECACHE_TAG_WRITEBACK];

/// The entries of a page cache.
///
/// # Errors
/// It cannot be read.
pub fn entries<'k, 'm, M: PhysMem + ?Sized>(
    context: &Context<'k, 'm, M>,
    mapping: Kva,
) -> Result<XArrayWalk<'k, 'm, M>> {
    let pages = context.kernel.types.layouts.address_space.i_pages;
    Ok(context.kernel.xarray(mapping.offset(u64::from(pages.offset)))?)
}

/// Cached pages of an inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cached {
    /// By ascending offset.
    pub runs: Vec<FrameRun>,
    /// Pages recorded below the end of the file.
    pub pages: u64,
    /// One of them is newer than the disk.
    pub dirty: bool,
    /// Pages of shmem that are on swap alone.
    pub swapped: swap::Pages,
    /// The first page that is newer than the disk and of which not all blocks are known; such pages are left out.
    pub in_part: Option<u64>,
}

impl Cached {
    /// Adds the pages that a file of shmem has on swap by one entry.
    fn add_swapped<M: PhysMem + ?Sized>(
        &mut self,
        context: &Context<'_, '_, M>,
        entry: &Entry,
        size: u64,
    ) -> Result<()> {
        let first = swap::of_value(entry.value);
        let in_file = pages_of(size).saturating_sub(entry.index);
        for i in 0..entry.span.max(1).min(in_file) {
            let index = entry.index.wrapping_add(i);
            let offset = index.wrapping_shl(PAGE_SHIFT);
            let slot = SwapEntry {
                offset: first.offset.wrapping_add(i),
                ..first
            };
            let name = || alloc::format!("page {index} of a file");
            match swap::look_up(context, slot, Holder::Shmem).map_err(|refusal| refusal.of(name))? {
                Swapped::Cached(pfn) => {
                    self.pages = self.pages.saturating_add(1);
                    self.dirty = true;
                    append(&mut self.runs, FrameRun::new(offset, pfn, 1, frame_kind::FILE_DIRTY));
                }
                Swapped::OnDisk(slot) => {
                    let bytes = size.saturating_sub(offset).min(PAGE_SIZE);
                    self.swapped.add(offset, slot, bytes)?;
                }
                Swapped::Zero => {}
                Swapped::Special(kind) => {
                    let what = alloc::format!("page {index} of a file, entry of type {kind}");
                    return Err(Refusal::new(reasons::SPECIAL_PAGE, what));
                }
            }
        }
        Ok(())
    }

    /// Nothing of it may be looked for on the disk.
    pub fn all_dirty(&mut self) {
        for run in &mut self.runs {
            *run = FrameRun::new(run.va, run.pfn(), run.pages(), frame_kind::FILE_DIRTY);
        }
    }
}

/// The cached pages of an inode.
///
/// # Errors
/// They cannot be read, or one is no good.
pub fn cached<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mapping: Kva, size: u64) -> Result<Cached> {
    let kernel = context.kernel;
    let flags = &kernel.types.layouts.page_flags;
    let bit = |bit: u32| 1u64.wrapping_shl(bit);
    let poison = flags.hwpoison.map_or(0, bit);
    let (uptodate, dirty) = (bit(flags.uptodate), bit(flags.dirty));
    let marked = NEWER
        .iter()
        .fold(0u8, |all, mark| all | 1u8.wrapping_shl(u32::from(*mark)));
    let operations = context.symbol(kernel.mem.ptr(mapping, kernel.types.layouts.address_space.a_ops)?);
    let is_shmem = operations.as_deref() == Some("shmem_aops");
    let mut cached = Cached::default();
    for entry in entries(context, mapping)? {
        let entry = entry?;
        if entry.value & VALUE_ENTRY != 0 {
            // In shmem, and there alone, a value is a page on swap.
            if is_shmem {
                cached.add_swapped(context, &entry, size)?;
            }
            continue;
        }
        let Some((pfn, flags, _)) = context.pages.of_cache(&entry, mapping) else {
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
                cached.dirty = true;
                cached.in_part.get_or_insert(entry.index);
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
    let bytes = at.saturating_add(PAGE_SIZE);
    // A folio of several pages may have more behind it.
    let _ = each_buffer(context, page, bytes, |offset, is_valid| {
        valid |= offset == at && is_valid
    });
    valid
}

/// The buffer of the block at `at` bytes into a page or folio.
pub fn buffer_at<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, page: Kva, flags: u64, at: u64) -> Option<Kva> {
    /// Blocks are 512 bytes at least.
    const SMALLEST: u64 = 512;
    let types = &context.kernel.types;
    let mem = &context.kernel.mem;
    let layout = &types.layouts.buffer_head;
    let first = mem
        .ptr(page, types.page.private)
        .ok()
        .filter(|_| has_buffers(context, flags))?;
    let (mut buffer, mut offset) = (first, 0u64);
    for _ in 0..=at / SMALLEST {
        if offset == at {
            return Some(buffer);
        }
        offset = offset.saturating_add(mem.uint(buffer, layout.b_size).ok()?);
        buffer = mem.ptr(buffer, layout.b_this_page).ok().filter(|&next| next != first)?;
    }
    None
}

/// Whether a page or folio with these flags has blocks of its own.
pub fn has_buffers<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, flags: u64) -> bool {
    let private = context.kernel.types.layouts.page_flags.private;
    private.is_some_and(|bit| flags & 1u64.wrapping_shl(bit) != 0)
}

/// Shows the blocks of a page or folio of so many bytes: where each lies in it, and whether it is up to date.
///
/// # Errors
/// They cannot be read, or do not end.
pub fn each_buffer<M: PhysMem + ?Sized>(
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
    if let Some(block_bits) = in_bitmap(context, page)? {
        return each_bit(context, first, (bytes, block_bits), show);
    }
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

/// The size of a block as a power of two, where a bitmap says which blocks of a page are up to date: in the page cache of XFS.
fn in_bitmap<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, page: Kva) -> Result<Option<u64>> {
    let types = &context.kernel.types;
    let mem = &context.kernel.mem;
    let mapping = mem.ptr(page, types.page.mapping)?;
    let inode = mem.ptr(mapping, types.layouts.address_space.host)?;
    let superblock = mem.ptr(inode, types.layouts.inode.i_sb)?;
    if fs_type(context, superblock)? != xfs::NAME.as_bytes() {
        return Ok(None);
    }
    Ok(Some(mem.uint(inode, types.layouts.inode.i_blkbits)?))
}

/// As [`each_buffer`], by the bitmap of a `struct iomap_folio_state`.
fn each_bit<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    state: Kva,
    (bytes, block_bits): (u64, u64),
    mut show: impl FnMut(u64, bool),
) -> Result<()> {
    let unknown = || Refusal::new(reasons::UNREADABLE, "blocks of a page");
    let layouts = &context.kernel.types.layouts;
    let bits = match (&layouts.iomap_state, &layouts.iomap_page) {
        (Some(layout), _) => layout.state,
        (None, Some(layout)) => layout.uptodate,
        (None, None) => return Err(unknown()),
    };
    let bits = state.offset(u64::from(bits.offset));
    let step = u32::try_from(block_bits)
        .ok()
        .and_then(|bits| 1u64.checked_shl(bits))
        .filter(|step| (512..=PAGE_SIZE).contains(step))
        .ok_or_else(unknown)?;
    for (index, offset) in (0..bytes).step_by(step as usize).enumerate() {
        let index = index as u64;
        let byte = context.kernel.mem.u8(bits.offset(index / 8))?;
        show(offset, byte & 1u8.wrapping_shl((index % 8) as u32) != 0);
    }
    Ok(())
}

/// Appends a run, or lengthens the last.
pub fn append(runs: &mut Vec<FrameRun>, run: FrameRun) {
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
pub const fn pages_of(size: u64) -> u64 {
    size.div_ceil(PAGE_SIZE)
}
