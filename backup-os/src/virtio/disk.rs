//! A virtio disk (Virtual I/O Device 1.2, 5.2) while this program drives it: one request at a time, each with a deadline.
//!
//! The driver of `virtio-drivers` waits for ever for what it asks; here its queue alone is used.

use super::{Heap, Registers};
use alloc::boxed::Box;
use core::fmt;
use machine::clock::{self, Clock};
use shared_region::rescue_area::SECTOR;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use zerocopy::{Immutable, IntoBytes};

const QUEUE: usize = 4;
const REQUESTS: u16 = 0;
/// Bits of the status (2.1).
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
/// Features: it can only be read; it can be told to flush; the rules of version 1.
const READ_ONLY: u64 = 1 << 5;
const FLUSH: u64 = 1 << 9;
const VERSION_1: u64 = 1 << 32;
/// Kinds of request (5.2.6).
const READ: u32 = 0;
const WRITE: u32 = 1;
const DO_FLUSH: u32 = 4;
const GET_ID: u32 = 8;
/// Bytes of a serial number.
pub const SERIAL: usize = 20;
/// How long a request may take, and all of them together, in microseconds.
const REQUEST_US: u64 = 20_000_000;
const ALL_US: u64 = 300_000_000;

/// What a disk does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// It cannot be driven, and why.
    Unusable(&'static str),
    /// A request failed, with this status.
    Status(u8),
    /// It did not answer in time.
    Timeout,
    /// A place that is not on it.
    Outside,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(why) => f.write_str(why),
            Self::Status(status) => write!(f, "answers a request with status {status}"),
            Self::Timeout => f.write_str("does not answer in time"),
            Self::Outside => f.write_str("is too small"),
        }
    }
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct Request {
    kind: u32,
    reserved: u32,
    sector: u64,
}

/// The disk. It is reset when this is dropped.
pub struct Disk {
    registers: Registers,
    clock: Clock,
    /// `None` after a request that may still be under way: its memory must stay.
    queue: Option<Box<VirtQueue<Heap, QUEUE>>>,
    flushes: bool,
    /// Its sectors.
    pub sectors: u64,
    since: u64,
}

impl Disk {
    /// Resets a disk and drives it.
    ///
    /// # Errors
    /// Why it cannot be. It is reset then, if it can be.
    pub fn take(mut registers: Registers, clock: &Clock) -> Result<Self, DiskError> {
        registers
            .reset(clock)
            .map_err(|_| DiskError::Unusable("is not reset in time"))?;
        registers.put_status(ACKNOWLEDGE | DRIVER);
        let offered = registers.read_device_features();
        if offered & VERSION_1 == 0 || offered & READ_ONLY != 0 {
            return Err(DiskError::Unusable("can only be read, or is of another version"));
        }
        registers.write_driver_features(offered & (VERSION_1 | FLUSH));
        registers.put_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if registers.status() & FEATURES_OK == 0 {
            return Err(DiskError::Unusable("does not accept what it is asked for"));
        }
        let sectors = registers.read_config_space(0).map_err(|_| DiskError::Outside)?;
        let queue = VirtQueue::new(&mut registers, REQUESTS, false, false);
        let mut queue = queue.map_err(|_| DiskError::Unusable("has no queue for this program"))?;
        queue.set_dev_notify(false);
        registers.put_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        Ok(Self {
            registers,
            clock: *clock,
            queue: Some(Box::new(queue)),
            flushes: offered & FLUSH != 0,
            sectors,
            since: clock::tsc(),
        })
    }

    /// Its serial number.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn serial(&mut self) -> Result<[u8; SERIAL], DiskError> {
        let mut serial = Box::new([0; SERIAL]);
        self.request(GET_ID, 0, &[], &mut *serial)?;
        Ok(*serial)
    }

    /// Reads sectors.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn read(&mut self, sector: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.check(sector, bytes.len())?;
        self.request(READ, sector, &[], bytes)
    }

    /// Writes sectors.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.check(sector, bytes.len())?;
        self.request(WRITE, sector, bytes, &mut [])
    }

    /// Waits until what was written would outlive a loss of power.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn flush(&mut self) -> Result<(), DiskError> {
        match self.flushes {
            true => self.request(DO_FLUSH, 0, &[], &mut []),
            false => Ok(()),
        }
    }

    fn check(&self, sector: u64, length: usize) -> Result<(), DiskError> {
        let whole = (length as u64).is_multiple_of(SECTOR);
        let end = sector.checked_add(length as u64 / SECTOR);
        match end.filter(|&end| whole && end <= self.sectors) {
            Some(_) => Ok(()),
            None => Err(DiskError::Outside),
        }
    }

    fn request(&mut self, kind: u32, sector: u64, out: &[u8], back: &mut [u8]) -> Result<(), DiskError> {
        let spent = self.clock.nanoseconds(clock::tsc().wrapping_sub(self.since)) / 1000;
        let left = ALL_US.saturating_sub(spent).min(REQUEST_US);
        let Some(mut queue) = self.queue.take().filter(|_| left != 0) else {
            return Err(DiskError::Timeout);
        };
        let request = Box::new(Request {
            kind,
            reserved: 0,
            sector,
        });
        let mut status = Box::new([u8::MAX]);
        let both = [request.as_bytes(), out];
        let to_disk = if out.is_empty() { &both[..1] } else { &both[..] };
        let to_memory: &mut [&mut [u8]] = match back.is_empty() {
            true => &mut [&mut status[..]],
            false => &mut [back, &mut status[..]],
        };
        let refused = DiskError::Unusable("takes no request");
        // SAFETY: all of it stays where it is until the disk has given it back, or was reset.
        let token = unsafe { queue.add(to_disk, to_memory) }.map_err(|_| refused)?;
        self.registers.notify(REQUESTS);
        if self.clock.wait_for(left, "a disk", || queue.can_pop()).is_err() {
            if self.registers.reset(&self.clock).is_err() {
                // It may still write to its memory.
                core::mem::forget((queue, request, status));
            }
            return Err(DiskError::Timeout);
        }
        // SAFETY: what was given for this token.
        let done = unsafe { queue.pop_used(token, to_disk, to_memory) };
        self.queue = Some(queue);
        done.map_err(|_| DiskError::Unusable("has done what it was not asked"))?;
        match status[0] {
            0 => Ok(()),
            status => Err(DiskError::Status(status)),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.registers.reset(&self.clock).is_err() {
            core::mem::forget(self.queue.take());
        }
    }
}
