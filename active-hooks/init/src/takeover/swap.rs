//! What processes had on swap, read from the devices it lies on.
//!
//! What we know on entry: a record says where each page lies, by the dead kernel's own extents. What we are responsible for: all
//! is read before a file system is mounted, because files of swap may lie in blocks that only the journal knows, and long before
//! anybody makes the areas swap again; nothing is written; and what cannot be read costs those who need it, by name.

use super::{block_devices, disk};
use crate::{
    boot::log,
    restore::{
        inodes::Piece,
        world::{OnSwap, World},
    },
};
use shared_region::{
    context::{DiskRun, SwapArea, SwapDevice},
    PAGE_SIZE,
};
use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt, time::Duration};

/// How long a device may take to appear.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes read in one go.
const REQUEST: u64 = 1 << 20;

/// The header of an area (`union swap_header`, include/linux/swap.h): the number of its last page, and what makes it one.
const LAST_PAGE: usize = 1028;
const MAGIC: (usize, &[u8; 10]) = (4086, b"SWAPSPACE2");

/// Reads all of it. If a file system was mounted since the failure (`again`), blocks of files may be anybody's.
pub fn read(world: &mut World<'_>, again: bool) {
    let mut swap = Swap {
        areas: &world.swap_areas,
        opened: BTreeMap::new(),
        room: disk::available() / 2,
        again,
    };
    let mut bytes = 0;
    for (id, on_swap) in &mut world.on_swap {
        let read = swap.read(on_swap);
        match &read {
            Ok(pieces) => bytes += pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>(),
            Err(error) => log::warning(format_args!("memory {id:#x} on swap: {error}")),
        }
        on_swap.content = read;
    }
    if bytes != 0 {
        log::info(format_args!("{} KB read from swap", bytes >> 10));
    }
}

/// Bytes of memory with which [`read`] refuses nothing, and that processes then need: three times what lies on swap.
pub fn room(world: &World<'_>) -> u64 {
    let runs = world.on_swap.values().flat_map(OnSwap::runs);
    runs.fold(0u64, |sum, (_, run)| sum.saturating_add(run.bytes))
        .saturating_mul(3)
}

/// Areas of swap, opened when first needed.
struct Swap<'w> {
    areas: &'w BTreeMap<u64, SwapArea>,
    opened: BTreeMap<u64, Result<File, String>>,
    /// Bytes that may still be read.
    room: u64,
    again: bool,
}

impl Swap<'_> {
    fn read(&mut self, on_swap: &OnSwap) -> Result<Vec<Piece>, String> {
        let bytes = on_swap.runs().fold(0u64, |sum, (_, run)| sum.saturating_add(run.bytes));
        if bytes > self.room {
            return Err(format!("{bytes} bytes are more than memory has room for"));
        }
        let mut pieces = zeros(on_swap, self.room - bytes)?;
        for record in &on_swap.records {
            if record.runs.is_empty() {
                continue;
            }
            let device = self.open(record.area)?;
            for request in requests(&record.runs) {
                read_request(device, &request, &mut pieces)?;
            }
        }
        let read: u64 = pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
        self.room = self.room.saturating_sub(read);
        pieces.sort_unstable_by_key(|piece| piece.offset);
        Ok(pieces)
    }

    fn open(&mut self, id: u64) -> Result<&File, String> {
        let (areas, again) = (self.areas, self.again);
        let opened = self.opened.entry(id).or_insert_with(|| {
            let area = areas.get(&id).ok_or("there is no record of its area")?;
            let name = String::from_utf8_lossy(&area.name);
            open(area, again).map_err(|error| format!("{name}: {error}"))
        });
        opened.as_ref().map_err(Clone::clone)
    }
}

