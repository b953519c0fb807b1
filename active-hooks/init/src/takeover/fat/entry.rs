//! Entries of directories as they stand on the disk (`include/uapi/linux/msdos_fs.h`).

use shared_region::context::FatInode;

/// Bytes of an entry.
pub const BYTES: usize = 32;
/// First byte of an entry that was deleted.
const DELETED: u8 = 0xE5;
/// Attributes: a volume's name, a directory, part of a long name.
const VOLUME: u8 = 8;
pub const DIRECTORY: u8 = 16;
const LONG: u8 = 15;
/// Characters in a part of a long name.
const PART: usize = 13;
/// The bit in the number of a part that marks the last one, which comes first.
const LAST: u8 = 0x40;

/// An entry.
pub type Raw = [u8; BYTES];

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// None, or one that was deleted.
    Free,
    /// Part of a long name.
    Part,
    /// The volume's name.
    Volume,
    /// `.` or `..`.
    Dots,
    /// A file or directory.
    Name,
}

/// What an entry is.
pub fn sort(raw: &Raw) -> Sort {
    match (raw[0], raw[11]) {
        (0 | DELETED, _) => Sort::Free,
        (_, LONG) => Sort::Part,
        (_, attributes) if attributes & VOLUME != 0 => Sort::Volume,
        _ if is(raw, b".          ") || is(raw, b"..         ") => Sort::Dots,
        _ => Sort::Name,
    }
}

fn is(raw: &Raw, name: &[u8; 11]) -> bool {
    raw[..11] == *name
}

/// Whether it is the entry of the directory above.
pub fn is_parent(raw: &Raw) -> bool {
    is(raw, b"..         ")
}

/// Marks an entry, or a part of a name, as deleted.
pub fn delete(raw: &mut Raw) {
    raw[0] = DELETED;
}

/// Whether it is a directory.
pub const fn is_directory(raw: &Raw) -> bool {
    raw[11] & DIRECTORY != 0
}

/// First cluster of a file, in a file system with so many bits in its FAT.
pub fn start(raw: &Raw, bits: u32) -> u32 {
    let half = |at: usize| u32::from(u16::from_le_bytes([raw[at], raw[at + 1]]));
    half(26) | if bits == 32 { half(20) << 16 } else { 0 }
}

/// Sets the first cluster.
pub fn set_start(raw: &mut Raw, cluster: u32) {
    let [a, b, c, d] = cluster.to_le_bytes();
    raw[26..28].copy_from_slice(&[a, b]);
    raw[20..22].copy_from_slice(&[c, d]);
}

/// Bytes of a file.
pub fn size(raw: &Raw) -> u32 {
    u32::from_le_bytes([raw[28], raw[29], raw[30], raw[31]])
}

/// Makes an entry what its inode is, as `__fat_write_inode()` does. So many seconds are added to times.
pub fn fill(raw: &mut Raw, inode: &FatInode, local_offset: i64) {
    raw[11] = inode.attributes;
    set_start(raw, inode.start);
    raw[28..32].copy_from_slice(&inode.size.to_le_bytes());
    let [modified, accessed, born] = inode.times.map(|time| Time::of(time, local_offset));
    raw[22..24].copy_from_slice(&modified.time.to_le_bytes());
    raw[24..26].copy_from_slice(&modified.date.to_le_bytes());
    raw[18..20].copy_from_slice(&accessed.date.to_le_bytes());
    raw[14..16].copy_from_slice(&born.time.to_le_bytes());
    raw[16..18].copy_from_slice(&born.date.to_le_bytes());
    raw[13] = born.hundredths;
}

/// A time of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Time {
    date: u16,
    /// Of two seconds each.
    time: u16,
    /// Hundredths of a second behind [`Self::time`].
    hundredths: u8,
}

impl Time {
    /// As `fat_time_unix2fat()`; `nanoseconds` since 1970.
    fn of(nanoseconds: i64, local_offset: i64) -> Self {
        const DAY: i64 = 86_400;
        let (seconds, rest) = (
            nanoseconds.div_euclid(1_000_000_000),
            nanoseconds.rem_euclid(1_000_000_000),
        );
        let local = seconds.saturating_add(local_offset);
        let (day, second) = (local.div_euclid(DAY), local.rem_euclid(DAY));
        let (year, month, day) = civil(day);
        match year {
            ..1980 => Self {
                date: 1 << 5 | 1,
                time: 0,
                hundredths: 0,
            },
            2108.. => Self {
                date: 127 << 9 | 12 << 5 | 31,
                time: 23 << 11 | 59 << 5 | 29,
                hundredths: 199,
            },
            _ => Self {
                date: ((year - 1980) << 9 | month << 5 | day) as u16,
                time: ((second / 3600) << 11 | (second / 60 % 60) << 5 | (second % 60 / 2)) as u16,
                hundredths: (seconds.rem_euclid(2) * 100 + rest / 10_000_000) as u8,
            },
        }
    }
}

/// Year, month and day of a day since 1970, by the Gregorian calendar.
const fn civil(day: i64) -> (i64, i64, i64) {
    // Years begin in March, so that a leap day is the last one; eras of 400 years.
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + (month <= 2) as i64, month, day)
}

