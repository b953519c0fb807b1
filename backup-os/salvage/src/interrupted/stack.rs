//! What an interrupted call has in a frame of its kernel stack: timers, waits, progress.
//!
//! Objects are recognised by what must be in them: the address of a function, of the task or of a file next to fields
//! with the values the call's arguments give them.

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;
use crate::timers;
use alloc::vec::Vec;
use core::ops::Range;

/// `MAX_RW_COUNT`: a call moves no more bytes.
pub const MAX_RW: u64 = 0x7FFF_F000;

crate::mirrors! {
    /// A wait on a futex.
    #[allow(missing_docs)]
    pub struct FutexQ = "futex_q" {
        task: Field,
        lock_ptr: Field,
        bitset: Field,
    }

    /// One input or output under way.
    #[allow(missing_docs)]
    pub struct Kiocb = "kiocb" {
        ki_filp: Field,
        ki_pos: Field,
        ki_complete: Field,
    }

    /// Progress through the buffers of a call.
    #[allow(missing_docs)]
    pub struct IovIter = "iov_iter" {
        iov_offset: Field,
        count: Field,
        ubuf: Field,
        // `__iov` from Linux 6.4 on (de4f5fed3f23).
        iov: Field = "__iov" | "iov",
        nr_segs: Field,
    }
}

/// Larger frames than the kernel's stack has room for.
const MAX_FRAME: u64 = 32 << 10;

/// A frame, as words.
pub struct Words {
    words: Vec<u64>,
}

/// A timer found on a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sleeper {
    /// The clock it runs on.
    pub clock: i32,
    /// When it expires on that clock, as it was asked for (without slack).
    pub expires: u64,
}

impl Words {
    /// Reads a frame.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, frame: Range<Kva>) -> Result<Self> {
        let size = frame.end.0.saturating_sub(frame.start.0).min(MAX_FRAME);
        let bytes = context.kernel.mem.bytes(frame.start, size as usize)?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(Self {
            words: words.iter().map(|&word| u64::from_le_bytes(word)).collect(),
        })
    }

    /// All of them, from the innermost frame outwards.
    pub fn all(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().copied()
    }

    /// Indices of words with a value, from the outermost frame inwards.
    fn find(&self, value: u64) -> impl Iterator<Item = usize> + '_ {
        self.words
            .iter()
            .enumerate()
            .rev()
            .filter(move |&(_, &word)| word == value)
            .map(|(i, _)| i)
    }

    /// The field of an object of which another field is the word at `index`.
    fn field(&self, index: usize, known: Field, wanted: Field) -> Option<u64> {
        let byte = (index as u64)
            .checked_mul(8)?
            .checked_sub(u64::from(known.offset))?
            .checked_add(u64::from(wanted.offset))?;
        let word = *self.words.get((byte >> 3) as usize)?;
        let shifted = word >> ((byte & 4) << 3);
        Some(if wanted.size == 4 { shifted & 0xFFFF_FFFF } else { word })
    }

    /// The timer the task sleeps on, or slept on until a moment ago (`struct hrtimer_sleeper`, whose task is then null).
    pub fn sleeper<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, task: Kva) -> Option<Sleeper> {
        let layouts = &context.kernel.types.layouts;
        let wakeup = context.kernel.prepared.globals.hrtimer_wakeup?;
        let within = |field: Field| Field {
            offset: field.offset.saturating_add(layouts.hrtimer_sleeper.timer.offset),
            ..field
        };
        let function = within(layouts.hrtimer.function);
        self.find(wakeup.0).find_map(|i| {
            let owner = self.field(i, function, layouts.hrtimer_sleeper.task)?;
            let base = self.field(i, function, within(layouts.hrtimer.base))?;
            if owner != task.0 && owner != 0 {
                return None;
            }
            let clock = context
                .kernel
                .mem
                .int(Kva(base), layouts.hrtimer_clock_base.clockid)
                .ok()? as i32;
            let known = [
                timers::clocks::REALTIME,
                timers::clocks::MONOTONIC,
                timers::clocks::BOOTTIME,
                timers::clocks::TAI,
            ];
            known.contains(&clock).then_some(())?;
            let expires = self.field(i, function, within(layouts.hrtimer.softexpires))?;
            Some(Sleeper { clock, expires })
        })
    }

    /// Whether the task's wait on a futex with these bits is over because it was woken (`futex_q.lock_ptr` is null).
    /// `None` if there is no such wait.
    pub fn futex_woken<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        task: Kva,
        bitset: u32,
    ) -> Option<bool> {
        let layout = &context.kernel.types.layouts.futex_q;
        self.find(task.0).find_map(|i| {
            let bits = self.field(i, layout.task, layout.bitset)?;
            let lock = self.field(i, layout.task, layout.lock_ptr)?;
            // A spinlock of the hash table lies in the direct map or vmalloc: a kernel address.
            let plausible = bits == u64::from(bitset) && (lock == 0 || lock >> 63 == 1);
            plausible.then_some(lock == 0)
        })
    }

    /// Bytes that were moved through a single buffer at `buffer` of `length` bytes, for everything that looks like it.
    pub fn progress(&self, layout: &IovIter, buffer: u64, length: u64) -> Vec<u64> {
        let length = length.min(MAX_RW);
        let found = self.find(buffer).filter_map(|i| {
            let done = self.field(i, layout.ubuf, layout.iov_offset)?;
            let left = self.field(i, layout.ubuf, layout.count)?;
            (done.checked_add(left) == Some(length) && length != 0).then_some(done)
        });
        found.collect()
    }

    /// Bytes that were moved through several buffers, given as (address, length), for everything that looks like it.
    pub fn vector_progress<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        buffers: &[(u64, u64)],
    ) -> Vec<u64> {
        let layout = &context.kernel.types.layouts.iov_iter;
        let mem = &context.kernel.mem;
        let total: u64 = buffers
            .iter()
            .fold(0u64, |sum, (_, length)| sum.saturating_add(*length))
            .min(MAX_RW);
        if let [(buffer, length)] = buffers {
            let found = self.progress(layout, *buffer, *length);
            if !found.is_empty() {
                return found;
            }
        }
        let mut found = Vec::new();
        // `nr_segs` says how many of the buffers are left; the iterator points at the copy of the first of them.
        for (skipped, &(buffer, length)) in buffers.iter().enumerate() {
            let left = buffers.len().saturating_sub(skipped) as u64;
            found.extend(self.find(left).filter_map(|i| {
                let iov = Kva(self.field(i, layout.nr_segs, layout.iov)?);
                let count = self.field(i, layout.nr_segs, layout.count)?;
                let same = mem.u64(iov).ok()? == buffer && mem.u64(iov.offset(8)).ok()? == length;
                (same && count <= total).then(|| total.saturating_sub(count))
            }));
        }
        found
    }

    /// The offset of an input or output under way on a file.
    pub fn position<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, file: Kva) -> Option<u64> {
        let layout = &context.kernel.types.layouts.kiocb;
        self.find(file.0).find_map(|i| {
            let complete = self.field(i, layout.ki_filp, layout.ki_complete)?;
            let position = self.field(i, layout.ki_filp, layout.ki_pos)?;
            (complete == 0 && position >> 63 == 0).then_some(position)
        })
    }
}

