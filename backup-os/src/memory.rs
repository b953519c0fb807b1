//! Physical memory: the map this program runs on, and the two ways it looks at the active's RAM.
//!
//! While the active lives its memory changes under every look, so [`LiveMemory`] copies word by word and hands out no
//! reference. Once every CPU is parked and no device masters the bus nothing changes any more, and [`FrozenMemory`]
//! gives the bytes in place. What the successor writes to in the meantime (its nursery, its real-mode memory) belongs
//! to neither.

use alloc::vec::Vec;
use failover::ram::{ActiveRam, Range};
use machine::paging::{self, PagingError, Table};
use machine::Ring0;
use salvage::addr::PhysAddr;
use salvage::error::MemError;
use salvage::memory::PhysMem;
use shared_region::header::Header;

/// Builds an identity map of all RAM and of everything below 4 GB, and loads it.
///
/// # Errors
/// [`PagingError`] if there is more memory than the tables can map.
///
/// # Safety
/// The program, its stack and its data lie in memory the header counts to the low 4 GB.
pub unsafe fn map_everything(_: Ring0, header: &Header) -> Result<(), PagingError> {
    let end = header
        .ram()
        .iter()
        .map(|range| range.end)
        .max()
        .unwrap_or(0)
        .max(4 << 30);
    let large = machine::cpu::features().pages_1g;
    let mut tables = alloc::vec![Table::EMPTY; paging::tables_needed(end.next_multiple_of(1 << 30), large)];
    let base = tables.as_ptr() as u64;
    paging::identity(&mut tables, base, end, large)?;
    // The CPU reads them from now on.
    tables.leak();
    // SAFETY: 1. the new root maps all that the old one mapped at the same addresses. 2. It stays for ever.
    unsafe { x86_64::registers::control::Cr3::write_raw(frame(base), 0) };
    Ok(())
}

fn frame(address: u64) -> x86_64::structures::paging::PhysFrame {
    x86_64::structures::paging::PhysFrame::containing_address(x86_64::PhysAddr::new_truncate(address))
}

/// The active's memory while it runs.
#[derive(Clone, Debug)]
pub struct LiveMemory(ActiveRam);

impl LiveMemory {
    /// # Safety
    /// The ranges are RAM and mapped at their own addresses.
    pub unsafe fn new(ram: ActiveRam) -> Self {
        Self(ram)
    }

    /// Reads a 32-bit word in one access. `None` if it is not RAM or not aligned.
    pub fn read_u32(&self, address: u64) -> Option<u32> {
        if !address.is_multiple_of(4) || !self.0.holds(address, 4) {
            return None;
        }
        // SAFETY: RAM, mapped (`new`) and aligned; volatile because others write it.
        Some(unsafe { (address as *const u32).read_volatile() })
    }
}

impl PhysMem for LiveMemory {
    fn read(&self, pa: PhysAddr, buf: &mut [u8]) -> Result<(), MemError> {
        if !self.0.holds(pa.0, buf.len()) {
            return Err(MemError {
                address: pa,
                len: buf.len(),
            });
        }
        let mut at = pa.0;
        let mut rest = buf;
        while !rest.is_empty() {
            // Whole words where they are aligned, so that a pointer is not read in two halves.
            if at.is_multiple_of(8) && rest.len() >= 8 {
                let (word, later) = rest.split_at_mut(8);
                // SAFETY: RAM, mapped (`new`) and aligned; volatile because others write it.
                word.copy_from_slice(&unsafe { (at as *const u64).read_volatile() }.to_ne_bytes());
                (at, rest) = (at + 8, later);
            } else {
                let (byte, later) = rest.split_at_mut(1);
                // SAFETY: RAM and mapped (`new`); volatile because others write it.
                byte[0] = unsafe { (at as *const u8).read_volatile() };
                (at, rest) = (at + 1, later);
            }
        }
        Ok(())
    }

    fn slice(&self, _: PhysAddr, _: usize) -> Option<&[u8]> {
        None
    }

    fn end(&self) -> PhysAddr {
        PhysAddr(self.0.end())
    }
}

/// The active's memory after it has been stopped.
#[derive(Clone, Debug)]
pub struct FrozenMemory {
    ram: ActiveRam,
    /// Ranges beside its RAM that may be read.
    beside: Vec<Range>,
}

impl FrozenMemory {
    /// # Safety
    /// 1. The ranges, those in `beside` too, are RAM and mapped at their own addresses. 2. Nobody writes there for as
    ///    long as the value or anything borrowed from it exists: every CPU of the active is parked, devices
    ///    master the bus for this program's heap at most, and the successor has not passed the gate.
    pub unsafe fn new(ram: ActiveRam, beside: Vec<Range>) -> Self {
        Self { ram, beside }
    }

    /// The active's RAM, ascending.
    pub fn ranges(&self) -> &[Range] {
        self.ram.ranges()
    }
}

impl PhysMem for FrozenMemory {
    fn read(&self, pa: PhysAddr, buf: &mut [u8]) -> Result<(), MemError> {
        let bytes = self.slice(pa, buf.len()).ok_or(MemError {
            address: pa,
            len: buf.len(),
        })?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn slice(&self, pa: PhysAddr, len: usize) -> Option<&[u8]> {
        let end = pa.0.checked_add(len as u64)?;
        let beside = || self.beside.iter().any(|&(from, to)| pa.0 >= from && end <= to);
        if pa.0 == 0 || !(self.ram.holds(pa.0, len) || beside()) {
            return None;
        }
        // SAFETY: 1. RAM and mapped (`new`, 1), not null. 2. Constant (`new`, 2). 3. Any bytes are valid as `u8`.
        Some(unsafe { core::slice::from_raw_parts(pa.0 as *const u8, len) })
    }

    fn end(&self) -> PhysAddr {
        PhysAddr(self.ram.end())
    }
}
