//! Pid namespaces: numbers of processes, as a container has them.

use super::namespaces;
use super::process_tree::all_ids;
use crate::cell::{join, same, write_all, Cell, Context};
use crate::sys::memory::Region;
use crate::sys::mount::{mount_as, new_namespace};
use crate::sys::namespace::enter;
use crate::sys::process::{self, fork, wait4, Child};
use crate::sys::signal::{self, Timer};
use crate::sys::{clock, file};
use anyhow::{ensure, Context as _, Result};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "pid-namespace/ids",
        what: "the first process of a namespace, a child that leads a session, its child in another group, and a thread: all their numbers, inside and outside; and the number that is given next, to a child of who is outside",
        covers: &["NamespaceKind.Pid", "InnerIds.namespace", "InnerIds.numbers"],
        caught: None,
        run: ids,
    },
    Cell {
        name: "pid-namespace/first",
        what: "the first process of a namespace gets orphans, does not hear signals from inside that it has no handler for, and takes all with it",
        covers: &["NamespaceKind.Pid"],
        caught: None,
        run: first,
    },
    Cell {
        name: "pid-namespace/nested",
        what: "a namespace in another: the numbers in each, and a signal to one of them",
        covers: &["NamespaceKind.Pid", "InnerIds.numbers"],
        caught: None,
        run: nested,
    },
    Cell {
        name: "pid-namespace/entered",
        what: "a process that was born in a namespace by one who is outside",
        covers: &["NamespaceKind.Pid", "InnerIds.namespace"],
        caught: None,
        run: entered,
    },
    Cell {
        name: "pid-namespace/numbers",
        what: "what names a process inside: the owner of a pipe, the thread of a timer, a signal that waits, a zombie",
        covers: &["InnerIds.numbers", "OpenFile.owner", "PosixTimer.notify_tid"],
        caught: None,
        run: numbers,
    },
    Cell {
        name: "pid-namespace/proc",
        what: "`proc` of a namespace, mounted in a mount namespace of its own, with a setting mounted read-only over itself",
        covers: &["Mounted.Processes"],
        caught: None,
        run: proc,
    },
];

/// The number that was given last in this process's namespace.
const LAST: &str = "/proc/sys/kernel/ns_last_pid";

/// A namespace for children of this process, if that is possible here.
fn new(context: &Context) -> Result<()> {
    context.need_root()?;
    namespaces::new(libc::CLONE_NEWPID)
}

/// All numbers of a process by its number here, from outside in.
fn numbers_of(pid: i64) -> Result<Vec<i64>> {
    let list = process::status_field(pid, "NSpid")?;
    list.split_whitespace().map(|number| Ok(number.parse()?)).collect()
}

fn wait_until(is_so: impl Fn() -> bool) {
    while !is_so() {
        clock::nanosleep(Duration::from_millis(5));
    }
}

/// Another of this process's children, or of theirs, by its number in its namespace.
fn find(number: i64) -> Result<i64> {
    let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i64>().ok());
    let own = namespace_of_children()?;
    let is_it = |pid: &i64| {
        let is_inside = fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|namespace| namespace == own);
        is_inside && numbers_of(*pid).is_ok_and(|numbers| numbers.last() == Some(&number))
    };
    pids.into_iter().find(is_it).context("there is no such process")
}

fn namespace_of_children() -> Result<std::path::PathBuf> {
    Ok(fs::read_link("/proc/self/ns/pid_for_children")?)
}

