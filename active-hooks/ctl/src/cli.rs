//! The command line.

use crate::exit;
use clap::{Args, Parser, Subcommand, ValueEnum};
use shared_region::fail_at::{FailAt, FailHow};
use std::ffi::OsString;
use std::path::PathBuf;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "orthros-ctl",
    version,
    about = "Shows and controls Orthros, which carries processes over a kernel failure",
    after_long_help = exit::HELP,
    arg_required_else_help = true
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show whether the machine is armed, and if not, why.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Keep processes through a failure.
    Protect(Protect),
    /// Take protection back.
    Unprotect(Unprotect),
    /// Show what of a process would survive a failure and what would not.
    Check {
        /// Process ids; without any, the protected processes.
        pids: Vec<u32>,
        /// Every process of the system.
        #[arg(long, conflicts_with = "pids")]
        all: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the last failover: when, how long, what was saved and what was lost, and why.
    Report {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// With the dead kernel's log, the stack that panicked, and its tasks.
        #[arg(long)]
        full: bool,
    },
    /// Make the kernel fail, to see the machine come back.
    PanicTest(PanicTest),
    /// Make the kernel hang, to see that it is noticed.
    HangTest(HangTest),
    /// Show what kernels are held ready, or stage another one.
    Stage(Stage),
    /// Replace the kernel by the staged one; protected processes go on.
    Update(Update),
    /// Show or set after how long a hang is one, how much of the page cache a failover keeps, and where one can be watched.
    Config {
        /// `hang-cpu`, `hang-thread`, `hang-livelock`, `hang-stalled`, `hang-successor`, `warm-cache`, `status-address` or
        /// `log-target`; without any, all are shown.
        name: Option<String>,
        /// Seconds, for `warm-cache` megabytes, `off` or `default`; for `status-address` an address that no machine has, as
        /// 192.0.2.7/24, at which the backup OS shows what it does (by HTTP) while no kernel has the network; for `log-target`
        /// who is sent messages from there (syslog over UDP), as 192.0.2.1 or 192.0.2.1:514; both are off by default; without
        /// one, the setting is shown.
        value: Option<String>,
        /// As JSON.
        #[arg(long, conflicts_with = "value")]
        json: bool,
    },
    /// Show or name the partition or file into which file data is saved when no kernel can be booted any more.
    RescueArea(RescueArea),
    /// Put back the files that a rescue area holds: after an ordinary boot, or when a disk that had gone is there again.
    Rescue(Rescue),
    /// Check whether this machine can run Orthros, also before it does.
    CheckMachine {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the log of the backup OS.
    Log {
        /// What it wrote when it gave the machine up, instead.
        #[arg(long)]
        epitaph: bool,
    },
    /// Print this manual page.
    #[command(hide = true)]
    Man,
}

/// Arguments of `rescue-area`.
#[derive(Debug, Args)]
pub struct RescueArea {
    /// The partition (`/dev/vdb1`) or file, `auto` for the one that was prepared (a partition, or `/var/lib/orthros/rescue`), or
    /// `off`; without one, it is shown.
    pub device: Option<String>,
    /// Make it a rescue area first: what is on the partition is lost, and the file is made, immutable, on an ext4 or XFS.
    #[arg(long, requires = "device")]
    pub prepare: bool,
    /// How large the file is to be (`512M`, `1G`).
    #[arg(long, requires = "prepare")]
    pub size: Option<String>,
    /// Delete the file.
    #[arg(long, requires = "device", conflicts_with = "prepare")]
    pub remove: bool,
    /// Prepare or delete it even if there is something on it.
    #[arg(long, requires = "device")]
    pub force: bool,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `rescue`.
#[derive(Debug, Args)]
pub struct Rescue {
    /// The area; without one it is looked for.
    pub area: Option<PathBuf>,
    /// Only list what is in it.
    #[arg(long, conflicts_with_all = ["dry_run", "discard"])]
    pub list: bool,
    /// Only say what would be put back and what would be refused.
    #[arg(long, conflicts_with = "discard")]
    pub dry_run: bool,
    /// Give up what is in it.
    #[arg(long)]
    pub discard: bool,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `protect`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whom").required(true).multiple(true))]
pub struct Protect {
    /// Process ids.
    #[arg(group = "whom")]
    pub pids: Vec<u32>,
    /// Every process of this name (the kernel's, up to 15 bytes), whenever it starts.
    #[arg(long, value_name = "NAME", group = "whom", num_args = 1..)]
    pub comm: Vec<String>,
    /// Every process of a systemd service, with their children.
    #[arg(long, value_name = "SERVICE", group = "whom", num_args = 1..)]
    pub unit: Vec<String>,
    /// With their children, and the children of those.
    #[arg(long)]
    pub descendants: bool,
    /// A command to run protected, with all it starts.
    #[arg(last = true, value_name = "COMMAND", group = "whom", conflicts_with_all = ["pids", "comm", "unit"])]
    pub command: Vec<OsString>,
}

/// Arguments of `unprotect`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whom").required(true).multiple(true))]
pub struct Unprotect {
    /// Process ids.
    #[arg(group = "whom")]
    pub pids: Vec<u32>,
    /// Names.
    #[arg(long, value_name = "NAME", group = "whom", num_args = 1..)]
    pub comm: Vec<String>,
    /// Every process of a systemd service.
    #[arg(long, value_name = "SERVICE", group = "whom", num_args = 1..)]
    pub unit: Vec<String>,
    /// Everything that is protected.
    #[arg(long, group = "whom", conflicts_with_all = ["pids", "comm", "unit"])]
    pub all: bool,
}

/// Arguments of `panic-test`.
#[derive(Debug, Args)]
pub struct PanicTest {
    /// How it fails.
    #[arg(long, value_enum, default_value = "sysrq")]
    pub kind: PanicKind,
    /// On which CPU; where the test runs if not given.
    #[arg(long, value_name = "N")]
    pub cpu: Option<u32>,
    /// For `at`: a function of the kernel, or FUNCTION+OFFSET. For `corrupt`: a directory.
    #[arg(long, value_name = "PLACE", required_if_eq_any([("kind", "at"), ("kind", "corrupt")]))]
    pub at: Option<String>,
    /// For `at`: how often the kernel comes by before it fails. For `corrupt`: what the damage is drawn from.
    #[arg(long, value_name = "N", default_value = "0")]
    pub passes: u64,
    /// Something else that goes wrong as well (may be repeated).
    #[arg(long, value_enum, value_name = "FAULT")]
    pub inject: Vec<Injection>,
    /// Let the first successor fail at this step of the hand-over.
    #[arg(long, value_name = "STEP", value_parser = step)]
    pub successor_at: Option<FailAt>,
    /// How it fails there: panic, hang (all CPUs), stall (orthros-init), or slow (it takes a minute and goes on).
    #[arg(long, value_name = "HOW", value_parser = how, default_value = "panic", requires = "successor_at")]
    pub successor_fails: FailHow,
    /// Keep this CPU from parking in the module's NMI handler (may be repeated).
    #[arg(long, value_name = "N")]
    pub unparkable: Vec<u32>,
    /// Really.
    #[arg(long)]
    pub yes: bool,
}

/// What can go wrong during a failover, for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Injection {
    /// CPUs are not stopped by the module's NMI handler.
    SkipNmi,
    /// Application processors are not stopped by INIT.
    SkipInit,
    /// The bootstrap processor is not stopped by a patch of the NMI entry text.
    SkipNmiText,
    /// The bootstrap processor is not stopped by a patch of the loop in `panic()`.
    SkipLoopText,
    /// The bootstrap processor is not stopped by the warm-reset vector.
    SkipWarmReset,
    /// CPUs are not let end the system call they are in before they are stopped.
    ParkAtOnce,
    /// The Essential Context has room for 64 KB only.
    SmallContext,
    /// Nothing goes wrong: the old memory is hashed before the successor starts and again before it is given any of
    /// it, and the log says whether it is the same.
    HashMemory,
}

/// Ways to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PanicKind {
    /// `echo c > /proc/sysrq-trigger`.
    Sysrq,
    /// `panic()`.
    Panic,
    /// A null dereference in a kernel thread.
    NullDereference,
    /// BUG() in a timer interrupt.
    BugInInterrupt,
    /// `panic()` while the chosen CPU spins with interrupts off.
    PanicWithSpinner,
    /// `panic()`, and a console fails while the kernel says so.
    PanicInPanic,
    /// `panic()` on a CPU that holds locks of a protected process.
    PanicHoldingLocks,
    /// `panic()` in whoever comes to the function of --at.
    At,
    /// `panic()` right after bits and pointers were changed in what the kernel knows of the file system that --at lies on:
    /// nodes of page caches, inodes or buffer heads, as the remainder of --passes by 3 says.
    Corrupt,
}

/// Arguments of `hang-test`.
#[derive(Debug, Args)]
pub struct HangTest {
    /// How it hangs.
    #[arg(long, value_enum)]
    pub kind: HangKind,
    /// On which CPU; where the test runs if not given.
    #[arg(long, value_name = "N")]
    pub cpu: Option<u32>,
    /// Really.
    #[arg(long)]
    pub yes: bool,
}

/// Ways to hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HangKind {
    /// Every CPU spins with interrupts off.
    AllCpus,
    /// One CPU spins with interrupts off.
    OneCpuIrqOff,
    /// One CPU spins with interrupts off, and in its NMI handler when it is asked.
    InNmi,
    /// One CPU spins with interrupts off and holds locks of a protected process.
    HoldingLocks,
    /// A kernel thread spins and lets nobody else on its CPU.
    SoftLockup,
    /// Two kernel threads of the highest priority hand a CPU to each other for ever.
    LiveLock,
    /// A thread sleeps uninterruptibly: reported, and nothing else.
    Stall,
}

