//! What could not be saved, and why.

use crate::context::Context;
use serde::Serialize;
use shared_region::context::Summary;
use std::io::{self, Write};

/// What salvage would keep and lose.
#[derive(Debug, Serialize)]
pub struct LostSection {
    /// The sums of what is kept.
    saved: Summary,
    /// What is lost.
    lost: Vec<LostEntry>,
}

/// Something that is lost.
#[derive(Debug, Serialize)]
pub struct LostEntry {
    /// The process it belongs to, 0 if none.
    tgid: u64,
    /// Its name.
    comm: String,
    /// What.
    object: String,
    /// Why.
    reason: String,
    /// Whether the whole process is lost for it.
    process_lost: bool,
}

/// Makes the section.
pub fn gather(context: &Context) -> LostSection {
    let lost = context.lost.iter().map(|(tgid, lost)| LostEntry {
        tgid: *tgid,
        comm: lost.comm.clone(),
        object: lost.object.clone(),
        reason: lost.reason.clone(),
        process_lost: lost.fatal,
    });
    LostSection {
        saved: context.summary,
        lost: lost.collect(),
    }
}

/// Writes the section for people.
pub fn write_text(section: &LostSection, out: &mut dyn Write) -> io::Result<()> {
    let saved = &section.saved;
    writeln!(out, "\nWOULD BE SAVED")?;
    writeln!(
        out,
        "  {} processes with {} threads; {} processes refused",
        saved.processes, saved.threads, saved.refused
    )?;
    writeln!(
        out,
        "  frames: {} of one process, {} shared, {} of files; {} kept in all",
        saved.own_frames, saved.shared_frames, saved.file_frames, saved.retained_frames
    )?;
    for lost in &section.lost {
        let whole = if lost.process_lost { "process lost: " } else { "" };
        writeln!(
            out,
            "  {} {}: {whole}{}: {}",
            lost.tgid, lost.comm, lost.object, lost.reason
        )?;
    }
    Ok(())
}
