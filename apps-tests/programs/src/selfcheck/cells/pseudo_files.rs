//! Files of `/proc` and `/sys`, whose content the kernel makes as it is read.

use crate::cell::{same, Cell, Context};
use crate::sys::file::open;
use anyhow::{ensure, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
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
