//! What is on its way in a pseudo terminal, put back through the terminal itself.

use super::super::{OrRefuse, Refusal, Restored};
use crate::sys::terminal;
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
};
use shared_region::context::{PseudoTerminal, Termios};
use std::{
    collections::BTreeSet,
    os::fd::{AsFd, OwnedFd},
};

/// Bits of the settings (include/uapi/asm-generic/termbits.h).
const OPOST: u32 = 1;
pub const ICANON: u32 = 2;
const IEXTEN: u32 = 0o100_000;
const EXTPROC: u32 = 0o200_000;
/// Places of control characters.
const VEOF: usize = 4;
const VEOL: usize = 11;
const VLNEXT: usize = 15;
pub const CHARACTERS: usize = 19;
/// Characters that stand for an end of file, and for "the next one literally", while the input is put back.
const END: u8 = 4;
const LITERALLY: u8 = 22;
/// A column further right is put back as one with the same place between tabs.
const MAX_COLUMN: u32 = 4096;
/// Bytes that are written at a time. The kernel makes buffers as large as what comes at once and leaves the rest of one unused
/// that the next piece does not fit into: in pieces of its smallest (`MIN_TTYB_SIZE`, drivers/tty/tty_buffer.c), as much goes in
/// as can have been there.
const PIECE: usize = 256;
/// How long one side may take to see what was written to the other.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Puts back what was on its way in either direction.
pub fn fill(record: &PseudoTerminal, slave: &OwnedFd, master: std::os::fd::BorrowedFd<'_>) -> Restored<()> {
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
pub enum Step {
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
pub fn steps(record: &PseudoTerminal) -> Vec<Step> {
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
pub fn settings(termios: &Termios) -> Restored<[u8; terminal::SETTINGS]> {
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
pub fn write(fd: impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, &bytes[..bytes.len().min(PIECE)]) {
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

pub fn wait(fd: &impl AsFd, for_what: PollFlags) -> rustix::io::Result<()> {
    match poll(&mut [PollFd::new(fd, for_what)], Some(&PATIENCE))? {
        0 => Err(Errno::TIMEDOUT),
        _ => Ok(()),
    }
}
