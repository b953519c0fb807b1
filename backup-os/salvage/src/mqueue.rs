//! POSIX message queues (`ipc/mqueue.c`) of an IPC namespace. They belong to no process: all are kept.

use crate::addr::Kva;
use crate::context::Context;
use crate::dentry;
use crate::inodes;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use crate::sysv_ipc;
use alloc::format;
use alloc::vec::Vec;
use shared_region::context::{IpcObject, Lost, PosixQueue};
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

/// More queues, priorities, messages or waiters than there are.
const MAX_LINKS: u64 = 1 << 20;

crate::mirrors! {
    /// The queues of a namespace.
    #[allow(missing_docs)]
    pub struct QueuesOfNamespace = "ipc_namespace" {
        mq_mnt: Field,
    }

    /// A queue.
    #[allow(missing_docs)]
    pub struct MqueueInodeInfo = "mqueue_inode_info" {
        vfs_inode: Field,
        lock: Field,
        msg_tree: Field,
        mq_maxmsg: Field = "attr.mq_maxmsg",
        mq_msgsize: Field = "attr.mq_msgsize",
        notify_owner: Field,
        e_wait_q: Field,
    }

    /// The messages of a priority.
    #[allow(missing_docs)]
    pub struct PosixMsgTreeNode = "posix_msg_tree_node" {
        rb_node: Field,
        msg_list: Field,
        priority: Field,
    }

    /// A task that waits for a message, or for room.
    #[allow(missing_docs)]
    pub struct ExtWaitQueue = "ext_wait_queue" {
        task: Field,
        list: Field,
        state: Field,
    }
}

fn unknown() -> Refusal {
    Refusal::new(reasons::UNKNOWN, "POSIX message queues")
}

/// Writes every queue of the first namespace that has a name. Returns what is not among them.
pub fn write_all<M: PhysMem + ?Sized>(context: &mut Context<'_, '_, M>, writer: &mut Writer<'_>) -> Vec<Lost> {
    let mut lost = Vec::new();
    let Some(namespace) = context.kernel.prepared.globals.init_ipc_ns else {
        return lost;
    };
    let inodes = queues(context, namespace).unwrap_or_else(|refusal| {
        lost.push(refusal.lost_of("POSIX message queues of the machine".into()));
        Vec::new()
    });
    for inode in inodes {
        let (mark, checkpoint) = (writer.mark(), context.checkpoint());
        if let Err(refusal) = write(context, writer, inode) {
            writer.rewind(mark);
            context.rollback(checkpoint);
            let name = name(context, inode).map(|(name, _)| name).unwrap_or_default();
            let name = alloc::string::String::from_utf8_lossy(&name).into_owned();
            lost.push(refusal.lost_of(format!("POSIX message queue {name}")));
        }
    }
    lost
}

/// Writes every queue of another namespace than the first.
///
/// # Errors
/// As [`write`].
pub fn write_of_namespace<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    namespace: Kva,
) -> Result<()> {
    for inode in queues(context, namespace)? {
        write(context, writer, inode)?;
        let object = IpcObject::PosixQueue(inode.0);
        writer.push(Kind::IpcObject, 1, flags::MUST_UNDERSTAND, namespace.0, &object)?;
    }
    Ok(())
}

/// The namespace of the queues of a file system.
///
/// # Errors
/// It cannot be read.
pub fn namespace_of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<Kva> {
    let field = context.kernel.types.layouts.super_block.s_fs_info;
    Ok(context.kernel.mem.ptr(superblock, field)?)
}

/// Writes a queue that a process has open, by its inode.
///
/// # Errors
/// As [`write`]; or it belongs to a namespace that is not recorded.
pub fn write_opened<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    inode: Kva,
) -> Result<()> {
    let superblock = context.kernel.mem.ptr(inode, context.kernel.types.layouts.inode.i_sb)?;
    let namespace = namespace_of(context, superblock)?;
    let is_first = Some(namespace) == context.kernel.prepared.globals.init_ipc_ns;
    if !is_first && !context.is_written(Kind::Namespace, namespace.0) {
        return Err(Refusal::new(
            reasons::POSIX_MQUEUE,
            "it is of an IPC namespace that the process is not in",
        ));
    }
    write(context, writer, inode)
}

