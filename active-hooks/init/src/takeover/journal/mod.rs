//! Transactions that the dead kernel had not committed, written to the logs of their file systems as it would have done.
//!
//! What we know on entry: a record has the blocks of the transactions of a mounted ext4, and nothing has been mounted. What
//! we are responsible for: blocks are written to the free part of the log alone, and become part of it with the write of
//! one block, the commit block, so that whatever happens on the way the file system is either as after an ordinary crash or
//! as it was when the kernel failed; the mount does the rest. A log that is not wholly as expected is left alone.

mod format;
mod log;

use super::disk;
use crate::{
    boot::log as console,
    restore::{host::Host, world::World},
};
use format::{word, Logged, FEATURE_REVOKE, MAGIC};
use log::{End, Log, Unsound};
use shared_region::{
    context::{Checkpoint, FileSystem, Journal, JournalBlock},
    PAGE_SIZE,
};
use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    time::{Duration, Instant},
};

/// What was done.
#[derive(Debug, Default)]
pub struct Committed {
    /// Device numbers of file systems whose disks now have all that was acknowledged, but for data of files.
    pub devices: BTreeSet<u64>,
    /// What was not, and why.
    pub remarks: Vec<String>,
    /// Each of them, and what was done.
    pub file_systems: Vec<FileSystem>,
}

/// How long all devices together may take to appear. That of the root file system is there already.
const PATIENCE: Duration = Duration::from_secs(2);
/// Devices that nobody makes before the root file system is mounted, by the beginning of their names.
const MADE_LATER: [&str; 5] = ["loop", "dm-", "md", "nbd", "zram"];

/// Writes all of them. If an earlier successor may have written them already (`again`), a log that does not wait for its
/// transaction any more has got it, or lost its turn with that successor's mount.
pub fn commit(world: &World<'_>, again: bool, host: &dyn Host) -> Committed {
    let mut committed = Committed::default();
    let deadline = Instant::now() + PATIENCE;
    for record in &world.journals {
        let mut tell = |done: String| {
            let name = record.name.clone();
            committed.file_systems.push(FileSystem { name, done });
        };
        match one(record, deadline, host, setting(world, record)) {
            Ok(done) => {
                let text = match done.is_whole {
                    true => done.text,
                    false => format!("{}; the rest file by file: {}", done.text, record.running_refused),
                };
                if done.is_whole {
                    committed.devices.insert(record.device);
                }
                console::info(format_args!("file system on {}: {text}", record.name));
                tell(text);
            }
            Err(why) if again && record.refused.is_empty() => {
                tell(format!("left to an earlier successor: {why}"));
                committed.devices.insert(record.device);
                console::info(format_args!(
                    "file system on {}: left to an earlier successor: {why}",
                    record.name
                ));
            }
            // Whoever made the record has put everything else in others.
            Err(why) if !record.refused.is_empty() || !record.running_refused.is_empty() => {
                tell(format!("file by file: {why}"));
                console::info(format_args!("file system on {}: file by file: {why}", record.name));
            }
            Err(why) => {
                tell(format!("as after an ordinary crash: {why}"));
                let remark = format!("file system on {}: {why}", record.name);
                console::warning(format_args!("{remark}"));
                committed.remarks.push(remark);
            }
        }
    }
    committed
}

/// Writes one of them, whose device is there. Returns whether its disk now has all but data of files, and what was done.
///
/// # Errors
/// Why nothing was.
pub fn commit_one(world: &World<'_>, record: &Journal, host: &dyn Host) -> Result<(bool, String), String> {
    let done = one(record, Instant::now(), host, setting(world, record))?;
    Ok((done.is_whole, done.text))
}

/// What [`complete`] is told.
fn setting<'w>(world: &'w World<'_>, record: &Journal) -> (u64, Option<&'w Checkpoint>) {
    let now = u64::try_from(world.machine.clock.realtime).unwrap_or(0);
    let waiting = world.checkpoints.iter().find(|it| it.device == record.device);
    (now, waiting)
}

/// What was done to one of them.
struct Done {
    text: String,
    /// Everything of its journal is in the log.
    is_whole: bool,
}

fn one(
    record: &Journal,
    deadline: Instant,
    host: &dyn Host,
    setting: (u64, Option<&Checkpoint>),
) -> Result<Done, String> {
    if !record.refused.is_empty() {
        return Err(record.refused.clone());
    }
    let patience = match MADE_LATER.iter().any(|made| record.name.starts_with(made)) {
        true => Duration::ZERO,
        false => deadline.saturating_duration_since(Instant::now()),
    };
    let path = disk::locate(record.uuid, patience)?;
    let device = OpenOptions::new().read(true).write(true).open(&path);
    let device = device.map_err(|error| format!("{}: {error}", path.display()))?;
    complete(&device, record, host, setting)
}

