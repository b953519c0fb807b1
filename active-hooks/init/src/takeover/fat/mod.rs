//! What vfat has not written, put on its disk as it would have done.
//!
//! What we know on entry: a record has the blocks of a mounted vfat that are newer than its disk, the entries of its inodes and the
//! data of its files, and nothing has been mounted. What we are responsible for: the volume is first looked at as it will be, in
//! memory, from its root directory on, and only if every file and directory in it is whole is anything written, data before what
//! leads to it. There is no log: a crash meanwhile leaves what a crash of vfat leaves, and the next successor does it all once more.
//!
//! Operations that were under way are completed or taken back by what the dead kernel knows of names ([`tree::settle`]); clusters
//! that belong to no file are free then, if the volume was whole when it was mounted.

mod entry;
mod tree;
mod volume;

use super::block_devices;
use crate::{
    boot::log as console,
    restore::{
        host::Host,
        world::{Content, World},
    },
};
use shared_region::{
    context::{FatFile, FatFileSystem, FatInode, FileSystem, Id},
    PAGE_SIZE,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    time::{Duration, Instant},
};
use tree::{Owner, Tree};
use volume::{Area, Volume};

/// How long all devices together may take to appear.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long looking at the directories of one volume may take.
const WALK: Duration = Duration::from_secs(10);

/// Writes what all of them lack; what was done is added to the two lists.
pub fn write_back(world: &World<'_>, host: &dyn Host, file_systems: &mut Vec<FileSystem>, remarks: &mut Vec<String>) {
    let deadline = Instant::now() + PATIENCE;
    for record in &world.fat {
        let done = match one(record, &world.fat_files, deadline, host) {
            Ok(done) => {
                console::info(format_args!("file system on {}: {done}", record.name));
                done
            }
            Err(why) => {
                let remark = format!("file system on {}: {why}", record.name);
                console::warning(format_args!("{remark}"));
                remarks.push(remark);
                format!("as after an ordinary crash: {why}")
            }
        };
        let name = record.name.clone();
        file_systems.push(FileSystem { name, done });
    }
}

fn one(
    record: &FatFileSystem,
    files: &BTreeMap<Id, Content<'_, FatFile>>,
    deadline: Instant,
    host: &dyn Host,
) -> Result<String, String> {
    let patience = deadline.saturating_duration_since(Instant::now());
    let path = block_devices::locate(&record.disk, patience)?;
    let device = OpenOptions::new().read(true).write(true).open(&path);
    let device = device.map_err(|error| format!("{}: {error}", path.display()))?;
    complete(&device, record, files, host)
}

/// Data of a file, and where it goes.
struct Data<'f, 'w> {
    file: &'f Content<'w, FatFile>,
    size: u64,
    chain: Vec<u32>,
}

fn complete(
    device: &File,
    record: &FatFileSystem,
    files: &BTreeMap<Id, Content<'_, FatFile>>,
    host: &dyn Host,
) -> Result<String, String> {
    let mut volume = Volume::open(device, record.geometry, record.disk.sectors)?;
    if !record.is_behind {
        if !record.was_dirty {
            volume.write_clean()?;
        }
        return Ok("its disk has all of it".into());
    }
    for block in &record.blocks {
        volume.take(block.sector, content(block.at, record.geometry.sector, host)?)?;
    }
    let inodes: BTreeMap<u64, &FatInode> = record.inodes.iter().map(|inode| (inode.position, inode)).collect();
    if inodes.len() != record.inodes.len() {
        return Err("two files have the same entry".into());
    }
    let mut settled = 0;
    for directory in &record.changing {
        settled += tree::settle(&mut volume, directory, &inodes)?;
    }
    let mut entries = 0;
    let mut filled = Vec::new();
    for inode in &record.inodes {
        if let Some(differs) = fill(&mut volume, inode, record.local_offset)? {
            entries += usize::from(differs);
            filled.push(inode);
        }
    }
    let changing: BTreeSet<u32> = record.changing.iter().map(|directory| directory.start).collect();
    let tree = Tree::walk(&mut volume, &changing, Instant::now() + WALK)?;
    if let Some(inode) = filled.iter().find(|inode| !tree.places.contains(&inode.position)) {
        return Err(format!("the entry {} is in no directory", inode.position));
    }
    let mut data = Vec::new();
    let mut freed = 0;
    for inode in filled {
        if inode.attributes & entry::DIRECTORY != 0 {
            continue;
        }
        let (chain, surplus) = fit(&mut volume, inode)?;
        freed += surplus;
        if let Some(file) = files.get(&inode.id) {
            data.push(Data {
                file,
                size: u64::from(inode.size),
                chain,
            });
        }
    }
    let lost = tree.lost(&volume);
    if !record.was_dirty {
        lost.iter().for_each(|&cluster| volume.free(cluster));
        freed += lost.len();
    }
    let mut bytes = 0;
    for one in &data {
        bytes += one.write(&volume, host)?;
    }
    volume.sync()?;
    let blocks = volume.flush(|sector| match volume.area(sector) {
        Some(Area::Root) => true,
        Some(Area::Cluster(cluster)) => tree.owner(cluster) == Owner::Directory,
        _ => false,
    })?;
    volume.write_info(record.last_allocated)?;
    volume.sync()?;
    if !record.was_dirty {
        volume.write_clean()?;
    }
    let under_way = match settled {
        0 => String::new(),
        count => format!("; an operation was under way: {count} entries that it had left are gone"),
    };
    let before = match record.was_dirty {
        true => format!("; it was not whole before, and {} clusters are nobody's", lost.len()),
        false => String::new(),
    };
    Ok(format!(
        "{blocks} blocks and {bytes} bytes of {} files are on its disk, {entries} entries made anew, {freed} clusters freed\
         {under_way}{before}",
        data.len()
    ))
}

