//! The watcher: what the reserved core does while nothing is wrong.
//!
//! It sleeps, wakes at each tick, and looks: at the facts while it is not armed, at `panic_cpu`, the doorbell and now and
//! then the heartbeats of the CPUs ([`crate::hang`]) when it is. It reads the active's memory and writes nothing but words of its own in the region. It never touches the PCI
//! configuration ports, which the active uses in two steps.

use crate::hang::{Death, Eyes, HangWatch};
use crate::memory::LiveMemory;
use crate::network::Network;
use crate::parking::Parking;
use crate::platform::Platform;
use crate::region::Region;
use crate::stage::{self, Placed, Purpose};
use crate::standby::{Images, Sleeper, Slice, Standby};
use crate::unpack::{Step, Unpacking};
use crate::{console, heap, interrupts, rescue, timer};
use alloc::rc::Rc;
use alloc::string::String;
use core::sync::atomic::Ordering;
use failover::attempts::Candidate;
use failover::life::{Input, Life, Start};
use failover::ram::ActiveRam;
use machine::clock::{self, Clock};
use machine::mtrr::Mtrrs;
use machine::Ring0;
use salvage::addr::PhysAddr;
use salvage::memory::PhysMem;
use salvage::prepared::{PrepareError, Prepared};
use shared_region::control::{Cause, Doorbell, WatchReason};
use shared_region::facts::{self, Facts, FactsError};
use shared_region::header::Header;
use shared_region::layout;
use shared_region::stage::StageState;
use shared_region::timeline::Event;

/// The doorbell's own byte in its word.
pub const DOORBELL: u64 = 0xFF;
/// First bit of the CPU's number in the doorbell.
const DOORBELL_CPU: u32 = 8;
/// First bit of the number of threads whose call an update has ended.
const DOORBELL_INTERRUPTED: u32 = 40;
/// How long a kernel that panics has for its last words, in microseconds. `panic()` first takes `panic_cpu`; its message
/// is in the log at once, but then it waits for slow consoles before it comes to where the module rings. What it would
/// still print, the panicking stack, is unwound by the salvager. A kernel that hangs in between does not ring. Three
/// milliseconds were tried: a service that wrote to the console's line was then stopped waiting for the lock of it, in the
/// middle of its call, and lost.
pub const LAST_WORDS_US: u64 = 15_000;
/// And in looks, between which this core rests: where CPUs take turns, time alone may pass without the other having one.
const LAST_WORDS_LOOKS: u32 = 3;

/// Everything the backup OS has found out about the machine.
pub struct Backup {
    /// Ring 0.
    pub ring0: Ring0,
    /// Time.
    pub clock: Clock,
    /// The region.
    pub region: Region,
    /// The machine, as the loader wrote it down.
    pub header: Header,
    /// The parking code.
    pub parking: Parking,
    /// Timers and interrupt controllers.
    pub platform: Platform,
    /// Memory types as the firmware set them.
    pub mtrrs: Option<Mtrrs>,
    /// What it is doing.
    pub life: Life,
    /// The successor in its nursery.
    pub placed: Option<Placed>,
    /// The successor that sleeps, or is being woken.
    pub standby: Option<Standby>,
    /// The kernel that runs, if it was woken.
    pub awake: Option<Sleeper>,
    /// Packed images of standbys.
    pub images: Images,
    /// The same being unpacked.
    pub unpacking: Option<Unpacking>,
    /// Successors in a row that failed while processes ran in them, before they were watched.
    pub failed_in_a_row: u32,
    /// The successor that has taken over everything, while it is not watched.
    pub unwatched: Option<Candidate>,
    /// Links that are held for a dead kernel.
    pub network: Network,
}

/// What is known about an active that is being watched.
pub struct Armed {
    /// As its module published them.
    pub facts: Facts,
    /// As salvage looked them up; `None` for a kernel that died before it was watched.
    pub prepared: Option<Rc<Prepared>>,
    /// Its memory.
    pub ram: ActiveRam,
    /// TSC when `panic_cpu` was first seen taken, 0 if it was not.
    pub panicking_since: u64,
    /// Looks at which it was.
    panicking_looks: u32,
    start: Start,
    /// How it died, once it has.
    pub death: Death,
    hang: Option<HangWatch>,
    /// Its memory, to look at.
    pub live: LiveMemory,
    seq: u64,
}

