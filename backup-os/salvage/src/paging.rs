//! x86_64 page tables: one translation, and a scan over a range (Intel SDM vol. 3A, 4.5).
//!
//! Entries that are not present are Linux's own: swap and migration entries, and `PROT_NONE` pages, which keep their
//! frame number inverted (`arch/x86/include/asm/pgtable-invert.h`).

use crate::addr::{Kva, Pfn, PhysAddr, Uva, PAGE_SIZE};
use crate::error::Reason;
use crate::memory::PhysMem;

/// Bits 51…12 of an entry: the physical address.
const ADDRESS_MASK: u64 = 0x000F_FFFF_FFFF_F000;
/// Entries in a table.
const ENTRIES: u64 = 512;

/// How many levels of tables there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// 48-bit addresses.
    Four,
    /// 57-bit addresses (CR4.LA57).
    Five,
}

impl Levels {
    /// Shift of the topmost index.
    const fn top_shift(self) -> u32 {
        match self {
            Self::Four => 39,
            Self::Five => 48,
        }
    }

    /// Whether the bits above the translated ones are copies of the highest translated one.
    pub const fn is_canonical(self, address: u64) -> bool {
        let unused = match self {
            Self::Four => 16,
            Self::Five => 7,
        };
        ((address << unused) as i64 >> unused) as u64 == address
    }

    /// First address after the lower (user) half.
    pub const fn user_end(self) -> Uva {
        Uva(match self {
            Self::Four => 1 << 47,
            Self::Five => 1 << 56,
        })
    }
}

/// A page-table entry of any level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pte(pub u64);

impl Pte {
    /// `_PAGE_PRESENT`.
    pub const PRESENT: u64 = 1;
    /// `_PAGE_RW`.
    pub const WRITE: u64 = 1 << 1;
    /// `_PAGE_USER`.
    pub const USER: u64 = 1 << 2;
    /// `_PAGE_ACCESSED`.
    pub const ACCESSED: u64 = 1 << 5;
    /// `_PAGE_DIRTY`.
    pub const DIRTY: u64 = 1 << 6;
    /// `_PAGE_PSE`: a 2 MB or 1 GB page, in an entry above the last level.
    pub const HUGE: u64 = 1 << 7;
    /// `_PAGE_PROTNONE`, `_PAGE_GLOBAL` where the entry is not present: mapped without access (PROT_NONE, NUMA hinting).
    pub const PROT_NONE: u64 = 1 << 8;
    /// `_PAGE_NX`.
    pub const NO_EXECUTE: u64 = 1 << 63;

    /// Whether the processor would use it.
    pub const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// Whether Linux counts a page as mapped here (`pte_present`).
    pub const fn is_mapped(self) -> bool {
        self.0 & (Self::PRESENT | Self::PROT_NONE) != 0
    }

    /// Whether nothing is here (`pte_none`).
    pub const fn is_none(self) -> bool {
        // Bits 5 and 6 can be set by an erratum of Knights Landing (`_KNL_ERRATUM_MASK`).
        self.0 & !(Self::ACCESSED | Self::DIRTY) == 0
    }

    /// Physical address the entry holds (for huge pages, use [`Pte::huge_frame`]).
    pub const fn frame(self) -> PhysAddr {
        let value = if self.is_present() { self.0 } else { !self.0 };
        PhysAddr(value & ADDRESS_MASK)
    }

    /// Physical address of the huge page of `size` bytes; bit 12 is PAT there, not address.
    pub const fn huge_frame(self, size: PageSize) -> PhysAddr {
        PhysAddr(self.frame().0 & !size.mask())
    }

    /// Type and offset of a swap or special entry (`__pte_to_swp_entry`, `arch/x86/include/asm/pgtable_64.h`):
    /// type in bits 63…59, inverted offset in bits 58…9.
    pub const fn swap(self) -> SwapEntry {
        SwapEntry {
            kind: (self.0 >> 59) as u8,
            offset: !self.0 << 5 >> 14,
        }
    }
}

/// What a swap entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwapEntry {
    /// Number of the swap area, or one of the special types above `MAX_SWAPFILES`.
    pub kind: u8,
    /// Page offset in the area; a frame number for migration entries and poisoned pages.
    pub offset: u64,
}

/// Size of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// 4 KB.
    Base,
    /// 2 MB.
    Huge2M,
    /// 1 GB.
    Huge1G,
}

impl PageSize {
    /// Bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// log2 of the bytes.
    pub const fn shift(self) -> u32 {
        match self {
            Self::Base => 12,
            Self::Huge2M => 21,
            Self::Huge1G => 30,
        }
    }

    /// The bits of an address inside the page.
    pub const fn mask(self) -> u64 {
        self.bytes().wrapping_sub(1)
    }

