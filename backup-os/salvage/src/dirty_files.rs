//! Data in the page cache that a disk does not have, of files that no protected process holds.
//!
//! Every inode in memory is on its file system's list, and every page that is newer than the disk has a mark in the page
//! cache: dirty, or under writeback. A page leaves writeback only when its extent is written
//! (`ext4_end_io_end`), so that a page without a mark is on the disk, in the block that the journal says.
//!
//! Where the journal cannot be completed, its file system comes back as it was some seconds before. Names and attributes that
//! were changed since are recorded then ([`names`]), and files whole, with a name, as those of protected processes are.

use crate::addr::{Kva, Pfn, PAGE_SHIFT, PAGE_SIZE};
use crate::btrfs::{self, Behind, Btrfs, InMemory, Subvolume};
use crate::containers::xarray::Entry;
use crate::context::Context;
use crate::dentry::{self, Path};
use crate::ext4;
use crate::ext4_table::Table;
use crate::inodes::{self, As, S_IFMT, S_IFREG};
use crate::jbd2;
use crate::memory::PhysMem;
use crate::names::{self, Paths};
use crate::page_cache::{append, each_buffer, entries, has_buffers, NEWER};
use crate::refusal::{Refusal, Result};
use crate::vfat::{self, Vfat};
use crate::xfs::{Known, Xfs};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::{frame_kind, DirtyFile, FatFile, FrameRun, Lost, PagePart};
use shared_region::reasons;
use shared_region::record::{Kind, Writer};

/// `SB_RDONLY`.
const READ_ONLY: u64 = 1;
/// `FS_REQUIRES_DEV`.
const REQUIRES_DEV: u64 = 1;

/// Whether nobody writes to a file system.
fn is_read_only<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<bool> {
    let flags = context.kernel.types.layouts.super_block.s_flags;
    Ok(context.kernel.mem.uint(superblock, flags)? & READ_ONLY != 0)
}

/// Records what the disks of all mounted ext4, XFS, btrfs and vfat do not have: the journals' transactions, names and attributes, and data
/// of files whose inodes are not recorded already. Returns what is not recorded, and the file systems with a journal of which all is.
pub fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
) -> (Vec<Lost>, Vec<Kva>) {
    let (mut lost, mut whole) = (Vec::new(), Vec::new());
    for superblock in inodes::file_systems(context) {
        let is_written = match is_read_only(context, superblock) {
            Ok(true) => is_as_on_disk(context, superblock).map(|()| false),
            read_only => read_only.map(|_| true),
        };
        match is_written {
            Ok(true) => {}
            Ok(false) => continue,
            Err(why) => {
                lost.push(why.lost_of(name(context, superblock)));
                continue;
            }
        }
        if let Ok(Some(xfs)) = Xfs::of(context, superblock) {
            if let Err(why) = of_xfs(context, writer, retained, (superblock, &xfs), &mut lost) {
                lost.push(why.lost_of(name(context, superblock)));
            }
            continue;
        }
        if let Ok(Some(vfat)) = Vfat::of(context, superblock) {
            if let Err(why) = of_vfat(context, writer, retained, (superblock, &vfat)) {
                lost.push(why.lost_of(name(context, superblock)));
            }
            continue;
        }
        let done = match Btrfs::of(context, superblock) {
            Ok(None) => None,
            Ok(Some(btrfs)) => Some(of_btrfs(context, writer, retained, (superblock, &btrfs), &mut lost)),
            Err(why) => Some(Err(why)),
        };
        if let Some(done) = done {
            lost.extend(done.err().map(|why| why.lost_of(name(context, superblock))));
            continue;
        }
        if ext4::is_ext4(context, superblock) != Ok(true) {
            let why = of_another_kind(context, superblock).err();
            lost.extend(why.map(|why| why.lost_of(name(context, superblock))));
            continue;
        }
        match file_system(context, writer, retained, superblock, &mut lost) {
            Ok(true) => whole.push(superblock),
            Ok(false) => {}
            Err(why) => lost.push(why.lost_of(name(context, superblock))),
        }
    }
    (lost, whole)
}

