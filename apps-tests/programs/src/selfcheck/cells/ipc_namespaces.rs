//! IPC namespaces, as a service manager makes them for services: what is kept of the first one is kept of others.

use super::{mqueue, namespaces, sysv_ipc};
use crate::cell::{same, Cell, Context, Skip};
use crate::sys::mount::{mount, mount_as, new_namespace};
use crate::sys::process::fork;
use crate::sys::{mqueue as queues, sysv};
use anyhow::{ensure, Result};
use std::fs;
use std::path::Path;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "ipc-namespace/settings",
        what: "a set with the key and the id that another has in the first namespace, where a child looks at that one; and limits",
        covers: &["NamespaceKind.Ipc", "IpcObject.Semaphores"],
        caught: None,
        run: settings,
    },
    Cell {
        name: "ipc-namespace/semaphores",
        what: "sysv/semaphores in a namespace of its own",
        covers: &["IpcObject.Semaphores"],
        caught: None,
        run: |context| inside(context, sysv_ipc::semaphores),
    },
    Cell {
        name: "ipc-namespace/semop",
        what: "sysv/semop in a namespace of its own",
        covers: &["IpcObject.Semaphores"],
        caught: Some("semop"),
        run: |context| inside(context, sysv_ipc::semop),
    },
    Cell {
        name: "ipc-namespace/messages",
        what: "sysv/messages in a namespace of its own",
        covers: &["IpcObject.Messages"],
        caught: None,
        run: |context| inside(context, sysv_ipc::messages),
    },
    Cell {
        name: "ipc-namespace/msgrcv",
        what: "sysv/msgrcv in a namespace of its own",
        covers: &["IpcObject.Messages"],
        caught: Some("msgrcv"),
        run: |context| inside(context, sysv_ipc::msgrcv),
    },
    Cell {
        name: "ipc-namespace/shared-memory",
        what: "sysv/shared-memory in a namespace of its own",
        covers: &["IpcObject.Segment"],
        caught: None,
        run: |context| inside(context, sysv_ipc::shared_memory),
    },
    Cell {
        name: "ipc-namespace/removed-segment",
        what: "sysv/removed-segment in a namespace of its own",
        covers: &["IpcObject.Segment"],
        caught: None,
        run: |context| inside(context, sysv_ipc::removed_segment),
    },
    Cell {
        name: "ipc-namespace/posix-messages",
        what: "mqueue/messages in a namespace of its own",
        covers: &["IpcObject.PosixQueue"],
        caught: None,
        run: |context| inside(context, mqueue::messages),
    },
    Cell {
        name: "ipc-namespace/posix-receive",
        what: "mqueue/receive in a namespace of its own",
        covers: &["IpcObject.PosixQueue"],
        caught: Some("mq_timedreceive"),
        run: |context| inside(context, mqueue::receive),
    },
    Cell {
        name: "ipc-namespace/mounted-queues",
        what: "the queues of a namespace of its own, mounted in a mount namespace of its own",
        covers: &["IpcObject.PosixQueue", "Mounted.Queues"],
        caught: None,
        run: mounted_queues,
    },
];

/// Runs a cell in a namespace of its own.
fn inside(context: &mut Context, cell: fn(&mut Context) -> Result<()>) -> Result<()> {
    context.need_root()?;
    namespaces::new(libc::CLONE_NEWIPC)?;
    cell(context)
}

/// What is set in the namespace: each other than the kernel sets it.
const SETTINGS: [(&str, &str); 4] = [
    ("kernel/msgmax", "9000"),
    ("kernel/shmmax", "123456789"),
    ("kernel/sem", "31000\t1000000\t400\t30000"),
    ("fs/mqueue/msg_max", "20"),
];

fn seen() -> Result<Vec<String>> {
    let read = |(name, _)| Ok(fs::read_to_string(format!("/proc/sys/{name}"))?.trim().to_owned());
    SETTINGS.into_iter().map(read).collect()
}

fn settings(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let set_of_first = sysv_ipc::Made {
        id: sysv::semget(sysv_ipc::key(4)?, 1)?,
        queue: false,
    };
    let value = |id| sysv::semctl(id, 0, libc::GETVAL, 0);
    sysv::semctl(set_of_first.id, 0, libc::SETVAL, 1)?;
    let (of_first, key) = (seen()?, sysv_ipc::key(4)?);
    let child = fork(|| {
        context.wait()?;
        same("the value in the first namespace", value(set_of_first.id)?, 1)?;
        same("limits of the first namespace", seen()?, of_first.clone())
    })?;
    namespaces::new(libc::CLONE_NEWIPC)?;
    for (name, value) in SETTINGS {
        fs::write(format!("/proc/sys/{name}"), value)?;
    }
    fs::write("/proc/sys/kernel/sem_next_id", set_of_first.id.to_string())?;
    let set = sysv::semget(key, 1)?;
    same("its id", set, set_of_first.id)?;
    sysv::semctl(set, 0, libc::SETVAL, 2)?;
    let before = seen()?;
    ensure!(
        before.iter().zip(&of_first).all(|(own, first)| own != first),
        "nothing is set: {before:?}"
    );
    let queue = sysv::msgget(libc::IPC_PRIVATE)?;
    let text = vec![7; 8500];
    sysv::msgsnd(queue, 1, &text)?;
    context.failover(|| sysv::semctl(set, 0, libc::SETVAL, 3).map(drop))?;
    same("the value", value(set)?, 2)?;
    same("limits", seen()?, before)?;
    ensure!(
        sysv::msgrcv(queue, 0, libc::IPC_NOWAIT) == Ok((1, text)),
        "the message differs"
    );
    child.join("child")
}

fn mounted_queues(context: &mut Context) -> Result<()> {
    context.need_root()?;
    namespaces::new(libc::CLONE_NEWIPC)?;
    if let Err(error) = new_namespace() {
        return Err(Skip(format!("no mount namespace: {error:#}")).into());
    }
    mount(Path::new("none"), Path::new("/"), libc::MS_REC | libc::MS_SLAVE, "")?;
    let path = context.path("queues");
    fs::create_dir_all(&path)?;
    let path = path.canonicalize()?;
    mount_as(c"mqueue", Path::new("queues"), &path, libc::MS_NOSUID, "")?;
    let new = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_NONBLOCK;
    let queue = queues::open("inside", new, (3, 100))?;
    let names = || -> Result<Vec<String>> {
        let names = fs::read_dir(&path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    };
    same("queues", names()?, vec!["inside".to_owned()])?;
    context.failover(|| queues::unlink("inside"))?;
    same("queues", names()?, vec!["inside".to_owned()])?;
    fs::remove_file(path.join("inside"))?;
    same("errno of sending", queues::send(&queue, 1, b"still open"), 0)?;
    let gone = queues::open("inside", libc::O_RDONLY, (0, 0));
    ensure!(gone.is_err(), "it was another queue that is mounted");
    Ok(())
}
