//! Pseudo terminals: settings, data in both directions, sessions.

use crate::cell::{same, write_all, Cell, Context};
use crate::sys::process::{self, fork, Child};
use crate::sys::{file, signal, terminal};
use anyhow::{ensure, Result};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "pty/settings",
        what: "number, owner, settings, window size, lock, packets and exclusiveness of a pseudo terminal",
        covers: &[
            "OpenFileKind.PtyMaster",
            "OpenFileKind.PtySlave",
            "PseudoTerminal.index",
            "PseudoTerminal.owner",
            "PseudoTerminal.termios",
            "PseudoTerminal.window",
            "PseudoTerminal.locked",
            "PseudoTerminal.packets",
            "PseudoTerminal.exclusive",
            "Termios.flags",
            "Termios.line",
            "Termios.characters",
            "Termios.speeds",
        ],
        caught: None,
        run: settings,
    },
    Cell {
        name: "pty/lines",
        what: "lines that nobody has read: ends by newline, by another character, by an end of file; a literal newline; one that is not complete",
        covers: &["PseudoTerminal.input", "PseudoTerminal.ends", "PseudoTerminal.literal"],
        caught: None,
        run: lines,
    },
    Cell {
        name: "pty/typed",
        what: "6000 bytes written to the master of a raw terminal: what its line discipline has, and what it has not seen",
        covers: &["PseudoTerminal.input", "PseudoTerminal.typed"],
        caught: None,
        run: typed,
    },
    Cell {
        name: "pty/output",
        what: "6000 bytes of a slave that the master has not read, and the column of the next",
        covers: &["PseudoTerminal.output", "PseudoTerminal.column"],
        caught: None,
        run: output,
    },
    Cell {
        name: "pty/stopped",
        what: "output that was stopped by a character, and by a call",
        covers: &["PseudoTerminal.stopped"],
        caught: None,
        run: stopped,
    },
    Cell {
        name: "pty/ends",
        what: "a slave that nobody has opened, one that is closed, one whose master is closed",
        covers: &["PseudoTerminal.slave", "SlaveState.New", "SlaveState.Open", "SlaveState.Closed"],
        caught: None,
        run: ends,
    },
    Cell {
        name: "pty/session",
        what: "a session with a controlling terminal, another group in the foreground, /dev/tty: who gets the signals that are typed",
        covers: &["Process.tty", "Process.foreground", "OpenFileKind.PtySlave"],
        caught: None,
        run: session,
    },
    Cell {
        name: "pty/read",
        what: "a read of the slave, and one of the master: what is written afterwards",
        covers: &["PseudoTerminal.slave"],
        caught: Some("read"),
        run: read,
    },
    Cell {
        name: "pty/read-several",
        what: "reads that wait for ten characters and have none, or four, of them, one of them behind others that were read before; one that waits no longer than 25 s for the first",
        covers: &["PseudoTerminal.input"],
        caught: Some("read"),
        run: read_several,
    },
    Cell {
        name: "pty/write",
        what: "writes of slaves that wait for room, one whose newlines become two characters: every byte comes once",
        covers: &["PseudoTerminal.slave", "Resume.Registers"],
        caught: Some("write"),
        run: write,
    },
];

/// Local flags (include/uapi/asm-generic/termbits.h).
const ECHO: u32 = 8;
const NOFLSH: u32 = 0o200;
const TOSTOP: u32 = 0o400;
/// Places of control characters.
const VEOL: usize = 11;
const VMIN: usize = 6;
const VTIME: usize = 5;

/// A pair, the slave without echo.
fn pair(flags: i32) -> Result<(File, File)> {
    let (master, number) = terminal::master(flags)?;
    let slave = terminal::slave(number, flags)?;
    terminal::change(&slave, 3, 0, ECHO)?;
    Ok((master, slave))
}

/// Waits until bytes are there to be read.
fn await_input(fd: &File) -> Result<()> {
    let answer = file::poll(fd, libc::POLLIN, 5000);
    ensure!(answer.0 == 1, "nothing to read: {answer:?}");
    Ok(())
}

/// Reads a line, or as much as there is.
fn line(fd: &File) -> Vec<u8> {
    let mut buffer = vec![0; 8192];
    let (count, errno) = file::read_once(fd, &mut buffer);
    buffer.truncate(usize::try_from(count).unwrap_or(0));
    if errno != 0 {
        buffer = format!("errno {errno}").into_bytes();
    }
    buffer
}

