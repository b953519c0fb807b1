use super::*;
use crate::{
    context::{
        frame_kind, ChangedInodes, Checkpoint, DirtyFile, FrameRun, FreeNumbers, IdleJournal, Inode, Journal,
        JournalBlock, LeftAt, LoggedFileSystem, Machine, Mount, Names, PagePart, Process, Subvolume, SwappedPages,
    },
    record::{Kind, Stream, Writer},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec,
    vec::Vec,
};

const BYTES: u64 = 24 << 20;
const ID: [u64; 2] = [17, 4];

/// A partition in memory, only as long as was written to, and what was done with it.
#[derive(Default)]
struct Memory {
    bytes: Vec<u8>,
    /// Where it was written to; `None` is a flush.
    steps: Vec<Option<u64>>,
    /// Writes after which it fails.
    patience: Option<usize>,
}

impl Disk for Memory {
    type Error = &'static str;

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Self::Error> {
        assert!(at.is_multiple_of(BLOCK) && (bytes.len() as u64).is_multiple_of(BLOCK) && !bytes.is_empty());
        assert!(
            at >= BLOCK && at + bytes.len() as u64 <= BYTES,
            "the head and what lies behind the area are not touched"
        );
        if self.patience == Some(self.steps.len()) {
            return Err("is gone");
        }
        let (start, end) = (at as usize, at as usize + bytes.len());
        self.bytes.resize(self.bytes.len().max(end), 0xEE);
        self.bytes[start..end].copy_from_slice(bytes);
        self.steps.push(Some(at));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        self.steps.push(None);
        Ok(())
    }
}

impl Source for &[u8] {
    fn read(&self, at: u64, bytes: &mut [u8]) -> bool {
        let there = self.get(at as usize..).unwrap_or_default();
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = there.get(index).copied().unwrap_or(0xEE);
        }
        at + bytes.len() as u64 <= BYTES
    }
}

fn run(va: u64, pfn: u64, pages: u64) -> Vec<u8> {
    FrameRun::new(va, pfn, pages, frame_kind::FILE_DIRTY)
        .to_bytes()
        .to_vec()
}

fn stream(fill: impl Fn(&mut Writer<'_>)) -> Vec<u8> {
    let mut area = vec![0; 64 << 10];
    let mut writer = Writer::new(&mut area, 3).unwrap();
    fill(&mut writer);
    let used = writer.finish();
    area.truncate(used);
    area
}

/// The records of a stream that are wanted.
fn only(records: &[u8], wanted: Wanted<'_>) -> Vec<u8> {
    let all = Stream::open(records).unwrap();
    stream(|writer| only_files(&all, writer, wanted).unwrap())
}

fn dirty(parts: &[u64]) -> DirtyFile {
    let parts = parts
        .iter()
        .map(|&at| PagePart {
            offset: 0,
            at,
            bytes: 512,
        })
        .collect();
    DirtyFile {
        number: 12,
        parts,
        ..DirtyFile::default()
    }
}

/// Two files of five frames, one of which they share, a part of a page in another, and frames of a process.
fn sample() -> Vec<u8> {
    stream(|writer| {
        writer.push(Kind::Machine, 1, 0, 0, &Machine::default()).unwrap();
        writer.push_bytes(Kind::Frames, 1, 0, 99, &run(0, 300, 1)).unwrap();
        writer
            .push(Kind::DirtyFile, 1, 0, 7, &dirty(&[208 * PAGE_SIZE + 512]))
            .unwrap();
        writer.push_bytes(Kind::Frames, 1, 0, 7, &run(0, 200, 3)).unwrap();
        writer.push(Kind::Inode, 1, 0, 8, &Inode::default()).unwrap();
        writer.push_bytes(Kind::Frames, 1, 0, 8, &run(0, 202, 3)).unwrap();
    })
}

fn frames() -> BTreeMap<u64, Vec<u8>> {
    (150..400)
        .map(|pfn| (pfn, vec![pfn as u8; PAGE_SIZE as usize]))
        .collect()
}

fn saved(records: &[u8], memory: &BTreeMap<u64, Vec<u8>>, disk: &mut Memory) -> Result<Saved, SaveError<&'static str>> {
    let head = Head::new(ID, BYTES);
    disk.bytes = vec![0; BLOCK as usize];
    disk.bytes[..size_of::<Head>()].copy_from_slice(head.as_bytes());
    let what = What {
        failover: 3,
        epitaph: b"all is lost",
        records,
    };
    save(disk, &head, &what, &|pfn, page| {
        memory.get(&pfn).inspect(|bytes| page.copy_from_slice(bytes)).is_some()
    })
}

