//! The one place that issues ioctls.

use crate::DeviceError;
use rustix::ioctl::{ioctl, Opcode};
use std::os::fd::OwnedFd;
use zerocopy::{FromBytes, IntoBytes};

/// Issues ioctl `OPCODE` with `argument`, which the kernel reads and writes.
pub(crate) fn update<const OPCODE: u64, T: FromBytes + IntoBytes>(
    fd: &OwnedFd,
    name: &'static str,
    argument: &mut T,
) -> Result<(), DeviceError> {
    const { assert!((OPCODE >> 16) & 0x3FFF == core::mem::size_of::<T>() as u64) };
    // SAFETY: (1) the opcode encodes the size of `T`, checked above, so the kernel touches no more than `argument`;
    // (2) `T` is plain bytes in both directions, so whatever the kernel writes is a valid value; (3) addresses inside
    // the argument are only read by the kernel, and come from slices that outlive the call.
    let result = unsafe { ioctl(fd, UpdaterOf::<OPCODE, T>::new(argument)) };
    result.map_err(|errno| DeviceError::Ioctl {
        name,
        source: errno.into(),
    })
}

/// An ioctl argument with the opcode as `shared_region` numbers them.
struct UpdaterOf<'a, const OPCODE: u64, T>(&'a mut T);

impl<'a, const OPCODE: u64, T> UpdaterOf<'a, OPCODE, T> {
    fn new(argument: &'a mut T) -> Self {
        Self(argument)
    }
}

// SAFETY: (1) `opcode` and `as_ptr` describe the same structure, checked in `update`; (2) the structure is exclusively
// borrowed for the duration of the call.
unsafe impl<const OPCODE: u64, T> rustix::ioctl::Ioctl for UpdaterOf<'_, OPCODE, T> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        OPCODE as Opcode
    }

    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        core::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(
        _: rustix::ioctl::IoctlOutput,
        _: *mut core::ffi::c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(())
    }
}
