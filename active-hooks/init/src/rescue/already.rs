//! Whether a file has what would be put back: a rescue that could not do all is done once more.

use crate::restore::host::Host;
use rustix::{fs::fstat, io::pread};
use shared_region::{
    context::{FrameRun, PagePart},
    PAGE_SIZE,
};
use std::os::fd::OwnedFd;

/// Bytes of a file and where they are in memory.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    offset: u64,
    at: u64,
    bytes: u64,
}

impl From<FrameRun> for Part {
    fn from(run: FrameRun) -> Self {
        Self {
            offset: run.va,
            at: run.pfn() * PAGE_SIZE,
            bytes: run.pages() * PAGE_SIZE,
        }
    }
}

impl From<&PagePart> for Part {
    fn from(part: &PagePart) -> Self {
        Self {
            offset: part.offset,
            at: part.at,
            bytes: part.bytes.into(),
        }
    }
}

/// Whether a file has this size, and these parts as they are in memory.
pub fn has(file: &OwnedFd, size: u64, mut parts: impl Iterator<Item = Part>, host: &dyn Host) -> bool {
    fstat(file).is_ok_and(|found| found.st_size as u64 == size) && parts.all(|part| has_part(file, size, &part, host))
}

fn has_part(file: &OwnedFd, size: u64, part: &Part, host: &dyn Host) -> bool {
    let end = part.offset.saturating_add(part.bytes).min(size);
    let (mut offset, mut at) = (part.offset, part.at);
    let (mut frame, mut there) = ([0; PAGE_SIZE as usize], [0; PAGE_SIZE as usize]);
    while offset < end {
        let inside = at % PAGE_SIZE;
        let length = (PAGE_SIZE - inside).min(end - offset) as usize;
        let wanted = match host.read_frames(at / PAGE_SIZE, &mut frame) {
            Ok(()) => &frame[inside as usize..][..length],
            Err(_) => return false,
        };
        if pread(file, &mut there[..length], offset) != Ok(length) || &there[..length] != wanted {
            return false;
        }
        offset += length as u64;
        at += length as u64;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::host::Memory;
    use shared_region::context::frame_kind;
    use std::{fs::File, io::Write};

    #[test]
    fn a_file_has_what_its_pages_say() {
        let mut memory = vec![1; PAGE_SIZE as usize];
        memory.extend([2; PAGE_SIZE as usize]);
        let path = std::env::temp_dir().join(format!("orthros-already-{}", std::process::id()));
        File::create(&path)
            .unwrap()
            .write_all(&memory[..PAGE_SIZE as usize + 100])
            .unwrap();
        let file = OwnedFd::from(File::open(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        let host = Memory(memory);
        let size = PAGE_SIZE + 100;
        let runs = |pfn| [Part::from(FrameRun::new(0, pfn, 2 - pfn, frame_kind::FILE_DIRTY))].into_iter();
        assert!(has(&file, size, runs(0), &host));
        assert!(!has(&file, size - 1, runs(0), &host) && !has(&file, size, runs(1), &host));
        let part = |offset, at, bytes| [Part { offset, at, bytes }].into_iter();
        assert!(has(&file, size, part(PAGE_SIZE - 10, PAGE_SIZE - 10, 20), &host));
        assert!(!has(&file, size, part(PAGE_SIZE - 10, PAGE_SIZE - 9, 20), &host));
        // Beyond its end it has nothing.
        assert!(has(&file, size, part(PAGE_SIZE + 100, 0, 20), &host));
    }
}
