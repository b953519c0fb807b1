//! `read` and `write` on terminals (`drivers/tty/n_tty.c`).
//!
//! A reader waits before it has taken anything, unless it was told to wait for several characters (VMIN) and has some of
//! them: those are put back into the terminal ([`terminals`]). How long it waits between two of them (VTIME) begins anew. A
//! writer that waits may have written a part of what stands in the buffer of the
//! terminal, and nothing but its registers says how much.

use super::chain::Chain;
use super::stack::{agreed, Words};
use super::{kept_registers, Call, Decision};
use crate::addr::Kva;
use crate::memory::PhysMem;
use crate::refusal::Result;
use crate::terminals;
use alloc::vec::Vec;

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
const WRITER_WAITS: &str = "wait_woken";
/// A line discipline gets so much at a time (`do_tty_write`, drivers/tty/tty_io.c).
const PART: u64 = 2048;
/// Waits for its turn to write, or to be allowed to: nothing is written yet.
const BEFORE_WRITER: [&str; 3] = ["tty_write_lock", "tty_ldisc_ref_wait", "job_control"];

/// Whether a file's table of functions is that of a terminal.
pub(super) fn is_terminal(operations: &str) -> bool {
    TERMINALS.contains(&operations)
}

impl<M: PhysMem + ?Sized> Call<'_, '_, '_, '_, M> {
    /// A terminal.
    pub(super) fn terminal(&mut self, file: Kva, writes: bool, vector: bool) -> Result<Decision> {
        let Some(chain) = self.chain()? else {
            return Err(self.refuse("whose frames cannot be found"));
        };
        if !chain.is_off() {
            return Err(self.refuse("which may have had its effect"));
        }
        if writes {
            if let Some(at) = chain.find(&WRITER) {
                let waits = chain.called_by(at).is_some_and(|link| link.name == WRITER_WAITS);
                return match self.written(&chain, file, vector)?.filter(|_| waits) {
                    Some(0) => self.restart(),
                    Some(done) => Ok(self.result(done)),
                    None => Err(self.refuse("to a terminal that did not take it")),
                };
            }
            if !chain.has(&BEFORE_WRITER) {
                return Err(self.refuse("to a terminal that did not take it"));
            }
            return self.restart();
        }
        let waits = chain.find(&READER).and_then(|at| chain.called_by(at));
        if !waits.is_some_and(|link| READER_WAITS.contains(&link.name.as_str())) {
            return Err(self.refuse("which may have had its effect"));
        }
        self.restart()
    }

    /// Bytes that a writer has got rid of, who waits for room for the others. The iterator of the call counts all that was put
    /// into the terminal's buffer.
    fn written(&mut self, chain: &Chain, file: Kva, vector: bool) -> Result<Option<u64>> {
        let Some(taken) = self.progress(chain, vector)?.filter(|&taken| taken != 0) else {
            return Ok(None);
        };
        let context = self.context;
        let Some(writer) = kept_registers::of(context, self.thread.task, WRITER[0])? else {
            return Ok(None);
        };
        let variables = Words::read(context, writer.variables)?;
        let buffer = terminals::write_buffer(context, file)?.0;
        let words: Vec<u64> = writer.registers.iter().copied().chain(variables.all()).collect();
        Ok(left(&words, buffer, taken).and_then(|left| taken.checked_sub(left)))
    }
}

/// How much of the last part, which ends at so many bytes of the call, is left, by the variables of its writer: where it goes
/// on in the buffer, and how much that is.
fn left(words: &[u64], buffer: u64, taken: u64) -> Option<u64> {
    let part = match taken.checked_rem(PART)? {
        0 => PART,
        rest => rest,
    };
    let is_left =
        |word: &&u64| (1..=part).contains(*word) && words.contains(&buffer.wrapping_add(part).wrapping_sub(**word));
    let found: Vec<u64> = words.iter().filter(is_left).copied().collect();
    agreed(&found)
}

#[cfg(test)]
mod tests {
    use super::left;

    const BUFFER: u64 = 0xFFFF_8881_0432_1000;

    #[test]
    fn a_writer_has_a_place_and_what_is_left_from_there_on() {
        let words = [7, BUFFER, 900, BUFFER + 1148, 2];
        assert_eq!(left(&words, BUFFER, 3 * 2048), Some(900));
        // The last part of a call is shorter.
        assert_eq!(left(&[BUFFER + 30, 70], BUFFER, 2048 + 100), Some(70));
        assert_eq!(left(&[BUFFER, 2048], BUFFER, 2048), Some(2048));
    }

    #[test]
    fn what_does_not_fit_or_could_be_two_things_is_not_believed() {
        assert_eq!(left(&[BUFFER + 1148, 899], BUFFER, 2048), None);
        assert_eq!(left(&[BUFFER + 1148, 900, BUFFER, 2048], BUFFER, 2048), None);
        assert_eq!(left(&[], BUFFER, 2048), None);
    }
}
