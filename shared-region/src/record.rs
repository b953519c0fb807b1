//! The framing of the Essential Context and of reports: a header, then records, each with a head of its own.
//!
//! A record is: kind, version, flags, length, owner, then the payload, padded with zeros to 8 bytes. The payload is
//! postcard, but for [`Kind::Frames`] and [`Kind::Bytes`], which are flat so that they can be written and read without
//! a copy. Readers skip a kind they do not know unless [`flags::MUST_UNDERSTAND`] is set, and accept a record's
//! version N and N−1. Kinds are append-only.

use serde::{de::DeserializeOwned, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `"OR-CNTXT"` in little-endian order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"OR-CNTXT");
/// Version of the framing.
pub const VERSION: u32 = 1;

/// Bits of [`RecordHead::flags`].
pub mod flags {
    /// A reader that does not know the kind must refuse the owner's process.
    pub const MUST_UNDERSTAND: u32 = 1;
}

/// Values of [`StreamHeader::status`].
pub mod status {
    /// Nothing there.
    pub const EMPTY: u32 = 0;
    /// Being written.
    pub const WRITING: u32 = 1;
    /// Whole.
    pub const COMPLETE: u32 = 2;
}

/// What a record describes. See [`crate::context`] for the payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Kind(pub u16);

#[allow(non_upper_case_globals)]
impl Kind {
    /// [`crate::context::Machine`]; owner 0.
    pub const Machine: Self = Self(1);
    /// [`crate::context::Mount`]; owner is the mount id.
    pub const Mount: Self = Self(2);
    /// [`crate::context::Process`]; owner is the tgid.
    pub const Process: Self = Self(3);
    /// [`crate::context::Thread`]; owner is the tgid.
    pub const Thread: Self = Self(4);
    /// [`crate::context::AddressSpace`]; owner is the mm id.
    pub const AddressSpace: Self = Self(5);
    /// [`crate::context::Mapping`]; owner is the mm id.
    pub const Mapping: Self = Self(6);
    /// Flat [`crate::context::FrameRun`]s; owner is the mm id or the inode id. Follows its owner's record.
    pub const Frames: Self = Self(7);
    /// [`crate::context::FileTable`]; owner is the file-table id.
    pub const FileTable: Self = Self(8);
    /// [`crate::context::OpenFile`]; owner is the open-file id.
    pub const OpenFile: Self = Self(9);
    /// [`crate::context::Inode`]; owner is the inode id.
    pub const Inode: Self = Self(10);
    /// [`crate::context::Pipe`]; owner is the inode id.
    pub const Pipe: Self = Self(11);
    /// Flat bytes that belong to the record before; owner as there. Of a pipe they are unread data, of an address space what
    /// lies from an address on, of which they are the first eight.
    pub const Bytes: Self = Self(12);
    /// [`crate::context::Lost`]; owner is the tgid it costs, 0 if none.
    pub const Lost: Self = Self(13);
    /// [`crate::context::Evidence`]; owner 0.
    pub const Evidence: Self = Self(14);
    /// [`crate::context::Summary`]; owner 0. The last record.
    pub const Summary: Self = Self(15);
    /// [`crate::context::Outcome`], in the report area; owner is the tgid.
    pub const Outcome: Self = Self(16);
    /// [`crate::context::SharedMemory`]: a shmem object; owner is the inode id.
    pub const SharedMemory: Self = Self(17);
    /// [`crate::context::DiskContent`]; owner is the inode id. Follows its owner's record.
    pub const DiskContent: Self = Self(18);
    /// A [`crate::context::DiskContent`] of blocks that the disk's file does not have and the cache has not, with their places on
    /// the device where the file system counts otherwise; owner is the inode id. Follows its [`Self::DiskContent`].
    pub const UncachedBlocks: Self = Self(63);
    /// [`crate::context::NameGone`]; owner is the inode id. Follows its owner's record.
    pub const NameGone: Self = Self(19);
    /// A list of [`crate::context::Cost`], in the report area; owner 0.
    pub const Costs: Self = Self(20);
    /// [`crate::context::Journal`]; owner is the superblock's id.
    pub const Journal: Self = Self(21);
    /// [`crate::context::DirtyFile`]; owner is the inode id.
    pub const DirtyFile: Self = Self(22);
    /// [`crate::context::Keyring`]; owner is the keyring id.
    pub const Keyring: Self = Self(23);
    /// [`crate::context::Socket`]; owner is the socket id.
    pub const Socket: Self = Self(24);
    /// Flat bytes that a socket has received and its process has not taken; owner is the socket id.
    pub const ReceiveQueue: Self = Self(25);
    /// Flat bytes that a process has sent and its peer has not acknowledged; owner is the socket id.
    pub const SendQueue: Self = Self(26);
    /// [`crate::context::Network`]; owner 0.
    pub const Network: Self = Self(27);
    /// [`crate::context::FileLocks`]; owner is the id of an open file through which they are held.
    pub const FileLocks: Self = Self(28);
    /// [`crate::context::SemaphoreSet`]; owner is the id of the set.
    pub const SemaphoreSet: Self = Self(29);
    /// [`crate::context::MessageQueue`]; owner is the id of the queue.
    pub const MessageQueue: Self = Self(30);
    /// [`crate::context::FileCache`].
    pub const FileCache: Self = Self(31);
    /// [`crate::context::PseudoTerminal`]; owner is the terminal's id.
    pub const PseudoTerminal: Self = Self(32);
    /// [`crate::context::SharedSegment`]; owner is the id of the segment.
    pub const SharedSegment: Self = Self(33);
    /// [`crate::context::PosixQueue`]; owner is the inode id.
    pub const PosixQueue: Self = Self(34);
    /// [`crate::context::Names`]; owner is the inode id of the directory.
    pub const Names: Self = Self(35);
    /// [`crate::context::Node`]; owner is the inode id.
    pub const Node: Self = Self(36);
    /// [`crate::context::CachedFile`]; owner is the inode id.
    pub const CachedFile: Self = Self(37);
    /// Flat [`crate::context::FrameRun`]s, whose `va` is the offset in the file; owner is the inode id. Follows its owner's
    /// [`Self::CachedFile`].
    pub const CachedFrames: Self = Self(38);
    /// A list of [`crate::context::InotifyEvent`]s that nobody has read; owner is the open-file id.
    pub const InotifyEvents: Self = Self(39);
    /// [`crate::context::ChangedInodes`]; owner is the superblock's id.
    pub const ChangedInodes: Self = Self(43);
    /// [`crate::context::Netfilter`]; owner 0.
    pub const Netfilter: Self = Self(46);
    /// Flat messages of netlink as the dead kernel lists its rules; owner 0. Follows [`Self::Netfilter`].
    pub const NetfilterRules: Self = Self(47);
    /// [`crate::context::Network6`]; owner 0. Follows [`Self::Network`].
    pub const Network6: Self = Self(48);
    /// A list of [`crate::context::LinkSetup`]s; owner 0. Follows [`Self::Network`].
    pub const LinkSetups: Self = Self(74);
    /// [`crate::context::NamespaceNetwork`]; owner is the id of the namespace. Stands before its [`Self::Namespace`].
    pub const NamespaceNetwork: Self = Self(78);
    /// A list of settings of the first network namespace: the name of each below `/proc/sys`, and what is written there; owner 0.
    pub const NetworkSettings: Self = Self(79);
    /// [`crate::context::MountNamespace`]; owner is the id of the namespace.
    pub const MountNamespace: Self = Self(49);
    /// [`crate::context::InMountNamespace`]; owner is the tgid or the open-file id.
    pub const InMountNamespace: Self = Self(50);
    /// [`crate::context::AioContext`]; owner is the mm id.
    pub const AioContext: Self = Self(51);
    /// [`crate::context::IoUring`]; owner is the open-file id.
    pub const IoUring: Self = Self(52);
    /// An offset for `mmap`, 64 bits, and the flat bytes that lie there in the memory of a ring; owner is the open-file id. Where
    /// there are none there is zero. Follows its owner's [`Self::IoUring`].
    pub const IoUringBytes: Self = Self(53);
    /// [`crate::context::SwapArea`]; owner is the area's id. Precedes the records that refer to it.
    pub const SwapArea: Self = Self(54);
    /// [`crate::context::SwappedPages`]; owner is the mm id or the inode id. Follows its owner's record.
    pub const SwappedPages: Self = Self(55);
    /// [`crate::context::Namespace`]; owner is the id of the namespace.
    pub const Namespace: Self = Self(56);
    /// [`crate::context::InNamespace`]; owner is the tgid.
    pub const InNamespace: Self = Self(57);
    /// [`crate::context::InnerIds`]; owner is the id that the process, thread, group or session has in the first pid namespace.
    pub const InnerIds: Self = Self(73);
    /// [`crate::context::FatFileSystem`]; owner is the superblock's id.
    pub const FatFileSystem: Self = Self(58);
    /// [`crate::context::FatFile`]; owner is the inode id.
    pub const FatFile: Self = Self(59);
    /// [`crate::context::SavedBy`], in a rescue area; owner 0.
    pub const SavedBy: Self = Self(60);
    /// [`crate::context::IdleJournal`]; owner is the superblock's id.
    pub const IdleJournal: Self = Self(61);
    /// [`crate::context::LoggedFileSystem`]; owner is the superblock's id.
    pub const LoggedFileSystem: Self = Self(68);
    /// [`crate::context::LeftAt`], in a rescue area; owner is the inode id.
    pub const LeftAt: Self = Self(67);
    /// [`crate::context::IpcObject`]; owner is the id of the IPC namespace.
    pub const IpcObject: Self = Self(62);
    /// [`crate::context::InNamespace`]; owner is the socket's id. Precedes its [`Self::Socket`].
    pub const SocketInNamespace: Self = Self(70);
    /// [`crate::context::Checkpoint`]; owner is the superblock's id. Follows its [`Self::Journal`], if there is one.
    pub const Checkpoint: Self = Self(65);
    /// [`crate::context::MappedDevice`]; owner is the id of the device.
    pub const MappedDevice: Self = Self(64);
    /// [`crate::context::FreeNumbers`]; owner is the superblock's id. Follows its [`Self::ChangedInodes`].
    pub const FreeNumbers: Self = Self(66);
    /// [`crate::context::Subvolume`]; owner is the superblock's id.
    pub const Subvolume: Self = Self(71);
}

