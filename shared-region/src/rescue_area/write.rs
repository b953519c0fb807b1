//! Writing a rescue area, by the backup OS.

use super::{state, Contents, Head, Places, Span, BLOCK, CHUNK, CONTENTS_AT, START};
use crate::{
    context::{
        ChangedInodes, Checkpoint, DirtyFile, FrameRun, FreeNumbers, Id, IdleJournal, Inode, Journal, JournalBlock,
        LeftAt, LoggedFileSystem, Mount, Names, Node,
    },
    record::{Kind, Record, RecordError, Stream, Writer},
    stage::digest,
    PAGE_SIZE,
};
use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    vec,
    vec::Vec,
};
use zerocopy::IntoBytes;

/// The most spans that are listed: what does not fit is left out.
const SPANS: usize = 1 << 18;

/// A partition that can be written to. All offsets and lengths are multiples of [`BLOCK`].
pub trait Disk {
    /// Why it could not be.
    type Error;

    /// Writes bytes from byte `at` of the partition on.
    ///
    /// # Errors
    /// Why they are not written.
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Waits until everything that was written would outlive a loss of power.
    ///
    /// # Errors
    /// Why it would not.
    fn flush(&mut self) -> Result<(), Self::Error>;
}

/// What is to be written.
#[derive(Clone, Copy, Debug)]
pub struct What<'a> {
    /// Number of the failover.
    pub failover: u64,
    /// Why the machine is given up.
    pub epitaph: &'a [u8],
    /// A complete stream of records.
    pub records: &'a [u8],
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Files with data.
    pub files: u64,
    /// Frames of them.
    pub frames: u64,
    /// Whether some were left out for want of room.
    pub left_out: bool,
}

/// Why nothing was written that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveError<E> {
    /// The disk.
    Disk(E),
    /// The records.
    Records(RecordError),
    /// Not even the records have room.
    Full,
    /// This frame could be read, and cannot any more.
    Gone(u64),
}

impl<E: core::fmt::Display> core::fmt::Display for SaveError<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Disk(error) => write!(f, "{error}"),
            Self::Records(error) => write!(f, "{error}"),
            Self::Full => write!(f, "it has no room for the list of files"),
            Self::Gone(frame) => write!(f, "frame {frame:#x} cannot be read any more"),
        }
    }
}

/// Fills a page with a frame's bytes; whether it could.
type ReadFrame<'f> = dyn Fn(u64, &mut [u8]) -> bool + 'f;

/// Writes all of it; what makes it count comes last. `frame` fills a page with the bytes of a frame, if they can be had.
///
/// # Errors
/// [`SaveError`].
pub fn save<D: Disk>(
    disk: &mut D,
    head: &Head,
    what: &What<'_>,
    frame: &ReadFrame<'_>,
) -> Result<Saved, SaveError<D::Error>> {
    let mut contents = Contents {
        failover: what.failover,
        epitaph: what.epitaph.len() as u64,
        records: what.records.len() as u64,
        spans: SPANS as u64,
        ..Contents::new(head)
    };
    // A digest is 4 bytes for many pages: one page in a thousand is more than enough.
    let places = Places::of(&contents, head).ok_or(SaveError::Full)?;
    let room = head.bytes.saturating_sub(places.end) / PAGE_SIZE;
    let room = room.saturating_sub(room / 1000).saturating_sub(2);
    let stream = Stream::open(what.records).map_err(SaveError::Records)?;
    let mut plan = Plan::new(room, frame);
    for record in stream.records() {
        plan.take(&record.map_err(SaveError::Records)?);
    }
    let spans = plan.spans();
    contents.spans = spans.len() as u64;
    contents.frames = spans.iter().map(|span| span.count).sum();
    contents.left_out = u32::from(plan.saved.left_out);
    let places = Places::of(&contents, head).ok_or(SaveError::Full)?;

    // What was there before does not count any more.
    disk.write(CONTENTS_AT, &[0; BLOCK as usize]).map_err(SaveError::Disk)?;
    disk.flush().map_err(SaveError::Disk)?;
    let mut sink = Sink::new(disk);
    let filled = (|| {
        sink.put(what.epitaph)?;
        sink.pad(places.records)?;
        sink.put(what.records)?;
        sink.pad(places.spans)?;
        sink.put(spans.as_bytes())?;
        sink.pad(places.frames)
    })();
    filled.map_err(SaveError::Disk)?;
    let mut page = vec![0; PAGE_SIZE as usize];
    for span in &spans {
        for number in (span.first..).take(span.count as usize) {
            // It could be had when it was planned with.
            if !frame(number, &mut page) {
                return Err(SaveError::Gone(number));
            }
            sink.put(&page).map_err(SaveError::Disk)?;
        }
    }
    let digests = sink
        .pad(places.end)
        .and_then(|()| sink.end())
        .map_err(SaveError::Disk)?;
    contents.digests = digest(&digests);
    let mut tail = digests;
    tail.resize(tail.len().next_multiple_of(BLOCK as usize), 0);
    disk.write(places.end, &tail).map_err(SaveError::Disk)?;
    disk.flush().map_err(SaveError::Disk)?;
    let mut block = [0; BLOCK as usize];
    let contents = contents.in_state(state::COMPLETE);
    for (to, &from) in block.iter_mut().zip(contents.as_bytes()) {
        *to = from;
    }
    disk.write(CONTENTS_AT, &block).map_err(SaveError::Disk)?;
    disk.flush().map_err(SaveError::Disk)?;
    Ok(Saved {
        frames: contents.frames,
        ..plan.saved
    })
}

