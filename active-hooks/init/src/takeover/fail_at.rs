//! Panics on purpose at a chosen step, for tests: [`shared_region::fail_at`].

use super::earlier;
use crate::boot::log;
use orthros_device::Region;
use shared_region::{control::ControlWords, fail_at::FailAt};
use std::{
    fs,
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering},
};

/// Whether the module lets tests make this kernel fail.
const ALLOWED: &str = "/sys/module/orthros/parameters/allow_test";

static CHOSEN: AtomicU64 = AtomicU64::new(0);

/// Looks for what was asked for. The first successor alone fails.
pub fn choose(region: &Region) {
    let word = region.control(offset_of!(ControlWords, successor_fails_at));
    let allowed = || fs::read(ALLOWED).is_ok_and(|text| text.starts_with(b"Y"));
    if word != 0 && earlier::attempts(region) == 1 && allowed() {
        CHOSEN.store(word, Ordering::Relaxed);
    }
}

/// Panics if it is to be here.
pub fn here(step: FailAt) {
    if CHOSEN.load(Ordering::Relaxed) != step as u64 {
        return;
    }
    log::error(format_args!("a test wants this kernel to fail: {step:?}"));
    if let Err(error) = fs::write("/proc/sysrq-trigger", "c") {
        log::error(format_args!("it does not: {error}"));
    }
}