/// Head of the stream, at the start of the area.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StreamHeader {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// One of [`status`].
    pub status: u32,
    /// Bytes of records after this header.
    pub length: u64,
    /// Number of records.
    pub count: u64,
    /// CRC-32/ISO-HDLC of the records.
    pub digest: u32,
    /// 1 if records were left out for want of room.
    pub truncated: u32,
    /// The failover this belongs to ([`crate::control::ControlWords::failover_count`]).
    pub failover: u64,
    /// Zero.
    pub reserved: [u64; 2],
}

/// Head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RecordHead {
    /// [`Kind`].
    pub kind: u16,
    /// Version of the payload.
    pub version: u16,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Bytes of payload, without the padding.
    pub length: u32,
    /// Zero.
    pub reserved: u32,
    /// What the record belongs to; see [`Kind`].
    pub owner: u64,
}

/// Bytes of a stream header.
pub const STREAM_HEADER: usize = core::mem::size_of::<StreamHeader>();
/// Bytes of a record head.
pub const RECORD_HEAD: usize = core::mem::size_of::<RecordHead>();

const _: () = assert!(STREAM_HEADER == 64 && RECORD_HEAD == 24);

/// Why a record was not written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The area is full.
    Full,
    /// The area does not start with a stream of ours.
    NoStream,
    /// The stream is not [`status::COMPLETE`].
    Incomplete(u32),
    /// Written with another framing.
    Version(u32),
    /// The digest does not match.
    Digest,
    /// A record runs over the end.
    Truncated {
        /// Offset of its head after the stream header, in bytes.
        at: usize,
    },
    /// A payload is not what its kind says.
    Payload {
        /// The kind.
        kind: u16,
        /// The version.
        version: u16,
    },
}

