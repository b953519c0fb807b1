//! Words that one side writes and another watches.
//!
//! Every word is 64 bits, naturally aligned, little-endian, and written whole. "Release" and "acquire" below are the
//! orderings of the store that publishes and the load that looks; on x86_64 both are plain moves, the compiler must
//! not move other accesses over them.

use core::sync::atomic::AtomicU64;

/// What the backup OS is doing; [`ControlWords::watch_state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum WatchState {
    /// Not started yet.
    Off = 0,
    /// Running, but the module has not told its facts, or they were refused; see [`ControlWords::watch_reason`].
    Unarmed = 1,
    /// Watching, ready to take over.
    Armed = 2,
    /// Stopping the active's CPUs.
    Stopping = 3,
    /// Salvaging; the successor may be booting already.
    Salvaging = 4,
    /// Salvage is over; the successor is taking over.
    HandingOver = 5,
    /// Given up; the epitaph says why.
    Dead = 6,
}

impl WatchState {
    /// The state for a stored word, if it is one of ours.
    pub const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            0 => Self::Off,
            1 => Self::Unarmed,
            2 => Self::Armed,
            3 => Self::Stopping,
            4 => Self::Salvaging,
            5 => Self::HandingOver,
            6 => Self::Dead,
            _ => return None,
        })
    }
}

/// Why the watcher is not armed; [`ControlWords::watch_reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum WatchReason {
    /// Armed, or nothing to say.
    None = 0,
    /// The module has not been loaded.
    NoFacts = 1,
    /// The facts have another version.
    FactsVersion = 2,
    /// The facts do not fit the memory they describe (page-table root, VMCOREINFO).
    FactsInvalid = 3,
    /// The kernel's BTF cannot be read or lacks what salvage needs.
    Btf = 4,
    /// No kernel is staged, or its digest is wrong.
    Stage = 5,
    /// The nursery is not free yet: the previous failover is still being handed over.
    HandOver = 6,
}

impl WatchReason {
    /// The reason for a stored word, if it is one of ours.
    pub const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            0 => Self::None,
            1 => Self::NoFacts,
            2 => Self::FactsVersion,
            3 => Self::FactsInvalid,
            4 => Self::Btf,
            5 => Self::Stage,
            6 => Self::HandOver,
            _ => return None,
        })
    }
}

/// Values of [`ControlWords::salvage_gate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum SalvageGate {
    /// Nothing was salvaged: an ordinary boot.
    None = 0,
    /// Under way; the successor must not touch the old kernel's memory.
    Busy = 1,
    /// Complete: the Essential Context may be read and memory added.
    Open = 2,
    /// Failed: there is nothing to restore, and the old memory may be added whole.
    Failed = 3,
    /// A CPU could not be parked: nothing may be added and no disk written.
    Forbidden = 4,
}

impl SalvageGate {
    /// The gate for a stored word, if it is one of ours.
    pub const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            0 => Self::None,
            1 => Self::Busy,
            2 => Self::Open,
            3 => Self::Failed,
            4 => Self::Forbidden,
            _ => return None,
        })
    }
}

/// Values of [`ControlWords::commit_point`]: what a successor has begun that cannot be taken back, and who may still change
/// his mind.
///
/// The successor's module goes from one level to a higher one right before the first act of that level; the backup OS goes
/// to [`CommitPoint::Revoked`] right before it stops a successor that has failed. Both by compare-and-exchange: whoever
/// comes second learns it. What was in the word before it was revoked is how far that successor has gone. The backup OS
/// opens it again when the successor has been stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum CommitPoint {
    /// The old memory is whole.
    Open = 0,
    /// The successor adds the old kernel's RAM: what is not retained is its own to write to.
    Memory = 1,
    /// The successor is being replaced: it must not go on. Written by the backup OS.
    Revoked = 2,
    /// It writes to disks: mounting replays journals and frees what was deleted.
    Disks = 3,
    /// Restored processes run. From here on the dead kernel's memory is theirs, and nobody else can save them.
    Processes = 4,
}

