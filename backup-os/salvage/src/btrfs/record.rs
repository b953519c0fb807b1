//! Names and attributes that the last commit of a btrfs does not have.

use super::block::{InodeItem, Key};
use super::tree::{Found, Part, Taken};
use super::{Subvolume, MAX_DEPTH, ROOT};
use crate::addr::Kva;
use crate::context::Context;
use crate::dentry;
use crate::inodes::{S_IFDIR, S_IFMT, S_IFREG};
use crate::memory::PhysMem;
use crate::names::{self, Paths};
use crate::refusal::{Refusal, Result};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use shared_region::context::{Attribute, ChangedInode, ChangedInodes, FreeNumbers, Lost, Name, Names, Node};
use shared_region::reasons;
use shared_region::record::{Kind, Writer};

/// Inodes of the subvolume that are in memory, by number.
pub type InMemory = BTreeMap<u64, Kva>;

/// What is recorded of names, and where what goes wrong is told.
struct Work<'a, 'c, 'k, 'm, M: PhysMem + ?Sized> {
    subvolume: &'a Subvolume,
    context: &'c Context<'k, 'm, M>,
    inodes: &'a InMemory,
    /// Inodes that the disk does not have as they are.
    changed: Vec<u64>,
}

impl Subvolume {
    /// Records names and attributes that the disk may not know, and tells what is not recorded. Returns a path of each inode
    /// that has one in a directory that has changed.
    ///
    /// # Errors
    /// The file system cannot be read, or there is no room.
    pub fn write_names<M: PhysMem + ?Sized>(
        &self,
        context: &Context<'_, '_, M>,
        writer: &mut Writer<'_>,
        inodes: &InMemory,
        file_system: &str,
        lost: &mut Vec<Lost>,
    ) -> Result<Paths> {
        let mut tell = |why: Refusal| lost.push(why.lost_of(file_system.into()));
        let mut work = Work {
            subvolume: self,
            context,
            inodes,
            changed: Vec::new(),
        };
        for (&number, &inode) in inodes {
            if self.behind(context, inode)?.inode {
                work.changed.push(number);
            }
        }
        let is_newer = |found: &Found| found.item.is_some_and(|item| item.transid > self.of.committed);
        let gone = self
            .tree
            .inodes
            .iter()
            .filter(|(number, _)| !inodes.contains_key(*number));
        work.changed
            .extend(gone.filter(|(_, found)| is_newer(found)).map(|(&number, _)| number));
        work.changed.sort_unstable();
        if work.changed.is_empty() && self.tree.numbers().is_empty() && !self.tree.is_torn() {
            return Ok(Paths::new());
        }
        let mut all = work.all()?;
        if self.tree.is_torn() {
            let why = "a block of its tree; names that were removed may be there again";
            tell(Refusal::new(reasons::UNREADABLE, why));
        }
        let mut paths = Paths::new();
        // By its root directory the file system is found, whatever has changed.
        let root = (!work.changed.contains(&ROOT)).then_some(&ROOT);
        for &number in root.into_iter().chain(&work.changed) {
            let of = || alloc::format!("inode {number}");
            match work.names(number) {
                Ok(Some(names)) => {
                    if let Some(directory) = work.path_of(number) {
                        for entry in &names.entries {
                            let path = names::join(&directory, &entry.name);
                            paths.entry(entry.number).or_insert(path);
                        }
                    }
                    writer.push(Kind::Names, 1, 0, work.id(number), &names)?;
                }
                Ok(None) => {}
                Err(why) => {
                    // What has gone from another may be in it.
                    all.is_complete = false;
                    tell(why.of(of));
                }
            }
        }
        for &number in &work.changed {
            if !paths.contains_key(&number) && !self.is_nameless(number) {
                paths.extend(work.path_of(number).map(|path| (number, path)));
            }
        }
        writer.push(Kind::ChangedInodes, 1, 0, self.of.superblock.0, &all)?;
        let free = FreeNumbers {
            device: all.device,
            ranges: self.tree.numbers(),
        };
        writer.push(Kind::FreeNumbers, 1, 0, self.of.superblock.0, &free)?;
        for &number in &work.changed {
            if all.of(number).is_none_or(|it| it.nlink == 0) && !paths.contains_key(&number) {
                continue;
            }
            match work.node(number) {
                Ok((node, why)) => {
                    if let Some(why) = why {
                        tell(why.of(|| alloc::format!("inode {number}")));
                    }
                    writer.push(Kind::Node, 1, 0, work.id(number), &node)?;
                }
                Err(why) => tell(why.of(|| alloc::format!("inode {number}"))),
            }
        }
        Ok(paths)
    }
}

