//! The salvage of a dead kernel, from beginning to end: the entry for the backup OS and for the host's inspector.
//!
//! What we know on entry: a kernel that was prepared while it lived, none of its CPUs running any more, the table of
//! protected processes and what each CPU left when it was stopped. What we are responsible for: an Essential Context in
//! which each protected process stands whole or not at all, a [`Lost`](shared_region::context::Lost) record for
//! everything that is not in it, and a mark in the bitmap for every frame whose contents must outlive the kernel.

use crate::addr::PhysAddr;
use crate::clock::{self, Readings};
use crate::kernel::Kernel;
use crate::machine;
use crate::memory::PhysMem;
use shared_region::context::Summary;
use shared_region::facts::Facts;
use shared_region::record::{Kind, RecordError, Writer};

/// Which processes are to be kept.
#[derive(Clone, Copy, Debug)]
pub enum Protected<'i> {
    /// Those the administrator asked for: bytes of a [`shared_region::protect::ProtectTable`].
    Table(&'i [u8]),
    /// Every process but init; for looking at an image.
    All,
    /// One process by id; for looking at an image.
    One(u32),
}

/// What CPUs left when they were stopped.
#[derive(Clone, Copy, Debug)]
pub enum Stopped {
    /// In the parking slots. A CPU whose slot is not of this generation left nothing.
    Slots {
        /// Physical address of slot 0 ([`shared_region::layout::PARKING_SLOTS`]).
        slots: PhysAddr,
        /// [`shared_region::control::ControlWords::stop_request`].
        generation: u64,
    },
    /// Nowhere: an image taken by somebody else. What was only in a CPU is then missing, and is named but not held
    /// against the process.
    Image,
}

/// Everything salvage is told beyond the kernel itself.
#[derive(Clone, Copy, Debug)]
pub struct Input<'i> {
    /// What the module published. `None` over an image of a machine without it.
    pub facts: Option<&'i Facts>,
    /// Which processes.
    pub protected: Protected<'i>,
    /// What the CPUs left.
    pub stopped: Stopped,
    /// Counters, if they were read.
    pub readings: Option<Readings>,
    /// Number of the failover ([`shared_region::record::StreamHeader::failover`]).
    pub failover: u64,
}

/// What [`run`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Bytes of the area in use, stream header included.
    pub bytes: usize,
    /// Whether something was left out for want of room.
    pub truncated: bool,
    /// Numbers for the report; also the last record.
    pub summary: Summary,
}

/// Salvages a dead kernel. Writes a complete record stream into `area` and clears and fills the bitmap `retained`
/// ([`shared_region::retained`]). Allocates; the amount grows with the number of shared objects, not with memory.
///
/// # Errors
/// [`RecordError::Full`] if the area has no room even for the records about the machine. Everything else that goes wrong
/// costs the object concerned and is written down.
pub fn run<M: PhysMem + ?Sized>(
    kernel: &Kernel<'_, M>,
    input: &Input<'_>,
    area: &mut [u8],
    retained: &mut [u8],
) -> Result<Saved, RecordError> {
    retained.fill(0);
    let mut writer = Writer::new(area, input.failover)?;
    let (clock, _) = clock::read(kernel, input.readings.as_ref()).unwrap_or_default();
    writer.push(Kind::Machine, 1, 0, 0, &machine::read(kernel, input, clock))?;
    let summary = Summary::default();
    writer.push(Kind::Summary, 1, 0, 0, &summary)?;
    let truncated = writer.truncated();
    Ok(Saved {
        bytes: writer.finish(),
        truncated,
        summary,
    })
}
