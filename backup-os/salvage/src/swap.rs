//! Pages that are not mapped: the swap cache, and where on a device the others lie (`mm/swap_state.c`, `mm/swapfile.c`,
//! `mm/page_io.c`).
//!
//! A page is in the swap cache from before its entry is in a page table until it is written, and again from before it is
//! read. So where the cache has a page that is up to date, that is the content; else it is what the slot has. What the kernel
//! keeps of slots in other memory of its own (zswap, zram) is not read.

use crate::addr::{Kva, PAGE_SIZE};
use crate::containers::xarray::Entry;
use crate::context::Context;
use crate::dentry;
use crate::ext4;
use crate::inodes::fs_type;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::paging::SwapEntry;
use crate::refusal::{Refusal, Result};
use crate::xfs;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use hashbrown::HashMap;
use shared_region::context::{BlockDevice, DevicePlace, DiskRun, SwapArea, SwapDevice, SwappedPages};
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

/// log2 of the pages of one swap cache (`SWAP_ADDRESS_SPACE_SHIFT`).
const SPACE_SHIFT: u32 = 14;
/// Where the type stands in a `swp_entry_t` (`SWP_TYPE_SHIFT`, 64 bits less the 5 of the type and `XA_VALUE`'s one).
const TYPE_SHIFT: u32 = 58;
/// Slots whose entries in the cache are remembered: a node of its tree.
const NEIGHBOURS: u64 = 64;

/// `SWP_USED`, `SWP_BLKDEV` and `SWP_FS_OPS` (`include/linux/swap.h`).
const USED: u64 = 1 << 0;
const BLKDEV: u64 = 1 << 6;
const FS_OPS: u64 = 1 << 8;
/// `SWAP_HAS_CACHE`, `SWAP_MAP_BAD` and `SWAP_MAP_SHMEM` of a slot's count.
const HAS_CACHE: u8 = 0x40;
const MAP_BAD: u8 = 0x3F;
const MAP_SHMEM: u8 = 0xBF;

/// Sectors of a page.
const PAGE_SECTORS: u64 = PAGE_SIZE / 512;
/// A file of swap has no more extents than this.
const MAX_EXTENTS: u64 = 1 << 20;
/// Directories above a device in sysfs.
const MAX_DEPTH: usize = 64;
/// Longest name in sysfs, and of a partition's UUID (`PARTITION_META_INFO_UUIDLTH`).
const MAX_NAME: usize = 255;
const MAX_UUID: usize = 37;
/// Runs in one record, and of one object.
const RUNS_OF_RECORD: usize = 4096;
const MAX_RUNS: usize = 1 << 18;

