//! When nothing else helps: a message, then a shell, else a reboot.

use super::log;
use std::{os::unix::process::CommandExt, path::Path, process::Command, time::Duration};

const BUSYBOX: &str = "/bin/busybox";
/// How long the message stays readable before the reboot.
const PAUSE: Duration = Duration::from_secs(20);

/// Tells the failure and becomes a shell on the console. Never returns.
pub fn enter(failure: &str) -> ! {
    log::error(format_args!("{failure}"));
    eprintln!("\northros-init: {failure}\n");
    if Path::new(BUSYBOX).exists() {
        eprintln!("This is an emergency shell.");
        crate::sys::unblock_all_signals();
        let error = Command::new(BUSYBOX).arg("sh").arg("-i").exec();
        log::error(format_args!("{BUSYBOX}: {error}"));
    }
    log::error(format_args!("the machine is rebooted in {} seconds", PAUSE.as_secs()));
    std::thread::sleep(PAUSE);
    loop {
        // Nothing is mounted for writing that a reboot could harm more than the failure has.
        let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
        std::thread::sleep(PAUSE);
    }
}
