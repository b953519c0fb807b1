//! The region as a read-only mapping.

use crate::DeviceError;
use rustix::mm::{mmap, munmap, Advice, MapFlags, ProtFlags};
use shared_region::{
    control::{ControlWords, SalvageGate},
    layout::{self, Part, REGION_SIZE},
    standby::{StandbyState, StandbyWords},
};
use std::{mem::offset_of, os::fd::OwnedFd, ptr::NonNull};

/// The region, mapped read-only for the life of this value.
///
/// Others write into it at any moment, so it is read word by word or as a copy; only the Essential Context is lent out
/// in place, after its writer has closed it.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
}

// SAFETY: the mapping is read-only and stays where it is until `drop`; reads from several threads do not disturb each
// other.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub(crate) fn map(fd: &OwnedFd) -> Result<Self, DeviceError> {
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no memory of this process.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                REGION_SIZE as usize,
                ProtFlags::READ,
                MapFlags::SHARED,
                fd,
                0,
            )
        }
        .map_err(|errno| DeviceError::Map(errno.into()))?;
        // Children have no use for it, and copying its page tables is most of what a fork would cost. Without effect if
        // the kernel refuses.
        // SAFETY: the range was mapped just now; the advice changes no memory of this process.
        let _ = unsafe { rustix::mm::madvise(base, REGION_SIZE as usize, Advice::LinuxDontFork) };
        let base = NonNull::new(base.cast()).ok_or_else(|| DeviceError::Map(rustix::io::Errno::NOMEM.into()))?;
        Ok(Self { base })
    }

    /// A copy of a part, or as much of it as `limit` allows. Words in it are read whole, each at its own instant.
    pub fn copy(&self, part: Part, limit: usize) -> Vec<u8> {
        let words = (part.size as usize).min(limit).div_ceil(8);
        let mut bytes: Vec<u8> = (0..words)
            .flat_map(|i| self.word(part.offset + 8 * i as u64).to_le_bytes())
            .collect();
        bytes.truncate(limit);
        bytes
    }

    /// The 64-bit word at `offset` bytes from the base, 0 if that is outside or not aligned. Later reads are not
    /// moved before it by the compiler.
    pub fn word(&self, offset: u64) -> u64 {
        if !offset.is_multiple_of(8) || offset > REGION_SIZE - 8 {
            return 0;
        }
        // SAFETY: (1) the offset is inside the mapping and aligned, checked above; (2) the mapping lives as long as
        // `self`; (3) a volatile read of plain memory is defined whatever others write meanwhile.
        let word = unsafe { self.base.as_ptr().add(offset as usize).cast::<u64>().read_volatile() };
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        word
    }

    /// A control word, by its offset in [`ControlWords`].
    pub fn control(&self, offset: usize) -> u64 {
        self.word(layout::CONTROL.offset + offset as u64)
    }

    /// The time-stamp counter at an event, 0 if it has not happened.
    pub fn event(&self, event: shared_region::timeline::Event) -> u64 {
        self.word(layout::TIMELINE.offset + 8 * event as u64)
    }

    /// The salvage gate, or the word that is none.
    ///
    /// # Errors
    /// The word as it stands if it is not a gate of this version.
    pub fn salvage_gate(&self) -> Result<SalvageGate, u64> {
        let word = self.control(offset_of!(ControlWords, salvage_gate));
        SalvageGate::from_word(word).ok_or(word)
    }

    /// What has become of the standby.
    ///
    /// # Errors
    /// The word as it stands if it is not a state of this version.
    pub fn standby(&self) -> Result<StandbyState, u64> {
        let word = self.word(layout::STANDBY_WORDS.offset + offset_of!(StandbyWords, state) as u64);
        StandbyState::from_word(word).ok_or(word)
    }

    /// The Essential Context, in place.
    ///
    /// # Errors
    /// [`DeviceError::Gate`] unless the gate is open.
    pub fn context(&self) -> Result<&[u8], DeviceError> {
        match self.salvage_gate() {
            Ok(SalvageGate::Open) => {}
            Ok(other) => return Err(DeviceError::Gate(other as u64)),
            Err(word) => return Err(DeviceError::Gate(word)),
        }
        let part = layout::CONTEXT;
        // SAFETY: (1) the part lies inside the mapping (asserted by `shared_region::layout`), which lives as long as
        // `self`; (2) its only writer, the salvager, has finished it before it opened the gate, and writes again only
        // when this kernel is dead.
        Ok(unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(part.offset as usize), part.size as usize) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` with this address and length; nothing borrowed from it outlives
        // `self`.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), REGION_SIZE as usize) };
    }
}
