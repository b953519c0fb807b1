//! The open files of processes, as they would be restored.

use super::printable;
use crate::context::Context;
use serde::Serialize;
use shared_region::context::{OpenFile, OpenFileKind, Process};
use std::io::{self, Write};

/// The files of a process.
#[derive(Debug, Serialize)]
pub struct FilesEntry {
    /// Process id.
    tgid: u32,
    /// Name.
    comm: String,
    /// Working directory.
    cwd: String,
    /// Root directory.
    root: String,
    /// The descriptors, ascending.
    descriptors: Vec<Descriptor>,
}

/// A descriptor.
#[derive(Debug, Serialize)]
pub struct Descriptor {
    /// Its number.
    fd: u32,
    /// Number of the open file description: descriptors that share one share offset and flags.
    file: u64,
    /// Whether it is closed by `execve`.
    close_on_exec: bool,
    /// `O_*` flags, octal.
    flags: String,
    /// Offset in bytes.
    position: u64,
    /// Path.
    path: String,
    /// What it is, with the state of its kind.
    what: OpenFileKind,
    /// Bytes of unread data, of a pipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<usize>,
}

/// Makes the section.
pub fn gather(context: &Context) -> Vec<FilesEntry> {
    context
        .processes
        .iter()
        .filter(|process| !process.zombie)
        .map(|process| entry(context, process))
        .collect()
}

fn entry(context: &Context, process: &Process) -> FilesEntry {
    let table = context.tables.get(&process.files);
    let descriptors = table.into_iter().flat_map(|table| &table.descriptors);
    FilesEntry {
        tgid: process.tgid,
        comm: printable(context.comm(process)),
        cwd: printable(&process.cwd),
        root: printable(&process.root),
        descriptors: descriptors
            .filter_map(|&(fd, file, close_on_exec)| {
                context
                    .files
                    .get(&file)
                    .map(|open| descriptor(context, fd, file, close_on_exec, open))
            })
            .collect(),
    }
}

fn descriptor(context: &Context, fd: u32, file: u64, close_on_exec: bool, open: &OpenFile) -> Descriptor {
    let unread = match open.what {
        OpenFileKind::Pipe { inode } => Some(context.unread.get(&inode).copied().unwrap_or(0)),
        _ => None,
    };
    Descriptor {
        fd,
        file,
        close_on_exec,
        flags: format!("0{:o}", open.flags),
        position: open.position,
        // A pipe's path is the root of a file system without names, unless it is a FIFO.
        path: if unread.is_some() && open.path == b"/" {
            "pipe".into()
        } else {
            printable(&open.path)
        },
        what: open.what.clone(),
        unread,
    }
}

/// A few words about a file.
fn words(descriptor: &Descriptor) -> String {
    match &descriptor.what {
        OpenFileKind::Unsupported(what) => format!("cannot be restored: {what}"),
        OpenFileKind::Regular { .. } => format!("file, at {}", descriptor.position),
        OpenFileKind::Directory => format!("directory, at {}", descriptor.position),
        OpenFileKind::Device { rdev } => format!("device {}:{}", rdev >> 20, rdev & 0xF_FFFF),
        OpenFileKind::Console { rdev } => format!("terminal {}:{}", rdev >> 20, rdev & 0xF_FFFF),
        OpenFileKind::Pipe { .. } => format!("pipe, {} bytes unread", descriptor.unread.unwrap_or(0)),
        OpenFileKind::EventFd { count, .. } => format!("eventfd, {count}"),
        OpenFileKind::Epoll { watches } => format!("epoll, {} watched", watches.len()),
        OpenFileKind::TimerFd { value, interval, .. } => format!("timerfd, {value} ns left, every {interval} ns"),
        OpenFileKind::SignalFd { mask } => format!("signalfd, {mask:#x}"),
        OpenFileKind::Path => "path".into(),
        OpenFileKind::Socket { .. } => "socket".into(),
        OpenFileKind::Pseudo => "made by the kernel as it is read".into(),
        OpenFileKind::OfProcess { process, .. } => format!("about process {process}"),
        OpenFileKind::Inotify { watches, .. } => format!("inotify, {} watched", watches.len()),
        OpenFileKind::PosixQueue { .. } => "POSIX message queue".into(),
        OpenFileKind::IoUring => "ring of io_uring".into(),
        OpenFileKind::PtyMaster { .. } => "master of a pseudo terminal".into(),
        OpenFileKind::PtySlave { .. } => "slave of a pseudo terminal".into(),
    }
}

/// Writes the section for people.
pub fn write_text(section: &[FilesEntry], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nFILES")?;
    for process in section {
        writeln!(
            out,
            "  {} {}: in {}, root {}",
            process.tgid, process.comm, process.cwd, process.root
        )?;
        for descriptor in &process.descriptors {
            let Descriptor { fd, flags, path, .. } = descriptor;
            writeln!(out, "    {fd:>5} {flags:>10}  {path}  ({})", words(descriptor))?;
        }
    }
    Ok(())
}
