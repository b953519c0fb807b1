//! Scenario folders: what to run in the guest, what to break, how to judge. The format
//! is documented in apps-tests/README.md.

use crate::kernels::Series;
use crate::rootfs::Init;
use anyhow::{bail, Context, Result};
use serde::Deserialize;
use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A scenario as its `scenario.toml` says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One line saying what survives here.
    pub title: String,
    /// The guest it runs in.
    #[serde(default)]
    pub guest: Guest,
    /// What is protected.
    pub protect: Protect,
    /// Programs on the host that run from readiness to the verdict.
    #[serde(default, rename = "client")]
    pub clients: Vec<Client>,
    /// What happens to the guest, in order.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
    /// What decides. Steps decide as well.
    #[serde(default)]
    pub verdict: Verdict,
    /// Pairs of kernels that the short test run takes, active first; the long one takes all.
    #[serde(default)]
    pub quick: Vec<(Series, Series)>,
    /// Variations of the first step that the long test run goes through.
    pub sweep: Option<Sweep>,
    /// The folder it was read from.
    #[serde(skip)]
    pub dir: PathBuf,
}

/// The machine and what is installed on it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guest {
    /// Debian packages.
    pub packages: Vec<String>,
    /// Files of the scenario's folder.
    pub files: Vec<FileEntry>,
    /// What runs as process 1.
    pub init: Init,
    /// RAM in MiB, the 512 reserved ones included.
    pub ram: u32,
    /// CPUs, the reserved one included.
    pub cpus: u32,
    /// `q35` or `pc`.
    pub machine: String,
    /// Features of the CPU to switch on or off, as after the model in QEMU's `-cpu`: `la57=off`.
    pub cpu_features: String,
    /// Sizes of further empty disks, as `64M`: /dev/vdb and on.
    pub disks: Vec<String>,
    /// Modules that both kernels load first, besides those that every guest needs.
    pub drivers: Vec<String>,
    /// TCP ports that clients reach.
    pub ports: Vec<u16>,
    /// TCP ports of further addresses on the guest's wire that clients reach, as `10.0.2.16:80`.
    pub forwards: Vec<SocketAddrV4>,
    /// Whether clients can put frames on the guest's wire and see all that are there.
    pub wire: bool,
    /// Words for the kernel command line.
    pub kernel_parameters: String,
    /// Whether the first kernel's module, and the one of the other kernel, are in `/opt/orthros-tests/modules`.
    pub modules: bool,
    /// What `orthros-ctl stage --auto` needs of both kernels is installed.
    pub kernels: bool,
    /// The modules of both kernels' firewalls are installed, for modprobe.
    pub firewall: bool,
    /// The machine is not expected to arm itself, and the command runs unprotected.
    pub unprotected: bool,
    /// What is wrong with its parts.
    pub wrong: Wrong,
    /// Whether the successor sleeps as a standby until it is needed; left out: the loader's default.
    pub standby: Option<bool>,
    /// Further options of the loader.
    pub loader_options: String,
    /// Free space on the root file system, in MiB.
    pub free: u64,
}

/// Parts of a guest that are not what they should be: all are right unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wrong {
    /// The first kernel's module is built for the other kernel.
    pub active_module: bool,
    /// The successor's module is built for the other kernel.
    pub successor_module: bool,
    /// A script of this folder is the successor's first program.
    pub successor_init: Option<PathBuf>,
    /// The successor's image has a sound header and noise behind it.
    pub successor_image: bool,
    /// The successor's initramfs has no driver for the root disk.
    pub successor_driver: bool,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            packages: Vec::new(),
            files: Vec::new(),
            init: Init::Minimal,
            ram: 2048,
            cpus: 4,
            machine: "q35".into(),
            cpu_features: String::new(),
            disks: Vec::new(),
            drivers: Vec::new(),
            ports: Vec::new(),
            forwards: Vec::new(),
            wire: false,
            kernel_parameters: String::new(),
            modules: false,
            kernels: false,
            firewall: false,
            unprotected: false,
            wrong: Wrong::default(),
            standby: None,
            loader_options: String::new(),
            free: 512,
        }
    }
}

/// A file or folder to copy into the guest.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Path below the scenario's folder.
    pub from: PathBuf,
    /// Absolute path in the guest.
    pub to: String,
}

