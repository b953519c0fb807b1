//! Mount namespaces of processes (`fs/namespace.c`), as a service manager makes them: a copy of the first process's mounts, in
//! which parts are read-only, hidden, or somewhere else.
//!
//! What the first process's namespace shows as well is recorded by its path there. A file system that is nowhere else is
//! recorded whole, if it is one in memory without content, or one that the kernel makes.

use crate::addr::Kva;
use crate::context::Context;
use crate::dentry;
use crate::directories;
use crate::inodes::{self, S_IFMT, S_IFREG};
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::mounts;
use crate::mqueue;
use crate::namespaces;
use crate::refusal::{Refusal, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::{
    FileNode, InMountNamespace, MountNamespace, Mounted, NamespaceMount, CONTROL_FILE_SYSTEMS, CREDENTIALS,
};
use shared_region::reasons;
use shared_region::record::{Kind, Writer};

/// More mounts on top of each other than anybody makes.
const MAX_LAYERS: usize = 64;
/// Files in a file system of a namespace's own. The service manager allows 128 for devices.
const MAX_NODES: usize = 4096;
/// `S_IFLNK`.
const S_IFLNK: u64 = 0o120_000;
/// Longest target of a symbolic link.
const MAX_TARGET: usize = 4096;
/// Longest name of a device.
const MAX_NAME: usize = 4096;
/// Bytes of a page of tmpfs.
const PAGE: u64 = crate::addr::PAGE_SIZE;

crate::mirrors! {
    /// A mounted tmpfs.
    #[allow(missing_docs)]
    pub struct ShmemSbInfo = "shmem_sb_info" {
        max_blocks: Field,
        max_inodes: Field,
        mode: Field,
        uid: Field,
        gid: Field,
    }

    /// A mounted proc.
    #[allow(missing_docs)]
    pub struct ProcFsInfo = "proc_fs_info" {
        pid_ns: Field,
        pid_gid: Field,
        hide_pid: Field,
        pidonly: Field,
    }

    /// A symbolic link whose target is in memory.
    #[allow(missing_docs)]
    pub struct SymbolicLink = "inode" {
        i_link: Field,
    }
}

fn refuse(what: impl Into<String>) -> Refusal {
    Refusal::new(reasons::NS_MOUNT, what)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The namespace of a task.
///
/// # Errors
/// It cannot be read.
pub fn of_task<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<Kva> {
    namespaces::of_task(context, task, context.kernel.types.layouts.nsproxy.mnt_ns)
}

/// Notes the namespace of a process that is to be recorded, if it is not the first process's.
pub fn expect<M: PhysMem + ?Sized>(context: &mut Context<'_, '_, M>, leader: Kva) {
    // One that has ended has none; what cannot be read is refused later.
    let Ok(namespace) = of_task(context, leader) else {
        return;
    };
    let first = context.namespaces.mount;
    if !namespace.is_null() && !first.is_null() && namespace != first {
        context.mount_namespaces.insert(namespace);
    }
}

/// Records the namespace of a process, and that the process is in it.
///
/// # Errors
/// It cannot be made anew, or there is no room.
pub fn write_of_process<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    leader: Kva,
    tgid: u32,
) -> Result<()> {
    let namespace = of_task(context, leader)?;
    if namespace == context.namespaces.mount {
        return Ok(());
    }
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let root = mem.ptr(mem.ptr(leader, layouts.task.fs)?, layouts.fs.root_mnt)?;
    let root = root.back(u64::from(layouts.mount.mnt.offset));
    write(context, writer, namespace, root)?;
    write_membership(writer, u64::from(tgid), namespace)
}

/// Records that a process or an open file belongs to a namespace.
///
/// # Errors
/// There is no room.
pub fn write_membership(writer: &mut Writer<'_>, owner: u64, namespace: Kva) -> Result<()> {
    let record = InMountNamespace { namespace: namespace.0 };
    Ok(writer.push(Kind::InMountNamespace, 1, 0, owner, &record)?)
}

fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    namespace: Kva,
    root: Kva,
) -> Result<()> {
    if !context.first(Kind::MountNamespace, namespace.0) {
        return Ok(());
    }
    let owner = context
        .kernel
        .mem
        .ptr(namespace, context.kernel.types.layouts.mnt_namespace.user_ns)?;
    if owner != context.namespaces.user {
        return Err(refuse("it is of another user namespace than the first"));
    }
    let all = mounts::all(context, namespace);
    let visible = visible(context, namespace, &all)?;
    // Whose root directory lies lower would come in at another place than it left.
    if !visible.contains(&root) {
        return Err(refuse("its root directory is under another mount"));
    }
    let mut record = MountNamespace::default();
    for (index, &mount) in visible.iter().enumerate() {
        let described = one(context, &visible, index, mount);
        let name = || mountpoint(context, mount);
        record.mounts.push(described.map_err(|refusal| refusal.of(name))?);
    }
    Ok(writer.push(Kind::MountNamespace, 1, 0, namespace.0, &record)?)
}

