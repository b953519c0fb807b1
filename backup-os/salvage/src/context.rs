//! What is known throughout one salvage, and what has been recorded so far.
//!
//! A process is recorded whole or not at all: [`Context::checkpoint`] and [`Context::rollback`] go with
//! [`Writer::mark`](shared_region::record::Writer::mark) and
//! [`Writer::rewind`](shared_region::record::Writer::rewind).

use crate::addr::{Kva, Pfn};
use crate::btrfs::{self, Btrfs};
use crate::clock::Now;
use crate::cpus::Cpu;
use crate::failover::Input;
use crate::fpu::XstateTable;
use crate::frame_set::FrameSet;
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::module_types::Module;
use crate::namespaces::Namespaces;
use crate::pages::Pages;
use crate::refusal::Result;
use crate::swap;
use crate::vfat;
use crate::xfs;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use hashbrown::{HashMap, HashSet};
use shared_region::context::Summary;
use shared_region::record::Kind;
use shared_region::retained;

/// See the module's comment.
pub struct Context<'k, 'm, M: PhysMem + ?Sized> {
    /// The kernel.
    pub kernel: &'k Kernel<'m, M>,
    /// What salvage was told.
    pub input: &'k Input<'k>,
    /// Reader of page frames.
    pub pages: Pages<'k, 'm, M>,
    /// The CPUs.
    pub cpus: Vec<Cpu>,
    /// Extended processor state.
    pub xstate: XstateTable,
    /// The clocks.
    pub now: Now,
    /// The namespaces of the first process.
    pub namespaces: Namespaces,
    /// Other mount namespaces, of processes that are to be recorded.
    pub mount_namespaces: HashSet<Kva>,
    /// Offsets of open files that an interrupted call has moved, by address of `struct file`.
    pub positions: HashMap<Kva, u64>,
    /// Sockets that interrupted calls hold locked, with nothing unfinished.
    pub locked: HashSet<Kva>,
    /// Sockets that processes to be recorded hold.
    pub sockets: HashSet<Kva>,
    /// How deep in what is on its way in sockets the present object lies.
    pub nesting: u32,
    /// What is known of swap.
    pub swap: swap::Known,
    /// Numbers for the report.
    pub tally: Summary,
    zero: u64,
    huge_zero: u64,
    symbols: RefCell<HashMap<Kva, Option<Rc<str>>>>,
    xfs: Module<xfs::Layouts>,
    vfat: Module<vfat::Layouts>,
    btrfs: Module<btrfs::Layouts>,
    /// What was read of mounted btrfs, by superblock.
    btrfs_read: RefCell<HashMap<Kva, Result<Rc<Btrfs>>>>,
    /// Frames shared copy-on-write that have an owner.
    claimed: FrameSet,
    /// Those of the process at work.
    claims: FrameSet,
    /// Records of shared objects that were written.
    written: HashSet<(u16, u64)>,
    writes: Vec<(u16, u64)>,
}

/// A state to come back to.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint {
    writes: usize,
    tally: Summary,
}

impl<'k, 'm, M: PhysMem + ?Sized> Context<'k, 'm, M> {
    /// Looks at what does not depend on any process.
    pub fn new(kernel: &'k Kernel<'m, M>, input: &'k Input<'k>, now: Now, namespaces: Namespaces) -> Self {
        let globals = &kernel.prepared.globals;
        let variable = |at: Option<Kva>| at.and_then(|at| kernel.mem.u64(at).ok()).unwrap_or(u64::MAX);
        Self {
            kernel,
            input,
            pages: Pages::new(kernel),
            cpus: crate::cpus::read(kernel, input),
            xstate: XstateTable::new(kernel, input),
            now,
            namespaces,
            mount_namespaces: HashSet::new(),
            positions: HashMap::new(),
            locked: HashSet::new(),
            sockets: HashSet::new(),
            nesting: 0,
            swap: swap::Known::default(),
            tally: Summary::default(),
            zero: variable(globals.zero_pfn),
            huge_zero: variable(globals.huge_zero_pfn),
            symbols: RefCell::new(HashMap::new()),
            xfs: Module::new(xfs::NAME),
            vfat: Module::new(vfat::MODULE),
            btrfs: Module::new(btrfs::NAME),
            btrfs_read: RefCell::new(HashMap::new()),
            claimed: FrameSet::default(),
            claims: FrameSet::default(),
            written: HashSet::new(),
            writes: Vec::new(),
        }
    }

