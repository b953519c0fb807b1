//! What the module tells about the kernel it is loaded in.
//!
//! Writer: the module, at load and at unload. Reader: the backup OS, which copies and checks everything while the
//! active is healthy, and the report. `seq` is odd while the module writes: a reader that sees an odd or a changed
//! number reads again.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `"OR-FACTS"` in little-endian order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"OR-FACTS");

/// Where one XSAVE state component lies in the standard (non-compacted) format: CPUID leaf 0x0D, sub-leaf = component
/// (Intel SDM vol. 1, 13.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XstateComponent {
    /// Bytes from the start of the XSAVE area (EBX).
    pub offset: u32,
    /// Bytes (EAX).
    pub size: u32,
    /// ECX: bit 0 supervisor state, bit 1 aligned to 64 bytes in the compacted format.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// The facts, at [`crate::layout::FACTS`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Facts {
    /// [`MAGIC`] once the module has been loaded, 0 after it was unloaded.
    pub magic: u64,
    /// [`crate::ABI_VERSION`] of the module.
    pub abi_version: u32,
    /// `sizeof(struct orthros_facts)` in the module.
    pub size: u32,
    /// Even when the rest is whole.
    pub seq: u64,
    /// `utsname()->release`, NUL-terminated.
    pub release: [u8; 64],
    /// GNU build id of the kernel, from VMCOREINFO.
    pub build_id: [u8; 20],
    /// Zero.
    pub pad: u32,
    /// Physical address of `init_top_pgt` (`swapper_pg_dir`).
    pub root_table_phys: u64,
    /// 1 with 5-level paging.
    pub la57: u64,
    /// `phys_base`, two's complement.
    pub phys_base: u64,
    /// Physical address of the VMCOREINFO text (`vmcoreinfo_data`).
    pub vmcoreinfo_phys: u64,
    /// Its length in bytes.
    pub vmcoreinfo_len: u64,
    /// Physical address of `panic_cpu` (an `atomic_t`, −1 while nothing is wrong).
    pub panic_cpu_phys: u64,
    /// Value of `panic_cpu` that means "nothing is wrong" (`PANIC_CPU_INVALID`).
    pub panic_cpu_invalid: u64,
    /// Physical address of the first byte of `asm_exc_nmi`.
    pub asm_exc_nmi_phys: u64,
    /// Physical address of the first byte of `panic`; the stop ladder looks for the loop at its end.
    pub panic_phys: u64,
    /// Bytes of `panic`'s text.
    pub panic_size: u64,
    /// `nr_cpu_ids`.
    pub nr_cpu_ids: u64,
    /// XCR0.
    pub xcr0: u64,
    /// Bytes of a standard-format XSAVE area with everything in XCR0 (CPUID 0x0D.0:EBX).
    pub xsave_size: u64,
    /// State components 0…31.
    pub xstate: [XstateComponent; 32],
    /// `tsc_khz`.
    pub tsc_khz: u64,
    /// `memory_block_size_bytes()`.
    pub memory_block_size: u64,
    /// `totalram_pages()`: what MemTotal shows, in pages.
    pub total_ram_pages: u64,
    /// TSC when the facts were published.
    pub published_tsc: u64,
    /// Linux CPU number → local APIC id, 0xFFFF where there is no such CPU.
    pub apic_id_of_cpu: [u16; crate::layout::MAX_CPUS],
    /// Virtual address, in this kernel, of [`crate::netfilter::NetfilterWords`].
    pub netfilter: u64,
}

/// Why facts are not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactsError {
    /// No module has published any.
    Missing,
    /// The module writes just now.
    Busy,
    /// Published by a module of another version.
    Version {
        /// Its ABI version.
        abi: u32,
        /// Its size of the structure.
        size: u32,
    },
    /// A field holds what it cannot hold.
    Field(&'static str),
}

impl core::fmt::Display for FactsError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Missing => write!(f, "facts: none published; load the orthros module"),
            Self::Busy => write!(f, "facts: being written"),
            Self::Version { abi, size } => write!(
                f,
                "facts: published by a module with ABI version {abi} ({size} bytes), expected version {} ({} bytes)",
                crate::ABI_VERSION,
                core::mem::size_of::<Facts>()
            ),
            Self::Field(name) => write!(f, "facts: field `{name}` is out of range"),
        }
    }
}

impl core::error::Error for FactsError {}

impl Facts {
    /// Reads and checks facts from their part of the region.
    ///
    /// # Errors
    /// [`FactsError`], naming what is wrong.
    pub fn parse(part: &[u8]) -> Result<Self, FactsError> {
        let (facts, _) = Self::read_from_prefix(part).map_err(|_| FactsError::Missing)?;
        if facts.magic != MAGIC {
            return Err(FactsError::Missing);
        }
        if facts.abi_version != crate::ABI_VERSION || facts.size as usize != core::mem::size_of::<Self>() {
            return Err(FactsError::Version {
                abi: facts.abi_version,
                size: facts.size,
            });
        }
        if facts.seq % 2 == 1 {
            return Err(FactsError::Busy);
        }
        if facts.root_table_phys == 0 || facts.root_table_phys % crate::PAGE_SIZE != 0 {
            return Err(FactsError::Field("root_table_phys"));
        }
        if facts.vmcoreinfo_len == 0 || facts.vmcoreinfo_len > 1 << 20 {
            return Err(FactsError::Field("vmcoreinfo_len"));
        }
        if facts.nr_cpu_ids == 0 || facts.nr_cpu_ids > crate::layout::MAX_CPUS as u64 {
            return Err(FactsError::Field("nr_cpu_ids"));
        }
        if facts.xsave_size < 576 || facts.xsave_size > crate::parking::XSAVE_SIZE as u64 {
            return Err(FactsError::Field("xsave_size"));
        }
        Ok(facts)
    }

    /// The kernel's release string.
    pub fn release(&self) -> &str {
        let end = self.release.iter().position(|&b| b == 0).unwrap_or(self.release.len());
        core::str::from_utf8(&self.release[..end]).unwrap_or("?")
    }
}

const _: () = assert!(core::mem::size_of::<Facts>() <= crate::layout::FACTS.size as usize);
