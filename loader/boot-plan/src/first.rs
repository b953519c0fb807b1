//! The first kernel: booted by the loader, on all CPUs but the reserved one.

use crate::{
    acpi::{Changes, FirmwareMemory, Tables},
    boot_params::Screen,
    bytes::u32_at,
    bzimage::BzImage,
    memory_map,
    parameters::{Addition, CommandLine},
    plan::{assemble, protected, Placement, Plan, PlanError},
    span::{lowest_free, Span},
};
use alloc::vec::Vec;
use shared_region::{
    header::{Header, MemoryRange},
    layout,
};

/// Which half of the region's shared parts the first kernel uses: it takes the place of a kernel in nursery 1, which is
/// part of its RAM, so that a successor in nursery 0 finds its own half free.
pub const HALF: usize = 1;
/// The kernel runs where it was unpacked, so not in the way of 24-bit DMA.
const FLOOR: u64 = 16 << 20;
const LIMIT: u64 = 1 << 32;

/// What there is to boot.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The bzImage.
    pub kernel: &'a [u8],
    /// Where it lies.
    pub kernel_at: u64,
    /// The initramfs; it stays where it is.
    pub initramfs: Option<Span>,
    /// The administrator's command line.
    pub command_line: &'a [u8],
    /// What the screen shows.
    pub screen: Screen,
    /// Memory that must not be overwritten: the loader with its page tables, and the bzImage.
    pub used: &'a [Span],
}

/// Plans the boot beside the backup OS.
///
/// # Errors
/// [`PlanError`].
pub fn plan(header: &Header, tables: &Tables, memory: &impl FirmwareMemory, input: &Input) -> Result<Plan, PlanError> {
    let map = memory_map::first_kernel(header);
    let place = place(input, &map)?;
    let line = (input.command_line, Addition::First);
    protected(header, tables, memory, &place, line, Changes::default())
}

/// Plans a boot without the backup OS: the firmware's own ACPI tables, the command line as it is, and all memory but
/// the two parts of the region that boot_params and the copy of the RSDP structure lie in.
///
/// # Errors
/// [`PlanError`].
pub fn plan_unprotected(header: &Header, input: &Input) -> Result<Plan, PlanError> {
    let parts = Span {
        start: header.base.saturating_add(layout::ACPI.offset),
        end: header.base.saturating_add(layout::BOOT_PARAMS.end()),
    };
    let map = memory_map::for_first(header.ram(), memory_map::ALL_LOW_MEMORY, &[parts]);
    let place = place(input, &map)?;
    let line = CommandLine {
        bytes: input.command_line.to_vec(),
        // The bzImage sees to that itself.
        randomized: false,
        warnings: Vec::new(),
    };
    assemble(header, &place, header.rsdp, line)
}

/// Finds a place for the kernel, and checks that of the initramfs.
fn place<'a>(input: &Input<'a>, map: &'a [MemoryRange]) -> Result<Placement<'a>, PlanError> {
    let image = BzImage::parse(input.kernel)?;
    let initramfs = input.initramfs.unwrap_or(Span { start: 0, end: 0 });
    let in_ram = memory_map::ram(map).any(|ram| ram.contains(&initramfs));
    if !initramfs.is_empty() && (!in_ram || initramfs.end - 1 > image.initramfs_limit()) {
        return Err(PlanError::Initramfs(initramfs));
    }
    let mut used = input.used.to_vec();
    used.push(initramfs);
    // The kernel unpacks itself no lower than its preferred address, wherever it was put.
    let floor = FLOOR.max(image.pref_address);
    let load = memory_map::ram(map)
        .filter_map(|ram| {
            let within = Span {
                start: ram.start.max(floor),
                end: ram.end.min(LIMIT),
            };
            lowest_free(within, image.init_size, image.alignment, &used)
        })
        .min()
        .ok_or(PlanError::NoRoomForKernel {
            needed: image.init_size,
        })?;
    Ok(Placement {
        half: HALF,
        image_at: input.kernel_at,
        image,
        load,
        initramfs,
        map,
        screen: input.screen,
    })
}

