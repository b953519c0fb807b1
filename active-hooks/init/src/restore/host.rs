//! What the agent needs from whoever holds the dead kernel's frames: the module, or a test that captured a process.

use super::{OrRefuse, Restored};
use orthros_device::{Adopted, Device};
use shared_region::device::{ResumeCall, TaskState};

/// The holder of the frames, and of what no system call can do.
pub trait Host {
    /// Makes the frames of `runs` (payload of a `Frames` record) anonymous memory of a process that has mapped their
    /// addresses already.
    fn adopt(&self, pid: u32, runs: &[u8]) -> Restored<Adopted>;

    /// Reads consecutive frames from `pfn` on until `bytes` is full.
    fn read_frames(&self, pfn: u64, bytes: &mut [u8]) -> Restored<()>;

    /// Sets the restart block of a stopped thread.
    fn resume_call(&self, call: ResumeCall) -> Restored<()>;

    /// Sets start and CPU times of a stopped thread.
    fn set_times(&self, times: TaskState) -> Restored<()>;
}

impl Host for Device {
    fn adopt(&self, pid: u32, runs: &[u8]) -> Restored<Adopted> {
        Device::adopt(self, pid, runs).or_refuse(|| "memory")
    }

    fn read_frames(&self, pfn: u64, bytes: &mut [u8]) -> Restored<()> {
        Device::read_frames(self, pfn, bytes).or_refuse(|| "page frames")
    }

    fn resume_call(&self, call: ResumeCall) -> Restored<()> {
        Device::resume_call(self, call).or_refuse(|| "interrupted system call")
    }

    fn set_times(&self, times: TaskState) -> Restored<()> {
        self.task_state(times).or_refuse(|| "start and CPU times")
    }
}
