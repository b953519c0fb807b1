//! A kernel that is not watched, or not yet: what can be done for it when it dies.
//!
//! One that has taken over may have processes in it from the first moment on, and arming takes a second.

use crate::attempt::Failed;
use crate::hang::Death;
use crate::timer;
use crate::watch::{rung_by, Armed, Backup, Refusal, DOORBELL, LAST_WORDS_US};
use core::sync::atomic::Ordering;
use shared_region::attempts::End;
use shared_region::control::{Cause, CommitPoint, Doorbell, SuccessorPhase, WatchReason};

/// Ticks that a kernel that panics unwatched has for its last words.
const LAST_WORDS_TICKS: u64 = LAST_WORDS_US / timer::TICK_US + 1;
/// Ticks between two attempts at arming while something is awaited that is cheap to look at.
const RETRY_TICKS: u64 = 100;
/// And after one that read the whole kernel or image and found it wrong.
const REFUSED_TICKS: u64 = 5_000;

impl Backup {
    /// Waits until it is time to try to arm again. Returns if the kernel has died meanwhile.
    pub fn idle_unarmed(&mut self, refusal: &Refusal) -> Option<Armed> {
        let pause = match refusal.reason {
            _ if refusal.panicking.is_some() => LAST_WORDS_TICKS,
            WatchReason::NoFacts | WatchReason::HandOver => RETRY_TICKS,
            _ => REFUSED_TICKS,
        };
        for _ in 0..pause {
            if let Some(death) = self.rang_unwatched() {
                return self.died_unwatched(death);
            }
            self.wait_a_tick();
            self.serve_stage();
            self.standby_on();
        }
        // It does not come to where it would ring.
        let cpu = refusal.panicking.filter(|_| self.life.failovers > 0)?;
        self.died_unwatched(Death {
            cause: Cause::Panic,
            cpu: Some(cpu as usize),
            ..Death::default()
        })
    }

    /// Whether a kernel that has taken over panics, and is not watched.
    fn rang_unwatched(&self) -> Option<Death> {
        let rang = self.region.control().doorbell.load(Ordering::Acquire);
        let panics = self.life.failovers > 0 && rang & DOORBELL == Doorbell::Panic as u64;
        panics.then(|| rung_by(rang))
    }

    /// Makes a failover of it. If it has never been watched it counts as a successor that failed. Gives the machine up if
    /// it has not told enough of itself.
    fn died_unwatched(&mut self, death: Death) -> Option<Armed> {
        if let Some(candidate) = self.unwatched.take() {
            let failed = Failed {
                end: End::Panicked,
                level: CommitPoint::Processes,
            };
            self.another_is_next(candidate, failed, SuccessorPhase::Complete);
        }
        match self.arm_dead(death) {
            Ok(armed) => Some(armed),
            Err(why) => self.lose(format_args!("the kernel panicked before it was watched, and {why}")),
        }
    }
}
