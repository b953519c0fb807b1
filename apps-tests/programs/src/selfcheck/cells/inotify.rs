//! inotify: watches on a directory and on files.

use crate::cell::{same, write_all, Cell, Context};
use crate::sys::process::fork;
use crate::sys::{file, inotify};
use anyhow::{ensure, Result};
use std::fs::{self, File};
use std::io::Write;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "inotify/watches",
        what: "three watches with a hole in their numbers, one of them for one event: what happens afterwards is told by the same numbers, and nothing else is",
        covers: &[
            "OpenFileKind.Inotify",
            "InotifyWatch.wd",
            "InotifyWatch.mask",
            "InotifyWatch.path",
        ],
        caught: None,
        run: watches,
    },
    Cell {
        name: "inotify/read",
        what: "a read that waits for an event of a file that exists since a moment",
        covers: &["InotifyWatch.path"],
        caught: Some("read"),
        run: read,
    },
    Cell {
        name: "inotify/events",
        what: "events that nobody has read: a renaming with its cookie, a watch that is gone, a directory, one that repeats itself; byte for byte, and those that come afterwards behind them",
        covers: &[
            "InotifyEvent.wd",
            "InotifyEvent.mask",
            "InotifyEvent.cookie",
            "InotifyEvent.name",
        ],
        caught: None,
        run: unread,
    },
    Cell {
        name: "inotify/overflow",
        what: "a queue of 16,384 events that has run over",
        covers: &["InotifyEvent.wd", "InotifyEvent.mask"],
        caught: None,
        run: overflow,
    },
];

fn watches(context: &mut Context) -> Result<()> {
    let directory = context.path("directory");
    fs::create_dir(&directory)?;
    let (one, other) = (context.path("one"), context.path("other"));
    let file = File::create(&one)?;
    fs::write(&other, "x")?;
    let set = inotify::init(libc::IN_NONBLOCK)?;
    let first = inotify::watch(&set, &one, libc::IN_MODIFY | libc::IN_ATTRIB)?;
    let gone = inotify::watch(&set, &other, libc::IN_MODIFY)?;
    inotify::forget(&set, gone)?;
    let second = inotify::watch(
        &set,
        &directory,
        libc::IN_CREATE | libc::IN_DELETE | libc::IN_EXCL_UNLINK,
    )?;
    let third = inotify::watch(&set, &other, libc::IN_MODIFY | libc::IN_ONESHOT)?;
    same("numbers", [first, gone, second, third], [1, 2, 3, 4])?;
    same(
        "of the one that is gone",
        inotify::events(&set),
        Ok(vec![(gone, libc::IN_IGNORED, String::new())]),
    )?;
    context.failover(|| inotify::forget(&set, first))?;
    same("events of nobody", inotify::events(&set), Err(libc::EAGAIN))?;
    write_all(&file, b"changed")?;
    fs::write(directory.join("new"), "")?;
    fs::remove_file(directory.join("new"))?;
    fs::write(&other, "y")?;
    let events = inotify::events(&set).unwrap_or_default();
    let of = |watch| -> Vec<(u32, &str)> {
        let its = events.iter().filter(|event| event.0 == watch);
        its.map(|(_, mask, name)| (*mask, name.as_str())).collect()
    };
    same("of the file", of(first), vec![(libc::IN_MODIFY, "")])?;
    same(
        "of the directory",
        of(second),
        vec![(libc::IN_CREATE, "new"), (libc::IN_DELETE, "new")],
    )?;
    same(
        "of the other file, once",
        of(third),
        vec![(libc::IN_MODIFY, ""), (libc::IN_IGNORED, "")],
    )?;
    same("the next number", inotify::watch(&set, &other, libc::IN_OPEN)?, 5)
}

