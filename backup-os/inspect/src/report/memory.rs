//! The address spaces of processes, as they would be restored.

use super::printable;
use crate::context::Context;
use serde::Serialize;
use shared_region::context::{frame_kind, Backing, FrameRun, Mapping, Process};
use std::io::{self, Write};

/// The memory of a process.
#[derive(Debug, Serialize)]
pub struct MemoryEntry {
    /// Process id.
    tgid: u32,
    /// Name.
    comm: String,
    /// Process id of another process with the same memory, if it was shown before.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_with: Option<u32>,
    /// Pages of 4 KB, by how they are handed over.
    pages: Pages,
    /// The mappings, ascending by address.
    mappings: Vec<MappingEntry>,
}

/// Pages of 4 KB, by how they are handed over.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Pages {
    /// The process's own: adopted in place.
    own: u64,
    /// Shared copy-on-write with a process recorded before.
    shared: u64,
    /// Parts of whole huge pages: adopted in place.
    huge: u64,
    /// Copied.
    copied: u64,
}

/// A mapping.
#[derive(Debug, Serialize)]
pub struct MappingEntry {
    /// First address.
    start: String,
    /// First address after it.
    end: String,
    /// Permissions, and whether writes are private, as `/proc/PID/maps` shows them.
    access: String,
    /// Offset in the file, in bytes.
    offset: u64,
    /// What backs it.
    backing: String,
    /// Path or name.
    name: String,
    /// Its pages that are in memory.
    pages: Pages,
}

impl Pages {
    fn add(&mut self, run: FrameRun) {
        let to = match run.kind() {
            frame_kind::OWN => &mut self.own,
            frame_kind::SHARED => &mut self.shared,
            frame_kind::HUGE => &mut self.huge,
            _ => &mut self.copied,
        };
        *to += run.pages();
    }

    fn total(self) -> u64 {
        self.own + self.shared + self.huge + self.copied
    }
}

/// Makes the section.
pub fn gather(context: &Context) -> Vec<MemoryEntry> {
    let alive = context.processes.iter().filter(|process| !process.zombie);
    alive
        .clone()
        .enumerate()
        .map(|(place, process)| entry(context, process, alive.clone().take(place)))
        .collect()
}

fn entry<'a>(context: &Context, process: &Process, mut before: impl Iterator<Item = &'a Process>) -> MemoryEntry {
    let shared_with = before.find(|other| other.mm == process.mm).map(|other| other.tgid);
    let mut entry = MemoryEntry {
        tgid: process.tgid,
        comm: printable(context.comm(process)),
        shared_with,
        pages: Pages::default(),
        mappings: Vec::new(),
    };
    if shared_with.is_some() {
        return entry;
    }
    let frames = context.frames.get(&process.mm).map_or(&[][..], Vec::as_slice);
    frames.iter().for_each(|&run| entry.pages.add(run));
    let mappings = context.mappings.get(&process.mm).map_or(&[][..], Vec::as_slice);
    entry.mappings = mappings
        .iter()
        .map(|mapping| mapping_entry(context, mapping, frames))
        .collect();
    entry
}

fn mapping_entry(context: &Context, mapping: &Mapping, frames: &[FrameRun]) -> MappingEntry {
    let mut pages = Pages::default();
    frames
        .iter()
        .filter(|run| (mapping.start..mapping.end).contains(&run.va))
        .for_each(|&run| pages.add(run));
    let bit = |bit: u32, letter: char| if mapping.prot & bit != 0 { letter } else { '-' };
    let sharing = if matches!(
        mapping.backing,
        Backing::FileShared | Backing::SharedMemory | Backing::IoUring
    ) {
        's'
    } else {
        'p'
    };
    let name = if !mapping.name.is_empty() {
        printable(&mapping.name)
    } else if let Some(inode) = context.inodes.get(&mapping.inode) {
        printable(&inode.last_path)
    } else {
        context
            .shared_memory
            .get(&mapping.inode)
            .map_or(String::new(), |object| printable(&object.name))
    };
    MappingEntry {
        start: format!("{:#x}", mapping.start),
        end: format!("{:#x}", mapping.end),
        // PROT_READ, PROT_WRITE, PROT_EXEC.
        access: [bit(1, 'r'), bit(2, 'w'), bit(4, 'x'), sharing].iter().collect(),
        offset: mapping.offset,
        backing: format!("{:?}", mapping.backing),
        name,
        pages,
    }
}

/// Writes the section for people.
pub fn write_text(section: &[MemoryEntry], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nMEMORY")?;
    for process in section {
        write!(out, "  {} {}: ", process.tgid, process.comm)?;
        if let Some(other) = process.shared_with {
            writeln!(out, "the memory of {other}")?;
            continue;
        }
        let Pages {
            own,
            shared,
            huge,
            copied,
        } = process.pages;
        writeln!(
            out,
            "{own} pages of its own, {shared} shared, {huge} in huge pages, {copied} to be copied"
        )?;
        for mapping in &process.mappings {
            let MappingEntry {
                start,
                end,
                access,
                backing,
                name,
                pages,
                ..
            } = mapping;
            writeln!(
                out,
                "    {start:>18} {end:>18} {access} {:>8} {backing:<12} {name}",
                pages.total()
            )?;
        }
    }
    Ok(())
}
