//! Where a resource cell's thread is while it waits for the failure.

use crate::sys::{clock, signal};
use crate::watch::Watch;
use anyhow::Result;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A place to wait in, looking up from time to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Place {
    /// Asleep in `nanosleep`.
    Nanosleep,
    /// In a loop in user mode.
    User,
    /// In the vDSO.
    Vdso,
    /// In `futex` with a time-out.
    Futex,
    /// In `poll` with a time-out.
    Poll,
    /// In `rt_sigtimedwait` with a time-out.
    Sigtimedwait,
}

/// How long each wait lasts before the next look: hundreds of threads that looked more often would keep an emulated machine busy.
pub const LOOK: Duration = Duration::from_millis(200);

impl Place {
    /// Every place.
    pub const ALL: [Self; 6] = [
        Self::Nanosleep,
        Self::User,
        Self::Vdso,
        Self::Futex,
        Self::Poll,
        Self::Sigtimedwait,
    ];

    /// Its name on the command line and in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nanosleep => "nanosleep",
            Self::User => "user",
            Self::Vdso => "vdso",
            Self::Futex => "futex",
            Self::Poll => "poll",
            Self::Sigtimedwait => "sigtimedwait",
        }
    }

    /// Waits until the kernel has been replaced.
    pub fn wait(self, watch: &Watch) -> Result<()> {
        let word = AtomicU32::new(0);
        // A signal nobody sends, so that waiting for it disturbs no signal state under test.
        let unused = signal::bit(64);
        while !watch.seen() {
            match self {
                Self::Nanosleep => {
                    clock::nanosleep(LOOK);
                }
                Self::User => {
                    for turn in 0..3_000_000u32 {
                        std::hint::black_box(turn);
                    }
                }
                Self::Vdso => {
                    for _ in 0..100_000 {
                        std::hint::black_box(clock::now());
                    }
                }
                Self::Futex => {
                    crate::sys::futex_wait(&word, word.load(Ordering::Relaxed), Some(LOOK.as_nanos() as u64));
                }
                Self::Poll => {
                    crate::sys::poll_none(LOOK.as_millis() as i32);
                }
                Self::Sigtimedwait => {
                    signal::wait_for(unused, Some(LOOK.as_nanos() as u64));
                }
            }
        }
        Ok(())
    }
}