/// Refuses a file system on a disk that is of another kind: which of its names and attributes its disk has not got is not known here,
/// and its data goes back for protected processes alone.
fn of_another_kind<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<()> {
    match is_on_disk(context, superblock)? {
        true => Err(behind(context, superblock, "", count_behind(context, superblock)?)?),
        false => Ok(()),
    }
}

/// Refuses a file system on a disk that nobody writes to, if its disk is behind: the kernel has given up what was not written.
fn is_as_on_disk<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<()> {
    if !is_on_disk(context, superblock)? {
        return Ok(());
    }
    match count_behind(context, superblock)? {
        0 => Ok(()),
        count => Err(behind(context, superblock, ", read-only, as after an error", count)?),
    }
}

fn is_on_disk<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<bool> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let kind = mem.ptr(superblock, layouts.super_block.s_type)?;
    Ok(mem.uint(kind, layouts.file_system_type.fs_flags)? & REQUIRES_DEV != 0)
}

/// In how many files a disk is behind.
fn count_behind<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> Result<u64> {
    let mut behind = 0u64;
    for inode in inodes::in_memory(context, superblock) {
        behind = behind.saturating_add(u64::from(inodes::is_behind(context, inode?)?));
    }
    Ok(behind)
}

/// The refusal of a file system whose disk is behind in so many files, with what is said after its kind.
fn behind<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    superblock: Kva,
    also: &str,
    files: u64,
) -> Result<Refusal> {
    let kind = inodes::fs_type(context, superblock)?;
    let kind = String::from_utf8_lossy(&kind);
    let detail = alloc::format!("{kind}{also}; its disk is behind in {files} files");
    Ok(Refusal::new(reasons::OTHER_FILE_SYSTEM, detail))
}

fn name<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, superblock: Kva) -> String {
    let name = context
        .kernel
        .mem
        .text(superblock, context.kernel.types.layouts.super_block.s_id);
    alloc::format!("file system on {}", String::from_utf8_lossy(&name.unwrap_or_default()))
}

/// Records which XFS it is.
fn write_logged<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    superblock: Kva,
) -> Result<()> {
    let it = jbd2::logged(context, superblock)?;
    Ok(writer.push(Kind::LoggedFileSystem, 1, 0, superblock.0, &it)?)
}

fn file_system<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    superblock: Kva,
    lost: &mut Vec<Lost>,
) -> Result<bool> {
    if ext4::has_inline_data(context, superblock)? {
        lost.push(Refusal::new(reasons::INLINE_DATA, "").lost_of(name(context, superblock)));
    }
    let read = match context.input.by_file {
        true => jbd2::left_alone(context, superblock).map(Some),
        false => jbd2::read(context, superblock),
    };
    let mut whole = read.is_ok();
    if let Err(why) = &read {
        lost.push(why.lost_of(name(context, superblock)));
    }
    if let Ok(None) = read {
        if !ext4::journal(context, superblock)?.is_null() {
            let idle = jbd2::idle(context, superblock)?;
            writer.push(Kind::IdleJournal, 1, 0, superblock.0, &idle)?;
        }
    }
    if let Ok(Some(journal)) = &read {
        whole = journal.refused.is_empty() && journal.running_refused.is_empty();
        writer.push(Kind::Journal, 1, 0, superblock.0, journal)?;
        for block in &journal.blocks {
            for at in [Some(block.at), block.before].into_iter().flatten() {
                context.retain(retained, Pfn(at >> PAGE_SHIFT), 1);
            }
        }
    }
    if let Some(checkpoint) = jbd2::waiting(context, superblock, read.ok().flatten().as_ref()) {
        writer.push(Kind::Checkpoint, 1, 0, superblock.0, &checkpoint)?;
        for block in checkpoint.blocks.iter().filter(|block| block.at != 0) {
            context.retain(retained, Pfn(block.at >> PAGE_SHIFT), 1);
        }
    }
    let paths = match whole {
        true => None,
        false => {
            let name = name(context, superblock);
            Some(names::write(context, writer, superblock, &name, lost)?)
        }
    };
    for inode in inodes::in_memory(context, superblock) {
        let done = inode
            .map_err(Refusal::from)
            .and_then(|inode| one(context, writer, retained, (superblock, inode), paths.as_ref()));
        if let Err(why) = done {
            lost.push(why.lost_of(name(context, superblock)));
        }
    }
    Ok(paths.is_none() && !ext4::journal(context, superblock)?.is_null())
}