#[test]
fn what_was_saved_is_read() {
    let (records, memory, mut disk) = (sample(), frames(), Memory::default());
    let done = saved(&records, &memory, &mut disk).unwrap();
    let want = Saved {
        files: 2,
        frames: 6,
        left_out: false,
    };
    assert_eq!(done, want);
    let mut area = Area::open(&disk.bytes[..], BYTES).unwrap();
    assert_eq!((area.contents.failover, area.contents.state), (3, state::COMPLETE));
    assert_eq!(area.epitaph().unwrap(), b"all is lost");
    assert_eq!(area.records().unwrap(), records);
    let mut page = vec![0; PAGE_SIZE as usize];
    for pfn in [204, 200, 208, 201, 202, 203] {
        area.frame(pfn, &mut page).unwrap();
        assert_eq!(page, memory[&pfn]);
    }
    for pfn in [0, 199, 205, 207, 209, 300, u64::MAX] {
        assert_eq!(area.frame(pfn, &mut page), Err(AreaError::NoFrame(pfn)));
    }
}

/// What makes it count is written last, behind everything else, and what was there before stops counting first.
#[test]
fn an_area_that_was_not_finished_holds_nothing() {
    let (records, memory, mut disk) = (sample(), frames(), Memory::default());
    saved(&records, &memory, &mut disk).unwrap();
    let steps = disk.steps.len();
    assert_eq!(&disk.steps[..2], &[Some(CONTENTS_AT), None]);
    assert_eq!(&disk.steps[steps - 3..], &[None, Some(CONTENTS_AT), None]);
    for patience in 0..steps - 2 {
        let mut disk = Memory {
            patience: Some(patience),
            ..Memory::default()
        };
        if saved(&records, &memory, &mut disk) == Err(SaveError::Disk("is gone")) {
            assert_eq!(
                Area::open(&disk.bytes[..], BYTES).unwrap_err(),
                AreaError::Empty,
                "{patience}"
            );
        }
    }
}

#[test]
fn a_frame_that_cannot_be_had_is_not_made_up() {
    let (records, mut memory, mut disk) = (sample(), frames(), Memory::default());
    memory.remove(&201);
    memory.remove(&204);
    assert_eq!(saved(&records, &memory, &mut disk).unwrap().frames, 4);
    let mut area = Area::open(&disk.bytes[..], BYTES).unwrap();
    let mut page = vec![0; PAGE_SIZE as usize];
    assert_eq!(area.frame(201, &mut page), Err(AreaError::NoFrame(201)));
    area.frame(202, &mut page).unwrap();
    assert_eq!(page, memory[&202]);
}

#[test]
fn what_has_no_room_is_left_out_and_said_to_be() {
    let records = stream(|writer| {
        writer.push(Kind::Inode, 1, 0, 8, &Inode::default()).unwrap();
        writer
            .push_bytes(Kind::Frames, 1, 0, 8, &run(0, 1000, 1 << 14))
            .unwrap();
        writer.push_bytes(Kind::Frames, 1, 0, 8, &run(0, 200, 2)).unwrap();
    });
    let page = vec![7; PAGE_SIZE as usize];
    let memory = (200..1000 + (1 << 14)).map(|pfn| (pfn, page.clone())).collect();
    let mut disk = Memory::default();
    let done = saved(&records, &memory, &mut disk).unwrap();
    assert_eq!((done.frames, done.left_out), (2, true));
    assert_eq!(Area::open(&disk.bytes[..], BYTES).unwrap().contents.left_out, 1);
}

#[test]
fn a_stranger_is_no_area_and_another_size_is_told() {
    let mut bytes = vec![0; 2 * BLOCK as usize];
    assert_eq!(Area::open(&bytes[..], BYTES).unwrap_err(), AreaError::NoArea);
    bytes[..size_of::<Head>()].copy_from_slice(Head::new(ID, BYTES + BLOCK).as_bytes());
    let want = AreaError::TooSmall {
        head: BYTES + BLOCK,
        found: BYTES,
    };
    assert_eq!(Area::open(&bytes[..], BYTES).unwrap_err(), want);
    bytes[..size_of::<Head>()].copy_from_slice(Head::new(ID, BYTES).as_bytes());
    assert_eq!(Area::open(&bytes[..], BYTES).unwrap_err(), AreaError::Empty);
}

