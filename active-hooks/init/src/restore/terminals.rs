//! Pseudo terminals, made before anything refers to them, with what nobody has read yet.
//!
//! What lies in a line discipline is put there character by character (`TIOCSTI`), under settings that let each of them
//! become what it was: an end of a line, an end of file, or a plain character. What was written to a master and not looked at
//! comes last, when the foreground group is what it was: the line discipline may find a signal in it.
//!
//! A side that nobody here has is closed in the end, and what the other sees is what it sees when a process ends.

use super::{
    batch::{Arg, Batch, Expect},
    build::Builder,
    world::World,
    OrRefuse, Refusal, Restored,
};
use crate::sys::terminal;
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    fs::{chmod, chown, fcntl_setfl, open, Gid, Mode, OFlags, Uid},
    io::Errno,
};
use shared_region::context::{Id, OpenFile, OpenFileKind, PseudoTerminal, SlaveState, Termios};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

/// Bits of the settings (include/uapi/asm-generic/termbits.h).
const OPOST: u32 = 1;
const ICANON: u32 = 2;
const IEXTEN: u32 = 0o100_000;
const EXTPROC: u32 = 0o200_000;
/// Places of control characters.
const VEOF: usize = 4;
const VSTOP: usize = 9;
const VEOL: usize = 11;
const VLNEXT: usize = 15;
const CHARACTERS: usize = 19;
/// Characters that stand for an end of file, and for "the next one literally", while the input is put back.
const END: u8 = 4;
const LITERALLY: u8 = 22;
/// A column further right is put back as one with the same place between tabs.
const MAX_COLUMN: u32 = 4096;
/// `/dev/tty` (Documentation/admin-guide/devices.txt).
const OF_SESSION: u64 = 5 << 20;
/// How long one side may take to see what was written to the other.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Those that were made.
#[derive(Debug, Default)]
pub struct Terminals {
    made: BTreeMap<Id, Restored<Made>>,
}

#[derive(Debug)]
struct Made {
    index: u32,
    master: OwnedFd,
    /// Flags of the master's open file, if somebody here has it.
    flags: Option<OFlags>,
    /// A slave of the agent's own, unless there never was one.
    slave: Option<OwnedFd>,
}

impl Terminals {
    /// Makes all of them. What goes wrong with one is told when it is asked for.
    pub fn make(&mut self, world: &World<'_>) {
        let mut wanted: BTreeMap<u32, Vec<Id>> = BTreeMap::new();
        for (&id, record) in &world.terminals {
            wanted.entry(record.index).or_default().push(id);
        }
        // The lowest number that is free is the next: those between are held until all are there.
        let mut between = Vec::new();
        let last = wanted.keys().next_back().copied();
        let mut next = 0;
        while last.is_some_and(|last| next <= last) {
            let ids = wanted.remove(&next).unwrap_or_default();
            let opener = ids.first().and_then(|&id| opener(world, id));
            let opened = new_master(opener).and_then(|fd| {
                let number = terminal::number(&fd).or_refuse(|| "number of a pseudo terminal")?;
                Ok((fd, number))
            });
            let (master, number) = match opened {
                Ok(opened) => opened,
                Err(refusal) => {
                    for id in ids.into_iter().chain(wanted.into_values().flatten()) {
                        self.made.insert(id, Err(refusal.clone()));
                    }
                    return;
                }
            };
            if number == next && ids.len() == 1 {
                for &id in &ids {
                    let flags = opener.map(|file| OFlags::from_bits_retain(file.flags));
                    let made = world
                        .terminals
                        .get(&id)
                        .map(|record| make(record, master.as_fd(), flags));
                    self.made.extend(made.map(|made| (id, made)));
                }
            } else {
                let taken = |id| (id, Err(Refusal::new(name(next), "its number is taken")));
                self.made.extend(ids.into_iter().map(taken));
                if number > next {
                    // Somebody has this one; what was opened is another's number, which is free again.
                    drop(master);
                    next += 1;
                    continue;
                }
            }
            between.push(master);
            next += 1;
        }
    }

