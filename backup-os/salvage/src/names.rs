//! Names, links and attributes on an ext4 whose journal cannot be completed, because an operation on it was under way.
//!
//! The disk comes back as it was at the last commit. What was changed since lies in blocks that the running transaction
//! keeps in memory: a directory none of whose blocks is in a transaction has the names that the disk says, and an inode
//! whose table's block is in none is what the disk says. Of other directories all blocks that are in memory are read; those
//! that are not have not changed.
//!
//! Blocks may have been caught half changed, but what is known of names (`struct dentry`) changes at once, and only when
//! the operation has succeeded (`d_instantiate`, `d_delete`, `d_move`), while whoever changes a name holds its dentry: where
//! there is one, it is believed. So an operation under way has not happened yet, and all that were acknowledged have.

use crate::addr::Kva;
use crate::context::Context;
use crate::dentry;
use crate::directories;
use crate::ext4::{self, Blocks};
use crate::ext4_attributes::{in_block, in_inode};
use crate::ext4_table::{Raw, Table};
use crate::inodes::{self, S_IFDIR, S_IFMT};
use crate::memory::PhysMem;
use crate::refusal::{Refusal, Result};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::{Attribute, DiskRun, Lost, Name, Names, Node};
use shared_region::ext4_dir;
use shared_region::reasons;
use shared_region::record::{Kind, Writer};

/// Blocks of one directory.
const MAX_BLOCKS: usize = 1 << 16;
/// `S_IFLNK`.
const S_IFLNK: u64 = 0o120_000;
/// Number of the root directory of an ext4 (`EXT4_ROOT_INO`).
const ROOT: u64 = 2;
/// Longest target of a symbolic link, and of one that stands in the inode.
const MAX_TARGET: u64 = 4096;
const FAST_TARGET: u64 = 60;

/// A path of each inode of a file system that has one, by number.
pub type Paths = BTreeMap<u64, Vec<u8>>;

/// Records names and attributes that a disk may not know. What is not recorded is told in `lost`.
///
/// # Errors
/// The file system cannot be read, or there is no room.
pub fn write<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    superblock: Kva,
    file_system: &str,
    lost: &mut Vec<Lost>,
) -> Result<Paths> {
    let Some(table) = Table::of(context, superblock)? else {
        return Err(Refusal::new(reasons::UNREADABLE, "its tables of inodes"));
    };
    let mut paths = Paths::new();
    let mut tell = |object: String, why: Refusal| {
        let why = why.of(|| object);
        lost.push(why.lost_of(file_system.into()));
    };
    // Where a directory is not known, what has gone from another may be in it.
    let mut all_known = true;
    let inodes = inodes(context, superblock, |why| {
        all_known = false;
        tell("its list of inodes".into(), why);
    });
    let walk = Walk {
        context,
        superblock,
        table: &table,
        inodes: &inodes,
    };
    let mut changed = Vec::new();
    for (&number, &inode) in &inodes {
        match walk.directory(number, inode) {
            Ok(names) => changed.extend(names.map(|names| (inode, names))),
            Err(why) => {
                all_known = false;
                tell(alloc::format!("names in directory {number}"), why);
            }
        }
    }
    if let Some(&root) = inodes.get(&ROOT).filter(|_| changed.is_empty()) {
        // By its root directory the file system is found, whatever has changed.
        if let Some(names) = of_directory(context, (superblock, root))? {
            writer.push(Kind::Names, 1, 0, root.0, &names)?;
        }
    }
    for (inode, mut names) in changed {
        names.is_complete &= all_known;
        if !names.is_complete {
            let name = match names.path.is_empty() {
                true => alloc::format!("directory {}", names.number),
                false => String::from_utf8_lossy(&names.path).into_owned(),
            };
            let why = "names that were removed from it may be there again";
            tell(name, Refusal::new(reasons::UNREADABLE, why));
        }
        add_paths(&mut paths, &names);
        writer.push(Kind::Names, 1, 0, inode.0, &names)?;
    }
    for (&number, &inode) in &inodes {
        match walk.node(number, inode, &paths) {
            Ok(Some(node)) => writer.push(Kind::Node, 1, 0, inode.0, &node)?,
            Ok(None) => {}
            Err(why) => tell(alloc::format!("inode {number}"), why),
        }
    }
    Ok(paths)
}

