//! `orthros-ctl rescue-area`: the partition or file into which the backup OS writes file data when no kernel can be booted any
//! more.

use crate::cli::RescueArea as Wish;
use crate::exit::Exit;
use crate::snapshot::{open_region, Source};
use anyhow::{bail, ensure, Context, Result};
use orthros_init::rescue::partition::{sysfs, Disk};
use orthros_init::rescue::place::{self, head, is_file, is_full, prepared};
use rustix::fs::OFlags;
use serde_json::json;
use shared_region::device::RescueArea;
use shared_region::layout::RESCUE_WORDS;
use shared_region::rescue_area::{kind, AreaError, Head, BLOCK, LEAST, SECTOR};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Bytes at the start of a partition that are looked at for what is on it.
const LOOKED_AT: usize = 128 << 10;
/// Signatures at the start of a partition: offset, bytes, name.
const SIGNATURES: [(usize, &[u8], &str); 11] = [
    (0x438, &[0x53, 0xEF], "ext2, ext3 or ext4"),
    (0, b"XFSB", "xfs"),
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (4086, b"SWAPSPACE2", "swap space"),
    (0, b"LUKS\xBA\xBE", "an encrypted volume"),
    (512, b"LABELONE", "a physical volume of LVM"),
    (512, b"EFI PART", "a partition table"),
    (510, &[0x55, 0xAA], "a partition table or a FAT file system"),
    (4096, &[0xFC, 0x4E, 0x2B, 0xA9], "a member of a RAID"),
    (0, b"hsqs", "squashfs"),
    (0x8001, b"CD001", "iso9660"),
];

/// The one that was prepared.
pub fn only() -> Result<PathBuf> {
    match prepared().as_slice() {
        [] => bail!("no rescue area is there: `orthros-ctl rescue-area --prepare` makes one of a partition or a file"),
        [one] => Ok(one.clone()),
        several => bail!(
            "{} and {} are rescue areas: which one?",
            several[0].display(),
            several[1].display()
        ),
    }
}

/// What is at the start of a partition, if that is not nothing or a rescue area.
fn found_in(start: &[u8]) -> Option<&'static str> {
    let has = |&&(at, bytes, _): &&(usize, &[u8], &str)| start.get(at..).is_some_and(|rest| rest.starts_with(bytes));
    let known = SIGNATURES.iter().find(has).map(|&(_, _, name)| name);
    let is_area = Head::parse(start, u64::MAX).is_ok();
    let unknown = || (!is_area && start.iter().any(|&byte| byte != 0)).then_some("data of a kind that is not known");
    known.or_else(unknown)
}

fn prepare(device: &Path, disk: &Disk, force: bool) -> Result<()> {
    let bytes = disk.sectors * SECTOR / BLOCK * BLOCK;
    ensure!(
        bytes >= LEAST,
        "it has {} MB, and {} are the least",
        bytes >> 20,
        LEAST >> 20
    );
    // Nobody else may have it mounted or otherwise in use.
    let flags = OFlags::EXCL.bits() as i32;
    let file = File::options().read(true).write(true).custom_flags(flags).open(device);
    let file = file.context("it is in use, or cannot be written to")?;
    let mut start = vec![0; LOOKED_AT];
    file.read_exact_at(&mut start, 0)?;
    if let Some(what) = found_in(&start).filter(|_| !force) {
        bail!("there is {what} on it; --force overwrites that");
    }
    if Head::parse(&start, bytes).is_ok_and(|head| is_full(device, &head)) && !force {
        bail!("it holds files that nobody has put back: `orthros-ctl rescue`; --force gives them up");
    }
    // What was found there must not be found again.
    start.fill(0);
    start[..size_of::<Head>()].copy_from_slice(Head::new(new_id()?, bytes).as_bytes());
    file.write_all_at(&start, 0)?;
    file.sync_all().context("writing to it")
}

fn new_id() -> Result<[u64; 2]> {
    let mut id = [0u64; 2];
    File::open("/dev/urandom")?.read_exact(id.as_mut_bytes())?;
    Ok(id)
}

fn prepare_file(path: &Path, wish: &Wish) -> Result<()> {
    let size = wish
        .size
        .as_deref()
        .context("--size says how large the file is to be")?;
    let bytes = bytes(size).filter(|bytes| bytes.is_multiple_of(BLOCK));
    let bytes = bytes.with_context(|| format!("{size} is no size: a number with K, M or G, of whole {BLOCK} bytes"))?;
    ensure!(
        bytes >= LEAST,
        "{} MB are too few, and {} are the least",
        bytes >> 20,
        LEAST >> 20
    );
    if path.symlink_metadata().is_ok() {
        ensure!(
            is_file(path) && head(path).is_ok(),
            "there is a file of this name, which is no rescue area"
        );
        remove(path, wish.force)?;
    }
    place::make_file(path, bytes, new_id()?)
}

/// Bytes that a text says.
fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(number) => (number, 10 * (1 + "KMG".find(text.chars().last()?)?)),
        None => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Deletes an area that is a file; if it is the one that is named, there is none then.
