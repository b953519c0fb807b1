//! The backup OS's file: a static position-independent ELF (System V ABI, chapters 4 and 5; x86-64 supplement 4.4).
//!
//! Only what such a file needs is understood: loadable segments, and relocations that add the load address
//! (`R_X86_64_RELATIVE`). Everything else is refused by name.

use crate::bytes::{u16_at, u32_at, u64_at};
use alloc::vec::Vec;

const TYPE_SHARED: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DYNAMIC_ENTRY: usize = 16;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_RELAENT: u64 = 9;
const DT_REL: u64 = 17;
const DT_RELR: u64 = 36;
const RELA_ENTRY: usize = 24;
const R_X86_64_RELATIVE: u32 = 8;
/// Most program headers looked at.
const MAX_SEGMENTS: usize = 32;

/// Why a file is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// Not a 64-bit little-endian x86_64 shared object.
    NotSupported,
    /// A structure or segment reaches beyond the file, or beyond memory.
    Truncated(&'static str),
    /// It uses something this loader does not know.
    Unknown(&'static str),
    /// It asks for a dynamic linker or for libraries.
    Dynamic,
    /// A relocation of another type.
    Relocation(u32),
    /// A relocation changes memory outside of every segment.
    RelocationTarget(u64),
    /// The entry point lies outside of every segment.
    Entry(u64),
    /// It has nothing to load.
    Empty,
}

impl core::fmt::Display for ElfError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotSupported => write!(f, "not a position-independent x86_64 ELF file"),
            Self::Truncated(what) => write!(f, "ELF file is cut off: {what}"),
            Self::Unknown(what) => write!(f, "ELF file has {what}"),
            Self::Dynamic => write!(f, "ELF file is not static: it needs a dynamic linker"),
            Self::Relocation(kind) => write!(f, "ELF file has a relocation of type {kind}, only RELATIVE is known"),
            Self::RelocationTarget(at) => write!(f, "ELF file relocates {at:#x}, which is in no segment"),
            Self::Entry(at) => write!(f, "ELF entry point {at:#x} is in no segment"),
            Self::Empty => write!(f, "ELF file has no loadable segment"),
        }
    }
}

impl core::error::Error for ElfError {}

/// A piece of the image. Offsets are from the load address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Where it goes.
    pub offset: u64,
    /// What goes there.
    pub bytes: &'a [u8],
    /// Its size in memory; the rest is zero.
    pub size: u64,
}

/// A checked file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// Segments, in the file's order.
    pub segments: Vec<Segment<'a>>,
    /// Bytes of memory from the load address to the end of the last segment.
    pub size: u64,
    /// Entry point, from the load address.
    pub entry: u64,
    relocations: &'a [u8],
}

