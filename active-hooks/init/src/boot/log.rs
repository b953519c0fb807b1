//! Messages, into the kernel's log and so to the console.

use std::{fmt, fs::File, io::Write};

fn write(level: u8, text: fmt::Arguments<'_>) {
    let line = format!("<{level}>orthros-init: {text}\n");
    // One write is one record. Without the node the console is all there is.
    let logged = File::options()
        .write(true)
        .open("/dev/kmsg")
        .and_then(|mut kmsg| kmsg.write_all(line.as_bytes()));
    if logged.is_err() {
        eprintln!("orthros-init: {text}");
    }
}

/// What went as it should (level notice).
pub fn info(text: fmt::Arguments<'_>) {
    write(5, text);
}

/// What is missing, but not in the way.
pub fn warning(text: fmt::Arguments<'_>) {
    write(4, text);
}

/// What is in the way.
pub fn error(text: fmt::Arguments<'_>) {
    write(3, text);
}