/// The death of a kernel whose panic notifier rang.
pub fn rung_by(doorbell: u64) -> Death {
    Death {
        cause: Cause::Panic,
        cpu: Some((doorbell >> DOORBELL_CPU) as u32 as usize),
        ..Death::default()
    }
}

/// Why it is not armed, for the words and for the log.
pub struct Refusal {
    /// As the words say it.
    pub reason: WatchReason,
    /// The CPU that has taken `panic_cpu`, if that is it.
    pub panicking: Option<u32>,
    /// In words.
    pub message: String,
}

fn refusal(reason: WatchReason, message: impl core::fmt::Display) -> Refusal {
    Refusal {
        reason,
        panicking: None,
        message: alloc::format!("{message}"),
    }
}

impl Backup {
    /// Watches until the active dies.
    pub fn watch(&mut self) -> Armed {
        let mut said = None;
        loop {
            let mut armed = loop {
                match self.arm() {
                    Ok(armed) => break armed,
                    Err(refusal) => {
                        self.step(Input::NotReady(refusal.reason));
                        if said.as_ref() != Some(&refusal.message) {
                            log::info!("watch: not armed: {}", refusal.message);
                            said = Some(refusal.message.clone());
                        }
                        if let Some(armed) = self.idle_unarmed(&refusal) {
                            return armed;
                        }
                    }
                }
            };
            said = None;
            self.unwatched = None;
            self.failed_in_a_row = 0;
            self.step(Input::Ready(armed.start));
            self.region.stamp(Event::Armed);
            self.put_standby_back();
            log::info!(
                "watch: armed: Linux {}, page tables at {:#x}, {} CPUs, successor {} in nursery {} at {:#x}, heap {} bytes",
                armed.facts.release(),
                armed.facts.root_table_phys,
                self.header.cpus().len(),
                match (armed.start, &self.placed) {
                    (Start::Standby, _) => "asleep",
                    (Start::Cold, Some(_)) => "placed",
                    (Start::Cold, None) => "staged",
                },
                self.life.reserved_nursery,
                self.header.nursery[self.life.reserved_nursery],
                heap::used(),
            );
            loop {
                self.wait_a_tick();
                if let Some(death) = self.death(&mut armed) {
                    armed.death = death;
                    return armed;
                }
                if !self.facts_stand(&armed) {
                    log::info!("watch: the facts have changed");
                    break;
                }
                self.serve_stage();
                match self.standby_on() {
                    Slice::Nothing => self.unpack_on(),
                    Slice::Done => {}
                    // To place a successor that starts cold.
                    Slice::Failed => break,
                }
            }
        }
    }

    /// Moves the life on and publishes it. An input that cannot happen is logged and changes nothing.
    pub fn step(&mut self, input: Input) {
        let Some(next) = self.life.after(input) else {
            log::error!("watch: {input:?} cannot happen in state {:?}", self.life.state);
            return;
        };
        self.life = next;
        let control = self.region.control();
        control.watch_reason.store(next.reason as u64, Ordering::Relaxed);
        control.failover_count.store(next.failovers, Ordering::Relaxed);
        control.watch_state.store(next.state as u64, Ordering::Release);
    }

    /// Sleeps until the next tick, and counts it as a look.
    pub fn wait_a_tick(&self) {
        timer::sleep();
        self.count_look();
    }

    /// Counts a look and what came uninvited, and lets the serial port catch up with the log.
    fn count_look(&self) {
        let control = self.region.control();
        control.watcher_looks.fetch_add(1, Ordering::Relaxed);
        control.stray_vectors.store(interrupts::stray(), Ordering::Relaxed);
        console::catch_up();
        self.serve_power_words();
    }

