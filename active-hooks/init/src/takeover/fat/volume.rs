//! A volume as its disk and the dead kernel's memory together say it is. Nothing is written before [`Volume::flush`].

use super::entry::{self, Raw, BYTES};
use shared_region::context::FatGeometry;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::unix::fs::FileExt,
};

/// The largest FAT that is read, in bytes.
const MAX_FAT: u64 = 128 << 20;
/// Where the state of a volume stands in its boot sector, with 32 bits in the FAT and with fewer; and the bit that says that it was
/// not unmounted (`FAT_STATE_DIRTY`).
const STATE: [u64; 2] = [65, 37];
const MOUNTED: u8 = 1;

/// A volume.
pub struct Volume<'d> {
    device: &'d File,
    /// How it is laid out.
    pub geometry: FatGeometry,
    fat: Vec<u8>,
    /// Sectors of the FAT that have changed.
    fat_changed: BTreeSet<u64>,
    /// Sectors of directories.
    sectors: BTreeMap<u64, Vec<u8>>,
    changed: BTreeSet<u64>,
}

/// Where a sector lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// In a FAT, there at this sector.
    Fat { copy: u64, at: u64 },
    /// In a root directory that is not in clusters.
    Root,
    /// In a cluster.
    Cluster(u32),
    /// With the number of free clusters.
    Info,
    /// Before all of that.
    Reserved,
}

impl<'d> Volume<'d> {
    /// Reads boot sector and FAT. `sectors` is the size of the device in sectors of 512 bytes.
    ///
    /// # Errors
    /// It cannot be read, or is laid out otherwise than the dead kernel says.
    pub fn open(device: &'d File, geometry: FatGeometry, sectors: u64) -> Result<Self, String> {
        let mut boot = [0; 512];
        read(device, &mut boot, 0)?;
        let found = layout(&boot, sectors).ok_or("its boot sector is none of vfat")?;
        if found != geometry {
            return Err("its boot sector is not what the dead kernel says".into());
        }
        let bytes = geometry.fat_sectors * u64::from(geometry.sector);
        if bytes > MAX_FAT {
            return Err(format!("its FAT of {bytes} bytes is too large"));
        }
        let mut fat = vec![0; bytes as usize];
        read(device, &mut fat, geometry.fat_start * u64::from(geometry.sector))?;
        Ok(Self {
            device,
            geometry,
            fat,
            fat_changed: BTreeSet::new(),
            sectors: BTreeMap::new(),
            changed: BTreeSet::new(),
        })
    }

    /// Where a sector lies; none if it is beyond the end.
    pub fn area(&self, sector: u64) -> Option<Area> {
        let geometry = &self.geometry;
        let from = |start: u64| sector.checked_sub(start);
        if let Some(at) = from(geometry.data_start) {
            let cluster = u32::try_from(at / u64::from(geometry.cluster) + 2).ok()?;
            return (cluster < geometry.clusters).then_some(Area::Cluster(cluster));
        }
        if from(geometry.root_start).is_some() {
            return Some(Area::Root);
        }
        Some(match from(geometry.fat_start) {
            Some(at) => Area::Fat {
                copy: at / geometry.fat_sectors,
                at: at % geometry.fat_sectors,
            },
            None if geometry.info_sector != 0 && sector == geometry.info_sector => Area::Info,
            None => Area::Reserved,
        })
    }

    /// Takes a block as memory has it.
    ///
    /// # Errors
    /// It is none of those that vfat writes.
    pub fn take(&mut self, sector: u64, content: Vec<u8>) -> Result<(), String> {
        match self.area(sector) {
            Some(Area::Fat { copy: 0, at }) => {
                let start = at as usize * content.len();
                self.fat[start..][..content.len()].copy_from_slice(&content);
                self.fat_changed.insert(at);
            }
            // Copies follow the first.
            Some(Area::Fat { at, .. }) => drop(self.fat_changed.insert(at)),
            Some(Area::Root | Area::Cluster(_)) => {
                self.sectors.insert(sector, content);
                self.changed.insert(sector);
            }
            // It is made from the FAT; of the boot sector only the state ever changes.
            Some(Area::Info | Area::Reserved) => {}
            None => return Err(format!("block {sector} lies beyond its end")),
        }
        Ok(())
    }

    /// The entry of a cluster in the FAT.
    pub fn next(&self, cluster: u32) -> u32 {
        let byte = |at: usize| u32::from(self.fat.get(at).copied().unwrap_or(0));
        let at = cluster as usize;
        match self.geometry.bits {
            12 => {
                let both = byte(at + at / 2) | byte(at + at / 2 + 1) << 8;
                if at & 1 == 0 {
                    both & 0xFFF
                } else {
                    both >> 4
                }
            }
            16 => byte(2 * at) | byte(2 * at + 1) << 8,
            _ => (0..4).fold(0, |all, index| all | byte(4 * at + index) << (8 * index)) & 0x0FFF_FFFF,
        }
    }

