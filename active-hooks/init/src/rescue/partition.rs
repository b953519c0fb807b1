//! Partitions of disks, as sysfs shows them.

use anyhow::{Context, Result};
use std::{
    fs,
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

/// A number that a file of sysfs holds.
pub fn number(path: PathBuf) -> Option<u64> {
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
