//! What the restore agent enters: it runs the handler or hook whose turn it is, and carries out what a hook said.
//!
//! What we know on entry: the stack is the table's; the registers that are to be gone on with lie in the `ucontext_t`; no
//! other thread of the process runs, unless the deadline is over. What we are responsible for: `errno` is what it was, and
//! the turn is over before we return, through the restorer, to where the thread was.

use crate::{table, Answer, Handler, Hook};
use core::ffi::{c_int, c_void};
use shared_region::library::{answer, turn, Call, Table};
use std::mem::{offset_of, transmute};

/// Bytes of the `syscall` instruction.
const SYSCALL_SIZE: i64 = 2;

// Where the dispatcher returns to, with the stack pointer behind its return address, as after the handler of a signal.
core::arch::global_asm!(
    ".pushsection .text.orthros_restorer, \"ax\", @progbits",
    ".globl orthros_restorer",
    ".hidden orthros_restorer",
    ".type orthros_restorer, @function",
    "orthros_restorer:",
    "mov eax, 15", // rt_sigreturn
    "syscall",
    "ud2",
    ".size orthros_restorer, . - orthros_restorer",
    ".popsection",
);

extern "C" {
    fn orthros_restorer();
}

/// Address of the restorer.
pub fn restorer() -> u64 {
    orthros_restorer as *const () as u64
}

/// Address of the dispatcher.
pub fn dispatcher() -> u64 {
    dispatch as *const () as u64
}

extern "C" fn dispatch(_signal: c_int, _info: *mut c_void, context: *mut libc::ucontext_t) {
    let Some(table) = table::current() else { return };
    // SAFETY: the C library's thread-local storage is that of the interrupted thread, which uses this library.
    let errno = unsafe { *libc::__errno_location() };
    match table.word(offset_of!(Table, turn)) {
        turn::HANDLER => {
            let function = table.word(offset_of!(Table, handler));
            let argument = table.word(offset_of!(Table, handler_argument)) as *mut c_void;
            if function != 0 {
                // SAFETY: (1) nobody but `on_failover` writes the word, from a function of this type; (2) the agent
                // has written the failover, and writes it only while this process does not run.
                unsafe {
                    let handler: Handler = transmute(function as usize);
                    handler(&*table.address(offset_of!(Table, failover)), argument);
                }
            }
        }
        turn::HOOK => {
            let [function, argument] = [0, 8].map(|word| table.word(offset_of!(Table, hook) + word));
            // SAFETY: (1) the agent copies the two words from a slot that `on_call` has written, from a function of this
            // type; (2) as above for the call; (3) the context is in the frame that we were entered with.
            unsafe {
                let hook: Hook = transmute(function as usize);
                let call: &Call = &*table.address(offset_of!(Table, call));
                let said = hook(call, argument as *mut c_void);
                let action = carry_out(said, call, &mut *context);
                table.set(offset_of!(Table, answer), action);
            }
        }
        _ => {}
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    table.set(offset_of!(Table, turn), turn::NONE);
}

/// Makes the thread go on as the hook said. Returns what was done.
fn carry_out(said: Answer, call: &Call, context: &mut libc::ucontext_t) -> u64 {
    let registers = &mut context.uc_mcontext.gregs;
    let at = call.at as i64;
    let (rip, rax) = match said.action {
        answer::RETRY => (at, i64::from(call.number)),
        answer::RESULT => (at + SYSCALL_SIZE, said.result),
        _ => return answer::PLANNED,
    };
    registers[libc::REG_RIP as usize] = rip;
    registers[libc::REG_RAX as usize] = rax;
    said.action
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers_after(said: Answer) -> (i64, i64) {
        let call = Call {
            number: 35,
            at: 0x1000,
            ..Call::default()
        };
        // SAFETY: a context of zeros is a valid value of this type of numbers.
        let mut context: libc::ucontext_t = unsafe { std::mem::zeroed() };
        carry_out(said, &call, &mut context);
        let registers = context.uc_mcontext.gregs;
        (registers[libc::REG_RIP as usize], registers[libc::REG_RAX as usize])
    }

    #[test]
    fn a_call_is_made_again_from_its_instruction_and_ends_behind_it() {
        assert_eq!(registers_after(Answer::PLANNED), (0, 0));
        assert_eq!(registers_after(Answer::RETRY), (0x1000, 35));
        assert_eq!(registers_after(Answer::result(7)), (0x1002, 7));
        assert_eq!(registers_after(Answer::error(libc::EIO)), (0x1002, -5));
    }
}