impl<'a> Image<'a> {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ElfError`].
    pub fn parse(file: &'a [u8]) -> Result<Self, ElfError> {
        if !file.starts_with(b"\x7FELF\x02\x01")
            || u16_at(file, 16) != Some(TYPE_SHARED)
            || u16_at(file, 18) != Some(MACHINE_X86_64)
        {
            return Err(ElfError::NotSupported);
        }
        let truncated = ElfError::Truncated("program headers");
        let table = u64_at(file, 32)
            .and_then(|at| usize::try_from(at).ok())
            .ok_or(truncated)?;
        if u16_at(file, 54).map(usize::from) != Some(PROGRAM_HEADER) {
            return Err(ElfError::NotSupported);
        }
        let count = usize::from(u16_at(file, 56).ok_or(truncated)?).min(MAX_SEGMENTS);
        let headers = table
            .checked_add(count * PROGRAM_HEADER)
            .and_then(|end| file.get(table..end))
            .ok_or(truncated)?;

        let mut segments = Vec::new();
        let mut dynamic: &[u8] = &[];
        for header in headers.chunks_exact(PROGRAM_HEADER) {
            match u32_at(header, 0) {
                Some(PT_LOAD) => segments.push(segment(file, header)?),
                Some(PT_DYNAMIC) => dynamic = segment(file, header)?.bytes,
                Some(PT_INTERP) => return Err(ElfError::Dynamic),
                _ => {}
            }
        }
        let size = segments
            .iter()
            .map(|s| s.offset + s.size)
            .max()
            .ok_or(ElfError::Empty)?;
        let entry = u64_at(file, 24).unwrap_or(0);
        if !segments.iter().any(|s| (s.offset..s.offset + s.size).contains(&entry)) {
            return Err(ElfError::Entry(entry));
        }
        let relocations = relocations(dynamic, &segments)?;
        let image = Self {
            segments,
            size,
            entry,
            relocations,
        };
        image.check_relocations()?;
        Ok(image)
    }

    fn check_relocations(&self) -> Result<(), ElfError> {
        for entry in self.relocations.chunks_exact(RELA_ENTRY) {
            let kind = u32_at(entry, 8).unwrap_or(0);
            if kind != R_X86_64_RELATIVE {
                return Err(ElfError::Relocation(kind));
            }
            let at = u64_at(entry, 0).unwrap_or(u64::MAX);
            let inside = |s: &Segment| at >= s.offset && at.checked_add(8).is_some_and(|end| end <= s.offset + s.size);
            if !self.segments.iter().any(inside) {
                return Err(ElfError::RelocationTarget(at));
            }
        }
        Ok(())
    }

    /// The 64-bit words to be written once the segments are in place: (offset from the load address, value).
    pub fn relocations(&self, load: u64) -> impl Iterator<Item = (u64, u64)> + 'a {
        self.relocations
            .chunks_exact(RELA_ENTRY)
            .filter_map(move |entry| Some((u64_at(entry, 0)?, u64_at(entry, 16)?.wrapping_add(load))))
    }
}

fn segment<'a>(file: &'a [u8], header: &[u8]) -> Result<Segment<'a>, ElfError> {
    let truncated = ElfError::Truncated("a segment");
    let number = |at| u64_at(header, at).ok_or(truncated);
    let (from, offset, length, size) = (number(8)?, number(16)?, number(32)?, number(40)?);
    let bytes = usize::try_from(from)
        .ok()
        .zip(from.checked_add(length).and_then(|end| usize::try_from(end).ok()))
        .and_then(|(start, end)| file.get(start..end))
        .ok_or(truncated)?;
    if size < length || offset.checked_add(size).is_none() {
        return Err(truncated);
    }
    Ok(Segment { offset, bytes, size })
}

/// Finds the relocation table through the dynamic section.
fn relocations<'a>(dynamic: &[u8], segments: &[Segment<'a>]) -> Result<&'a [u8], ElfError> {
    let (mut at, mut length) = (None, 0);
    for entry in dynamic.chunks_exact(DYNAMIC_ENTRY) {
        let (Some(tag), Some(value)) = (u64_at(entry, 0), u64_at(entry, 8)) else {
            break;
        };
        match tag {
            DT_NULL => break,
            DT_NEEDED => return Err(ElfError::Dynamic),
            DT_REL => return Err(ElfError::Unknown("relocations without addends")),
            DT_RELR => return Err(ElfError::Unknown("packed relocations")),
            DT_RELA => at = Some(value),
            DT_RELASZ => length = value,
            DT_RELAENT if value != RELA_ENTRY as u64 => {
                return Err(ElfError::Unknown("relocation entries of another size"))
            }
            _ => {}
        }
    }
    let Some(at) = at.filter(|_| length != 0) else {
        return Ok(&[]);
    };
    segments
        .iter()
        .find_map(|s| {
            let start = usize::try_from(at.checked_sub(s.offset)?).ok()?;
            s.bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
        })
        .ok_or(ElfError::Truncated("the relocation table"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    /// One segment at 0x1000 with a word to be relocated, a dynamic section and one relocation.
    fn sample() -> Vec<u8> {
        let mut file = vec![0u8; 0x200];
        let mut set = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        set(0, b"\x7FELF\x02\x01\x01");
        set(16, &[3, 0, 62, 0]);
        set(24, &0x1010u64.to_le_bytes());
        set(32, &64u64.to_le_bytes());
        set(54, &[56, 0, 2, 0]);
        for (at, kind, offset, address, length, size) in [
            (64, 1u32, 0x100u64, 0x1000u64, 0x100u64, 0x3000u64),
            (120, 2, 0x140, 0x1040, 0x40, 0x40),
        ] {
            set(at, &kind.to_le_bytes());
            set(at + 8, &offset.to_le_bytes());
            set(at + 16, &address.to_le_bytes());
            set(at + 32, &length.to_le_bytes());
            set(at + 40, &size.to_le_bytes());
        }
        for (at, tag, value) in [(0x140, 7u64, 0x1080u64), (0x150, 8, 24), (0x160, 9, 24)] {
            set(at, &tag.to_le_bytes());
            set(at + 8, &value.to_le_bytes());
        }
        set(0x180, &0x1020u64.to_le_bytes());
        set(0x188, &8u64.to_le_bytes());
        set(0x190, &0x1234u64.to_le_bytes());
        file
    }

    #[test]
    fn segments_entry_and_relocations_are_found() {
        let file = sample();
        let image = Image::parse(&file).unwrap();
        assert_eq!((image.size, image.entry), (0x4000, 0x1010));
        assert_eq!(
            (image.segments[0].offset, image.segments[0].bytes.len()),
            (0x1000, 0x100)
        );
        assert_eq!(
            image.relocations(0x6900_0000).collect::<Vec<_>>(),
            [(0x1020, 0x6900_1234)]
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let with = |at: usize, byte: u8| {
            let mut file = sample();
            file[at] = byte;
            Image::parse(&file).unwrap_err()
        };
        assert_eq!(with(18, 3), ElfError::NotSupported);
        assert_eq!(with(0x188, 1), ElfError::Relocation(1));
        assert_eq!(with(0x184, 1), ElfError::RelocationTarget(0x1_0000_1020));
        assert_eq!(with(25, 0x70), ElfError::Entry(0x7010));
        assert_eq!(with(120, 3), ElfError::Dynamic);
        assert_eq!(with(73, 0x70), ElfError::Truncated("a segment"));
    }

    proptest! {
        #[test]
        fn hostile_files_are_refused_or_consistent(changes in proptest::collection::vec((0usize..0x200, any::<u8>()), 1..6)) {
            let mut file = sample();
            for (at, value) in changes {
                file[at] = value;
            }
            if let Ok(image) = Image::parse(&file) {
                for (at, _) in image.relocations(0) {
                    prop_assert!(at + 8 <= image.size);
                }
                prop_assert!(image.segments.iter().all(|s| s.bytes.len() as u64 <= s.size && s.offset + s.size <= image.size));
            }
        }
    }
}