/// Which frames are to be written.
struct Plan<'f> {
    frame: &'f ReadFrame<'f>,
    page: Vec<u8>,
    owners: BTreeSet<u64>,
    /// First frame and number.
    runs: Vec<(u64, u64)>,
    room: u64,
    saved: Saved,
}

impl<'f> Plan<'f> {
    fn new(room: u64, frame: &'f ReadFrame<'f>) -> Self {
        let (owners, runs, saved) = (BTreeSet::new(), Vec::new(), Saved::default());
        Self {
            frame,
            page: vec![0; PAGE_SIZE as usize],
            owners,
            runs,
            room,
            saved,
        }
    }

    fn take(&mut self, record: &Record<'_>) {
        match record.kind {
            Kind::Inode | Kind::DirtyFile => {
                self.saved.files = self
                    .saved
                    .files
                    .saturating_add(u64::from(self.owners.insert(record.owner)));
                let file = Some(record).filter(|record| record.kind == Kind::DirtyFile);
                let file = file.and_then(|record| record.decode::<DirtyFile>().ok());
                for part in file.unwrap_or_default().parts {
                    self.add(part.at / PAGE_SIZE, 1);
                }
            }
            Kind::Journal => self.add_blocks(&record.decode::<Journal>().unwrap_or_default().blocks),
            Kind::Checkpoint => self.add_blocks(&record.decode::<Checkpoint>().unwrap_or_default().blocks),
            Kind::Frames if self.owners.contains(&record.owner) => {
                for run in FrameRun::iter(record.payload) {
                    self.add(run.pfn(), run.pages());
                }
            }
            _ => {}
        }
    }

    /// Blocks of a log, several of which may lie in a page.
    fn add_blocks(&mut self, blocks: &[JournalBlock]) {
        let places = blocks.iter().flat_map(|block| [Some(block.at), block.before]);
        let frames: BTreeSet<u64> = (places.flatten().filter(|&at| at != 0))
            .map(|at| at / PAGE_SIZE)
            .collect();
        for number in frames {
            self.add(number, 1);
        }
    }

    /// A run of a file; what cannot be had is not there when it is looked for.
    fn add(&mut self, first: u64, count: u64) {
        let mut had = 0;
        let end = first.saturating_add(count);
        for number in first..end {
            if (self.frame)(number, &mut self.page) {
                had += 1;
                if number.saturating_add(1) < end {
                    continue;
                }
                self.push(number.saturating_add(1).saturating_sub(had), had);
            } else {
                self.push(number.saturating_sub(had), had);
            }
            had = 0;
        }
    }

    fn push(&mut self, first: u64, count: u64) {
        if count == 0 {
        } else if count > self.room || self.runs.len() >= SPANS {
            self.saved.left_out = true;
        } else {
            self.room = self.room.saturating_sub(count);
            self.runs.push((first, count));
        }
    }

    /// Ascending, apart from each other.
    fn spans(&mut self) -> Vec<Span> {
        let mut runs = core::mem::take(&mut self.runs);
        runs.sort_unstable();
        let mut spans: Vec<Span> = Vec::new();
        for (first, count) in runs {
            let end = first.saturating_add(count);
            match spans.last_mut() {
                Some(last) if first <= last.first.saturating_add(last.count) => {
                    last.count = last.count.max(end.saturating_sub(last.first));
                }
                _ => spans.push(Span { first, count }),
            }
        }
        spans
    }
}

