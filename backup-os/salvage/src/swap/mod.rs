//! Pages that are not mapped: the swap cache, and where on a device the others lie (`mm/swap_state.c`, `mm/swapfile.c`,
//! `mm/page_io.c`).
//!
//! A page is in the swap cache from before its entry is in a page table until it is written, and again from before it is
//! read. So where the cache has a page that is up to date, that is the content; else it is what the slot has. What the kernel
//! keeps of slots in other memory of its own (zswap, zram) is not read.

mod area;
mod pages;

pub use self::area::{SwapExtent, SwapInfo};
pub use self::pages::Pages;

use self::area::Area;
use crate::addr::{Kva, PhysAddr};
use crate::containers::xarray::Entry;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::paging::SwapEntry;
use crate::refusal::{Refusal, Result};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use hashbrown::HashMap;
use shared_region::reasons;

/// log2 of the pages of one swap cache (`SWAP_ADDRESS_SPACE_SHIFT`).
const SPACE_SHIFT: u32 = 14;
/// Where the type stands in a `swp_entry_t` (`SWP_TYPE_SHIFT`, 64 bits less the 5 of the type and `XA_VALUE`'s one).
const TYPE_SHIFT: u32 = 58;
/// Slots whose entries in the cache are remembered: a node of its tree.
const NEIGHBOURS: u64 = 64;

/// `SWAP_HAS_CACHE`, `SWAP_MAP_BAD` and `SWAP_MAP_SHMEM` of a slot's count.
const HAS_CACHE: u8 = 0x40;
const MAP_BAD: u8 = 0x3F;
const MAP_SHMEM: u8 = 0xBF;

crate::mirrors! {
    /// A page table, from Linux 6.6 on.
    #[allow(missing_docs)]
    pub struct Ptdesc = "ptdesc" {
        ptl: Option<Field> = "ptl",
    }

    /// A page table, before.
    #[allow(missing_docs)]
    pub struct PageOfTable = "page" {
        ptl: Option<Field> = "ptl",
    }
}

/// Whose slots they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Page tables.
    Memory,
    /// An object of shared memory.
    Shmem,
}

/// Where the content of a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// In the swap cache, in this frame.
    Cached(u64),
    /// On the device alone.
    OnDisk(Slot),
    /// Nowhere: it is zero.
    Zero,
    /// Not swapped at all: being moved, failed, of a device, a marker; with the type of the entry.
    Special(u8),
}

/// A page on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Type of the area.
    pub area: u8,
    /// Where on the device, in bytes.
    pub at: u64,
}

/// What is known of areas of swap.
#[derive(Debug, Default)]
pub struct Known {
    areas: RefCell<HashMap<u8, Result<Rc<Area>>>>,
    cached: RefCell<Option<Neighbours>>,
}

/// The pages that the swap cache has for neighbouring slots.
#[derive(Debug)]
struct Neighbours {
    /// Type of the area, and the first slot.
    of: (u8, u64),
    entries: Rc<[Entry]>,
}

/// The entry that an object of shared memory has in place of a page.
pub fn of_value(value: u64) -> SwapEntry {
    let entry = value >> 1;
    SwapEntry {
        kind: (entry >> TYPE_SHIFT) as u8,
        offset: entry & (1u64 << TYPE_SHIFT).wrapping_sub(1),
    }
}