    fn set_next(&mut self, cluster: u32, next: u32) {
        let at = cluster as usize;
        let (first, bytes) = match self.geometry.bits {
            12 => {
                let first = at + at / 2;
                let old = u32::from(self.fat[first]) | u32::from(self.fat[first + 1]) << 8;
                let both = if at & 1 == 0 {
                    old & 0xF000 | next
                } else {
                    old & 0xF | next << 4
                };
                (first, both.to_le_bytes()[..2].to_vec())
            }
            16 => (2 * at, next.to_le_bytes()[..2].to_vec()),
            _ => {
                let kept = self.fat[4 * at + 3] & 0xF0;
                let mut bytes = next.to_le_bytes();
                bytes[3] |= kept;
                (4 * at, bytes.to_vec())
            }
        };
        self.fat[first..][..bytes.len()].copy_from_slice(&bytes);
        let sector = u64::from(self.geometry.sector);
        for at in [first, first + bytes.len() - 1] {
            self.fat_changed.insert(at as u64 / sector);
        }
    }

    /// Marks a cluster as free.
    pub fn free(&mut self, cluster: u32) {
        self.set_next(cluster, 0);
    }

    /// The highest value of an entry.
    const fn all_ones(&self) -> u32 {
        u32::MAX
            >> (32
                - if self.geometry.bits == 32 {
                    28
                } else {
                    self.geometry.bits
                })
    }

    /// Whether a value of an entry marks a cluster that cannot be used.
    pub const fn is_bad(&self, next: u32) -> bool {
        next == self.all_ones() - 8
    }

    /// The clusters from `start` on.
    ///
    /// # Errors
    /// They lead out of the volume, into free ones, or in a circle.
    pub fn chain(&self, start: u32) -> Result<Vec<u32>, String> {
        let (mut chain, mut at) = (Vec::new(), start);
        if start == 0 {
            return Ok(chain);
        }
        loop {
            let is_cluster = (2..self.geometry.clusters).contains(&at);
            if !is_cluster || chain.len() >= self.geometry.clusters as usize {
                return Err(format!("cluster {at} of the file that begins at {start} is none"));
            }
            chain.push(at);
            at = self.next(at);
            if at == 0 {
                return Err(format!("the file that begins at {start} has no end"));
            }
            if at >= self.all_ones() - 7 {
                return Ok(chain);
            }
        }
    }

    /// Leaves so many clusters of a chain, and returns how many are free now.
    pub fn shorten(&mut self, chain: &[u32], left: usize) -> usize {
        let rest = chain.get(left..).unwrap_or_default();
        if let Some(&last) = chain.get(left.wrapping_sub(1)).filter(|_| !rest.is_empty()) {
            self.set_next(last, self.all_ones());
        }
        rest.iter().for_each(|&cluster| self.free(cluster));
        rest.len()
    }

    /// First byte of a cluster on the device.
    pub fn byte_of(&self, cluster: u32) -> u64 {
        self.first_sector(cluster) * u64::from(self.geometry.sector)
    }

    /// First sector of a cluster.
    pub fn first_sector(&self, cluster: u32) -> u64 {
        self.geometry.data_start + u64::from(cluster - 2) * u64::from(self.geometry.cluster)
    }

    /// Bytes of a cluster.
    pub const fn cluster_bytes(&self) -> u64 {
        self.geometry.cluster as u64 * self.geometry.sector as u64
    }

    /// Entries of a sector.
    pub const fn entries_of_sector(&self) -> u64 {
        self.geometry.sector as u64 / BYTES as u64
    }

    fn sector(&mut self, number: u64) -> Result<&mut Vec<u8>, String> {
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.sectors.entry(number) {
            let mut content = vec![0; self.geometry.sector as usize];
            read(self.device, &mut content, number * u64::from(self.geometry.sector))?;
            vacant.insert(content);
        }
        self.sectors.get_mut(&number).ok_or_else(|| "a sector".into())
    }

