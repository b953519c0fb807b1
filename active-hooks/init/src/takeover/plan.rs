//! What has to be written to a file that is on the disk, so that it has the content the dead kernel knew.
//!
//! The journal brings a file back as it was some seconds before: its blocks may be others, and its end may be elsewhere.
//! Where both kernels name the same block, the disk has the content already, unless a page was dirty.

use super::disk::{covered, gaps, missing, Blocks, WRITTEN_TO};
use crate::{
    restore::{inodes::Piece, world::Content},
    sys::{self, Extent},
};
use shared_region::{
    context::{frame_kind, DiskContent, DiskRun, FrameRun, Inode},
    PAGE_SIZE,
};
use std::os::fd::{AsFd, OwnedFd};

/// `FIEMAP_EXTENT_UNWRITTEN`: reads as zeros.
const UNWRITTEN: u32 = 0x800;
/// `FIEMAP_EXTENT_LAST` and `FIEMAP_EXTENT_MERGED`: with nothing but these the extent is a plain one.
const PLAIN: u32 = 1 | 0x1000;
/// A place on the device that no record names.
const ELSEWHERE: u64 = u64::MAX;

/// See the module's comment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Frames to write.
    pub frames: Vec<FrameRun>,
    /// Bytes to write, from blocks that the file has lost.
    pub pieces: Vec<Piece>,
    /// Ranges that have to read as zeros: start, end.
    pub holes: Vec<(u64, u64)>,
}

impl Plan {
    /// For a file whose blocks are where they are looked for.
    pub fn dirty(inode: &Content<'_, Inode>) -> Self {
        Self {
            frames: inode
                .runs()
                .filter(|run| run.kind() == frame_kind::FILE_DIRTY)
                .collect(),
            ..Self::default()
        }
    }

    /// For a file that may have other blocks than it had, and that an earlier successor may have begun to put back: its blocks
    /// prove nothing any more, and it is made of what is in memory alone.
    ///
    /// # Errors
    /// Not all of it is in memory.
    pub fn again(inode: &Content<'_, Inode>, disk: &DiskContent) -> Result<Self, String> {
        if !missing(inode, disk).is_empty() {
            return Err(WRITTEN_TO.into());
        }
        let covered = covered(inode.runs());
        Ok(Self {
            frames: inode.runs().collect(),
            pieces: Vec::new(),
            holes: gaps(&covered, 0, inode.record.size),
        })
    }

    /// For a file that may have other blocks than it had. Reads what is needed from its blocks.
    ///
    /// # Errors
    /// What could not be read.
    pub fn compare(
        inode: &Content<'_, Inode>,
        disk: &DiskContent,
        found: &OwnedFd,
        blocks: &mut Blocks<'_>,
    ) -> Result<Self, String> {
        let size_now = rustix::fs::fstat(found).map_err(|error| error.to_string())?.st_size as u64;
        let extents = sys::extents(found.as_fd()).map_err(|error| format!("its extents: {error}"))?;
        let covered = covered(inode.runs());
        let mut clean: Vec<FrameRun> = inode
            .runs()
            .filter(|run| run.kind() != frame_kind::FILE_DIRTY)
            .collect();
        clean.sort_unstable_by_key(|run| run.va);
        let mut plan = Self::dirty(inode);
        let mut wanted = Vec::new();
        for range in different(&disk.runs, &extents, size_now, inode.record.size) {
            let first = clean.partition_point(|run| run.va.saturating_add(run.pages() * PAGE_SIZE) <= range.start);
            let parts = clean[first..].iter().take_while(|run| run.va < range.end);
            plan.frames
                .extend(parts.filter_map(|&run| clean_part(run, range.start, range.end)));
            for (start, end) in gaps(&covered, range.start, range.end) {
                match range.at {
                    Some(at) => wanted.push(DiskRun {
                        offset: start,
                        at: at.saturating_add(start - range.start),
                        bytes: end - start,
                    }),
                    None => plan.holes.push((start, end)),
                }
            }
        }
        plan.pieces = blocks.read(disk.uuid, &wanted)?;
        Ok(plan)
    }
}

/// A range of a file whose blocks are not what they were, and where they were; `None` is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
    at: Option<u64>,
}