    fn death(&self, armed: &mut Armed) -> Option<Death> {
        let invalid = armed.facts.panic_cpu_invalid as u32;
        let panic_cpu = armed
            .live
            .read_u32(armed.facts.panic_cpu_phys)
            .filter(|&cpu| cpu != invalid);
        let doorbell = self.region.control().doorbell.load(Ordering::Acquire);
        let rang = doorbell & DOORBELL;
        if rang != 0 {
            // A panic in the middle of an update is just a panic.
            let update = rang == Doorbell::Update as u64 && panic_cpu.is_none();
            return Some(Death {
                cause: if update { Cause::Update } else { Cause::Panic },
                cpu: (!update).then_some((doorbell >> DOORBELL_CPU) as u32 as usize),
                interrupted: if update { doorbell >> DOORBELL_INTERRUPTED } else { 0 },
                ..Death::default()
            });
        }
        if let Some(cpu) = panic_cpu {
            if armed.panicking_since == 0 {
                armed.panicking_since = clock::tsc();
            }
            armed.panicking_looks = armed.panicking_looks.saturating_add(1);
            let waited = rescue::since(&self.clock, armed.panicking_since) > LAST_WORDS_US;
            return (waited && armed.panicking_looks > LAST_WORDS_LOOKS).then(|| Death {
                cause: Cause::Panic,
                cpu: Some(cpu as usize),
                ..Death::default()
            });
        }
        let eyes = self.eyes(&armed.live, armed.prepared.as_ref()?);
        armed.hang.as_mut()?.look(eyes)
    }

    fn eyes<'a>(&self, live: &'a LiveMemory, prepared: &'a Prepared) -> Eyes<'a> {
        Eyes {
            ring0: self.ring0,
            clock: self.clock,
            region: self.region,
            live,
            prepared,
        }
    }

    /// Whether the module still says what it said.
    fn facts_stand(&self, armed: &Armed) -> bool {
        let word = |offset: usize| {
            let address = self.region.address(layout::FACTS) + offset as u64;
            machine::mmio::read64(self.ring0, address)
        };
        word(core::mem::offset_of!(Facts, magic)) == facts::MAGIC
            && word(core::mem::offset_of!(Facts, seq)) == armed.seq
    }

    fn arm(&mut self) -> Result<Armed, Refusal> {
        let (facts, ram, live) = self.what_it_says(false)?;
        let prepared = match self.prepared_asleep(&live, &facts) {
            Some(prepared) => Ok(prepared),
            None => rescue::prepare(&live, &facts).map(Rc::new),
        };
        let prepared = prepared.map_err(|error| {
            let reason = match error {
                PrepareError::Btf(_) | PrepareError::ForeignBtf(_) => WatchReason::Btf,
                _ => WatchReason::FactsInvalid,
            };
            refusal(reason, error)
        })?;
        self.map_its_text(&facts, &live)?;
        let nursery = self.life.reserved_nursery;
        self.forget_other_kernel();
        let start = self.next_start();
        let placed = self.placed.as_ref().is_some_and(|placed| placed.nursery == nursery);
        if start == Start::Cold && !placed && self.standby_comes_back() {
            // It will take the place of whatever is placed, which is done only should it be needed before.
            stage::check(self.region).map_err(|error| refusal(WatchReason::Stage, error))?;
        } else if start == Start::Cold && !placed {
            self.unpacking = None;
            let placed = stage::place(self.ring0, self.region, &self.header, nursery, Purpose::TakeOver)
                .map_err(|error| refusal(WatchReason::Stage, error))?;
            self.accept(placed);
        }
        // All this takes a while.
        if self.unwatched.is_some() {
            self.check_addresses(&facts, &live, false)?;
        }
        Ok(Armed {
            seq: facts.seq,
            hang: HangWatch::begin(self.eyes(&live, &prepared), &facts),
            facts,
            prepared: Some(prepared),
            ram,
            panicking_since: 0,
            panicking_looks: 0,
            start,
            death: Death::default(),
            live,
        })
    }

