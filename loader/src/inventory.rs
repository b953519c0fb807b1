//! What machine this is and what GRUB brought: everything that is looked at before anything is changed.

use crate::{
    console::{self, say},
    physical::Physical,
};
use alloc::{boxed::Box, string::String, vec::Vec};
use boot_plan::{
    acpi::{AcpiError, Cpus, Fadt, Madt, Tables},
    boot_params::Screen,
    memory_map,
    modules::{self, Modules, Role},
    multiboot::{self, Information, MultibootError},
    options::Options,
    span::Span,
    windows::{self, Windows},
};
use core::error::Error;
use machine::{
    apic::{LocalApic, Mode},
    clock::{Clock, PmTimer},
    cpu::{self, Encryption},
    Ring0,
};
use shared_region::header::MemoryRange;

/// How long the time-stamp counter is measured, in microseconds: 0.01 % of error.
const MEASURE_US: u32 = 50_000;

/// The machine and the boot files.
pub struct Inventory {
    /// The loader's options.
    pub options: Options,
    /// What the screen shows.
    pub screen: Screen,
    /// Boot modules.
    pub modules: Modules<'static>,
    /// The firmware's memory map.
    pub memory: Vec<MemoryRange>,
    /// Where region and nurseries go.
    pub windows: Windows,
    /// Copy of the firmware's RSDP structure.
    pub rsdp: &'static [u8],
    /// The firmware's tables.
    pub tables: Tables,
    /// Who gets which CPU.
    pub cpus: Cpus,
    /// Port of the PM timer.
    pub pm_timer: u16,
    /// Measured time-stamp counter.
    pub clock: Clock,
}

/// A reason of the CPU's why Orthros cannot run.
#[derive(Debug)]
enum Unsupported {
    Encrypted(Encryption),
    NoLocalApic,
    NoPmTimer,
}

impl core::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Encrypted(Encryption::Sme) => write!(
                f,
                "memory encryption (AMD SME) is on: nobody could read a dead kernel's memory; turn it off in the firmware setup"
            ),
            Self::Encrypted(Encryption::Sev) => write!(
                f,
                "this is an encrypted guest (AMD SEV): nobody could read a dead kernel's memory"
            ),
            Self::NoLocalApic => write!(f, "the local APIC is missing or turned off by the firmware"),
            Self::NoPmTimer => write!(f, "the firmware's FADT names no ACPI PM timer to measure time with"),
        }
    }
}

impl Error for Unsupported {}

/// The memory this program occupies, stack and page tables included.
pub fn own_memory() -> Span {
    #[cfg(target_os = "none")]
    {
        unsafe extern "C" {
            static loader_begin: u8;
            static loader_end: u8;
        }
        Span {
            start: &raw const loader_begin as u64,
            end: &raw const loader_end as u64,
        }
    }
    #[cfg(not(target_os = "none"))]
    Span { start: 0, end: 0 }
}

/// Copies GRUB's information to a place of ours, where it stays for good.
fn information(physical: &Physical, magic: u32, address: u32) -> Result<&'static [u8], MultibootError> {
    if magic != multiboot::MAGIC {
        return Err(MultibootError::Magic(magic));
    }
    // SAFETY: (both reads) GRUB says that its information lies there, and nothing has been written yet.
    let at = |length: u64| unsafe { physical.slice(Span::of(u64::from(address), length)) };
    let head = at(8).try_into().map_err(|_| MultibootError::Size(0))?;
    let size = multiboot::size(head)?;
    Ok(Vec::leak(at(size as u64).to_vec()))
}

impl Inventory {
    /// Looks at everything and refuses what cannot work.
    ///
    /// # Errors
    /// The reason, for the administrator.
    pub fn take(ring0: Ring0, physical: &Physical, magic: u32, address: u32) -> Result<Self, Box<dyn Error>> {
        let info = Information::parse(information(physical, magic, address)?)?;
        let screen = if info.graphical {
            console::close_screen();
            Screen::Unknown
        } else {
            Screen::Text80x25
        };
        let (options, unknown) = Options::parse(info.command_line);
        for option in unknown {
            say!("warning: unknown option `{option}` on the loader's command line is ignored");
        }
        if let Some(kind) = cpu::encryption(ring0) {
            return Err(Unsupported::Encrypted(kind).into());
        }
        let apic = LocalApic::current(ring0);
        if !cpu::features().apic || apic.mode() == Mode::Disabled {
            return Err(Unsupported::NoLocalApic.into());
        }
        let memory = memory_map::from_firmware(&info.memory)?;
        let modules = Modules::assign(&info.modules, &memory)?;
        check_modules(physical, &modules)?;

        let rsdp = info.rsdp.ok_or(AcpiError::NoRsdp)?;
        let tables = Tables::find(rsdp, physical)?;
        let madt = Madt::parse(tables.read(*b"APIC", physical)?)?;
        let cpus = Cpus::divide(&madt, apic.id())?;
        let fadt = Fadt::parse(&tables.read(*b"FACP", physical)?)?;
        let pm_timer = fadt.pm_timer.ok_or(Unsupported::NoPmTimer)?;

        let mut used: Vec<Span> = info.modules.iter().map(|module| module.span).collect();
        used.push(own_memory());
        let windows = windows::choose(&memory, &used)?;
        let clock = Clock::new(PmTimer::new(ring0, pm_timer).measure_tsc(MEASURE_US)?);
        Ok(Self {
            options,
            screen,
            modules,
            memory,
            windows,
            rsdp,
            tables,
            cpus,
            pm_timer,
            clock,
        })
    }

    /// Says what was found.
    pub fn report(&self) {
        let mut cpus = String::new();
        for id in &self.cpus.linux {
            cpus.push_str(&alloc::format!(" {id}"));
        }
        say!(
            "{} MB of RAM; region at {:#x}, nurseries at {:#x} (reserved) and {:#x}",
            memory_map::ram_bytes(&self.memory) >> 20,
            self.windows.region,
            self.windows.nursery[0],
            self.windows.nursery[1]
        );
        say!(
            "CPUs by local APIC id: Linux{cpus}; backup OS {}; {} MHz",
            self.cpus.reserved,
            self.clock.hz() / 1_000_000
        );
    }
}

fn check_modules(physical: &Physical, modules: &Modules) -> Result<(), modules::ModuleError> {
    let all = [
        (Role::BackupOs, Some(modules.backup_os)),
        (Role::Kernel, Some(modules.kernel)),
        (Role::Initramfs, modules.initramfs),
        (Role::SuccessorKernel, Some(modules.successor_kernel)),
        (Role::SuccessorInitramfs, Some(modules.successor_initramfs)),
    ];
    for (role, module) in all {
        if let Some(module) = module {
            // SAFETY: GRUB says that the module lies there, and nothing has been written yet.
            modules::check(role, unsafe { physical.slice(module.span) })?;
        }
    }
    Ok(())
}
