//! System V semaphores, message queues and shared memory (`ipc/sem.c`, `ipc/msg.c`, `ipc/shm.c`) of an IPC namespace.

use crate::addr::Kva;
use crate::context::Context;
use crate::dentry::{self, Path};
use crate::inodes;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::namespaces;
use crate::refusal::{Refusal, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::{IpcObject, IpcPerm, Lost, MessageQueue, SemaphoreSet, SharedSegment};
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};
use shared_region::PAGE_SIZE;

/// `IPC_SEM_IDS`, `IPC_MSG_IDS` and `IPC_SHM_IDS` (`ipc/util.h`).
const SEM_IDS: u64 = 0;
const MSG_IDS: u64 = 1;
const SHM_IDS: u64 = 2;
/// `IPCMNI_EXTEND` (`ipc/util.h`): more objects of a kind than there can be.
const MAX_OBJECTS: u64 = 1 << 24;
/// More semaphores than a set has (`SEMMSL` is set to 32000).
const MAX_SEMAPHORES: u64 = 1 << 16;
/// More messages, tasks that wait, or bytes of a message than a queue is ever given.
const MAX_LINKS: u64 = 1 << 20;
const MAX_MESSAGE: u64 = 16 << 20;
/// Bits of a segment's mode (`include/linux/shm.h`).
const SHM_DEST: u64 = 0o1000;
const SHM_LOCKED: u64 = 0o2000;
/// Largest value of a semaphore (`SEMVMX`).
const SEMVMX: u64 = 32767;

crate::mirrors! {
    /// A namespace.
    #[allow(missing_docs)]
    pub struct IpcNamespace = "ipc_namespace" {
        ids: Field,
    }

    /// The objects of a kind.
    #[allow(missing_docs)]
    pub struct IpcIds = "ipc_ids" {
        ipcs_idr: Field,
        in_use: Field,
    }

    /// What all objects have.
    #[allow(missing_docs)]
    pub struct KernIpcPerm = "kern_ipc_perm" {
        lock: Field,
        deleted: Field,
        id: Field,
        key: Field,
        uid: Field,
        gid: Field,
        cuid: Field,
        cgid: Field,
        mode: Field,
    }

    /// A set of semaphores.
    #[allow(missing_docs)]
    pub struct SemArray = "sem_array" {
        sem_perm: Field,
        pending_alter: Field,
        pending_const: Field,
        sem_nsems: Field,
        sems: Field,
    }

    /// A semaphore.
    #[allow(missing_docs)]
    pub struct Sem = "sem" {
        semval: Field,
        lock: Field,
        pending_alter: Field,
        pending_const: Field,
    }

    /// A task that waits for a semaphore.
    #[allow(missing_docs)]
    pub struct SemQueue = "sem_queue" {
        list: Field,
        sleeper: Field,
    }

    /// A segment of shared memory.
    #[allow(missing_docs)]
    pub struct ShmidKernel = "shmid_kernel" {
        shm_file: Field,
        shm_segsz: Field,
    }

    /// A message queue.
    #[allow(missing_docs)]
    pub struct MsgQueue = "msg_queue" {
        q_perm: Field,
        q_qbytes: Field,
        q_messages: Field,
        q_receivers: Field,
        q_senders: Field,
    }

    /// A message; its text follows.
    #[allow(missing_docs)]
    pub struct MsgMsg = "msg_msg" {
        m_list: Field,
        m_type: Field,
        m_ts: Field,
        next: Field,
    }

    /// A further page of a message; its text follows.
    #[allow(missing_docs)]
    pub struct MsgSegment = "msg_msgseg" {
        next: Field,
    }

    /// A task that waits for a message.
    #[allow(missing_docs)]
    pub struct MsgReceiver = "msg_receiver" {
        r_list: Field,
        r_tsk: Field,
    }

    /// A task that waits for room.
    #[allow(missing_docs)]
    pub struct MsgSender = "msg_sender" {
        list: Field,
        tsk: Field,
    }
}

