//! The heap, in its part of the region, and memory that is lent to it for a while.
//!
//! Everything this program keeps fits into the part. Only unpacking a kernel needs more, in one piece, and for that while
//! there is room in the nursery.

use crate::region::Region;
use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};
use shared_region::layout;
use spin::Mutex;
use talc::source::Manual;
use talc::TalcLock;

#[global_allocator]
static HEAP: Heap = Heap {
    own: TalcLock::new(Manual),
    lent: Mutex::new(Lent {
        start: 0,
        end: 0,
        next: 0,
    }),
    used: AtomicUsize::new(0),
};

/// Allocations from this size on come out of lent memory, if there is any.
const LARGE: usize = 16 << 20;

struct Heap {
    own: TalcLock<spin::Mutex<()>, Manual>,
    lent: Mutex<Lent>,
    /// Bytes given out and not given back.
    used: AtomicUsize,
}

/// Addresses; empty if nothing is lent.
struct Lent {
    start: usize,
    end: usize,
    /// The first byte that was not given out.
    next: usize,
}

impl Lent {
    fn take(&mut self, layout: Layout) -> Option<*mut u8> {
        let start = self.next.checked_next_multiple_of(layout.align())?;
        let end = start.checked_add(layout.size()).filter(|&end| end <= self.end)?;
        self.next = end;
        Some(start as *mut u8)
    }
}

// SAFETY: 1. what `own` gives out goes back to `own`, and what was lent goes nowhere: the address tells which it is.
// 2. Pieces of lent memory do not overlap: `next` only rises.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE {
            if let Some(at) = self.lent.lock().take(layout) {
                return at;
            }
        }
        self.used.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.own.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let lent = self.lent.lock();
        let ours = (lent.start..lent.end).contains(&(at as usize));
        drop(lent);
        if !ours {
            self.used.fetch_sub(layout.size(), Ordering::Relaxed);
            // SAFETY: the caller's promise; it is no lent memory, so it came from there.
            unsafe { self.own.dealloc(at, layout) }
        }
    }
}

/// Bytes in use.
pub fn used() -> usize {
    HEAP.used.load(Ordering::Relaxed)
}

/// Hands the part to the allocator. Before this every allocation fails.
///
/// # Safety
/// Called once; nobody else touches the part from now on.
pub unsafe fn init(region: Region) {
    let base = region.address(layout::BACKUP_HEAP) as *mut u8;
    // SAFETY: the part is mapped and nobody else's: the caller's promise.
    let claimed = unsafe { HEAP.own.lock().claim(base, layout::BACKUP_HEAP.size as usize) };
    assert!(claimed.is_some(), "the heap's part was refused");
}

/// Memory lent to the heap, until this is dropped.
#[derive(Debug)]
pub struct Loan(());

impl Loan {
    /// Lends `length` bytes at `start` for large allocations. `None` while other memory is lent.
    ///
    /// # Safety
    /// 1. The memory is mapped, and nobody else's until this is dropped. 2. Everything allocated in it is gone by then.
    pub unsafe fn new(start: u64, length: u64) -> Option<Self> {
        let mut lent = HEAP.lent.lock();
        if lent.end != 0 {
            return None;
        }
        let start = start as usize;
        *lent = Lent {
            start,
            end: start.saturating_add(length as usize),
            next: start,
        };
        Some(Self(()))
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        *HEAP.lent.lock() = Lent {
            start: 0,
            end: 0,
            next: 0,
        };
    }
}
