//! Pseudo terminals.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A pseudo terminal: a master and its slave ([`crate::record::Kind::PseudoTerminal`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PseudoTerminal {
    /// The number in `/dev/pts`.
    pub index: u32,
    /// Whether somebody has the slave open.
    pub slave: SlaveState,
    /// Owner, group and permissions of the slave's name.
    pub owner: (u32, u32, u32),
    /// Settings.
    pub termios: Termios,
    /// Rows, columns, and pixels across and down.
    pub window: [u16; 4],
    /// The slave cannot be opened (`TIOCSPTLCK`).
    pub locked: bool,
    /// Nobody else may open it (`TIOCEXCL`): master, slave.
    pub exclusive: (bool, bool),
    /// The master reads packets (`TIOCPKT`).
    pub packets: bool,
    /// The slave's output is stopped: by a character, by `tcflow`.
    pub stopped: (bool, bool),
    /// Column that the slave's next character goes to.
    pub column: u32,
    /// What the line discipline has for the slave's reader.
    pub input: Vec<u8>,
    /// Places in it at which a line ends, ascending. A zero byte there is an end of file.
    pub ends: Vec<u32>,
    /// The next character is taken literally (VLNEXT was typed).
    pub literal: bool,
    /// What was written to the master and the line discipline has not looked at.
    pub typed: Vec<u8>,
    /// What the master can read.
    pub output: Vec<u8>,
}

/// Whether somebody has a slave open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlaveState {
    /// Nobody had, ever: the master waits for input.
    #[default]
    New,
    /// Somebody has.
    Open,
    /// Nobody has any more: the master reads an end.
    Closed,
}

/// Settings of a terminal, `struct termios2`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Termios {
    /// Input, output, control and local flags.
    pub flags: [u32; 4],
    /// Line discipline.
    pub line: u8,
    /// Control characters.
    pub characters: Vec<u8>,
    /// Speeds of input and output.
    pub speeds: [u32; 2],
}
