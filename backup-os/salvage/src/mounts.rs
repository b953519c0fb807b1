//! The mounts of the first process's namespace (`fs/mount.h`).

use crate::addr::Kva;
use crate::btrfs::{self, Btrfs};
use crate::context::Context;
use crate::dentry;
use crate::ext4;
use crate::memory::PhysMem;
use crate::refusal::Result;
use alloc::vec::Vec;
use shared_region::context::Mount;

/// More mounts than `fs.mount-max` allows.
const MAX_MOUNTS: u64 = 1 << 20;
/// Names in a path; `PATH_MAX` is 4096 bytes.
const MAX_DEPTH: usize = 4096;
/// Longest name of a device or file system type.
const MAX_NAME: usize = 4096;
/// `MNT_*` flags that have an `MS_*` counterpart (`include/linux/mount.h`, `include/uapi/linux/mount.h`).
const FLAGS: [(u64, u64); 8] = [
    (0x01, 2),       // nosuid
    (0x02, 4),       // nodev
    (0x04, 8),       // noexec
    (0x08, 1024),    // noatime
    (0x10, 2048),    // nodiratime
    (0x20, 1 << 21), // relatime
    (0x40, 1),       // read-only
    (0x80, 256),     // nosymfollow
];
/// `SB_*` flags that equal their `MS_*` counterparts: read-only, synchronous, mandatory locks, dirsync, lazytime.
const SUPERBLOCK_FLAGS: u64 = 1 | 16 | 64 | 128 | 1 << 25;

/// All mounts; those that cannot be read are left out.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>) -> Vec<Mount> {
    all(context, context.namespaces.mount)
        .into_iter()
        .filter_map(|at| mount(context, at).ok())
        .collect()
}

/// The `vfsmount` of a mount of a whole file system.
pub fn of_whole<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Option<Kva> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let is_whole = |at: &Kva| -> Result<bool> {
        let root = mem.ptr(*at, layouts.mount.mnt_root)?;
        Ok(mem.ptr(*at, layouts.mount.mnt_sb)? == superblock && mem.ptr(root, layouts.dentry.d_parent)? == root)
    };
    let found = all(context, context.namespaces.mount)
        .into_iter()
        .find(|at| is_whole(at) == Ok(true))?;
    Some(found.offset(u64::from(layouts.mount.mnt.offset)))
}

/// The number of the subvolume that has a dentry for its root directory, if one has.
fn subvolume_at<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, btrfs: &Btrfs, root: Kva) -> Result<Option<u64>> {
    let layouts = &context.kernel.types.layouts;
    let inode = context.kernel.mem.ptr(root, layouts.dentry.d_inode)?;
    match context.kernel.mem.uint(inode, layouts.inode.i_ino)? {
        btrfs::ROOT => btrfs.number_of(context, inode),
        _ => Ok(None),
    }
}

/// The `vfsmount` of a mount in the first process's namespace, of a whole file system or a whole subvolume of btrfs, that shows a dentry.
///
/// # Errors
/// The file system cannot be read.
pub fn showing<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva, dentry: Kva) -> Result<Option<Kva>> {
    if let Some(whole) = of_whole(context, superblock) {
        return Ok(Some(whole));
    }
    let Some(btrfs) = Btrfs::of(context, superblock)? else {
        return Ok(None);
    };
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    for mount in all(context, context.namespaces.mount) {
        let root = mem.ptr(mount, layouts.mount.mnt_root)?;
        let is_of_it = mem.ptr(mount, layouts.mount.mnt_sb)? == superblock;
        if is_of_it && subvolume_at(context, &btrfs, root)?.is_some() && is_below(context, dentry, root)? {
            return Ok(Some(mount.offset(u64::from(layouts.mount.mnt.offset))));
        }
    }
    Ok(None)
}

/// Whether one dentry is another or lies below it.
fn is_below<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, dentry: Kva, root: Kva) -> Result<bool> {
    let mut at = dentry;
    for _ in 0..MAX_DEPTH {
        if at == root {
            return Ok(true);
        }
        let parent = context
            .kernel
            .mem
            .ptr(at, context.kernel.types.layouts.dentry.d_parent)?;
        if parent == at {
            break;
        }
        at = parent;
    }
    Ok(false)
}