/// The list of files is read, and only pages in the same chunk are refused.
#[test]
fn a_damaged_page_costs_no_list() {
    let mut disk = Memory::default();
    saved(&sample(), &frames(), &mut disk).unwrap();
    let place = disk.bytes.windows(64).position(|bytes| bytes == [203; 64]).unwrap();
    disk.bytes[place] ^= 1;
    let mut area = Area::open(&disk.bytes[..], BYTES).unwrap();
    assert_eq!(area.records().unwrap(), sample());
    let damaged = AreaError::Damaged("a page of a file");
    assert_eq!(area.frame(203, &mut [0; PAGE_SIZE as usize]), Err(damaged));
}

/// Another area's contents, left there by a copy of a disk, are none of this one's.
#[test]
fn contents_belong_to_a_head() {
    let mut disk = Memory::default();
    saved(&sample(), &frames(), &mut disk).unwrap();
    disk.bytes[..size_of::<Head>()].copy_from_slice(Head::new([1, 1], BYTES).as_bytes());
    let error = Area::open(&disk.bytes[..], BYTES).unwrap_err();
    assert_eq!(error, AreaError::Damaged("the list of what was saved"));
}

#[test]
fn nothing_but_files_is_taken_out_of_a_stream() {
    let inode = |dirty, path: &[u8]| Inode {
        dirty,
        path: path.to_vec(),
        ..Inode::default()
    };
    let records = stream(|writer| {
        writer.push(Kind::Machine, 1, 0, 0, &Machine::default()).unwrap();
        writer.push(Kind::Process, 1, 0, 5, &Process::default()).unwrap();
        writer.push_bytes(Kind::Frames, 1, 0, 99, &run(0, 300, 1)).unwrap();
        writer.push(Kind::Inode, 1, 0, 1, &inode(true, b"/a")).unwrap();
        writer.push_bytes(Kind::Frames, 1, 0, 1, &run(0, 200, 1)).unwrap();
        // Neither changed nor findable.
        writer.push(Kind::Inode, 1, 0, 2, &inode(false, b"/b")).unwrap();
        writer.push_bytes(Kind::Frames, 1, 0, 2, &run(0, 201, 1)).unwrap();
        writer.push(Kind::Inode, 1, 0, 3, &inode(true, b"")).unwrap();
        // In memory, and partly on swap.
        writer.push(Kind::Inode, 1, 0, 8, &inode(true, b"/c")).unwrap();
        writer.push_bytes(Kind::Frames, 1, 0, 8, &run(0, 203, 1)).unwrap();
        let pages = SwappedPages::default();
        writer.push(Kind::SwappedPages, 1, 1, 8, &pages).unwrap();
        writer.push(Kind::DirtyFile, 1, 0, 4, &dirty(&[])).unwrap();
        writer.push_bytes(Kind::Frames, 1, 0, 4, &run(0, 202, 1)).unwrap();
        writer.push(Kind::Subvolume, 1, 0, 6, &Subvolume::default()).unwrap();
        writer.push(Kind::Names, 1, 0, 6, &Names::default()).unwrap();
        let journal = Journal {
            blocks: vec![Default::default(); 4],
            ..Journal::default()
        };
        writer.push(Kind::Journal, 1, 0, 9, &journal).unwrap();
    });
    let room = only(&records, Wanted::All);
    let stream = Stream::open(&room).unwrap();
    let kept: Vec<_> = stream.records().map(|record| record.unwrap()).collect();
    let list: Vec<_> = kept.iter().map(|record| (record.kind, record.owner)).collect();
    let want = [
        (Kind::Machine, 0),
        (Kind::Inode, 1),
        (Kind::Frames, 1),
        (Kind::DirtyFile, 4),
        (Kind::Frames, 4),
        (Kind::Subvolume, 6),
        (Kind::Names, 6),
        (Kind::Journal, 9),
    ];
    assert_eq!(list, want);
    let journal: Journal = kept.last().unwrap().decode().unwrap();
    assert!(journal.blocks.is_empty() && !journal.refused.is_empty());
}

