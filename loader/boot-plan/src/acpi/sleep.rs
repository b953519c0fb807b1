//! Tables by which a kernel can be put to sleep (S3) without the machine knowing.
//!
//! The kernel gets an FADT and a FACS of its own: writing SLP_EN lands in a word of the region instead of the chipset,
//! and the waking vector is left where the backup OS reads it. The event block stays the real one: ACPICA clears its
//! status by writing ones, which in plain memory would set WAK_STS and end the wait for the wake-up.

use super::{fadt::field, set_checksum, AcpiError, Fadt, FirmwareMemory, GenericAddress, Tables, HEADER_LENGTH};
use crate::{
    bytes::{put, u32_at},
    plan::Write,
};
use alloc::{vec, vec::Vec};
use shared_region::standby;

/// Length of the FADT of ACPI 2.0, revision 3: the first with 64-bit addresses. Later fields describe machines without
/// fixed hardware.
const FADT_LENGTH: usize = 244;
const FADT_REVISION: u8 = 3;
const RESET_SUPPORTED: u32 = 1 << 10;
/// PM1 control: SCI_EN, the machine is in ACPI mode.
pub const SCI_ENABLED: u16 = 1;
/// Where the SSDT lies behind the FADT.
const SSDT_OFFSET: u64 = 0x200;
/// `Name (\_S3, Package (4) {One, One, Zero, Zero})` (ACPI 6.5, 20.2 and 7.4.2.3).
const S3_PACKAGE: [u8; 13] = [0x08, 0x5C, b'_', b'S', b'3', b'_', 0x12, 0x06, 4, 1, 1, 0, 0];

/// Why a kernel cannot be put to sleep on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepError {
    /// The firmware's tables are not accepted.
    Acpi(AcpiError),
    /// The machine has no fixed power-management hardware.
    HardwareReduced,
    /// The control register is not one I/O port.
    Control,
    /// The event block is not one I/O port.
    Event,
}

impl core::fmt::Display for SleepError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Acpi(why) => why.fmt(f),
            Self::HardwareReduced => write!(f, "ACPI: hardware-reduced machine, which has no S3"),
            Self::Control => write!(f, "ACPI: the PM1 control register is not a single I/O port"),
            Self::Event => write!(f, "ACPI: the PM1 event block is not a single I/O port"),
        }
    }
}

impl core::error::Error for SleepError {}

impl From<AcpiError> for SleepError {
    fn from(why: AcpiError) -> Self {
        Self::Acpi(why)
    }
}

/// The tables, laid out in memory, not yet written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SleepTables {
    /// What to write where, the page of words included.
    pub writes: Vec<Write>,
    /// Address of the FADT that takes the firmware's place.
    pub fadt: u64,
    /// Address of an SSDT that defines `\_S3`, if the firmware does not.
    pub ssdt: Option<u64>,
    /// Port of the real control register, to which requests to power the machine off are passed on.
    pub control: u16,
}

/// Builds the tables at `area`, with the words and the FACS in `page`. Both lie below 4 GB.
///
/// # Errors
/// [`SleepError`].
pub fn build(tables: &Tables, memory: &impl FirmwareMemory, area: u64, page: u64) -> Result<SleepTables, SleepError> {
    let original = tables.read(*b"FACP", memory)?;
    let known = Fadt::parse(&original)?;
    if known.hardware_reduced {
        return Err(SleepError::HardwareReduced);
    }
    let [Some(GenericAddress::Port(control)), None] = known.pm1_control else {
        return Err(SleepError::Control);
    };
    let [Some(GenericAddress::Port(event)), None] = known.pm1_event else {
        return Err(SleepError::Event);
    };
    let mut words = vec![0; shared_region::PAGE_SIZE as usize];
    put(&mut words, standby::PM1_CONTROL as usize, &SCI_ENABLED.to_le_bytes());
    put(&mut words, standby::FACS as usize, &facs(known.facs, memory));
    let mut writes = vec![
        Write {
            address: page,
            bytes: words,
        },
        Write {
            address: area,
            bytes: fadt(&original, &known, event, page),
        },
    ];
    let ssdt = (!defines_s3(tables, &known, memory)).then(|| area + SSDT_OFFSET);
    writes.extend(ssdt.map(|address| Write {
        address,
        bytes: ssdt_with_s3(),
    }));
    Ok(SleepTables {
        writes,
        fadt: area,
        ssdt,
        control,
    })
}

