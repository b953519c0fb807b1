//! System V semaphores, message queues and shared memory.

use crate::cell::{same, Cell, Context};
use crate::sys::memory::{Region, PAGE};
use crate::sys::process::{self, fork};
use crate::sys::sysv;
use anyhow::{ensure, Result};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "sysv/semaphores",
        what: "a set of three semaphores with a key: id, values, owner, creator, permissions",
        covers: &[
            "SemaphoreSet.perm",
            "SemaphoreSet.values",
            "IpcPerm.id",
            "IpcPerm.key",
            "IpcPerm.uid",
            "IpcPerm.gid",
            "IpcPerm.cuid",
            "IpcPerm.cgid",
            "IpcPerm.mode",
        ],
        caught: None,
        run: semaphores,
    },
    Cell {
        name: "sysv/semop",
        what: "semop on a semaphore that is zero: goes on when another process adds to it, and takes one; or EINTR as after any \
               signal",
        covers: &["SemaphoreSet.values"],
        caught: Some("semop"),
        run: semop,
    },
    Cell {
        name: "sysv/messages",
        what: "three messages, one over several pages: types, texts, order; the queue's limit and owner",
        covers: &["MessageQueue.perm", "MessageQueue.limit", "MessageQueue.messages"],
        caught: None,
        run: messages,
    },
    Cell {
        name: "sysv/msgrcv",
        what: "msgrcv on an empty queue: the message that another process sends afterwards",
        covers: &["MessageQueue.perm"],
        caught: Some("msgrcv"),
        run: msgrcv,
    },
    Cell {
        name: "sysv/shared-memory",
        what: "a segment with a key, attached by two processes, once for reading only: contents, id, owner, how many have it attached",
        covers: &["SharedSegment.perm", "SharedSegment.size", "SharedSegment.inode"],
        caught: None,
        run: shared_memory,
    },
    Cell {
        name: "sysv/removed-segment",
        what: "a segment that is removed and still attached, and one that nobody has attached",
        covers: &["SharedSegment.removed", "SharedSegment.inode"],
        caught: None,
        run: removed_segment,
    },
];

/// A set or queue that goes with the cell.
pub(super) struct Made {
    pub(super) id: i64,
    pub(super) queue: bool,
}

impl Drop for Made {
    fn drop(&mut self) {
        sysv::remove(self.id, self.queue);
    }
}

/// A key that no other cell has.
pub(super) fn key(cell: i32) -> Result<i32> {
    Ok((process::getpid()? as i32) << 4 | cell)
}

pub(super) fn semaphores(context: &mut Context) -> Result<()> {
    context.need_root()?;
    process::setresgid(-1, 1235, -1)?;
    process::setresuid(-1, 1234, -1)?;
    let made = sysv::semget(key(1)?, 3).map(|id| Made { id, queue: false });
    process::setresuid(-1, 0, -1)?;
    process::setresgid(-1, 0, -1)?;
    let set = made?;
    for (index, value) in [(0, 7), (1, 0), (2, 32767)] {
        sysv::semctl(set.id, index, libc::SETVAL, value)?;
    }
    let before = sysv::permissions(set.id, false)?;
    same("who made it", before[2..4].to_vec(), vec![1234, 1235])?;
    context.failover(|| sysv::semctl(set.id, 1, libc::SETVAL, 1).map(drop))?;
    same("permissions", sysv::permissions(set.id, false)?, before)?;
    let values = [0, 1, 2].map(|index| sysv::semctl(set.id, index, libc::GETVAL, 0).unwrap_or(-1));
    same("values", values, [7, 0, 32767])
}

pub(super) fn semop(context: &mut Context) -> Result<()> {
    let set = Made {
        id: sysv::semget(libc::IPC_PRIVATE, 2)?,
        queue: false,
    };
    let child = fork(|| {
        let mut errno = sysv::semop(set.id, 1, -1, 0);
        context.expect_failover("semop")?;
        if errno == libc::EINTR {
            println!("semop answered EINTR");
            errno = sysv::semop(set.id, 1, -1, 0);
        }
        same("errno of semop", errno, 0)
    })?;
    context.failover(|| {
        ensure!(sysv::semop(set.id, 1, 1, 0) == 0, "semop");
        std::thread::sleep(std::time::Duration::from_millis(100));
        Ok(())
    })?;
    same("errno of adding two", sysv::semop(set.id, 1, 2, 0), 0)?;
    child.join("child that waited")?;
    same("what is left", sysv::semctl(set.id, 1, libc::GETVAL, 0)?, 1)
}