fn ids(context: &mut Context) -> Result<()> {
    new(context)?;
    let ready = Region::shared(1)?;
    let mutate = context.mutate();
    let child = fork(|| {
        let leader = fork(|| {
            process::setsid()?;
            let grandchild = fork(|| {
                process::setpgid(0, 0)?;
                let before = all_ids()?;
                same("pid, ppid, pgid, sid", before, [3, 3, 2, 3, 2])?;
                ready.set(0, 1);
                if mutate {
                    process::setpgid(0, process::getppid()?)?;
                }
                context.wait()?;
                wait_until(|| ready.get(2) == 1);
                same("the grandchild's numbers", all_ids()?, before)
            })?;
            wait_until(|| ready.get(0) == 1);
            let before = all_ids()?;
            same("pid, ppid, pgid, sid", before, [2, 2, 1, 2, 2])?;
            let thread = context.partner(process::gettid);
            wait_until(|| fs::read_dir("/proc/thread-self/../").is_ok_and(|tasks| tasks.count() > 1));
            ready.set(0, 2);
            context.wait()?;
            wait_until(|| ready.get(2) == 1);
            same("the leader's numbers", all_ids()?, before)?;
            same("a thread's number", join(thread)??, 4)?;
            grandchild.join("grandchild")
        })?;
        wait_until(|| ready.get(0) == 2);
        // Its group and session are outside.
        let before = all_ids()?;
        same("pid, tid, ppid, pgid, sid", before, [1, 1, 0, 0, 0])?;
        fs::write(LAST, "300")?;
        ready.set(0, 3);
        context.wait()?;
        same("the first process's numbers", all_ids()?, before)?;
        same("the last number", fs::read_to_string(LAST)?.trim(), "300")?;
        ready.set(1, 1);
        let joined = leader.join("leader");
        wait_until(|| ready.get(3) == 1);
        joined
    })?;
    wait_until(|| ready.get(0) == 3);
    let outside = || [1, 2, 3].map(|number| find(number).and_then(numbers_of).map_err(|error| error.to_string()));
    let before = (outside(), namespace_of_children()?);
    ensure!(before.0.iter().all(Result::is_ok), "{:?}", before.0);
    context.failover(|| Ok(()))?;
    let found = outside();
    ready.set(2, 1);
    same("what is seen from outside", found, before.0)?;
    wait_until(|| ready.get(1) == 1);
    let next = fork(|| same("the next number", process::getpid()?, 301))?;
    let joined = next.join("next");
    ready.set(3, 1);
    child.join("first process")?;
    joined
}

fn first(context: &mut Context) -> Result<()> {
    new(context)?;
    let (mut alive, held) = UnixStream::pair()?;
    let words = Region::shared(1)?;
    let child = fork(|| {
        let parent = fork(|| {
            let orphan = fork(|| {
                wait_until(|| words.get(0) == 1);
                process::exit_now(44)
            })?;
            words.set(1, orphan.pid as u64);
            context.wait()
        })?;
        fork(|| {
            context.wait()?;
            // Nobody inside ends the first process.
            process::kill(1, libc::SIGKILL.into())?;
            process::kill(1, libc::SIGTERM.into())?;
            words.set(2, 1);
            loop {
                clock::nanosleep(Duration::from_secs(1));
            }
        })?;
        wait_until(|| words.get(1) != 0);
        words.set(3, 1);
        context.wait()?;
        parent.join("parent")?;
        words.set(0, 1);
        let orphan = Child {
            pid: words.get(1) as i64,
        };
        same("status of an orphan", orphan.status()?, 44 << 8)?;
        words.set(4, 1);
        loop {
            clock::nanosleep(Duration::from_secs(1));
        }
    })?;
    drop(held);
    wait_until(|| words.get(3) == 1);
    let expected = if context.mutate() { libc::SIGTERM } else { libc::SIGKILL };
    context.failover(|| Ok(()))?;
    wait_until(|| (words.get(2), words.get(4)) == (1, 1) || wait4(child.pid, libc::WNOHANG).0 != 0);
    process::kill(child.pid, libc::SIGKILL.into())?;
    same("status of the first process", child.status()?, expected)?;
    // Nobody has the other end any more.
    same("what is left", alive.read(&mut [0; 8])?, 0)
}

