//! Files whose names, sizes and blocks the disk knows only in part: renamed, linked, deleted, cut, written back or
//! dropped from memory just before.

use super::files::{numbered, same_inode};
use crate::cell::{same, write_all, Cell, Context};
use crate::sys::file::{self, open};
use crate::sys::memory::{pattern, Region, PAGE, PAGE_WORDS};
use anyhow::{ensure, Context as _, Result};
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "files/renamed-later",
        what: "a file that is on the disk under the name it had before: contents, and that it has one name",
        covers: &["Inode.path"],
        caught: None,
        run: renamed_later,
    },
    Cell {
        name: "files/linked-later",
        what: "a file held by a second name that the disk does not know: both names, link count",
        covers: &["Inode.path", "Inode.nlink"],
        caught: None,
        run: linked_later,
    },
    Cell {
        name: "files/replaced",
        what: "a file replaced by rename: the held one has no name and its contents, the name leads to the new one",
        covers: &["Inode.nlink", "Inode.last_path"],
        caught: None,
        run: replaced,
    },
    Cell {
        name: "files/rotated",
        what:
            "a held file renamed over the name of one that nobody holds and that was renamed as well: neither is lost",
        covers: &["Inode.path"],
        caught: None,
        run: rotated,
    },
    Cell {
        name: "files/swapped",
        what: "two held files that have changed names",
        covers: &["Inode.path"],
        caught: None,
        run: swapped,
    },
    Cell {
        name: "files/made-anew",
        what: "a file deleted and made anew, shorter, under the same name: only the new contents",
        covers: &["Inode.size"],
        caught: None,
        run: made_anew,
    },
    Cell {
        name: "files/deleted-later",
        what: "an open file that the disk knows by the name that was taken from it: contents, and no name",
        covers: &["NameGone.path"],
        caught: None,
        run: deleted_later,
    },
    Cell {
        name: "files/deleted-uncached",
        what: "an open file without a name that is no longer in memory: contents, hole, size, times",
        covers: &[
            "DiskContent.uuid",
            "DiskContent.runs",
            "DiskRun.offset",
            "DiskRun.at",
            "DiskRun.bytes",
        ],
        caught: None,
        run: deleted_uncached,
    },
    Cell {
        name: "files/deleted-library",
        what: "a private mapping of a deleted file of which most is no longer in memory",
        covers: &["DiskContent.runs", "Mapping.inode"],
        caught: None,
        run: deleted_library,
    },
    Cell {
        name: "files/deleted-program",
        what: "a child that runs a deleted program of which most is no longer in memory",
        covers: &["AddressSpace.exe_inode"],
        caught: None,
        run: deleted_program,
    },
    Cell {
        name: "files/written-back",
        what: "a new and a grown file whose data, but not whose blocks, the disk knows; half of it no longer in memory",
        covers: &["DiskContent.runs", "Inode.fully_cached"],
        caught: None,
        run: written_back,
    },
    Cell {
        name: "files/shortened-later",
        what: "a file cut shorter than it is on the disk and grown again: zeros behind the cut",
        covers: &["Inode.size"],
        caught: None,
        run: shortened_later,
    },
    Cell {
        name: "files/append",
        what: "a file written to its end (O_APPEND), before and after",
        covers: &["OpenFile.flags"],
        caught: None,
        run: append,
    },
    Cell {
        name: "files/directory-new",
        what: "directories made just before, of which one is held: modes, and a file in them",
        covers: &["Inode.mode", "Inode.path"],
        caught: None,
        run: directory_new,
    },
];

/// Brings a file and the names in its directory to the disk.
fn settle(file: &File, path: &Path) -> Result<()> {
    file.sync_all()?;
    settle_names(path)
}

fn settle_names(path: &Path) -> Result<()> {
    let parent = path.parent().context("a path with a directory")?;
    Ok(File::open(parent)?.sync_all()?)
}

fn bytes(seed: u64, pages: std::ops::Range<usize>) -> Vec<u8> {
    let words = pages.start * PAGE_WORDS..pages.end * PAGE_WORDS;
    words.flat_map(|index| pattern(seed, index).to_ne_bytes()).collect()
}