impl core::fmt::Display for RecordError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Full => write!(f, "record area is full"),
            Self::NoStream => write!(f, "record area holds no stream"),
            Self::Incomplete(status) => write!(f, "record stream is not complete (status {status})"),
            Self::Version(found) => write!(f, "record stream has version {found}, expected {VERSION}"),
            Self::Digest => write!(f, "record stream: digest does not match"),
            Self::Truncated { at } => write!(f, "record at offset {at} runs over the end of its stream"),
            Self::Payload { kind, version } => write!(f, "record of kind {kind} version {version} cannot be read"),
        }
    }
}

impl core::error::Error for RecordError {}

const CRC: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISO_HDLC);

/// Writes a stream into an area, never over its end.
pub struct Writer<'a> {
    area: &'a mut [u8],
    at: usize,
    count: u64,
    truncated: bool,
    failover: u64,
    /// Bytes at the end that records may not use now.
    reserved: usize,
}

impl<'a> Writer<'a> {
    /// Starts an empty stream. The area must have room for a stream header.
    ///
    /// # Errors
    /// [`RecordError::Full`] if it has not.
    pub fn new(area: &'a mut [u8], failover: u64) -> Result<Self, RecordError> {
        let mut writer = Self {
            area,
            at: STREAM_HEADER,
            count: 0,
            truncated: false,
            failover,
            reserved: 0,
        };
        if writer.area.len() < STREAM_HEADER {
            return Err(RecordError::Full);
        }
        writer.write_header(status::WRITING, 0);
        Ok(writer)
    }