impl CommitPoint {
    /// The levels in their order, with how reports say it behind what became of a successor.
    pub const LEVELS: [(Self, &str); 4] = [
        (Self::Open, "before the commit point"),
        (Self::Memory, "having added memory"),
        (Self::Disks, "having written to disks"),
        (Self::Processes, "having let processes run"),
    ];

    /// The value of a stored word, if it is one of ours.
    pub fn from_word(word: u64) -> Option<Self> {
        let levels = Self::LEVELS.into_iter().map(|(level, _)| level);
        levels.chain([Self::Revoked]).find(|&value| value as u64 == word)
    }

    /// How reports say it; empty for what is no level.
    pub fn text(self) -> &'static str {
        let mut levels = Self::LEVELS.into_iter();
        levels.find(|&(level, _)| level == self).map_or("", |(_, text)| text)
    }
}

/// What rang; the low byte of [`ControlWords::doorbell`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Doorbell {
    /// Nothing.
    Quiet = 0,
    /// The panic notifier ran on the CPU in bits 8..40.
    Panic = 1,
    /// A planned update: every CPU has left user mode, interrupts are off, and the CPU in bits 8..40 waits.
    Update = 2,
}

/// Why the last failover took place; [`ControlWords::failure_cause`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u64)]
pub enum Cause {
    /// There was none yet, or it is not known.
    #[default]
    Unknown = 0,
    /// The kernel panicked.
    Panic = 1,
    /// It was asked for: a planned update.
    Update = 2,
    /// No CPU took interrupts any more.
    AllCpusHung = 3,
    /// One CPU took no interrupts any more.
    CpuHung = 4,
    /// A CPU took interrupts, but no thread got on it any more.
    SoftLockup = 5,
    /// A CPU went from thread to thread, but ordinary threads did not get their turn.
    LiveLock = 6,
    /// It was taking over from another one, had let processes run, and gave no sign of life any more.
    Silent = 7,
}

impl Cause {
    /// All of them, with the name used in reports.
    pub const ALL: [(Self, &str); 8] = [
        (Self::Unknown, "unknown"),
        (Self::Panic, "panic"),
        (Self::Update, "update"),
        (Self::AllCpusHung, "all-cpus-hung"),
        (Self::CpuHung, "cpu-hung"),
        (Self::SoftLockup, "soft-lockup"),
        (Self::LiveLock, "live-lock"),
        (Self::Silent, "silent"),
    ];

    /// The cause for a stored word, if it is one of ours.
    pub fn from_word(word: u64) -> Option<Self> {
        let mut all = Self::ALL.into_iter().map(|(cause, _)| cause);
        all.find(|&cause| cause as u64 == word)
    }

    /// The name used in reports.
    pub fn name(self) -> &'static str {
        let mut all = Self::ALL.into_iter();
        all.find(|&(cause, _)| cause == self).map_or("", |(_, name)| name)
    }
}

/// Bits of [`ControlWords::module_features`].
pub mod features {
    /// The module answers questions put to a CPU ([`crate::parking::ParkSlot::question`]).
    pub const ANSWERS: u64 = 1 << 0;
}

/// Which deadline of [`ControlWords::hang_limits`] a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum HangLimit {
    /// A CPU without a sign of taking interrupts.
    Cpu = 0,
    /// A CPU without a sign of a thread getting on it.
    Thread = 1,
    /// A CPU that is never idle and never in user mode.
    LiveLock = 2,
    /// Threads in uninterruptible sleep: reported only.
    Stalled = 3,
    /// A successor without a sign of life, once it has reported in.
    Successor = 4,
}

impl HangLimit {
    /// All of them, with their names for `orthros-ctl config` and the loader, and their default in milliseconds.
    pub const ALL: [(Self, &str, u64); 5] = [
        (Self::Cpu, "hang-cpu", 10_000),
        (Self::Thread, "hang-thread", 30_000),
        (Self::LiveLock, "hang-livelock", 60_000),
        (Self::Stalled, "hang-stalled", 120_000),
        (Self::Successor, "hang-successor", 60_000),
    ];
    /// In a word of [`ControlWords::hang_limits`]: not watched.
    pub const OFF: u64 = u64::MAX;
    /// The shortest deadline that is accepted, in milliseconds.
    pub const LEAST_MS: u64 = 1_000;
    /// The longest, in milliseconds.
    pub const MOST_MS: u64 = 3_600_000;

