//! The dead kernel's RAM, added block by block.

use super::{disk, fail_at, swap};
use crate::{boot::log, restore::world::World};
use orthros_device::{Device, Region};
use shared_region::{
    context::FrameRun,
    fail_at::FailAt,
    header::Header,
    layout::{HEADER, NURSERY_SIZE, REGION_SIZE, RETAINED},
    PAGE_SIZE,
};
use std::{collections::BTreeMap, fs};

const MEMORY: &str = "/sys/devices/system/memory";
/// e820 type of RAM.
const RAM: u64 = 1;

/// Free memory that is added before the processes are rebuilt, in bytes, besides room for copies of all that is retained:
/// they and their file systems must do with it, and with the nursery, until the rest is there. They cannot use it up
/// meanwhile: a block comes every few milliseconds.
const AT_FIRST: u64 = 512 << 20;
const OVERCOMMIT: &str = "/proc/sys/vm/overcommit_memory";
/// Everything is promised (Documentation/admin-guide/sysctl/vm.rst).
const ALWAYS: &str = "1";

/// Blocks nobody waits for. Adding a GB takes as long as rebuilding a dozen processes.
#[derive(Debug, Default)]
pub struct Later {
    blocks: Vec<u64>,
    block_size: u64,
    /// Whether more memory is promised than there is was a matter of how much there is: what it was set to.
    overcommit: Option<String>,
}

impl Later {
    /// Adds them.
    pub fn add(&mut self, device: &Device) {
        add_all(device, &std::mem::take(&mut self.blocks), self.block_size);
        if let Some(before) = self.overcommit.take() {
            if let Err(error) = fs::write(OVERCOMMIT, before.trim()) {
                log::warning(format_args!("{OVERCOMMIT} stays {ALWAYS}: {error}"));
            }
        }
    }

    /// Mappings may be larger than what is added at first, and than all of it without the frames that are to fill them.
    fn promise(&mut self) {
        let promise = || {
            let before = fs::read_to_string(OVERCOMMIT)?;
            fs::write(OVERCOMMIT, ALWAYS).map(|()| before)
        };
        match promise() {
            Ok(before) => self.overcommit = Some(before),
            Err(error) => log::warning(format_args!("{OVERCOMMIT}: {error}")),
        }
    }
}

/// How many frames lie in each block of memory, by its address.
fn by_block(runs: impl Iterator<Item = FrameRun>, block_size: u64) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    for run in runs {
        let (mut at, end) = (run.pfn() * PAGE_SIZE, (run.pfn() + run.pages()) * PAGE_SIZE);
        while at < end {
            let block = at / block_size * block_size;
            let stop = end.min(block + block_size);
            *counts.entry(block).or_default() += (stop - at) / PAGE_SIZE;
            at = stop;
        }
    }
    counts
}

/// A block that can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    /// Its address.
    at: u64,
    /// Retained frames for which processes or disks wait.
    needed: u64,
    /// Other retained frames.
    kept: u64,
}

/// Adds of everything that was RAM, except for the region, what this kernel has already, and the nursery that becomes the
/// next reservation, what is needed at first: all blocks with retained frames for which somebody waits, and enough others for
/// what lies on disks to be read. A block that cannot be added is told, and the others are.
pub fn add(device: &Device, region: &Region, world: Option<&World<'_>>) -> Later {
    let header = match Header::parse(&region.copy(HEADER, HEADER.size as usize)) {
        Ok(header) => header,
        Err(error) => {
            log::error(format_args!("{error}; the old kernel's memory stays out of use"));
            return Later::default();
        }
    };
    let Some(block_size) = block_size() else {
        log::error(format_args!(
            "{MEMORY}/block_size_bytes cannot be read; the old kernel's memory stays out of use"
        ));
        return Later::default();
    };
    let blocks = plan(&header, block_size);
    // What is only in a file's cache again nobody waits for.
    let cached = world.into_iter().flat_map(|world| &world.cached);
    let warm = by_block(cached.flat_map(|(_, file)| file.runs()), block_size);
    let blocks = blocks.into_iter().map(|at| {
        let retained = retained(region, at, block_size);
        let kept = warm.get(&at).map_or(0, |&frames| frames.min(retained));
        let needed = retained - kept;
        Block { at, needed, kept }
    });
    let room = world.map_or(0, |world| disk::room(world).saturating_add(swap::room(world)));
    let (first, blocks) = split(blocks.collect(), block_size, room);
    add_all(device, &first, block_size);
    let mut later = Later {
        blocks,
        block_size,
        overcommit: None,
    };
    later.promise();
    later
}