    fn get(&self, id: Id) -> Restored<&Made> {
        match self.made.get(&id) {
            Some(Ok(made)) => Ok(made),
            Some(Err(refusal)) => Err(refusal.clone()),
            None => Err(Refusal::new("pseudo terminal", "there is no record of it")),
        }
    }

    /// The open file of a master.
    pub fn master(&self, id: Id) -> Restored<OwnedFd> {
        let made = self.get(id)?;
        made.master.try_clone().or_refuse(|| name(made.index))
    }

    /// An open file of a slave, opened by the device `rdev`.
    pub fn slave(&self, id: Id, rdev: u64, flags: OFlags) -> Restored<OwnedFd> {
        let made = self.get(id)?;
        let what = || name(made.index);
        match &made.slave {
            Some(slave) if rdev == OF_SESSION => {
                let flags = flags - OFlags::CLOEXEC - OFlags::NOCTTY;
                terminal::by_its_session(slave, flags.bits() as i32).or_refuse(|| "/dev/tty")
            }
            _ => open(
                name(made.index),
                flags | OFlags::NOCTTY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .or_refuse(what),
        }
    }

    /// Whatever has to wait until every process has its terminal: input that was not looked at, and what keeps others out.
    /// Returns those with which it went wrong.
    pub fn complete(&self, world: &World<'_>) -> Vec<(Id, Refusal)> {
        let complete = |(&id, made): (&Id, &Restored<Made>)| {
            let (Ok(made), Some(record)) = (made, world.terminals.get(&id)) else {
                return None;
            };
            complete(made, record).err().map(|refusal| (id, refusal))
        };
        self.made.iter().filter_map(complete).collect()
    }
}

/// Completes all of them. Who has one with which it goes wrong is refused.
pub fn complete_all(builder: &mut Builder<'_>) {
    for (terminal, refusal) in builder.objects.terminals.complete(builder.world) {
        let is_it = |_, file: &OpenFile| match file.what {
            OpenFileKind::PtyMaster { terminal: id } | OpenFileKind::PtySlave { terminal: id, .. } => id == terminal,
            _ => false,
        };
        builder.refuse_holders(is_it, &refusal);
    }
}

fn name(index: u32) -> String {
    format!("/dev/pts/{index}")
}

/// The open file of a terminal's master.
fn opener<'w>(world: &'w World<'_>, terminal: Id) -> Option<&'w OpenFile> {
    let is_it = |file: &&OpenFile| file.what == OpenFileKind::PtyMaster { terminal };
    world.files.values().find(is_it)
}

/// A new master, opened as `opener` was.
fn new_master(opener: Option<&OpenFile>) -> Restored<OwnedFd> {
    let path = opener.map_or(b"/dev/ptmx".as_slice(), |file| &file.path);
    let flags = opener.map_or(OFlags::RDWR, |file| {
        OFlags::from_bits_retain(file.flags) & OFlags::RWMODE
    });
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let what = || String::from_utf8_lossy(path).into_owned();
    open(OsStr::from_bytes(path), flags, Mode::empty()).or_refuse(what)
}

fn make(record: &PseudoTerminal, master: std::os::fd::BorrowedFd<'_>, flags: Option<OFlags>) -> Restored<Made> {
    let what = || name(record.index);
    let wrap = |refusal: Refusal| Refusal::new(what(), refusal);
    let mut made = Made {
        index: record.index,
        master: master.try_clone_to_owned().or_refuse(what)?,
        flags,
        slave: None,
    };
    terminal::lock(master, false).or_refuse(what)?;
    if record.slave != SlaveState::New {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = open(name(record.index), flags, Mode::empty()).or_refuse(what)?;
        if !record.termios.characters.is_empty() {
            fill(record, &slave, master).map_err(wrap)?;
        }
        made.slave = Some(slave);
    } else if !record.input.is_empty() || !record.output.is_empty() || record.column != 0 || record.literal {
        return Err(Refusal::new(what(), "it has input, and nobody has opened it"));
    }
    if record.termios.characters.is_empty() {
        return Ok(made);
    }
    // A master's settings are its slave's.
    terminal::set_settings(master, &settings(&record.termios)?).or_refuse(what)?;
    terminal::set_window(master, record.window).or_refuse(what)?;
    let (uid, gid, mode) = record.owner;
    chown(name(record.index), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).or_refuse(what)?;
    chmod(name(record.index), Mode::from_raw_mode(mode)).or_refuse(what)?;
    Ok(made)
}

/// Puts back what was on its way in either direction.
fn fill(record: &PseudoTerminal, slave: &OwnedFd, master: std::os::fd::BorrowedFd<'_>) -> Restored<()> {
    let column = match record.column {
        column if column > MAX_COLUMN => MAX_COLUMN + column % 8,
        column => column,
    };
    let quiet = Quiet::of(&record.termios);
    if column != 0 {
        quiet.set(slave, |settings| settings.flags[1] = OPOST)?;
        let spaces = vec![b' '; column as usize];
        write(slave, &spaces).or_refuse(|| "its column")?;
        drain(master, spaces.len()).or_refuse(|| "its column")?;
    }
    quiet.set(slave, |_| {})?;
    write(slave, &record.output).or_refuse(|| "its output")?;
    for step in steps(record) {
        step.take(slave, &quiet)?;
    }
    Ok(())
}

/// A character, and how it is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// As it is.
    Plain(u8),
    /// As it is, whatever it usually does.
    Literal(u8),
    /// As an end of file.
    EndOfFile,
    /// As the end of a line.
    EndOfLine(u8),
    /// Not at all: the next one is literal.
    Prefix,
}

