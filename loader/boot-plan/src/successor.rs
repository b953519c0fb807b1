//! A successor: booted by the backup OS in a nursery, while all other RAM still holds what the old kernel left.

use crate::{
    acpi::{Changes, FirmwareMemory, Signature, Tables},
    boot_params::Screen,
    bzimage::BzImage,
    memory_map,
    parameters::Addition,
    plan::{protected, Move, Placement, Plan, PlanError},
    span::Span,
};
use shared_region::{header::Header, layout, stage::StagedKernel, PAGE_SIZE};

/// RAM a kernel needs beside its image and initramfs to reach its first program.
const WORKING_MEMORY: u64 = 64 << 20;

/// ACPI tables that differ for this kernel beyond the missing core; none for a cold start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcpiChanges<'a> {
    /// Tables that another one takes the place of.
    pub replaced: &'a [(Signature, u64)],
    /// Tables that are added.
    pub added: &'a [u64],
}

/// Plans the boot of a staged kernel in nursery `index`. `kernel` is the staged bzImage, whose digest the caller has
/// checked.
///
/// The plan's moves read the staged images in the region; its writes go to the region and the nursery alone.
///
/// # Errors
/// [`PlanError`].
pub fn plan(
    header: &Header,
    tables: &Tables,
    memory: &impl FirmwareMemory,
    staged: &StagedKernel,
    kernel: &[u8],
    index: usize,
    acpi: AcpiChanges,
) -> Result<Plan, PlanError> {
    let image = BzImage::parse(kernel)?;
    let index = index.min(1);
    let nursery = Span::of(
        header.nursery.get(index).copied().unwrap_or_default(),
        layout::NURSERY_SIZE,
    );
    let needed = image
        .init_size
        .saturating_add(staged.initramfs_len)
        .saturating_add(WORKING_MEMORY);
    if needed > nursery.len() {
        return Err(PlanError::NoRoomInNursery {
            needed,
            room: nursery.len(),
        });
    }
    let load = nursery.start.max(image.pref_address).next_multiple_of(image.alignment);
    let initramfs = Span::of(
        (nursery.end - staged.initramfs_len) & !(PAGE_SIZE - 1),
        staged.initramfs_len,
    );
    if load.saturating_add(image.init_size) > initramfs.start {
        return Err(PlanError::NoRoomInNursery {
            needed: (load - nursery.start)
                .saturating_add(image.init_size)
                .saturating_add(staged.initramfs_len),
            room: nursery.len(),
        });
    }
    if !initramfs.is_empty() && initramfs.end - 1 > image.initramfs_limit() {
        return Err(PlanError::Initramfs(initramfs));
    }
    let map = memory_map::successor(header, index);
    let place = Placement {
        half: index,
        image_at: staged.kernel,
        image,
        load,
        initramfs,
        map: &map,
        screen: Screen::Unknown,
    };
    let changes = Changes {
        replaced: acpi.replaced,
        added: acpi.added,
        ..Changes::default()
    };
    let line = (staged.cmdline(), Addition::Successor);
    let mut plan = protected(header, tables, memory, &place, line, changes)?;
    plan.moves.push(Move {
        from: staged.initramfs,
        to: initramfs.start,
        length: staged.initramfs_len,
    });
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;
    use shared_region::stage::CMDLINE_SIZE;

    fn staged(initramfs_len: u64) -> StagedKernel {
        let mut cmdline = [0; CMDLINE_SIZE];
        cmdline[..5].copy_from_slice(b"quiet");
        StagedKernel {
            valid: 1,
            kernel: 0x6C00_0000,
            kernel_len: 5120,
            initramfs: 0x6C80_0000,
            initramfs_len,
            kernel_digest: 0,
            initramfs_digest: 0,
            cmdline,
        }
    }

    #[test]
    fn everything_lies_in_the_nursery_and_the_region() {
        let (rsdp, memory) = testing::firmware(&[0, 1, 2, 3]);
        let tables = Tables::find(&rsdp, &memory).unwrap();
        let header = testing::header();
        let kernel = testing::bzimage();
        for index in [0, 1] {
            let nursery = Span::of(header.nursery[index], layout::NURSERY_SIZE);
            let region = Span::of(header.base, layout::REGION_SIZE);
            let plan = plan(
                &header,
                &tables,
                &memory,
                &staged(0x12_3456),
                &kernel,
                index,
                AcpiChanges::default(),
            )
            .unwrap();
            assert!(nursery.contains(&plan.kernel) && nursery.contains(&plan.initramfs));
            assert_eq!(plan.kernel.start, nursery.start);
            assert_eq!(plan.initramfs.start, nursery.end - 0x12_4000);
            assert!(plan.moves.iter().all(|m| nursery.contains(&Span::of(m.to, m.length))));
            assert!(plan
                .writes
                .iter()
                .all(|w| region.contains(&Span::of(w.address, w.bytes.len() as u64))));
            assert!(plan
                .writes
                .iter()
                .any(|w| w.bytes.windows(13).any(|x| x == b"dhash_entries")));
        }
    }

    proptest! {
        #[test]
        fn whatever_the_header_says_nothing_lands_elsewhere(
            changes in proptest::collection::vec((0x1F1usize..0x270, any::<u8>()), 0..6),
            initramfs in 0u64..300 << 20,
        ) {
            let (rsdp, memory) = testing::firmware(&[0, 1, 2, 3]);
            let tables = Tables::find(&rsdp, &memory).unwrap();
            let header = testing::header();
            let mut kernel = testing::bzimage();
            for (at, value) in changes {
                kernel[at] = value;
            }
            if let Ok(plan) = plan(&header, &tables, &memory, &staged(initramfs), &kernel, 1, AcpiChanges::default()) {
                let nursery = Span::of(header.nursery[1], layout::NURSERY_SIZE);
                prop_assert!(nursery.contains(&plan.kernel) && nursery.contains(&plan.initramfs));
                prop_assert!(!plan.kernel.overlaps(&plan.initramfs));
                prop_assert!(plan.moves.iter().all(|m| nursery.contains(&Span::of(m.to, m.length))));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        let (rsdp, memory) = testing::firmware(&[0, 1]);
        let tables = Tables::find(&rsdp, &memory).unwrap();
        let kernel = testing::bzimage();
        let result = plan(
            &testing::header(),
            &tables,
            &memory,
            &staged(200 << 20),
            &kernel,
            0,
            AcpiChanges::default(),
        );
        assert_eq!(
            result,
            Err(PlanError::NoRoomInNursery {
                needed: (265 << 20),
                room: 256 << 20
            })
        );
    }
}
