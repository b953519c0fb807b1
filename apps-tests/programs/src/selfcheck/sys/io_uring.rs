//! Rings of io_uring.

use super::check;
use anyhow::{ensure, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::null;
use std::sync::atomic::{AtomicU32, Ordering};

/// `IORING_SETUP_*` (include/uapi/linux/io_uring.h).
pub const SETUP_SQPOLL: u32 = 1 << 1;
pub const SETUP_CQSIZE: u32 = 1 << 3;
pub const SETUP_SQE128: u32 = 1 << 10;
pub const SETUP_CQE32: u32 = 1 << 11;
/// `IORING_OP_*`.
pub const NOP: u8 = 0;
pub const POLL_ADD: u8 = 6;
pub const TIMEOUT: u8 = 11;
pub const READ: u8 = 22;
pub const WRITE: u8 = 23;
/// `IOSQE_IO_DRAIN` and `IOSQE_ASYNC`.
pub const DRAIN: u8 = 1 << 1;
pub const ASYNC: u8 = 1 << 4;
/// `IORING_OFF_SQES`.
const OFF_SQES: i64 = 0x1000_0000;
/// `IORING_ENTER_GETEVENTS`.
const GETEVENTS: u32 = 1;
/// `IORING_REGISTER_BUFFERS`, `_EVENTFD` and `_EVENTFD_ASYNC`.
const REGISTER_BUFFERS: u32 = 0;
const REGISTER_EVENTFD: u32 = 4;
const REGISTER_EVENTFD_ASYNC: u32 = 7;

/// `struct io_uring_params`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    further: [u32; 7],
    /// head tail ring_mask ring_entries flags dropped array.
    sq_off: [u32; 10],
    /// head tail ring_mask ring_entries overflow cqes flags.
    cq_off: [u32; 10],
}

/// A request (`struct io_uring_sqe`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Request {
    /// What to do.
    pub what: u8,
    /// `IOSQE_*`.
    pub flags: u8,
    priority: u16,
    /// Descriptor.
    pub fd: i32,
    /// Offset in the file, or completions to wait for.
    pub offset: u64,
    /// Address.
    pub address: u64,
    /// Bytes.
    pub bytes: u32,
    /// Flags of the operation.
    pub how: u32,
    /// Comes back with its completion.
    pub data: u64,
    rest: [u64; 3],
}

/// A completion: what the request was marked with, and the result.
pub type Completion = (u64, i32);

/// A mapping, which goes away with it.
#[derive(Debug)]
struct Mapped {
    at: *mut u8,
    bytes: usize,
}

impl Mapped {
    fn of(fd: &OwnedFd, bytes: usize, offset: i64) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let sharing = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a mapping at an address of the kernel's choice replaces nothing.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, sharing, fd.as_raw_fd(), offset) };
        check("mmap of a ring", at as i64)?;
        Ok(Self { at: at.cast(), bytes })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nobody refers to it any more.
        unsafe { libc::munmap(self.at.cast(), self.bytes) };
    }
}

/// A ring, mapped. Threads may share it.
#[derive(Debug)]
pub struct Ring {
    fd: OwnedFd,
    params: Params,
    ring: Mapped,
    requests: Mapped,
}

// SAFETY: the counts in the shared memory are read and written as atomics, and each place of the ring by the one thread that the
// cell lets have its side.
unsafe impl Sync for Ring {}
// SAFETY: the mappings belong to the process.
unsafe impl Send for Ring {}

/// Whether the kernel lets this process make one.
pub fn is_there() -> bool {
    Ring::new(1, 0, 0).is_ok()
}

