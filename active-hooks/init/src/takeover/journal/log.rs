//! The log of an ext4 on its disk: where it lies, whether it is the one that the dead kernel wrote to, and where it ends.
//!
//! All that says where something is to be written comes from the disk itself. What memory says is compared with it, and a
//! difference ends the attempt.

use super::format::{self, word, Format, Logged, COMMIT, DESCRIPTOR, KNOWN_FEATURES, MAGIC, REVOKE};
use shared_region::context::Journal;
use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt};

/// Where the superblock of ext4 stands, and its bytes.
const SUPERBLOCK: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
/// `EXT4_FEATURE_INCOMPAT_RECOVER` and `_64BIT`.
const RECOVER: u32 = 4;
const WIDE: u32 = 0x80;
/// `EXT4_JOURNAL_INO`.
const JOURNAL_INODE: u32 = 8;
/// Header, extent and index of an extent tree (`fs/ext4/ext4_extents.h`).
const EXTENT_MAGIC: u16 = 0xF30A;
const ENTRY: usize = 12;
const LONGEST: u16 = 1 << 15;
/// Most extents a journal can have.
const MAX_EXTENTS: usize = 1 << 14;

/// See the module's comment.
#[derive(Debug)]
pub struct Log<'d> {
    device: &'d File,
    /// Form of its blocks.
    pub format: Format,
    /// Its superblock.
    pub superblock: Vec<u8>,
    /// Blocks of the file system.
    pub blocks: u64,
    /// First block of the journal, block of the file system, number of blocks.
    extents: Vec<(u64, u64, u64)>,
    /// First block of the log, and the one after its last.
    first: u64,
    last: u64,
}

/// What is in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The transaction that would be next; `None` if the log is empty, and whatever comes is the first.
    pub next: Option<u32>,
    /// Where it would begin.
    pub at: u64,
    /// Blocks that it can have.
    pub free: u64,
}

impl<'d> Log<'d> {
    /// Finds the log of the file system that a record is about.
    ///
    /// # Errors
    /// It is not the one, or something is not known.
    pub fn open(device: &'d File, record: &Journal) -> Result<Self, String> {
        let mut main = vec![0; SUPERBLOCK_BYTES];
        read(device, SUPERBLOCK, &mut main)?;
        let little = |at: usize| {
            main.get(at..)
                .and_then(<[u8]>::first_chunk)
                .map_or(0, |b| u32::from_le_bytes(*b))
        };
        let half = |at: usize| little(at) as u16;
        if half(56) != 0xEF53 || main[104..120] != record.uuid {
            return Err("its superblock is another".into());
        }
        let block_size = 1024u64.checked_shl(little(24)).unwrap_or(0);
        if block_size != u64::from(record.block_size) {
            return Err("its blocks are of another size".into());
        }
        let incompat = little(96);
        if incompat & RECOVER == 0 {
            return Err("its superblock says that it was unmounted".into());
        }
        if little(224) != JOURNAL_INODE || main[253] != 1 || main[268..328] != record.inode {
            return Err("its journal is not where memory says".into());
        }
        let blocks = u64::from(little(4))
            | if incompat & WIDE != 0 {
                u64::from(little(336)) << 32
            } else {
                0
            };
        let mut log = Self {
            device,
            format: Format {
                block_size: block_size as usize,
                features: 0,
                uuid: [0; 16],
            },
            superblock: Vec::new(),
            blocks,
            extents: Vec::new(),
            first: 0,
            last: 0,
        };
        log.map(&record.inode, None)?;
        log.superblock = log.read(0)?;
        log.check(record)?;
        Ok(log)
    }

