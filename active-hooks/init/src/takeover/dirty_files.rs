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
        inodes::{self, Piece},
        world::{Content, World},
        OrRefuse, Refusal, Restored,
    },
};
use rustix::fs::futimens;
use shared_region::{
    context::{DirtyFile, FrameRun, PagePart},
    PAGE_SIZE,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Pages that are written between two signs of life.
const STRETCH: u64 = 2048;
/// How long all of it may take. The backup OS gives a successor up that stays ten minutes in one phase.
const PATIENCE: Duration = Duration::from_secs(300);

/// Puts all of it back; returns what could not be. Calls `alive` again and again meanwhile.
pub fn put_back(world: &World<'_>, committed: &BTreeSet<u64>, host: &dyn Host, alive: &dyn Fn()) -> Vec<String> {
    let mut remarks = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    // Without the journal a file may be one that was made anew, or lie elsewhere: how many are left as they are.
    let mut behind: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut files, mut pages) = (0u64, 0u64);
    for file in world.dirty_files.values() {
        let record = &file.record;
        if record.ahead && !committed.contains(&record.device) {
            *behind.entry(record.device).or_default() += 1;
            continue;
        }
        match one(world, file, host, alive, deadline) {
            Ok(()) => {
                files += 1;
                pages += file.runs().map(|run| run.pages()).sum::<u64>() + record.parts.len() as u64;
            }
            Err(refusal) => remarks.push(format!("inode {} of {}: {refusal}", record.number, name(record.device))),
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
    if files != 0 {
        log::info(format_args!(
            "{pages} pages of {files} files of other processes are put back"
        ));
    }
    remarks
}

fn name(device: u64) -> String {
    format!("device {}:{}", device >> 20, device & 0xF_FFFF)
}

fn one(
    world: &World<'_>,
    file: &Content<'_, DirtyFile>,
    host: &dyn Host,
    alive: &dyn Fn(),
    deadline: Instant,
) -> Restored<()> {
    let record = &file.record;
    let Some(fd) = handles::to_write(world, record.device, record.number, record.generation) else {
        return Err(Refusal::new("its data", "is not put back: the file is not there"));
    };
    // The size, whatever there is to write.
    inodes::fill(&fd, std::iter::empty(), record.size, host)?;
    for run in file.runs() {
        for first in (0..run.pages()).step_by(STRETCH as usize) {
            if Instant::now() > deadline {
                return Err(Refusal::new("its data", "is not put back: there was no more time"));
            }
            alive();
            let pages = STRETCH.min(run.pages() - first);
            let stretch = FrameRun::new(run.va + first * PAGE_SIZE, run.pfn() + first, pages, run.kind());
            inodes::fill(&fd, std::iter::once(stretch), record.size, host)?;
        }
    }
    for part in &record.parts {
        if let Some(piece) = piece(part, record.size, host)? {
            inodes::put(&fd, &[piece])?;
        }
    }
    futimens(&fd, &inodes::times(record.times)).or_refuse(|| "times")
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