/// The mounts of a namespace (`struct mount`), as far as its list is whole.
pub fn all<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, namespace: Kva) -> Vec<Kva> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    if namespace.is_null() {
        return Vec::new();
    }
    match (layouts.mnt_namespace.list, layouts.mount.mnt_node) {
        (None, Some(node)) => {
            let root = namespace.offset(u64::from(layouts.mnt_namespace.mounts.offset));
            kernel
                .rbtree(root, node)
                .into_iter()
                .flat_map(|tree| tree.bounded(MAX_MOUNTS).flatten())
                .collect()
        }
        (Some(list), _) => {
            let head = namespace.offset(u64::from(list.offset));
            kernel
                .list(head, layouts.mount.mnt_list)
                .bounded(MAX_MOUNTS)
                .flatten()
                .collect()
        }
        (None, None) => Vec::new(),
    }
}

fn mount<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, at: Kva) -> Result<Mount> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let layout = &layouts.mount;
    let mem = &kernel.mem;
    let superblock = mem.ptr(at, layout.mnt_sb)?;
    let root = mem.ptr(at, layout.mnt_root)?;
    let vfsmount = at.offset(u64::from(layout.mnt.offset));
    let parent = mem.ptr(at, layout.mnt_parent)?;
    let btrfs = Btrfs::of(context, superblock).ok().flatten();
    let subvolume = btrfs
        .as_ref()
        .map_or(Ok(None), |btrfs| subvolume_at(context, btrfs, root))?;
    let of_btrfs = btrfs.and_then(|btrfs| btrfs.device_name(context).ok());
    let of_mount = || mem.cstr(mem.ptr(at, layout.mnt_devname).ok()?, MAX_NAME).ok();
    Ok(Mount {
        id: mem.uint(at, layout.mnt_id)? as u32,
        parent: mem.uint(parent, layout.mnt_id)? as u32,
        source: of_btrfs.or_else(of_mount).unwrap_or_default(),
        fstype: crate::inodes::fs_type(context, superblock)?,
        root: within(context, root)?,
        mountpoint: dentry::of(context, vfsmount, root)?.bytes,
        flags: flags(context, at)? | flags_of_file_system(context, superblock)?,
        device: mem.uint(superblock, layouts.super_block.s_dev)?,
        options: match subvolume {
            // By number, whatever its name is on the disk.
            Some(number) => alloc::format!("subvolid={number}").into_bytes(),
            None if ext4::is_ext4(context, superblock)? => ext4::data_options(context, superblock)?.into(),
            None => Vec::new(),
        },
    })
}

/// MS_* flags of a mount.
///
/// # Errors
/// It cannot be read.
pub fn flags<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mount: Kva) -> Result<u64> {
    let flags = context
        .kernel
        .mem
        .uint(mount, context.kernel.types.layouts.mount.mnt_flags)?;
    let set = FLAGS.iter().filter(|(mnt, _)| flags & mnt != 0);
    Ok(set.fold(0, |all, (_, flag)| all | flag))
}

/// MS_* flags of a file system.
///
/// # Errors
/// It cannot be read.
pub fn flags_of_file_system<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<u64> {
    let layouts = &context.kernel.types.layouts;
    Ok(context.kernel.mem.uint(superblock, layouts.super_block.s_flags)? & SUPERBLOCK_FLAGS)
}

/// The path of a dentry within its file system.
///
/// # Errors
/// The names are torn.
pub fn within<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, dentry: Kva) -> Result<Vec<u8>> {
    let layout = &context.kernel.types.layouts.dentry;
    let mut names = Vec::new();
    let mut at = dentry;
    for _ in 0..MAX_DEPTH {
        let parent = context.kernel.mem.ptr(at, layout.d_parent)?;
        if parent == at {
            break;
        }
        names.push(dentry::name(context, at)?);
        at = parent;
    }
    Ok(dentry::joined(&names))
}
