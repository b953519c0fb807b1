//! Opening an image, and finding out where its RAM lies and which kernel it holds.

use anyhow::{bail, Context};
use salvage::memory::{Image, PhysMem};
use salvage::prepared::{PrepareError, Prepared};
use std::path::Path;

/// The first address above the hole for devices.
const FOUR_GB: u64 = 1 << 32;
/// RAM below 4 GB of QEMU's machines, where there is more than that: `q35`, `pc`, and both with less in all.
const USUAL_BELOW_4G: [u64; 4] = [0x8000_0000, 0xC000_0000, 0xB000_0000, 0xE000_0000];

/// An image, mapped.
pub struct File {
    map: memmap2::Mmap,
}

/// An image with its kernel.
pub struct Opened<'f> {
    /// The memory.
    pub image: Image<'f>,
    /// The kernel.
    pub prepared: Prepared,
}

impl File {
    /// Maps a file.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let metadata = file
            .metadata()
            .with_context(|| format!("cannot examine {}", path.display()))?;
        if !metadata.is_file() {
            bail!("{} is not a regular file", path.display());
        }
        if metadata.len() == 0 {
            bail!("{} is empty", path.display());
        }
        // SAFETY: the mapping is shared with whoever else has the file open, and slices of it may change or, if the file
        // is cut short, fault. 1. The file is an image of a machine that has stopped: the help says so, and nothing
        // here runs the machine. 2. No reference into the map is used to uphold an invariant of a type: all bytes
        // are read as integers and copied into checked values.
        let map = unsafe { memmap2::Mmap::map(&file) };
        let map = map.with_context(|| format!("cannot map {}", path.display()))?;
        Ok(Self { map })
    }
}

/// Finds the kernel in an image. With no word about the hole below 4 GB, the usual ones are tried, and the right one is
/// that which puts the end of RAM where the kernel saw it.
pub fn find_kernel(file: &File, below_4g: Option<u64>) -> anyhow::Result<Opened<'_>> {
    let bytes: &[u8] = &file.map;
    if let Some(below) = below_4g {
        let image = Image::with_hole(bytes, below);
        let prepared = Prepared::find(&image)?;
        return Ok(Opened { image, prepared });
    }
    let len = bytes.len() as u64;
    let layouts: Vec<Image<'_>> = std::iter::once(Image::flat(bytes))
        .chain(
            USUAL_BELOW_4G
                .into_iter()
                .filter(|&below| below < len)
                .map(|below| Image::with_hole(bytes, below)),
        )
        .collect();
    let mut failure = PrepareError::NoKernel;
    for image in &layouts {
        match Prepared::find(image) {
            Ok(prepared) => {
                let right = fitting_layout(&layouts, end_of_ram(&prepared, image));
                return match right {
                    Some(right) if right.ranges() != image.ranges() => {
                        let prepared = Prepared::find(right)?;
                        Ok(Opened {
                            image: right.clone(),
                            prepared,
                        })
                    }
                    _ => Ok(Opened {
                        image: image.clone(),
                        prepared,
                    }),
                };
            }
            Err(error) if failure == PrepareError::NoKernel => failure = error,
            Err(_) => {}
        }
    }
    Err(failure.into())
}

/// The first address after RAM, as the kernel saw it.
fn end_of_ram(prepared: &Prepared, image: &Image<'_>) -> u64 {
    let kernel = salvage::kernel::Kernel::new(image, prepared);
    let frames = prepared
        .symbols
        .max_pfn
        .and_then(|at| kernel.mem.u64(at).ok())
        .unwrap_or(0);
    frames.saturating_mul(salvage::addr::PAGE_SIZE)
}

/// The layout that ends where RAM does, or as little behind it as possible: a kernel can be told to leave RAM out.
fn fitting_layout<'l, 'f>(layouts: &'l [Image<'f>], end: u64) -> Option<&'l Image<'f>> {
    let reaches_above = |image: &&Image<'_>| (image.end().0 > FOUR_GB) == (end > FOUR_GB);
    layouts
        .iter()
        .filter(reaches_above)
        .filter(|image| image.end().0 >= end)
        .min_by_key(|image| image.end())
}