    /// An entry of a directory, by its place.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn entry(&mut self, place: u64) -> Result<Raw, String> {
        let at = (place % self.entries_of_sector()) as usize * BYTES;
        let sector = self.sector(place / self.entries_of_sector())?;
        let mut raw = [0; BYTES];
        raw.copy_from_slice(&sector[at..at + BYTES]);
        Ok(raw)
    }

    /// Changes an entry, and tells whether it was another one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn set_entry(&mut self, place: u64, raw: &Raw) -> Result<bool, String> {
        let number = place / self.entries_of_sector();
        let at = (place % self.entries_of_sector()) as usize * BYTES;
        let old = &mut self.sector(number)?[at..at + BYTES];
        let differs = old != raw;
        old.copy_from_slice(raw);
        if differs {
            self.changed.insert(number);
        }
        Ok(differs)
    }

    /// Deletes an entry, or part of a name.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn delete(&mut self, place: u64) -> Result<(), String> {
        let mut raw = self.entry(place)?;
        entry::delete(&mut raw);
        self.set_entry(place, &raw).map(drop)
    }

    /// Sectors of the root directory, if it is not in clusters.
    pub fn root_sectors(&self) -> Vec<u64> {
        (self.geometry.root_start..self.geometry.data_start).collect()
    }

    /// Free clusters.
    pub fn count_free(&self) -> u32 {
        (2..self.geometry.clusters)
            .filter(|&cluster| self.next(cluster) == 0)
            .count() as u32
    }

    /// Writes a piece of a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, bytes: &[u8], at: u64) -> Result<(), String> {
        let done = self.device.write_all_at(bytes, at);
        done.map_err(|error| format!("writing {} bytes at {at} of its device: {error}", bytes.len()))
    }

    /// Waits until the device has what was written.
    ///
    /// # Errors
    /// It has not.
    pub fn sync(&self) -> Result<(), String> {
        self.device.sync_all().map_err(|error| format!("its device: {error}"))
    }

    /// Writes the FATs, and those sectors that `is_wanted`; returns how many.
    ///
    /// # Errors
    /// One cannot be written; some may be.
    pub fn flush(&self, is_wanted: impl Fn(u64) -> bool) -> Result<u64, String> {
        let bytes = u64::from(self.geometry.sector);
        let mut count = 0;
        for &number in self.changed.iter().filter(|&&number| is_wanted(number)) {
            let content = self.sectors.get(&number).ok_or("a sector")?;
            self.write(content, number * bytes)?;
            count += 1;
        }
        for copy in 0..u64::from(self.geometry.fats) {
            for &at in &self.fat_changed {
                let start = (at * bytes) as usize;
                let content = &self.fat[start..start + bytes as usize];
                let number = self.geometry.fat_start + copy * self.geometry.fat_sectors + at;
                self.write(content, number * bytes)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Writes how many clusters are free, and where to look for the next, if the volume has a place for it
    /// (`fat_clusters_flush()`).
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_info(&self, last_allocated: u32) -> Result<(), String> {
        let at = self.geometry.info_sector * u64::from(self.geometry.sector);
        let mut info = [0; 512];
        if at == 0 {
            return Ok(());
        }
        read(self.device, &mut info, at)?;
        if info[..4] != *b"RRaA" || info[484..488] != *b"rrAa" {
            return Ok(());
        }
        info[488..492].copy_from_slice(&self.count_free().to_le_bytes());
        info[492..496].copy_from_slice(&last_allocated.to_le_bytes());
        self.write(&info, at)
    }

    /// Says that the volume is whole, as unmounting does (`fat_set_state()`).
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_clean(&self) -> Result<(), String> {
        let at = STATE[usize::from(self.geometry.bits != 32)];
        let mut state = [0];
        read(self.device, &mut state, at)?;
        if state[0] & MOUNTED != 0 {
            state[0] &= !MOUNTED;
            self.write(&state, at)?;
        }
        self.sync()
    }
}

fn read(device: &File, bytes: &mut [u8], at: u64) -> Result<(), String> {
    let done = device.read_exact_at(bytes, at);
    done.map_err(|error| format!("reading {} bytes at {at} of its device: {error}", bytes.len()))
}

/// What a boot sector says, as `fat_fill_super()` takes it; none if it is not one. `sectors` is the size of the device in
/// sectors of 512 bytes.
pub fn layout(boot: &[u8; 512], sectors: u64) -> Option<FatGeometry> {
    let half = |at: usize| u32::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let word = |at: usize| half(at) | half(at + 2) << 16;
    let (sector, cluster, fats) = (half(11), u32::from(boot[13]), u32::from(boot[16]));
    let (reserved, root_entries) = (half(14), half(17));
    let is_wide = half(22) == 0;
    let fat_sectors = if is_wide { word(36) } else { half(22) };
    let is_sound = sector.is_power_of_two()
        && (512..=4096).contains(&sector)
        && cluster.is_power_of_two()
        && fats != 0
        && reserved != 0
        && fat_sectors != 0;
    let all = if half(19) != 0 { half(19) } else { word(32) };
    if !is_sound || u64::from(all) * u64::from(sector) > sectors.checked_mul(512)? {
        return None;
    }
    let root_start = u64::from(reserved) + u64::from(fats) * u64::from(fat_sectors);
    let data_start = root_start + u64::from(root_entries) * BYTES as u64 / u64::from(sector);
    let count = u64::from(all).checked_sub(data_start)? / u64::from(cluster);
    let bits = match (is_wide, count) {
        (true, _) => 32,
        (false, 0..=0xFF4) => 12,
        (false, _) => 16,
    };
    let room = u64::from(fat_sectors) * u64::from(sector) * 8 / u64::from(bits);
    let most = [(12, 0xFF4), (16, 0xFFF4), (32, 0x0FFF_FFF6)];
    let count = count.min(room.checked_sub(2)?);
    let fits = most.iter().any(|&(of, most)| of == bits && count <= most);
    let info = if half(48) == 0 { 1 } else { half(48) };
    fits.then(|| FatGeometry {
        sector,
        cluster,
        bits,
        fats,
        fat_start: u64::from(reserved),
        fat_sectors: u64::from(fat_sectors),
        root_start,
        root_entries,
        data_start,
        clusters: count as u32 + 2,
        root_cluster: if is_wide { word(44) } else { 0 },
        info_sector: if is_wide { u64::from(info) } else { 0 },
        volume: word(if is_wide { 67 } else { 39 }),
    })
}
