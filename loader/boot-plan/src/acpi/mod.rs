//! The firmware's ACPI tables (ACPI 6.5, chapter 5): what is read from them, and the copies handed to kernels.
//!
//! Kernels get copies of three tables: the RSDP structure, the XSDT and the MADT, the latter without the reserved core;
//! all other tables are referred to where the firmware left them.

mod copies;
pub mod fadt;
pub mod madt;
pub mod rsdp;
pub mod sleep;
mod tables;

pub use copies::{copy_tables, Changes, Copies};
pub use fadt::{Fadt, GenericAddress, ResetRegister};
pub use madt::{Cpus, Madt};
pub use tables::{Table, Tables};

/// Length of the header every table starts with.
pub const HEADER_LENGTH: usize = 36;
/// A longer table than this is not believed.
pub const MAX_TABLE: u32 = 16 << 20;

/// Four letters that name a table.
pub type Signature = [u8; 4];

/// Physical memory as far as the firmware's tables lie there.
pub trait FirmwareMemory {
    /// Fills `into` from `address`. Returns whether all of it could be read.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;
}

/// Why the tables cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// The multiboot information holds no RSDP structure.
    NoRsdp,
    /// A table cannot be read where it is said to be.
    Unreadable {
        /// Its signature, or that of the table that refers to it.
        signature: Signature,
        /// Where.
        address: u64,
    },
    /// The bytes of a table do not add up to 0.
    Checksum {
        /// The table.
        signature: Signature,
        /// Where.
        address: u64,
    },
    /// A table has an impossible length, or an entry that reaches beyond its end.
    Malformed {
        /// The table.
        signature: Signature,
        /// Offset of what is wrong.
        at: usize,
    },
    /// A table that is needed does not exist.
    Missing(Signature),
    /// The copies do not fit into their part of the region.
    Room {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        room: u64,
    },
}

/// A signature as text.
struct Name(Signature);

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl core::fmt::Display for AcpiError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::NoRsdp => write!(f, "ACPI: the boot loader passed no RSDP structure"),
            Self::Unreadable { signature, address } => {
                write!(f, "ACPI: table {} at {address:#x} cannot be read", Name(signature))
            }
            Self::Checksum { signature, address } => {
                write!(
                    f,
                    "ACPI: table {} at {address:#x} has a wrong checksum",
                    Name(signature)
                )
            }
            Self::Malformed { signature, at } => {
                write!(f, "ACPI: table {} is malformed at offset {at}", Name(signature))
            }
            Self::Missing(signature) => write!(f, "ACPI: there is no table {}", Name(signature)),
            Self::Room { needed, room } => write!(f, "ACPI: copies need {needed} bytes, room for {room}"),
        }
    }
}

impl core::error::Error for AcpiError {}

/// The sum of all bytes; 0 over a whole table.
fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &b| sum.wrapping_add(b))
}

/// Sets the byte at `at` so that `bytes` add up to 0.
fn set_checksum(bytes: &mut [u8], at: usize) {
    if let Some(slot) = bytes.get_mut(at) {
        *slot = 0;
        let rest = sum(bytes);
        if let Some(slot) = bytes.get_mut(at) {
            *slot = rest.wrapping_neg();
        }
    }
}
