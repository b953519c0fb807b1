//! The zero page (Documentation/arch/x86/zero-page.rst; `struct boot_params`, arch/x86/include/uapi/asm/bootparam.h).

use crate::{
    bytes::{put, u8_at},
    bzimage::SETUP_HEADER,
    memory_map::kind,
    plan::PlanError,
    span::Span,
};
use alloc::{vec, vec::Vec};
use shared_region::header::MemoryRange;

/// Bytes of `struct boot_params`.
pub const SIZE: usize = 4096;
/// Entries of the e820 table in it (`E820_MAX_ENTRIES_ZEROPAGE`).
const MAX_E820: usize = 128;
/// Bytes of one entry: address, size, type.
const E820_ENTRY: usize = 20;

mod field {
    pub const ORIG_VIDEO_MODE: usize = 0x006;
    pub const ORIG_VIDEO_COLS: usize = 0x007;
    pub const ORIG_VIDEO_LINES: usize = 0x00E;
    pub const ORIG_VIDEO_IS_VGA: usize = 0x00F;
    pub const ORIG_VIDEO_POINTS: usize = 0x010;
    pub const ACPI_RSDP_ADDR: usize = 0x070;
    pub const EXT_RAMDISK_IMAGE: usize = 0x0C0;
    pub const EXT_RAMDISK_SIZE: usize = 0x0C4;
    pub const EXT_CMD_LINE_PTR: usize = 0x0C8;
    pub const E820_ENTRIES: usize = 0x1E8;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21C;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const SETUP_DATA: usize = 0x250;
    pub const E820_TABLE: usize = 0x2D0;
}

/// "Undefined" loader type: no id is assigned to us.
const LOADER_UNDEFINED: u8 = 0xFF;

/// `loadflags`: the kernel's place is random (`KASLR_FLAG`). A bzImage sets and clears it itself.
const LOADFLAGS_KASLR: u8 = 1 << 1;

/// What the screen shows now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Screen {
    /// Unknown: the kernel starts without a console on it.
    #[default]
    Unknown,
    /// VGA text, 80 × 25, as a BIOS leaves it.
    Text80x25,
}

/// What goes into the page.
#[derive(Clone, Copy, Debug)]
pub struct BootParams<'a> {
    /// The kernel's setup header.
    pub setup_header: &'a [u8],
    /// Where its protected-mode part is loaded.
    pub load: u64,
    /// Address of the command line.
    pub command_line: u64,
    /// The initramfs; empty if there is none.
    pub initramfs: Span,
    /// Address of the RSDP structure.
    pub rsdp: u64,
    /// The memory map.
    pub map: &'a [MemoryRange],
    /// The screen.
    pub screen: Screen,
    /// Whether a kernel that is entered unpacked is to believe that its place is random, and to choose the rest of its
    /// address space at random as well.
    pub randomized: bool,
}

impl BootParams<'_> {
    /// Builds the page.
    ///
    /// # Errors
    /// [`PlanError::TooManyRanges`].
    pub fn build(&self) -> Result<Vec<u8>, PlanError> {
        if self.map.len() > MAX_E820 {
            return Err(PlanError::TooManyRanges(self.map.len()));
        }
        let mut page = vec![0; SIZE];
        put(&mut page, SETUP_HEADER, self.setup_header);
        put(&mut page, field::TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
        if self.randomized {
            let flags = u8_at(&page, field::LOADFLAGS).unwrap_or(0) | LOADFLAGS_KASLR;
            put(&mut page, field::LOADFLAGS, &[flags]);
        }
        put(&mut page, field::CODE32_START, &low(self.load));
        put(&mut page, field::SETUP_DATA, &0u64.to_le_bytes());
        put(&mut page, field::ACPI_RSDP_ADDR, &self.rsdp.to_le_bytes());
        let (address, size) = match self.initramfs.len() {
            0 => (0, 0),
            size => (self.initramfs.start, size),
        };
        put(&mut page, field::RAMDISK_IMAGE, &low(address));
        put(&mut page, field::EXT_RAMDISK_IMAGE, &high(address));
        put(&mut page, field::RAMDISK_SIZE, &low(size));
        put(&mut page, field::EXT_RAMDISK_SIZE, &high(size));
        put(&mut page, field::CMD_LINE_PTR, &low(self.command_line));
        put(&mut page, field::EXT_CMD_LINE_PTR, &high(self.command_line));
        if self.screen == Screen::Text80x25 {
            put(&mut page, field::ORIG_VIDEO_MODE, &[3]);
            put(&mut page, field::ORIG_VIDEO_COLS, &[80]);
            put(&mut page, field::ORIG_VIDEO_LINES, &[25]);
            put(&mut page, field::ORIG_VIDEO_IS_VGA, &[1]);
            put(&mut page, field::ORIG_VIDEO_POINTS, &16u16.to_le_bytes());
        }
        put(&mut page, field::E820_ENTRIES, &[self.map.len() as u8]);
        for (index, range) in self.map.iter().enumerate() {
            let at = field::E820_TABLE + index * E820_ENTRY;
            // A type the field cannot hold is nothing a kernel could use.
            let kind = u32::try_from(range.kind).unwrap_or(kind::RESERVED as u32);
            put(&mut page, at, &range.start.to_le_bytes());
            put(&mut page, at + 8, &range.end.saturating_sub(range.start).to_le_bytes());
            put(&mut page, at + 16, &kind.to_le_bytes());
        }
        Ok(page)
    }
}

