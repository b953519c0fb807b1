//! Segments of System V shared memory that a process has attached: with `shmat`, so that `shmdt` knows them.

use super::{
    batch::{Batch, Expect},
    memory::name,
    world::World,
    Refusal, Restored,
};
use shared_region::{
    context::{Backing, Mapping, SharedSegment},
    PAGE_SIZE,
};

/// `SHM_EXEC` (include/uapi/linux/shm.h).
const SHM_EXEC: i32 = 0o100_000;

/// The segment that a mapping is of.
pub fn segment<'w>(mapping: &Mapping, world: &'w World<'_>) -> Option<&'w SharedSegment> {
    let shared = mapping.backing == Backing::SharedMemory;
    let of_it = |segment: &&SharedSegment| shared && segment.inode == mapping.inode;
    let of_all = std::iter::once(&world.ipc).chain(world.ipc_of.values());
    of_all.flat_map(|ipc| &ipc.segments).find(of_it)
}

/// A segment can be attached as a whole only.
pub fn check(mapping: &Mapping, segment: &SharedSegment) -> Restored<()> {
    if mapping.offset != 0 || mapping.end - mapping.start != segment.size.next_multiple_of(PAGE_SIZE) {
        return Err(Refusal::new("System V shared memory", "only a part of it is attached"));
    }
    Ok(())
}

/// Attaches a segment where it was, and protects it as it was.
pub fn attach(batch: &mut Batch<'_>, mapping: &Mapping, segment: &SharedSegment) -> Restored<()> {
    let mut flags = if mapping.writable_file { 0 } else { libc::SHM_RDONLY };
    if mapping.prot & libc::PROT_EXEC as u32 != 0 {
        flags |= SHM_EXEC;
    }
    let arguments = [segment.perm.id.into(), mapping.start.into(), flags.into()];
    let at = Expect::Value(mapping.start);
    batch.expect(name(mapping), libc::SYS_shmat, arguments, at)?;
    let length = mapping.end - mapping.start;
    let arguments = [mapping.start.into(), length.into(), mapping.prot.into()];
    batch.call(name(mapping), libc::SYS_mprotect, arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_segment_is_refused() {
        let segment = SharedSegment {
            size: 5000,
            ..SharedSegment::default()
        };
        let mapping = |start, end, offset| Mapping {
            start,
            end,
            offset,
            ..Mapping::default()
        };
        assert!(check(&mapping(0x1000, 0x3000, 0), &segment).is_ok());
        assert!(check(&mapping(0x1000, 0x2000, 0), &segment).is_err());
        assert!(check(&mapping(0x1000, 0x2000, 0x1000), &segment).is_err());
    }
}
