//! A holder of frames that keeps copies: adoption is a write into the process.

use orthros_device::Adopted;
use orthros_init::restore::{host::Host, OrRefuse, Refusal, Restored};
use shared_region::{
    context::{frame_kind, FrameRun},
    device::{ResumeCall, TaskState},
};
use std::{fs::File, os::unix::fs::FileExt};

/// Captured pages; the frame number is the index.
#[derive(Default)]
pub struct Frames(Vec<[u8; 4096]>);

impl Frames {
    /// Keeps a page and numbers it.
    pub fn keep(&mut self, page: [u8; 4096]) -> u64 {
        self.0.push(page);
        self.0.len() as u64 - 1
    }

    fn page(&self, pfn: u64) -> Restored<&[u8; 4096]> {
        let page = self.0.get(pfn as usize);
        page.ok_or_else(|| Refusal::new(format!("frame {pfn}"), "it was not captured"))
    }
}

impl Host for Frames {
    fn adopt(&self, pid: u32, runs: &[u8]) -> Restored<Adopted> {
        let memory = File::options()
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .or_refuse(|| "memory")?;
        let mut adopted = Adopted::default();
        for run in FrameRun::iter(runs) {
            for page in 0..run.pages() {
                let bytes = self.page(run.pfn() + page)?;
                memory
                    .write_all_at(bytes, run.va + page * 4096)
                    .or_refuse(|| format!("page {:#x}", run.va))?;
                if run.kind() == frame_kind::SHARED {
                    adopted.copied += 1;
                } else {
                    adopted.in_place += 1;
                }
            }
        }
        Ok(adopted)
    }

    fn read_frames(&self, pfn: u64, bytes: &mut [u8]) -> Restored<()> {
        for (index, chunk) in bytes.chunks_mut(4096).enumerate() {
            chunk.copy_from_slice(&self.page(pfn + index as u64)?[..chunk.len()]);
        }
        Ok(())
    }

    fn resume_call(&self, _: ResumeCall) -> Restored<()> {
        Err(Refusal::new("interrupted system call", "needs the module"))
    }

    fn set_times(&self, _: TaskState) -> Restored<()> {
        Ok(())
    }
}
