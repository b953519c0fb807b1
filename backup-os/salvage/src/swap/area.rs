//! Areas of swap, and where their slots lie on devices.

use crate::addr::{Kva, PAGE_SIZE};
use crate::block_devices;
use crate::context::Context;
use crate::dentry;
use crate::ext4;
use crate::inodes::fs_type;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use crate::xfs;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use shared_region::context::{DevicePlace, SwapArea, SwapDevice};
use shared_region::reasons;

/// `SWP_USED`, `SWP_BLKDEV` and `SWP_FS_OPS` (`include/linux/swap.h`).
const USED: u64 = 1 << 0;
const BLKDEV: u64 = 1 << 6;
const FS_OPS: u64 = 1 << 8;

/// Sectors of a page.
const PAGE_SECTORS: u64 = PAGE_SIZE / 512;
/// A file of swap has no more extents than this.
const MAX_EXTENTS: u64 = 1 << 20;

crate::mirrors! {
    /// An area of swap.
    #[allow(missing_docs)]
    pub struct SwapInfo = "swap_info_struct" {
        flags: Field,
        max: Field,
        swap_map: Field,
        // Slots that are zero are not written from Linux 6.12 on (0ca0c24e3211).
        zeromap: Option<Field> = "zeromap",
        // Up to Linux 6.5 (42c06a0e8ebe).
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
}

/// An area of swap.
#[derive(Debug)]
pub struct Area {
    /// Its slots, the header's included.
    pub max: u64,
    /// A count for each.
    pub swap_map: Kva,
    /// A bit for each that is zero.
    pub zeromap: Option<Kva>,
    /// A bit for each that is compressed.
    pub frontswap_map: Option<Kva>,
    /// What lies on its device, or why that is not read.
    pub disk: Result<OnDevice>,
}

/// What is known of an area's device.
#[derive(Debug)]
pub struct OnDevice {
    /// What it is found by.
    pub record: SwapArea,
    /// First slot, slots, first block of 4 KB.
    extents: Vec<(u64, u64, u64)>,
}

impl OnDevice {
    /// Where a slot lies, in bytes.
    pub fn place(&self, slot: u64) -> Option<u64> {
        let after = self.extents.partition_point(|&(first, ..)| first <= slot);
        let &(first, slots, block) = self.extents.get(after.checked_sub(1)?)?;
        let within = slot.checked_sub(first).filter(|&within| within < slots)?;
        block.checked_add(within)?.checked_mul(PAGE_SIZE)
    }
}

/// An area by its type.
///
/// # Errors
/// It makes no sense.
pub fn get<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, kind: u8) -> Result<Rc<Area>> {
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
            let device = block_devices::of(context, bdev)?;
            if DevicePlace::of(&device.path).is_none() {
                return Err(elsewhere("which is no disk of this machine's"));
            }
            SwapDevice::Block(device)
        }
    };
    let sectors = mem.uint(bdev, context.kernel.types.layouts.block_device.bd_nr_sectors)?;
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

#[cfg(test)]
mod tests {
    use super::OnDevice;
    use shared_region::context::SwapArea;

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
}
