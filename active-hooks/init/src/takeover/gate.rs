//! The salvage gate: the word that lets a successor touch what the dead kernel owned.

use crate::boot::log;
use orthros_device::Region;
use shared_region::control::SalvageGate;
use std::time::{Duration, Instant};

/// How long salvage may take.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_micros(200);
/// The backup OS resets the machine within this time once it has given up.
const RESET_TIME: Duration = Duration::from_secs(120);

/// Waits until salvage is over. `Busy` if it is not in time; a word that is no gate counts as that.
pub fn wait(region: &Region) -> SalvageGate {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match region.salvage_gate() {
            Ok(SalvageGate::Busy) => {}
            Ok(gate) => return gate,
            Err(word) => {
                log::error(format_args!("the salvage gate holds {word:#x}, which is no gate"));
                return SalvageGate::Busy;
            }
        }
        if Instant::now() >= deadline {
            log::error(format_args!("salvage is not over after {PATIENCE:?}"));
            return SalvageGate::Busy;
        }
        std::thread::sleep(STEP);
    }
}

/// Ends this program before it has touched anything: the end of process 1 is a panic, which the backup OS sees, and
/// another kernel takes over.
pub fn leave_it_to_another(why: std::fmt::Arguments<'_>) -> ! {
    log::error(format_args!("{why}; leaving it to another kernel"));
    std::process::exit(1);
}

/// Does nothing, so that no disk is written, until the backup OS has reset the machine.
pub fn rest_until_reset() {
    log::error(format_args!("waiting for the backup OS to reset the machine"));
    std::thread::sleep(RESET_TIME);
}