/// Kinds of objects.
const KINDS: [(u64, &str); 3] = [
    (SEM_IDS, "System V semaphores"),
    (MSG_IDS, "System V message queue"),
    (SHM_IDS, "System V shared memory"),
];

/// Writes every set, queue and segment of the first namespace. Returns what is not among them.
pub fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
) -> Vec<Lost> {
    let mut lost = Vec::new();
    let Some(namespace) = context.kernel.prepared.globals.init_ipc_ns else {
        return lost;
    };
    for (kind, what) in KINDS {
        let objects = objects(context, namespace, kind).unwrap_or_else(|refusal| {
            lost.push(refusal.lost_of(format!("{what} of the machine")));
            Vec::new()
        });
        for object in objects {
            let (mark, checkpoint) = (writer.mark(), context.checkpoint());
            if let Err(refusal) = write_one(context, writer, retained, kind, object) {
                writer.rewind(mark);
                context.rollback(checkpoint);
                lost.push(refusal.lost_of(format!("{what} {}", name(context, object))));
            }
        }
    }
    lost
}

/// Writes every set, queue and segment of another namespace than the first.
///
/// # Errors
/// One cannot be read or made anew, or there is no room.
pub fn write_of_namespace<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    namespace: Kva,
) -> Result<()> {
    for (kind, what) in KINDS {
        for object in objects(context, namespace, kind)? {
            let read = read_one(context, writer, retained, kind, object);
            let record = read.map_err(|refusal| refusal.of(|| format!("{what} {}", name(context, object))))?;
            writer.push(Kind::IpcObject, 1, flags::MUST_UNDERSTAND, namespace.0, &record)?;
        }
    }
    Ok(())
}

/// Id and key, for messages.
fn name<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, object: Kva) -> String {
    let mem = &context.kernel.mem;
    match context.kernel.types.layouts.kern_ipc_perm {
        Some(ref layout) => format!(
            "{} (key {:#x})",
            mem.int(object, layout.id).unwrap_or(-1),
            mem.uint(object, layout.key).unwrap_or(0)
        ),
        None => String::new(),
    }
}

fn unknown() -> Refusal {
    Refusal::new(reasons::UNKNOWN, "System V IPC")
}

/// Objects of a kind, of a namespace, that are not being deleted.
fn objects<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, namespace: Kva, kind: u64) -> Result<Vec<Kva>> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    // A kernel without System V IPC has none of these.
    let (Some(of_namespace), Some(ids), Some(perm)) =
        (&layouts.ipc_namespace, &layouts.ipc_ids, &layouts.kern_ipc_perm)
    else {
        return Ok(Vec::new());
    };
    let at = namespace
        .offset(u64::from(of_namespace.ids.offset))
        .offset(kind.saturating_mul(u64::from(ids.struct_size)));
    let mut found = Vec::new();
    if kernel.mem.uint(at, ids.in_use)? == 0 {
        return Ok(found);
    }
    for entry in kernel
        .xarray(at.offset(u64::from(ids.ipcs_idr.offset)))?
        .bounded(MAX_OBJECTS)
    {
        let object = Kva(entry?.value);
        if kernel.mem.uint(object, perm.deleted)? == 0 {
            found.push(object);
        }
    }
    Ok(found)
}

fn write_one<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    kind: u64,
    object: Kva,
) -> Result<()> {
    match read_one(context, writer, retained, kind, object)? {
        IpcObject::Semaphores(set) => writer.push(Kind::SemaphoreSet, 1, 0, u64::from(set.perm.id), &set)?,
        IpcObject::Messages(queue) => writer.push(Kind::MessageQueue, 1, 0, u64::from(queue.perm.id), &queue)?,
        IpcObject::Segment(segment) => writer.push(Kind::SharedSegment, 1, 0, u64::from(segment.perm.id), &segment)?,
        IpcObject::PosixQueue(_) => {}
    }
    Ok(())
}

