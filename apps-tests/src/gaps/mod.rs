//! How long a service is silent while its kernel is replaced: Orthros beside what else there is.
//!
//! All methods get the same guest and the same service, which says on the console every 10 ms that it lives. The gap is
//! the longest silence that the host hears around the event.

mod marks;
mod method;
mod plot;
mod steps;
mod table;
mod work;

pub use marks::Marks;
pub use method::Method;
pub use plot::draw;
pub use steps::Moment;
use work::Work;

pub use table::{json, text};

use crate::artefacts::Artefacts;
use crate::initramfs::{self, Parts};
use crate::kernels::{Kernel, Series};
use crate::machine::{busybox, Machine, Plan};
use crate::paths::Paths;
use crate::progress::Step;
use crate::rootfs::File;
use crate::run;
use crate::scenario::Scenario;
use crate::serial::Line;
use anyhow::{Context, Result};
use regex::Regex;
use std::fs;
use std::time::Duration;

/// For a kernel to be replaced, whatever the method.
const PATIENCE: Duration = Duration::from_secs(300);
/// For a command of a method, the writing of 1 GB included.
const COMMAND: Duration = Duration::from_secs(300);
/// For a service to answer again once its kernel's user space is there; a process that has gone on did so before.
const ANSWER: Duration = Duration::from_secs(60);
/// Machines that may fail for each that does not.
const SPARE: usize = 2;
/// Undisturbed answers before an event.
const BEFORE: Duration = Duration::from_secs(2);

/// What one method cost.
#[derive(Debug, Clone)]
pub struct Measured {
    /// How the kernel was replaced.
    pub method: Method,
    /// Content of the service in MiB.
    pub megabytes: u32,
    /// One for each event, in the order of the events.
    pub gaps: Vec<Duration>,
    /// How long the host worked for the machine during each gap.
    pub work: Vec<Duration>,
    /// Whether the same process went on each time.
    pub goes_on: bool,
    /// Why events failed that are not among the gaps.
    pub lost: Vec<String>,
    /// The moments of each gap.
    pub moments: Vec<Vec<Moment>>,
    /// What each part of the restore agent's work has taken in each gap.
    pub parts: Vec<Vec<Moment>>,
}

impl Measured {
    /// The median of the gaps.
    #[must_use]
    pub fn median(&self) -> Duration {
        median(&self.gaps)
    }
}

/// The median; of an even number the upper of the two.
fn median(list: &[Duration]) -> Duration {
    let mut sorted = list.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// What to measure.
pub struct Task<'a> {
    /// The service's scenario.
    pub scenario: &'a Scenario,
    /// The kernel, before and after.
    pub kernel: Series,
    /// How it is replaced.
    pub method: Method,
    /// Content of the service in MiB.
    pub megabytes: u32,
    /// How often.
    pub runs: u32,
}

/// Boots one machine and replaces its kernel `runs` times. After an event that the service did not live through, and was not
/// started after, there is another machine; both are counted.
///
/// # Errors
/// When that happens too often, or a guest does not come up.
pub fn measure(paths: &Paths, artefacts: &Artefacts, task: &Task<'_>) -> Result<Measured> {
    let Task { method, megabytes, .. } = *task;
    let shown = Step::start(format!("{method} with {megabytes} MB"));
    let (scenario, plan) = prepared(paths, artefacts, task)?;
    let mut machine = run::ready_machine(paths, artefacts, &scenario, &plan)?;
    let mut measured = Measured {
        method,
        megabytes,
        gaps: Vec::new(),
        work: Vec::new(),
        goes_on: true,
        lost: Vec::new(),
        moments: Vec::new(),
        parts: Vec::new(),
    };
    while measured.gaps.len() < task.runs as usize {
        shown.at(&format!("{} of {}", measured.gaps.len() + 1, task.runs));
        match event(&mut machine, method) {
            Ok(gap) => {
                measured.gaps.push(gap.length);
                measured.work.push(gap.work);
                measured.goes_on &= gap.same;
                measured.moments.push(gap.moments);
                measured.parts.push(gap.parts);
            }
            Err(error) => {
                let error = machine.explain(error);
                if measured.lost.len() == SPARE {
                    return Err(error.context(format!("logs: {}", plan.dir.display())));
                }
                measured.lost.push(format!("{error:#}"));
                machine.qemu.end();
                keep_logs(&plan, measured.lost.len())?;
                machine = run::ready_machine(paths, artefacts, &scenario, &plan)?;
            }
        }
    }
    Ok(measured)
}