/// The inodes of all queues of a namespace.
fn queues<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, namespace: Kva) -> Result<Vec<Kva>> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    // A kernel without POSIX message queues has none of these.
    let Some(of_namespace) = &layouts.queues_of_namespace else {
        return Ok(Vec::new());
    };
    let mount = kernel.mem.ptr(namespace, of_namespace.mq_mnt)?;
    if mount.is_null() {
        return Ok(Vec::new());
    }
    let mount = mount.back(u64::from(layouts.mount.mnt.offset));
    let superblock = kernel.mem.ptr(mount, layouts.mount.mnt_sb)?;
    let head = superblock.offset(u64::from(layouts.super_block.s_inodes.offset));
    let mut found = Vec::new();
    for inode in kernel.list(head, layouts.inode.i_sb_list).bounded(MAX_LINKS) {
        let inode = inode?;
        if kernel.mem.uint(inode, layouts.inode.i_mode)? & inodes::S_IFMT == inodes::S_IFREG {
            found.push(inode);
        }
    }
    Ok(found)
}

/// Writes a queue, by its inode.
///
/// # Errors
/// Somebody waits to be told of a message, or it cannot be read, or there is no room.
fn write<M: PhysMem + ?Sized>(context: &mut Context<'_, '_, M>, writer: &mut Writer<'_>, inode: Kva) -> Result<()> {
    if !context.first(Kind::PosixQueue, inode.0) {
        return Ok(());
    }
    let record = read(context, inode)?;
    Ok(writer.push(Kind::PosixQueue, 1, flags::MUST_UNDERSTAND, inode.0, &record)?)
}

/// The last name, and whether it is one still.
fn name<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<(Vec<u8>, bool)> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let names = inode.offset(u64::from(layouts.inode.i_dentry.offset));
    let first = kernel.hlist(names, layouts.dentry.d_alias).bounded(1).next();
    match first {
        Some(dentry) => {
            let dentry = dentry?;
            let unlinked = kernel.mem.ptr(dentry, layouts.dentry.pprev)?.is_null();
            Ok((dentry::name(context, dentry)?, unlinked))
        }
        None => Err(Refusal::new(reasons::POSIX_MQUEUE, "without a name")),
    }
}

fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva) -> Result<PosixQueue> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let (Some(layout), Some(node), Some(message)) = (
        &layouts.mqueue_inode_info,
        &layouts.posix_msg_tree_node,
        &layouts.msg_msg,
    ) else {
        return Err(unknown());
    };
    let mem = &kernel.mem;
    let info = inode.back(u64::from(layout.vfs_inode.offset));
    if mem.u32(info.offset(u64::from(layout.lock.offset)))? != 0 {
        return Err(Refusal::new(
            reasons::UNREADABLE,
            "a message queue that was being changed",
        ));
    }
    if !mem.ptr(info, layout.notify_owner)?.is_null() {
        return Err(Refusal::new(
            reasons::POSIX_MQUEUE,
            "somebody asked to be told of a message (mq_notify)",
        ));
    }
    let tree = info.offset(u64::from(layout.msg_tree.offset));
    let mut priorities = Vec::new();
    for at in kernel.rbtree(tree, node.rb_node)?.bounded(MAX_LINKS) {
        priorities.push(at?);
    }
    let mut messages = Vec::new();
    for at in priorities.into_iter().rev() {
        let priority = mem.uint(at, node.priority)? as u32;
        let head = at.offset(u64::from(node.msg_list.offset));
        for text in kernel.list(head, message.m_list).bounded(MAX_LINKS) {
            messages.push((priority, sysv_ipc::text(context, text?)?));
        }
    }
    let (name, unlinked) = name(context, inode)?;
    let field = |field| mem.uint(inode, field);
    Ok(PosixQueue {
        name,
        unlinked,
        mode: (field(layouts.inode.i_mode)? & 0o7777) as u32,
        uid: field(layouts.inode.i_uid)? as u32,
        gid: field(layouts.inode.i_gid)? as u32,
        limits: (mem.uint(info, layout.mq_maxmsg)?, mem.uint(info, layout.mq_msgsize)?),
        messages,
    })
}

/// Whether a task waits for a message of a queue, or for room in it, and nobody has given it what it waits for: whoever does
/// takes it off its list.
///
/// # Errors
/// The lists cannot be read.
pub fn is_waiting<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva, task: Kva) -> Result<bool> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let (Some(layout), Some(waiter)) = (&layouts.mqueue_inode_info, &layouts.ext_wait_queue) else {
        return Err(unknown());
    };
    let info = inode.back(u64::from(layout.vfs_inode.offset));
    for side in 0..2u64 {
        let queue = info
            .offset(u64::from(layout.e_wait_q.offset))
            .offset(side.saturating_mul(u64::from(waiter.struct_size)));
        let head = queue.offset(u64::from(waiter.list.offset));
        for at in kernel.list(head, waiter.list).bounded(MAX_LINKS) {
            let at = at?;
            if kernel.mem.ptr(at, waiter.task)? == task {
                return Ok(kernel.mem.uint(at, waiter.state)? == 0);
            }
        }
    }
    Ok(false)
}
