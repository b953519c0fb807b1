//! Block devices that the device mapper makes of parts of others (`drivers/md/dm-core.h`), as a volume manager asks it to.
//!
//! Those below mounted file systems are recorded, with what they lie on, so that they can be made again before anybody asks for
//! them. A disk is told by what it is connected to: names are given in the order in which a kernel finds disks.
//!
//! The device mapper is a module: its structures are looked up when a failure finds a file system on one of its devices.

use crate::addr::Kva;
use crate::block_devices;
use crate::context::Context;
use crate::error::ReadError;
use crate::inodes;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::module_types::Module;
use crate::refusal::{Refusal, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::{BlockDevice, DevicePlace, LowerDevice, MappedDevice, MappedOn, MappedPart};
use shared_region::reasons;
use shared_region::record::{Kind, Writer};

/// Name of the module.
const NAME: &str = "dm_mod";
/// Devices on top of each other.
const MAX_DEPTH: u32 = 4;
/// Parts of a device, and what one lies on.
const MAX_PARTS: u64 = 4096;
const MAX_STRIPES: u64 = 256;
/// Longest name of a device (`DM_NAME_LEN`), of what its maker knows it by (`DM_UUID_LEN`), and of a kind of target.
const MAX_NAME: usize = 129;
/// `DMF_BLOCK_IO_FOR_SUSPEND`, `DMF_SUSPENDED`, `DMF_FROZEN`, `DMF_FREEING`, `DMF_DELETING`, `DMF_SUSPENDED_INTERNALLY`
/// (`drivers/md/dm-core.h`): somebody was changing it.
const CHANGING: u64 = 0b1001_1111;
/// `BLK_OPEN_WRITE` and `FMODE_WRITE` of a table's mode.
const WRITABLE: u64 = 1 << 1;

crate::mirrors! {
    /// A disk.
    #[allow(missing_docs)]
    pub struct Disk = "gendisk" {
        private_data: Field,
        disk_name: Field,
    }

    /// A device of the device mapper.
    #[allow(missing_docs)]
    pub struct Mapped = "mapped_device" {
        map: Field,
        flags: Field,
        disk: Field,
        interface_ptr: Field,
    }

    /// Its names.
    #[allow(missing_docs)]
    pub struct HashCell = "hash_cell" {
        name: Field,
        uuid: Field,
        md: Field,
        new_map: Field,
    }

    /// What it is made of.
    #[allow(missing_docs)]
    pub struct Table = "dm_table" {
        md: Field,
        num_targets: Field,
        targets: Field,
        mode: Field,
    }

    /// A part of it.
    #[allow(missing_docs)]
    pub struct Target = "dm_target" {
        kind: Field = "type",
        begin: Field,
        len: Field,
        private: Field,
    }

    /// A kind of part.
    #[allow(missing_docs)]
    pub struct TargetType = "target_type" {
        name: Field,
    }

    /// A part that lies in one piece on another device.
    #[allow(missing_docs)]
    pub struct Linear = "linear_c" {
        dev: Field,
        start: Field,
    }

    /// A part that lies on several by turns.
    #[allow(missing_docs)]
    pub struct Striped = "stripe_c" {
        stripes: Field,
        chunk_size: Field,
        stripe: Field,
    }

    /// One of them.
    #[allow(missing_docs)]
    pub struct Stripe = "stripe" {
        dev: Field,
        physical_start: Field,
    }

    /// Another device.
    #[allow(missing_docs)]
    pub struct Lower = "dm_dev" {
        bdev: Field,
    }
}

crate::mirror_set! {
    /// The mirrors of the device mapper.
    pub struct Layouts {
        /// `struct gendisk`.
        disk: Disk,
        /// `struct mapped_device`.
        mapped: Mapped,
        /// `struct hash_cell`.
        cell: HashCell,
        /// `struct dm_table`.
        table: Table,
        /// `struct dm_target`.
        target: Target,
        /// `struct target_type`.
        kind: TargetType,
        /// `struct linear_c`.
        linear: Linear,
        /// `struct stripe_c`.
        striped: Striped,
        /// `struct stripe`.
        stripe: Stripe,
        /// `struct dm_dev`.
        lower: Lower,
    }
}

fn refuse(what: impl Into<String>) -> Refusal {
    Refusal::new(reasons::MAPPED_DEVICE, what)
}

/// Records the devices of the device mapper below all mounted file systems.
///
/// # Errors
/// There is no room.
pub fn write<M: PhysMem + ?Sized>(context: &mut Context<'_, '_, M>, writer: &mut Writer<'_>) -> Result<()> {
    let module = Module::<Layouts>::new(NAME);
    for superblock in inodes::file_systems(context) {
        let device = context
            .kernel
            .mem
            .ptr(superblock, context.kernel.types.layouts.super_block.s_bdev)
            .unwrap_or(Kva::NULL);
        if device.is_null() || !name_of_file_system(context, superblock).starts_with(b"dm-") {
            continue;
        }
        // Without them the file system is missed by those who need it, and they say so.
        if let Some(layouts) = module.structures(context.kernel) {
            let mut walk = Walk {
                context,
                layouts: &layouts,
            };
            if let Ok(Some(at)) = walk.mapped(device) {
                walk.write(writer, at, 0)?;
            }
        }
    }
    Ok(())
}

fn name_of_file_system<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Vec<u8> {
    let field = context.kernel.types.layouts.super_block.s_id;
    context.kernel.mem.text(superblock, field).unwrap_or_default()
}

struct Walk<'c, 'k, 'm, M: PhysMem + ?Sized> {
    context: &'c mut Context<'k, 'm, M>,
    layouts: &'c Layouts,
}

