//! Descriptors of regular files, directories and stateless devices.

use crate::cell::{same, write_all, Cell, Context};
use crate::sys::file::{self, fcntl, open};
use crate::sys::process::{self, fork};
use anyhow::{ensure, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "files/offset",
        what: "the offset, and that reading goes on there",
        covers: &[
            "OpenFile.position",
            "OpenFileKind.Regular",
            "Process.files",
            "FileTable.descriptors",
        ],
        caught: None,
        run: offset,
    },
    Cell {
        name: "files/flags",
        what: "status flags of four descriptors: append, nonblock, sync, read-only; close-on-exec",
        covers: &["OpenFile.flags", "FileTable.descriptors"],
        caught: None,
        run: flags,
    },
    Cell {
        name: "files/numbers",
        what: "descriptor numbers with holes, up to 700",
        covers: &["FileTable.descriptors"],
        caught: None,
        run: numbers,
    },
    Cell {
        name: "files/duplicate",
        what: "two descriptors of one open file share the offset; a third, opened anew, does not",
        covers: &["OpenFile.position", "FileTable.descriptors"],
        caught: None,
        run: duplicate,
    },
    Cell {
        name: "files/inherited",
        what: "parent and child share the offset of an inherited descriptor",
        covers: &["OpenFile.position"],
        caught: None,
        run: inherited,
    },
    Cell {
        name: "files/dirty",
        what: "acknowledged writes that were never synced: contents, size, mode and modification time",
        covers: &[
            "Inode.dirty",
            "Inode.size",
            "Inode.mode",
            "Inode.times",
            "frame_kind.FILE_DIRTY",
        ],
        caught: None,
        run: dirty,
    },
    Cell {
        name: "files/truncated",
        what: "a file cut short and one with a hole, never synced",
        covers: &["Inode.size"],
        caught: None,
        run: truncated,
    },
    Cell {
        name: "files/deleted",
        what: "an open file without a name: contents, size, and that it can be written",
        covers: &["Inode.nlink", "Inode.last_path"],
        caught: None,
        run: deleted,
    },
    Cell {
        name: "files/made-nameless",
        what: "files made without a name (O_TMPFILE), on the disk and on tmpfs: contents, and that they can be written",
        covers: &["Inode.nlink", "OpenFile.flags"],
        caught: None,
        run: made_nameless,
    },
    Cell {
        name: "files/renamed",
        what: "a file renamed while open: it has the new name and not the old",
        covers: &["Inode.path", "OpenFile.path"],
        caught: None,
        run: renamed,
    },
    Cell {
        name: "files/signal-owner",
        what: "F_SETOWN and F_SETSIG",
        covers: &["OpenFile.owner"],
        caught: None,
        run: signal_owner,
    },
    Cell {
        name: "files/directory",
        what: "a directory descriptor: entries and files opened through it",
        covers: &["OpenFileKind.Directory"],
        caught: None,
        run: directory,
    },
    Cell {
        name: "files/path-only",
        what: "an O_PATH descriptor",
        covers: &["OpenFileKind.Path"],
        caught: None,
        run: path_only,
    },
    Cell {
        name: "files/devices",
        what: "/dev/null, zero, full and urandom",
        covers: &["OpenFileKind.Device"],
        caught: None,
        run: devices,
    },
];

/// A file of 10,000 bytes.
pub fn numbered(path: &Path) -> Result<File> {
    let file = open(path, true, 0)?;
    write_all(&file, "0123456789".repeat(1000).as_bytes())?;
    Ok(file)
}

fn position(file: &File) -> Result<i64> {
    file::lseek(file.as_raw_fd().into(), 0, libc::SEEK_CUR.into())
}

fn offset(context: &mut Context) -> Result<()> {
    let mut file = numbered(&context.path("file"))?;
    file.seek(SeekFrom::Start(4321))?;
    context.failover(|| {
        file.as_fd()
            .try_clone_to_owned()
            .map(File::from)?
            .seek(SeekFrom::Start(1))?;
        Ok(())
    })?;
    same("offset", position(&file)?, 4321)?;
    let mut bytes = [0; 12];
    file.read_exact(&mut bytes)?;
    same("bytes read there", bytes, *b"123456789012")?;
    same("offset after reading", position(&file)?, 4333)
}

fn flags(context: &mut Context) -> Result<()> {
    let path = context.path("file");
    let files = [
        numbered(&path)?,
        open(&path, true, libc::O_APPEND)?,
        open(&path, true, libc::O_NONBLOCK | libc::O_NOATIME)?,
        open(&path, false, libc::O_SYNC)?,
    ];
    fcntl(&files[0], libc::F_SETFD, 0)?;
    let state = || {
        files
            .iter()
            .map(|file| Ok((fcntl(file, libc::F_GETFL, 0)?, fcntl(file, libc::F_GETFD, 0)?)))
            .collect::<Result<Vec<_>>>()
    };
    let before = state()?;
    context.failover(|| fcntl(&files[2], libc::F_SETFL, 0).map(drop))?;
    same("status and descriptor flags", state()?, before)?;
    (&files[1]).write_all(b"end")?;
    same("size after an append", files[1].metadata()?.len(), 10_003)?;
    ensure!(
        (&files[3]).write_all(b"x").is_err(),
        "a read-only descriptor can be written"
    );
    Ok(())
}