    /// Appends a record with a postcard payload.
    ///
    /// # Errors
    /// [`RecordError::Full`]; the stream is then as before and marked as truncated.
    pub fn push<T: Serialize + ?Sized>(
        &mut self,
        kind: Kind,
        version: u16,
        flags: u32,
        owner: u64,
        value: &T,
    ) -> Result<(), RecordError> {
        let start = self.at;
        let end = self.end();
        let room = self
            .area
            .get_mut(start.saturating_add(RECORD_HEAD)..end)
            .unwrap_or_default();
        let length = match postcard::to_slice(value, room) {
            Ok(used) => used.len(),
            Err(_) => {
                self.truncated = true;
                return Err(RecordError::Full);
            }
        };
        self.seal(start, kind, version, flags, owner, length)
    }

    /// Appends a record with a flat payload.
    ///
    /// # Errors
    /// As [`Writer::push`].
    pub fn push_bytes(
        &mut self,
        kind: Kind,
        version: u16,
        flags: u32,
        owner: u64,
        payload: &[u8],
    ) -> Result<(), RecordError> {
        let mut flat = self.begin_flat(kind, version, flags, owner);
        flat.extend(payload)?;
        flat.finish()
    }

    /// Starts a record whose payload is appended piece by piece.
    pub fn begin_flat<'w>(&'w mut self, kind: Kind, version: u16, flags: u32, owner: u64) -> FlatRecord<'w, 'a> {
        FlatRecord {
            writer: self,
            kind,
            version,
            flags,
            owner,
            length: 0,
        }
    }

    fn seal(
        &mut self,
        start: usize,
        kind: Kind,
        version: u16,
        flags: u32,
        owner: u64,
        length: usize,
    ) -> Result<(), RecordError> {
        let padded = length.next_multiple_of(8);
        let end = start + RECORD_HEAD + padded;
        let Ok(length32) = u32::try_from(length) else {
            self.truncated = true;
            return Err(RecordError::Full);
        };
        let limit = self.end();
        let Some(record) = self.area.get_mut(start..end).filter(|_| end <= limit) else {
            self.truncated = true;
            return Err(RecordError::Full);
        };
        let head = RecordHead {
            kind: kind.0,
            version,
            flags,
            length: length32,
            reserved: 0,
            owner,
        };
        record[..RECORD_HEAD].copy_from_slice(head.as_bytes());
        record[RECORD_HEAD + length..].fill(0);
        self.at = end;
        self.count += 1;
        Ok(())
    }

    fn write_header(&mut self, status: u32, digest: u32) {
        let header = StreamHeader {
            magic: MAGIC,
            version: VERSION,
            status,
            length: (self.at - STREAM_HEADER) as u64,
            count: self.count,
            digest,
            truncated: u32::from(self.truncated),
            failover: self.failover,
            reserved: [0; 2],
        };
        self.area[..STREAM_HEADER].copy_from_slice(header.as_bytes());
    }

    /// First byte that records may not use.
    fn end(&self) -> usize {
        self.area.len().saturating_sub(self.reserved)
    }

    /// Bytes that are left for records.
    pub fn room(&self) -> usize {
        self.end().saturating_sub(self.at)
    }

    /// Keeps so many bytes at the end of the area free, until it is called with another number.
    pub fn reserve(&mut self, bytes: usize) {
        self.reserved = bytes;
    }

    /// Whether a record was left out for want of room.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Where the stream stands, to come back to with [`Writer::rewind`].
    pub fn mark(&self) -> Mark {
        Mark {
            at: self.at,
            count: self.count,
        }
    }

    /// Drops everything after the mark: a process is recorded whole or not at all.
    pub fn rewind(&mut self, mark: Mark) {
        if mark.at <= self.at {
            self.at = mark.at;
            self.count = mark.count;
        }
    }

    /// Completes the stream: length, digest and status. Returns the bytes used, header included.
    pub fn finish(mut self) -> usize {
        let digest = CRC.checksum(&self.area[STREAM_HEADER..self.at]);
        self.write_header(status::COMPLETE, digest);
        self.at
    }
}

