//! The root system description pointer (ACPI 6.5, 5.2.5.3).

use super::{set_checksum, sum, AcpiError};
use crate::bytes::{array_at, put, u32_at, u64_at, u8_at};

const SIGNATURE: [u8; 8] = *b"RSD PTR ";
/// Bytes of revision 0, and of the part its checksum covers.
const RSDP_V1: usize = 20;
/// Bytes of revision 2.
pub const RSDP_MAX: usize = 36;

/// What the structure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rsdp {
    /// OEM id.
    pub oem: [u8; 6],
    /// Address of the XSDT, or of the RSDT.
    pub root: u64,
    /// Whether `root` is an XSDT (64-bit entries).
    pub extended: bool,
}

impl Rsdp {
    /// Reads and checks a copy of the structure.
    ///
    /// # Errors
    /// [`AcpiError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, AcpiError> {
        let signature = *b"RSDP";
        let malformed = |at| AcpiError::Malformed { signature, at };
        let checksum = AcpiError::Checksum { signature, address: 0 };
        if array_at(bytes, 0) != Some(SIGNATURE) {
            return Err(malformed(0));
        }
        if sum(bytes.get(..RSDP_V1).ok_or(malformed(RSDP_V1))?) != 0 {
            return Err(checksum);
        }
        let oem = array_at(bytes, 9).ok_or(malformed(9))?;
        let rsdt = u64::from(u32_at(bytes, 16).ok_or(malformed(16))?);
        if u8_at(bytes, 15).is_some_and(|revision| revision >= 2) {
            let whole = bytes.get(..RSDP_MAX).ok_or(malformed(RSDP_MAX))?;
            if sum(whole) != 0 {
                return Err(checksum);
            }
            let xsdt = u64_at(whole, 24).ok_or(malformed(24))?;
            if xsdt != 0 {
                return Ok(Self {
                    oem,
                    root: xsdt,
                    extended: true,
                });
            }
        }
        if rsdt == 0 {
            return Err(malformed(16));
        }
        Ok(Self {
            oem,
            root: rsdt,
            extended: false,
        })
    }

    /// A structure of revision 2 that points to an XSDT and to no RSDT.
    pub fn pointing_to(oem: [u8; 6], xsdt: u64) -> [u8; RSDP_MAX] {
        let mut out = [0; RSDP_MAX];
        put(&mut out, 0, &SIGNATURE);
        put(&mut out, 9, &oem);
        put(&mut out, 15, &[2]);
        put(&mut out, 20, &(RSDP_MAX as u32).to_le_bytes());
        put(&mut out, 24, &xsdt.to_le_bytes());
        if let Some(first) = out.get_mut(..RSDP_V1) {
            set_checksum(first, 8);
        }
        set_checksum(&mut out, 32);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_built_is_read() {
        let bytes = Rsdp::pointing_to(*b"ORTHRO", 0x7000_0040);
        assert_eq!(
            Rsdp::parse(&bytes),
            Ok(Rsdp {
                oem: *b"ORTHRO",
                root: 0x7000_0040,
                extended: true
            })
        );
    }

    #[test]
    fn an_old_structure_points_to_an_rsdt() {
        let mut bytes = [0u8; 20];
        bytes[..8].copy_from_slice(b"RSD PTR ");
        bytes[16..20].copy_from_slice(&0x7FFE_2000u32.to_le_bytes());
        set_checksum(&mut bytes, 8);
        let rsdp = Rsdp::parse(&bytes).unwrap();
        assert_eq!((rsdp.root, rsdp.extended), (0x7FFE_2000, false));
        bytes[17] ^= 1;
        assert!(matches!(Rsdp::parse(&bytes), Err(AcpiError::Checksum { .. })));
    }

    proptest! {
        #[test]
        fn hostile_structures_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Rsdp::parse(&bytes);
        }
    }
}