/// Of a file system that nobody has mounted its journal is wanted whole, with the frames of its blocks; of others nothing.
#[test]
fn journals_of_unmounted_file_systems_are_saved() {
    let journal = |device| Journal {
        device,
        blocks: vec![JournalBlock {
            number: 5,
            at: 200 * PAGE_SIZE + 1024,
            before: Some(201 * PAGE_SIZE),
            ..JournalBlock::default()
        }],
        ..Journal::default()
    };
    let file = |device| DirtyFile { device, ..dirty(&[]) };
    let records = stream(|writer| {
        writer.push(Kind::Machine, 1, 0, 0, &Machine::default()).unwrap();
        for device in [1, 2] {
            let idle = IdleJournal {
                device,
                ..IdleJournal::default()
            };
            let mount = Mount {
                device,
                ..Mount::default()
            };
            let checkpoint = Checkpoint {
                device,
                blocks: journal(device).blocks,
            };
            writer.push(Kind::Mount, 1, 0, 0, &mount).unwrap();
            writer.push(Kind::Journal, 1, 0, device, &journal(device)).unwrap();
            writer.push(Kind::Checkpoint, 1, 0, device, &checkpoint).unwrap();
            writer.push(Kind::IdleJournal, 1, 0, device, &idle).unwrap();
            writer.push(Kind::DirtyFile, 1, 0, 10 + device, &file(device)).unwrap();
            writer
                .push_bytes(Kind::Frames, 1, 0, 10 + device, &run(0, 210 + device, 1))
                .unwrap();
        }
    });
    let left = Left {
        unmounted: &BTreeSet::from([2]),
        mounted: &BTreeMap::new(),
    };
    let room = only(&records, Wanted::Left(left));
    let stream = Stream::open(&room).unwrap();
    let kept: Vec<_> = stream.records().map(|record| record.unwrap()).collect();
    let list: Vec<_> = kept.iter().map(|record| (record.kind, record.owner)).collect();
    let want = [
        (Kind::Machine, 0),
        (Kind::Mount, 0),
        (Kind::Journal, 2),
        (Kind::Checkpoint, 2),
        (Kind::IdleJournal, 2),
        (Kind::DirtyFile, 12),
        (Kind::Frames, 12),
    ];
    assert_eq!(list, want);
    assert_eq!(kept[2].decode::<Journal>().unwrap(), journal(2));
    let mut disk = Memory::default();
    saved(&room, &frames(), &mut disk).unwrap();
    let mut area = Area::open(&disk.bytes[..], BYTES).unwrap();
    let mut page = vec![0; PAGE_SIZE as usize];
    assert_eq!([200, 201, 212].map(|pfn| area.frame(pfn, &mut page)), [Ok(()); 3]);
    assert_eq!(area.frame(211, &mut page), Err(AreaError::NoFrame(211)));
}

/// Of a file system that is mounted only the files are wanted that it has not taken, with how they were left; its journal only if
/// that still says something.
#[test]
fn files_that_were_not_taken_are_saved() {
    let records = stream(|writer| {
        for device in [1, 2, 3] {
            let journal = Journal {
                device,
                name: "vda".into(),
                blocks: vec![JournalBlock::default()],
                ..Journal::default()
            };
            let logged = LoggedFileSystem {
                device,
                ..LoggedFileSystem::default()
            };
            writer.push(Kind::Journal, 1, 0, device, &journal).unwrap();
            writer.push(Kind::LoggedFileSystem, 1, 0, device, &logged).unwrap();
            let names = Names {
                device,
                ..Names::default()
            };
            let changed = ChangedInodes {
                device,
                ..ChangedInodes::default()
            };
            let free = FreeNumbers {
                device,
                ..FreeNumbers::default()
            };
            writer.push(Kind::Names, 1, 0, 0, &names).unwrap();
            writer.push(Kind::ChangedInodes, 1, 0, device, &changed).unwrap();
            writer.push(Kind::FreeNumbers, 1, 0, device, &free).unwrap();
            for owner in [10 * device, 10 * device + 1] {
                let file = DirtyFile {
                    device,
                    ahead: true,
                    ..DirtyFile::default()
                };
                writer.push(Kind::DirtyFile, 1, 0, owner, &file).unwrap();
                writer.push_bytes(Kind::Frames, 1, 0, owner, &run(0, owner, 1)).unwrap();
            }
        }
    });
    let left = LeftAt { changed: 5 };
    let untaken = |id, is_committed| Untaken {
        is_committed,
        names: !is_committed,
        files: BTreeMap::from([(id, Some(left)), (id + 5, None)]),
    };
    let left = Left {
        unmounted: &BTreeSet::new(),
        mounted: &BTreeMap::from([(1, untaken(10, true)), (3, untaken(31, false))]),
    };
    let room = only(&records, Wanted::Left(left));
    let stream = Stream::open(&room).unwrap();
    let kept: Vec<_> = stream.records().map(|record| record.unwrap()).collect();
    let list: Vec<_> = kept.iter().map(|record| (record.kind, record.owner)).collect();
    let want = [
        (Kind::IdleJournal, 1),
        (Kind::LoggedFileSystem, 1),
        (Kind::DirtyFile, 10),
        (Kind::Frames, 10),
        (Kind::Journal, 3),
        (Kind::LoggedFileSystem, 3),
        (Kind::Names, 0),
        (Kind::ChangedInodes, 3),
        (Kind::FreeNumbers, 3),
        (Kind::DirtyFile, 31),
        (Kind::Frames, 31),
        (Kind::LeftAt, 10),
        (Kind::LeftAt, 31),
    ];
    assert_eq!(list, want);
    let ahead = |index: usize| kept[index].decode::<DirtyFile>().unwrap().ahead;
    assert!(
        !ahead(2) && ahead(9),
        "what is committed is not ahead of its disk any more"
    );
    let journal: Journal = kept[4].decode().unwrap();
    assert!(journal.blocks.is_empty() && !journal.refused.is_empty());
}

