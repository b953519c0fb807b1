//! `orthros-ctl update`: the staged kernel takes over from a healthy one.
//!
//! Everything that can be checked is checked first. From the moment the doorbell is rung on it is the way of a failover.

use crate::check::{self, Verdict};
use crate::cli;
use crate::exit::Exit;
use crate::freezer::Freezer;
use crate::panic_test;
use crate::root::Root;
use crate::snapshot::{libc_errno, open_region, Snapshot};
use crate::stage;
use crate::status::{self, Status};
use crate::units::count;
use anyhow::{anyhow, bail, ensure, Result};
use orthros_device::Device;
use serde_json::json;
use shared_region::device::{update_flags, Update};

/// How long frozen threads may take to be found frozen, in microseconds.
const FROZEN_DEADLINE: u64 = 500_000;

const NOT_MEANT: &str =
    "this ends every process that is not protected; add --yes if that is meant, or --dry-run to see what would be kept";

/// What would happen.
struct Plan {
    verdicts: Vec<Verdict>,
    kernel: String,
    /// What the module saw of the threads at one moment.
    threads: Update,
}

impl Plan {
    fn survives(&self) -> bool {
        self.verdicts.iter().all(Verdict::survives)
    }

    /// Processes of which something would not survive.
    fn refused(&self) -> u64 {
        self.verdicts.iter().filter(|verdict| !verdict.survives()).count() as u64
    }

    fn text(&self) -> String {
        let mut out = format!("staged: {}\n", self.kernel);
        for verdict in &self.verdicts {
            out += &verdict.text();
        }
        if self.verdicts.is_empty() {
            out += "no process is protected: an update would be a restart\n";
        }
        out += &format!(
            "{} now",
            count(self.threads.threads, "protected thread", "protected threads")
        );
        match self.threads.tid {
            0 => out += ", none in the way",
            tid => {
                out += &format!(
                    ", thread {tid} in system call {} in the way at this moment",
                    self.threads.call
                )
            }
        }
        out += &format!(
            ", {} of which the call would end with EINTR\n",
            count(self.threads.interrupted, "thread", "threads")
        );
        out
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "version": 1,
            "staged": self.kernel,
            "survive": self.survives(),
            "processes": self.verdicts.iter().map(Verdict::json).collect::<Vec<_>>(),
            "threads": self.threads.threads,
            "in_the_way": (self.threads.tid != 0).then(|| json!({"tid": self.threads.tid, "call": self.threads.call})),
            "interrupted_calls": self.threads.interrupted,
        })
    }
}

/// Whether an update can be made at all; returns the staged kernel in words.
fn allow(status: &Status, snapshot: &Snapshot) -> Result<String> {
    ensure!(
        status.armed(),
        "the machine is not armed ({}), so no kernel could take over; `orthros-ctl status` says what to do",
        status::state_text(snapshot)
    );
    let Some(slot) = status.staged() else {
        bail!("no kernel is staged");
    };
    Ok(slot.text())
}

/// A word about what is being done.
fn progress(text: &str) {
    eprintln!("update: {text}");
}

fn plan(device: &Device, region: &orthros_device::Region) -> Result<Plan> {
    let root = Root::system();
    let snapshot = Snapshot::take(region);
    let status = Status::take(region, &root);
    let kernel = allow(&status, &snapshot)?;
    let verdicts = check::protected(&root, snapshot)?;
    let own = std::process::id();
    ensure!(
        verdicts.iter().all(|verdict| verdict.pid() != own),
        "this program is protected itself, as a descendant of a protected process, and would have to outlive the kernel it \
         replaces; run it from elsewhere"
    );
    let mut threads = Update {
        flags: update_flags::DRY_RUN | update_flags::ALLOW_INTERRUPTED,
        ..Update::default()
    };
    match device.update(&mut threads) {
        Err(error) if error.errno() != Some(libc_errno::EAGAIN) => Err(explain(error, &threads)),
        _ => Ok(Plan {
            verdicts,
            kernel,
            threads,
        }),
    }
}

fn explain(error: orthros_device::DeviceError, seen: &Update) -> anyhow::Error {
    match error.errno() {
        Some(libc_errno::EAGAIN) => anyhow!(
            "thread {} was in system call {} all the time, which cannot be stopped exactly; nothing has been done",
            seen.tid,
            seen.call
        ),
        Some(libc_errno::ENODEV) => anyhow!("the machine is not armed; nothing has been done"),
        Some(libc_errno::ETIMEDOUT) => anyhow!("the backup OS did not take over; the kernel runs on"),
        _ => anyhow::Error::new(error).context("update"),
    }
}