/// Reads so many bytes.
fn bytes(fd: &File, count: usize) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while all.len() < count {
        await_input(fd)?;
        let part = line(fd);
        ensure!(
            !part.is_empty() && !part.starts_with(b"errno"),
            "after {} bytes: {part:?}",
            all.len()
        );
        all.extend(part);
    }
    Ok(all)
}

fn settings(context: &mut Context) -> Result<()> {
    let (master, number) = terminal::master(0)?;
    let slave = terminal::slave(number, libc::O_NONBLOCK)?;
    terminal::change(&slave, 0, 0o1, 0o400)?;
    terminal::change(&slave, 1, 0o10, 0)?;
    terminal::change(&slave, 3, NOFLSH | TOSTOP, ECHO)?;
    terminal::set_character(&slave, VEOL, b'|')?;
    terminal::set_window(&slave, [51, 132, 7, 9])?;
    let path = format!("/dev/pts/{number}");
    if process::ids(false)?[1] == 0 {
        std::os::unix::fs::chown(&path, Some(1234), Some(5))?;
    }
    terminal::exclusive(&slave)?;
    terminal::packets(&master)?;
    terminal::lock(&master)?;
    let look = || -> Result<_> {
        let name = Path::new(&path).metadata()?;
        let name = [name.rdev(), name.uid().into(), name.gid().into(), name.mode().into()];
        let modes = terminal::modes(&master, &slave)?;
        let flags = [&master, &slave].map(|fd| file::fcntl(fd, libc::F_GETFL, 0).unwrap_or(-1));
        Ok((
            terminal::settings(&slave)?.to_vec(),
            terminal::window(&slave)?,
            name,
            modes,
            flags,
        ))
    };
    let before = look()?;
    same("modes", before.3, [1, 1, 1])?;
    context.failover(|| terminal::set_character(&slave, VEOL, b'/'))?;
    same("everything", look()?, before)
}

fn lines(context: &mut Context) -> Result<()> {
    let (master, slave) = pair(libc::O_NONBLOCK)?;
    terminal::set_character(&slave, VEOL, b'|')?;
    // What follows a ^V is taken literally.
    write_all(&master, b"one\ntwo|a\x16\nb\n\x04last\x04not yet\x16")?;
    await_input(&slave)?;
    context.failover(|| write_all(&master, b"\x15"))?;
    for wanted in [&b"one\n"[..], b"two|", b"a\nb\n", b"", b"last", b"errno 11"] {
        same(
            "line",
            String::from_utf8_lossy(&line(&slave)),
            String::from_utf8_lossy(wanted),
        )?;
    }
    // The ^C after the ^V is a character like others.
    write_all(&master, b"\x03 but now\n")?;
    await_input(&slave)?;
    same("the last line", line(&slave), b"not yet\x03 but now\n".to_vec())
}

/// Bytes that are not like any others nearby.
fn pattern(count: u32) -> Vec<u8> {
    (0..count)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 16) as u8)
        .collect()
}

fn typed(context: &mut Context) -> Result<()> {
    let (master, slave) = pair(libc::O_NONBLOCK)?;
    terminal::make_raw(&slave)?;
    terminal::set_character(&slave, VMIN, 1)?;
    let all = pattern(6000);
    write_all(&master, &all)?;
    await_input(&slave)?;
    context.failover(|| write_all(&master, b"x"))?;
    write_all(&master, b"afterwards")?;
    ensure!(
        bytes(&slave, 6010)? == [all, b"afterwards".to_vec()].concat(),
        "the bytes differ"
    );
    same("what is left", line(&slave), b"errno 11".to_vec())
}

fn output(context: &mut Context) -> Result<()> {
    let (master, slave) = pair(libc::O_NONBLOCK)?;
    // Tabs become spaces (XTABS).
    terminal::change(&slave, 1, 0o14000, 0)?;
    let all: Vec<u8> = pattern(5990).iter().map(|byte| b'a' + byte % 26).collect();
    write_all(&slave, &all)?;
    write_all(&slave, b"\r123456789\t")?;
    await_input(&master)?;
    context.failover(|| write_all(&slave, b"x"))?;
    write_all(&slave, b".\t.")?;
    let expected = [&all[..], b"\r123456789       .       ."].concat();
    ensure!(bytes(&master, expected.len())? == expected, "the bytes differ");
    same("what is left", line(&master), b"errno 11".to_vec())
}

/// Expects that a slave's output is stopped. The line discipline has seen what was typed when the slave was looked at.
fn expect_stopped(slave: &File) -> Result<()> {
    file::poll(slave, libc::POLLIN, 0);
    same(
        "writing while stopped",
        file::write_once(slave, b"x"),
        (-1, libc::EAGAIN),
    )
}