/// What to keep alive.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protect {
    /// Shell commands before, each of which must succeed.
    #[serde(default)]
    pub prepare: Vec<String>,
    /// A command, started under protection with its output in `/var/log/scenario.log`.
    pub command: Option<String>,
    /// A systemd unit whose processes are protected once it is started.
    pub unit: Option<String>,
    /// When it is ready to be disturbed.
    pub ready: Check,
}

/// A condition to wait for: exactly one of `command` and `console` is given.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// A shell command in the guest, tried until it succeeds.
    pub command: Option<String>,
    /// A regular expression for a line on the guest's console.
    pub console: Option<String>,
    /// Seconds to wait.
    #[serde(default = "default_timeout")]
    pub timeout: u64,
}

/// A program on the host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// A shell command, run in the scenario's folder. `PORT_<n>` is where the guest's port n is reached, `FORWARD_<n>` where the
    /// n-th of the further addresses is, `STEPS_DONE` a file that appears after the last step, `READY` one that it may make itself.
    pub command: String,
    /// Seconds that it has to make the file `READY`: only then does the time before the first step begin.
    pub ready: Option<u64>,
}

/// Something done to the guest.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What happens.
    pub event: Event,
    /// Shell commands in the guest just before, each of which must succeed.
    #[serde(default)]
    pub before: Vec<String>,
    /// Shell commands in the successor's user space, once the machine is armed again, each of which must succeed.
    #[serde(default)]
    pub after: Vec<String>,
    /// What must come of it.
    #[serde(default)]
    pub expect: Expect,
    /// Whether the machine must be armed again afterwards.
    #[serde(default = "yes")]
    pub arms: bool,
    /// What the backup OS must say meanwhile: regular expressions, each for a line of its console.
    #[serde(default)]
    pub backup_console: Vec<String>,
    /// The same for the kernels' console.
    #[serde(default)]
    pub console: Vec<String>,
    /// What must not stand on the kernels' console.
    #[serde(default)]
    pub console_without: Vec<String>,
    /// Further disks (1 is /dev/vdb) that answer every request with an error as soon as the kernel is stopped.
    #[serde(default)]
    pub disks_fail: Vec<usize>,
    /// Disks that answer every write with an error from then on, until the successor is armed.
    #[serde(default)]
    pub disks_refuse_writes: Vec<usize>,
    /// From the event to the reset no disk may be written to.
    #[serde(default)]
    pub no_disk_writes: bool,
    /// The kernel that shall take over, where the command line does not say.
    pub successor: Option<Series>,
    /// The successor fails, and the kernel that ran first takes over.
    #[serde(default)]
    pub rolls_back: bool,
    /// Milliseconds after readiness or the step before.
    #[serde(default)]
    pub after_ms: u64,
    /// How long a pause lasts.
    #[serde(default = "some_seconds")]
    pub pause_ms: u64,
    /// How the event is brought about: arguments for `orthros-ctl panic-test`, `hang-test` or `update`.
    pub injection: Option<String>,
    /// The cause that the report is to name, where the event alone does not say.
    pub cause: Option<String>,
    /// How often.
    #[serde(default = "once")]
    pub repeat: u32,
    /// Seconds until the successor's user space must be there.
    #[serde(default = "default_timeout")]
    pub timeout: u64,
}

/// What comes of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// A successor takes over.
    #[default]
    Successor,
    /// The machine is given up and resets itself; the scenario ends there.
    Reset,
    /// The same, and starts again with the kernel that ran first.
    Restart,
}

/// A way to bring an event about, with what must be said about it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// As in [`Step`].
    pub injection: String,
    /// More lines of the backup OS than the step asks for.
    #[serde(default)]
    pub backup_console: Vec<String>,
}

/// Runs that differ only in when and how the first step strikes: they start from one
/// saved state of the machine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sweep {
    /// Instants in milliseconds after readiness.
    pub after_ms: Vec<u64>,
    /// So many more instants at random, all earlier than `random_below_ms`.
    pub random: u32,
    /// End of the random instants in milliseconds.
    pub random_below_ms: u64,
    /// Ways to bring the event about; each is combined with each instant. Empty: the step's own.
    pub injections: Vec<String>,
    /// Such ways with what must be said about each.
    pub cases: Vec<Case>,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// The kernel panics.
    Panic,
    /// The kernel hangs.
    Hang,
    /// The staged kernel replaces a healthy one.
    Update,
    /// The whole machine stands still for [`Step::pause_ms`], as a virtual one whose host is busy; it must go on unharmed.
    Pause,
    /// Nothing happens: the run to compare with.
    None,
}

