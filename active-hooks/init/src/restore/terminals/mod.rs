//! Pseudo terminals, made before anything refers to them, with what nobody has read yet.
//!
//! What lies in a line discipline is put there character by character (`TIOCSTI`), under settings that let each of them
//! become what it was: an end of a line, an end of file, or a plain character. What was written to a master and not looked at
//! comes last, when the foreground group is what it was: the line discipline may find a signal in it.
//!
//! A side that nobody here has is closed in the end, and what the other sees is what it sees when a process ends.

mod content;
mod foreground;

pub use foreground::foregrounds;

use super::{build::Builder, world::World, OrRefuse, Refusal, Restored};
use crate::sys::terminal;
use content::{fill, settings, write};
use rustix::fs::{chmod, chown, fcntl_setfl, open, Gid, Mode, OFlags, Uid};
use shared_region::context::{Id, OpenFile, OpenFileKind, PseudoTerminal, SlaveState};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

/// `/dev/tty` (Documentation/admin-guide/devices.txt).
const OF_SESSION: u64 = 5 << 20;
/// Place of the character that stops the output (include/uapi/asm-generic/termbits.h).
const VSTOP: usize = 9;

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

#[cfg(test)]
mod tests;
