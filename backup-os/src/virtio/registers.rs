//! The registers of a virtio device (Virtual I/O Device 1.2, 4.1.4.3), as the driver of `virtio-drivers` wants them.
//!
//! That crate's own transport looks through configuration space whenever it is made, which nobody may do once a kernel
//! runs, and resets the device when it is dropped, which may be the successor's by then. This one knows its place, and what
//! it is dropped with stays as it is.

use core::sync::atomic::{fence, Ordering};
use machine::clock::Clock;
use machine::virtio::Place;
use machine::{mmio, Ring0, Timeout};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Offsets in the common configuration.
const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0C;
const STATUS: u64 = 0x14;
const GENERATION: u64 = 0x15;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_ENABLE: u64 = 0x1C;
const QUEUE_NOTIFY_OFFSET: u64 = 0x1E;
const QUEUE_DESCRIPTORS: u64 = 0x20;
const QUEUE_DRIVER: u64 = 0x28;
const QUEUE_DEVICE: u64 = 0x30;
/// Bytes of the device's own configuration that are read: address and status of a network card, sectors of a disk.
const CONFIGURATION: usize = 8;
/// Features of rings that are left aside: every buffer is then one descriptor, and whether the device tells of it one flag.
const LEFT_ASIDE: u64 = 1 << 28 | 1 << 29;
/// How long a reset may take, in microseconds.
const RESET_US: u64 = 10_000;

/// A device's registers.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    ring0: Ring0,
    place: Place,
}

impl Registers {
    /// # Safety
    /// The place is that of a virtio device for as long as it answers there as one.
    pub unsafe fn new(ring0: Ring0, place: Place) -> Self {
        Self { ring0, place }
    }

    fn write16(&self, offset: u64, value: u16) {
        // SAFETY: a device register (`new`).
        unsafe { mmio::write16(self.ring0, self.place.common + offset, value) }
    }

    fn write32(&self, offset: u64, value: u32) {
        // SAFETY: a device register (`new`).
        unsafe { mmio::write32(self.ring0, self.place.common + offset, value) }
    }

    fn write_address(&self, offset: u64, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }

    fn read16(&self, offset: u64) -> u16 {
        mmio::read16(self.ring0, self.place.common + offset)
    }

    fn read32(&self, offset: u64) -> u32 {
        mmio::read32(self.ring0, self.place.common + offset)
    }

    /// The status: all ones while the device does not answer.
    pub fn status(&self) -> u8 {
        mmio::read8(self.ring0, self.place.common + STATUS)
    }

    /// Writes the status.
    pub fn put_status(&self, status: u8) {
        // SAFETY: a device register (`new`).
        unsafe { mmio::write8(self.ring0, self.place.common + STATUS, status) }
    }

    /// Resets the device and waits until it has.
    ///
    /// # Errors
    /// [`Timeout`].
    pub fn reset(&self, clock: &Clock) -> core::result::Result<(), Timeout> {
        self.put_status(0);
        clock.wait_for(RESET_US, "the reset of a virtio device", || self.status() == 0)
    }

    /// Its hardware address.
    pub fn hardware(&self) -> [u8; 6] {
        core::array::from_fn(|at| mmio::read8(self.ring0, self.place.device + at as u64))
    }

    /// Where the descriptors of the first queue are.
    pub fn first_queue(&self) -> u64 {
        self.write16(QUEUE_SELECT, 0);
        u64::from(self.read32(QUEUE_DESCRIPTORS)) | u64::from(self.read32(QUEUE_DESCRIPTORS + 4)) << 32
    }
}

impl Transport for Registers {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }

    fn read_device_features(&mut self) -> u64 {
        let half = |select| {
            self.write32(DEVICE_FEATURE_SELECT, select);
            u64::from(self.read32(DEVICE_FEATURE))
        };
        (half(0) | half(1) << 32) & !LEFT_ASIDE
    }

    fn write_driver_features(&mut self, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write32(DRIVER_FEATURE_SELECT, select);
            self.write32(DRIVER_FEATURE, half);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.write16(QUEUE_SELECT, queue);
        u32::from(self.read16(QUEUE_SIZE))
    }

    fn notify(&mut self, queue: u16) {
        // What was written to the rings comes first.
        fence(Ordering::SeqCst);
        self.write16(QUEUE_SELECT, queue);
        let offset = u64::from(self.read16(QUEUE_NOTIFY_OFFSET)) * u64::from(self.place.multiplier);
        // While the device does not answer the offset is all ones.
        if offset + 2 <= u64::from(self.place.notify_size) && offset.is_multiple_of(2) {
            // SAFETY: a device register (`new`): inside the structure.
            unsafe { mmio::write16(self.ring0, self.place.notify + offset, queue) }
        }
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(u32::from(self.status()))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.put_status(status.bits() as u8);
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.write16(QUEUE_SELECT, queue);
        self.write16(QUEUE_SIZE, size as u16);
        self.write_address(QUEUE_DESCRIPTORS, descriptors);
        self.write_address(QUEUE_DRIVER, driver);
        self.write_address(QUEUE_DEVICE, device);
        self.write16(QUEUE_ENABLE, 1);
    }

    /// Nothing: the device is reset as a whole, or is somebody else's.
    fn queue_unset(&mut self, _: u16) {}

    fn queue_used(&mut self, queue: u16) -> bool {
        self.write16(QUEUE_SELECT, queue);
        self.read16(QUEUE_ENABLE) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        u32::from(mmio::read8(self.ring0, self.place.common + GENERATION))
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let end = offset.checked_add(size_of::<T>()).ok_or(Error::ConfigSpaceTooSmall)?;
        if end > CONFIGURATION {
            return Err(Error::ConfigSpaceTooSmall);
        }
        let mut value = T::new_zeroed();
        for (at, byte) in (offset as u64..).zip(value.as_mut_bytes()) {
            *byte = mmio::read8(self.ring0, self.place.device + at);
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> Result<()> {
        Err(Error::Unsupported)
    }
}