    /// Where the blocks of the journal lie, below a node of its extent tree.
    fn map(&mut self, node: &[u8], expected: Option<u16>) -> Result<(), String> {
        let torn = || String::from("the extents of its journal make no sense");
        let half = |at: usize| {
            node.get(at..)
                .and_then(<[u8]>::first_chunk)
                .map(|b| u16::from_le_bytes(*b))
        };
        let (magic, entries, depth) = (half(0), half(2).ok_or_else(torn)?, half(6).ok_or_else(torn)?);
        if magic != Some(EXTENT_MAGIC) || depth > 5 || expected.is_some_and(|expected| expected != depth) {
            return Err(torn());
        }
        let entries = node.get(ENTRY..ENTRY * (1 + usize::from(entries))).ok_or_else(torn)?;
        for entry in entries.chunks_exact(ENTRY) {
            let half = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            let long = |at: usize| u64::from(half(at)) | u64::from(half(at + 2)) << 16;
            if depth > 0 {
                let below = self.block(long(4) | u64::from(half(8)) << 32)?;
                self.map(&below, Some(depth - 1))?;
                continue;
            }
            let (at, length) = (long(8) | u64::from(half(6)) << 32, half(4));
            let start = self.extents.last().map_or(0, |&(first, _, count)| first + count);
            let count = u64::from(length);
            let whole = long(0) == start && length != 0 && length <= LONGEST;
            if !whole || at == 0 || at + count > self.blocks || self.extents.len() >= MAX_EXTENTS {
                return Err(torn());
            }
            self.extents.push((start, at, count));
        }
        Ok(())
    }

    fn check(&mut self, record: &Journal) -> Result<(), String> {
        let block = &self.superblock;
        let (kind, size) = (word(block, 4), word(block, 12));
        if word(block, 0) != MAGIC || kind != format::SUPERBLOCK || size as usize != self.format.block_size {
            return Err("its journal has no superblock".into());
        }
        if !format::superblock_is_whole(block) {
            return Err("the checksum of its journal's superblock is wrong".into());
        }
        let memory = &record.superblock;
        let same = |range: std::ops::Range<usize>| block.get(range.clone()) == memory.get(range);
        if memory.len() < 64 || !same(12..24) || !same(48..64) {
            return Err("its journal is not the one that memory knows".into());
        }
        let features = word(memory, 40);
        let empty = word(block, 28) == 0;
        let agreed = (features ^ word(block, 40)) & !format::FEATURE_REVOKE == 0;
        if features & !KNOWN_FEATURES != 0 || word(memory, 36) != 0 || word(block, 36) != 0 || !(agreed || empty) {
            return Err("its journal has features that are not known here".into());
        }
        if word(block, 32) != 0 {
            return Err("its journal was given up after an error".into());
        }
        self.format.features = features;
        self.format.uuid.copy_from_slice(&block[48..64]);
        (self.first, self.last) = (u64::from(word(block, 20)), u64::from(word(block, 16)));
        let mapped = self.extents.last().map_or(0, |&(first, _, count)| first + count);
        if self.first == 0 || self.first >= self.last || self.last > mapped {
            return Err("its journal has no room".into());
        }
        Ok(())
    }

    /// Whether a block of the file system is one of the journal.
    pub fn is_own(&self, number: u64) -> bool {
        let within = |&(_, at, count): &(u64, u64, u64)| (at..at + count).contains(&number);
        self.extents.iter().any(within)
    }

    /// Where the log ends (`do_one_pass` of `fs/jbd2/recovery.c`).
    ///
    /// # Errors
    /// The device cannot be read, or the log has no end.
    pub fn end(&self) -> Result<End, String> {
        let (start, mut next) = (u64::from(word(&self.superblock, 28)), word(&self.superblock, 24));
        let room = self.last - self.first;
        if start == 0 {
            return Ok(End {
                next: None,
                at: self.first,
                free: room - 1,
            });
        }
        if !(self.first..self.last).contains(&start) {
            return Err("its log begins where it is not".into());
        }
        let (mut used, mut committed) = (0, 0);
        while used < room {
            let block = self.read(self.after(start, used))?;
            if word(&block, 0) != MAGIC || word(&block, 8) != next || !self.format.is_whole(&block) {
                break;
            }
            used += 1;
            match word(&block, 4) {
                DESCRIPTOR => used += self.format.named(&block).len() as u64,
                REVOKE => {}
                COMMIT => {
                    committed = used;
                    next = next.wrapping_add(1);
                }
                _ => break,
            }
        }
        if committed >= room {
            return Err("its log has no end".into());
        }
        Ok(End {
            next: Some(next),
            at: self.after(start, committed),
            free: room - committed - 1,
        })
    }

