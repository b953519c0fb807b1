//! Blocks of a journal as they lie on the disk (`include/linux/jbd2.h`, `Documentation/filesystems/ext4/journal.rst`).
//! Numbers are big-endian.

use shared_region::crc32c::crc32c;

/// `JBD2_MAGIC_NUMBER`.
pub const MAGIC: u32 = 0xC03B_3998;
/// `h_blocktype` of a descriptor.
pub const DESCRIPTOR: u32 = 1;
/// `h_blocktype` of a commit block.
pub const COMMIT: u32 = 2;
/// `h_blocktype` of the second kind of superblock, the only one with features.
pub const SUPERBLOCK: u32 = 4;
/// `h_blocktype` of a list of revoked blocks.
pub const REVOKE: u32 = 5;

/// `JBD2_FEATURE_INCOMPAT_REVOKE`, `_64BIT` and `_CSUM_V3`.
pub const FEATURE_REVOKE: u32 = 1;
const FEATURE_64BIT: u32 = 2;
const FEATURE_CSUM_V3: u32 = 0x10;
/// Those that can be written here.
pub const KNOWN_FEATURES: u32 = FEATURE_REVOKE | FEATURE_64BIT | FEATURE_CSUM_V3;

/// `JBD2_FLAG_*` of a tag.
const ESCAPE: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST_TAG: u32 = 8;

/// Bytes of `journal_header_t`.
const HEADER: usize = 12;
/// Bytes of `jbd2_journal_revoke_header_t`.
const REVOKE_HEADER: usize = 16;
const UUID: usize = 16;
/// Bytes of the checksum at the end of a descriptor or list.
const TAIL: usize = 4;
/// Where the checksum of a commit block stands, its seconds and nanoseconds.
const COMMIT_CHECKSUM: usize = 16;
const COMMIT_SECONDS: usize = 48;
const COMMIT_NANOSECONDS: usize = 56;
/// Where the checksum of a superblock stands, and how much of it is covered.
const SUPERBLOCK_CHECKSUM: usize = 252;
const SUPERBLOCK_BYTES: usize = 1024;

/// A number in a block; 0 beyond its end.
pub fn word(block: &[u8], at: usize) -> u32 {
    let bytes = block.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn put(block: &mut [u8], at: usize, word: u32) {
    block[at..at + 4].copy_from_slice(&word.to_be_bytes());
}

/// What of a journal's superblock decides on the form of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bytes of a block.
    pub block_size: usize,
    /// `s_feature_incompat`.
    pub features: u32,
    /// `s_uuid`.
    pub uuid: [u8; 16],
}

/// A block of the file system for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its number.
    pub number: u64,
    /// Its content, as it goes into the log.
    pub content: Vec<u8>,
    /// Its first word is the magic number, and zero in the log.
    pub escaped: bool,
}

/// What a descriptor says about a block that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Its number in the file system.
    pub number: u64,
    /// Its first word is the magic number, and zero in the log.
    pub escaped: bool,
    /// Of its content in the log, where there are checksums.
    checksum: Option<u32>,
}

impl Logged {
    /// A block with this content.
    pub fn new(number: u64, mut content: Vec<u8>) -> Self {
        let escaped = word(&content, 0) == MAGIC;
        if escaped {
            put(&mut content, 0, 0);
        }
        Self {
            number,
            content,
            escaped,
        }
    }
}

impl Format {
    const fn checks(&self) -> bool {
        self.features & FEATURE_CSUM_V3 != 0
    }

    const fn wide(&self) -> bool {
        self.features & FEATURE_64BIT != 0
    }

    fn seed(&self) -> u32 {
        crc32c(!0, &self.uuid)
    }

    /// `journal_tag_bytes()`.
    const fn tag_bytes(&self) -> usize {
        match (self.checks(), self.wide()) {
            (true, _) => 16,
            (false, true) => 12,
            (false, false) => 8,
        }
    }

    const fn tail(&self) -> usize {
        if self.checks() {
            TAIL
        } else {
            0
        }
    }

    /// Blocks that one descriptor names.
    pub const fn tags(&self) -> usize {
        (self.block_size - HEADER - UUID - self.tail()) / self.tag_bytes()
    }

    const fn number_bytes(&self) -> usize {
        if self.wide() {
            8
        } else {
            4
        }
    }