/// What the disk of an XFS does not have: inodes that its log has not got whole, and data of others.
fn of_xfs<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    (superblock, xfs): (Kva, &Xfs),
    lost: &mut Vec<Lost>,
) -> Result<()> {
    write_logged(context, writer, superblock)?;
    let file_system = name(context, superblock);
    let inodes = xfs.inodes(context)?;
    let paths = xfs.write_names(context, writer, &inodes, &file_system, lost)?;
    for (&number, known) in &inodes {
        let path = paths.get(&number);
        if let Err(why) = one_of_xfs(context, writer, retained, (superblock, xfs), (known, path)) {
            let why = why.of(|| alloc::format!("inode {number}"));
            lost.push(why.lost_of(file_system.clone()));
        }
    }
    Ok(())
}

fn one_of_xfs<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    (superblock, xfs): (Kva, &Xfs),
    (known, path): (&Known, Option<&Vec<u8>>),
) -> Result<()> {
    let at = (superblock, known.inode);
    if !is_file_with_name(context, known.inode, path)? {
        return Ok(());
    }
    check(context, at)?;
    if !known.is_pinned {
        let disk_size = xfs.disk_size(context, known.inode)?;
        return newer(context, writer, retained, at, (disk_size, false));
    }
    with_name(context, writer, retained, at, path)
}

/// Records a file that has changed, of which a name has to be in memory.
fn with_name<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    at: (Kva, Kva),
    path: Option<&Vec<u8>>,
) -> Result<()> {
    match as_held(context, writer, retained, at, path)? {
        true => Ok(()),
        false => Err(Refusal::new(
            reasons::UNREADABLE,
            "it has changed, and no name of it is in memory",
        )),
    }
}

/// What the disk of a vfat does not have. All of it or nothing: names, the FAT and data are one.
fn of_vfat<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    (superblock, vfat): (Kva, &Vfat),
) -> Result<()> {
    let (record, files) = vfat.read(context)?;
    let mark = writer.mark();
    writer.push(Kind::FatFileSystem, 1, 0, superblock.0, &record)?;
    for block in &record.blocks {
        context.retain(retained, Pfn(block.at >> PAGE_SHIFT), 1);
    }
    for file in &files {
        if let Err(why) = one_of_vfat(context, writer, retained, superblock, file) {
            writer.rewind(mark);
            return Err(why);
        }
    }
    Ok(())
}

/// What the disk of a btrfs does not have: of its subvolumes, inodes that its last commit has not got, and data of others.
fn of_btrfs<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    (superblock, btrfs): (Kva, &Btrfs),
    lost: &mut Vec<Lost>,
) -> Result<()> {
    let file_system = name(context, superblock);
    let layouts = &context.kernel.types.layouts;
    let mut inodes = BTreeMap::<u64, InMemory>::new();
    for inode in inodes::in_memory(context, superblock) {
        let inode = inode?;
        if let Some(subvolume) = btrfs.number_of(context, inode)? {
            let number = context.kernel.mem.uint(inode, layouts.inode.i_ino)?;
            inodes.entry(subvolume).or_default().insert(number, inode);
        }
    }
    for &number in &btrfs.deleted {
        let why = Refusal::new(reasons::OTHER_FILE_SYSTEM, "it was deleted last and is there again");
        lost.push(why.lost_of(of_subvolume(&file_system, number)));
    }
    for (number, subvolume) in btrfs.subvolumes() {
        let (all, name) = (
            inodes.remove(&number).unwrap_or_default(),
            of_subvolume(&file_system, number),
        );
        let done = subvolume.clone().and_then(|subvolume| {
            of_one_subvolume(context, writer, retained, (superblock, &subvolume), (&all, &name), lost)
        });
        lost.extend(done.err().map(|why| why.lost_of(name)));
    }
    Ok(())
}

