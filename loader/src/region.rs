//! Fills the region in: header, stage table, and everything else empty.

use crate::{console::say, inventory::Inventory, physical::Physical};
use alloc::{string::String, vec::Vec};
use boot_plan::{modules::Assigned, span::Span};
use core::mem::offset_of;
use shared_region::{
    attempts::AttemptWords,
    control::ControlWords,
    header::{self, Header, MemoryRange},
    layout::{self, Part},
    log_ring::{self, LogRing},
    stage::{self, StageTable, StagedKernel, CMDLINE_SIZE},
    standby::{StandbyState, StandbyWords},
    ABI_VERSION, PAGE_SIZE,
};
use zerocopy::{FromZeros, IntoBytes};

/// Where the copy of the firmware's RSDP structure lies: the last page of the ACPI part, behind the tables.
const RSDP_COPY: u64 = layout::ACPI.end() - PAGE_SIZE;
/// Every byte of the parts up to here has a meaning from the start. The others are written before they are read, but for
/// their first page, where a header of an earlier life of the machine must not be found.
const CLEARED: u64 = layout::BACKUP_IMAGE.offset;
/// Bytes of an earlier life's epitaph that are shown; about a screen.
const SHOWN: usize = 2048;

/// Why the region cannot be filled in.
#[derive(Debug)]
pub enum RegionError {
    /// Kernel and initramfs are too large for their slot.
    StageFull { slot: usize, need: u64, room: u64 },
    /// Its command line is too long.
    CommandLine { slot: usize, length: usize },
}

impl core::fmt::Display for RegionError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::StageFull { slot, need, room } => write!(
                f,
                "modules `{0}kernel` and `{0}initramfs` need {1} KB together, {2} KB are reserved for them",
                of_slot(*slot),
                need.div_ceil(1024),
                room / 1024
            ),
            Self::CommandLine { slot, length } => write!(
                f,
                "module `{}kernel`: command line of {length} bytes, {} are allowed",
                of_slot(*slot),
                CMDLINE_SIZE - 1
            ),
        }
    }
}

impl core::error::Error for RegionError {}

/// How the roles of the modules in a slot begin.
fn of_slot(slot: usize) -> &'static str {
    if slot == 0 {
        "successor-"
    } else {
        ""
    }
}

/// The span of a part.
pub fn part(base: u64, part: Part) -> Span {
    Span::of(base + part.offset, part.size)
}

/// Fills the region in and returns its header.
///
/// # Errors
/// [`RegionError`].
pub fn fill(physical: &Physical, inventory: &Inventory) -> Result<Header, RegionError> {
    let base = inventory.windows.region;
    let known = is_known(physical, base);
    let epitaph = known && last_words(physical, base);
    let standby = wants_standby(physical, inventory, base, known);
    let kept = [(epitaph, layout::EPITAPH), (known, layout::REPORT)];
    let kept: Vec<Part> = kept
        .into_iter()
        .filter(|(kept, _)| *kept)
        .map(|(_, part)| part)
        .collect();
    clear(physical, base, &kept);
    let table = stage(physical, inventory)?;
    let header = header(inventory, standby);
    let control = |offset: usize| base + layout::CONTROL.offset + offset as u64;
    let inject = control(offset_of!(ControlWords, inject));
    let hang_limits = control(offset_of!(ControlWords, hang_limits));
    let warm_cache = control(offset_of!(ControlWords, warm_cache));
    let status_address = control(offset_of!(ControlWords, status_address));
    let log_target = control(offset_of!(ControlWords, log_target));
    let running = if table.slots[1].valid == 1 { 1 } else { stage::NO_SLOT };
    let shown = u64::from(epitaph);
    let old_epitaph = base + layout::ATTEMPTS.offset + offset_of!(AttemptWords, old_epitaph) as u64;
    let writes: [(u64, &[u8]); 10] = [
        (control(offset_of!(ControlWords, successor_slot)), running.as_bytes()),
        (old_epitaph, shown.as_bytes()),
        (base + RSDP_COPY, inventory.rsdp),
        (base + layout::STAGE_TABLE.offset, table.as_bytes()),
        (inject, inventory.options.inject.as_bytes()),
        (hang_limits, inventory.options.hang_limits.as_bytes()),
        (warm_cache, inventory.options.warm_cache.as_bytes()),
        (status_address, inventory.options.status_address.as_bytes()),
        (log_target, inventory.options.log_target.as_bytes()),
        (base + layout::HEADER.offset, header.as_bytes()),
    ];
    for (address, bytes) in writes {
        // SAFETY: inside the region, which was chosen clear of the loader and of all modules.
        unsafe { physical.write(address, bytes) };
    }
    Ok(header)
}

/// Whether the region holds what an earlier life of this machine left before a reset.
fn is_known(physical: &Physical, base: u64) -> bool {
    // SAFETY: inside the region, which nobody writes before this function returns.
    Header::parse(unsafe { physical.slice(part(base, layout::HEADER)) }).is_ok()
}

/// Shows the epitaph with which the last life of this machine ended, and returns whether there is one. An epitaph of a
/// life before that was there to be read for the whole of the last one.
fn last_words(physical: &Physical, base: u64) -> bool {
    // SAFETY: (both slices) inside the region, which nobody writes before this function returns.
    let slice = |part: Part| unsafe { physical.slice(self::part(base, part)) };
    let word = |bytes: &[u8], at: usize| bytes[at..].first_chunk().copied().map_or(0, u64::from_le_bytes);
    let (head, text) = slice(layout::EPITAPH).split_at(log_ring::HEADER_SIZE);
    let written = word(head, offset_of!(LogRing, written));
    let old = word(slice(layout::ATTEMPTS), offset_of!(AttemptWords, old_epitaph)) == 1;
    if word(head, offset_of!(LogRing, capacity)) != text.len() as u64 || written == 0 || old {
        return false;
    }
    let text = log_ring::unroll(text, written);
    let tail = text.get(text.len().saturating_sub(SHOWN)..).unwrap_or_default();
    say!("the last life of this machine ended with:");
    for line in String::from_utf8_lossy(tail).lines() {
        say!("  {line}");
    }
    true
}

