//! Where each part of the region lies, and where the windows of memory around it go.
//!
//! Offsets are in bytes from the region's base, which the loader chooses at boot. The table is sized for machines of
//! up to [`MAX_RAM`]; what does not fit into [`CONTEXT`] goes into free frames of the dead kernel, never over the end.

/// Bytes in the region.
pub const REGION_SIZE: u64 = 256 << 20;
/// Bytes in a nursery, the window in which the next kernel boots.
pub const NURSERY_SIZE: u64 = 256 << 20;
/// Alignment of the region and of both nurseries, at both ends: a memory block of x86_64 below 64 GB of RAM
/// (`MIN_MEMORY_BLOCK_SIZE`, arch/x86/mm/init_64.c). A block that is partly present cannot be hot-added.
pub const WINDOW_ALIGN: u64 = 128 << 20;
/// The most RAM for which the tables below have room.
pub const MAX_RAM: u64 = 128 << 30;
/// CPUs that have a parking slot; slots are indexed by local APIC id (xAPIC ids are 8 bits).
pub const MAX_CPUS: usize = 256;

/// Page below 1 MB that holds the real-mode trampolines of the loader and the backup OS. Reserved in every kernel's map.
pub const TRAMPOLINE: u64 = 0x8000;
/// Real-mode memory of the kernel that lives in nursery 0 (start, end).
pub const LOW_RANGE_0: (u64, u64) = (0x1_0000, 0x5_0000);
/// Real-mode memory of the kernel that lives in nursery 1, and of the very first kernel (start, end).
pub const LOW_RANGE_1: (u64, u64) = (0x5_0000, 0x9_F000);

/// A part of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name used in messages.
    pub name: &'static str,
    /// Bytes from the base of the region.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

impl Part {
    /// Bytes from the base of the region to the first byte after this part.
    pub const fn end(&self) -> u64 {
        self.offset + self.size
    }
}

const fn part(name: &'static str, offset: u64, size: u64) -> Part {
    Part { name, offset, size }
}

/// [`crate::header::Header`]. Written by the loader before anything else runs.
pub const HEADER: Part = part("header", 0, 0x1000);
/// [`crate::control::ControlWords`], with the [`crate::timeline`] behind it.
pub const CONTROL: Part = part("control words", 0x1000, 0x1000);
/// [`crate::timeline::Timeline`].
pub const TIMELINE: Part = part("timeline", 0x2000, 0x1000);
/// [`crate::standby::StandbyWords`].
pub const STANDBY_WORDS: Part = part("standby words", 0x3000, 0x1000);
/// [`crate::attempts::AttemptWords`].
pub const ATTEMPTS: Part = part("attempts", 0x4000, 0x1000);
/// [`crate::stage::StageWords`].
pub const STAGE_WORDS: Part = part("stage words", 0x5000, 0x1000);
/// [`crate::rescue_area::RescueWords`].
pub const RESCUE_WORDS: Part = part("rescue words", 0x6000, 0x1000);
/// [`crate::facts::Facts`]. Written by the module.
pub const FACTS: Part = part("facts", 0x1_0000, 0x1_0000);
/// [`crate::protect::ProtectTable`]. Written by the module.
pub const PROTECT: Part = part("protect table", 0x2_0000, 0x2_0000);
/// [`crate::stage::StageTable`].
pub const STAGE_TABLE: Part = part("stage table", 0x4_0000, 0x1_0000);
/// Page tables, descriptor tables and code of the parked CPUs; the backup OS's.
pub const PARKING_CODE: Part = part("parking code", 0x8_0000, 0x8_0000);
/// [`crate::parking::ParkSlot`] for each local APIC id.
pub const PARKING_SLOTS: Part = part("parking slots", 0x10_0000, 0x40_0000);
/// [`crate::log_ring::LogRing`].
pub const LOG: Part = part("log ring", 0x50_0000, 0x10_0000);
/// The epitaph: a log ring of its own that is written once, when the machine is given up.
pub const EPITAPH: Part = part("epitaph", 0x60_0000, 0x10_0000);
/// ACPI tables for the kernels in nursery 0 and 1, one half each.
pub const ACPI: Part = part("ACPI tables", 0x70_0000, 0x10_0000);
/// Offset, in a half of [`ACPI`], of the tables by which a kernel that sleeps there differs from others.
pub const SLEEP_TABLES: u64 = ACPI.size / 2 - 0x4000;
/// Offset, in a half of [`ACPI`], of the page of words that stand for that kernel's power-management registers.
pub const SLEEP_PAGE: u64 = ACPI.size / 2 - 0x2000;
/// boot_params, command lines and setup data, one half for each nursery.
pub const BOOT_PARAMS: Part = part("boot parameters", 0x80_0000, 0x10_0000);
/// The report of the last failover ([`crate::record`]s of kind `Report…`), kept until the next one.
pub const REPORT: Part = part("report", 0x90_0000, 0x70_0000);
/// Image, page tables and stacks of the backup OS.
pub const BACKUP_IMAGE: Part = part("backup OS", 0x100_0000, 0x100_0000);
/// Heap of the backup OS.
pub const BACKUP_HEAP: Part = part("backup OS heap", 0x200_0000, 0x200_0000);
/// Staged kernels ([`crate::stage::StageTable`] says what is in which slot).
pub const STAGED_0: Part = part("staged kernel 0", 0x400_0000, 0x280_0000);
/// See [`STAGED_0`].
pub const STAGED_1: Part = part("staged kernel 1", 0x680_0000, 0x280_0000);
/// [`crate::retained`] bitmap, one bit for each page frame of [`MAX_RAM`].
pub const RETAINED: Part = part("retained frames", 0x900_0000, 0x40_0000);
/// Essential Context ([`crate::record`]).
pub const CONTEXT: Part = part("Essential Context", 0x940_0000, 0x2C0_0000);
/// Packed images of sleeping standbys, one half for each nursery.
pub const STANDBY: Part = part("standby images", 0xC00_0000, 0x400_0000);

