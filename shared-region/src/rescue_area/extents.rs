//! Where on its disk an area lies that is a file: extents, in its first block behind the [`Head`], written by `orthros-ctl`.
//!
//! A partition is one extent, which nobody has to write down.

use super::{AreaError, Head, BLOCK, SECTOR};
use crate::stage::digest;
use alloc::vec::Vec;
use core::ops::Range;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Magic of [`List`], in little-endian order.
const LIST: u64 = u64::from_le_bytes(*b"OR-EXTNT");
/// Where it lies in the first block.
const LIST_AT: usize = 64;
/// The most extents that have room.
pub const MOST: usize = 192;
/// Bytes of a path, at most.
pub const PATH: usize = 512;
/// Why a list is not used.
const DAMAGED: AreaError = AreaError::Damaged("the list of its extents");

/// Sectors of a disk that lie side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Extent {
    /// The first one, from the disk's start on.
    pub sector: u64,
    /// How many.
    pub sectors: u64,
}

impl Extent {
    fn range(&self) -> Option<Range<u64>> {
        let end = self.sector.checked_add(self.sectors)?;
        (self.sectors != 0).then_some(self.sector..end)
    }
}

/// The list as it lies in the first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct List {
    magic: u64,
    /// Extents.
    count: u32,
    /// CRC-32/ISO-HDLC of this structure with this field as zero.
    digest: u32,
    /// [`Head::id`].
    id: [u64; 2],
    /// Bytes of the path.
    path_bytes: u64,
    /// Where the file is, from the root directory of its file system on.
    path: [u8; PATH],
    extents: [Extent; MOST],
}

const _: () = assert!(LIST_AT >= size_of::<Head>() && LIST_AT + size_of::<List>() <= BLOCK as usize);

/// Where an area lies on its disk, in the order of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents(Vec<Extent>);

impl Extents {
    /// That of a partition.
    ///
    /// # Errors
    /// [`AreaError::Damaged`] if it does not lie within a part of a disk.
    pub fn of_partition(start: u64, sectors: u64, within: &Range<u64>) -> Result<Self, AreaError> {
        let extent = Extent { sector: start, sectors };
        let range = extent.range().ok_or(DAMAGED)?;
        match range.start >= within.start && range.end <= within.end {
            true => Ok(Self([extent].into())),
            false => Err(DAMAGED),
        }
    }

    /// Those of a file with this head, if they can be those of one that lies within a part of a disk.
    ///
    /// # Errors
    /// [`AreaError::Damaged`] if there are none or too many, if two overlap or one lies outside, or if they have not the bytes that
    /// the head says.
    pub fn of_file(extents: &[Extent], head: &Head, within: &Range<u64>) -> Result<Self, AreaError> {
        let mut ranges = Vec::new();
        let mut sectors = 0u64;
        for extent in extents {
            let range = extent.range().ok_or(DAMAGED)?;
            if range.start < within.start || range.end > within.end {
                return Err(DAMAGED);
            }
            // Within one disk they cannot be more than fit.
            sectors = sectors.checked_add(extent.sectors).ok_or(DAMAGED)?;
            ranges.push(range);
        }
        ranges.sort_unstable_by_key(|range| range.start);
        let are_apart = ranges.windows(2).all(|pair| match pair {
            [one, next] => one.end <= next.start,
            _ => true,
        });
        // The first block is found by its first sector alone.
        let has_head = extents.first().is_some_and(|first| first.sectors >= BLOCK / SECTOR);
        let is_whole = sectors.checked_mul(SECTOR) == Some(head.bytes);
        match extents.len() <= MOST && are_apart && has_head && is_whole {
            true => Ok(Self(extents.to_vec())),
            false => Err(DAMAGED),
        }
    }

    /// Reads the list in the first block of a file, which was found at a sector.
    ///
    /// # Errors
    /// [`AreaError::NoArea`] if there is no list; [`AreaError::Damaged`] as [`Self::of_file`], and if it is of another file.
    pub fn parse(block: &[u8], head: &Head, at: u64, within: &Range<u64>) -> Result<Self, AreaError> {
        let list = List::parse(block, head)?;
        let count = usize::try_from(list.count).map_err(|_| DAMAGED)?;
        let extents = Self::of_file(list.extents.get(..count).ok_or(DAMAGED)?, head, within)?;
        match extents.start() == at {
            true => Ok(extents),
            false => Err(DAMAGED),
        }
    }

