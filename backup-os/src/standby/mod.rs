//! The standby: a successor that sleeps until it is needed. The hands of [`failover::standby`].
//!
//! | module | part |
//! |---|---|
//! | `make` | booting the staged kernel in each nursery before the first kernel is entered, and putting it to sleep |
//! | `image` | packing what sleeps into the region, and putting it back |
//! | `wake` | waking it at a failover, and what it asks of the chipset afterwards |
//!
//! Whatever goes wrong on the way costs the standby, not the machine: the successor starts cold then.

mod image;
mod make;
mod wake;

pub use image::{Images, Slice};

use crate::memory::LiveMemory;
use crate::region::Region;
use crate::rescue;
use crate::stage;
use crate::watch::Backup;
use alloc::rc::Rc;
use core::sync::atomic::Ordering;
use failover::fingerprint::{self, Fingerprint, Pieces};
use failover::life::Start;
use failover::ram::ActiveRam;
use failover::standby::{self as decide, Control};
use salvage::prepared::Prepared;
use shared_region::facts::Facts;
use shared_region::header::{options, Header};
use shared_region::layout::{self, Part};
use shared_region::stage::StagedKernel;
use shared_region::standby::{Missing, SleepPage, StandbyState, RESET_VALUE};

/// A kernel that went to sleep, and what has to be known to wake it.
#[derive(Clone)]
pub struct Sleeper {
    /// The nursery it lives in.
    nursery: usize,
    /// Staged-kernel slot it came from.
    slot: usize,
    /// What was in that slot.
    kernel: Identity,
    /// What its module told before the sleep, all zero if that was nothing.
    facts: Facts,
    /// The control word with which it went to sleep.
    asleep: Control,
    /// Its waking vector.
    vector: u32,
    /// The machine's own PM1 control port.
    control: u16,
    /// What it will find when it wakes.
    pieces: Rc<Pieces>,
    /// Of that; of nothing as long as it was not looked at.
    print: Rc<Fingerprint>,
    /// What salvage needs to know of it, looked up while it slept.
    prepared: Option<Rc<Prepared>>,
}

/// A kernel that sleeps in its nursery.
pub struct Standby {
    sleeper: Sleeper,
    /// What is to go wrong with it: bits of [`shared_region::control::inject`].
    inject: u64,
}

impl Standby {
    /// The staged-kernel slot it came from.
    pub const fn slot(&self) -> usize {
        self.sleeper.slot
    }

    /// What its module told before the sleep.
    pub const fn facts(&self) -> &Facts {
        &self.sleeper.facts
    }
}

/// Which kernel was staged: image, initramfs and command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    digests: [u32; 2],
    command_line: u32,
}

impl Identity {
    fn of(staged: &StagedKernel) -> Self {
        Self {
            digests: [staged.kernel_digest, staged.initramfs_digest],
            command_line: shared_region::stage::digest(staged.cmdline()),
        }
    }
}

/// The parts of the region that are the kernel's in nursery `index` alone.
fn own_parts(index: usize) -> [Part; 2] {
    [layout::ACPI, layout::BOOT_PARAMS].map(|whole| layout::half(whole, index))
}

/// Everything that a kernel in nursery `index` will find when it wakes: its nursery without the blocks that it holds idle,
/// its low range, and its parts of the region.
fn pieces(region: Region, header: &Header, index: usize) -> Pieces {
    let words = region.standby();
    let count = words.idle_count.load(Ordering::Acquire) as usize;
    let idle = words.idle_blocks.iter().take(count);
    let idle = idle.map(|block| block.load(Ordering::Relaxed));
    let mut pieces = decide::kept((header.nursery[index], layout::NURSERY_SIZE), idle);
    let low = layout::low_range(index);
    pieces.push((low.0, low.1 - low.0));
    pieces.extend(own_parts(index).map(|part| (header.base + part.offset, part.size)));
    Pieces::new(&pieces)
}

