//! Pages of files that their disks have as well: the part of the page cache that a successor need not read again.
//!
//! Only of ext4 with a version in each inode that is on the disk too: with it, whoever uses the pages later can tell whether
//! the file is the one they were of. Files that protected processes hold come first, then those with most pages, until there
//! are as many pages as are wanted.

use crate::addr::{Kva, Pfn, PAGE_SHIFT};
use crate::containers::xarray::Leaf;
use crate::context::Context;
use crate::inodes::{self, S_IFMT, S_IFREG};
use crate::memory::PhysMem;
use crate::page_cache::{append, entries, pages_of, NEWER};
use crate::pages::RawPage;
use crate::refusal::Result;
use alloc::vec::Vec;
use core::cmp::Reverse;
use shared_region::context::{frame_kind, CachedFile, FrameRun};
use shared_region::record::{Kind, Writer};

/// `SB_I_VERSION` (`include/linux/fs.h`).
const VERSIONED: u64 = 1 << 23;
/// Below it a counter has a flag (`I_VERSION_QUERIED_SHIFT`).
const VERSION_SHIFT: u32 = 1;

/// A file that has pages.
struct Candidate {
    inode: Kva,
    device: u64,
    held: bool,
    pages: u64,
}

/// Records so many pages at most, of file systems of whose journals all is known. What cannot be read, or finds no room, is
/// only read from its disk later.
pub fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    superblocks: &[Kva],
    mut limit: u64,
) {
    if limit == 0 {
        return;
    }
    let mut candidates = candidates(context, superblocks);
    candidates.sort_by_key(|file| Reverse((file.held, file.pages)));
    for file in candidates {
        let Ok((record, runs)) = clean(context, &file, limit) else {
            continue;
        };
        let pages: u64 = runs.iter().map(|run| run.pages()).sum();
        if pages == 0 {
            continue;
        }
        let mark = writer.mark();
        if push(writer, &file, &record, &runs).is_err() {
            writer.rewind(mark);
            return;
        }
        for run in &runs {
            context.retain(retained, Pfn(run.pfn()), run.pages());
        }
        limit = limit.saturating_sub(pages);
        if limit == 0 {
            return;
        }
    }
}

fn push(writer: &mut Writer<'_>, file: &Candidate, record: &CachedFile, runs: &[FrameRun]) -> Result<()> {
    writer.push(Kind::CachedFile, 1, 0, file.inode.0, record)?;
    let mut frames = writer.begin_flat(Kind::CachedFrames, 1, 0, file.inode.0);
    for run in runs {
        frames.extend(&run.to_bytes())?;
    }
    Ok(frames.finish()?)
}

fn candidates<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblocks: &[Kva]) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    let mem = &context.kernel.mem;
    let layout = &context.kernel.types.layouts.super_block;
    for &superblock in superblocks {
        let (Ok(flags), Ok(device)) = (mem.uint(superblock, layout.s_flags), mem.uint(superblock, layout.s_dev)) else {
            continue;
        };
        if flags & VERSIONED != 0 {
            let inodes = inodes::in_memory(context, superblock).flatten();
            candidates.extend(inodes.filter_map(|inode| candidate(context, inode, device).ok().flatten()));
        }
    }
    candidates
}

fn candidate<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva, device: u64) -> Result<Option<Candidate>> {
    let mem = &context.kernel.mem;
    let layouts = &context.kernel.types.layouts;
    let field = |field| mem.uint(inode, field);
    if field(layouts.inode.i_mode)? & S_IFMT != S_IFREG || field(layouts.inode.i_nlink)? == 0 {
        return Ok(None);
    }
    let pages = mem.uint(mem.ptr(inode, layouts.inode.i_mapping)?, layouts.address_space.nrpages)?;
    Ok((pages != 0).then(|| Candidate {
        inode,
        device,
        held: context.is_written(Kind::Inode, inode.0),
        pages,
    }))
}

