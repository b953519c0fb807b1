//! `orthros-ctl hang-test`.

use crate::cli::{HangKind, HangTest};
use crate::config;
use crate::exit::Exit;
use crate::snapshot::{control, libc_errno, open_region, Snapshot};
use crate::status;
use anyhow::{bail, ensure, Context, Result};
use shared_region::control::{features, HangLimit, WatchState};
use shared_region::device::{test_kind, Test};
use std::time::Duration;

/// How much longer than its deadline a hang may take to be noticed: questions, and a machine that is slow.
const PATIENCE: Duration = Duration::from_secs(540);

impl HangKind {
    fn module_kind(self) -> u64 {
        match self {
            Self::AllCpus => test_kind::HANG_ALL,
            Self::OneCpuIrqOff => test_kind::HANG_CPU,
            Self::InNmi => test_kind::HANG_IN_NMI,
            Self::HoldingLocks => test_kind::HANG_HOLDING_LOCKS,
            Self::SoftLockup => test_kind::SOFT_LOCKUP,
            Self::LiveLock => test_kind::LIVE_LOCK,
            Self::Stall => test_kind::STALL,
        }
    }

    fn limit(self) -> HangLimit {
        match self {
            Self::AllCpus | Self::OneCpuIrqOff | Self::InNmi | Self::HoldingLocks => HangLimit::Cpu,
            Self::SoftLockup => HangLimit::Thread,
            Self::LiveLock => HangLimit::LiveLock,
            Self::Stall => HangLimit::Stalled,
        }
    }
}

/// Checks that it is meant and would be noticed; returns after how long.
fn allow(test: &HangTest, snapshot: &Snapshot) -> Result<u64> {
    ensure!(
        test.yes || test.kind == HangKind::Stall,
        "this ends the running kernel, and with it every process that is not protected; add --yes if that is meant"
    );
    let state = control!(snapshot, watch_state);
    ensure!(
        WatchState::from_word(state) == Some(WatchState::Armed),
        "the machine is not armed ({}), so it would hang for good; `orthros-ctl status` says what to do",
        status::state_text(snapshot)
    );
    ensure!(
        control!(snapshot, module_features) & features::ANSWERS != 0,
        "this kernel's module does not answer questions: the hang would not be noticed"
    );
    if let (Some(cpu), Ok(header)) = (test.cpu, &snapshot.header) {
        ensure!(
            u64::from(cpu) < header.cpu_count,
            "there is no CPU {cpu}: Linux has {}",
            header.cpu_count
        );
    }
    let limit = test.kind.limit();
    config::deadline(snapshot, limit).with_context(|| {
        let name = HangLimit::ALL[limit as usize].1;
        format!("{name} is off: the hang would not be noticed; `orthros-ctl config {name} default`")
    })
}

/// What would rescue ordinary threads from a live-lock of threads with a real-time priority: the share of time that is
/// kept for them (6.1), and the server that runs them in between (6.12).
fn allow_starvation() -> Result<()> {
    std::fs::write("/proc/sys/kernel/sched_rt_runtime_us", "-1").context("/proc/sys/kernel/sched_rt_runtime_us")?;
    let servers = "/sys/kernel/debug/sched/fair_server";
    let list = match std::fs::read_dir(servers) {
        Ok(list) => list,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(servers),
    };
    for entry in list {
        let file = entry?.path().join("runtime");
        std::fs::write(&file, "0").with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// Makes the kernel hang. Does not return if it does.
pub fn run(test: &HangTest) -> Result<Exit> {
    let (device, region) = open_region()?;
    let deadline = allow(test, &Snapshot::take(&region))?;
    if test.kind == HangKind::LiveLock {
        allow_starvation()?;
    }
    let result = device.test(Test {
        kind: test.kind.module_kind(),
        cpu: test.cpu.map_or(u64::MAX, u64::from),
        value: 0,
    });
    match result {
        Err(error) if error.errno() == Some(libc_errno::EPERM) => {
            bail!("the module does not allow tests: load it with `modprobe orthros allow_test=1`")
        }
        Err(error) => Err(error).context("hang-test"),
        Ok(()) if test.kind == HangKind::Stall => Ok(Exit::Fine),
        Ok(()) => {
            std::thread::sleep(Duration::from_millis(deadline) + PATIENCE);
            bail!("the hang was not noticed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fake::Fake;
    use shared_region::control::ControlWords;
    use std::mem::offset_of;

    fn test(yes: bool) -> HangTest {
        HangTest {
            kind: HangKind::AllCpus,
            cpu: None,
            yes,
        }
    }

    fn refusal(test: &HangTest, fake: &Fake) -> String {
        allow(test, &Snapshot::take(fake)).expect_err("refused").to_string()
    }

    #[test]
    fn it_is_refused_unless_meant_and_noticed() {
        let mut fake = Fake::armed();
        assert!(refusal(&test(false), &fake).contains("--yes"));
        assert!(refusal(&test(true), &fake).contains("does not answer"));
        fake.set_control(offset_of!(ControlWords, module_features), 1);
        assert_eq!(allow(&test(true), &Snapshot::take(&fake)).expect("allowed"), 10_000);
        fake.set_control(offset_of!(ControlWords, hang_limits), HangLimit::OFF);
        assert!(refusal(&test(true), &fake).contains("config hang-cpu default"));
        fake.set_control(offset_of!(ControlWords, watch_state), 1);
        assert!(refusal(&test(true), &fake).contains("not armed"));
    }
}