    /// Blocks of committed transactions that have another content in the log than their checksums say, and what they are to
    /// become: the last content, where that is in order, as it goes into the log. Those that a later transaction revokes are
    /// not among them. A file system with such a block cannot be mounted (`jbd2_block_tag_csum_verify`).
    ///
    /// Linux 6.1 makes them by itself where a page has several blocks: `ext4_punch_hole` zeroes blocks that are being written
    /// to the log (`truncate_inode_partial_folio`), for it does not wait as Linux 6.12 does
    /// (`ext4_truncate_page_cache_block_range`).
    ///
    /// # Errors
    /// The device cannot be read.
    pub fn unsound(&self) -> Result<BTreeMap<u64, Option<Logged>>, String> {
        let mut copies = BTreeMap::new();
        let (Some(next), mut at) = (self.end()?.next, u64::from(word(&self.superblock, 28))) else {
            return Ok(copies);
        };
        let first = word(&self.superblock, 24);
        let (mut broken, mut revoked) = (BTreeMap::new(), BTreeMap::new());
        // Counted from the first transaction, for numbers of transactions begin anew.
        let mut index = 0;
        while index != next.wrapping_sub(first) {
            let block = self.read(at)?;
            at = self.after(at, 1);
            match word(&block, 4) {
                DESCRIPTOR => {
                    for tag in self.format.named(&block) {
                        let content = self.read(at)?;
                        at = self.after(at, 1);
                        let (number, escaped) = (tag.number, tag.escaped);
                        if !self.format.is_as_tagged(first.wrapping_add(index), &tag, &content) {
                            broken.insert(number, index);
                            copies.insert(number, None);
                        } else if broken.contains_key(&number) {
                            let copy = Logged {
                                number,
                                content,
                                escaped,
                            };
                            copies.insert(number, Some(copy));
                        }
                    }
                }
                REVOKE => revoked.extend(self.format.listed(&block).into_iter().map(|number| (number, index))),
                _ => index += 1,
            }
        }
        copies.retain(|number, _| revoked.get(number) < broken.get(number));
        Ok(copies)
    }

    /// The block of the journal so many after another.
    pub fn after(&self, at: u64, count: u64) -> u64 {
        self.first + (at - self.first + count) % (self.last - self.first)
    }

    /// Reads a block of the journal.
    ///
    /// # Errors
    /// The device.
    pub fn read(&self, at: u64) -> Result<Vec<u8>, String> {
        self.block(self.place(at)?)
    }

    /// Writes a block of the journal.
    ///
    /// # Errors
    /// The device.
    pub fn write(&self, at: u64, block: &[u8]) -> Result<(), String> {
        let offset = self.place(at)? * self.format.block_size as u64;
        let done = self.device.write_all_at(block, offset);
        done.map_err(|error| format!("writing block {at} of its journal: {error}"))
    }

    /// Returns when all that was written is on the disk.
    ///
    /// # Errors
    /// The device.
    pub fn flush(&self) -> Result<(), String> {
        let done = self.device.sync_all();
        done.map_err(|error| format!("writing its journal: {error}"))
    }

    /// The block of the file system that is a block of the journal.
    fn place(&self, at: u64) -> Result<u64, String> {
        let index = self.extents.partition_point(|&(first, _, count)| first + count <= at);
        let extent = self.extents.get(index).filter(|&&(first, ..)| first <= at);
        extent
            .map(|&(first, place, _)| place + (at - first))
            .ok_or_else(|| format!("its journal has no block {at}"))
    }

    fn block(&self, number: u64) -> Result<Vec<u8>, String> {
        if number >= self.blocks {
            return Err(format!("block {number} is beyond its end"));
        }
        let mut block = vec![0; self.format.block_size];
        read(self.device, number * self.format.block_size as u64, &mut block)?;
        Ok(block)
    }
}

fn read(device: &File, at: u64, bytes: &mut [u8]) -> Result<(), String> {
    let done = device.read_exact_at(bytes, at);
    done.map_err(|error| format!("reading {} bytes at {at} of its device: {error}", bytes.len()))
}
