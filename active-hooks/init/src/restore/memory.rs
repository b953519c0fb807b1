//! The mappings of a process, empty at first; their contents come by adoption.

use super::{
    arena::Arena,
    attached,
    batch::{Arg, Batch, Expect},
    cow,
    host::Host,
    inodes::Piece,
    io_uring,
    objects::Objects,
    tracee::Tracee,
    user_memory::UserMemory,
    world::{Space, World},
    OrRefuse, Refusal, Restored,
};
use shared_region::context::{Backing, FrameRun, Mapping};
use zerocopy::{Immutable, IntoBytes};

/// First address after user memory with 4-level paging (`TASK_SIZE_MAX`).
pub const USER_END: u64 = 0x7FFF_FFFF_F000;

const PR_SET_VMA: u64 = 0x5356_4D41;
const PR_SET_VMA_ANON_NAME: u64 = 0;
const PR_SET_MM: u64 = 35;
const PR_SET_MM_MAP: u64 = 14;
const PR_SET_THP_DISABLE: u64 = 41;
const MLOCK_ONFAULT: u64 = 1;

/// Flags of a mapping that `mmap` takes as they are.
const KEPT_FLAGS: u32 = (libc::MAP_GROWSDOWN | libc::MAP_NORESERVE) as u32;

/// `struct prctl_mm_map` (include/uapi/linux/prctl.h).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MmMap {
    bounds: [u64; 11],
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

pub(super) fn name(mapping: &Mapping) -> String {
    format!("mapping {:x}-{:x}", mapping.start, mapping.end)
}

/// Whether a mapping is one that this module makes.
pub fn is_ordinary(mapping: &Mapping) -> bool {
    !matches!(mapping.backing, Backing::Vdso | Backing::Vvar)
}

/// What cannot be mapped is found before anything is built.
pub fn check(space: &Space<'_>) -> Restored<()> {
    for mapping in &space.mappings {
        if mapping.backing == Backing::Unsupported {
            let why = format!("its kind is not supported (flags {:#x})", mapping.unusual);
            return Err(Refusal::new(name(mapping), why));
        }
        if mapping.pkey != 0 {
            return Err(Refusal::new(name(mapping), format!("protection key {}", mapping.pkey)));
        }
        if mapping.start >= mapping.end || mapping.end > USER_END {
            return Err(Refusal::new(name(mapping), "its addresses are out of range"));
        }
    }
    for pair in space.mappings.windows(2) {
        if pair[0].end > pair[1].start {
            return Err(Refusal::new(name(&pair[1]), "it overlaps its neighbour"));
        }
    }
    Ok(())
}

/// Opens what a process maps, so that it can be inherited.
pub fn prepare(space: &Space<'_>, objects: &mut Objects, world: &World, host: &dyn Host) -> Restored<()> {
    for mapping in space
        .mappings
        .iter()
        .filter(|mapping| mapping.inode != 0 && !io_uring::is_ring(mapping))
    {
        if let Some(segment) = attached::segment(mapping, world) {
            attached::check(mapping, segment).map_err(|refusal| Refusal::new(name(mapping), refusal))?;
            continue;
        }
        objects
            .for_mapping(world, host, mapping.inode, needs_write(mapping))
            .map_err(|refusal| Refusal::new(name(mapping), refusal))?;
    }
    if let Some((inode, writable)) = executable(space) {
        objects.for_mapping(world, host, inode, writable)?;
    }
    Ok(())
}

/// A shared mapping of a file opened for writing can be made writable later.
fn needs_write(mapping: &Mapping) -> bool {
    match mapping.backing {
        Backing::SharedMemory => true,
        Backing::FileShared => mapping.writable_file,
        _ => false,
    }
}

fn executable(space: &Space<'_>) -> Option<(u64, bool)> {
    (space.record.exe_inode != 0).then_some((space.record.exe_inode, false))
}

/// Takes away everything but the arena and what is kept.
pub fn clear(batch: &mut Batch<'_>, arena: (u64, u64), kept: &[(u64, u64)]) -> Restored<()> {
    let stays: Vec<(u64, u64)> = kept.iter().copied().chain([arena]).collect();
    for (start, end) in cow::without((0, USER_END), &stays) {
        batch.call("old memory", libc::SYS_munmap, [start.into(), (end - start).into()])?;
    }
    Ok(())
}