/// Completes a log, at a time (`now`, in nanoseconds since 1970). `waiting` has what is committed and not in its place, if data of
/// files goes through the log as well.
fn complete(
    device: &File,
    record: &Journal,
    host: &dyn Host,
    (now, waiting): (u64, Option<&Checkpoint>),
) -> Result<Done, String> {
    let mut log = Log::open(device, record)?;
    let end = log.end()?;
    let all_there = || Done {
        text: String::from("its log has all of its transactions"),
        is_whole: record.running_refused.is_empty(),
    };
    let made = Choice::make(record, end, word(&log.superblock, 24));
    let (choice, refused) = match (made, end.next.filter(|_| waiting.is_some())) {
        (Ok(Some(choice)), _) => (choice, None),
        (Ok(None), Some(tid)) => (Choice::of_nothing(tid), None),
        (Ok(None), None) => return Ok(all_there()),
        // What the log has may have to be mended nevertheless.
        (Err(Not::Whole(why)), Some(tid)) => (Choice::of_nothing(tid).alone(), Some(why)),
        (Err(Not::Whole(why) | Not::Next(why)), _) => return Err(why),
    };
    choice.check(&log)?;
    let now_in_memory = |block: &JournalBlock| content(&log, record, block, false, host);
    let (unsound, nowhere) = superseded(&log, &choice, waiting, &now_in_memory)?;
    let needs_check = match nowhere.as_slice() {
        [] => String::new(),
        numbers => format!(", where blocks {numbers:?} of the dead kernel's have wrong checksums: it needs e2fsck"),
    };
    if choice.is_empty() && unsound.is_empty() {
        return refused.map_or_else(|| Ok(all_there()), |why| Err(why + &needs_check));
    }
    let superseded: Vec<u64> = unsound.keys().copied().collect();
    let again: Vec<Logged> = unsound.into_values().flatten().collect();
    let revoked: Vec<u64> = choice.revoked.iter().copied().collect();
    let blocks = choice.blocks.len() as u64;
    let lists = |numbers: &[u64]| numbers.len().div_ceil(log.format.revoked()) as u64;
    let descriptors = |blocks: usize| blocks.div_ceil(log.format.tags()) as u64;
    let ahead = lists(&superseded) + u64::from(!superseded.is_empty());
    let content_blocks = blocks + descriptors(choice.blocks.len()) + again.len() as u64 + descriptors(again.len());
    let needed = ahead + lists(&revoked) + content_blocks + 1;
    if needed > end.free {
        return Err(format!("{needed} blocks are more than its log has room for"));
    }
    let mut at = 0;
    let mut append = |block: &[u8]| {
        at += 1;
        log.write(log.after(end.at, at - 1), block)
    };
    let mut tid = choice.tid;
    if !superseded.is_empty() {
        for numbers in superseded.chunks(log.format.revoked()) {
            append(&log.format.revoke(tid, numbers))?;
        }
        // Without its commit block nothing that follows counts.
        append(&vec![0; log.format.block_size])?;
        tid = tid.wrapping_add(1);
    }
    for numbers in revoked.chunks(log.format.revoked()) {
        append(&log.format.revoke(tid, numbers))?;
    }
    let mut append_all = |logged: &[Logged]| {
        append(&log.format.descriptor(tid, logged))?;
        logged.iter().try_for_each(|block| append(&block.content))
    };
    for chosen in choice.blocks.chunks(log.format.tags()) {
        let contents = chosen
            .iter()
            .map(|block| content(&log, record, block, choice.alone, host));
        append_all(&contents.collect::<Result<Vec<_>, _>>()?)?;
    }
    for logged in again.chunks(log.format.tags()) {
        append_all(logged)?;
    }
    // What lies behind must not pass for the transaction after this one.
    let beyond = log.after(end.at, needed);
    let stale = log.read(beyond)?;
    if word(&stale, 0) == MAGIC && word(&stale, 8) == tid.wrapping_add(1) {
        log.write(beyond, &vec![0; log.format.block_size])?;
    }
    log.flush()?;
    log.write(log.after(end.at, needed - 1), &log.format.commit(tid, now))?;
    log.flush()?;
    if !superseded.is_empty() {
        log.write(log.after(end.at, ahead - 1), &log.format.commit(choice.tid, now))?;
        log.flush()?;
    }
    if end.next.is_none() {
        let features = log.format.features | if revoked.is_empty() { 0 } else { FEATURE_REVOKE };
        let mut superblock = log.superblock.clone();
        format::lead_to(&mut superblock, features, choice.tid, end.at as u32);
        log.write(0, &superblock)?;
        log.flush()?;
        log.superblock = superblock;
    }
    let now_next = log.end()?.next;
    if now_next != Some(tid.wrapping_add(1)) {
        return Err(format!(
            "its log does not end with transaction {tid} after it was written"
        ));
    }
    let superseding = match superseded.len() {
        0 => String::new(),
        count => format!(", supersedes {count} with wrong checksums"),
    };
    Ok(Done {
        text: format!(
            "transaction {tid} with {blocks} blocks, {} revoked, is in its log{superseding}{needs_check}",
            revoked.len()
        ),
        is_whole: !choice.alone || record.running.is_none(),
    })
}

