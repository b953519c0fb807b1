//! Disks and partitions (`include/linux/blk_types.h`).

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;
use alloc::vec::Vec;
use shared_region::context::BlockDevice as Record;

/// Directories above a device in sysfs.
const MAX_DEPTH: usize = 64;
/// Longest name in sysfs, and of a partition's UUID (`PARTITION_META_INFO_UUIDLTH`).
const MAX_NAME: usize = 255;
const MAX_UUID: usize = 37;

crate::mirrors! {
    /// A block device. Its page cache holds a file system's own blocks.
    #[allow(missing_docs)]
    pub struct BlockDevice = "block_device" {
        bd_disk: Field,
        bd_start_sect: Field,
        bd_nr_sectors: Field,
        kobj: Field = "bd_device.kobj",
        bd_meta_info: Option<Field> = "bd_meta_info",
        // From Linux 6.10 on (53cd4cd3b10b).
        bd_mapping: Option<Field> = "bd_mapping",
        // Before.
        bd_inode: Option<Field> = "bd_inode",
    }

    /// A name in sysfs.
    #[allow(missing_docs)]
    pub struct Kobject = "kobject" {
        name: Field,
        parent: Field,
    }
}

/// What a disk or partition is known by.
///
/// # Errors
/// It cannot be read.
pub fn of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, bdev: Kva) -> Result<Record> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.block_device;
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
    Ok(Record {
        path: names.join(&b'/'),
        start: mem.uint(bdev, layout.bd_start_sect)?,
        sectors: mem.uint(bdev, layout.bd_nr_sectors)?,
        partition,
    })
}
