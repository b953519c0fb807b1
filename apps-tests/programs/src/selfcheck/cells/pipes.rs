//! Pipes and FIFOs with unread data.

use crate::cell::{same, write_all, Cell, Context};
use crate::sys::file::{self, fcntl};
use crate::sys::process::fork;
use anyhow::{ensure, Result};
use std::io::{Read, Write};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "pipes/unread",
        what: "unread data, exact, then new data behind it",
        covers: &["OpenFileKind.Pipe", "Bytes", "Pipe.readers"],
        caught: None,
        run: unread,
    },
    Cell {
        name: "pipes/full",
        what: "a pipe of 1 MB filled to the brim: capacity, contents, EAGAIN",
        covers: &["Pipe.capacity", "Bytes"],
        caught: None,
        run: full,
    },
    Cell {
        name: "pipes/packets",
        what: "an O_DIRECT pipe keeps the bounds of its packets",
        covers: &["Pipe.packets"],
        caught: None,
        run: packets,
    },
    Cell {
        name: "pipes/writer-gone",
        what: "data left by a writer that has closed, then end of file",
        covers: &["Pipe.writers"],
        caught: None,
        run: writer_gone,
    },
    Cell {
        name: "pipes/reader-gone",
        what: "a pipe without readers answers EPIPE",
        covers: &["Pipe.readers"],
        caught: None,
        run: reader_gone,
    },
    Cell {
        name: "pipes/child",
        what: "data in flight in both directions between parent and child",
        covers: &["OpenFileKind.Pipe", "Bytes"],
        caught: None,
        run: child,
    },
    Cell {
        name: "pipes/fifo",
        what: "a FIFO with unread data, and that others still find it by its name",
        covers: &["Pipe.path", "Bytes"],
        caught: None,
        run: fifo,
    },
];

fn unread(context: &mut Context) -> Result<()> {
    let (mut reader, mut writer) = file::pipe(0)?;
    let data: Vec<u8> = (0..10_000u32).map(|n| (n * 7 % 251) as u8).collect();
    writer.write_all(&data)?;
    let mut head = [0; 100];
    reader.read_exact(&mut head)?;
    context.failover(|| {
        reader.try_clone()?.read_exact(&mut [0])?;
        Ok(())
    })?;
    same("bytes to read", file::readable_bytes(&reader)?, 9900)?;
    writer.write_all(b"more")?;
    let mut rest = vec![0; 9904];
    reader.read_exact(&mut rest)?;
    ensure!(rest[..9900] == data[100..], "the unread data differs");
    same("data written afterwards", &rest[9900..], b"more")?;
    drop(writer);
    same("bytes after the end", reader.read(&mut [0; 8])?, 0)
}

fn full(context: &mut Context) -> Result<()> {
    let (mut reader, mut writer) = file::pipe(libc::O_NONBLOCK)?;
    let capacity = fcntl(&writer, libc::F_SETPIPE_SZ, 1 << 20)?;
    let data: Vec<u8> = (0..capacity as usize).map(|n| (n % 253) as u8).collect();
    writer.write_all(&data)?;
    context.failover(|| {
        reader.try_clone()?.read_exact(&mut [0; 4096])?;
        Ok(())
    })?;
    same("capacity", fcntl(&writer, libc::F_GETPIPE_SZ, 0)?, capacity)?;
    let (_, errno) = file::write_once(&writer, b"x");
    same("errno of one more byte", errno, libc::EAGAIN)?;
    let mut found = vec![0; capacity as usize];
    reader.read_exact(&mut found)?;
    ensure!(found == data, "the data differs");
    let (_, errno) = file::read_once(&reader, &mut [0]);
    same("errno of an empty pipe", errno, libc::EAGAIN)
}

fn packets(context: &mut Context) -> Result<()> {
    let (mut reader, mut writer) = file::pipe(libc::O_DIRECT)?;
    let list: [&[u8]; 4] = [b"one", b"three words here", b"", b"the last packet"];
    for packet in list.iter().filter(|packet| !packet.is_empty()) {
        writer.write_all(packet)?;
    }
    context.failover(|| {
        reader.try_clone()?.read_exact(&mut [0; 3])?;
        Ok(())
    })?;
    for packet in list.iter().filter(|packet| !packet.is_empty()) {
        let mut bytes = [0; 100];
        let length = reader.read(&mut bytes)?;
        same("packet", &bytes[..length], packet)?;
    }
    Ok(())
}

fn writer_gone(context: &mut Context) -> Result<()> {
    let (mut reader, mut writer) = file::pipe(0)?;
    writer.write_all(b"last words")?;
    drop(writer);
    let mut expected = b"last words".to_vec();
    context.failover(|| {
        expected[0] = b'L';
        Ok(())
    })?;
    let mut found = Vec::new();
    reader.read_to_end(&mut found)?;
    same("what was left", found, expected)
}

fn reader_gone(context: &mut Context) -> Result<()> {
    let (reader, writer) = file::pipe(0)?;
    let mut reader = Some(reader);
    if !context.mutate() {
        reader = None;
    }
    context.failover(|| Ok(()))?;
    // The standard library ignores SIGPIPE.
    same("errno of a write", file::write_once(&writer, b"x").1, libc::EPIPE)?;
    drop(reader);
    Ok(())
}

fn child(context: &mut Context) -> Result<()> {
    let (mut from_child, to_parent) = file::pipe(0)?;
    let (from_parent, to_child) = file::pipe(0)?;
    let child = fork(|| {
        write_all(&to_parent, b"before the failure;")?;
        context.wait()?;
        let mut found = [0; 11];
        (&from_parent).read_exact(&mut found)?;
        same("what the parent wrote before", found, *b"for the kid")?;
        write_all(&to_parent, b"after it")
    })?;
    drop(to_parent);
    write_all(&to_child, b"for the kid")?;
    while file::readable_bytes(&from_child)? < 19 {
        std::thread::yield_now();
    }
    context.failover(|| {
        from_child.try_clone()?.read_exact(&mut [0])?;
        Ok(())
    })?;
    let mut found = String::new();
    from_child.read_to_string(&mut found)?;
    child.join("child")?;
    same("what the child wrote", found, "before the failure;after it".to_owned())
}

fn fifo(context: &mut Context) -> Result<()> {
    let path = context.path("fifo");
    file::mkfifo(&path)?;
    let mut both = file::open(&path, true, libc::O_NONBLOCK)?;
    both.write_all(b"in the fifo")?;
    context.failover(|| {
        both.try_clone()?.read_exact(&mut [0])?;
        Ok(())
    })?;
    let mut found = [0; 11];
    both.read_exact(&mut found)?;
    same("unread data", found, *b"in the fifo")?;
    // Opening for writing only succeeds without blocking if it is the same FIFO, which has a reader.
    let mut again = std::fs::OpenOptions::new();
    let mut again = std::os::unix::fs::OpenOptionsExt::custom_flags(&mut again, libc::O_NONBLOCK)
        .write(true)
        .open(&path)?;
    again.write_all(b"again")?;
    let mut found = [0; 5];
    both.read_exact(&mut found)?;
    same("data written by its name", found, *b"again")
}
