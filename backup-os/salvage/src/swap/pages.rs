//! What is recorded of an object's pages that lie on swap.

use super::{area, Slot};
use crate::addr::PAGE_SIZE;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::context::{DiskRun, SwappedPages};
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

/// Runs in one record, and of one object.
const RUNS_OF_RECORD: usize = 4096;
const MAX_RUNS: usize = 1 << 18;

/// The pages of one object that lie on devices, or are zero where something else would be found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    runs: Vec<(u8, DiskRun)>,
    zeros: Vec<(u64, u64)>,
}

impl Pages {
    /// Adds the page that belongs at `offset`, of which so many bytes count. Offsets ascend.
    ///
    /// # Errors
    /// They are scattered too much.
    pub fn add(&mut self, offset: u64, slot: Slot, bytes: u64) -> Result<()> {
        if let Some((area, last)) = self.runs.last_mut() {
            let follows = last.offset.wrapping_add(last.bytes) == offset && last.at.wrapping_add(last.bytes) == slot.at;
            if *area == slot.area && follows {
                last.bytes = last.bytes.wrapping_add(bytes);
                return Ok(());
            }
        }
        if self.runs.len() >= MAX_RUNS {
            return Err(Refusal::new(reasons::SWAPPED, "scattered too much"));
        }
        let run = DiskRun {
            offset,
            at: slot.at,
            bytes,
        };
        self.runs.push((slot.area, run));
        Ok(())
    }

    /// Adds a page of zeros.
    pub fn add_zero(&mut self, offset: u64) {
        match self.zeros.last_mut() {
            Some((start, bytes)) if start.wrapping_add(*bytes) == offset => *bytes = bytes.wrapping_add(PAGE_SIZE),
            _ => self.zeros.push((offset, PAGE_SIZE)),
        }
    }

    /// Records them, and the areas they lie on.
    ///
    /// # Errors
    /// There is no room.
    pub fn write<M: PhysMem + ?Sized>(
        self,
        context: &mut Context<'_, '_, M>,
        writer: &mut Writer<'_>,
        owner: u64,
    ) -> Result<()> {
        let push = |pages: &SwappedPages, writer: &mut Writer<'_>| -> Result<()> {
            Ok(writer.push(Kind::SwappedPages, 1, flags::MUST_UNDERSTAND, owner, pages)?)
        };
        for runs in self.runs.chunk_by(|(area, _), (next, _)| area == next) {
            let Some(&(kind, _)) = runs.first() else { continue };
            let id = write_area(context, writer, kind)?;
            for runs in runs.chunks(RUNS_OF_RECORD) {
                let pages = SwappedPages {
                    area: id,
                    runs: runs.iter().map(|&(_, run)| run).collect(),
                    zeros: Vec::new(),
                };
                push(&pages, writer)?;
            }
        }
        for zeros in self.zeros.chunks(RUNS_OF_RECORD) {
            let pages = SwappedPages {
                zeros: zeros.to_vec(),
                ..SwappedPages::default()
            };
            push(&pages, writer)?;
        }
        Ok(())
    }
}

/// Records an area, unless it is recorded. Returns its id.
fn write_area<M: PhysMem + ?Sized>(context: &mut Context<'_, '_, M>, writer: &mut Writer<'_>, kind: u8) -> Result<u64> {
    let id = u64::from(kind).saturating_add(1);
    if context.first(Kind::SwapArea, id) {
        let area = area::get(context, kind)?;
        let disk = area.disk.as_ref().map_err(Clone::clone)?;
        writer.push(Kind::SwapArea, 1, 0, id, &disk.record)?;
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::{Pages, Slot};
    use shared_region::context::DiskRun;

    fn run(offset: u64, at: u64, bytes: u64) -> DiskRun {
        DiskRun { offset, at, bytes }
    }

    #[test]
    fn pages_that_follow_one_another_on_both_sides_are_one_run() {
        let mut pages = Pages::default();
        for (area, offset, at, bytes) in [
            (0, 0x1000, 0x8000, 0x1000),
            (0, 0x2000, 0x9000, 0x1000),
            (0, 0x4000, 0xA000, 0x1000),
            (0, 0x5000, 0x7000, 0x1000),
            (1, 0x6000, 0x8000, 0x1000),
            (1, 0x7000, 0x9000, 7),
        ] {
            pages.add(offset, Slot { area, at }, bytes).unwrap();
        }
        let want = [
            (0, run(0x1000, 0x8000, 0x2000)),
            (0, run(0x4000, 0xA000, 0x1000)),
            (0, run(0x5000, 0x7000, 0x1000)),
            (1, run(0x6000, 0x8000, 0x1007)),
        ];
        assert_eq!(pages.runs, want);
        for offset in [0x1000, 0x2000, 0x4000] {
            pages.add_zero(offset);
        }
        assert_eq!(pages.zeros, [(0x1000, 0x2000), (0x4000, 0x1000)]);
    }
}
