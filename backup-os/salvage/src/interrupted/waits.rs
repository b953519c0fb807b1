//! Calls that wait for a time, or for somebody: they go on until the time they were to end.

use super::stack::Sleeper;
use super::{Call, Decision, EINTR};
use crate::memory::PhysMem;
use crate::refusal::Result;
use crate::timers::clocks;
use shared_region::context::Resume;

/// Operations of `futex`, and the flags beside them (`include/uapi/linux/futex.h`).
const FUTEX_CMD: u64 = 0x7F;
const FUTEX_WAIT: u64 = 0;
const FUTEX_WAKE_OP: u64 = 5;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_UNLOCK_PI: u64 = 7;
const FUTEX_TRYLOCK_PI: u64 = 8;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_WAIT_REQUEUE_PI: u64 = 11;
const FUTEX_CMP_REQUEUE_PI: u64 = 12;
const FUTEX_LOCK_PI2: u64 = 13;
pub(super) const FUTEX_FLAGS: u64 = 0x180;

/// Functions with a `struct hrtimer_sleeper` of their own.
const SLEEPERS: [&str; 5] = [
    "hrtimer_nanosleep",
    "futex_wait",
    "schedule_hrtimeout",
    "schedule_hrtimeout_range",
    "schedule_hrtimeout_range_clock",
];
/// Functions with the `struct futex_q` of a simple wait; the second from Linux 6.7 on.
const FUTEX_WAITERS: [&str; 2] = ["futex_wait", "__futex_wait"];
/// Where `epoll_wait` takes events off its list.
const HARVEST: [&str; 3] = ["ep_send_events", "ep_start_scan", "ep_done_scan"];

impl<M: PhysMem + ?Sized> Call<'_, '_, '_, '_, M> {
    /// The timer of this call.
    fn sleeper(&mut self) -> Result<Option<Sleeper>> {
        let (context, task) = (self.context, self.thread.task);
        let Some(chain) = self.chain()? else {
            return Err(self.refuse("whose frames cannot be found"));
        };
        for link in chain.all(&SLEEPERS) {
            if let Some(found) = self.words(link)?.sleeper(context, task) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Registers of a call that another one goes on with.
    fn resumed(&self, resume: Resume) -> Decision {
        Decision {
            resume,
            ..self.result(0)
        }
    }

    /// A relative sleep, until the time it was to end.
    pub(super) fn sleep(&mut self, remain: u64) -> Result<Decision> {
        let Some(Sleeper { clock, expires }) = self.sleeper()? else {
            return self.restart();
        };
        let expires = self.context.now.to_process(clock, expires);
        Ok(self.resumed(Resume::Sleep { clock, expires, remain }))
    }

    /// A relative sleep on a clock of choice. CPU clocks and alarm clocks have other timers.
    pub(super) fn clock_sleep(&mut self) -> Result<Decision> {
        match self.argument(0) as i32 {
            clocks::REALTIME | clocks::MONOTONIC | clocks::BOOTTIME | clocks::TAI => self.sleep(self.argument(3)),
            clock => Err(self.refuse(&alloc::format!("clock {clock}"))),
        }
    }

    pub(super) fn futex(&mut self) -> Result<Decision> {
        let (uaddr, op, val) = (self.argument(0), self.argument(1), self.argument(2) as u32);
        match op & FUTEX_CMD {
            FUTEX_WAIT => self.futex_wait(uaddr, op, val, u32::MAX, self.argument(3) != 0),
            // Its time-out is a point in time: it can be waited for again.
            FUTEX_WAIT_BITSET => self.futex_wait(uaddr, op, val, self.argument(5) as u32, false),
            FUTEX_WAIT_REQUEUE_PI => Err(self.refuse("FUTEX_WAIT_REQUEUE_PI")),
            FUTEX_WAKE_OP | FUTEX_LOCK_PI | FUTEX_UNLOCK_PI | FUTEX_TRYLOCK_PI | FUTEX_CMP_REQUEUE_PI
            | FUTEX_LOCK_PI2 => self.restart_if_off(),
            // A waiter that is woken once more than it had to be looks at its word again.
            _ => self.restart(),
        }
    }

    fn futex_wait(&mut self, uaddr: u64, op: u64, val: u32, bitset: u32, timed: bool) -> Result<Decision> {
        let (context, task) = (self.context, self.thread.task);
        let Some(chain) = self.chain()? else {
            return Err(self.refuse("whose frames cannot be found"));
        };
        let mut woken = None;
        for link in chain.all(&FUTEX_WAITERS) {
            woken = woken.or(self.words(link)?.futex_woken(context, task, bitset));
        }
        // A wake-up that was given to this thread must not get lost.
        if woken == Some(true) {
            return Ok(self.result(0));
        }
        if !chain.has(&FUTEX_WAITERS) {
            return Err(self.refuse("at its very end or beginning"));
        }
        if !timed {
            return self.restart();
        }
        let Some(Sleeper { clock, expires }) = self.sleeper()? else {
            return self.restart();
        };
        Ok(self.resumed(Resume::Futex {
            uaddr,
            val,
            flags: (op & FUTEX_FLAGS) as u32,
            bitset,
            expires: self.context.now.to_process(clock, expires),
        }))
    }

    pub(super) fn poll(&mut self) -> Result<Decision> {
        if (self.argument(2) as i32) <= 0 {
            return self.restart();
        }
        let Some(Sleeper { clock, expires }) = self.sleeper()? else {
            return self.restart();
        };
        let expires = self.context.now.to_process(clock, expires);
        let (fds, count) = (self.argument(0), self.argument(1) as u32);
        Ok(self.resumed(Resume::Poll { fds, count, expires }))
    }

    /// Waits that take what they waited for, or tell of it in place of their arguments: nothing of that has happened
    /// while they sleep.
    pub(super) fn wait(&mut self, for_ever: bool) -> Result<Decision> {
        let Some(chain) = self.chain()? else {
            return Err(self.refuse("whose frames cannot be found"));
        };
        if !chain.is_off() || chain.has(&HARVEST) {
            return Err(self.refuse("with a result that may have been taken"));
        }
        if for_ever || self.sleeper()?.is_none() {
            return self.restart();
        }
        Ok(self.result(EINTR as u64))
    }
}
