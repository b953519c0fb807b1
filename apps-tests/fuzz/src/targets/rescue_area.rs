//! Rescue areas: as they are, and with heads and digests that fit, so that what is behind them is reached.

use shared_region::record::Writer;
use shared_region::rescue_area::{
    path_inside, state, Area, Contents, Disk, Extent, Extents, Head, Source, Span, What, BLOCK, CHUNK, CONTENTS_AT, LEAST,
    SECTOR,
};
use shared_region::stage::digest;
use zerocopy::{FromBytes, IntoBytes};

struct Bytes<'a>(&'a [u8]);

impl Source for Bytes<'_> {
    fn read(&self, at: u64, bytes: &mut [u8]) -> bool {
        let there = usize::try_from(at)
            .ok()
            .and_then(|at| self.0.get(at..))
            .unwrap_or_default();
        let length = there.len().min(bytes.len());
        bytes.fill(0);
        bytes[..length].copy_from_slice(&there[..length]);
        at.checked_add(bytes.len() as u64).is_some_and(|end| end <= LEAST)
    }
}

struct Memory(Vec<u8>);

impl Disk for Memory {
    type Error = ();

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), ()> {
        let (start, end) = (at as usize, at as usize + bytes.len());
        self.0.resize(self.0.len().max(end), 0);
        self.0[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ()> {
        Ok(())
    }
}

fn read(image: &[u8]) {
    let Ok(mut area) = Area::open(Bytes(image), LEAST) else {
        return;
    };
    let _ = (area.epitaph(), area.records());
    let mut page = [0; 4096];
    for frame in [0, 1, 0x4142_4344, u64::MAX] {
        let _ = area.frame(frame, &mut page);
    }
}

/// Any bytes as the first block of a file; and pairs of words as its extents.
fn extents(data: &[u8]) {
    let within = 64..1 << 40;
    if let Ok(head) = Head::parse(data, u64::MAX) {
        let _ = path_inside(data, &head);
        if let Ok(extents) = Extents::parse(data, &head, 64, &within) {
            let _ = extents.pieces(0, BLOCK as usize);
        }
    }
    let words = data.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    let words: Vec<u64> = words.collect();
    let list: Vec<Extent> = (words.as_chunks::<2>().0.iter())
        .map(|&[sector, sectors]| Extent { sector, sectors })
        .collect();
    let sectors = list.iter().fold(0u64, |sum, extent| sum.wrapping_add(extent.sectors));
    let head = Head::new([1, 2], sectors.wrapping_mul(SECTOR));
    let Ok(extents) = Extents::of_file(&list, &head, &within) else {
        return;
    };
    let block = extents.first_block(&head, b"file").expect("so many have room");
    let again = Extents::parse(&block, &head, extents.start(), &within);
    assert_eq!(again.as_ref(), Ok(&extents));
    let pieces = extents.pieces(0, head.bytes.min(1 << 20) as usize).expect("the area has them");
    let is_within = |(sector, bytes): &(u64, std::ops::Range<usize>)| {
        let end = sector + bytes.len() as u64 / SECTOR;
        list.iter().any(|it| it.sector <= *sector && end <= it.sector + it.sectors)
    };
    assert!(pieces.iter().all(is_within));
}

/// Any bytes as an area; and with its first four words as lengths, behind right heads.
pub fn rescue_area(data: &[u8]) {
    extents(data);
    read(data);
    let head = Head::new([1, 2], LEAST);
    let mut records = [0; 256];
    let used = Writer::new(&mut records, 1).map(Writer::finish).unwrap_or(0);
    let what = What {
        failover: 1,
        epitaph: &[],
        records: &records[..used],
    };
    let mut disk = Memory(vec![0; BLOCK as usize]);
    disk.0[..size_of::<Head>()].copy_from_slice(head.as_bytes());
    let saved = shared_region::rescue_area::save(&mut disk, &head, &what, &|_, _| false);
    saved.expect("an empty stream has room");
    let Ok(mut contents) = Contents::parse(&disk.0[CONTENTS_AT as usize..], &head) else {
        return;
    };
    let Ok((lengths, body)) = <[u64; 4]>::read_from_prefix(data) else {
        return;
    };
    [contents.epitaph, contents.records, contents.spans, contents.frames] = lengths.map(|length| length % 8192);
    let whole = |bytes: u64| bytes.next_multiple_of(BLOCK);
    let spans = contents.spans * size_of::<Span>() as u64;
    let lists = whole(contents.epitaph) + whole(contents.records) + whole(spans);
    let end = lists.next_multiple_of(CHUNK as u64) + contents.frames * BLOCK;
    let start = 2 * BLOCK as usize;
    disk.0.truncate(start);
    disk.0.extend_from_slice(body);
    disk.0.resize(start + end as usize, 0);
    let digests: Vec<u8> = disk.0[start..]
        .chunks(CHUNK)
        .flat_map(|chunk| digest(chunk).to_le_bytes())
        .collect();
    contents.digests = digest(&digests);
    let contents = contents.in_state(state::COMPLETE);
    disk.0.extend(digests);
    disk.0[CONTENTS_AT as usize..][..size_of::<Contents>()].copy_from_slice(contents.as_bytes());
    read(&disk.0);
}