fn low(value: u64) -> [u8; 4] {
    (value as u32).to_le_bytes()
}

fn high(value: u64) -> [u8; 4] {
    ((value >> 32) as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bytes::u32_at, bzimage::BzImage, testing};
    use core::mem::{offset_of, size_of};
    use linux_raw_sys::bootparam::{boot_e820_entry, boot_params, screen_info, setup_header};

    #[test]
    fn offsets_are_those_of_the_kernel_headers() {
        assert_eq!(size_of::<boot_params>(), SIZE);
        assert_eq!(size_of::<boot_e820_entry>(), E820_ENTRY);
        assert_eq!(offset_of!(boot_params, hdr), SETUP_HEADER);
        assert_eq!(offset_of!(boot_params, acpi_rsdp_addr), field::ACPI_RSDP_ADDR);
        assert_eq!(offset_of!(boot_params, ext_ramdisk_image), field::EXT_RAMDISK_IMAGE);
        assert_eq!(offset_of!(boot_params, ext_ramdisk_size), field::EXT_RAMDISK_SIZE);
        assert_eq!(offset_of!(boot_params, ext_cmd_line_ptr), field::EXT_CMD_LINE_PTR);
        assert_eq!(offset_of!(boot_params, e820_entries), field::E820_ENTRIES);
        assert_eq!(offset_of!(boot_params, e820_table), field::E820_TABLE);
        let header = |offset: usize| SETUP_HEADER + offset;
        assert_eq!(header(offset_of!(setup_header, type_of_loader)), field::TYPE_OF_LOADER);
        assert_eq!(header(offset_of!(setup_header, code32_start)), field::CODE32_START);
        assert_eq!(header(offset_of!(setup_header, ramdisk_image)), field::RAMDISK_IMAGE);
        assert_eq!(header(offset_of!(setup_header, ramdisk_size)), field::RAMDISK_SIZE);
        assert_eq!(header(offset_of!(setup_header, cmd_line_ptr)), field::CMD_LINE_PTR);
        assert_eq!(header(offset_of!(setup_header, setup_data)), field::SETUP_DATA);
        assert_eq!(offset_of!(screen_info, orig_video_mode), field::ORIG_VIDEO_MODE);
        assert_eq!(offset_of!(screen_info, orig_video_cols), field::ORIG_VIDEO_COLS);
        assert_eq!(offset_of!(screen_info, orig_video_lines), field::ORIG_VIDEO_LINES);
        assert_eq!(offset_of!(screen_info, orig_video_isVGA), field::ORIG_VIDEO_IS_VGA);
        assert_eq!(offset_of!(screen_info, orig_video_points), field::ORIG_VIDEO_POINTS);
    }

    #[test]
    fn the_page_carries_everything_and_a_clean_sentinel() {
        let file = testing::bzimage();
        let image = BzImage::parse(&file).unwrap();
        let map = [MemoryRange {
            start: 0x10_0000,
            end: 0x7000_0000,
            kind: 1,
        }];
        let page = BootParams {
            setup_header: image.setup_header,
            load: 0x100_0000,
            command_line: 0x1_7080_1000,
            initramfs: Span::of(0x200_0000, 0x1234),
            rsdp: 0x7070_0000,
            map: &map,
            randomized: true,
            screen: Screen::Text80x25,
        }
        .build()
        .unwrap();
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!(page[0x211], file[0x211] | 2);
        assert_eq!((page[0x1E8], page[0x1EF], page[0x210]), (1, 0, 0xFF));
        assert_eq!(u32_at(&page, 0x228), Some(0x7080_1000));
        assert_eq!(u32_at(&page, 0xC8), Some(1));
        assert_eq!(
            (u32_at(&page, 0x218), u32_at(&page, 0x21C)),
            (Some(0x200_0000), Some(0x1234))
        );
        assert_eq!(u32_at(&page, 0x2D0 + 8), Some(0x6FF0_0000));
    }

    #[test]
    fn too_many_ranges_are_refused() {
        let map = [MemoryRange::default(); 129];
        let params = BootParams {
            setup_header: &[],
            load: 0,
            command_line: 0,
            initramfs: Span::of(0, 0),
            rsdp: 0,
            map: &map,
            randomized: false,
            screen: Screen::Unknown,
        };
        assert_eq!(params.build(), Err(PlanError::TooManyRanges(129)));
    }
}