crate::mirrors! {
    /// An area of swap.
    #[allow(missing_docs)]
    pub struct SwapInfo = "swap_info_struct" {
        flags: Field,
        max: Field,
        swap_map: Field,
        // Slots that are zero are not written from Linux 6.12 on (0ca0c24e3211).
        zeromap: Option<Field> = "zeromap",
        // Up to Linux 6.6 (42c06a0e8ebe).
        frontswap_map: Option<Field> = "frontswap_map",
        swap_extent_root: Field,
        bdev: Field,
        swap_file: Field,
    }

    /// Where some of its slots lie.
    #[allow(missing_docs)]
    pub struct SwapExtent = "swap_extent" {
        rb_node: Field,
        start_page: Field,
        nr_pages: Field,
        start_block: Field,
    }

    /// A disk or partition.
    #[allow(missing_docs)]
    pub struct Disk = "block_device" {
        bd_start_sect: Field,
        bd_nr_sectors: Field,
        kobj: Field = "bd_device.kobj",
        bd_meta_info: Option<Field> = "bd_meta_info",
    }

    /// A name in sysfs.
    #[allow(missing_docs)]
    pub struct Kobject = "kobject" {
        name: Field,
        parent: Field,
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

/// An area of swap.
#[derive(Debug)]
struct Area {
    max: u64,
    swap_map: Kva,
    zeromap: Option<Kva>,
    frontswap_map: Option<Kva>,
    /// What lies on its device, or why that is not read.
    disk: Result<OnDevice>,
}

#[derive(Debug)]
struct OnDevice {
    record: SwapArea,
    /// First slot, slots, first block of 4 KB.
    extents: Vec<(u64, u64, u64)>,
}

impl OnDevice {
    /// Where a slot lies, in bytes.
    fn place(&self, slot: u64) -> Option<u64> {
        let after = self.extents.partition_point(|&(first, ..)| first <= slot);
        let &(first, slots, block) = self.extents.get(after.checked_sub(1)?)?;
        let within = slot.checked_sub(first).filter(|&within| within < slots)?;
        block.checked_add(within)?.checked_mul(PAGE_SIZE)
    }
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
    let area = area(context, entry.kind)?;
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

/// What the kernel says of a slot. From Linux 6.9 on a page leaves zswap before it is whole in the swap cache, so that whether
/// zswap has it tells nothing, and how that was in between is not known.
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

/// An area by its type.
fn area<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, kind: u8) -> Result<Rc<Area>> {
    if let Some(known) = context.swap.areas.borrow().get(&kind) {
        return known.clone();
    }
    let read = read(context, kind).map(Rc::new);
    context.swap.areas.borrow_mut().insert(kind, read.clone());
    read
}

fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, kind: u8) -> Result<Area> {
    let unknown = || Refusal::new(reasons::UNREADABLE, alloc::format!("swap area {kind}"));
    let kernel = context.kernel;
    let layout = kernel.types.layouts.swap_info.as_ref().ok_or_else(unknown)?;
    let mem = &kernel.mem;
    let all = kernel.prepared.globals.swap_info.ok_or_else(unknown)?;
    let info = mem.pointer(all.offset(u64::from(kind).wrapping_mul(8)))?;
    let swap_map = mem.ptr(info, layout.swap_map)?;
    if mem.uint(info, layout.flags)? & USED == 0 || swap_map.is_null() {
        return Err(unknown());
    }
    let map = |field: Option<Field>| -> Result<Option<Kva>> {
        let map = field.map(|field| mem.ptr(info, field)).transpose()?;
        Ok(map.filter(|map| !map.is_null()))
    };
    let max = mem.uint(info, layout.max)?;
    Ok(Area {
        max,
        swap_map,
        zeromap: map(layout.zeromap)?,
        frontswap_map: map(layout.frontswap_map)?,
        disk: on_device(context, layout, info),
    })
}

/// Where an area lies on its device.
fn on_device<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, layout: &SwapInfo, info: Kva) -> Result<OnDevice> {
    let mem = &context.kernel.mem;
    let max = mem.uint(info, layout.max)?;
    let flags = mem.uint(info, layout.flags)?;
    let file = mem.ptr(info, layout.swap_file)?;
    let name = dentry::of_file(context, file)?.bytes;
    let elsewhere = |what: &str| {
        let name = String::from_utf8_lossy(&name);
        Refusal::new(reasons::SWAPPED, alloc::format!("on {name}, {what}"))
    };
    if flags & FS_OPS != 0 {
        return Err(elsewhere("which its file system alone can read"));
    }
    let bdev = mem.ptr(info, layout.bdev)?;
    let device = match flags & BLKDEV {
        0 => file_system(context, file, bdev)?.ok_or_else(|| elsewhere("whose file system is not known"))?,
        _ => {
            let device = block_device(context, bdev)?;
            if DevicePlace::of(&device.path).is_none() {
                return Err(elsewhere("which is no disk of this machine's"));
            }
            SwapDevice::Block(device)
        }
    };
    let sectors = mem.uint(bdev, context.kernel.types.layouts.disk.bd_nr_sectors)?;
    let root = info.offset(u64::from(layout.swap_extent_root.offset));
    let extents =
        extents(context, root, (max, sectors / PAGE_SECTORS)).map_err(|refusal| elsewhere(&refusal.to_string()))?;
    let mut found = OnDevice {
        record: SwapArea {
            device,
            header: 0,
            pages: max as u32,
            name: Vec::new(),
        },
        extents,
    };
    found.record.header = found
        .place(0)
        .ok_or_else(|| elsewhere("of which the header is not found"))?;
    found.record.name = name;
    Ok(found)
}

