//! The rescue area: a partition, or a file, into which the backup OS writes the file cache of a dead kernel when no kernel
//! can be booted any more, and from which `orthros-ctl rescue` puts it back after an ordinary boot.
//!
//! Writer of [`RescueWords`], at [`crate::layout::RESCUE_WORDS`]: the module, when the administrator names an area. Reader: the
//! backup OS, when all is lost, and `orthros-ctl`. What is on the disk, in blocks of [`BLOCK`] bytes:
//!
//! | block | what | writer |
//! |---|---|---|
//! | 0 | [`Head`]: that this is a rescue area; of a file where it lies on its disk, too ([`Extents`]) | `orthros-ctl`, once |
//! | 1 | [`Contents`]: what is in it; written last | backup OS; that it is used up: `orthros-ctl` |
//! | 2… | epitaph, records ([`crate::record`]), where frames are ([`Span`]), each from a block on; frames, from a chunk on | backup OS |
//! | behind | a digest for each [`CHUNK`] of that, 4 bytes | backup OS |
//!
//! Numbers are little-endian. Nothing here is believed before its digest was compared: digests find damage; they do not
//! withstand an attacker, who would have to be root.

mod extents;
mod read;
mod write;

pub use extents::{path_inside, Extent, Extents, Outside, MOST as MOST_EXTENTS};
pub use read::{Area, Source};
pub use write::{only_files, save, Disk, Left, SaveError, Saved, Untaken, Wanted, What, NOBODY};

use crate::{stage::digest, PAGE_SIZE};
use core::sync::atomic::AtomicU64;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes of a block.
pub const BLOCK: u64 = PAGE_SIZE;
/// Bytes of a sector, in which disks count.
pub const SECTOR: u64 = 512;
/// Bytes that have a digest.
pub const CHUNK: usize = 128 << 10;
/// The smallest area, in bytes.
pub const LEAST: u64 = 16 << 20;
/// Version of everything on the disk.
pub const VERSION: u32 = 1;
/// Magic of [`Head`] and of [`Contents`], in little-endian order.
const HEAD: u64 = u64::from_le_bytes(*b"OR-RESCU");
const CONTENTS: u64 = u64::from_le_bytes(*b"OR-SAVED");
/// Where what was saved begins.
const START: u64 = 2 * BLOCK;
/// Where [`Contents`] lie.
pub const CONTENTS_AT: u64 = BLOCK;

/// Values of [`RescueWords::state`].
pub mod kind {
    /// There is no area.
    pub const NONE: u64 = 0;
    /// It is a partition, or a disk without any.
    pub const PARTITION: u64 = 1;
    /// It is a file.
    pub const FILE: u64 = 2;
}

/// Where the rescue area is. Nothing but [`Self::state`] changes while that is not 0.
#[derive(Debug)]
#[repr(C)]
pub struct RescueWords {
    /// One of [`kind`]. Release.
    pub state: AtomicU64,
    /// The disk's PCI function: bus << 8 | device << 3 | function.
    pub function: AtomicU64,
    /// First sector of the area on its disk; of a file that of its first block.
    pub start: AtomicU64,
    /// Its sectors, wherever they are.
    pub sectors: AtomicU64,
    /// Sectors of the disk.
    pub disk_sectors: AtomicU64,
    /// [`Head::id`].
    pub id: [AtomicU64; 2],
    /// Serial number of the disk as it tells it, padded with zeros.
    pub serial: [AtomicU64; 3],
    /// The part of the disk, first sector and sectors, in which all of it lies.
    pub within: [AtomicU64; 2],
}

/// Head of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Head {
    magic: u64,
    version: u32,
    /// CRC-32/ISO-HDLC of this structure with this field as zero.
    digest: u32,
    /// A number by chance.
    pub id: [u64; 2],
    /// Bytes of the area.
    pub bytes: u64,
}

/// Values of [`Contents::state`].
pub mod state {
    /// Everything is written.
    pub const COMPLETE: u64 = 1;
    /// It has been put back, or given up.
    pub const USED: u64 = 2;
}

/// What an area holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Contents {
    magic: u64,
    version: u32,
    /// As in [`Head`].
    digest: u32,
    /// [`Head::id`] of the area.
    pub id: [u64; 2],
    /// One of [`state`].
    pub state: u64,
    /// Number of the failover.
    pub failover: u64,
    /// Bytes of the epitaph.
    pub epitaph: u64,
    /// Bytes of the records.
    pub records: u64,
    /// Number of [`Span`]s.
    pub spans: u64,
    /// Number of frames.
    pub frames: u64,
    /// [`digest`] of the digests.
    pub digests: u32,
    /// 1 if frames were left out for want of room.
    pub left_out: u32,
}