/// The one value that all agree on.
pub fn agreed(found: &[u64]) -> Option<u64> {
    let first = *found.first()?;
    found.iter().all(|&other| other == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn word(offset: u32) -> Field {
        Field::plain(offset, 8)
    }

    /// As in Linux 6.12.
    const ITER: IovIter = IovIter {
        struct_size: 40,
        iov_offset: word(8),
        count: word(24),
        ubuf: word(16),
        iov: word(16),
        nr_segs: word(32),
    };
    const BUFFER: u64 = 0x7FFF_1234_5000;

    /// An `iov_iter` of a buffer of 4096 bytes.
    fn iter(done: u64) -> [u64; 5] {
        [0x0100_0000, done, BUFFER, 4096 - done, 1]
    }

    fn stack(parts: &[&[u64]]) -> Words {
        Words { words: parts.concat() }
    }

    #[test]
    fn progress_is_what_the_frame_of_the_call_says() {
        let frame = stack(&[&[1, 2, 3], &iter(108), &[4, 5]]);
        assert_eq!(agreed(&frame.progress(&ITER, BUFFER, 4096)), Some(108));
        // Another buffer, another length: another call.
        assert_eq!(agreed(&frame.progress(&ITER, BUFFER + 8, 4096)), None);
        assert_eq!(agreed(&frame.progress(&ITER, BUFFER, 4000)), None);
    }

    #[test]
    fn what_an_earlier_call_left_is_seen_by_a_search_of_the_whole_stack_only() {
        let (stale, own) = (iter(108), iter(0));
        let whole = stack(&[&[7], &own, &[8, 9], &stale, &[1]]);
        assert_eq!(whole.progress(&ITER, BUFFER, 4096), [108, 0]);
        assert_eq!(agreed(&whole.progress(&ITER, BUFFER, 4096)), None);
        let frame = stack(&[&[7], &own, &[8, 9]]);
        assert_eq!(agreed(&frame.progress(&ITER, BUFFER, 4096)), Some(0));
    }

    #[test]
    fn an_object_that_ends_outside_the_frame_is_none() {
        let [a, b, c, ..] = iter(108);
        assert_eq!(stack(&[&[a, b, c]]).progress(&ITER, BUFFER, 4096), []);
    }
}
