//! The dead kernel's RAM, added block by block.

use super::fail_at;
use crate::boot::log;
use orthros_device::{Device, Region};
use shared_region::{
    fail_at::FailAt,
    header::Header,
    layout::{HEADER, NURSERY_SIZE, REGION_SIZE, RETAINED},
    PAGE_SIZE,
};
use std::fs;

const MEMORY: &str = "/sys/devices/system/memory";
/// e820 type of RAM.
const RAM: u64 = 1;

/// Adds everything that was RAM, except for the region, what this kernel has already, and the nursery that becomes the
/// next reservation. A block that cannot be added is told, and the others are.
pub fn add(device: &Device, region: &Region) {
    let header = match Header::parse(&region.copy(HEADER, HEADER.size as usize)) {
        Ok(header) => header,
        Err(error) => return log::error(format_args!("{error}; the old kernel's memory stays out of use")),
    };
    let Some(block_size) = block_size() else {
        return log::error(format_args!(
            "{MEMORY}/block_size_bytes cannot be read; the old kernel's memory stays out of use"
        ));
    };
    let mut blocks = plan(&header, block_size);
    // Each block needs memory for its page structures, which must come from what is free already.
    blocks.sort_by_cached_key(|&block| retained(region, block, block_size));
    let (mut bytes, mut withheld, mut nanoseconds) = (0, 0, 0);
    for block in blocks {
        match device.add_memory(block, block_size) {
            Ok(added) => {
                bytes += block_size;
                withheld += added.withheld;
                nanoseconds += added.nanoseconds;
                fail_at::here(FailAt::FirstBlock);
            }
            Err(error) => log::error(format_args!("memory block {block:#x}: {error}")),
        }
    }
    log::info(format_args!(
        "added {} MB of RAM in {} ms, {withheld} frames withheld",
        bytes >> 20,
        nanoseconds / 1_000_000
    ));
}

fn block_size() -> Option<u64> {
    let text = fs::read_to_string(format!("{MEMORY}/block_size_bytes")).ok()?;
    u64::from_str_radix(text.trim(), 16)
        .ok()
        .filter(|size| size.is_power_of_two())
}

/// Physical addresses of the blocks to add, ascending. A block that this kernel has a part of, for its real-mode code,
/// is among them: the module fills in the rest.
fn plan(header: &Header, block_size: u64) -> Vec<u64> {
    // One nursery this kernel lives in; the other is the reservation from now on.
    let [first, second] = header.nursery;
    let windows = [
        (header.base, REGION_SIZE),
        (first, NURSERY_SIZE),
        (second, NURSERY_SIZE),
    ];
    let kept = |block: u64| {
        windows
            .iter()
            .any(|&(start, size)| block < start + size && start < block + block_size)
    };
    let mut blocks: Vec<u64> = header
        .ram()
        .iter()
        .filter(|range| range.kind == RAM && range.end > range.start)
        .flat_map(|range| {
            let first = range.start / block_size * block_size;
            (first..range.end).step_by(block_size as usize)
        })
        .filter(|&block| !kept(block))
        .collect();
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// Frames of a block that are not free for the allocator.
fn retained(region: &Region, block: u64, block_size: u64) -> u64 {
    let first = block / PAGE_SIZE / 8;
    let bytes = block_size / PAGE_SIZE / 8;
    (first..first + bytes)
        .step_by(8)
        .filter(|offset| *offset < RETAINED.size)
        .map(|offset| u64::from(region.word(RETAINED.offset + offset).count_ones()))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_region::header::MemoryRange;
    use zerocopy::FromZeros;

    const MB: u64 = 1 << 20;

    fn header() -> Header {
        let mut header = Header::new_zeroed();
        header.base = 512 * MB;
        header.nursery = [768 * MB, 1024 * MB];
        header.ram[0] = MemoryRange {
            start: 0,
            end: 640 << 10,
            kind: 1,
        };
        header.ram[1] = MemoryRange {
            start: MB,
            end: 2047 * MB,
            kind: 1,
        };
        header.ram[2] = MemoryRange {
            start: 3072 * MB,
            end: 3200 * MB,
            kind: 2,
        };
        header.ram_count = 3;
        header
    }

    #[test]
    fn windows_are_left_out() {
        let blocks: Vec<u64> = plan(&header(), 128 * MB).iter().map(|block| block / MB).collect();
        assert_eq!(blocks, [0, 128, 256, 384, 1280, 1408, 1536, 1664, 1792, 1920]);
    }
}
