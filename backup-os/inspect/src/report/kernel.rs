//! The kernel and its machine.

use super::{Dead, Problems};
use salvage::error::About;
use salvage::machine::in_mask;
use salvage::memory::PhysMem;
use salvage::paging::Levels;
use serde::Serialize;
use std::io::{self, Write};

/// Identity and state of the kernel.
#[derive(Debug, Serialize)]
pub struct KernelSection {
    /// `uname -r`.
    release: String,
    /// GNU build id in hexadecimal.
    build_id: Option<String>,
    /// Levels of page tables.
    paging_levels: u8,
    /// Distance of the text from where it was linked, in bytes.
    kaslr_offset: Option<String>,
    /// Physical address of its page tables.
    page_table_root: String,
    /// First physical address after RAM.
    ram_end: String,
    /// Ranges of RAM in the image: physical start and bytes.
    ram: Vec<(String, u64)>,
    /// CPUs that could be there.
    cpus_possible: usize,
    /// CPUs that ran; a panic takes stopped ones out.
    cpus_online: Vec<usize>,
    /// The CPU that panicked.
    panic_cpu: Option<i32>,
    /// Number of symbols.
    symbols: usize,
}

/// Reads the section.
pub fn gather(dead: &Dead<'_>, problems: &mut Problems) -> KernelSection {
    let prepared = dead.prepared;
    let panic_cpu = problems.take("kernel", dead.mem.i32(dead.symbols.panic_cpu).about("panic_cpu"));
    let online = prepared.globals.cpu_online_mask;
    KernelSection {
        release: prepared.info.release().to_string(),
        build_id: prepared.info.build_id().map(str::to_string),
        paging_levels: match prepared.space.tables.levels {
            Levels::Four => 4,
            Levels::Five => 5,
        },
        kaslr_offset: prepared.info.get("KERNELOFFSET").map(|offset| format!("0x{offset}")),
        page_table_root: prepared.space.tables.root.to_string(),
        ram_end: dead.phys().end().to_string(),
        ram: dead
            .phys()
            .ranges()
            .iter()
            .map(|range| (range.start.to_string(), range.len))
            .collect(),
        cpus_possible: dead.cpu_count(),
        cpus_online: online
            .map(|mask| (0..dead.cpu_count()).filter(|&cpu| in_mask(dead, mask, cpu)).collect())
            .unwrap_or_default(),
        panic_cpu: panic_cpu.filter(|&cpu| cpu >= 0),
        symbols: dead.kallsyms.len(),
    }
}

/// Writes the section for people.
pub fn write_text(section: &KernelSection, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "KERNEL")?;
    writeln!(out, "  release      {}", section.release)?;
    writeln!(out, "  build id     {}", section.build_id.as_deref().unwrap_or("-"))?;
    writeln!(out, "  KASLR        {}", section.kaslr_offset.as_deref().unwrap_or("-"))?;
    writeln!(
        out,
        "  page tables  {} levels at {}",
        section.paging_levels, section.page_table_root
    )?;
    for (start, len) in &section.ram {
        writeln!(out, "  RAM          {} MB from {start}", len >> 20)?;
    }
    let online: Vec<String> = section.cpus_online.iter().map(usize::to_string).collect();
    writeln!(
        out,
        "  CPUs         {} possible, online: {}",
        section.cpus_possible,
        online.join(" ")
    )?;
    match section.panic_cpu {
        Some(cpu) => writeln!(out, "  panic        on CPU {cpu}"),
        None => writeln!(out, "  panic        none"),
    }
}
