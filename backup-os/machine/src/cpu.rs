//! What CPUID and a few status registers say about the CPU that runs this.

use crate::{msr, Ring0};
use raw_cpuid::{CpuId, CpuIdReaderNative};

/// Features that decide how the machine is driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// 1 GB pages (CPUID 0x8000_0001:EDX bit 26).
    pub pages_1g: bool,
    /// No-execute pages (CPUID 0x8000_0001:EDX bit 20).
    pub no_execute: bool,
    /// Local APIC (CPUID 1:EDX bit 9).
    pub apic: bool,
    /// MTRRs (CPUID 1:EDX bit 12).
    pub mtrr: bool,
    /// A hypervisor runs this machine (CPUID 1:ECX bit 31, which no processor sets by itself).
    pub hypervisor: bool,
}

fn cpuid() -> CpuId<CpuIdReaderNative> {
    CpuId::new()
}

/// Reads the features of the current CPU.
pub fn features() -> Features {
    let id = cpuid();
    let basic = id.get_feature_info();
    let extended = id.get_extended_processor_and_feature_identifiers();
    Features {
        pages_1g: extended.as_ref().is_some_and(|e| e.has_1gib_pages()),
        no_execute: extended.as_ref().is_some_and(|e| e.has_execute_disable()),
        apic: basic.as_ref().is_some_and(|b| b.has_apic()),
        mtrr: basic.as_ref().is_some_and(|b| b.has_mtrr()),
        hypervisor: basic.as_ref().is_some_and(|b| b.has_hypervisor()),
    }
}

/// A kind of memory encryption that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// AMD SME: SYSCFG bit 23 is set; a kernel may map its memory encrypted.
    Sme,
    /// AMD SEV: this is an encrypted guest.
    Sev,
}

/// Whether memory encryption is on (AMD APM vol. 2, 15.34). Intel TME is transparent to software and does not count.
pub fn encryption(ring0: Ring0) -> Option<Encryption> {
    let info = cpuid().get_memory_encryption_info()?;
    // SAFETY: SEV_STATUS exists where CPUID 0x8000_001F:EAX bit 1 is set.
    if info.has_sev() && unsafe { msr::read(ring0, msr::SEV_STATUS) } & 1 != 0 {
        return Some(Encryption::Sev);
    }
    // SAFETY: SYSCFG exists where CPUID 0x8000_001F:EAX bit 0 is set, and under no hypervisor does a guest have that
    // bit without the register.
    if info.has_sme() && unsafe { msr::read(ring0, msr::SYSCFG) } & 1 << 23 != 0 {
        return Some(Encryption::Sme);
    }
    None
}

/// Stops this CPU for good: interrupts off, halted; an NMI is answered by halting again.
pub fn stop(_: Ring0) -> ! {
    x86_64::instructions::interrupts::disable();
    loop {
        x86_64::instructions::hlt();
    }
}
