//! Model-specific registers this project names (Intel SDM vol. 4; AMD APM vol. 2, appendix A).

use crate::Ring0;
use x86_64::registers::model_specific::Msr;

/// IA32_APIC_BASE.
pub const APIC_BASE: u32 = 0x1B;
/// IA32_MTRRCAP.
pub const MTRR_CAP: u32 = 0xFE;
/// First of the variable-range MTRRs, base and mask in turn.
pub const MTRR_VARIABLE: u32 = 0x200;
/// IA32_MTRR_DEF_TYPE.
pub const MTRR_DEF_TYPE: u32 = 0x2FF;
/// First of the x2APIC registers; register at MMIO offset `o` is `X2APIC + o / 16`.
pub const X2APIC: u32 = 0x800;
/// IA32_EFER.
pub const EFER: u32 = 0xC000_0080;
/// AMD SYSCFG; bit 23 turns memory encryption (SME) on.
pub const SYSCFG: u32 = 0xC001_0010;
/// AMD SEV_STATUS; bit 0 is "this guest's memory is encrypted".
pub const SEV_STATUS: u32 = 0xC001_0131;

/// Reads a register.
///
/// # Safety
/// The register exists on this CPU; reading one that does not is a general-protection fault.
pub unsafe fn read(_: Ring0, register: u32) -> u64 {
    // SAFETY: 1. `Ring0`: the instruction is allowed. 2. It exists: the caller's promise.
    unsafe { Msr::new(register).read() }
}

/// Writes a register.
///
/// # Safety
/// 1. The register exists and takes this value. 2. The value takes nothing away that the running program stands on
///    (paging, mapping, memory types).
pub unsafe fn write(_: Ring0, register: u32, value: u64) {
    // SAFETY: 1. `Ring0`: the instruction is allowed. 2. The rest is the caller's promise.
    unsafe { Msr::new(register).write(value) }
}
