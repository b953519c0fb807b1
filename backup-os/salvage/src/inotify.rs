//! inotify (`fs/notify/inotify/inotify_user.c`, `include/linux/fsnotify_backend.h`): what is watched, by path, and the events
//! that nobody has read.

use crate::addr::Kva;
use crate::context::Context;
use crate::dentry;
use crate::directories;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::format;
use alloc::vec::Vec;
use shared_region::context::{InotifyEvent, InotifyWatch, OpenFileKind};
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

/// More watches than `fs.inotify.max_user_watches` allows on large machines.
const MAX_WATCHES: u64 = 16 << 20;
/// `FSNOTIFY_OBJ_TYPE_INODE`.
const OF_INODE: u64 = 0;
/// `FSNOTIFY_MARK_FLAG_ATTACHED`, `_EXCL_UNLINK` and `_IN_ONESHOT`.
const ATTACHED: u64 = 0x2;
const EXCL_UNLINK: u64 = 0x10;
const ONESHOT: u64 = 0x20;
/// `IN_ALL_EVENTS`, `IN_EXCL_UNLINK` and `IN_ONESHOT` (`include/uapi/linux/inotify.h`).
const IN_ALL_EVENTS: u64 = 0xFFF;
const IN_EXCL_UNLINK: u32 = 0x0400_0000;
const IN_ONESHOT: u32 = 0x8000_0000;
/// What a reader is told beside `IN_ALL_EVENTS`: `IN_UNMOUNT`, `IN_Q_OVERFLOW`, `IN_IGNORED` and `IN_ISDIR`
/// (`inotify_mask_to_arg`).
const IN_TOLD: u64 = 0x4000_E000;
/// `FS_EVENT_ON_CHILD`: no reader is told, but an event without it is another one, and is not merged with the next.
const ON_CHILD: u64 = 0x0800_0000;
/// More events than `fs.inotify.max_queued_events` usually allows (16,384).
const MAX_EVENTS: u64 = 1 << 20;
/// `NAME_MAX`.
const MAX_NAME: u64 = 255;

crate::mirrors! {
    /// An inotify descriptor.
    #[allow(missing_docs)]
    pub struct FsnotifyGroup = "fsnotify_group" {
        q_len: Field,
        notification_lock: Field = "notification_lock.rlock.raw_lock",
        notification_list: Field,
        marks_list: Field,
        next: Field = "inotify_data.idr.idr_next",
    }

    /// A watch.
    #[allow(missing_docs)]
    pub struct FsnotifyMark = "fsnotify_mark" {
        mask: Field,
        g_list: Field,
        connector: Field,
        flags: Field,
    }

    /// An event of inotify.
    #[allow(missing_docs)]
    pub struct InotifyEventInfo = "inotify_event_info" {
        list: Field = "fse.list",
        mask: Field,
        wd: Field,
        sync_cookie: Field,
        name_len: Field,
        name: Field,
    }

    /// A watch of inotify.
    #[allow(missing_docs)]
    pub struct InotifyInodeMark = "inotify_inode_mark" {
        fsn_mark: Field,
        wd: Field,
    }

    /// What ties watches to an object.
    #[allow(missing_docs)]
    pub struct FsnotifyMarkConnector = "fsnotify_mark_connector" {
        kind: Field = "type",
        // Of a pointer to the connector in the object up to Linux 6.9 (230d97d39e49), then of the object.
        obj: Field,
    }

    /// A file, as those who watch it know it.
    #[allow(missing_docs)]
    pub struct WatchedInode = "inode" {
        i_fsnotify_marks: Field,
    }
}

fn refuse(what: &str) -> Refusal {
    Refusal::new(reasons::INOTIFY, what)
}

/// An inotify descriptor.
///
/// # Errors
/// It watches what has no name, or cannot be read.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, group: Kva) -> Result<OpenFileKind> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let layout = &layouts.fsnotify_mark;
    let mem = &kernel.mem;
    let head = group.offset(u64::from(layouts.fsnotify_group.marks_list.offset));
    let mut watches = Vec::new();
    for mark in kernel.list(head, layout.g_list).bounded(MAX_WATCHES) {
        let mark = mark?;
        let flags = mem.uint(mark, layout.flags)?;
        if flags & ATTACHED == 0 {
            continue;
        }
        let watch = mark.back(u64::from(layouts.inotify_inode_mark.fsn_mark.offset));
        let wd = mem.uint(watch, layouts.inotify_inode_mark.wd)? as u32;
        let inode = watched(context, mem.ptr(mark, layout.connector)?)?;
        let superblock = mem.ptr(inode, layouts.inode.i_sb)?;
        let path = dentry::of_inode(context, superblock, inode)?
            .ok_or_else(|| refuse(&format!("watch {wd} on something without a name")))?;
        let mut mask = (mem.uint(mark, layout.mask)? & IN_ALL_EVENTS) as u32;
        for (flag, bit) in [(EXCL_UNLINK, IN_EXCL_UNLINK), (ONESHOT, IN_ONESHOT)] {
            mask |= if flags & flag != 0 { bit } else { 0 };
        }
        watches.push(InotifyWatch {
            wd,
            mask,
            inode: inode.0,
            number: mem.uint(inode, layouts.inode.i_ino)?,
            path: path.bytes,
        });
    }
    watches.sort_by_key(|watch| watch.wd);
    Ok(OpenFileKind::Inotify {
        watches,
        next: mem.uint(group, layouts.fsnotify_group.next)? as u32,
    })
}

