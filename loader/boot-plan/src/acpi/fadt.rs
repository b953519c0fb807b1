//! The fixed ACPI description table (ACPI 6.5, 5.2.9): power management, timer and reset.

use super::{AcpiError, HEADER_LENGTH};
use crate::bytes::{u16_at, u32_at, u64_at, u8_at};

const SIGNATURE: [u8; 4] = *b"FACP";
/// Length of ACPI 1.0: everything up to and including the flags.
const MIN_LENGTH: usize = 116;
/// Flags: RESET_REG_SUP.
const RESET_SUPPORTED: u32 = 1 << 10;
/// Flags: HW_REDUCED_ACPI; there is no fixed hardware at all.
const HARDWARE_REDUCED: u32 = 1 << 20;

pub(super) mod field {
    pub const FIRMWARE_CTRL: usize = 36;
    pub const DSDT: usize = 40;
    pub const SCI_INT: usize = 46;
    pub const SMI_COMMAND: usize = 48;
    pub const PM1A_EVENT: usize = 56;
    pub const PM1B_EVENT: usize = 60;
    pub const PM1A_CONTROL: usize = 64;
    pub const PM1B_CONTROL: usize = 68;
    pub const PM_TIMER: usize = 76;
    pub const PM1_CONTROL_LENGTH: usize = 89;
    pub const FLAGS: usize = 112;
    pub const RESET_REGISTER: usize = 116;
    pub const RESET_VALUE: usize = 128;
    pub const X_FIRMWARE_CTRL: usize = 132;
    pub const X_DSDT: usize = 140;
    pub const X_PM1A_EVENT: usize = 148;
    pub const X_PM1B_EVENT: usize = 160;
    pub const X_PM1A_CONTROL: usize = 172;
    pub const X_PM1B_CONTROL: usize = 184;
    pub const X_PM_TIMER: usize = 208;
}

/// Address spaces of a generic address (ACPI 6.5, 5.2.3.2).
mod space {
    pub const MEMORY: u8 = 0;
    pub const PORT: u8 = 1;
    pub const PCI: u8 = 2;
}

/// A register somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenericAddress {
    /// In memory.
    Memory(u64),
    /// An I/O port.
    Port(u16),
    /// In the configuration space of bus 0.
    Pci {
        /// Device.
        device: u8,
        /// Function.
        function: u8,
        /// Offset.
        offset: u8,
    },
}

impl GenericAddress {
    /// Reads the 12-byte structure; `None` if it is empty or in a space nobody can reach from here.
    fn read(table: &[u8], at: usize) -> Option<Self> {
        let address = u64_at(table, at.checked_add(4)?)?;
        if address == 0 {
            return None;
        }
        match u8_at(table, at)? {
            space::MEMORY => Some(Self::Memory(address)),
            space::PORT => u16::try_from(address).ok().map(Self::Port),
            space::PCI => Some(Self::Pci {
                device: (address >> 32) as u8,
                function: (address >> 16) as u8,
                offset: address as u8,
            }),
            _ => None,
        }
    }
}

/// The reset register with what to write there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetRegister {
    /// Where.
    pub register: GenericAddress,
    /// What.
    pub value: u8,
}

/// What the table says. A block given in both widths is taken from the wide field, as Linux does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fadt {
    /// Port of the PM timer, if there is one.
    pub pm_timer: Option<u16>,
    /// Reset register, if the firmware supports it.
    pub reset: Option<ResetRegister>,
    /// PM1 event blocks, a and b.
    pub pm1_event: [Option<GenericAddress>; 2],
    /// PM1 control blocks, a and b.
    pub pm1_control: [Option<GenericAddress>; 2],
    /// Interrupt of the system control interrupt.
    pub sci: u16,
    /// Address of the FACS.
    pub facs: u64,
    /// Address of the DSDT.
    pub dsdt: u64,
    /// There is no fixed hardware: no PM timer and no PM1 blocks.
    pub hardware_reduced: bool,
}

