//! Virtio devices that this program drives: their registers, the memory that they read and write, and disks.

pub mod disk;
mod registers;

pub use registers::Registers;

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;
use virtio_drivers::{BufferDirection, Hal, PhysAddr, PAGE_SIZE};

/// Memory that a device reads and writes: the heap, which lies at its own addresses.
pub struct Heap;

fn pages(count: usize) -> Option<Layout> {
    Layout::from_size_align(count.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok()
}

// SAFETY: the heap is mapped at its own addresses and belongs to this program; what it gives out is aligned, zeroed and
// nobody else's until it is given back.
unsafe impl Hal for Heap {
    fn dma_alloc(count: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let layout = pages(count).filter(|layout| layout.size() != 0);
        // SAFETY: the size is not 0.
        let at = layout.and_then(|layout| NonNull::new(unsafe { alloc_zeroed(layout) }));
        at.map_or((0, NonNull::dangling()), |at| (at.as_ptr() as PhysAddr, at))
    }

    unsafe fn dma_dealloc(_: PhysAddr, at: NonNull<u8>, count: usize) -> i32 {
        if let Some(layout) = pages(count) {
            // SAFETY: it comes from `dma_alloc` with the same count: the caller's promise.
            unsafe { dealloc(at.as_ptr(), layout) }
        }
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