impl Ring {
    /// One for so many requests, and completions if `completions` is not 0.
    pub fn new(requests: u32, completions: u32, flags: u32) -> Result<Self> {
        let mut params = Params {
            cq_entries: completions,
            flags: flags | if completions == 0 { 0 } else { SETUP_CQSIZE },
            ..Params::default()
        };
        // SAFETY: the kernel reads and writes the live structure, which has the size of its own.
        let fd = check("io_uring_setup", unsafe {
            libc::syscall(libc::SYS_io_uring_setup, requests, &raw mut params)
        })?;
        // SAFETY: the call has just returned this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let (sqe, cqe) = sizes(flags);
        let array = params.sq_off[6] as usize + params.sq_entries as usize * 4;
        let cqes = params.cq_off[5] as usize + params.cq_entries as usize * cqe;
        let ring = Mapped::of(&fd, array.max(cqes), 0)?;
        let requests = Mapped::of(&fd, params.sq_entries as usize * sqe, OFF_SQES)?;
        Ok(Self {
            params,
            ring,
            requests,
            fd,
        })
    }

    fn count(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: (1) the kernel told the offset of a 32-bit count in the mapping, which lives as long as this value; (2) it is aligned;
        // (3) the kernel and this program both access it as one word.
        unsafe { AtomicU32::from_ptr(self.ring.at.add(offset as usize).cast()) }
    }

    /// Requests that the kernel has dropped.
    pub fn dropped(&self) -> u32 {
        self.count(self.params.sq_off[5]).load(Ordering::Acquire)
    }

    /// Requests and completions since it was made.
    pub fn counts(&self) -> (u32, u32) {
        let count = |offset| self.count(offset).load(Ordering::Acquire);
        (count(self.params.sq_off[0]), count(self.params.cq_off[1]))
    }

    /// How many completions there are places for.
    pub fn completions_most(&self) -> u32 {
        self.params.cq_entries
    }

    /// The bytes of all requests, as they lie there.
    pub fn request_bytes(&self) -> Vec<u8> {
        let bytes = self.params.sq_entries as usize * sizes(self.params.flags).0;
        // SAFETY: the mapping has so many bytes, and nobody writes to it meanwhile.
        unsafe { std::slice::from_raw_parts(self.requests.at, bytes) }.to_vec()
    }

    /// Puts a request in, without telling the kernel; `place` is what is written into the list instead of its place.
    fn put_at(&self, request: Request, place: Option<u32>) {
        let (tail, mask) = (self.count(self.params.sq_off[1]), self.params.sq_entries - 1);
        let at = tail.load(Ordering::Relaxed);
        let slot = at & mask;
        let size = sizes(self.params.flags).0;
        // SAFETY: the slot lies in the mapping and is aligned for it; the kernel does not look at it before the tail says so.
        unsafe {
            self.requests
                .at
                .add(slot as usize * size)
                .cast::<Request>()
                .write(request);
        }
        self.count(self.params.sq_off[6] + slot * 4)
            .store(place.unwrap_or(slot), Ordering::Relaxed);
        tail.store(at.wrapping_add(1), Ordering::Release);
    }

    /// Puts a request in, without telling the kernel.
    pub fn put(&self, request: Request) {
        self.put_at(request, None);
    }

    /// As [`Self::put`], one that the kernel drops.
    pub fn put_wrong(&self) {
        self.put_at(Request::default(), Some(u32::MAX));
    }

