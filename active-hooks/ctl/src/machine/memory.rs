//! Room for the region and the nurseries, and the size of memory blocks.

use super::{region, Item};
use crate::root::Root;
use crate::units::bytes;
use boot_plan::memory_map::{from_firmware, ram_bytes};
use boot_plan::windows::choose;
use shared_region::header::MemoryRange;
use shared_region::layout::WINDOW_ALIGN;

const ROOM: &str = "room";
const BLOCKS: &str = "memory blocks";

fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

/// e820 types by the names the kernel gives them (`e820_type_to_string`, arch/x86/kernel/e820.c).
fn kind(name: &str) -> u64 {
    match name.trim() {
        "System RAM" => 1,
        "ACPI Tables" => 3,
        "ACPI Non-volatile Storage" => 4,
        _ => 2,
    }
}

/// The firmware's map as the kernel keeps it in `/sys/firmware/memmap`.
fn firmware_map(root: &Root) -> Vec<MemoryRange> {
    let folder = "/sys/firmware/memmap";
    let entry = |name: &String| {
        let value = |what: &str| root.line(&format!("{folder}/{name}/{what}"));
        Some(MemoryRange {
            start: number(&value("start")?)?,
            // The last byte is named there.
            end: number(&value("end")?)?.checked_add(1)?,
            kind: kind(&value("type")?),
        })
    };
    root.names(folder)
        .unwrap_or_default()
        .iter()
        .filter_map(entry)
        .collect()
}

/// RAM as `/proc/iomem` shows it to root; others see zeros.
fn iomem_map(root: &Root) -> Vec<MemoryRange> {
    let text = root.read("/proc/iomem").unwrap_or_default();
    let entry = |line: &str| {
        let (range, name) = line.split_once(" : ")?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (number(start)?, number(end)?);
        (!line.starts_with(' ') && end > 0).then_some(MemoryRange {
            start,
            end: end + 1,
            kind: kind(name),
        })
    };
    text.lines().filter_map(entry).collect()
}

/// Whether the region and the nurseries find a place.
pub fn room(root: &Root) -> Item {
    if let Some(region) = region(root) {
        return Item::good(ROOM, format!("started through the loader; the region lies at {region}"));
    }
    let mut map = firmware_map(root);
    if map.is_empty() {
        map = iomem_map(root);
    }
    if map.is_empty() {
        return Item::doubtful(
            ROOM,
            "neither /sys/firmware/memmap nor /proc/iomem shows the RAM; run this as root",
        );
    }
    let map = match from_firmware(&map) {
        Ok(map) => map,
        Err(error) => return Item::bad(ROOM, error.to_string()),
    };
    match choose(&map, &[]) {
        Ok(windows) => Item::good(
            ROOM,
            format!(
                "{} of RAM; the region would lie at {:#x}, the nurseries at {:#x} and {:#x}",
                bytes(ram_bytes(&map)),
                windows.region,
                windows.nursery[0],
                windows.nursery[1]
            ),
        ),
        Err(error) => Item::bad(ROOM, error.to_string()),
    }
}

/// RAM is added back in blocks; the windows are aligned to the smallest size of one.
pub fn block_size(root: &Root) -> Item {
    match root
        .line("/sys/devices/system/memory/block_size_bytes")
        .as_deref()
        .and_then(number)
    {
        None => Item::doubtful(
            BLOCKS,
            "this kernel does not show its memory block size: is CONFIG_MEMORY_HOTPLUG missing?",
        ),
        Some(WINDOW_ALIGN) => Item::good(BLOCKS, bytes(WINDOW_ALIGN)),
        Some(size) => Item::bad(
            BLOCKS,
            format!(
                "{} instead of {}: machines with so much RAM are not supported",
                bytes(size),
                bytes(WINDOW_ALIGN)
            ),
        ),
    }
}
