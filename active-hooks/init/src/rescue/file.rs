//! A rescue area that is a file of ext4 or XFS: its blocks are written to by the backup OS, below the file system.
//!
//! What we are responsible for: the blocks that are told are those of the file, each written once (an extent that was only
//! set aside reads as zeros whatever lies there), and stay its own. So the file is immutable, as long as nobody takes that away:
//! it can be neither written to, made shorter, moved nor deleted.

use super::partition::Disk;
use crate::sys;
use anyhow::{bail, ensure, Context, Result};
use rustix::{
    fs::{fadvise, fallocate, fstat, fstatfs, ioctl_getflags, ioctl_setflags, Advice, FallocateFlags, IFlags, OFlags},
    io,
};
use shared_region::rescue_area::{Extent, Extents, Head, BLOCK, MOST_EXTENTS, SECTOR};
use std::{
    fs::{self, File},
    ops::Range,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// Where an area is that is a file, unless another place is named.
pub const USUAL: &str = "/var/lib/orthros/rescue";

/// `EXT4_SUPER_MAGIC` and `XFS_SUPER_MAGIC` (include/uapi/linux/magic.h).
const FILE_SYSTEMS: [u64; 2] = [0xEF53, 0x5846_5342];
/// `FIEMAP_EXTENT_LAST` and `_MERGED`: an extent with nothing but these is a plain one.
const PLAIN: u32 = 1 | 0x1000;
/// What others are (include/uapi/linux/fiemap.h).
const OTHERS: [(u32, &str); 9] = [
    (0x2, "is somewhere that is not known"),
    (0x4, "has no place yet"),
    (0x8, "is encoded"),
    (0x80, "is encrypted"),
    (0x100, "does not begin with a block"),
    (0x200, "lies in its inode"),
    (0x400, "shares a block with others"),
    (0x800, "was never written"),
    (0x2000, "is shared with another file"),
];
/// What a file may not be: its blocks would be somewhere else than where it is read, or it cannot be written to.
const STRANGE: [(IFlags, &str); 3] = [
    (IFlags::APPEND, "it can only be appended to (chattr -a)"),
    (IFlags::JOURNALING, "its data goes through the journal (chattr -j)"),
    (IFlags::COMPRESSED, "it is compressed"),
];
/// Bytes that are written at once.
const STRETCH: usize = 1 << 20;

/// The disk that a file is on, and the part of it that its file system has.
///
/// # Errors
/// It is on no disk that the backup OS could drive, or on a file system of another kind.
pub fn disk_of(file: &impl AsFd) -> Result<Disk> {
    let kind = fstatfs(file)?.f_type as u64;
    ensure!(
        FILE_SYSTEMS.contains(&kind),
        "it is on a file system that is neither ext4 nor XFS"
    );
    Disk::of(&sysfs_of(file)?)
}

/// Folder of the device that a file is on.
fn sysfs_of(file: &impl AsFd) -> Result<PathBuf> {
    let device = fstat(file)?.st_dev;
    let at = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
    fs::canonicalize(at).context("it is on no disk")
}

/// The part of its disk that a file system has.
pub fn within(disk: &Disk) -> Range<u64> {
    disk.start..disk.start.saturating_add(disk.sectors)
}

/// Where a file lies on its disk.
///
/// # Errors
/// Its blocks cannot be written to by somebody else.
pub fn extents(file: &impl AsFd, head: &Head, disk: &Disk) -> Result<Extents> {
    let mut found: Vec<Extent> = Vec::new();
    let mut end = 0u64;
    for extent in sys::extents(file.as_fd())? {
        if extent.flags & !PLAIN != 0 {
            let is = |other: &&(u32, &str)| extent.flags & other.0 != 0;
            let what = OTHERS
                .iter()
                .find(is)
                .map_or("is of a kind that is not known", |other| other.1);
            bail!("what it has at byte {} {what}", extent.offset);
        }
        ensure!(extent.offset == end, "it has a hole at byte {end}");
        ensure!(
            (extent.at | extent.bytes).is_multiple_of(SECTOR),
            "what it has at byte {end} does not begin or end with a sector"
        );
        end = end.saturating_add(extent.bytes);
        let sector = disk.start.saturating_add(extent.at / SECTOR);
        let sectors = extent.bytes / SECTOR;
        match found.last_mut() {
            Some(last) if last.sector.saturating_add(last.sectors) == sector => last.sectors += sectors,
            _ => found.push(Extent { sector, sectors }),
        }
    }
    // Blocks may be larger than what the file has of the last one.
    let beyond = end
        .checked_sub(head.bytes)
        .with_context(|| format!("it has a hole at byte {end}"))?;
    if let Some(last) = found.last_mut() {
        last.sectors = last.sectors.saturating_sub(beyond / SECTOR);
    }
    ensure!(
        found.len() <= MOST_EXTENTS,
        "it lies in {} pieces, and {MOST_EXTENTS} are the most: its file system has no room in one piece",
        found.len()
    );
    Ok(Extents::of_file(&found, head, &within(disk))?)
}

/// Makes a file immutable, or no longer so.
///
/// # Errors
/// Whatever the file system says.
pub fn set_immutable(file: &impl AsFd, wanted: bool) -> io::Result<()> {
    let flags = ioctl_getflags(file)?;
    let mut new = flags;
    new.set(IFlags::IMMUTABLE, wanted);
    match new == flags {
        true => Ok(()),
        false => ioctl_setflags(file, new),
    }
}

/// Makes a new file of so many bytes an area, all of it. It is immutable then.
///
/// # Errors
/// Why it cannot be one.
pub fn make(file: &File, head: &Head, path_inside: &[u8]) -> Result<()> {
    let disk = disk_of(file)?;
    let flags = ioctl_getflags(file)?;
    if let Some((_, what)) = STRANGE.iter().find(|(flag, _)| flags.contains(*flag)) {
        bail!("{what}");
    }
    fallocate(file, FallocateFlags::empty(), 0, head.bytes).context("setting its blocks aside")?;
    let zeros = vec![0; STRETCH];
    for at in (0..head.bytes).step_by(STRETCH) {
        let length = (head.bytes - at).min(STRETCH as u64) as usize;
        file.write_all_at(&zeros[..length], at).context("writing it")?;
    }
    file.sync_all().context("writing it")?;
    let extents = extents(file, head, &disk)?;
    check_places(file, &extents, &disk)?;
    file.write_all_at(&extents.first_block(head, path_inside)?, 0)?;
    file.sync_all()?;
    set_immutable(file, true).context("making it immutable")?;
    file.sync_all()?;
    ensure!(
        self::extents(file, head, &disk)? == extents,
        "its blocks were moved meanwhile"
    );
    forget(file);
    Ok(())
}

/// Drops what is cached of a file that was written out: pages of the area itself would be saved in it as those of any file whose
/// inode lies in one block with one that was changed, and take the room of others.
pub fn forget(file: &File) {
    // What stays costs room only.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

/// Whether what is written to the file at the beginning of each extent is there on the disk.
fn check_places(file: &File, extents: &Extents, disk: &Disk) -> Result<()> {
    let below = Raw::open(&sysfs_of(file)?)?;
    let mut at = 0;
    for (number, extent) in extents.all().iter().enumerate() {
        let mark = format!("orthros: extent {number} at sector {}", extent.sector);
        file.write_all_at(mark.as_bytes(), at)?;
        file.sync_all()?;
        let found = below.read((extent.sector - disk.start) * SECTOR)?;
        ensure!(
            found.starts_with(mark.as_bytes()),
            "what is written to it is not where its file system says (data=journal?)"
        );
        file.write_all_at(&vec![0; mark.len()], at)?;
        at += extent.sectors * SECTOR;
    }
    Ok(file.sync_all()?)
}

/// A device below a file system, read past every cache.
struct Raw(File);

/// A block, as such reads want it.
#[repr(align(4096))]
struct Aligned([u8; BLOCK as usize]);

impl Raw {
    /// `sysfs` is the device's folder.
    fn open(sysfs: &Path) -> Result<Self> {
        let device = Path::new("/dev").join(sysfs.file_name().context("its disk has no name")?);
        let flags = OFlags::DIRECT.bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(&device);
        Ok(Self(file.with_context(|| device.display().to_string())?))
    }

    /// The block that begins with the sector in which a byte lies, or before that.
    fn read(&self, at: u64) -> Result<Vec<u8>> {
        let mut block = Box::new(Aligned([0; BLOCK as usize]));
        let start = at / BLOCK * BLOCK;
        self.0.read_exact_at(&mut block.0, start).context("reading its disk")?;
        Ok(block.0[(at - start) as usize..].to_vec())
    }
}

/// The block of a device at a byte; `sysfs` is its folder.
///
/// # Errors
/// It cannot be read.
pub fn read_below(sysfs: &Path, at: u64) -> Result<Vec<u8>> {
    let raw = Raw::open(sysfs)?;
    let mut bytes = raw.read(at)?;
    if !at.is_multiple_of(BLOCK) {
        bytes.extend(raw.read(at.next_multiple_of(BLOCK))?);
        bytes.truncate(BLOCK as usize);
    }
    Ok(bytes)
}
