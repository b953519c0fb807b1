//! Whether a successor panics before its module could say so: the hands of [`salvage::newborn`].

use crate::memory::LiveMemory;
use crate::rescue;
use crate::watch::Backup;
use failover::ram::ActiveRam;
use machine::clock::{self, Clock};
use salvage::addr::PhysAddr;
use salvage::newborn;
use shared_region::header::Header;
use shared_region::layout;

/// Between two looks for its VMCOREINFO, in microseconds.
const LOOK_US: u64 = 500_000;
/// How long a kernel that panics has to say why on its console, in microseconds.
const LAST_WORDS_US: u64 = 200_000;

/// What is known of a successor's panic.
pub struct Newborn {
    memory: LiveMemory,
    nursery: u64,
    cpus: u64,
    panic_cpu: Option<u64>,
    looked: u64,
    panicking_since: Option<u64>,
}

impl Newborn {
    /// A kernel that has just been entered in this nursery.
    fn new(header: &Header, nursery: usize) -> Self {
        Self {
            // SAFETY: a nursery is RAM and mapped at its own addresses.
            memory: unsafe { LiveMemory::new(ActiveRam::of_nursery(header, nursery)) },
            nursery: header.nursery[nursery.min(1)],
            cpus: header.cpu_count,
            panic_cpu: None,
            looked: clock::tsc(),
            panicking_since: None,
        }
    }

    fn texts(&self) -> alloc::vec::Vec<PhysAddr> {
        let end = self.nursery + layout::NURSERY_SIZE;
        newborn::texts(&self.memory, PhysAddr(self.nursery), PhysAddr(end))
    }

    /// Whether it has panicked, and had time to say why.
    pub fn panicked(&mut self, clock: &Clock) -> bool {
        let Some(panic_cpu) = self.panic_cpu else {
            if rescue::since(clock, self.looked) > LOOK_US {
                self.panic_cpu = self
                    .texts()
                    .into_iter()
                    .find_map(|text| newborn::panic_cpu(&self.memory, text))
                    .map(|at| at.0);
                self.looked = clock::tsc();
            }
            return false;
        };
        let taken = self
            .memory
            .read_u32(panic_cpu)
            .is_some_and(|cpu| u64::from(cpu) < self.cpus);
        if !taken {
            self.panicking_since = None;
            return false;
        }
        let since = *self.panicking_since.get_or_insert_with(clock::tsc);
        rescue::since(clock, since) > LAST_WORDS_US
    }
}

impl Backup {
    /// Begins to watch a kernel that is about to be entered cold in the reserved nursery, where kernels may have lived
    /// before: what they said of themselves is wiped, so that it is not taken for this one's.
    pub fn watch_newborn(&self) -> Newborn {
        let nursery = self.life.reserved_nursery;
        let newborn = Newborn::new(&self.header, nursery);
        let placed = self.placed.as_ref();
        for text in newborn.texts() {
            if !placed.is_some_and(|placed| placed.covers(text.0)) {
                // SAFETY: RAM of the reserved nursery, which nobody uses but for what was placed there.
                unsafe { machine::mmio::write64(self.ring0, text.0, 0) };
            }
        }
        newborn
    }
}
