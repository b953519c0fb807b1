//! What the boot loader hands over.

use boot_plan::memory_map::from_firmware;
use boot_plan::modules::Modules;
use boot_plan::multiboot::{size, Information};
use boot_plan::windows::choose;
use shared_region::layout::{NURSERY_SIZE, REGION_SIZE};

/// The information structure, and the plan that is made of it.
pub fn multiboot2(data: &[u8]) {
    let Some(head) = data.first_chunk::<8>() else { return };
    let Ok(size) = size(*head) else { return };
    let Ok(information) = Information::parse(&data[..size.min(data.len())]) else {
        return;
    };
    let _ = Modules::assign(&information.modules, &information.memory);
    let Ok(map) = from_firmware(&information.memory) else {
        return;
    };
    let used: Vec<_> = information.modules.iter().map(|module| module.span).collect();
    if let Ok(windows) = choose(&map, &used) {
        let mut all = [
            (windows.region, REGION_SIZE),
            (windows.nursery[0], NURSERY_SIZE),
            (windows.nursery[1], NURSERY_SIZE),
        ];
        all.sort_unstable();
        for pair in all.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "two windows overlap: {all:x?}");
        }
        for (start, size) in all {
            let ram = map
                .iter()
                .any(|range| range.kind == 1 && range.start <= start && start + size <= range.end);
            assert!(ram, "a window lies outside RAM: {start:#x}");
        }
    }
}
