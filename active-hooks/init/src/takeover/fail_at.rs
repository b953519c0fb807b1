//! Fails on purpose at a chosen step, or is slow, for tests: [`shared_region::fail_at`].

use super::earlier;
use crate::boot::log;
use orthros_device::{Device, Region};
use shared_region::{
    control::{ControlWords, WatchState},
    device::{test_kind, Mark, Test},
    fail_at::{self, FailAt, FailHow, SLOW_MS},
};
use std::{
    fs,
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Whether the module lets tests make this kernel fail.
const ALLOWED: &str = "/sys/module/orthros/parameters/allow_test";
/// How long the backup OS has to notice that everything was taken over.
const NOTICED: Duration = Duration::from_secs(60);

static CHOSEN: AtomicU64 = AtomicU64::new(0);

/// Looks for what was asked for. The first successor alone fails.
pub fn choose(region: &Region) {
    let word = region.control(offset_of!(ControlWords, successor_fails_at));
    let allowed = || fs::read(ALLOWED).is_ok_and(|text| text.starts_with(b"Y"));
    if word != 0 && earlier::attempts(region) == 1 && allowed() {
        CHOSEN.store(word, Ordering::Relaxed);
    }
}

/// Fails if it is to be here.
pub fn here(step: FailAt) {
    let Some((chosen, how)) = fail_at::parse(CHOSEN.load(Ordering::Relaxed)) else {
        return;
    };
    if chosen == FailAt::Complete && step == FailAt::Init {
        // Else a test could meet the user space of a kernel that is about to fail.
        stand_still();
    }
    if chosen != step {
        return;
    }
    log::error(format_args!("a test wants this kernel to fail: {step:?}, {how:?}"));
    let done = match how {
        FailHow::Panic => fs::write("/proc/sysrq-trigger", "c").map_err(|error| error.to_string()),
        FailHow::Hang => hang().map_err(|error| error.to_string()),
        FailHow::Stall => stand_still(),
        FailHow::Slow => dawdle().map_err(|error| error.to_string()),
    };
    if let Err(error) = done {
        log::error(format_args!("it does not: {error}"));
    }
}

/// As [`here`] with [`FailAt::Complete`]: when the backup OS has noticed that everything was taken over.
pub fn here_when_complete(region: &Region) {
    let handing_over = || region.control(offset_of!(ControlWords, watch_state)) == WatchState::HandingOver as u64;
    let chosen = fail_at::parse(CHOSEN.load(Ordering::Relaxed)).map(|(step, _)| step);
    if chosen == Some(FailAt::Complete) {
        let since = Instant::now();
        while handing_over() && since.elapsed() < NOTICED {
            thread::sleep(Duration::from_millis(1));
        }
        here(FailAt::Complete);
    }
}

/// Every CPU spins with interrupts off, a moment later.
fn hang() -> Result<(), orthros_device::DeviceError> {
    let test = Test {
        kind: test_kind::HANG_ALL,
        cpu: u64::MAX,
        value: 0,
    };
    Device::open()?.test(test)?;
    thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// Takes its time, and moves the heartbeat meanwhile.
fn dawdle() -> Result<(), orthros_device::DeviceError> {
    CHOSEN.store(0, Ordering::Relaxed);
    let (device, since) = (Device::open()?, Instant::now());
    let alive = Mark {
        event: u64::MAX,
        phase: u64::MAX,
        tsc: 0,
        resumed: 0,
    };
    while since.elapsed() < Duration::from_millis(SLOW_MS) {
        device.mark(alive)?;
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

fn stand_still() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
