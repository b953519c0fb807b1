//! The multiple APIC description table (ACPI 6.5, 5.2.12): CPUs and interrupt controllers.

use super::{set_checksum, AcpiError, HEADER_LENGTH};
use crate::bytes::{put, u32_at, u8_at};
use alloc::vec::Vec;
use shared_region::layout::MAX_CPUS;

const SIGNATURE: [u8; 4] = *b"APIC";
/// Where the entries start: behind the local APIC address and the flags.
const ENTRIES: usize = HEADER_LENGTH + 8;
const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const LOCAL_X2APIC: u8 = 9;
/// Flag of a processor entry: usable now.
const ENABLED: u32 = 1;
/// The id that addresses all CPUs in xAPIC mode.
const BROADCAST: u32 = 0xFF;

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Local APIC id.
    pub apic_id: u32,
    /// Usable now; otherwise a place where one could be plugged in.
    pub enabled: bool,
}

/// A checked table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Madt {
    /// The whole table.
    bytes: Vec<u8>,
    /// Its processors, each id once, in the table's order.
    pub processors: Vec<Processor>,
    /// Addresses of its I/O APICs.
    pub io_apics: Vec<u64>,
}

/// One entry of the table.
#[derive(Clone, Copy)]
struct Entry<'a> {
    bytes: &'a [u8],
}

impl Entry<'_> {
    fn kind(&self) -> u8 {
        u8_at(self.bytes, 0).unwrap_or(0xFF)
    }

    fn processor(&self) -> Option<Processor> {
        let (apic_id, flags) = match self.kind() {
            LOCAL_APIC => (u32::from(u8_at(self.bytes, 3)?), u32_at(self.bytes, 4)?),
            LOCAL_X2APIC => (u32_at(self.bytes, 4)?, u32_at(self.bytes, 8)?),
            _ => return None,
        };
        Some(Processor {
            apic_id,
            enabled: flags & ENABLED != 0,
        })
    }
}

fn entries(table: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, AcpiError>> + '_ {
    let mut at = ENTRIES;
    core::iter::from_fn(move || {
        if at >= table.len() {
            return None;
        }
        let error = AcpiError::Malformed {
            signature: SIGNATURE,
            at,
        };
        let length = usize::from(u8_at(table, at.saturating_add(1)).unwrap_or(0));
        let entry = (length >= 2)
            .then(|| table.get(at..at.saturating_add(length)))
            .flatten();
        at = match entry {
            Some(_) => at.saturating_add(length),
            None => table.len(),
        };
        Some(entry.map(|bytes| Entry { bytes }).ok_or(error))
    })
}

impl Madt {
    /// Reads a table whose checksum is right.
    ///
    /// # Errors
    /// [`AcpiError::Malformed`].
    pub fn parse(bytes: Vec<u8>) -> Result<Self, AcpiError> {
        if bytes.len() < ENTRIES {
            return Err(AcpiError::Malformed {
                signature: SIGNATURE,
                at: bytes.len(),
            });
        }
        let mut processors: Vec<Processor> = Vec::new();
        let mut io_apics = Vec::new();
        for entry in entries(&bytes) {
            let entry = entry?;
            if let Some(processor) = entry.processor() {
                match processors.iter_mut().find(|p| p.apic_id == processor.apic_id) {
                    Some(known) => known.enabled |= processor.enabled,
                    None => processors.push(processor),
                }
            }
            if entry.kind() == IO_APIC {
                io_apics.extend(u32_at(entry.bytes, 4).map(u64::from));
            }
        }
        Ok(Self {
            bytes,
            processors,
            io_apics,
        })
    }

    /// A copy without the CPU `removed`, with the one of `first` listed before all others (Linux from 6.9 on takes the
    /// first entry for the boot CPU's and drops it if it is not).
    pub fn without(&self, removed: u32, first: u32) -> Vec<u8> {
        let of = |entry: &Entry| entry.processor().map(|p| p.apic_id);
        let kept = || entries(&self.bytes).flatten().filter(|e| of(e) != Some(removed));
        let mut out = self.bytes.get(..ENTRIES).unwrap_or_default().to_vec();
        for entry in kept().filter(|e| of(e) == Some(first)) {
            out.extend_from_slice(entry.bytes);
        }
        for entry in kept().filter(|e| of(e) != Some(first)) {
            out.extend_from_slice(entry.bytes);
        }
        let length = out.len() as u32;
        put(&mut out, 4, &length.to_le_bytes());
        set_checksum(&mut out, 9);
        out
    }
}

/// Who gets which CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// Linux's, bootstrap processor first.
    pub linux: Vec<u8>,
    /// The backup OS's.
    pub reserved: u8,
}