/// Where a file of `size` bytes has other blocks now that its size is `size_now`.
fn different(then: &[DiskRun], now: &[Extent], size_now: u64, size: u64) -> Vec<Range> {
    // When a file grows, the rest of the block that its end was in is zeroed; what lies beyond the end is not its own.
    let kept = if size_now < size {
        size_now / PAGE_SIZE * PAGE_SIZE
    } else {
        size
    };
    let now: Vec<(u64, u64, u64)> = now
        .iter()
        .filter(|extent| extent.flags & UNWRITTEN == 0)
        .map(|extent| {
            let at = if extent.flags & !PLAIN == 0 {
                extent.at
            } else {
                ELSEWHERE
            };
            (extent.offset, extent.offset.saturating_add(extent.bytes), at)
        })
        .collect();
    let then: Vec<(u64, u64, u64)> = then
        .iter()
        .map(|run| (run.offset, run.offset.saturating_add(run.bytes), run.at))
        .collect();
    let mut cuts = vec![0, kept, size];
    cuts.extend(then.iter().chain(&now).flat_map(|&(start, end, _)| [start, end]));
    cuts.retain(|&cut| cut <= size);
    cuts.sort_unstable();
    cuts.dedup();
    let mut ranges: Vec<Range> = Vec::new();
    for pair in cuts.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        let at = place(&then, start);
        let is = place(&now, start).map(|is| if start >= kept { ELSEWHERE } else { is });
        if at != is {
            ranges.push(Range { start, end, at });
        }
    }
    ranges
}

/// Where on the device a byte of a file lies, by extents in ascending order.
fn place(extents: &[(u64, u64, u64)], offset: u64) -> Option<u64> {
    let index = extents.partition_point(|&(_, end, _)| end <= offset);
    let &(start, _, at) = extents.get(index).filter(|&&(start, ..)| start <= offset)?;
    Some(if at == ELSEWHERE {
        at
    } else {
        at.saturating_add(offset - start)
    })
}

/// The pages of a run that touch a range.
fn clean_part(run: FrameRun, start: u64, end: u64) -> Option<FrameRun> {
    let first = (start / PAGE_SIZE).max(run.va / PAGE_SIZE);
    let last = end.div_ceil(PAGE_SIZE).min(run.va / PAGE_SIZE + run.pages());
    let pages = last.checked_sub(first).filter(|&pages| pages != 0)?;
    let pfn = run.pfn() + (first - run.va / PAGE_SIZE);
    Some(FrameRun::new(first * PAGE_SIZE, pfn, pages, run.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(page: u64, block: u64, pages: u64) -> DiskRun {
        DiskRun {
            offset: page * PAGE_SIZE,
            at: block * PAGE_SIZE,
            bytes: pages * PAGE_SIZE,
        }
    }

    fn extent(page: u64, block: u64, pages: u64, flags: u32) -> Extent {
        Extent {
            offset: page * PAGE_SIZE,
            at: block * PAGE_SIZE,
            bytes: pages * PAGE_SIZE,
            flags,
        }
    }

    fn range(start: u64, end: u64, at: Option<u64>) -> Range {
        Range {
            start: start * PAGE_SIZE,
            end: end * PAGE_SIZE,
            at: at.map(|block| block * PAGE_SIZE),
        }
    }

    #[test]
    fn equal_blocks_need_nothing() {
        let (then, now) = (
            [run(0, 50, 9), run(20, 90, 1)],
            [extent(0, 50, 9, 0), extent(20, 90, 1, 1)],
        );
        assert_eq!(different(&then, &now, 21 * PAGE_SIZE, 21 * PAGE_SIZE), []);
        // Extents are cut elsewhere, and there is something beyond the end.
        let now = [extent(0, 50, 4, 0), extent(4, 54, 5, 0), extent(20, 90, 3, 1)];
        assert_eq!(different(&then, &now, 23 * PAGE_SIZE, 21 * PAGE_SIZE), []);
    }

    #[test]
    fn lost_and_foreign_blocks_are_found() {
        let then = [run(0, 50, 4), run(6, 70, 2)];
        let now = [
            extent(0, 50, 2, 0),
            extent(2, 80, 1, 0),
            extent(4, 60, 1, 0),
            extent(6, 70, 2, UNWRITTEN),
        ];
        let size = 8 * PAGE_SIZE;
        let want = [
            range(2, 3, Some(52)),
            range(3, 4, Some(53)),
            range(4, 5, None),
            range(6, 8, Some(70)),
        ];
        assert_eq!(different(&then, &now, size, size), want);
    }

    #[test]
    fn beyond_the_old_end_nothing_on_the_disk_is_trusted() {
        let (then, now) = ([run(0, 50, 3)], [extent(0, 50, 5, 1)]);
        let (size_now, size) = (PAGE_SIZE + 100, 5 * PAGE_SIZE);
        let want = [range(1, 3, Some(51)), range(3, 5, None)];
        assert_eq!(different(&then, &now, size_now, size), want);
    }

    #[test]
    fn clean_pages_are_taken_where_blocks_differ() {
        let clean = FrameRun::new(2 * PAGE_SIZE, 500, 4, frame_kind::FILE);
        let part = clean_part(clean, 3 * PAGE_SIZE, 4 * PAGE_SIZE + 1).unwrap();
        assert_eq!((part.va, part.pfn(), part.pages()), (3 * PAGE_SIZE, 501, 2));
        assert_eq!(clean_part(clean, 0, 2 * PAGE_SIZE), None);
    }
}
