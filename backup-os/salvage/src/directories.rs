//! Directories that processes use, and those above their files: one that was made or renamed just before is not on the
//! disk yet, and what lies in it could not be found again.

use crate::addr::Kva;
use crate::btrfs;
use crate::context::Context;
use crate::dentry::{self, Path};
use crate::ext4;
use crate::ext4_dir;
use crate::inodes;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;
use crate::xfs::Xfs;
use shared_region::record::{Kind, Writer};

/// More names than a directory of this use has in memory.
const MAX_CHILDREN: u64 = 1 << 20;

crate::mirrors! {
    /// What is known of the names in a directory.
    #[allow(missing_docs)]
    pub struct Children = "dentry" {
        // Chains with one pointer as head from Linux 6.8 on (da549bdd15c2), lists before.
        d_children: Option<Field> = "d_children",
        d_sib: Option<Field> = "d_sib",
        d_subdirs: Option<Field> = "d_subdirs",
        d_child: Option<Field> = "d_child",
    }
}

/// Records a directory and those above it, as far as its file system goes.
///
/// # Errors
/// One cannot be read, or there is no room.
pub fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    path: &Path,
) -> Result<()> {
    // What is on a file system of a mount namespace's own is recorded with that.
    let Some(path) = dentry::in_first(context, path)? else {
        return Ok(());
    };
    from(context, writer, path.dentry, &path.bytes, path.depth)
}

/// Records the directories above a file, as far as its file system goes.
///
/// # Errors
/// As [`write`].
pub fn write_above<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    path: &Path,
) -> Result<()> {
    let Some(path) = dentry::in_first(context, path)? else {
        return Ok(());
    };
    let Some(depth) = path.depth.checked_sub(1) else {
        return Ok(());
    };
    let layout = &context.kernel.types.layouts.dentry;
    let parent = context.kernel.mem.ptr(path.dentry, layout.d_parent)?;
    from(context, writer, parent, parent_of(&path.bytes), depth)
}

fn from<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    dentry: Kva,
    path: &[u8],
    depth: usize,
) -> Result<()> {
    let (mut at, mut path) = (dentry, path);
    // A new file system in memory has another root directory; that of a disk is there.
    for left in (0..=depth).rev() {
        let layouts = &context.kernel.types.layouts;
        let mem = &context.kernel.mem;
        let inode = mem.ptr(at, layouts.dentry.d_inode)?;
        let superblock = mem.ptr(inode, layouts.inode.i_sb)?;
        let fstype = inodes::fs_type(context, superblock)?;
        let in_memory = inodes::is_in_memory(&fstype);
        let kept = in_memory || (left != 0 && inodes::is_on_disk(&fstype));
        if !kept || !context.first(Kind::Inode, inode.0) {
            return Ok(());
        }
        let ahead = match (
            Xfs::of(context, superblock)?,
            btrfs::of_inode(context, superblock, inode)?,
        ) {
            (Some(xfs), _) => xfs.is_ahead(context, inode)?,
            (_, Some(subvolume)) => subvolume.behind(context, inode)?.inode,
            _ => ext4::is_ext4(context, superblock)? && ext4::ahead_of_inode(context, inode, superblock)?,
        };
        let mut record = inodes::record(context, inode, superblock, fstype)?;
        record.path = path.to_vec();
        record.last_path = path.to_vec();
        record.dirty |= in_memory || ahead;
        writer.push(Kind::Inode, 1, 0, inode.0, &record)?;
        at = context
            .kernel
            .mem
            .ptr(at, context.kernel.types.layouts.dentry.d_parent)?;
        path = parent_of(path);
    }
    Ok(())
}

fn parent_of(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    match path.get(..end) {
        Some(parent) if !parent.is_empty() => parent,
        _ => b"/",
    }
}

/// Whoever has the name now that a deleted file had: the dentry and its inode.
///
/// # Errors
/// The directory cannot be read.
pub fn successor<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, path: &Path) -> Result<Option<(Kva, Kva)>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let parent = mem.ptr(path.dentry, layouts.dentry.d_parent)?;
    let wanted = dentry::name(context, path.dentry)?;
    let mut found = None;
    each_child(context, parent, |child| {
        let inode = mem.ptr(child, layouts.dentry.d_inode)?;
        let hashed = !mem.ptr(child, layouts.dentry.pprev)?.is_null();
        let has = child != path.dentry && hashed && !inode.is_null() && dentry::name(context, child)? == wanted;
        found = has.then_some((child, inode));
        Ok(!has)
    })?;
    Ok(found)
}

/// Shows the dentries of all names that are known in a directory, until it is told to end.
///
/// # Errors
/// They cannot be read, or what the caller says.
pub fn each_child<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    parent: Kva,
    mut show: impl FnMut(Kva) -> Result<bool>,
) -> Result<()> {
    let kernel = context.kernel;
    let children = &kernel.types.layouts.children;
    match (
        children.d_children,
        children.d_sib,
        children.d_subdirs,
        children.d_child,
    ) {
        (Some(head), Some(member), ..) => {
            let head = parent.offset(u64::from(head.offset));
            for child in kernel.hlist(head, member).bounded(MAX_CHILDREN) {
                if !show(child?)? {
                    break;
                }
            }
        }
        (.., Some(head), Some(member)) => {
            let head = parent.offset(u64::from(head.offset));
            for child in kernel.list(head, member).bounded(MAX_CHILDREN) {
                if !show(child?)? {
                    break;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Whether the directory of a deleted file, which is one of ext4, may still have its name.
///
/// # Errors
/// The directory cannot be read.
pub fn may_have_name<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, path: &Path) -> Result<bool> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let directory = mem.ptr(mem.ptr(path.dentry, layouts.dentry.d_parent)?, layouts.dentry.d_inode)?;
    let superblock = mem.ptr(directory, layouts.inode.i_sb)?;
    let name = dentry::name(context, path.dentry)?;
    ext4_dir::may_have(context, directory, superblock, &name)
}

#[cfg(test)]
mod tests {
    use super::parent_of;

    #[test]
    fn the_root_is_its_own_parent() {
        assert_eq!(parent_of(b"/a/b"), b"/a");
        assert_eq!(parent_of(b"/a"), b"/");
        assert_eq!(parent_of(b"/"), b"/");
    }
}
