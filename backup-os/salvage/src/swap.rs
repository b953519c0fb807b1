//! Entries of pages that are not mapped: swap and its cache (`include/linux/swapops.h`, `mm/swap_state.c`).

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::paging::{Pte, SwapEntry};

/// log2 of the pages of one swap cache (`SWAP_ADDRESS_SPACE_SHIFT`).
const SPACE_SHIFT: u32 = 14;
/// Where the type stands in a `swp_entry_t` (`SWP_TYPE_SHIFT`, 64 bits less the 5 of the type and `XA_VALUE`'s one).
const TYPE_SHIFT: u32 = 58;

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// In the swap cache, in this frame.
    Cached(u64),
    /// On the disk alone.
    OnDisk,
    /// Not swapped at all: being moved, failed, of a device, a marker; with the type of the entry.
    Special(u8),
}

/// Looks an entry up.
pub fn look_up<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, pte: Pte) -> Swapped {
    let entry = pte.swap();
    let globals = &context.kernel.prepared.globals;
    let areas = globals
        .nr_swapfiles
        .and_then(|at| context.kernel.mem.u32(at).ok())
        .unwrap_or(0);
    if u32::from(entry.kind) >= areas {
        return Swapped::Special(entry.kind);
    }
    cached(context, entry).map_or(Swapped::OnDisk, Swapped::Cached)
}

/// The frame that the swap cache has for an entry. The index is the whole offset, or, from Linux 6.11 on (7aad25b4b4dc),
/// the offset within its cache; the page itself says which entry it is for.
pub fn cached<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, entry: SwapEntry) -> Option<u64> {
    let kernel = context.kernel;
    let spaces = kernel.prepared.globals.swapper_spaces?;
    let spaces = kernel
        .mem
        .pointer(spaces.offset(u64::from(entry.kind).wrapping_mul(8)))
        .ok()?;
    let layout = &kernel.types.layouts.address_space;
    let step = (entry.offset >> SPACE_SHIFT).checked_mul(u64::from(layout.struct_size))?;
    let space = spaces.offset(step);
    let array = space.offset(u64::from(layout.i_pages.offset));
    let value = u64::from(entry.kind).wrapping_shl(TYPE_SHIFT) | entry.offset;
    let within = entry.offset & (1u64 << SPACE_SHIFT).wrapping_sub(1);
    let found = kernel.xarray(array).ok()?.flatten().find(|found| {
        let covers = |index: u64| {
            index
                .checked_sub(found.index)
                .is_some_and(|distance| distance < found.span.max(1))
        };
        covers(entry.offset) || covers(within)
    })?;
    if found.value & 3 != 0 {
        return None;
    }
    let (pfn, _, private) = context.pages.of_entry(Kva(found.value))?;
    // The head of a folio has the entry of its first page.
    let distance = value
        .checked_sub(private)
        .filter(|&distance| distance < found.span.max(1))?;
    Some(pfn.wrapping_add(distance))
}