fn mountpoint<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mount: Kva) -> String {
    let layout = &context.kernel.types.layouts.mount;
    let path = || -> Result<Vec<u8>> {
        let vfsmount = mount.offset(u64::from(layout.mnt.offset));
        Ok(dentry::of(context, vfsmount, context.kernel.mem.ptr(mount, layout.mnt_root)?)?.bytes)
    };
    format!("mount {}", text(&path().unwrap_or_default()))
}

/// The mounts that can be reached from where `setns` leads: each behind the one it lies on.
fn visible<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, namespace: Kva, all: &[Kva]) -> Result<Vec<Kva>> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.mount;
    let mem = &context.kernel.mem;
    let mut top = mem.ptr(namespace, layouts.mnt_namespace.root)?;
    let lies_at_root = |&mount: &Kva, below: Kva| -> Result<bool> {
        let is_on = mount != below && mem.ptr(mount, layout.mnt_parent)? == below;
        Ok(is_on && mem.ptr(mount, layout.mnt_mountpoint)? == mem.ptr(below, layout.mnt_root)?)
    };
    for _ in 0..MAX_LAYERS {
        match all.iter().find(|mount| lies_at_root(mount, top) == Ok(true)) {
            Some(&above) => top = above,
            None => break,
        }
    }
    let mut found = Vec::from([top]);
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        for &mount in all {
            let lies_on = mount != parent && mem.ptr(mount, layout.mnt_parent)? == parent;
            if lies_on && !found.contains(&mount) && !comes_by_itself(context, parent, mount)? {
                found.push(mount);
            }
        }
        at = at.saturating_add(1);
    }
    Ok(found)
}

/// Whether the next system mounts it for all, and this namespace as well.
fn comes_by_itself<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, parent: Kva, mount: Kva) -> Result<bool> {
    let layout = &context.kernel.types.layouts.mount;
    let mem = &context.kernel.mem;
    if mem.ptr(parent, layout.mnt_master)?.is_null() {
        return Ok(false);
    }
    let superblock = mem.ptr(mount, layout.mnt_sb)?;
    let path = shown(context, superblock, mem.ptr(mount, layout.mnt_root)?)?;
    let is_control = CONTROL_FILE_SYSTEMS.contains(&inodes::fs_type(context, superblock)?.as_slice());
    let is_credential = |path: &[u8]| {
        path.strip_prefix(CREDENTIALS)
            .is_some_and(|rest| rest.starts_with(b"/"))
    };
    Ok(path.is_some_and(|path| is_control || is_credential(&path)))
}