/// A place in a stream; see [`Writer::mark`].
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    at: usize,
    count: u64,
}

/// A record under way; nothing of it is part of the stream before [`FlatRecord::finish`].
pub struct FlatRecord<'w, 'a> {
    writer: &'w mut Writer<'a>,
    kind: Kind,
    version: u16,
    flags: u32,
    owner: u64,
    length: usize,
}

impl FlatRecord<'_, '_> {
    /// Appends bytes to the payload.
    ///
    /// # Errors
    /// [`RecordError::Full`]; the record is then to be dropped.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        let at = self.writer.at + RECORD_HEAD + self.length;
        let limit = self.writer.end();
        let end = at + bytes.len();
        let Some(room) = self.writer.area.get_mut(at..end).filter(|_| end <= limit) else {
            self.writer.truncated = true;
            return Err(RecordError::Full);
        };
        room.copy_from_slice(bytes);
        self.length += bytes.len();
        Ok(())
    }

    /// Bytes of payload so far.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the payload is empty so far.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Makes the record part of the stream.
    ///
    /// # Errors
    /// [`RecordError::Full`] if the padding does not fit.
    pub fn finish(self) -> Result<(), RecordError> {
        let start = self.writer.at;
        self.writer
            .seal(start, self.kind, self.version, self.flags, self.owner, self.length)
    }
}

/// A record as read.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What it describes.
    pub kind: Kind,
    /// Version of the payload.
    pub version: u16,
    /// Bits of [`flags`].
    pub flags: u32,
    /// What it belongs to.
    pub owner: u64,
    /// The payload.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Decodes a postcard payload.
    ///
    /// # Errors
    /// [`RecordError::Payload`] if it is not a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, RecordError> {
        postcard::from_bytes(self.payload).map_err(|_| RecordError::Payload {
            kind: self.kind.0,
            version: self.version,
        })
    }
}

/// A checked stream.
#[derive(Clone, Copy, Debug)]
pub struct Stream<'a> {
    /// Its header.
    pub header: StreamHeader,
    records: &'a [u8],
}

impl<'a> Stream<'a> {
    /// Checks the header and digest of the stream at the start of `area`.
    ///
    /// # Errors
    /// [`RecordError`], naming what is wrong.
    pub fn open(area: &'a [u8]) -> Result<Self, RecordError> {
        let (header, rest) = StreamHeader::read_from_prefix(area).map_err(|_| RecordError::NoStream)?;
        if header.magic != MAGIC {
            return Err(RecordError::NoStream);
        }
        if header.version != VERSION {
            return Err(RecordError::Version(header.version));
        }
        if header.status != status::COMPLETE {
            return Err(RecordError::Incomplete(header.status));
        }
        let records = usize::try_from(header.length)
            .ok()
            .and_then(|length| rest.get(..length))
            .ok_or(RecordError::Truncated { at: 0 })?;
        if CRC.checksum(records) != header.digest {
            return Err(RecordError::Digest);
        }
        Ok(Self { header, records })
    }

    /// The records in order. After an error there are no more.
    pub fn records(&self) -> Records<'a> {
        Records {
            rest: self.records,
            at: 0,
        }
    }
}

