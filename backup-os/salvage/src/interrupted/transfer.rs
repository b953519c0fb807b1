//! `read`, `write` and their like: how many bytes have been moved.
//!
//! The kernel counts them in a `struct iov_iter` in the frame of `vfs_read`, `vfs_write` or one of their like, and the
//! object has taken or given them when the function that moves them says so. Where the thread was tells whether the two
//! agree.

use super::chain::{Chain, Link};
use super::socket_calls::Buffers;
use super::stack::{agreed, Words};
use super::{terminal_calls, Call, Decision};
use crate::addr::{Kva, Uva};
use crate::inodes;
use crate::memory::PhysMem;
use crate::pipes;
use crate::refusal::Result;
use crate::registers::Place;
use crate::user_memory;
use alloc::vec::Vec;

/// O_APPEND.
const O_APPEND: u64 = 0o2000;
/// `UIO_MAXIOV`.
const MAX_VECTOR: u64 = 1024;
/// Tables of functions of pipes and FIFOs.
const PIPES: [&str; 2] = ["pipefifo_fops", "pipeanon_fops"];
/// Of files that keep nothing of what was moved.
const STATELESS: [&str; 5] = ["null_fops", "zero_fops", "full_fops", "random_fops", "urandom_fops"];

/// Functions with the `struct iov_iter` of a call of their own, or within which the file's offset has not moved yet.
const OWNERS: [&str; 12] = [
    "vfs_read",
    "new_sync_read",
    "vfs_readv",
    "do_iter_read",
    "do_iter_readv_writev",
    "do_loop_readv_writev",
    "vfs_write",
    "new_sync_write",
    "vfs_writev",
    "do_iter_write",
    "vfs_iter_read",
    "vfs_iter_write",
];
/// Functions that move data through a pipe, holding its lock. The second of each from Linux 6.15 on.
const PIPE_READ: [&str; 2] = ["pipe_read", "anon_pipe_read"];
const PIPE_WRITE: [&str; 2] = ["pipe_write", "anon_pipe_write"];
/// Functions that copy between user memory and the pages of a pipe. What they have copied is counted at their end, and
/// before the pipe knows of it.
const COPY: [&str; 4] = [
    "copy_page_to_iter",
    "_copy_to_iter",
    "copy_page_from_iter",
    "_copy_from_iter",
];
/// The instructions of these that touch user memory lie in one of these functions (`arch/x86/lib/copy_user_64.S`).
pub(super) const USER_COPY: [&str; 8] = [
    "_copy_to_iter",
    "_copy_from_iter",
    "copyout",
    "copyin",
    "copy_user_enhanced_fast_string",
    "copy_user_generic_string",
    "copy_user_generic_unrolled",
    "rep_movs_alternative",
];
/// What checks a call before anything is moved.
const CHECKS: [&str; 2] = ["rw_verify_area", "security_file_permission"];
/// Waits for the lock of a pipe.
const LOCK: [&str; 3] = ["mutex_lock", "__mutex_lock", "__mutex_lock_slowpath"];
/// Gives it back: the result is known.
const UNLOCK: [&str; 2] = ["mutex_unlock", "__mutex_unlock_slowpath"];
/// What takes what a file has, on behalf of its function, and waits for it first.
const TAKES: [&str; 1] = ["signalfd_dequeue"];
/// Writes to a file page by page; its size grows with each.
const WRITE_PAGES: [&str; 1] = ["generic_perform_write"];
/// What follows a write when its lock is released and the offset has been moved.
const WRITE_SYNC: [&str; 2] = ["vfs_fsync_range", "generic_write_sync"];

impl<M: PhysMem + ?Sized> Call<'_, '_, '_, '_, M> {
    pub(super) fn transfer(&mut self, writes: bool, moves: bool, vector: bool) -> Result<Decision> {
        let Some(file) = self.descriptor(0) else {
            return self.restart();
        };
        let (operations, mode) = self.kind_of(file)?;
        if mode == inodes::S_IFREG {
            return self.regular(file, writes, moves, vector);
        }
        if mode == inodes::S_IFDIR || STATELESS.contains(&operations.as_str()) {
            return self.restart();
        }
        if self.is_socket(file)? {
            return match (writes, vector) {
                (false, false) => self.receive(None, Buffers::One),
                (false, true) => self.receive(None, Buffers::Vector),
                (true, false) => self.send(Buffers::One),
                (true, true) => self.send(Buffers::Vector),
            };
        }
        if PIPES.contains(&operations.as_str()) {
            return self.pipe(file, writes, vector);
        }
        if terminal_calls::is_terminal(&operations) {
            return self.terminal(file, writes, vector);
        }
        self.at_once(vector)
    }

