//! Everything that is looked up while the kernel is healthy.
//!
//! On the machine the facts come from the kernel's module, which knows its own page tables. On a host they come from
//! VMCOREINFO texts found in the image; copies of earlier kernels linger there, so each is followed back through the page
//! tables it names to the kernel it claims to describe, and of several that hold the one whose clock is furthest wins.

use crate::addr::{Kva, PhysAddr};
use crate::error::{ReadError, Reason, WalkError};
use crate::globals::Globals;
use crate::kallsyms::{Kallsyms, KallsymsTables};
use crate::kernel_memory::{AddressSpace, KernelMemory};
use crate::memory::{Image, PhysMem};
use crate::mirror::Mirror;
use crate::orc::OrcSymbols;
use crate::paging::{Levels, PageTables};
use crate::symbols::{self, MissingSymbol};
use crate::tables::{MAX_CPUS, START_KERNEL_MAP, TK_CORE_TIMEKEEPER};
use crate::types::Types;
use crate::vmcoreinfo::{self, BadVmCoreInfo, VmCoreInfo};
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use btf::{Btf, BtfError};
use core::fmt;

/// Most bytes of BTF that are taken for real; a kernel has about 5 MB.
const MAX_BTF: u64 = 64 << 20;

crate::symbols! {
    /// Variables of the kernel.
    pub struct Symbols {
        /// BTF.
        start_btf: Kva = "__start_BTF",
        /// End of BTF.
        stop_btf: Kva = "__stop_BTF",
        /// First byte of the kernel image.
        text: Kva = "_text",
        /// First byte after the kernel image.
        end: Kva = "_end",
        /// Where the direct map begins.
        page_offset_base: Kva,
        /// Where vmalloc begins, and the room of the direct map ends.
        vmalloc_base: Kva,
        /// Where the array of `struct page` begins.
        vmemmap_base: Kva,
        /// Offset of each CPU's per-CPU area.
        per_cpu_offset: Kva = "__per_cpu_offset",
        /// Number of possible CPUs.
        nr_cpu_ids: Kva,
        /// The clocks.
        tk_core: Kva,
        /// The first task, of which all others are relatives.
        init_task: Kva,
        /// Head of the list of modules.
        modules: Kva,
        /// Pointer to the ring buffer of the log.
        prb: Kva,
        /// The CPU that panics, −1 if none.
        panic_cpu: Kva,
        /// First frame number after RAM.
        max_pfn: Option<Kva>,
    }
}

/// What has to be known about a kernel before anything of it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// Its page tables.
    pub tables: PageTables,
    /// Its VMCOREINFO.
    pub info: VmCoreInfo,
}

/// Name of the first task, on the first CPU (`INIT_TASK_COMM` in `init/init_task.c`, and `init_idle()`).
const INIT_TASK: &[u8] = b"swapper/0";

/// Why a kernel cannot be salvaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrepareError {
    /// The image holds no VMCOREINFO.
    NoKernel,
    /// A VMCOREINFO text lacks something.
    VmCoreInfo(BadVmCoreInfo),
    /// Page tables and VMCOREINFO do not belong together.
    Stale {
        /// What was followed.
        symbol: &'static str,
        /// What is wrong with it.
        reason: Reason,
    },
    /// The symbol table cannot be read.
    Kallsyms(WalkError),
    /// A symbol is missing.
    Symbol(MissingSymbol),
    /// BTF cannot be read, or lacks a structure, member or constant.
    Btf(BtfError),
    /// By its BTF the kernel's first task has this name, which no kernel gives it: the BTF is another kernel's.
    ForeignBtf(Vec<u8>),
    /// A variable cannot be read.
    Read(&'static str, ReadError),
    /// A variable has a value it cannot have.
    Value(&'static str, u64),
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKernel => write!(f, "no VMCOREINFO found: this is not the memory of a Linux kernel"),
            Self::VmCoreInfo(error) => error.fmt(f),
            Self::Stale { symbol, reason } => {
                write!(
                    f,
                    "page tables and VMCOREINFO do not belong together: `{symbol}`: {reason}"
                )
            }
            Self::Kallsyms(error) => error.fmt(f),
            Self::Symbol(MissingSymbol(name)) => write!(f, "the kernel has no symbol `{name}`"),
            Self::Btf(error) => error.fmt(f),
            Self::ForeignBtf(comm) => write!(
                f,
                "BTF does not match the running kernel: by it `init_task.comm` is \"{}\" and not \"swapper/0\"",
                comm.escape_ascii()
            ),
            Self::Read(name, error) => write!(f, "variable `{name}` cannot be read: {error}"),
            Self::Value(name, value) => write!(f, "variable `{name}` cannot be {value:#x}"),
        }
    }
}