pub(super) fn messages(context: &mut Context) -> Result<()> {
    let queue = Made {
        id: sysv::msgget(key(2)?)?,
        queue: true,
    };
    let long: Vec<u8> = (0..8000u32).map(|n| (n % 251) as u8).collect();
    let all = [(5, b"five".to_vec()), (1, long), (i64::MAX, Vec::new())];
    for (kind, text) in &all {
        sysv::msgsnd(queue.id, *kind, text)?;
    }
    let before = sysv::permissions(queue.id, true)?;
    context.failover(|| {
        sysv::msgrcv(queue.id, 5, libc::IPC_NOWAIT)
            .map(drop)
            .map_err(|errno| anyhow::anyhow!("errno {errno}"))
    })?;
    same("permissions", sysv::permissions(queue.id, true)?, before)?;
    for message in all {
        ensure!(
            sysv::msgrcv(queue.id, 0, libc::IPC_NOWAIT) == Ok(message),
            "a message differs"
        );
    }
    same(
        "errno of an empty queue",
        sysv::msgrcv(queue.id, 0, libc::IPC_NOWAIT),
        Err(libc::ENOMSG),
    )
}

pub(super) fn msgrcv(context: &mut Context) -> Result<()> {
    let queue = Made {
        id: sysv::msgget(libc::IPC_PRIVATE)?,
        queue: true,
    };
    let child = fork(|| {
        let answer = sysv::msgrcv(queue.id, 7, 0);
        context.expect_failover("msgrcv")?;
        same("message", answer, Ok((7, b"afterwards".to_vec())))
    })?;
    context.failover(|| {
        sysv::msgsnd(queue.id, 7, b"too early")?;
        std::thread::sleep(std::time::Duration::from_millis(100));
        Ok(())
    })?;
    sysv::msgsnd(queue.id, 8, b"another")?;
    sysv::msgsnd(queue.id, 7, b"afterwards")?;
    child.join("child that waited")?;
    same(
        "what is left",
        sysv::msgrcv(queue.id, 0, libc::IPC_NOWAIT),
        Ok((8, b"another".to_vec())),
    )
}

/// A segment that goes with the cell.
struct Segment(i64);

impl Drop for Segment {
    fn drop(&mut self) {
        // A removed one is gone already.
        let _ = sysv::remove_segment(self.0);
    }
}

pub(super) fn shared_memory(context: &mut Context) -> Result<()> {
    let key = key(3)?;
    let segment = Segment(sysv::shmget(key, 50 * PAGE - 100)?);
    let memory = Region::attach(segment.0, 0)?;
    let reader = Region::attach(segment.0, libc::SHM_RDONLY)?;
    memory.fill(70, 0..20);
    let child = fork(|| {
        context.wait()?;
        while memory.get(40 * 512) == 0 {
            process::sched_yield()?;
        }
        memory.verify("the child's view", 70, 0..20)?;
        memory.set(41 * 512, 4711);
        Ok(())
    })?;
    let before = sysv::segment(segment.0)?;
    same("attached", before[4], 4)?;
    context.failover(|| {
        memory.set(10 * 512, 0);
        Ok(())
    })?;
    let after = sysv::segment(segment.0)?;
    let found = sysv::find_segment(key)?;
    let contents = reader
        .verify("for reading", 70, 0..20)
        .and_then(|()| memory.verify_zero("untouched pages", 20..49));
    // The child is let go in any case.
    memory.set(40 * 512, 1);
    child.join("child")?;
    contents?;
    same("description", after, before)?;
    same("id by its key", found, segment.0)?;
    same("the child's answer", reader.get(41 * 512), 4711)?;
    drop(reader);
    same("attached", sysv::segment(segment.0)?[4], 1)
}

pub(super) fn removed_segment(context: &mut Context) -> Result<()> {
    let kept = Segment(sysv::shmget(libc::IPC_PRIVATE, 10 * PAGE)?);
    Region::attach(kept.0, 0)?.fill(71, 0..10);
    same("attached by nobody", sysv::segment(kept.0)?[4], 0)?;
    let removed = Segment(sysv::shmget(libc::IPC_PRIVATE, 10 * PAGE)?);
    let memory = Region::attach(removed.0, 0)?;
    memory.fill(72, 0..10);
    sysv::remove_segment(removed.0)?;
    let before = sysv::segment(removed.0)?;
    context.failover(|| {
        memory.set(512, 0);
        Ok(())
    })?;
    memory.verify("the removed one", 72, 0..10)?;
    same("description of the removed one", sysv::segment(removed.0)?, before)?;
    drop(memory);
    ensure!(sysv::segment(removed.0).is_err(), "it is still there");
    Region::attach(kept.0, 0)?.verify("the one that nobody had attached", 71, 0..10)
}