/// Rings, in a moment that fits. Does not return if that succeeds.
fn ring(device: &Device, deadline: u64, flags: u64) -> (orthros_device::DeviceError, Update) {
    let mut request = Update {
        deadline,
        flags,
        ..Update::default()
    };
    loop {
        match device.update(&mut request) {
            // Cannot be: the call either does not return or fails.
            Ok(()) => {}
            Err(error) => return (error, request),
        }
    }
}

/// Lets what comes go ahead of ordinary work: the check looks at every protected process, and a machine that is busy with
/// many would make it last for minutes.
fn go_ahead() {
    // Only the time it takes depends on it.
    let _ = rustix::process::setpriority_process(None, -20);
}

/// Updates, or says what would happen.
pub fn run(wish: &cli::Update) -> Result<Exit> {
    ensure!(
        !(wish.dry_run && wish.images.kernel.is_some()),
        "--dry-run changes nothing, and --kernel would stage a kernel: `orthros-ctl stage` does that alone"
    );
    stage::check_options(&wish.images)?;
    let (device, region) = open_region()?;
    go_ahead();
    if !wish.dry_run {
        ensure!(device.lock(), "another update is under way");
    }
    if wish.images.kernel.is_some() {
        ensure!(wish.yes, NOT_MEANT);
        stage::stage(&device, &region, &wish.images)?;
    }
    progress("checking the protected processes");
    let plan = plan(&device, &region)?;
    if wish.json {
        println!("{:#}", plan.json());
    } else if wish.dry_run {
        print!("{}", plan.text());
    }
    let exit = if plan.survives() { Exit::Fine } else { Exit::No };
    if wish.dry_run {
        return Ok(exit);
    }
    if !plan.survives() && !wish.force {
        if !wish.json {
            print!("{}", plan.text());
        }
        eprintln!(
            "orthros-ctl: {} would not survive; nothing has been done (--force updates all the same)",
            count(plan.refused(), "process", "processes")
        );
        return Ok(Exit::No);
    }
    ensure!(wish.yes, NOT_MEANT);
    if !wish.no_sync {
        progress("writing file systems out");
        rustix::fs::sync();
    }
    if let Some(step) = wish.successor_at {
        panic_test::let_successor_fail(&device, step, wish.successor_fails)?;
    }
    progress("waiting for a moment in which no call has to be interrupted");
    // What is lost by force must not be in the way.
    let busy = if wish.force { update_flags::ALLOW_BUSY } else { 0 };
    let (error, seen) = ring(&device, wish.wait * 1000, busy);
    if error.errno() != Some(libc_errno::EAGAIN) {
        return Err(explain(error, &seen));
    }
    progress(&format!(
        "there was none in {} ms: thread {} is in system call {}; freezing the protected processes",
        wish.wait, seen.tid, seen.call
    ));
    let pids: Vec<u32> = plan.verdicts.iter().map(Verdict::pid).collect();
    let frozen = Freezer::freeze(&pids)?;
    if frozen.moved() > 0 {
        progress(&format!(
            "moved {} into a cgroup of their own for that",
            count(frozen.moved() as u64, "process", "processes")
        ));
    }
    let (error, seen) = ring(&device, FROZEN_DEADLINE, update_flags::ALLOW_INTERRUPTED | busy);
    drop(frozen);
    Err(explain(error, &seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fake::Fake;
    use shared_region::control::ControlWords;
    use shared_region::layout::STAGE_TABLE;
    use std::mem::offset_of;

    fn refusal(fake: &Fake) -> String {
        let status = Status::take(fake, &Root::at("/nowhere"));
        allow(&status, &Snapshot::take(fake)).expect_err("refused").to_string()
    }

    #[test]
    fn it_needs_an_armed_machine_and_a_staged_kernel() {
        let mut fake = Fake::armed();
        assert_eq!(refusal(&fake), "no kernel is staged");
        fake.set_word(STAGE_TABLE, 1, 1);
        let status = Status::take(&fake, &Root::at("/nowhere"));
        assert!(allow(&status, &Snapshot::take(&fake)).is_ok());
        fake.set_control(offset_of!(ControlWords, watch_state), 1);
        assert!(refusal(&fake).contains("not armed"));
    }

    #[test]
    fn what_was_in_the_way_is_named() {
        let plan = Plan {
            verdicts: Vec::new(),
            kernel: "kernel".into(),
            threads: Update {
                threads: 8,
                tid: 2345,
                call: 1,
                interrupted: 2,
                ..Update::default()
            },
        };
        let text = plan.text();
        assert!(
            text.contains("8 protected threads") && text.contains("thread 2345 in system call 1"),
            "{text}"
        );
        assert!(text.contains("2 threads of which"), "{text}");
        assert_eq!(plan.json()["in_the_way"]["tid"], 2345);
    }
}
