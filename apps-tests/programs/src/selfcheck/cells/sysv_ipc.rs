//! System V semaphores and message queues.

use crate::cell::{same, Cell, Context};
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
        what: "semop on a semaphore that is zero: goes on when another process adds to it, and takes one",
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
];

/// A set or queue that goes with the cell.
struct Made {
    id: i64,
    queue: bool,
}

impl Drop for Made {
    fn drop(&mut self) {
        sysv::remove(self.id, self.queue);
    }
}

/// A key that no other cell has.
fn key(cell: i32) -> Result<i32> {
    Ok((process::getpid()? as i32) << 4 | cell)
}

fn semaphores(context: &mut Context) -> Result<()> {
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

fn semop(context: &mut Context) -> Result<()> {
    let set = Made {
        id: sysv::semget(libc::IPC_PRIVATE, 2)?,
        queue: false,
    };
    let child = fork(|| {
        let errno = sysv::semop(set.id, 1, -1, 0);
        context.expect_failover("semop")?;
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

fn messages(context: &mut Context) -> Result<()> {
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

fn msgrcv(context: &mut Context) -> Result<()> {
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