/// Makes of the kept parts of the parent's memory what they were in this process: `stale` are pages in them that it
/// does not have from there.
pub fn adapt(batch: &mut Batch<'_>, space: &Space<'_>, kept: &[(u64, u64)], stale: &[(u64, u64)]) -> Restored<()> {
    for &(start, end) in stale {
        let arguments = [start.into(), (end - start).into(), libc::MADV_DONTNEED.into()];
        batch.call("pages of the parent", libc::SYS_madvise, arguments)?;
    }
    for &(start, end) in kept {
        let mapping = space
            .mappings
            .iter()
            .find(|mapping| mapping.start <= start && end <= mapping.end);
        let mapping = mapping.ok_or_else(|| Refusal::new("memory of the parent", "it is not in a mapping"))?;
        let arguments = [start.into(), (end - start).into(), mapping.prot.into()];
        batch.call(name(mapping), libc::SYS_mprotect, arguments)?;
    }
    Ok(())
}

/// Makes the mappings, but for rings of io_uring and what is kept of the parent's.
pub fn map(
    batch: &mut Batch<'_>,
    space: &Space<'_>,
    objects: &mut Objects,
    world: &World,
    host: &dyn Host,
    kept: &[(u64, u64)],
) -> Restored<()> {
    for mapping in space
        .mappings
        .iter()
        .filter(|mapping| is_ordinary(mapping) && !io_uring::is_ring(mapping))
    {
        if let Some(segment) = attached::segment(mapping, world) {
            attached::attach(batch, mapping, segment)?;
            annotate(batch, mapping)?;
            continue;
        }
        let (sharing, fd) = match mapping.backing {
            Backing::Anonymous => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None),
            Backing::FilePrivate => (libc::MAP_PRIVATE, Some(false)),
            _ => (libc::MAP_SHARED, Some(needs_write(mapping))),
        };
        let fd = match fd {
            Some(writable) => u64::from(objects.for_mapping(world, host, mapping.inode, writable)?),
            None => u64::MAX,
        };
        let flags = (sharing | libc::MAP_FIXED_NOREPLACE) as u32 | (mapping.map_flags & KEPT_FLAGS);
        for (start, end) in cow::without((mapping.start, mapping.end), kept) {
            let offset = if mapping.inode == 0 {
                0
            } else {
                mapping.offset + (start - mapping.start)
            };
            let arguments = [
                start.into(),
                (end - start).into(),
                mapping.prot.into(),
                flags.into(),
                fd.into(),
                offset.into(),
            ];
            batch.expect(name(mapping), libc::SYS_mmap, arguments, Expect::Value(start))?;
        }
        annotate(batch, mapping)?;
    }
    Ok(())
}

pub(super) fn annotate(batch: &mut Batch<'_>, mapping: &Mapping) -> Restored<()> {
    let length = mapping.end - mapping.start;
    for &advice in &mapping.advice {
        batch.call(
            format!("advice {advice} on {}", name(mapping)),
            libc::SYS_madvise,
            [mapping.start.into(), length.into(), advice.into()],
        )?;
    }
    if mapping.name.is_empty() {
        return Ok(());
    }
    let text = [mapping.name.as_slice(), &[0]].concat();
    batch.call(
        format!("name of {}", name(mapping)),
        libc::SYS_prctl,
        [
            PR_SET_VMA.into(),
            PR_SET_VMA_ANON_NAME.into(),
            mapping.start.into(),
            length.into(),
            Arg::Bytes(&text),
        ],
    )
}

/// Where a space has files mapped: start and end, in order.
pub fn file_ranges(space: &Space<'_>) -> Vec<(u64, u64)> {
    let files = space
        .mappings
        .iter()
        .filter(|mapping| mapping.backing != Backing::Anonymous);
    let mut ranges: Vec<(u64, u64)> = files.map(|mapping| (mapping.start, mapping.end)).collect();
    ranges.sort_unstable();
    ranges
}

/// Whether something of `start..end` lies in one of these ranges, which are in order and do not overlap.
pub fn overlaps(ranges: &[(u64, u64)], start: u64, end: u64) -> bool {
    let next = ranges.partition_point(|range| range.1 <= start);
    ranges.get(next).is_some_and(|range| range.0 < end)
}