/// The inode that watches are tied to.
fn watched<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, connector: Kva) -> Result<Kva> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    if mem.uint(connector, layouts.fsnotify_mark_connector.kind)? != OF_INODE {
        return Err(refuse("a watch on something else than a file"));
    }
    let object = mem.ptr(connector, layouts.fsnotify_mark_connector.obj)?;
    let pointer = u64::from(layouts.watched_inode.i_fsnotify_marks.offset);
    // Whichever it is, the inode leads back to the connector.
    for inode in [object, object.back(pointer)] {
        if mem.pointer(inode.offset(pointer)).ok() == Some(connector) {
            return Ok(inode);
        }
    }
    Err(Refusal::new(reasons::UNREADABLE, "a watch that its file does not know"))
}

/// Writes the events that nobody has read, if there are any.
///
/// # Errors
/// They cannot be read, or there is no room.
pub fn write_events<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    file: Kva,
) -> Result<()> {
    let field = context.kernel.types.layouts.file.private_data;
    let events = events(context, context.kernel.mem.ptr(file, field)?)?;
    if events.is_empty() {
        return Ok(());
    }
    Ok(writer.push(Kind::InotifyEvents, 1, flags::MUST_UNDERSTAND, file.0, &events)?)
}

/// The events that nobody has read, the oldest first.
fn events<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, group: Kva) -> Result<Vec<InotifyEvent>> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let layout = &layouts.inotify_event;
    let mem = &kernel.mem;
    if mem.uint(group, layouts.fsnotify_group.notification_lock)? != 0 {
        return Err(refuse("its queue was being changed at the instant the kernel died"));
    }
    let head = group.offset(u64::from(layouts.fsnotify_group.notification_list.offset));
    let mut events = Vec::new();
    for event in kernel.list(head, layout.list).bounded(MAX_EVENTS) {
        let event = event?;
        let length = mem.uint(event, layout.name_len)?;
        if length > MAX_NAME {
            return Err(Refusal::new(
                reasons::UNREADABLE,
                format!("an event with a name of {length} bytes"),
            ));
        }
        let name = event.offset(u64::from(layout.name.offset));
        events.push(InotifyEvent {
            wd: mem.int(event, layout.wd)? as i32,
            mask: (mem.uint(event, layout.mask)? & (IN_ALL_EVENTS | IN_TOLD | ON_CHILD)) as u32,
            cookie: mem.uint(event, layout.sync_cookie)? as u32,
            name: mem.bytes(name, length as usize)?,
        });
    }
    match mem.uint(group, layouts.fsnotify_group.q_len)? {
        count if count == events.len() as u64 => Ok(events),
        count => Err(Refusal::new(
            reasons::UNREADABLE,
            format!("{} events where there should be {count}", events.len()),
        )),
    }
}

/// Writes the directories that are watched, and those above what is: what was made just before is not on the disk yet.
///
/// # Errors
/// One cannot be read, or there is no room.
pub fn write_directories<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    watches: &[InotifyWatch],
) -> Result<()> {
    for watch in watches {
        let layout = &context.kernel.types.layouts.inode;
        let inode = Kva(watch.inode);
        let superblock = context.kernel.mem.ptr(inode, layout.i_sb)?;
        let is_directory =
            context.kernel.mem.uint(inode, layout.i_mode)? & crate::inodes::S_IFMT == crate::inodes::S_IFDIR;
        if crate::inodes::check_file_system(context, inode).is_err() {
            continue;
        }
        match dentry::of_inode(context, superblock, inode)? {
            Some(path) if is_directory => directories::write(context, writer, &path)?,
            Some(path) => directories::write_above(context, writer, &path)?,
            None => {}
        }
    }
    Ok(())
}
