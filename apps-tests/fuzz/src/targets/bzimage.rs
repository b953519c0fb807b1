//! Kernel images, packed and unpacked, and what a kernel's command line may hold.

use boot_plan::bzimage::BzImage;
use boot_plan::elf::Image;
use boot_plan::unpacked::payload::{Packing, Payload};
use boot_plan::unpacked::unpack::Unpacker;
use boot_plan::unpacked::vmlinux;

/// Bytes that a kernel may unpack to here.
const ROOM: usize = 1 << 16;
/// Where kernels are linked, and how far one is moved.
const LINKED_AT: u64 = 16 << 20;
const SHIFT: u64 = 66 << 20;

/// Any file given as a kernel.
pub fn bzimage(data: &[u8]) {
    if let Ok(image) = BzImage::parse(data) {
        let end = image.kernel_offset.saturating_add(image.kernel_length);
        assert!(end <= data.len() as u64, "the kernel lies beyond the end of its file");
        assert!(image.alignment.is_power_of_two());
        let _ = image.initramfs_limit();
        if let Ok(payload) = Payload::find(&image, data) {
            unpack(&payload);
        }
    }
    for packing in [Packing::Lz4, Packing::Zstd] {
        unpack(&Payload {
            packing,
            packed: data,
            size: 0x1000,
        });
    }
    let mut memory = data.to_vec();
    memory.resize(ROOM.max(data.len()), 0);
    let _ = vmlinux::lay_out(&mut memory, data.len() as u64, LINKED_AT, SHIFT);
    if let Ok(elf) = Image::parse(data) {
        let _ = elf.relocations(0x100_0000).take(1 << 16).count();
    }
    let _ = boot_plan::options::Options::parse(data);
}

fn unpack(payload: &Payload) {
    let Ok(mut unpacker) = Unpacker::new(payload) else {
        return;
    };
    let mut memory = vec![0; ROOM];
    while let Ok(false) = unpacker.step(&mut memory) {}
}