impl core::error::Error for PrepareError {}

impl From<BtfError> for PrepareError {
    fn from(error: BtfError) -> Self {
        Self::Btf(error)
    }
}

/// A kernel of which everything needed for salvage is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Its VMCOREINFO.
    pub info: VmCoreInfo,
    /// Translation of its addresses.
    pub space: AddressSpace,
    /// Where the array of `struct page` begins (`vmemmap_base`).
    pub vmemmap: Kva,
    /// Offset of each possible CPU's per-CPU area, by CPU number.
    pub per_cpu: Vec<u64>,
    /// Its symbol table.
    pub kallsyms: Kallsyms,
    /// Addresses of the variables we read.
    pub symbols: Symbols,
    /// Addresses of what only salvage needs.
    pub globals: Globals,
    /// Addresses the unwinder of stacks needs.
    pub orc: OrcSymbols,
    /// Offsets of the members we read.
    pub types: Types,
}

impl KernelFacts {
    /// Facts from VMCOREINFO alone.
    ///
    /// # Errors
    /// The text lacks the address of the page tables.
    pub fn from_vmcoreinfo(info: VmCoreInfo) -> Result<Self, PrepareError> {
        let missing = PrepareError::VmCoreInfo(BadVmCoreInfo("SYMBOL(swapper_pg_dir)"));
        let root = info.symbol("swapper_pg_dir").ok_or(missing)?;
        let root = PhysAddr(root.0.wrapping_sub(START_KERNEL_MAP.0).wrapping_add(info.phys_base()));
        Ok(Self {
            tables: PageTables {
                root,
                levels: info.levels(),
            },
            info,
        })
    }

    /// Facts from the kernel's module: physical address of `init_top_pgt`, 5-level paging or not, and the VMCOREINFO
    /// text.
    ///
    /// # Errors
    /// The text lacks something.
    pub fn from_module(root: PhysAddr, la57: bool, vmcoreinfo: &[u8]) -> Result<Self, PrepareError> {
        let levels = if la57 { Levels::Five } else { Levels::Four };
        let info = VmCoreInfo::parse(vmcoreinfo).map_err(PrepareError::VmCoreInfo)?;
        Ok(Self {
            tables: PageTables { root, levels },
            info,
        })
    }

    /// Follows the page tables to the kernel they belong to: its text and its tables have to lie where VMCOREINFO says,
    /// and its release has to be VMCOREINFO's.
    ///
    /// # Errors
    /// [`PrepareError::Stale`] with the symbol that does not fit.
    pub fn validate<M: PhysMem + ?Sized>(&self, phys: &M) -> Result<(), PrepareError> {
        for name in ["_stext", "swapper_pg_dir", "init_uts_ns"] {
            let stale = |reason| PrepareError::Stale { symbol: name, reason };
            let address = self.info.symbol(name).ok_or(stale(Reason::Null))?;
            let found = self.tables.translate_kernel(phys, address).map_err(stale)?;
            let expected = address
                .0
                .wrapping_sub(START_KERNEL_MAP.0)
                .wrapping_add(self.info.phys_base());
            if found.phys.0 != expected {
                return Err(stale(Reason::BadValue("physical address", found.phys.0)));
            }
            if name == "swapper_pg_dir" && found.phys != self.tables.root {
                return Err(stale(Reason::BadValue("page-table root", self.tables.root.0)));
            }
        }
        self.validate_release(phys)
    }

