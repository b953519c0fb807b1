//! Rings of io_uring.

use crate::cell::{join, same, Cell, Context};
use crate::sys::io_uring::{
    self, nop, Completion, Request, Ring, ASYNC, DRAIN, SETUP_CQE32, SETUP_SQE128, SETUP_SQPOLL,
};
use crate::sys::process::{self, fork, Child};
use crate::sys::{event, file};
use anyhow::{ensure, Result};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "io-uring/events",
        what: "a ring that has begun again many times, with completions that nobody has taken, requests that nobody has handed over, and one that was dropped: these, then new reads, writes, time-outs and one that waits for all before it, and as many completions as there is room for",
        covers: &[
            "OpenFileKind.IoUring",
            "Backing.IoUring",
            "IoUring.sq_entries",
            "IoUring.cq_entries",
            "IoUring.offsets",
            "IoUring.taken",
            "IoUring.completed",
            "IoUring.extra",
        ],
        caught: None,
        run: events,
    },
    Cell {
        name: "io-uring/silent",
        what: "a ring of large requests and completions of which one came in silence: what its requests say, byte for byte, and that none can wait for all before it any more",
        covers: &["IoUring.flags", "IoUring.drain_disabled"],
        caught: None,
        run: silent,
    },
    Cell {
        name: "io-uring/eventfd",
        what: "two rings, whose eventfds are told of all completions and of those of workers only; a worker has nothing to do",
        covers: &["IoUring.eventfd", "IoUring.eventfd_async"],
        caught: None,
        run: eventfd,
    },
    Cell {
        name: "io-uring/shared",
        what: "a ring that parent and child have mapped: each sees what the other's requests lead to",
        covers: &["Backing.IoUring"],
        caught: None,
        run: shared,
    },
    Cell {
        name: "io-uring/wait",
        what: "a thread that waits for a completion gets the next one",
        covers: &["IoUring.completed", "Resume.Registers"],
        caught: Some("io_uring_enter"),
        run: wait,
    },
    Cell {
        name: "io-uring/refused",
        what: "children with a request under way, with a thread of the kernel that polls, and with registered memory: none of them goes on",
        covers: &[],
        caught: None,
        run: refused,
    },
];

/// Requests that are over.
const MANY: u64 = 3000;
/// Completions that nobody has taken.
const LEFT: u64 = 5;

/// A ring, unless this machine has none.
fn ring(context: &Context, requests: u32, completions: u32, flags: u32) -> Result<Ring> {
    if !io_uring::is_there() {
        return context.skip("no io_uring here");
    }
    Ring::new(requests, completions, flags)
}

fn of(range: std::ops::Range<u64>) -> Vec<Completion> {
    range.map(|data| (data, 0)).collect()
}

fn nops(range: std::ops::Range<u64>) -> Vec<Request> {
    range.map(|data| nop(data, 0)).collect()
}

/// In no particular order.
fn sorted(mut completions: Vec<Completion>) -> Vec<Completion> {
    completions.sort_unstable();
    completions
}

