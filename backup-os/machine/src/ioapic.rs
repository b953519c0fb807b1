//! I/O APICs (Intel 82093AA data sheet, 3.0).

use crate::{mmio, Ring0};

const INDEX: u64 = 0x00;
const WINDOW: u64 = 0x10;
const VERSION: u32 = 1;
const REDIRECTION: u32 = 0x10;
const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;

/// An I/O APIC.
#[derive(Clone, Copy, Debug)]
pub struct IoApic {
    ring0: Ring0,
    base: u64,
}

impl IoApic {
    /// The one at `base` (MADT type 1).
    pub const fn new(ring0: Ring0, base: u64) -> Self {
        Self { ring0, base }
    }

    fn read(&self, register: u32) -> u32 {
        // SAFETY: a device register by the firmware's word.
        unsafe { mmio::write32(self.ring0, self.base + INDEX, register) };
        mmio::read32(self.ring0, self.base + WINDOW)
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: device registers by the firmware's word.
        unsafe {
            mmio::write32(self.ring0, self.base + INDEX, register);
            mmio::write32(self.ring0, self.base + WINDOW, value);
        }
    }

    /// Number of pins.
    pub fn pins(&self) -> u32 {
        ((self.read(VERSION) >> 16) & 0xFF) + 1
    }

    /// Masks every pin and forgets interrupts that were delivered but never answered.
    ///
    /// A level-triggered pin whose remote IRR is still set delivers nothing ever again; a CPU that died before its EOI
    /// leaves it so. Switching the pin to edge and back clears it on chips without an EOI register.
    pub fn mask_all(&self) {
        for pin in 0..self.pins() {
            let low = REDIRECTION + 2 * pin;
            let value = self.read(low);
            self.write(low, value | MASKED);
            if value & LEVEL != 0 {
                self.write(low, (value | MASKED) & !LEVEL);
                self.write(low, value | MASKED);
            }
            self.write(low, MASKED);
            self.write(low + 1, 0);
        }
    }
}
