//! Nothing but warnings on the console while everybody waits: a line takes up to ten milliseconds on a serial line, and
//! whoever writes it waits for that. It stays in the kernel's log.

use super::log;
use std::fs;

/// The console's log level, first of four (Documentation/admin-guide/sysctl/kernel.rst).
const PRINTK: &str = "/proc/sys/kernel/printk";
/// Everything below this is shown: warnings and worse.
const NOTICE: u32 = 5;

/// The console is quiet until this is dropped.
#[derive(Debug)]
pub struct Quiet {
    /// The level before, if it was another.
    level: Option<String>,
}

impl Quiet {
    /// Makes it quiet. If that fails everything takes longer.
    pub fn begin() -> Self {
        let text = fs::read_to_string(PRINTK).unwrap_or_default();
        let level = text.split_whitespace().next().unwrap_or_default();
        let verbose = level.parse().is_ok_and(|level: u32| level > NOTICE);
        let quiet = verbose && fs::write(PRINTK, NOTICE.to_string()).is_ok();
        Self {
            level: quiet.then(|| level.to_owned()),
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.level.as_ref().map(|level| fs::write(PRINTK, level)) {
            log::warning(format_args!("{PRINTK}: {error}"));
        }
    }
}