/// How the input of a line discipline comes about.
fn steps(record: &PseudoTerminal) -> Vec<Step> {
    let ends: BTreeSet<u32> = record.ends.iter().copied().collect();
    let lines = record.termios.flags[3] & (ICANON | EXTPROC) == ICANON;
    let step = |(at, &byte): (usize, &u8)| match (byte, ends.contains(&(at as u32))) {
        _ if !lines => Step::Plain(byte),
        (b'\n', true) => Step::Plain(byte),
        (0, true) => Step::EndOfFile,
        (_, true) => Step::EndOfLine(byte),
        (b'\n', false) => Step::Literal(byte),
        (_, false) => Step::Plain(byte),
    };
    let mut steps: Vec<Step> = record.input.iter().enumerate().map(step).collect();
    steps.extend(record.literal.then_some(Step::Prefix));
    steps
}

impl Step {
    fn take(self, slave: &OwnedFd, quiet: &Quiet) -> Restored<()> {
        let insert = |byte| terminal::insert(slave, byte).or_refuse(|| "its input");
        let literally = |settings: &mut Termios| {
            settings.flags[3] |= IEXTEN;
            settings.characters[VLNEXT] = LITERALLY;
        };
        match self {
            Self::Plain(byte) => return insert(byte),
            Self::Literal(byte) => {
                quiet.set(slave, literally)?;
                insert(LITERALLY)?;
                insert(byte)?;
            }
            Self::EndOfFile => {
                quiet.set(slave, |settings| settings.characters[VEOF] = END)?;
                insert(END)?;
            }
            Self::EndOfLine(byte) => {
                quiet.set(slave, |settings| settings.characters[VEOL] = byte)?;
                insert(byte)?;
            }
            Self::Prefix => {
                quiet.set(slave, literally)?;
                insert(LITERALLY)?;
            }
        }
        quiet.set(slave, |_| {})
    }
}

/// Settings under which nothing happens to a character, and nothing is shown. The line discipline begins anew when it is to
/// read by lines or not to: that is as it will be.
struct Quiet(Termios);

impl Quiet {
    fn of(termios: &Termios) -> Self {
        let flags = [0, 0, termios.flags[2], termios.flags[3] & (ICANON | EXTPROC)];
        Self(Termios {
            flags,
            characters: vec![0; CHARACTERS],
            ..termios.clone()
        })
    }

    fn set(&self, slave: &OwnedFd, change: impl FnOnce(&mut Termios)) -> Restored<()> {
        let mut termios = self.0.clone();
        change(&mut termios);
        terminal::set_settings(slave, &settings(&termios)?).or_refuse(|| "its settings")
    }
}