impl Event {
    /// The command that brings it about in the guest, without its arguments; `None` if nothing happens.
    #[must_use]
    pub fn command(self, injection: Option<&str>) -> Option<String> {
        let with = |command: &str| format!("{command} --yes {}", injection.unwrap_or_default());
        Some(match self {
            Self::Panic if injection.is_none() => "echo c >/proc/sysrq-trigger".into(),
            Self::Panic => with("orthros-ctl panic-test"),
            Self::Hang => with("orthros-ctl hang-test"),
            Self::Update => with("orthros-ctl update"),
            Self::Pause | Self::None => return None,
        })
    }

    /// The cause that `orthros-ctl report` is to name; `None` if there is none, or no kind of hang is given.
    #[must_use]
    pub fn cause(self, injection: Option<&str>) -> Option<&'static str> {
        let kind = injection.and_then(|text| text.split_whitespace().skip_while(|&word| word != "--kind").nth(1));
        Some(match self {
            Self::Panic => "panic",
            Self::Update => "update",
            Self::Hang => match kind? {
                "all-cpus" => "all-cpus-hung",
                "one-cpu-irq-off" | "in-nmi" | "holding-locks" => "cpu-hung",
                "soft-lockup" => "soft-lockup",
                "live-lock" => "live-lock",
                _ => return None,
            },
            Self::Pause | Self::None => return None,
        })
    }
}

/// What decides whether the scenario passed: all that is given must succeed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// A shell command in the guest.
    pub guest: Option<String>,
    /// Whether all clients must end with status 0.
    #[serde(default)]
    pub clients: bool,
    /// Whether what goes over the wire to and from the guest's ports must be sound ([`crate::capture`]).
    #[serde(default)]
    pub capture: bool,
    /// Seconds for the command and for the clients to end.
    #[serde(default = "default_timeout")]
    pub timeout: u64,
}

const fn default_timeout() -> u64 {
    120
}

const fn yes() -> bool {
    true
}

const fn some_seconds() -> u64 {
    5_000
}

const fn once() -> u32 {
    1
}

