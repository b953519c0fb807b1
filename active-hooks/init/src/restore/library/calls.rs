//! Interrupted calls that a hook is asked about: those that have no result yet.

use crate::restore::user_memory::UserMemory;
use crate::restore::{
    clock::now,
    tracee::{ARGUMENTS, RAX, RIP},
};
use rustix::time::ClockId;
use shared_region::{
    context::{Caught, Resume, Thread},
    library::{planned, Call},
};

/// The two bytes of `syscall`.
const SYSCALL: [u8; 2] = [0x0F, 0x05];
const RESTART: u32 = libc::SYS_restart_syscall as u32;
/// Arguments below this are numbers: nothing is mapped in the first pages.
const FIRST_ADDRESS: u64 = 0x1000;

/// The call of a thread, if it has no result yet.
pub fn of(thread: &Thread, memory: &UserMemory) -> Option<Call> {
    let is_call = |at: u64| memory.read(at).is_ok_and(|bytes: [u8; 2]| bytes == SYSCALL);
    told(thread, is_call)
}

fn told(thread: &Thread, is_call: impl Fn(u64) -> bool) -> Option<Call> {
    let Caught::Syscall(caught) = thread.caught else {
        return None;
    };
    let regs = &thread.regs;
    let arguments = ARGUMENTS.map(|index| regs[index]);
    let before = regs[RIP].wrapping_sub(SYSCALL.len() as u64);
    let (number, plan, at, left) = match thread.resume {
        Resume::Registers if regs[RAX] == u64::from(caught) && is_call(regs[RIP]) => {
            // Behind one call and before another: its result may be what looks like its number.
            if is_call(before) {
                return None;
            }
            (caught, planned::RETRY, regs[RIP], u64::MAX)
        }
        Resume::Registers if regs[RAX] as i64 == -i64::from(libc::EINTR) => (caught, planned::RESULT, before, u64::MAX),
        Resume::Registers => return None,
        Resume::Undecided => (caught, planned::UNKNOWN, before, u64::MAX),
        resume => {
            let (number, left) = waits(resume, arguments[0]);
            let number = if caught == RESTART { number } else { caught };
            let at = if regs[RAX] == u64::from(RESTART) {
                regs[RIP]
            } else {
                before
            };
            (number, planned::CONTINUE, at, left)
        }
    };
    if number == RESTART || !is_call(at) {
        return None;
    }
    Some(Call {
        size: size_of::<Call>() as u32,
        number,
        tid: thread.tid,
        planned: plan,
        arguments,
        result: if plan == planned::RESULT { regs[RAX] as i64 } else { 0 },
        left,
        at,
    })
}

/// The number of a call that has been gone on with before (`restart_syscall`), by what it waits for, and what is left of
/// its time.
fn waits(resume: Resume, first: u64) -> (u32, u64) {
    let left = |clock, expires: u64| expires.saturating_sub(now(clock));
    match resume {
        Resume::Sleep { clock, expires, .. } => {
            // `nanosleep` has an address there, `clock_nanosleep` its clock.
            let number = if first < FIRST_ADDRESS {
                libc::SYS_clock_nanosleep
            } else {
                libc::SYS_nanosleep
            };
            let left = match clock {
                libc::CLOCK_REALTIME => left(ClockId::Realtime, expires),
                libc::CLOCK_MONOTONIC => left(ClockId::Monotonic, expires),
                libc::CLOCK_BOOTTIME => left(ClockId::Boottime, expires),
                _ => u64::MAX,
            };
            (number as u32, left)
        }
        Resume::Futex { flags, expires, .. } => {
            let realtime = flags & libc::FUTEX_CLOCK_REALTIME as u32 != 0;
            let clock = if realtime {
                ClockId::Realtime
            } else {
                ClockId::Monotonic
            };
            (libc::SYS_futex as u32, left(clock, expires))
        }
        Resume::Poll { expires, .. } => (libc::SYS_poll as u32, left(ClockId::Monotonic, expires)),
        Resume::Registers | Resume::Undecided => (RESTART, u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u32 = 0;

    fn thread(caught: u32, rax: u64, rip: u64) -> Thread {
        let mut thread = Thread {
            caught: Caught::Syscall(caught),
            ..Thread::default()
        };
        thread.regs[RAX] = rax;
        thread.regs[RIP] = rip;
        thread.regs[ARGUMENTS[0]] = 3;
        thread
    }

    #[test]
    fn a_call_made_again_is_asked_about() {
        let call = told(&thread(READ, 0, 0x1000), |at| at == 0x1000).unwrap();
        assert_eq!((call.number, call.planned, call.at), (READ, planned::RETRY, 0x1000));
        assert_eq!(call.arguments[0], 3);
    }

    #[test]
    fn a_call_with_a_result_is_not() {
        assert_eq!(told(&thread(READ, 0, 0x1002), |at| at == 0x1000), None);
        assert_eq!(told(&thread(READ, 8, 0x1002), |at| at == 0x1000), None);
        assert_eq!(told(&thread(READ, 0, 0x1002), |_| true), None, "it cannot be told");
        let mut outside = thread(READ, 0, 0x1000);
        outside.caught = Caught::User;
        assert_eq!(told(&outside, |_| true), None);
    }

    #[test]
    fn a_call_answered_as_by_a_signal_is() {
        let call = told(&thread(232, -4i64 as u64, 0x1002), |at| at == 0x1000).unwrap();
        assert_eq!((call.number, call.planned, call.result), (232, planned::RESULT, -4));
        assert_eq!(call.at, 0x1000);
    }

    #[test]
    fn a_sleep_tells_what_is_left_and_is_known_again_when_it_had_been_gone_on_with() {
        let sleep = Resume::Sleep {
            clock: libc::CLOCK_MONOTONIC,
            expires: now(ClockId::Monotonic) + 1_000_000_000,
            remain: 0,
        };
        for (caught, first, number) in [(35, 0x7000, 35), (RESTART, 0x7000, 35), (RESTART, 1, 230)] {
            let mut thread = thread(caught, 0, 0x1002);
            thread.regs[ARGUMENTS[0]] = first;
            thread.resume = sleep;
            let call = told(&thread, |at| at == 0x1000).unwrap();
            assert_eq!(
                (call.number, call.planned, call.at),
                (number, planned::CONTINUE, 0x1000)
            );
            assert!((1..=1_000_000_000).contains(&call.left));
        }
    }

    #[test]
    fn a_call_of_which_nothing_is_known_is() {
        let mut unknown = thread(278, -38i64 as u64, 0x1002);
        unknown.resume = Resume::Undecided;
        let call = told(&unknown, |at| at == 0x1000).unwrap();
        assert_eq!((call.number, call.planned, call.result), (278, planned::UNKNOWN, 0));
    }

    #[test]
    fn a_call_whose_number_is_not_known_is_not() {
        assert_eq!(told(&thread(RESTART, 219, 0x1000), |at| at == 0x1000), None);
        assert_eq!(told(&thread(RESTART, -4i64 as u64, 0x1002), |at| at == 0x1000), None);
    }
}
