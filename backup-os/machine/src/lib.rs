//! Hardware of an x86_64 PC, as the loader and the backup OS touch it.
//!
//! What a caller must know:
//! - Nothing here works outside ring 0 with physical memory below 4 GB mapped at its own address. [`Ring0`] is the
//!   proof of both; it is made once, in the one unsafe block that knows, and handed to everything else.
//! - Every wait has a deadline in microseconds, measured by a [`clock::Clock`].
//! - Nothing allocates and nothing is global, but for the read-only descriptor table in [`gdt`].
//!
//! | module | hardware |
//! |---|---|
//! | [`cpu`] | CPUID: what this CPU can do, its id, whether memory is encrypted |
//! | [`msr`] | model-specific registers by name |
//! | [`random`] | the CPU's random number generator |
//! | [`clock`] | time-stamp counter, ACPI PM timer |
//! | [`uart`] | 16550 serial port |
//! | [`apic`] | local APIC, xAPIC and x2APIC |
//! | [`ioapic`], [`hpet`], [`pic`] | interrupt sources to be silenced |
//! | [`vtd`] | DMA remapping, turned off |
//! | [`pci`] | configuration mechanism 1 |
//! | [`mtrr`] | memory types, lost over an INIT on some machines |
//! | [`cmos`] | warm-reset vector |
//! | [`reset`] | reset of the machine |
//! | [`gdt`], [`paging`] | flat segments, identity page tables |
//! | [`trampoline`] | real mode → long mode for a CPU that was started or reset |
//! | [`real_mode`] | long mode → real mode for a kernel that is woken |
//! | [`linux`] | the jump into a kernel's 64-bit entry |
#![no_std]
#![warn(missing_docs)]

pub mod apic;
pub mod clock;
pub mod cmos;
pub mod cpu;
pub mod gdt;
pub mod hpet;
pub mod ioapic;
pub mod linux;
pub mod mmio;
pub mod msr;
pub mod mtrr;
pub mod paging;
pub mod pci;
pub mod pic;
pub mod port;
pub mod random;
pub mod real_mode;
pub mod reset;
pub mod trampoline;
pub mod uart;
pub mod virtio;
pub mod vtd;

/// Proof that the program runs in ring 0 with the low 4 GB of physical memory mapped at their own addresses.
#[derive(Clone, Copy, Debug)]
pub struct Ring0(());

impl Ring0 {
    /// Takes the caller's word for it.
    ///
    /// # Safety
    /// From now on and for as long as the program runs:
    /// 1. it runs in ring 0 of long mode;
    /// 2. physical memory below 4 GB is mapped writable at its own address, except ranges that hold no device
    ///    this crate is asked to touch;
    /// 3. it owns the devices it names to this crate: no other software drives them at the same time.
    pub const unsafe fn assume() -> Self {
        Self(())
    }
}

/// A wait ran out of time; names what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(pub &'static str);

impl core::fmt::Display for Timeout {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} did not happen in time", self.0)
    }
}

impl core::error::Error for Timeout {}
