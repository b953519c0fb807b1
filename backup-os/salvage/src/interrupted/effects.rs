//! Calls that make, take or change something once: whether that has happened yet.

use super::{exec, vfork, Call, Decision};
use crate::addr::Uva;
use crate::memory::PhysMem;
use crate::mqueue;
use crate::refusal::{Refusal, Result};
use crate::sysv_ipc;
use crate::user_memory;
use shared_region::context::Resume;
use shared_region::reasons;

/// SIG_BLOCK and SIG_UNBLOCK.
const SIG_BLOCK: u64 = 0;
const SIG_UNBLOCK: u64 = 1;
/// SEEK_CUR.
const SEEK_CUR: u64 = 1;
/// O_CREAT | O_EXCL.
const O_CREAT_EXCL: u64 = 0o300;
/// Opens a file: everything that it calls before the descriptor stands (`fs/open.c`).
const OPENS: [&str; 1] = ["do_sys_openat2"];
const BEFORE_DESCRIPTOR: [&str; 5] = [
    "getname",
    "getname_flags",
    "get_unused_fd_flags",
    "alloc_fd",
    "do_filp_open",
];
/// F_DUPFD and F_DUPFD_CLOEXEC.
const F_DUPFD: [u64; 2] = [0, 1030];
/// Where `wait4` waits, and where it takes a child away.
const REAPER: [&str; 2] = ["do_wait", "__do_wait"];
const REAPS: [&str; 3] = ["wait_task_zombie", "wait_consider_task", "release_task"];
/// Where `vfork` waits for a child that runs.
const VFORK: [&str; 1] = ["wait_for_vfork_done"];

impl<M: PhysMem + ?Sized> Call<'_, '_, '_, '_, M> {
    /// From the start, as long as the thread sleeps: the effect comes after everything that sleeps.
    pub(super) fn restart_if_off(&mut self) -> Result<Decision> {
        if self.is_off()? {
            self.restart()
        } else {
            Err(self.refuse("may have had its effect"))
        }
    }

    pub(super) fn close(&self) -> Result<Decision> {
        // The descriptor is gone before anything can fail.
        match self.descriptor(0) {
            Some(_) => self.restart(),
            None => Ok(self.result(0)),
        }
    }

    /// `fork` and its kin: from the start as long as the thread sleeps and there is no child yet. A parent that waits for a child
    /// in its memory, or is about to, does not any more: the child gets memory of its own.
    pub(super) fn fork(&mut self) -> Result<Decision> {
        let waiting = self.chain()?.filter(|chain| chain.has(&VFORK));
        let frames = waiting.as_ref().and_then(|chain| chain.frames());
        match vfork::child(self.context, self.thread.task, frames)? {
            Some(child) => Ok(self.result(child)),
            None if waiting.is_some() => Err(Refusal::new(reasons::VFORK, "")),
            None => self.restart_if_off(),
        }
    }

    /// `execve` and `execveat`: from the start while the old program is there, from the first instruction once the new one is;
    /// in between, from the start in memory of its own.
    pub(super) fn exec(&mut self) -> Result<Decision> {
        let chain = self.chain()?;
        let (task, user) = (self.thread.task, &self.thread.registers.user);
        match exec::progress(self.context, task, user, chain.as_deref())? {
            exec::Progress::Before => self.restart(),
            exec::Progress::After => Ok(self.result(0)),
            exec::Progress::Within => {
                let launch = exec::within(self.context, task, chain.as_deref())?;
                Ok(self.decision(launch.registers(user), Resume::Registers))
            }
        }
    }

    pub(super) fn seek(&mut self) -> Result<Decision> {
        if self.argument(2) == SEEK_CUR && self.argument(1) != 0 {
            return Err(self.refuse(""));
        }
        self.restart()
    }

    pub(super) fn open(&mut self, flags: usize) -> Result<Decision> {
        if self.argument(flags) & O_CREAT_EXCL == O_CREAT_EXCL {
            return Err(self.refuse("O_EXCL"));
        }
        // A number that was taken has no file behind it yet: it is free again.
        if self
            .chain()?
            .is_some_and(|chain| chain.calls(&OPENS, &BEFORE_DESCRIPTOR))
        {
            return self.restart();
        }
        self.restart_if_off()
    }

    pub(super) fn fcntl(&mut self) -> Result<Decision> {
        if F_DUPFD.contains(&self.argument(1)) {
            return self.restart_if_off();
        }
        self.restart()
    }

    /// `semop` and its kin: whoever lets a waiter go on has done what it asked for, and taken it off its list.
    pub(super) fn sysv_ipc(&mut self, timeout: Option<usize>) -> Result<Decision> {
        if !self.is_off()? || !sysv_ipc::is_waiting(self.context, self.thread.task)? {
            return Err(self.refuse("may have had its effect"));
        }
        match timeout {
            Some(argument) if self.argument(argument) != 0 => Ok(self.result(super::EINTR as u64)),
            _ => self.restart(),
        }
    }

    /// `mq_timedsend` and `mq_timedreceive`: whoever lets a waiter go on has given it its message, or taken it.
    pub(super) fn posix_queue(&mut self) -> Result<Decision> {
        let Some(file) = self.descriptor(0) else {
            return self.restart();
        };
        let field = self.context.kernel.types.layouts.file.f_inode;
        let inode = self.context.kernel.mem.ptr(file, field)?;
        if !self.is_off()? || !mqueue::is_waiting(self.context, inode, self.thread.task)? {
            return Err(self.refuse("may have had its effect"));
        }
        self.restart()
    }

    /// `wait4` and `waitid`: a child is taken away once.
    pub(super) fn reap(&mut self) -> Result<Decision> {
        let waits = self
            .chain()?
            .is_some_and(|chain| chain.is_off() && chain.has(&REAPER) && !chain.has(&REAPS));
        if waits {
            self.restart()
        } else {
            Err(self.refuse("may have taken a child"))
        }
    }

    /// A change of the signal mask. Without the old mask being asked for it is the same the second time; with it, only
    /// as long as it has not been made.
    pub(super) fn signal_mask(&self) -> Result<Decision> {
        let (how, set, old) = (self.argument(0), self.argument(1), self.argument(2));
        if set == 0 || old == 0 {
            return self.restart();
        }
        let kernel = self.context.kernel;
        let field = kernel.types.layouts.task.blocked;
        let blocked = kernel.mem.u64(self.thread.task.offset(u64::from(field.offset)))?;
        let given = user_memory::word(kernel.phys(), &self.thread.tables, Uva(set));
        let after = given.map(|given| match how {
            SIG_BLOCK => blocked | given,
            SIG_UNBLOCK => blocked & !given,
            _ => given,
        });
        // SIGKILL (9) and SIGSTOP (19) are never blocked.
        if after.is_some_and(|after| after & !(1 << 8 | 1 << 18) != blocked) {
            return self.restart();
        }
        Err(self.refuse("the mask may have been changed already"))
    }
}
