//! One scenario from boot to verdict.

use crate::agent::Hello;
use crate::artefacts::Artefacts;
use crate::capture;
use crate::clients::Clients;
use crate::machine::{Machine, Plan};
use crate::paths::Paths;
use crate::progress;
use crate::qemu::Accelerator;
use crate::report::{Report, StepResult, SuccessorStart};
use crate::scenario::{Check, Event, Expect, Scenario, Step};
use crate::serial::Line;
use anyhow::{bail, Context, Result};
use regex::Regex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For a machine to boot, GRUB and an emulated CPU included.
const BOOT: Duration = Duration::from_secs(240);
/// The same where instructions are counted.
const COUNTED_BOOT: Duration = Duration::from_secs(1800);
/// For a command that does next to nothing.
const SHORT: Duration = Duration::from_secs(60);
/// For a machine to be armed. Where the clock is not the TSC (Linux 6.1 under emulation) and every CPU is busy, a command of
/// the guest can take most of a minute.
const ARMED: Duration = Duration::from_secs(180);
/// For what was said to have come over the serial line.
const SAID: Duration = Duration::from_secs(10);
/// What a kernel says first on its console: one that boots, and one that was asleep.
const FIRST_WORDS: [&str; 2] = ["Linux version ", "orthros-init: standby: woken"];
/// What the backup OS says when no CPU of the old kernel runs any more.
const STOPPED: &str = "stop: .*parked";
/// Name of the saved machine state.
const READY: &str = "ready";

/// A guest that has booted and whose protected program is ready to be disturbed.
pub struct Ready<'a> {
    scenario: &'a Scenario,
    plan: &'a Plan,
    machine: Machine,
    hello: Hello,
    logs: PathBuf,
    acknowledged: BTreeMap<String, u64>,
}

impl<'a> Ready<'a> {
    /// Boots, prepares, starts the protected program and waits until it is ready.
    ///
    /// # Errors
    /// When any of it fails; the run's logs tell more.
    pub fn start(paths: &Paths, artefacts: &Artefacts, scenario: &'a Scenario, plan: &'a Plan) -> Result<Self> {
        let step = progress::Step::start(format!("{}: {} → {}", scenario.name(), plan.active, plan.successor));
        let mut machine = Machine::start(paths, artefacts, scenario, plan)?;
        step.at("booting");
        match Self::get_ready(&mut machine, scenario, plan, &step) {
            Ok(hello) => Ok(Self {
                scenario,
                plan,
                machine,
                hello,
                logs: plan.dir.clone(),
                acknowledged: BTreeMap::new(),
            }),
            Err(error) => Err(machine.explain(error)),
        }
    }

    fn get_ready(machine: &mut Machine, scenario: &Scenario, plan: &Plan, step: &progress::Step) -> Result<Hello> {
        let counted = plan.accelerator == Some(Accelerator::InstructionCount);
        let boot = if counted { COUNTED_BOOT } else { BOOT };
        let hello = machine.agent.wait_ready(boot).context("the guest did not come up")?;
        if hello.release != machine.active.release {
            bail!(
                "the guest runs kernel {} instead of {}",
                hello.release,
                machine.active.release
            );
        }
        let unprotected = plan.stock || scenario.guest.unprotected;
        if !unprotected {
            step.at("arming");
            armed(machine)?;
        }
        step.at("starting the protected program");
        for command in &scenario.protect.prepare {
            machine
                .agent
                .check(command, Duration::from_secs(scenario.protect.ready.timeout))?;
        }
        protect(machine, scenario, unprotected)?;
        wait_for(machine, &scenario.protect.ready).context("the protected program did not get ready")?;
        Ok(hello)
    }

    /// Keeps this state, to come back to with [`Ready::again`].
    ///
    /// # Errors
    /// When QEMU fails.
    pub fn save(&mut self) -> Result<()> {
        self.machine.save(READY)?;
        // Another process goes on from there, and has lines of its own.
        self.acknowledged = acknowledged(&self.machine);
        Ok(())
    }

    /// Goes back to the kept state, with the logs of what follows in `dir`.
    ///
    /// # Errors
    /// When QEMU fails.
    pub fn again(&mut self, dir: &Path) -> Result<()> {
        self.machine.go_back(dir)?;
        self.logs = dir.to_path_buf();
        Ok(())
    }

