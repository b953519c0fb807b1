//! Devices of the device mapper below file systems, as a volume manager makes them: the dead kernel's are made again.
//!
//! What we know on entry: of which parts of which devices each was made, and nothing has been mounted. What we are responsible
//! for: a disk is the one that is connected to the same place and has the same size; nothing is written to one here. Whoever
//! looks for its volumes later finds them made already, by their names.

use crate::{
    boot::log,
    restore::world::World,
    sys::device_mapper::{self, Part},
};
use shared_region::context::{Id, LowerDevice, MappedDevice, MappedOn};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long disks may take to appear.
const PATIENCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(10);
const DEVICES: &str = "/sys/class/block";
/// Where udev keeps what it knows of devices.
const UDEV: &str = "/run/udev/data";

/// What was made.
#[derive(Debug, Default)]
pub struct Made {
    /// Numbers (`dev_t`), by the ids of the records.
    devices: BTreeMap<Id, u64>,
    /// What was not, and why.
    pub remarks: Vec<String>,
}

/// Makes all of them.
pub fn make(world: &World<'_>) -> Made {
    let mut made = Made::default();
    let deadline = Instant::now() + PATIENCE;
    for (id, record) in &world.mapped_devices {
        let name = String::from_utf8_lossy(&record.name).into_owned();
        match one(&made.devices, record, deadline) {
            Ok(number) => {
                made.devices.insert(*id, number);
                log::info(format_args!(
                    "mapped device {name}: made of {} parts",
                    record.parts.len()
                ));
            }
            Err(why) => {
                let remark = format!("mapped device {name}: {why}");
                log::warning(format_args!("{remark}"));
                made.remarks.push(remark);
            }
        }
    }
    made
}

fn one(made: &BTreeMap<Id, u64>, record: &MappedDevice, deadline: Instant) -> Result<u64, String> {
    if !record.refused.is_empty() {
        return Err(record.refused.clone());
    }
    let mut start = 0;
    let mut parts = Vec::new();
    for part in &record.parts {
        let place = |on: &MappedOn| match &on.device {
            LowerDevice::Mapped(id) => made.get(id).copied().ok_or("what it lies on is not there".to_owned()),
            LowerDevice::Disk { path, start, sectors } => appears(path, *start, *sectors, deadline),
        };
        let on = part.on.iter().map(|on| Ok((place(on)?, on.from)));
        parts.push(Part {
            start,
            sectors: part.sectors,
            chunk: part.chunk,
            on: on.collect::<Result<_, String>>()?,
        });
        start += part.sectors;
    }
    let number = device_mapper::create(&record.name, &record.uuid, &parts, record.is_read_only);
    let number = number.map_err(|error| format!("the device mapper: {error}"))?;
    // What udev would do, which does not run yet.
    let link = Path::new("/dev/mapper").join(OsStr::from_bytes(&record.name));
    symlink(format!("../dm-{}", libc::minor(number)), &link).map_err(|error| format!("{}: {error}", link.display()))?;
    Ok(number)
}

impl Made {
    /// To be called when `/run` is there: tells udev of them. It does not believe in a device that it meets for the first time
    /// and that nobody has said to be complete (`DM_UDEV_PRIMARY_SOURCE_FLAG` in `55-dm.rules`), and a service manager would wait
    /// for it in vain.
    pub fn tell_udev(&self) {
        if self.devices.is_empty() || !Path::new("/run/udev").exists() && !Path::new("/lib/udev").exists() {
            return;
        }
        let written = fs::create_dir_all(UDEV).and_then(|()| {
            self.devices.values().try_for_each(|&number| {
                let file = format!("{UDEV}/b{}:{}", libc::major(number), libc::minor(number));
                fs::write(file, "I:1\nE:DM_UDEV_PRIMARY_SOURCE_FLAG=1\nV:1\n")
            })
        });
        if let Err(error) = written {
            log::warning(format_args!("{UDEV}: {error}"));
        }
    }
}

