//! The heap, in its part of the region.

use crate::region::Region;
use shared_region::layout;
use talc::source::Manual;
use talc::TalcLock;

#[global_allocator]
static HEAP: TalcLock<spin::Mutex<()>, Manual> = TalcLock::new(Manual);

/// Hands the part to the allocator. Before this every allocation fails.
///
/// # Safety
/// Called once; nobody else touches the part from now on.
pub unsafe fn init(region: Region) {
    let base = region.address(layout::BACKUP_HEAP) as *mut u8;
    // SAFETY: the part is mapped and nobody else's: the caller's promise.
    let claimed = unsafe { HEAP.lock().claim(base, layout::BACKUP_HEAP.size as usize) };
    assert!(claimed.is_some(), "the heap's part was refused");
}