/// 12 bytes of a generic address (ACPI 6.5, 5.2.3.2).
fn generic(space: u8, bits: u8, access: u8, address: u64) -> [u8; 12] {
    let mut out = [space, bits, 0, access, 0, 0, 0, 0, 0, 0, 0, 0];
    put(&mut out, 4, &address.to_le_bytes());
    out
}

fn fadt(original: &[u8], known: &Fadt, event: u16, page: u64) -> Vec<u8> {
    const MEMORY: u8 = 0;
    const PORT: u8 = 1;
    let mut out = vec![0; FADT_LENGTH];
    // An ACPI 1.0 table ends before the reset register.
    let kept = original.len().min(FADT_LENGTH);
    put(&mut out, 0, original.get(..kept).unwrap_or_default());
    put(&mut out, 4, &(FADT_LENGTH as u32).to_le_bytes());
    put(&mut out, 8, &[FADT_REVISION]);
    put(
        &mut out,
        field::FIRMWARE_CTRL,
        &((page + standby::FACS) as u32).to_le_bytes(),
    );
    put(&mut out, field::X_FIRMWARE_CTRL, &[0; 8]);
    put(&mut out, field::X_DSDT, &known.dsdt.to_le_bytes());
    // Without an SMI command the kernel takes ACPI mode for given.
    put(&mut out, field::SMI_COMMAND, &[0; 8]);
    put(&mut out, field::PM1A_CONTROL, &[0; 4]);
    put(&mut out, field::PM1_CONTROL_LENGTH, &[2]);
    let control = generic(MEMORY, 16, 2, page + standby::PM1_CONTROL);
    put(&mut out, field::X_PM1A_CONTROL, &control);
    put(&mut out, field::X_PM1A_EVENT, &generic(PORT, 32, 0, u64::from(event)));
    // A reset register in the same page gets the page mapped early; the control register alone is not, and is written
    // when nothing can be mapped any more.
    let flags = u32_at(&out, field::FLAGS).unwrap_or(0) | RESET_SUPPORTED;
    put(&mut out, field::FLAGS, &flags.to_le_bytes());
    put(
        &mut out,
        field::RESET_REGISTER,
        &generic(MEMORY, 8, 1, page + standby::RESET),
    );
    put(&mut out, field::RESET_VALUE, &[standby::RESET_VALUE]);
    set_checksum(&mut out, 9);
    out
}

/// A copy of the firmware's FACS without waking vectors, or an empty one.
fn facs(address: u64, memory: &impl FirmwareMemory) -> [u8; standby::FACS_SIZE as usize] {
    let mut out = [0; standby::FACS_SIZE as usize];
    if address == 0 || !memory.read(address, &mut out) || !out.starts_with(b"FACS") {
        out = [0; standby::FACS_SIZE as usize];
        put(&mut out, 0, b"FACS");
    }
    put(&mut out, 4, &(standby::FACS_SIZE as u32).to_le_bytes());
    put(&mut out, 12, &[0; 4]);
    put(&mut out, 24, &[0; 8]);
    out
}

/// Whether the name `_S3_` occurs in the DSDT or an SSDT. A second definition would be refused by the kernel with a
/// message, and change nothing.
fn defines_s3(tables: &Tables, known: &Fadt, memory: &impl FirmwareMemory) -> bool {
    let ssdts = tables.list.iter().filter(|table| table.signature == *b"SSDT");
    let addresses = core::iter::once(known.dsdt).chain(ssdts.map(|table| table.address));
    addresses.into_iter().any(|address| {
        let mut header = [0; HEADER_LENGTH];
        if address == 0 || !memory.read(address, &mut header) {
            return false;
        }
        let length = u32_at(&header, 4).unwrap_or(0).min(super::MAX_TABLE);
        let mut aml = vec![0; length as usize];
        memory.read(address, &mut aml) && aml.windows(4).any(|name| name == b"_S3_")
    })
}