/// Blocks in the log with which the file system could not be mounted, and, of those that are not part of the transaction to be
/// written, their last content, if they are not in their places. They are revoked by a transaction of their own before it, which
/// their new content follows: what is revoked counts for all that is before in the log, and its checksum is not looked at. The
/// second are those of which nothing newer is known.
fn superseded(
    log: &Log<'_>,
    choice: &Choice,
    waiting: Option<&Checkpoint>,
    now_in_memory: &dyn Fn(&JournalBlock) -> Result<Logged, String>,
) -> Result<(Unsound, Vec<u64>), String> {
    // Only where a page has several blocks they come about, or where a file's end is zeroed as it is shortened while the page is being
    // written to the log (`truncate_pagecache()`, before which `ext4_wait_for_tail_page_commit()` does not wait where a block
    // is a page); elsewhere the log is not read twice.
    if log.format.block_size as u64 >= PAGE_SIZE && waiting.is_none() {
        return Ok((Unsound::new(), Vec::new()));
    }
    let mut unsound = log.unsound()?;
    unsound.retain(|number, _| !choice.revoked.contains(number));
    let mut nowhere = Vec::new();
    for (number, copy) in &mut unsound {
        let find = |blocks: &[JournalBlock]| blocks.iter().find(|block| block.number == *number).copied();
        match (find(&choice.blocks), waiting) {
            (Some(_), _) => *copy = None,
            (None, _) if copy.is_some() => {}
            (None, Some(waiting)) => match find(&waiting.blocks) {
                Some(block) if block.at == 0 => nowhere.push(*number),
                Some(block) => *copy = Some(now_in_memory(&block)?),
                None => {}
            },
            (None, None) => nowhere.push(*number),
        }
    }
    unsound.retain(|number, _| !nowhere.contains(number));
    Ok((unsound, nowhere))
}

/// Why nothing of the dead kernel's transactions is written.
#[derive(Debug, PartialEq, Eq)]
enum Not {
    /// What is left of them must not be.
    Whole(String),
    /// The log is not the one before them.
    Next(String),
}

/// What is written.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    tid: u32,
    blocks: Vec<JournalBlock>,
    revoked: BTreeSet<u64>,
    /// The committing transaction without the running one.
    alone: bool,
}

