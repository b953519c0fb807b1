//! The frames of an address space: page tables and `struct page`s into runs of frames.
//!
//! A frame is handed over where it lies. Frames that several processes share copy-on-write belong to the first of them
//! that is recorded, an ancestor always before its descendants, and are marked as shared in the others. Pages of files
//! that were not copied yet come from the file.

use crate::addr::{Pfn, PhysAddr, Uva, PAGE_SIZE};
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mm::{Area, Space};
use crate::pages::{FrameSort, Plain, RawPage};
use crate::paging::{Leaf, PageSize, Pte};
use crate::refusal::{Refusal, Result};
use crate::swap::{self, Holder, Swapped};
use crate::vma_flags as vm;
use shared_region::context::{frame_kind, Backing, FrameRun};
use shared_region::reasons;
use shared_region::record::{FlatRecord, Kind, Writer};

/// Pages of a 2 MB page.
const HUGE_PAGES: u64 = 512;
/// Version of the flat records written here.
const VERSION: u16 = 1;

/// Writes the frames of all mappings of an address space.
///
/// # Errors
/// A page is where it is not read from, failed in hardware or on the move; the tables cannot be read; or there is no room.
pub fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    owner: u64,
    space: &Space,
) -> Result<()> {
    let mut record = writer.begin_flat(Kind::Frames, VERSION, 0, owner);
    let mut on_swap = swap::Pages::default();
    for area in &space.areas {
        let mut collector = Collector {
            context,
            retained,
            record: &mut record,
            on_swap: &mut on_swap,
            area,
            open: None,
            failure: None,
        };
        collector.area(space)?;
    }
    if !record.is_empty() {
        record.finish()?;
    }
    on_swap.write(context, writer, owner)
}

/// Appends runs to a record, joining those that follow one another.
struct Collector<'c, 'k, 'm, 'w, 'a, 'r, M: PhysMem + ?Sized> {
    context: &'c mut Context<'k, 'm, M>,
    retained: &'c mut [u8],
    record: &'r mut FlatRecord<'w, 'a>,
    on_swap: &'c mut swap::Pages,
    area: &'c Area,
    open: Option<Open>,
    failure: Option<Refusal>,
}

/// A run that may still grow.
#[derive(Clone, Copy, Debug)]
struct Open {
    va: u64,
    pfn: u64,
    pages: u64,
    kind: u64,
}

impl<M: PhysMem + ?Sized> Collector<'_, '_, '_, '_, '_, '_, M> {
    fn area(&mut self, space: &Space) -> Result<()> {
        let mapping = &self.area.mapping;
        // Pages of shared mappings are their file's.
        if self.area.flags & vm::SHARED != 0 {
            return Ok(());
        }
        if mapping.backing == Backing::Vdso {
            return self.vdso(space);
        }
        let (start, end) = (Uva(mapping.start), Uva(mapping.end));
        let phys = self.context.kernel.phys();
        let scanned = space.tables.scan(phys, start, end, &mut |leaf| {
            if self.failure.is_none() {
                if let Err(refusal) = self.leaf(leaf) {
                    self.failure = Some(refusal);
                }
            }
        });
        if scanned.is_err() {
            return Err(Refusal::new(reasons::PAGES_LOST, "they run in a circle"));
        }
        if let Some(refusal) = self.failure.take() {
            return Err(refusal);
        }
        self.close()
    }

    /// The code of the vDSO, all of it, whether the process has touched it or not: the successor's may be another.
    fn vdso(&mut self, space: &Space) -> Result<()> {
        let mapping = &self.area.mapping;
        let pages = mapping.end.saturating_sub(mapping.start) >> crate::addr::PAGE_SHIFT;
        for i in 0..pages.min(HUGE_PAGES) {
            let offset = i.wrapping_mul(PAGE_SIZE);
            let code = self.context.kernel.mem.translate(space.vdso_code.offset(offset))?;
            self.add(mapping.start.wrapping_add(offset), code.pfn().0, 1, frame_kind::COPIED)?;
        }
        self.close()
    }

    fn leaf(&mut self, leaf: Leaf<'_>) -> Result<()> {
        match leaf {
            Leaf::Table { start, entries, table } => self.table(start, entries, table),
            Leaf::Huge { start, entry, size } => self.huge(start, entry, size),
            Leaf::Lost { table, .. } => Err(Refusal::new(reasons::PAGES_LOST, alloc::format!("table at {table}"))),
        }
    }

