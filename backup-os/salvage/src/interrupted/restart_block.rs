//! Calls that `restart_syscall` goes on with (`include/linux/restart_block.h`).

use super::waits::FUTEX_FLAGS;
use super::{Decision, Thread, EINTR};
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use crate::registers::UserRegs;
use crate::timers::clocks;
use shared_region::context::{Caught, Resume};
use shared_region::reasons;

/// An instant on CLOCK_MONOTONIC, in nanoseconds, that no machine comes to: 200 years.
const NEVER: u64 = 200 * 365 * 86_400 * 1_000_000_000;

crate::mirrors! {
    /// How an interrupted call is to be gone on with.
    #[allow(missing_docs)]
    pub struct RestartBlock = "restart_block" {
        function: Field = "fn",
        futex_uaddr: Field = "futex.uaddr",
        futex_val: Field = "futex.val",
        futex_bitset: Field = "futex.bitset",
        futex_time: Field = "futex.time",
        sleep_clock: Field = "nanosleep.clockid",
        sleep_rmtp: Field = "nanosleep.rmtp",
        sleep_expires: Field = "nanosleep.expires",
        poll_ufds: Field = "poll.ufds",
        poll_nfds: Field = "poll.nfds",
        poll_has_timeout: Field = "poll.has_timeout",
        poll_sec: Field = "poll.tv_sec",
        poll_nsec: Field = "poll.tv_nsec",
    }
}

/// Until when a poll waits.
#[derive(Clone, Copy, Debug)]
struct Until {
    has_timeout: u64,
    seconds: u64,
    nanoseconds: u64,
}

impl Until {
    /// Nanoseconds on the kernel's CLOCK_MONOTONIC; `None` for a poll without a time-out, of which the kernel writes nothing
    /// but that there is none.
    fn instant(self) -> Option<u64> {
        let seconds = self.seconds.wrapping_mul(1_000_000_000);
        (self.has_timeout != 0).then(|| seconds.wrapping_add(self.nanoseconds))
    }
}

/// A call that a signal interrupted and that no handler was run for.
///
/// # Errors
/// It goes on in a way that is not known, or something cannot be read.
pub(super) fn decide<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, thread: &Thread<'_>) -> Result<Decision> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let layout = &layouts.restart_block;
    let mem = &kernel.mem;
    let block = thread.task.offset(u64::from(layouts.task.restart_block.offset));
    let field = |field: Field| mem.uint(block, field);
    let function = context.symbol(mem.ptr(block, layout.function)?);
    let regs = UserRegs {
        ax: 0,
        orig_ax: u64::MAX,
        ..thread.registers.user
    };
    let now = &context.now;
    let resume = match function.as_deref().unwrap_or_default() {
        "hrtimer_nanosleep_restart" => {
            let clock = mem.int(block, layout.sleep_clock)? as i32;
            Resume::Sleep {
                clock,
                expires: now.to_process(clock, field(layout.sleep_expires)?),
                remain: field(layout.sleep_rmtp)?,
            }
        }
        // The kernel's own flags have another meaning in each version; the arguments of the call still stand.
        "futex_wait_restart" => Resume::Futex {
            uaddr: field(layout.futex_uaddr)?,
            val: field(layout.futex_val)? as u32,
            flags: (regs.si & FUTEX_FLAGS) as u32,
            bitset: field(layout.futex_bitset)? as u32,
            expires: now.to_process(clocks::MONOTONIC, field(layout.futex_time)?),
        },
        "do_restart_poll" => {
            let until = Until {
                has_timeout: field(layout.poll_has_timeout)?,
                seconds: field(layout.poll_sec)?,
                nanoseconds: field(layout.poll_nsec)?,
            };
            Resume::Poll {
                fds: field(layout.poll_ufds)?,
                count: field(layout.poll_nfds)? as u32,
                expires: until
                    .instant()
                    .map_or(NEVER, |at| now.to_process(clocks::MONOTONIC, at)),
            }
        }
        "do_no_restart_syscall" => {
            let regs = UserRegs {
                ax: EINTR as u64,
                ..regs
            };
            return Ok(Decision {
                regs,
                resume: Resume::Registers,
                caught: Caught::Kernel,
                moved: None,
                locks: None,
            });
        }
        other => {
            return Err(Refusal::new(
                reasons::CALL_EFFECT,
                alloc::format!("to be gone on with by {other}"),
            ))
        }
    };
    Ok(Decision {
        regs,
        resume,
        caught: Caught::Kernel,
        moved: None,
        locks: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_without_a_time_out_waits_on_whatever_stands_where_it_would_be() {
        let until = Until {
            has_timeout: 0,
            seconds: 3,
            nanoseconds: 5,
        };
        assert_eq!(until.instant(), None);
        let timed = Until {
            has_timeout: 1,
            ..until
        };
        assert_eq!(timed.instant(), Some(3_000_000_005));
    }
}
