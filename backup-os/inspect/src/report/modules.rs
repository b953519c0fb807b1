//! Loaded modules.

use super::{Dead, Problems};
use serde::Serialize;
use std::io::{self, Write};

/// A module.
#[derive(Debug, Serialize)]
pub struct ModuleEntry {
    /// Its name.
    name: String,
    /// Where its text lies.
    base: String,
    /// Bytes it holds.
    size: u64,
    /// Whether it runs: not still starting, not going.
    live: bool,
}

/// Reads the section.
pub fn gather(dead: &Dead<'_>, problems: &mut Problems) -> Vec<ModuleEntry> {
    salvage::modules::modules(dead)
        .filter_map(|module| problems.take("modules", module))
        .map(|module| ModuleEntry {
            name: module.name,
            base: module.base.to_string(),
            size: module.size,
            live: module.live,
        })
        .collect()
}

/// Writes the section for people.
pub fn write_text(section: &[ModuleEntry], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nMODULES ({})", section.len())?;
    for module in section {
        let state = if module.live { "" } else { "  not live" };
        writeln!(out, "  {:<24} {:>9}  {}{state}", module.name, module.size, module.base)?;
    }
    Ok(())
}
