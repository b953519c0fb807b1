//! Pipes and FIFOs with the data that nobody has read yet.

use super::{high::High, world::PipeContent, OrRefuse, Refusal, Restored};
use rustix::{
    fs::{fcntl_setfl, open, Mode, OFlags},
    pipe::{fcntl_setpipe_size, pipe_with, PipeFlags},
};
use std::{
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

/// Status flags that an open pipe can carry.
const STATUS: OFlags = OFlags::NONBLOCK.union(OFlags::DIRECT).union(OFlags::APPEND);

/// A pipe that the agent holds open at both ends until every end of it has been opened as it was.
#[derive(Debug)]
pub struct HeldPipe {
    read: Option<OwnedFd>,
    write: Option<OwnedFd>,
    any: High,
}

impl HeldPipe {
    /// Makes a pipe, or opens a FIFO, and puts the unread data in.
    pub fn make(content: &PipeContent<'_>, base: u32) -> Restored<Self> {
        let record = &content.record;
        let named = !record.path.is_empty();
        let (read, write, any) = if named {
            let name = || String::from_utf8_lossy(&record.path).into_owned();
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = open(OsStr::from_bytes(&record.path), flags, Mode::empty()).or_refuse(name)?;
            (None, None, High::raise(fd, base)?)
        } else {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).or_refuse(|| "pipe")?;
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let any = reopen(&read, flags)?;
            (Some(read), Some(write), High::raise(any, base)?)
        };
        let pipe = Self { read, write, any };
        if record.capacity != 0 {
            fcntl_setpipe_size(&pipe.any, record.capacity as usize).or_refuse(|| "capacity of a pipe")?;
        }
        pipe.fill(content)?;
        Ok(pipe)
    }

    fn fill(&self, content: &PipeContent<'_>) -> Restored<()> {
        let data = content.data.concat();
        if content.record.packets.is_empty() {
            return self.put(&data);
        }
        fcntl_setfl(&self.any, OFlags::NONBLOCK | OFlags::DIRECT).or_refuse(|| "pipe")?;
        let mut rest = data.as_slice();
        for &length in &content.record.packets {
            let (packet, tail) = rest
                .split_at_checked(length as usize)
                .ok_or_else(|| Refusal::new("pipe", "its packets are longer than its data"))?;
            self.put(packet)?;
            rest = tail;
        }
        Ok(())
    }

    fn put(&self, mut data: &[u8]) -> Restored<()> {
        while !data.is_empty() {
            let written = rustix::io::write(&self.any, data).or_refuse(|| "unread data of a pipe")?;
            data = &data[written..];
        }
        Ok(())
    }

    /// An end of the pipe, with O_* access and status `flags`.
    pub fn end(&mut self, flags: u32) -> Restored<OwnedFd> {
        let wanted = OFlags::from_bits_retain(flags);
        let access = wanted & OFlags::RWMODE;
        let made = match access {
            OFlags::RDONLY => self.read.take(),
            OFlags::WRONLY => self.write.take(),
            _ => None,
        };
        let fd = match made {
            Some(fd) => fd,
            None => reopen(&self.any, access | OFlags::NONBLOCK | OFlags::CLOEXEC)?,
        };
        fcntl_setfl(&fd, wanted & STATUS).or_refuse(|| "flags of a pipe")?;
        Ok(fd)
    }
}

fn reopen(fd: &impl std::os::fd::AsFd, flags: OFlags) -> Restored<OwnedFd> {
    open(crate::sys::magic_path(fd), flags, Mode::empty()).or_refuse(|| "pipe")
}
