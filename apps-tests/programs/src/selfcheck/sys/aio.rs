//! Asynchronous input and output.

use super::check;
use anyhow::Result;
use std::os::fd::{AsFd, AsRawFd};

/// `IOCB_CMD_PREAD` and `IOCB_CMD_PWRITE` (include/uapi/linux/aio_abi.h).
const READ: u16 = 0;
const WRITE: u16 = 1;

/// An event: what was asked with, and the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// What the request was marked with.
    pub data: u64,
    /// Address of the request.
    pub request: u64,
    /// The result.
    pub result: i64,
    second: i64,
}

/// A request (`struct iocb`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    what: u16,
    priority: i16,
    descriptor: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    told: u32,
}

/// A context. It ends with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aio(u64);

impl Aio {
    /// One for so many requests.
    pub fn new(requests: u32) -> Result<Self> {
        let mut context = 0u64;
        // SAFETY: the kernel writes the name of the context to the live variable.
        check("io_setup", unsafe {
            libc::syscall(libc::SYS_io_setup, requests, &raw mut context)
        })?;
        Ok(Self(context))
    }

    fn submit(self, request: Request) -> Result<()> {
        let mut request = request;
        let list = [&raw mut request];
        // SAFETY: (1) the list and the request are live for the call, which copies both; (2) the buffer is the caller's and
        // outlives the request, which is over when the call returns: files are read and written at once.
        check("io_submit", unsafe {
            libc::syscall(libc::SYS_io_submit, self.0, 1, list.as_ptr())
        })
        .map(drop)
    }

    /// Reads nothing.
    pub fn read_nothing(self, file: &impl AsFd, data: u64) -> Result<()> {
        self.submit(Request {
            data,
            what: READ,
            descriptor: file.as_fd().as_raw_fd() as u32,
            ..Request::default()
        })
    }

    /// Writes to a file, through its cache.
    pub fn write(self, file: &impl AsFd, data: u64, bytes: &'static [u8], offset: i64) -> Result<()> {
        self.submit(Request {
            data,
            what: WRITE,
            descriptor: file.as_fd().as_raw_fd() as u32,
            buffer: bytes.as_ptr() as u64,
            bytes: bytes.len() as u64,
            offset,
            ..Request::default()
        })
    }

    /// The next events, at least so many, at most as many as there is room for.
    pub fn events(self, least: i64, most: usize) -> Result<Vec<Event>> {
        let mut events = vec![Event::default(); most];
        // SAFETY: the kernel writes as many events as it is told there is room for; there is no time-out.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.0,
                least,
                most as i64,
                events.as_mut_ptr(),
                std::ptr::null::<libc::timespec>(),
            )
        };
        events.truncate(check("io_getevents", result)? as usize);
        Ok(events)
    }

    /// Ends it.
    pub fn destroy(self) -> Result<()> {
        // SAFETY: takes the name of the context.
        check("io_destroy", unsafe { libc::syscall(libc::SYS_io_destroy, self.0) }).map(drop)
    }
}