/// Frames that lie behind each other in the area, as they did in memory. Ascending, apart from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Span {
    /// Number of the first frame.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Why a partition is no rescue area, or what it holds cannot be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaError {
    /// It cannot be read at this byte.
    Unreadable(u64),
    /// It has no head of a rescue area.
    NoArea,
    /// It was made by another version.
    Version(u32),
    /// What is named here does not have the digest it should have.
    Damaged(&'static str),
    /// Its head names more bytes than there are.
    TooSmall {
        /// What the head says.
        head: u64,
        /// What there is.
        found: u64,
    },
    /// Nothing was saved in it.
    Empty,
    /// The frame is not there.
    NoFrame(u64),
}

impl core::fmt::Display for AreaError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unreadable(at) => write!(f, "the rescue area cannot be read at byte {at}"),
            Self::NoArea => write!(f, "it is no rescue area"),
            Self::Version(found) => write!(f, "the rescue area has version {found}, this program knows {VERSION}"),
            Self::Damaged(what) => write!(f, "{what} in the rescue area is damaged"),
            Self::TooSmall { head, found } => {
                write!(f, "the rescue area was made with {head} bytes, and there are {found}")
            }
            Self::Empty => write!(f, "nothing was saved in the rescue area"),
            Self::NoFrame(frame) => write!(
                f,
                "frame {frame:#x} is not in the rescue area: it had no room, or could not be read"
            ),
        }
    }
}

impl core::error::Error for AreaError {}

impl Head {
    /// The head of an area of so many bytes.
    pub fn new(id: [u64; 2], bytes: u64) -> Self {
        let mut head = Self {
            magic: HEAD,
            version: VERSION,
            digest: 0,
            id,
            bytes,
        };
        head.digest = digest(head.as_bytes());
        head
    }

    /// Reads the head of an area of which so many bytes are there.
    ///
    /// # Errors
    /// [`AreaError`].
    pub fn parse(block: &[u8], found: u64) -> Result<Self, AreaError> {
        let (head, _) = Self::read_from_prefix(block).map_err(|_| AreaError::NoArea)?;
        if head.magic != HEAD {
            return Err(AreaError::NoArea);
        }
        if digest(Self { digest: 0, ..head }.as_bytes()) != head.digest {
            return Err(AreaError::Damaged("the head"));
        }
        if head.version != VERSION {
            return Err(AreaError::Version(head.version));
        }
        if head.bytes > found || head.bytes < LEAST || !head.bytes.is_multiple_of(BLOCK) {
            return Err(AreaError::TooSmall {
                head: head.bytes,
                found,
            });
        }
        Ok(head)
    }
}

impl Contents {
    /// Reads what the area with this head holds.
    ///
    /// # Errors
    /// [`AreaError::Empty`] if that is nothing.
    pub fn parse(block: &[u8], head: &Head) -> Result<Self, AreaError> {
        let (contents, _) = Self::read_from_prefix(block).map_err(|_| AreaError::Empty)?;
        if contents.magic != CONTENTS {
            return Err(AreaError::Empty);
        }
        if digest(Self { digest: 0, ..contents }.as_bytes()) != contents.digest || contents.id != head.id {
            return Err(AreaError::Damaged("the list of what was saved"));
        }
        if contents.version != VERSION {
            return Err(AreaError::Version(contents.version));
        }
        Places::of(&contents, head).ok_or(AreaError::Damaged("the list of what was saved"))?;
        Ok(contents)
    }

    /// The same in another state.
    pub fn in_state(self, state: u64) -> Self {
        let mut contents = Self {
            state,
            digest: 0,
            ..self
        };
        contents.digest = digest(contents.as_bytes());
        contents
    }

    fn new(head: &Head) -> Self {
        Self {
            magic: CONTENTS,
            version: VERSION,
            id: head.id,
            ..Self::new_zeroed()
        }
    }
}

/// Where everything lies, in bytes from the start of the area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    records: u64,
    spans: u64,
    frames: u64,
    /// The end of what has digests.
    end: u64,
}

impl Places {
    /// `None` if it does not fit into the area.
    fn of(contents: &Contents, head: &Head) -> Option<Self> {
        let behind = |at: u64, bytes: u64| at.checked_add(bytes)?.checked_next_multiple_of(BLOCK);
        let records = behind(START, contents.epitaph)?;
        let spans = behind(records, contents.records)?;
        let lists = behind(spans, contents.spans.checked_mul(size_of::<Span>() as u64)?)?.checked_sub(START)?;
        // A damaged page must not cost the lists.
        let frames = lists.checked_next_multiple_of(CHUNK as u64)?.checked_add(START)?;
        let end = behind(frames, contents.frames.checked_mul(PAGE_SIZE)?)?;
        let places = Self {
            records,
            spans,
            frames,
            end,
        };
        let last = end.checked_add(places.chunks().checked_mul(4)?)?;
        (last <= head.bytes).then_some(places)
    }

    fn chunks(&self) -> u64 {
        self.end.saturating_sub(START).div_ceil(CHUNK as u64)
    }
}

#[cfg(test)]
mod tests;