impl<M: PhysMem + ?Sized> Work<'_, '_, '_, '_, M> {
    /// The id of an inode's records. One that is not in memory has none: that of its number, which is no address.
    fn id(&self, number: u64) -> u64 {
        self.inodes.get(&number).map_or(number, |inode| inode.0)
    }

    /// Every inode that has changed or of which the tree knows more than the disk may.
    fn all(&self) -> Result<ChangedInodes> {
        let tree = &self.subvolume.tree;
        let mut numbers: Vec<u64> = tree.inodes.keys().chain(&self.changed).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let all: Result<Vec<_>> = numbers.iter().map(|&number| self.changed_inode(number)).collect();
        Ok(ChangedInodes {
            device: self.subvolume.device,
            is_complete: !tree.is_torn(),
            inodes: all?.into_iter().flatten().collect(),
        })
    }

    fn changed_inode(&self, number: u64) -> Result<Option<ChangedInode>> {
        let layouts = &self.context.kernel.types.layouts.inode;
        let field = |inode, field| self.context.kernel.mem.uint(inode, field);
        let by_tree = self.subvolume.names_are_known(number);
        if let Some(&inode) = self.inodes.get(&number) {
            let nlink = match field(inode, layouts.i_mode)? {
                0 => 0,
                _ => field(inode, layouts.i_nlink)? as u32,
            };
            let known = dentry::count_of_inode(self.context, inode)?;
            return Ok(Some(ChangedInode {
                number,
                generation: field(inode, layouts.i_generation)? as u32,
                nlink,
                names_are_known: by_tree || known >= u64::from(nlink),
            }));
        }
        let item = self.subvolume.tree.item(number);
        Ok(item.map(|item| ChangedInode {
            number,
            generation: item.generation as u32,
            nlink: item.nlink,
            names_are_known: by_tree,
        }))
    }

    /// What is known of the names in a directory; `None` if it is none, or deleted.
    fn names(&self, number: u64) -> Result<Option<Names>> {
        let subvolume = self.subvolume;
        let of_tree = subvolume.by_directory.get(&number).into_iter().flatten();
        let mut found: BTreeMap<Vec<u8>, u64> = of_tree.cloned().collect();
        let mut names = match self.inodes.get(&number) {
            Some(&inode) => {
                let at = (subvolume.of.superblock, inode);
                let Some(mut names) = names::of_directory(self.context, at)? else {
                    return Ok(None);
                };
                let mut known = BTreeMap::new();
                names::overlay(self.context, at, &mut names, &mut known)?;
                for name in &names.gone {
                    found.remove(name);
                }
                for (name, (number, inode)) in known {
                    // The root directory of another subvolume is the disk's.
                    if subvolume.has(self.context, inode)? {
                        found.insert(name, number);
                    }
                }
                names
            }
            None => match self.without_inode(number)? {
                Some(names) => names,
                None => return Ok(None),
            },
        };
        for (name, number) in found {
            let generation = self.generation(number)?;
            names.entries.push(Name {
                name,
                number,
                generation,
            });
        }
        Ok(Some(names))
    }

    /// The record of the names in a directory whose inode is not in memory, without any.
    fn without_inode(&self, number: u64) -> Result<Option<Names>> {
        let item = self.subvolume.tree.item(number);
        let is_directory = |item: &InodeItem| u64::from(item.mode) & S_IFMT == S_IFDIR && item.nlink != 0;
        let Some(item) = item.filter(is_directory) else {
            return Ok(None);
        };
        Ok(Some(Names {
            device: self.subvolume.device,
            number,
            generation: item.generation as u32,
            uuid: self.subvolume.of.uuid(self.context)?,
            ..Names::default()
        }))
    }

