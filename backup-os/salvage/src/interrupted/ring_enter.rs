//! `io_uring_enter`: takes requests, then waits for completions. Whether any request is under way is asked of the ring, not here.

use super::{Call, Decision, EINTR};
use crate::addr::Uva;
use crate::io_uring;
use crate::memory::PhysMem;
use crate::refusal::Result;
use crate::registers::UserRegs;
use crate::user_memory;

/// `IORING_ENTER_EXT_ARG` and `_REGISTERED_RING` (`include/uapi/linux/io_uring.h`).
const EXT_ARG: u64 = 1 << 3;
const REGISTERED_RING: u64 = 1 << 4;
/// Where times stand in `struct io_uring_getevents_arg`, which the fifth argument points to with `IORING_ENTER_EXT_ARG`: that
/// after which one event is enough, in the upper half of a word (in Linux 6.12), and the address of the time-out.
const MIN_WAIT: u64 = 8;
const TIMEOUT: u64 = 16;

/// Whether it only waits, without a time-out.
pub(super) fn waits_for_ever(regs: &UserRegs) -> bool {
    regs.si as u32 == 0 && regs.r10 & EXT_ARG == 0
}

impl<M: PhysMem + ?Sized> Call<'_, '_, '_, '_, M> {
    /// Without requests to take it does nothing but wait, and is made again. With some it has taken all of them once it waits, and
    /// says so, as after a signal.
    pub(super) fn ring_enter(&mut self) -> Result<Decision> {
        let requests = self.argument(1) as u32;
        if self.argument(3) & REGISTERED_RING != 0 {
            return Err(self.refuse("of a registered ring"));
        }
        if requests == 0 {
            return match self.has_timeout() {
                false => self.restart(),
                true if self.is_off()? => Ok(self.result(EINTR as u64)),
                true => Err(self.refuse("with a time-out")),
            };
        }
        let file = self.descriptor(0);
        let ring = file.filter(|&file| {
            self.kind_of(file)
                .is_ok_and(|(operations, _)| operations == io_uring::RING)
        });
        let waits = match ring {
            Some(file) => io_uring::is_waited_for(self.context, file, self.thread.task)?,
            None => false,
        };
        match waits && self.is_off()? {
            true => Ok(self.result(u64::from(requests))),
            false => Err(self.refuse("may have taken requests")),
        }
    }

    /// Whether it may come back without an event. What cannot be read counts as one.
    fn has_timeout(&self) -> bool {
        if self.argument(3) & EXT_ARG == 0 {
            return false;
        }
        let word = |at: u64| {
            let at = Uva(self.argument(4).wrapping_add(at));
            user_memory::word(self.context.kernel.phys(), &self.thread.tables, at).unwrap_or(u64::MAX)
        };
        word(MIN_WAIT) >> 32 != 0 || word(TIMEOUT) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_takes_requests_or_may_have_a_time_out_does_not_only_wait() {
        let call = |si, r10| UserRegs {
            si,
            r10,
            ..UserRegs::default()
        };
        assert!(waits_for_ever(&call(0, 1)));
        // The upper half of a register is not part of an int.
        assert!(waits_for_ever(&call(1 << 32, 1)));
        assert!(!waits_for_ever(&call(3, 1)));
        assert!(!waits_for_ever(&call(0, 1 | EXT_ARG)));
    }
}
