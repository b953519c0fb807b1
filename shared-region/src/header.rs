//! The first page of the region.
//!
//! Writer: the loader, once, before the backup OS starts; then the backup OS alone, which rewrites
//! [`Header::reserved_nursery`] when the nurseries change places. Reader: everybody. The digest covers the whole page.

use crate::{layout, ABI_VERSION};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `"ORTHROS!"` in little-endian order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ORTHROS!");
/// Entries in [`Header::ram`].
pub const MAX_RAM_RANGES: usize = 64;

/// A range of physical memory from the firmware's map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryRange {
    /// First byte.
    pub start: u64,
    /// First byte after the range.
    pub end: u64,
    /// e820 type as the firmware gave it (ACPI 6.5, table 15.1): 1 is RAM.
    pub kind: u64,
}

/// The header page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub abi_version: u32,
    /// CRC-32/ISO-HDLC of the page with this field as zero.
    pub digest: u32,
    /// Physical address of the region.
    pub base: u64,
    /// Bytes in the region, [`layout::REGION_SIZE`].
    pub size: u64,
    /// Physical addresses of nursery 0 and 1.
    pub nursery: [u64; 2],
    /// Which nursery is the reservation now (0 or 1); the other is part of the running kernel's RAM.
    pub reserved_nursery: u64,
    /// Local APIC id of the reserved core.
    pub reserved_apic_id: u64,
    /// Local APIC id of the bootstrap processor.
    pub bsp_apic_id: u64,
    /// Physical address of the firmware's RSDP structure, or of the loader's copy of it.
    pub rsdp: u64,
    /// I/O port of the ACPI power-management timer (FADT PM_TMR_BLK), 0 if there is none.
    pub pm_timer_port: u64,
    /// Time-stamp counter ticks in a second, measured against the PM timer.
    pub tsc_hz: u64,
    /// Valid entries in `cpus`.
    pub cpu_count: u64,
    /// Local APIC ids of the CPUs given to Linux, bootstrap processor first.
    pub cpus: [u8; layout::MAX_CPUS],
    /// Valid entries in `ram`.
    pub ram_count: u64,
    /// The firmware's memory map as the loader found it, in ascending order.
    pub ram: [MemoryRange; MAX_RAM_RANGES],
    /// What the administrator asked of the loader that concerns the backup OS: bits of [`options`].
    pub options: u64,
    /// Zero.
    pub reserved: [u8; 2184],
}

/// Bits of [`Header::options`].
pub mod options {
    /// The backup OS leaves the second serial port alone and writes to its log only.
    pub const NO_CONSOLE: u64 = 1 << 0;
    /// A successor is booted ahead of the first kernel and put to sleep.
    pub const STANDBY: u64 = 1 << 1;
}

const _: () = assert!(core::mem::size_of::<Header>() == layout::HEADER.size as usize);

/// Why a header is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The page is shorter than a header, or not aligned to 8 bytes.
    Truncated,
    /// The magic is another one.
    Magic(u64),
    /// Written by another version of this crate.
    Version(u32),
    /// The digest does not match: somebody wrote here.
    Digest {
        /// As stored in the header.
        stored: u32,
        /// As computed over it.
        computed: u32,
    },
    /// A field holds what it cannot hold.
    Field(&'static str),
}

impl core::fmt::Display for HeaderError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated => write!(f, "region header: shorter than a page"),
            Self::Magic(found) => write!(
                f,
                "region header: magic is {found:#018x}, not \"ORTHROS!\"; was the machine started through the Orthros loader?"
            ),
            Self::Version(found) => write!(
                f,
                "region header: ABI version {found}, this program speaks version {ABI_VERSION}; install the matching package"
            ),
            Self::Digest { stored, computed } => write!(
                f,
                "region header: digest {computed:#010x} does not match the stored {stored:#010x}; the page was overwritten"
            ),
            Self::Field(name) => write!(f, "region header: field `{name}` is out of range"),
        }
    }
}

impl core::error::Error for HeaderError {}

impl Header {
    /// Reads and checks a header from the first page of the region.
    ///
    /// # Errors
    /// [`HeaderError`], naming what is wrong with it.
    pub fn parse(page: &[u8]) -> Result<Self, HeaderError> {
        let (header, _) = Self::read_from_prefix(page).map_err(|_| HeaderError::Truncated)?;
        if header.magic != MAGIC {
            return Err(HeaderError::Magic(header.magic));
        }
        if header.abi_version != ABI_VERSION {
            return Err(HeaderError::Version(header.abi_version));
        }
        let computed = header.compute_digest();
        if computed != header.digest {
            return Err(HeaderError::Digest {
                stored: header.digest,
                computed,
            });
        }
        let aligned = |address: u64| address.is_multiple_of(layout::WINDOW_ALIGN) && address < 1 << 32;
        if header.size != layout::REGION_SIZE {
            return Err(HeaderError::Field("size"));
        }
        if !aligned(header.base) {
            return Err(HeaderError::Field("base"));
        }
        if !header.nursery.iter().all(|&n| aligned(n)) {
            return Err(HeaderError::Field("nursery"));
        }
        if header.reserved_nursery > 1 {
            return Err(HeaderError::Field("reserved_nursery"));
        }
        if header.cpu_count == 0 || header.cpu_count > layout::MAX_CPUS as u64 {
            return Err(HeaderError::Field("cpu_count"));
        }
        if header.ram_count == 0 || header.ram_count > MAX_RAM_RANGES as u64 {
            return Err(HeaderError::Field("ram_count"));
        }
        Ok(header)
    }

    /// The digest this header ought to carry.
    pub fn compute_digest(&self) -> u32 {
        let mut copy = *self;
        copy.digest = 0;
        crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(copy.as_bytes())
    }

    /// The CPUs given to Linux, bootstrap processor first.
    pub fn cpus(&self) -> &[u8] {
        &self.cpus[..(self.cpu_count as usize).min(layout::MAX_CPUS)]
    }

    /// The firmware's memory map.
    pub fn ram(&self) -> &[MemoryRange] {
        &self.ram[..(self.ram_count as usize).min(MAX_RAM_RANGES)]
    }
}
