//! Timers, interrupt controllers and DMA remapping units, by the firmware's ACPI tables.

use alloc::vec::Vec;
use boot_plan::acpi::{rsdp::RSDP_MAX, AcpiError, Fadt, FirmwareMemory, GenericAddress, Madt, Tables};
use machine::reset::ResetRegister;
use machine::Ring0;
use shared_region::header::Header;

/// The firmware's tables, which nobody writes after the machine has started.
pub struct Firmware(Ring0);

impl Firmware {
    /// Tables lie below 4 GB, or are not read.
    pub const fn new(ring0: Ring0) -> Self {
        Self(ring0)
    }

    /// The tables the RSDP structure at this address leads to.
    ///
    /// # Errors
    /// [`AcpiError`].
    pub fn tables(&self, rsdp: u64) -> Result<Tables, AcpiError> {
        // A structure of revision 0 is shorter; what follows it is then not looked at.
        let mut bytes = [0; RSDP_MAX];
        if !self.read(rsdp, &mut bytes) {
            return Err(AcpiError::NoRsdp);
        }
        Tables::find(&bytes, self)
    }
}

impl FirmwareMemory for Firmware {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let in_reach = address != 0 && address.checked_add(into.len() as u64).is_some_and(|end| end <= 1 << 32);
        if in_reach {
            for (at, byte) in into.iter_mut().enumerate() {
                // SAFETY: 1. mapped: below 4 GB (`Ring0`, 2). 2. Any bytes are valid as `u8`; volatile because the
                // address is the firmware's word.
                *byte = unsafe { ((address + at as u64) as *const u8).read_volatile() };
            }
        }
        in_reach
    }
}

/// What is known of the machine's fixed devices. An absent table leaves its devices out.
#[derive(Clone, Debug, Default)]
pub struct Platform {
    /// I/O port of the power-management timer, 0 if there is none.
    pub pm_timer_port: u16,
    /// Physical address of the HPET.
    pub hpet: Option<u64>,
    /// Physical addresses of the I/O interrupt controllers.
    pub ioapics: Vec<u64>,
    /// Physical addresses of the DMA remapping units.
    pub vtd: Vec<u64>,
    /// The reset register.
    pub reset: Option<ResetRegister>,
}

/// Address of the one I/O interrupt controller of a PC without an MADT.
const IOAPIC_DEFAULT: u64 = 0xFEC0_0000;

impl Platform {
    /// Reads the tables.
    pub fn read(ring0: Ring0, header: &Header) -> Self {
        let mut platform = Self {
            pm_timer_port: u16::try_from(header.pm_timer_port).unwrap_or(0),
            ..Self::default()
        };
        if let Err(error) = platform.read_tables(&Firmware::new(ring0), header.rsdp) {
            log::warn!("platform: {error}");
        }
        if platform.ioapics.is_empty() {
            platform.ioapics.push(IOAPIC_DEFAULT);
        }
        platform
    }

    fn read_tables(&mut self, memory: &Firmware, rsdp: u64) -> Result<(), AcpiError> {
        let tables = memory.tables(rsdp)?;
        self.hpet = tables.hpet(memory);
        self.vtd = tables
            .read(*b"DMAR", memory)
            .map(|table| remapping_units(&table))
            .unwrap_or_default();
        self.ioapics = Madt::parse(tables.read(*b"APIC", memory)?)?.io_apics;
        let fadt = Fadt::parse(&tables.read(*b"FACP", memory)?)?;
        self.reset = fadt.reset.map(|reset| match reset.register {
            GenericAddress::Memory(address) => ResetRegister::Memory {
                address,
                value: reset.value,
            },
            GenericAddress::Port(port) => ResetRegister::Port {
                port,
                value: reset.value,
            },
            GenericAddress::Pci {
                device,
                function,
                offset,
            } => ResetRegister::Pci {
                device,
                function,
                offset,
                value: reset.value,
            },
        });
        Ok(())
    }
}

/// The hardware units of a DMA remapping table (Intel Virtualization Technology for Directed I/O specification 4.1,
/// 8.1 and 8.3).
fn remapping_units(dmar: &[u8]) -> Vec<u64> {
    const FIRST: usize = 48;
    const HARDWARE_UNIT: u16 = 0;
    let mut units = Vec::new();
    let mut rest = dmar.get(FIRST..).unwrap_or_default();
    while let Some(&[kind0, kind1, length0, length1]) = rest.first_chunk() {
        let length = usize::from(u16::from_le_bytes([length0, length1]));
        let Some(base) = rest.get(8..16).filter(|_| length >= 16) else {
            break;
        };
        let base = base.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte));
        if u16::from_le_bytes([kind0, kind1]) == HARDWARE_UNIT
            && base != 0
            && base < 1 << 32
            && base.is_multiple_of(4096)
        {
            units.push(base);
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    units
}

impl core::fmt::Display for Platform {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "PM timer port {:#x}, HPET {:#x}, IOAPICs {:x?}, DMA remapping units {:x?}, reset register {}",
            self.pm_timer_port,
            self.hpet.unwrap_or(0),
            self.ioapics,
            self.vtd,
            if self.reset.is_some() { "present" } else { "absent" }
        )
    }
}
