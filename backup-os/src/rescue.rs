//! Salvage on the reserved core: the hands of the salvage crate.

use crate::memory::{FrozenMemory, LiveMemory};
use crate::region::Region;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use failover::ram::ActiveRam;
use machine::clock::{self, Clock};
use salvage::addr::PhysAddr;
use salvage::clock::Readings;
use salvage::failover::{Input, Protected, Saved, Stopped};
use salvage::kernel::Kernel;
use salvage::memory::PhysMem;
use salvage::prepared::{KernelFacts, PrepareError, Prepared};
use shared_region::control::{inject, warm_cache_mb};
use shared_region::facts::Facts;
use shared_region::layout;
use shared_region::record::RecordError;
use shared_region::PAGE_SIZE;

/// Bytes of the Essential Context area when a test wants it small.
const SMALL_CONTEXT: usize = 64 << 10;

/// What the module told about its kernel, as salvage needs it.
///
/// # Errors
/// [`PrepareError::VmCoreInfo`].
pub fn known(memory: &LiveMemory, facts: &Facts) -> Result<KernelFacts, PrepareError> {
    let mut text = alloc::vec![0; facts.vmcoreinfo_len as usize];
    // Memory that cannot be read holds no VMCOREINFO, which is what the parser then says.
    if memory.read(PhysAddr(facts.vmcoreinfo_phys), &mut text).is_err() {
        text.clear();
    }
    KernelFacts::from_module(PhysAddr(facts.root_table_phys), facts.la57 == 1, &text)
}

/// Looks up everything salvage needs, in a kernel that lives or sleeps.
///
/// # Errors
/// [`PrepareError`], naming what is missing or does not fit.
pub fn prepare(memory: &LiveMemory, facts: &Facts) -> Result<Prepared, PrepareError> {
    Prepared::new(memory, known(memory, facts)?)
}

/// What salvage is told about the failure.
pub struct Failure<'a> {
    /// The active.
    pub facts: &'a Facts,
    /// Generation of the stop.
    pub generation: u64,
    /// TSC after the last CPU was stopped.
    pub stopped_tsc: u64,
    /// Number of the failover.
    pub failover: u64,
    /// The CPU that hung, if it was not a panic.
    pub suspect: Option<usize>,
}

/// What is salvaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Everything, for a successor.
    All,
    /// What disks do not have, for a kernel that is booted after a reset.
    Files,
}

/// Salvages the dead active into the Essential Context and the bitmap of retained frames.
///
/// # Errors
/// [`RecordError`] if not even the records about the machine have room.
///
/// # Safety
/// 1. As [`FrozenMemory::new`] until this returns. 2. Nobody uses the Essential Context or the bitmap: the gate is shut.
pub unsafe fn salvage(
    region: Region,
    clock: &Clock,
    memory: &FrozenMemory,
    prepared: &Prepared,
    failure: &Failure<'_>,
    aim: Aim,
) -> Result<Saved, RecordError> {
    let control = region.control();
    let word = |word: &core::sync::atomic::AtomicU64| word.load(Ordering::Relaxed);
    let protect = match aim {
        Aim::All => region.copy(layout::PROTECT),
        Aim::Files => Vec::new(),
    };
    // SAFETY: the gate is shut (the caller's promise 2), and these are the only references into the two parts.
    let (mut area, retained) = unsafe { (region.part_mut(layout::CONTEXT), region.part_mut(layout::RETAINED)) };
    if word(&control.inject) & inject::SMALL_CONTEXT != 0 {
        area = &mut area[..SMALL_CONTEXT];
    }
    let input = Input {
        facts: Some(failure.facts),
        protected: Protected::Table(&protect),
        stopped: Stopped::Slots {
            slots: PhysAddr(region.address(layout::PARKING_SLOTS)),
            generation: failure.generation,
        },
        readings: Some(Readings {
            tsc: word(&control.detected_tsc),
            hpet: word(&control.detected_hpet),
            pm_timer: word(&control.detected_pm_timer),
            stopped_tsc: failure.stopped_tsc,
            tsc_hz: clock.hz(),
        }),
        failover: failure.failover,
        suspect: failure.suspect,
        warm_pages: match aim {
            Aim::All => (warm_cache_mb(word(&control.warm_cache)) << 20) / PAGE_SIZE,
            Aim::Files => 0,
        },
        by_file: aim == Aim::Files,
    };
    let kernel = Kernel::new(memory, prepared);
    for cpu in salvage::cpus::read(&kernel, &input) {
        if let Some(place) = salvage::cpus::place(&kernel, &cpu) {
            log::info!("salvage: CPU {} was stopped in {place}", cpu.number);
        }
    }
    salvage::failover::run(&kernel, &input, area, retained)
}

/// A digest over all of the dead active's memory, with the bytes it covers.
pub fn hash(memory: &FrozenMemory) -> (u64, u64) {
    let mut digest = failover::digest::start();
    let mut bytes = 0;
    for &(start, end) in memory.ranges() {
        if let Some(run) = memory.slice(PhysAddr(start), (end - start) as usize) {
            digest = failover::digest::extend(digest, run);
            bytes += end - start;
        }
    }
    (digest, bytes)
}

/// The dead active's memory: its RAM, and the parking slots, which hold what its CPUs had in their registers.
///
/// # Safety
/// As [`FrozenMemory::new`]; no CPU of the active writes its slot any more.
pub unsafe fn frozen(region: Region, ram: &ActiveRam) -> FrozenMemory {
    let slots = region.address(layout::PARKING_SLOTS);
    // SAFETY: the caller's promise.
    unsafe { FrozenMemory::new(ram.clone(), Vec::from([(slots, slots + layout::PARKING_SLOTS.size)])) }
}

/// Microseconds since a time-stamp counter reading.
pub fn since(clock: &Clock, tsc: u64) -> u64 {
    clock.nanoseconds(clock::tsc().wrapping_sub(tsc)) / 1000
}