    /// Its first sector.
    pub fn start(&self) -> u64 {
        self.0.first().map_or(0, |first| first.sector)
    }

    /// All of them.
    pub fn all(&self) -> &[Extent] {
        &self.0
    }

    /// Where bytes of the area lie: sectors, and which of the bytes. Both `at` and `length` are multiples of [`SECTOR`].
    ///
    /// # Errors
    /// They do not all lie in the area, or are no whole sectors: nothing is to be written.
    pub fn pieces(&self, at: u64, length: usize) -> Result<Vec<(u64, Range<usize>)>, Outside> {
        if !at.is_multiple_of(SECTOR) || !(length as u64).is_multiple_of(SECTOR) {
            return Err(Outside);
        }
        let (mut pieces, mut done) = (Vec::new(), 0usize);
        let mut skip = at / SECTOR;
        for extent in &self.0 {
            let Some(here) = extent.sectors.checked_sub(skip).filter(|&here| here != 0) else {
                skip = skip.saturating_sub(extent.sectors);
                continue;
            };
            let left = length.saturating_sub(done);
            let bytes = usize::try_from(here.saturating_mul(SECTOR))
                .unwrap_or(usize::MAX)
                .min(left);
            if bytes == 0 {
                break;
            }
            let end = done.saturating_add(bytes);
            pieces.push((extent.sector.saturating_add(skip), done..end));
            (done, skip) = (end, 0);
        }
        match done == length {
            true => Ok(pieces),
            false => Err(Outside),
        }
    }

    /// The first block of a file with these extents. `path` leads to it from the root directory of its file system.
    ///
    /// # Errors
    /// [`AreaError::Damaged`] if the path has no room.
    pub fn first_block(&self, head: &Head, path: &[u8]) -> Result<Vec<u8>, AreaError> {
        let mut list = List::new_zeroed();
        list.magic = LIST;
        list.count = u32::try_from(self.0.len()).map_err(|_| DAMAGED)?;
        list.id = head.id;
        list.path_bytes = path.len() as u64;
        let room = list.path.get_mut(..path.len());
        room.ok_or(AreaError::Damaged("its path"))?.copy_from_slice(path);
        let room = list.extents.get_mut(..self.0.len());
        room.ok_or(DAMAGED)?.copy_from_slice(&self.0);
        list.digest = digest(list.as_bytes());
        let mut block = head.as_bytes().to_vec();
        block.resize(LIST_AT, 0);
        block.extend_from_slice(list.as_bytes());
        block.resize(BLOCK as usize, 0);
        Ok(block)
    }
}

/// Where a file is, from the root directory of its file system on, by its first block.
///
/// # Errors
/// As [`Extents::parse`].
pub fn path_inside(block: &[u8], head: &Head) -> Result<Vec<u8>, AreaError> {
    let list = List::parse(block, head)?;
    let length = usize::try_from(list.path_bytes).map_err(|_| DAMAGED)?;
    Ok(list.path.get(..length).ok_or(DAMAGED)?.to_vec())
}

impl List {
    fn parse(block: &[u8], head: &Head) -> Result<Self, AreaError> {
        let bytes = block.get(LIST_AT..).unwrap_or_default();
        let (list, _) = Self::read_from_prefix(bytes).map_err(|_| AreaError::NoArea)?;
        if list.magic != LIST {
            return Err(AreaError::NoArea);
        }
        match digest(Self { digest: 0, ..list }.as_bytes()) == list.digest && list.id == head.id {
            true => Ok(list),
            false => Err(DAMAGED),
        }
    }
}