fn remove(path: &Path, force: bool) -> Result<()> {
    ensure!(
        is_file(path),
        "it is no file: what is on a partition is overwritten as it is"
    );
    let head = head(path)?;
    ensure!(
        force || !is_full(path, &head),
        "it holds files that nobody has put back: `orthros-ctl rescue`; --force gives them up"
    );
    // Without Orthros nobody has named it.
    if let Ok((device, region)) = open_region() {
        if words(&region).id == head.id {
            device.rescue_area(RescueArea::default())?;
        }
    }
    place::remove_file(path)
}

/// The words of the region.
fn words(source: &impl Source) -> RescueArea {
    let bytes = source.copy(RESCUE_WORDS, size_of::<RescueArea>());
    RescueArea::read_from_prefix(&bytes).map_or_else(|_| RescueArea::new_zeroed(), |(words, _)| words)
}

/// The area that is named: its device, if that is there, its bytes, and whether it holds something.
fn named(words: &RescueArea) -> Option<(Option<PathBuf>, u64, bool)> {
    if words.state == kind::NONE {
        return None;
    }
    let device = place::named(words);
    let full = device
        .as_ref()
        .is_some_and(|at| head(at).is_ok_and(|head| is_full(at, &head)));
    Some((device, words.sectors * SECTOR, full))
}

/// For `status`.
pub fn text(source: &impl Source) -> String {
    match named(&words(source)) {
        None => "none".into(),
        Some((None, bytes, _)) => format!(
            "{} MB on a disk or file system that is not there, or is another one",
            bytes >> 20
        ),
        Some((Some(device), bytes, full)) => format!(
            "{} MB on {}{}",
            bytes >> 20,
            device.display(),
            if full {
                "; holds files that nobody has put back: `orthros-ctl rescue`"
            } else {
                ""
            }
        ),
    }
}

/// For `status --json`.
pub fn json(source: &impl Source) -> serde_json::Value {
    match named(&words(source)) {
        None => serde_json::Value::Null,
        Some((device, bytes, full)) => json!({"device": device, "bytes": bytes, "holds_files": full}),
    }
}

/// Shows the area, or names one.
pub fn run(wish: &Wish) -> Result<Exit> {
    let Some(name) = &wish.device else {
        let (_, region) = open_region()?;
        match wish.json {
            true => println!("{:#}", json!({"version": 1, "rescue_area": json(&region)})),
            false => println!("{}", text(&region)),
        }
        return Ok(Exit::Fine);
    };
    if name == "off" {
        let (device, _) = open_region()?;
        device.rescue_area(RescueArea::default())?;
        return Ok(Exit::Fine);
    }
    let path = if name == "auto" { only()? } else { name.into() };
    let text = || path.display().to_string();
    if wish.remove {
        remove(&path, wish.force).with_context(text)?;
        return Ok(Exit::Fine);
    }
    let is_device = std::fs::metadata(&path).is_ok_and(|found| found.file_type().is_block_device());
    match wish.prepare {
        true if is_device => {
            let disk = sysfs(&path).and_then(|at| Disk::of(&at)).with_context(text)?;
            prepare(&path, &disk, wish.force).with_context(text)?;
        }
        true => prepare_file(&path, wish).with_context(text)?,
        false => {}
    }
    let head = match head(&path) {
        Ok(head) => head,
        Err(AreaError::NoArea) => bail!("{}: it is no rescue area; --prepare makes it one", text()),
        Err(error) => bail!("{}: {error}", text()),
    };
    let words = place::words(&path, &head).with_context(text)?;
    let (device, region) = open_region()?;
    device.rescue_area(words).with_context(text)?;
    if wish.json {
        println!("{:#}", json!({"version": 1, "rescue_area": json(&region)}));
    }
    Ok(Exit::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fake::Fake;

    #[test]
    fn what_is_on_a_partition_is_named() {
        let mut start = vec![0; LOOKED_AT];
        assert_eq!(found_in(&start), None);
        for (at, bytes, name) in SIGNATURES {
            let mut start = start.clone();
            start[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(found_in(&start), Some(name));
        }
        start[..size_of::<Head>()].copy_from_slice(Head::new([1, 2], LEAST).as_bytes());
        assert_eq!(found_in(&start), None);
        start[7] ^= 1;
        assert_eq!(found_in(&start), Some("data of a kind that is not known"));
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(
            ["1G", "48M", "4K", "4096", "0M"].map(bytes),
            [Some(1 << 30), Some(48 << 20), Some(4096), Some(4096), Some(0)]
        );
        assert_eq!(
            ["", "M", "1T", "-1", "1.5G", "99999999999999G", "1MM"].map(bytes),
            [None; 7]
        );
    }

    #[test]
    fn a_machine_may_have_none() {
        let fake = Fake::armed();
        assert_eq!(text(&fake), "none");
        assert!(json(&fake).is_null());
    }
}