/// Parts of a long name as they come, until the entry that they belong to.
#[derive(Debug, Default)]
pub struct Parts {
    /// Places of those that may belong to the entry that comes.
    pub at: Vec<u64>,
    units: Vec<[u16; PART]>,
    checksum: u8,
    left: u8,
}

impl Parts {
    /// Takes one; those that do not belong to it are moved to `orphans`.
    pub fn take(&mut self, at: u64, raw: &Raw, orphans: &mut Vec<u64>) {
        let (number, checksum) = (raw[0] & !LAST, raw[13]);
        if raw[0] & LAST != 0 {
            self.abandon(orphans);
            (self.left, self.checksum) = (number, checksum);
        } else if self.at.is_empty() || number != self.left || checksum != self.checksum {
            self.abandon(orphans);
            orphans.push(at);
            return;
        }
        self.left = self.left.saturating_sub(1);
        self.at.push(at);
        let places = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
        self.units
            .push(places.map(|at| u16::from_le_bytes([raw[at], raw[at + 1]])));
    }

    /// None of them belongs to anything.
    pub fn abandon(&mut self, orphans: &mut Vec<u64>) {
        orphans.append(&mut self.at);
        self.units.clear();
        self.left = 0;
    }

    /// The name of an entry, by the parts before it if they are its own, and their places.
    pub fn name(&mut self, raw: &Raw, orphans: &mut Vec<u64>) -> (String, Vec<u64>) {
        if self.at.is_empty() || self.left != 0 || self.checksum != checksum(raw) {
            self.abandon(orphans);
            return (short_name(raw), Vec::new());
        }
        let units = self.units.iter().rev().flatten().copied();
        let name: Vec<u16> = units.take_while(|&unit| unit != 0).collect();
        self.units.clear();
        (String::from_utf16_lossy(&name), std::mem::take(&mut self.at))
    }
}

/// Of a short name, for the parts of the long one (`fat_checksum()`).
pub fn checksum(raw: &Raw) -> u8 {
    raw[..11]
        .iter()
        .fold(0u8, |sum, &byte| sum.rotate_right(1).wrapping_add(byte))
}

fn short_name(raw: &Raw) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches(' ').to_owned();
    let (name, extension) = (text(&raw[..8]), text(&raw[8..11]));
    match extension.is_empty() {
        true => name,
        false => format!("{name}.{extension}"),
    }
}

/// Whether a name of an entry and one of the dead kernel's are the same here.
pub fn is_same_name(entry: &str, name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name);
    let without_dots = name.trim_end_matches('.');
    entry.eq_ignore_ascii_case(without_dots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_kernel() {
        // By fs/fat/fat_test.c of Linux: UTC, and offsets of a day's part.
        let second = 1_000_000_000;
        let time = |date, time, hundredths| Time { date, time, hundredths };
        assert_eq!(Time::of(315_532_800 * second, 0), time(33, 0, 0));
        assert_eq!(Time::of(4_354_819_198 * second, 0), time(0xFF9F, 49_021, 0));
        assert_eq!(Time::of(951_782_400 * second, 0), time(10_333, 0, 0));
        assert_eq!(
            Time::of(315_492_840 * second, 660 * 60),
            time(33, 0, 0).with_hundredths(0)
        );
        assert_eq!(Time::of(951_782_401 * second + 990_000_000, 0).hundredths, 199);
        assert_eq!(Time::of(0, 0), time(33, 0, 0));
        assert_eq!(Time::of(i64::MAX, 0).date, 0xFF9F);
    }

    impl Time {
        const fn with_hundredths(self, hundredths: u8) -> Self {
            Self { hundredths, ..self }
        }
    }

    #[test]
    fn names_are_put_together_from_their_parts() {
        let mut short = [b' '; BYTES];
        short[..6].copy_from_slice(b"ABCDEF");
        short[11] = 32;
        let part = |number: u8, text: &str| {
            let mut raw = [0xFF; BYTES];
            (raw[0], raw[11], raw[13]) = (number, LONG, checksum(&short));
            let units = text.encode_utf16().chain([0]).chain(std::iter::repeat(0xFFFF));
            let places = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
            for (at, unit) in places.into_iter().zip(units) {
                raw[at..at + 2].copy_from_slice(&unit.to_le_bytes());
            }
            raw
        };
        let (mut parts, mut orphans) = (Parts::default(), Vec::new());
        parts.take(1, &part(0x41, "lost"), &mut orphans);
        parts.take(2, &part(0x42, "nopq"), &mut orphans);
        parts.take(3, &part(1, "abcdefghijklm"), &mut orphans);
        assert_eq!(
            parts.name(&short, &mut orphans),
            ("abcdefghijklmnopq".into(), vec![2, 3])
        );
        assert_eq!(orphans, [1]);
        // A part that does not follow, and one of another short name.
        parts.take(5, &part(0x42, "x"), &mut orphans);
        parts.take(6, &part(3, "y"), &mut orphans);
        assert_eq!(parts.name(&short, &mut orphans), ("ABCDEF".into(), vec![]));
        assert_eq!(orphans, [1, 5, 6]);
        parts.take(7, &part(0x41, "z"), &mut orphans);
        short[0] = b'X';
        assert_eq!(parts.name(&short, &mut orphans).0, "XBCDEF");
        assert_eq!(orphans, [1, 5, 6, 7]);
        assert!(is_same_name("Abc", b"aBC.") && !is_same_name("abc", b"abd"));
    }
}
