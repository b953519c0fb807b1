//! Signal dispositions and pending signals (`include/linux/sched/signal.h`, `kernel/signal.c`).

use crate::addr::Kva;
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;
use alloc::vec::Vec;
use shared_region::context::{SigAction, SigInfo};

/// Signals of x86_64 (`_NSIG`).
pub const SIGNALS: usize = 64;
/// More signals than `RLIMIT_SIGPENDING` allows on the largest machines.
const MAX_QUEUED: u64 = 1 << 20;
/// `SI_TIMER` as it stands in `si_code`.
const SI_TIMER: i32 = -2;
/// Where `si_code` and the private word of a POSIX timer's signal stand in `siginfo_t` (x86_64 ABI).
const SI_CODE: usize = 8;
const SI_SYS_PRIVATE: usize = 32;

crate::mirrors! {
    /// Handlers, shared by threads and by processes that asked for it.
    #[allow(missing_docs)]
    pub struct Sighand = "sighand_struct" {
        action: Field,
    }

    /// One signal's disposition.
    #[allow(missing_docs)]
    pub struct KSigaction = "k_sigaction" {
        sa_handler: Field = "sa.sa_handler",
        sa_flags: Field = "sa.sa_flags",
        sa_restorer: Field = "sa.sa_restorer",
        sa_mask: Field = "sa.sa_mask",
    }

    /// Signals that wait.
    #[allow(missing_docs)]
    pub struct SigPending = "sigpending" {
        list: Field,
        signal: Field,
    }

    /// One signal that waits.
    #[allow(missing_docs)]
    pub struct SigQueue = "sigqueue" {
        list: Field,
        info: Field,
    }
}

/// Signals that wait: with what was sent along, oldest first, and those of which only the number is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// With `siginfo_t`.
    pub queued: Vec<SigInfo>,
    /// The others, bit 0 for signal 1.
    pub mask: u64,
}

/// The dispositions of all signals.
///
/// # Errors
/// They cannot be read.
pub fn actions<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, sighand: Kva) -> Result<Vec<SigAction>> {
    let types = &kernel.types.layouts;
    let layout = &types.k_sigaction;
    let mem = &kernel.mem;
    let first = sighand.offset(u64::from(types.sighand.action.offset));
    let mut actions = Vec::with_capacity(SIGNALS);
    for i in 0..SIGNALS as u64 {
        let at = first.offset(i.wrapping_mul(u64::from(layout.struct_size)));
        actions.push(SigAction {
            handler: mem.uint(at, layout.sa_handler)?,
            flags: mem.uint(at, layout.sa_flags)?,
            restorer: mem.uint(at, layout.sa_restorer)?,
            mask: mem.uint(at, layout.sa_mask)?,
        });
    }
    Ok(actions)
}

/// The signals of a `struct sigpending`.
///
/// # Errors
/// The queue is torn: a signal that was acknowledged to its sender cannot be left out.
pub fn pending<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, at: Kva) -> Result<Pending> {
    let types = &kernel.types.layouts;
    let mem = &kernel.mem;
    let mut mask = mem.u64(at.offset(u64::from(types.sig_pending.signal.offset)))?;
    let mut queued = Vec::new();
    let head = at.offset(u64::from(types.sig_pending.list.offset));
    for entry in kernel.list(head, types.sig_queue.list).bounded(MAX_QUEUED) {
        let entry = entry?;
        let size = types.sig_queue.info.size as usize;
        let mut info = mem.bytes(entry.offset(u64::from(types.sig_queue.info.offset)), size.min(128))?;
        let number = info.first().copied().unwrap_or(0);
        // SI_TIMER signals name the generation of their timer, which is the dead kernel's own affair.
        let code = info
            .get(SI_CODE..)
            .and_then(<[u8]>::first_chunk)
            .map(|&code| i32::from_le_bytes(code));
        if code == Some(SI_TIMER) {
            if let Some(private) = info.get_mut(SI_SYS_PRIVATE..).and_then(<[u8]>::first_chunk_mut::<4>) {
                *private = [0; 4];
            }
        }
        let end = info
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last.saturating_add(1));
        info.truncate(end);
        mask &= !bit(number);
        queued.push(SigInfo(info));
    }
    Ok(Pending { queued, mask })
}

/// The bit of a signal in a mask.
fn bit(number: u8) -> u64 {
    number
        .checked_sub(1)
        .filter(|&n| n < SIGNALS as u8)
        .map_or(0, |n| 1 << n)
}