/// All extents of an area of `max` slots, on a device of so many blocks. None is missing.
fn extents<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    root: Kva,
    (max, blocks): (u64, u64),
) -> Result<Vec<(u64, u64, u64)>> {
    let unknown = || Refusal::new(reasons::UNREADABLE, "its extents");
    let layout = context.kernel.types.layouts.swap_extent.as_ref().ok_or_else(unknown)?;
    let mem = &context.kernel.mem;
    let mut extents = Vec::new();
    let mut next = 0u64;
    for extent in context.kernel.rbtree(root, layout.rb_node)?.bounded(MAX_EXTENTS) {
        let extent = extent?;
        let first = mem.uint(extent, layout.start_page)?;
        let slots = mem.uint(extent, layout.nr_pages)?;
        let block = mem.uint(extent, layout.start_block)?;
        let end = block.checked_add(slots).filter(|&end| end <= blocks);
        if first != next || slots == 0 || end.is_none() {
            return Err(unknown());
        }
        next = next.saturating_add(slots);
        extents.push((first, slots, block));
    }
    if next < max {
        return Err(unknown());
    }
    Ok(extents)
}

/// The file system that an area is a file of, if its blocks are told by where they lie on its device.
fn file_system<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, file: Kva, bdev: Kva) -> Result<Option<SwapDevice>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let inode = mem.ptr(file, layouts.file.f_inode)?;
    let superblock = mem.ptr(inode, layouts.inode.i_sb)?;
    let known = ext4::is_ext4(context, superblock)? || fs_type(context, superblock)? == xfs::NAME.as_bytes();
    if !known || mem.ptr(superblock, layouts.super_block.s_bdev)? != bdev {
        return Ok(None);
    }
    let uuid = u64::from(layouts.super_block.s_uuid.offset);
    let uuid = mem.array::<16>(superblock.offset(uuid))?;
    Ok((uuid != [0; 16]).then_some(SwapDevice::FileSystem(uuid)))
}

/// What a disk or partition is known by.
fn block_device<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, bdev: Kva) -> Result<BlockDevice> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.disk;
    let mem = &context.kernel.mem;
    let mut names = Vec::new();
    let mut at = bdev.offset(u64::from(layout.kobj.offset));
    while !at.is_null() && names.len() < MAX_DEPTH {
        names.push(mem.cstr(mem.ptr(at, layouts.kobject.name)?, MAX_NAME)?);
        at = mem.ptr(at, layouts.kobject.parent)?;
    }
    names.reverse();
    let meta = layout.bd_meta_info.map(|field| mem.ptr(bdev, field)).transpose()?;
    let partition = match meta.filter(|meta| !meta.is_null()) {
        // The UUID is its first member.
        Some(meta) => mem.cstr(meta, MAX_UUID)?,
        None => Vec::new(),
    };
    Ok(BlockDevice {
        path: names.join(&b'/'),
        start: mem.uint(bdev, layout.bd_start_sect)?,
        sectors: mem.uint(bdev, layout.bd_nr_sectors)?,
        partition,
    })
}

/// The pages of one object that lie on devices, or are zero where something else would be found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    runs: Vec<(u8, DiskRun)>,
    zeros: Vec<(u64, u64)>,
}

impl Pages {
    /// Adds the page that belongs at `offset`, of which so many bytes count. Offsets ascend.
    ///
    /// # Errors
    /// They are scattered too much.
    pub fn add(&mut self, offset: u64, slot: Slot, bytes: u64) -> Result<()> {
        if let Some((area, last)) = self.runs.last_mut() {
            let follows = last.offset.wrapping_add(last.bytes) == offset && last.at.wrapping_add(last.bytes) == slot.at;
            if *area == slot.area && follows {
                last.bytes = last.bytes.wrapping_add(bytes);
                return Ok(());
            }
        }
        if self.runs.len() >= MAX_RUNS {
            return Err(Refusal::new(reasons::SWAPPED, "scattered too much"));
        }
        let run = DiskRun {
            offset,
            at: slot.at,
            bytes,
        };
        self.runs.push((slot.area, run));
        Ok(())
    }

    /// Adds a page of zeros.
    pub fn add_zero(&mut self, offset: u64) {
        match self.zeros.last_mut() {
            Some((start, bytes)) if start.wrapping_add(*bytes) == offset => *bytes = bytes.wrapping_add(PAGE_SIZE),
            _ => self.zeros.push((offset, PAGE_SIZE)),
        }
    }

