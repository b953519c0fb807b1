//! eventfd, epoll, timerfd and signalfd (`fs/eventfd.c`, `fs/eventpoll.c`, `fs/timerfd.c`, `fs/signalfd.c`).

use crate::addr::Kva;
use crate::context::Context;
use crate::files::Descriptor;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use crate::timers::{self, clocks};
use alloc::vec::Vec;
use hashbrown::HashSet;
use shared_region::context::{EpollWatch, OpenFileKind};
use shared_region::reasons;

/// More entries than `fs.epoll.max_user_watches` allows on large machines.
const MAX_WATCHES: u64 = 16 << 20;
/// `EFD_SEMAPHORE`.
const EFD_SEMAPHORE: u64 = 1;
/// `EP_PRIVATE_BITS`: EPOLLEXCLUSIVE, EPOLLWAKEUP, EPOLLONESHOT and EPOLLET, all that is left of an entry that fired once.
const EP_PRIVATE_BITS: u32 = 0xF000_0000;

crate::mirrors! {
    /// An eventfd.
    #[allow(missing_docs)]
    pub struct EventfdCtx = "eventfd_ctx" {
        count: Field,
        flags: Field,
    }

    /// An epoll set.
    #[allow(missing_docs)]
    pub struct Eventpoll = "eventpoll" {
        rbr: Field,
    }

    /// An entry of it.
    #[allow(missing_docs)]
    pub struct Epitem = "epitem" {
        rbn: Field,
        file: Field = "ffd.file",
        fd: Field = "ffd.fd",
        events: Field = "event.events",
        data: Field = "event.data",
    }

    /// A timerfd.
    #[allow(missing_docs)]
    pub struct TimerfdCtx = "timerfd_ctx" {
        tmr: Field = "t.tmr",
        alarm: Option<Field> = "t.alarm",
        tintv: Field,
        ticks: Field,
        clockid: Field,
        expired: Field,
        settime_flags: Field,
    }

    /// A signalfd.
    #[allow(missing_docs)]
    pub struct SignalfdCtx = "signalfd_ctx" {
        sigmask: Field,
    }
}

/// An eventfd.
///
/// # Errors
/// It cannot be read.
pub fn eventfd<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, data: Kva) -> Result<OpenFileKind> {
    let layout = &context.kernel.types.layouts.eventfd;
    let mem = &context.kernel.mem;
    Ok(OpenFileKind::EventFd {
        count: mem.uint(data, layout.count)?,
        semaphore: mem.uint(data, layout.flags)? & EFD_SEMAPHORE != 0,
    })
}

/// A signalfd. The kernel keeps the signals that are *not* taken.
///
/// # Errors
/// It cannot be read.
pub fn signalfd<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, data: Kva) -> Result<OpenFileKind> {
    let field = context.kernel.types.layouts.signalfd.sigmask;
    Ok(OpenFileKind::SignalFd {
        mask: !context.kernel.mem.u64(data.offset(u64::from(field.offset)))?,
    })
}

/// An epoll set. A watched file has to be open in the same table: a file that lives on elsewhere alone cannot be put
/// back into the set.
///
/// # Errors
/// It cannot be read, or watches a file that is not open any more.
pub fn epoll<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    table: &[Descriptor],
    data: Kva,
) -> Result<OpenFileKind> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.epitem;
    let mem = &context.kernel.mem;
    let root = data.offset(u64::from(layouts.eventpoll.rbr.offset));
    let open: HashSet<Kva> = table.iter().map(|descriptor| descriptor.file).collect();
    let mut watches = Vec::new();
    for item in context.kernel.rbtree(root, layout.rbn)?.bounded(MAX_WATCHES) {
        let item = item?;
        let file = mem.ptr(item, layout.file)?;
        let fd = mem.uint(item, layout.fd)? as u32;
        if !open.contains(&file) {
            return Err(Refusal::new(
                reasons::WATCHED_FILE,
                alloc::format!("descriptor {fd} of then"),
            ));
        }
        let events = mem.uint(item, layout.events)? as u32;
        watches.push(EpollWatch {
            fd,
            file: file.0,
            events,
            data: mem.u64(item.offset(u64::from(layout.data.offset)))?,
            fired: events & !EP_PRIVATE_BITS == 0,
        });
    }
    watches.sort_by_key(|watch| (watch.fd, watch.file));
    Ok(OpenFileKind::Epoll { watches })
}

/// A timerfd. The periods that passed since it fired count as ticks, as a `read` would count them.
///
/// # Errors
/// It cannot be read.
pub fn timerfd<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, data: Kva) -> Result<OpenFileKind> {
    let kernel = context.kernel;
    let layout = &kernel.types.layouts.timerfd;
    let mem = &kernel.mem;
    let clock = mem.int(data, layout.clockid)? as i32;
    let interval = mem.uint(data, layout.tintv)?;
    let mut ticks = mem.uint(data, layout.ticks)?;
    let value = match (clock, layout.alarm) {
        (clocks::REALTIME_ALARM | clocks::BOOTTIME_ALARM, Some(alarm)) => timers::alarm_remaining(
            kernel,
            data.offset(u64::from(alarm.offset)),
            interval,
            clock,
            &context.now,
        )?,
        _ => {
            let timer = data.offset(u64::from(layout.tmr.offset));
            if mem.uint(data, layout.expired)? != 0 && interval != 0 {
                let (base, expires, armed) = timers::hrtimer(kernel, timer)?;
                let passed = context.now.on(base).saturating_sub(expires).checked_div(interval);
                if !armed {
                    ticks = ticks.saturating_add(passed.unwrap_or(0));
                }
            }
            timers::remaining(kernel, timer, interval, &context.now)?
        }
    };
    Ok(OpenFileKind::TimerFd {
        clock,
        value,
        interval,
        ticks,
        settime_flags: mem.uint(data, layout.settime_flags)? as u32,
    })
}