fn read(context: &mut Context) -> Result<()> {
    let path = context.path("file");
    let file = File::create(&path)?;
    let set = inotify::init(0)?;
    let watch = inotify::watch(&set, &path, libc::IN_MODIFY)?;
    let child = fork(|| {
        let events = inotify::events(&set);
        context.expect_failover("read")?;
        same("events", events, Ok(vec![(watch, libc::IN_MODIFY, String::new())]))
    })?;
    context.failover(|| {
        write_all(&file, b"too early")?;
        std::thread::sleep(std::time::Duration::from_millis(100));
        Ok(())
    })?;
    write_all(&file, b"changed")?;
    child.join("child that waited")?;
    ensure!(file::readable_bytes(&set)? == 0, "there are more events");
    Ok(())
}

/// All that is there to be read.
fn drain(set: &File) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    while let (count @ 1.., _) = file::read_once(set, &mut buffer) {
        all.extend(&buffer[..count as usize]);
    }
    all
}

fn unread(context: &mut Context) -> Result<()> {
    let directory = context.path("directory");
    let gone = context.path("gone");
    fs::create_dir(&directory)?;
    fs::write(&gone, "")?;
    // What one set is told, another with the same watches is told, too.
    let sets = [inotify::init(libc::IN_NONBLOCK)?, inotify::init(libc::IN_NONBLOCK)?];
    let all = libc::IN_CREATE | libc::IN_MOVE | libc::IN_MODIFY | libc::IN_DELETE;
    for set in &sets {
        inotify::watch(set, &gone, libc::IN_DELETE_SELF)?;
        inotify::watch(set, &directory, all)?;
    }
    fs::remove_file(&gone)?;
    fs::create_dir(directory.join("inner"))?;
    let one = directory.join("one");
    fs::write(&one, "")?;
    fs::rename(&one, directory.join("a much longer name than the first one was"))?;
    fs::write(&one, "x")?;
    let [set, other] = sets;
    let mut expected = drain(&other);
    let told = String::from_utf8_lossy(&expected).contains("a much longer name");
    ensure!(told, "{} bytes of events", expected.len());
    same("bytes to be read", file::readable_bytes(&set)? as usize, expected.len())?;
    context.failover(|| {
        inotify::events(&set)
            .map(drop)
            .map_err(|errno| anyhow::anyhow!("errno {errno}"))
    })?;
    same(
        "bytes to be read afterwards",
        file::readable_bytes(&set)? as usize,
        expected.len(),
    )?;
    ensure!(drain(&other).is_empty(), "the set that was read has events");
    // The same once more is no event of its own.
    fs::OpenOptions::new().append(true).open(&one)?.write_all(b"y")?;
    drain(&other);
    fs::remove_file(&one)?;
    expected.extend(drain(&other));
    let found = drain(&set);
    ensure!(
        found == expected,
        "{} bytes of events, and not the {} that were expected",
        found.len(),
        expected.len()
    );
    same("events of nobody", inotify::events(&set), Err(libc::EAGAIN))
}

fn overflow(context: &mut Context) -> Result<()> {
    let path = context.path("file");
    fs::write(&path, "")?;
    let set = inotify::init(libc::IN_NONBLOCK)?;
    let watch = inotify::watch(&set, &path, libc::IN_OPEN | libc::IN_CLOSE_NOWRITE)?;
    for _ in 0..8200 {
        File::open(&path)?;
    }
    // `struct inotify_event` without a name.
    let bytes = file::readable_bytes(&set)?;
    ensure!(bytes > 16_384 * 16 - 1, "{bytes} bytes of events");
    context.failover(|| {
        inotify::events(&set)
            .map(drop)
            .map_err(|errno| anyhow::anyhow!("errno {errno}"))
    })?;
    let found = drain(&set);
    same("bytes", found.len(), bytes as usize)?;
    let mut events = found.chunks_exact(16);
    let last = events.next_back().unwrap_or_default();
    same(
        "the last one",
        last,
        [u32::MAX, libc::IN_Q_OVERFLOW, 0, 0]
            .map(u32::to_ne_bytes)
            .as_flattened(),
    )?;
    for (at, event) in events.enumerate() {
        let mask = [libc::IN_OPEN, libc::IN_CLOSE_NOWRITE][at % 2];
        let expected = [watch as u32, mask, 0, 0].map(u32::to_ne_bytes);
        same("an event", event, expected.as_flattened())?;
    }
    Ok(())
}