/// The frames that become anonymous memory: all but the pages of the vDSO, which [`super::vdso`] takes care of.
/// Each item is a piece of a payload, as long as possible.
pub fn contents<'s, 'a>(space: &'s Space<'a>) -> impl Iterator<Item = &'a [u8]> + 's {
    let kernels: Vec<(u64, u64)> = space
        .mappings
        .iter()
        .filter(|mapping| !is_ordinary(mapping))
        .map(|mapping| (mapping.start, mapping.end))
        .collect();
    let is_kernels = move |run: &[u8]| {
        FrameRun::iter(run).any(|run| kernels.iter().any(|&(start, end)| (start..end).contains(&run.va)))
    };
    space.frames.iter().flat_map(move |payload| {
        let mut pieces = Vec::new();
        let mut start = 0;
        for (index, run) in payload.chunks_exact(FrameRun::SIZE).enumerate() {
            if is_kernels(run) {
                let at = index * FrameRun::SIZE;
                pieces.push(&payload[start..at]);
                start = at + FrameRun::SIZE;
            }
        }
        pieces.push(&payload[start..]);
        pieces.retain(|piece| !piece.is_empty());
        pieces
    })
}

/// Says whether the process does without huge pages. To be done before the contents come; children that were forked before
/// do not inherit it.
pub fn without_huge_pages(batch: &mut Batch<'_>, without: bool) -> Restored<()> {
    let arguments = [PR_SET_THP_DISABLE, without.into(), 0, 0, 0].map(Arg::Value);
    batch.call("huge page setting", libc::SYS_prctl, arguments)
}

/// Writes pieces to where they belong in a process. Meanwhile it does without huge pages: one would take the place of pages that
/// are still to come, and make much of little.
pub fn write(arena: &mut Arena, process: &Tracee, pieces: &[Piece], without_huge: bool) -> Restored<()> {
    let mut set = |without| {
        let mut batch = Batch::new(arena, process);
        without_huge_pages(&mut batch, without)?;
        batch.finish()
    };
    if !without_huge {
        set(true)?;
    }
    let memory = UserMemory::of(process.tid() as u32)?;
    (pieces.iter()).try_for_each(|piece| memory.write(piece.offset, &piece.bytes))?;
    match without_huge {
        true => Ok(()),
        false => set(false),
    }
}

/// Locks what was locked, and other settings of the whole. To be done when the contents are there, so that nothing is faulted in before.
pub fn lock(batch: &mut Batch<'_>, space: &Space<'_>) -> Restored<()> {
    let locked = |mapping: &&Mapping| mapping.map_flags & libc::MAP_LOCKED as u32 != 0;
    for mapping in space.mappings.iter().filter(locked) {
        let on_fault = if mapping.lock_on_fault { MLOCK_ONFAULT } else { 0 };
        let length = mapping.end - mapping.start;
        batch.call(
            format!("lock on {}", name(mapping)),
            libc::SYS_mlock2,
            [mapping.start.into(), length.into(), on_fault.into()],
        )?;
    }
    if space.record.def_flags != 0 {
        batch.call("mlockall", libc::SYS_mlockall, [space.record.def_flags.into()])?;
    }
    for command in (0..32).map(|bit| 1u32 << bit) {
        if space.record.membarrier & command != 0 {
            batch.call("membarrier", libc::SYS_membarrier, [command.into(), 0u64.into()])?;
        }
    }
    Ok(())
}

/// Where the executable comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exe {
    /// The parent's is the same.
    Inherited,
    /// A descriptor; a deleted one is found through its inode.
    Opened(u32),
}