/// The next machine would write over what this one said.
fn keep_logs(plan: &Plan, number: usize) -> Result<()> {
    let kept = plan.dir.join(format!("lost-{number}"));
    fs::create_dir_all(&kept)?;
    for entry in fs::read_dir(&plan.dir)?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "log") {
            fs::copy(entry.path(), kept.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// The guest for a method.
fn prepared(paths: &Paths, artefacts: &Artefacts, task: &Task<'_>) -> Result<(Scenario, Plan)> {
    let name = format!("{}-{}", task.method.name(), task.megabytes);
    let mut plan = Plan::new(task.kernel, task.kernel, paths.target.join("bench/gaps").join(name));
    fs::create_dir_all(&plan.dir)?;
    let settings = plan.dir.join("settings");
    fs::write(&settings, format!("megabytes={}\n", task.megabytes))?;
    let mut file = |from, to: &str| plan.files.push(File { from, to: to.into() });
    file(settings, "/etc/orthros-tests/beat");
    let mut scenario = task.scenario.clone();
    scenario.protect.ready.timeout = COMMAND.as_secs();
    scenario.guest.standby = Some(task.method.standby());
    if task.method.stock() {
        let kernel = Kernel::find(paths, task.kernel)?;
        let parts = Parts {
            init: artefacts.guest_program("orthros-init")?,
            module: None,
            without_disk: false,
            drivers: Vec::new(),
            busybox: busybox()?,
        };
        file(kernel.image.clone(), "/boot/orthros-tests/kernel");
        file(
            initramfs::make(paths, &kernel, &parts)?,
            "/boot/orthros-tests/initramfs",
        );
        // CRIU asks for parts of the network that stock kernels have as modules.
        let modules = format!("/lib/modules/{}", kernel.release);
        file(kernel.modules.clone(), &modules);
        plan.stock = true;
        plan.grub = true;
        plan.reboot = true;
        plan.kernel_parameters = task.method.kernel_parameters().into();
    }
    Ok((scenario, plan))
}

/// A gap, whether the same process answers after it, and what was when.
struct Gap {
    length: Duration,
    work: Duration,
    same: bool,
    moments: Vec<Moment>,
    parts: Vec<Moment>,
}

/// One replacement of the kernel.
fn event(machine: &mut Machine, method: Method) -> Result<Gap> {
    let pattern = Regex::new(r"beat (\d+)$")?;
    if !method.stock() {
        run::armed(machine)?;
    }
    if method.standby() {
        run::status_says(machine, "standby", COMMAND, |standby| standby.contains("asleep"))?;
    }
    for command in method.beforehand() {
        machine.agent.check(command, COMMAND)?;
    }
    let console = machine.qemu.console.clone();
    let from = console.position();
    std::thread::sleep(BEFORE);
    let work = Work::watch(machine.qemu.pid(), machine.qemu.start);
    let asked = machine.qemu.start.elapsed();
    machine.agent.send(method.command())?;
    let hello = machine.agent.wait_ready(PATIENCE).context("no kernel came up")?;
    // Whoever answers before the guest's init is a process that went on.
    let mut position = console.position();
    loop {
        let (line, next) = console.wait_for(position, &pattern, ANSWER)?;
        if line.at > hello.at {
            break;
        }
        position = next;
    }
    std::thread::sleep(BEFORE);
    let lines = console.lines(from);
    let (silence, same) = silence(&lines, &pattern, asked)?;
    let work = work.between(silence);
    let (moments, parts) = if method.stock() {
        (steps::of_console(&lines, silence, hello.at), Vec::new())
    } else {
        run::armed(machine)?;
        let report = machine.agent.check("orthros-ctl report --json", COMMAND)?;
        steps::of_orthros(&serde_json::from_str(&report).context("orthros-ctl report --json")?)
    };
    Ok(Gap {
        length: silence.1 - silence.0,
        work,
        same,
        moments,
        parts,
    })
}

/// Start and end of the longest silence that ends after `asked`, and whether the numbers went on over it.
fn silence(lines: &[Line], pattern: &Regex, asked: Duration) -> Result<((Duration, Duration), bool)> {
    let beats: Vec<(Duration, u64)> = lines
        .iter()
        .filter_map(|line| Some((line.at, pattern.captures(&line.text)?[1].parse().ok()?)))
        .collect();
    let silence = beats
        .windows(2)
        .filter(|pair| pair[1].0 > asked)
        .max_by_key(|pair| pair[1].0 - pair[0].0)
        .context("the service was not heard before and after the event")?;
    Ok(((silence[0].0, silence[1].0), silence[1].1 > silence[0].1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(list: &[(u64, &str)]) -> Vec<Line> {
        list.iter()
            .map(|(at, text)| Line {
                at: Duration::from_millis(*at),
                text: (*text).into(),
            })
            .collect()
    }

    #[test]
    fn the_gap_is_the_longest_silence_after_the_event() {
        let pattern = Regex::new(r"beat (\d+)$").unwrap();
        let lines = heard(&[
            (0, "beat 1"),
            (900, "beat 2"),
            (910, "beat 3"),
            (950, "[ 1.0] Linux version 6.1"),
            (1310, "beat 4"),
            (1320, "[ 1.2] xbeat 5"),
        ]);
        let asked = Duration::from_millis(905);
        let ms = Duration::from_millis;
        assert_eq!(silence(&lines, &pattern, asked).unwrap(), ((ms(910), ms(1310)), true));
        let lines = heard(&[(0, "beat 700"), (5000, "beat 0"), (5010, "beat 1")]);
        assert_eq!(silence(&lines, &pattern, asked).unwrap(), ((ms(0), ms(5000)), false));
        assert!(silence(&lines[..1], &pattern, asked).is_err());
    }

    #[test]
    fn medians() {
        let of = |list: &[u64]| Measured {
            method: Method::Reboot,
            megabytes: 1,
            gaps: list.iter().map(|gap| Duration::from_millis(*gap)).collect(),
            work: Vec::new(),
            goes_on: true,
            lost: Vec::new(),
            moments: Vec::new(),
            parts: Vec::new(),
        };
        assert_eq!(of(&[5, 1, 9]).median(), Duration::from_millis(5));
        assert_eq!(of(&[4, 2]).median(), Duration::from_millis(4));
        assert_eq!(of(&[]).median(), Duration::ZERO);
    }
}
