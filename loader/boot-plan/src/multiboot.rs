//! The boot information of Multiboot2 (Multiboot2 Specification 2.0, 3.6), read with bounds.

use crate::{
    acpi::rsdp::RSDP_MAX,
    bytes::{u32_at, u64_at, u8_at, until_nul},
    span::Span,
};
use alloc::vec::Vec;
use shared_region::header::MemoryRange;

/// EAX on entry.
pub const MAGIC: u32 = 0x36D7_6289;
/// A larger structure than this is not believed.
pub const MAX_SIZE: u32 = 1 << 20;

mod tag {
    pub const END: u32 = 0;
    pub const COMMAND_LINE: u32 = 1;
    pub const MODULE: u32 = 3;
    pub const MEMORY_MAP: u32 = 6;
    pub const FRAMEBUFFER: u32 = 8;
    pub const ACPI_OLD: u32 = 14;
    pub const ACPI_NEW: u32 = 15;
}

/// A file GRUB loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// Where it lies.
    pub span: Span,
    /// What stood after its name in GRUB's configuration.
    pub string: &'a [u8],
}

/// What GRUB handed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Information<'a> {
    /// The loader's own command line.
    pub command_line: &'a [u8],
    /// Modules, in the order of GRUB's configuration.
    pub modules: Vec<Module<'a>>,
    /// The firmware's memory map, as it is.
    pub memory: Vec<MemoryRange>,
    /// Copy of the firmware's RSDP structure; the newer one if there are two.
    pub rsdp: Option<&'a [u8]>,
    /// The screen shows pixels, not text.
    pub graphical: bool,
}

/// Why the information cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultibootError {
    /// EAX is something else: not started by a Multiboot2 loader.
    Magic(u32),
    /// Its size field is smaller than its head or larger than is believable.
    Size(u32),
    /// A tag reaches beyond the end.
    Tag {
        /// Type of the tag.
        kind: u32,
        /// Offset.
        at: usize,
    },
    /// A part that is needed is missing.
    Missing(&'static str),
}

impl core::fmt::Display for MultibootError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Magic(found) => write!(
                f,
                "multiboot2: EAX is {found:#010x}, not {MAGIC:#010x}; start the loader with GRUB's `multiboot2` command"
            ),
            Self::Size(size) => write!(f, "multiboot2: information of {size} bytes"),
            Self::Tag { kind, at } => {
                write!(
                    f,
                    "multiboot2: tag of type {kind} at offset {at} reaches beyond the end"
                )
            }
            Self::Missing(what) => write!(f, "multiboot2: no {what}"),
        }
    }
}

impl core::error::Error for MultibootError {}

/// The size of the structure that starts with these eight bytes.
///
/// # Errors
/// [`MultibootError::Size`] if it is not believable.
pub fn size(head: [u8; 8]) -> Result<usize, MultibootError> {
    let size = u32_at(&head, 0).unwrap_or(0);
    if (8..=MAX_SIZE).contains(&size) {
        Ok(size as usize)
    } else {
        Err(MultibootError::Size(size))
    }
}