/// Sets where code, data, heap, stack, arguments and environment lie, the auxiliary vector and the executable.
pub fn bounds(
    batch: &mut Batch<'_>,
    space: &Space<'_>,
    objects: &mut Objects,
    world: &World,
    host: &dyn Host,
    exe: Exe,
) -> Restored<()> {
    let exe_fd = match (exe, executable(space)) {
        (Exe::Inherited, _) => u32::MAX,
        (_, Some((inode, writable))) => objects.for_mapping(world, host, inode, writable)?,
        (Exe::Opened(fd), None) => fd,
    };
    let auxv = trimmed(&space.record.auxv);
    let map = MmMap {
        bounds: space.record.bounds,
        auxv: 0,
        auxv_size: (auxv.len() * 8) as u32,
        exe_fd,
    };
    let size = size_of::<MmMap>() as u64;
    let linked = Arg::Linked {
        outer: map.as_bytes(),
        at: 88,
        inner: auxv.as_bytes(),
    };
    batch.call(
        "bounds of the address space",
        libc::SYS_prctl,
        [PR_SET_MM.into(), PR_SET_MM_MAP.into(), linked, size.into(), 0u64.into()],
    )
}

/// Kernels have room for different numbers of entries: what follows AT_NULL is cut.
fn trimmed(auxv: &[u64]) -> &[u64] {
    let end = auxv.chunks_exact(2).position(|pair| pair[0] == 0);
    &auxv[..end.map_or(auxv.len() & !1, |index| 2 * index + 2)]
}

/// Where the arena can go: a hole that no address space uses, and that this process does not use either.
pub fn find_hole<'a>(spaces: impl Iterator<Item = &'a Space<'a>>, size: u64) -> Restored<u64> {
    let of_space = |space: &'a Space<'a>| {
        let rings = space.rings.iter().map(|ring| (ring.address, ring.address + ring.bytes));
        rings.chain(space.mappings.iter().map(|mapping| (mapping.start, mapping.end)))
    };
    let mut taken: Vec<(u64, u64)> = spaces.flat_map(of_space).collect();
    taken.extend(
        maps_of(std::process::id())?
            .into_iter()
            .map(|area| (area.start, area.end)),
    );
    taken.sort_unstable();
    let mut hole = LOWEST_HOLE;
    for (start, end) in taken {
        // Stacks grow downwards into what lies before them: keep away.
        if start.saturating_sub(STACK_ROOM) >= hole + size {
            break;
        }
        hole = hole.max(end.next_multiple_of(0x1000) + STACK_ROOM);
    }
    if hole + size < USER_END {
        Ok(hole)
    } else {
        Err(Refusal::new("arena", "no address is free in every process"))
    }
}

const LOWEST_HOLE: u64 = 0x10_0000_0000;
const STACK_ROOM: u64 = 0x1000_0000;

/// A line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// What the kernel calls it.
    pub name: String,
}

/// The memory map of a process as the kernel tells it.
pub fn maps_of(pid: u32) -> Restored<Vec<Area>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps")).or_refuse(|| "memory map")?;
    Ok(text.lines().filter_map(parse_area).collect())
}

fn parse_area(line: &str) -> Option<Area> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    Some(Area {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        name: words.nth(4).unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_cut_behind_its_end() {
        assert_eq!(trimmed(&[6, 4096, 0, 0, 0, 0]), [6, 4096, 0, 0]);
        assert_eq!(trimmed(&[6, 4096, 7]), [6, 4096]);
    }

    #[test]
    fn what_lies_in_a_range() {
        let ranges = [(10, 20), (30, 40)];
        for (start, end, inside) in [
            (0, 10, false),
            (0, 11, true),
            (19, 25, true),
            (20, 30, false),
            (35, 36, true),
            (39, 99, true),
            (40, 99, false),
            (0, 99, true),
        ] {
            assert_eq!(overlaps(&ranges, start, end), inside, "{start}..{end}");
        }
        assert!(!overlaps(&[], 0, 99));
    }

    #[test]
    fn overlapping_mappings_are_refused() {
        let mapping = |start, end| Mapping {
            start,
            end,
            ..Mapping::default()
        };
        let space = Space {
            mappings: vec![mapping(0x1000, 0x3000), mapping(0x2000, 0x4000)],
            ..Space::default()
        };
        assert!(check(&space).unwrap_err().why.contains("overlaps"));
    }

    #[test]
    fn an_area_is_read_with_its_name() {
        let area = parse_area("7ffc1000-7ffc3000 r-xp 00000000 00:00 0    [vdso]").unwrap();
        assert_eq!(
            (area.start, area.end, area.name.as_str()),
            (0x7ffc_1000, 0x7ffc_3000, "[vdso]")
        );
    }
}
