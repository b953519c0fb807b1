//! Stock kernels unpacked and laid out, where there are some: `ORTHROS_KERNELS` lists bzImages, separated by colons.

use boot_plan::bzimage::BzImage;
use boot_plan::unpacked::{payload::Payload, unpack::Unpacker, vmlinux};

/// Unpacks a kernel and moves it by `shift`.
fn laid_out(file: &[u8], shift: u64) -> (Vec<u8>, vmlinux::Vmlinux) {
    let image = BzImage::parse(file).expect("a kernel");
    let payload = Payload::find(&image, file).expect("a packed kernel");
    let mut unpacker = Unpacker::new(&payload).expect("a known packing");
    let mut memory = vec![0; image.init_size as usize];
    while !unpacker.step(&mut memory).expect("a step") {}
    let laid = vmlinux::lay_out(&mut memory, payload.size, image.pref_address, shift).expect("a vmlinux");
    (memory, laid)
}

#[test]
fn stock_kernels_are_unpacked_and_moved() {
    let Some(list) = std::env::var_os("ORTHROS_KERNELS") else {
        eprintln!("ORTHROS_KERNELS is not set: nothing was tried");
        return;
    };
    for path in std::env::split_paths(&list) {
        let file = std::fs::read(&path).expect("a readable kernel");
        let ((still, at_rest), (moved, shifted)) = (laid_out(&file, 0), laid_out(&file, 64 << 20));
        assert_eq!(at_rest, shifted);
        assert!(at_rest.entry < at_rest.filled);
        let words = |memory: &[u8]| -> Vec<u64> {
            let (words, _) = memory[..at_rest.filled as usize].as_chunks::<8>();
            words.iter().map(|word| u64::from_le_bytes(*word)).collect()
        };
        let changed = words(&still)
            .iter()
            .zip(words(&moved))
            .filter(|(a, b)| **a != *b)
            .count();
        eprintln!("{}: {changed} words moved, {at_rest:?}", path.display());
        assert!(changed > 100_000, "{}: {changed}", path.display());
    }
}