impl Check {
    /// The time to wait.
    #[must_use]
    pub const fn within(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

impl Scenario {
    /// Reads and checks a scenario folder.
    ///
    /// # Errors
    /// When the file is missing, has unknown or contradicting fields, or names files
    /// that are not there.
    pub fn read(dir: &Path) -> Result<Self> {
        let file = dir.join("scenario.toml");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut scenario: Self = toml::from_str(&text).with_context(|| format!("in {}", file.display()))?;
        scenario.dir = dir.canonicalize()?;
        scenario.check().with_context(|| format!("in {}", file.display()))?;
        Ok(scenario)
    }

    /// The folder's name, as results show it.
    #[must_use]
    pub fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether a step or variation is brought about by `orthros-ctl panic-test`.
    #[must_use]
    pub fn injects(&self) -> bool {
        let sweep = self.sweep.iter().flat_map(|sweep| {
            let cases = sweep.cases.iter().map(|case| &case.injection);
            sweep.injections.iter().chain(cases)
        });
        self.steps
            .iter()
            .filter_map(|step| step.injection.as_ref())
            .chain(sweep)
            .next()
            .is_some()
    }

    /// Disks that are to refuse writes in some step.
    #[must_use]
    pub fn refusing(&self) -> Vec<usize> {
        let steps = self.steps.iter();
        steps.flat_map(|step| step.disks_refuse_writes.clone()).collect()
    }

    /// Whether a reset is what the scenario waits for.
    #[must_use]
    pub fn ends_in_reset(&self) -> bool {
        self.steps.iter().any(|step| step.expect == Expect::Reset)
    }

    /// Whether the machine is to start again after a reset.
    #[must_use]
    pub fn restarts(&self) -> bool {
        self.steps.iter().any(|step| step.expect == Expect::Restart)
    }

    fn check(&self) -> Result<()> {
        if self.protect.command.is_some() == self.protect.unit.is_some() {
            bail!("[protect] needs either `command` or `unit`");
        }
        if self.protect.unit.is_some() && self.guest.init != Init::Systemd {
            bail!("a `unit` needs init = \"systemd\"");
        }
        let ready = &self.protect.ready;
        if ready.command.is_some() == ready.console.is_some() {
            bail!("[protect.ready] needs either `command` or `console`");
        }
        if let Some(pattern) = &ready.console {
            regex::Regex::new(pattern).context("[protect.ready] console")?;
        }
        if self.steps.is_empty() {
            bail!("there is no [[step]]");
        }
        self.check_steps()?;
        let unclear = |step: &Step| step.event == Event::Hang && step.event.cause(step.injection.as_deref()).is_none();
        if self.steps.iter().any(unclear) {
            bail!("a step with event \"hang\" needs an `injection` that says how, as \"--kind all-cpus\"");
        }
        if let Some(sweep) = &self.sweep {
            if sweep.random > 0 && sweep.random_below_ms == 0 {
                bail!("[sweep] random needs random_below_ms");
            }
        }
        if self.verdict.guest.is_none() && !self.verdict.clients && !self.ends_in_reset() {
            bail!("[verdict] decides nothing: give `guest`, or `clients = true`");
        }
        if self.verdict.guest.is_some() && self.ends_in_reset() {
            bail!("[verdict] asks a guest that a step expects to be reset");
        }
        if self.verdict.clients && self.clients.is_empty() {
            bail!("[verdict] asks for clients, but there is no [[client]]");
        }
        if self.verdict.capture && self.guest.ports.is_empty() {
            bail!("[verdict] asks for what goes over the wire, but [guest] has no ports");
        }
        if !matches!(self.guest.machine.as_str(), "q35" | "pc") {
            bail!("machine \"{}\" is neither \"q35\" nor \"pc\"", self.guest.machine);
        }
        if self.guest.cpus < 2 || self.guest.ram < 1024 {
            bail!("a guest needs 2 CPUs and 1024 MiB at least: one CPU and 512 MiB are set aside");
        }
        let files = self.guest.files.iter().map(|file| &file.from);
        for file in files.chain(&self.guest.wrong.successor_init) {
            if !self.dir.join(file).exists() {
                bail!("{} is not in the scenario's folder", file.display());
            }
        }
        Ok(())
    }

    fn check_steps(&self) -> Result<()> {
        let (last, others) = self.steps.split_last().context("there is no [[step]]")?;
        if others.iter().any(|step| step.expect != Expect::Successor) {
            bail!("[[step]] expect = \"reset\" or \"restart\" must be the last step");
        }
        let resets = last.expect == Expect::Reset;
        if resets && (matches!(last.event, Event::None | Event::Pause) || last.repeat != 1) {
            bail!("[[step]] expect = \"reset\" needs an event, once");
        }
        for step in &self.steps {
            if !step.after.is_empty() && step.expect == Expect::Reset {
                bail!("[[step]] after asks a guest that is reset");
            }
            let mut failing = step.disks_fail.iter().chain(&step.disks_refuse_writes);
            if failing.any(|number| !(1..=self.guest.disks.len()).contains(number)) {
                bail!("[[step]] disks_fail or disks_refuse_writes names a disk that [guest] has not");
            }
            if step.no_disk_writes && step.expect != Expect::Reset {
                bail!("[[step]] no_disk_writes needs expect = \"reset\": a successor writes");
            }
        }
        let cases = self.sweep.iter().flat_map(|sweep| &sweep.cases);
        let patterns = self
            .steps
            .iter()
            .flat_map(|step| {
                step.backup_console
                    .iter()
                    .chain(&step.console)
                    .chain(&step.console_without)
            })
            .chain(cases.flat_map(|case| &case.backup_console));
        for pattern in patterns {
            regex::Regex::new(pattern).with_context(|| format!("[[step]] or [sweep]: {pattern}"))?;
        }
        Ok(())
    }
}

impl Sweep {
    /// All variations of a step. The random instants follow from the seed alone.
    #[must_use]
    pub fn variations(&self, step: &Step, seed: u64) -> Vec<Step> {
        let mut instants = self.after_ms.clone();
        let mut state = seed;
        for _ in 0..self.random {
            instants.push(next_random(&mut state) % self.random_below_ms.max(1));
        }
        if instants.is_empty() {
            instants.push(step.after_ms);
        }
        let plain = self.injections.iter().map(|injection| Case {
            injection: injection.clone(),
            backup_console: Vec::new(),
        });
        let mut ways: Vec<Option<Case>> = plain.chain(self.cases.iter().cloned()).map(Some).collect();
        if ways.is_empty() {
            ways.push(None);
        }
        let mut steps = Vec::new();
        for way in &ways {
            for after_ms in &instants {
                let mut varied = Step {
                    after_ms: *after_ms,
                    ..step.clone()
                };
                if let Some(case) = way {
                    varied.injection = Some(case.injection.clone());
                    varied.backup_console.extend(case.backup_console.iter().cloned());
                }
                steps.push(varied);
            }
        }
        steps
    }
}

/// SplitMix64: one step of a sequence that any language can repeat from the seed.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut value = *state;
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "title = \"t\"\n[protect]\ncommand = \"c\"\nready = { command = \"true\" }\n[[step]]\nevent = \"panic\"\n[verdict]\nguest = \"true\"\n";

    fn read(text: &str) -> Result<Scenario> {
        let scenario: Scenario = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    #[test]
    fn the_least_has_defaults() {
        let scenario = read(LEAST).unwrap();
        assert_eq!(
            (scenario.guest.ram, scenario.guest.cpus, scenario.steps[0].repeat),
            (2048, 4, 1)
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, message) in [
            ("command = \"c\"", "", "either `command` or `unit`"),
            ("command = \"c\"", "unit = \"u\"", "systemd"),
            ("guest = \"true\"", "", "decides nothing"),
            ("guest = \"true\"", "clients = true", "no [[client]]"),
            ("guest = \"true\"", "guest = \"true\"\ncapture = true", "no ports"),
            ("event = \"panic\"", "event = \"flood\"", "flood"),
            ("title = \"t\"", "titel = \"t\"", "titel"),
            (
                "event = \"panic\"",
                "event = \"panic\"\nexpect = \"reset\"",
                "expects to be reset",
            ),
            (
                "event = \"panic\"",
                "event = \"panic\"\nno_disk_writes = true",
                "needs expect",
            ),
            (
                "event = \"panic\"",
                "event = \"panic\"\nbackup_console = [\"(\"]",
                "[[step]]",
            ),
            (
                "event = \"panic\"",
                "event = \"panic\"\nexpect = \"reset\"\nafter = [\"true\"]",
                "after asks",
            ),
            ("event = \"panic\"", "event = \"panic\"\ndisks_fail = [1]", "has not"),
            (
                "event = \"panic\"",
                "event = \"panic\"\ndisks_refuse_writes = [1]",
                "has not",
            ),
            (
                "[protect]",
                "[guest]\nwrong = { successor_init = \"none\" }\n[protect]",
                "none is not in",
            ),
        ] {
            let error = format!("{:#}", read(&LEAST.replace(from, to)).unwrap_err());
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn events_have_commands_and_causes() {
        assert_eq!(Event::Panic.command(None).unwrap(), "echo c >/proc/sysrq-trigger");
        assert_eq!(
            Event::Hang.command(Some("--kind all-cpus")).unwrap(),
            "orthros-ctl hang-test --yes --kind all-cpus"
        );
        assert!(Event::None.command(None).is_none());
        assert_eq!(Event::Update.cause(None), Some("update"));
        assert_eq!(
            Event::Hang.cause(Some("--cpu 1 --kind soft-lockup")),
            Some("soft-lockup")
        );
        assert_eq!(Event::Hang.cause(Some("--kind stall")), None);
        assert!(read(&LEAST.replace("\"panic\"", "\"hang\"")).is_err());
    }

    #[test]
    fn a_sweep_combines_and_repeats() {
        let step = read(LEAST).unwrap().steps.remove(0);
        let sweep = Sweep {
            after_ms: vec![5],
            random: 3,
            random_below_ms: 100,
            injections: vec!["a".into()],
            cases: vec![Case {
                injection: "b".into(),
                backup_console: vec!["said".into()],
            }],
        };
        let steps = sweep.variations(&step, 42);
        assert_eq!(steps.len(), 8);
        assert!(steps[..4].iter().all(|step| step.backup_console.is_empty()));
        assert!(steps[4..].iter().all(|step| step.backup_console == ["said"]));
        assert!(steps.iter().all(|step| step.after_ms < 100));
        let again: Vec<u64> = sweep.variations(&step, 42).iter().map(|step| step.after_ms).collect();
        assert_eq!(again, steps.iter().map(|step| step.after_ms).collect::<Vec<_>>());
    }

    #[test]
    fn all_scenarios_of_the_repository_are_valid() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        for entry in fs::read_dir(dir).into_iter().flatten() {
            Scenario::read(&entry.unwrap().path()).unwrap();
        }
    }
}