    /// The deadline for a stored word in milliseconds; `None` if it is off.
    pub const fn milliseconds(self, word: u64) -> Option<u64> {
        match word {
            0 => Some(Self::ALL[self as usize].2),
            Self::OFF => None,
            word if word < Self::LEAST_MS => Some(Self::LEAST_MS),
            word if word > Self::MOST_MS => Some(Self::MOST_MS),
            word => Some(word),
        }
    }

    /// The word for a deadline as it is written: `off`, `default`, or seconds. `None` if it is none of these or out of
    /// range.
    pub fn word(text: &str) -> Option<u64> {
        match text {
            "off" => Some(Self::OFF),
            "default" => Some(0),
            text => {
                let ms = text.parse::<u64>().ok()?.checked_mul(1000)?;
                (Self::LEAST_MS..=Self::MOST_MS).contains(&ms).then_some(ms)
            }
        }
    }
}

/// Name of [`ControlWords::warm_cache`] for `orthros-ctl config` and the loader.
pub const WARM_CACHE: &str = "warm-cache";
/// What is in force where [`ControlWords::warm_cache`] is 0, in megabytes.
pub const WARM_CACHE_MB: u64 = 256;
/// The largest [`ControlWords::warm_cache`], in megabytes: what there is room to describe.
pub const WARM_CACHE_MOST_MB: u64 = 1 << 20;

/// The word for a limit as it is written: `off`, `default`, or megabytes. `None` if it is none of these or out of range.
pub fn warm_cache_word(text: &str) -> Option<u64> {
    match text {
        "off" => Some(u64::MAX),
        "default" => Some(0),
        text => text.parse().ok().filter(|mb| (1..=WARM_CACHE_MOST_MB).contains(mb)),
    }
}

/// The limit for a stored word in megabytes.
pub const fn warm_cache_mb(word: u64) -> u64 {
    match word {
        0 => WARM_CACHE_MB,
        mb if mb <= WARM_CACHE_MOST_MB => mb,
        _ => 0,
    }
}

/// Name of the control group into which `orthros-ctl update` moves a process that cannot be frozen where it is.
pub const FREEZER_CGROUP: &str = "orthros-update";

/// What the backup OS does with the network of a dead kernel; [`ControlWords::network_hold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum NetworkHold {
    /// Nothing: the running kernel has it, or no link could be held.
    None = 0,
    /// It drives at least one link. Drivers of the successor are loaded when it has let go.
    Holding = 1,
    /// It has let go.
    LetGo = 2,
}

/// Bytes of [`ControlWords::failure_where`].
pub const WHERE_SIZE: usize = 48;

/// How far the successor has come; [`ControlWords::successor_phase`]. Only ever grows within one failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub enum SuccessorPhase {
    /// It has not reported in.
    None = 0,
    /// Its module is loaded.
    Module = 1,
    /// The old kernel's memory has been added. The commit point lies before this.
    MemoryAdded = 2,
    /// File systems are mounted and files are put back.
    Files = 3,
    /// Every process that can be restored runs.
    Resumed = 4,
    /// What nobody claimed has been given back; the distribution's own init is next.
    Complete = 5,
}

impl SuccessorPhase {
    /// The phase for a stored word, if it is one of ours.
    pub const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            0 => Self::None,
            1 => Self::Module,
            2 => Self::MemoryAdded,
            3 => Self::Files,
            4 => Self::Resumed,
            5 => Self::Complete,
            _ => return None,
        })
    }
}