impl<'a> Information<'a> {
    /// Reads the information. `bytes` is the whole structure, its head included.
    ///
    /// # Errors
    /// [`MultibootError`], naming the tag.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MultibootError> {
        let mut out = Self::default();
        let mut at = 8usize;
        while let (Some(kind), Some(length)) = (u32_at(bytes, at), u32_at(bytes, at.saturating_add(4))) {
            if kind == tag::END {
                break;
            }
            let error = MultibootError::Tag { kind, at };
            let end = at.checked_add(length as usize).ok_or(error)?;
            let body = bytes.get(at.saturating_add(8)..end).ok_or(error)?;
            out.tag(kind, body, error)?;
            at = end.checked_next_multiple_of(8).ok_or(error)?;
        }
        if out.memory.is_empty() {
            return Err(MultibootError::Missing("memory map"));
        }
        Ok(out)
    }

    fn tag(&mut self, kind: u32, body: &'a [u8], error: MultibootError) -> Result<(), MultibootError> {
        match kind {
            tag::COMMAND_LINE => self.command_line = until_nul(body),
            tag::MODULE => {
                let start = u32_at(body, 0).ok_or(error)?;
                let end = u32_at(body, 4).ok_or(error)?;
                self.modules.push(Module {
                    span: Span {
                        start: u64::from(start),
                        end: u64::from(end.max(start)),
                    },
                    string: until_nul(body.get(8..).ok_or(error)?),
                });
            }
            tag::MEMORY_MAP => {
                let entry_size = u32_at(body, 0).ok_or(error)? as usize;
                if entry_size < 24 {
                    return Err(error);
                }
                for entry in body.get(8..).ok_or(error)?.chunks_exact(entry_size) {
                    let (Some(start), Some(length), Some(kind)) =
                        (u64_at(entry, 0), u64_at(entry, 8), u32_at(entry, 16))
                    else {
                        return Err(error);
                    };
                    self.memory.push(MemoryRange {
                        start,
                        end: start.saturating_add(length),
                        kind: u64::from(kind),
                    });
                }
            }
            // Behind address, pitch, width, height and bits per pixel: the type, of which 2 is EGA text.
            tag::FRAMEBUFFER => self.graphical = u8_at(body, 21).ok_or(error)? != 2,
            tag::ACPI_NEW => self.rsdp = Some(body.get(..RSDP_MAX.min(body.len())).unwrap_or(body)),
            tag::ACPI_OLD if self.rsdp.is_none() => self.rsdp = Some(body),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MultibootBuilder;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        MultibootBuilder::new()
            .command_line("fallback=boot")
            .module(0x10_3000, 0x20_0000, "kernel quiet")
            .memory(&[(0, 0x9_FC00, 1), (0x10_0000, 0x7FEE_0000, 1)])
            .rsdp_old(&[1; 20])
            .rsdp_new(&[2; 36])
            .finish()
    }

    #[test]
    fn what_grub_says_is_read() {
        let bytes = sample();
        let info = Information::parse(&bytes).unwrap();
        assert_eq!(info.command_line, b"fallback=boot");
        assert_eq!(info.modules[0].string, b"kernel quiet");
        assert_eq!(
            info.modules[0].span,
            Span {
                start: 0x10_3000,
                end: 0x20_0000
            }
        );
        assert_eq!(
            info.memory[1],
            MemoryRange {
                start: 0x10_0000,
                end: 0x7FFE_0000,
                kind: 1
            }
        );
        assert_eq!(info.rsdp, Some(&[2u8; 36][..]));
        assert_eq!(size(bytes[..8].try_into().unwrap()), Ok(bytes.len()));
    }

    #[test]
    fn the_newer_rsdp_wins_in_either_order() {
        let bytes = MultibootBuilder::new()
            .memory(&[(0, 1, 1)])
            .rsdp_new(&[2; 36])
            .rsdp_old(&[1; 20])
            .finish();
        assert_eq!(Information::parse(&bytes).unwrap().rsdp, Some(&[2u8; 36][..]));
    }

    #[test]
    fn text_and_pixels_are_told_apart() {
        for (kind, graphical) in [(1, true), (2, false)] {
            let bytes = MultibootBuilder::new().memory(&[(0, 1, 1)]).framebuffer(kind).finish();
            assert_eq!(Information::parse(&bytes).unwrap().graphical, graphical);
        }
        assert!(!Information::parse(&sample()).unwrap().graphical);
    }

    #[test]
    fn a_missing_map_and_a_broken_tag_are_named() {
        let bytes = MultibootBuilder::new().command_line("").finish();
        assert_eq!(Information::parse(&bytes), Err(MultibootError::Missing("memory map")));
        let mut bytes = sample();
        bytes[12] = 0xFF;
        bytes[13] = 0xFF;
        assert_eq!(Information::parse(&bytes), Err(MultibootError::Tag { kind: 1, at: 8 }));
    }

    proptest! {
        #[test]
        fn hostile_information_ends(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Information::parse(&bytes);
        }

        #[test]
        fn flipped_information_ends(at in 0usize..400, value in any::<u8>()) {
            let mut bytes = sample();
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = Information::parse(&bytes);
        }
    }
}
