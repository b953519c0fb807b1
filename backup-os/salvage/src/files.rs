//! File tables and open files (`include/linux/fdtable.h`, `include/linux/fs.h`). What a file is, is told by the name of
//! its table of functions; what is not on the list here is refused by that name.

use crate::addr::Kva;
use crate::context::Context;
use crate::dentry::{self, Path};
use crate::directories;
use crate::event_files;
use crate::file_locks;
use crate::inodes;
use crate::inotify;
use crate::io_uring;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::mount_namespaces;
use crate::mqueue;
use crate::pipes;
use crate::pseudo_files;
use crate::refusal::{Refusal, Result};
use crate::sockets;
use crate::tasks;
use crate::terminals;
use alloc::vec::Vec;
use shared_region::context::{FileTable, OpenFile, OpenFileKind};
use shared_region::reasons;
use shared_region::record::{Kind, Writer};

/// `FMODE_WRITE` (`include/linux/fs.h`).
pub const FMODE_WRITE: u64 = 0x2;
/// `FMODE_PATH`.
const FMODE_PATH: u64 = 0x4000;
/// Table of functions of sockets.
pub const SOCKETS: &str = "socket_file_ops";
/// `FASYNC` (`include/uapi/asm-generic/fcntl.h`).
const FASYNC: u64 = 0o20_000;
/// Flags that only the kernel uses (`__FMODE_EXEC`, `__FMODE_NONOTIFY`).
const KERNEL_FLAGS: u64 = 0x20 | 0x400_0000;
/// More descriptors than `fs.nr_open` is ever set to.
const MAX_DESCRIPTORS: u64 = 16 << 20;

crate::mirrors! {
    /// Open files of a process.
    #[allow(missing_docs)]
    pub struct FilesStruct = "files_struct" {
        fdt: Field,
    }

    /// Its table.
    #[allow(missing_docs)]
    pub struct Fdtable = "fdtable" {
        max_fds: Field,
        fd: Field,
        close_on_exec: Field,
    }

    /// An open file.
    #[allow(missing_docs)]
    pub struct FileLayout = "file" {
        path_mnt: Field = "f_path.mnt",
        path_dentry: Field = "f_path.dentry",
        f_inode: Field,
        f_op: Field,
        f_flags: Field,
        f_mode: Field,
        f_pos: Field,
        // A structure in the file up to Linux 6.11, then a pointer to one (1934b212615d).
        f_owner: Field,
        private_data: Field,
    }

    /// Who is told about input.
    #[allow(missing_docs)]
    pub struct FownStruct = "fown_struct" {
        pid: Field,
        pid_type: Field,
        signum: Field,
    }
}

/// A descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub fd: u32,
    /// The open file.
    pub file: Kva,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
}

/// The descriptors of a file table, ascending.
///
/// # Errors
/// It cannot be read.
pub fn descriptors<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, files: Kva) -> Result<Vec<Descriptor>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let table = mem.ptr(files, layouts.files_struct.fdt)?;
    let count = mem.uint(table, layouts.fdtable.max_fds)?;
    if count > MAX_DESCRIPTORS {
        return Err(Refusal::new(
            reasons::UNREADABLE,
            alloc::format!("table of {count} descriptors"),
        ));
    }
    let slots = mem.bytes(mem.ptr(table, layouts.fdtable.fd)?, (count as usize).saturating_mul(8))?;
    let bits = mem.bytes(
        mem.ptr(table, layouts.fdtable.close_on_exec)?,
        (count.div_ceil(8)) as usize,
    )?;
    let (slots, _) = slots.as_chunks::<8>();
    let mut found = Vec::new();
    for (fd, slot) in slots.iter().enumerate() {
        let file = Kva(u64::from_le_bytes(*slot));
        if !file.is_null() {
            let byte = bits.get(fd >> 3).copied().unwrap_or(0);
            found.push(Descriptor {
                fd: fd as u32,
                file,
                close_on_exec: byte & (1 << (fd & 7)) != 0,
            });
        }
    }
    Ok(found)
}

/// Writes a file table and everything open in it that was not recorded yet.
///
/// # Errors
/// Something in it cannot be restored or read, or there is no room.
pub fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    files: Kva,
) -> Result<()> {
    if !context.first(Kind::FileTable, files.0) {
        return Ok(());
    }
    let table = descriptors(context, files)?;
    let record = FileTable {
        descriptors: table.iter().map(|d| (d.fd, d.file.0, d.close_on_exec)).collect(),
    };
    writer.push(Kind::FileTable, 1, 0, files.0, &record)?;
    for descriptor in &table {
        let Descriptor { fd, file, .. } = *descriptor;
        let name = || alloc::format!("fd {fd}");
        if context.first(Kind::OpenFile, file.0) {
            open_file(context, writer, retained, &table, file).map_err(|refusal| refusal.of(name))?;
        }
    }
    file_locks::write(context, writer, &table, files)
}

