//! Where an unpacked kernel goes: a random place in the room that its bzImage and initramfs leave in the nursery, and a
//! random virtual address, as the kernel itself would choose (`arch/x86/boot/compressed/kaslr.c`).

use super::vmlinux::KERNEL_IMAGE_SIZE;
use crate::bzimage::BzImage;
use crate::span::Span;
use shared_region::PAGE_SIZE;

/// Places for an unpacked kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the kernel goes: from its load address on, all it uses until it has its own map of memory.
    pub kernel: Span,
    /// Memory that is needed while it is being unpacked.
    pub scratch: Span,
    /// Bytes its virtual addresses move up.
    pub shift: u64,
}

/// Chooses places in `room`. `random(n)` gives a number below n; a kernel that is not to be randomized gets the lowest
/// place and keeps its virtual addresses. `None` if there is not enough room.
pub fn choose(
    room: Span,
    image: &BzImage,
    scratch: u64,
    randomized: bool,
    mut random: impl FnMut(u64) -> u64,
) -> Option<Place> {
    let scratch = Span {
        start: room.end.checked_sub(scratch)? & !(PAGE_SIZE - 1),
        end: room.end,
    };
    let lowest = room
        .start
        .max(image.pref_address)
        .checked_next_multiple_of(image.alignment)?;
    let highest = scratch.start.checked_sub(image.init_size)?.checked_sub(lowest)?;
    let (places, addresses) = if randomized {
        let above = KERNEL_IMAGE_SIZE
            .saturating_sub(image.pref_address)
            .saturating_sub(image.init_size);
        (highest / image.alignment + 1, above / image.alignment + 1)
    } else {
        (1, 1)
    };
    let mut chosen = |of| random(of).min(of - 1) * image.alignment;
    Some(Place {
        kernel: Span::of(lowest + chosen(places), image.init_size),
        scratch,
        shift: chosen(addresses),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_place_is_inside_and_apart(
            start in (0x4800_0000u64..0x5000_0000), length in 0u64..200 << 20, scratch in 0u64..80 << 20,
            randomized: bool, draws: [u64; 2],
        ) {
            let file = testing::bzimage();
            let mut image = BzImage::parse(&file).unwrap();
            image.init_size = 54 << 20;
            let room = Span::of(start, length);
            let mut draws = draws.into_iter();
            if let Some(place) = choose(room, &image, scratch, randomized, |below| draws.next().unwrap() % below) {
                prop_assert!(room.contains(&place.kernel) && room.contains(&place.scratch));
                prop_assert!(!place.kernel.overlaps(&place.scratch));
                prop_assert!(place.scratch.len() >= scratch && place.kernel.len() == 54 << 20);
                prop_assert!(place.kernel.start % image.alignment == 0 && place.shift % image.alignment == 0);
                prop_assert!(image.pref_address + place.shift + image.init_size <= KERNEL_IMAGE_SIZE);
                prop_assert!(randomized || place.shift == 0);
            } else {
                prop_assert!(length < scratch + (54 << 20) + 2 * image.alignment + PAGE_SIZE);
            }
        }
    }
}