fn nested(context: &mut Context) -> Result<()> {
    new(context)?;
    let ready = Region::shared(1)?;
    let mutate = context.mutate();
    let outer = fork(|| {
        namespaces::new(libc::CLONE_NEWPID)?;
        let inner = fork(|| {
            signal::count(libc::SIGUSR1, 0, 0)?;
            let deepest = fork(|| {
                let before = all_ids()?;
                same("pid, tid, ppid", before[..3].to_vec(), [2, 2, 1].to_vec())?;
                ready.set(0, 1);
                context.wait()?;
                wait_until(|| ready.get(1) == 1);
                same("the numbers of the deepest", all_ids()?, before)?;
                process::kill(1, libc::SIGUSR1.into()).map(drop)
            })?;
            wait_until(|| ready.get(0) == 1);
            ready.set(0, 2);
            context.wait()?;
            wait_until(|| ready.get(1) == 1);
            deepest.join("deepest")?;
            same("signals", signal::counted(libc::SIGUSR1), if mutate { 2 } else { 1 })
        })?;
        same("its number around", inner.pid, 2)?;
        wait_until(|| ready.get(0) == 2);
        ready.set(0, 3);
        context.wait()?;
        inner.join("inner")
    })?;
    wait_until(|| ready.get(0) == 3);
    let deepest = || -> Result<Vec<i64>> {
        let all = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i64>().ok());
        let mut found: Vec<_> = all
            .filter_map(|pid| numbers_of(pid).ok())
            .filter(|list| list.len() == 3)
            .collect();
        found.sort();
        Ok(found.concat())
    };
    let before = deepest()?;
    context.failover(|| Ok(()))?;
    let found = deepest();
    ready.set(1, 1);
    same("all numbers", found?, before)?;
    outer.join("outer")
}

fn entered(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let ready = Region::shared(1)?;
    new(context)?;
    let first = fork(|| {
        context.wait()?;
        wait_until(|| ready.get(1) == 1);
        Ok(())
    })?;
    let second = fork(|| context.wait())?;
    // No child may have such a file.
    let enter_that_of = |process: &str| enter(&File::open(format!("/proc/{process}/ns/pid"))?, libc::CLONE_NEWPID);
    enter_that_of("self")?;
    let outside = fork(|| context.wait())?;
    // Not the first, and of a parent who is not in it.
    enter_that_of(&first.pid.to_string())?;
    let mutate = context.mutate();
    let third = fork(|| {
        let before = all_ids()?;
        same("pid, tid, ppid, pgid, sid", before, [3, 3, 0, 0, 0])?;
        ready.set(0, 1);
        context.wait()?;
        let expected = if mutate { [4, 4, 0, 0, 0] } else { before };
        same("the numbers of who was born inside", all_ids()?, expected)
    })?;
    wait_until(|| ready.get(0) == 1);
    let before = numbers_of(third.pid)?;
    context.failover(|| Ok(()))?;
    same("numbers", before.len(), 2)?;
    let joined = third.join("third");
    second.join("second")?;
    ready.set(1, 1);
    first.join("first process")?;
    outside.join("who is outside")?;
    joined
}