/// How a subvolume is named in the report.
fn of_subvolume(file_system: &str, number: u64) -> String {
    alloc::format!("{file_system}, subvolume {number}")
}

fn of_one_subvolume<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    (superblock, subvolume): (Kva, &Subvolume),
    (inodes, name): (&InMemory, &str),
    lost: &mut Vec<Lost>,
) -> Result<()> {
    writer.push(Kind::Subvolume, 1, 0, superblock.0, &subvolume.record(context)?)?;
    let paths = subvolume.write_names(context, writer, inodes, name, lost)?;
    for (&number, &inode) in inodes {
        let path = paths.get(&number);
        if let Err(why) = one_of_btrfs(
            context,
            writer,
            retained,
            (superblock, subvolume),
            ((number, inode), path),
        ) {
            let why = why.of(|| alloc::format!("inode {number}"));
            lost.push(why.lost_of(name.into()));
        }
    }
    Ok(())
}

fn one_of_vfat<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    superblock: Kva,
    &vfat::File { inode, size }: &vfat::File,
) -> Result<()> {
    check(context, (superblock, inode))?;
    let mapping = context
        .kernel
        .mem
        .ptr(inode, context.kernel.types.layouts.inode.i_mapping)?;
    let newer = Newer::of(context, mapping, size)?;
    if newer.runs.is_empty() && newer.parts.is_empty() {
        return Ok(());
    }
    writer.push(
        Kind::FatFile,
        1,
        0,
        inode.0,
        &FatFile {
            parts: newer.parts.clone(),
        },
    )?;
    for part in &newer.parts {
        context.retain(retained, Pfn(part.at >> PAGE_SHIFT), 1);
    }
    inodes::write_runs(context, writer, retained, inode, &newer.runs)
}

fn one_of_btrfs<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    (superblock, subvolume): (Kva, &Subvolume),
    ((number, inode), path): ((u64, Kva), Option<&Vec<u8>>),
) -> Result<()> {
    let at = (superblock, inode);
    if !is_file_with_name(context, inode, path)? {
        return Ok(());
    }
    check(context, at)?;
    match subvolume.behind(context, inode)? {
        // It is being made, and nobody was told of it.
        Behind { content: true, .. } if path.is_none() && subvolume.is_nameless(number) => Ok(()),
        Behind { content: true, .. } => with_name(context, writer, retained, at, path),
        // Making a file longer or shorter need not change anything about its blocks.
        Behind { inode: true, .. } => newer(context, writer, retained, at, (u64::MAX, false)),
        Behind { .. } => {
            let disk_size = subvolume.disk_size(context, inode)?;
            newer(context, writer, retained, at, (disk_size, false))
        }
    }
}

/// Whether an inode is a regular file that has a name.
fn is_file_with_name<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    inode: Kva,
    path: Option<&Vec<u8>>,
) -> Result<bool> {
    let layouts = &context.kernel.types.layouts;
    let field = |field| context.kernel.mem.uint(inode, field);
    let is_named = field(layouts.inode.i_nlink)? != 0 || path.is_some();
    Ok(is_named && field(layouts.inode.i_mode)? & S_IFMT == S_IFREG)
}