    /// The size of a page mapped by an entry at a level, if that level can map pages.
    const fn at(shift: u32) -> Option<Self> {
        match shift {
            12 => Some(Self::Base),
            21 => Some(Self::Huge2M),
            30 => Some(Self::Huge1G),
            _ => None,
        }
    }
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address itself.
    pub phys: PhysAddr,
    /// Size of the page it lies in.
    pub size: PageSize,
    /// The entry that maps the page.
    pub entry: Pte,
}

/// A set of page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageTables {
    /// Physical address of the root table, without the flag bits of CR3.
    pub root: PhysAddr,
    /// Levels.
    pub levels: Levels,
}

/// Something the scan meets, in ascending order of addresses.
#[derive(Clone, Copy, Debug)]
pub enum Leaf<'t> {
    /// Entries of a last-level table, one for each 4 KB page from `start` on. All kinds of entries occur.
    Table {
        /// Address the first entry maps.
        start: Uva,
        /// The entries, little-endian.
        entries: &'t [[u8; 8]],
        /// The table they are in.
        table: PhysAddr,
    },
    /// An entry above the last level that maps a page, or that holds a swap or migration entry for one.
    Huge {
        /// Address of the page's first byte, or the start of the scanned range where that is higher.
        start: Uva,
        /// The entry.
        entry: Pte,
        /// Size of the page.
        size: PageSize,
    },
    /// A table that cannot be read: what it maps is lost.
    Lost {
        /// First address it would map, or the start of the scanned range.
        start: Uva,
        /// First address after what it would map, or the end of the scanned range.
        end: Uva,
        /// Where the table is said to be.
        table: PhysAddr,
    },
}

/// The scan met more tables than there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyTables(pub u64);

impl PageTables {
    /// Translates one address of the kernel or of a process.
    ///
    /// # Errors
    /// The reason why the address leads nowhere.
    pub fn translate<M: PhysMem + ?Sized>(&self, memory: &M, address: u64) -> Result<Translation, Reason> {
        if !self.levels.is_canonical(address) {
            return Err(Reason::NotCanonical);
        }
        let mut table = self.root;
        let mut shift = self.levels.top_shift();
        loop {
            let index = (address >> shift) & (ENTRIES - 1);
            let at = PhysAddr((table.0 & ADDRESS_MASK) | (index << 3));
            let mut word = [0; 8];
            memory.read(at, &mut word).map_err(|_| Reason::NotRam(at))?;
            let entry = Pte(u64::from_le_bytes(word));
            let leaf = PageSize::at(shift).filter(|&size| size == PageSize::Base || entry.0 & Pte::HUGE != 0);
            let mapped = if leaf.is_some() {
                entry.is_mapped()
            } else {
                entry.is_present()
            };
            if !mapped {
                return Err(Reason::NotMapped);
            }
            if let Some(size) = leaf {
                let phys = PhysAddr(entry.huge_frame(size).0 | (address & size.mask()));
                return Ok(Translation { phys, size, entry });
            }
            table = entry.frame();
            shift = shift.saturating_sub(9);
        }
    }

    /// Translates a kernel address; see [`PageTables::translate`].
    ///
    /// # Errors
    /// The reason why the address leads nowhere.
    pub fn translate_kernel<M: PhysMem + ?Sized>(&self, memory: &M, address: Kva) -> Result<Translation, Reason> {
        self.translate(memory, address.0)
    }

    /// Shows every last-level entry and huge page that maps something in `start..end` to `visit`. Stretches without
    /// tables are passed over. The bits of `start` and `end` inside a page do not count, `end` is rounded up.
    ///
    /// # Errors
    /// [`TooManyTables`] if the tables are more than there are frames in the machine: they refer to one another in a
    /// circle.
    pub fn scan<M: PhysMem + ?Sized>(
        &self,
        memory: &M,
        start: Uva,
        end: Uva,
        visit: &mut impl FnMut(Leaf<'_>),
    ) -> Result<(), TooManyTables> {
        let limit = self.levels.user_end();
        let start = Uva(start.0 & !(PAGE_SIZE - 1));
        let end = end.min(limit);
        if start >= end {
            return Ok(());
        }
        let frames = memory.end().pfn().0;
        let mut scan = Scan {
            memory,
            visit,
            budget: frames,
            limit: frames,
        };
        scan.table(self.root, self.levels.top_shift(), start.0, end.0.saturating_sub(1))
    }
}

/// A scan under way.
struct Scan<'s, M: ?Sized, F> {
    memory: &'s M,
    visit: &'s mut F,
    /// Tables it may still look at.
    budget: u64,
    limit: u64,
}