    /// Runs the steps and the verdict from the ready state.
    pub fn run(&mut self, steps: &[Step], seed: u64) -> Report {
        let start = Instant::now();
        let mut report = Report::new(self.scenario, self.plan, seed);
        report.active.clone_from(&self.machine.active.release);
        report.successor.clone_from(&self.machine.successor.release);
        report.logs = self.logs.display().to_string();
        let result = self.go(steps, &mut report);
        report.seconds = start.elapsed().as_secs_f64();
        report.passed = result.is_ok();
        report.failure = result.err().map(|error| format!("{:#}", self.machine.explain(error)));
        report
    }

    fn go(&mut self, steps: &[Step], report: &mut Report) -> Result<()> {
        let shown = progress::Step::start(format!("{}: steps and verdict", self.scenario.name()));
        let console = self.machine.qemu.console.position();
        let mut clients = Clients::start(self.scenario, &self.machine.qemu, &self.logs)?;
        report.moment(self.machine.qemu.start.elapsed(), "ready");
        if self.scenario.clients.iter().any(|client| client.ready.is_some()) {
            clients.wait_ready()?;
            report.moment(self.machine.qemu.start.elapsed(), "clients under way");
        }
        let mut boot_id = self.hello.boot_id.clone();
        for step in steps {
            for _ in 0..step.repeat {
                shown.at(&format!("{:?}", step.event));
                std::thread::sleep(Duration::from_millis(step.after_ms));
                self.step(step, &mut boot_id, report)?;
                clients.check()?;
            }
        }
        shown.at("verdict");
        self.verdict(&mut clients, report)?;
        // After a reset there is no successor whose complaints would count.
        if self.scenario.ends_in_reset() {
            return Ok(());
        }
        self.no_complaint(console)
    }

    /// Brings a failure about and waits for the successor's user space.
    fn step(&mut self, step: &Step, boot_id: &mut String, report: &mut Report) -> Result<()> {
        let machine = &mut self.machine;
        for command in &step.before {
            machine.agent.check(command, Duration::from_secs(step.timeout))?;
        }
        let asked = machine.qemu.start.elapsed();
        let injection = step.injection.clone().unwrap_or_else(|| match step.event {
            Event::Panic => "sysrq".into(),
            _ => String::new(),
        });
        report.moment(asked, format!("{:?} ({injection})", step.event));
        let mut result = StepResult {
            event: step.event,
            injection,
            asked: asked.as_secs_f64(),
            up: None,
            release: None,
        };
        let said = Said {
            backup: machine.qemu.backup.position(),
            console: machine.qemu.console.position(),
        };
        if let Some(command) = step.event.command(step.injection.as_deref()) {
            let written = machine.qemu.disk_writes()?;
            machine.agent.send(&command)?;
            report.steps.push(result.clone());
            if !step.disks_fail.is_empty() || !step.disks_refuse_writes.is_empty() {
                machine
                    .qemu
                    .backup
                    .wait_for(said.backup, &Regex::new(STOPPED)?, SHORT)?;
            }
            for &number in &step.disks_fail {
                machine.qemu.fail_disk(number)?;
            }
            for &number in &step.disks_refuse_writes {
                machine.qemu.refuse_writes(number, true)?;
            }
            match step.expect {
                Expect::Successor => {
                    let hello = self.successor(step, boot_id, report)?;
                    result.up = Some(hello.at.as_secs_f64());
                    result.release = Some(hello.release);
                }
                Expect::Reset => self.reset(step, written, report)?,
                Expect::Restart => self.restart(step, boot_id, report)?,
            }
            for &number in &step.disks_refuse_writes {
                self.machine.qemu.refuse_writes(number, false)?;
            }
            report.steps.pop();
        } else if step.event == Event::Pause {
            machine.qemu.pause(Duration::from_millis(step.pause_ms))?;
            unharmed(machine, boot_id)?;
        }
        report.steps.push(result);
        let acknowledged = self.acknowledged();
        for command in &step.after {
            let command = with_acknowledged(&acknowledged, command);
            self.machine.agent.check(&command, Duration::from_secs(step.timeout))?;
        }
        said.check(step, &self.machine)
    }