    /// The generation of an inode, as far as it is known here.
    fn generation(&self, number: u64) -> Result<Option<u32>> {
        let layout = self.context.kernel.types.layouts.inode.i_generation;
        if let Some(&inode) = self.inodes.get(&number) {
            return Ok(Some(self.context.kernel.mem.uint(inode, layout)? as u32));
        }
        let item = self.subvolume.tree.item(number);
        Ok(item.map(|item| item.generation as u32))
    }

    /// A path of an inode, by its dentry or by the tree.
    fn path_of(&self, number: u64) -> Option<Vec<u8>> {
        let (mut number, mut above) = (number, Vec::<Vec<u8>>::new());
        for _ in 0..MAX_DEPTH {
            let inode = self.inodes.get(&number).copied();
            let path =
                inode.and_then(|inode| dentry::of_inode(self.context, self.subvolume.of.superblock, inode).ok()?);
            if let Some(path) = path {
                return Some(
                    above
                        .iter()
                        .rev()
                        .fold(path.bytes, |path, name| names::join(&path, name)),
                );
            }
            let (directory, name) = self.subvolume.tree.inodes.get(&number)?.names.first()?;
            above.push(name.clone());
            number = *directory;
        }
        None
    }

    /// The record of an inode, and what is not known of it.
    fn node(&self, number: u64) -> Result<(Node, Option<Refusal>)> {
        let (attributes, mut why) = self.attributes(number);
        let target = self.target(number)?;
        if let Some(&inode) = self.inodes.get(&number) {
            let at = (self.subvolume.of.superblock, inode);
            return Ok((names::node(self.context, at, target, attributes)?, why));
        }
        let item = self.subvolume.tree.item(number);
        let item = item.ok_or_else(|| Refusal::new(reasons::UNREADABLE, ""))?;
        let data = self.subvolume.tree.data(number);
        let is_new = item.generation > self.subvolume.of.committed || !data.is_as_on_disk();
        if u64::from(item.mode) & S_IFMT == S_IFREG && is_new {
            why = Some(Refusal::new(
                reasons::UNREADABLE,
                "its content is not in memory any more",
            ));
        }
        let node = Node {
            device: self.subvolume.device,
            number,
            generation: item.generation as u32,
            mode: item.mode,
            uid: item.uid,
            gid: item.gid,
            times: item.times,
            rdev: names::rdev(item.rdev),
            target,
            attributes,
        };
        Ok((node, why))
    }

    /// Extended attributes, `None` if they are those that the disk has, or not known; and why they are not.
    fn attributes(&self, number: u64) -> (Option<Vec<Attribute>>, Option<Refusal>) {
        let unknown = || Some(Refusal::new(reasons::UNREADABLE, "extended attributes"));
        let coverage = self
            .subvolume
            .tree
            .coverage(Key::range(number, Key::ATTRIBUTE, Key::ATTRIBUTE));
        let found = self.subvolume.tree.inodes.get(&number);
        match found {
            Some(found) if found.is_torn => (None, unknown()),
            _ if coverage.is_as_on_disk() => (None, None),
            _ if !coverage.is_whole() => (None, unknown()),
            Some(found) => (Some(found.attributes.clone()), None),
            None => (Some(Vec::new()), None),
        }
    }

    /// What stands in the tree itself of an inode's content: where a symbolic link leads.
    fn target(&self, number: u64) -> Result<Vec<u8>> {
        const MAX_TARGET: u64 = 4096;
        let parts = self.subvolume.tree.inodes.get(&number).map(|found| &*found.parts);
        let Some(&[(0, Part::Inline(at, from, bytes))]) = parts else {
            return Ok(Vec::new());
        };
        let Taken::Is(block) = self.subvolume.of.block_at(self.context, at)? else {
            return Ok(Vec::new());
        };
        Ok(block.part(from, bytes.min(MAX_TARGET)).unwrap_or_default().to_vec())
    }
}
