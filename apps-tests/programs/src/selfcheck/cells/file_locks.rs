//! Locks on files.

use crate::cell::{same, Cell, Context};
use crate::sys::file::{self, open};
use crate::sys::lock::{self, Range};
use crate::sys::memory::Region;
use crate::sys::process::{self, fork};
use crate::sys::signal;
use anyhow::Result;
use libc::{F_GETLK, F_OFD_GETLK, F_OFD_SETLK, F_RDLCK, F_SETLK, F_SETLKW, F_UNLCK, F_WRLCK};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "locks/flock",
        what: "exclusive and shared flock; that a child with the same open file has it, too, and gives it up for both",
        covers: &["FileLock.kind", "FileLock.exclusive", "FileLockKind.Flock"],
        caught: None,
        run: flock,
    },
    Cell {
        name: "locks/posix",
        what: "locks of ranges (F_SETLK) for writing and, without an end, for reading, as another process sees them",
        covers: &[
            "FileLocks.table",
            "FileLocks.locks",
            "FileLock.start",
            "FileLock.length",
            "FileLock.exclusive",
            "FileLockKind.Posix",
        ],
        caught: None,
        run: posix,
    },
    Cell {
        name: "locks/open-file",
        what: "locks of ranges of an open file (F_OFD_SETLK), as another open file sees them",
        covers: &["FileLock.start", "FileLock.length", "FileLockKind.OpenFile"],
        caught: None,
        run: open_file,
    },
    Cell {
        name: "locks/waits",
        what: "fcntl(F_SETLKW) for a range that the parent gives up afterwards: result 0, and then it has it",
        covers: &["FileLockKind.Posix"],
        caught: Some("fcntl"),
        run: waits,
    },
    Cell {
        name: "locks/leases",
        what: "leases of a file for writing and of one for reading: kind, signal, and that whoever opens the file is waited for",
        covers: &["FileLockKind.Lease", "FileLock.exclusive"],
        caught: None,
        run: leases,
    },
];

fn flock(context: &mut Context) -> Result<()> {
    let (alone, shared) = (context.path("alone"), context.path("shared"));
    let (held, read) = (open(&alone, true, 0)?, open(&shared, true, 0)?);
    same("errno of LOCK_EX", lock::whole(&held, libc::LOCK_EX), 0)?;
    same("errno of LOCK_SH", lock::whole(&read, libc::LOCK_SH), 0)?;
    let done = Region::shared(1)?;
    let child = fork(|| {
        context.wait()?;
        while done.get(0) == 0 {
            process::sched_yield()?;
        }
        same("errno of the child's LOCK_UN", lock::whole(&held, libc::LOCK_UN), 0)
    })?;
    context.failover(|| {
        lock::whole(&held, libc::LOCK_UN);
        Ok(())
    })?;
    let exclusive = libc::LOCK_EX | libc::LOCK_NB;
    let other = open(&alone, true, 0)?;
    let found = lock::whole(&other, exclusive);
    let (reader, writer) = (open(&shared, true, 0)?, open(&shared, true, 0)?);
    let sharing = lock::whole(&reader, libc::LOCK_SH | libc::LOCK_NB);
    let writing = lock::whole(&writer, exclusive);
    done.set(0, 1);
    child.join("child with the same open file")?;
    same("errno of another's LOCK_EX", found, libc::EWOULDBLOCK)?;
    same("errno of another's LOCK_SH of a shared one", sharing, 0)?;
    same("errno of another's LOCK_EX of a shared one", writing, libc::EWOULDBLOCK)?;
    same("errno after the child gave it up", lock::whole(&other, exclusive), 0)
}

fn posix(context: &mut Context) -> Result<()> {
    let file = open(&context.path("file"), true, 0)?;
    let (writing, reading) = (Range(10, 20), Range(100, 0));
    same("errno of F_WRLCK", lock::set(&file, F_SETLK, F_WRLCK, writing), 0)?;
    same("errno of F_RDLCK", lock::set(&file, F_SETLK, F_RDLCK, reading), 0)?;
    let parent = process::getpid()? as i32;
    let child = fork(|| {
        context.wait()?;
        let seen = |kind, range| lock::get(&file, F_GETLK, kind, range);
        same("lock at 0", seen(F_WRLCK, Range(0, 100))?, (F_WRLCK, writing, parent))?;
        same("lock at 29", seen(F_RDLCK, Range(29, 1))?, (F_WRLCK, writing, parent))?;
        same("type at 30", seen(F_WRLCK, Range(30, 70))?.0, F_UNLCK)?;
        let far = Range(1 << 40, 1);
        same("lock far behind", seen(F_WRLCK, far)?, (F_RDLCK, reading, parent))?;
        same("type for readers far behind", seen(F_RDLCK, far)?.0, F_UNLCK)
    })?;
    context.failover(|| {
        lock::set(&file, F_SETLK, F_UNLCK, writing);
        Ok(())
    })?;
    child.join("child that looks at the locks")
}