/// What is written behind each other, with a digest for each chunk.
struct Sink<'d, D> {
    disk: &'d mut D,
    chunk: Box<[u8]>,
    filled: usize,
    /// Where the chunk goes.
    at: u64,
    digests: Vec<u8>,
}

impl<'d, D: Disk> Sink<'d, D> {
    fn new(disk: &'d mut D) -> Self {
        Self {
            disk,
            chunk: vec![0; CHUNK].into_boxed_slice(),
            filled: 0,
            at: START,
            digests: Vec::new(),
        }
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<(), D::Error> {
        while !bytes.is_empty() {
            let room = self.chunk.get_mut(self.filled..).unwrap_or_default();
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            if let Some(room) = room.get_mut(..now.len()) {
                room.copy_from_slice(now);
            }
            self.filled = self.filled.saturating_add(now.len());
            if self.filled >= CHUNK {
                self.write()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Zeros up to a place.
    fn pad(&mut self, to: u64) -> Result<(), D::Error> {
        let zeros = [0; BLOCK as usize];
        loop {
            let left = to.saturating_sub(self.at.saturating_add(self.filled as u64));
            let length = left.min(BLOCK) as usize;
            if length == 0 {
                return Ok(());
            }
            self.put(zeros.get(..length).unwrap_or_default())?;
        }
    }

    fn write(&mut self) -> Result<(), D::Error> {
        let bytes = self.chunk.get(..self.filled).unwrap_or_default();
        self.digests.extend(digest(bytes).to_le_bytes());
        self.disk.write(self.at, bytes)?;
        self.at = self.at.saturating_add(self.filled as u64);
        self.filled = 0;
        Ok(())
    }

    /// Returns the digests.
    fn end(&mut self) -> Result<Vec<u8>, D::Error> {
        if self.filled != 0 {
            self.write()?;
        }
        Ok(core::mem::take(&mut self.digests))
    }
}

/// Why the journal of a file system is left as it is.
pub const NOBODY: &str = "no kernel could be booted that would have completed it";

/// Why the journal of a mounted file system has nothing any more.
const MOUNTED: &str = "the kernel that took over has mounted it without completing its journal";

/// Kinds of records about file systems that are copied as they are, if all are wanted.
const COPIED: [Kind; 8] = [
    Kind::Mount,
    Kind::Names,
    Kind::Node,
    Kind::IdleJournal,
    Kind::LoggedFileSystem,
    Kind::Subvolume,
    Kind::ChangedInodes,
    Kind::FreeNumbers,
];

/// Which file systems are wanted of a stream.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// All, by an ordinary boot, which mounts them before anybody can complete their journals.
    All,
    /// What the kernel that runs could not put back.
    Left(Left<'a>),
}

/// What the kernel that runs could not put back.
#[derive(Clone, Copy, Debug)]
pub struct Left<'a> {
    /// Device numbers of file systems that nobody has mounted: they are wanted with what completes their journals.
    pub unmounted: &'a BTreeSet<u64>,
    /// What mounted ones have not taken, by device number.
    pub mounted: &'a BTreeMap<u64, Untaken>,
}

/// What a file system has not taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Untaken {
    /// Its journal is complete.
    pub is_committed: bool,
    /// Names that had changed: none of them.
    pub names: bool,
    /// Files, and how they were left if they are there.
    pub files: BTreeMap<Id, Option<LeftAt>>,
}

impl Wanted<'_> {
    /// What is wanted of the file system with this number, if not all.
    fn untaken(&self, device: u64) -> Option<&Untaken> {
        match self {
            Self::All => None,
            Self::Left(left) => left.mounted.get(&device),
        }
    }

    fn has(&self, device: u64) -> bool {
        match self {
            Self::All => true,
            Self::Left(left) => left.unmounted.contains(&device),
        }
    }

    /// Whether a file is wanted.
    fn has_file(&self, device: u64, id: Id) -> bool {
        self.has(device) || self.untaken(device).is_some_and(|it| it.files.contains_key(&id))
    }

    /// Whether a record is about a file system that is wanted, of kinds that are copied as they are.
    fn has_record(&self, record: &Record<'_>) -> Result<bool, RecordError> {
        let Self::Left(left) = self else {
            return Ok(COPIED.contains(&record.kind));
        };
        let is_mounted = |device| left.mounted.contains_key(&device);
        let has_names = |device| left.mounted.get(&device).is_some_and(|it| it.names);
        let (device, also) = match record.kind {
            Kind::Mount => also(record.decode::<Mount>()?.device, is_mounted),
            Kind::IdleJournal => also(record.decode::<IdleJournal>()?.device, is_mounted),
            Kind::LoggedFileSystem => also(record.decode::<LoggedFileSystem>()?.device, is_mounted),
            Kind::Names => also(record.decode::<Names>()?.device, has_names),
            Kind::ChangedInodes => also(record.decode::<ChangedInodes>()?.device, has_names),
            Kind::FreeNumbers => also(record.decode::<FreeNumbers>()?.device, has_names),
            Kind::Node => also(record.decode::<Node>()?.device, has_names),
            Kind::Checkpoint => also(record.decode::<Checkpoint>()?.device, |_| false),
            _ => return Ok(false),
        };
        Ok(also || left.unmounted.contains(&device))
    }
}

fn also(device: u64, is_wanted: impl Fn(u64) -> bool) -> (u64, bool) {
    (device, is_wanted(device))
}

/// Copies from a stream what is about files that a disk may not have as they were.
///
/// # Errors
/// [`RecordError`].
pub fn only_files(stream: &Stream<'_>, writer: &mut Writer<'_>, of: Wanted<'_>) -> Result<(), RecordError> {
    let mut owners = BTreeSet::new();
    // Nobody reads swap after an ordinary boot: such a file would have holes.
    let is_swapped = |record: &Record<'_>| record.kind == Kind::SwappedPages;
    let on_swap: BTreeSet<u64> = (stream.records().flatten())
        .filter(is_swapped)
        .map(|record| record.owner)
        .collect();
    for record in stream.records() {
        let record = record?;
        let wanted = match (record.kind, of) {
            (Kind::Machine, _) => true,
            (Kind::Journal, _) => {
                write_journal(&record, writer, of)?;
                false
            }
            (Kind::Inode, _) => {
                let inode: Inode = record.decode()?;
                let wanted = inode.dirty && !inode.path.is_empty() && !on_swap.contains(&record.owner);
                wanted && of.has_file(inode.device, record.owner) && owners.insert(record.owner)
            }
            (Kind::DirtyFile, _) => {
                let file: DirtyFile = record.decode()?;
                if of.has_file(file.device, record.owner) {
                    owners.insert(record.owner);
                    let is_committed = of.untaken(file.device).is_some_and(|it| it.is_committed);
                    let ahead = file.ahead && !is_committed;
                    writer.push(
                        record.kind,
                        record.version,
                        record.flags,
                        record.owner,
                        &DirtyFile { ahead, ..file },
                    )?;
                }
                false
            }
            (Kind::DiskContent | Kind::Frames, _) => owners.contains(&record.owner),
            // What else was lost has been told by whoever runs.
            (Kind::Lost, Wanted::All) => record.owner == 0,
            _ => of.has_record(&record)?,
        };
        if wanted {
            writer.push_bytes(record.kind, record.version, record.flags, record.owner, record.payload)?;
        }
    }
    let Wanted::Left(left) = of else { return Ok(()) };
    for (&id, at) in left.mounted.values().flat_map(|untaken| &untaken.files) {
        if let Some(at) = at {
            writer.push(Kind::LeftAt, 1, 0, id, at)?;
        }
    }
    Ok(())
}

/// A journal: whole, if somebody can still complete it; else which file system it is that of.
fn write_journal(record: &Record<'_>, writer: &mut Writer<'_>, of: Wanted<'_>) -> Result<(), RecordError> {
    let journal: Journal = record.decode()?;
    let (version, flags, owner) = (record.version, record.flags, record.owner);
    let untaken = of.untaken(journal.device);
    if untaken.is_some_and(|it| it.is_committed) {
        let Journal { uuid, device, name, .. } = journal;
        return writer.push(Kind::IdleJournal, 1, 0, owner, &IdleJournal { uuid, device, name });
    }
    let refused = match of {
        Wanted::All => NOBODY,
        Wanted::Left(_) if untaken.is_some() => MOUNTED,
        Wanted::Left(left) if left.unmounted.contains(&journal.device) => {
            return writer.push_bytes(record.kind, version, flags, owner, record.payload)
        }
        Wanted::Left(_) => return Ok(()),
    };
    let journal = Journal {
        refused: refused.into(),
        blocks: Vec::new(),
        revoked: Vec::new(),
        ..journal
    };
    writer.push(Kind::Journal, version, flags, owner, &journal)
}
