//! The setup header of a bzImage (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").

use crate::bytes::{array_at, u16_at, u32_at, u64_at, u8_at};

/// Offset of the setup header, in the file and in `struct boot_params`.
pub const SETUP_HEADER: usize = 0x1F1;
/// The 64-bit entry, from the start of the protected-mode part.
pub const ENTRY_64: u64 = 0x200;
/// Oldest boot protocol with a 64-bit entry.
const MIN_PROTOCOL: u16 = 0x020C;
/// The decompressor runs from 2 MB pages.
const MIN_ALIGNMENT: u64 = 2 << 20;
/// A kernel that claims to need more than this to unpack itself is not believed.
const MAX_INIT_SIZE: u64 = 1 << 30;

mod field {
    pub const SETUP_SECTS: usize = 0x1F1;
    pub const SYSSIZE: usize = 0x1F4;
    pub const BOOT_FLAG: usize = 0x1FE;
    /// Second byte of the jump at 0x200: the header ends at 0x202 plus it.
    pub const JUMP_OFFSET: usize = 0x201;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const KERNEL_VERSION: usize = 0x20E;
    pub const INITRD_ADDR_MAX: usize = 0x22C;
    pub const KERNEL_ALIGNMENT: usize = 0x230;
    pub const RELOCATABLE: usize = 0x234;
    pub const XLOADFLAGS: usize = 0x236;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
}

/// `xloadflags`: there is a 64-bit entry.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `xloadflags`: everything may lie above 4 GB; such a kernel also takes an initramfs above `initrd_addr_max`.
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;

/// Why an image is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BzImageError {
    /// No `HdrS`, or no 0xAA55.
    NotAKernel,
    /// The file ends before its kernel does.
    Truncated {
        /// Bytes expected.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The boot protocol is older than 2.12.
    Protocol(u16),
    /// No 64-bit entry point.
    No64BitEntry,
    /// Not relocatable.
    NotRelocatable,
    /// A field holds what it cannot hold.
    Field(&'static str),
}

impl core::fmt::Display for BzImageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotAKernel => write!(f, "not a Linux kernel image (no setup header)"),
            Self::Truncated { expected, found } => {
                write!(f, "kernel image is cut off: {found} bytes of {expected}")
            }
            Self::Protocol(version) => write!(
                f,
                "kernel speaks boot protocol {}.{}, 2.12 or newer is needed",
                version >> 8,
                version & 0xFF
            ),
            Self::No64BitEntry => write!(f, "kernel has no 64-bit entry point"),
            Self::NotRelocatable => write!(f, "kernel is not relocatable (CONFIG_RELOCATABLE)"),
            Self::Field(name) => write!(f, "kernel's setup header: `{name}` is out of range"),
        }
    }
}

impl core::error::Error for BzImageError {}

/// A checked kernel image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BzImage<'a> {
    /// The setup header, from [`SETUP_HEADER`] to its own end.
    pub setup_header: &'a [u8],
    /// Offset of the protected-mode part in the file.
    pub kernel_offset: u64,
    /// Its length in bytes.
    pub kernel_length: u64,
    /// Bytes of memory needed from the load address on until the kernel has its own map.
    pub init_size: u64,
    /// Alignment of the load address.
    pub alignment: u64,
    /// The address it would like best; it unpacks itself nowhere lower.
    pub pref_address: u64,
    /// Longest command line, without its NUL.
    pub cmdline_size: u64,
    initrd_addr_max: u64,
    above_4g: bool,
}