/// Adds the paths of what is in a directory, if its own is known.
pub fn add_paths(paths: &mut Paths, names: &Names) {
    if names.path.is_empty() {
        return;
    }
    for entry in &names.entries {
        let path = join(&names.path, &entry.name);
        paths.entry(entry.number).or_insert(path);
    }
}

/// The path of a name in a directory.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// All inodes of a file system that are in memory, by number. Tells of what cannot be read.
fn inodes<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    superblock: Kva,
    mut tell: impl FnMut(Refusal),
) -> BTreeMap<u64, Kva> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let mut found = BTreeMap::new();
    for inode in inodes::in_memory(context, superblock) {
        let one = inode
            .map_err(Refusal::from)
            .and_then(|inode| Ok((mem.uint(inode, layouts.inode.i_ino)?, inode)));
        match one {
            Ok((number, inode)) => drop(found.insert(number, inode)),
            Err(why) => tell(why),
        }
    }
    found
}

struct Walk<'c, 'k, 'm, M: PhysMem + ?Sized> {
    context: &'c Context<'k, 'm, M>,
    superblock: Kva,
    table: &'c Table,
    inodes: &'c BTreeMap<u64, Kva>,
}

impl<M: PhysMem + ?Sized> Walk<'_, '_, '_, M> {
    /// The names in a directory, if they have changed since the last commit.
    fn directory(&self, number: u64, inode: Kva) -> Result<Option<Names>> {
        let context = self.context;
        let Some(mut names) = of_directory(context, (self.superblock, inode))? else {
            return Ok(None);
        };
        names.is_complete = true;
        let mut found = BTreeMap::new();
        let size = context
            .kernel
            .mem
            .uint(inode, context.kernel.types.layouts.inode.i_size)?;
        let changed = match Blocks::of(context, inode, self.superblock, size)? {
            Some(blocks) => self.blocks(&blocks, &mut names, &mut found)?,
            None => self.without_blocks(number, inode, &mut names, &mut found)?,
        };
        if !changed {
            return Ok(None);
        }
        let mut known = BTreeMap::new();
        overlay(context, (self.superblock, inode), &mut names, &mut known)?;
        for name in &names.gone {
            found.remove(name);
        }
        found.extend(known.into_iter().map(|(name, (number, _))| (name, number)));
        let entries = found.into_iter().map(|(name, number)| Name {
            generation: self.generation(number),
            name,
            number,
        });
        names.entries = entries.collect();
        Ok(Some(names))
    }

    /// Reads the blocks of a directory that are in memory; whether one has changed.
    fn blocks(&self, blocks: &Blocks, names: &mut Names, found: &mut BTreeMap<Vec<u8>, u64>) -> Result<bool> {
        let bytes = blocks.block_bytes();
        let (mut changed, mut left) = (false, MAX_BLOCKS);
        for run in &blocks.runs {
            for at in (run.at..run.at.saturating_add(run.bytes)).step_by(bytes) {
                left = left
                    .checked_sub(1)
                    .ok_or_else(|| Refusal::new(reasons::UNREADABLE, "a directory without end"))?;
                let number = at.wrapping_shr(self.table.block_bits);
                let Some(block) = ext4::block(self.context, self.table.device, self.table.block_bits, number) else {
                    // It may have changed all the same.
                    if ext4::is_torn(self.context, self.table.device, self.table.block_bits, number) {
                        changed = true;
                        names.is_complete = false;
                    }
                    names.rest.push(DiskRun {
                        offset: 0,
                        at,
                        bytes: bytes as u64,
                    });
                    continue;
                };
                changed |= block.is_changed;
                match ext4_dir::names(&block.bytes) {
                    Some(names) => found.extend(names.into_iter().map(|(name, number)| (name, u64::from(number)))),
                    None => names.is_complete = false,
                }
            }
        }
        Ok(changed)
    }

    /// Reads the names of a directory that stand in its inode; whether they may have changed.
    fn without_blocks(
        &self,
        number: u64,
        inode: Kva,
        names: &mut Names,
        found: &mut BTreeMap<Vec<u8>, u64>,
    ) -> Result<bool> {
        let raw = self.table.raw(self.context, number);
        let Some(raw) = raw.filter(|raw| raw.is_changed) else {
            return Ok(false);
        };
        let parts = match ext4::is_inline(self.context, inode)? {
            true => raw.names(),
            false => None,
        };
        let parts: Option<Vec<_>> = parts.and_then(|parts| parts.into_iter().map(ext4_dir::names).collect());
        names.is_complete = parts.is_some();
        let all = parts.unwrap_or_default().into_iter().flatten();
        found.extend(all.map(|(name, number)| (name, u64::from(number))));
        Ok(true)
    }

    /// The generation of an inode, in memory or in its table.
    fn generation(&self, number: u64) -> Option<u32> {
        let layouts = &self.context.kernel.types.layouts;
        let mem = &self.context.kernel.mem;
        match self.inodes.get(&number) {
            Some(&inode) => Some(mem.uint(inode, layouts.inode.i_generation).ok()? as u32),
            None => self.table.raw(self.context, number)?.generation(),
        }
    }

    /// An inode that may not be on the disk as it is, and has a name.
    fn node(&self, number: u64, inode: Kva, paths: &Paths) -> Result<Option<Node>> {
        let layouts = &self.context.kernel.types.layouts;
        let mem = &self.context.kernel.mem;
        let field = |field| mem.uint(inode, field);
        let Some(raw) = self.table.raw(self.context, number).filter(|raw| raw.is_changed) else {
            return Ok(None);
        };
        let named = field(layouts.inode.i_nlink)? != 0 || paths.contains_key(&number);
        if !named {
            return Ok(None);
        }
        let target = match field(layouts.inode.i_mode)? & S_IFMT {
            S_IFLNK => self.target(inode, field(layouts.inode.i_size)?)?,
            _ => Vec::new(),
        };
        let attributes = self.attributes(inode, &raw)?;
        node(self.context, (self.superblock, inode), target, attributes).map(Some)
    }

    /// Where a symbolic link leads; empty if that is not in memory.
    fn target(&self, inode: Kva, size: u64) -> Result<Vec<u8>> {
        let wanted = usize::try_from(size.min(MAX_TARGET)).unwrap_or(0);
        let bytes = match Blocks::of(self.context, inode, self.superblock, size)? {
            Some(blocks) => {
                let first = blocks.runs.first().filter(|run| run.offset == 0);
                first.and_then(|run| blocks.cached(self.context, run.at))
            }
            None if size < FAST_TARGET && ext4::is_plain(self.context, inode)? => {
                Some(ext4::block_map(self.context, inode)?)
            }
            None => None,
        };
        let target = bytes.unwrap_or_default();
        Ok(target.get(..wanted).unwrap_or_default().to_vec())
    }

    fn attributes(&self, inode: Kva, raw: &Raw) -> Result<Option<Vec<Attribute>>> {
        let layouts = &self.context.kernel.types.layouts;
        let mem = &self.context.kernel.mem;
        let Some(own) = &layouts.ext4_inode else {
            return Ok(None);
        };
        let unknown = || Refusal::new(reasons::UNREADABLE, "extended attributes");
        let mut found = in_inode(&raw.bytes).ok_or_else(unknown)?;
        let number = mem.uint(inode.back(u64::from(own.vfs_inode.offset)), own.i_file_acl)?;
        if number != 0 {
            let block = ext4::block(self.context, self.table.device, self.table.block_bits, number);
            // A block that is not in memory has not changed, but it may be another than it was.
            let Some(block) = block else {
                return Ok(None);
            };
            found.extend(in_block(&block.bytes).ok_or_else(unknown)?);
        }
        Ok(Some(found))
    }
}