/// Writes open files that are on their way to whoever takes them, unless they were recorded.
///
/// # Errors
/// As [`write`].
pub fn write_passed<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    passed: &[Kva],
) -> Result<()> {
    for &file in passed {
        if !context.first(Kind::OpenFile, file.0) {
            continue;
        }
        if let Some(sk) = sockets::behind(context, file)? {
            // Nobody has recorded it as one that is held.
            if !context.sockets.contains(&sk) {
                return Err(sockets::refuse("AF_UNIX, with a socket on its way"));
            }
        }
        open_file(context, writer, retained, &[], file)
            .map_err(|refusal| refusal.of(|| alloc::string::String::from("descriptor on its way")))?;
    }
    Ok(())
}

/// One open file, with the object behind it.
fn open_file<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    table: &[Descriptor],
    file: Kva,
) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.file;
    let mem = &context.kernel.mem;
    let inode = mem.ptr(file, layout.f_inode)?;
    let path = dentry::of_file(context, file)?;
    let flags = mem.uint(file, layout.f_flags)?;
    let what = classify(context, table, file, inode, &path)?;
    let ring = match what {
        OpenFileKind::IoUring => Some(io_uring::read(context, table, mem.ptr(file, layout.private_data)?)?),
        _ => None,
    };
    let owner = owner(context, file)?;
    let is_socket = matches!(what, OpenFileKind::Socket { .. });
    // Whoever has a lease is told by a signal, too.
    if flags & FASYNC != 0 && !file_locks::has_lease(context, file)? {
        let (_, _, signal) = owner;
        if !is_socket || signal != 0 {
            return Err(Refusal::new(
                reasons::FASYNC,
                if is_socket { "by a signal of its own" } else { "" },
            ));
        }
    }
    let dropped = if is_socket { KERNEL_FLAGS } else { KERNEL_FLAGS | FASYNC };
    let position = match context.positions.get(&file) {
        Some(&moved) => moved,
        None => mem.uint(file, layout.f_pos)?,
    };
    let record = OpenFile {
        flags: (flags & !dropped) as u32,
        position,
        owner,
        path: path.bytes.clone(),
        what,
    };
    writer.push(Kind::OpenFile, 1, 0, file.0, &record)?;
    if let Some(namespace) = path.namespace {
        mount_namespaces::write_membership(writer, file.0, namespace)?;
    }
    if let Some(ring) = ring {
        return io_uring::write(context, writer, file, &ring);
    }
    match record.what {
        OpenFileKind::PosixQueue { .. } => mqueue::write_opened(context, writer, inode),
        OpenFileKind::Inotify { ref watches, .. } => {
            inotify::write_events(context, writer, file)?;
            inotify::write_directories(context, writer, watches)
        }
        OpenFileKind::Regular { .. } => inodes::write(context, writer, retained, inode, &path),
        OpenFileKind::Pipe { .. } => {
            pipes::write(context, writer, inode, file, &path)?;
            // A FIFO has a name; a pipe is on a file system of the kernel's own.
            let is_fifo = !path.deleted && !path.detached && inodes::check_file_system(context, inode).is_ok();
            match is_fifo {
                true => inodes::write(context, writer, retained, inode, &path),
                false => Ok(()),
            }
        }
        OpenFileKind::Directory => directories::write(context, writer, &path),
        OpenFileKind::Socket { .. } => {
            let data = context
                .kernel
                .mem
                .ptr(file, context.kernel.types.layouts.file.private_data)?;
            sockets::write(context, writer, retained, data)
        }
        OpenFileKind::PtyMaster { terminal } | OpenFileKind::PtySlave { terminal, .. } => {
            terminals::write(context, writer, terminal)
        }
        OpenFileKind::Path => path_only(context, writer, retained, inode, &path),
        _ => Ok(()),
    }
}

/// What a descriptor that cannot be read refers to: it has to be found again.
fn path_only<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    inode: Kva,
    path: &Path,
) -> Result<()> {
    let mode = context
        .kernel
        .mem
        .uint(inode, context.kernel.types.layouts.inode.i_mode)?;
    match mode & inodes::S_IFMT {
        inodes::S_IFDIR => directories::write(context, writer, path),
        inodes::S_IFREG | inodes::S_IFIFO if inodes::check_file_system(context, inode).is_ok() => {
            inodes::write(context, writer, retained, inode, path)
        }
        _ => Ok(()),
    }
}