    /// Records them, and the areas they lie on.
    ///
    /// # Errors
    /// There is no room.
    pub fn write<M: PhysMem + ?Sized>(
        self,
        context: &mut Context<'_, '_, M>,
        writer: &mut Writer<'_>,
        owner: u64,
    ) -> Result<()> {
        let push = |pages: &SwappedPages, writer: &mut Writer<'_>| -> Result<()> {
            Ok(writer.push(Kind::SwappedPages, 1, flags::MUST_UNDERSTAND, owner, pages)?)
        };
        for runs in self.runs.chunk_by(|(area, _), (next, _)| area == next) {
            let Some(&(kind, _)) = runs.first() else { continue };
            let id = write_area(context, writer, kind)?;
            for runs in runs.chunks(RUNS_OF_RECORD) {
                let pages = SwappedPages {
                    area: id,
                    runs: runs.iter().map(|&(_, run)| run).collect(),
                    zeros: Vec::new(),
                };
                push(&pages, writer)?;
            }
        }
        for zeros in self.zeros.chunks(RUNS_OF_RECORD) {
            let pages = SwappedPages {
                zeros: zeros.to_vec(),
                ..SwappedPages::default()
            };
            push(&pages, writer)?;
        }
        Ok(())
    }
}

/// Records an area, unless it is recorded. Returns its id.
fn write_area<M: PhysMem + ?Sized>(context: &mut Context<'_, '_, M>, writer: &mut Writer<'_>, kind: u8) -> Result<u64> {
    let id = u64::from(kind).saturating_add(1);
    if context.first(Kind::SwapArea, id) {
        let area = area(context, kind)?;
        let disk = area.disk.as_ref().map_err(Clone::clone)?;
        writer.push(Kind::SwapArea, 1, 0, id, &disk.record)?;
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::{of_value, Compression, OnDevice, Pages, Slot};
    use crate::paging::SwapEntry;
    use shared_region::context::{DiskRun, SwapArea};

    fn run(offset: u64, at: u64, bytes: u64) -> DiskRun {
        DiskRun { offset, at, bytes }
    }

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
    fn slots_are_found_by_extents() {
        let device = OnDevice {
            record: SwapArea::default(),
            extents: alloc::vec![(0, 10, 500), (10, 1, 7), (11, 5, 100)],
        };
        for (slot, block) in [
            (0, Some(500)),
            (9, Some(509)),
            (10, Some(7)),
            (15, Some(104)),
            (16, None),
        ] {
            assert_eq!(device.place(slot), block.map(|block: u64| block << 12), "{slot}");
        }
        let overflowing = OnDevice {
            record: SwapArea::default(),
            extents: alloc::vec![(0, 10, u64::MAX >> 12)],
        };
        assert_eq!(overflowing.place(1), None);
        let none = OnDevice {
            record: SwapArea::default(),
            extents: alloc::vec![],
        };
        assert_eq!(none.place(0), None);
    }

    #[test]
    fn what_may_be_compressed_is_not_read() {
        assert!(Compression::OfSlot(true).may_have() && !Compression::OfSlot(false).may_have());
        assert!(Compression::Ever(true).may_have() && !Compression::Ever(false).may_have());
        assert!(Compression::Unknown.may_have() && !Compression::Never.may_have());
    }

    #[test]
    fn pages_that_follow_one_another_on_both_sides_are_one_run() {
        let mut pages = Pages::default();
        for (area, offset, at, bytes) in [
            (0, 0x1000, 0x8000, 0x1000),
            (0, 0x2000, 0x9000, 0x1000),
            (0, 0x4000, 0xA000, 0x1000),
            (0, 0x5000, 0x7000, 0x1000),
            (1, 0x6000, 0x8000, 0x1000),
            (1, 0x7000, 0x9000, 7),
        ] {
            pages.add(offset, Slot { area, at }, bytes).unwrap();
        }
        let want = [
            (0, run(0x1000, 0x8000, 0x2000)),
            (0, run(0x4000, 0xA000, 0x1000)),
            (0, run(0x5000, 0x7000, 0x1000)),
            (1, run(0x6000, 0x8000, 0x1007)),
        ];
        assert_eq!(pages.runs, want);
        for offset in [0x1000, 0x2000, 0x4000] {
            pages.add_zero(offset);
        }
        assert_eq!(pages.zeros, [(0x1000, 0x2000), (0x4000, 0x1000)]);
    }
}