/// The record of the names in a directory, without any; `None` if it is none, or deleted.
///
/// # Errors
/// It cannot be read.
pub fn of_directory<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    (superblock, inode): (Kva, Kva),
) -> Result<Option<Names>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    if mem.uint(inode, layouts.inode.i_mode)? & S_IFMT != S_IFDIR {
        return Ok(None);
    }
    let path = dentry::of_inode(context, superblock, inode)?;
    if path.is_none() && mem.uint(inode, layouts.inode.i_nlink)? == 0 {
        return Ok(None);
    }
    Ok(Some(Names {
        device: inodes::device(context, superblock, inode)?,
        number: mem.uint(inode, layouts.inode.i_ino)?,
        generation: mem.uint(inode, layouts.inode.i_generation)? as u32,
        path: path.map(|path| path.bytes).unwrap_or_default(),
        uuid: mem.array::<16>(superblock.offset(u64::from(layouts.super_block.s_uuid.offset)))?,
        ..Names::default()
    }))
}

/// What is known of the names in a directory by their dentries: to which number and which inode each leads, in `found`, and
/// those that are gone, in `names`.
///
/// # Errors
/// They cannot be read.
pub fn overlay<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    (superblock, inode): (Kva, Kva),
    names: &mut Names,
    found: &mut BTreeMap<Vec<u8>, (u64, Kva)>,
) -> Result<()> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let aliases = inode.offset(u64::from(layouts.inode.i_dentry.offset));
    // A directory has one name.
    let Some(dentry) = kernel.hlist(aliases, layouts.dentry.d_alias).bounded(1 << 16).next() else {
        return Ok(());
    };
    directories::each_child(context, dentry?, |child| {
        if kernel.mem.ptr(child, layouts.dentry.pprev)?.is_null() {
            return Ok(true);
        }
        let name = dentry::name(context, child)?;
        let inode = kernel.mem.ptr(child, layouts.dentry.d_inode)?;
        if inode.is_null() {
            names.gone.push(name);
        } else if kernel.mem.ptr(inode, layouts.inode.i_sb)? == superblock {
            found.insert(name, (kernel.mem.uint(inode, layouts.inode.i_ino)?, inode));
        }
        Ok(true)
    })
}

