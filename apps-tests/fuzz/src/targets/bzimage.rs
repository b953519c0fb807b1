//! Kernel images, packed and unpacked, and what a kernel's command line may hold.

use boot_plan::bzimage::BzImage;
use boot_plan::elf::Image;

/// Any file given as a kernel.
pub fn bzimage(data: &[u8]) {
    if let Ok(image) = BzImage::parse(data) {
        let end = image.kernel_offset.saturating_add(image.kernel_length);
        assert!(end <= data.len() as u64, "the kernel lies beyond the end of its file");
        assert!(image.alignment.is_power_of_two());
        let _ = image.initramfs_limit();
    }
    if let Ok(elf) = Image::parse(data) {
        let _ = elf.relocations(0x100_0000).take(1 << 16).count();
    }
    let _ = boot_plan::options::Options::parse(data);
}
