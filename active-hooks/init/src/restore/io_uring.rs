//! Rings of io_uring.
//!
//! A ring is made with the flags and sizes of the old one. Its process knows where in its memory to look for what: that must be
//! the same in this kernel. What lay there is written into it, and the module sets what the kernel counts for itself.
//!
//! No kernel lets its caller choose where a ring is mapped (`io_uring_get_unmapped_area`), nor moves it there afterwards. So
//! everything else is taken for the moment: only one place is left.

use super::{
    batch::{Batch, Expect},
    cow,
    host::Host,
    memory::{self, USER_END},
    objects::Objects,
    world::{RingContent, Space},
    OrRefuse, Refusal, Restored,
};
use crate::restore::high;
use rustix::{
    fs::{fcntl_getfl, fcntl_setfl, OFlags},
    mm::{mmap, munmap, MapFlags, ProtFlags},
};
use shared_region::{
    context::{Backing, IoUring, Mapping, REQUESTS_OFFSET, RING_OFFSET},
    PAGE_SIZE,
};
use std::{
    ffi::c_void,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// IORING_REGISTER_EVENTFD and IORING_REGISTER_EVENTFD_ASYNC (include/uapi/linux/io_uring.h).
const REGISTER_EVENTFD: u32 = 4;
const REGISTER_EVENTFD_ASYNC: u32 = 7;

/// `struct io_uring_params`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    further: [u32; 7],
    /// Offsets, then one that is reserved.
    sq_off: [u32; 8],
    sq_address: u64,
    /// As `sq_off`.
    cq_off: [u32; 8],
    cq_address: u64,
}

const _: () = assert!(size_of::<Params>() == 120);

impl Params {
    /// As in [`IoUring::offsets`].
    fn offsets(&self) -> [u32; 14] {
        let mut offsets = [0; 14];
        offsets[..7].copy_from_slice(&self.sq_off[..7]);
        offsets[7..].copy_from_slice(&self.cq_off[..7]);
        offsets
    }
}

fn what() -> &'static str {
    "ring of io_uring"
}

/// Makes a ring; `flags` are those of its open file, `eventfd` is told of completions.
pub fn make(
    host: &dyn Host,
    content: &RingContent<'_>,
    flags: OFlags,
    eventfd: Option<BorrowedFd<'_>>,
) -> Restored<OwnedFd> {
    let ring = &content.record;
    let fd = setup(ring)?;
    let sizes = [
        (RING_OFFSET, ring.ring_bytes()),
        (REQUESTS_OFFSET, ring.request_bytes()),
    ];
    for (start, bytes) in sizes {
        let mut memory = Mapped::of(&fd, start, bytes)?;
        let end = start + memory.size as u64;
        for (offset, bytes) in content.bytes.iter().filter(|(at, _)| (start..end).contains(at)) {
            memory.write((offset - start) as usize, bytes)?;
        }
    }
    host.io_uring(fd.as_fd(), ring)?;
    if ring.eventfd != 0 {
        let eventfd = eventfd.ok_or_else(|| Refusal::new(what(), "its eventfd is missing"))?;
        tell(&fd, eventfd, ring.eventfd_async)?;
    }
    if flags.contains(OFlags::NONBLOCK) {
        let flags = fcntl_getfl(&fd).or_refuse(what)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK).or_refuse(what)?;
    }
    Ok(fd)
}

fn setup(ring: &IoUring) -> Restored<OwnedFd> {
    let mut params = Params {
        cq_entries: ring.cq_entries,
        flags: ring.flags,
        ..Params::default()
    };
    // SAFETY: the kernel reads and writes the live structure, which has its size (asserted above).
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, ring.sq_entries, ptr::from_mut(&mut params)) };
    if result < 0 {
        return Err(Refusal::new(what(), io::Error::last_os_error()));
    }
    // SAFETY: a descriptor that a call just returned belongs to the caller alone.
    let fd = unsafe { high::own(result as i32) };
    check(ring, &params)?;
    Ok(fd)
}

/// A process looks for everything in the ring's memory where its own kernel told it to.
fn check(ring: &IoUring, params: &Params) -> Restored<()> {
    if (params.sq_entries, params.cq_entries) != (ring.sq_entries, ring.cq_entries) {
        let (sq, cq) = (params.sq_entries, params.cq_entries);
        return Err(Refusal::new(
            what(),
            format!("this kernel gives it {sq} and {cq} places"),
        ));
    }
    if params.offsets() != ring.offsets {
        return Err(Refusal::new(
            what(),
            "this kernel lays out its memory in another way (Linux 6.6 has changed that)",
        ));
    }
    Ok(())
}

