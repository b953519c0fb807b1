//! The unpacked kernel in memory (`parse_elf` and `handle_relocations` in `arch/x86/boot/compressed/misc.c`).

use super::relocations::{Relocating, Table};
use super::{UnpackError, STEP};
use crate::bytes::{u16_at, u32_at, u64_at};
use core::ops::Range;

const TYPE_EXECUTABLE: u16 = 2;
const MACHINE_X86_64: u16 = 62;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;
/// Most program headers looked at; a kernel has five.
const MAX_SEGMENTS: usize = 16;
/// `__START_KERNEL_map`: where virtual addresses of the kernel's image count from.
pub(super) const START_KERNEL_MAP: u64 = 0xFFFF_FFFF_8000_0000;
/// `KERNEL_IMAGE_SIZE` of a kernel that can be relocated (`CONFIG_RANDOMIZE_BASE`): how far they go.
pub const KERNEL_IMAGE_SIZE: u64 = 1 << 30;

/// A kernel laid out in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vmlinux {
    /// `startup_64`, from the load address.
    pub entry: u64,
    /// Bytes from the load address that hold something.
    pub filled: u64,
    /// Bytes from the load address that the kernel uses, `.bss` and `.brk` included.
    pub size: u64,
}

/// Lays the kernel out where it was unpacked, all at once: [`LayingOut`].
///
/// # Errors
/// [`UnpackError`]; the memory is then of no use.
pub fn lay_out(memory: &mut [u8], unpacked: u64, linked_at: u64, shift: u64) -> Result<Vmlinux, UnpackError> {
    let mut laying = LayingOut::new(memory, unpacked, linked_at, shift)?;
    loop {
        if let Some(laid) = laying.step(memory)? {
            return Ok(laid);
        }
    }
}

/// A kernel being laid out, a bounded step at a time: a panic is to be seen in between.
pub struct LayingOut {
    headers: Headers,
    /// The segment that is being moved, and its bytes that have been.
    segment: usize,
    moved: usize,
    filled: usize,
    relocating: Relocating,
}

impl LayingOut {
    /// Begins with what was unpacked to `memory[..unpacked]`, to be moved up by `shift` bytes of virtual address.
    /// `memory` begins at the load address; `linked_at` is the physical address the kernel was linked for
    /// (`pref_address` of its setup header), and `shift` a multiple of 2 MB.
    ///
    /// # Errors
    /// [`UnpackError`]; nothing has been changed.
    pub fn new(memory: &[u8], unpacked: u64, linked_at: u64, shift: u64) -> Result<Self, UnpackError> {
        let bad = UnpackError::Vmlinux;
        let file = memory.get(..unpacked as usize).ok_or(bad("longer than its place"))?;
        let headers = Headers::read(file, linked_at)?;
        let table = Table::find(file).map_err(UnpackError::Relocations)?;
        let mut filled = 0;
        for segment in headers.segments() {
            // Each goes down to its place, so that none lands on what is still to be moved.
            let below = segment.to.start <= segment.from.start;
            if !below || segment.to.start < filled || segment.from.end > table.start() {
                return Err(bad("segments in an unusual order"));
            }
            filled = segment.to.end;
        }
        if headers.size > memory.len() as u64 {
            return Err(UnpackError::Room {
                needed: headers.size,
                room: memory.len() as u64,
            });
        }
        if headers.size.saturating_add(shift).saturating_add(linked_at) > KERNEL_IMAGE_SIZE {
            return Err(bad("moved out of its range"));
        }
        Ok(Self {
            headers,
            segment: 0,
            moved: 0,
            filled,
            relocating: Relocating::new(table, linked_at, shift),
        })
    }

    /// Does some more in `memory`, which is the same at every step. Returns the kernel when all is done.
    ///
    /// # Errors
    /// [`UnpackError::Relocations`]; the memory is then of no use.
    pub fn step(&mut self, memory: &mut [u8]) -> Result<Option<Vmlinux>, UnpackError> {
        let segment = self.headers.segments().nth(self.segment);
        if let Some(segment) = segment {
            self.move_on(memory, &segment);
            return Ok(None);
        }
        let done = self
            .relocating
            .step(memory, self.filled)
            .map_err(UnpackError::Relocations)?;
        Ok(done.then_some(Vmlinux {
            entry: self.headers.entry,
            filled: self.filled as u64,
            size: self.headers.size,
        }))
    }

    fn move_on(&mut self, memory: &mut [u8], segment: &Segment) {
        let from = segment.from.start.saturating_add(self.moved);
        let more = segment.from.end.saturating_sub(from).min(STEP);
        if more == 0 {
            (self.segment, self.moved) = (self.segment.saturating_add(1), 0);
            return;
        }
        memory.copy_within(
            from..from.saturating_add(more),
            segment.to.start.saturating_add(self.moved),
        );
        self.moved = self.moved.saturating_add(more);
    }
}

/// A loadable piece: where it is in the file, and where it goes from the load address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Segment {
    from: Range<usize>,
    to: Range<usize>,
}

struct Headers {
    segments: [Option<Segment>; MAX_SEGMENTS],
    entry: u64,
    size: u64,
}

impl Headers {
    fn read(file: &[u8], linked_at: u64) -> Result<Self, UnpackError> {
        let bad = UnpackError::Vmlinux;
        let ours = file.starts_with(b"\x7FELF\x02\x01")
            && u16_at(file, 16) == Some(TYPE_EXECUTABLE)
            && u16_at(file, 18) == Some(MACHINE_X86_64)
            && u16_at(file, 54).map(usize::from) == Some(PROGRAM_HEADER);
        if !ours {
            return Err(bad("not an x86_64 ELF program"));
        }
        let count = usize::from(u16_at(file, 56).unwrap_or(0));
        if count > MAX_SEGMENTS {
            return Err(bad("too many segments"));
        }
        let table = u64_at(file, 32).ok_or(bad("cut off"))? as usize;
        let mut segments = [const { None }; MAX_SEGMENTS];
        let mut size = 0;
        for (index, slot) in segments.iter_mut().enumerate().take(count) {
            let at = index
                .checked_mul(PROGRAM_HEADER)
                .and_then(|at| at.checked_add(table))
                .ok_or(bad("program headers"))?;
            let header = at
                .checked_add(PROGRAM_HEADER)
                .and_then(|end| file.get(at..end))
                .ok_or(bad("program headers"))?;
            if u32_at(header, 0) != Some(PT_LOAD) {
                continue;
            }
            let field = |at| u64_at(header, at).ok_or(bad("program headers"));
            let (offset, physical, filled, memory) = (field(8)?, field(24)?, field(32)?, field(40)?);
            let outside = bad("a segment lies outside of the file or of memory");
            let to = physical.checked_sub(linked_at).ok_or(outside)?;
            let from_end = offset.checked_add(filled).filter(|&end| end <= file.len() as u64);
            let to_end = to
                .checked_add(memory.max(filled))
                .filter(|&end| end <= KERNEL_IMAGE_SIZE);
            let (from_end, to_end) = from_end.zip(to_end).ok_or(outside)?;
            size = to_end.max(size);
            *slot = Some(Segment {
                from: offset as usize..from_end as usize,
                to: to as usize..to.saturating_add(filled) as usize,
            });
        }
        let entry = u64_at(file, 24).and_then(|entry| entry.checked_sub(linked_at));
        // An address below 4 GB: the entry point is given as a physical one.
        let entry = entry.filter(|&entry| entry < size).ok_or(bad("no entry point"))?;
        Ok(Self { segments, entry, size })
    }

    fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        self.segments.iter().flatten().cloned()
    }
}