/// `struct termios2`.
fn settings(termios: &Termios) -> Restored<[u8; terminal::SETTINGS]> {
    if termios.characters.len() != CHARACTERS {
        return Err(Refusal::new("its settings", "another number of control characters"));
    }
    let mut bytes = Vec::with_capacity(terminal::SETTINGS);
    bytes.extend(termios.flags.iter().flat_map(|word| word.to_le_bytes()));
    bytes.push(termios.line);
    bytes.extend(&termios.characters);
    bytes.extend(termios.speeds.iter().flat_map(|word| word.to_le_bytes()));
    bytes
        .try_into()
        .map_err(|_| Refusal::new("its settings", "another size"))
}

/// Writes to one side, as the other takes it.
fn write(fd: impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::AGAIN) => wait(&fd, PollFlags::OUT)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads so many bytes, and forgets them.
fn drain(fd: impl AsFd, mut count: usize) -> rustix::io::Result<()> {
    let mut buffer = [0; 256];
    while count != 0 {
        let room = count.min(buffer.len());
        match rustix::io::read(&fd, &mut buffer[..room]) {
            Ok(0) => return Err(Errno::IO),
            Ok(read) => count -= read,
            Err(Errno::AGAIN) => wait(&fd, PollFlags::IN)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait(fd: &impl AsFd, for_what: PollFlags) -> rustix::io::Result<()> {
    match poll(&mut [PollFd::new(fd, for_what)], Some(&PATIENCE))? {
        0 => Err(Errno::TIMEDOUT),
        _ => Ok(()),
    }
}

fn complete(made: &Made, record: &PseudoTerminal) -> Restored<()> {
    let what = || name(record.index);
    write(&made.master, &record.typed).or_refuse(what)?;
    if let Some(slave) = &made.slave {
        match record.stopped {
            (_, true) => terminal::stop(slave).or_refuse(what)?,
            (true, false) => {
                let stop = record.termios.characters.get(VSTOP).copied().unwrap_or(0);
                terminal::insert(slave, stop).or_refuse(what)?;
            }
            (false, false) => {}
        }
        if record.exclusive.1 {
            terminal::exclusive(slave).or_refuse(what)?;
        }
    }
    if record.exclusive.0 {
        terminal::exclusive(&made.master).or_refuse(what)?;
    }
    if record.packets {
        terminal::packets(&made.master).or_refuse(what)?;
    }
    terminal::lock(&made.master, record.locked).or_refuse(what)?;
    if let Some(flags) = made.flags {
        fcntl_setfl(&made.master, flags & (OFlags::NONBLOCK | OFlags::APPEND)).or_refuse(what)?;
    }
    Ok(())
}

/// Puts the foreground groups of terminals there, in the leaders of the sessions. Every process has to be in its group.
pub fn foregrounds(builder: &mut Builder<'_>) {
    let ids: Vec<u32> = builder.built.keys().copied().collect();
    for id in ids {
        let Some(process) = builder.world.processes.get(&id).map(|member| &member.record) else {
            continue;
        };
        let group = process.foreground;
        if process.sid != id || process.tty.is_empty() || group == 0 || group == id {
            continue;
        }
        let in_group = |other: &u32| {
            let member = builder.world.processes.get(other);
            member.is_some_and(|member| member.record.pgid == group)
        };
        let is_there = builder.built.keys().any(in_group);
        let Some(built) = builder.built.get_mut(&id) else {
            continue;
        };
        if !is_there {
            built.remarks.push(format!(
                "foreground group {group} is gone: its session's leader is in the foreground"
            ));
            continue;
        }
        let free = lowest_free(builder.world, process.files);
        let set = built
            .leader()
            .and_then(|leader| foreground(Batch::new(&mut builder.arena, leader), free, group));
        if let Err(refusal) = set {
            builder.refuse(id, refusal);
        }
    }
}

fn foreground(mut batch: Batch<'_>, free: u32, group: u32) -> Restored<()> {
    let what = || format!("foreground group {group}");
    let opened = Expect::Value(free.into());
    let (path, flags) = (Arg::Bytes(b"/dev/tty\0"), libc::O_RDWR | libc::O_CLOEXEC);
    batch.expect(
        what(),
        libc::SYS_openat,
        [libc::AT_FDCWD.into(), path, flags.into()],
        opened,
    )?;
    let group = Arg::Bytes(&group.to_le_bytes());
    batch.call(what(), libc::SYS_ioctl, [free.into(), libc::TIOCSPGRP.into(), group])?;
    batch.call(what(), libc::SYS_close, [free.into()])?;
    batch.finish()
}

/// The number that the next file of a table gets.
fn lowest_free(world: &World<'_>, table: Id) -> u32 {
    let used: BTreeSet<u32> = world
        .tables
        .get(&table)
        .into_iter()
        .flat_map(|table| table.descriptors.iter().map(|&(fd, ..)| fd))
        .collect();
    (0..).find(|fd| !used.contains(fd)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn settings_of(fd: impl AsFd) -> Termios {
        let bytes = terminal::settings(fd).expect("settings");
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Termios {
            flags: [word(0), word(4), word(8), word(12)],
            line: bytes[16],
            characters: bytes[17..36].to_vec(),
            speeds: [word(36), word(40)],
        }
    }

    #[test]
    fn each_character_comes_about_as_what_it_was() {
        let record = PseudoTerminal {
            input: b"a\n|\0\nb".to_vec(),
            ends: vec![1, 2, 3],
            literal: true,
            termios: Termios {
                flags: [0, 0, 0, ICANON],
                ..Termios::default()
            },
            ..PseudoTerminal::default()
        };
        let lines = [
            Step::Plain(b'a'),
            Step::Plain(b'\n'),
            Step::EndOfLine(b'|'),
            Step::EndOfFile,
            Step::Literal(b'\n'),
            Step::Plain(b'b'),
            Step::Prefix,
        ];
        assert_eq!(steps(&record), lines);
        let mut raw = record;
        raw.termios.flags[3] = 0;
        raw.literal = false;
        assert!(steps(&raw).iter().all(|step| matches!(step, Step::Plain(_))));
    }

    #[test]
    fn settings_have_the_size_that_the_kernel_reads() {
        let mut termios = Termios {
            characters: vec![7; CHARACTERS],
            speeds: [1, 2],
            ..Termios::default()
        };
        let bytes = settings(&termios).unwrap();
        assert_eq!((bytes[16], bytes[17], bytes[35], bytes[36], bytes[40]), (0, 7, 7, 1, 2));
        termios.characters.pop();
        assert!(settings(&termios).is_err());
    }

    /// On a pseudo terminal of the machine that runs the test; putting input back takes root.
    #[test]
    fn what_lay_in_a_terminal_is_read_from_the_new_one() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let probe = new_master(None).expect("a master");
        let index = terminal::number(&probe).expect("its number");
        let default = settings_of(&probe);
        drop(probe);
        let id = 77;
        let record = PseudoTerminal {
            index,
            slave: SlaveState::Closed,
            owner: (0, 0, 0o620),
            termios: default.clone(),
            window: [33, 44, 5, 6],
            column: 9,
            input: b"one\nlast|rest".to_vec(),
            ends: vec![3, 8],
            typed: b" typed\n".to_vec(),
            output: b"output".to_vec(),
            ..PseudoTerminal::default()
        };
        let mut world = World::default();
        world.terminals.insert(id, record.clone());
        let mut terminals = Terminals::default();
        terminals.make(&world);
        let mut master = std::fs::File::from(terminals.master(id).expect("the master"));
        let mut slave = std::fs::File::from(terminals.slave(id, 0, OFlags::RDWR).expect("a slave"));
        assert!(terminals.complete(&world).is_empty());
        assert_eq!(settings_of(&slave), default);
        let mut buffer = [0; 100];
        let mut read = |file: &mut std::fs::File| {
            let count = file.read(&mut buffer).expect("something to read");
            String::from_utf8_lossy(&buffer[..count]).into_owned()
        };
        assert_eq!(read(&mut slave), "one\n");
        assert_eq!(read(&mut slave), "last|");
        assert_eq!(read(&mut slave), "rest typed\n");
        // What was typed is shown after what was written before.
        let mut shown = String::new();
        while shown.len() < "output typed\r\n".len() {
            wait(&master, PollFlags::IN).expect("something to read");
            shown += &read(&mut master);
        }
        assert_eq!(shown, "output typed\r\n");
        assert!(terminals.slave(id + 1, 0, OFlags::RDWR).is_err());
    }
}