fn one<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    (superblock, inode): (Kva, Kva),
    paths: Option<&Paths>,
) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let field = |field| mem.uint(inode, field);
    let path = paths.and_then(|paths| paths.get(&field(layouts.inode.i_ino).ok()?));
    if !is_file_with_name(context, inode, path)? {
        // Where no operation was under way, inode and table agree.
        if paths.is_none() && inodes::has_new_pages(context, inode)? && is_file(context, (superblock, inode))? {
            return Err(unsound(field(layouts.inode.i_ino)?));
        }
        return Ok(());
    }
    check(context, (superblock, inode))?;
    let size = field(layouts.inode.i_size)?;
    let is_behind = paths.is_some() && ext4::ahead(context, inode, superblock, size)?.inode;
    // Its keys died with the kernel: nothing can be written to it.
    if ext4::is_encrypted(context, inode)? && (is_behind || inodes::has_new_pages(context, inode)?) {
        let known = dentry::of_inode(context, superblock, inode)?.map(|path| path.bytes);
        let path = path.cloned().or(known).unwrap_or_default();
        let number = field(layouts.inode.i_ino)?;
        let detail = alloc::format!("inode {number}");
        return Err(Refusal::new(reasons::ENCRYPTED, detail).of(|| String::from_utf8_lossy(&path).into_owned()));
    }
    if is_behind && as_held(context, writer, retained, (superblock, inode), path)? {
        return Ok(());
    }
    let disk_size = ext4::disk_size(context, inode)?;
    let ahead = ext4::ahead(context, inode, superblock, disk_size)?.content;
    newer(context, writer, retained, (superblock, inode), (disk_size, ahead))
}

/// Records the pages of a file that are newer than its disk, which takes it to be of `disk_size` bytes; `ahead` as in the record.
fn newer<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    (superblock, inode): (Kva, Kva),
    (disk_size, ahead): (u64, bool),
) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let field = |field| mem.uint(inode, field);
    let size = field(layouts.inode.i_size)?;
    let grown = disk_size != size;
    let mapping = mem.ptr(inode, layouts.inode.i_mapping)?;
    let newer = Newer::of(context, mapping, size).and_then(|newer| newer.with_end(context, mapping, disk_size, size));
    let number = field(layouts.inode.i_ino)?;
    let newer = newer.map_err(|why| why.of(|| alloc::format!("inode {number}")))?;
    if (newer.runs.is_empty() && newer.parts.is_empty() && !grown) || context.is_written(Kind::Inode, inode.0) {
        return Ok(());
    }
    let record = inodes::record(context, inode, superblock, Vec::new())?;
    let file = DirtyFile {
        device: record.device,
        number,
        generation: record.generation,
        size,
        times: [record.times[0], record.times[1]],
        ahead,
        parts: newer.parts,
    };
    writer.push(Kind::DirtyFile, 1, 0, inode.0, &file)?;
    for part in &file.parts {
        context.retain(retained, Pfn(part.at >> PAGE_SHIFT), 1);
    }
    inodes::write_runs(context, writer, retained, inode, &newer.runs)
}

fn unsound(number: u64) -> Refusal {
    Refusal::new(reasons::UNREADABLE, "").of(|| alloc::format!("inode {number}"))
}

/// Refuses an inode that is not part of this file system, or whose pages are not its own.
fn check<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, (superblock, inode): (Kva, Kva)) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let own = inode.offset(u64::from(layouts.inode.i_data.offset));
    let is_sound = mem.ptr(inode, layouts.inode.i_sb)? == superblock
        && mem.ptr(inode, layouts.inode.i_mapping)? == own
        && mem.ptr(own, layouts.address_space.host)? == inode;
    match is_sound {
        true => Ok(()),
        false => Err(unsound(mem.uint(inode, layouts.inode.i_ino)?)),
    }
}

/// Whether the table of inodes has a regular file with a name there.
fn is_file<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, (superblock, inode): (Kva, Kva)) -> Result<bool> {
    let number = context
        .kernel
        .mem
        .uint(inode, context.kernel.types.layouts.inode.i_ino)?;
    let table = Table::of(context, superblock)?;
    Ok(table
        .and_then(|table| table.raw(context, number))
        .is_some_and(|raw| raw.is_file()))
}

