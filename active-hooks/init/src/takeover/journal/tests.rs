use super::*;
use crate::restore::host::Memory;
use shared_region::context::RevokedBlock;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// What is in the file: now and then a block begins with the magic number.
fn payload() -> Vec<u8> {
    let mut content = vec![0xA7; 300_000];
    for at in (0..content.len()).step_by(5 * 4096) {
        content[at..at + 4].copy_from_slice(&MAGIC.to_be_bytes());
    }
    content
}

/// A file system as it is on the disk, and what a kernel has of a file that was made since.
struct Case {
    disk: PathBuf,
    record: Journal,
    memory: Memory,
    waiting: Option<Checkpoint>,
}

fn tool(name: &str, arguments: &[&str]) -> (i32, String) {
    let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default());
    let done = Command::new(name).args(arguments).env("PATH", path).output();
    let done = done.unwrap_or_else(|error| panic!("{name} (apt install e2fsprogs): {error}"));
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.code().unwrap_or(-1), text)
}

impl Case {
    fn new(name: &str, options: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(format!("orthros-journal-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (disk, after, payload) = (dir.join("disk"), dir.join("after"), dir.join("payload"));
        std::fs::write(&payload, self::payload()).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut make = vec!["-q", "-F"];
        make.extend(options);
        let (target, size) = (text(&disk), "24M".to_owned());
        make.extend([target.as_str(), size.as_str()]);
        let (status, said) = tool("mkfs.ext4", &make);
        assert_eq!(status, 0, "{said}");
        std::fs::copy(&disk, &after).unwrap();
        for (image, command) in [
            (&after, format!("write {} made", text(&payload))),
            (&after, "mkdir dir".into()),
        ] {
            let (status, said) = tool("debugfs", &["-w", "-R", &command, &text(image)]);
            assert_eq!(status, 0, "{said}");
        }
        for image in [&disk, &after] {
            tool("debugfs", &["-w", "-R", "feature needs_recovery", &text(image)]);
        }
        let (was, is) = (std::fs::read(&disk).unwrap(), std::fs::read(&after).unwrap());
        let block_size = 1024usize << was[1024 + 24];
        let mut memory = vec![0; PAGE_SIZE as usize];
        let mut blocks = Vec::new();
        for (number, (old, new)) in was.chunks(block_size).zip(is.chunks(block_size)).enumerate() {
            if old != new {
                let (number, at) = (number as u64, memory.len() as u64);
                blocks.push(JournalBlock {
                    number,
                    at,
                    running: true,
                    ..JournalBlock::default()
                });
                memory.extend_from_slice(new);
                memory.resize(memory.len().next_multiple_of(PAGE_SIZE as usize), 0);
            }
        }
        assert!(blocks.len() > 70, "{} blocks differ", blocks.len());
        let first = u32::from_le_bytes(was[1024 + 268 + 20..][..4].try_into().unwrap()) as usize;
        let superblock = was[first * block_size..][..80].to_vec();
        let sequence = word(&superblock, 24);
        let record = Journal {
            uuid: was[1024 + 104..][..16].try_into().unwrap(),
            block_size: block_size as u32,
            inode: was[1024 + 268..][..60].to_vec(),
            superblock,
            running: Some((sequence + 1, 0)),
            blocks,
            ..Journal::default()
        };
        Self {
            disk,
            record,
            memory: Memory(memory),
            waiting: None,
        }
    }

    fn complete(&self) -> Result<Done, String> {
        let device = OpenOptions::new().read(true).write(true).open(&self.disk).unwrap();
        complete(
            &device,
            &self.record,
            &self.memory,
            (1_700_000_000_000_000_000, self.waiting.as_ref()),
        )
    }

    /// What `e2fsck` makes of it: whether the log was replayed without a complaint, and whether the file is there.
    fn judge(&self) -> (bool, bool) {
        let disk = self.disk.to_str().unwrap();
        let (_, replayed) = tool("e2fsck", &["-fy", disk]);
        let (status, said) = tool("e2fsck", &["-fn", disk]);
        assert_eq!(status, 0, "{said}");
        let made = self.disk.with_file_name("made");
        tool("debugfs", &["-R", &format!("dump made {}", made.display()), disk]);
        let clean =
            replayed.contains("recovering journal") && !replayed.contains("Fix") && !replayed.contains("checksum");
        (clean, std::fs::read(made).is_ok_and(|found| found == payload()))
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.disk.parent().unwrap());
    }
}

/// Forms of a journal: with checksums and wide numbers, with small blocks, with narrow numbers, with neither.
const FORMS: [(&str, &[&str]); 4] = [
    ("wide", &["-b", "4096"]),
    ("small", &["-b", "1024"]),
    ("narrow", &["-b", "2048", "-I", "128", "-O", "^64bit"]),
    ("old", &["-b", "4096", "-O", "^metadata_csum,^64bit"]),
];

/// A journal on the disk takes on its features when it is first mounted.
fn with_features(case: &mut Case, form: &str) {
    let features: u32 = match form {
        "old" => return,
        "narrow" => 0x10,
        _ => 0x12,
    };
    case.record.superblock[40..44].copy_from_slice(&features.to_be_bytes());
}

#[test]
fn the_first_transaction_of_a_log_is_replayed() {
    for (name, options) in FORMS {
        let mut case = Case::new(&format!("first-{name}"), options);
        assert_eq!(case.judge_untouched(), (false, false), "{name}");
        let mut case_again = Case::new(&format!("first-again-{name}"), options);
        std::mem::swap(&mut case, &mut case_again);
        with_features(&mut case, name);
        assert!(case.complete().unwrap().is_whole);
        assert_eq!(case.judge(), (true, true), "{name}");
    }
}

impl Case {
    fn judge_untouched(&self) -> (bool, bool) {
        let (_, is_there) = self.judge();
        (false, is_there)
    }
}

#[test]
fn a_transaction_follows_another() {
    for (name, options) in FORMS {
        let mut case = Case::new(&format!("second-{name}"), options);
        with_features(&mut case, name);
        let all = case.record.blocks.clone();
        let (tid, _) = case.record.running.unwrap();
        case.record.blocks = all[..3].to_vec();
        case.complete().unwrap();
        // The one that is in the log already is the one that memory says is being committed.
        case.record.blocks = all;
        for block in &mut case.record.blocks[..3] {
            block.committing = true;
            block.before = Some(block.at);
        }
        case.record.committing = Some((tid, 6));
        case.record.running = Some((tid + 1, 0));
        assert!(case
            .complete()
            .unwrap()
            .text
            .starts_with(&format!("transaction {}", tid + 1)));
        assert_eq!(case.judge(), (true, true), "{name}");
    }
}

/// Begun at several places near its end: descriptors, blocks and the commit block come to lie on both sides of it.
#[test]
fn a_transaction_goes_on_at_the_beginning_of_the_log() {
    let (name, options) = FORMS[2];
    let mut case = Case::new("wrapped", options);
    with_features(&mut case, name);
    let (tid, _) = case.record.running.unwrap();
    let untouched = std::fs::read(&case.disk).unwrap();
    let blocks = case.record.blocks.len() as u32;
    for before in (1..blocks + 6).step_by(19) {
        std::fs::write(&case.disk, &untouched).unwrap();
        let device = OpenOptions::new().read(true).write(true).open(&case.disk).unwrap();
        let log = Log::open(&device, &case.record).unwrap();
        let mut superblock = log.superblock.clone();
        let start = word(&superblock, 16) - before;
        format::lead_to(&mut superblock, log.format.features, tid, start);
        log.write(0, &superblock).unwrap();
        assert!(case.complete().unwrap().is_whole);
        assert_eq!(case.judge(), (true, true), "{before} blocks before the end");
    }
}

#[test]
fn two_transactions_become_one_if_neither_is_in_the_log() {
    let mut case = Case::new("merged", FORMS[0].1);
    with_features(&mut case, FORMS[0].0);
    let (tid, _) = case.record.running.unwrap();
    case.record.committing = Some((tid, 4));
    case.record.running = Some((tid + 1, 0));
    for block in &mut case.record.blocks[..20] {
        (block.committing, block.running, block.before) = (true, false, Some(block.at));
    }
    // Revoked by the first, taken anew by the second: it must be written.
    case.record.revoked.push(RevokedBlock {
        number: case.record.blocks[30].number,
        committing: true,
    });
    assert!(case.complete().unwrap().text.contains(&format!("transaction {tid} ")));
    assert_eq!(case.judge(), (true, true));
}

#[test]
fn without_the_commit_block_nothing_has_happened() {
    let mut case = Case::new("torn", FORMS[0].1);
    with_features(&mut case, FORMS[0].0);
    let all = case.record.blocks.clone();
    case.record.blocks = all[..2].to_vec();
    case.complete().unwrap();
    let (tid, _) = case.record.running.unwrap();
    case.record.running = Some((tid + 1, 0));
    case.record.blocks = all[2..].to_vec();
    case.complete().unwrap();
    // The commit block of the second is the last that was written: revert it.
    let device = OpenOptions::new().read(true).write(true).open(&case.disk).unwrap();
    let log = Log::open(&device, &case.record).unwrap();
    let end = log.end().unwrap();
    log.write(log.after(log.after(1, 0), end.at - 2), &vec![0; log.format.block_size])
        .unwrap();
    assert_eq!(log.end().unwrap().next, Some(tid + 1));
    let (_, is_there) = case.judge();
    assert!(!is_there);
}

#[test]
fn what_does_not_fit_is_left_alone() {
    let whole = Case::new("refused", FORMS[0].1);
    let before = std::fs::read(&whole.disk).unwrap();
    let refused = |change: fn(&mut Journal)| {
        let mut record = whole.record.clone();
        change(&mut record);
        let device = OpenOptions::new().read(true).write(true).open(&whole.disk).unwrap();
        let done = complete(&device, &record, &whole.memory, (0, None)).map(|done| done.text);
        assert_eq!(std::fs::read(&whole.disk).unwrap(), before, "{done:?}");
        done.unwrap_err()
    };
    assert!(refused(|it| it.uuid[0] ^= 1).contains("superblock is another"));
    assert!(refused(|it| it.inode[20] ^= 1).contains("not where memory says"));
    assert!(refused(|it| it.superblock[48] ^= 1).contains("not the one that memory knows"));
    assert!(refused(|it| it.superblock[43] = 0x20).contains("not known"));
    assert!(refused(|it| it.running = Some((77, 0))).contains("does not end before"));
    assert!(refused(|it| it.blocks[0].number = 1 << 40).contains("cannot be part"));
    assert!(refused(|it| it.blocks[1] = it.blocks[0]).contains("cannot be part"));
    assert!(refused(|it| {
        let start = u32::from_le_bytes(it.inode[20..24].try_into().unwrap());
        it.blocks[0].number = u64::from(start) + 9;
    })
    .contains("cannot be part"));
    assert!(refused(|it| it.running_refused = "a handle".into()).contains("a handle"));
    assert!(refused(|it| it.blocks[0].at = it.blocks[1].at).contains("no superblock"));
}

#[test]
fn a_block_that_only_the_disk_had_ends_the_committing_transaction_alone() {
    let mut case = Case::new("alone", FORMS[0].1);
    let (tid, _) = case.record.running.unwrap();
    case.record.committing = Some((tid, 5));
    case.record.running = Some((tid + 1, 0));
    case.record.running_refused = "a handle".into();
    for block in &mut case.record.blocks {
        (block.committing, block.running, block.before) = (true, false, Some(block.at));
    }
    case.record.blocks[5].before = None;
    assert!(case
        .complete()
        .map(|done| done.text)
        .unwrap_err()
        .contains("was changed since"));
    case.record.blocks[5].before = Some(case.record.blocks[5].at);
    assert!(!case.complete().unwrap().is_whole);
    assert_eq!(case.judge(), (true, true));
}

/// Commits one of the blocks, and spoils it in the log; it, and the number of the next transaction.
fn spoil(case: &mut Case) -> (JournalBlock, u32) {
    let (all, (tid, _)) = (case.record.blocks.clone(), case.record.running.unwrap());
    let broken = all[all.len() - 2];
    case.record.blocks = vec![broken];
    case.complete().unwrap();
    case.record.blocks = all;
    let device = OpenOptions::new().read(true).write(true).open(&case.disk).unwrap();
    let log = Log::open(&device, &case.record).unwrap();
    log.write(2, &vec![0; log.format.block_size]).unwrap();
    (broken, tid + 1)
}

/// Linux has zeroed a block while it was being written to the log; its transaction is committed.
#[test]
fn a_block_with_a_wrong_checksum_in_the_log_is_superseded() {
    // The last has no checksums.
    for &(form, options) in &FORMS[..3] {
        // Whether the block is part of the transaction that memory has, is revoked by it, or was written again before.
        for what in ["again", "revoked", "before", "waiting", "placed", "idle", "nowhere"] {
            if what == "nowhere" && form == "wide" {
                // Where a block is a page, nobody looks unless all is known.
                continue;
            }
            let mut case = Case::new(&format!("unsound-{form}-{what}"), options);
            with_features(&mut case, form);
            let (broken, mut next) = spoil(&mut case);
            let device = OpenOptions::new().read(true).write(true).open(&case.disk).unwrap();
            let log = Log::open(&device, &case.record).unwrap();
            assert_eq!(log.unsound().unwrap(), [(broken.number, None)].into());
            if what == "before" {
                // As Linux would have written it.
                let block = content(&log, &case.record, &broken, false, &case.memory).unwrap();
                log.write(4, &log.format.descriptor(next, std::slice::from_ref(&block)))
                    .unwrap();
                log.write(5, &block.content).unwrap();
                log.write(6, &log.format.commit(next, 1)).unwrap();
                next += 1;
            }
            if what != "again" {
                case.record.blocks.retain(|block| block.number != broken.number);
            }
            if what == "revoked" {
                case.record.revoked.push(RevokedBlock {
                    number: broken.number,
                    committing: false,
                });
            }
            case.record.running = Some((next, 0));
            if what != "nowhere" {
                let blocks = if what == "waiting" { vec![broken] } else { Vec::new() };
                case.waiting = Some(Checkpoint { device: 0, blocks });
            }
            if what == "placed" {
                let block = content(&log, &case.record, &broken, false, &case.memory).unwrap();
                let at = broken.number * block.content.len() as u64;
                std::os::unix::fs::FileExt::write_all_at(&device, &block.content, at).unwrap();
            }
            if what == "idle" {
                case.record.blocks.clear();
                case.record.running = None;
            }
            let done = case.complete().map(|done| done.text);
            if what == "nowhere" {
                assert!(done.unwrap().contains("needs e2fsck"));
                // Which replays all but that block.
                case.judge();
                let made = std::fs::read(case.disk.with_file_name("made")).unwrap();
                assert_eq!(made.len(), payload().len(), "{form}");
                continue;
            }
            let (clean, is_there) = case.judge();
            assert!(clean, "{form} {what}");
            let is_written = !["revoked", "idle"].contains(&what);
            assert_eq!(is_there, is_written, "{form} {what}");
            assert_eq!(
                done.unwrap().contains("supersedes 1 "),
                what != "revoked",
                "{form} {what}"
            );
        }
    }
}

/// The same, where an operation was under way.
#[test]
fn what_must_not_be_completed_can_be_mounted_nevertheless() {
    for &(form, options) in &FORMS[..3] {
        for is_data in [true, false] {
            let mut case = Case::new(&format!("open-{form}-{is_data}"), options);
            with_features(&mut case, form);
            let (broken, next) = spoil(&mut case);
            case.record.running = Some((next, 0));
            case.record.running_refused = "a handle".into();
            let at = if is_data { broken.at } else { 0 };
            let blocks = vec![JournalBlock { at, ..broken }];
            case.waiting = Some(Checkpoint { device: 0, blocks });
            let before = std::fs::read(&case.disk).unwrap();
            let done = case.complete();
            if !is_data {
                assert!(
                    done.map(|it| it.text).unwrap_err().contains("it needs e2fsck"),
                    "{form}"
                );
                assert!(std::fs::read(&case.disk).unwrap() == before, "{form}");
                continue;
            }
            let done = done.unwrap();
            assert!(done.text.contains("supersedes 1 ") && !done.is_whole, "{form}");
            // The rest of the running transaction is not there.
            assert_eq!(case.judge(), (true, false), "{form}");
            let disk = std::fs::read(&case.disk).unwrap();
            let size = case.record.block_size as usize;
            let found = &disk[broken.number as usize * size..][..size];
            assert!(found == &case.memory.0[broken.at as usize..][..size], "{form}");
        }
    }
}

/// A block that is metadata in a transaction of the log, and was freed and given to a file's data since.
#[test]
fn a_block_that_became_data_is_not_taken_back() {
    for (form, options) in FORMS {
        for is_revoked in [true, false] {
            let mut case = Case::new(&format!("reused-{form}-{is_revoked}"), options);
            with_features(&mut case, form);
            let block_size = case.record.block_size as usize;
            let (all, (tid, _)) = (case.record.blocks.clone(), case.record.running.unwrap());
            // In the middle of the last group, which nothing else is in.
            let reused = (std::fs::metadata(&case.disk).unwrap().len() / block_size as u64) - 700;
            let at = case.memory.0.len() as u64;
            case.memory.0.extend(vec![0x4D; PAGE_SIZE as usize]);
            case.record.blocks = vec![JournalBlock {
                number: reused,
                at,
                running: true,
                ..JournalBlock::default()
            }];
            case.complete().unwrap();
            let data = vec![0xDA; block_size];
            let device = OpenOptions::new().write(true).open(&case.disk).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&device, &data, reused * block_size as u64).unwrap();
            case.record.blocks = all;
            case.record.running = Some((tid + 1, 0));
            if is_revoked {
                case.record.revoked.push(RevokedBlock {
                    number: reused,
                    committing: false,
                });
            }
            case.complete().unwrap();
            assert_eq!(case.judge(), (true, true), "{form}");
            let disk = std::fs::read(&case.disk).unwrap();
            let found = &disk[reused as usize * block_size..][..block_size];
            assert_eq!(found == data, is_revoked, "{form}");
        }
    }
}
