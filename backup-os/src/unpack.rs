//! Unpacking the placed successor while nothing is wrong, a step between two looks of the watcher.
//!
//! The bzImage stays in its place beside it: it is what is booted as long as this is not done, or if it cannot be done.

use crate::heap::Loan;
use crate::stage::{Form, Placed, Summing};
use alloc::boxed::Box;
use alloc::string::String;
use boot_plan::bzimage::BzImage;
use boot_plan::unpacked::payload::Payload;
use boot_plan::unpacked::place::{self, Place};
use boot_plan::unpacked::unpack::{scratch_needed, Unpacker};
use boot_plan::unpacked::vmlinux::LayingOut;
use boot_plan::unpacked::UnpackError;
use machine::random;

/// Unpacking under way.
pub struct Unpacking {
    work: Work,
    memory: &'static mut [u8],
    place: Place,
    linked_at: u64,
}

/// What is being done: each comes to an end in bounded steps.
enum Work {
    /// The loan comes last: what the unpacker holds lies in lent memory.
    Unpack(Unpacker<'static>, Option<Loan>),
    LayOut(Box<LayingOut>),
    /// The sum over the kernel, and its entry.
    Sum(Summing, u64),
}

/// What a step has come to.
pub enum Step {
    /// There is more to do.
    More(Unpacking),
    /// Done.
    Done(Form),
    /// It cannot be done.
    Failed(UnpackError),
}

impl Unpacking {
    /// Begins.
    ///
    /// # Errors
    /// Why the kernel is booted as it is, in words.
    ///
    /// # Safety
    /// `placed` is in the reserved nursery, and nobody uses its room until this is dropped.
    pub unsafe fn start(placed: &Placed) -> Result<Self, String> {
        let image = BzImage::parse(placed.kernel).map_err(|error| alloc::format!("{error}"))?;
        let payload = Payload::find(&image, placed.kernel).map_err(|error| alloc::format!("{error}"))?;
        let scratch = scratch_needed(&payload);
        let place = place::choose(placed.room, &image, scratch, placed.randomized, random::below)
            .ok_or("there is no room for it unpacked in the nursery")?;
        let loan = if scratch == 0 {
            None
        } else {
            // SAFETY: 1. part of the room: the caller's promise. 2. The unpacker is dropped before the loan.
            Some(unsafe { Loan::new(place.scratch.start, place.scratch.len()) }.ok_or("memory is lent already")?)
        };
        // SAFETY: part of the room, which nobody else uses: the caller's promise; apart from what was lent.
        let memory =
            unsafe { core::slice::from_raw_parts_mut(place.kernel.start as *mut u8, place.kernel.len() as usize) };
        let unpacker = Unpacker::new(&payload).map_err(|error| alloc::format!("{error}"))?;
        Ok(Self {
            work: Work::Unpack(unpacker, loan),
            memory,
            place,
            linked_at: image.pref_address,
        })
    }

    /// A bounded piece of the work.
    pub fn step(mut self) -> Step {
        match self.work_on() {
            Ok(None) => Step::More(self),
            Ok(Some(form)) => Step::Done(form),
            Err(error) => Step::Failed(error),
        }
    }

    fn work_on(&mut self) -> Result<Option<Form>, UnpackError> {
        let next = match &mut self.work {
            Work::Unpack(unpacker, _) => {
                if !unpacker.step(self.memory)? {
                    return Ok(None);
                }
                let (size, shift) = (unpacker.size(), self.place.shift);
                Work::LayOut(Box::new(LayingOut::new(self.memory, size, self.linked_at, shift)?))
            }
            Work::LayOut(laying) => {
                let Some(laid) = laying.step(self.memory)? else {
                    return Ok(None);
                };
                let load = self.place.kernel.start;
                Work::Sum(Summing::of((load, laid.filled)), load + laid.entry)
            }
            Work::Sum(sum, entry) => return Ok(sum.step().map(|digest| Form::new(*entry, sum.piece, digest))),
        };
        self.work = next;
        Ok(None)
    }
}
