//! The successor in its nursery: placed while the active is healthy, checked again before the jump.

use crate::platform::Firmware;
use crate::region::Region;
use alloc::vec::Vec;
use boot_plan::acpi::sleep::{self, SleepError};
use boot_plan::bzimage;
use boot_plan::plan::{half, PlanError};
use boot_plan::span::Span;
use boot_plan::successor::{self, AcpiChanges};
use failover::digest;
use machine::Ring0;
use shared_region::header::Header;
use shared_region::layout::{self, Part};
use shared_region::stage::{self, StageTable, StagedKernel};
use zerocopy::FromBytes;

/// A kernel placed in a nursery: its bzImage, and, some time later, the same kernel unpacked ([`crate::unpack`]).
#[derive(Clone, Debug)]
pub struct Placed {
    /// Staged-kernel slot it came from.
    pub slot: usize,
    /// Nursery it lies in (0 or 1).
    pub nursery: usize,
    /// Its `boot_params`, which serve both forms.
    pub boot_params: u64,
    /// The machine's PM1 control port, if the kernel was given one of the region's words instead.
    pub control: Option<u16>,
    /// The staged bzImage.
    pub kernel: &'static [u8],
    /// What is free in the nursery.
    pub room: Span,
    /// Whether it is to lie at a random place.
    pub randomized: bool,
    /// The bzImage's protected-mode part.
    packed: Form,
    /// The kernel, unpacked and relocated.
    unpacked: Option<Form>,
    /// What both need, `boot_params` and initramfs among it: start and length.
    shared: Vec<(u64, u64)>,
    shared_digest: u64,
}

/// A kernel that can be entered.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// 64-bit entry.
    pub entry: u64,
    /// Start and length.
    piece: (u64, u64),
    digest: u64,
}

/// Why no successor can be placed.
#[derive(Debug)]
pub enum StageError {
    /// No slot holds a kernel.
    Empty,
    /// A slot names memory outside its part of the region.
    Bounds {
        /// The slot.
        slot: usize,
        /// What it names.
        what: &'static str,
    },
    /// An image is not what was staged.
    Digest {
        /// The slot.
        slot: usize,
        /// Which image.
        what: &'static str,
        /// As staged.
        stored: u32,
        /// As it is now.
        computed: u32,
    },
    /// The kernel cannot be started as a successor.
    Plan(PlanError),
    /// The kernel could not be put to sleep on this machine.
    Sleep(SleepError),
    /// The plan writes where it may not.
    Outside {
        /// First byte.
        start: u64,
        /// Bytes.
        length: u64,
    },
}

impl core::fmt::Display for StageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Empty => write!(f, "no kernel is staged"),
            Self::Bounds { slot, what } => write!(f, "staged kernel {slot}: the {what} lies outside its slot"),
            Self::Digest {
                slot,
                what,
                stored,
                computed,
            } => write!(
                f,
                "staged kernel {slot}: digest of the {what} is {computed:#010x}, staged was {stored:#010x}"
            ),
            Self::Plan(error) => error.fmt(f),
            Self::Sleep(error) => error.fmt(f),
            Self::Outside { start, length } => {
                write!(
                    f,
                    "staged kernel: {length} bytes at {start:#x} lie outside nursery and region"
                )
            }
        }
    }
}

/// A piece of memory that is to lie in a slot.
fn piece(region: Region, index: usize, at: u64, length: u64) -> Option<&'static [u8]> {
    let part = layout::staged_slot(index);
    let (start, end) = (region.address(part), region.base() + part.end());
    let inside = at >= start && at.checked_add(length).is_some_and(|to| to <= end);
    // SAFETY: staged images are written only by this program, and by the loader before it.
    unsafe { region.bytes(at, length) }.filter(|_| inside)
}

/// The release of the kernel in a slot, as its image says.
pub fn release(region: Region, index: usize) -> Option<&'static str> {
    let slot = table(region)?.slots.get(index).copied()?;
    let image = piece(region, index, slot.kernel, slot.kernel_len).filter(|_| slot.valid == 1)?;
    bzimage::release(image)
}

/// Checks a slot's images. Returns kernel and initramfs.
fn images(region: Region, index: usize, slot: &StagedKernel) -> Result<(&'static [u8], &'static [u8]), StageError> {
    let read = |what, at: u64, length: u64, stored| {
        let bytes = piece(region, index, at, length).ok_or(StageError::Bounds { slot: index, what })?;
        let computed = stage::digest(bytes);
        if computed != stored {
            return Err(StageError::Digest {
                slot: index,
                what,
                stored,
                computed,
            });
        }
        Ok(bytes)
    };
    Ok((
        read("kernel", slot.kernel, slot.kernel_len, slot.kernel_digest)?,
        read("initramfs", slot.initramfs, slot.initramfs_len, slot.initramfs_digest)?,
    ))
}

