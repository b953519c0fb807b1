//! Which partition is the rescue area, in a running system.

use anyhow::{Context, Result};
use shared_region::{
    device::RescueArea,
    rescue_area::{state, AreaError, Contents, Head, BLOCK, CONTENTS_AT, SECTOR},
};
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use zerocopy::IntoBytes;

/// A partition, or a disk without any, as sysfs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its PCI function: bus << 8 | device << 3 | function.
    pub function: u64,
    /// First sector on its disk.
    pub start: u64,
    /// Its sectors.
    pub sectors: u64,
    /// Sectors of the disk.
    pub disk_sectors: u64,
    /// Serial number of the disk, padded with zeros.
    pub serial: [u64; 3],
}

fn number(path: PathBuf) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl Disk {
    /// `sysfs` is the device's folder, all links followed.
    ///
    /// # Errors
    /// It is on no disk that the backup OS could drive.
    pub fn of(sysfs: &Path) -> Result<Self> {
        let is_partition = sysfs.join("partition").exists();
        let whole = if is_partition {
            sysfs.parent().context("no disk")?
        } else {
            sysfs
        };
        let function =
            virtio_function(whole).context("it is on no virtio disk: the backup OS has no driver for another")?;
        let sectors = |at: &Path| number(at.join("size")).context("its size is not known");
        let mut serial = [0u64; 3];
        let text = fs::read_to_string(whole.join("serial")).unwrap_or_default();
        for (to, &from) in serial
            .as_mut_bytes()
            .iter_mut()
            .zip(text.trim_end_matches('\n').as_bytes())
        {
            *to = from;
        }
        Ok(Self {
            function,
            start: if is_partition {
                number(sysfs.join("start")).context("its place is not known")?
            } else {
                0
            },
            sectors: sectors(sysfs)?,
            disk_sectors: sectors(whole)?,
            serial,
        })
    }

    fn is_at(&self, words: &RescueArea) -> bool {
        (self.function, self.start, self.sectors) == (words.function, words.start, words.sectors)
    }
}

/// The PCI function of a disk whose folder is `…/0000:00:05.0/virtio3/block/vdb`.
fn virtio_function(disk: &Path) -> Option<u64> {
    let virtio = disk.parent()?.parent()?;
    let is_virtio = virtio.file_name()?.to_str()?.starts_with("virtio");
    let address = virtio.parent()?.file_name()?.to_str().filter(|_| is_virtio)?;
    let (domain, rest) = address.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    (hex(domain)? == 0).then_some(hex(bus)? << 8 | hex(device)? << 3 | hex(function)?)
}

/// Folder of a block device.
///
/// # Errors
/// It is none.
pub fn sysfs(device: &Path) -> Result<PathBuf> {
    let device = fs::canonicalize(device)?;
    let name = device.file_name().context("it has no name")?;
    fs::canonicalize(Path::new("/sys/class/block").join(name)).context("it is no partition")
}

/// Head of the area on a device.
///
/// # Errors
/// [`AreaError`].
pub fn head(device: &Path) -> Result<Head, AreaError> {
    let bytes = sysfs(device).ok().and_then(|at| number(at.join("size"))).unwrap_or(0) * SECTOR;
    let mut block = [0; BLOCK as usize];
    let read = File::open(device).and_then(|mut file| file.read_exact(&mut block));
    read.map_err(|_| AreaError::Unreadable(0))?;
    Head::parse(&block, bytes)
}

/// Every partition that was prepared.
pub fn prepared() -> Vec<PathBuf> {
    let all = fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let all = all.map(|entry| Path::new("/dev").join(entry.file_name()));
    let mut found: Vec<PathBuf> = all.filter(|device| head(device).is_ok()).collect();
    found.sort();
    found
}

/// Whether an area holds what nobody has put back.
pub fn is_full(device: &Path, head: &Head) -> bool {
    let mut block = [0; BLOCK as usize];
    let read = File::open(device).and_then(|file| file.read_exact_at(&mut block, CONTENTS_AT));
    read.is_ok() && Contents::parse(&block, head).is_ok_and(|contents| contents.state != state::USED)
}

/// The device of the area that is named, if that is there.
pub fn named(words: &RescueArea) -> Option<PathBuf> {
    let is_it = |device: &PathBuf| {
        sysfs(device)
            .and_then(|at| Disk::of(&at))
            .is_ok_and(|disk| disk.is_at(words))
    };
    prepared().into_iter().find(is_it)
}

/// The same, if the backup OS would write to it as well.
///
/// # Errors
/// Why it would not.
pub fn to_write_to(words: &RescueArea) -> Result<(PathBuf, Head), String> {
    let device = named(words).ok_or("the rescue area is on a disk that is not there, or is another one")?;
    let disk = sysfs(&device)
        .and_then(|at| Disk::of(&at))
        .map_err(|error| format!("{error:#}"))?;
    let head = head(&device).map_err(|error| error.to_string())?;
    if (disk.disk_sectors, disk.serial) != (words.disk_sectors, words.serial) {
        return Err(format!("{} is on another disk than it was", device.display()));
    }
    if head.id != words.id {
        return Err("another rescue area is there".into());
    }
    if is_full(&device, &head) {
        return Err("it holds what an earlier failure has left, which nobody has put back".into());
    }
    Ok((device, head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_known_by_its_function() {
        let of = |path: &str| virtio_function(Path::new(path));
        assert_eq!(of("/sys/devices/pci0000:00/0000:00:05.0/virtio3/block/vdb"), Some(0x28));
        assert_eq!(
            of("/sys/devices/pci0000:00/0000:00:1e.0/0000:02:1f.7/virtio3/block/vdb"),
            Some(0x2FF)
        );
        assert_eq!(of("/sys/devices/pci0000:00/0001:00:05.0/virtio3/block/vdb"), None);
        assert_eq!(of("/sys/devices/pci0000:00/0000:00:05.0/ata1/block/sda"), None);
        assert_eq!(of("/sys/devices/virtual/block/loop0"), None);
    }
}