    /// Numbers in one list of revoked blocks.
    pub const fn revoked(&self) -> usize {
        (self.block_size - REVOKE_HEADER - self.tail()) / self.number_bytes()
    }

    fn header(&self, kind: u32, tid: u32) -> Vec<u8> {
        let mut block = vec![0; self.block_size];
        put(&mut block, 0, MAGIC);
        put(&mut block, 4, kind);
        put(&mut block, 8, tid);
        block
    }

    /// A descriptor of at most [`Format::tags`] blocks.
    pub fn descriptor(&self, tid: u32, blocks: &[Logged]) -> Vec<u8> {
        let mut block = self.header(DESCRIPTOR, tid);
        let mut at = HEADER;
        for (index, logged) in blocks.iter().enumerate() {
            let first = index == 0;
            let flags = (if logged.escaped { ESCAPE } else { 0 })
                | (if first { 0 } else { SAME_UUID })
                | (if index + 1 == blocks.len() { LAST_TAG } else { 0 });
            let (low, high) = (logged.number as u32, (logged.number >> 32) as u32);
            put(&mut block, at, low);
            if self.checks() {
                let check = self.checksum(tid, &logged.content);
                put(&mut block, at + 4, flags);
                put(&mut block, at + 8, high);
                put(&mut block, at + 12, check);
            } else {
                // The checksum of two bytes that stands first is another feature's.
                put(&mut block, at + 4, flags);
                if self.wide() {
                    put(&mut block, at + 8, high);
                }
            }
            at += self.tag_bytes();
            if first {
                block[at..at + UUID].copy_from_slice(&self.uuid);
                at += UUID;
            }
        }
        self.seal(&mut block);
        block
    }

    /// A list of at most [`Format::revoked`] blocks.
    pub fn revoke(&self, tid: u32, numbers: &[u64]) -> Vec<u8> {
        let mut block = self.header(REVOKE, tid);
        let mut at = REVOKE_HEADER;
        for number in numbers {
            if self.wide() {
                block[at..at + 8].copy_from_slice(&number.to_be_bytes());
            } else {
                put(&mut block, at, *number as u32);
            }
            at += self.number_bytes();
        }
        put(&mut block, HEADER, at as u32);
        self.seal(&mut block);
        block
    }

    /// A commit block of so many nanoseconds since 1970.
    pub fn commit(&self, tid: u32, now: u64) -> Vec<u8> {
        let mut block = self.header(COMMIT, tid);
        let (seconds, nanoseconds) = (now / 1_000_000_000, (now % 1_000_000_000) as u32);
        block[COMMIT_SECONDS..COMMIT_SECONDS + 8].copy_from_slice(&seconds.to_be_bytes());
        put(&mut block, COMMIT_NANOSECONDS, nanoseconds);
        if self.checks() {
            let check = crc32c(self.seed(), &block);
            put(&mut block, COMMIT_CHECKSUM, check);
        }
        block
    }

    fn seal(&self, block: &mut [u8]) {
        if self.checks() {
            let check = crc32c(self.seed(), block);
            put(block, self.block_size - TAIL, check);
        }
    }

    /// Whether the checksum of a descriptor, a list or a commit block is right.
    pub fn is_whole(&self, block: &[u8]) -> bool {
        if !self.checks() {
            return true;
        }
        let at = match word(block, 4) {
            COMMIT => COMMIT_CHECKSUM,
            _ => self.block_size - TAIL,
        };
        let mut copy = block.to_vec();
        put(&mut copy, at, 0);
        crc32c(self.seed(), &copy) == word(block, at)
    }

    /// The blocks that follow a descriptor.
    pub fn named(&self, block: &[u8]) -> Vec<Tag> {
        let mut at = HEADER;
        let mut tags = Vec::new();
        while at + self.tag_bytes() <= self.block_size - self.tail() {
            let flags = match self.checks() {
                true => word(block, at + 4),
                false => word(block, at + 4) & 0xFFFF,
            };
            let high = if self.wide() {
                u64::from(word(block, at + 8)) << 32
            } else {
                0
            };
            tags.push(Tag {
                number: u64::from(word(block, at)) | high,
                escaped: flags & ESCAPE != 0,
                checksum: self.checks().then(|| word(block, at + 12)),
            });
            at += self.tag_bytes();
            if flags & SAME_UUID == 0 {
                at += UUID;
            }
            if flags & LAST_TAG != 0 {
                break;
            }
        }
        tags
    }

