//! The one seam through which all memory of the kernel under salvage is read.
//!
//! Three implementations exist: RAM on the bare machine (in the backup OS), an image of a guest's memory ([`Image`])
//! and a sparse fake for tests ([`SparseMemory`]).

use crate::addr::{PhysAddr, PAGE_SIZE};
use crate::error::MemError;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Physical memory of the machine.
pub trait PhysMem {
    /// Fills `buf` from the address on.
    ///
    /// # Errors
    /// [`MemError`] if any byte is not RAM; `buf` may then be partly filled.
    fn read(&self, pa: PhysAddr, buf: &mut [u8]) -> Result<(), MemError>;

    /// The bytes in place, if they are RAM and contiguous in this implementation. `None` does not mean that a
    /// [`PhysMem::read`] would fail.
    fn slice(&self, pa: PhysAddr, len: usize) -> Option<&[u8]>;

    /// The first address after the highest byte of RAM; bounds how many tables, pages or objects there can be.
    fn end(&self) -> PhysAddr;
}

/// A run of RAM in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageRange {
    /// Physical address of its first byte.
    pub start: PhysAddr,
    /// Bytes.
    pub len: u64,
    /// Where in the image its first byte is.
    pub offset: u64,
}

/// An image of a machine's memory, as a file of a QEMU `memory-backend-file` holds it.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    /// Ascending, not overlapping, all inside `bytes`.
    ranges: Vec<ImageRange>,
}

/// Physical address at which RAM goes on above the hole below 4 GB.
const ABOVE_4G: u64 = 1 << 32;

impl<'a> Image<'a> {
    /// An image whose offsets are physical addresses.
    pub fn flat(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            ranges: alloc::vec![ImageRange {
                start: PhysAddr(0),
                len: bytes.len() as u64,
                offset: 0
            }],
        }
    }

    /// An image of a PC: `below_4g` bytes from address 0, the rest from 4 GB on.
    pub fn with_hole(bytes: &'a [u8], below_4g: u64) -> Self {
        let len = bytes.len() as u64;
        let low = len.min(below_4g);
        let mut ranges = alloc::vec![ImageRange {
            start: PhysAddr(0),
            len: low,
            offset: 0
        }];
        if len > low {
            ranges.push(ImageRange {
                start: PhysAddr(ABOVE_4G),
                len: len.saturating_sub(low),
                offset: low,
            });
        }
        Self { bytes, ranges }
    }

    /// Where RAM lies and where it is in the image.
    pub fn ranges(&self) -> &[ImageRange] {
        &self.ranges
    }

    /// The whole image.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Physical address of the byte at an offset of the image.
    pub fn phys_of_offset(&self, offset: u64) -> Option<PhysAddr> {
        self.ranges.iter().find_map(|range| {
            let within = offset.checked_sub(range.offset).filter(|&within| within < range.len)?;
            range.start.checked_add(within)
        })
    }

    /// The image's bytes from an address to the end of its run of RAM.
    fn tail(&self, pa: PhysAddr) -> Option<&'a [u8]> {
        let (within, range) = self
            .ranges
            .iter()
            .find_map(|range| Some((pa.0.checked_sub(range.start.0).filter(|&w| w < range.len)?, range)))?;
        let start = usize::try_from(range.offset.checked_add(within)?).ok()?;
        let len = usize::try_from(range.len.checked_sub(within)?).ok()?;
        self.bytes.get(start..)?.get(..len)
    }
}

impl PhysMem for Image<'_> {
    fn read(&self, pa: PhysAddr, buf: &mut [u8]) -> Result<(), MemError> {
        let bytes = self.slice(pa, buf.len()).ok_or(MemError {
            address: pa,
            len: buf.len(),
        })?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn slice(&self, pa: PhysAddr, len: usize) -> Option<&[u8]> {
        self.tail(pa)?.get(..len)
    }

    fn end(&self) -> PhysAddr {
        PhysAddr(
            self.ranges
                .iter()
                .map(|range| range.start.0.saturating_add(range.len))
                .max()
                .unwrap_or(0),
        )
    }
}

/// Memory for tests: pages come into being when they are written.
#[derive(Clone, Debug, Default)]
pub struct SparseMemory {
    pages: BTreeMap<u64, Vec<u8>>,
}

impl SparseMemory {
    /// Memory without any RAM.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes bytes; pages that were not RAM become RAM, zero elsewhere.
    pub fn write(&mut self, pa: PhysAddr, bytes: &[u8]) {
        for (byte, address) in bytes.iter().zip(pa.0..) {
            let page = self
                .pages
                .entry(address >> crate::addr::PAGE_SHIFT)
                .or_insert_with(|| alloc::vec![0; PAGE_SIZE as usize]);
            if let Some(to) = page.get_mut(PhysAddr(address).page_offset() as usize) {
                *to = *byte;
            }
        }
    }

    /// Writes one 64-bit word.
    pub fn write_u64(&mut self, pa: PhysAddr, value: u64) {
        self.write(pa, &value.to_le_bytes());
    }
}

impl PhysMem for SparseMemory {
    fn read(&self, pa: PhysAddr, buf: &mut [u8]) -> Result<(), MemError> {
        let error = MemError {
            address: pa,
            len: buf.len(),
        };
        let mut at = pa;
        let mut rest = buf;
        while !rest.is_empty() {
            let in_page = usize::try_from(PAGE_SIZE.saturating_sub(at.page_offset())).map_err(|_| error)?;
            let (now, later) = rest.split_at_mut(in_page.min(rest.len()));
            now.copy_from_slice(self.slice(at, now.len()).ok_or(error)?);
            at = at.checked_add(now.len() as u64).ok_or(error)?;
            rest = later;
        }
        Ok(())
    }

    fn slice(&self, pa: PhysAddr, len: usize) -> Option<&[u8]> {
        self.pages
            .get(&pa.pfn().0)?
            .get(pa.page_offset() as usize..)?
            .get(..len)
    }

    fn end(&self) -> PhysAddr {
        let last = self.pages.keys().next_back().copied();
        PhysAddr(last.map_or(0, |page| page.saturating_add(1).saturating_mul(PAGE_SIZE)))
    }
}