    /// A regular file: the same bytes go to or come from the same place, until the offset moves at the end of the call.
    fn regular(&mut self, file: Kva, writes: bool, moves: bool, vector: bool) -> Result<Decision> {
        let layouts = &self.context.kernel.types.layouts;
        let flags = self.context.kernel.mem.uint(file, layouts.file.f_flags)?;
        if writes && flags & O_APPEND != 0 {
            return self.append(file, vector);
        }
        let before_the_end = match self.chain()? {
            Some(chain) => chain.has(&OWNERS),
            // It sleeps in text of which nothing is known: in its file system.
            None => self.thread.registers.place == Place::Off,
        };
        if !moves || before_the_end {
            return self.restart();
        }
        Err(self.refuse("at its very end or beginning"))
    }

    /// A pipe or FIFO.
    fn pipe(&mut self, file: Kva, writes: bool, vector: bool) -> Result<Decision> {
        let Some(chain) = self.chain()? else {
            // A reader asleep on an empty pipe has read nothing: with anything read it would not wait.
            if !writes && self.is_asleep()? {
                return self.restart();
            }
            return Err(self.refuse("whose frames cannot be found"));
        };
        let functions = if writes { PIPE_WRITE } else { PIPE_READ };
        let Some(at) = chain.find(&functions) else {
            if chain.has(&OWNERS) && chain.has(&CHECKS) {
                return self.restart();
            }
            return Err(self.refuse("at its very end or beginning"));
        };
        let done = self.progress(&chain, vector)?;
        let Some(done) = done else {
            return Err(self.refuse("whose progress cannot be found"));
        };
        let below = chain.called_by(at);
        let copies = below.is_some_and(|link| COPY.contains(&link.name.as_str()));
        // The lock is held from before the first byte moves until the result is known.
        let moving = pipes::is_locked_by(self.context, file, self.thread.task)?;
        if copies {
            // In a page fault of the copy nothing of it is counted, unless it goes on from page to page.
            let one_page = writes || pipes::next_is_in_one_page(self.context, file)?;
            if !chain.faults(at, &USER_COPY) || !one_page {
                return Err(self.refuse("while it moved data"));
            }
        } else if below.is_none() && moving {
            return Err(self.refuse("while it moved data"));
        }
        let calls = |names: &[&str]| below.is_some_and(|link| names.contains(&link.name.as_str()));
        let ends = !moving && !chain.waits(at) && !calls(&LOCK) || calls(&UNLOCK);
        if ends && !self.is_sound_end(done, writes, vector) {
            return Err(self.refuse("with a result of its own"));
        }
        // What was moved was taken out of or put into the pipe; the rest has not begun.
        if done == 0 {
            self.restart()
        } else {
            Ok(self.result(done))
        }
    }

    /// A call that is about to end otherwise than by having moved its bytes can have copied bytes that do not count
    /// (EFAULT), or have sent a signal (SIGPIPE).
    pub(super) fn is_sound_end(&self, done: u64, writes: bool, vector: bool) -> bool {
        if writes && done == 0 {
            return false;
        }
        if done == self.argument(2) && !vector {
            return true;
        }
        let next = Uva(self.argument(1)).offset(done);
        !vector && user_memory::word(self.context.kernel.phys(), &self.thread.tables, next).is_some()
    }

    /// Other files, such as an eventfd: they wait first, and take or give what there is in one piece.
    fn at_once(&mut self, vector: bool) -> Result<Decision> {
        // What a module does before it waits is not known, but that it waits.
        let Some(chain) = self.chain()?.filter(|chain| !chain.passes_a_module()) else {
            if self.is_asleep()? {
                return self.restart();
            }
            return Err(self.refuse("whose frames cannot be found"));
        };
        let owner = chain.find(&OWNERS);
        if owner.is_some() && chain.has(&CHECKS) {
            return self.restart();
        }
        let waits = owner.is_some_and(|owner| match chain.find(&TAKES) {
            Some(at) => chain.waits(at),
            None => owner.checked_sub(1).is_some_and(|at| chain.waits(at)),
        });
        let moved = self.progress(&chain, vector)?.unwrap_or(0);
        if waits && moved == 0 {
            return self.restart();
        }
        Err(self.refuse("which may have had its effect"))
    }

    /// Whether the thread waits in a way that a signal would end (`TASK_INTERRUPTIBLE`).
    pub(super) fn is_asleep(&self) -> Result<bool> {
        let state = self.context.kernel.types.layouts.task.state;
        let asleep = self.context.kernel.mem.uint(self.thread.task, state)? & 1 != 0;
        Ok(asleep && self.thread.registers.place == Place::Off)
    }