    /// Whether the content of a block in the log is what its tag says.
    pub fn is_as_tagged(&self, tid: u32, tag: &Tag, content: &[u8]) -> bool {
        tag.checksum
            .is_none_or(|checksum| checksum == self.checksum(tid, content))
    }

    /// `jbd2_block_tag_csum_set()`.
    fn checksum(&self, tid: u32, content: &[u8]) -> u32 {
        crc32c(crc32c(self.seed(), &tid.to_be_bytes()), content)
    }

    /// The numbers in a list of revoked blocks.
    pub fn listed(&self, block: &[u8]) -> Vec<u64> {
        let end = (word(block, HEADER) as usize).min(self.block_size - self.tail());
        let numbers = block.get(REVOKE_HEADER..end).unwrap_or_default();
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        numbers.chunks_exact(self.number_bytes()).map(number).collect()
    }
}

/// Whether the checksum of a superblock is right, if it has one.
pub fn superblock_is_whole(block: &[u8]) -> bool {
    if word(block, 40) & FEATURE_CSUM_V3 == 0 {
        return true;
    }
    let mut copy = block[..SUPERBLOCK_BYTES].to_vec();
    put(&mut copy, SUPERBLOCK_CHECKSUM, 0);
    crc32c(!0, &copy) == word(block, SUPERBLOCK_CHECKSUM)
}

/// Makes a superblock lead to a log that begins with transaction `tid` at block `start`.
pub fn lead_to(superblock: &mut [u8], features: u32, tid: u32, start: u32) {
    put(superblock, 24, tid);
    put(superblock, 28, start);
    put(superblock, 40, features);
    if features & FEATURE_CSUM_V3 != 0 {
        // `JBD2_CRC32C_CHKSUM`.
        superblock[80] = 4;
        put(superblock, SUPERBLOCK_CHECKSUM, 0);
        let check = crc32c(!0, &superblock[..SUPERBLOCK_BYTES]);
        put(superblock, SUPERBLOCK_CHECKSUM, check);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(features: u32) -> Format {
        Format {
            block_size: 1024,
            features,
            uuid: *b"0123456789abcdef",
        }
    }

    #[test]
    fn descriptors_name_what_follows() {
        for features in [0, 2, 0x10, 0x12] {
            let format = format(features);
            let logged = |number| Logged::new(number, vec![7; 1024]);
            for count in [1, 2, format.tags()] {
                let blocks: Vec<Logged> = (0..count as u64).map(logged).collect();
                let block = format.descriptor(9, &blocks);
                let tags = format.named(&block);
                assert_eq!(tags.len(), count, "features {features:#x}");
                for (tag, block) in tags.iter().zip(&blocks) {
                    assert_eq!((tag.number, tag.escaped), (block.number, false));
                    assert!(format.is_as_tagged(9, tag, &block.content));
                    assert_eq!(format.is_as_tagged(9, tag, &[8; 1024]), features & 0x10 == 0);
                }
                assert!(format.is_whole(&block));
                let mut torn = block.clone();
                torn[13] ^= 1;
                assert_eq!(format.is_whole(&torn), features & 0x10 == 0);
            }
        }
    }

    #[test]
    fn the_magic_number_is_not_written_as_content() {
        let mut content = MAGIC.to_be_bytes().to_vec();
        content.resize(1024, 3);
        let logged = Logged::new(4, content);
        assert!(logged.escaped && logged.content[..4] == [0; 4]);
        let block = format(0x12).descriptor(9, &[logged]);
        assert_eq!(word(&block, HEADER + 4), ESCAPE | LAST_TAG);
    }

    #[test]
    fn lists_and_commit_blocks_are_whole() {
        let format = format(0x12);
        let numbers: Vec<u64> = (0..format.revoked() as u64).collect();
        let list = format.revoke(3, &numbers);
        assert_eq!(word(&list, HEADER) as usize, REVOKE_HEADER + 8 * numbers.len());
        assert_eq!(format.listed(&list), numbers);
        assert!(format.is_whole(&list) && format.is_whole(&format.commit(3, 1_500_000_000)));
    }
}
