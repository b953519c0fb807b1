//! A thread that the cgroup freezer holds, as an update lets it do that finds no better moment.
//!
//! The freezer goes the way of signals: a call that waits ends, for a signal that never comes. Most are to be made again then
//! (`ERESTARTSYS`), but some say EINTR. Where the freezer alone is the reason, one without a time-out is made again as well:
//! it has taken nothing, and waits on. How much of a time-out is left cannot be known: the frame it stood in is gone.

use super::{ring_enter, Chain, Thread};
use crate::calls::{self, Way};
use crate::context::Context;
use crate::memory::PhysMem;
use crate::refusal::Result;
use crate::registers::UserRegs;

/// Bits of `task.jobctl` (`include/linux/sched/jobctl.h`): what else would hold the thread, or wants something of it, and
/// the freezer.
const STOP_PENDING: u64 = 1 << 17;
const TRAP_STOP: u64 = 1 << 19;
const TRAP_NOTIFY: u64 = 1 << 20;
const TRAP_FREEZE: u64 = 1 << 23;
const STOPPED: u64 = 1 << 26;
const TRACED: u64 = 1 << 27;
const HOLDS: u64 = STOP_PENDING | TRAP_STOP | TRAP_NOTIFY | TRAP_FREEZE | STOPPED | TRACED;
/// Where signals are taken, and the freezer holds a thread (`do_freezer_trap` is a part of it) before any is.
const TAKES_SIGNALS: [&str; 1] = ["get_signal"];

/// What could have ended a call.
#[derive(Clone, Copy, Debug)]
struct Reasons {
    jobctl: u64,
    /// Signals of the thread and of its process.
    pending: u64,
    blocked: u64,
}

impl Reasons {
    fn is_the_freezer_alone(self) -> bool {
        self.jobctl & HOLDS == TRAP_FREEZE && self.pending & !self.blocked == 0
    }
}

/// Whether it is a wait, without a time-out, that says EINTR when it is left.
fn waits_for_ever(regs: &UserRegs) -> bool {
    let arguments = [regs.di, regs.si, regs.dx, regs.r10, regs.r8, regs.r9];
    let argument = |index: usize| arguments.get(index).copied();
    match calls::way(regs.orig_ax as u32) {
        Way::WaitMs(timeout) => argument(timeout).is_some_and(|timeout| (timeout as i32) < 0),
        Way::WaitPointer(timeout) => argument(timeout) == Some(0),
        Way::AioEvents => argument(4) == Some(0),
        Way::RingEnter => ring_enter::waits_for_ever(regs),
        _ => false,
    }
}

/// Whether a call that says EINTR does so because of the freezer alone, and can be made again.
///
/// # Errors
/// Something cannot be read.
pub(super) fn is_made_again<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, thread: &Thread<'_>) -> Result<bool> {
    if !waits_for_ever(&thread.registers.user) {
        return Ok(false);
    }
    let kernel = context.kernel;
    let mem = &kernel.mem;
    let layouts = &kernel.types.layouts;
    let task = &layouts.task;
    let signals = u64::from(layouts.sig_pending.signal.offset);
    let word = |at: crate::addr::Kva, offset: u32| mem.u64(at.offset(u64::from(offset)));
    let signal = mem.ptr(thread.task, task.signal)?;
    let own = thread.task.offset(u64::from(task.pending.offset)).offset(signals);
    let shared = signal
        .offset(u64::from(layouts.signal.shared_pending.offset))
        .offset(signals);
    let reasons = Reasons {
        jobctl: mem.uint(thread.task, task.jobctl)?,
        pending: mem.u64(own)? | mem.u64(shared)?,
        blocked: word(thread.task, task.blocked.offset)?,
    };
    if !reasons.is_the_freezer_alone() {
        return Ok(false);
    }
    let chain = Chain::of(context, thread.task, &thread.registers);
    Ok(chain.is_some_and(|chain| chain.is_off() && chain.has(&TAKES_SIGNALS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RT_SIGTIMEDWAIT: u64 = 128;
    const EPOLL_WAIT: u64 = 232;
    const IO_URING_ENTER: u64 = 426;
    const READ: u64 = 0;

    fn call(orig_ax: u64, dx: u64, r10: u64) -> UserRegs {
        UserRegs {
            orig_ax,
            dx,
            r10,
            ..UserRegs::default()
        }
    }

    #[test]
    fn only_waits_without_a_time_out_are_made_again() {
        assert!(waits_for_ever(&call(RT_SIGTIMEDWAIT, 0, 8)));
        assert!(!waits_for_ever(&call(RT_SIGTIMEDWAIT, 0x7ffc_0000_1000, 8)));
        // The upper half of a register is not part of an int.
        assert!(waits_for_ever(&call(EPOLL_WAIT, 64, 0xFFFF_FFFF)));
        assert!(!waits_for_ever(&call(EPOLL_WAIT, 64, 0)));
        assert!(!waits_for_ever(&call(EPOLL_WAIT, 64, 1000)));
        assert!(!waits_for_ever(&call(READ, 0, 0)));
        assert!(waits_for_ever(&call(IO_URING_ENTER, 1, 1)));
        // IORING_ENTER_EXT_ARG: there may be one.
        assert!(!waits_for_ever(&call(IO_URING_ENTER, 1, 1 | 8)));
    }

    #[test]
    fn a_signal_or_a_stop_beside_the_freezer_is_a_reason_of_its_own() {
        let frozen = Reasons {
            jobctl: TRAP_FREEZE | 19,
            pending: 0,
            blocked: 0,
        };
        assert!(frozen.is_the_freezer_alone());
        let with = |jobctl| Reasons { jobctl, ..frozen };
        for jobctl in [
            0,
            TRAP_FREEZE | STOP_PENDING,
            TRAP_FREEZE | STOPPED,
            TRAP_FREEZE | TRAP_STOP,
        ] {
            assert!(!with(jobctl).is_the_freezer_alone(), "{jobctl:#x}");
        }
        let pending = Reasons { pending: 2, ..frozen };
        assert!(!pending.is_the_freezer_alone());
        let blocked = Reasons { blocked: 2, ..pending };
        assert!(blocked.is_the_freezer_alone());
    }
}