    /// What the kernel outside of the reserved nursery has told of itself, and its memory. `dead` says that it may have
    /// panicked.
    fn what_it_says(&self, dead: bool) -> Result<(Facts, ActiveRam, LiveMemory), Refusal> {
        if self.life.failovers > 0 && !self.nursery_is_free() {
            return Err(refusal(
                WatchReason::HandOver,
                format_args!("nursery {} is not free yet", self.life.reserved_nursery),
            ));
        }
        let facts = Facts::parse(&self.region.copy(layout::FACTS)).map_err(|error| {
            let reason = match error {
                FactsError::Missing | FactsError::Busy => WatchReason::NoFacts,
                FactsError::Version { .. } => WatchReason::FactsVersion,
                FactsError::Field(_) => WatchReason::FactsInvalid,
            };
            refusal(reason, error)
        })?;
        let ram = ActiveRam::new(&self.header, self.life.reserved_nursery);
        // SAFETY: the header's RAM is mapped at its own addresses (`map_everything`).
        let live = unsafe { LiveMemory::new(ram.clone()) };
        self.check_addresses(&facts, &live, dead)?;
        Ok((facts, ram, live))
    }

    /// Lets a CPU that is stopped by patched text go on in the parking code, whose page tables know nothing of that text.
    ///
    /// # Errors
    /// The kernel's page tables are not in its memory.
    pub fn map_its_text(&self, facts: &Facts, live: &LiveMemory) -> Result<(), Refusal> {
        let mut entry = [0; 8];
        live.read(PhysAddr(facts.root_table_phys + 511 * 8), &mut entry)
            .map_err(|_| refusal(WatchReason::FactsInvalid, "facts: the page-table root is not RAM"))?;
        self.parking.map_kernel_text(facts.la57 == 1, u64::from_le_bytes(entry));
        Ok(())
    }

    /// Makes a failover of a kernel that has failed before it was watched: it has taken over from another one, and may have
    /// protected processes. What salvage needs is looked up when it is stopped.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn arm_dead(&mut self, death: Death) -> Result<Armed, String> {
        let said = self.what_it_says(true).and_then(|said| {
            self.map_its_text(&said.0, &said.2)?;
            Ok(said)
        });
        let (facts, ram, live) = said.map_err(|refusal| refusal.message)?;
        self.forget_other_kernel();
        let start = self.next_start();
        self.step(Input::Ready(start));
        Ok(Armed {
            seq: facts.seq,
            hang: None,
            facts,
            prepared: None,
            ram,
            panicking_since: 0,
            panicking_looks: 0,
            start,
            death,
            live,
        })
    }

    /// Goes on with unpacking the successor, if that is not done.
    fn unpack_on(&mut self) {
        match self.unpacking.take().map(Unpacking::step) {
            None => {}
            Some(Step::More(rest)) => self.unpacking = Some(rest),
            Some(Step::Done(form)) => {
                log::info!("stage: the kernel is unpacked, entry {:#x}", form.entry);
                if let Some(placed) = &mut self.placed {
                    placed.add_unpacked(form);
                }
                self.note_stage(StageState::Ready);
            }
            Some(Step::Failed(error)) => {
                log::warn!("stage: the kernel will unpack itself: {error}");
                self.note_stage(StageState::Ready);
            }
        }
    }

    pub fn nursery_is_free(&self) -> bool {
        let free = self.region.control().nursery_free.load(Ordering::Acquire);
        free == 1 + self.life.reserved_nursery as u64
    }

    /// The addresses the watcher and the ladder use must be RAM, and the active not dead already.
    fn check_addresses(&self, facts: &Facts, live: &LiveMemory, dead: bool) -> Result<(), Refusal> {
        let field = |name| refusal(WatchReason::FactsInvalid, FactsError::Field(name));
        let panic_cpu = live
            .read_u32(facts.panic_cpu_phys)
            .ok_or_else(|| field("panic_cpu_phys"))?;
        if !dead && panic_cpu != facts.panic_cpu_invalid as u32 {
            return Err(Refusal {
                panicking: Some(panic_cpu),
                ..field("panic_cpu_invalid")
            });
        }
        let mut byte = [0];
        for (name, address) in [
            ("asm_exc_nmi_phys", facts.asm_exc_nmi_phys),
            ("panic_phys", facts.panic_phys),
        ] {
            live.read(PhysAddr(address), &mut byte).map_err(|_| field(name))?;
        }
        Ok(())
    }
}
