//! The packed kernel inside a bzImage (Documentation/arch/x86/boot.rst, `payload_offset` and `payload_length`).

use super::UnpackError;
use crate::bytes::{array_at, u32_at};
use crate::bzimage::BzImage;

const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24C;
/// The build puts the unpacked size behind the packed kernel (`size_append`, scripts/Makefile.lib).
const SIZE_BYTES: usize = 4;
/// The legacy format of the lz4 tool (lz4 documentation, "Legacy frame").
const LZ4_MAGIC: [u8; 4] = [0x02, 0x21, 0x4C, 0x18];
/// RFC 8878, 3.1.1.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// How it is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// lz4, legacy format.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// A packed kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// How it is packed.
    pub packing: Packing,
    /// The packed bytes, magic included.
    pub packed: &'a [u8],
    /// Bytes it unpacks to.
    pub size: u64,
}

impl<'a> Payload<'a> {
    /// Finds the packed kernel of `image`, which was read from `file`.
    ///
    /// # Errors
    /// [`UnpackError::Payload`], [`UnpackError::Packing`].
    pub fn find(image: &BzImage, file: &'a [u8]) -> Result<Self, UnpackError> {
        let field = |at| u32_at(file, at).map(u64::from).ok_or(UnpackError::Payload);
        let (offset, length) = (field(PAYLOAD_OFFSET)?, field(PAYLOAD_LENGTH)?);
        let end = offset.checked_add(length).filter(|&end| end <= image.kernel_length);
        let end = end.ok_or(UnpackError::Payload)?.saturating_add(image.kernel_offset);
        let start = offset.saturating_add(image.kernel_offset);
        let all = file.get(start as usize..end as usize).ok_or(UnpackError::Payload)?;
        let (packed, size) = all.split_last_chunk::<SIZE_BYTES>().ok_or(UnpackError::Payload)?;
        let magic: [u8; 4] = array_at(packed, 0).ok_or(UnpackError::Payload)?;
        let packing = match magic {
            LZ4_MAGIC => Packing::Lz4,
            ZSTD_MAGIC => Packing::Zstd,
            other => return Err(UnpackError::Packing(other)),
        };
        Ok(Self {
            packing,
            packed,
            size: u64::from(u32::from_le_bytes(*size)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use alloc::vec::Vec;

    fn with_payload(offset: u32, length: u32, bytes: &[u8]) -> Vec<u8> {
        let mut file = testing::bzimage();
        file[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&offset.to_le_bytes());
        file[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        file[1024 + 256..1024 + 256 + bytes.len()].copy_from_slice(bytes);
        file
    }

    #[test]
    fn a_payload_is_found_where_the_header_says() {
        let file = with_payload(256, 12, &[0x28, 0xB5, 0x2F, 0xFD, 1, 2, 3, 4, 0x78, 0x56, 0x34, 0x12]);
        let image = BzImage::parse(&file).unwrap();
        let payload = Payload::find(&image, &file).unwrap();
        assert_eq!((payload.packing, payload.size), (Packing::Zstd, 0x1234_5678));
        assert_eq!(payload.packed, &[0x28, 0xB5, 0x2F, 0xFD, 1, 2, 3, 4]);
    }

    #[test]
    fn what_lies_elsewhere_or_is_unknown_is_refused() {
        for (offset, length) in [(4096, 1), (0, 4097), (u32::MAX, u32::MAX), (0, 0), (0, 7)] {
            let file = with_payload(offset, length, &[]);
            let image = BzImage::parse(&file).unwrap();
            assert_eq!(
                Payload::find(&image, &file),
                Err(UnpackError::Payload),
                "{offset} {length}"
            );
        }
        let file = with_payload(256, 12, &[0x1F, 0x8B, 8, 0, 0, 0, 0, 0]);
        let image = BzImage::parse(&file).unwrap();
        assert_eq!(
            Payload::find(&image, &file),
            Err(UnpackError::Packing([0x1F, 0x8B, 8, 0]))
        );
    }
}
