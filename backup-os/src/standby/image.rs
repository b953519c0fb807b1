//! Packed images of what sleeps: made once for each nursery, put back into it whenever it has become the reservation.
//!
//! Both are done in slices between two looks of the watcher. The room of an image holds nothing but packed chunks, one
//! after another; what they are, and where each ends, this program remembers.

use super::{sleeping, staged_in, Sleeper, Standby};
use crate::region::Region;
use crate::rescue;
use crate::watch::Backup;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use failover::life::Input;
use failover::packed::{PackError, Packer, Unpacker};
use machine::clock::{self, Clock};
use shared_region::control::WatchState;
use shared_region::header::Header;
use shared_region::layout::{self, Part};
use shared_region::standby::{Missing, StandbyState};
use shared_region::timeline::Event;

/// How long the watcher may be kept from its next look, in microseconds; a slice ends with the chunk under way.
const SLICE_US: u64 = 500;

/// A packed image.
struct Image {
    sleeper: Sleeper,
    /// Bytes from the start of the room to the end of each chunk.
    ends: Vec<u32>,
}

/// Packing under way.
struct Packing {
    image: Image,
    packer: Packer,
    since: u64,
}

/// Putting back under way.
struct PuttingBack {
    image: Rc<Image>,
    unpacker: Unpacker,
    /// The next chunk.
    next: usize,
    /// Pages that had to be written.
    written: usize,
    since: u64,
}

/// What a slice of the work came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slice {
    /// There was nothing to do.
    Nothing,
    /// Something is done.
    Done,
    /// A standby cannot be put back, and nothing is placed in its stead.
    Failed,
}

/// All images.
#[derive(Default)]
pub struct Images {
    packed: [Option<Rc<Image>>; 2],
    /// Why there is none for a nursery.
    missing: [Option<Missing>; 2],
    packing: Option<Packing>,
    putting_back: Option<PuttingBack>,
    /// What lay in the parts of the region that are being packed.
    kept: Option<[(Part, Vec<u8>); 2]>,
}

fn room(region: Region, nursery: usize) -> (u64, u64) {
    let part = layout::half(layout::STANDBY, nursery);
    (region.address(part), part.size)
}

impl Image {
    fn used(&self) -> u64 {
        self.ends.last().copied().map_or(0, u64::from)
    }

    /// Where a chunk lies in the room.
    fn span(&self, number: usize) -> Option<(u64, u64)> {
        let end = u64::from(*self.ends.get(number)?);
        let start = match number.checked_sub(1) {
            None => 0,
            Some(before) => u64::from(*self.ends.get(before)?),
        };
        Some((start, end.checked_sub(start)?))
    }
}

impl Packing {
    /// Packs the next chunk. Returns whether it was the last.
    fn step(&mut self, region: Region) -> Result<bool, PackError> {
        let number = self.image.ends.len();
        let print = &self.image.sleeper.print;
        let (Some(chunk), Some((start, length))) = (print.chunk(number), self.image.sleeper.pieces.chunk(number))
        else {
            return Ok(true);
        };
        let (base, size) = room(region, self.image.sleeper.nursery);
        let used = self.image.used();
        // SAFETY: 1. inside the room (`pack` says what it used), which is in the region and mapped. 2. Only this program uses
        // it, and holds no other reference into it.
        let free = unsafe { core::slice::from_raw_parts_mut((base + used) as *mut u8, (size - used) as usize) };
        let more = self.packer.pack(chunk, sleeping(start, length), free)?;
        self.image.ends.push((used + more as u64) as u32);
        Ok(false)
    }
}

impl PuttingBack {
    /// Puts the next chunk back. Returns whether it was the last.
    ///
    /// # Safety
    /// Nobody uses the memory that the kernel slept in.
    unsafe fn step(&mut self, region: Region) -> Result<bool, PackError> {
        let sleeper = &self.image.sleeper;
        let (Some(chunk), Some((start, length))) = (sleeper.print.chunk(self.next), sleeper.pieces.chunk(self.next))
        else {
            return Ok(true);
        };
        let (base, size) = room(region, sleeper.nursery);
        let (at, packed) = self.image.span(self.next).ok_or(PackError::Damaged)?;
        if at > size || packed > size - at {
            return Err(PackError::Damaged);
        }
        // SAFETY: 1. inside the room (checked), which is in the region and mapped. 2. Nobody writes there; a wild write of
        // the active changes what is found, which is what the digest is for.
        let packed = unsafe { core::slice::from_raw_parts((base + at) as *const u8, packed as usize) };
        // SAFETY: 1. RAM below 4 GB, mapped: only the kernel's own pieces are asked for. 2. The caller's promise.
        let memory = unsafe { core::slice::from_raw_parts_mut(start as *mut u8, length as usize) };
        self.written += self.unpacker.unpack(chunk, packed, memory)?;
        self.next += 1;
        Ok(false)
    }
}