/// The control words, at [`crate::layout::CONTROL`].
#[derive(Debug)]
#[repr(C)]
pub struct ControlWords {
    // Written by the backup OS.
    /// [`WatchState`]. Release.
    pub watch_state: AtomicU64,
    /// [`WatchReason`].
    pub watch_reason: AtomicU64,
    /// Looks the watcher has taken; grows while it lives.
    pub watcher_looks: AtomicU64,
    /// Interrupts and NMIs that reached the reserved core without being meant for it.
    pub stray_vectors: AtomicU64,
    /// Failovers since the machine was started.
    pub failover_count: AtomicU64,
    /// Generation of the stop, 0 while the active runs. The module's NMI handler parks its CPU when it is not 0. Release.
    pub stop_request: AtomicU64,
    /// Physical address of the page-table root of parked CPUs with 4-level paging. Entry 511 is the module's to fill.
    pub park_root_l4: AtomicU64,
    /// The same with 5-level paging.
    pub park_root_l5: AtomicU64,
    /// Physical (and identity-mapped) address to jump to after loading the root. See [`crate::parking`] for the registers.
    pub park_entry: AtomicU64,
    /// [`SalvageGate`]. Release; acquire before the Essential Context is read.
    pub salvage_gate: AtomicU64,
    /// TSC of the reserved core when the active was found dead.
    pub detected_tsc: AtomicU64,
    /// HPET main counter, read at the same instant as `detected_tsc`; 0 if there is none.
    pub detected_hpet: AtomicU64,
    /// ACPI PM timer, read at the same instant as `detected_tsc`.
    pub detected_pm_timer: AtomicU64,
    /// CPUs that could not be parked, as a count.
    pub unparked_cpus: AtomicU64,
    /// Staged-kernel slot that the running kernel, or the successor under way, was booted from: 0, 1, or
    /// [`crate::stage::NO_SLOT`]. Written by the loader for the first kernel.
    pub successor_slot: AtomicU64,
    /// While this equals `stop_request`, a CPU that is in the middle of a user thread's call may end it before it parks;
    /// with any other value it parks wherever it is. Written before `stop_request`, and 0 when patience ends. Release.
    pub stop_gently: AtomicU64,
    /// Why the last failover took place: [`Cause`].
    pub failure_cause: AtomicU64,
    /// 1 + the Linux CPU that failed, 0 if it was none in particular.
    pub failure_cpu: AtomicU64,
    /// Where that CPU was, as text: `symbol+offset`, NUL-padded.
    pub failure_where: [AtomicU64; WHERE_SIZE / 8],
    /// Threads whose system call a planned update has ended with EINTR.
    pub failure_interrupted: AtomicU64,
    /// Questions put to CPUs that showed no sign of life since the machine was started.
    pub hang_questions: AtomicU64,
    /// Threads of the running kernel that were found in uninterruptible sleep for longer than the deadline.
    pub stalled_threads: AtomicU64,
    /// Fault injection for tests: where and how the first successor of the failover under way is to fail
    /// ([`crate::fail_at`]). Taken from [`inject::SUCCESSOR_AT`] when the failure is detected.
    pub successor_fails_at: AtomicU64,
    /// [`NetworkHold`]. Release.
    pub network_hold: AtomicU64,
    /// Room for more words of the backup OS.
    pub backup_reserved: [AtomicU64; 3],

