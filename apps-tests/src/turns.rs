//! That no CPU waits for ever for its turn while instructions are counted.
//!
//! QEMU runs one CPU until the next timer is due, and then the next CPU. Is that timer always due when the turn is the
//! second one's, it has no time left in it, and a CPU that waits for the other in a loop waits for ever (QEMU before 8.1,
//! `rr_cpu_thread_fn` and `icount_get_limit`). Whoever stops the machine for a moment ends a turn early.

use crate::qmp::Qmp;
use serde_json::json;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Between two ends, of the host's time: many instructions, so that few are counted twice.
const TURN: Duration = Duration::from_millis(100);
/// For QEMU to answer while it makes a snapshot.
const PATIENCE: Duration = Duration::from_secs(600);

/// Ends turns until QEMU has gone or the machine has stopped for good. The connection must be for this alone.
///
/// # Errors
/// When there can be no thread for it.
pub fn end_now_and_then(connection: UnixStream) -> std::io::Result<()> {
    let run = || -> anyhow::Result<()> {
        let mut qmp = Qmp::start(connection)?;
        loop {
            std::thread::sleep(TURN);
            for command in ["stop", "cont"] {
                qmp.command(command, json!({}), PATIENCE)?;
            }
        }
    };
    // It ends with an error, as the machine does.
    std::thread::Builder::new().name("turns".into()).spawn(|| drop(run()))?;
    Ok(())
}
