//! inotify: watches on a directory and on files.

use crate::cell::{same, write_all, Cell, Context};
use crate::sys::process::fork;
use crate::sys::{file, inotify};
use anyhow::{ensure, Result};
use std::fs::{self, File};

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
