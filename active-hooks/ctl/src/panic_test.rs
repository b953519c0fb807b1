//! `orthros-ctl panic-test`.

use crate::cli::{Injection, PanicKind, PanicTest};
use crate::exit::Exit;
use crate::snapshot::{control, libc_errno, open_region, Snapshot};
use crate::status;
use anyhow::{anyhow, bail, ensure, Context, Result};
use orthros_device::{Device, DeviceError};
use shared_region::control::{inject, WatchState};
use shared_region::device::{test_kind, Test};
use shared_region::fail_at::{self, FailAt, FailHow};
use std::ffi::CString;

impl PanicKind {
    /// The module's number for it; `None` for what needs no module.
    fn module_kind(self) -> Option<u64> {
        Some(match self {
            Self::Sysrq => return None,
            Self::Panic => test_kind::PANIC,
            Self::NullDereference => test_kind::NULL_DEREFERENCE,
            Self::BugInInterrupt => test_kind::BUG_IN_INTERRUPT,
            Self::PanicWithSpinner => test_kind::PANIC_WITH_SPINNER,
            Self::PanicInPanic => test_kind::PANIC_IN_PANIC,
            Self::PanicHoldingLocks => test_kind::PANIC_HOLDING_LOCKS,
            Self::At => test_kind::PANIC_AT,
            Self::Corrupt => test_kind::CORRUPT,
        })
    }
}

impl Injection {
    fn bit(self) -> u64 {
        match self {
            Self::SkipNmi => inject::SKIP_NMI_RUNG,
            Self::SkipInit => inject::SKIP_AP_INIT_RUNG,
            Self::SkipNmiText => inject::SKIP_PATCH_RUNG,
            Self::SkipLoopText => inject::SKIP_LOOP_RUNG,
            Self::SkipWarmReset => inject::SKIP_INIT_RUNG,
            Self::ParkAtOnce => inject::PARK_AT_ONCE,
            Self::SmallContext => inject::SMALL_CONTEXT,
            Self::HashMemory => inject::HASH_MEMORY,
        }
    }
}

/// Checks that it is meant and that the machine would come back.
fn allow(test: &PanicTest, snapshot: &Snapshot) -> Result<()> {
    ensure!(
        test.yes,
        "this ends the running kernel, and with it every process that is not protected; add --yes if that is meant"
    );
    let state = control!(snapshot, watch_state);
    ensure!(
        WatchState::from_word(state) == Some(WatchState::Armed),
        "the machine is not armed ({}), so it would not come back; `orthros-ctl status` says what to do",
        status::state_text(snapshot)
    );
    if let (Some(cpu), Ok(header)) = (test.cpu, &snapshot.header) {
        ensure!(
            u64::from(cpu) < header.cpu_count,
            "there is no CPU {cpu}: Linux has {}",
            header.cpu_count
        );
    }
    ensure!(
        test.kind != PanicKind::PanicWithSpinner || test.cpu.is_some(),
        "panic-with-spinner needs --cpu: the CPU that is to spin"
    );
    Ok(())
}

/// Makes the kernel fail. Does not return if it does.
pub fn run(test: &PanicTest) -> Result<Exit> {
    let (device, region) = open_region()?;
    allow(test, &Snapshot::take(&region))?;
    inject_faults(&device, test)?;
    let Some(kind) = test.kind.module_kind() else {
        ensure!(
            test.cpu.is_none(),
            "sysrq fails where it runs; use --kind panic with --cpu"
        );
        std::fs::write("/proc/sysrq-trigger", "c").context("/proc/sysrq-trigger")?;
        bail!("the kernel has not failed");
    };
    let place = CString::new(test.at.clone().unwrap_or_default()).context("--at")?;
    let mut request = Test {
        kind,
        cpu: test.cpu.map_or(u64::MAX, u64::from),
        value: 0,
    };
    if matches!(test.kind, PanicKind::At | PanicKind::Corrupt) {
        (request.cpu, request.value) = (test.passes, place.as_ptr() as u64);
    }
    device.test(request).map_err(refused)?;
    // Some kinds fail a moment later, on another CPU, or where the kernel comes by seldom.
    let seconds = if test.kind == PanicKind::At { 60 } else { 10 };
    std::thread::sleep(std::time::Duration::from_secs(seconds));
    bail!("the kernel has not failed within {seconds} seconds");
}

fn inject_faults(device: &Device, test: &PanicTest) -> Result<()> {
    let ask = |kind, value| {
        let cpu = u64::MAX;
        device.test(Test { kind, cpu, value }).map_err(refused)
    };
    for cpu in &test.unparkable {
        ask(test_kind::UNPARKABLE, u64::from(*cpu)).with_context(|| format!("--unparkable {cpu}"))?;
    }
    let bits = test.inject.iter().fold(0, |bits, fault| bits | fault.bit());
    let bits = bits
        | test
            .successor_at
            .map_or(0, |step| successor_at(step, test.successor_fails));
    if bits != 0 {
        ask(test_kind::INJECT, bits).context("--inject")?;
    }
    Ok(())
}

fn successor_at(step: FailAt, how: FailHow) -> u64 {
    fail_at::word(step, how) << inject::SUCCESSOR_AT_SHIFT
}

/// Lets the next failover's first successor fail at a step.
///
/// # Errors
/// The module does not allow tests.
pub fn let_successor_fail(device: &Device, step: FailAt, how: FailHow) -> Result<()> {
    let test = Test {
        kind: test_kind::INJECT,
        cpu: u64::MAX,
        value: successor_at(step, how),
    };
    device.test(test).map_err(refused).context("--successor-at")
}

/// Why the module does not do as asked.
fn refused(error: DeviceError) -> anyhow::Error {
    if error.errno() == Some(libc_errno::EPERM) {
        return anyhow!(
            "the module does not allow tests: load it with `modprobe orthros allow_test=1`, or use --kind sysrq alone"
        );
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fake::Fake;
    use shared_region::control::ControlWords;
    use std::mem::offset_of;

    fn test(kind: PanicKind, cpu: Option<u32>, yes: bool) -> PanicTest {
        PanicTest {
            kind,
            cpu,
            at: None,
            passes: 0,
            inject: Vec::new(),
            successor_at: None,
            successor_fails: FailHow::Panic,
            unparkable: Vec::new(),
            yes,
        }
    }

    fn refusal(test: &PanicTest, fake: &Fake) -> String {
        allow(test, &Snapshot::take(fake)).expect_err("refused").to_string()
    }

    #[test]
    fn it_is_refused_unless_meant_and_armed() {
        let mut fake = Fake::armed();
        assert!(refusal(&test(PanicKind::Sysrq, None, false), &fake).contains("--yes"));
        assert!(allow(&test(PanicKind::Sysrq, None, true), &Snapshot::take(&fake)).is_ok());
        fake.set_control(offset_of!(ControlWords, watch_state), 1);
        assert!(refusal(&test(PanicKind::Sysrq, None, true), &fake).contains("not armed"));
    }

    #[test]
    fn a_cpu_that_is_not_there_is_named() {
        let fake = Fake::armed();
        assert!(refusal(&test(PanicKind::Panic, Some(3), true), &fake).contains("no CPU 3"));
        assert!(refusal(&test(PanicKind::PanicWithSpinner, None, true), &fake).contains("--cpu"));
    }
}
