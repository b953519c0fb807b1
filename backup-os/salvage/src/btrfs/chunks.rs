//! Where on the device lies what the file system counts on its own (`struct btrfs_chunk_map`, `struct map_lookup` up to Linux 6.8).

use super::{FileSystem, Layouts};
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;
use alloc::vec::Vec;

/// Chunks of one file system.
const MAX_CHUNKS: u64 = 1 << 16;
/// `BTRFS_BLOCK_GROUP_PROFILE_MASK` without `BTRFS_BLOCK_GROUP_DUP` (`include/uapi/linux/btrfs_tree.h`): RAID0, RAID1, RAID10,
/// RAID5, RAID6, RAID1C3, RAID1C4. With none of them the first stripe has all of it.
const STRIPED: u64 = 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10;

/// A range that lies on the one device in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// First byte, as the file system counts.
    pub start: u64,
    /// Bytes.
    pub bytes: u64,
    /// First byte on the device.
    pub physical: u64,
}

/// Where on the device `bytes` from `at` on lie; `None` if no chunk has all of them.
pub fn place(chunks: &[Chunk], at: u64, bytes: u64) -> Option<u64> {
    let chunk = chunks.iter().find(|chunk| {
        let from = at.checked_sub(chunk.start);
        from.and_then(|from| from.checked_add(bytes))
            .is_some_and(|end| end <= chunk.bytes)
    })?;
    chunk.physical.checked_add(at.checked_sub(chunk.start)?)
}

/// Where a chunk says what.
struct Layout {
    node: Field,
    start: Field,
    bytes: Field,
    /// What says the rest, if that is not the same structure.
    map: Option<Field>,
    kind: Field,
    num_stripes: Field,
    stripes: Field,
}

impl Layout {
    fn of(layouts: &Layouts) -> Option<Self> {
        if let Some(chunk) = &layouts.chunk_map {
            return Some(Self {
                node: chunk.rb_node,
                start: chunk.start,
                bytes: chunk.bytes,
                map: None,
                kind: chunk.kind,
                num_stripes: chunk.num_stripes,
                stripes: chunk.stripes,
            });
        }
        let (extent, map) = (&layouts.extent_map, layouts.map_lookup.as_ref()?);
        Some(Self {
            node: extent.rb_node,
            start: extent.start,
            bytes: extent.bytes?,
            map: Some(extent.map_lookup?),
            kind: map.kind,
            num_stripes: map.num_stripes,
            stripes: map.stripes,
        })
    }
}

impl FileSystem {
    /// The chunks of a file system on one device; none if it has several.
    pub(super) fn chunks<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>) -> Result<Vec<Chunk>> {
        let mem = &context.kernel.mem;
        let devices = mem.ptr(self.info, self.layouts.info.fs_devices)?;
        let device = mem.ptr(devices, self.layouts.devices.latest_dev)?;
        let mut chunks = Vec::new();
        if mem.uint(devices, self.layouts.devices.num_devices)? != 1 {
            return Ok(chunks);
        }
        let tree = self.info.offset(u64::from(self.layouts.info.mapping_tree.offset));
        let Some(layout) = Layout::of(&self.layouts) else {
            return Ok(chunks);
        };
        for found in context.kernel.rbtree(tree, layout.node)?.bounded(MAX_CHUNKS) {
            let found = found?;
            let map = match layout.map {
                Some(field) => mem.ptr(found, field)?,
                None => found,
            };
            let stripe = map.offset(u64::from(layout.stripes.offset));
            let is_whole = mem.uint(map, layout.kind)? & STRIPED == 0 && mem.int(map, layout.num_stripes)? > 0;
            if !is_whole || mem.ptr(stripe, self.layouts.stripe.dev)? != device {
                continue;
            }
            chunks.push(Chunk {
                start: mem.uint(found, layout.start)?,
                bytes: mem.uint(found, layout.bytes)?,
                physical: mem.uint(stripe, self.layouts.stripe.physical)?,
            });
        }
        Ok(chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_within_one_chunk() {
        let chunk = |start, bytes, physical| Chunk { start, bytes, physical };
        let chunks = [chunk(1 << 20, 1 << 20, 7 << 20), chunk(2 << 20, 1 << 20, 3 << 20)];
        assert_eq!(place(&chunks, (1 << 20) + 4096, 4096), Some((7 << 20) + 4096));
        assert_eq!(place(&chunks, (3 << 20) - 4096, 4096), Some((4 << 20) - 4096));
        assert_eq!(place(&chunks, (2 << 20) - 4096, 8192), None, "two chunks");
        assert_eq!(place(&chunks, 0, 4096), None);
        assert_eq!(place(&chunks, u64::MAX, 4096), None);
    }
}
