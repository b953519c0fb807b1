//! The subvolumes of a mounted btrfs that are in memory (`fs_info->fs_roots_radix`). One that is not there has not changed.

use super::{FileSystem, Layouts, Subvolume, NAME};
use crate::addr::Kva;
use crate::context::Context;
use crate::inodes;
use crate::memory::PhysMem;
use crate::refusal::{Refusal, Result};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use shared_region::reasons;

/// Number of the root directory of each (`BTRFS_FIRST_FREE_OBJECTID`).
pub const ROOT: u64 = 256;
/// Number of the one that a file system has from the start (`BTRFS_FS_TREE_OBJECTID`).
const FIRST: u64 = 5;
/// Numbers of the others; from the last on they are those of groups of quotas (`is_fstree`).
const FURTHER: core::ops::Range<u64> = 256..1 << 48;
/// Trees of one file system in memory.
const MAX_ROOTS: usize = 1 << 16;

/// A mounted btrfs.
#[derive(Clone, Debug)]
pub struct Btrfs {
    of: FileSystem,
    /// By number; of one that cannot be read, why.
    subvolumes: BTreeMap<u64, Result<Rc<Subvolume>>>,
    /// Numbers of those that were deleted since the last commit.
    pub deleted: Vec<u64>,
}

/// The subvolume of an inode; `None` if its file system is no btrfs, its structures are not known, or it is no file of one.
///
/// # Errors
/// It cannot be read.
pub fn of_inode<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    superblock: Kva,
    inode: Kva,
) -> Result<Option<Rc<Subvolume>>> {
    match Btrfs::of(context, superblock)? {
        Some(btrfs) => btrfs.subvolume_of(context, inode),
        None => Ok(None),
    }
}

impl Btrfs {
    /// That of a superblock; `None` if it is none, or its structures are not known, or an ordinary boot is to put files back,
    /// which does not work on one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<Option<Rc<Self>>> {
        if context.input.by_file || inodes::fs_type(context, superblock)? != NAME.as_bytes() {
            return Ok(None);
        }
        context.btrfs(superblock, |layouts| Self::read(context, superblock, layouts))
    }

    fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva, layouts: Rc<Layouts>) -> Result<Self> {
        let mem = &context.kernel.mem;
        let info = mem.ptr(superblock, context.kernel.types.layouts.super_block.s_fs_info)?;
        let of = FileSystem {
            superblock,
            info,
            committed: mem.uint(info, layouts.info.last_trans_committed)?,
            layouts,
        };
        let mut found = Self {
            of,
            subvolumes: BTreeMap::new(),
            deleted: Vec::new(),
        };
        let roots = info.offset(u64::from(found.of.layouts.info.fs_roots_radix.offset));
        let mut devices = BTreeMap::new();
        for entry in context.kernel.xarray(roots)?.within(FIRST, FURTHER.end).take(MAX_ROOTS) {
            let entry = entry?;
            if !is_subvolume(entry.index) {
                continue;
            }
            match found.device(context, (entry.index, Kva(entry.value))) {
                Ok(Some(device)) => drop(devices.insert(entry.index, (Kva(entry.value), device))),
                Ok(None) => {}
                Err(why) => drop(found.subvolumes.insert(entry.index, Err(why))),
            }
        }
        for (&number, &(root, device)) in &devices {
            // Files of two would be taken for one another's.
            let is_unique = devices.values().filter(|other| other.1 == device).count() == 1;
            let read = match is_unique {
                true => Subvolume::read(context, found.of.clone(), (number, root), device).map(Rc::new),
                false => Err(Refusal::new(reasons::UNREADABLE, "its device number")),
            };
            found.subvolumes.insert(number, read);
        }
        Ok(found)
    }

    /// The device number of a subvolume in memory; `None` if it was deleted.
    fn device<M: PhysMem + ?Sized>(
        &mut self,
        context: &Context<'_, '_, M>,
        (number, root): (u64, Kva),
    ) -> Result<Option<u64>> {
        let mem = &context.kernel.mem;
        let layout = &self.of.layouts.root;
        if mem.uint(root, layout.objectid)? != number {
            return Err(Refusal::new(reasons::UNREADABLE, "its number"));
        }
        if mem.uint(root, layout.refs)? == 0 {
            if mem.uint(root, layout.last_trans)? > self.of.committed {
                self.deleted.push(number);
            }
            return Ok(None);
        }
        let of_superblock = context.kernel.types.layouts.super_block.s_dev;
        let device = match number {
            FIRST => mem.uint(self.of.superblock, of_superblock)?,
            _ => mem.uint(root, layout.anon_dev)?,
        };
        match device {
            0 => Err(Refusal::new(reasons::UNREADABLE, "its device number")),
            _ => Ok(Some(device)),
        }
    }

    /// All of them, by number; of one that cannot be read, why.
    pub fn subvolumes(&self) -> impl Iterator<Item = (u64, &Result<Rc<Subvolume>>)> {
        self.subvolumes.iter().map(|(&number, read)| (number, read))
    }

    /// The name of the device, as it was given when the file system was mounted. What a mount says need not be one: up to Linux 6.7 it
    /// is; that of 6.12 is `none`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn device_name<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>) -> Result<Vec<u8>> {
        self.of.device_name(context)
    }

    /// The number of the subvolume that an inode is of; `None` if it is not a file of one, or was being made and is not one yet.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn number_of<M: PhysMem + ?Sized>(&self, context: &Context<'_, '_, M>, inode: Kva) -> Result<Option<u64>> {
        let mem = &context.kernel.mem;
        let root = mem.ptr(self.of.own(inode), self.of.layouts.inode.root)?;
        if root.is_null() {
            return Ok(None);
        }
        let number = mem.uint(root, self.of.layouts.root.objectid)?;
        Ok(Some(number).filter(|&number| is_subvolume(number)))
    }

    /// The subvolume that an inode is of; `None` as for [`Self::number_of`], and if it was deleted.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn subvolume_of<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        inode: Kva,
    ) -> Result<Option<Rc<Subvolume>>> {
        let number = self.number_of(context, inode)?;
        let Some(read) = number.and_then(|number| self.subvolumes.get(&number)) else {
            return Ok(None);
        };
        let subvolume = read.clone()?;
        match subvolume.has(context, inode)? {
            true => Ok(Some(subvolume)),
            false => Err(Refusal::new(reasons::UNREADABLE, "its subvolume")),
        }
    }
}

fn is_subvolume(number: u64) -> bool {
    number == FIRST || FURTHER.contains(&number)
}

#[cfg(test)]
mod tests {
    use super::is_subvolume;

    #[test]
    fn trees_of_the_file_system_itself_are_no_subvolumes() {
        assert!(is_subvolume(5) && is_subvolume(256) && is_subvolume(1 << 47));
        // The device tree, a group of quotas, the tree for data that is being moved (`BTRFS_DATA_RELOC_TREE_OBJECTID`).
        assert!(!is_subvolume(4) && !is_subvolume(7) && !is_subvolume(1 << 48) && !is_subvolume(9u64.wrapping_neg()));
    }
}
