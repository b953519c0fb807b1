//! Page frames: what `struct page` says about each (`include/linux/mm_types.h`, `include/linux/page-flags.h`).
//!
//! The array of them is read in place, a section at a time: a process of 1 GiB has 262,144 frames.

use crate::addr::{Kva, Pfn, PhysAddr};
use crate::containers::xarray::Entry;
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use core::cell::RefCell;
use hashbrown::HashMap;

/// Frames whose `struct page` are mapped by one 2 MB page of `vmemmap`, as long as one is 64 bytes: a section of sparse
/// memory (`SECTION_SIZE_BITS` 27).
const SECTION: u64 = 1 << 15;
/// Bytes of a `struct page` this reader takes in place.
const PAGE_STRUCT: usize = 64;
/// Low bits of `mapping` (`PAGE_MAPPING_FLAGS`).
const MAPPING_FLAGS: u64 = 3;
/// `PAGE_MAPPING_ANON`.
const MAPPING_ANON: u64 = 1;
/// `PAGE_MAPPING_KSM`.
const MAPPING_KSM: u64 = 3;

crate::mirrors! {
    /// A folio.
    #[allow(missing_docs)]
    pub struct Folio = "folio" {
        // The number of mappings of a folio as a whole, minus one; in the first tail page.
        entire_mapcount: Field = "_entire_mapcount.counter" | "_total_mapcount.counter" | "_compound_mapcount.counter",
    }
}