/// Records a file as one that a protected process holds; whether it could be, which takes a name.
fn as_held<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    (superblock, inode): (Kva, Kva),
    path: Option<&Vec<u8>>,
) -> Result<bool> {
    if context.is_written(Kind::Inode, inode.0) {
        return parts_of(context, writer, retained, (superblock, inode)).map(|()| true);
    }
    let path = match (path, dentry::of_inode(context, superblock, inode)?) {
        (_, Some(path)) => path,
        (Some(bytes), None) => Path {
            bytes: bytes.clone(),
            ..Path::default()
        },
        (None, None) => return Ok(false),
    };
    let how = As {
        parts_follow: true,
        named: true,
    };
    let (mark, checkpoint) = (writer.mark(), context.checkpoint());
    let written = inodes::write_as(context, writer, retained, inode, &path, how)
        .and_then(|()| parts_of(context, writer, retained, (superblock, inode)));
    match &written {
        Ok(()) => context.commit(),
        Err(_) => {
            writer.rewind(mark);
            context.rollback(checkpoint);
        }
    }
    let name = || String::from_utf8_lossy(&path.bytes).into_owned();
    written.map(|()| true).map_err(|why| why.of(name))
}

/// Records pages of which not all blocks are known, for a file that is recorded as a protected process's.
fn parts_of<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    retained: &mut [u8],
    (superblock, inode): (Kva, Kva),
) -> Result<()> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let size = mem.uint(inode, layouts.inode.i_size)?;
    let mapping = mem.ptr(inode, layouts.inode.i_mapping)?;
    // Of data that goes through the journal, blocks are newer than the disk in pages that have no mark.
    let in_journal = ext4::is_ext4(context, superblock)? && ext4::journals_data(context, inode, superblock)?;
    let mut parts = match in_journal {
        true => Newer::in_parts(context, mapping, size)?,
        false => Newer::of(context, mapping, size)?.parts,
    };
    if let Some(subvolume) = btrfs::of_inode(context, superblock, inode)? {
        parts.extend(subvolume.parts(context, inode)?);
    }
    if parts.is_empty() {
        return Ok(());
    }
    let record = inodes::record(context, inode, superblock, Vec::new())?;
    for part in &parts {
        context.retain(retained, Pfn(part.at >> PAGE_SHIFT), 1);
    }
    let file = DirtyFile {
        device: record.device,
        number: record.number,
        generation: record.generation,
        size,
        times: [record.times[0], record.times[1]],
        // The rest of it is put back first.
        ahead: false,
        parts,
    };
    Ok(writer.push(Kind::DirtyFile, 1, 0, inode.0, &file)?)
}

/// What of a file its disk does not have.
#[derive(Debug, Default)]
struct Newer {
    runs: Vec<FrameRun>,
    parts: Vec<PagePart>,
}