fn numbers(context: &mut Context) -> Result<()> {
    let file = numbered(&context.path("file"))?;
    let (_, hard) = process::limit(libc::RLIMIT_NOFILE)?;
    process::set_limit(libc::RLIMIT_NOFILE, hard.min(1024), hard)?;
    let mut list: Vec<_> = [20, 63, 64, 65, 256, 511, 700]
        .into_iter()
        .map(|number| file::duplicate_at_least(&file, number))
        .collect::<Result<_>>()?;
    let state = || -> Result<Vec<String>> {
        let mut numbers: Vec<String> = Vec::new();
        for number in 0..1024 {
            if let Ok(target) = std::fs::read_link(format!("/proc/self/fd/{number}")) {
                // Standard descriptors may be reconnected.
                let target = if number < 3 {
                    String::new()
                } else {
                    target.display().to_string()
                };
                numbers.push(format!("{number} {target}"));
            }
        }
        Ok(numbers)
    };
    let before = state()?;
    context.failover(|| {
        list.pop();
        Ok(())
    })?;
    same("descriptors", state()?, before)
}

fn duplicate(context: &mut Context) -> Result<()> {
    let mut file = numbered(&context.path("file"))?;
    let copy = file.try_clone()?;
    let mut other = open(&context.path("file"), true, 0)?;
    other.seek(SeekFrom::Start(7))?;
    file.seek(SeekFrom::Start(100))?;
    let mut expected = 205;
    context.failover(|| {
        expected = 100;
        Ok(())
    })?;
    same("offset of the copy", position(&copy)?, 100)?;
    file.seek(SeekFrom::Start(205))?;
    same("offset of the copy after the first moved", position(&copy)?, expected)?;
    same("offset of the other", position(&other)?, 7)
}

fn inherited(context: &mut Context) -> Result<()> {
    let mut file = numbered(&context.path("file"))?;
    file.seek(SeekFrom::Start(50))?;
    let mutate = context.mutate();
    let child = fork(|| {
        let mut file = &file;
        context.wait()?;
        let mut bytes = [0; 5];
        if !mutate {
            file.read_exact(&mut bytes)?;
            same("bytes the child read", bytes, *b"01234")?;
        }
        Ok(())
    })?;
    context.failover(|| Ok(()))?;
    child.join("child")?;
    same("offset after the child has read 5 bytes", position(&file)?, 55)
}

fn dirty(context: &mut Context) -> Result<()> {
    let path = context.path("file");
    let file = open(&path, true, 0)?;
    for block in 0..500u32 {
        write_all(&file, &block.to_le_bytes().repeat(251))?;
    }
    file.write_all_at(b"overwritten", 123_456)?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640))?;
    let before = file.metadata()?;
    let mut want = std::fs::read(&path)?;
    context.failover(|| {
        want[123_456] = 0;
        Ok(())
    })?;
    let now = file.metadata()?;
    same("size", now.len(), before.len())?;
    same("mode", now.mode(), before.mode())?;
    same("owner", (now.uid(), now.gid()), (before.uid(), before.gid()))?;
    same(
        "modification time",
        (now.mtime(), now.mtime_nsec()),
        (before.mtime(), before.mtime_nsec()),
    )?;
    let by_path = std::fs::metadata(&path)?;
    same("inode by path", by_path.ino(), now.ino())?;
    let found = std::fs::read(&path)?;
    match found.iter().zip(&want).position(|(found, want)| found != want) {
        Some(at) => same(&format!("byte {at}"), found[at], want[at]),
        None => same("bytes by path", found.len(), want.len()),
    }
}

fn truncated(context: &mut Context) -> Result<()> {
    let short = numbered(&context.path("short"))?;
    let holed = open(&context.path("hole"), true, 0)?;
    short.set_len(1234)?;
    holed.write_all_at(b"far", 1 << 20)?;
    context.failover(|| Ok(short.set_len(1235)?))?;
    same("size of the short file", short.metadata()?.len(), 1234)?;
    same("size of the file with a hole", holed.metadata()?.len(), (1 << 20) + 3)?;
    let bytes = std::fs::read(context.path("hole"))?;
    ensure!(bytes[..1 << 20].iter().all(|&byte| byte == 0), "the hole is not zero");
    same("bytes after the hole", &bytes[1 << 20..], b"far")
}

