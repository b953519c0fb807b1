//! Whether a file system has room for what is to be put back: a file that has been begun with, and has no room, would have been
//! changed, and could not be told from one that somebody has changed.

use crate::{sys, takeover::disk::gaps};
use rustix::fs::{fstat, fstatfs, fstatvfs};
use shared_region::{context::FrameRun, PAGE_SIZE};
use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
};

/// Bytes of blocks of its own that a file may need besides those of its data: of directories, inodes and extents.
const BESIDE: u64 = 4 * PAGE_SIZE;
/// Bytes of data that need one more for extents, at worst.
const PER_EXTENT: u64 = 256;
/// `EXT4_MAX_RESERVED_CLUSTERS`, as far as it is known: blocks that nobody gets (`reserved_clusters` in sysfs).
const RESERVED: u64 = 4096;

/// `EXT4_SUPER_MAGIC` and `BTRFS_SUPER_MAGIC` (include/uapi/linux/magic.h).
const EXT4: u64 = 0xEF53;
const BTRFS: u64 = 0x9123_683E;
/// `FIEMAP_EXTENT_SHARED`: who writes to it is given another.
const SHARED: u32 = 0x2000;

/// Which file system an open file lies on.
fn kind(file: &OwnedFd) -> u64 {
    fstatfs(file).map_or(0, |found| found.f_type as u64)
}

/// Bytes that the file system of an open file can still take.
pub fn of(file: &OwnedFd) -> u64 {
    let Ok(found) = fstatvfs(file) else { return 0 };
    let blocks = match kind(file) {
        EXT4 => found.f_bfree.saturating_sub(reserved(file)),
        // What is free may be wanted by its trees.
        BTRFS => found.f_bavail,
        // XFS has taken out already what nobody gets.
        _ => found.f_bfree,
    };
    blocks.saturating_mul(found.f_frsize)
}

fn reserved(file: &OwnedFd) -> u64 {
    let read = || {
        let device = fstat(file).ok()?.st_dev;
        let disk = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
        let name = fs::canonicalize(disk).ok()?.file_name()?.to_os_string();
        let text = fs::read_to_string(
            std::path::Path::new("/sys/fs/ext4")
                .join(name)
                .join("reserved_clusters"),
        );
        text.ok()?.trim().parse().ok()
    };
    read().unwrap_or(RESERVED)
}

/// Bytes of blocks that a file needs which it has not, if these pages are written to it; it may not be there at all.
pub fn needed(file: Option<&OwnedFd>, runs: impl Iterator<Item = FrameRun>) -> u64 {
    // btrfs writes to other blocks than those that it has.
    let in_place = file.filter(|file| kind(file) != BTRFS);
    let extents = in_place.map_or_else(Vec::new, |file| sys::extents(file.as_fd()).unwrap_or_default());
    let own = extents.iter().filter(|extent| extent.flags & SHARED == 0);
    let mut has: Vec<(u64, u64)> = own
        .map(|extent| (extent.offset, extent.offset.saturating_add(extent.bytes)))
        .collect();
    has.sort_unstable();
    let lacks = |run: FrameRun| {
        let end = run.va.saturating_add(run.pages() * PAGE_SIZE);
        let lacks = gaps(&has, run.va, end);
        lacks.iter().map(|(start, end)| end - start).sum::<u64>()
    };
    let data: u64 = runs.map(lacks).sum();
    match data {
        0 if file.is_some() => 0,
        _ => data + data / PER_EXTENT + BESIDE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_region::context::frame_kind;
    use std::os::unix::fs::FileExt;

    #[test]
    fn only_blocks_that_are_not_there_need_room() {
        let path = std::env::temp_dir().join(format!("orthros-room-{}", std::process::id()));
        let file = fs::File::create(&path).unwrap();
        file.set_len(8 * PAGE_SIZE).unwrap();
        file.write_all_at(&[7; 2 * PAGE_SIZE as usize], 2 * PAGE_SIZE).unwrap();
        file.sync_all().unwrap();
        let file = OwnedFd::from(file);
        fs::remove_file(&path).unwrap();
        let runs =
            |first: u64, pages| [FrameRun::new(first * PAGE_SIZE, 10, pages, frame_kind::FILE_DIRTY)].into_iter();
        assert_eq!(
            needed(None, runs(0, 2)),
            2 * PAGE_SIZE + 2 * PAGE_SIZE / PER_EXTENT + BESIDE
        );
        // Not every file system tells.
        if sys::extents(file.as_fd()).is_ok_and(|found| !found.is_empty()) {
            assert_eq!(needed(Some(&file), runs(2, 2)), 0);
            assert_eq!(
                needed(Some(&file), runs(1, 2)),
                PAGE_SIZE + PAGE_SIZE / PER_EXTENT + BESIDE
            );
        }
        assert!(of(&file) > 0);
    }
}