fn ssdt_with_s3() -> Vec<u8> {
    let mut out = vec![0; HEADER_LENGTH];
    out.extend_from_slice(&S3_PACKAGE);
    let length = out.len() as u32;
    put(&mut out, 0, b"SSDT");
    put(&mut out, 4, &length.to_le_bytes());
    put(&mut out, 8, &[2]);
    put(&mut out, 10, b"ORTHRSORTHROSS");
    set_checksum(&mut out, 9);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

    const AREA: u64 = 0x7077_C000;
    const PAGE: u64 = 0x7077_E000;

    fn built() -> SleepTables {
        let (rsdp, memory) = testing::firmware(&[0, 1]);
        let tables = Tables::find(&rsdp, &memory).unwrap();
        build(&tables, &memory, AREA, PAGE).unwrap()
    }

    fn bytes(built: &SleepTables, address: u64) -> &[u8] {
        &built
            .writes
            .iter()
            .find(|write| write.address == address)
            .unwrap()
            .bytes
    }

    #[test]
    fn sleeping_lands_in_the_page_and_events_stay_real() {
        let built = built();
        let table = bytes(&built, built.fadt);
        assert_eq!(table.iter().fold(0u8, |sum, &b| sum.wrapping_add(b)), 0);
        let fadt = Fadt::parse(table).unwrap();
        assert_eq!(fadt.pm1_control, [Some(GenericAddress::Memory(PAGE)), None]);
        assert_eq!(fadt.pm1_event, [Some(GenericAddress::Port(0x600)), None]);
        assert_eq!((fadt.pm_timer, fadt.sci, fadt.dsdt), (Some(0x608), 9, 0x7FFE_0040));
        assert_eq!(fadt.facs, PAGE + standby::FACS);
        let reset = fadt.reset.unwrap();
        assert_eq!(reset.register, GenericAddress::Memory(PAGE + standby::RESET));
        assert_eq!((reset.value, built.control), (standby::RESET_VALUE, 0x604));
        assert_eq!(u32_at(table, field::SMI_COMMAND), Some(0));
    }

    #[test]
    fn the_page_starts_in_acpi_mode_with_an_empty_facs() {
        let built = built();
        let page = bytes(&built, PAGE);
        assert_eq!(page[..2], SCI_ENABLED.to_le_bytes());
        assert!(page[standby::FACS as usize..].starts_with(b"FACS\x40\0\0\0"));
        assert_eq!(u32_at(page, standby::FACS as usize + 12), Some(0));
    }

    #[test]
    fn a_machine_without_s3_gets_it_and_one_with_it_does_not() {
        let with = built();
        assert_eq!(with.ssdt, Some(AREA + SSDT_OFFSET));
        let ssdt = bytes(&with, AREA + SSDT_OFFSET);
        assert_eq!(ssdt.len(), 49);
        assert_eq!(ssdt.iter().fold(0u8, |sum, &b| sum.wrapping_add(b)), 0);

        let (rsdp, mut memory) = testing::firmware(&[0, 1]);
        let mut dsdt = ssdt.to_vec();
        dsdt[..4].copy_from_slice(b"DSDT");
        memory.put(0x7FFE_0040, &dsdt);
        let tables = Tables::find(&rsdp, &memory).unwrap();
        assert_eq!(build(&tables, &memory, AREA, PAGE).unwrap().ssdt, None);
    }

    proptest! {
        #[test]
        fn corrupted_firmware_is_refused_or_used(at in 0u64..0x300, value in any::<u8>()) {
            let (rsdp, mut memory) = testing::firmware(&[0, 1]);
            memory.put(0x7FFE_0000 + at, &[value]);
            if let Ok(tables) = Tables::find(&rsdp, &memory) {
                let _ = build(&tables, &memory, AREA, PAGE);
            }
        }
    }
}