/// The number of a disk or partition, for which is waited.
fn appears(path: &[u8], start: u64, sectors: u64, deadline: Instant) -> Result<u64, String> {
    loop {
        let found = find(Path::new(DEVICES), path, start, sectors);
        match found.as_slice() {
            [number] => return Ok(*number),
            [] if Instant::now() < deadline => std::thread::sleep(STEP),
            found => {
                return Err(format!(
                    "{} disks with {sectors} sectors from sector {start} on are connected to {}",
                    found.len(),
                    String::from_utf8_lossy(path)
                ))
            }
        }
    }
}

fn find(devices: &Path, path: &[u8], start: u64, sectors: u64) -> Vec<u64> {
    let entries = fs::read_dir(devices).into_iter().flatten().flatten();
    let folders = entries.filter_map(|entry| fs::canonicalize(entry.path()).ok());
    let is_it = |folder: &PathBuf| {
        let number = |name| fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok();
        let is_partition = folder.join("partition").exists();
        let from = if is_partition { number("start") } else { Some(0) };
        number("size") == Some(sectors) && from == Some(start) && is_connected(folder, is_partition, path)
    };
    let numbers = folders.filter(is_it).filter_map(|folder| {
        let text = fs::read_to_string(folder.join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
    });
    numbers.collect()
}

/// Whether a disk is connected to a place; the number of a virtio device depends on the drivers that were there before it, and
/// each is alone in its place.
fn is_connected(folder: &Path, is_partition: bool, path: &[u8]) -> bool {
    let disk = if is_partition { folder.parent() } else { Some(folder) };
    let above = disk.and_then(Path::parent);
    let above = above.map(|above| match above.file_name() {
        Some(name) if name == "block" => above.parent().unwrap_or(above),
        _ => above,
    });
    let parts = |path: &Path| -> Vec<Vec<u8>> {
        let names = path.iter().map(|name| name.as_bytes());
        names
            .map(|name| match name.strip_prefix(b"virtio") {
                Some(number) if number.iter().all(u8::is_ascii_digit) => b"virtio".to_vec(),
                _ => name.to_vec(),
            })
            .collect()
    };
    let wanted = parts(Path::new(OsStr::from_bytes(path)));
    above.is_some_and(|above| parts(above).ends_with(&wanted)) && !wanted.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_known_by_what_they_are_connected_to() {
        let is =
            |folder: &str, is_partition, path: &str| is_connected(Path::new(folder), is_partition, path.as_bytes());
        let virtio = "pci0000:00/0000:00:05.0/virtio3";
        assert!(is(
            "/sys/devices/pci0000:00/0000:00:05.0/virtio2/block/vdb",
            false,
            virtio
        ));
        assert!(is(
            "/sys/devices/pci0000:00/0000:00:05.0/virtio2/block/vdb/vdb1",
            true,
            virtio
        ));
        assert!(!is(
            "/sys/devices/pci0000:00/0000:00:06.0/virtio3/block/vdb",
            false,
            virtio
        ));
        assert!(!is("/sys/devices/virtual/block/loop0", false, virtio) && !is("/sys/devices/x", false, ""));
        let nvme = "pci0000:00/0000:00:04.0/nvme/nvme0";
        assert!(is(
            "/sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1",
            false,
            nvme
        ));
        let scsi = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0";
        let other = "/sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:1/0:0:1:0/block/sda";
        assert!(!is(other, false, scsi));
    }

    #[test]
    fn what_cannot_be_made_is_told_by_its_name() {
        let record = |refused: &str, on| MappedDevice {
            name: b"vg-data".to_vec(),
            refused: refused.into(),
            parts: vec![shared_region::context::MappedPart {
                sectors: 8,
                chunk: 0,
                on: vec![MappedOn { device: on, from: 0 }],
            }],
            ..MappedDevice::default()
        };
        let world = World {
            mapped_devices: vec![
                (1, record("crypt", LowerDevice::Mapped(9))),
                (2, record("", LowerDevice::Mapped(1))),
            ],
            ..World::default()
        };
        let want = [
            "mapped device vg-data: crypt",
            "mapped device vg-data: what it lies on is not there",
        ];
        assert_eq!(make(&world).remarks, want);
        let nowhere = appears(b"pci0000:00/nowhere", 0, 8, Instant::now()).unwrap_err();
        assert!(nowhere.starts_with("0 disks with 8 sectors"), "{nowhere}");
    }
}