    /// Compares the release in `init_uts_ns` with VMCOREINFO's.
    fn validate_release<M: PhysMem + ?Sized>(&self, phys: &M) -> Result<(), PrepareError> {
        let symbol = "init_uts_ns";
        let stale = |reason| PrepareError::Stale { symbol, reason };
        let memory = KernelMemory::new(phys, self.bare_space());
        let base = self.info.symbol(symbol).ok_or(stale(Reason::Null))?;
        let name = self
            .info
            .get("OFFSET(uts_namespace.name)")
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0);
        // `struct new_utsname`: sysname, nodename, release, each of __NEW_UTS_LEN + 1 = 65 bytes.
        let release = memory
            .cstr(base.offset(name).offset(2 * 65), 64)
            .map_err(|error| stale(error.reason))?;
        if release != self.info.release().as_bytes() {
            return Err(stale(Reason::BadNode("another release stands in memory")));
        }
        Ok(())
    }

    /// Translation by page tables alone.
    fn bare_space(&self) -> AddressSpace {
        AddressSpace {
            tables: self.tables,
            image: Kva::NULL..Kva::NULL,
            phys_base: self.info.phys_base(),
            direct_map: Kva::NULL..Kva::NULL,
        }
    }
}

/// A kernel's own BTF, where it lies if it lies in one piece.
///
/// # Errors
/// It cannot be read, or its length makes no sense.
pub fn kernel_btf<'m, M: PhysMem + ?Sized>(
    memory: &KernelMemory<'m, M>,
    symbols: &Symbols,
) -> Result<Cow<'m, [u8]>, PrepareError> {
    let length = symbols
        .stop_btf
        .0
        .checked_sub(symbols.start_btf.0)
        .filter(|&length| length <= MAX_BTF);
    let length = length.ok_or(PrepareError::Value("__stop_BTF", symbols.stop_btf.0))? as usize;
    if let Some(blob) = memory.slice(symbols.start_btf, length) {
        return Ok(Cow::Borrowed(blob));
    }
    let copy = memory.bytes(symbols.start_btf, length);
    Ok(Cow::Owned(
        copy.map_err(|error| PrepareError::Read("__start_BTF", error))?,
    ))
}

impl Prepared {
    /// Looks everything up in the kernel the facts describe.
    ///
    /// # Errors
    /// Names what cannot be found or read.
    pub fn new<M: PhysMem + ?Sized>(phys: &M, facts: KernelFacts) -> Result<Self, PrepareError> {
        facts.validate(phys)?;
        let memory = KernelMemory::new(phys, facts.bare_space());
        let tables = KallsymsTables::from_vmcoreinfo(&facts.info)
            .map_err(|name| PrepareError::Symbol(MissingSymbol(String::from(name))))?;
        let kallsyms = Kallsyms::read(&memory, &tables).map_err(PrepareError::Kallsyms)?;
        let mut found = symbols::find(&kallsyms, &[Symbols::GROUPS, Globals::GROUPS, OrcSymbols::GROUPS]);
        let symbols = Symbols::take(&mut found).map_err(PrepareError::Symbol)?;
        let globals = Globals::take(&mut found).map_err(PrepareError::Symbol)?;
        let orc = OrcSymbols::take(&mut found).map_err(PrepareError::Symbol)?;

        let types = Self::load_types(&memory, &symbols)?;
        let comm = memory
            .text(symbols.init_task, types.overview.task.comm)
            .map_err(|error| PrepareError::Read("init_task", error))?;
        if comm != INIT_TASK {
            return Err(PrepareError::ForeignBtf(comm));
        }
        let (direct_map, vmemmap) = Self::load_bases(&memory, &symbols)?;
        let per_cpu = Self::load_per_cpu(&memory, &symbols)?;
        let space = AddressSpace {
            image: symbols.text..symbols.end,
            direct_map,
            ..memory.space().clone()
        };
        Ok(Self {
            info: facts.info,
            space,
            vmemmap,
            per_cpu,
            kallsyms,
            symbols,
            globals,
            orc,
            types,
        })
    }