/// What a kernel that was planned here occupies until it has its own map of memory, read from its `boot_params`: itself,
/// and its initramfs. `None` if these are too short.
pub fn occupied(boot_params: &[u8]) -> Option<[Span; 2]> {
    let field = |at| u32_at(boot_params, at).map(u64::from);
    let [load, initramfs, initramfs_length, init_size] = [0x214, 0x218, 0x21C, 0x260].map(field);
    Some([Span::of(load?, init_size?), Span::of(initramfs?, initramfs_length?)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn input<'a>(kernel: &'a [u8], used: &'a [Span]) -> Input<'a> {
        Input {
            kernel,
            kernel_at: 0x10_3000,
            initramfs: Some(Span::of(0x80_0000, 0x123_4567)),
            command_line: b"quiet",
            screen: Screen::Text80x25,
            used,
        }
    }

    #[test]
    fn the_kernel_goes_to_the_lowest_place_clear_of_modules() {
        let (rsdp, memory) = testing::firmware(&[0, 1, 2, 3]);
        let tables = Tables::find(&rsdp, &memory).unwrap();
        let kernel = testing::bzimage();
        let used = [Span::of(0x10_0000, 0x70_0000), Span::of(0x1C0_0000, 0x50_0000)];
        let plan = plan(&testing::header(), &tables, &memory, &input(&kernel, &used)).unwrap();
        assert_eq!(plan.kernel, Span::of(0x220_0000, 0x10_0000));
        assert_eq!(plan.entry, 0x220_0200);
        assert_eq!((plan.moves[0].from, plan.moves[0].to), (0x10_3400, 0x220_0000));
        assert_eq!(plan.boot_params, 0x6800_0000 + 0x88_0000);
        let page = &plan
            .writes
            .iter()
            .find(|write| write.address == plan.boot_params)
            .unwrap()
            .bytes;
        assert_eq!(occupied(page), Some([plan.kernel, plan.initramfs]));
        assert_eq!(occupied(&page[..0x262]), None);
        assert!(plan
            .writes
            .iter()
            .any(|w| w.bytes.starts_with(b"quiet oops=panic ") && w.bytes.ends_with(b"\0")));
    }

    #[test]
    fn without_the_backup_os_linux_gets_everything_but_its_boot_parameters() {
        let kernel = testing::bzimage();
        let header = testing::header();
        let plan = plan_unprotected(&header, &input(&kernel, &[])).unwrap();
        let page = &plan.writes[0].bytes;
        let entries = (0..usize::from(page[0x1E8])).map(|i| &page[0x2D0 + 20 * i..][..20]);
        let ram: u64 = entries
            .filter(|e| e[16] == 1)
            .map(|e| u64::from_le_bytes(e[8..16].try_into().unwrap()))
            .sum();
        assert_eq!(ram, memory_map::ram_bytes(header.ram()) - (2 << 20));
        assert_eq!(plan.writes[1].bytes, b"quiet\0");
    }

    #[test]
    fn an_initramfs_in_the_reservation_is_refused() {
        let (rsdp, memory) = testing::firmware(&[0, 1]);
        let tables = Tables::find(&rsdp, &memory).unwrap();
        let kernel = testing::bzimage();
        let span = Span::of(0x6000_0000, 0x1000);
        let input = Input {
            initramfs: Some(span),
            ..input(&kernel, &[])
        };
        assert_eq!(
            plan(&testing::header(), &tables, &memory, &input),
            Err(PlanError::Initramfs(span))
        );
    }

    #[test]
    fn no_room_is_said_with_the_size() {
        let (rsdp, memory) = testing::firmware(&[0, 1]);
        let tables = Tables::find(&rsdp, &memory).unwrap();
        let kernel = testing::bzimage();
        let used = [Span::of(0, 1 << 32)];
        assert_eq!(
            plan(&testing::header(), &tables, &memory, &input(&kernel, &used)),
            Err(PlanError::NoRoomForKernel { needed: 0x10_0000 })
        );
    }
}
