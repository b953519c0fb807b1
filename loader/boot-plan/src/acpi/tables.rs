//! The list of tables, from the RSDT or XSDT (ACPI 6.5, 5.2.7 and 5.2.8).

use super::{rsdp::Rsdp, sum, AcpiError, FirmwareMemory, Signature, HEADER_LENGTH, MAX_TABLE};
use crate::bytes::{array_at, u32_at, u64_at};
use alloc::{vec, vec::Vec};

/// More tables than this are not believed.
const MAX_TABLES: usize = 512;

/// A table in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub signature: Signature,
    /// Where it lies.
    pub address: u64,
}

/// All tables of the firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// The structure they were found through.
    pub rsdp: Rsdp,
    /// The tables, in the firmware's order.
    pub list: Vec<Table>,
}

/// Reads a whole table and checks its checksum.
fn read_table(memory: &impl FirmwareMemory, address: u64, signature: Signature) -> Result<Vec<u8>, AcpiError> {
    let unreadable = AcpiError::Unreadable { signature, address };
    let mut header = [0; HEADER_LENGTH];
    if !memory.read(address, &mut header) {
        return Err(unreadable);
    }
    let length = u32_at(&header, 4).unwrap_or(0);
    if !(HEADER_LENGTH as u32..=MAX_TABLE).contains(&length) {
        return Err(AcpiError::Malformed { signature, at: 4 });
    }
    let mut table = vec![0; length as usize];
    if !memory.read(address, &mut table) {
        return Err(unreadable);
    }
    if sum(&table) != 0 {
        return Err(AcpiError::Checksum { signature, address });
    }
    Ok(table)
}

impl Tables {
    /// Follows a copy of the RSDP structure.
    ///
    /// # Errors
    /// [`AcpiError`]. A single table in the list that cannot be read is left out, as Linux would.
    pub fn find(rsdp: &[u8], memory: &impl FirmwareMemory) -> Result<Self, AcpiError> {
        let rsdp = Rsdp::parse(rsdp)?;
        let (signature, width) = if rsdp.extended { (*b"XSDT", 8) } else { (*b"RSDT", 4) };
        let root = read_table(memory, rsdp.root, signature)?;
        let mut list = Vec::new();
        for entry in root
            .get(HEADER_LENGTH..)
            .unwrap_or_default()
            .chunks_exact(width)
            .take(MAX_TABLES)
        {
            let address = u64_at(entry, 0)
                .or_else(|| u32_at(entry, 0).map(u64::from))
                .unwrap_or(0);
            let mut name = [0; 4];
            if address != 0 && memory.read(address, &mut name) {
                list.push(Table {
                    signature: name,
                    address,
                });
            }
        }
        Ok(Self { rsdp, list })
    }

    /// The first table of a name, as bytes.
    ///
    /// # Errors
    /// [`AcpiError`]: missing, unreadable, malformed, wrong checksum.
    pub fn read(&self, signature: Signature, memory: &impl FirmwareMemory) -> Result<Vec<u8>, AcpiError> {
        let table = self
            .list
            .iter()
            .find(|t| t.signature == signature)
            .ok_or(AcpiError::Missing(signature))?;
        read_table(memory, table.address, signature)
    }

    /// The HPET's address, if there is one in memory (IA-PC HPET specification 1.0a, 3.2.4).
    pub fn hpet(&self, memory: &impl FirmwareMemory) -> Option<u64> {
        let table = self.read(*b"HPET", memory).ok()?;
        let [space, ..] = array_at::<12>(&table, 40)?;
        u64_at(&table, 44).filter(|&address| space == 0 && address != 0)
    }

    /// Bytes 8 to 35 of the root table's header: what a copy of it keeps.
    pub(super) fn root_header(&self, memory: &impl FirmwareMemory) -> Option<[u8; HEADER_LENGTH]> {
        let mut header = [0; HEADER_LENGTH];
        memory.read(self.rsdp.root, &mut header).then_some(header)
    }
}
