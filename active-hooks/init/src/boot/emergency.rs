//! When nothing else helps: a message, then a shell, else a reboot. In a successor nobody sits at the console: it
//! reboots at once, so that the machine comes back as it would have without us.

use super::{cmdline::Cmdline, log};
use orthros_device::Device;
use std::{os::unix::process::CommandExt, path::Path, process::Command, time::Duration};

/// A shell, of the initramfs or of the root file system, and its arguments.
const SHELLS: [(&str, &[&str]); 2] = [("/bin/busybox", &["sh", "-i"]), ("/bin/sh", &["-i"])];
/// How long the message stays readable before the reboot.
const PAUSE: Duration = Duration::from_secs(20);

/// Tells the failure and becomes a shell on the console. Never returns.
pub fn enter(failure: &str) -> ! {
    log::error(format_args!("{failure}"));
    eprintln!("\northros-init: {failure}\n");
    let successor = Device::open().and_then(|device| device.info());
    // Where the module is missing, the command line still knows.
    let told = Cmdline::of_this_kernel().is_ok_and(|line| line.is_successor());
    let alone = told || successor.is_ok_and(|info| info.successor != 0);
    for (shell, arguments) in SHELLS.into_iter().filter(|_| !alone) {
        if !Path::new(shell).exists() {
            continue;
        }
        eprintln!("This is an emergency shell.");
        crate::sys::unblock_all_signals();
        let error = Command::new(shell).args(arguments).exec();
        log::error(format_args!("{shell}: {error}"));
    }
    log::error(format_args!("the machine is rebooted in {} seconds", PAUSE.as_secs()));
    std::thread::sleep(PAUSE);
    loop {
        // Nothing is mounted for writing that a reboot could harm more than the failure has.
        let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
        std::thread::sleep(PAUSE);
    }
}
