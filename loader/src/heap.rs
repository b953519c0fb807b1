//! Memory for the plans: an arena that is handed out from the front and never taken back. The loader runs once, and all
//! it allocates are copies of tables and lists of ranges.

use core::{
    alloc::{GlobalAlloc, Layout},
    cell::UnsafeCell,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Bytes in the arena: GRUB's information and ACPI tables fit many times over.
const SIZE: usize = 2 << 20;

#[repr(C, align(16))]
struct Arena {
    bytes: UnsafeCell<[u8; SIZE]>,
    used: AtomicUsize,
}

// SAFETY: `used` is atomic, and every byte of the arena is handed out at most once.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena {
    bytes: UnsafeCell::new([0; SIZE]),
    used: AtomicUsize::new(0),
};

// SAFETY: 1. blocks do not overlap: `used` only grows, by at least what each block takes. 2. Alignment up to 16 is that
// of the arena, beyond that the offset is rounded against the block's own address. 3. A block is never reused.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.bytes.get() as usize;
        let place = |used: usize| {
            let start = (base + used).checked_next_multiple_of(layout.align())? - base;
            let end = start.checked_add(layout.size())?;
            (end <= SIZE).then_some((start, end))
        };
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            place(used).map(|(_, end)| end)
        });
        match taken.ok().and_then(place) {
            // SAFETY: `start` lies inside the arena.
            Some((start, _)) => unsafe { self.bytes.get().cast::<u8>().add(start) },
            None => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