/// Looks an entry up.
///
/// # Errors
/// Its slot makes no sense, or lies where it is not read from.
pub fn look_up<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, entry: SwapEntry, holder: Holder) -> Result<Swapped> {
    let mem = &context.kernel.mem;
    let count = context.kernel.prepared.globals.nr_swapfiles.map(|at| mem.u32(at));
    if u32::from(entry.kind) >= count.transpose()?.unwrap_or(0) {
        return Ok(Swapped::Special(entry.kind));
    }
    let area = area::get(context, entry.kind)?;
    if entry.offset == 0 || entry.offset >= area.max {
        return Err(no_sense(entry, "is beyond its area"));
    }
    let count = mem.u8(area.swap_map.offset(entry.offset))? & !HAS_CACHE;
    let in_use = match holder {
        Holder::Memory => count != 0 && count != MAP_BAD && count != MAP_SHMEM & !HAS_CACHE,
        Holder::Shmem => count == MAP_SHMEM & !HAS_CACHE,
    };
    if !in_use {
        // Between giving up the slot and having the page mapped, at the earliest.
        return Err(Refusal::new(reasons::SPECIAL_PAGE, "on its way from swap"));
    }
    if let Some(pfn) = cached(context, entry)? {
        return Ok(Swapped::Cached(pfn));
    }
    if let Some(map) = area.zeromap {
        if bit(context, map, entry.offset)? {
            return Ok(Swapped::Zero);
        }
    }
    let disk = area.disk.as_ref().map_err(Clone::clone)?;
    if compression(context, &area, entry.offset)?.may_have() {
        return Err(Refusal::new(reasons::SWAPPED, "zswap may keep it, compressed"));
    }
    let at = disk
        .place(entry.offset)
        .ok_or_else(|| no_sense(entry, "has no place on its device"))?;
    Ok(Swapped::OnDisk(Slot { area: entry.kind, at }))
}

/// Whether somebody was changing a page table: a slot is given up right before its entry makes way for the page, and may have
/// been another's by then.
///
/// # Errors
/// It cannot be read.
pub fn is_changing<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, table: PhysAddr) -> Result<bool> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let newer = layouts.ptdesc.as_ref().and_then(|layout| layout.ptl);
    let Some(lock) = newer.or(layouts.page_of_table.ptl) else {
        return Ok(false);
    };
    let at = kernel.pfn_to_page(table.pfn()).offset(u64::from(lock.offset));
    // One that is larger than a word lies elsewhere.
    let at = match lock.size {
        8 => kernel.mem.pointer(at)?,
        _ => at,
    };
    Ok(kernel.mem.u32(at)? != 0)
}

fn no_sense(entry: SwapEntry, what: &str) -> Refusal {
    let SwapEntry { kind, offset } = entry;
    Refusal::new(
        reasons::UNREADABLE,
        alloc::format!("slot {offset} of swap area {kind} {what}"),
    )
}

fn bit<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, map: Kva, number: u64) -> Result<bool> {
    let byte = context.kernel.mem.u8(map.offset(number / 8))?;
    Ok(byte & 1u8.wrapping_shl((number % 8) as u32) != 0)
}

/// What a kernel says about compressing pages instead of writing them (`mm/zswap.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    /// Of each slot (`frontswap_map`); whether it is that of this one.
    OfSlot(bool),
    /// Whether it was ever done.
    Ever(bool),
    /// Nothing, but it can do it.
    Unknown,
    /// It cannot do it.
    Never,
}

impl Compression {
    const fn may_have(self) -> bool {
        match self {
            Self::OfSlot(has) | Self::Ever(has) => has,
            Self::Unknown => true,
            Self::Never => false,
        }
    }
}

/// What the kernel says of a slot. Without frontswap a page leaves zswap before it is whole in the swap cache, so that whether
/// zswap has it tells nothing.
fn compression<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, area: &Area, offset: u64) -> Result<Compression> {
    let kernel = context.kernel;
    let globals = &kernel.prepared.globals;
    let layout = kernel.types.layouts.swap_info.as_ref();
    if layout.is_some_and(|layout| layout.frontswap_map.is_some()) {
        let map = area.frontswap_map.map(|map| bit(context, map, offset)).transpose()?;
        return Ok(Compression::OfSlot(map.unwrap_or(false)));
    }
    Ok(match (globals.zswap_ever_enabled, globals.zswap_enabled) {
        // The number of users of a static key.
        (Some(key), _) => Compression::Ever(kernel.mem.u32(key)? != 0),
        (None, Some(_)) => Compression::Unknown,
        (None, None) => Compression::Never,
    })
}

