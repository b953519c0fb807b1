//! io_uring.

use super::Id;
use serde::{Deserialize, Serialize};

/// A ring of io_uring with nothing under way ([`crate::record::Kind::IoUring`]). What lies in its memory follows as
/// [`crate::record::Kind::IoUringBytes`]. Counts go from 2³² − 1 to 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoUring {
    /// IORING_SETUP_*.
    pub flags: u32,
    /// Places for requests.
    pub sq_entries: u32,
    /// Places for completions.
    pub cq_entries: u32,
    /// Where in the ring's memory its process looks for what: the offsets of `struct io_sqring_offsets` (head, tail, ring_mask,
    /// ring_entries, flags, dropped, array), then those of `struct io_cqring_offsets` (head, tail, ring_mask, ring_entries,
    /// overflow, cqes, flags; include/uapi/linux/io_uring.h).
    pub offsets: [u32; 14],
    /// Requests that the kernel has taken.
    pub taken: u32,
    /// Completions that it has put in.
    pub completed: u32,
    /// Of those, how many more there are than requests that have ended: a signed number.
    pub extra: u32,
    /// Of those, the ones of time-outs.
    pub timeouts: u32,
    /// The count of the others up to which time-outs have been looked at.
    pub timeouts_flushed: u32,
    /// Whether a request was taken that completes in silence, so that none can wait for all before it (IOSQE_IO_DRAIN).
    pub drain_disabled: bool,
    /// Open-file id of the eventfd that is told of completions, 0 if there is none.
    pub eventfd: Id,
    /// Whether it is told of those only that a worker makes (IORING_REGISTER_EVENTFD_ASYNC).
    pub eventfd_async: bool,
}

/// Offset of completions and of the list of requests, for `mmap` (`IORING_OFF_SQ_RING`, include/uapi/linux/io_uring.h).
pub const RING_OFFSET: u64 = 0;
/// Another of the same (`IORING_OFF_CQ_RING`).
pub const COMPLETIONS_OFFSET: u64 = 0x800_0000;
/// Offset of the requests, for `mmap` (`IORING_OFF_SQES`).
pub const REQUESTS_OFFSET: u64 = 0x1000_0000;

/// IORING_SETUP_SQE128.
const SQE128: u32 = 1 << 10;
/// IORING_SETUP_CQE32.
const CQE32: u32 = 1 << 11;
/// IORING_SETUP_NO_SQARRAY.
const NO_SQARRAY: u32 = 1 << 16;
/// In [`IoUring::offsets`], the list of requests and the completions.
const ARRAY: usize = 6;
const CQES: usize = 12;

impl IoUring {
    /// Bytes in use from [`RING_OFFSET`] on.
    pub fn ring_bytes(&self) -> u64 {
        let cqe = if self.flags & CQE32 != 0 { 32 } else { 16 };
        let cqes = u64::from(self.offsets[CQES]) + u64::from(self.cq_entries) * cqe;
        match self.flags & NO_SQARRAY {
            0 => cqes.max(u64::from(self.offsets[ARRAY]) + u64::from(self.sq_entries) * 4),
            _ => cqes,
        }
    }

    /// Bytes in use from [`REQUESTS_OFFSET`] on.
    pub fn request_bytes(&self) -> u64 {
        let sqe = if self.flags & SQE128 != 0 { 128 } else { 64 };
        u64::from(self.sq_entries) * sqe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_kernel() {
        // 8 and 16 entries, as Linux 6.12 tells.
        let mut ring = IoUring {
            sq_entries: 8,
            cq_entries: 16,
            offsets: [0, 4, 16, 24, 36, 32, 320, 8, 12, 20, 28, 44, 64, 40],
            ..IoUring::default()
        };
        assert_eq!((ring.ring_bytes(), ring.request_bytes()), (352, 512));
        ring.flags = SQE128 | CQE32;
        ring.offsets[ARRAY] = 576;
        assert_eq!((ring.ring_bytes(), ring.request_bytes()), (608, 1024));
        ring.flags |= NO_SQARRAY;
        ring.offsets[ARRAY] = 0;
        assert_eq!(ring.ring_bytes(), 576);
    }
}