/// Every part, in order of offset.
pub const PARTS: [Part; 23] = [
    HEADER,
    CONTROL,
    TIMELINE,
    STANDBY_WORDS,
    ATTEMPTS,
    STAGE_WORDS,
    RESCUE_WORDS,
    FACTS,
    PROTECT,
    STAGE_TABLE,
    PARKING_CODE,
    PARKING_SLOTS,
    LOG,
    EPITAPH,
    ACPI,
    BOOT_PARAMS,
    REPORT,
    BACKUP_IMAGE,
    BACKUP_HEAP,
    STAGED_0,
    STAGED_1,
    RETAINED,
    CONTEXT,
];

/// The staged-kernel slot `index` (0 or 1).
pub const fn staged_slot(index: usize) -> Part {
    if index == 0 {
        STAGED_0
    } else {
        STAGED_1
    }
}

/// The page of words that stand for the power-management registers of a kernel that sleeps in nursery `index` (0 or 1).
pub const fn sleep_page(index: usize) -> Part {
    let half = if index == 0 { 0 } else { ACPI.size / 2 };
    part("sleep words", ACPI.offset + half + SLEEP_PAGE, crate::PAGE_SIZE)
}

/// The half of a part that both nurseries share ([`ACPI`], [`BOOT_PARAMS`], [`STANDBY`]) that is for nursery `index` (0 or 1).
pub const fn half(whole: Part, index: usize) -> Part {
    let size = whole.size / 2;
    let start = if index == 0 { 0 } else { size };
    part(whole.name, whole.offset + start, size)
}

/// The real-mode memory of the kernel that lives in nursery `index` (0 or 1).
pub const fn low_range(index: usize) -> (u64, u64) {
    if index == 0 {
        LOW_RANGE_0
    } else {
        LOW_RANGE_1
    }
}

const _: () = {
    let mut i = 1;
    while i < PARTS.len() {
        assert!(PARTS[i - 1].end() <= PARTS[i].offset);
        assert!(PARTS[i].offset.is_multiple_of(0x1000) && PARTS[i].size.is_multiple_of(0x1000));
        i += 1;
    }
    assert!(CONTEXT.end() <= STANDBY.offset);
    assert!(STANDBY.end() == REGION_SIZE);
    assert!(RETAINED.size * 8 * crate::PAGE_SIZE >= MAX_RAM);
};