impl<M: PhysMem + ?Sized, F: FnMut(Leaf<'_>)> Scan<'_, M, F> {
    /// Scans the part of one table that maps `first..=last`, both inside what the table maps.
    fn table(&mut self, table: PhysAddr, shift: u32, first: u64, last: u64) -> Result<(), TooManyTables> {
        self.budget = self.budget.checked_sub(1).ok_or(TooManyTables(self.limit))?;
        let table = PhysAddr(table.0 & ADDRESS_MASK);
        match self.memory.slice(table, PAGE_SIZE as usize) {
            Some(bytes) => self.entries((table, bytes), shift, first, last),
            None => self.scattered(table, shift, first, last),
        }
    }

    /// As [`Scan::table`] for a table that is not contiguous in this memory. Apart, so that its copy does not weigh on
    /// every level of the stack.
    #[cold]
    #[inline(never)]
    fn scattered(&mut self, table: PhysAddr, shift: u32, first: u64, last: u64) -> Result<(), TooManyTables> {
        let mut copy = [0; PAGE_SIZE as usize];
        if self.memory.read(table, &mut copy).is_ok() {
            return self.entries((table, &copy), shift, first, last);
        }
        (self.visit)(Leaf::Lost {
            start: Uva(first),
            end: Uva(last.saturating_add(1)),
            table,
        });
        Ok(())
    }

    /// Scans the entries of one table.
    fn entries(
        &mut self,
        (table, bytes): (PhysAddr, &[u8]),
        shift: u32,
        first: u64,
        last: u64,
    ) -> Result<(), TooManyTables> {
        let index = |address: u64| ((address >> shift) & (ENTRIES - 1)) as usize;
        let (entries, _) = bytes.as_chunks::<8>();
        let entries = entries.get(index(first)..=index(last)).unwrap_or(&[]);
        if shift == PageSize::Base.shift() {
            (self.visit)(Leaf::Table {
                start: Uva(first),
                entries,
                table,
            });
            return Ok(());
        }

        let span_mask = (1u64 << shift).wrapping_sub(1);
        let mut from = first;
        for entry in entries {
            let entry = Pte(u64::from_le_bytes(*entry));
            let to = (from | span_mask).min(last);
            if !entry.is_none() {
                let huge = PageSize::at(shift).filter(|_| entry.0 & Pte::HUGE != 0 || !entry.is_present());
                match huge {
                    // What is not present here is a swap or migration entry for a huge page.
                    Some(size) => (self.visit)(Leaf::Huge {
                        start: Uva(from),
                        entry,
                        size,
                    }),
                    None if entry.is_present() => {
                        self.table(entry.frame(), shift.saturating_sub(9), from, to)?;
                    }
                    None => (self.visit)(Leaf::Lost {
                        start: Uva(from),
                        end: Uva(to.saturating_add(1)),
                        table: entry.frame(),
                    }),
                }
            }
            from = to.wrapping_add(1);
        }
        Ok(())
    }
}

/// Pages that follow one another and are of one sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Address of the first page.
    pub start: Uva,
    /// Number of 4 KB pages.
    pub pages: u64,
    /// What they are.
    pub sort: Sort,
}

/// What the pages of a [`Run`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Nothing is there.
    None,
    /// Mapped to frames that follow one another too, with equal flags.
    Mapped {
        /// The first frame.
        first: Pfn,
        /// The entry of the first page; the others differ in the frame alone.
        entry: Pte,
    },
    /// One swap or special entry.
    Swap(Pte),
}

/// Groups the entries of one last-level table ([`Leaf::Table`]) into runs.
pub fn runs(start: Uva, entries: &[[u8; 8]], mut visit: impl FnMut(Run)) {
    let mut open: Option<(Run, u64)> = None;
    let mut at = start;
    for entry in entries {
        let pte = Pte(u64::from_le_bytes(*entry));
        match &mut open {
            Some((run, expected)) if pte.0 == *expected => {
                run.pages = run.pages.wrapping_add(1);
                *expected = next_expected(pte);
            }
            _ => {
                if let Some((run, _)) = open.take() {
                    visit(run);
                }
                let sort = if pte.is_mapped() {
                    Sort::Mapped {
                        first: pte.frame().pfn(),
                        entry: pte,
                    }
                } else if pte.is_none() {
                    Sort::None
                } else {
                    Sort::Swap(pte)
                };
                open = Some((
                    Run {
                        start: at,
                        pages: 1,
                        sort,
                    },
                    next_expected(pte),
                ));
            }
        }
        at = at.offset(PAGE_SIZE);
    }
    if let Some((run, _)) = open {
        visit(run);
    }
}

/// The entry that would continue a run.
const fn next_expected(pte: Pte) -> u64 {
    if pte.is_present() {
        pte.0.wrapping_add(PAGE_SIZE)
    } else if pte.is_mapped() {
        // The frame number is stored inverted.
        pte.0.wrapping_sub(PAGE_SIZE)
    } else if pte.is_none() {
        pte.0
    } else {
        // A swap entry never continues a run: each is looked up by itself. No entry is all ones and mapped to nothing.
        u64::MAX
    }
}
