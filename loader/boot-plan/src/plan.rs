//! What has to be done to memory before a kernel is entered.

use crate::{
    acpi::{copy_tables, AcpiError, Changes, FirmwareMemory, Tables},
    boot_params::{BootParams, Screen},
    bzimage::{BzImage, BzImageError, ENTRY_64},
    parameters::{self, Addition, CommandLine, CommandLineError, Facts, Warning},
    span::Span,
};
use alloc::vec::Vec;
use shared_region::{
    header::{Header, MemoryRange},
    layout,
};

/// Bytes to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where to.
    pub address: u64,
    /// What.
    pub bytes: Vec<u8>,
}

/// Bytes to be moved. The two ranges of one move may overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// From where.
    pub from: u64,
    /// Where to.
    pub to: u64,
    /// Bytes.
    pub length: u64,
}

/// A kernel that is ready to be entered once the moves and then the writes are carried out, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Moves.
    pub moves: Vec<Move>,
    /// Writes.
    pub writes: Vec<Write>,
    /// Memory the kernel uses before it has its own map of memory: nothing that is still needed may lie here.
    pub kernel: Span,
    /// The 64-bit entry.
    pub entry: u64,
    /// Address of `boot_params`, for RSI.
    pub boot_params: u64,
    /// The initramfs.
    pub initramfs: Span,
    /// Whether the kernel is to lie at a random place.
    pub randomized: bool,
    /// Parameters of the administrator that contradict ours.
    pub warnings: Vec<Warning>,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The kernel image is not accepted.
    Kernel(BzImageError),
    /// ACPI tables are not accepted.
    Acpi(AcpiError),
    /// The command line does not fit.
    CommandLine(CommandLineError),
    /// There is no place for the kernel.
    NoRoomForKernel {
        /// Bytes needed in one piece.
        needed: u64,
    },
    /// Kernel and initramfs do not fit into the nursery together.
    NoRoomInNursery {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        room: u64,
    },
    /// The initramfs does not lie where the kernel may read it.
    Initramfs(Span),
    /// More memory ranges than boot_params has room for.
    TooManyRanges(usize),
}

impl core::fmt::Display for PlanError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Kernel(why) => why.fmt(f),
            Self::Acpi(why) => why.fmt(f),
            Self::CommandLine(why) => why.fmt(f),
            Self::NoRoomForKernel { needed } => {
                write!(
                    f,
                    "no free {} MB in one piece to start the kernel in",
                    needed.div_ceil(1 << 20)
                )
            }
            Self::NoRoomInNursery { needed, room } => write!(
                f,
                "kernel and initramfs need {} MB to start, the nursery has {} MB",
                needed.div_ceil(1 << 20),
                room >> 20
            ),
            Self::Initramfs(span) => write!(f, "the initramfs at {span} is not where the kernel can read it"),
            Self::TooManyRanges(count) => write!(f, "{count} memory ranges do not fit into boot_params"),
        }
    }
}

impl core::error::Error for PlanError {}

impl From<BzImageError> for PlanError {
    fn from(why: BzImageError) -> Self {
        Self::Kernel(why)
    }
}

impl From<AcpiError> for PlanError {
    fn from(why: AcpiError) -> Self {
        Self::Acpi(why)
    }
}

impl From<CommandLineError> for PlanError {
    fn from(why: CommandLineError) -> Self {
        Self::CommandLine(why)
    }
}

/// Half `index` of a part of the region that both nurseries share.
pub fn half(header: &Header, part: layout::Part, index: usize) -> Span {
    let size = part.size / 2;
    let offset = if index == 0 { 0 } else { size };
    Span::of(header.base.saturating_add(part.offset).saturating_add(offset), size)
}

/// Offset of the command line behind boot_params, in a half of [`layout::BOOT_PARAMS`].
const COMMAND_LINE_OFFSET: u64 = 0x1000;

/// Where everything goes, once that is decided.
pub(crate) struct Placement<'a> {
    /// Which half of the shared parts is this kernel's.
    pub half: usize,
    /// Address of the bzImage now.
    pub image_at: u64,
    /// The bzImage.
    pub image: BzImage<'a>,
    /// Where the protected-mode part goes.
    pub load: u64,
    /// Where the initramfs will be.
    pub initramfs: Span,
    /// e820.
    pub map: &'a [MemoryRange],
    /// The screen as it was left.
    pub screen: Screen,
}

/// Plans a kernel that does not know of the reserved core: its own ACPI tables, and our parameters on its command line.
pub(crate) fn protected(
    header: &Header,
    tables: &Tables,
    memory: &impl FirmwareMemory,
    place: &Placement,
    (command_line, addition): (&[u8], Addition),
    acpi: Changes,
) -> Result<Plan, PlanError> {
    let changes = Changes {
        reserved: header.reserved_apic_id as u32,
        bootstrap: header.bsp_apic_id as u32,
        ..acpi
    };
    let copies = copy_tables(tables, memory, &changes, half(header, layout::ACPI, place.half))?;
    let line = parameters::append(command_line, &Facts::of(header), addition)?;
    let mut plan = assemble(header, place, copies.rsdp, line)?;
    plan.writes.extend(copies.writes);
    Ok(plan)
}

/// Turns decisions into moves and writes. The caller adds what concerns the initramfs.
pub(crate) fn assemble(header: &Header, place: &Placement, rsdp: u64, line: CommandLine) -> Result<Plan, PlanError> {
    if line.bytes.len() as u64 > place.image.cmdline_size {
        return Err(CommandLineError::TooLong {
            length: line.bytes.len(),
            room: place.image.cmdline_size as usize,
        }
        .into());
    }
    let area = half(header, layout::BOOT_PARAMS, place.half);
    let command_line_at = area.start + COMMAND_LINE_OFFSET;
    let boot_params = BootParams {
        setup_header: place.image.setup_header,
        load: place.load,
        command_line: command_line_at,
        initramfs: place.initramfs,
        rsdp,
        map: place.map,
        screen: place.screen,
        randomized: line.randomized,
    }
    .build()?;
    let mut command_line = line.bytes;
    command_line.push(0);
    let writes = [(area.start, boot_params), (command_line_at, command_line)];
    Ok(Plan {
        moves: alloc::vec![Move {
            from: place.image_at.saturating_add(place.image.kernel_offset),
            to: place.load,
            length: place.image.kernel_length,
        }],
        writes: writes.map(|(address, bytes)| Write { address, bytes }).into(),
        kernel: Span::of(place.load, place.image.init_size),
        entry: place.load + ENTRY_64,
        boot_params: area.start,
        initramfs: place.initramfs,
        randomized: line.randomized,
        warnings: line.warnings,
    })
}