impl Images {
    /// Begins to pack a kernel that sleeps. Its memory must not change until that is done.
    pub(super) fn begin(&mut self, sleeper: Sleeper) {
        self.packing = Some(Packing {
            image: Image {
                sleeper,
                ends: Vec::new(),
            },
            packer: Packer::default(),
            since: clock::tsc(),
        });
    }

    /// Looks up what salvage needs to know of the kernel whose image is being packed.
    pub(super) fn prepare(&mut self, header: &Header) {
        if let Some(packing) = &mut self.packing {
            packing.image.sleeper.prepare(header);
        }
    }

    /// Whether an image is being packed.
    pub fn packs(&self) -> bool {
        self.packing.is_some()
    }

    /// Whether an image is being put back.
    pub fn puts_back(&self) -> bool {
        self.putting_back.is_some()
    }

    /// What is to be put back when the image is packed.
    pub(super) fn keep(&mut self, parts: [(Part, Vec<u8>); 2]) {
        self.kept = Some(parts);
    }

    pub(super) fn kept(&mut self) -> Option<[(Part, Vec<u8>); 2]> {
        self.kept.take()
    }

    /// Goes on with packing for some microseconds, if an image is being packed.
    pub(super) fn pack_on(&mut self, region: Region, clock: &Clock, us: u64) {
        let Some(packing) = &mut self.packing else { return };
        let since = clock::tsc();
        let result = loop {
            match packing.step(region) {
                Ok(false) if rescue::since(clock, since) < us => {}
                result => break result,
            }
        };
        if result == Ok(false) {
            return;
        }
        let Some(Packing { mut image, since, .. }) = self.packing.take() else {
            return;
        };
        let nursery = image.sleeper.nursery;
        match result {
            Ok(_) => {
                image.ends.shrink_to_fit();
                region.standby().image_bytes[nursery].store(image.used(), Ordering::Relaxed);
                log::info!(
                    "standby: image for nursery {nursery}: {} pages in {} KB of {} KB, digest {:016x}, packed in {} ms",
                    image.sleeper.print.pages(),
                    image.used() / 1024,
                    room(region, nursery).1 / 1024,
                    image.sleeper.print.digest(),
                    rescue::since(clock, since) / 1000,
                );
                self.packed[nursery] = Some(Rc::new(image));
            }
            Err(why) => {
                let part = 100 * image.ends.len() / image.sleeper.print.len().max(1);
                log::warn!("standby: no image for nursery {nursery}, {part} % were packed: {why}");
                self.missing[nursery] = Some(match why {
                    PackError::Full => Missing::TooLarge,
                    PackError::Changed | PackError::Damaged => Missing::Damaged,
                });
            }
        }
    }
}

impl Backup {
    /// Whether the standby for the reserved nursery is, or can be, put back.
    pub fn standby_comes_back(&self) -> bool {
        self.images.putting_back.is_some() || self.image().is_ok()
    }

    /// The image that fits.
    fn image(&self) -> Result<&Rc<Image>, Missing> {
        let nursery = self.life.reserved_nursery;
        let missing = self.images.missing[nursery].unwrap_or(Missing::NoImage);
        let image = self.images.packed[nursery].as_ref().ok_or(missing)?;
        if staged_in(self.region, None) == Some(image.sleeper.kernel) {
            Ok(image)
        } else {
            Err(Missing::OtherKernel)
        }
    }

