//! The vDSO: code of the kernel in the process, at an address that the process remembers.
//!
//! With the same code as before it is mapped where it was. With another, the old text stays as ordinary private
//! memory, its data pages frozen, and each of its functions jumps to the new kernel's. So it does where a thread was
//! caught in it, whatever the code: one that had read the clock of the dead kernel and then added the offset of this
//! kernel's time namespace would see an instant that never was.

use super::{
    batch::{Arg, Batch, Expect},
    elf,
    host::Host,
    memory::{self, Area},
    tracee::Tracee,
    user_memory::UserMemory,
    world::{Space, World},
    OrRefuse, Refusal, Restored,
};
use shared_region::{
    context::{Backing, Mapping, Thread},
    PAGE_SIZE,
};
use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt};

const ARCH_MAP_VDSO_64: u64 = 0x2003;
/// Most pages of text in a vDSO that is taken as one.
const MOST_PAGES: u64 = 16;
/// `movabs $address, %rax; jmp *%rax`. RAX is free at the entry of a function (System V psABI 3.2.3).
const JUMP_SIZE: u64 = 12;
/// `mov $-ENOSYS, %eax; ret`, so that the caller makes the system call itself.
const NOT_THERE: [u8; 8] = [0x48, 0xC7, 0xC0, 0xDA, 0xFF, 0xFF, 0xFF, 0xC3];
/// What fills pages of old text that nobody had touched: breakpoints.
const FILLER: u8 = 0xCC;

/// The running kernel's vDSO, as the agent sees it in itself.
#[derive(Clone, Debug, Default)]
pub struct Vdso {
    /// The text and all that is mapped with it.
    pub image: Vec<u8>,
    /// Bytes of data pages before it.
    pub vvar_size: u64,
}

impl Vdso {
    /// Looks at this process's own.
    pub fn of_this_kernel() -> Restored<Self> {
        let (start, vvar_size, size) = find(&memory::maps_of(std::process::id())?)
            .ok_or_else(|| Refusal::new("vDSO", "this kernel gives its processes none"))?;
        let mut image = vec![0; size as usize];
        File::open("/proc/self/mem")
            .and_then(|memory| memory.read_exact_at(&mut image, start))
            .or_refuse(|| "vDSO")?;
        Ok(Self { image, vvar_size })
    }
}

/// Address of the text, bytes of data pages before it, bytes of text.
fn find(areas: &[Area]) -> Option<(u64, u64, u64)> {
    let text = areas.iter().find(|area| area.name == "[vdso]")?;
    let mut first = text.start;
    for area in areas.iter().rev().filter(|area| area.end <= text.start) {
        if area.end != first || !area.name.starts_with("[vvar") {
            break;
        }
        first = area.start;
    }
    Some((text.start, text.start - first, text.end - text.start))
}

/// What to do about a process's vDSO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It had none.
    None,
    /// The same: map it at this address of its first data page.
    Same(u64),
    /// Another, or one with threads in it: the old one becomes ordinary memory.
    Other {
        /// Old text, where it is not known [`FILLER`].
        text: Vec<u8>,
        /// Its address.
        at: u64,
        /// Where the new one goes, data pages first.
        new: u64,
    },
}

/// Pages of the dead kernel's vDSO by their index. All processes had the same text, so what one of them had touched
/// serves all.
#[derive(Clone, Debug, Default)]
pub struct OldText(BTreeMap<u64, Vec<u8>>);

impl OldText {
    /// Gathers the recorded pages of all processes.
    pub fn gather(world: &World<'_>, host: &dyn Host) -> Self {
        let mut pages = BTreeMap::new();
        for space in world.spaces.values() {
            for (index, pfn) in pages_of(space, Backing::Vdso) {
                let index = index / PAGE_SIZE;
                let mut page = vec![0; PAGE_SIZE as usize];
                if index < MOST_PAGES && !pages.contains_key(&index) && host.read_frames(pfn, &mut page).is_ok() {
                    pages.insert(index, page);
                }
            }
        }
        Self(pages)
    }

    fn agrees_with(&self, image: &[u8]) -> bool {
        let mut pages = self.0.iter();
        pages.all(|(&index, page)| {
            image
                .get((index * PAGE_SIZE) as usize..)
                .is_some_and(|rest| rest.starts_with(page))
        })
    }
}

