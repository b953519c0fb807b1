//! Where the rescue area is, in a running system: a partition or a file.

use super::{
    file::{self, USUAL},
    mounted_at,
    partition::{number, sysfs, Disk},
};
use crate::{boot::ext4::all_devices, mountinfo};
use anyhow::{bail, ensure, Context, Result};
use rustix::fs::OFlags;
use shared_region::{
    device::RescueArea,
    rescue_area::{kind, path_inside, state, AreaError, Contents, Extents, Head, BLOCK, CONTENTS_AT, SECTOR},
};
use std::{
    fs::{self, File},
    io::{self, Read},
    ops::Deref,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// Whether an area is a file.
pub fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file())
}

/// Bytes of a partition or a file.
fn bytes(path: &Path) -> u64 {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => found.len(),
        _ => sysfs(path).ok().and_then(|at| number(at.join("size"))).unwrap_or(0) * SECTOR,
    }
}

/// Head of the area in a partition or a file.
///
/// # Errors
/// [`AreaError`].
pub fn head(path: &Path) -> Result<Head, AreaError> {
    let mut block = [0; BLOCK as usize];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut block));
    read.map_err(|_| AreaError::Unreadable(0))?;
    Head::parse(&block, bytes(path))
}

/// Every area that was prepared: all partitions, and the usual file.
pub fn prepared() -> Vec<PathBuf> {
    let usual = Some(PathBuf::from(USUAL)).filter(|usual| is_file(usual));
    let mut found: Vec<PathBuf> = all_devices().chain(usual).filter(|path| head(path).is_ok()).collect();
    found.sort();
    found
}

/// Whether an area holds what nobody has put back.
pub fn is_full(path: &Path, head: &Head) -> bool {
    let mut block = [0; BLOCK as usize];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut block, CONTENTS_AT));
    read.is_ok() && Contents::parse(&block, head).is_ok_and(|contents| contents.state != state::USED)
}

/// What the backup OS has to know of an area.
///
/// # Errors
/// It could not write to it.
pub fn words(path: &Path, head: &Head) -> Result<RescueArea> {
    if !is_file(path) {
        let disk = sysfs(path).and_then(|at| Disk::of(&at))?;
        return Ok(RescueArea {
            state: kind::PARTITION,
            start: disk.start,
            sectors: disk.sectors,
            ..of_disk(&disk, head)
        });
    }
    let file = File::open(path)?;
    let disk = file::disk_of(&file)?;
    let extents = file::extents(&file, head, &disk)?;
    let mut block = vec![0; BLOCK as usize];
    file.read_exact_at(&mut block, 0)?;
    let listed = Extents::parse(&block, head, extents.start(), &file::within(&disk))?;
    ensure!(
        listed == extents,
        "its blocks were moved since it was prepared: --remove it, and prepare it anew"
    );
    file::set_immutable(&file, true).context("making it immutable")?;
    Ok(RescueArea {
        state: kind::FILE,
        start: extents.start(),
        sectors: head.bytes / SECTOR,
        ..of_disk(&disk, head)
    })
}

fn of_disk(disk: &Disk, head: &Head) -> RescueArea {
    RescueArea {
        function: disk.function,
        disk_sectors: disk.disk_sectors,
        within: [disk.start, disk.sectors],
        id: head.id,
        serial: disk.serial,
        ..RescueArea::default()
    }
}

/// The area that is named, if that is there.
pub fn named(words: &RescueArea) -> Option<PathBuf> {
    all_devices().find_map(|device| {
        let at = sysfs(&device).ok()?;
        let disk = Disk::of(&at).ok()?;
        if (disk.function, disk.start, disk.sectors) != (words.function, words.within[0], words.within[1]) {
            return None;
        }
        match words.state {
            kind::FILE => file_on(&at, &disk, words),
            _ => head(&device).is_ok().then_some(device),
        }
    })
}

