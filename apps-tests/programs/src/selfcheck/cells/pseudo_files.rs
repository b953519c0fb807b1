//! Files of `/proc` and `/sys`, whose content the kernel makes as it is read.

use crate::cell::{same, Cell, Context};
use crate::sys::file::open;
use crate::sys::memory::Region;
use crate::sys::process::fork;
use anyhow::{ensure, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::Path;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "pseudo/setting",
        what: "a setting of /proc/sys, of which two bytes were read: the next read gives the rest",
        covers: &["OpenFileKind.Pseudo", "OpenFile.position"],
        caught: None,
        run: setting,
    },
    Cell {
        name: "pseudo/text",
        what: "texts of /proc and /sys, unread and read to the end, as a monitor holds them: read again from the start, they are the new kernel's",
        covers: &["OpenFileKind.Pseudo"],
        caught: None,
        run: text,
    },
    Cell {
        name: "pseudo/of-process",
        what: "of /proc/self: mappings of which a part was read, stat read to its end, status unread and twice open, the directory of threads; stat of a process that is gone",
        covers: &["OpenFileKind.OfProcess", "OpenFile.position"],
        caught: None,
        run: of_process,
    },
];

fn setting(context: &mut Context) -> Result<()> {
    let mut file = File::open("/proc/sys/kernel/ostype")?;
    let mut first = [0; 2];
    file.read_exact(&mut first)?;
    same("the first bytes", &first, b"Li")?;
    context.failover(|| {
        file.read_exact(&mut first)?;
        Ok(())
    })?;
    let mut rest = String::new();
    (&file).read_to_string(&mut rest)?;
    same("the other bytes", rest.as_str(), "nux\n")
}

/// A text, and what each of its versions contains.
const TEXTS: [(&str, &str); 5] = [
    ("/proc/version", "Linux version"),
    ("/proc/meminfo", "MemTotal:"),
    ("/proc/stat", "cpu0 "),
    ("/proc/loadavg", "."),
    ("/sys/kernel/mm/transparent_hugepage/enabled", "madvise"),
];

fn text(context: &mut Context) -> Result<()> {
    let mut files = TEXTS
        .iter()
        .map(|(path, _)| Ok((open(Path::new(path), false, 0)?, open(Path::new(path), false, 0)?)))
        .collect::<Result<Vec<_>>>()?;
    for (_, read) in &mut files {
        std::io::copy(read, &mut std::io::sink())?;
    }
    context.failover(|| {
        files.swap(0, 1);
        Ok(())
    })?;
    for ((path, word), (unread, read)) in TEXTS.iter().zip(&mut files) {
        let mut text = String::new();
        unread.read_to_string(&mut text)?;
        ensure!(text.contains(word), "{path}, not read before, is now {text:?}");
        text.clear();
        read.seek(SeekFrom::Start(0))?;
        read.read_to_string(&mut text)?;
        ensure!(text.contains(word), "{path}, read before, is now {text:?}");
    }
    Ok(())
}

/// Error of who reads about a process that is gone (include/uapi/asm-generic/errno-base.h).
const ESRCH: i32 = 3;

fn of_process(context: &mut Context) -> Result<()> {
    // So many mappings that they are more than is read at once.
    let memory = Region::private(200)?;
    for page in (0..200).step_by(2) {
        memory.protect(page..page + 1, libc::PROT_READ)?;
    }
    let own = |name: &str| -> Result<File> { Ok(File::open(format!("/proc/self/{name}"))?) };
    let (mut maps, mut stat, status) = (own("maps")?, own("stat")?, own("status")?);
    let threads = own("task")?;
    let child = fork(|| Ok(()))?;
    let mut gone = File::open(format!("/proc/{}/stat", child.pid))?;
    child.join("a child that ends at once")?;
    let mut start = [0; 4096];
    let length = maps.read(&mut start)?;
    std::io::copy(&mut stat, &mut std::io::sink())?;
    let mut twin = status.try_clone()?;
    let mut status = status;
    context.failover(|| {
        std::mem::swap(&mut stat, &mut status);
        Ok(())
    })?;
    let mut text = String::from_utf8(start[..length].to_vec())?;
    maps.read_to_string(&mut text)?;
    let starts = text
        .lines()
        .map(|line| Ok(u64::from_str_radix(line.split('-').next().unwrap_or_default(), 16)?))
        .collect::<Result<Vec<_>>>()?;
    ensure!(
        starts.is_sorted() && text.contains("[stack]"),
        "the mappings are now {text:?}"
    );
    same("what follows the end of stat", stat.read(&mut start)?, 0)?;
    text.clear();
    twin.read_to_string(&mut text)?;
    ensure!(
        text.contains(&format!("\nPid:\t{}\n", std::process::id())),
        "status is now {text:?}"
    );
    same("what follows the end of status", status.read(&mut start)?, 0)?;
    same(
        "the error of who reads about a process that is gone",
        gone.read(&mut start).map_err(|error| error.raw_os_error()),
        Err(Some(ESRCH)),
    )?;
    let own = std::process::id();
    let found = std::fs::read_dir(format!("/proc/self/fd/{}", threads.as_raw_fd()))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .any(|thread: u32| thread == own);
    ensure!(found, "the directory of threads does not have the first one");
    Ok(())
}