/// Pages that are zero where something else would be found.
fn zeros(on_swap: &OnSwap, room: u64) -> Result<Vec<Piece>, String> {
    let all = || on_swap.records.iter().flat_map(|record| &record.zeros);
    let bytes = all().fold(0u64, |sum, &(_, bytes)| sum.saturating_add(bytes));
    if bytes > room {
        return Err(format!("{bytes} bytes of zeros are more than memory has room for"));
    }
    let piece = |&(offset, bytes): &(u64, u64)| Piece {
        offset,
        bytes: vec![0; bytes as usize],
    };
    Ok(all().map(piece).collect())
}

/// Runs that lie one behind the other on the device, together [`REQUEST`] bytes at most.
fn requests(runs: &[DiskRun]) -> Vec<Vec<DiskRun>> {
    let mut parts: Vec<DiskRun> = runs.iter().copied().flat_map(parts).collect();
    parts.sort_unstable_by_key(|run| run.at);
    let mut requests: Vec<Vec<DiskRun>> = Vec::new();
    for run in parts {
        match requests.last_mut() {
            Some(request) if follows(request, &run) => request.push(run),
            _ => requests.push(vec![run]),
        }
    }
    requests
}

/// A run in pieces of [`REQUEST`] bytes at most.
fn parts(run: DiskRun) -> impl Iterator<Item = DiskRun> {
    (0..run.bytes).step_by(REQUEST as usize).map(move |done| DiskRun {
        offset: run.offset.saturating_add(done),
        at: run.at.saturating_add(done),
        bytes: (run.bytes - done).min(REQUEST),
    })
}

fn follows(request: &[DiskRun], run: &DiskRun) -> bool {
    let bytes: u64 = request.iter().map(|run| run.bytes).sum();
    let end = request.last().map(|last| last.at.saturating_add(last.bytes));
    end == Some(run.at) && bytes + run.bytes <= REQUEST
}

fn read_request(device: &File, request: &[DiskRun], pieces: &mut Vec<Piece>) -> Result<(), String> {
    let Some(first) = request.first() else { return Ok(()) };
    let length: u64 = request.iter().map(|run| run.bytes).sum();
    let mut buffer = vec![0; length as usize];
    device
        .read_exact_at(&mut buffer, first.at)
        .map_err(|error| format!("reading {length} bytes at {}: {error}", first.at))?;
    let mut rest = buffer.as_slice();
    for run in request {
        let (bytes, after) = rest.split_at(run.bytes as usize);
        rest = after;
        pieces.push(Piece {
            offset: run.offset,
            bytes: bytes.to_vec(),
        });
    }
    Ok(())
}

/// Opens the device of an area, which must have the area's header where it was.
fn open(area: &SwapArea, again: bool) -> Result<File, String> {
    let device = match &area.device {
        SwapDevice::FileSystem(_) if again => return Err(disk::WRITTEN_TO.to_owned()),
        SwapDevice::FileSystem(uuid) => disk::locate(*uuid, PATIENCE)?,
        SwapDevice::Block(block) => block_devices::locate(block, PATIENCE)?,
    };
    let told = |error: std::io::Error| format!("{}: {error}", device.display());
    let file = File::open(&device).map_err(told)?;
    let mut header = [0; PAGE_SIZE as usize];
    file.read_exact_at(&mut header, area.header).map_err(told)?;
    if !is_header(&header, area.pages) {
        return Err(format!("{} has no such swap area", device.display()));
    }
    Ok(file)
}

