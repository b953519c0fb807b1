//! The tables handed to a kernel.

use super::{rsdp::Rsdp, set_checksum, AcpiError, FirmwareMemory, Madt, Signature, Tables, HEADER_LENGTH};
use crate::{bytes::put, plan::Write, span::Span};
use alloc::vec::Vec;

/// How a kernel's tables differ from the firmware's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// Local APIC id of the CPU that is left out.
    pub reserved: u32,
    /// Local APIC id of the CPU that is listed first.
    pub bootstrap: u32,
    /// Tables that another one takes the place of, by name and new address.
    pub replaced: &'a [(Signature, u64)],
    /// Addresses of tables that are added.
    pub added: &'a [u64],
}

/// Copies laid out in memory, not yet written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    /// Address of the RSDP structure, for `boot_params.acpi_rsdp_addr`.
    pub rsdp: u64,
    /// What to write where.
    pub writes: Vec<Write>,
    /// First free byte behind them.
    pub end: u64,
}

/// The RSDP structure has to be aligned to 16; tables are, as firmware does it, too.
const ALIGN: u64 = 16;

/// Lays the copies out from the start of `area` on: RSDP structure, XSDT, MADT.
///
/// # Errors
/// [`AcpiError`]: the MADT is missing or malformed, or the area too small.
pub fn copy_tables(
    tables: &Tables,
    memory: &impl FirmwareMemory,
    changes: &Changes,
    area: Span,
) -> Result<Copies, AcpiError> {
    const MADT: Signature = *b"APIC";
    let madt = Madt::parse(tables.read(MADT, memory)?)?.without(changes.reserved, changes.bootstrap);
    let next = |at: u64, length: usize| (at + length as u64).next_multiple_of(ALIGN);
    let rsdp_at = area.start;
    let madt_at = next(rsdp_at, super::rsdp::RSDP_MAX);
    let xsdt_at = next(madt_at, madt.len());

    let mut seen_madt = false;
    let listed = tables.list.iter().filter_map(|table| {
        if table.signature == MADT {
            // A second MADT would bring the reserved core back.
            return (!core::mem::replace(&mut seen_madt, true)).then_some(madt_at);
        }
        let replaced = changes
            .replaced
            .iter()
            .find(|(signature, _)| *signature == table.signature);
        Some(replaced.map_or(table.address, |&(_, address)| address))
    });
    let addresses: Vec<u64> = listed.chain(changes.added.iter().copied()).collect();
    let xsdt = xsdt(tables, memory, &addresses)?;
    let end = next(xsdt_at, xsdt.len());
    if end > area.end {
        return Err(AcpiError::Room {
            needed: end.saturating_sub(area.start),
            room: area.len(),
        });
    }
    let rsdp = Rsdp::pointing_to(tables.rsdp.oem, xsdt_at);
    let writes = [(rsdp_at, rsdp.to_vec()), (madt_at, madt), (xsdt_at, xsdt)];
    Ok(Copies {
        rsdp: rsdp_at,
        writes: writes.map(|(address, bytes)| Write { address, bytes }).into(),
        end,
    })
}

fn xsdt(tables: &Tables, memory: &impl FirmwareMemory, addresses: &[u64]) -> Result<Vec<u8>, AcpiError> {
    let header = tables.root_header(memory).ok_or(AcpiError::Unreadable {
        signature: *b"XSDT",
        address: tables.rsdp.root,
    })?;
    let mut out = header.to_vec();
    for address in addresses {
        out.extend_from_slice(&address.to_le_bytes());
    }
    let length = (HEADER_LENGTH + 8 * addresses.len()) as u32;
    put(&mut out, 0, b"XSDT");
    put(&mut out, 4, &length.to_le_bytes());
    put(&mut out, 8, &[1]);
    set_checksum(&mut out, 9);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        acpi::Fadt,
        testing::{firmware, SparseMemory},
    };
    use proptest::prelude::*;

    const AREA: Span = Span {
        start: 0x7070_0000,
        end: 0x7078_0000,
    };

    fn written(memory: &SparseMemory, copies: &Copies) -> SparseMemory {
        let mut memory = memory.clone();
        for write in &copies.writes {
            memory.put(write.address, &write.bytes);
        }
        memory
    }

    fn rsdp_bytes(memory: &SparseMemory, address: u64) -> [u8; 36] {
        let mut bytes = [0; 36];
        assert!(memory.read(address, &mut bytes));
        bytes
    }

    #[test]
    fn a_kernel_that_follows_the_copies_does_not_see_the_reserved_core() {
        let (rsdp, memory) = firmware(&[0, 1, 2, 3]);
        let tables = Tables::find(&rsdp, &memory).unwrap();
        let changes = Changes {
            reserved: 3,
            bootstrap: 0,
            ..Changes::default()
        };
        let copies = copy_tables(&tables, &memory, &changes, AREA).unwrap();
        let memory = written(&memory, &copies);
        let seen = Tables::find(&rsdp_bytes(&memory, copies.rsdp), &memory).unwrap();
        assert!(seen.rsdp.extended);
        let madt = Madt::parse(seen.read(*b"APIC", &memory).unwrap()).unwrap();
        assert_eq!(madt.processors.len(), 3);
        assert_eq!(madt.io_apics, [0xFEC0_0000]);
        assert_eq!(
            Fadt::parse(&seen.read(*b"FACP", &memory).unwrap()).unwrap().pm_timer,
            Some(0x608)
        );
        assert_eq!(seen.hpet(&memory), Some(0xFED0_0000));
        assert_eq!(seen.list.len(), tables.list.len());
    }

    #[test]
    fn tables_can_be_replaced_and_added() {
        let (rsdp, memory) = firmware(&[0, 1]);
        let tables = Tables::find(&rsdp, &memory).unwrap();
        let changes = Changes {
            reserved: 1,
            bootstrap: 0,
            replaced: &[(*b"FACP", 0x7070_4000)],
            added: &[0x7070_5000],
        };
        let copies = copy_tables(&tables, &memory, &changes, AREA).unwrap();
        let mut memory = written(&memory, &copies);
        memory.put(0x7070_4000, b"FACP");
        memory.put(0x7070_5000, b"SSDT");
        let seen = Tables::find(&rsdp_bytes(&memory, copies.rsdp), &memory).unwrap();
        let at = |signature: Signature| seen.list.iter().find(|t| t.signature == signature).map(|t| t.address);
        assert_eq!((at(*b"FACP"), at(*b"SSDT")), (Some(0x7070_4000), Some(0x7070_5000)));
    }

    #[test]
    fn an_area_too_small_is_refused_with_numbers() {
        let (rsdp, memory) = firmware(&[0, 1]);
        let tables = Tables::find(&rsdp, &memory).unwrap();
        let area = Span::of(0x1000, 64);
        assert!(matches!(
            copy_tables(&tables, &memory, &Changes::default(), area),
            Err(AcpiError::Room { room: 64, .. })
        ));
    }

    proptest! {
        #[test]
        fn corrupted_firmware_is_refused_or_copied(at in 0u64..0x400, value in any::<u8>()) {
            let (rsdp, mut memory) = firmware(&[0, 1, 2, 3]);
            memory.put(0x7FFE_0000 + at, &[value]);
            if let Ok(tables) = Tables::find(&rsdp, &memory) {
                let _ = tables.hpet(&memory);
                let _ = copy_tables(&tables, &memory, &Changes { reserved: 3, ..Changes::default() }, AREA);
            }
        }
    }
}