fn open_file(context: &mut Context) -> Result<()> {
    let path = context.path("file");
    let file = open(&path, true, 0)?;
    let (writing, reading) = (Range(0, 1), Range(4096, 4096));
    same("errno of F_WRLCK", lock::set(&file, F_OFD_SETLK, F_WRLCK, writing), 0)?;
    same("errno of F_RDLCK", lock::set(&file, F_OFD_SETLK, F_RDLCK, reading), 0)?;
    context.failover(|| {
        lock::set(&file, F_OFD_SETLK, F_UNLCK, reading);
        Ok(())
    })?;
    let other = open(&path, true, 0)?;
    let seen = |kind, range| lock::get(&other, F_OFD_GETLK, kind, range);
    same("lock at 0", seen(F_RDLCK, Range(0, 10))?, (F_WRLCK, writing, -1))?;
    same("lock at 5000", seen(F_WRLCK, Range(5000, 1))?, (F_RDLCK, reading, -1))?;
    same("type behind", seen(F_WRLCK, Range(8192, 0))?.0, F_UNLCK)
}

fn waits(context: &mut Context) -> Result<()> {
    let file = open(&context.path("file"), true, 0)?;
    let range = Range(0, 100);
    same("errno of F_SETLK", lock::set(&file, F_SETLK, F_WRLCK, range), 0)?;
    let child = fork(|| {
        let answer = lock::set(&file, F_SETLKW, F_WRLCK, Range(50, 10));
        context.expect_failover("fcntl")?;
        same("errno of F_SETLKW", answer, 0)
    })?;
    context.failover(|| {
        lock::set(&file, F_SETLK, F_UNLCK, range);
        // Time for the child to have it before the failover.
        std::thread::sleep(std::time::Duration::from_millis(100));
        Ok(())
    })?;
    same(
        "errno of the parent's unlocking",
        lock::set(&file, F_SETLK, F_UNLCK, range),
        0,
    )?;
    child.join("child that waited")?;
    let (kind, ..) = lock::get(&file, F_GETLK, F_WRLCK, range)?;
    same("type after the child's end", kind, F_UNLCK)
}

fn leases(context: &mut Context) -> Result<()> {
    let (alone, shared) = (context.path("alone"), context.path("shared"));
    let written = open(&alone, true, 0)?;
    open(&shared, true, 0)?;
    let read = open(&shared, false, 0)?;
    signal::mask(libc::SIG_BLOCK, signal::bit(40))?;
    file::fcntl(&written, file::F_SETSIG, 40)?;
    file::fcntl(&written, libc::F_SETLEASE, F_WRLCK.into())?;
    file::fcntl(&read, libc::F_SETLEASE, F_RDLCK.into())?;
    context.failover(|| file::fcntl(&written, libc::F_SETLEASE, F_UNLCK.into()).map(drop))?;
    let kinds = [&written, &read].map(|fd| file::fcntl(fd, libc::F_GETLEASE, 0).unwrap_or(-1));
    same("leases", kinds, [F_WRLCK.into(), F_RDLCK.into()])?;
    let child = fork(|| {
        let other = file::open(&alone, false, libc::O_NONBLOCK);
        let errno = other.err().and_then(|error| error.downcast::<std::io::Error>().ok());
        same(
            "errno of opening it",
            errno.and_then(|error| error.raw_os_error()),
            Some(libc::EWOULDBLOCK),
        )
    })?;
    child.join("child that opens the file")?;
    let (errno, info) = signal::wait_for(signal::bit(40), Some(10_000_000_000));
    same("errno and signal", (errno, info.signal), (0, 40))?;
    file::fcntl(&written, libc::F_SETLEASE, F_UNLCK.into())?;
    open(&alone, false, libc::O_NONBLOCK).map(drop)
}
