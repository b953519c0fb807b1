//! Memory type range registers (Intel SDM vol. 3A, 12.11). Some machines clear them on an INIT of the bootstrap
//! processor, and a kernel without them maps device memory wrongly; so they are read at start and written back.

use crate::{cpu, msr, Ring0};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr3};

const MAX_VARIABLE: usize = 32;
const HAS_FIXED: u64 = 1 << 8;
const ENABLE: u64 = 1 << 11;
/// IA32_MTRR_FIX64K_00000 … FIX4K_F8000.
const FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26A, 0x26B, 0x26C, 0x26D, 0x26E, 0x26F,
];

/// The registers of one CPU. All CPUs of a machine carry the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Mtrrs {
    capability: u64,
    default_type: u64,
    variable: [(u64, u64); MAX_VARIABLE],
    fixed: [u64; FIXED.len()],
}

impl Mtrrs {
    /// Reads the registers of the current CPU. `None` if it has none.
    pub fn save(ring0: Ring0) -> Option<Self> {
        if !cpu::features().mtrr {
            return None;
        }
        // SAFETY: (for each read below) the register exists: CPUID says there are MTRRs, the capability register how
        // many and which.
        let read = |register: u32| unsafe { msr::read(ring0, register) };
        let capability = read(msr::MTRR_CAP);
        let mut saved = Self {
            capability,
            default_type: read(msr::MTRR_DEF_TYPE),
            variable: [(0, 0); MAX_VARIABLE],
            fixed: [0; FIXED.len()],
        };
        let count = saved.variable_count();
        for (pair, base) in saved.variable[..count]
            .iter_mut()
            .zip((msr::MTRR_VARIABLE..).step_by(2))
        {
            *pair = (read(base), read(base + 1));
        }
        if capability & HAS_FIXED != 0 {
            saved.fixed = FIXED.map(read);
        }
        Some(saved)
    }

    fn variable_count(&self) -> usize {
        ((self.capability & 0xFF) as usize).min(MAX_VARIABLE)
    }

    /// Whether the registers of the current CPU hold these values already.
    pub fn in_force(&self, ring0: Ring0) -> bool {
        Self::save(ring0).as_ref() == Some(self)
    }

    /// Writes the registers of the current CPU, with caches off meanwhile (SDM vol. 3A, 12.11.7.2).
    ///
    /// # Safety
    /// 1. They were saved on this machine. 2. Interrupts are off.
    pub unsafe fn restore(&self, ring0: Ring0) {
        let cr0 = Cr0::read_raw();
        let no_cache = (cr0 | Cr0Flags::CACHE_DISABLE.bits()) & !Cr0Flags::NOT_WRITE_THROUGH.bits();
        // SAFETY: 1. caching changes no contents. 2. WBINVD and a CR3 reload are allowed in ring 0 and keep every
        // mapping. 3. The MSRs exist, as when they were saved (the caller's promise).
        unsafe {
            Cr0::write_raw(no_cache);
            flush();
            msr::write(ring0, msr::MTRR_DEF_TYPE, self.default_type & !ENABLE);
            for (&(base, mask), register) in self.variable[..self.variable_count()]
                .iter()
                .zip((msr::MTRR_VARIABLE..).step_by(2))
            {
                msr::write(ring0, register, base);
                msr::write(ring0, register + 1, mask);
            }
            if self.capability & HAS_FIXED != 0 {
                for (register, value) in FIXED.into_iter().zip(self.fixed) {
                    msr::write(ring0, register, value);
                }
            }
            msr::write(ring0, msr::MTRR_DEF_TYPE, self.default_type);
            flush();
            Cr0::write_raw(cr0);
        }
    }
}

/// Writes back the caches and flushes the TLB.
///
/// # Safety
/// Ring 0.
unsafe fn flush() {
    // SAFETY: WBINVD is allowed in ring 0 (the caller's promise) and changes no memory contents.
    unsafe { core::arch::asm!("wbinvd", options(nostack, preserves_flags)) };
    let (root, flags) = Cr3::read_raw();
    // SAFETY: the same root as before.
    unsafe { Cr3::write_raw(root, flags) };
}