/// Memory that a kernel sleeps in.
fn sleeping(start: u64, length: u64) -> &'static [u8] {
    // SAFETY: 1. RAM below 4 GB, mapped: only [`pieces`] are asked for. 2. Nobody writes there while the kernel sleeps, and
    // the slices do not outlive that; a wild write of the active is what they are looked at for, and changes what is found.
    unsafe { core::slice::from_raw_parts(start as *const u8, length as usize) }
}

impl Sleeper {
    /// Looks up what salvage needs to know of it.
    fn prepare(&mut self, header: &Header) {
        let ram = ActiveRam::new(header, 1 - self.nursery);
        // SAFETY: the header's RAM is mapped at its own addresses (`map_everything`).
        let memory = unsafe { LiveMemory::new(ram) };
        match rescue::prepare(&memory, &self.facts) {
            Ok(prepared) => self.prepared = Some(Rc::new(prepared)),
            Err(error) => log::warn!("standby: the kernel in nursery {}: {error}", self.nursery),
        }
    }

    fn take_fingerprint(&mut self) {
        self.print = Rc::new(Fingerprint::of(&self.pieces, sleeping));
        log::info!(
            "standby: {} pages in use in nursery {}, of {} KB, digest {:016x}",
            self.print.pages(),
            self.nursery,
            self.pieces.chunks() * (fingerprint::CHUNK / 1024),
            self.print.digest()
        );
    }
}

fn seen(page: &SleepPage) -> decide::Seen {
    decide::Seen {
        control: Control(page.pm1_control.load(Ordering::Acquire)),
        reset: page.reset.load(Ordering::Acquire) == RESET_VALUE,
        doorbell: false,
    }
}

impl Backup {
    fn standby_state(&self) -> StandbyState {
        let word = self.region.standby().state.load(Ordering::Acquire);
        StandbyState::from_word(word).unwrap_or(StandbyState::Failed)
    }

    fn set_standby_state(&self, state: StandbyState) {
        self.region.standby().state.store(state as u64, Ordering::Release);
    }

    fn wants_standby(&self) -> bool {
        self.header.options & options::STANDBY != 0
    }

    /// There is none, for this reason.
    fn no_standby(&mut self, why: Missing) {
        self.standby = None;
        self.region.standby().missing.store(why as u64, Ordering::Relaxed);
        self.set_standby_state(StandbyState::None);
    }

    /// What the module of a kernel that sleeps, or is gone, has told is not the next one's.
    pub fn withdraw_facts(&self) {
        let magic = self.region.address(layout::FACTS) + core::mem::offset_of!(Facts, magic) as u64;
        // SAFETY: the part's writer, the module, is of a kernel that sleeps or is gone; readers check the magic.
        unsafe { machine::mmio::write64(self.ring0, magic, 0) };
    }

    /// A standby that is not what the next successor is to be makes room for it.
    pub fn forget_other_kernel(&mut self) {
        let current = staged_in(self.region, None);
        let is_other = |sleeper: &Sleeper| current != Some(sleeper.kernel);
        if self.standby.as_ref().is_some_and(|standby| is_other(&standby.sleeper)) {
            log::info!("standby: another kernel is staged than the one that sleeps");
            self.no_standby(Missing::OtherKernel);
        }
    }

    /// What was looked up about the kernel that runs while it slept.
    pub fn prepared_asleep(&self, memory: &LiveMemory, facts: &Facts) -> Option<Rc<Prepared>> {
        let prepared = self.awake.as_ref()?.prepared.as_ref()?;
        let known = rescue::known(memory, facts).ok()?;
        prepared.is_of(memory, &known).then(|| Rc::clone(prepared))
    }

    /// How the next successor starts.
    pub fn next_start(&self) -> Start {
        let reserved = self.life.reserved_nursery;
        match &self.standby {
            Some(standby) if decide::can_wake(self.standby_state(), standby.sleeper.nursery, reserved) => {
                Start::Standby
            }
            _ => Start::Cold,
        }
    }
}

/// What is staged in a slot, or in the one that the next successor is to come from.
fn staged_in(region: Region, slot: Option<usize>) -> Option<Identity> {
    let table = stage::table(region)?;
    let slot = table.slots.get(slot.unwrap_or(table.current as usize))?;
    (slot.valid == 1).then(|| Identity::of(slot))
}