/// Arguments of `stage`.
#[derive(Debug, Args)]
pub struct Stage {
    /// What to stage.
    #[command(flatten)]
    pub images: Images,
    /// As JSON; progress goes to standard error.
    #[arg(long)]
    pub json: bool,
}

/// A kernel to stage.
#[derive(Debug, Default, Args)]
pub struct Images {
    /// The kernel image (`/boot/vmlinuz-...`).
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Its initramfs, with orthros-init, the module and the drivers of the root disk in it.
    #[arg(long, value_name = "FILE", conflicts_with = "auto")]
    pub initrd: Option<PathBuf>,
    /// Make the initramfs for this machine; that is what happens without --initrd.
    #[arg(long)]
    pub auto: bool,
    /// Its command line; that of the kernel staged before if not given.
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// Where its modules are, instead of `/lib/modules/RELEASE`.
    #[arg(long, value_name = "FOLDER")]
    pub modules: Option<PathBuf>,
    /// The module of Orthros for it.
    #[arg(long, value_name = "FILE")]
    pub module: Option<PathBuf>,
    /// The first program of an initramfs that is made.
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
}

/// Arguments of `update`.
#[derive(Debug, Args)]
pub struct Update {
    /// What to stage first; without --kernel the one that is staged is used.
    #[command(flatten)]
    pub images: Images,
    /// Only say what would survive.
    #[arg(long)]
    pub dry_run: bool,
    /// Go ahead, although every process that is not protected ends.
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
    /// Go ahead even if a protected process would not survive.
    #[arg(long)]
    pub force: bool,
    /// Do not write file systems out before.
    #[arg(long)]
    pub no_sync: bool,
    /// How long to wait for a moment in which no call has to be interrupted, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub wait: u64,
    /// For tests: let the first successor fail at this step of the hand-over.
    #[arg(long, value_name = "STEP", value_parser = step)]
    pub successor_at: Option<FailAt>,
    /// How it fails there: panic, hang (all CPUs), stall (orthros-init), or slow (it takes a minute and goes on).
    #[arg(long, value_name = "HOW", value_parser = how, default_value = "panic", requires = "successor_at")]
    pub successor_fails: FailHow,
    /// As JSON; progress goes to standard error.
    #[arg(long)]
    pub json: bool,
}

fn step(name: &str) -> Result<FailAt, String> {
    let known = || FailAt::ALL.map(|(_, name)| name).join(", ");
    FailAt::from_name(name).ok_or_else(|| format!("it is one of {}", known()))
}

fn how(name: &str) -> Result<FailHow, String> {
    let known = || FailHow::ALL.map(|(_, name)| name).join(", ");
    FailHow::from_name(name).ok_or_else(|| format!("it is one of {}", known()))
}
