//! The boot CPU's way into the backup OS's parking code, where it waits for what is to be run on it.

use core::error::Error;
use core::mem::offset_of;
use machine::{mmio, Ring0};
use shared_region::{control::ControlWords, header::Header, layout, parking::SLOT_SIZE};

/// The backup OS has not said where a CPU parks.
#[derive(Debug)]
struct NoParking {
    entry: u64,
    root: u64,
}

impl core::fmt::Display for NoParking {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "the backup OS offers no place to park: entry {:#x}, page tables {:#x}",
            self.entry, self.root
        )
    }
}

impl Error for NoParking {}

/// Where to go, and with what.
pub struct Way {
    entry: u64,
    root: u64,
    slot: u64,
}

impl Way {
    /// Reads it from the control words.
    ///
    /// # Errors
    /// If there is none.
    pub fn read(ring0: Ring0, header: &Header) -> Result<Self, impl Error> {
        let word = |offset: usize| mmio::read64(ring0, header.base + layout::CONTROL.offset + offset as u64);
        let way = Self {
            entry: word(offset_of!(ControlWords, park_entry)),
            root: word(offset_of!(ControlWords, park_root_l4)),
            slot: header.base + layout::PARKING_SLOTS.offset + header.bsp_apic_id * SLOT_SIZE as u64,
        };
        let code = header.base + layout::PARKING_CODE.offset..header.base + layout::PARKING_CODE.end();
        if code.contains(&way.entry) && code.contains(&way.root) {
            Ok(way)
        } else {
            Err(NoParking {
                entry: way.entry,
                root: way.root,
            })
        }
    }

    /// Goes there.
    ///
    /// # Safety
    /// This program is not needed any more.
    pub unsafe fn go(self, _: Ring0) -> ! {
        // SAFETY: the parking code takes RDI = slot, with physical memory below 4 GB at its own address, which both page
        // tables see to, and interrupts off; it has a stack and descriptor tables of its own.
        unsafe {
            core::arch::asm!(
                "cli",
                "mov cr3, {root}",
                "jmp {entry}",
                root = in(reg) self.root,
                entry = in(reg) self.entry,
                in("rdi") self.slot,
                options(noreturn),
            )
        }
    }
}