    /// Lets the kernel take requests and waits for completions; how many were taken.
    pub fn enter(&self, requests: u32, completions: u32) -> Result<u32> {
        let flags = if completions == 0 { 0 } else { GETEVENTS };
        // SAFETY: the call takes numbers; there is no signal mask. What requests refer to outlives them, as their makers say.
        let taken = check("io_uring_enter", unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd.as_raw_fd(),
                requests,
                completions,
                flags,
                null::<libc::c_void>(),
                0usize,
            )
        })?;
        Ok(taken as u32)
    }

    /// Takes the next completion, if there is one.
    pub fn take(&self) -> Option<Completion> {
        let (head, mask) = (self.count(self.params.cq_off[0]), self.params.cq_entries - 1);
        let at = head.load(Ordering::Relaxed);
        if at == self.count(self.params.cq_off[1]).load(Ordering::Acquire) {
            return None;
        }
        let offset = self.params.cq_off[5] as usize + (at & mask) as usize * sizes(self.params.flags).1;
        // SAFETY: the kernel has put a completion (64 bits of data, 32 of a result) there, and does not write to it before the head
        // has moved.
        let found = unsafe {
            let at = self.ring.at.add(offset);
            (at.cast::<u64>().read(), at.add(8).cast::<i32>().read())
        };
        head.store(at.wrapping_add(1), Ordering::Release);
        Some(found)
    }

    /// Takes all completions that are there.
    pub fn take_all(&self) -> Vec<Completion> {
        std::iter::from_fn(|| self.take()).collect()
    }

    /// Hands requests over, waits for as many completions, and takes what is there.
    pub fn go(&self, requests: &[Request]) -> Result<Vec<Completion>> {
        requests.iter().for_each(|&request| self.put(request));
        let count = requests.len() as u32;
        let taken = self.enter(count, count)?;
        ensure!(taken == count, "{taken} of {count} requests were taken");
        Ok(self.take_all())
    }

    fn register(&self, what: u32, argument: *const libc::c_void) -> Result<()> {
        // SAFETY: the argument points to one live object of the kind that the operation takes.
        check("io_uring_register", unsafe {
            libc::syscall(libc::SYS_io_uring_register, self.fd.as_raw_fd(), what, argument, 1)
        })
        .map(drop)
    }

    /// Lets an eventfd be told of completions, or of those of workers only.
    pub fn tell(&self, eventfd: BorrowedFd<'_>, of_workers_only: bool) -> Result<()> {
        let number = eventfd.as_raw_fd();
        let what = if of_workers_only {
            REGISTER_EVENTFD_ASYNC
        } else {
            REGISTER_EVENTFD
        };
        self.register(what, (&raw const number).cast())
    }

    /// Registers memory, for the kernel to write to.
    pub fn register_buffer(&self, buffer: &'static mut [u8]) -> Result<()> {
        let list = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        self.register(REGISTER_BUFFERS, (&raw const list).cast())
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Bytes of a request and of a completion.
fn sizes(flags: u32) -> (usize, usize) {
    let doubled = |flag, size| if flags & flag != 0 { 2 * size } else { size };
    (doubled(SETUP_SQE128, 64), doubled(SETUP_CQE32, 16))
}

/// A request that does nothing.
pub fn nop(data: u64, flags: u8) -> Request {
    Request {
        what: NOP,
        flags,
        data,
        ..Request::default()
    }
}

/// A write to a file.
pub fn write(file: &impl AsFd, data: u64, bytes: &'static [u8], offset: u64) -> Request {
    Request {
        what: WRITE,
        fd: file.as_fd().as_raw_fd(),
        address: bytes.as_ptr() as u64,
        bytes: bytes.len() as u32,
        offset,
        data,
        ..Request::default()
    }
}

/// A read from a file. The buffer must live until it has completed.
pub fn read(file: &impl AsFd, data: u64, buffer: &mut [u8], offset: u64) -> Request {
    Request {
        what: READ,
        fd: file.as_fd().as_raw_fd(),
        address: buffer.as_mut_ptr() as u64,
        bytes: buffer.len() as u32,
        offset,
        data,
        ..Request::default()
    }
}

/// A wait until so many requests have completed, or a day has passed.
pub fn timeout(data: u64, completions: u64) -> Request {
    static DAY: [i64; 2] = [86_400, 0];
    Request {
        what: TIMEOUT,
        address: DAY.as_ptr() as u64,
        bytes: 1,
        offset: completions,
        data,
        ..Request::default()
    }
}

/// A wait for a descriptor to become readable.
pub fn poll(file: &impl AsFd, data: u64) -> Request {
    Request {
        what: POLL_ADD,
        fd: file.as_fd().as_raw_fd(),
        how: libc::POLLIN as u32,
        data,
        ..Request::default()
    }
}