    /// Whether all this holds for the kernel that the facts describe: it is of the same build, lies in the same place, and
    /// has divided its addresses in the same way. True of a kernel that slept since it was looked up.
    pub fn is_of<M: PhysMem + ?Sized>(&self, phys: &M, facts: &KernelFacts) -> bool {
        if facts.info != self.info || facts.tables != self.space.tables || facts.validate(phys).is_err() {
            return false;
        }
        let memory = KernelMemory::new(phys, facts.bare_space());
        let bases = (self.space.direct_map.clone(), self.vmemmap);
        Self::load_bases(&memory, &self.symbols) == Ok(bases)
            && Self::load_per_cpu(&memory, &self.symbols).as_ref() == Ok(&self.per_cpu)
            && memory
                .text(self.symbols.init_task, self.types.overview.task.comm)
                .as_deref()
                == Ok(INIT_TASK)
    }

    /// Finds the kernel that ran last in an image.
    ///
    /// # Errors
    /// [`PrepareError::NoKernel`], or what is wrong with the most promising candidate.
    pub fn find(image: &Image<'_>) -> Result<Self, PrepareError> {
        let mut failure = PrepareError::NoKernel;
        let mut best: Option<(u64, Self)> = None;
        let mut tried: Vec<KernelFacts> = Vec::new();
        for (_, info) in vmcoreinfo::find_all(image) {
            let facts = KernelFacts::from_vmcoreinfo(info)?;
            if tried.contains(&facts) {
                continue;
            }
            tried.push(facts.clone());
            match Self::new(image, facts).and_then(|found| Ok((found.clock(image)?, found))) {
                Ok(found) if best.as_ref().is_none_or(|(clock, _)| found.0 > *clock) => best = Some(found),
                Ok(_) => {}
                // A text whose page tables lead to its own kernel says more about the image than a stale one.
                Err(error) if !matches!(error, PrepareError::Stale { .. }) || failure == PrepareError::NoKernel => {
                    failure = error;
                }
                Err(_) => {}
            }
        }
        best.map(|(_, found)| found).ok_or(failure)
    }

    fn load_types<M: PhysMem + ?Sized>(memory: &KernelMemory<'_, M>, symbols: &Symbols) -> Result<Types, PrepareError> {
        Ok(Types::load(&Btf::parse(&kernel_btf(memory, symbols)?)?)?)
    }

    /// Direct map and `vmemmap`.
    fn load_bases<M: PhysMem + ?Sized>(
        memory: &KernelMemory<'_, M>,
        symbols: &Symbols,
    ) -> Result<(core::ops::Range<Kva>, Kva), PrepareError> {
        let variable = |name, at| memory.pointer(at).map_err(|error| PrepareError::Read(name, error));
        let direct_map =
            variable("page_offset_base", symbols.page_offset_base)?..variable("vmalloc_base", symbols.vmalloc_base)?;
        Ok((direct_map, variable("vmemmap_base", symbols.vmemmap_base)?))
    }

    fn load_per_cpu<M: PhysMem + ?Sized>(
        memory: &KernelMemory<'_, M>,
        symbols: &Symbols,
    ) -> Result<Vec<u64>, PrepareError> {
        let count = memory
            .u32(symbols.nr_cpu_ids)
            .map_err(|error| PrepareError::Read("nr_cpu_ids", error))?;
        if count == 0 || count > MAX_CPUS {
            return Err(PrepareError::Value("nr_cpu_ids", u64::from(count)));
        }
        (0..u64::from(count))
            .map(|cpu| memory.u64(symbols.per_cpu_offset.offset(cpu.wrapping_mul(8))))
            .collect::<Result<_, _>>()
            .map_err(|error| PrepareError::Read("__per_cpu_offset", error))
    }

    /// CLOCK_REALTIME in seconds when the kernel last updated it.
    fn clock<M: PhysMem + ?Sized>(&self, phys: &M) -> Result<u64, PrepareError> {
        let memory = KernelMemory::new(phys, self.space.clone());
        memory
            .uint(
                self.symbols.tk_core.offset(TK_CORE_TIMEKEEPER),
                self.types.timekeeper.xtime_sec,
            )
            .map_err(|error| PrepareError::Read("tk_core", error))
    }
}