/// Bytes do not lie in the area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const ID: [u64; 2] = [4, 17];
    const WITHIN: Range<u64> = 100..1_000_000;

    fn extent(sector: u64, sectors: u64) -> Extent {
        Extent { sector, sectors }
    }

    fn head(extents: &[Extent]) -> Head {
        Head::new(ID, extents.iter().map(|it| it.sectors * SECTOR).sum())
    }

    fn of(extents: &[Extent]) -> Result<Extents, AreaError> {
        Extents::of_file(extents, &head(extents), &WITHIN)
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let all = [extent(5000, 20000), extent(200, 2768), extent(90000, 10000)];
        let (extents, head) = (of(&all).unwrap(), head(&all));
        let block = extents.first_block(&head, b"var/lib/orthros/rescue").unwrap();
        assert_eq!(block.len() as u64, BLOCK);
        assert_eq!(Head::parse(&block, head.bytes).unwrap(), head);
        assert_eq!(Extents::parse(&block, &head, 5000, &WITHIN), Ok(extents));
        assert_eq!(path_inside(&block, &head).unwrap(), b"var/lib/orthros/rescue");
        // Found elsewhere, in another part of the disk, or with another head.
        assert_eq!(Extents::parse(&block, &head, 5001, &WITHIN), Err(DAMAGED));
        assert_eq!(Extents::parse(&block, &head, 5000, &(300..1_000_000)), Err(DAMAGED));
        assert_eq!(Extents::parse(&block, &head, 5000, &(100..99_999)), Err(DAMAGED));
        let other = Head::new([1, 1], head.bytes);
        assert_eq!(Extents::parse(&block, &other, 5000, &WITHIN), Err(DAMAGED));
        let longer = Head::new(ID, head.bytes + BLOCK);
        assert_eq!(Extents::parse(&block, &longer, 5000, &WITHIN), Err(DAMAGED));
        assert_eq!(
            Extents::parse(&vec![0; BLOCK as usize], &head, 5000, &WITHIN),
            Err(AreaError::NoArea)
        );
    }

    #[test]
    fn what_cannot_be_a_file_is_refused() {
        let good = extent(1000, 8);
        assert!(of(&[good, extent(1008, 8)]).is_ok());
        for bad in [
            vec![],
            vec![good, extent(1007, 8)],
            vec![good, good],
            vec![extent(2000, 100), extent(2050, 8)],
            vec![good, extent(99, 8)],
            vec![good, extent(999_993, 8)],
            vec![good, extent(u64::MAX, 8)],
            vec![good, extent(5000, 0)],
            // Not all of the first block.
            vec![extent(1000, 7), extent(2000, 1)],
        ] {
            assert_eq!(
                Extents::of_file(
                    &bad,
                    &Head::new(
                        ID,
                        bad.iter()
                            .fold(0u64, |sum, it| sum.wrapping_add(it.sectors.wrapping_mul(SECTOR)))
                    ),
                    &WITHIN
                ),
                Err(DAMAGED),
                "{bad:?}"
            );
        }
        let many: Vec<Extent> = (0..MOST as u64 + 1)
            .map(|number| extent(1000 + 10 * number, 8))
            .collect();
        assert!(of(&many[1..]).is_ok() && of(&many).is_err());
        let long = vec![b'x'; PATH + 1];
        let extents = of(&[good]).unwrap();
        assert!(
            extents.first_block(&head(&[good]), &long).is_err()
                && extents.first_block(&head(&[good]), &long[1..]).is_ok()
        );
    }

    #[test]
    fn bytes_are_found_across_extents() {
        let extents = of(&[extent(5000, 10), extent(200, 3), extent(9000, 100)]).unwrap();
        let s = SECTOR as usize;
        assert_eq!(extents.pieces(0, 10 * s), Ok(vec![(5000, 0..10 * s)]));
        assert_eq!(
            extents.pieces(9 * SECTOR, 6 * s),
            Ok(vec![(5009, 0..s), (200, s..4 * s), (9000, 4 * s..6 * s)])
        );
        assert_eq!(extents.pieces(10 * SECTOR, s), Ok(vec![(200, 0..s)]));
        assert_eq!(extents.pieces(112 * SECTOR, s), Ok(vec![(9099, 0..s)]));
        for (at, length) in [
            (112 * SECTOR, 2 * s),
            (113 * SECTOR, s),
            (u64::MAX / 512 * 512, s),
            (1, s),
            (0, 1),
        ] {
            assert_eq!(extents.pieces(at, length), Err(Outside), "{at} {length}");
        }
    }

    /// The bytes are an interface between programs of different age.
    #[test]
    fn golden_bytes() {
        let extents = of(&[extent(0x1000, 8)]).unwrap();
        let block = extents.first_block(&head(&[extent(0x1000, 8)]), b"ab").unwrap();
        let at = |offset: usize| u64::from_le_bytes(block[offset..offset + 8].try_into().unwrap());
        assert_eq!(&block[64..72], b"OR-EXTNT");
        assert_eq!((at(72) & 0xFFFF_FFFF, at(80), at(88), at(96)), (1, 4, 17, 2));
        assert_eq!((&block[104..106], at(616), at(624)), (&b"ab"[..], 0x1000, 8));
        assert_eq!(at(72) >> 32, 3_211_432_355, "its digest");
    }

    proptest::proptest! {
        /// Every byte of an area has one place, within its extents, and no two have the same.
        #[test]
        fn places_are_within_and_apart(sizes in proptest::collection::vec(1u64..20, 1..20), at in 0u64..200, length in 1usize..200) {
            let mut all = Vec::new();
            for (index, &sectors) in sizes.iter().enumerate() {
                // In another order than on the disk.
                let place = (index as u64 * 7919) % 64;
                all.push(extent(1000 + place * 100, sectors.max(if index == 0 { 8 } else { 1 })));
            }
            let Ok(extents) = of(&all) else { return Ok(()) };
            let total: u64 = all.iter().map(|it| it.sectors).sum();
            let bytes = length * SECTOR as usize;
            match extents.pieces(at * SECTOR, bytes) {
                Err(Outside) => proptest::prop_assert!(at + length as u64 > total),
                Ok(pieces) => {
                    proptest::prop_assert!(at + length as u64 <= total);
                    let mut places = alloc::collections::BTreeSet::new();
                    let mut next = 0;
                    for (sector, range) in pieces {
                        proptest::prop_assert_eq!(range.start, next);
                        next = range.end;
                        for index in 0..(range.len() as u64 / SECTOR) {
                            let sector = sector + index;
                            let is_in = |it: &Extent| it.range().unwrap().contains(&sector);
                            proptest::prop_assert!(all.iter().any(is_in));
                            proptest::prop_assert!(places.insert(sector));
                        }
                    }
                    proptest::prop_assert_eq!(next, bytes);
                }
            }
        }

        /// A changed byte is found, or is one of the block's rest.
        #[test]
        fn damage_is_found(at in 0usize..4096, flip in 1u8..=255) {
            let all = [extent(5000, 20000), extent(200, 2768)];
            let (extents, head) = (of(&all).unwrap(), head(&all));
            let mut block = extents.first_block(&head, b"x").unwrap();
            block[at] ^= flip;
            if let Ok(found) = Extents::parse(&block, &head, 5000, &WITHIN) {
                proptest::prop_assert_eq!(found, extents);
            }
        }

        /// Any list, with a right digest too, is read or refused, and what is read lies within.
        #[test]
        fn hostile_lists_are_read_or_refused(numbers in proptest::collection::vec((0u64..2000, 0u64..2000), 0..8), count in 0u32..300) {
            let mut list = List::new_zeroed();
            (list.magic, list.count, list.id) = (LIST, count, ID);
            for (to, &(sector, sectors)) in list.extents.iter_mut().zip(&numbers) {
                *to = extent(sector, sectors);
            }
            list.digest = digest(list.as_bytes());
            let bytes = numbers.iter().take(count as usize).map(|it| it.1 * SECTOR).sum();
            let head = Head::new(ID, bytes);
            let mut block = head.as_bytes().to_vec();
            block.resize(LIST_AT, 0);
            block.extend_from_slice(list.as_bytes());
            let at = numbers.first().map_or(0, |it| it.0);
            if let Ok(extents) = Extents::parse(&block, &head, at, &(100..1500)) {
                let is_within = |it: &Extent| it.sector >= 100 && it.sector + it.sectors <= 1500;
                proptest::prop_assert!(extents.all().iter().all(is_within));
            }
        }
    }
}
