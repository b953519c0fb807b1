//! The region, as the backup OS sees it: every part at its place, through types that the layout crate defines.
//!
//! All casts from an address of the region to a reference are made here. Words that others write too are atomics; the
//! parts handed out as `&mut [u8]` are the backup OS's alone.

use shared_region::attempts::AttemptWords;
use shared_region::control::{ControlWords, HangLimit};
use shared_region::header::{Header, HeaderError};
use shared_region::layout::{self, Part};
use shared_region::parking::{ParkSlot, SLOT_SIZE};
use shared_region::rescue_area::RescueWords;
use shared_region::stage::StageWords;
use shared_region::standby::{SleepPage, StandbyWords};
use shared_region::timeline::{Event, Timeline};

use core::sync::atomic::Ordering;
use zerocopy::IntoBytes;

/// Proof that the region lies at this address and is mapped there.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    base: u64,
}

impl Region {
    /// # Safety
    /// 1. `base` is the physical address of the region that the loader set aside, below 4 GB and mapped writable at
    ///    its own address for as long as the program runs.
    /// 2. No other copy of the program runs.
    pub const unsafe fn at(base: u64) -> Self {
        Self { base }
    }

    /// Physical address of the region.
    pub const fn base(self) -> u64 {
        self.base
    }

    /// Physical address of a part.
    pub const fn address(self, part: Part) -> u64 {
        self.base + part.offset
    }

    /// Whether a range of physical memory lies wholly inside the region.
    pub const fn contains(self, start: u64, len: u64) -> bool {
        start >= self.base && len <= layout::REGION_SIZE && start - self.base <= layout::REGION_SIZE - len
    }