fn one<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    visible: &[Kva],
    index: usize,
    mount: Kva,
) -> Result<NamespaceMount> {
    let layout = &context.kernel.types.layouts.mount;
    let mem = &context.kernel.mem;
    let parent = mem.ptr(mount, layout.mnt_parent)?;
    let (on, at) = match index {
        0 => (0, b"/".to_vec()),
        _ => {
            let on = visible.iter().position(|&other| other == parent).unwrap_or(0);
            let from = mem.ptr(parent, layout.mnt_root)?;
            let at = between(context, from, mem.ptr(mount, layout.mnt_mountpoint)?)?;
            (on, at.ok_or_else(|| refuse("lies outside of the mount that it is on"))?)
        }
    };
    Ok(NamespaceMount {
        parent: on as u32,
        mountpoint: at,
        flags: mounts::flags(context, mount)?,
        follows: !mem.ptr(mount, layout.mnt_master)?.is_null(),
        leads: mem.uint(mount, layout.mnt_group_id)? != 0,
        what: mounted(context, visible.get(..index).unwrap_or_default(), mount)?,
    })
}

/// The path from one directory to what is in it; `None` if it is not.
fn between<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, from: Kva, to: Kva) -> Result<Option<Vec<u8>>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let (mut at, mut names) = (to, Vec::new());
    while at != from {
        let parent = mem.ptr(at, layouts.dentry.d_parent)?;
        if parent == at || names.len() > MAX_TARGET {
            return Ok(None);
        }
        names.push(dentry::name(context, at)?);
        at = parent;
    }
    Ok(Some(dentry::joined(&names)))
}

fn mounted<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, before: &[Kva], mount: Kva) -> Result<Mounted> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.mount;
    let mem = &context.kernel.mem;
    let root = mem.ptr(mount, layout.mnt_root)?;
    let superblock = mem.ptr(mount, layout.mnt_sb)?;
    let top_of_all = mem.ptr(root, layouts.dentry.d_parent)? == root;
    if !top_of_all && mem.ptr(root, layouts.dentry.pprev)?.is_null() {
        return Err(refuse("what is mounted there was deleted"));
    }
    if let Some(path) = shown(context, superblock, root)? {
        let inode = mem.ptr(root, layouts.dentry.d_inode)?;
        let fstype = inodes::fs_type(context, superblock)?;
        return Ok(Mounted::Shown {
            path,
            node: node(context, inode)?,
            number: match inodes::is_on_disk(&fstype) {
                true => mem.uint(inode, layouts.inode.i_ino)?,
                false => 0,
            },
        });
    }
    let is_of_it = |&other: &Kva| mem.ptr(other, layout.mnt_sb) == Ok(superblock);
    if let Some(of) = before.iter().position(is_of_it) {
        let path = mounts::within(context, root)?;
        return Ok(Mounted::Part { of: of as u32, path });
    }
    if !top_of_all {
        return Err(refuse("a part of a file system that is mounted nowhere as a whole"));
    }
    own(context, mount, superblock, root)
}

/// The path in the first process's namespace of something on a file system, if it has one.
fn shown<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva, root: Kva) -> Result<Option<Vec<u8>>> {
    let layout = &context.kernel.types.layouts.mount;
    let mem = &context.kernel.mem;
    for mount in mounts::all(context, context.namespaces.mount) {
        let is_of_it = mem.ptr(mount, layout.mnt_sb)? == superblock;
        if !is_of_it || between(context, mem.ptr(mount, layout.mnt_root)?, root)?.is_none() {
            continue;
        }
        let path = dentry::of(context, mount.offset(u64::from(layout.mnt.offset)), root)?;
        if !path.detached {
            return Ok(Some(path.bytes));
        }
    }
    Ok(None)
}

