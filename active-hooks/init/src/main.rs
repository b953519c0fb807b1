//! `/init` of the initramfs, in both roles: the first kernel of a machine, and the successor of one that died.
//!
//! What we know on entry: the kernel has just unpacked the initramfs and started us as process 1; nothing is mounted.
//!
//! What we are responsible for: the distribution's own init runs in the end, as process 1 and on its own root file
//! system; in a successor, what could be saved of the dead kernel runs before it. When that is impossible, a message
//! names the thing, and the administrator gets a shell.

use orthros_init::boot;

fn main() {
    if std::process::id() != 1 {
        eprintln!("orthros-init: is started by the kernel as the first program of an initramfs, not by hand");
        std::process::exit(2);
    }
    let failure = match std::panic::catch_unwind(boot::run) {
        Ok(Ok(never)) => match never {},
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "orthros-init has failed inside".to_owned(),
    };
    boot::emergency::enter(&failure);
}