impl Newer {
    fn of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mapping: Kva, size: u64) -> Result<Self> {
        let mut marked = BTreeMap::new();
        for mark in NEWER {
            for entry in entries(context, mapping)?.marked(mark) {
                let entry = entry?;
                marked.insert(entry.index, entry);
            }
        }
        let mut newer = Self::default();
        for entry in marked.into_values() {
            if let Some(page) = Page::of(context, mapping, entry, size)? {
                match page.is_whole {
                    true => append(&mut newer.runs, page.run()),
                    false => newer.blocks(context, &page)?,
                }
            }
        }
        Ok(newer)
    }

    /// With the page in which the file ends on its disk, where it is longer in memory: a file that is made longer has the rest of
    /// that block zeroed, and what was written there may have come to the disk before the size has.
    fn with_end<M: PhysMem + ?Sized>(
        mut self,
        context: &Context<'_, '_, M>,
        mapping: Kva,
        disk_size: u64,
        size: u64,
    ) -> Result<Self> {
        let index = disk_size >> PAGE_SHIFT;
        let start = index.wrapping_shl(PAGE_SHIFT);
        let covers = |from: u64, bytes: u64| (from..from.saturating_add(bytes)).contains(&start);
        let has = self.runs.iter().any(|run| covers(run.va, run.pages() << PAGE_SHIFT))
            || self.parts.iter().any(|part| part.offset >> PAGE_SHIFT == index);
        if disk_size >= size || disk_size == start || has {
            return Ok(self);
        }
        let Some(entry) = entries(context, mapping)?.within(index, index).next() else {
            return Ok(self);
        };
        match Page::of(context, mapping, entry?, size)? {
            Some(page) if page.is_whole => self.runs.insert(0, page.run()),
            Some(page) => self.blocks(context, &page)?,
            None => {}
        }
        Ok(self)
    }

    /// The known blocks of all pages of which not all blocks are known.
    fn in_parts<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mapping: Kva, size: u64) -> Result<Vec<PagePart>> {
        let mut newer = Self::default();
        for entry in entries(context, mapping)? {
            let page = Page::of(context, mapping, entry?, size)?;
            if let Some(page) = page.filter(|page| !page.is_whole) {
                newer.blocks(context, &page)?;
            }
        }
        Ok(newer.parts)
    }

    /// The blocks of a page that are known, where not all are.
    fn blocks<M: PhysMem + ?Sized>(&mut self, context: &Context<'_, '_, M>, page: &Page) -> Result<()> {
        let Page { offset, pfn, .. } = *page;
        if !page.has_blocks {
            return Ok(());
        }
        let bytes = page.span.wrapping_mul(PAGE_SIZE);
        let (mut known, mut second) = (Vec::new(), None);
        each_buffer(context, page.at, bytes, |at, is_valid| {
            if is_valid {
                known.push(at);
            }
            if at != 0 {
                second.get_or_insert(at);
            }
        })?;
        // Blocks lie as far apart as they are long.
        let step = second.unwrap_or(bytes);
        if !(512..=PAGE_SIZE).contains(&step) {
            return Err(Refusal::new(reasons::UNREADABLE, "the size of a block"));
        }
        self.parts.extend(known.into_iter().map(|at| PagePart {
            offset: offset.wrapping_add(at),
            at: Pfn(pfn).phys().0.wrapping_add(at),
            bytes: step as u32,
        }));
        Ok(())
    }
}

/// A page of a file, or several in one.
struct Page {
    /// Its `struct page`.
    at: Kva,
    pfn: u64,
    span: u64,
    /// In the file, in bytes.
    offset: u64,
    /// All of it is known.
    is_whole: bool,
    /// It has blocks of its own.
    has_blocks: bool,
}

impl Page {
    /// That of an entry of a page cache; none if it is no page, or lies beyond the end of the file.
    fn of<M: PhysMem + ?Sized>(
        context: &Context<'_, '_, M>,
        mapping: Kva,
        entry: Entry,
        size: u64,
    ) -> Result<Option<Self>> {
        let index = entry.index;
        let offset = index.wrapping_shl(PAGE_SHIFT);
        if entry.value & 1 != 0 || offset >= size {
            return Ok(None);
        }
        let Some((pfn, flags, _)) = context.pages.of_cache(&entry, mapping) else {
            return Err(Refusal::new(
                reasons::UNREADABLE,
                alloc::format!("page {index} of a file"),
            ));
        };
        let bit = |bit: u32| flags & 1u64.wrapping_shl(bit) != 0;
        let names = &context.kernel.types.layouts.page_flags;
        if names.hwpoison.is_some_and(bit) {
            return Err(Refusal::new(
                reasons::POISONED,
                alloc::format!("page {index} of a file"),
            ));
        }
        Ok(Some(Self {
            at: Kva(entry.value & !3),
            pfn,
            span: entry.span.clamp(1, FrameRun::MAX_PAGES),
            offset,
            is_whole: bit(names.uptodate),
            has_blocks: has_buffers(context, flags),
        }))
    }

    /// All of it.
    const fn run(&self) -> FrameRun {
        FrameRun::new(self.offset, self.pfn, self.span, frame_kind::FILE_DIRTY)
    }
}
