//! Devices of the device mapper below file systems, as a volume manager makes them: the dead kernel's are made again.
//!
//! What we know on entry: of which parts of which devices each was made, and nothing has been mounted. What we are responsible
//! for: a disk is the one it was ([`block_devices`]); nothing is written to one here. Whoever looks for its volumes later finds them
//! made already, by their names.

use super::block_devices;
use crate::{
    boot::log,
    restore::world::World,
    sys::device_mapper::{self, Part},
};
use shared_region::context::{BlockDevice, Id, LowerDevice, MappedDevice, MappedOn};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{symlink, MetadataExt},
    },
    path::Path,
    time::{Duration, Instant},
};

/// How long disks may take to appear.
const PATIENCE: Duration = Duration::from_secs(2);
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
    let mut disks = Disks {
        deadline: Instant::now() + PATIENCE,
        found: Vec::new(),
    };
    for (id, record) in &world.mapped_devices {
        let name = String::from_utf8_lossy(&record.name).into_owned();
        match one(&made.devices, record, &mut disks) {
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

fn one<'w>(made: &BTreeMap<Id, u64>, record: &'w MappedDevice, disks: &mut Disks<'w>) -> Result<u64, String> {
    if !record.refused.is_empty() {
        return Err(record.refused.clone());
    }
    let mut start = 0;
    let mut parts = Vec::new();
    for part in &record.parts {
        let mut place = |on: &'w MappedOn| match &on.device {
            LowerDevice::Mapped(id) => made.get(id).copied().ok_or("what it lies on is not there".to_owned()),
            LowerDevice::Disk(block) => disks.number(block),
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

/// Disks and partitions: a volume may have many parts on one.
struct Disks<'w> {
    deadline: Instant,
    /// Numbers (`dev_t`).
    found: Vec<(&'w BlockDevice, u64)>,
}

impl<'w> Disks<'w> {
    /// The number of one, for which is waited.
    fn number(&mut self, block: &'w BlockDevice) -> Result<u64, String> {
        if let Some((_, number)) = self.found.iter().find(|(known, _)| *known == block) {
            return Ok(*number);
        }
        let patience = self.deadline.saturating_duration_since(Instant::now());
        let device = block_devices::locate(block, patience)?;
        let found = fs::metadata(&device).map_err(|error| format!("{}: {error}", device.display()))?;
        self.found.push((block, found.rdev()));
        Ok(found.rdev())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