    /// Begins to put the standby of the reserved nursery back, if none sleeps there, or says why there is none. What was
    /// placed there makes room; should the active fail meanwhile, the successor is placed anew.
    pub fn put_standby_back(&mut self) {
        if self.standby.is_some() || self.images.putting_back.is_some() || !self.wants_standby() {
            return;
        }
        let image = match self.image() {
            Ok(image) => Rc::clone(image),
            // One that could not even be made has failed already.
            Err(_) if self.standby_state() == StandbyState::Failed => return,
            Err(why) => return self.no_standby(why),
        };
        self.unpacking = None;
        self.placed = None;
        self.region.standby().put_back.store(0, Ordering::Relaxed);
        self.set_standby_state(StandbyState::PuttingBack);
        self.images.putting_back = Some(PuttingBack {
            image,
            unpacker: Unpacker::default(),
            next: 0,
            written: 0,
            since: clock::tsc(),
        });
    }

    /// A slice of the work on standbys.
    pub fn standby_on(&mut self) -> Slice {
        if self.images.packs() {
            self.images.pack_on(self.region, &self.clock, SLICE_US);
            return Slice::Done;
        }
        let Some(putting_back) = &mut self.images.putting_back else {
            return Slice::Nothing;
        };
        let since = clock::tsc();
        let result = loop {
            // SAFETY: the nursery is the reservation, and with it go its low range and its parts of the region. Nothing is
            // placed there: `put_standby_back` has seen to that, and `arm` places nothing meanwhile.
            match unsafe { putting_back.step(self.region) } {
                Ok(false) if rescue::since(&self.clock, since) < SLICE_US => {}
                result => break result,
            }
        };
        let done = 1000 * putting_back.next / putting_back.image.sleeper.print.len().max(1);
        self.region.standby().put_back.store(done as u64, Ordering::Relaxed);
        if result == Ok(false) {
            return Slice::Done;
        }
        let Some(done) = self.images.putting_back.take() else {
            return Slice::Nothing;
        };
        let nursery = done.image.sleeper.nursery;
        match result {
            Ok(_) => {
                log::info!(
                    "standby: put back into nursery {nursery} in {} ms, {} pages written",
                    rescue::since(&self.clock, done.since) / 1000,
                    done.written
                );
                self.standby = Some(Standby {
                    sleeper: done.image.sleeper.clone(),
                    inject: 0,
                });
                self.forget_other_kernel();
                if self.standby.is_none() {
                    return Slice::Failed;
                }
                self.set_standby_state(StandbyState::Asleep);
                self.region.stamp(Event::StandbyReady);
                if self.life.state == WatchState::Armed {
                    self.step(Input::Ready(self.next_start()));
                }
                Slice::Done
            }
            Err(why) => {
                log::error!("standby: {why}: there will be none in nursery {nursery} any more");
                self.images.packed[nursery] = None;
                self.images.missing[nursery] = Some(Missing::Damaged);
                self.region.standby().image_bytes[nursery].store(0, Ordering::Relaxed);
                self.no_standby(Missing::Damaged);
                Slice::Failed
            }
        }
    }

    /// The active has died: what sleeps is about to be woken, and what is not back by now is not waited for.
    pub fn leave_images(&mut self) {
        if self.images.puts_back() {
            log::warn!("standby: not put back in time");
            self.no_standby(Missing::Nothing);
        }
        self.images.packing = None;
        self.images.putting_back = None;
    }

    /// Another kernel was staged than the one whose image is being made or put back.
    pub fn leave_other_images(&mut self) {
        let current = staged_in(self.region, None);
        let is_other = |image: &Image| current != Some(image.sleeper.kernel);
        let images = &mut self.images;
        images.packing = images.packing.take().filter(|packing| !is_other(&packing.image));
        if images.putting_back.as_ref().is_some_and(|back| is_other(&back.image)) {
            images.putting_back = None;
            self.no_standby(Missing::OtherKernel);
        }
    }

    /// Changes a byte in the middle of an image.
    pub(super) fn damage_image(&self, nursery: usize) {
        let Some(image) = &self.images.packed[nursery] else {
            return;
        };
        let at = (room(self.region, nursery).0 + image.used() / 2) & !3;
        let value = machine::mmio::read32(self.ring0, at) as u8;
        // SAFETY: in the room of an image, which nobody holds a reference to.
        unsafe { machine::mmio::write8(self.ring0, at, !value) };
    }
}