/// A frame that could be had and cannot any more costs all: nothing else may stand in its place.
#[test]
fn a_frame_that_goes_meanwhile_is_told() {
    let (records, head, mut disk) = (sample(), Head::new(ID, BYTES), Memory::default());
    let what = What {
        failover: 3,
        epitaph: b"",
        records: &records,
    };
    let left = core::cell::Cell::new(8);
    let frame = |_, _: &mut [u8]| left.replace(left.get() - 1) > 0;
    let done = save(&mut disk, &head, &what, &frame);
    assert!(matches!(done, Err(SaveError::Gone(_))), "{done:?}");
    disk.bytes[..size_of::<Head>()].copy_from_slice(head.as_bytes());
    assert_eq!(Area::open(&disk.bytes[..], BYTES).unwrap_err(), AreaError::Empty);
}

/// The bytes are an interface between programs of different age.
#[test]
fn golden_bytes() {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| alloc::format!("{byte:02x}"))
            .collect::<alloc::string::String>()
    };
    assert_eq!(
        hex(Head::new(ID, BYTES).as_bytes()),
        "4f522d5245534355010000002d1fa20e110000000000000004000000000000000000800100000000"
    );
}

proptest::proptest! {
    /// A changed byte is found, or is one that nothing is read from.
    #[test]
    fn damage_is_found(at in 0usize..(1 << 20), flip in 1u8..=255) {
        let (records, memory, mut disk) = (sample(), frames(), Memory::default());
        saved(&records, &memory, &mut disk).unwrap();
        let at = at % disk.bytes.len();
        disk.bytes[at] ^= flip;
        let Ok(mut area) = Area::open(&disk.bytes[..], BYTES) else { return Ok(()) };
        let whole = area.epitaph().map_or(true, |found| found == b"all is lost")
            && area.records().map_or(true, |found| found == records);
        proptest::prop_assert!(whole);
        let mut page = vec![0; PAGE_SIZE as usize];
        for pfn in [200, 201, 202, 203, 204, 208] {
            if area.frame(pfn, &mut page).is_ok() {
                proptest::prop_assert_eq!(&page, &memory[&pfn]);
            }
        }
    }

    /// Any list, with a right digest too, is read or refused.
    #[test]
    fn hostile_lists_are_read_or_refused(numbers in proptest::array::uniform6(proptest::num::u64::ANY), small in proptest::bool::ANY) {
        let mut disk = Memory::default();
        saved(&sample(), &frames(), &mut disk).unwrap();
        let (mut contents, _) = Contents::read_from_prefix(&disk.bytes[CONTENTS_AT as usize..]).unwrap();
        let number = |index: usize| if small { numbers[index] % 64 } else { numbers[index] };
        (contents.epitaph, contents.records) = (number(0), number(1));
        (contents.spans, contents.frames) = (number(2), number(3));
        let contents = contents.in_state(number(4));
        disk.bytes[CONTENTS_AT as usize..][..size_of::<Contents>()].copy_from_slice(contents.as_bytes());
        if let Ok(mut area) = Area::open(&disk.bytes[..], BYTES) {
            let _ = (area.epitaph(), area.records());
            let _ = area.frame(number(5), &mut [0; PAGE_SIZE as usize]);
        }
    }
}