fn deleted(context: &mut Context) -> Result<()> {
    let path = context.path("file");
    let mut file = numbered(&path)?;
    file.seek(SeekFrom::Start(9998))?;
    std::fs::remove_file(&path)?;
    context.failover(|| Ok(file.set_len(5)?))?;
    ensure!(!path.exists(), "the file has a name again");
    same("links", file.metadata()?.nlink(), 0)?;
    same("size", file.metadata()?.len(), 10_000)?;
    file.write_all(b"abc")?;
    let mut bytes = [0; 6];
    file.read_exact_at(&mut bytes, 9995)?;
    same("bytes written afterwards", bytes, *b"567abc")
}

fn made_nameless(context: &mut Context) -> Result<()> {
    let make = |folder: &Path| -> Result<File> {
        let mut options = File::options();
        let options = options.read(true).write(true).mode(0o600);
        Ok(options.custom_flags(libc::O_TMPFILE).open(folder)?)
    };
    let folder = context.path("");
    let files = [make(&folder)?, make(Path::new("/dev/shm"))?];
    for file in &files {
        file.write_all_at(b"0123456789", 5000)?;
    }
    context.failover(|| Ok(files[1].set_len(5005)?))?;
    for file in &files {
        file.write_all_at(b"abc", 5001)?;
        let mut bytes = [0; 12];
        file.read_exact_at(&mut bytes, 4998)?;
        same("contents", bytes, *b"\0\x000abc456789")?;
        same(
            "size and links",
            (file.metadata()?.len(), file.metadata()?.nlink()),
            (5010, 0),
        )?;
    }
    Ok(())
}

fn renamed(context: &mut Context) -> Result<()> {
    let (old, new) = (context.path("old"), context.path("new"));
    let file = numbered(&old)?;
    std::fs::rename(&old, &new)?;
    context.failover(|| Ok(std::fs::rename(&new, &old)?))?;
    ensure!(!old.exists(), "the old name is back");
    same_inode(&new, &file)
}

/// Expects a file that was renamed to be found by its new name.
pub(super) fn same_inode(new: &Path, file: &File) -> Result<()> {
    same(
        "inode by the new name",
        std::fs::metadata(new)?.ino(),
        file.metadata()?.ino(),
    )
}

fn signal_owner(context: &mut Context) -> Result<()> {
    let (reader, _writer) = file::pipe(0)?;
    fcntl(&reader, libc::F_SETOWN, process::getpid()?)?;
    fcntl(&reader, file::F_SETSIG, 40)?;
    let state = || Ok::<_, anyhow::Error>((file::owner(&reader)?, fcntl(&reader, file::F_GETSIG, 0)?));
    let before = state()?;
    context.failover(|| fcntl(&reader, file::F_SETSIG, 41).map(drop))?;
    same("owner and signal", state()?, before)
}

fn directory(context: &mut Context) -> Result<()> {
    let path = context.path("directory");
    std::fs::create_dir(&path)?;
    for name in ["a", "b", "c"] {
        // Nobody holds these: they are safe once they are synced.
        let mut file = File::create(path.join(name))?;
        file.write_all(name.as_bytes())?;
        file.sync_all()?;
    }
    let directory = open(&path, false, libc::O_DIRECTORY)?;
    directory.sync_all()?;
    let through = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
    context.failover(|| Ok(std::fs::remove_file(path.join("b"))?))?;
    let mut names: Vec<_> = std::fs::read_dir(&through)?
        .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
        .collect::<Result<_>>()?;
    names.sort();
    same("entries", names, ["a", "b", "c"].map(String::from).to_vec())?;
    same("a file through it", std::fs::read(through.join("b"))?, b"b".to_vec())
}

fn path_only(context: &mut Context) -> Result<()> {
    let path = context.path("file");
    numbered(&path)?;
    let file = open(&path, false, libc::O_PATH)?;
    let mut expected = std::fs::metadata(&path)?.ino();
    context.failover(|| {
        expected += 1;
        Ok(())
    })?;
    same("inode", file.metadata()?.ino(), expected)?;
    ensure!((&file).read(&mut [0]).is_err(), "an O_PATH descriptor can be read");
    Ok(())
}

fn devices(context: &mut Context) -> Result<()> {
    let names = ["/dev/null", "/dev/zero", "/dev/full", "/dev/urandom"];
    let files = names
        .iter()
        .map(|name| open(Path::new(name), name.ends_with("null"), 0))
        .collect::<Result<Vec<_>>>()?;
    let state = || {
        files
            .iter()
            .map(|file| Ok((file.metadata()?.rdev(), file.metadata()?.file_type().is_char_device())))
            .collect::<Result<Vec<_>>>()
    };
    let mut before = state()?;
    context.failover(|| {
        before[1].0 += 1;
        Ok(())
    })?;
    same("device numbers", state()?, before)?;
    let mut byte = [1];
    same("read from /dev/null", (&files[0]).read(&mut byte)?, 0)?;
    (&files[0]).write_all(b"gone")?;
    (&files[1]).read_exact(&mut byte)?;
    same("byte from /dev/zero", byte, [0])?;
    let mut random = [0; 32];
    (&files[3]).read_exact(&mut random)?;
    ensure!(random != [0; 32], "/dev/urandom gives zeros");
    Ok(())
}