crate::constants! {
    /// Bits of `page.flags`.
    pub struct PageFlags {
        /// The head of a compound page.
        head: u32 = "PG_head",
        /// Contents are valid.
        uptodate: u32 = "PG_uptodate",
        /// Newer than the disk.
        dirty: u32 = "PG_dirty",
        /// Being written to the disk.
        writeback: u32 = "PG_writeback",
        /// In the swap cache, if also backed by swap.
        swapcache: Option<u32> = "PG_swapcache" | "PG_owner_priv_1",
        /// Failed in hardware.
        hwpoison: Option<u32> = "PG_hwpoison",
        /// Parts of a huge page are mapped beside the whole (up to Linux 6.2, 4b51634cd16a).
        double_map: Option<u32> = "PG_double_map",
        /// `private` is in use: buffer heads.
        private: Option<u32> = "PG_private",
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSort {
    /// Anonymous memory; whether it is mapped exactly once.
    Anonymous {
        /// Mapped exactly once.
        exclusive: bool,
    },
    /// Merged with others of equal contents.
    Ksm,
    /// A page of a file, or of the kernel.
    Other,
    /// Failed in hardware.
    Poisoned,
    /// There is no `struct page`: device memory, or no memory.
    NoPage,
}

/// A reader of `struct page`s.
pub struct Pages<'k, 'm, M: PhysMem + ?Sized> {
    kernel: &'k Kernel<'m, M>,
    flags: usize,
    mapping: usize,
    index: usize,
    compound_head: usize,
    mapcount: usize,
    entire_mapcount: u64,
    poison_mask: u64,
    double_mask: u64,
    head_mask: u64,
    end: u64,
    sections: RefCell<HashMap<u64, Option<&'m [[u8; PAGE_STRUCT]]>>>,
}

/// A word of it, 0 beyond its end.
#[inline]
fn word(page: &RawPage, at: usize) -> u64 {
    let word = page.get(at..).and_then(<[u8]>::first_chunk);
    word.map_or(0, |&bytes| u64::from_le_bytes(bytes))
}

/// One `struct page` in place.
pub type RawPage = [u8; PAGE_STRUCT];

impl<'k, 'm, M: PhysMem + ?Sized> Pages<'k, 'm, M> {
    /// A reader over a kernel.
    pub fn new(kernel: &'k Kernel<'m, M>) -> Self {
        let page = &kernel.types.page;
        let flags = &kernel.types.layouts.page_flags;
        let mask = |bit: Option<u32>| bit.map_or(0, |bit| 1u64.wrapping_shl(bit));
        Self {
            kernel,
            flags: page.flags.offset as usize,
            mapping: page.mapping.offset as usize,
            index: page.index.offset as usize,
            compound_head: page.compound_head.offset as usize,
            mapcount: page.mapcount.offset as usize,
            entire_mapcount: u64::from(kernel.types.layouts.folio.entire_mapcount.offset),
            poison_mask: mask(flags.hwpoison),
            double_mask: mask(flags.double_map),
            head_mask: mask(Some(flags.head)),
            end: kernel.phys().end().pfn().0,
            sections: RefCell::new(HashMap::new()),
        }
    }

    /// The `struct page`s of a frame's section from that frame on, in place if that can be.
    pub fn run(&self, pfn: u64) -> Option<&'m [RawPage]> {
        if pfn >= self.end || self.kernel.types.page.struct_size as usize != PAGE_STRUCT {
            return None;
        }
        let number = pfn >> SECTION.trailing_zeros();
        let section = *self.sections.borrow_mut().entry(number).or_insert_with(|| {
            let first = self.kernel.pfn_to_page(Pfn(number.wrapping_mul(SECTION)));
            let bytes = self
                .kernel
                .mem
                .slice(first, (SECTION as usize).wrapping_mul(PAGE_STRUCT))?;
            Some(bytes.as_chunks::<PAGE_STRUCT>().0)
        });
        section?.get((pfn & SECTION.wrapping_sub(1)) as usize..)
    }

    /// The flags of a `struct page` in place.
    #[inline]
    pub fn flags_of(&self, page: &RawPage) -> u64 {
        word(page, self.flags)
    }

    /// Whether a `struct page` in place says that it is this page of this cache.
    #[inline]
    pub fn is_of_cache(&self, page: &RawPage, mapping: Kva, index: u64) -> bool {
        word(page, self.mapping) == mapping.0 && word(page, self.index) == index
    }

    /// What tells ordinary memory, for use in a tight loop.
    pub fn plain(&self) -> Plain {
        Plain {
            flags: self.flags >> 3,
            compound_head: self.compound_head >> 3,
            mapping: self.mapping >> 3,
            mapcount: self.mapcount >> 3,
            mapcount_shift: (self.mapcount as u32 & 4) << 3,
            special: self.poison_mask | self.head_mask,
        }
    }

    /// What a frame is, by its `struct page` in place.
    #[inline]
    pub fn sort_of(&self, pfn: u64, page: &RawPage) -> FrameSort {
        let word = |at| word(page, at);
        let flags = self.flags_of(page);
        if flags & self.poison_mask != 0 {
            return FrameSort::Poisoned;
        }
        let mapcount = page
            .get(self.mapcount..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |&bytes| i32::from_le_bytes(bytes));
        let head = word(self.compound_head);
        if head & 1 == 1 {
            return self.sort_of_compound(Kva(head & !1), mapcount);
        }
        if flags & self.head_mask != 0 {
            return self.sort_of_compound(self.kernel.pfn_to_page(Pfn(pfn)), mapcount);
        }
        sort(word(self.mapping), i64::from(mapcount).wrapping_add(1))
    }

    /// What a frame of a compound page is: mappings of the whole count for each part.
    fn sort_of_compound(&self, head: Kva, mapcount: i32) -> FrameSort {
        let mem = &self.kernel.mem;
        let entire = mem.i32(head.offset(self.entire_mapcount)).unwrap_or(0);
        let second = head.offset(u64::from(self.kernel.types.page.struct_size));
        let doubly = self.double_mask != 0
            && mem
                .uint(second, self.kernel.types.page.flags)
                .is_ok_and(|flags| flags & self.double_mask != 0);
        let mappings = i64::from(mapcount)
            .wrapping_add(i64::from(entire))
            .wrapping_add(2)
            .wrapping_sub(i64::from(doubly));
        sort(mem.u64(head.offset(self.mapping as u64)).unwrap_or(0), mappings)
    }

    /// What a frame is.
    pub fn sort(&self, pfn: u64) -> FrameSort {
        if let Some(page) = self.run(pfn).and_then(<[RawPage]>::first) {
            return self.sort_of(pfn, page);
        }
        if pfn >= self.end {
            return FrameSort::NoPage;
        }
        match self.kernel.mem.array::<PAGE_STRUCT>(self.kernel.pfn_to_page(Pfn(pfn))) {
            Ok(page) => self.sort_of(pfn, &page),
            Err(_) => FrameSort::NoPage,
        }
    }

    /// The frame of the `struct page` that a page cache or swap cache entry points to, with its flags and the word in
    /// `private`.
    pub fn of_entry(&self, page: Kva) -> Option<(u64, u64, u64)> {
        let pfn = self.kernel.page_to_pfn(page).ok()?.0;
        let types = &self.kernel.types.page;
        let flags = self.kernel.mem.uint(page, types.flags).ok()?;
        Some((pfn, flags, self.kernel.mem.uint(page, types.private).ok()?))
    }

    /// As [`Self::of_entry`], for an entry of the page cache `mapping`: none if the page does not say itself that it is this
    /// page of this cache, and as long. One that belongs to another would bring foreign data into a file.
    pub fn of_cache(&self, entry: &Entry, mapping: Kva) -> Option<(u64, u64, u64)> {
        let types = &self.kernel.types.page;
        let mem = &self.kernel.mem;
        let page = Kva(entry.value & !3);
        let found = self.of_entry(page)?;
        let belongs = mem.ptr(page, types.mapping).ok()? == mapping && mem.uint(page, types.index).ok()? == entry.index;
        let is_whole = entry.span <= 1 || self.is_tail(page, entry.span.wrapping_sub(1));
        (belongs && is_whole).then_some(found)
    }

    /// Whether the page so many behind a head belongs to its folio.
    pub fn is_tail(&self, head: Kva, distance: u64) -> bool {
        let types = &self.kernel.types.page;
        let page = head.offset(distance.wrapping_mul(u64::from(types.struct_size)));
        self.kernel.mem.uint(page, types.compound_head).ok() == Some(head.0 | 1)
    }

    /// Whether a frame has failed in hardware, as far as its page says.
    pub fn is_poisoned(&self, pfn: u64) -> bool {
        let page = self.kernel.pfn_to_page(Pfn(pfn));
        let flags = self.kernel.mem.uint(page, self.kernel.types.page.flags);
        flags.is_ok_and(|flags| flags & self.poison_mask != 0)
    }

    /// The page or folio that a byte of memory belongs to, and where in it the byte lies.
    pub fn whole_of(&self, at: PhysAddr) -> Option<(Kva, u64)> {
        let mut page = self.kernel.pfn_to_page(at.pfn());
        let head = self.kernel.mem.uint(page, self.kernel.types.page.compound_head).ok()?;
        if head & 1 == 1 {
            page = Kva(head & !1);
        }
        let first = self.of_entry(page)?.0;
        Some((page, at.0.checked_sub(Pfn(first).phys().0)?))
    }

    /// First frame number beyond RAM.
    pub fn end(&self) -> u64 {
        self.end
    }
}

/// Which words of a `struct page` say that it is ordinary memory of one process.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    flags: usize,
    compound_head: usize,
    mapping: usize,
    mapcount: usize,
    mapcount_shift: u32,
    special: u64,
}

impl Plain {
    /// Whether a `struct page` in place is that of ordinary memory of one process: anonymous, mapped once, not part of
    /// anything larger. Most are, and no more than four words of them are looked at.
    #[inline]
    pub fn is(self, page: &RawPage) -> bool {
        let (words, _) = page.as_chunks::<8>();
        // There are eight words; no member lies beyond them, and the mask spares the loop the check.
        let word = |at: usize| words.get(at & 7).map_or(u64::MAX, |&bytes| u64::from_le_bytes(bytes));
        let mapcount = word(self.mapcount).wrapping_shr(self.mapcount_shift) as u32;
        let differs = (word(self.flags) & self.special)
            | (word(self.compound_head) & 1)
            | ((word(self.mapping) & MAPPING_FLAGS) ^ MAPPING_ANON)
            | u64::from(mapcount);
        differs == 0
    }
}

/// By the low bits of `mapping`.
const fn sort(mapping: u64, mappings: i64) -> FrameSort {
    match mapping & MAPPING_FLAGS {
        MAPPING_ANON => FrameSort::Anonymous {
            exclusive: mappings <= 1,
        },
        MAPPING_KSM => FrameSort::Ksm,
        _ => FrameSort::Other,
    }
}
