//! What is shown.
//!
//! Each section stands in a file of its own: a structure that serializes, a function that gathers it, and its text. To
//! add one, write such a file and add it to [`Report`], to [`Report::gather`], to [`Report::write_text`] and to
//! [`crate::cli::Section`].

mod files;
mod journals;
mod kernel;
mod log;
mod lost;
mod memory;
mod modules;
mod problems;
mod stacks;
mod tasks;

use crate::cli::{Args, Section};
use crate::context::Context;
use crate::image::Opened;
use problems::Problems;
use salvage::kernel::Kernel;
use salvage::memory::Image;
use serde::Serialize;
use std::io::{self, Write};

/// Version of the JSON. It grows when a member changes its meaning or goes, not when one is added.
const FORMAT: u32 = 1;

/// The kernel all sections read.
type Dead<'a> = Kernel<'a, Image<'a>>;

/// Everything that was asked for.
#[derive(Debug, Serialize)]
pub struct Report {
    format: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<kernel::KernelSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<Vec<tasks::TaskEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Vec<memory::MemoryEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Vec<files::FilesEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journals: Option<Vec<journals::JournalEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    salvage: Option<lost::LostSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stacks: Option<Vec<stacks::StackEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modules: Option<Vec<modules::ModuleEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<Vec<log::LogEntry>>,
    problems: Problems,
}

impl Report {
    /// Reads everything that was asked for.
    pub fn gather(opened: &Opened<'_>, args: &Args) -> Self {
        let dead = Kernel::new(&opened.image, &opened.prepared);
        let mut problems = Problems::default();
        let wants = |section| args.shows(section);
        let salvaged = [Section::Memory, Section::Files, Section::Journals, Section::Salvage]
            .into_iter()
            .any(wants);
        let context = salvaged
            .then(|| Context::salvage(&dead))
            .and_then(|result| match result {
                Ok(context) => Some(context),
                Err(error) => {
                    problems.note_text("salvage", "records", error.to_string());
                    None
                }
            });
        let context = context.as_ref();
        Self {
            format: FORMAT,
            kernel: wants(Section::Kernel).then(|| kernel::gather(&dead, &mut problems)),
            tasks: wants(Section::Tasks).then(|| tasks::gather(&dead, &mut problems)),
            memory: context.filter(|_| wants(Section::Memory)).map(memory::gather),
            files: context.filter(|_| wants(Section::Files)).map(files::gather),
            journals: context.filter(|_| wants(Section::Journals)).map(journals::gather),
            salvage: context.filter(|_| wants(Section::Salvage)).map(lost::gather),
            stacks: wants(Section::Stacks)
                .then(|| stacks::gather(&dead, args.show.contains(&Section::Stacks), &mut problems)),
            modules: wants(Section::Modules).then(|| modules::gather(&dead, &mut problems)),
            log: wants(Section::Log).then(|| log::gather(&dead, args.log_tail, &mut problems)),
            problems,
        }
    }

    /// Whether everything that was asked for could be read.
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }

    /// Writes the report for people.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(section) = &self.kernel {
            kernel::write_text(section, out)?;
        }
        if let Some(section) = &self.tasks {
            tasks::write_text(section, out)?;
        }
        if let Some(section) = &self.memory {
            memory::write_text(section, out)?;
        }
        if let Some(section) = &self.files {
            files::write_text(section, out)?;
        }
        if let Some(section) = &self.journals {
            journals::write_text(section, out)?;
        }
        if let Some(section) = &self.salvage {
            lost::write_text(section, out)?;
        }
        if let Some(section) = &self.stacks {
            stacks::write_text(section, out)?;
        }
        if let Some(section) = &self.modules {
            modules::write_text(section, out)?;
        }
        if let Some(section) = &self.log {
            log::write_text(section, out)?;
        }
        self.problems.write_text(out)
    }
}

/// Text from the kernel, with what is not printable made visible.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() && c != '\n' { '\u{FFFD}' } else { c })
        .collect()
}
