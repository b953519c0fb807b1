//! The vDSO: code of the kernel in the process, at an address that the process remembers.
//!
//! With the same code as before it is mapped where it was. With another, the old text stays as ordinary private
//! memory, its data page frozen, and each of its functions jumps to the new kernel's.

use super::{
    batch::{Arg, Batch},
    host::Host,
    memory::{self, Area},
    tracee::Tracee,
    world::Space,
    OrRefuse, Refusal, Restored,
};
use shared_region::{
    context::{Backing, Mapping},
    PAGE_SIZE,
};
use std::{fs::File, os::unix::fs::FileExt};

const ARCH_MAP_VDSO_64: u64 = 0x2003;

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
    /// Another: the old one becomes ordinary memory.
    Other {
        /// Old text.
        text: Vec<u8>,
        /// Its address.
        at: u64,
    },
}

/// Decides what to do, from the recorded pages of the old vDSO.
pub fn decide(space: &Space<'_>, new: &Vdso, same_kernel: bool, host: &dyn Host) -> Restored<Way> {
    if space.record.vdso == 0 {
        return Ok(Way::None);
    }
    let size: u64 = mappings(space, Backing::Vdso)
        .map(|mapping| mapping.end - mapping.start)
        .sum();
    let Some(text) = old_text(space, size, host)? else {
        return if same_kernel && size == new.image.len() as u64 && space.record.vvar_size == new.vvar_size {
            Ok(Way::Same(space.record.vdso - new.vvar_size))
        } else {
            Err(Refusal::new(
                "vDSO",
                "its text was not saved and this kernel has another",
            ))
        };
    };
    if text == new.image && space.record.vvar_size == new.vvar_size {
        Ok(Way::Same(space.record.vdso - new.vvar_size))
    } else {
        Ok(Way::Other {
            text,
            at: space.record.vdso,
        })
    }
}

fn mappings<'a>(space: &'a Space<'_>, backing: Backing) -> impl Iterator<Item = &'a Mapping> {
    space.mappings.iter().filter(move |mapping| mapping.backing == backing)
}

/// The old text, if all of its pages were recorded.
fn old_text(space: &Space<'_>, size: u64, host: &dyn Host) -> Restored<Option<Vec<u8>>> {
    let mut text = vec![0; size as usize];
    let mut filled = 0;
    let end = space.record.vdso + size;
    for run in space.runs() {
        for page in 0..run.pages() {
            let va = run.va + page * PAGE_SIZE;
            if va < space.record.vdso || va >= end {
                continue;
            }
            let at = (va - space.record.vdso) as usize;
            host.read_frames(run.pfn() + page, &mut text[at..at + PAGE_SIZE as usize])?;
            filled += PAGE_SIZE;
        }
    }
    Ok((filled == size && size != 0).then_some(text))
}

/// Maps the vDSO as decided. The process must have none at this moment.
pub fn map(batch: &mut Batch<'_>, way: &Way) -> Restored<()> {
    match way {
        Way::None => Ok(()),
        Way::Same(at) => batch.call("vDSO", libc::SYS_arch_prctl, [ARCH_MAP_VDSO_64.into(), Arg::from(*at)]),
        Way::Other { .. } => Err(Refusal::new("vDSO", "this kernel's is another one")),
    }
}

/// Checks where the kernel put it: the address is only a hint to it.
pub fn verify(way: &Way, tracee: &Tracee, new: &Vdso) -> Restored<()> {
    if let Way::Same(at) = way {
        let found = find(&memory::maps_of(tracee.tid() as u32)?);
        if found.map(|(text, ..)| text) != Some(at + new.vvar_size) {
            return Err(Refusal::new("vDSO", "the kernel maps it at another address"));
        }
    }
    Ok(())
}