    /// Waits for the successor's user space, and until the machine is armed again.
    fn successor(&mut self, step: &Step, boot_id: &mut String, report: &mut Report) -> Result<Hello> {
        let machine = &mut self.machine;
        let answer = machine.agent.wait_ready(Duration::from_secs(step.timeout));
        let hello = answer.context("no successor came up")?;
        report.moment(hello.at, format!("user space of {}", hello.release));
        if hello.boot_id == *boot_id {
            bail!("the agent restarted, but the kernel is the old one: nothing panicked");
        }
        let planned = match step.rolls_back {
            false => &machine.successor.release,
            true => &machine.active.release,
        };
        let expected = match step.successor {
            Some(series) => hello.release.starts_with(&format!("{series}.")),
            None => hello.release == *planned,
        };
        if !expected {
            bail!("kernel {} took over instead of {planned}", hello.release);
        }
        boot_id.clone_from(&hello.boot_id);
        // Whoever fails next, or looks at the report, needs the machine to be whole again.
        if step.arms {
            armed(machine).context("after the failover")?;
            report.moment(machine.qemu.start.elapsed(), "armed again");
            right_cause(machine, step)?;
        }
        Ok(hello)
    }

    /// Waits until the machine resets itself. `written` are the writes to its disks before the event.
    fn reset(&mut self, step: &Step, written: u64, report: &mut Report) -> Result<()> {
        let qemu = &mut self.machine.qemu;
        let reason = qemu.wait_stopped(Duration::from_secs(step.timeout))?;
        report.moment(qemu.start.elapsed(), format!("stopped: {reason}"));
        if reason != "guest-reset" {
            bail!("the machine was not reset but ended by {reason}");
        }
        let writes = qemu.disk_writes()? - written;
        if step.no_disk_writes && writes != 0 {
            bail!("{writes} writes reached a disk between the event and the reset");
        }
        Ok(())
    }

    /// Waits until the machine has reset itself and runs its first kernel again.
    fn restart(&mut self, step: &Step, boot_id: &mut String, report: &mut Report) -> Result<()> {
        let machine = &mut self.machine;
        let within = Duration::from_secs(step.timeout);
        let hello = machine
            .agent
            .wait_ready(within)
            .context("the machine did not start again")?;
        report.moment(hello.at, format!("started again with {}", hello.release));
        if hello.boot_id == *boot_id || hello.release != machine.active.release {
            bail!("kernel {} runs, but not after a start of the machine", hello.release);
        }
        boot_id.clone_from(&hello.boot_id);
        armed(machine).context("after the start")
    }

    fn verdict(&mut self, clients: &mut Clients, report: &mut Report) -> Result<()> {
        let verdict = &self.scenario.verdict;
        let within = Duration::from_secs(verdict.timeout);
        // The report is fetched first: it is wanted most when the verdict fails.
        if !self.plan.stock && !self.scenario.ends_in_reset() {
            if let Ok(outcome) = self.machine.agent.run("orthros-ctl report --json", SHORT) {
                report.orthros = serde_json::from_str(&outcome.output).ok();
                report.start = report.orthros.as_ref().and_then(SuccessorStart::of);
            }
            if let Ok(outcome) = self.machine.agent.run("orthros-ctl report", SHORT) {
                report.orthros_text = Some(outcome.output);
            }
        }
        let acknowledged = self.acknowledged();
        let guest = verdict
            .guest
            .as_ref()
            .map(|command| {
                let command = with_acknowledged(&acknowledged, command);
                self.machine.agent.run(&command, within)
            })
            .transpose()?;
        report.clients = clients.finish(within)?;
        report.moment(self.machine.qemu.start.elapsed(), "verdict");
        if let Some(outcome) = guest {
            report.guest = Some(outcome.output.clone());
            if outcome.status != 0 {
                bail!("the guest's verdict is {}: {}", outcome.status, outcome.output.trim());
            }
        }
        if verdict.clients {
            if let Some(client) = report.clients.iter().find(|client| client.status != Some(0)) {
                let end = client.status.map_or("had to be killed".into(), |status| {
                    format!("ended with status {status}")
                });
                bail!("the client `{}` {end}", client.command);
            }
        }
        if verdict.capture {
            let seen = capture::judge(&self.logs.join(capture::FILE), &self.scenario.guest.ports)?;
            if !seen.wrong.is_empty() || seen.connections == 0 {
                let some: Vec<&str> = seen.wrong.iter().take(10).map(String::as_str).collect();
                bail!(
                    "over the wire, of {} segments of {} connections, {} were wrong: {}",
                    seen.segments,
                    seen.connections,
                    seen.wrong.len(),
                    some.join("; ")
                );
            }
        }
        Ok(())
    }