    /// A write at the end of a file. The size says how much of it is there.
    fn append(&mut self, file: Kva, vector: bool) -> Result<Decision> {
        let Some(chain) = self.chain()? else {
            return Err(self.refuse("whose frames cannot be found"));
        };
        if !chain.has(&OWNERS) {
            return Err(self.refuse("at its very end or beginning"));
        }
        let done = self.progress(&chain, vector)?;
        let done = match done {
            Some(done) if done != 0 => done,
            // Nothing was copied yet, so nothing was written.
            _ if chain.is_off() => return self.restart(),
            _ => return Err(self.refuse("at its very end or beginning")),
        };
        let context = self.context;
        let mut positions = Vec::new();
        for link in chain.all(&OWNERS) {
            positions.extend(self.words(link)?.position(context, file));
        }
        let Some(position) = agreed(&positions) else {
            return Err(self.refuse("whose place cannot be found"));
        };
        let kernel = context.kernel;
        let layouts = &kernel.types.layouts;
        let inode = kernel.mem.ptr(file, layouts.file.f_inode)?;
        let size = kernel.mem.uint(inode, layouts.inode.i_size)?;
        let owner = kernel.mem.uint(inode, layouts.inode.i_rwsem_owner)?;
        let in_pages = chain.find(&WRITE_PAGES).is_some_and(|at| chain.called_by(at).is_some());
        // Low bits of the owner are flags (`RWSEM_OWNER_FLAGS_MASK`).
        let (start, written) = if owner & !7 == self.thread.task.0 && in_pages {
            (position, size.saturating_sub(position).min(done))
        } else if owner & !7 != self.thread.task.0 && chain.has(&WRITE_SYNC) {
            (position.saturating_sub(done), done)
        } else {
            return Err(self.refuse("at its very end or beginning"));
        };
        if written == 0 {
            return self.restart();
        }
        let mut decision = self.result(written);
        decision.moved = Some((file, start.wrapping_add(written)));
        Ok(decision)
    }

    /// `sendfile`, `splice` and their like. Between regular files they can be made again. With a pipe at one end they
    /// wait before they have moved anything, and not after; while they move something they hold the lock of the pipe.
    pub(super) fn move_data(&mut self, from: usize, to: usize) -> Result<Decision> {
        let (Some(from), Some(to)) = (self.descriptor(from), self.descriptor(to)) else {
            return self.restart();
        };
        let ((from_operations, source), (to_operations, target)) = (self.kind_of(from)?, self.kind_of(to)?);
        let mut pipes = 0u32;
        for (file, operations) in [(from, from_operations), (to, to_operations)] {
            if PIPES.contains(&operations.as_str()) {
                pipes = pipes.saturating_add(1);
                if pipes::is_locked_by(self.context, file, self.thread.task)? {
                    return Err(self.refuse("while it moved data"));
                }
            }
        }
        if pipes != 0 {
            return self.restart_if_off();
        }
        let flags = self
            .context
            .kernel
            .mem
            .uint(to, self.context.kernel.types.layouts.file.f_flags)?;
        if source == inodes::S_IFREG && target == inodes::S_IFREG && flags & O_APPEND == 0 {
            return self.restart_if_off();
        }
        Err(self.refuse("to or from something else than a regular file or a pipe"))
    }

    /// Bytes moved through the buffers of the call. `None` if nothing in the frames of the call tells, or more than one
    /// thing.
    pub(super) fn progress(&mut self, chain: &Chain, vector: bool) -> Result<Option<u64>> {
        let (context, buffer, length) = (self.context, self.argument(1), self.argument(2));
        let layout = &context.kernel.types.layouts.iov_iter;
        let buffers = if vector { self.buffers() } else { None };
        let mut found = Vec::new();
        let search = |words: &Words| match (&buffers, vector) {
            (Some(buffers), true) => words.vector_progress(context, buffers),
            (None, true) => Vec::new(),
            _ => words.progress(layout, buffer, length),
        };
        for link in chain.all(&OWNERS) {
            found.extend(search(&self.words(link)?));
        }
        Ok(agreed(&found))
    }

    /// What is in a function's frame.
    pub(super) fn words(&self, link: &Link) -> Result<Words> {
        Words::read(self.context, link.frame.clone())
    }

    /// The buffers of a vector, as the process has them.
    fn buffers(&self) -> Option<Vec<(u64, u64)>> {
        let (vector, count) = (Uva(self.argument(1)), self.argument(2));
        let phys = self.context.kernel.phys();
        (0..count.min(MAX_VECTOR))
            .map(|i| {
                let at = vector.offset(i.wrapping_mul(16));
                let word = |at| user_memory::word(phys, &self.thread.tables, at);
                Some((word(at)?, word(at.offset(8))?))
            })
            .collect()
    }
}