/// Why no CPU can be set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuError {
    /// There is only one.
    OnlyOne,
    /// There are more than the region has room for.
    TooMany(usize),
    /// An id does not fit into 8 bits.
    Id(u32),
    /// The CPU that runs this is not in the table.
    NoBootstrap(u32),
}

impl core::fmt::Display for CpuError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OnlyOne => write!(f, "only one CPU: two are needed, one of them for the backup OS"),
            Self::TooMany(count) => write!(f, "{count} CPUs; at most {MAX_CPUS} are supported"),
            Self::Id(id) => write!(f, "a CPU has local APIC id {id}; ids up to 254 are supported"),
            Self::NoBootstrap(id) => write!(f, "the boot CPU (local APIC id {id}) is missing from the ACPI MADT"),
        }
    }
}

impl core::error::Error for CpuError {}

impl Cpus {
    /// Sets the CPU with the highest id aside that is not `bootstrap`.
    ///
    /// # Errors
    /// [`CpuError`].
    pub fn divide(madt: &Madt, bootstrap: u32) -> Result<Self, CpuError> {
        let mut ids: Vec<u32> = madt
            .processors
            .iter()
            .filter(|p| p.enabled)
            .map(|p| p.apic_id)
            .collect();
        if ids.len() > MAX_CPUS {
            return Err(CpuError::TooMany(ids.len()));
        }
        if let Some(&id) = ids.iter().find(|&&id| id >= BROADCAST) {
            return Err(CpuError::Id(id));
        }
        if !ids.contains(&bootstrap) {
            return Err(CpuError::NoBootstrap(bootstrap));
        }
        ids.retain(|&id| id != bootstrap);
        let reserved = ids.iter().copied().max().ok_or(CpuError::OnlyOne)?;
        let linux = core::iter::once(bootstrap).chain(ids.into_iter().filter(|&id| id != reserved));
        Ok(Self {
            linux: linux.map(|id| id as u8).collect(),
            reserved: reserved as u8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{acpi::sum, testing};
    use proptest::prelude::*;

    #[test]
    fn processors_and_io_apics_are_found() {
        let madt = Madt::parse(testing::madt(&[0, 1, 2, 3])).unwrap();
        assert_eq!(madt.processors.len(), 4);
        assert_eq!(madt.io_apics, [0xFEC0_0000]);
    }

    #[test]
    fn the_copy_lacks_the_reserved_core_in_both_kinds_of_entry_and_starts_with_the_bootstrap() {
        let mut table = testing::madt(&[0, 1, 2, 3]);
        let mut x2apic = [0u8; 16];
        x2apic[0] = 9;
        x2apic[1] = 16;
        x2apic[4] = 3;
        x2apic[8] = 1;
        table.extend_from_slice(&x2apic);
        let copy = Madt::parse(table).unwrap().without(3, 1);
        assert_eq!(sum(&copy), 0);
        assert_eq!(u32_at(&copy, 4), Some(copy.len() as u32));
        let ids: Vec<u32> = Madt::parse(copy)
            .unwrap()
            .processors
            .iter()
            .map(|p| p.apic_id)
            .collect();
        assert_eq!(ids, [1, 0, 2]);
    }

    #[test]
    fn the_highest_id_is_set_aside() {
        let madt = Madt::parse(testing::madt(&[0, 2, 1, 6])).unwrap();
        let cpus = Cpus::divide(&madt, 0).unwrap();
        assert_eq!((cpus.linux.as_slice(), cpus.reserved), (&[0u8, 2, 1][..], 6));
        assert_eq!(Cpus::divide(&madt, 6).unwrap().reserved, 2);
    }

    #[test]
    fn machines_that_cannot_spare_a_cpu_are_refused() {
        let one = Madt::parse(testing::madt(&[0])).unwrap();
        assert_eq!(Cpus::divide(&one, 0), Err(CpuError::OnlyOne));
        assert_eq!(Cpus::divide(&one, 5), Err(CpuError::NoBootstrap(5)));
        let many: Vec<u8> = (0..=255).collect();
        let madt = Madt::parse(testing::madt(&many)).unwrap();
        assert_eq!(Cpus::divide(&madt, 0), Err(CpuError::Id(255)));
    }

    proptest! {
        #[test]
        fn hostile_tables_end(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut table = testing::madt(&[0, 1]);
            table.extend(tail);
            if let Ok(madt) = Madt::parse(table) {
                let copy = madt.without(1, 0);
                prop_assert_eq!(sum(&copy), 0);
                prop_assert!(Madt::parse(copy).unwrap().processors.iter().all(|p| p.apic_id != 1));
            }
        }
    }
}