    /// What each program has said last to have been acknowledged: `NAME NUMBER`, separated by commas.
    fn acknowledged(&self) -> String {
        let mut last = self.acknowledged.clone();
        last.extend(acknowledged(&self.machine));
        let each: Vec<String> = last.iter().map(|(name, number)| format!("{name} {number}")).collect();
        each.join(",")
    }

    /// The successor must not have complained about its own state, whatever the verdict.
    fn no_complaint(&self, console: usize) -> Result<()> {
        let lines = self.machine.qemu.console.lines(console);
        let successor = lines
            .iter()
            .rposition(|line| FIRST_WORDS.iter().any(|words| line.text.contains(words)))
            .unwrap_or(0);
        let complaint = Regex::new(r"BUG: |WARNING: |Oops: |Bad page|bad (pte|page)|EXT4-fs error|general protection")?;
        // Lockups and stalls only say how busy the host is under emulation. Without a
        // failover there is no successor, and the active's console is judged.
        let bad = |text: &str| complaint.is_match(text) && !text.contains("lockup");
        match lines[successor..].iter().find(|line| bad(&line.text)) {
            None => Ok(()),
            Some(line) => bail!("the kernel complained on its console: {}", line.text.trim()),
        }
    }
}

/// A command that finds in `$ACKNOWLEDGED` what was.
fn with_acknowledged(acknowledged: &str, command: &str) -> String {
    format!("export ACKNOWLEDGED='{acknowledged}'; {command}")
}

/// The last number of each name among the lines `NAME NUMBER` that programs have written to their ports.
fn acknowledged(machine: &Machine) -> BTreeMap<String, u64> {
    let lines: Vec<Line> = machine
        .qemu
        .acknowledged
        .iter()
        .flat_map(|port| port.lines(0))
        .collect();
    let words = lines.iter().filter_map(|line| line.text.split_once(' '));
    words
        .filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?)))
        .collect()
}

/// Where the consoles stood when a step began.
struct Said {
    backup: usize,
    console: usize,
}

impl Said {
    /// What a step wants to be said, and not to be said.
    fn check(&self, step: &Step, machine: &Machine) -> Result<()> {
        let qemu = &machine.qemu;
        for (serial, from, patterns) in [
            (&qemu.backup, self.backup, &step.backup_console),
            (&qemu.console, self.console, &step.console),
        ] {
            for pattern in patterns {
                serial.wait_for(from, &Regex::new(pattern)?, SAID)?;
            }
        }
        for pattern in &step.console_without {
            let pattern = Regex::new(pattern)?;
            let lines = qemu.console.lines(self.console);
            if let Some(line) = lines.iter().find(|line| pattern.is_match(&line.text)) {
                bail!("the console has what must not be there: {}", line.text.trim());
            }
        }
        Ok(())
    }
}

/// Waits until the machine would survive a failure.
///
/// # Errors
/// When it does not become so, with what it says of itself.
pub fn armed(machine: &mut Machine) -> Result<()> {
    status_says(machine, "state", ARMED, |state| state == "armed").context("not armed")
}

