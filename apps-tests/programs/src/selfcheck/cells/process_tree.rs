//! Parents, children, groups, sessions, zombies, stopped processes.

use crate::cell::{same, Cell, Context};
use crate::sys::memory::Region;
use crate::sys::process::{self, fork, wait4, Child};
use anyhow::{ensure, Result};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "tree/ids",
        what:
            "process, thread and parent id, group and session of a parent, a child that leads a session, and its child",
        covers: &[
            "Process.tgid",
            "Process.ppid",
            "Process.pgid",
            "Process.sid",
            "Thread.tid",
            "Thread.tgid",
        ],
        caught: None,
        run: ids,
    },
    Cell {
        name: "tree/zombie",
        what: "a child that has exited and was not waited for: its status",
        covers: &["Process.zombie", "Process.exit_status", "Process.exit_signal"],
        caught: None,
        run: zombie,
    },
    Cell {
        name: "tree/stopped",
        what: "a stopped child stays stopped and goes on with SIGCONT",
        covers: &["Process.stopped_by"],
        caught: None,
        run: stopped,
    },
    Cell {
        name: "tree/subreaper",
        what: "a child subreaper still gets the orphans",
        covers: &["Process.child_subreaper"],
        caught: None,
        run: subreaper,
    },
    Cell {
        name: "tree/death-signal",
        what: "the signal at the parent's death comes when the parent ends afterwards",
        covers: &["Thread.pdeath_signal"],
        caught: None,
        run: death_signal,
    },
    Cell {
        name: "tree/last-id",
        what: "a process made afterwards gets an id nobody has",
        covers: &["Machine.last_pid"],
        caught: None,
        run: last_id,
    },
];

/// A process's pid, tid, ppid, process group and session, as it sees them.
pub(super) fn all_ids() -> Result<[i64; 5]> {
    Ok([
        process::getpid()?,
        process::gettid()?,
        process::getppid()?,
        process::getpgid(0)?,
        process::getsid(0)?,
    ])
}

fn ids(context: &mut Context) -> Result<()> {
    let ready = Region::shared(1)?;
    let mutate = context.mutate();
    let child = fork(|| {
        process::setsid()?;
        let grandchild = fork(|| {
            process::setpgid(0, 0)?;
            let before = all_ids()?;
            ready.set(0, 1);
            if mutate {
                process::setsid().or_else(|_| process::setpgid(0, process::getppid()?))?;
            }
            context.wait()?;
            same("the grandchild's pid, tid, ppid, pgid, sid", all_ids()?, before)
        })?;
        let before = all_ids()?;
        context.wait()?;
        same("the child's pid, tid, ppid, pgid, sid", all_ids()?, before)?;
        grandchild.join("grandchild")
    })?;
    while ready.get(0) == 0 {
        process::sched_yield()?;
    }
    // The parent may be somebody who does not survive: its own parent is not compared.
    let before = [
        process::getpid()?,
        process::gettid()?,
        process::getpgid(0)?,
        process::getsid(0)?,
    ];
    context.failover(|| Ok(()))?;
    let now = [
        process::getpid()?,
        process::gettid()?,
        process::getpgid(0)?,
        process::getsid(0)?,
    ];
    let joined = child.join("child");
    same("pid, tid, pgid, sid", now, before)?;
    joined
}

fn zombie(context: &mut Context) -> Result<()> {
    let child = fork(|| process::exit_now(57))?;
    while !process::status_field(child.pid, "State")?.starts_with('Z') {
        process::sched_yield()?;
    }
    context.failover(|| {
        wait4(child.pid, 0)
            .1
            .eq(&0)
            .then_some(())
            .ok_or_else(|| anyhow::anyhow!("wait4"))
    })?;
    let (pid, errno, status) = wait4(child.pid, libc::WNOHANG);
    same("wait4", (pid, errno), (child.pid, 0))?;
    same("status", status, 57 << 8)
}

fn stopped(context: &mut Context) -> Result<()> {
    let go = Region::shared(1)?;
    let child = fork(|| {
        while go.get(0) == 0 {
            crate::sys::clock::nanosleep(std::time::Duration::from_millis(5));
        }
        process::exit_now(3)
    })?;
    process::kill(child.pid, libc::SIGSTOP.into())?;
    let (pid, _, status) = wait4(child.pid, libc::WUNTRACED);
    same("stopped child", (pid, status), (child.pid, libc::SIGSTOP << 8 | 0x7F))?;
    context.failover(|| process::kill(child.pid, libc::SIGCONT.into()).map(drop))?;
    let state = process::status_field(child.pid, "State")?;
    go.set(0, 1);
    crate::sys::clock::nanosleep(std::time::Duration::from_millis(50));
    let early = wait4(child.pid, libc::WNOHANG).0;
    process::kill(child.pid, libc::SIGCONT.into()).ok();
    ensure!(
        state.starts_with('T') && early == 0,
        "the child is not stopped: {state}"
    );
    same("status", child.status()?, 3 << 8)
}

fn subreaper(context: &mut Context) -> Result<()> {
    process::set_subreaper(true)?;
    let words = Region::shared(1)?;
    let child = fork(|| {
        let orphan = fork(|| {
            while words.get(1) == 0 {
                crate::sys::clock::nanosleep(std::time::Duration::from_millis(5));
            }
            process::exit_now(9)
        })?;
        words.set(0, orphan.pid as u64);
        context.wait()
    })?;
    while words.get(0) == 0 {
        process::sched_yield()?;
    }
    context.failover(|| process::set_subreaper(false))?;
    let reaper = process::subreaper();
    let joined = child.join("child");
    // The orphan is let go in any case.
    words.set(1, 1);
    ensure!(reaper?, "PR_GET_CHILD_SUBREAPER is off");
    joined?;
    let orphan = Child {
        pid: words.get(0) as i64,
    };
    same("the orphan's status", orphan.status()?, 9 << 8)
}

fn death_signal(context: &mut Context) -> Result<()> {
    process::set_subreaper(true)?;
    let words = Region::shared(1)?;
    let mutate = context.mutate();
    let parent = fork(|| {
        let child = fork(|| {
            process::set_death_signal(libc::SIGTERM)?;
            crate::sys::signal::ignore(libc::SIGTERM, false)?;
            words.set(0, 1);
            if mutate {
                process::set_death_signal(0)?;
            }
            context.wait()?;
            same("death signal", process::death_signal()?, libc::SIGTERM)?;
            // SIGTERM ends this sleep and the process.
            crate::sys::clock::nanosleep(std::time::Duration::from_secs(5));
            process::exit_now(1)
        })?;
        words.set(1, child.pid as u64);
        while words.get(2) == 0 {
            crate::sys::clock::nanosleep(std::time::Duration::from_millis(5));
        }
        Ok(())
    })?;
    while words.get(0) == 0 || words.get(1) == 0 {
        process::sched_yield()?;
    }
    context.failover(|| Ok(()))?;
    words.set(2, 1);
    parent.join("parent")?;
    let child = Child {
        pid: words.get(1) as i64,
    };
    same("status of the child", child.status()?, libc::SIGTERM)
}

fn last_id(context: &mut Context) -> Result<()> {
    let before = process::getpid()?;
    let expected = if context.mutate() { i64::MAX } else { before };
    context.failover(|| Ok(()))?;
    for _ in 0..50 {
        let child = fork(|| Ok(()))?;
        ensure!(child.pid != before, "a child has our id");
        child.join("child")?;
    }
    same("process id", process::getpid()?, expected)
}