fn own<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mount: Kva, superblock: Kva, root: Kva) -> Result<Mounted> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let fstype = inodes::fs_type(context, superblock)?;
    let source = mem.cstr(mem.ptr(mount, layouts.mount.mnt_devname)?, MAX_NAME)?;
    if fstype == b"mqueue" {
        return Ok(Mounted::Queues {
            namespace: mqueue::namespace_of(context, superblock)?.0,
            source,
            root: node(context, mem.ptr(root, layouts.dentry.d_inode)?)?,
        });
    }
    let info = mem.ptr(superblock, layouts.super_block.s_fs_info)?;
    if let (b"proc", Some(layout)) = (fstype.as_slice(), &layouts.proc_fs_info) {
        let namespace = mem.ptr(info, layout.pid_ns)?;
        if namespace != context.namespaces.pid() {
            return Ok(Mounted::Processes {
                namespace: namespace.0,
                source,
                flags: mounts::flags_of_file_system(context, superblock)?,
                options: proc_options(context, layout, info)?.into_bytes(),
            });
        }
    }
    let (options, nodes) = match (fstype.as_slice(), &layouts.shmem_sb_info, &layouts.proc_fs_info) {
        (b"tmpfs", Some(layout), _) => (tmpfs_options(context, layout, info)?, content(context, root)?),
        (b"proc", _, Some(layout)) => (proc_options(context, layout, info)?, Vec::new()),
        _ => return Err(refuse(format!("{} that is mounted nowhere else", text(&fstype)))),
    };
    Ok(Mounted::Own {
        source,
        flags: mounts::flags_of_file_system(context, superblock)?,
        fstype,
        options: options.into_bytes(),
        nodes,
    })
}

fn tmpfs_options<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, layout: &ShmemSbInfo, info: Kva) -> Result<String> {
    let field = |field: Field| context.kernel.mem.uint(info, field);
    let mode = field(layout.mode)? & 0o7777;
    let (uid, gid) = (field(layout.uid)?, field(layout.gid)?);
    let mut options = format!("mode={mode:o},uid={uid},gid={gid}");
    // 0: no limit, which the options say in the same way.
    let bytes = field(layout.max_blocks)?.saturating_mul(PAGE);
    options.push_str(&format!(",size={bytes},nr_inodes={}", field(layout.max_inodes)?));
    Ok(options)
}

fn proc_options<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, layout: &ProcFsInfo, info: Kva) -> Result<String> {
    let field = |field: Field| context.kernel.mem.uint(info, field);
    let mut options = format!("hidepid={},gid={}", field(layout.hide_pid)?, field(layout.pid_gid)?);
    if field(layout.pidonly)? != 0 {
        options.push_str(",subset=pid");
    }
    Ok(options)
}

/// Everything in a tmpfs: all its names are in memory.
fn content<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, root: Kva) -> Result<Vec<(Vec<u8>, FileNode)>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let mut found: Vec<(Kva, Vec<u8>, FileNode)> = Vec::new();
    let of_root = node(context, mem.ptr(root, layouts.dentry.d_inode)?)?;
    found.push((root, b"/".to_vec(), of_root));
    let mut at = 0;
    while let Some((directory, above, _)) = found.get(at).cloned() {
        let above = if above == b"/" { Vec::new() } else { above };
        directories::each_child(context, directory, |child| {
            let inode = mem.ptr(child, layouts.dentry.d_inode)?;
            if inode.is_null() || mem.ptr(child, layouts.dentry.pprev)?.is_null() {
                return Ok(true);
            }
            if found.len() >= MAX_NODES {
                return Err(refuse(format!(
                    "more than {MAX_NODES} files in a file system of its own"
                )));
            }
            let path = [&above, &b"/"[..], &dentry::name(context, child)?].concat();
            let mode = mem.uint(inode, layouts.inode.i_mode)? & S_IFMT;
            if mode == S_IFREG && mem.uint(inode, layouts.inode.i_size)? != 0 {
                let name = text(&path);
                return Err(refuse(format!("{name} with content, in a file system of its own")));
            }
            found.push((child, path, node(context, inode)?));
            Ok(true)
        })?;
        at = at.saturating_add(1);
    }
    Ok(found.into_iter().map(|(_, path, node)| (path, node)).collect())
}

fn node<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<FileNode> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let field = |field| mem.uint(inode, field);
    let mode = field(layouts.inode.i_mode)?;
    let target = match mode & S_IFMT {
        S_IFLNK => mem.cstr(mem.ptr(inode, layouts.symbolic_link.i_link)?, MAX_TARGET)?,
        _ => Vec::new(),
    };
    Ok(FileNode {
        mode: mode as u32,
        uid: field(layouts.inode.i_uid)? as u32,
        gid: field(layouts.inode.i_gid)? as u32,
        rdev: field(layouts.inode.i_rdev)?,
        target,
    })
}
