//! `read` and `write` on terminals (`drivers/tty/n_tty.c`).
//!
//! A reader waits before it has taken anything, unless it was told to wait for several characters (VMIN) and has some of
//! them: those are in a buffer of its own then. A writer that waits may have written a part, and nothing but its registers
//! says how much.

use super::{Call, Decision};
use crate::addr::Kva;
use crate::memory::PhysMem;
use crate::refusal::Result;
use crate::terminals;

/// Tables of functions of terminals.
const TERMINALS: [&str; 4] = ["tty_fops", "ptmx_fops", "console_fops", "hung_up_tty_fops"];
/// Waits for input, and what it waits in.
const READER: [&str; 1] = ["n_tty_read"];
const READER_WAITS: [&str; 5] = [
    "wait_woken",
    "mutex_lock_interruptible",
    "__mutex_lock_interruptible_slowpath",
    "tty_buffer_flush_work",
    "down_read",
];
/// Waits for room.
const WRITER: [&str; 1] = ["n_tty_write"];
/// Waits for its turn to write, or to be allowed to: nothing is written yet.
const BEFORE_WRITER: [&str; 3] = ["tty_write_lock", "tty_ldisc_ref_wait", "job_control"];

/// Whether a file's table of functions is that of a terminal.
pub(super) fn is_terminal(operations: &str) -> bool {
    TERMINALS.contains(&operations)
}

impl<M: PhysMem + ?Sized> Call<'_, '_, '_, '_, M> {
    /// A terminal.
    pub(super) fn terminal(&mut self, file: Kva, writes: bool) -> Result<Decision> {
        let Some(chain) = self.chain()? else {
            return Err(self.refuse("whose frames cannot be found"));
        };
        if !chain.is_off() {
            return Err(self.refuse("which may have had its effect"));
        }
        if writes {
            if chain.has(&WRITER) || !chain.has(&BEFORE_WRITER) {
                return Err(self.refuse("to a terminal that did not take it"));
            }
            return self.restart();
        }
        let waits = chain.find(&READER).and_then(|at| chain.called_by(at));
        if !waits.is_some_and(|link| READER_WAITS.contains(&link.name.as_str())) {
            return Err(self.refuse("which may have had its effect"));
        }
        if terminals::waits_for_several(self.context, file)? {
            return Err(self.refuse("which may have some of the characters it waits for"));
        }
        self.restart()
    }
}