/// Divides blocks into those that are added at first, in the order in which they are, and the others.
fn split(mut blocks: Vec<Block>, block_size: u64, room: u64) -> (Vec<u64>, Vec<u64>) {
    // Each block needs memory for its page structures, which must come from what is free already. The first needs none, and
    // comes last: what is free in it, between frames and what the firmware keeps, is what page structures would be made of
    // next, rather than of larger pieces of others. Under emulation that is slow where programs have run.
    blocks.sort_by_key(|block| (block.at == 0, block.needed, block.kept));
    let free = |block: &Block| block_size.saturating_sub((block.needed + block.kept) * PAGE_SIZE);
    let copies: u64 = blocks.iter().map(|block| block.needed * PAGE_SIZE).sum();
    let wanted = copies.saturating_add(room).saturating_add(AT_FIRST);
    let mut found: u64 = blocks.iter().filter(|block| block.needed != 0).map(free).sum();
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for block in blocks {
        if block.needed != 0 || found < wanted || first.is_empty() {
            first.push(block.at);
            if block.needed == 0 {
                found += free(&block);
            }
        } else {
            later.push(block.at);
        }
    }
    (first, later)
}

fn add_all(device: &Device, blocks: &[u64], block_size: u64) {
    if blocks.is_empty() {
        return;
    }
    let (mut bytes, mut withheld, mut nanoseconds) = (0, 0, 0);
    for &block in blocks {
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
    use shared_region::{context::frame_kind, header::MemoryRange};
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
    fn frames_and_enough_free_memory_come_first() {
        let block = |at, needed| Block { at, needed, kept: 0 };
        let mut blocks: Vec<Block> = (0..9).map(|at| block(at, 0)).collect();
        (blocks[0].needed, blocks[3].needed) = (7, 32768);
        // One with frames has next to all of its 128 MB free, another none: four are needed for what is free, one for copies
        // of the frames, one because of the seven.
        let (first, later) = split(blocks.clone(), 128 * MB, 0);
        assert_eq!((first, later), (vec![1, 2, 4, 5, 6, 3, 0], vec![7, 8]));
        let (first, later) = split(blocks.clone(), 128 * MB, 200 * MB);
        assert_eq!((first, later), (vec![1, 2, 4, 5, 6, 7, 3, 0], vec![8]));
        let (first, later) = split(blocks.clone(), 1024 * MB, 0);
        assert_eq!((first, later), (vec![1, 3, 0], vec![2, 4, 5, 6, 7, 8]));
        // What only may be of use again is not waited for, and is no free memory.
        (blocks[1].kept, blocks[2].kept) = (32768, 16384);
        let (first, later) = split(blocks, 128 * MB, 0);
        assert_eq!((first, later), (vec![4, 5, 6, 7, 8, 3, 0], vec![2, 1]));
    }

    #[test]
    fn frames_are_counted_by_block() {
        let runs = [(32760, 16), (3, 1)].map(|(pfn, pages)| FrameRun::new(0, pfn, pages, frame_kind::FILE));
        let frames = by_block(runs.into_iter(), 128 * MB);
        assert_eq!(frames, BTreeMap::from([(0, 9), (128 * MB, 8)]));
    }

    #[test]
    fn windows_are_left_out() {
        let blocks: Vec<u64> = plan(&header(), 128 * MB).iter().map(|block| block / MB).collect();
        assert_eq!(blocks, [0, 128, 256, 384, 1280, 1408, 1536, 1664, 1792, 1920]);
    }
}