fn stopped(context: &mut Context) -> Result<()> {
    let by_character = pair(libc::O_NONBLOCK)?;
    let by_call = pair(libc::O_NONBLOCK)?;
    let (character, call) = (&by_character.1, &by_call.1);
    write_all(&by_character.0, b"\x13")?;
    terminal::flow(call, libc::TCOOFF)?;
    expect_stopped(character)?;
    expect_stopped(call)?;
    context.failover(|| write_all(&by_character.0, b"\x11"))?;
    expect_stopped(character)?;
    write_all(&by_character.0, b"\x11")?;
    write_all(&by_call.0, b"\x11")?;
    // A character does not undo a call.
    expect_stopped(call)?;
    terminal::flow(call, libc::TCOON)?;
    file::poll(character, libc::POLLIN, 0);
    for ((master, slave), text) in [(&by_character, b"y"), (&by_call, b"z")] {
        same("writing again", file::write_once(slave, text), (1, 0))?;
        same("output", bytes(master, 1)?, text.to_vec())?;
    }
    Ok(())
}

fn ends(context: &mut Context) -> Result<()> {
    let (new, number) = terminal::master(libc::O_NONBLOCK)?;
    let closed = pair(libc::O_NONBLOCK)?;
    write_all(&closed.1, b"last words")?;
    drop(closed.1);
    let (master, hung_up) = pair(libc::O_NONBLOCK)?;
    drop(master);
    context.failover(|| terminal::slave(number, 0).map(drop))?;
    same("a slave that nobody has opened", line(&new), b"errno 11".to_vec())?;
    same("what a slave wrote", line(&closed.0), b"last words".to_vec())?;
    same("its end", line(&closed.0), b"errno 5".to_vec())?;
    same("a slave whose master is closed", line(&hung_up), Vec::new())?;
    same("writing to it", file::write_once(&hung_up, b"x"), (-1, libc::EIO))?;
    let slave = terminal::slave(number, libc::O_NONBLOCK)?;
    write_all(&slave, b"first words")?;
    await_input(&new)?;
    same("what it writes", line(&new), b"first words".to_vec())
}

/// A child in a group of its own that waits for a signal and expects it.
fn waits_for(context: &Context, number: i32, controlling: &File) -> Result<Child> {
    let child = fork(|| {
        process::setpgid(0, 0)?;
        let (errno, info) = signal::wait_for(signal::bit(number), None);
        context.expect_failover("waiting for a signal")?;
        same("errno and signal", (errno, info.signal), (0, number))
    })?;
    // Whoever comes first.
    let _ = process::setpgid(child.pid, child.pid);
    terminal::set_foreground(controlling, child.pid as i32)?;
    Ok(child)
}

fn session(context: &mut Context) -> Result<()> {
    let (master, slave) = pair(0)?;
    signal::mask(libc::SIG_BLOCK, signal::bit(libc::SIGINT) | signal::bit(libc::SIGTTOU))?;
    let leader = fork(|| {
        process::setsid()?;
        terminal::control(&slave)?;
        let own = file::open(Path::new("/dev/tty"), true, libc::O_NONBLOCK)?;
        let child = waits_for(context, libc::SIGINT, &own)?;
        let before = terminal::foreground(&own);
        let device = own.metadata()?.rdev();
        context.wait()?;
        same("foreground group and session", terminal::foreground(&own), before)?;
        same("device", own.metadata()?.rdev(), device)?;
        ensure!(before == [child.pid as i32, process::getpid()? as i32], "{before:?}");
        same(
            "again by its name",
            terminal::foreground(&file::open(Path::new("/dev/tty"), true, 0)?),
            before,
        )?;
        write_all(&own, b"ready\n")?;
        child.join("the group in the foreground")?;
        let pending = signal::pending()?;
        ensure!(
            pending & signal::bit(libc::SIGINT) == 0,
            "the leader got the signal too"
        );
        Ok(())
    })?;
    while terminal::foreground(&master)[0] <= leader.pid as i32 {
        std::thread::sleep(Duration::from_millis(10));
    }
    context.failover(|| {
        write_all(&master, b"\x03")?;
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    })?;
    same("what the leader writes", bytes(&master, 7)?, b"ready\r\n".to_vec())?;
    write_all(&master, b"\x03")?;
    leader.join("the leader of the session")
}