fn same_bytes(what: &str, found: &[u8], wanted: &[u8]) -> Result<()> {
    same(&format!("length of {what}"), found.len(), wanted.len())?;
    match found.iter().zip(wanted).position(|(found, wanted)| found != wanted) {
        Some(at) => same(&format!("byte {at} of {what}"), found[at], wanted[at]),
        None => Ok(()),
    }
}

fn all_of(file: &File) -> Result<Vec<u8>> {
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn renamed_later(context: &mut Context) -> Result<()> {
    let (old, new) = (context.path("old"), context.path("new"));
    let file = numbered(&old)?;
    settle(&file, &old)?;
    std::fs::rename(&old, &new)?;
    context.failover(|| Ok(std::fs::rename(&new, &old)?))?;
    ensure!(!old.exists(), "the old name is back");
    same_inode(&new, &file)?;
    same("links", file.metadata()?.nlink(), 1)?;
    same_bytes("the file", &std::fs::read(&new)?, "0123456789".repeat(1000).as_bytes())
}

fn linked_later(context: &mut Context) -> Result<()> {
    let (old, new) = (context.path("old"), context.path("new"));
    settle(&numbered(&old)?, &old)?;
    std::fs::hard_link(&old, &new)?;
    let file = open(&new, true, 0)?;
    context.failover(|| Ok(std::fs::remove_file(&new)?))?;
    let inode = file.metadata()?.ino();
    same("inode by the new name", std::fs::metadata(&new)?.ino(), inode)?;
    same("inode by the old name", std::fs::metadata(&old)?.ino(), inode)?;
    same("links", file.metadata()?.nlink(), 2)?;
    same_bytes("the file", &std::fs::read(&old)?, "0123456789".repeat(1000).as_bytes())
}

fn replaced(context: &mut Context) -> Result<()> {
    let (path, beside) = (context.path("file"), context.path("file.new"));
    let held = numbered(&path)?;
    settle(&held, &path)?;
    let new = bytes(1, 0..20);
    std::fs::write(&beside, &new)?;
    std::fs::rename(&beside, &path)?;
    context.failover(|| Ok(std::fs::write(&path, b"x")?))?;
    same("links of the held file", held.metadata()?.nlink(), 0)?;
    same_bytes("the held file", &all_of(&held)?, "0123456789".repeat(1000).as_bytes())?;
    same_bytes("the new file", &std::fs::read(&path)?, &new)?;
    ensure!(!beside.exists(), "the new file has its first name again");
    Ok(())
}

fn rotated(context: &mut Context) -> Result<()> {
    let names = ["log", "log.1", "log.2"].map(|name| context.path(name));
    let older = open(&names[1], true, 0)?;
    older.write_all_at(b"older", 0)?;
    settle(&older, &names[1])?;
    drop(older);
    let held = numbered(&names[0])?;
    settle(&held, &names[0])?;
    std::fs::rename(&names[1], &names[2])?;
    std::fs::rename(&names[0], &names[1])?;
    let new = open(&names[0], true, 0)?;
    new.write_all_at(b"new", 0)?;
    context.failover(|| Ok(std::fs::remove_file(&names[2])?))?;
    same_bytes("the new file", &std::fs::read(&names[0])?, b"new")?;
    same_inode(&names[1], &held)?;
    same_bytes(
        "the held file",
        &std::fs::read(&names[1])?,
        "0123456789".repeat(1000).as_bytes(),
    )?;
    // Under whatever name: it is as after any crash.
    let files = std::fs::read_dir(names[0].parent().context("a directory")?)?;
    let contents = files
        .map(|file| Ok(std::fs::read(file?.path())?))
        .collect::<Result<Vec<_>>>()?;
    ensure!(contents.iter().any(|text| text == b"older"), "the oldest file is lost");
    Ok(())
}

fn swapped(context: &mut Context) -> Result<()> {
    let (a, b, way) = (context.path("a"), context.path("b"), context.path("way"));
    let (was_a, was_b) = (numbered(&a)?, open(&b, true, 0)?);
    was_b.write_all_at(b"b", 0)?;
    settle(&was_a, &a)?;
    settle(&was_b, &b)?;
    std::fs::rename(&a, &way)?;
    std::fs::rename(&b, &a)?;
    std::fs::rename(&way, &b)?;
    context.failover(|| Ok(std::fs::remove_file(&b)?))?;
    same(
        "inode of the first",
        std::fs::metadata(&b)?.ino(),
        was_a.metadata()?.ino(),
    )?;
    same(
        "inode of the second",
        std::fs::metadata(&a)?.ino(),
        was_b.metadata()?.ino(),
    )?;
    same(
        "links of both",
        (was_a.metadata()?.nlink(), was_b.metadata()?.nlink()),
        (1, 1),
    )?;
    let names = std::fs::read_dir(a.parent().context("a directory")?)?.count();
    same("names in the directory", names, 2)
}

fn made_anew(context: &mut Context) -> Result<()> {
    let path = context.path("file");
    settle(&numbered(&path)?, &path)?;
    std::fs::remove_file(&path)?;
    let file = open(&path, true, 0)?;
    file.write_all_at(b"new", 5000)?;
    context.failover(|| Ok(file.set_len(5002)?))?;
    same(
        "inode by its name",
        std::fs::metadata(&path)?.ino(),
        file.metadata()?.ino(),
    )?;
    let mut wanted = vec![0; 5000];
    wanted.extend_from_slice(b"new");
    same_bytes("the file", &std::fs::read(&path)?, &wanted)
}

fn deleted_later(context: &mut Context) -> Result<()> {
    let path = context.path("file");
    let file = numbered(&path)?;
    settle(&file, &path)?;
    std::fs::remove_file(&path)?;
    context.failover(|| Ok(file.write_all_at(b"x", 77)?))?;
    ensure!(!path.exists(), "the file has its name again");
    same("links", file.metadata()?.nlink(), 0)?;
    same_bytes("the file", &all_of(&file)?, "0123456789".repeat(1000).as_bytes())
}

/// A file of two parts with a hole between them, which the disk knows and memory no longer has.
fn evicted(path: &Path) -> Result<(File, Vec<u8>)> {
    let file = open(path, true, 0)?;
    file.write_all_at(&bytes(2, 0..300), 0)?;
    file.write_all_at(&bytes(2, 400..401), 400 * PAGE as u64)?;
    file.write_all_at(b"end", 401 * PAGE as u64)?;
    settle(&file, path)?;
    file::evict(&file)?;
    let mut wanted = bytes(2, 0..300);
    wanted.resize(400 * PAGE, 0);
    wanted.extend(bytes(2, 400..401));
    wanted.extend_from_slice(b"end");
    Ok((file, wanted))
}

fn deleted_uncached(context: &mut Context) -> Result<()> {
    let path = context.path("file");
    let (file, wanted) = evicted(&path)?;
    std::fs::remove_file(&path)?;
    settle_names(&path)?;
    let before = file.metadata()?;
    // A page that is in memory again, one that is newer than the disk, and the last.
    file.read_exact_at(&mut [0; 10], 7 * PAGE as u64)?;
    context.failover(|| Ok(file.write_all_at(b"x", 250 * PAGE as u64)?))?;
    ensure!(!path.exists(), "the file has its name again");
    same("links", file.metadata()?.nlink(), 0)?;
    same("modification time", file.metadata()?.modified()?, before.modified()?)?;
    same_bytes("the file", &all_of(&file)?, &wanted)?;
    file.write_all_at(b"afterwards", 3)?;
    let mut found = [0; 10];
    file.read_exact_at(&mut found, 3)?;
    same("bytes written afterwards", found, *b"afterwards")
}

fn deleted_library(context: &mut Context) -> Result<()> {
    let path = context.path("library");
    let (file, _) = evicted(&path)?;
    let memory = Region::file(
        file.as_fd(),
        0,
        300,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE,
    )?;
    drop(file);
    memory.verify("page touched before", 2, 30..31)?;
    memory.fill(3, 40..50);
    std::fs::remove_file(&path)?;
    settle_names(&path)?;
    context.failover(|| {
        memory.set(200 * PAGE_WORDS, 0);
        Ok(())
    })?;
    memory.verify("page of the file", 2, (0..40).chain(50..300))?;
    memory.verify("page written", 3, 40..50)
}

fn deleted_program(context: &mut Context) -> Result<()> {
    let path = context.path("selfcheck");
    std::fs::copy("/proc/self/exe", &path)?;
    let copy = File::open(&path)?;
    settle(&copy, &path)?;
    file::evict(&copy)?;
    drop(copy);
    let mut child = Command::new(&path)
        .args(["memory/private", "--at", "nanosleep"])
        .args(context.child_arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = child.stdout.take().context("its output")?;
    let mut ready = [0; 6];
    output.read_exact(&mut ready)?;
    same("the child's first words", &ready, b"READY\n")?;
    std::fs::remove_file(&path)?;
    settle_names(&path)?;
    context.failover(|| Ok(()))?;
    let mut text = String::new();
    output.read_to_string(&mut text)?;
    ensure!(text == "CELL OK\n", "the child says {}", text.trim_end());
    ensure!(child.wait()?.success(), "the child failed");
    Ok(())
}

fn written_back(context: &mut Context) -> Result<()> {
    let (new, grown) = (context.path("new"), context.path("grown"));
    let old = numbered(&grown)?;
    settle(&old, &grown)?;
    let new = open(&new, true, 0)?;
    let wanted = bytes(4, 0..100);
    for file in [&new, &old] {
        file.write_all_at(&wanted, 0)?;
        file::write_back(file)?;
        file::evict_range(file, 50 * PAGE as u64, 0)?;
        // Some of it is newer again.
        file.write_all_at(&wanted[..PAGE], 0)?;
    }
    context.failover(|| Ok(old.write_all_at(b"x", 70 * PAGE as u64)?))?;
    same_bytes("the new file", &all_of(&new)?, &wanted)?;
    same_bytes("the grown file", &all_of(&old)?, &wanted)
}

fn shortened_later(context: &mut Context) -> Result<()> {
    let path = context.path("file");
    let file = open(&path, true, 0)?;
    write_all(&file, &bytes(5, 0..20))?;
    settle(&file, &path)?;
    file.set_len(1234)?;
    file.set_len(10 * PAGE as u64)?;
    context.failover(|| Ok(file.set_len(10 * PAGE as u64 + 1)?))?;
    let mut wanted = bytes(5, 0..20);
    wanted.truncate(1234);
    wanted.resize(10 * PAGE, 0);
    same_bytes("the file", &std::fs::read(&path)?, &wanted)
}

fn append(context: &mut Context) -> Result<()> {
    let path = context.path("file");
    let mut file = open(&path, true, libc::O_APPEND)?;
    file.write_all(b"synced ")?;
    settle(&file, &path)?;
    file.write_all(b"before ")?;
    context.failover(|| Ok(file.set_len(3)?))?;
    file.write_all(b"after")?;
    same("text", std::fs::read_to_string(&path)?.as_str(), "synced before after")
}

fn directory_new(context: &mut Context) -> Result<()> {
    let (outer, inner) = (context.path("outer"), context.path("outer/inner"));
    std::fs::create_dir_all(&inner)?;
    std::fs::set_permissions(&outer, Permissions::from_mode(0o1731))?;
    std::fs::set_permissions(&inner, Permissions::from_mode(0o705))?;
    let held = open(&outer, false, libc::O_DIRECTORY)?;
    let file = numbered(&inner.join("file"))?;
    let before = (
        std::fs::metadata(&outer)?.modified()?,
        std::fs::metadata(&inner)?.modified()?,
    );
    context.failover(|| Ok(std::fs::set_permissions(&inner, Permissions::from_mode(0o700))?))?;
    same("mode of the outer", held.metadata()?.mode() & 0o7777, 0o1731)?;
    same("mode of the inner", std::fs::metadata(&inner)?.mode() & 0o7777, 0o705)?;
    let after = (
        std::fs::metadata(&outer)?.modified()?,
        std::fs::metadata(&inner)?.modified()?,
    );
    same("modification times", after, before)?;
    same(
        "inode by its name",
        std::fs::metadata(inner.join("file"))?.ino(),
        file.metadata()?.ino(),
    )?;
    same_bytes("the file", &all_of(&file)?, "0123456789".repeat(1000).as_bytes())
}