    fn part<T>(self, part: Part) -> &'static T {
        assert!(size_of::<T>() as u64 <= part.size && align_of::<T>() <= 4096);
        // SAFETY: 1. inside the region, which is mapped for ever (`Region::at`, 1). 2. Aligned and large enough: checked,
        // parts are page-aligned. 3. `T` is one of the structures of atomics named below, valid for any bytes; what
        // others write to it they write atomically.
        unsafe { &*(self.address(part) as *const T) }
    }

    /// The control words.
    pub fn control(self) -> &'static ControlWords {
        self.part(layout::CONTROL)
    }

    /// A deadline as it is set now, in microseconds; `None` if it is off.
    pub fn hang_limit(self, limit: HangLimit) -> Option<u64> {
        let word = self.control().hang_limits[limit as usize].load(Ordering::Relaxed);
        limit.milliseconds(word).map(|ms| ms * 1000)
    }

    /// The attempts of a failover.
    pub fn attempts(self) -> &'static AttemptWords {
        self.part(layout::ATTEMPTS)
    }

    /// Words about staging.
    pub fn stage_words(self) -> &'static StageWords {
        self.part(layout::STAGE_WORDS)
    }

    /// Which partition is the rescue area.
    pub fn rescue_words(self) -> &'static RescueWords {
        self.part(layout::RESCUE_WORDS)
    }

    /// Stamps an event now, unless it is stamped already.
    pub fn stamp(self, event: Event) {
        self.stamp_at(event, machine::clock::tsc());
    }

    /// Stamps an event with a time-stamp counter reading, unless it is stamped already.
    pub fn stamp_at(self, event: Event, tsc: u64) {
        let word = &self.timeline().tsc[event as usize];
        let _ = word.compare_exchange(0, tsc, Ordering::Release, Ordering::Relaxed);
    }

    /// The timeline.
    pub fn timeline(self) -> &'static Timeline {
        self.part(layout::TIMELINE)
    }

    /// The standby's words.
    pub fn standby(self) -> &'static StandbyWords {
        self.part(layout::STANDBY_WORDS)
    }

    /// The power-management words of a kernel that sleeps in a nursery.
    pub fn sleep_page(self, nursery: usize) -> &'static SleepPage {
        self.part(layout::sleep_page(nursery))
    }

    /// Physical address of a CPU's parking slot.
    pub const fn slot_address(self, apic_id: u8) -> u64 {
        self.address(layout::PARKING_SLOTS) + apic_id as u64 * SLOT_SIZE as u64
    }

    /// The words of a CPU's parking slot. Its `xsave` and `stack` bytes are no part of them: the CPU writes
    /// those without atomics.
    pub fn slot(self, apic_id: u8) -> &'static SlotWords {
        // SAFETY: 1. inside the region and mapped (`Region::at`, 1); a slot is 16 KB aligned to 16 KB. 2. Only atomics.
        unsafe { &*(self.slot_address(apic_id) as *const SlotWords) }
    }

    /// Reads and checks the header.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn header(self) -> Result<Header, HeaderError> {
        Header::parse(&self.copy(layout::HEADER))
    }

    /// Copies a part that others may write at the same time: the copy may be torn, and is checked by its reader.
    pub fn copy(self, part: Part) -> alloc::vec::Vec<u8> {
        let mut bytes = alloc::vec![0u8; part.size as usize];
        for (at, to) in bytes.chunks_exact_mut(8).enumerate() {
            let word = (self.address(part) + 8 * at as u64) as *const u64;
            // SAFETY: inside the region, mapped and aligned; read volatile because it may change under us.
            to.copy_from_slice(&unsafe { word.read_volatile() }.to_ne_bytes());
        }
        bytes
    }

    /// Writes bytes into a part from its start.
    ///
    /// # Safety
    /// No reference into the part exists, and nobody writes there at the same time.
    ///
    /// # Panics
    /// If the part is too small.
    pub unsafe fn fill(self, part: Part, bytes: &[u8]) {
        assert!(bytes.len() as u64 <= part.size);
        // SAFETY: 1. inside the region and mapped. 2. Not shared: the caller's promise. 3. `bytes` is not inside the
        // part for the same reason.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address(part) as *mut u8, bytes.len()) };
    }

    /// Writes the header page.
    ///
    /// # Safety
    /// Nobody else writes there; who reads at the same time checks the digest and reads again.
    pub unsafe fn put_header(self, header: &Header) {
        // SAFETY: the caller's promise.
        unsafe { self.fill(layout::HEADER, header.as_bytes()) };
    }

    /// A part that only the backup OS touches, to write to.
    ///
    /// # Safety
    /// No other reference into the part exists while this one does, and nobody else reads or writes there.
    pub unsafe fn part_mut(self, part: Part) -> &'static mut [u8] {
        // SAFETY: 1. inside the region and mapped. 2. Exclusive: the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(self.address(part) as *mut u8, part.size as usize) }
    }

    /// A part, or a piece of one, whose bytes do not change.
    ///
    /// # Safety
    /// Nobody writes there while the reference exists.
    pub unsafe fn bytes(self, start: u64, len: u64) -> Option<&'static [u8]> {
        if !self.contains(start, len) {
            return None;
        }
        // SAFETY: 1. inside the region (checked) and mapped. 2. Constant: the caller's promise.
        Some(unsafe { core::slice::from_raw_parts(start as *const u8, len as usize) })
    }
}

/// The words at the head of a [`ParkSlot`], without the bytes behind them.
#[repr(C)]
pub struct SlotWords {
    /// See [`ParkSlot::state`].
    pub state: core::sync::atomic::AtomicU64,
    /// See [`ParkSlot::generation`].
    pub generation: core::sync::atomic::AtomicU64,
    /// The words from [`ParkSlot::cpu`] up to the XSAVE area.
    pub words: [core::sync::atomic::AtomicU64; shared_region::parking::XSAVE_OFFSET / 8 - 2],
}

/// Index into [`SlotWords::words`] of a field of [`ParkSlot`].
macro_rules! slot_word {
    ($slot:expr, $field:ident) => {
        $slot.words[core::mem::offset_of!(shared_region::parking::ParkSlot, $field) / 8 - 2]
    };
}
pub(crate) use slot_word;

const _: () = {
    assert!(size_of::<SlotWords>() == shared_region::parking::XSAVE_OFFSET);
    assert!(core::mem::offset_of!(ParkSlot, state) == 0 && core::mem::offset_of!(ParkSlot, generation) == 8);
};