/// Iterator over the records of a stream.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let at = self.at;
        let parsed = (|| {
            let (head, rest) = RecordHead::read_from_prefix(self.rest).ok()?;
            let length = usize::try_from(head.length).ok()?;
            let payload = rest.get(..length)?;
            let tail = rest.get(length.checked_next_multiple_of(8)?..)?;
            Some((head, payload, tail))
        })();
        let Some((head, payload, tail)) = parsed else {
            self.rest = &[];
            return Some(Err(RecordError::Truncated { at }));
        };
        self.at += self.rest.len() - tail.len();
        self.rest = tail;
        Some(Ok(Record {
            kind: Kind(head.kind),
            version: head.version,
            flags: head.flags,
            owner: head.owner,
            payload,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{vec, vec::Vec};

    fn sample() -> Vec<u8> {
        let mut area = vec![0xAAu8; 512];
        let mut writer = Writer::new(&mut area, 3).unwrap();
        writer.push(Kind::Lost, 1, 0, 7, &(1u32, "pipe")).unwrap();
        writer
            .push_bytes(Kind::Bytes, 1, flags::MUST_UNDERSTAND, 7, b"hello")
            .unwrap();
        let used = writer.finish();
        area.truncate(used);
        area
    }

    #[test]
    fn what_was_written_is_read() {
        let area = sample();
        let stream = Stream::open(&area).unwrap();
        assert_eq!(
            (stream.header.count, stream.header.failover, stream.header.truncated),
            (2, 3, 0)
        );
        let records: Vec<Record> = stream.records().collect::<Result<_, _>>().unwrap();
        assert_eq!(
            records[0].decode::<(u32, alloc::string::String)>().unwrap(),
            (1, "pipe".into())
        );
        assert_eq!(
            (records[1].payload, records[1].flags, records[1].owner),
            (&b"hello"[..], flags::MUST_UNDERSTAND, 7)
        );
    }

    /// The bytes are an interface between programs of different age: a change here is a new version.
    #[test]
    fn golden_bytes() {
        let area = sample();
        let hex: alloc::string::String = area[STREAM_HEADER..]
            .iter()
            .map(|b| alloc::format!("{b:02x}"))
            .collect();
        assert_eq!(
            hex,
            "0d0001000000000006000000000000000700000000000000010470697065000 00c0001000100000005000000000000000700000000000000\
             68656c6c6f000000"
                .replace(' ', "")
        );
    }

    #[test]
    fn a_record_that_does_not_fit_leaves_the_stream_as_it_was() {
        let mut area = vec![0u8; STREAM_HEADER + RECORD_HEAD + 8];
        let mut writer = Writer::new(&mut area, 1).unwrap();
        writer.push(Kind::Lost, 1, 0, 1, &5u8).unwrap();
        assert_eq!(writer.push(Kind::Lost, 1, 0, 2, &6u8), Err(RecordError::Full));
        assert_eq!(writer.push_bytes(Kind::Bytes, 1, 0, 2, b"x"), Err(RecordError::Full));
        writer.finish();
        let stream = Stream::open(&area).unwrap();
        assert_eq!((stream.header.count, stream.header.truncated), (1, 1));
        assert_eq!(stream.records().count(), 1);
    }

    #[test]
    fn reserved_room_is_used_only_when_it_is_given_back() {
        let mut area = vec![0u8; STREAM_HEADER + 2 * (RECORD_HEAD + 8)];
        let mut writer = Writer::new(&mut area, 1).unwrap();
        writer.reserve(RECORD_HEAD + 8);
        writer.push(Kind::Lost, 1, 0, 1, &5u8).unwrap();
        assert_eq!(
            (writer.room(), writer.push(Kind::Lost, 1, 0, 1, &5u8)),
            (0, Err(RecordError::Full))
        );
        assert_eq!(writer.push_bytes(Kind::Bytes, 1, 0, 1, b"x"), Err(RecordError::Full));
        writer.reserve(0);
        writer.push(Kind::Summary, 1, 0, 0, &6u8).unwrap();
        writer.finish();
        assert_eq!(Stream::open(&area).unwrap().records().count(), 2);
    }

    #[test]
    fn rewinding_drops_a_half_recorded_process() {
        let mut area = vec![0u8; 512];
        let mut writer = Writer::new(&mut area, 1).unwrap();
        writer.push(Kind::Lost, 1, 0, 1, &5u8).unwrap();
        let mark = writer.mark();
        writer.push(Kind::Lost, 1, 0, 2, &6u8).unwrap();
        writer.rewind(mark);
        writer.finish();
        assert_eq!(Stream::open(&area).unwrap().records().count(), 1);
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let mut area = sample();
        let last = area.len() - 1;
        area[last] ^= 1;
        assert_eq!(Stream::open(&area).unwrap_err(), RecordError::Digest);
    }

    proptest::proptest! {
        #[test]
        fn hostile_records_end(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let bound = bytes.len() / RECORD_HEAD + 1;
            let count = Records { rest: &bytes, at: 0 }.count();
            proptest::prop_assert!(count <= bound);
        }

        #[test]
        fn hostile_streams_are_refused_or_read(flip in 0usize..200, value in proptest::num::u8::ANY) {
            let mut area = sample();
            let at = flip % area.len();
            area[at] = value;
            if let Ok(stream) = Stream::open(&area) {
                let _ = stream.records().count();
            }
        }
    }
}
