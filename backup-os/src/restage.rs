//! A kernel that the running one has staged: checked, put in its place and unpacked ahead of time.
//!
//! Between two looks of the watcher, without disarming: what lies in the nursery is replaced by what was checked before, or
//! stays.

use crate::attempt;
use crate::stage::{self, Placed};
use crate::unpack::Unpacking;
use crate::watch::Backup;
use core::fmt::Display;
use core::mem::{offset_of, size_of};
use core::sync::atomic::Ordering;
use failover::life::{Input, Start};
use shared_region::stage::{StageState, StageTable, StagedKernel, WHY_SIZE};

impl Backup {
    /// Looks whether a kernel was staged, and deals with it.
    pub fn serve_stage(&mut self) {
        let words = self.region.stage_words();
        let request = words.request.load(Ordering::Acquire);
        if request == words.answered.load(Ordering::Relaxed) || !self.may_place() {
            return;
        }
        self.note_stage(StageState::Checking);
        let slot = attempt::slots(self.region).current;
        log::info!("stage: a kernel was staged in slot {slot}");
        self.forget_other_kernel();
        self.leave_other_images();
        if self.next_start() == Start::Standby || self.standby_comes_back() {
            // The very kernel that sleeps, or of which there is an image, was staged once more.
            match stage::check(self.region) {
                Ok(()) => {
                    self.put_standby_back();
                    self.note_stage(StageState::Ready);
                }
                Err(error) => self.refuse(slot, &error),
            }
            words.answered.store(request, Ordering::Release);
            return;
        }
        // It writes to the nursery.
        self.unpacking = None;
        match stage::place_from(self.ring0, self.region, &self.header, self.life.reserved_nursery, slot) {
            Ok(placed) => {
                if self.life.start == Start::Standby {
                    self.step(Input::Replaced(Start::Cold));
                }
                self.accept(placed);
            }
            Err(error) => {
                log::error!("stage: {error}");
                self.refuse(slot, &error);
            }
        }
        words.answered.store(request, Ordering::Release);
    }

    /// At a failure: what lies in the nursery is no longer what its slot holds if a kernel was staged a moment ago.
    pub fn drop_outdated(&mut self) {
        let words = self.region.stage_words();
        if words.request.load(Ordering::Acquire) != words.answered.load(Ordering::Relaxed) {
            self.placed = None;
        }
    }

    /// A kernel has been put in its place in the reserved nursery: begins to unpack it.
    pub fn accept(&mut self, placed: Placed) {
        log::info!("stage: {placed}");
        // SAFETY: the nursery is reserved and holds nothing but what was just placed; whoever places there again drops this
        // first.
        match unsafe { Unpacking::start(&placed) } {
            Ok(begun) => {
                self.unpacking = Some(begun);
                self.note_stage(StageState::Placed);
            }
            Err(why) => {
                log::warn!("stage: the kernel will unpack itself: {why}");
                self.note_stage(StageState::Ready);
            }
        }
        self.placed = Some(placed);
    }

    /// Writes down how far the staged kernel has come.
    pub fn note_stage(&self, state: StageState) {
        self.region.stage_words().state.store(state as u64, Ordering::Release);
    }

    /// Whether the reserved nursery is there to be written to.
    fn may_place(&self) -> bool {
        self.life.failovers == 0 || self.nursery_is_free()
    }

    /// Empties the slot, and goes back to the kernel that runs, if that has one.
    fn refuse(&mut self, slot: usize, why: &dyn Display) {
        let slots = attempt::slots(self.region);
        let valid = offset_of!(StageTable, slots) + slot * size_of::<StagedKernel>() + offset_of!(StagedKernel, valid);
        self.put_stage_word(valid, 0);
        if slots.filled[1 - slot] {
            self.put_stage_word(offset_of!(StageTable, current), 1 - slot as u64);
        }
        let mut text = [0; WHY_SIZE];
        let why = alloc::format!("{why}");
        let length = why.len().min(WHY_SIZE);
        text[..length].copy_from_slice(&why.as_bytes()[..length]);
        let words = self.region.stage_words();
        for (word, bytes) in words.why.iter().zip(text.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        self.note_stage(StageState::Refused);
    }
}