fn events(context: &mut Context) -> Result<()> {
    let path = context.path("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    let ring = ring(context, 8, 16, 0)?;
    for number in 0..MANY {
        same("a completion", ring.go(&[nop(number, 0)])?, vec![(number, 0)])?;
    }
    ring.put_wrong();
    same("taken of a request that is none", ring.enter(1, 0)?, 0)?;
    same("requests that were dropped", ring.dropped(), 1)?;
    let early = ring.go(&[io_uring::timeout(1, 1), nop(2, 0)])?;
    same("a time-out for one completion", sorted(early), vec![(1, 0), (2, 0)])?;
    for number in 0..LEFT {
        ring.put(nop(number, 0));
    }
    ring.enter(LEFT as u32, LEFT as u32)?;
    for number in 0..3 {
        ring.put(nop(100 + number, 0));
    }
    let counts = ring.counts();
    context.failover(|| {
        ring.take();
        Ok(())
    })?;
    same("requests and completions so far", ring.counts(), counts)?;
    same("requests that were dropped", ring.dropped(), 1)?;
    same("completions that nobody had taken", ring.take_all(), of(0..LEFT))?;
    same("requests that nobody had handed over", ring.enter(3, 3)?, 3)?;
    same("their completions", ring.take_all(), of(100..103))?;
    let completed = ring.go(&[io_uring::timeout(8, 2), nop(9, 0), nop(10, 0)])?;
    same(
        "a time-out for two completions",
        sorted(completed),
        vec![(8, 0), (9, 0), (10, 0)],
    )?;
    same(
        "one that waits for all before it",
        ring.go(&[nop(7, DRAIN)])?,
        vec![(7, 0)],
    )?;
    same(
        "a write",
        ring.go(&[io_uring::write(&file, 11, b"by a ring", 3)])?,
        vec![(11, 9)],
    )?;
    let mut found = [0; 4];
    same(
        "a read",
        ring.go(&[io_uring::read(&file, 12, &mut found, 8)])?,
        vec![(12, 4)],
    )?;
    same("what was read", &found, b"ring")?;
    same("the file", fs::read(&path)?, b"\0\0\0by a ring".to_vec())?;
    let most = u64::from(ring.completions_most());
    for first in (0..most).step_by(8) {
        for request in nops(first..first + 8) {
            ring.put(request);
        }
        ring.enter(8, 0)?;
    }
    same("as many as there is room for", ring.take_all(), of(0..most))
}

fn silent(context: &mut Context) -> Result<()> {
    /// `IOSQE_CQE_SKIP_SUCCESS`.
    const SKIP: u8 = 1 << 6;
    let ring = ring(context, 64, 256, SETUP_SQE128 | SETUP_CQE32)?;
    ring.put(nop(1, SKIP));
    ring.put(nop(2, 0));
    ring.enter(2, 1)?;
    same("a completion after one in silence", ring.take_all(), vec![(2, 0)])?;
    for request in nops(10..40) {
        ring.put(request);
    }
    let before = ring.request_bytes();
    context.failover(|| {
        ring.put(nop(99, 0));
        Ok(())
    })?;
    same("the bytes of requests", ring.request_bytes() == before, true)?;
    same("requests that nobody had handed over", ring.enter(30, 30)?, 30)?;
    same("their completions", ring.take_all(), of(10..40))?;
    let refused = ring.go(&[nop(3, DRAIN)])?;
    same(
        "one that waits for all before it",
        refused,
        vec![(3, -libc::EOPNOTSUPP)],
    )
}

/// Reads an eventfd that does not block.
fn told(eventfd: &mut File) -> Result<u64> {
    let mut count = [0; 8];
    match eventfd.read_exact(&mut count) {
        Ok(()) => Ok(u64::from_ne_bytes(count)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn eventfd(context: &mut Context) -> Result<()> {
    let (all, workers) = (ring(context, 4, 0, 0)?, Ring::new(4, 0, 0)?);
    let mut of_all = event::eventfd(0, libc::EFD_NONBLOCK)?;
    let mut of_workers = event::eventfd(0, libc::EFD_NONBLOCK)?;
    all.tell(of_all.as_fd(), false)?;
    workers.tell(of_workers.as_fd(), true)?;
    // A worker does it, and stays for some time.
    same("a completion of a worker", workers.go(&[nop(1, ASYNC)])?, vec![(1, 0)])?;
    all.go(&[nop(2, 0)])?;
    context.failover(|| {
        told(&mut of_all)?;
        Ok(())
    })?;
    same("told before", (told(&mut of_all)?, told(&mut of_workers)?), (1, 1))?;
    all.go(&[nop(3, 0)])?;
    workers.go(&[nop(4, 0)])?;
    same(
        "told of one's own",
        (told(&mut of_all)?, told(&mut of_workers)?),
        (1, 0),
    )?;
    workers.go(&[nop(5, ASYNC)])?;
    // A worker tells of it after the completion is there.
    file::poll(&of_workers, libc::POLLIN, 10_000);
    same("told of a worker's", told(&mut of_workers)?, 1)
}

fn shared(context: &mut Context) -> Result<()> {
    let ring = ring(context, 4, 0, 0)?;
    same("a completion", ring.go(&[nop(1, 0)])?, vec![(1, 0)])?;
    let (mut from_child, to_parent) = file::pipe(0)?;
    let child = fork(|| {
        context.wait()?;
        ring.put(nop(2, 0));
        ring.enter(1, 0)?;
        crate::cell::write_all(&to_parent, b"!")?;
        Ok(())
    })?;
    drop(to_parent);
    context.failover(|| {
        ring.put(nop(3, 0));
        Ok(())
    })?;
    from_child.read_exact(&mut [0])?;
    same("what the child's request leads to", ring.take_all(), vec![(2, 0)])?;
    child.join("child")
}

fn wait(context: &mut Context) -> Result<()> {
    let ring = Arc::new(ring(context, 4, 0, 0)?);
    let waiter = std::thread::spawn({
        let ring = ring.clone();
        move || {
            ring.enter(0, 1)?;
            Ok::<_, anyhow::Error>(ring.take_all())
        }
    });
    let mut expected = vec![(3, 0)];
    context.failover(|| {
        expected.clear();
        Ok(())
    })?;
    ring.put(nop(3, 0));
    ring.enter(1, 0)?;
    same("the completion", join(waiter)??, expected)
}

/// A child that has a ring in a state that is not kept, and waits.
fn with(context: &Context, set_up: impl FnOnce() -> Result<Ring>) -> Result<Child> {
    let (mut from_child, to_parent) = file::pipe(0)?;
    let child = fork(|| {
        let _ring = set_up()?;
        crate::cell::write_all(&to_parent, b"!")?;
        loop {
            context.wait()?;
            std::thread::sleep(std::time::Duration::from_secs(3600));
        }
    })?;
    drop(to_parent);
    from_child.read_exact(&mut [0])?;
    Ok(child)
}

fn refused(context: &mut Context) -> Result<()> {
    if context.is_assumed() {
        return context.skip("nothing is refused without a failover");
    }
    drop(ring(context, 1, 0, 0)?);
    let (never, _held) = file::pipe(0)?;
    let children = [
        with(context, || {
            let ring = Ring::new(4, 0, 0)?;
            ring.put(io_uring::poll(&never, 1));
            ring.enter(1, 0)?;
            Ok(ring)
        })?,
        with(context, || Ring::new(4, 0, SETUP_SQPOLL))?,
        with(context, || {
            let ring = Ring::new(4, 0, 0)?;
            ring.register_buffer(Box::leak(Box::new([0; 4096])))?;
            Ok(ring)
        })?,
    ];
    context.failover(|| {
        for child in &children {
            process::kill(child.pid, i64::from(libc::SIGTERM))?;
        }
        Ok(())
    })?;
    for child in &children {
        // One that the salvager refuses leaves nothing behind.
        let found = process::wait4(child.pid, 0);
        ensure!(
            matches!(found, (-1, libc::ECHILD, _)),
            "a child is still known: {found:?}"
        );
    }
    Ok(())
}
