//! POSIX message queues.

use crate::cell::{same, Cell, Context};
use crate::sys::process::{self, fork};
use crate::sys::{file, mqueue};
use anyhow::{ensure, Result};
use std::os::unix::fs::MetadataExt;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "mqueue/messages",
        what: "a queue with three priorities, one message over several pages: order, texts, limits, flags, owner; a queue without a name",
        covers: &[
            "OpenFileKind.PosixQueue",
            "PosixQueue.name",
            "PosixQueue.unlinked",
            "PosixQueue.mode",
            "PosixQueue.uid",
            "PosixQueue.gid",
            "PosixQueue.limits",
            "PosixQueue.messages",
        ],
        caught: None,
        run: messages,
    },
    Cell {
        name: "mqueue/receive",
        what: "mq_receive on an empty queue: the message that another process sends afterwards",
        covers: &["PosixQueue.limits"],
        caught: Some("mq_timedreceive"),
        run: receive,
    },
];

/// A name that goes with the cell.
struct Name(String);

impl Name {
    fn new(what: &str) -> Result<Self> {
        Ok(Self(format!("selfcheck-{what}-{}", process::getpid()?)))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = mqueue::unlink(&self.0);
    }
}

const NEW: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;

pub(super) fn messages(context: &mut Context) -> Result<()> {
    let name = Name::new("messages")?;
    let queue = mqueue::open(&name.0, NEW | libc::O_NONBLOCK, (7, 8192))?;
    let unnamed = Name::new("unnamed")?;
    let nameless = mqueue::open(&unnamed.0, NEW, (3, 100))?;
    mqueue::unlink(&unnamed.0)?;
    if process::ids(false)?[1] == 0 {
        std::os::unix::fs::fchown(&queue, Some(1234), Some(1235))?;
    }
    let long: Vec<u8> = (0..8192u32).map(|n| (n % 251) as u8).collect();
    for (priority, text) in [(1, &b"first"[..]), (32767, &long), (1, b"second"), (5, b"")] {
        same("errno of sending", mqueue::send(&queue, priority, text), 0)?;
    }
    same("errno of sending", mqueue::send(&nameless, 9, b"without a name"), 0)?;
    let look = || -> Result<_> {
        let data = queue.metadata()?;
        let owner = [data.mode(), data.uid(), data.gid()];
        let flags = [&queue, &nameless].map(|fd| file::fcntl(fd, libc::F_GETFL, 0).unwrap_or(-1));
        Ok((
            owner,
            flags,
            mqueue::attributes(&queue)?,
            mqueue::attributes(&nameless)?,
        ))
    };
    let before = look()?;
    context.failover(|| {
        mqueue::receive(&queue)
            .map(drop)
            .map_err(|errno| anyhow::anyhow!("errno {errno}"))
    })?;
    same("everything", look()?, before)?;
    let again = mqueue::open(&name.0, libc::O_RDONLY | libc::O_NONBLOCK, (0, 0))?;
    for (priority, text) in [
        (32767, long),
        (5, Vec::new()),
        (1, b"first".to_vec()),
        (1, b"second".to_vec()),
    ] {
        ensure!(mqueue::receive(&again) == Ok((priority, text)), "a message differs");
    }
    same("errno of an empty queue", mqueue::receive(&queue), Err(libc::EAGAIN))?;
    same(
        "of the nameless one",
        mqueue::receive(&nameless),
        Ok((9, b"without a name".to_vec())),
    )?;
    ensure!(
        mqueue::open(&unnamed.0, libc::O_RDONLY, (0, 0)).is_err(),
        "the name has come back"
    );
    Ok(())
}

pub(super) fn receive(context: &mut Context) -> Result<()> {
    let name = Name::new("receive")?;
    let queue = mqueue::open(&name.0, NEW, (3, 8192))?;
    let child = fork(|| {
        let answer = mqueue::receive(&queue);
        context.expect_failover("mq_receive")?;
        same("message", answer, Ok((7, b"afterwards".to_vec())))
    })?;
    context.failover(|| {
        mqueue::send(&queue, 7, b"too early");
        std::thread::sleep(std::time::Duration::from_millis(100));
        Ok(())
    })?;
    same("errno of sending", mqueue::send(&queue, 7, b"afterwards"), 0)?;
    child.join("child that waited")
}
