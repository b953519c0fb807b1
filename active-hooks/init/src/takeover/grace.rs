//! Short grace periods while the machine is handed over.
//!
//! Adding memory, moving a process to its control group and much else wait until every CPU has passed through the
//! scheduler (an RCU grace period): tens of milliseconds each time. Expedited, a grace period interrupts the CPUs
//! instead and takes some microseconds. That is worth it while everybody waits, and not for ever.

use crate::boot::log;
use std::{fs, io};

const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// Grace periods are short; [`Expedited::end`] makes them what they were.
#[derive(Debug)]
pub struct Expedited {
    before: String,
}

impl Expedited {
    /// Makes them short. Without the switch everything takes longer, and nothing is wrong.
    pub fn begin() -> Option<Self> {
        let begin = || -> io::Result<Self> {
            let before = fs::read_to_string(SWITCH)?;
            fs::write(SWITCH, "1")?;
            Ok(Self { before })
        };
        begin()
            .inspect_err(|error| log::warning(format_args!("{SWITCH}: {error}")))
            .ok()
    }

    /// Puts the switch back.
    pub fn end(&self) {
        if let Err(error) = fs::write(SWITCH, self.before.trim()) {
            log::warning(format_args!("{SWITCH} stays on: {error}"));
        }
    }
}