impl Choice {
    /// Decides by what the log has: the committing transaction is in it or not. `sequence` is what an empty log says to
    /// be the number of a transaction. `None` if there is nothing to write.
    fn make(record: &Journal, end: End, sequence: u32) -> Result<Option<Self>, Not> {
        let running = record.running.filter(|_| record.running_refused.is_empty());
        let may_be_next = |tid: u32| match end.next {
            Some(next) => next == tid,
            // An empty log has the number of the last transaction or of the next.
            None => [sequence, sequence.wrapping_add(1)].contains(&tid),
        };
        let both = |choose: fn(&JournalBlock) -> bool, tid, alone, revoked: BTreeSet<u64>| Self {
            tid,
            blocks: record.blocks.iter().copied().filter(choose).collect(),
            revoked,
            alone,
        };
        let numbers = |committing: bool| -> BTreeSet<u64> {
            let chosen = record.revoked.iter().filter(|one| one.committing == committing);
            chosen.map(|one| one.number).collect()
        };
        let Some((tid, _)) = record.committing else {
            let Some((tid, _)) = running else {
                let is_idle = record.running.is_none();
                return if is_idle {
                    Ok(None)
                } else {
                    Err(Not::Whole(record.running_refused.clone()))
                };
            };
            if !may_be_next(tid) {
                return Err(Not::Next(format!("its log does not end before transaction {tid}")));
            }
            return Ok(Some(both(|block| block.running, tid, false, numbers(false))).filter(|it| !it.is_empty()));
        };
        if may_be_next(tid) {
            if running.is_none() {
                // Nothing of the running one may be among it.
                if let Some(lost) = record.blocks.iter().find(|it| it.committing && it.before.is_none()) {
                    let why = &record.running_refused;
                    return Err(Not::Whole(format!(
                        "block {} was changed since, and {why}",
                        lost.number
                    )));
                }
                return Ok(Some(both(|block| block.committing, tid, true, numbers(true))));
            }
            return Ok(Some(Self::merged(record, tid, numbers(true), numbers(false))));
        }
        if end.next != Some(tid.wrapping_add(1)) {
            return Err(Not::Next(format!(
                "its log ends neither before nor after transaction {tid}"
            )));
        }
        match (record.running, running) {
            (None, _) => Ok(None),
            (Some(_), None) => Err(Not::Whole(record.running_refused.clone())),
            (Some(_), Some((next, _))) if next != tid.wrapping_add(1) => {
                Err(Not::Next("its transactions do not follow".into()))
            }
            (Some(_), Some((next, _))) => {
                Ok(Some(both(|block| block.running, next, false, numbers(false))).filter(|it| !it.is_empty()))
            }
        }
    }

    /// A transaction without blocks of its own.
    fn of_nothing(tid: u32) -> Self {
        Self {
            tid,
            blocks: Vec::new(),
            revoked: BTreeSet::new(),
            alone: false,
        }
    }

    /// The same, of a journal whose running transaction is not written.
    fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// Both transactions as one: every block as it was last.
    fn merged(record: &Journal, tid: u32, before: BTreeSet<u64>, after: BTreeSet<u64>) -> Self {
        // What the running one has revoked is not written, unless it has taken the block anew. A block that is
        // written must not be revoked by the very transaction.
        let kept = |block: &&JournalBlock| block.running || !after.contains(&block.number);
        let blocks: Vec<JournalBlock> = record.blocks.iter().filter(kept).copied().collect();
        let written: BTreeSet<u64> = blocks.iter().map(|block| block.number).collect();
        let revoked = before
            .union(&after)
            .filter(|number| !written.contains(number))
            .copied()
            .collect();
        Self {
            tid,
            blocks,
            revoked,
            alone: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.revoked.is_empty()
    }

    /// No block is written where none of the kind can be.
    fn check(&self, log: &Log<'_>) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for block in &self.blocks {
            let number = block.number;
            if number >= log.blocks || log.is_own(number) || !seen.insert(number) || self.revoked.contains(&number) {
                return Err(format!("block {number} cannot be part of a transaction"));
            }
        }
        Ok(())
    }
}

/// The content of a block for the log.
fn content(
    log: &Log<'_>,
    record: &Journal,
    block: &JournalBlock,
    alone: bool,
    host: &dyn Host,
) -> Result<Logged, String> {
    let read = |at: u64| frame(host, at, log.format.block_size);
    let current = read(block.at)?;
    let bytes = match block.before.filter(|_| alone) {
        Some(before) => read(before)?,
        None => current.clone(),
    };
    let mut logged = Logged::new(block.number, bytes);
    // A copy may have been made for the log already, with its first word taken away.
    if alone && word(&logged.content, 0) == 0 && word(&current, 0) == MAGIC {
        logged.escaped = true;
    }
    // The superblock is told from all others.
    let of_superblock = if log.format.block_size == 1024 {
        (1, 0)
    } else {
        (0, 1024)
    };
    if block.number == of_superblock.0 {
        let superblock = &logged.content[of_superblock.1..];
        if superblock[56..58] != [0x53, 0xEF] || superblock[104..120] != record.uuid {
            return Err("its superblock in memory is no superblock".into());
        }
    }
    Ok(logged)
}

fn frame(host: &dyn Host, at: u64, bytes: usize) -> Result<Vec<u8>, String> {
    let mut page = vec![0; PAGE_SIZE as usize];
    let read = host.read_frames(at / PAGE_SIZE, &mut page);
    read.map_err(|refusal| format!("{refusal}"))?;
    let within = (at % PAGE_SIZE) as usize;
    let part = page
        .get(within..within + bytes)
        .ok_or("a block that does not lie in one page")?;
    Ok(part.to_vec())
}

#[cfg(test)]
mod tests;