/// An object. The content of a segment is written.
fn read_one<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    kind: u64,
    object: Kva,
) -> Result<IpcObject> {
    Ok(match kind {
        SEM_IDS => IpcObject::Semaphores(semaphores(context, object)?),
        MSG_IDS => IpcObject::Messages(messages(context, object)?),
        _ => {
            let (segment, path) = segment(context, object)?;
            inodes::write_shared_memory(context, writer, retained, Kva(segment.inode), &path)?;
            IpcObject::Segment(segment)
        }
    })
}

fn perm<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, object: Kva) -> Result<IpcPerm> {
    let layout = context
        .kernel
        .types
        .layouts
        .kern_ipc_perm
        .as_ref()
        .ok_or_else(unknown)?;
    let mem = &context.kernel.mem;
    let number = |field| Ok::<u32, Refusal>(mem.uint(object, field)? as u32);
    if mem.u32(object.offset(u64::from(layout.lock.offset)))? != 0 {
        return Err(Refusal::new(reasons::UNREADABLE, "it was being changed"));
    }
    Ok(IpcPerm {
        id: number(layout.id)?,
        key: mem.int(object, layout.key)? as i32,
        uid: number(layout.uid)?,
        gid: number(layout.gid)?,
        cuid: number(layout.cuid)?,
        cgid: number(layout.cgid)?,
        mode: number(layout.mode)? & 0o777,
    })
}

/// The semaphores of a set.
fn each_semaphore<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, set: Kva) -> Result<impl Iterator<Item = Kva>> {
    let layouts = &context.kernel.types.layouts;
    let (Some(array), Some(semaphore)) = (&layouts.sem_array, &layouts.sem) else {
        return Err(unknown());
    };
    let count = context.kernel.mem.uint(set, array.sem_nsems)?;
    if count > MAX_SEMAPHORES {
        return Err(Refusal::new(reasons::UNREADABLE, format!("{count} semaphores")));
    }
    let (first, size) = (
        set.offset(u64::from(array.sems.offset)),
        u64::from(semaphore.struct_size),
    );
    Ok((0..count).map(move |index| first.offset(index.saturating_mul(size))))
}

fn semaphores<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, set: Kva) -> Result<SemaphoreSet> {
    let layout = context.kernel.types.layouts.sem.as_ref().ok_or_else(unknown)?;
    let mem = &context.kernel.mem;
    let mut values = Vec::new();
    for semaphore in each_semaphore(context, set)? {
        let value = mem.uint(semaphore, layout.semval)?;
        if value > SEMVMX || mem.u32(semaphore.offset(u64::from(layout.lock.offset)))? != 0 {
            return Err(Refusal::new(reasons::UNREADABLE, "a semaphore was being changed"));
        }
        values.push(value as u16);
    }
    Ok(SemaphoreSet {
        perm: perm(context, set)?,
        values,
    })
}

/// A segment, and the path of its content.
fn segment<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, object: Kva) -> Result<(SharedSegment, Path)> {
    let layouts = &context.kernel.types.layouts;
    let (Some(layout), Some(of_perm)) = (&layouts.shmid_kernel, &layouts.kern_ipc_perm) else {
        return Err(unknown());
    };
    let mem = &context.kernel.mem;
    let file = mem.ptr(object, layout.shm_file)?;
    let inode = mem.ptr(file, layouts.file.f_inode)?;
    if !inodes::is_anonymous_shmem(context, inode)? {
        return Err(Refusal::new(reasons::SYSV_SHM_GONE, "huge pages"));
    }
    let mode = mem.uint(object, of_perm.mode)?;
    let segment = SharedSegment {
        perm: perm(context, object)?,
        size: mem.uint(object, layout.shm_segsz)?,
        inode: inode.0,
        removed: mode & SHM_DEST != 0,
        locked: mode & SHM_LOCKED != 0,
    };
    Ok((segment, dentry::of_file(context, file)?))
}