/// Whether a standby is to be made. Not after a start that came to an end while one was made: the machine is to run.
fn wants_standby(physical: &Physical, inventory: &Inventory, base: u64, known: bool) -> bool {
    if !inventory.options.standby {
        return false;
    }
    // SAFETY: inside the region, which nobody writes before this function returns.
    let words = unsafe { physical.slice(part(base, layout::STANDBY_WORDS)) };
    let state = words[offset_of!(StandbyWords, state)..].first_chunk().copied();
    let failed = known && state.map(u64::from_le_bytes) == Some(StandbyState::Starting as u64);
    if failed {
        say!("warning: the last start ended while the standby was booted: starting without one");
    }
    !failed
}

fn clear(physical: &Physical, base: u64, kept: &[Part]) {
    let first_pages = [layout::BACKUP_HEAP, layout::STAGED_1, layout::CONTEXT, layout::STANDBY].map(|part| Part {
        size: PAGE_SIZE,
        ..part
    });
    let whole = layout::PARTS
        .into_iter()
        .filter(|part| part.end() <= CLEARED || *part == layout::RETAINED)
        .filter(|part| !kept.contains(part));
    for cleared in whole.chain(first_pages) {
        // SAFETY: inside the region, which was chosen clear of the loader and of all modules.
        unsafe { physical.clear(part(base, cleared)) };
    }
}

/// Copies the successor's modules into slot 0, and those of the first kernel, to which a failover goes back if the
/// successor fails, into slot 1.
fn stage(physical: &Physical, inventory: &Inventory) -> Result<StageTable, RegionError> {
    let modules = &inventory.modules;
    let successor = stage_slot(
        physical,
        inventory,
        0,
        modules.successor_kernel,
        modules.successor_initramfs.span,
    )?;
    say!(
        "staged for the first failover: kernel {} KB, initramfs {} KB",
        successor.kernel_len / 1024,
        successor.initramfs_len / 1024
    );
    let first = match modules.initramfs {
        Some(initramfs) => stage_slot(physical, inventory, 1, modules.kernel, initramfs.span)
            .inspect_err(|error| say!("warning: a failover cannot go back to the first kernel: {error}"))
            .unwrap_or_else(|_| StagedKernel::new_zeroed()),
        None => StagedKernel::new_zeroed(),
    };
    Ok(StageTable {
        current: 0,
        slots: [successor, first],
        failed: [0, 0],
    })
}

fn stage_slot(
    physical: &Physical,
    inventory: &Inventory,
    index: usize,
    kernel: Assigned,
    initramfs: Span,
) -> Result<StagedKernel, RegionError> {
    let slot = part(inventory.windows.region, layout::staged_slot(index));
    let kernel_room = kernel.span.len().next_multiple_of(PAGE_SIZE);
    let need = kernel_room + initramfs.len();
    if need > slot.len() {
        return Err(RegionError::StageFull {
            slot: index,
            need,
            room: slot.len(),
        });
    }
    let mut cmdline = [0; CMDLINE_SIZE];
    let length = kernel.arguments.len();
    if length >= CMDLINE_SIZE {
        return Err(RegionError::CommandLine { slot: index, length });
    }
    cmdline[..length].copy_from_slice(kernel.arguments);

    let place = |from: Span, to: u64| {
        // SAFETY: inside the slot (checked above); the region was chosen clear of the loader and of all modules.
        unsafe { physical.copy(from.start, to, from.len()) };
        // SAFETY: nothing writes to the slot while the digest is computed.
        stage::digest(unsafe { physical.slice(Span::of(to, from.len())) })
    };
    let initramfs_at = slot.start + kernel_room;
    Ok(StagedKernel {
        valid: 1,
        kernel: slot.start,
        kernel_len: kernel.span.len(),
        initramfs: initramfs_at,
        initramfs_len: initramfs.len(),
        kernel_digest: place(kernel.span, slot.start),
        initramfs_digest: place(initramfs, initramfs_at),
        cmdline,
    })
}

fn header(inventory: &Inventory, standby: bool) -> Header {
    let mut header = Header::new_zeroed();
    header.magic = header::MAGIC;
    header.abi_version = ABI_VERSION;
    header.base = inventory.windows.region;
    header.size = layout::REGION_SIZE;
    header.nursery = inventory.windows.nursery;
    header.reserved_nursery = 0;
    header.reserved_apic_id = u64::from(inventory.cpus.reserved);
    header.bsp_apic_id = inventory.cpus.linux.first().copied().map_or(0, u64::from);
    header.rsdp = inventory.windows.region + RSDP_COPY;
    header.pm_timer_port = u64::from(inventory.pm_timer);
    header.tsc_hz = inventory.clock.hz();
    header.cpu_count = inventory.cpus.linux.len() as u64;
    for (slot, &id) in header.cpus.iter_mut().zip(&inventory.cpus.linux) {
        *slot = id;
    }
    header.ram_count = inventory.memory.len() as u64;
    for (slot, &range) in header.ram.iter_mut().zip(&inventory.memory) {
        *slot = MemoryRange { ..range };
    }
    if !inventory.options.backup_console {
        header.options |= header::options::NO_CONSOLE;
    }
    if standby {
        header.options |= header::options::STANDBY;
    }
    header.digest = header.compute_digest();
    header
}