/// The pages of a file that its disk has as well, so many at most.
fn clean<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    file: &Candidate,
    limit: u64,
) -> Result<(CachedFile, Vec<FrameRun>)> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let field = |field| kernel.mem.uint(file.inode, field);
    let record = CachedFile {
        device: file.device,
        number: field(layouts.inode.i_ino)?,
        generation: field(layouts.inode.i_generation)? as u32,
        size: field(layouts.inode.i_size)?,
        version: field(layouts.inode.i_version)?.wrapping_shr(VERSION_SHIFT),
    };
    let mapping = kernel.mem.ptr(file.inode, layouts.inode.i_mapping)?;
    let mut clean = Clean::new(context, mapping, pages_of(record.size).min(limit));
    // What was seen before something made no sense is sound.
    let _ = entries(context, mapping)?.leaves(|leaf| clean.look(context, leaf));
    Ok((record, clean.runs))
}

/// The pages of a file.
struct Clean<'m> {
    /// Flags that are looked at, and those that have to be set.
    flags: (u64, u64),
    mapping: Kva,
    /// Pages from here on are left out.
    last: u64,
    runs: Vec<FrameRun>,
    /// The `struct page` behind the last one that was looked at, its frame, and all of them from there on: the next page of a
    /// file is often the next frame.
    next: (u64, u64, &'m [RawPage]),
}

impl<'m> Clean<'m> {
    fn new<M: PhysMem + ?Sized>(context: &Context<'_, 'm, M>, mapping: Kva, last: u64) -> Self {
        let names = &context.kernel.types.layouts.page_flags;
        let bit = |bit: u32| 1u64.wrapping_shl(bit);
        let wanted = bit(names.uptodate);
        let unwanted = bit(names.dirty) | bit(names.writeback) | names.hwpoison.map_or(0, bit);
        Self {
            flags: (wanted | unwanted, wanted),
            mapping,
            last,
            runs: Vec::new(),
            next: (0, 0, &[]),
        }
    }

    /// Looks at a node of the page cache.
    fn look<M: PhysMem + ?Sized>(&mut self, context: &Context<'_, 'm, M>, leaf: Leaf<'_>) {
        let newer = NEWER.iter().fold(0, |all, &mark| all | leaf.marked(mark));
        for (slot, &value) in (0u32..).zip(leaf.slots) {
            let index = leaf.base.saturating_add(u64::from(slot));
            // What is no pointer is the shadow of a page that was evicted, or belongs to the entry before.
            if value == 0 || value & 3 != 0 || newer.wrapping_shr(slot) & 1 != 0 || index >= self.last {
                continue;
            }
            let Some((pfn, page)) = self.page(context, value) else {
                continue;
            };
            let (looked_at, wanted) = self.flags;
            let is_clean = context.pages.flags_of(page) & looked_at == wanted;
            // One that belongs to another file would bring foreign data into this one.
            if is_clean && context.pages.is_of_cache(page, self.mapping, index) {
                let run = FrameRun::new(index.wrapping_shl(PAGE_SHIFT), pfn, 1, frame_kind::FILE);
                append(&mut self.runs, run);
            }
        }
    }

    /// The frame of a `struct page`, and the structure in place.
    fn page<M: PhysMem + ?Sized>(&mut self, context: &Context<'_, 'm, M>, at: u64) -> Option<(u64, &'m RawPage)> {
        if self.next.0 != at || self.next.2.is_empty() {
            let pfn = context.kernel.page_to_pfn(Kva(at)).ok()?.0;
            self.next = (at, pfn, context.pages.run(pfn)?);
        }
        let (_, pfn, pages) = self.next;
        let (page, rest) = pages.split_first()?;
        let behind = at.wrapping_add(size_of::<RawPage>() as u64);
        self.next = (behind, pfn.saturating_add(1), rest);
        Some((pfn, page))
    }
}
