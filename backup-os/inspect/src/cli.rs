//! The command line.

use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Show what a dead Linux kernel's memory holds.
///
/// IMAGE is the raw memory of an x86_64 machine, such as the file of a QEMU `memory-backend-file` or of its `pmemsave`.
/// Nothing else is needed: no debug symbols, no kernel file.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit status: 0 if everything could be read; 1 if the image cannot be read or holds no kernel; \
                  2 for wrong usage; 3 if something in the image makes no sense (listed under `problems`)."
)]
pub struct Args {
    /// Raw memory image
    pub image: PathBuf,

    /// Bytes of RAM below 4 GB, with suffix K, M or G; the rest of the image begins at 4 GB. Found out if not given
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub ram_below_4g: Option<u64>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// What to show; everything if not given
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SECTION")]
    pub show: Vec<Section>,

    /// Show only the last N records of the log
    #[arg(long, value_name = "N")]
    pub log_tail: Option<usize>,
}

/// A part of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// The kernel and its machine
    Kernel,
    /// Processes
    Tasks,
    /// The memory of each process, as it would be restored
    Memory,
    /// The open files of each process, as they would be restored
    Files,
    /// Journals of file systems, as they would be completed, and data of files
    Journals,
    /// What would be saved, and what would not, with the reason
    Salvage,
    /// Call chains: of every thread if named here, else of the thread that panicked
    Stacks,
    /// Loaded modules
    Modules,
    /// The kernel's log
    Log,
}

impl Args {
    /// Whether a section was asked for.
    pub fn shows(&self, section: Section) -> bool {
        self.show.is_empty() || self.show.contains(&section)
    }
}

/// Reads a number of bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'k', 'm', 'g']);
    let shift = match text.get(digits.len()..) {
        Some("") => 0,
        Some("K" | "k") => 10,
        Some("M" | "m") => 20,
        Some("G" | "g") => 30,
        _ => return Err(format!("`{text}` is not a size")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{text}` is not a size"))?;
    number
        .checked_shl(shift)
        .filter(|size| size >> shift == number)
        .ok_or(format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::{parse_size, Args};
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(parse_size("2048M"), Ok(2 << 30));
        assert_eq!(parse_size("12"), Ok(12));
        assert!(parse_size("2GG").is_err());
        assert!(parse_size("G").is_err());
        assert!(parse_size("99999999999999G").is_err());
    }
}
