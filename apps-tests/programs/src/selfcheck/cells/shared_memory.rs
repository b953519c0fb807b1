//! Memory objects shared between processes.

use crate::cell::{same, write_all, Cell, Context};
use crate::sys::file;
use crate::sys::memory::{Region, PAGE};
use crate::sys::process::fork;
use anyhow::{ensure, Result};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "shared/anonymous",
        what: "shared anonymous memory of two processes: contents, and that it is still shared, both ways",
        covers: &[
            "Backing.SharedMemory",
            "SharedMemory.size",
            "SharedMemory.name",
            "frame_kind.FILE",
        ],
        caught: None,
        run: anonymous,
    },
    Cell {
        name: "shared/memfd",
        what: "a memfd: contents through descriptor and mapping, size, seals",
        covers: &["SharedMemory.seals", "SharedMemory.mode", "SharedMemory.size"],
        caught: None,
        run: memfd,
    },
    Cell {
        name: "shared/tmpfs",
        what: "a mapped file on tmpfs: contents through descriptor, mapping and path",
        covers: &["Inode.path", "Inode.size", "frame_kind.FILE"],
        caught: None,
        run: tmpfs,
    },
];

fn anonymous(context: &mut Context) -> Result<()> {
    let memory = Region::shared(100)?;
    let talk = Region::shared(1)?;
    memory.fill(50, 0..50);
    let child = fork(|| {
        memory.fill(51, 50..80);
        talk.set(0, 1);
        context.wait()?;
        memory.verify("first half in the child", 50, 0..50)?;
        memory.verify("second half in the child", 51, 50..80)?;
        talk.set(1, 4711);
        while talk.get(2) == 0 {
            std::thread::yield_now();
        }
        same("the parent's answer", talk.get(2), 4712)
    })?;
    while talk.get(0) == 0 {
        std::thread::yield_now();
    }
    context.failover(|| {
        memory.set(60 * 512, 0);
        Ok(())
    })?;
    let intact = memory
        .verify("first half", 50, 0..50)
        .and_then(|()| memory.verify("second half", 51, 50..80))
        .and_then(|()| memory.verify_zero("untouched page", 80..100));
    // The child is let go first in any case.
    talk.set(2, 4712);
    let joined = child.join("child");
    intact?;
    joined?;
    same("the child's word", talk.get(1), 4711)
}

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn memfd(context: &mut Context) -> Result<()> {
    let file = file::memfd("selfcheck", libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC)?;
    file.set_len(40 * PAGE as u64 + 100)?;
    let memory = Region::file(file.as_fd(), 0, 40, READ_WRITE, libc::MAP_SHARED)?;
    memory.fill(52, 0..40);
    file.write_all_at(b"the tail of it", 40 * PAGE as u64)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    file::fcntl(&file, libc::F_ADD_SEALS, seals.into())?;
    context.failover(|| {
        memory.set(9999, 0);
        Ok(())
    })?;
    memory.verify("mapped page", 52, 0..40)?;
    same("size", file.metadata()?.len(), 40 * PAGE as u64 + 100)?;
    same("seals", file::fcntl(&file, libc::F_GET_SEALS, 0)? as i32, seals)?;
    let mut tail = [0; 14];
    file.read_exact_at(&mut tail, 40 * PAGE as u64)?;
    same("tail", &tail[..], b"the tail of it")?;
    ensure!(file.set_len(0).is_err(), "the file shrinks in spite of its seal");
    memory.set(0, 77);
    let mut word = [0; 8];
    file.read_exact_at(&mut word, 0)?;
    same("word written through the mapping", u64::from_ne_bytes(word), 77)
}

fn tmpfs(context: &mut Context) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let folder = ["/dev/shm", "/run", "/tmp"]
        .into_iter()
        .find(|folder| mounts.lines().any(|line| line.contains(&format!(" {folder} tmpfs "))));
    let Some(folder) = folder else {
        return context.skip("no tmpfs is mounted");
    };
    let path = Path::new(folder).join(format!("selfcheck-{}", std::process::id()));
    let file = file::open(&path, true, 0)?;
    write_all(&file, &[0x5A; 3 * PAGE])?;
    let memory = Region::file(file.as_fd(), 0, 3, READ_WRITE, libc::MAP_SHARED)?;
    memory.fill(53, 1..2);
    context.failover(|| {
        memory.set(0, 0);
        Ok(())
    })?;
    let bytes = std::fs::read(&path);
    let removed = std::fs::remove_file(&path);
    let bytes = bytes?;
    removed?;
    same("size", bytes.len(), 3 * PAGE)?;
    memory.verify("mapped page", 53, 1..2)?;
    ensure!(
        bytes[..PAGE].iter().chain(&bytes[2 * PAGE..]).all(|&byte| byte == 0x5A),
        "bytes by path differ"
    );
    let mut head = [0; 8];
    file.read_exact_at(&mut head, 0)?;
    same("bytes by descriptor", head, [0x5A; 8])
}
