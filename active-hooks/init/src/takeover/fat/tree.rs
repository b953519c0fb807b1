//! The tree of directories of a volume: which clusters are whose, and names that an operation has left half made.

use super::entry::{self, Parts, Sort};
use super::volume::Volume;
use shared_region::context::{FatDirectory, FatInode};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// Whose a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody's.
    None,
    /// A directory's.
    Directory,
    /// A file's.
    File,
}

/// All that was found from the root directory on.
pub struct Tree {
    /// By number.
    owners: Vec<Owner>,
    /// Places of all files and directories.
    pub places: BTreeSet<u64>,
}

/// A file or directory in one.
struct Found {
    place: u64,
    /// Places of the parts of its long name.
    parts: Vec<u64>,
    name: String,
}

impl Tree {
    /// Looks at all directories. Where somebody has moved a directory from or to one of those in `changing`, by first clusters, its
    /// entry of the directory above is made right.
    ///
    /// # Errors
    /// Two files have the same cluster, one leads nowhere, a directory cannot be read, or there was no more time.
    pub fn walk(volume: &mut Volume<'_>, changing: &BTreeSet<u32>, deadline: Instant) -> Result<Self, String> {
        let mut tree = Self {
            owners: vec![Owner::None; volume.geometry.clusters as usize],
            places: BTreeSet::new(),
        };
        let root = volume.geometry.root_cluster;
        let chain = volume.chain(root)?;
        tree.claim(&chain, Owner::Directory)?;
        // The root directory is 0 to those in it, wherever it lies.
        let mut left = vec![(root, 0)];
        while let Some((start, number)) = left.pop() {
            if Instant::now() > deadline {
                return Err("there was no more time to look at its directories".into());
            }
            for place in places(volume, start)? {
                let mut raw = volume.entry(place)?;
                if entry::sort(&raw) != Sort::Name {
                    continue;
                }
                tree.places.insert(place);
                let first = entry::start(&raw, volume.geometry.bits);
                let chain = volume.chain(first)?;
                if !entry::is_directory(&raw) {
                    if chain.is_empty() && entry::size(&raw) != 0 {
                        return Err(format!("the file whose entry is {place} has no clusters"));
                    }
                    tree.claim(&chain, Owner::File)?;
                    continue;
                }
                if chain.is_empty() {
                    return Err(format!("the directory whose entry is {place} has no clusters"));
                }
                tree.claim(&chain, Owner::Directory)?;
                let above = volume.first_sector(first) * volume.entries_of_sector() + 1;
                raw = volume.entry(above)?;
                if entry::is_parent(&raw) && changing.contains(&start) {
                    entry::set_start(&mut raw, number);
                    volume.set_entry(above, &raw)?;
                }
                left.push((first, first));
            }
        }
        Ok(tree)
    }

    fn claim(&mut self, chain: &[u32], owner: Owner) -> Result<(), String> {
        for &cluster in chain {
            match self.owners.get_mut(cluster as usize) {
                Some(free @ Owner::None) => *free = owner,
                _ => return Err(format!("cluster {cluster} belongs to two files")),
            }
        }
        Ok(())
    }

    /// Whose a cluster is.
    pub fn owner(&self, cluster: u32) -> Owner {
        self.owners.get(cluster as usize).copied().unwrap_or(Owner::None)
    }

    /// Clusters that are marked as used, and nobody's.
    pub fn lost(&self, volume: &Volume<'_>) -> Vec<u32> {
        let is_lost = |&cluster: &u32| {
            let next = volume.next(cluster);
            self.owner(cluster) == Owner::None && next != 0 && !volume.is_bad(next)
        };
        (2..volume.geometry.clusters).filter(is_lost).collect()
    }
}

/// Places of all entries of a directory.
fn places(volume: &Volume<'_>, start: u32) -> Result<Vec<u64>, String> {
    let sectors: Vec<u64> = match start {
        0 => volume.root_sectors(),
        start => {
            let of_cluster = |cluster| {
                let first = volume.first_sector(cluster);
                first..first + u64::from(volume.geometry.cluster)
            };
            volume.chain(start)?.into_iter().flat_map(of_cluster).collect()
        }
    };
    let entries = volume.entries_of_sector();
    let of_sector = |sector| sector * entries..(sector + 1) * entries;
    Ok(sectors.into_iter().flat_map(of_sector).collect())
}

/// Completes, or takes back, what somebody was doing to the names in a directory, and returns how many entries that took. An entry
/// counts if an inode in memory has it. If none has, what is known of its name tells: the name leads nowhere, so that it has
/// not been given yet, or to an inode with another entry, so that this is the one it had before. What is not known stays.
///
/// # Errors
/// The directory cannot be read.
pub fn settle(
    volume: &mut Volume<'_>,
    directory: &FatDirectory,
    inodes: &BTreeMap<u64, &FatInode>,
) -> Result<usize, String> {
    let (mut parts, mut orphans, mut found) = (Parts::default(), Vec::new(), Vec::new());
    for place in places(volume, directory.start)? {
        let raw = volume.entry(place)?;
        match entry::sort(&raw) {
            Sort::Part => parts.take(place, &raw, &mut orphans),
            Sort::Name => {
                let (name, parts) = parts.name(&raw, &mut orphans);
                found.push(Found { place, parts, name });
            }
            Sort::Free | Sort::Volume | Sort::Dots => parts.abandon(&mut orphans),
        }
    }
    parts.abandon(&mut orphans);
    let is_stale = |one: &Found| {
        let known = directory
            .names
            .iter()
            .filter(|(name, _)| entry::is_same_name(&one.name, name));
        let leads: Vec<Option<u64>> = known.map(|(_, place)| *place).collect();
        // An inode that has no entry now may get this one back.
        !leads.is_empty() && leads.iter().all(|place| *place != Some(0)) && !inodes.contains_key(&one.place)
    };
    for one in found.into_iter().filter(is_stale) {
        orphans.push(one.place);
        orphans.extend(one.parts);
    }
    for &place in &orphans {
        volume.delete(place)?;
    }
    Ok(orphans.len())
}