fn numbers(context: &mut Context) -> Result<()> {
    new(context)?;
    let ready = Region::shared(1)?;
    let mutate = context.mutate();
    let child = fork(|| {
        let zombie = fork(|| process::exit_now(33))?;
        wait_until(|| {
            process::status_field(find(zombie.pid).unwrap_or(0), "State").is_ok_and(|state| state.starts_with('Z'))
        });
        let worker = fork(|| {
            let (reader, _writer) = std::io::pipe()?;
            file::fcntl(&reader, libc::F_SETOWN, process::getpid()?)?;
            let blocked = signal::bit(libc::SIGUSR1) | signal::bit(libc::SIGUSR2);
            signal::mask(libc::SIG_BLOCK, blocked)?;
            process::kill(process::getpid()?, libc::SIGUSR1.into())?;
            process::tgkill(process::getpid()?, process::gettid()?, libc::SIGUSR2.into())?;
            let hour = 3_600_000_000_000;
            let timer = Timer::new(
                libc::CLOCK_MONOTONIC,
                libc::SIGEV_THREAD_ID,
                libc::SIGUSR1,
                7,
                process::gettid()? as i32,
            )?;
            timer.set(0, hour, 0)?;
            let owner = || file::fcntl(&reader, libc::F_GETOWN, 0);
            same("the owner", owner()?, 3)?;
            if mutate {
                file::fcntl(&reader, libc::F_SETOWN, 1)?;
            }
            ready.set(0, 1);
            context.wait()?;
            same("the owner", owner()?, 3)?;
            for signal in [libc::SIGUSR1, libc::SIGUSR2] {
                let (errno, info) = signal::wait_for(signal::bit(signal), Some(0));
                let found = (errno, info.signal, info.pid);
                same("a signal that waited, and from whom", found, (0, signal, 3))?;
            }
            timer.set(0, 1_000_000, 0)?;
            let (errno, info) = signal::wait_for(signal::bit(libc::SIGUSR1), Some(5_000_000_000));
            same("the signal of the timer", (errno, info.signal), (0, libc::SIGUSR1))
        })?;
        wait_until(|| ready.get(0) == 1);
        ready.set(0, 2);
        context.wait()?;
        let (pid, errno, status) = wait4(zombie.pid, libc::WNOHANG);
        same("the zombie", (pid, errno, status), (2, 0, 33 << 8))?;
        worker.join("worker")
    })?;
    wait_until(|| ready.get(0) == 2);
    context.failover(|| Ok(()))?;
    child.join("first process")
}

/// Processes that a `proc` shows.
fn shown(proc: &Path) -> Result<Vec<i64>> {
    let names = fs::read_dir(proc)?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut shown: Vec<i64> = names.collect();
    shown.sort_unstable();
    Ok(shown)
}

fn proc(context: &mut Context) -> Result<()> {
    /// `MS_BIND`, `MS_REMOUNT`, `MS_RDONLY` and `MS_PRIVATE` with `MS_REC`.
    const BIND: u64 = 4096;
    const REMOUNT: u64 = 32;
    const READ_ONLY: u64 = 1;
    const PRIVATE: u64 = 1 << 18 | 1 << 14;
    new(context)?;
    let ready = Region::shared(1)?;
    let mutate = context.mutate();
    let (alive, mut told) = UnixStream::pair()?;
    let child = fork(|| {
        new_namespace()?;
        mount_as(c"none", Path::new("none"), Path::new("/"), PRIVATE, "")?;
        let at = Path::new("/proc");
        mount_as(c"proc", Path::new("proc"), at, 0, "")?;
        let setting = Path::new("/proc/sys/kernel");
        mount_as(c"none", setting, setting, BIND, "")?;
        mount_as(c"none", Path::new("none"), setting, BIND | REMOUNT | READ_ONLY, "")?;
        let second = fork(|| {
            let own = |wanted: &str| same("itself", fs::read_link("/proc/self")?.as_path(), Path::new(wanted));
            own("2")?;
            ready.set(0, 1);
            context.wait()?;
            own(if mutate { "1" } else { "2" })?;
            write_all(&alive, b"x")
        })?;
        wait_until(|| ready.get(0) == 1);
        same("who is shown", shown(at)?, [1, 2].to_vec())?;
        let mounts = || -> Result<Vec<String>> {
            let all = fs::read_to_string("/proc/self/mounts")?;
            let mut of_proc: Vec<String> = all
                .lines()
                .filter(|line| line.contains(" /proc"))
                .map(str::to_owned)
                .collect();
            of_proc.sort();
            Ok(of_proc)
        };
        let before = mounts()?;
        ready.set(0, 2);
        context.wait()?;
        same("mounts", mounts()?, before)?;
        second.join("second")?;
        same("who is shown", shown(at)?, [1].to_vec())?;
        ensure!(fs::write(LAST, "300").is_err(), "a setting can be written");
        Ok(())
    })?;
    wait_until(|| ready.get(0) == 2);
    context.failover(|| Ok(()))?;
    child.join("first process")?;
    same("what was told", told.read(&mut [0; 8])?, 1)
}
