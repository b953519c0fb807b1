//! Unpacking the placed successor while nothing is wrong, a step between two looks of the watcher.
//!
//! The bzImage stays in its place beside it: it is what is booted as long as this is not done, or if it cannot be done.

use crate::heap::Loan;
use crate::stage::{Form, Placed};
use alloc::string::String;
use boot_plan::bzimage::BzImage;
use boot_plan::unpacked::payload::Payload;
use boot_plan::unpacked::place::{self, Place};
use boot_plan::unpacked::unpack::{scratch_needed, Unpacker};
use boot_plan::unpacked::vmlinux;
use boot_plan::unpacked::UnpackError;
use machine::random;

/// Unpacking under way.
pub struct Unpacking {
    // Before the loan: what it holds lies in lent memory.
    unpacker: Unpacker<'static>,
    _loan: Option<Loan>,
    memory: &'static mut [u8],
    place: Place,
    linked_at: u64,
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
        Ok(Self {
            unpacker: Unpacker::new(&payload).map_err(|error| alloc::format!("{error}"))?,
            _loan: loan,
            memory,
            place,
            linked_at: image.pref_address,
        })
    }

    /// A bounded piece of the work.
    pub fn step(mut self) -> Step {
        match self.unpacker.step(self.memory) {
            Ok(false) => Step::More(self),
            Ok(true) => match vmlinux::lay_out(self.memory, self.unpacker.size(), self.linked_at, self.place.shift) {
                Ok(laid) => {
                    let load = self.place.kernel.start;
                    Step::Done(Form::new(load + laid.entry, (load, laid.filled)))
                }
                Err(error) => Step::Failed(error),
            },
            Err(error) => Step::Failed(error),
        }
    }
}