fn messages<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, queue: Kva) -> Result<MessageQueue> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let (Some(of_queue), Some(of_message)) = (&layouts.msg_queue, &layouts.msg_msg) else {
        return Err(unknown());
    };
    let perm = perm(context, queue)?;
    let head = queue.offset(u64::from(of_queue.q_messages.offset));
    let mut messages = Vec::new();
    for message in kernel.list(head, of_message.m_list).bounded(MAX_LINKS) {
        let message = message?;
        messages.push((kernel.mem.int(message, of_message.m_type)?, text(context, message)?));
    }
    Ok(MessageQueue {
        perm,
        limit: kernel.mem.uint(queue, of_queue.q_qbytes)?,
        messages,
    })
}

/// The text of a message: what fits on the page of its head, then on further ones (`ipc/msgutil.c`).
///
/// # Errors
/// It cannot be read.
pub fn text<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, message: Kva) -> Result<Vec<u8>> {
    let layouts = &context.kernel.types.layouts;
    let (Some(head), Some(segment)) = (&layouts.msg_msg, &layouts.msg_msgseg) else {
        return Err(unknown());
    };
    let mem = &context.kernel.mem;
    let mut left = mem.uint(message, head.m_ts)?;
    if left > MAX_MESSAGE {
        return Err(Refusal::new(reasons::UNREADABLE, format!("a message of {left} bytes")));
    }
    let mut text = Vec::new();
    let (mut at, mut begins, mut next) = (message, u64::from(head.struct_size), head.next);
    loop {
        let bytes = left.min(PAGE_SIZE.saturating_sub(begins));
        text.extend(mem.bytes(at.offset(begins), bytes as usize)?);
        left = left.saturating_sub(bytes);
        if left == 0 {
            return Ok(text);
        }
        at = mem.ptr(at, next)?;
        if at.is_null() {
            return Err(Refusal::new(reasons::UNREADABLE, "a message without its end"));
        }
        (begins, next) = (u64::from(segment.struct_size), segment.next);
    }
}

/// Whether a task waits in `semop`, `msgsnd` or `msgrcv` and nobody has done what it waits for: whoever does that takes it
/// off the list.
///
/// # Errors
/// The lists cannot be read.
pub fn is_waiting<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<bool> {
    let layouts = &context.kernel.types.layouts;
    let (Some(array), Some(semaphore), Some(sleeper)) = (&layouts.sem_array, &layouts.sem, &layouts.sem_queue) else {
        return Err(unknown());
    };
    let namespace = namespaces::of_task(context, task, layouts.nsproxy.ipc_ns)?;
    for set in objects(context, namespace, SEM_IDS)? {
        let mut heads: Vec<Kva> = [array.pending_alter, array.pending_const]
            .map(|list| member(set, list))
            .into();
        for at in each_semaphore(context, set)? {
            heads.extend([semaphore.pending_alter, semaphore.pending_const].map(|list| member(at, list)));
        }
        for head in heads {
            if is_on(context, head, sleeper.list, sleeper.sleeper, task)? {
                return Ok(true);
            }
        }
    }
    let (Some(queue), Some(receiver), Some(sender)) = (&layouts.msg_queue, &layouts.msg_receiver, &layouts.msg_sender)
    else {
        return Err(unknown());
    };
    for at in objects(context, namespace, MSG_IDS)? {
        if is_on(
            context,
            member(at, queue.q_receivers),
            receiver.r_list,
            receiver.r_tsk,
            task,
        )? || is_on(context, member(at, queue.q_senders), sender.list, sender.tsk, task)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn member(at: Kva, field: Field) -> Kva {
    at.offset(u64::from(field.offset))
}

/// Whether a list has an element of a task.
fn is_on<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    head: Kva,
    link: Field,
    owner: Field,
    task: Kva,
) -> Result<bool> {
    for element in context.kernel.list(head, link).bounded(MAX_LINKS) {
        if context.kernel.mem.ptr(element?, owner)? == task {
            return Ok(true);
        }
    }
    Ok(false)
}