/// (offset in the mappings of a kind, frame) of each recorded page of theirs.
fn pages_of<'s>(space: &'s Space<'_>, backing: Backing) -> impl Iterator<Item = (u64, u64)> + 's {
    let first = mappings(space, backing).map(|mapping| mapping.start).min().unwrap_or(0);
    let ranges: Vec<(u64, u64)> = mappings(space, backing)
        .map(|mapping| (mapping.start, mapping.end))
        .collect();
    space
        .runs()
        .filter(move |run| ranges.iter().any(|&(start, end)| (start..end).contains(&run.va)))
        .flat_map(move |run| (0..run.pages()).map(move |page| (run.va + page * PAGE_SIZE - first, run.pfn() + page)))
}

fn mappings<'s>(space: &'s Space<'_>, backing: Backing) -> impl Iterator<Item = &'s Mapping> {
    space.mappings.iter().filter(move |mapping| mapping.backing == backing)
}

/// Decides what to do for the space of these threads. `room` is an address at which a vDSO can be mapped in every
/// process.
pub fn decide(
    space: &Space<'_>,
    threads: &[Thread],
    new: &Vdso,
    old: &OldText,
    same_kernel: bool,
    room: u64,
) -> Restored<Way> {
    let at = space.record.vdso;
    if at == 0 {
        return Ok(Way::None);
    }
    let size: u64 = mappings(space, Backing::Vdso)
        .map(|mapping| mapping.end - mapping.start)
        .sum();
    let same_size = size == new.image.len() as u64 && space.record.vvar_size == new.vvar_size;
    let same = same_kernel && same_size && old.agrees_with(&new.image);
    let mut caught = threads.iter().map(|thread| thread.regs[super::tracee::RIP]);
    if same && !caught.any(|rip| (at..at + size).contains(&rip)) {
        return Ok(Way::Same(at - new.vvar_size));
    }
    if size == 0 || size > MOST_PAGES * PAGE_SIZE {
        return Err(Refusal::new("vDSO", "it is not where it was"));
    }
    let mut text = if same {
        new.image.clone()
    } else {
        vec![FILLER; size as usize]
    };
    for (&index, page) in &old.0 {
        if let Some(place) = text.get_mut((index * PAGE_SIZE) as usize..((index + 1) * PAGE_SIZE) as usize) {
            place.copy_from_slice(page);
        }
    }
    if !same && !old.0.contains_key(&0) {
        return Err(Refusal::new(
            "vDSO",
            "its text was not saved and this kernel has another",
        ));
    }
    Ok(Way::Other { text, at, new: room })
}

/// Maps the vDSO as decided. The process must have none at this moment.
pub fn map(batch: &mut Batch<'_>, way: &Way, space: &Space<'_>) -> Restored<()> {
    let at = match way {
        Way::None => return Ok(()),
        Way::Same(at) => *at,
        Way::Other { new, .. } => *new,
    };
    batch.call("vDSO", libc::SYS_arch_prctl, [ARCH_MAP_VDSO_64.into(), Arg::from(at)])?;
    if let Way::Other { .. } = way {
        let kernels = space.mappings.iter().filter(|mapping| !memory::is_ordinary(mapping));
        for mapping in kernels {
            let length = mapping.end - mapping.start;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            let prot = mapping.prot | libc::PROT_READ as u32;
            let arguments = [
                mapping.start.into(),
                length.into(),
                prot.into(),
                flags.into(),
                u64::MAX.into(),
                0u64.into(),
            ];
            batch.expect("old vDSO", libc::SYS_mmap, arguments, Expect::Value(mapping.start))?;
        }
    }
    Ok(())
}

/// Fills in what [`map`] has mapped, and checks where the kernel put the new one: the address is only a hint to it.
pub fn complete(
    way: &Way,
    tracee: &Tracee,
    space: &Space<'_>,
    threads: &[Thread],
    new: &Vdso,
    host: &dyn Host,
) -> Restored<()> {
    let first = match way {
        Way::None => return Ok(()),
        Way::Same(at) => *at,
        Way::Other { new, .. } => *new,
    };
    let found = find(&memory::maps_of(tracee.tid() as u32)?);
    if found.map(|(text, ..)| text) != Some(first + new.vvar_size) {
        return Err(Refusal::new("vDSO", "the kernel maps it at another address"));
    }
    let Way::Other { text, at, .. } = way else {
        return Ok(());
    };
    let caught: Vec<u64> = threads
        .iter()
        .map(|thread| thread.regs[super::tracee::RIP].wrapping_sub(*at))
        .collect();
    let text = lead(text, &caught, new, first + new.vvar_size)
        .ok_or_else(|| Refusal::new("vDSO", "the old one cannot be read"))?;
    let memory = UserMemory::of(tracee.tid() as u32)?;
    memory.write(*at, &text)?;
    let data = mappings(space, Backing::Vvar)
        .map(|mapping| mapping.start)
        .min()
        .unwrap_or(0);
    for (offset, pfn) in pages_of(space, Backing::Vvar) {
        let mut page = vec![0; PAGE_SIZE as usize];
        host.read_frames(pfn, &mut page)?;
        freeze(&mut page);
        memory.write(data + offset, &page)?;
    }
    Ok(())
}