impl<'a> BzImage<'a> {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// [`BzImageError`].
    pub fn parse(file: &'a [u8]) -> Result<Self, BzImageError> {
        use BzImageError::{Field, NotAKernel};
        if u16_at(file, field::BOOT_FLAG) != Some(0xAA55) || array_at(file, field::MAGIC) != Some(*b"HdrS") {
            return Err(NotAKernel);
        }
        let version = u16_at(file, field::VERSION).ok_or(NotAKernel)?;
        if version < MIN_PROTOCOL {
            return Err(BzImageError::Protocol(version));
        }
        let header_end = field::MAGIC + usize::from(u8_at(file, field::JUMP_OFFSET).ok_or(NotAKernel)?);
        if header_end < field::INIT_SIZE + 4 {
            return Err(Field("jump"));
        }
        let setup_header = file.get(SETUP_HEADER..header_end).ok_or(NotAKernel)?;
        let loadflags = u16_at(file, field::XLOADFLAGS).ok_or(NotAKernel)?;
        if loadflags & XLF_KERNEL_64 == 0 {
            return Err(BzImageError::No64BitEntry);
        }
        if u8_at(file, field::RELOCATABLE) == Some(0) {
            return Err(BzImageError::NotRelocatable);
        }
        // 0 means 4, for the sake of very old kernels.
        let sectors = match u8_at(file, field::SETUP_SECTS).ok_or(NotAKernel)? {
            0 => 4,
            n => u64::from(n),
        };
        let kernel_offset = (sectors + 1) * 512;
        // In paragraphs, rounded up: the file may lack up to 15 bytes of the last one.
        let claimed = u64::from(u32_at(file, field::SYSSIZE).ok_or(NotAKernel)?) * 16;
        let found = file.len() as u64;
        if claimed == 0 || found + 15 < kernel_offset + claimed {
            return Err(BzImageError::Truncated {
                expected: kernel_offset + claimed,
                found,
            });
        }
        let kernel_length = claimed.min(found.saturating_sub(kernel_offset));
        let init_size = u64::from(u32_at(file, field::INIT_SIZE).ok_or(NotAKernel)?);
        if init_size < kernel_length || init_size > MAX_INIT_SIZE {
            return Err(Field("init_size"));
        }
        let alignment = u64::from(u32_at(file, field::KERNEL_ALIGNMENT).ok_or(NotAKernel)?);
        if !alignment.is_power_of_two() || alignment > MAX_INIT_SIZE {
            return Err(Field("kernel_alignment"));
        }
        let pref_address = u64_at(file, field::PREF_ADDRESS).ok_or(NotAKernel)?;
        if pref_address > 1 << 32 {
            return Err(Field("pref_address"));
        }
        Ok(Self {
            setup_header,
            kernel_offset,
            kernel_length,
            init_size,
            alignment: alignment.max(MIN_ALIGNMENT),
            pref_address,
            cmdline_size: u64::from(u32_at(file, field::CMDLINE_SIZE).ok_or(NotAKernel)?),
            initrd_addr_max: u64::from(u32_at(file, field::INITRD_ADDR_MAX).ok_or(NotAKernel)?),
            above_4g: loadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0,
        })
    }

    /// The highest address the last byte of the initramfs may have.
    pub fn initramfs_limit(&self) -> u64 {
        if self.above_4g {
            u64::MAX
        } else {
            self.initrd_addr_max
        }
    }
}

/// The release of a kernel image (`uname -r`), which its header points to; the first 64 KB of a file are enough.
pub fn release(file: &[u8]) -> Option<&str> {
    /// Longest release (`__NEW_UTS_LEN`, include/uapi/linux/utsname.h).
    const MOST: usize = 64;
    let at = usize::from(u16_at(file, field::KERNEL_VERSION)?);
    if array_at(file, field::MAGIC) != Some(*b"HdrS") || at == 0 {
        return None;
    }
    let text = file.get(at + 0x200..)?;
    let end = text.iter().take(MOST + 1).position(|&byte| byte == b' ' || byte == 0)?;
    core::str::from_utf8(text.get(..end)?)
        .ok()
        .filter(|text| !text.is_empty())
}