/// The frame that the swap cache has for an entry, if its content is there. The index is the whole offset, or, from Linux 6.11
/// on (7aad25b4b4dc), the offset within its cache; the page itself says which entry it is for.
fn cached<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, entry: SwapEntry) -> Result<Option<u64>> {
    let indices = [entry.offset, within_space(entry.offset)];
    let neighbours = neighbours(context, entry)?;
    let found = neighbours.iter().find(|found| {
        let covers = |index: u64| {
            let distance = index.checked_sub(found.index);
            distance.is_some_and(|distance| distance < found.span.max(1))
        };
        indices.into_iter().any(covers)
    });
    // What is no page is the shadow of one that was there.
    let Some(found) = found.filter(|found| found.value & 3 == 0) else {
        return Ok(None);
    };
    let foreign = || no_sense(entry, "has a page of another in the cache");
    let (pfn, page_flags, private) = context.pages.of_entry(Kva(found.value)).ok_or_else(foreign)?;
    let flags = &context.kernel.types.layouts.page_flags;
    let is = |bit: u32| page_flags & 1u64.wrapping_shl(bit) != 0;
    // The head of a folio has the entry of its first page.
    let value = u64::from(entry.kind).wrapping_shl(TYPE_SHIFT) | entry.offset;
    let distance = value.checked_sub(private).ok_or_else(foreign)?;
    let belongs = distance == 0 || context.pages.is_tail(Kva(found.value), distance);
    if !belongs || !flags.swapcache.is_none_or(is) {
        return Err(foreign());
    }
    let pfn = pfn.wrapping_add(distance);
    if context.pages.is_poisoned(pfn) {
        return Err(Refusal::new(reasons::POISONED, "in the swap cache"));
    }
    // One that is not up to date is being read.
    Ok(is(flags.uptodate).then_some(pfn))
}

const fn within_space(offset: u64) -> u64 {
    offset & (1u64 << SPACE_SHIFT).wrapping_sub(1)
}

/// What the swap cache has for an entry and those beside it: they are mostly asked for one after the other.
fn neighbours<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, entry: SwapEntry) -> Result<Rc<[Entry]>> {
    let first = entry.offset & !NEIGHBOURS.wrapping_sub(1);
    let of = (entry.kind, first);
    let known = &context.swap.cached;
    if let Some(known) = known.borrow().as_ref().filter(|known| known.of == of) {
        return Ok(known.entries.clone());
    }
    let kernel = context.kernel;
    let unknown = || Refusal::new(reasons::UNREADABLE, "the swap cache is not found");
    let spaces = kernel.prepared.globals.swapper_spaces.ok_or_else(unknown)?;
    let spaces = kernel
        .mem
        .pointer(spaces.offset(u64::from(entry.kind).wrapping_mul(8)))?;
    let layout = &kernel.types.layouts.address_space;
    let step = (entry.offset >> SPACE_SHIFT).wrapping_mul(u64::from(layout.struct_size));
    let array = spaces.offset(step).offset(u64::from(layout.i_pages.offset));
    let mut entries = Vec::new();
    let within = Some(within_space(first)).filter(|&within| within != first);
    for first in [Some(first), within].into_iter().flatten() {
        let last = first.saturating_add(NEIGHBOURS.wrapping_sub(1));
        for found in kernel.xarray(array)?.within(first, last) {
            entries.push(found?);
        }
    }
    let entries: Rc<[Entry]> = entries.into();
    *known.borrow_mut() = Some(Neighbours {
        of,
        entries: entries.clone(),
    });
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::{of_value, Compression};
    use crate::paging::SwapEntry;

    #[test]
    fn a_value_of_shared_memory_is_an_entry() {
        let value = (3u64 << 58 | 0x1234) << 1 | 1;
        let want = SwapEntry {
            kind: 3,
            offset: 0x1234,
        };
        assert_eq!(of_value(value), want);
        assert_eq!(of_value(u64::MAX).kind, 31);
    }

    #[test]
    fn what_may_be_compressed_is_not_read() {
        assert!(Compression::OfSlot(true).may_have() && !Compression::OfSlot(false).may_have());
        assert!(Compression::Ever(true).may_have() && !Compression::Ever(false).may_have());
        assert!(Compression::Unknown.may_have() && !Compression::Never.may_have());
    }
}
