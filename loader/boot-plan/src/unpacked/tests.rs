//! A small kernel, packed and unpacked again.

use super::payload::{Packing, Payload};
use super::unpack::{scratch_needed, Unpacker};
use super::vmlinux::{self, LayingOut, Vmlinux, START_KERNEL_MAP};
use super::{UnpackError, STEP};
use alloc::{vec, vec::Vec};
use proptest::prelude::*;

const LINKED_AT: u64 = 0x100_0000;
const SHIFT: u64 = 0x1240_0000;
/// Where the one segment is in the file, and how long it is there and in memory.
const OFFSET: usize = 0x1000;
const FILLED: usize = 0x200;
const SIZE: usize = 0x2800;
/// Words in it: their places from its start.
const WORD32: usize = 0x40;
const DISTANCE: usize = 0x50;
const WORD64: usize = 0x60;

fn number(at: usize) -> [u8; 4] {
    ((START_KERNEL_MAP + LINKED_AT) as u32 + at as u32).to_le_bytes()
}

/// An ELF file with one segment and, behind it, a relocation in each list.
fn vmlinux_file() -> Vec<u8> {
    vmlinux_of(FILLED, SIZE)
}

/// The same with so many bytes in the file and in memory.
fn vmlinux_of(filled: usize, size: usize) -> Vec<u8> {
    let mut file = vec![0u8; OFFSET + filled];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7FELF\x02\x01");
    put(16, &[2, 0, 62, 0]);
    put(24, &(LINKED_AT + 0x10).to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &[56, 0, 1, 0]);
    put(64, &1u32.to_le_bytes());
    for (at, value) in [
        (8, OFFSET as u64),
        (24, LINKED_AT),
        (32, filled as u64),
        (40, size as u64),
    ] {
        put(64 + at, &value.to_le_bytes());
    }
    put(OFFSET, &vec![0xAA; filled]);
    put(OFFSET + WORD32, &number(0x123));
    put(OFFSET + DISTANCE, &0x5000_0000u32.to_le_bytes());
    put(OFFSET + WORD64, &(START_KERNEL_MAP + LINKED_AT + 0x456).to_le_bytes());
    let zero = [0; 4];
    for part in [zero, number(WORD64), zero, number(DISTANCE), zero, number(WORD32)] {
        file.extend_from_slice(&part);
    }
    file
}

fn memory(file: &[u8]) -> Vec<u8> {
    let mut memory = file.to_vec();
    memory.resize(0x4000, 0);
    memory
}

fn word(memory: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(memory[at..at + 8].try_into().unwrap())
}

#[test]
fn a_kernel_is_laid_out_and_moved() {
    let file = vmlinux_file();
    let mut memory = memory(&file);
    let laid = vmlinux::lay_out(&mut memory, file.len() as u64, LINKED_AT, SHIFT).unwrap();
    assert_eq!(
        laid,
        Vmlinux {
            entry: 0x10,
            filled: FILLED as u64,
            size: SIZE as u64
        }
    );
    assert_eq!(memory[0], 0xAA);
    assert_eq!(word(&memory, WORD64), START_KERNEL_MAP + LINKED_AT + 0x456 + SHIFT);
    let low = |at| word(&memory, at) as u32;
    assert_eq!(low(WORD32), (START_KERNEL_MAP + LINKED_AT + 0x123 + SHIFT) as u32);
    assert_eq!(low(DISTANCE), 0x5000_0000 - SHIFT as u32);
}

/// The watcher looks for a panic between two steps.
#[test]
fn no_step_does_more_than_its_share() {
    let filled = 5 * STEP / 2;
    let file = vmlinux_of(filled, 3 * STEP);
    let mut memory = file.clone();
    memory.resize(4 * STEP, 0);
    let mut laying = LayingOut::new(&memory, file.len() as u64, LINKED_AT, SHIFT).unwrap();
    let mut at_once = memory.clone();
    let whole = vmlinux::lay_out(&mut at_once, file.len() as u64, LINKED_AT, SHIFT).unwrap();
    let mut changed = 0;
    let laid = loop {
        let before = memory.clone();
        if let Some(laid) = laying.step(&mut memory).unwrap() {
            break laid;
        }
        let here = before.iter().zip(&memory).filter(|(a, b)| a != b).count();
        assert!(here <= STEP, "{here}");
        changed += usize::from(here > 0);
    };
    assert_eq!((laid, changed >= 3), (whole, true));
    assert_eq!(memory, at_once);

    let content = vec![7; filled];
    let blocks = content.chunks(128 << 10).collect::<Vec<_>>();
    let packed = zstd_of(&blocks);
    let payload = Payload {
        packing: Packing::Zstd,
        packed: &packed,
        size: filled as u64,
    };
    let mut unpacker = Unpacker::new(&payload).unwrap();
    let mut output = vec![0; filled];
    let mut done = false;
    while !done {
        let before = output.iter().filter(|&&byte| byte == 7).count();
        done = unpacker.step(&mut output).unwrap();
        let here = output.iter().filter(|&&byte| byte == 7).count() - before;
        assert!(here <= STEP, "{here}");
    }
    assert_eq!(output, content);
}

