//! File systems whose disks lack something: what of their journals would be written, and data of files.

use crate::context::Context;
use serde::Serialize;
use std::io::{self, Write};

/// A mounted file system.
#[derive(Debug, Serialize)]
pub struct JournalEntry {
    /// Its device.
    name: String,
    /// The transaction being committed: its number, its state (`t_state`), how many blocks it has.
    committing: Option<(u32, u32, usize)>,
    /// The transaction that takes changes.
    running: Option<(u32, u32, usize)>,
    /// Blocks of the committing transaction whose content is only in the log.
    only_in_log: usize,
    /// Revoked blocks.
    revoked: usize,
    /// Files with data that the disk does not have.
    files: usize,
    /// Pages of them.
    pages: u64,
    /// What would be done, or why nothing would.
    choice: String,
}

/// Makes the section.
pub fn gather(context: &Context) -> Vec<JournalEntry> {
    let entries = context.journals.iter().map(|journal| {
        let count = |of: fn(&shared_region::context::JournalBlock) -> bool| {
            journal.blocks.iter().filter(|block| of(block)).count()
        };
        let files: Vec<_> = context
            .dirty_files
            .iter()
            .filter(|(_, file)| file.device == journal.device)
            .collect();
        let runs = |id: &u64| context.frames.get(id).into_iter().flatten();
        let pages = files.iter().map(|(id, file)| {
            let whole: u64 = runs(id).map(|run| run.pages()).sum();
            whole + file.parts.len() as u64
        });
        JournalEntry {
            name: journal.name.clone(),
            committing: journal
                .committing
                .map(|(tid, state)| (tid, state, count(|it| it.committing))),
            running: journal.running.map(|(tid, state)| (tid, state, count(|it| it.running))),
            only_in_log: count(|it| it.committing && it.before.is_none()),
            revoked: journal.revoked.len(),
            files: files.len(),
            pages: pages.sum(),
            choice: match (journal.refused.as_str(), journal.running_refused.as_str()) {
                ("", "") => "committed".into(),
                ("", why) => format!("what was being committed is committed, the rest file by file: {why}"),
                (why, _) => format!("file by file: {why}"),
            },
        }
    });
    entries.collect()
}

/// Writes the section for people.
pub fn write_text(section: &[JournalEntry], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nJOURNALS")?;
    for entry in section {
        writeln!(out, "  {}: {}", entry.name, entry.choice)?;
        for (what, transaction) in [("committing", entry.committing), ("running", entry.running)] {
            if let Some((tid, state, blocks)) = transaction {
                writeln!(out, "    {what}: transaction {tid} in state {state}, {blocks} blocks")?;
            }
        }
        writeln!(
            out,
            "    {} blocks revoked, {} only in the log; {} pages of {} files of other processes",
            entry.revoked, entry.only_in_log, entry.pages, entry.files
        )?;
    }
    Ok(())
}
