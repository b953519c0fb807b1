//! Record streams: as they are, and with a head and digest that fit, so that the records themselves are reached.

use shared_region::context::{self, FrameRun};
use shared_region::facts::Facts;
use shared_region::header::Header;
use shared_region::record::{status, Kind, Record, Stream, StreamHeader, MAGIC, VERSION};
use zerocopy::{FromZeros, IntoBytes};

fn decode(record: &Record<'_>) {
    match record.kind {
        Kind::Machine => drop(record.decode::<context::Machine>()),
        Kind::Mount => drop(record.decode::<context::Mount>()),
        Kind::Process => drop(record.decode::<context::Process>()),
        Kind::Thread => drop(record.decode::<context::Thread>()),
        Kind::AddressSpace => drop(record.decode::<context::AddressSpace>()),
        Kind::Mapping => drop(record.decode::<context::Mapping>()),
        Kind::FileTable => drop(record.decode::<context::FileTable>()),
        Kind::OpenFile => drop(record.decode::<context::OpenFile>()),
        Kind::Inode => drop(record.decode::<context::Inode>()),
        Kind::Pipe => drop(record.decode::<context::Pipe>()),
        Kind::Lost => drop(record.decode::<context::Lost>()),
        Kind::Evidence => drop(record.decode::<context::Evidence>()),
        Kind::Summary => drop(record.decode::<context::Summary>()),
        Kind::Outcome => drop(record.decode::<context::Outcome>()),
        Kind::SharedMemory => drop(record.decode::<context::SharedMemory>()),
        Kind::DiskContent | Kind::UncachedBlocks => drop(record.decode::<context::DiskContent>()),
        Kind::SwapArea => drop(record.decode::<context::SwapArea>()),
        Kind::SwappedPages => drop(record.decode::<context::SwappedPages>()),
        Kind::NameGone => drop(record.decode::<context::NameGone>()),
        Kind::Costs => drop(record.decode::<Vec<context::Cost>>()),
        Kind::Journal => drop(record.decode::<context::Journal>()),
        Kind::IdleJournal => drop(record.decode::<context::IdleJournal>()),
        Kind::LeftAt => drop(record.decode::<context::LeftAt>()),
        Kind::SavedBy => drop(record.decode::<context::SavedBy>()),
        Kind::DirtyFile => drop(record.decode::<context::DirtyFile>()),
        Kind::FatFileSystem => drop(record.decode::<context::FatFileSystem>()),
        Kind::FatFile => drop(record.decode::<context::FatFile>()),
        Kind::Names => drop(record.decode::<context::Names>()),
        Kind::ChangedInodes => drop(record.decode::<context::ChangedInodes>()),
        Kind::FreeNumbers => drop(record.decode::<context::FreeNumbers>()),
        Kind::Subvolume => drop(record.decode::<context::Subvolume>()),
        Kind::Node => drop(record.decode::<context::Node>()),
        Kind::FileCache => drop(record.decode::<context::FileCache>()),
        Kind::Frames => {
            for run in FrameRun::iter(record.payload) {
                assert_eq!(FrameRun::new(run.va, run.pfn(), run.pages(), run.kind()), run);
            }
        }
        _ => {}
    }
}

fn read(area: &[u8]) {
    let Ok(stream) = Stream::open(area) else { return };
    stream
        .records()
        .filter_map(Result::ok)
        .for_each(|record| decode(&record));
}

/// Any bytes as a stream, as the records of one, as facts and as a header.
pub fn records(data: &[u8]) {
    read(data);
    let mut header = StreamHeader::new_zeroed();
    header.magic = MAGIC;
    header.version = VERSION;
    header.status = status::COMPLETE;
    header.length = data.len() as u64;
    header.digest = shared_region::stage::digest(data);
    let mut area = header.as_bytes().to_vec();
    area.extend_from_slice(data);
    read(&area);
    let _ = (Facts::parse(data), Header::parse(data));
}