/// Makes an entry what its inode is: whether it was another. `None` if the entry has been deleted.
fn fill(volume: &mut Volume<'_>, inode: &FatInode, local_offset: i64) -> Result<Option<bool>, String> {
    let place = inode.position;
    let area = volume.area(place / volume.entries_of_sector());
    if !matches!(area, Some(Area::Root | Area::Cluster(_))) {
        return Err(format!("the entry {place} is in no directory"));
    }
    let mut raw = volume.entry(place)?;
    match entry::sort(&raw) {
        entry::Sort::Free => return Ok(None),
        entry::Sort::Name if entry::is_directory(&raw) == (inode.attributes & entry::DIRECTORY != 0) => {}
        _ => return Err(format!("the entry {place} is not that of its file")),
    }
    entry::fill(&mut raw, inode, local_offset);
    volume.set_entry(place, &raw).map(Some)
}

/// Gives a file as many clusters as it is long; returns them, and how many it had beyond. They were set aside for it, or were being
/// given to it or taken from it.
fn fit(volume: &mut Volume<'_>, inode: &FatInode) -> Result<(Vec<u32>, usize), String> {
    let mut chain = volume.chain(inode.start)?;
    let needed = u64::from(inode.size).div_ceil(volume.cluster_bytes()) as usize;
    if chain.len() < needed {
        return Err(format!(
            "the file whose entry is {} has too few clusters",
            inode.position
        ));
    }
    let surplus = volume.shorten(&chain, needed);
    chain.truncate(needed);
    if needed == 0 && inode.start != 0 {
        let mut raw = volume.entry(inode.position)?;
        entry::set_start(&mut raw, 0);
        volume.set_entry(inode.position, &raw)?;
    }
    Ok((chain, surplus))
}

impl Data<'_, '_> {
    /// Writes it to the file's clusters, and returns how many bytes.
    fn write(&self, volume: &Volume<'_>, host: &dyn Host) -> Result<u64, String> {
        let mut page = vec![0; PAGE_SIZE as usize];
        let mut written = 0;
        for run in self.file.runs() {
            for index in 0..run.pages() {
                let offset = run.va + index * PAGE_SIZE;
                let read = host.read_frames(run.pfn() + index, &mut page);
                read.map_err(|refusal| refusal.to_string())?;
                written += self.write_piece(volume, offset, &page)?;
            }
        }
        for part in &self.file.record.parts {
            let piece = content(part.at, part.bytes, host)?;
            written += self.write_piece(volume, part.offset, &piece)?;
        }
        Ok(written)
    }

    /// Writes bytes at an offset of the file, as far as it goes; what follows in its last sector is zero.
    fn write_piece(&self, volume: &Volume<'_>, offset: u64, bytes: &[u8]) -> Result<u64, String> {
        let sector = u64::from(volume.geometry.sector);
        let inside = self.size.saturating_sub(offset).min(bytes.len() as u64);
        let mut piece = bytes[..inside as usize].to_vec();
        piece.resize((inside.div_ceil(sector) * sector) as usize, 0);
        let cluster_bytes = volume.cluster_bytes();
        let (mut at, mut left) = (offset, piece.as_slice());
        while !left.is_empty() {
            let within = at % cluster_bytes;
            let (now, rest) = left.split_at((cluster_bytes - within).min(left.len() as u64) as usize);
            let cluster = self.chain.get((at / cluster_bytes) as usize);
            let cluster = cluster.ok_or("data beyond the end of a file")?;
            volume.write(now, volume.byte_of(*cluster) + within)?;
            at += now.len() as u64;
            left = rest;
        }
        Ok(inside)
    }
}

/// Bytes of the dead kernel's memory that lie in one frame.
fn content(at: u64, bytes: u32, host: &dyn Host) -> Result<Vec<u8>, String> {
    let mut page = vec![0; PAGE_SIZE as usize];
    let read = host.read_frames(at / PAGE_SIZE, &mut page);
    read.map_err(|refusal| refusal.to_string())?;
    let start = (at % PAGE_SIZE) as usize;
    let found = page.get(start..start + bytes as usize);
    found
        .map(<[u8]>::to_vec)
        .ok_or_else(|| "a block that goes beyond its frame".into())
}

#[cfg(test)]
mod tests;