/// What an open file is.
fn classify<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    table: &[Descriptor],
    file: Kva,
    inode: Kva,
    path: &Path,
) -> Result<OpenFileKind> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let mode = mem.uint(inode, layouts.inode.i_mode)? & inodes::S_IFMT;
    let rdev = mem.uint(inode, layouts.inode.i_rdev)?;
    let operations = context.symbol(mem.ptr(file, layouts.file.f_op)?);
    let operations = operations.as_deref().unwrap_or_default();
    let data = mem.ptr(file, layouts.file.private_data)?;
    let named = || -> Result<()> {
        if path.detached {
            return Err(Refusal::new(
                reasons::HIDDEN_PATH,
                alloc::string::String::from_utf8_lossy(&path.bytes),
            ));
        }
        if path.deleted {
            return Err(Refusal::new(
                reasons::DELETED_DIRECTORY,
                alloc::string::String::from_utf8_lossy(&path.bytes),
            ));
        }
        Ok(())
    };
    if pseudo_files::is_of_other_processes(context, inode)? {
        let name = alloc::string::String::from_utf8_lossy(&path.bytes);
        return Err(Refusal::new(
            reasons::NS_PID,
            alloc::format!("and has {name} of it open"),
        ));
    }
    if mem.uint(file, layouts.file.f_mode)? & FMODE_PATH != 0 {
        named()?;
        return Ok(OpenFileKind::Path);
    }
    match operations {
        "eventfd_fops" => return event_files::eventfd(context, data),
        "eventpoll_fops" => return event_files::epoll(context, table, data),
        "timerfd_fops" => return event_files::timerfd(context, data),
        "mqueue_file_operations" => return Ok(OpenFileKind::PosixQueue { queue: inode.0 }),
        "inotify_fops" => return inotify::read(context, data),
        io_uring::RING => return Ok(OpenFileKind::IoUring),
        "signalfd_fops" => return event_files::signalfd(context, data),
        // Anonymous pipes have a table of their own from Linux 6.14 on (262b2fa99cbe).
        "pipefifo_fops" | "pipeanon_fops" => return Ok(OpenFileKind::Pipe { inode: inode.0 }),
        "null_fops" | "zero_fops" | "full_fops" | "random_fops" | "urandom_fops" => {
            return Ok(OpenFileKind::Device { rdev });
        }
        "tty_fops" | "ptmx_fops" | "console_fops" | "hung_up_tty_fops" => {
            let kind = terminals::kind(context, data, rdev)?;
            if matches!(kind, OpenFileKind::Console { .. }) {
                named()?;
            }
            return Ok(kind);
        }
        _ => {}
    }
    if !path.detached {
        if let Some(kind) = pseudo_files::of_process(context, operations, file, inode, &path.bytes)? {
            return Ok(kind);
        }
    }
    let other = |reason| {
        Refusal::new(
            reason,
            alloc::format!("{operations} {}", alloc::string::String::from_utf8_lossy(&path.bytes)),
        )
    };
    if pseudo_files::is_setting_of_namespace(context, operations, inode)? {
        return Err(other(reasons::FILE_SYSTEM));
    }
    if pseudo_files::is_remade(context, operations, file, inode)? {
        named()?;
        return Ok(OpenFileKind::Pseudo);
    }
    match mode {
        inodes::S_IFREG => {
            if !inodes::is_anonymous_shmem(context, inode)? {
                inodes::check_file_system(context, inode).map_err(|_| other(reasons::FILE_SYSTEM))?;
                if path.detached {
                    return Err(other(reasons::HIDDEN_PATH));
                }
            }
            Ok(OpenFileKind::Regular { inode: inode.0 })
        }
        inodes::S_IFDIR => {
            named()?;
            inodes::check_file_system(context, inode).or_else(|refusal| tolerate_pseudo(context, inode, refusal))?;
            Ok(OpenFileKind::Directory)
        }
        inodes::S_IFSOCK if operations == SOCKETS => Ok(OpenFileKind::Socket {
            socket: sockets::of_file(context, data)?.0,
        }),
        inodes::S_IFSOCK => Err(other(reasons::SOCKET)),
        inodes::S_IFCHR => Err(other(reasons::DEVICE)),
        _ => Err(other(match operations {
            "perf_fops" => reasons::PERF,
            "userfaultfd_fops" => reasons::USERFAULTFD,
            name if name.starts_with("bpf_") => reasons::BPF,
            _ => reasons::FILE_TYPE,
        })),
    }
}

/// A directory of `/proc`, `/sys` or a cgroup is found again by name, as long as it is not one of a process.
fn tolerate_pseudo<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, inode: Kva, refusal: Refusal) -> Result<()> {
    let superblock = context.kernel.mem.ptr(inode, context.kernel.types.layouts.inode.i_sb)?;
    match inodes::fs_type(context, superblock)?.as_slice() {
        b"sysfs" | b"cgroup2" | b"devpts" | b"proc" => Ok(()),
        _ => Err(refusal),
    }
}

/// F_OWNER_TID (0), F_OWNER_PID (1) or F_OWNER_PGRP (2), the id, and the signal.
fn owner<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, file: Kva) -> Result<(u32, i32, i32)> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let field = layouts.file.f_owner;
    let at = file.offset(u64::from(field.offset));
    let fown = if field.size == 8 { mem.pointer(at)? } else { at };
    if fown.is_null() {
        return Ok((0, 0, 0));
    }
    let pid = mem.ptr(fown, layouts.fown.pid)?;
    let kind = mem.uint(fown, layouts.fown.pid_type)? as u32;
    let number = tasks::pid_number(context.kernel, pid)? as i32;
    let signal = mem.int(fown, layouts.fown.signum)? as i32;
    // `PIDTYPE_PID`, `PIDTYPE_TGID` and `PIDTYPE_PGID` are in the order of the `F_OWNER_*`.
    Ok((kind.min(2), number, signal))
}
