//! Blocks of files that only the dead kernel knew of, read from their device.
//!
//! What we know on entry: a record says where a file's blocks lie, by the dead kernel's own extents. What we are
//! responsible for: nothing is written; blocks of a deleted file are read before its file system is mounted, because
//! mounting frees them; blocks of other files before anything is written to it, because a replayed journal may take
//! them for free ones.

use crate::{
    boot::{ext4, log, superblock},
    restore::{
        inodes::Piece,
        world::{Content, World},
    },
};
use shared_region::{
    context::{DiskContent, DiskRun, FrameRun, Id, Inode},
    PAGE_SIZE,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    time::{Duration, Instant},
};

/// How long a device may take to appear.
const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(10);

/// What was read of each file, or why it was not.
pub type FromDisk = BTreeMap<Id, Result<Vec<Piece>, String>>;

/// What may have become of disks since the failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// They are as the dead kernel has left them.
    Nothing,
    /// An earlier successor has begun to put files back, and failed: whatever it has done is done once more, with the same
    /// outcome, or is not relied on.
    Attempt,
    /// A kernel was booted that knows nothing of the failure. Blocks may be anybody's; files that have changed were taken out.
    Boot,
}

/// Reads from block devices, as much as memory has room for.
#[derive(Debug)]
pub struct Reader {
    devices: BTreeMap<[u8; 16], Result<File, String>>,
    /// Bytes that may still be read.
    room: u64,
    patience: Duration,
}

impl Reader {
    /// A reader that fills half of the memory that is free now, and waits so long for each device.
    pub fn within_memory(patience: Duration) -> Self {
        Self {
            devices: BTreeMap::new(),
            room: available() / 2,
            patience,
        }
    }

    /// A reader that refuses all there is to read.
    pub fn of_nothing() -> Self {
        Self {
            devices: BTreeMap::new(),
            room: 0,
            patience: Duration::ZERO,
        }
    }

    /// Reads runs of blocks of a file system.
    ///
    /// # Errors
    /// The device is not there or not the only one, it cannot be read, or there is too much.
    pub fn read(&mut self, uuid: [u8; 16], runs: &[DiskRun]) -> Result<Vec<Piece>, String> {
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = runs.iter().fold(0u64, |sum, run| sum.saturating_add(run.bytes));
        if bytes > self.room {
            return Err(format!("{bytes} bytes on the disk are more than memory has room for"));
        }
        let patience = self.patience;
        let device = self.devices.entry(uuid).or_insert_with(|| open(uuid, patience));
        let device = device.as_ref().map_err(Clone::clone)?;
        let mut pieces = Vec::new();
        for run in runs {
            let mut bytes = vec![0; usize::try_from(run.bytes).map_err(|error| error.to_string())?];
            device
                .read_exact_at(&mut bytes, run.at)
                .map_err(|error| format!("reading {} bytes at {} of its device: {error}", run.bytes, run.at))?;
            pieces.push(Piece {
                offset: run.offset,
                bytes,
            });
        }
        self.room -= bytes;
        Ok(pieces)
    }
}

/// Why blocks that only the dead kernel knew of are not read.
pub const WRITTEN_TO: &str = "is not in memory, and a successor that failed has written to its disk";

/// Bytes of memory with which [`Reader::within_memory`] refuses nothing: twice what lies on disks.
pub fn room(world: &World<'_>) -> u64 {
    let runs = world.disk.values().flat_map(|disk| &disk.runs);
    runs.fold(0u64, |sum, run| sum.saturating_add(run.bytes))
        .saturating_mul(2)
}

/// Where the blocks of a file are read from.
pub enum Blocks<'r> {
    /// Its device.
    Device(&'r mut Reader),
    /// What was read before its file system was mounted ([`read_ahead`]).
    Ahead(&'r Result<Vec<Piece>, String>),
}

impl Blocks<'_> {
    /// Reads runs of blocks of a file system.
    ///
    /// # Errors
    /// As [`Reader::read`]; or something was not read ahead.
    pub fn read(&mut self, uuid: [u8; 16], runs: &[DiskRun]) -> Result<Vec<Piece>, String> {
        match self {
            Self::Device(reader) => reader.read(uuid, runs),
            Self::Ahead(read) => {
                let read = read.as_ref().map_err(Clone::clone)?;
                runs.iter().map(|run| part_of(read, run)).collect()
            }
        }
    }
}

/// A run of a file, from what was read of it.
fn part_of(read: &[Piece], run: &DiskRun) -> Result<Piece, String> {
    let part = read.iter().find_map(|piece| {
        let from = usize::try_from(run.offset.checked_sub(piece.offset)?).ok()?;
        let to = from.checked_add(usize::try_from(run.bytes).ok()?)?;
        piece.bytes.get(from..to)
    });
    let bytes = part.ok_or_else(|| format!("{} bytes at {} are not in memory", run.bytes, run.offset))?;
    Ok(Piece {
        offset: run.offset,
        bytes: bytes.to_vec(),
    })
}

/// What is to be read of a file before any file system is mounted: of one that was deleted all that is not in memory, of another
/// what its record names.
fn wanted_ahead(world: &World<'_>, id: Id, inode: &Content<'_, Inode>) -> Option<([u8; 16], Vec<DiskRun>)> {
    if let Some(uncached) = world.uncached.get(&id) {
        return Some((uncached.uuid, uncached.runs.clone()));
    }
    let disk = world.disk.get(&id).filter(|_| inode.record.path.is_empty())?;
    Some((disk.uuid, missing(inode, disk)))
}