fn read(context: &mut Context) -> Result<()> {
    let (master, slave) = pair(0)?;
    let of_slave = fork(|| {
        let found = line(&slave);
        context.expect_failover("read of the slave")?;
        same("line", found, b"to the slave\n".to_vec())
    })?;
    let (other_master, other_slave) = pair(0)?;
    let of_master = fork(|| {
        let found = line(&other_master);
        context.expect_failover("read of the master")?;
        same("output", found, b"to the master".to_vec())
    })?;
    context.failover(|| {
        write_all(&master, b"too early\n")?;
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    })?;
    write_all(&master, b"to the slave\n")?;
    write_all(&other_slave, b"to the master")?;
    of_slave.join("reader of the slave")?;
    of_master.join("reader of the master")
}

fn read_several(context: &mut Context) -> Result<()> {
    /// What VTIME says below, in tenths of a second.
    const LONGEST: Duration = Duration::from_secs(25);
    /// How long a reader may take to see what there is.
    const PATIENCE: Duration = Duration::from_secs(10);
    /// Settings are those of a raw terminal.
    fn several(minimum: u8, time: u8) -> Result<(File, File)> {
        let (master, slave) = pair(0)?;
        terminal::make_raw(&slave)?;
        terminal::set_character(&slave, VMIN, minimum)?;
        terminal::set_character(&slave, VTIME, time)?;
        Ok((master, slave))
    }
    let waits = |slave: &File, wanted: &'static [u8]| {
        fork(|| {
            let mut found = line(slave);
            context.expect_failover("read")?;
            // The freezer of an update ends the call as a signal would, with the four that it has.
            if found.len() == 4 {
                terminal::set_character(slave, VMIN, 1)?;
                found.extend(bytes(slave, wanted.len() - 4)?);
            }
            same("characters", found, wanted.to_vec())
        })
    };
    let none = several(10, 0)?;
    let four = several(10, 0)?;
    let later = several(10, 0)?;
    let timed = several(0, 250)?;
    write_all(&later.0, b"0123456789")?;
    same("before", line(&later.1), b"0123456789".to_vec())?;
    let readers = [
        waits(&none.1, b"0123456789")?,
        waits(&four.1, b"abcdefghij")?,
        waits(&later.1, b"ABCDEFGHIJ")?,
        fork(|| {
            let begun = Instant::now();
            let found = line(&timed.1);
            // A slow machine takes longer than a reader can be told to wait.
            if found.is_empty() && begun.elapsed() >= LONGEST {
                return Ok(());
            }
            context.expect_failover("read")?;
            same("characters", found, b"x".to_vec())
        })?,
    ];
    write_all(&four.0, b"abcd")?;
    write_all(&later.0, b"ABCD")?;
    // They have them when the line discipline has none.
    let begun = Instant::now();
    for reads in [&four.1, &later.1] {
        while file::readable_bytes(reads)? != 0 {
            ensure!(begun.elapsed() < PATIENCE, "nobody has read them");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    context.failover(|| write_all(&four.0, b"-"))?;
    write_all(&none.0, b"0123456789")?;
    write_all(&four.0, b"efghij")?;
    write_all(&later.0, b"EFGHIJ")?;
    write_all(&timed.0, b"x")?;
    readers.into_iter().try_for_each(|reader| reader.join("reader"))
}

fn write(context: &mut Context) -> Result<()> {
    /// Output flag: what is written is processed (include/uapi/asm-generic/termbits.h).
    const OPOST: u32 = 1;
    let text: String = (0..6000).map(|number| format!("{}\n", number % 100)).collect();
    let (master, slave) = pair(0)?;
    let (raw_master, raw_slave) = pair(0)?;
    terminal::change(&raw_slave, 1, 0, OPOST)?;
    let writer = |slave: &File| {
        fork(|| {
            let (first, errno) = file::write_once(slave, text.as_bytes());
            context.expect_failover("write")?;
            ensure!(first > 0, "write: {first}, error {errno}");
            write_all(slave, &text.as_bytes()[first as usize..])
        })
    };
    let (processed, raw) = (writer(&slave)?, writer(&raw_slave)?);
    context.failover(|| Ok(()))?;
    let end = if context.mutate() { "\n\r" } else { "\r\n" };
    let expected = text.replace('\n', end).into_bytes();
    let found = (bytes(&master, expected.len())?, bytes(&raw_master, text.len())?);
    processed.join("the writer of the processed text")?;
    raw.join("the writer of the raw text")?;
    ensure!(found.0 == expected, "the processed text is another");
    ensure!(found.1 == text.as_bytes(), "the raw text is another");
    Ok(())
}