    fn table(&mut self, start: Uva, entries: &[[u8; 8]], table: PhysAddr) -> Result<()> {
        let plain = self.context.pages.plain();
        let mut va = start.0;
        let mut rest = entries;
        // `struct page`s from the frame after the last one on: frames mostly follow one another.
        let mut ahead: &[RawPage] = &[];
        let mut next = 0;
        while let Some((entry, after)) = rest.split_first() {
            let pte = Pte(u64::from_le_bytes(*entry));
            let mut pages = 1;
            if pte.is_mapped() {
                let pfn = pte.frame().pfn().0;
                if pfn != next || ahead.is_empty() {
                    ahead = self.context.pages.run(pfn).unwrap_or(&[]);
                }
                let streak = streak(plain, pfn, rest, ahead);
                if streak != 0 {
                    pages = streak;
                    self.add(va, pfn, pages as u64, frame_kind::OWN)?;
                } else {
                    let sort = match ahead.first() {
                        Some(page) => self.context.pages.sort_of(pfn, page),
                        None => self.context.pages.sort(pfn),
                    };
                    self.frame(va, pfn, sort)?;
                }
                next = pfn.wrapping_add(pages as u64);
                ahead = ahead.get(pages..).unwrap_or(&[]);
            } else if !pte.is_none() {
                self.swapped(va, pte, table)?;
            }
            rest = if pages == 1 {
                after
            } else {
                rest.get(pages..).unwrap_or(&[])
            };
            va = va.wrapping_add((pages as u64).wrapping_mul(PAGE_SIZE));
        }
        Ok(())
    }

    /// One mapped 4 KB page.
    #[inline]
    fn frame(&mut self, va: u64, pfn: u64, sort: FrameSort) -> Result<()> {
        let kind = match sort {
            FrameSort::Anonymous { exclusive: true } => frame_kind::OWN,
            FrameSort::Anonymous { exclusive: false } | FrameSort::Ksm => {
                if self.context.claim(pfn) {
                    frame_kind::OWN
                } else {
                    frame_kind::SHARED
                }
            }
            FrameSort::Poisoned => return Err(at(va, reasons::POISONED)),
            FrameSort::Other | FrameSort::NoPage if self.context.is_zero(pfn) => return Ok(()),
            FrameSort::Other | FrameSort::NoPage => match self.area.mapping.backing {
                // A page of the file that was not written to, or one that a truncation has just taken away.
                Backing::FilePrivate if sort == FrameSort::Other => return Ok(()),
                // Data of the vDSO, for a thread that was inside it; a hypervisor's clock page may be no RAM.
                Backing::Vvar if pfn < self.context.pages.end() => frame_kind::COPIED,
                Backing::Vvar => return Ok(()),
                _ => return Err(at(va, reasons::DEVICE_MEMORY)),
            },
        };
        self.add(va, pfn, 1, kind)
    }

    /// An entry that maps 2 MB, or holds a special entry for as much.
    fn huge(&mut self, start: Uva, entry: Pte, size: PageSize) -> Result<()> {
        if !entry.is_mapped() {
            return Err(at(start.0, reasons::SPECIAL_PAGE));
        }
        if size != PageSize::Huge2M {
            return Err(at(start.0, reasons::HUGETLB));
        }
        let base = entry.huge_frame(size).pfn().0;
        let first = base.wrapping_add((start.0 & size.mask()) >> crate::addr::PAGE_SHIFT);
        let in_page = HUGE_PAGES.saturating_sub(first.wrapping_sub(base));
        let in_area = self.area.mapping.end.saturating_sub(start.0) >> crate::addr::PAGE_SHIFT;
        let pages = in_page.min(in_area);
        if self.context.is_huge_zero(base) {
            return Ok(());
        }
        match self.context.pages.sort(base) {
            FrameSort::Anonymous { exclusive: true } if pages == HUGE_PAGES => {
                self.check_poison(start.0, first, pages)?;
                self.add(start.0, first, pages, frame_kind::HUGE)
            }
            FrameSort::Anonymous { .. } if pages == HUGE_PAGES && self.claim_all(first) => {
                self.check_poison(start.0, first, pages)?;
                self.add(start.0, first, pages, frame_kind::HUGE)
            }
            FrameSort::Anonymous { .. } => {
                for i in 0..pages {
                    let pfn = first.wrapping_add(i);
                    let sort = self.context.pages.sort(pfn);
                    self.frame(start.0.wrapping_add(i.wrapping_mul(PAGE_SIZE)), pfn, sort)?;
                }
                Ok(())
            }
            FrameSort::Poisoned => Err(at(start.0, reasons::POISONED)),
            FrameSort::Other if self.area.mapping.backing == Backing::FilePrivate => Ok(()),
            _ => Err(at(start.0, reasons::DEVICE_MEMORY)),
        }
    }