/// Whether a page is the header of an area of so many pages.
fn is_header(page: &[u8; PAGE_SIZE as usize], pages: u32) -> bool {
    let last = page[LAST_PAGE..].first_chunk().map(|&last| u32::from_le_bytes(last));
    page[MAGIC.0..] == MAGIC.1[..] && last.is_some_and(|last| u64::from(last) + 1 >= u64::from(pages))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_region::context::SwappedPages;
    use std::io::Write;

    fn run(offset: u64, at: u64, bytes: u64) -> DiskRun {
        DiskRun { offset, at, bytes }
    }

    fn header(pages: u32) -> [u8; PAGE_SIZE as usize] {
        let mut page = [0; PAGE_SIZE as usize];
        page[LAST_PAGE..LAST_PAGE + 4].copy_from_slice(&(pages - 1).to_le_bytes());
        page[MAGIC.0..].copy_from_slice(MAGIC.1);
        page
    }

    #[test]
    fn what_lies_together_is_read_together() {
        let runs = [
            run(10 * PAGE_SIZE, 5 * PAGE_SIZE, PAGE_SIZE),
            run(90 * PAGE_SIZE, 3 * PAGE_SIZE, 2 * PAGE_SIZE),
            run(20 * PAGE_SIZE, 7 * PAGE_SIZE, PAGE_SIZE),
            run(0, 1 << 30, REQUEST + 100),
        ];
        let want = [
            vec![runs[1], runs[0]],
            vec![runs[2]],
            vec![run(0, 1 << 30, REQUEST)],
            vec![run(REQUEST, (1 << 30) + REQUEST, 100)],
        ];
        assert_eq!(requests(&runs), want);
    }

    /// A device of eight pages, each byte of which is the number of its page, and an area that begins with the third.
    fn swap(areas: &BTreeMap<u64, SwapArea>, room: u64) -> Swap<'_> {
        let device = rustix::fs::memfd_create("device", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut device = File::from(device);
        for page in 0..8u8 {
            device.write_all(&[page; PAGE_SIZE as usize]).unwrap();
        }
        Swap {
            areas,
            opened: BTreeMap::from([(1, Ok(device))]),
            room,
            again: false,
        }
    }

    fn on_swap(runs: Vec<DiskRun>, zeros: Vec<(u64, u64)>) -> OnSwap {
        let pages = SwappedPages { area: 1, runs, zeros };
        OnSwap {
            records: vec![pages],
            ..OnSwap::default()
        }
    }

    #[test]
    fn pages_come_in_the_order_of_their_addresses() {
        let (areas, page) = (BTreeMap::new(), PAGE_SIZE);
        let mut swap = swap(&areas, 100 * page);
        let wanted = on_swap(
            vec![run(0x7000, 2 * page, page), run(0x1000, 3 * page, 2 * page)],
            vec![(0x5000, page)],
        );
        let pieces = swap.read(&wanted).unwrap();
        let told: Vec<(u64, usize, u8)> = (pieces.iter())
            .map(|piece| (piece.offset, piece.bytes.len() / page as usize, piece.bytes[0]))
            .collect();
        assert_eq!(told, [(0x1000, 2, 3), (0x5000, 1, 0), (0x7000, 1, 2)]);
        assert_eq!(pieces[0].bytes[page as usize], 4);
        assert_eq!(swap.room, 96 * page);
    }

    #[test]
    fn nothing_is_made_up() {
        let (areas, page) = (BTreeMap::new(), PAGE_SIZE);
        let beyond = on_swap(vec![run(0, 7 * page, 2 * page)], vec![]);
        assert!(swap(&areas, 100 * page).read(&beyond).unwrap_err().contains("reading"));
        let much = on_swap(vec![run(0, 0, 2 * page)], vec![]);
        assert!(swap(&areas, page).read(&much).unwrap_err().contains("room"));
        let zeros = on_swap(vec![], vec![(0, 2 * page)]);
        assert!(swap(&areas, page).read(&zeros).unwrap_err().contains("room"));
        let mut elsewhere = on_swap(vec![run(0, 0, page)], vec![]);
        elsewhere.records[0].area = 2;
        assert!(swap(&areas, page).read(&elsewhere).unwrap_err().contains("no record"));
    }

    #[test]
    fn only_the_areas_own_header_is_one() {
        assert!(is_header(&header(300), 300) && is_header(&header(301), 300));
        assert!(!is_header(&header(299), 300));
        let mut torn = header(300);
        torn[4090] = b'1';
        assert!(!is_header(&torn, 300));
    }

    #[test]
    fn a_file_in_what_was_written_to_is_refused() {
        let area = SwapArea {
            device: SwapDevice::FileSystem([1; 16]),
            ..SwapArea::default()
        };
        assert!(open(&area, true).unwrap_err().contains("written to"));
    }
}