fn tell(fd: &OwnedFd, eventfd: BorrowedFd<'_>, of_workers_only: bool) -> Restored<()> {
    let number = eventfd.as_raw_fd();
    let operation = if of_workers_only {
        REGISTER_EVENTFD_ASYNC
    } else {
        REGISTER_EVENTFD
    };
    // SAFETY: the kernel reads one descriptor, a live int.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            fd.as_raw_fd(),
            operation,
            ptr::from_ref(&number),
            1,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(Refusal::new(
            "eventfd of a ring of io_uring",
            io::Error::last_os_error(),
        )),
    }
}

/// A part of a ring's memory, mapped for writing.
struct Mapped {
    address: *mut c_void,
    size: usize,
}

impl Mapped {
    fn of(fd: &OwnedFd, offset: u64, bytes: u64) -> Restored<Self> {
        let size = bytes.next_multiple_of(PAGE_SIZE) as usize;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a mapping at an address of the kernel's choice replaces nothing.
        let address = unsafe { mmap(ptr::null_mut(), size, protection, MapFlags::SHARED, fd, offset) };
        Ok(Self {
            address: address.or_refuse(what)?,
            size,
        })
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Restored<()> {
        if at.checked_add(bytes.len()).is_none_or(|end| end > self.size) {
            return Err(Refusal::new(what(), "more lay in its memory than there is"));
        }
        // SAFETY: (1) the target lies within the mapping, which is writable and lives as long as this value; (2) nobody refers to
        // it, and the kernel reads it in calls only, of which there are none yet.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.cast::<u8>().add(at), bytes.len()) };
        Ok(())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nobody refers to it.
        let _ = unsafe { munmap(self.address, self.size) };
    }
}

/// Whether a mapping is one of a ring.
pub fn is_ring(mapping: &Mapping) -> bool {
    mapping.backing == Backing::IoUring
}

/// The mappings of rings.
pub fn mappings<'s>(space: &'s Space<'_>) -> impl Iterator<Item = &'s Mapping> {
    space.mappings.iter().filter(|mapping| is_ring(mapping))
}

/// Maps rings where they were. Nothing is mapped yet but what lies in `taken`.
pub fn map(batch: &mut Batch<'_>, space: &Space<'_>, objects: &Objects, taken: &[(u64, u64)]) -> Restored<()> {
    let mut taken = taken.to_vec();
    for mapping in mappings(space) {
        let fd = objects
            .number(mapping.inode)
            .ok_or_else(|| Refusal::new(memory::name(mapping), "its descriptor is missing"))?;
        taken.push((mapping.start, mapping.end));
        let rest = cow::without((PAGE_SIZE, USER_END), &taken);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        for &(start, end) in &rest {
            let arguments = [
                start.into(),
                (end - start).into(),
                libc::PROT_NONE.into(),
                flags.into(),
                (-1).into(),
                0u64.into(),
            ];
            batch.expect(memory::name(mapping), libc::SYS_mmap, arguments, Expect::Value(start))?;
        }
        let arguments = [
            0u64.into(),
            (mapping.end - mapping.start).into(),
            mapping.prot.into(),
            libc::MAP_SHARED.into(),
            fd.into(),
            mapping.offset.into(),
        ];
        let there = Expect::Value(mapping.start);
        batch.expect(memory::name(mapping), libc::SYS_mmap, arguments, there)?;
        for &(start, end) in &rest {
            let arguments = [start.into(), (end - start).into()];
            batch.call(memory::name(mapping), libc::SYS_munmap, arguments)?;
        }
        memory::annotate(batch, mapping)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_of_another_layout_is_refused() {
        let ring = IoUring {
            sq_entries: 8,
            cq_entries: 16,
            offsets: [0, 4, 16, 24, 36, 32, 320, 8, 12, 20, 28, 44, 64, 40],
            ..IoUring::default()
        };
        let mut params = Params {
            sq_entries: 8,
            cq_entries: 16,
            sq_off: [0, 4, 16, 24, 36, 32, 320, 0],
            cq_off: [8, 12, 20, 28, 44, 64, 40, 0],
            ..Params::default()
        };
        assert!(check(&ring, &params).is_ok());
        // As Linux 6.1 does it.
        params.sq_off = [0, 64, 256, 264, 276, 272, 576, 0];
        assert!(check(&ring, &params).unwrap_err().why.contains("another way"));
        params.cq_entries = 32;
        assert!(check(&ring, &params).unwrap_err().why.contains("8 and 32 places"));
    }
}