/// The file of which the first block lies at a sector, if its file system is mounted.
fn file_on(sysfs: &Path, disk: &Disk, words: &RescueArea) -> Option<PathBuf> {
    let block = file::read_below(sysfs, words.start.checked_sub(disk.start)?.checked_mul(SECTOR)?).ok()?;
    let head = Head::parse(&block, words.sectors * SECTOR).ok()?;
    let inside = path_inside(&block, &head).ok()?;
    let device = fs::read_to_string(sysfs.join("dev")).ok()?;
    let (major, minor) = device.trim().split_once(':')?;
    let mounts = fs::read_to_string(mountinfo::OWN).ok()?;
    let at = mounted_at(&mounts, major.parse().ok()?, minor.parse().ok()?)?;
    let path = at.join(std::ffi::OsStr::from_bytes(&inside));
    is_file(&path).then_some(path)
}

/// The named area, if the backup OS would write to it as well.
///
/// # Errors
/// Why it would not.
pub fn to_write_to(wanted: &RescueArea) -> Result<(PathBuf, Head), String> {
    let path =
        named(wanted).ok_or("the rescue area is on a disk or file system that is not there, or is another one")?;
    let head = head(&path).map_err(|error| error.to_string())?;
    let found = words(&path, &head).map_err(|error| format!("{}: {error:#}", path.display()))?;
    if (found.disk_sectors, found.serial) != (wanted.disk_sectors, wanted.serial) {
        return Err(format!("{} is on another disk than it was", path.display()));
    }
    if found != *wanted {
        return Err("another rescue area is there".into());
    }
    if is_full(&path, &head) {
        return Err("it holds what an earlier failure has left, which nobody has put back".into());
    }
    Ok((path, head))
}

/// An area that is written to. A file is immutable but for that time.
#[derive(Debug)]
pub struct Writing {
    file: File,
    is_file: bool,
}

impl Writing {
    /// Opens an area. Of a partition nobody else may have it mounted or otherwise in use, if it is to be `alone`.
    ///
    /// # Errors
    /// It cannot be written to.
    pub fn open(path: &Path, alone: bool) -> io::Result<Self> {
        let is_file = is_file(path);
        if is_file {
            file::set_immutable(&File::open(path)?, false)?;
        }
        let alone = alone && !is_file;
        let flags = if alone { OFlags::EXCL.bits() as i32 } else { 0 };
        let file = File::options().read(true).write(true).custom_flags(flags).open(path)?;
        Ok(Self { file, is_file })
    }
}

impl Deref for Writing {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.is_file {
            file::forget(&self.file);
            // Whoever names it does it again.
            let _ = file::set_immutable(&self.file, true);
        }
    }
}

/// Makes a new file of so many bytes an area.
///
/// # Errors
/// It is there already, or why it cannot be one; then it is not there.
pub fn make_file(path: &Path, bytes: u64, id: [u64; 2]) -> Result<()> {
    let above = path.parent().context("it has no directory")?;
    fs::create_dir_all(above)?;
    let path = fs::canonicalize(above)?.join(path.file_name().context("it has no name")?);
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    let made =
        inside(&path, &file).and_then(|inside| file::make(&file, &Head::new(id, bytes), inside.as_os_str().as_bytes()));
    if made.is_err() {
        let _ = file::set_immutable(&file, false);
        let _ = fs::remove_file(&path);
    }
    made
}

/// Deletes an area that is a file.
///
/// # Errors
/// It is none, or cannot be deleted.
pub fn remove_file(path: &Path) -> Result<()> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_file() {
        bail!("it is no file");
    }
    let file = File::open(path)?;
    file::set_immutable(&file, false)?;
    // What is left of it on the disk must not be found to be one.
    File::options()
        .write(true)
        .open(path)?
        .write_all_at(&[0; BLOCK as usize], 0)?;
    file.sync_all()?;
    Ok(fs::remove_file(path)?)
}

/// The path of a file from the root directory of its file system on.
fn inside(path: &Path, file: &File) -> Result<PathBuf> {
    let device = file.metadata()?.dev();
    let mounts = fs::read_to_string(mountinfo::OWN)?;
    let at = mounted_at(&mounts, libc::major(device), libc::minor(device));
    let inside = at.and_then(|at| Some(path.strip_prefix(at).ok()?.to_owned()));
    inside.context("its file system is not mounted there as a whole")
}