    /// Claims a whole huge page, or nothing of it.
    fn claim_all(&mut self, first: u64) -> bool {
        let frames = first..first.saturating_add(HUGE_PAGES);
        let free = frames.clone().all(|pfn| !self.context.is_claimed(pfn));
        free && frames
            .map(|pfn| self.context.claim(pfn))
            .fold(true, |all, fresh| all & fresh)
    }

    fn check_poison(&self, va: u64, first: u64, pages: u64) -> Result<()> {
        for pfn in first..first.saturating_add(pages) {
            if self.context.pages.sort(pfn) == FrameSort::Poisoned {
                return Err(at(va, reasons::POISONED));
            }
        }
        Ok(())
    }

    /// An entry of a page that is not mapped.
    fn swapped(&mut self, va: u64, pte: Pte, table: PhysAddr) -> Result<()> {
        let name = || alloc::format!("page at {va:#x}");
        let found = swap::look_up(self.context, pte.swap(), Holder::Memory).map_err(|refusal| refusal.of(name))?;
        if !matches!(found, Swapped::Special(_)) && swap::is_changing(self.context, table)? {
            return Err(at(va, reasons::SPECIAL_PAGE));
        }
        match found {
            // Other processes may refer to the same page by the same entry.
            Swapped::Cached(pfn) => {
                let kind = if self.context.claim(pfn) {
                    frame_kind::OWN
                } else {
                    frame_kind::SHARED
                };
                self.add(va, pfn, 1, kind)
            }
            // Whoever else refers to it reads it as well, and has a copy.
            Swapped::OnDisk(slot) => self.on_swap.add(va, slot, PAGE_SIZE),
            Swapped::Zero => {
                // Elsewhere what is not there is zero.
                if self.area.mapping.backing == Backing::FilePrivate {
                    self.on_swap.add_zero(va);
                }
                Ok(())
            }
            Swapped::Special(kind) => Err(Refusal::new(
                reasons::SPECIAL_PAGE,
                alloc::format!("{va:#x}, entry of type {kind}"),
            )),
        }
    }

    #[inline]
    fn add(&mut self, va: u64, pfn: u64, pages: u64, kind: u64) -> Result<()> {
        if let Some(open) = &mut self.open {
            let length = open.pages.wrapping_mul(PAGE_SIZE);
            let follows = open.kind == kind
                && va == open.va.wrapping_add(length)
                && pfn == open.pfn.wrapping_add(open.pages)
                && open.pages.wrapping_add(pages) <= FrameRun::MAX_PAGES;
            if follows {
                open.pages = open.pages.wrapping_add(pages);
                return Ok(());
            }
            self.close()?;
        }
        self.open = Some(Open { va, pfn, pages, kind });
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        self.record
            .extend(&FrameRun::new(open.va, open.pfn, open.pages, open.kind).to_bytes())?;
        self.context.retain(self.retained, Pfn(open.pfn), open.pages);
        let counter = match open.kind {
            frame_kind::OWN | frame_kind::HUGE => &mut self.context.tally.own_frames,
            _ => &mut self.context.tally.shared_frames,
        };
        *counter = counter.wrapping_add(open.pages);
        Ok(())
    }
}

/// How many entries from the first on map frames that follow `first` and are of the usual sort. This is where salvage
/// spends its time: a turn for each page of every process.
fn streak(plain: Plain, first: u64, entries: &[[u8; 8]], pages: &[RawPage]) -> usize {
    let mut expected = first;
    let mut count = 0usize;
    for (entry, page) in entries.iter().zip(pages) {
        let pte = Pte(u64::from_le_bytes(*entry));
        if !pte.is_mapped() || pte.frame().pfn().0 != expected || !plain.is(page) {
            break;
        }
        expected = expected.wrapping_add(1);
        count = count.wrapping_add(1);
    }
    count
}

fn at(va: u64, reason: reasons::Reason) -> Refusal {
    Refusal::new(reason, alloc::format!("page at {va:#x}"))
}
