//! Data of files that nobody here holds, and that their disks do not have.
//!
//! What we know on entry: all file systems are mounted, and the journals of those in `committed` had nothing that their
//! logs have not. There, the pages that were newer than the disk are all that is missing. What we are responsible for: a
//! file is known by number and generation, and one that is not there is left out.

use super::handles;
use crate::{
    boot::log,
    restore::{
        host::Host,
        inodes::{self, Filled, Piece},
        world::{Content, World},
        OrRefuse, Refusal, Restored,
    },
    sys::magic_path,
};
use rustix::fs::{futimens, open, Mode, OFlags};
use shared_region::{
    context::{DirtyFile, FileCache, FrameRun, Id, PagePart},
    PAGE_SIZE,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    time::{Duration, Instant},
};

/// Pages that are put back between two signs of life.
const STRETCH: u64 = 4096;
/// How long all of it may take. The backup OS gives a successor up that stays ten minutes in one phase.
const PATIENCE: Duration = Duration::from_secs(300);

/// What was done.
#[derive(Debug, Default)]
pub struct PutBack {
    /// What was put back.
    pub done: FileCache,
    /// Files that have not all they had.
    pub failed: BTreeSet<Id>,
    /// What could not be put back.
    pub remarks: Vec<String>,
}

/// Puts all of it back. Calls `alive` again and again meanwhile. Inodes in `rewritten` have a new file under their name; file
/// systems in `unmounted` are left out.
pub fn put_back(
    world: &World<'_>,
    (committed, unmounted): (&BTreeSet<u64>, &BTreeSet<u64>),
    rewritten: &BTreeSet<Id>,
    host: &dyn Host,
    alive: &dyn Fn(),
) -> PutBack {
    let (mut remarks, mut failed) = (Vec::new(), BTreeSet::new());
    let begin = Instant::now();
    let deadline = begin + PATIENCE;
    // Without the journal a file may be one that was made anew, or lie elsewhere: how many are left as they are.
    let mut behind: BTreeMap<u64, u64> = BTreeMap::new();
    let mut done = FileCache::default();
    for (id, file) in &world.dirty_files {
        let record = &file.record;
        if unmounted.contains(&record.device) {
            continue;
        }
        if record.ahead && !committed.contains(&record.device) {
            *behind.entry(record.device).or_default() += 1;
            continue;
        }
        let anew = world.inodes.get(id).filter(|_| rewritten.contains(id));
        let found = match anew {
            Some(inode) => by_name(&inode.record.path),
            None => handles::regular(world, record.device, record.number, record.generation, OFlags::RDONLY),
        };
        match one(found, file, host, alive, deadline) {
            Ok((filled, bytes)) => {
                done.files += 1;
                done.bytes += bytes;
                done.in_place += filled.pages - filled.copied;
                done.copied += filled.copied;
            }
            Err(refusal) => {
                failed.insert(*id);
                remarks.push(format!("inode {} of {}: {refusal}", record.number, name(record.device)));
            }
        }
    }
    for (device, count) in behind {
        remarks.push(format!(
            "{count} files of {} have lost what was written last",
            name(device)
        ));
    }
    for remark in &remarks {
        log::warning(format_args!("{remark}"));
    }
    done.nanoseconds = begin.elapsed().as_nanos().try_into().unwrap_or(u64::MAX);
    if done.files != 0 {
        log::info(format_args!(
            "{} pages of {} files of other processes are put back, {} of them in place, in {} ms",
            done.in_place + done.copied,
            done.files,
            done.in_place,
            done.nanoseconds / 1_000_000
        ));
    }
    PutBack { done, failed, remarks }
}

fn name(device: u64) -> String {
    format!("device {}:{}", device >> 20, device & 0xF_FFFF)
}

/// Opens what is under a name.
pub fn by_name(path: &[u8]) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(OsStr::from_bytes(path), flags, Mode::empty()).ok()
}

fn one(
    found: Option<OwnedFd>,
    file: &Content<'_, DirtyFile>,
    host: &dyn Host,
    alive: &dyn Fn(),
    deadline: Instant,
) -> Restored<(Filled, u64)> {
    let record = &file.record;
    let Some(found) = found else {
        return Err(Refusal::new("its data", "is not put back: the file is not there"));
    };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = open(magic_path(&found), flags, Mode::empty()).or_refuse(|| "opening")?;
    // The size, whatever there is to write.
    inodes::fill(&fd, std::iter::empty(), record.size, host)?;
    let (mut done, mut bytes) = (Filled::default(), 0);
    for stretch in stretches(file.runs()) {
        if Instant::now() > deadline {
            return Err(Refusal::new("its data", "is not put back: there was no more time"));
        }
        alive();
        bytes += stretch.iter().map(|run| bytes_within(run, record.size)).sum::<u64>();
        let filled = inodes::fill(&fd, stretch.into_iter(), record.size, host)?;
        done.pages += filled.pages;
        done.copied += filled.copied;
    }
    for part in &record.parts {
        if let Some(piece) = piece(part, record.size, host)? {
            bytes += piece.bytes.len() as u64;
            inodes::put(&fd, &[piece])?;
        }
    }
    futimens(&fd, &inodes::times(record.times)).or_refuse(|| "times")?;
    Ok((done, bytes))
}

fn bytes_within(run: &FrameRun, size: u64) -> u64 {
    (run.pages() * PAGE_SIZE).min(size.saturating_sub(run.va))
}

/// The same runs, in lists of so many pages at most as are put back between two signs of life.
pub fn stretches(runs: impl Iterator<Item = FrameRun>) -> Vec<Vec<FrameRun>> {
    let (mut all, mut pages) = (Vec::<Vec<FrameRun>>::new(), STRETCH);
    for run in runs {
        let mut at = 0;
        while at < run.pages() {
            if pages == STRETCH {
                all.push(Vec::new());
                pages = 0;
            }
            let part = (STRETCH - pages).min(run.pages() - at);
            let run = FrameRun::new(run.va + at * PAGE_SIZE, run.pfn() + at, part, run.kind());
            all.last_mut().into_iter().for_each(|last| last.push(run));
            at += part;
            pages += part;
        }
    }
    all
}

/// Part of a page, as far as it lies in the file.
fn piece(part: &PagePart, size: u64, host: &dyn Host) -> Restored<Option<Piece>> {
    let mut page = vec![0; PAGE_SIZE as usize];
    host.read_frames(part.at / PAGE_SIZE, &mut page)?;
    let start = part.at % PAGE_SIZE;
    let bytes = u64::from(part.bytes)
        .min(PAGE_SIZE - start)
        .min(size.saturating_sub(part.offset));
    if bytes == 0 {
        return Ok(None);
    }
    Ok(Some(Piece {
        offset: part.offset,
        bytes: page[start as usize..(start + bytes) as usize].to_vec(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_region::context::frame_kind;

    #[test]
    fn runs_are_divided_into_stretches() {
        let run = |page: u64, pfn, pages| FrameRun::new(page * PAGE_SIZE, pfn, pages, frame_kind::FILE_DIRTY);
        let runs = [run(0, 10, 1), run(7, 20, 2 * STRETCH), run(3 * STRETCH, 70, 1)];
        let want = [
            vec![run(0, 10, 1), run(7, 20, STRETCH - 1)],
            vec![run(6 + STRETCH, 19 + STRETCH, STRETCH)],
            vec![run(6 + 2 * STRETCH, 19 + 2 * STRETCH, 1), run(3 * STRETCH, 70, 1)],
        ];
        assert_eq!(stretches(runs.into_iter()), want);
        assert!(stretches(std::iter::empty()).is_empty());
    }
}
