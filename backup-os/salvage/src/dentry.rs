//! Names of files: dentries and mounts into paths (`fs/d_path.c`).

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::mounts;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::reasons;

/// Names in a path; `PATH_MAX` is 4096 bytes.
const MAX_DEPTH: usize = 4096;
/// Names of one file that are looked at; ext4 allows 65,000.
const MAX_ALIASES: u64 = 1 << 16;
/// `NAME_MAX`.
const MAX_NAME: u64 = 255;

crate::mirrors! {
    /// A name.
    #[allow(missing_docs)]
    pub struct Dentry = "dentry" {
        pprev: Field = "d_hash.pprev",
        d_parent: Field,
        name: Field = "d_name.name",
        len: Field = "d_name.len",
        d_inode: Field,
        d_alias: Field = "d_u.d_alias",
    }

    /// A mount.
    #[allow(missing_docs)]
    pub struct MountLayout = "mount" {
        mnt_parent: Field,
        mnt_mountpoint: Field,
        mnt: Field,
        mnt_root: Field = "mnt.mnt_root",
        mnt_sb: Field = "mnt.mnt_sb",
        mnt_flags: Field = "mnt.mnt_flags",
        mnt_devname: Field,
        mnt_ns: Field,
        mnt_id: Field,
        // A list up to Linux 6.8 (2eea9ce4310d), then a tree.
        mnt_list: Field = "mnt_list",
        mnt_group_id: Field,
        mnt_master: Field,
        mnt_node: Option<Field> = "mnt_node",
    }

    /// A mount namespace.
    #[allow(missing_docs)]
    pub struct MntNamespace = "mnt_namespace" {
        root: Field,
        user_ns: Field,
        list: Option<Field> = "list",
        mounts: Field,
    }
}

/// The name of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// From the root of the mount namespace. Of a deleted file, the last one.
    pub bytes: Vec<u8>,
    /// No name leads to the file by this path any more.
    pub deleted: bool,
    /// The path does not begin at the root of a mount namespace that is kept: the object has no name in one.
    pub detached: bool,
    /// The mount namespace that the path belongs to, if that is not the first process's but is kept.
    pub namespace: Option<Kva>,
    /// The dentry.
    pub dentry: Kva,
    /// How many of the last names belong to the mount the file lies on.
    pub depth: usize,
}

/// The path of an open file.
///
/// # Errors
/// The names are torn.
pub fn of_file<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, file: Kva) -> Result<Path> {
    let layout = &context.kernel.types.layouts.file;
    let mem = &context.kernel.mem;
    of(
        context,
        mem.ptr(file, layout.path_mnt)?,
        mem.ptr(file, layout.path_dentry)?,
    )
}

/// The path of a dentry under a `vfsmount`.
///
/// # Errors
/// The names are torn.
pub fn of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, vfsmount: Kva, dentry: Kva) -> Result<Path> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let first = dentry;
    let mut dentry = dentry;
    let mut mount = vfsmount.back(u64::from(layouts.mount.mnt.offset));
    let mut names: Vec<Vec<u8>> = Vec::new();
    let (mut steps, mut depth) = (0usize, None);
    let namespace = loop {
        steps = steps.saturating_add(1);
        if steps > MAX_DEPTH {
            return Err(Refusal::new(reasons::UNREADABLE, "a path without end"));
        }
        if dentry == mem.ptr(mount, layouts.mount.mnt_root)? {
            depth.get_or_insert(names.len());
            let parent = mem.ptr(mount, layouts.mount.mnt_parent)?;
            if parent == mount {
                break mem.ptr(mount, layouts.mount.mnt_ns)?;
            }
            dentry = mem.ptr(mount, layouts.mount.mnt_mountpoint)?;
            mount = parent;
            continue;
        }
        let parent = mem.ptr(dentry, layouts.dentry.d_parent)?;
        names.push(name(context, dentry)?);
        if parent == dentry {
            break Kva::NULL;
        }
        dentry = parent;
    };
    let bytes = joined(&names);
    // `d_unlinked`: out of the hash, and not the root of a file system.
    let unhashed = mem.ptr(first, layouts.dentry.pprev)?.is_null();
    let deleted = unhashed && mem.ptr(first, layouts.dentry.d_parent)? != first;
    let kept = Some(namespace).filter(|namespace| context.mount_namespaces.contains(namespace));
    Ok(Path {
        bytes,
        deleted,
        detached: kept.is_none() && namespace != context.namespaces.mount,
        namespace: kept,
        dentry: first,
        depth: depth.unwrap_or(0),
    })
}

/// The path of names that were met on the way up.
pub fn joined(names: &[Vec<u8>]) -> Vec<u8> {
    let mut path = Vec::new();
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    path
}

/// The same object's path in the first process's mount namespace; `None` if its file system is not mounted there.
///
/// # Errors
/// The names are torn.
pub fn in_first<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, path: &Path) -> Result<Option<Path>> {
    if path.namespace.is_none() {
        return Ok(Some(path.clone()));
    }
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let inode = mem.ptr(path.dentry, layouts.dentry.d_inode)?;
    let Some(vfsmount) = mounts::showing(context, mem.ptr(inode, layouts.inode.i_sb)?, path.dentry)? else {
        return Ok(None);
    };
    let found = of(context, vfsmount, path.dentry)?;
    Ok(Some(found).filter(|found| !found.detached))
}

/// A path of an inode of a file system that is mounted in the first process's namespace as a whole, or the subvolume of btrfs that has it; `None` if no name of it
/// is in memory.
///
/// # Errors
/// The names are torn.
pub fn of_inode<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    superblock: Kva,
    inode: Kva,
) -> Result<Option<Path>> {
    let layouts = &context.kernel.types.layouts;
    let names = inode.offset(u64::from(layouts.inode.i_dentry.offset));
    for dentry in context.kernel.hlist(names, layouts.dentry.d_alias).bounded(MAX_ALIASES) {
        let dentry = dentry?;
        let Some(vfsmount) = mounts::showing(context, superblock, dentry)? else {
            return Ok(None);
        };
        let path = of(context, vfsmount, dentry)?;
        if !path.deleted && !path.detached {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// How many names of an inode are in memory.
///
/// # Errors
/// They are torn.
pub fn count_of_inode<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<u64> {
    let layouts = &context.kernel.types.layouts;
    let names = inode.offset(u64::from(layouts.inode.i_dentry.offset));
    let mut count = 0u64;
    for dentry in context.kernel.hlist(names, layouts.dentry.d_alias).bounded(MAX_ALIASES) {
        let is_hashed = !context.kernel.mem.ptr(dentry?, layouts.dentry.pprev)?.is_null();
        count = count.saturating_add(u64::from(is_hashed));
    }
    Ok(count)
}

/// One name.
pub fn name<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, dentry: Kva) -> Result<Vec<u8>> {
    let layout = &context.kernel.types.layouts.dentry;
    let mem = &context.kernel.mem;
    let len = mem.uint(dentry, layout.len)?;
    if len > MAX_NAME {
        return Err(Refusal::new(
            reasons::UNREADABLE,
            alloc::format!("a name of {len} bytes"),
        ));
    }
    Ok(mem.bytes(mem.ptr(dentry, layout.name)?, len as usize)?)
}