/// The record of an inode that may not be on the disk as it is.
///
/// # Errors
/// It cannot be read.
pub fn node<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    (superblock, inode): (Kva, Kva),
    target: Vec<u8>,
    attributes: Option<Vec<Attribute>>,
) -> Result<Node> {
    let record = inodes::record(context, inode, superblock, Vec::new())?;
    let number = context
        .kernel
        .mem
        .uint(inode, context.kernel.types.layouts.inode.i_rdev)?;
    Ok(Node {
        device: record.device,
        number: record.number,
        generation: record.generation,
        mode: record.mode,
        uid: record.uid,
        gid: record.gid,
        times: [record.times[0], record.times[1]],
        rdev: rdev(number),
        target,
        attributes,
    })
}

/// A device's number as `mknod` takes it (`new_encode_dev`); the kernel keeps twenty bits for the minor one.
pub const fn rdev(kernel: u64) -> u64 {
    let (major, minor) = (kernel >> 20, kernel & 0xF_FFFF);
    minor & 0xFF | major << 8 | (minor & !0xFF) << 12
}

#[cfg(test)]
mod tests {
    use super::{add_paths, join, rdev, Name, Names, Paths};

    #[test]
    fn a_directory_that_is_not_known_gives_no_paths() {
        let entries = alloc::vec![Name {
            name: b"name".to_vec(),
            number: 7,
            generation: None,
        }];
        let mut names = Names {
            entries,
            ..Names::default()
        };
        let mut paths = Paths::new();
        add_paths(&mut paths, &names);
        assert!(paths.is_empty(), "it would be one in the root of the machine");
        names.path = b"/there".to_vec();
        add_paths(&mut paths, &names);
        assert_eq!(paths[&7], b"/there/name");
    }

    #[test]
    fn paths_below_the_root_have_one_slash() {
        assert_eq!(join(b"/", b"a"), b"/a");
        assert_eq!(join(b"/a", b"b"), b"/a/b");
    }

    #[test]
    fn numbers_of_devices_are_those_of_user_land() {
        assert_eq!(rdev(8 << 20 | 1), 0x801);
        assert_eq!(rdev(259 << 20 | 0x12345), 0x1230_0000 | 259 << 8 | 0x45);
    }
}