    // Written by the module of the running kernel.
    /// ABI version of the module, 0 while none is loaded.
    pub module_abi: AtomicU64,
    /// [`Doorbell`] in bits 0..8, Linux CPU number in bits 8..40; with an update, threads whose call ends with EINTR in bits
    /// 40..64. Release.
    pub doorbell: AtomicU64,
    /// TSC when the doorbell was rung.
    pub doorbell_tsc: AtomicU64,
    /// [`SuccessorPhase`]. Release.
    pub successor_phase: AtomicU64,
    /// Counter that orthros-init moves while it works.
    pub successor_heartbeat: AtomicU64,
    /// [`CommitPoint`]. Changed by compare-and-exchange; cleared by the backup OS while no kernel runs.
    pub commit_point: AtomicU64,
    /// Processes resumed.
    pub processes_resumed: AtomicU64,
    /// Frames adopted in place, copied, and refused, in the last failover.
    pub frames_adopted: AtomicU64,
    /// See `frames_adopted`.
    pub frames_copied: AtomicU64,
    /// See `frames_adopted`.
    pub frames_refused: AtomicU64,
    /// Fault injection for tests: bit N keeps the CPU with local APIC id N from parking in the NMI handler.
    pub inject_unparkable: [AtomicU64; 4],
    /// Fault injection for tests: bits of [`inject`].
    pub inject: AtomicU64,
    /// 1 + the number of the nursery that the running kernel, a successor, has left out of its RAM and emptied of
    /// retained frames, so that the next successor may be placed there; 0 while there is none. Release. Set before
    /// [`SuccessorPhase::Complete`]; cleared by the backup OS when it detects the next failure.
    pub nursery_free: AtomicU64,
    /// What the module can do: bits of [`features`]. Set before the facts are published; cleared by the backup OS when it
    /// detects the next failure.
    pub module_features: AtomicU64,
    /// Deadlines in milliseconds by [`HangLimit`], 0 for the default. Written by the loader at boot, then by the module.
    pub hang_limits: [AtomicU64; HangLimit::ALL.len()],
    /// Pages that disks have as well and that are kept in a failover, in megabytes: see [`warm_cache_mb`]. Written by the
    /// loader at boot, then by the module.
    pub warm_cache: AtomicU64,
    /// An address of the backup OS's own while it holds the network, 0 for none: a [`crate::status_page::StatusAddress`].
    /// Written by the loader at boot, then by the module.
    pub status_address: AtomicU64,
    /// Who is sent messages from there, 0 for nobody: a [`crate::status_page::LogTarget`]. Written by the loader at boot, then
    /// by the module.
    pub log_target: AtomicU64,
    /// Room for more words of the module.
    pub module_reserved: [AtomicU64; 7],
}

/// Bits of [`ControlWords::inject`].
pub mod inject {
    /// The stop ladder skips the module's NMI rung.
    pub const SKIP_NMI_RUNG: u64 = 1 << 0;
    /// The stop ladder skips the warm-reset vector for the bootstrap processor.
    pub const SKIP_INIT_RUNG: u64 = 1 << 1;
    /// The stop ladder skips the patch of the NMI entry text.
    pub const SKIP_PATCH_RUNG: u64 = 1 << 2;
    /// The stop ladder skips INIT for application processors.
    pub const SKIP_AP_INIT_RUNG: u64 = 1 << 3;
    /// The Essential Context area is treated as only 64 KB long.
    pub const SMALL_CONTEXT: u64 = 1 << 4;
    /// Hash the old kernel's memory before and after the successor's boot, into the log.
    pub const HASH_MEMORY: u64 = 1 << 5;
    /// The stop ladder skips the patch of the loop at the end of `panic()`.
    pub const SKIP_LOOP_RUNG: u64 = 1 << 6;
    /// CPUs park at once, in the middle of calls too ([`super::ControlWords::stop_gently`] stays 0).
    pub const PARK_AT_ONCE: u64 = 1 << 7;
    /// A byte of the sleeping standby is changed before it is woken. At machine start, as the next two.
    pub const STANDBY_WRITTEN: u64 = 1 << 16;
    /// The standby is woken at a place where it hangs.
    pub const STANDBY_HANGS: u64 = 1 << 17;
    /// The standby is taken for one that panicked before it slept.
    pub const STANDBY_PANICS: u64 = 1 << 18;
    /// A byte of the packed image for nursery 1 is changed before it is put back.
    pub const STANDBY_IMAGE: u64 = 1 << 19;
    /// Where and how the next failover's first successor fails: a [`crate::fail_at::word`] in these bits.
    pub const SUCCESSOR_AT: u64 = crate::fail_at::MASK << SUCCESSOR_AT_SHIFT;
    /// See [`SUCCESSOR_AT`].
    pub const SUCCESSOR_AT_SHIFT: u32 = 24;
}

const _: () = assert!(core::mem::size_of::<ControlWords>() == 64 * 8);