/// What a kernel is placed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To take over at once when it is entered.
    TakeOver,
    /// To go to sleep first: its tables put power management into words of the region.
    Sleep,
}

/// What the region says of the staged kernels.
pub fn table(region: Region) -> Option<StageTable> {
    let bytes = region.copy(Part {
        size: size_of::<StageTable>().next_multiple_of(8) as u64,
        ..layout::STAGE_TABLE
    });
    StageTable::read_from_prefix(&bytes).ok().map(|(table, _)| table)
}

/// What `with` makes of the current slot, or of the other one where that fails, and then why it was not the current one.
fn first_that<T>(
    region: Region,
    with: impl Fn(usize, &StagedKernel) -> Result<T, StageError>,
) -> Result<(T, Option<StageError>), StageError> {
    let table = table(region).ok_or(StageError::Empty)?;
    let current = (table.current & 1) as usize;
    let mut first = None;
    for index in [current, 1 - current] {
        let slot = &table.slots[index];
        if slot.valid != 1 {
            continue;
        }
        match with(index, slot) {
            Ok(made) => return Ok((made, first)),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or(StageError::Empty))
}

/// Whether a kernel is staged that could be placed.
///
/// # Errors
/// [`StageError`] of the current slot, if neither holds one that is whole.
pub fn check(region: Region) -> Result<(), StageError> {
    first_that(region, |index, slot| images(region, index, slot)).map(drop)
}

/// Places the staged kernel in the given nursery, which nobody uses: the current slot's, or the other one's if that is
/// damaged.
///
/// # Errors
/// [`StageError`] of the current slot, if neither can be placed.
pub fn place(
    ring0: Ring0,
    region: Region,
    header: &Header,
    nursery: usize,
    purpose: Purpose,
) -> Result<Placed, StageError> {
    let (placed, passed_over) = first_that(region, |index, slot| {
        place_slot(ring0, region, header, (nursery, purpose), (index, slot))
    })?;
    if let Some(error) = passed_over {
        log::warn!("stage: {error}; the other slot is used");
    }
    Ok(placed)
}

/// Places the kernel of one slot, to take over, in the given nursery, which nobody uses.
///
/// # Errors
/// [`StageError`]. Nothing has been written then.
pub fn place_from(
    ring0: Ring0,
    region: Region,
    header: &Header,
    nursery: usize,
    slot: usize,
) -> Result<Placed, StageError> {
    let staged = table(region).and_then(|table| table.slots.get(slot).copied());
    match staged.filter(|staged| staged.valid == 1) {
        Some(staged) => place_slot(ring0, region, header, (nursery, Purpose::TakeOver), (slot, &staged)),
        None => Err(StageError::Empty),
    }
}

fn place_slot(
    ring0: Ring0,
    region: Region,
    header: &Header,
    (nursery, purpose): (usize, Purpose),
    (index, slot): (usize, &StagedKernel),
) -> Result<Placed, StageError> {
    let (kernel, _) = images(region, index, slot)?;
    let firmware = Firmware::new(ring0);
    let tables = firmware
        .tables(header.rsdp)
        .map_err(|error| StageError::Plan(error.into()))?;
    let acpi = half(header, layout::ACPI, nursery).start;
    let sleep = match purpose {
        Purpose::TakeOver => None,
        Purpose::Sleep => {
            let (area, page) = (acpi + layout::SLEEP_TABLES, acpi + layout::SLEEP_PAGE);
            Some(sleep::build(&tables, &firmware, area, page).map_err(StageError::Sleep)?)
        }
    };
    let replaced: Vec<_> = sleep.iter().map(|tables| (*b"FACP", tables.fadt)).collect();
    let added: Vec<u64> = sleep.iter().filter_map(|tables| tables.ssdt).collect();
    let changes = AcpiChanges {
        replaced: &replaced,
        added: &added,
    };
    let mut plan =
        successor::plan(header, &tables, &firmware, slot, kernel, nursery, changes).map_err(StageError::Plan)?;
    let control = sleep.as_ref().map(|tables| tables.control);
    plan.writes.extend(sleep.into_iter().flat_map(|tables| tables.writes));
    for warning in &plan.warnings {
        log::warn!("stage: {warning}");
    }
    let mut pieces = plan.moves.iter().map(|piece| (piece.to, piece.length)).chain(
        plan.writes
            .iter()
            .map(|piece| (piece.address, piece.bytes.len() as u64)),
    );
    // The kernel is the first that is moved.
    let packed = pieces.next().unwrap_or_default();
    let shared: Vec<(u64, u64)> = pieces.collect();
    let mut all = core::iter::once(&packed).chain(&shared);
    if let Some(&(start, length)) = all.find(|&&piece| !may_write(region, header, nursery, piece)) {
        return Err(StageError::Outside { start, length });
    }
    // SAFETY: 1. the sources are images in the region (`images` checked their bounds), the targets the reserved nursery
    // and the parts of the region that are the successor's (`may_write`); all are mapped. 2. Nobody else uses any of them,
    // and no reference into the targets exists.
    unsafe {
        for piece in &plan.moves {
            core::ptr::copy(piece.from as *const u8, piece.to as *mut u8, piece.length as usize);
        }
        for piece in &plan.writes {
            core::ptr::copy_nonoverlapping(piece.bytes.as_ptr(), piece.address as *mut u8, piece.bytes.len());
        }
    }
    Ok(Placed {
        slot: index,
        nursery,
        boot_params: plan.boot_params,
        control,
        kernel,
        room: Span {
            start: packed.0 + packed.1,
            end: plan.initramfs.start,
        },
        randomized: plan.randomized,
        packed: Form::new(plan.entry, packed, digest_of(&[packed])),
        unpacked: None,
        shared_digest: digest_of(&shared),
        shared,
    })
}

/// Whether a piece of a successor lies in its nursery or in a part of the region meant for it.
fn may_write(region: Region, header: &Header, nursery: usize, (start, length): (u64, u64)) -> bool {
    let within = |from: u64, size: u64| start >= from && length <= size && start - from <= size - length;
    within(header.nursery[nursery], layout::NURSERY_SIZE)
        || [layout::ACPI, layout::BOOT_PARAMS]
            .into_iter()
            .any(|part| within(region.address(part), part.size))
}

impl Form {
    /// A form that has just been put in its place, which [`may_write`] allows, and its digest ([`Summing`]).
    pub const fn new(entry: u64, piece: (u64, u64), digest: u64) -> Self {
        Self { entry, piece, digest }
    }

    fn is_intact(&self) -> bool {
        digest_of(&[self.piece]) == self.digest
    }
}

impl Placed {
    /// Whether an address lies in something that was placed.
    pub fn covers(&self, address: u64) -> bool {
        let forms = [Some(self.packed), self.unpacked].into_iter().flatten();
        let mut pieces = forms.map(|form| form.piece).chain(self.shared.iter().copied());
        pieces.any(|(start, length)| address >= start && address - start < length)
    }

    /// Adds the unpacked kernel.
    pub fn add_unpacked(&mut self, form: Form) {
        self.unpacked = Some(form);
    }

    /// The entry of a form that is still as it was placed: the unpacked one if `unpacked` allows it.
    pub fn entry(&self, unpacked: bool) -> Option<u64> {
        if digest_of(&self.shared) != self.shared_digest {
            return None;
        }
        let unpacked = self.unpacked.filter(|_| unpacked);
        let mut forms = unpacked.into_iter().chain([self.packed]);
        forms.find(Form::is_intact).map(|form| form.entry)
    }
}

fn digest_of(pieces: &[(u64, u64)]) -> u64 {
    pieces.iter().fold(digest::start(), |sum, &piece| {
        let mut summing = Summing {
            sum,
            ..Summing::of(piece)
        };
        loop {
            if let Some(sum) = summing.step() {
                return sum;
            }
        }
    })
}

/// The digest of a piece being computed, a bounded step at a time.
pub struct Summing {
    /// Start and length.
    pub piece: (u64, u64),
    done: u64,
    sum: u64,
}

impl Summing {
    /// Bytes of a step.
    const STEP: u64 = 1 << 20;

    /// Begins with what has been put in its place, which [`may_write`] allows.
    pub const fn of(piece: (u64, u64)) -> Self {
        Self {
            piece,
            done: 0,
            sum: digest::start(),
        }
    }

    /// Goes on. Returns the digest when that was all.
    pub fn step(&mut self) -> Option<u64> {
        let (start, length) = self.piece;
        let more = (length - self.done).min(Self::STEP);
        // SAFETY: 1. mapped: the pieces were checked by `may_write`, or lie in the room of a nursery. 2. Nobody writes
        // there until the successor runs, and then nobody asks; a wild write of the active is what this looks for, and
        // changes the sum.
        let bytes = unsafe { core::slice::from_raw_parts((start + self.done) as *const u8, more as usize) };
        self.sum = digest::extend(self.sum, bytes);
        self.done += more;
        (self.done == length).then_some(self.sum)
    }
}

impl core::fmt::Display for Placed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let bytes: u64 = self.shared.iter().map(|&(_, length)| length).sum();
        write!(
            f,
            "kernel of slot {} placed in nursery {}: {} bytes and {bytes} beside it, entry {:#x}, boot_params {:#x}",
            self.slot, self.nursery, self.packed.piece.1, self.packed.entry, self.boot_params
        )
    }
}