/// What a file is that is no kernel image for this architecture, as far as its first bytes tell.
pub fn other_kind(file: &[u8]) -> Option<&'static str> {
    let starts = |at: usize, magic: &[u8]| file.get(at..).is_some_and(|bytes| bytes.starts_with(magic));
    // EM_X86_64 is 62.
    if starts(0, b"\x7FELF") {
        return Some(if u16_at(file, 18) == Some(62) {
            "an ELF file (an unpacked vmlinux?), not a bzImage"
        } else {
            "an ELF file for another architecture"
        });
    }
    [
        (56, &b"ARM\x64"[..], "a kernel for arm64"),
        (48, b"RISCV", "a kernel for RISC-V"),
        (56, b"RSC\x05", "a kernel for RISC-V"),
        (0, b"\x1F\x8B", "a gzip file"),
        (0, b"070701", "a cpio archive (an initramfs?)"),
        (0, b"\x28\xB5\x2F\xFD", "a zstd file (an initramfs?)"),
    ]
    .into_iter()
    .find(|&(at, magic, _)| starts(at, magic))
    .map(|(_, _, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bzimage;
    use proptest::prelude::*;

    #[test]
    fn a_kernel_is_read() {
        let file = bzimage();
        let image = BzImage::parse(&file).unwrap();
        assert_eq!(image.kernel_offset, 512 * 2);
        assert_eq!(image.kernel_length, 4096);
        assert_eq!((image.alignment, image.pref_address), (2 << 20, 16 << 20));
        assert_eq!(image.setup_header.len(), 0x202 + 0x6A - 0x1F1);
        assert_eq!(image.initramfs_limit(), u64::MAX);
    }

    #[test]
    fn the_release_is_read() {
        let mut file = bzimage();
        assert_eq!(release(&file), None);
        file[field::KERNEL_VERSION..field::KERNEL_VERSION + 2].copy_from_slice(&0x100u16.to_le_bytes());
        file[0x300..0x31A].copy_from_slice(b"6.1.0-56-cloud-amd64 (user");
        assert_eq!(release(&file), Some("6.1.0-56-cloud-amd64"));
        file[field::KERNEL_VERSION + 1] = 0xFF;
        assert_eq!(release(&file), None);
    }

    #[test]
    fn other_files_are_told_apart() {
        let mut arm = [0; 64];
        arm[56..60].copy_from_slice(b"ARM\x64");
        assert_eq!(other_kind(&arm), Some("a kernel for arm64"));
        assert_eq!(other_kind(b"070701000"), Some("a cpio archive (an initramfs?)"));
        assert!(other_kind(b"\x7FELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xB7\0").is_some());
        assert_eq!(other_kind(b"text"), None);
        assert_eq!(other_kind(&bzimage()), None);
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let with = |at: usize, bytes: &[u8]| {
            let mut file = bzimage();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            BzImage::parse(&file).unwrap_err()
        };
        assert_eq!(with(field::MAGIC, b"HdrX"), BzImageError::NotAKernel);
        assert_eq!(with(field::BOOT_FLAG, &[0]), BzImageError::NotAKernel);
        assert_eq!(with(field::VERSION, &[0x0B]), BzImageError::Protocol(0x020B));
        assert_eq!(with(field::XLOADFLAGS, &[0]), BzImageError::No64BitEntry);
        assert_eq!(with(field::RELOCATABLE, &[0]), BzImageError::NotRelocatable);
        assert_eq!(with(field::INIT_SIZE, &[0, 0, 0, 0]), BzImageError::Field("init_size"));
        assert_eq!(
            with(field::KERNEL_ALIGNMENT, &[3]),
            BzImageError::Field("kernel_alignment")
        );
        assert_eq!(with(field::PREF_ADDRESS + 5, &[1]), BzImageError::Field("pref_address"));
        assert_eq!(with(field::JUMP_OFFSET, &[0x10]), BzImageError::Field("jump"));
        let mut short = bzimage();
        short.truncate(3000);
        assert_eq!(
            BzImage::parse(&short),
            Err(BzImageError::Truncated {
                expected: 512 * 2 + 4096,
                found: 3000
            })
        );
        assert_eq!(BzImage::parse(b"070701"), Err(BzImageError::NotAKernel));
    }

    proptest! {
        #[test]
        fn hostile_headers_are_refused_or_consistent(changes in proptest::collection::vec((0x1F1usize..0x270, any::<u8>()), 1..8)) {
            let mut file = bzimage();
            for (at, value) in changes {
                file[at] = value;
            }
            if let Ok(image) = BzImage::parse(&file) {
                let end = image.kernel_offset + image.kernel_length;
                prop_assert!(end <= file.len() as u64);
                prop_assert!(image.init_size >= image.kernel_length);
                prop_assert!(image.alignment.is_power_of_two() && image.alignment >= 2 << 20);
            }
        }
    }
}