/// Waits until `orthros-ctl status` says of something what is wanted.
///
/// # Errors
/// When it does not come to that, with what it says instead.
pub fn status_says(machine: &mut Machine, of: &str, within: Duration, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let deadline = Instant::now() + within;
    loop {
        let status = machine.agent.run("orthros-ctl status", within)?.output;
        let said = status.lines().find_map(|line| line.strip_prefix(of)?.strip_prefix(':'));
        if said.is_some_and(|said| wanted(said.trim())) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("after {within:.0?} its {of} is: {}", said.unwrap_or(&status).trim());
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Whether the same kernel runs on as `boot_id` says, and is protected.
fn unharmed(machine: &mut Machine, boot_id: &str) -> Result<()> {
    let now = machine.agent.check("cat /proc/sys/kernel/random/boot_id", ARMED)?;
    if now.trim() != boot_id {
        bail!("another kernel runs: a machine that only stood still was taken over");
    }
    armed(machine).context("after the pause")
}

/// Whether the backup OS took over for the reason that the step gave it.
fn right_cause(machine: &mut Machine, step: &Step) -> Result<()> {
    let text = machine.agent.run("orthros-ctl report --json", ARMED)?.output;
    let report: serde_json::Value = serde_json::from_str(&text).context("orthros-ctl report --json")?;
    let cause = report["cause"].as_str().unwrap_or_default();
    let of_event = step.event.cause(step.injection.as_deref()).unwrap_or_default();
    let expected = step.cause.as_deref().unwrap_or(of_event);
    if cause != expected {
        bail!("the report names the cause \"{cause}\", it was \"{expected}\"");
    }
    Ok(())
}

/// Starts what is to be protected.
fn protect(machine: &mut Machine, scenario: &Scenario, unprotected: bool) -> Result<()> {
    let under = if unprotected { "" } else { "orthros-ctl protect -- " };
    if let Some(command) = &scenario.protect.command {
        let quoted = command.replace('\'', r"'\''");
        let line = format!("cd / && setsid {under}sh -c '{quoted}' </dev/null >>/var/log/scenario.log 2>&1 &");
        machine.agent.check(&line, SHORT)?;
    }
    if let Some(unit) = &scenario.protect.unit {
        machine.agent.check(&format!("systemctl start {unit}"), SHORT)?;
        if !unprotected {
            machine
                .agent
                .check(&format!("orthros-ctl protect --unit {unit}"), SHORT)?;
        }
    }
    Ok(())
}

fn wait_for(machine: &mut Machine, check: &Check) -> Result<()> {
    let deadline = Instant::now() + check.within();
    if let Some(pattern) = &check.console {
        return machine
            .qemu
            .console
            .wait_for(0, &Regex::new(pattern)?, check.within())
            .map(drop);
    }
    let command = check.command.as_deref().context("a check has a command or a pattern")?;
    loop {
        let outcome = machine.agent.run(command, check.within())?;
        if outcome.status == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            let log = machine.agent.run("tail -n 20 /var/log/scenario.log", SHORT)?.output;
            bail!(
                "`{command}` failed for {:.0?}; the program's last output:\n{log}",
                check.within()
            );
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Boots, starts the program, and hands the machine over to a caller with ends of its own.
///
/// # Errors
/// When the guest does not get ready.
pub fn ready_machine(paths: &Paths, artefacts: &Artefacts, scenario: &Scenario, plan: &Plan) -> Result<Machine> {
    Ready::start(paths, artefacts, scenario, plan).map(|ready| ready.machine)
}

/// Runs a scenario once: boot, steps, verdict. A machine that does not even get ready
/// gives a report as well.
///
/// # Errors
/// When the report cannot be written.
pub fn once(paths: &Paths, artefacts: &Artefacts, scenario: &Scenario, plan: &Plan, seed: u64) -> Result<Report> {
    let start = Instant::now();
    let mut report = match Ready::start(paths, artefacts, scenario, plan) {
        Ok(mut ready) => ready.run(&scenario.steps, seed),
        Err(error) => {
            let mut report = Report::new(scenario, plan, seed);
            report.failure = Some(format!("{error:#}"));
            report
        }
    };
    report.seconds = start.elapsed().as_secs_f64();
    report.write(&plan.dir.join("result.json"))?;
    Ok(report)
}

/// Boots once and runs every variation of the scenario's sweep from the same saved
/// state. The numbers of the results follow the order of the variations.
///
/// # Errors
/// When a report cannot be written.
pub fn sweep(paths: &Paths, artefacts: &Artefacts, scenario: &Scenario, plan: &Plan, seed: u64) -> Result<Vec<Report>> {
    let first = scenario.steps.first().context("a scenario has steps")?;
    let variations = scenario.sweep.clone().unwrap_or_default().variations(first, seed);
    let mut ready = match Ready::start(paths, artefacts, scenario, plan).and_then(|mut ready| {
        ready.save()?;
        Ok(ready)
    }) {
        Ok(ready) => ready,
        Err(error) => {
            let mut report = Report::new(scenario, plan, seed);
            report.failure = Some(format!("{error:#}"));
            return Ok(vec![report]);
        }
    };
    let mut reports = Vec::new();
    for (number, variation) in variations.into_iter().enumerate() {
        let mut steps = scenario.steps.clone();
        steps[0] = variation;
        let dir = plan.dir.join(format!("variation-{number}"));
        ready.again(&dir)?;
        let report = ready.run(&steps, seed);
        report.write(&dir.join("result.json"))?;
        reports.push(report);
    }
    Ok(reports)
}
