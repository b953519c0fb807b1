//! Physical memory below 4 GB, of which the loader owns all that the firmware calls RAM.

use boot_plan::{acpi::FirmwareMemory, plan::Plan, span::Span};
use machine::Ring0;

/// The first page holds the interrupt vectors and the BIOS's data; address 0 is no place for Rust.
const FIRST: u64 = 0x1000;
const END: u64 = 1 << 32;

/// Physical memory, as the entry code mapped it.
pub struct Physical {
    _ring0: Ring0,
}

impl Physical {
    /// Takes possession of it.
    ///
    /// # Safety
    /// Called once, on the only CPU that runs. From then on memory outside this program's image is reached through this
    /// alone.
    pub unsafe fn new(ring0: Ring0) -> Self {
        Self { _ring0: ring0 }
    }

    fn check(span: Span) -> Span {
        assert!(
            FIRST <= span.start && span.start <= span.end && span.end <= END,
            "access to physical memory {span}, outside of the mapped 4 GB"
        );
        span
    }

    /// Memory that nobody writes as long as the slice is used: boot modules, until the kernel is put in place.
    ///
    /// # Safety
    /// No write or move to this span happens while the slice is alive.
    ///
    /// # Panics
    /// If the span is not mapped.
    pub unsafe fn slice(&self, span: Span) -> &[u8] {
        let span = Self::check(span);
        // SAFETY: 1. mapped (checked). 2. Any bytes are valid u8. 3. Not written meanwhile: the caller's promise.
        unsafe { core::slice::from_raw_parts(span.start as *const u8, span.len() as usize) }
    }

    /// Moves bytes; the ranges may overlap.
    ///
    /// # Safety
    /// Nothing that is still needed lies at the target; no slice of it is alive.
    ///
    /// # Panics
    /// If a range is not mapped.
    pub unsafe fn copy(&self, from: u64, to: u64, length: u64) {
        if length == 0 {
            return;
        }
        let (from, to) = (Self::check(Span::of(from, length)), Self::check(Span::of(to, length)));
        // SAFETY: 1. both ranges are mapped (checked). 2. `copy` allows overlap. 3. The caller's promise.
        unsafe { core::ptr::copy(from.start as *const u8, to.start as *mut u8, length as usize) }
    }

    /// Writes bytes.
    ///
    /// # Safety
    /// As [`Self::copy`].
    ///
    /// # Panics
    /// If the target is not mapped.
    pub unsafe fn write(&self, address: u64, bytes: &[u8]) {
        // SAFETY: the source is a slice of ours; the rest is the caller's promise.
        unsafe { self.copy(bytes.as_ptr() as u64, address, bytes.len() as u64) }
    }

    /// Fills a span with zeros.
    ///
    /// # Safety
    /// As [`Self::copy`].
    ///
    /// # Panics
    /// If the span is not mapped.
    pub unsafe fn clear(&self, span: Span) {
        let span = Self::check(span);
        // SAFETY: 1. mapped (checked). 2. The caller's promise.
        unsafe { core::ptr::write_bytes(span.start as *mut u8, 0, span.len() as usize) }
    }

    /// Carries out a plan's moves and writes.
    ///
    /// # Safety
    /// As [`Self::copy`], for every target in the plan.
    ///
    /// # Panics
    /// If a target is not mapped.
    pub unsafe fn carry_out(&self, plan: &Plan) {
        for step in &plan.moves {
            // SAFETY: the caller's promise.
            unsafe { self.copy(step.from, step.to, step.length) };
        }
        for write in &plan.writes {
            // SAFETY: the caller's promise.
            unsafe { self.write(write.address, &write.bytes) };
        }
    }
}

impl FirmwareMemory for Physical {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let span = Span::of(address, into.len() as u64);
        if span.start < FIRST || span.end > END {
            return false;
        }
        // SAFETY: 1. mapped (checked). 2. The target is a slice of ours and so not in the firmware's tables.
        unsafe { core::ptr::copy_nonoverlapping(address as *const u8, into.as_mut_ptr(), into.len()) };
        true
    }
}
