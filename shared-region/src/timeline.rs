//! The instants of a failover, as time-stamp counter readings.
//!
//! Writer: the backup OS up to [`Event::Jumped`] and [`Event::Salvaged`], the successor's module and orthros-init
//! after that. Every event has one writer. Cleared by the backup OS when it detects the next failure.

use core::sync::atomic::AtomicU64;

/// An instant of a failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Event {
    /// The module's panic notifier ran, or a hang began.
    Failed = 0,
    /// The watcher saw it.
    Detected = 1,
    /// Every CPU is parked.
    Stopped = 2,
    /// Devices are quiet.
    Quiesced = 3,
    /// The successor's first instruction.
    Jumped = 4,
    /// The Essential Context is complete and the gate open.
    Salvaged = 5,
    /// orthros-init runs.
    InitStarted = 6,
    /// The module is loaded in the successor.
    ModuleLoaded = 7,
    /// orthros-init has passed the gate.
    GatePassed = 8,
    /// As much of the old kernel's RAM as the processes need has been added; the rest follows when they run.
    MemoryAdded = 9,
    /// File systems are mounted and files put back.
    FilesReady = 10,
    /// The first protected process is about to run.
    FirstResumed = 11,
    /// The last protected process is about to run.
    AllResumed = 12,
    /// Unclaimed frames are given back and the hand-over is over.
    Complete = 13,
    /// The machine is armed again.
    Armed = 14,
    /// The bootstrap processor left for the waking vector of a standby; only for a failover that wakes one.
    Woken = 15,
    /// The next standby sleeps in its nursery again; only where there is one.
    StandbyReady = 16,
    /// orthros-init is about to load the drivers of the network, and waits until the backup OS has let it go.
    NetworkWanted = 17,
}

/// Number of slots; more than there are events today.
pub const SLOTS: usize = 64;

/// All events in order, with the name used in reports.
pub const EVENTS: [(Event, &str); 18] = [
    (Event::Failed, "failed"),
    (Event::Detected, "detected"),
    (Event::Stopped, "stopped"),
    (Event::Quiesced, "quiesced"),
    (Event::Jumped, "jumped"),
    (Event::Salvaged, "salvaged"),
    (Event::InitStarted, "init_started"),
    (Event::ModuleLoaded, "module_loaded"),
    (Event::GatePassed, "gate_passed"),
    (Event::MemoryAdded, "memory_added"),
    (Event::FilesReady, "files_ready"),
    (Event::FirstResumed, "first_resumed"),
    (Event::AllResumed, "all_resumed"),
    (Event::Complete, "complete"),
    (Event::Armed, "armed"),
    (Event::Woken, "woken"),
    (Event::StandbyReady, "standby_ready"),
    (Event::NetworkWanted, "network_wanted"),
];

/// The timeline, at [`crate::layout::TIMELINE`]; 0 is "has not happened".
#[derive(Debug)]
#[repr(C)]
pub struct Timeline {
    /// TSC of each [`Event`], indexed by its number.
    pub tsc: [AtomicU64; SLOTS],
}
