//! IPC namespaces of processes (`ipc/namespace.c`), with all that is in them ([`crate::sysv_ipc`], [`crate::mqueue`]).

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::mqueue;
use crate::refusal::{Refusal, Result};
use crate::sysv_ipc;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::NamespaceKind;
use shared_region::reasons;
use shared_region::record::Writer;

crate::mirrors! {
    /// What is set in a namespace, and whose it is.
    #[allow(missing_docs)]
    pub struct IpcSettings = "ipc_namespace" {
        sem_ctls: Field,
        msg_ctlmax: Field,
        msg_ctlmnb: Field,
        msg_ctlmni: Field,
        shm_ctlmax: Field,
        shm_ctlall: Field,
        shm_ctlmni: Field,
        shm_rmid_forced: Field,
        mq_queues_max: Field,
        mq_msg_max: Field,
        mq_msgsize_max: Field,
        mq_msg_default: Field,
        mq_msgsize_default: Field,
        // Since Linux 5.19 settings are those of the namespace in which they were opened.
        ipc_set: Option<Field> = "ipc_set",
        mq_set: Option<Field> = "mq_set",
        user_ns: Field,
        ns_ops: Field = "ns.ops",
    }
}

fn layout<'c, M: PhysMem + ?Sized>(context: &'c Context<'_, '_, M>) -> Result<&'c IpcSettings> {
    let layout = context.kernel.types.layouts.ipc_settings.as_ref();
    layout.ok_or_else(|| Refusal::new(reasons::NS_IPC, "this kernel's cannot be read"))
}

/// What is set in a namespace, and the user namespace it belongs to.
///
/// # Errors
/// It is none, it cannot be made anew, or it cannot be read.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, namespace: Kva) -> Result<(NamespaceKind, Kva)> {
    let layout = layout(context)?;
    let mem = &context.kernel.mem;
    let functions = context.kernel.prepared.globals.ipcns_operations;
    if functions.is_some_and(|functions| mem.ptr(namespace, layout.ns_ops) != Ok(functions)) {
        return Err(Refusal::new(reasons::UNREADABLE, "not an IPC namespace"));
    }
    // What nobody has attached would be gone as soon as it is made.
    if mem.uint(namespace, layout.shm_rmid_forced)? != 0 {
        return Err(Refusal::new(reasons::NS_IPC, "kernel.shm_rmid_forced is set in it"));
    }
    let numbers = [
        ("kernel/msgmax", layout.msg_ctlmax),
        ("kernel/msgmnb", layout.msg_ctlmnb),
        ("kernel/msgmni", layout.msg_ctlmni),
        ("kernel/shmmax", layout.shm_ctlmax),
        ("kernel/shmall", layout.shm_ctlall),
        ("kernel/shmmni", layout.shm_ctlmni),
        ("fs/mqueue/queues_max", layout.mq_queues_max),
        ("fs/mqueue/msg_max", layout.mq_msg_max),
        ("fs/mqueue/msgsize_max", layout.mq_msgsize_max),
        ("fs/mqueue/msg_default", layout.mq_msg_default),
        ("fs/mqueue/msgsize_default", layout.mq_msgsize_default),
    ];
    let mut settings = Vec::new();
    for (name, field) in numbers {
        settings.push((name.into(), format!("{}", mem.uint(namespace, field)?).into_bytes()));
    }
    let mut of_semaphores: Vec<String> = Vec::new();
    for index in 0..4u64 {
        let at = namespace
            .offset(u64::from(layout.sem_ctls.offset))
            .offset(index.wrapping_mul(4));
        of_semaphores.push(format!("{}", mem.u32(at)?));
    }
    settings.push((b"kernel/sem".to_vec(), of_semaphores.join("\t").into_bytes()));
    Ok((NamespaceKind::Ipc { settings }, mem.ptr(namespace, layout.user_ns)?))
}

/// Writes all that is in a namespace.
///
/// # Errors
/// Something cannot be made anew, or there is no room.
pub fn write_content<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    namespace: Kva,
) -> Result<()> {
    sysv_ipc::write_of_namespace(context, writer, retained, namespace)?;
    mqueue::write_of_namespace(context, writer, namespace)
}
