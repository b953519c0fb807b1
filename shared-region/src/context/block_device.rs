//! Disks and partitions, known by what stays the same whichever kernel runs.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A disk or partition, by all that stays what it is while the machine does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// Its path in sysfs, behind the mount point; see [`DevicePlace`].
    pub path: Vec<u8>,
    /// First sector on the disk, of 512 bytes.
    pub start: u64,
    /// Sectors.
    pub sectors: u64,
    /// UUID of the partition as the kernel writes it; empty if it has none.
    pub partition: Vec<u8>,
}

/// What of a block device's path in sysfs is the same whichever kernel runs: addresses of PCI, the part of a SCSI address that the
/// device itself determines, the number of an NVMe namespace, and the partition. What a kernel counts for itself is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DevicePlace(Vec<Vec<u8>>);

impl DevicePlace {
    /// `None` for a device that is on no bus of hardware: what it is made of, another kernel does not know.
    pub fn of(path: &[u8]) -> Option<Self> {
        let mut parts = Vec::new();
        let mut disk: Option<&[u8]> = None;
        let mut in_block = false;
        for name in path.split(|&byte| byte == b'/') {
            if is_pci_address(name) {
                parts.push(name.to_vec());
            } else if let Some(rest) = behind_host(name) {
                parts.push([b"scsi ", rest].concat());
            } else if let Some(disk) = disk {
                parts.push([b"partition ", name.strip_prefix(disk)?].concat());
            } else if in_block || (name.starts_with(b"nvme") && name.contains(&b'n') && namespace(name).is_some()) {
                parts.extend(namespace(name).map(|number| [b"namespace ", number].concat()));
                disk = Some(name);
            }
            in_block = name == b"block";
        }
        let is_hardware = disk.is_some() && parts.first().is_some_and(|part| is_pci_address(part));
        is_hardware.then_some(Self(parts))
    }
}

/// `0000:00:05.0`.
fn is_pci_address(name: &[u8]) -> bool {
    let mut parts = name.split(|&byte| byte == b':' || byte == b'.');
    let lengths = [4, 2, 2, 1].map(|length| (length, parts.next()));
    let separators = name.iter().filter(|byte| !byte.is_ascii_hexdigit());
    lengths
        .into_iter()
        .all(|(length, part)| part.is_some_and(|part| part.len() >= length && part.iter().all(u8::is_ascii_hexdigit)))
        && separators.eq(b"::.")
}

/// What stands behind the host's number in `2:0:1:0`.
fn behind_host(name: &[u8]) -> Option<&[u8]> {
    let colons = name.iter().filter(|&&byte| byte == b':').count();
    let is_address = colons == 3 && name.iter().all(|byte| byte.is_ascii_digit() || *byte == b':');
    let host = name.iter().position(|&byte| byte == b':').filter(|_| is_address)?;
    name.get(host.checked_add(1)?..)
}

/// The `1` of `nvme0n1`.
fn namespace(name: &[u8]) -> Option<&[u8]> {
    let rest = name.strip_prefix(b"nvme")?;
    let at = rest.iter().position(|&byte| byte == b'n')?;
    let number = rest.get(at.checked_add(1)?..)?;
    (!number.is_empty() && number.iter().all(u8::is_ascii_digit)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn place(path: &str) -> Option<Vec<String>> {
        let text = |part: Vec<u8>| String::from_utf8(part).unwrap();
        DevicePlace::of(path.as_bytes()).map(|place| place.0.into_iter().map(text).collect())
    }

    #[test]
    fn what_a_kernel_counts_for_itself_is_left_out() {
        let virtio = |number: u32, disk: &str| {
            place(&alloc::format!(
                "devices/pci0000:00/0000:00:05.0/virtio{number}/block/{disk}/{disk}2"
            ))
        };
        assert_eq!(virtio(2, "vda").unwrap(), ["0000:00:05.0", "partition 2"]);
        assert_eq!(virtio(2, "vda"), virtio(3, "vdc"));
        let whole = "devices/pci0000:00/0000:00:05.0/virtio2/block/vda";
        assert_eq!(place(whole).unwrap(), ["0000:00:05.0"]);
        let scsi = "devices/pci0000:00/0000:00:1c.0/0000:03:00.0/host7/target7:0:1/7:0:1:0/block/sdb/sdb10";
        let want = ["0000:00:1c.0", "0000:03:00.0", "scsi 0:1:0", "partition 10"];
        assert_eq!(place(scsi).unwrap(), want);
        assert_eq!(place(&scsi.replace('7', "12").replace("sdb", "sdaa")).unwrap(), want);
        for nvme in ["nvme0/nvme0n2/nvme0n2p3", "nvme3/nvme3n2/nvme3n2p3"] {
            let path = alloc::format!("devices/pci0000:00/0000:00:04.0/nvme/{nvme}");
            assert_eq!(place(&path).unwrap(), ["0000:00:04.0", "namespace 2", "partition p3"]);
        }
    }

    #[test]
    fn what_is_no_hardware_has_no_place() {
        for path in [
            "devices/virtual/block/zram0",
            "devices/virtual/block/dm-1",
            "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
            "devices/platform/host2/session1/target2:0:0/2:0:0:0/block/sdb",
            "devices/pci0000:00/0000:00:05.0/virtio2",
            "",
        ] {
            assert_eq!(place(path), None, "{path}");
        }
    }
}
