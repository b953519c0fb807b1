//! Exit codes, the same for every command.

use std::process::ExitCode;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or the answer is yes.
    Fine = 0,
    /// The answer is no: not armed, something would not survive, the machine does not fit.
    No = 1,
    // 2 is a wrong command line; clap uses it.
    /// The question could not be answered or the wish not be carried out; the message says why.
    Unable = 3,
}

/// The part of the help that lists them.
pub const HELP: &str = "\
Exit codes:
  0  done, or the answer is yes
  1  the answer is no: not armed, something would not survive, the machine does not fit
  2  the command line is wrong
  3  the question could not be answered or the wish not be carried out; the message says why
`protect -- COMMAND` exits as the command does, once it has started.";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