#[test]
fn lists_in_another_order_are_refused() {
    let file = vmlinux_file();
    let end = file.len();
    let swapped = |a: usize, b: usize| {
        let mut file = file.clone();
        for i in 0..4 {
            file.swap(a + i, b + i);
        }
        let mut memory = memory(&file);
        vmlinux::lay_out(&mut memory, end as u64, LINKED_AT, SHIFT).unwrap_err()
    };
    assert!(matches!(swapped(end - 4, end - 12), UnpackError::Relocations(_)));
    assert!(matches!(swapped(end - 12, end - 20), UnpackError::Relocations(_)));
}

#[test]
fn what_does_not_fit_is_refused() {
    let file = vmlinux_file();
    let mut small = file.clone();
    let room = small.len() as u64;
    let result = vmlinux::lay_out(&mut small, room, LINKED_AT, SHIFT);
    assert_eq!(
        result,
        Err(UnpackError::Room {
            needed: SIZE as u64,
            room
        })
    );
    let high = vmlinux::KERNEL_IMAGE_SIZE - LINKED_AT;
    let result = vmlinux::lay_out(&mut memory(&file), file.len() as u64, LINKED_AT, high);
    assert!(matches!(result, Err(UnpackError::Vmlinux(_))));
}

/// Legacy lz4 of two blocks of literals.
fn lz4(content: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x02, 0x21, 0x4C, 0x18];
    for half in content.chunks(content.len().div_ceil(2).max(1)) {
        let mut block = vec![0xF0];
        let mut rest = half.len() - 15;
        while rest >= 255 {
            block.push(255);
            rest -= 255;
        }
        block.push(rest as u8);
        block.extend_from_slice(half);
        packed.extend_from_slice(&(block.len() as u32).to_le_bytes());
        packed.extend_from_slice(&block);
    }
    packed
}

/// Zstandard, without a content size, with the window its tool would say, of raw blocks.
fn zstd(content: &[u8]) -> Vec<u8> {
    zstd_of(&content.chunks(content.len().div_ceil(2).max(1)).collect::<Vec<_>>())
}

fn zstd_of(blocks: &[&[u8]]) -> Vec<u8> {
    let mut packed = vec![0x28, 0xB5, 0x2F, 0xFD, 0, 17 << 3];
    for (i, half) in blocks.iter().enumerate() {
        let last = u32::from(i + 1 == blocks.len());
        packed.extend_from_slice(&((half.len() as u32) << 3 | last).to_le_bytes()[..3]);
        packed.extend_from_slice(half);
    }
    packed
}

fn unpack(packing: Packing, packed: &[u8], size: u64, output: &mut [u8]) -> Result<(), UnpackError> {
    let payload = Payload { packing, packed, size };
    let mut unpacker = Unpacker::new(&payload)?;
    while !unpacker.step(output)? {}
    Ok(())
}

#[test]
fn both_packings_are_unpacked() {
    let content: Vec<u8> = (0..5000u32).map(|i| (i * 7 / 3) as u8).collect();
    for (packing, packed) in [(Packing::Lz4, lz4(&content)), (Packing::Zstd, zstd(&content))] {
        let mut output = vec![0; 6000];
        unpack(packing, &packed, 5000, &mut output).unwrap();
        assert_eq!(&output[..5000], &content, "{packing:?}");
        for (size, room) in [(4999, 6000), (5001, 6000), (5000, 4000)] {
            let result = unpack(packing, &packed, size, &mut vec![0; room]);
            assert!(result.is_err(), "{packing:?} {size} {room}");
        }
        let result = unpack(packing, &packed[..packed.len() - 1], 5000, &mut output);
        assert!(matches!(result, Err(UnpackError::Damaged(_))), "{packing:?} {result:?}");
    }
}

#[test]
fn only_a_window_is_allocated_beside() {
    let payload = |packing, size| Payload {
        packing,
        packed: &[],
        size,
    };
    assert_eq!(scratch_needed(&payload(Packing::Lz4, 57 << 20)), 0);
    assert_eq!(scratch_needed(&payload(Packing::Zstd, 57 << 20)), 65 << 20);
    assert_eq!(scratch_needed(&payload(Packing::Zstd, u64::MAX)), 129 << 20);
}

proptest! {
    #[test]
    fn damaged_kernels_end(flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6)) {
        let content = vmlinux_file();
        for (packing, mut packed) in [(Packing::Lz4, lz4(&content)), (Packing::Zstd, zstd(&content))] {
            for (at, value) in &flips {
                let at = at.index(packed.len());
                packed[at] = *value;
            }
            let _ = unpack(packing, &packed, content.len() as u64, &mut vec![0; 0x4000]);
        }
        let mut file = content.clone();
        for (at, value) in &flips {
            let at = at.index(file.len());
            file[at] = *value;
        }
        let _ = vmlinux::lay_out(&mut memory(&file), content.len() as u64, LINKED_AT, SHIFT);
    }
}