    /// Name of the symbol at an address, `None` for null and for addresses of modules.
    pub fn symbol(&self, address: Kva) -> Option<Rc<str>> {
        if address.is_null() {
            return None;
        }
        let mut known = self.symbols.borrow_mut();
        let name = known
            .entry(address)
            .or_insert_with(|| self.kernel.symbol_name(address).map(|name| Rc::from(name.as_str())));
        name.clone()
    }

    /// The structures of XFS, if it is loaded and they are known.
    pub fn xfs(&self) -> Option<Rc<xfs::Layouts>> {
        self.xfs.structures(self.kernel)
    }

    /// The structures of vfat, if it is loaded and they are known.
    pub fn vfat(&self) -> Option<Rc<vfat::Layouts>> {
        self.vfat.structures(self.kernel)
    }

    /// The btrfs of a superblock, which is read once; `None` if the structures of btrfs are not known.
    ///
    /// # Errors
    /// What reading it says.
    pub fn btrfs(
        &self,
        superblock: Kva,
        read: impl FnOnce(Rc<btrfs::Layouts>) -> Result<Btrfs>,
    ) -> Result<Option<Rc<Btrfs>>> {
        let Some(layouts) = self.btrfs.structures(self.kernel) else {
            return Ok(None);
        };
        if let Some(known) = self.btrfs_read.borrow().get(&superblock) {
            return known.clone().map(Some);
        }
        let found = read(layouts).map(Rc::new);
        self.btrfs_read.borrow_mut().insert(superblock, found.clone());
        found.map(Some)
    }

    /// Nanoseconds of a tick (a jiffy): the clock of ticks counts them, exactly.
    pub fn tick(&self) -> Option<u64> {
        let layout = &self.kernel.types.layouts.clocksource;
        let clock = self.kernel.prepared.globals.clocksource_jiffies?;
        let shift = self.kernel.mem.uint(clock, layout.shift).ok()?;
        let mult = self.kernel.mem.uint(clock, layout.mult).ok()?;
        mult.checked_shr(u32::try_from(shift).ok()?).filter(|&tick| tick != 0)
    }

    /// The kernel's clock of ticks.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn jiffies(&self) -> Result<u64> {
        let variable = self.kernel.prepared.globals.jiffies_64.unwrap_or(Kva::NULL);
        Ok(self.kernel.mem.u64(variable)?)
    }

    /// The CPU a task was running on.
    pub fn cpu_of(&self, task: Kva) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.current == task)
    }

    /// Whether a frame is the zero page.
    pub fn is_zero(&self, pfn: u64) -> bool {
        pfn == self.zero || self.is_huge_zero(pfn & !511)
    }

    /// Whether a frame is the first of the huge zero page.
    pub fn is_huge_zero(&self, pfn: u64) -> bool {
        self.huge_zero != u64::MAX && pfn == self.huge_zero
    }

    /// Makes the process at work the owner of a shared frame, unless it has one.
    pub fn claim(&mut self, pfn: u64) -> bool {
        !self.claimed.contains(pfn) && self.claims.insert(pfn)
    }

    /// Whether a shared frame has an owner.
    pub fn is_claimed(&self, pfn: u64) -> bool {
        self.claimed.contains(pfn) || self.claims.contains(pfn)
    }

    /// Whether a shared object is met for the first time and has to be recorded.
    pub fn first(&mut self, kind: Kind, id: u64) -> bool {
        let fresh = self.written.insert((kind.0, id));
        if fresh {
            self.writes.push((kind.0, id));
        }
        fresh
    }

    /// Whether a shared object is recorded.
    pub fn is_written(&self, kind: Kind, id: u64) -> bool {
        self.written.contains(&(kind.0, id))
    }

    /// Marks frames as retained. Frames of a process that is refused later stay marked: they come to the allocator a
    /// little later than others.
    pub fn retain(&mut self, bitmap: &mut [u8], first: Pfn, pages: u64) {
        let fresh = retained::mark(bitmap, first.0, pages);
        self.tally.retained_frames = self.tally.retained_frames.wrapping_add(fresh);
    }

    /// Keeps what was recorded of the process at work.
    pub fn commit(&mut self) {
        self.claimed.append(&mut self.claims);
        self.writes.clear();
    }

    /// The present state.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            writes: self.writes.len(),
            tally: self.tally,
        }
    }

    /// Forgets what was recorded since a checkpoint.
    pub fn rollback(&mut self, checkpoint: Checkpoint) {
        self.claims.clear();
        for object in self.writes.drain(checkpoint.writes.min(self.writes.len())..) {
            self.written.remove(&object);
        }
        let retained_frames = self.tally.retained_frames;
        self.tally = Summary {
            retained_frames,
            ..checkpoint.tally
        };
    }
}