/// Reads, before any file system is mounted, what is not in memory of files that the disk does not have: deleted ones, and
/// blocks that nobody else keeps. If one was mounted since the failure (`again`), they may be anybody's.
pub fn read_ahead(world: &World<'_>, again: bool) -> FromDisk {
    let mut reader = Reader::within_memory(PATIENCE);
    let mut found = FromDisk::new();
    for (&id, inode) in &world.inodes {
        let Some((uuid, missing)) = wanted_ahead(world, id, inode) else {
            continue;
        };
        let read = if again && !missing.is_empty() {
            Err(WRITTEN_TO.to_owned())
        } else {
            reader.read(uuid, &missing)
        };
        match &read {
            Ok(pieces) if pieces.is_empty() => {}
            Ok(pieces) => log::info(format_args!(
                "{}: {} bytes read from its device",
                String::from_utf8_lossy(&inode.record.last_path),
                pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>()
            )),
            Err(error) => log::warning(format_args!(
                "{}: {error}",
                String::from_utf8_lossy(&inode.record.last_path)
            )),
        }
        found.insert(id, read);
    }
    found
}

/// What of a file's blocks is not among its frames.
pub fn missing(inode: &Content<'_, Inode>, disk: &DiskContent) -> Vec<DiskRun> {
    let covered = covered(inode.runs());
    let mut missing = Vec::new();
    for run in &disk.runs {
        // The rest of the last block is not the file's.
        let end = run.offset.saturating_add(run.bytes).min(inode.record.size);
        for (start, end) in gaps(&covered, run.offset, end) {
            missing.push(DiskRun {
                offset: start,
                at: run.at.saturating_add(start - run.offset),
                bytes: end - start,
            });
        }
    }
    missing
}

/// The bytes that frames hold: ascending, apart from each other.
pub fn covered(runs: impl Iterator<Item = FrameRun>) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = runs
        .map(|run| (run.va, run.va.saturating_add(run.pages() * PAGE_SIZE)))
        .collect();
    all.sort_unstable();
    let mut covered: Vec<(u64, u64)> = Vec::new();
    for (start, end) in all {
        match covered.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => covered.push((start, end)),
        }
    }
    covered
}

/// The parts of `start..end` that are not covered.
pub fn gaps(covered: &[(u64, u64)], start: u64, end: u64) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    let mut at = start;
    let first = covered.partition_point(|&(_, covered_end)| covered_end <= start);
    for &(from, to) in covered[first..].iter().take_while(|&&(from, _)| from < end) {
        if from > at {
            gaps.push((at, from));
        }
        at = at.max(to);
    }
    if at < end {
        gaps.push((at, end));
    }
    gaps
}

fn open(uuid: [u8; 16], patience: Duration) -> Result<File, String> {
    let device = locate(uuid, patience)?;
    File::open(&device).map_err(|error| format!("{}: {error}", device.display()))
}

/// The device of a file system, for which is waited so long.
///
/// # Errors
/// It does not appear, or several have the file system.
pub fn locate(uuid: [u8; 16], patience: Duration) -> Result<PathBuf, String> {
    let name = ext4::uuid_text(&uuid);
    let deadline = Instant::now() + patience;
    let found: Vec<PathBuf> = loop {
        let mut found = ext4::find_all(|names| names.uuid == name);
        found.extend(superblock::find_all(|found| *found == uuid));
        if !found.is_empty() || Instant::now() >= deadline {
            break found;
        }
        std::thread::sleep(STEP);
    };
    match found.as_slice() {
        [] => Err(format!(
            "the device of file system {name} has not appeared within {patience:?}"
        )),
        [device] => Ok(device.clone()),
        several => Err(format!("{} devices have the file system {name}", several.len())),
    }
}

/// Bytes of memory that can be used.
pub fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_region::context::frame_kind;

    #[test]
    fn only_what_frames_do_not_hold_is_read() {
        let frames = [(1, 2, 100), (3, 1, 200), (8, 1, 300)]
            .map(|(page, pages, pfn)| FrameRun::new(page * PAGE_SIZE, pfn, pages, frame_kind::FILE).to_bytes());
        let frames = frames.concat();
        let mut inode = Content {
            record: Inode {
                size: 100 * PAGE_SIZE,
                ..Inode::default()
            },
            frames: vec![&frames[..]],
        };
        let run = |offset: u64, at: u64, bytes: u64| DiskRun { offset, at, bytes };
        let disk = DiskContent {
            uuid: [1; 16],
            runs: vec![
                run(0, 1 << 20, 6 * PAGE_SIZE),
                run(8 * PAGE_SIZE, 2 << 20, PAGE_SIZE + 7),
            ],
        };
        let want = [
            run(0, 1 << 20, PAGE_SIZE),
            run(4 * PAGE_SIZE, (1 << 20) + 4 * PAGE_SIZE, 2 * PAGE_SIZE),
            run(9 * PAGE_SIZE, (2 << 20) + PAGE_SIZE, 7),
        ];
        assert_eq!(missing(&inode, &disk), want);
        inode.record.size = 5 * PAGE_SIZE + 1;
        let last = run(4 * PAGE_SIZE, want[1].at, PAGE_SIZE + 1);
        assert_eq!(missing(&inode, &disk), [want[0], last], "a file does not grow");
    }

    #[test]
    fn too_much_is_refused_before_anything_is_read() {
        let mut reader = Reader {
            devices: BTreeMap::new(),
            room: 10,
            patience: Duration::ZERO,
        };
        let run = DiskRun {
            bytes: 11,
            ..DiskRun::default()
        };
        assert!(reader.read([1; 16], &[run]).unwrap_err().contains("more than memory"));
        let fits = DiskRun { bytes: 10, ..run };
        assert!(reader.read([1; 16], &[fits]).unwrap_err().contains("not appeared"));
        assert!(
            reader.read([1; 16], &[]).unwrap().is_empty(),
            "there is nothing to be read"
        );
    }
}