impl<M: PhysMem + ?Sized> Walk<'_, '_, '_, M> {
    fn ptr(&self, at: Kva, field: Field) -> core::result::Result<Kva, ReadError> {
        self.context.kernel.mem.ptr(at, field)
    }

    fn uint(&self, at: Kva, field: Field) -> core::result::Result<u64, ReadError> {
        self.context.kernel.mem.uint(at, field)
    }

    fn string(&self, at: Kva, field: Field) -> Result<Vec<u8>> {
        let text = self.ptr(at, field)?;
        match text.is_null() {
            true => Ok(Vec::new()),
            false => Ok(self.context.kernel.mem.cstr(text, MAX_NAME)?),
        }
    }

    /// The `struct mapped_device` of a block device, if it is the device mapper's.
    fn mapped(&self, device: Kva) -> Result<Option<Kva>> {
        let disk = self.ptr(device, self.context.kernel.types.layouts.block_device.bd_disk)?;
        let name = self.context.kernel.mem.text(disk, self.layouts.disk.disk_name)?;
        if !name.starts_with(b"dm-") {
            return Ok(None);
        }
        let mapped = self.ptr(disk, self.layouts.disk.private_data)?;
        match self.ptr(mapped, self.layouts.mapped.disk)? == disk {
            true => Ok(Some(mapped)),
            false => Err(refuse("it is of another disk")),
        }
    }

    /// Records a device, after those below it.
    fn write(&mut self, writer: &mut Writer<'_>, at: Kva, depth: u32) -> Result<()> {
        if !self.context.first(Kind::MappedDevice, at.0) {
            return Ok(());
        }
        let mut record = MappedDevice::default();
        if let Err(why) = self.fill(writer, at, depth, &mut record) {
            record.refused = format!("{why}");
        }
        Ok(writer.push(Kind::MappedDevice, 1, 0, at.0, &record)?)
    }

    fn fill(&mut self, writer: &mut Writer<'_>, at: Kva, depth: u32, record: &mut MappedDevice) -> Result<()> {
        let layouts = self.layouts;
        let cell = self.ptr(at, layouts.mapped.interface_ptr)?;
        if self.ptr(cell, layouts.cell.md)? != at {
            return Err(refuse("its names are of another device"));
        }
        record.name = self.string(cell, layouts.cell.name)?;
        record.uuid = self.string(cell, layouts.cell.uuid)?;
        let is_loading = !self.ptr(cell, layouts.cell.new_map)?.is_null();
        if is_loading || self.uint(at, layouts.mapped.flags)? & CHANGING != 0 || depth > MAX_DEPTH {
            return Err(refuse("somebody was changing it"));
        }
        let table = self.ptr(at, layouts.mapped.map)?;
        let count = self.uint(table, layouts.table.num_targets)?;
        if self.ptr(table, layouts.table.md)? != at || count == 0 || count > MAX_PARTS {
            return Err(refuse("its table makes no sense"));
        }
        record.is_read_only = self.uint(table, layouts.table.mode)? & WRITABLE == 0;
        let targets = self.ptr(table, layouts.table.targets)?;
        let mut end = 0u64;
        for number in 0..count {
            let target = targets.offset(number.wrapping_mul(u64::from(layouts.target.struct_size)));
            let part = self.part(writer, target, depth)?;
            if self.uint(target, layouts.target.begin)? != end {
                return Err(refuse("its table has gaps"));
            }
            end = end.checked_add(part.sectors).ok_or_else(|| refuse("it is too long"))?;
            record.parts.push(part);
        }
        Ok(())
    }

    fn part(&mut self, writer: &mut Writer<'_>, target: Kva, depth: u32) -> Result<MappedPart> {
        let layouts = self.layouts;
        let kind = self.ptr(target, layouts.target.kind)?;
        let kind = self.string(kind, layouts.kind.name)?;
        let private = self.ptr(target, layouts.target.private)?;
        let mut part = MappedPart {
            sectors: self.uint(target, layouts.target.len)?,
            ..MappedPart::default()
        };
        match kind.as_slice() {
            b"linear" => {
                let (device, from) = (layouts.linear.dev, layouts.linear.start);
                part.on.push(self.lower(writer, private, (device, from), depth)?);
            }
            b"striped" => {
                part.chunk = self.uint(private, layouts.striped.chunk_size)?;
                let count = self.uint(private, layouts.striped.stripes)?;
                if count > MAX_STRIPES {
                    return Err(refuse("its table makes no sense"));
                }
                let first = private.offset(u64::from(layouts.striped.stripe.offset));
                for number in 0..count {
                    let at = first.offset(number.wrapping_mul(u64::from(layouts.stripe.struct_size)));
                    let (device, from) = (layouts.stripe.dev, layouts.stripe.physical_start);
                    part.on.push(self.lower(writer, at, (device, from), depth)?);
                }
            }
            other => return Err(refuse(String::from_utf8_lossy(other))),
        }
        Ok(part)
    }

    /// Where something lies, by the fields for its `struct dm_dev` and for the sector there.
    fn lower(
        &mut self,
        writer: &mut Writer<'_>,
        at: Kva,
        (device, from): (Field, Field),
        depth: u32,
    ) -> Result<MappedOn> {
        let bdev = self.ptr(self.ptr(at, device)?, self.layouts.lower.bdev)?;
        let device = match self.mapped(bdev)? {
            Some(below) => {
                self.write(writer, below, depth.saturating_add(1))?;
                LowerDevice::Mapped(below.0)
            }
            None => LowerDevice::Disk(self.disk(bdev)?),
        };
        Ok(MappedOn {
            device,
            from: self.uint(at, from)?,
        })
    }

    fn disk(&self, bdev: Kva) -> Result<BlockDevice> {
        let device = block_devices::of(self.context, bdev)?;
        match DevicePlace::of(&device.path) {
            Some(_) => Ok(device),
            None => Err(refuse("it lies on no disk of this machine's")),
        }
    }
}