/// The old text with jumps to the new functions. A function in whose first bytes a thread was caught stays as it is:
/// on frozen data it makes system calls.
fn lead(text: &[u8], caught: &[u64], new: &Vdso, new_at: u64) -> Option<Vec<u8>> {
    let (old, targets) = (elf::functions(text)?, elf::functions(&new.image)?);
    let mut led = text.to_vec();
    for (name, function) in old {
        let patch = match targets.get(&name) {
            Some(target) => {
                let mut jump = vec![0x48, 0xB8];
                jump.extend((new_at + target.offset).to_le_bytes());
                jump.extend([0xFF, 0xE0]);
                jump
            }
            None => NOT_THERE.to_vec(),
        };
        let inside = |rip: &u64| *rip > function.offset && *rip < function.offset + JUMP_SIZE;
        if function.size < JUMP_SIZE || caught.iter().any(inside) {
            continue;
        }
        let start = usize::try_from(function.offset).ok()?;
        led.get_mut(start..start + patch.len())?.copy_from_slice(&patch);
    }
    Some(led)
}

/// Offset of the clock data in its page (`DECLARE_VVAR(128, …)`, arch/x86/include/asm/vvar.h, up to 6.12).
const CLOCK_DATA: usize = 128;
/// Bytes of `struct vdso_data`, of which there are two: high resolution and raw.
const CLOCK_DATA_SIZE: usize = 240;
/// Highest clock mode that reads a counter; above them is only the one for time namespaces (INT_MAX).
const LAST_MODE: u32 = 3;

/// Makes frozen clock data safe to read. The next even sequence: no reader waits for a writer that is gone, and one that
/// was caught while it read, perhaps beside that writer, starts again. No clock source, so that it asks the kernel.
fn freeze(page: &mut [u8]) {
    for index in 0..2 {
        let at = CLOCK_DATA + index * CLOCK_DATA_SIZE;
        let word = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        let (sequence, mode) = (word(at), word(at + 4));
        if mode <= LAST_MODE || mode == i32::MAX as u32 {
            let next = sequence.wrapping_add(2) & !1;
            page[at..at + 4].copy_from_slice(&next.to_le_bytes());
            page[at + 4..at + 8].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_region::context::AddressSpace;

    #[test]
    fn a_thread_in_the_first_bytes_of_a_function_keeps_them() {
        let new = Vdso::of_this_kernel().unwrap();
        let clock = elf::functions(&new.image).unwrap()["__vdso_clock_gettime"];
        let at = clock.offset as usize;
        let led = lead(&new.image, &[], &new, 0x7000_0000_0000).unwrap();
        assert_eq!(&led[at..at + 2], [0x48, 0xB8]);
        let kept = lead(&new.image, &[clock.offset + 4], &new, 0x7000_0000_0000).unwrap();
        assert_eq!(kept[at..at + 12], new.image[at..at + 12]);
    }

    #[test]
    fn a_thread_caught_in_it_goes_on_in_the_old_one() {
        let new = Vdso::of_this_kernel().unwrap();
        let (at, size, room) = (0x7FFC_0000_0000, new.image.len() as u64, 0x7000_0000_0000);
        let space = Space {
            record: AddressSpace {
                vdso: at,
                vvar_size: new.vvar_size,
                ..AddressSpace::default()
            },
            mappings: vec![Mapping {
                start: at,
                end: at + size,
                backing: Backing::Vdso,
                ..Mapping::default()
            }],
            ..Space::default()
        };
        let way = |rip| {
            let mut thread = Thread::default();
            thread.regs[crate::restore::tracee::RIP] = rip;
            let threads = [Thread::default(), thread];
            decide(&space, &threads, &new, &OldText::default(), true, room).unwrap()
        };
        assert_eq!(way(at + size), Way::Same(at - new.vvar_size));
        let text = new.image.clone();
        assert_eq!(way(at + size - 1), Way::Other { text, at, new: room });
    }

    #[test]
    fn frozen_data_has_another_even_sequence_and_no_clock() {
        for (sequence, next) in [(6, 8), (7, 8)] {
            let mut page = vec![0; 4096];
            page[128] = sequence;
            page[132] = 1;
            freeze(&mut page);
            assert_eq!((page[128], page[132]), (next, 0));
        }
    }
}
