//! Disks and partitions of the dead kernel, found again: by where they are connected, their bounds and their UUIDs. Names of disks
//! are given in the order in which a kernel finds them, and are not believed.

use crate::boot::ext4;
use shared_region::context::{BlockDevice, DevicePlace};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const STEP: Duration = Duration::from_millis(10);
const SYSFS: &str = "/sys";

/// The device file of a disk or partition, for which is waited so long.
///
/// # Errors
/// It does not appear, is another one, or several may be it.
pub fn locate(block: &BlockDevice, patience: Duration) -> Result<PathBuf, String> {
    let place = DevicePlace::of(&block.path).ok_or("it is no disk of this machine's")?;
    let deadline = Instant::now() + patience;
    let found: Vec<PathBuf> = loop {
        let found: Vec<PathBuf> = ext4::all_devices()
            .filter(|device| is_at(device, &place) == Some(true))
            .collect();
        if !found.is_empty() || Instant::now() >= deadline {
            break found;
        }
        std::thread::sleep(STEP);
    };
    let same: Vec<&PathBuf> = found.iter().filter(|device| is_same(device, block)).collect();
    match (same.as_slice(), found.as_slice()) {
        ([device], _) => Ok((*device).clone()),
        ([], []) => Err(format!("its device has not appeared within {patience:?}")),
        ([], [device, ..]) => Err(format!("{} is another disk or partition now", device.display())),
        (several, _) => Err(format!("{} devices may be its own", several.len())),
    }
}

fn sysfs(device: &Path) -> Option<PathBuf> {
    Some(Path::new(SYSFS).join("class/block").join(device.file_name()?))
}

/// Whether a device is where another was.
fn is_at(device: &Path, place: &DevicePlace) -> Option<bool> {
    let path = fs::canonicalize(sysfs(device)?).ok()?;
    let path = path.strip_prefix(SYSFS).ok()?;
    let found = DevicePlace::of(path.as_os_str().as_encoded_bytes())?;
    Some(found == *place)
}

/// Whether a device has the same bounds and, as far as they are told, the same UUID.
fn is_same(device: &Path, block: &BlockDevice) -> bool {
    let Some(directory) = sysfs(device) else { return false };
    let text = |name: &str| fs::read_to_string(directory.join(name)).ok();
    let number = |name: &str| text(name).and_then(|text| text.trim().parse::<u64>().ok());
    let told = text("uevent").unwrap_or_default();
    let uuid = told.lines().find_map(|line| line.strip_prefix("PARTUUID="));
    let same_uuid = match uuid {
        Some(uuid) if !block.partition.is_empty() => uuid.as_bytes().eq_ignore_ascii_case(&block.partition),
        _ => true,
    };
    same_uuid && number("size") == Some(block.sectors) && number("start").unwrap_or(0) == block.start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_told() {
        let block = |path: &str| BlockDevice {
            path: path.into(),
            ..BlockDevice::default()
        };
        let nowhere = block("devices/pci0000:00/ffff:ff:1f.7/virtio2/block/vda");
        let error = locate(&nowhere, Duration::ZERO).unwrap_err();
        assert!(error.contains("not appeared"), "{error}");
        assert!(locate(&block("devices/virtual/block/zram0"), Duration::ZERO).is_err());
    }
}