impl Fadt {
    /// Reads a table whose checksum is right. Fields beyond its length do not exist.
    ///
    /// # Errors
    /// [`AcpiError::Malformed`] if it is shorter than ACPI 1.0's.
    pub fn parse(table: &[u8]) -> Result<Self, AcpiError> {
        if table.len() < MIN_LENGTH.max(HEADER_LENGTH) {
            return Err(AcpiError::Malformed {
                signature: SIGNATURE,
                at: table.len(),
            });
        }
        let port = |at| {
            u32_at(table, at)
                .and_then(|p| u16::try_from(p).ok())
                .filter(|&p| p != 0)
                .map(GenericAddress::Port)
        };
        let block = |wide, narrow| GenericAddress::read(table, wide).or_else(|| port(narrow));
        let pointer = |wide, narrow| match u64_at(table, wide) {
            Some(address) if address != 0 => address,
            _ => u64::from(u32_at(table, narrow).unwrap_or(0)),
        };
        let flags = u32_at(table, field::FLAGS).unwrap_or(0);
        let hardware_reduced = flags & HARDWARE_REDUCED != 0;
        let pm_timer = match block(field::X_PM_TIMER, field::PM_TIMER) {
            Some(GenericAddress::Port(port)) if !hardware_reduced => Some(port),
            _ => None,
        };
        let reset = (flags & RESET_SUPPORTED != 0)
            .then(|| {
                Some(ResetRegister {
                    register: GenericAddress::read(table, field::RESET_REGISTER)?,
                    value: u8_at(table, field::RESET_VALUE)?,
                })
            })
            .flatten();
        Ok(Self {
            pm_timer,
            reset,
            pm1_event: [
                block(field::X_PM1A_EVENT, field::PM1A_EVENT),
                block(field::X_PM1B_EVENT, field::PM1B_EVENT),
            ],
            pm1_control: [
                block(field::X_PM1A_CONTROL, field::PM1A_CONTROL),
                block(field::X_PM1B_CONTROL, field::PM1B_CONTROL),
            ],
            sci: u16_at(table, field::SCI_INT).unwrap_or(0),
            facs: pointer(field::X_FIRMWARE_CTRL, field::FIRMWARE_CTRL),
            dsdt: pointer(field::X_DSDT, field::DSDT),
            hardware_reduced,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

    #[test]
    fn an_acpi_1_table_is_read() {
        let fadt = Fadt::parse(&testing::fadt()).unwrap();
        assert_eq!(fadt.pm_timer, Some(0x608));
        assert_eq!(fadt.pm1_control, [Some(GenericAddress::Port(0x604)), None]);
        assert_eq!((fadt.reset, fadt.sci, fadt.dsdt), (None, 9, 0x7FFE_0040));
    }

    #[test]
    fn wide_fields_win_and_the_reset_register_is_found() {
        let mut table = testing::fadt();
        table.resize(244, 0);
        table[field::X_PM_TIMER] = space::PORT;
        table[field::X_PM_TIMER + 4..field::X_PM_TIMER + 6].copy_from_slice(&0x1808u16.to_le_bytes());
        table[field::FLAGS + 1] |= 4;
        table[field::RESET_REGISTER] = space::PORT;
        table[field::RESET_REGISTER + 4..field::RESET_REGISTER + 6].copy_from_slice(&0xCF9u16.to_le_bytes());
        table[field::RESET_VALUE] = 0x0F;
        let fadt = Fadt::parse(&table).unwrap();
        assert_eq!(fadt.pm_timer, Some(0x1808));
        assert_eq!(
            fadt.reset,
            Some(ResetRegister {
                register: GenericAddress::Port(0xCF9),
                value: 0x0F
            })
        );
    }

    proptest! {
        #[test]
        fn hostile_tables_are_read_or_refused(table in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Fadt::parse(&table);
        }
    }
}
