//! Unpacking, a bounded step at a time: the watcher does it between two looks.

use super::payload::{Packing, Payload};
use super::{UnpackError, STEP};
use crate::bytes::{array_at, u8_at};
use alloc::boxed::Box;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::io::Read;

/// Magic of the packed formats, in bytes.
const MAGIC: usize = 4;
/// Bytes after which a Zstandard step ends; the block under way, of 128 KB at most (RFC 8878, 3.1.1.2.4), is finished.
/// What a damaged frame unpacks to beyond its window before that is noticed has room in what the decoder allocates
/// beside the window.
const ZSTD_STEP: usize = 128 << 10;
/// Magic, descriptor and window of a Zstandard frame (RFC 8878, 3.1.1.1).
const ZSTD_HEADER: usize = 6;
/// The smallest window a descriptor can say, in bits (RFC 8878, 3.1.1.1.2).
const ZSTD_MIN_WINDOW_BITS: u32 = 10;
/// The largest kernel that is unpacked: 2 to this power bytes.
const ZSTD_MAX_WINDOW_BITS: u32 = 27;

/// Bytes of memory beyond the unpacked kernel itself that unpacking needs in one piece; 0 for none.
pub fn scratch_needed(payload: &Payload) -> u64 {
    match payload.packing {
        Packing::Lz4 => 0,
        // The decoder keeps a window, and two blocks beside it.
        Packing::Zstd => (1u64 << window_bits(payload.size)).saturating_add(1 << 20),
    }
}

/// The window that holds everything: no match in a frame reaches further back than its beginning.
fn window_bits(size: u64) -> u32 {
    size.min(1 << ZSTD_MAX_WINDOW_BITS)
        .next_power_of_two()
        .trailing_zeros()
        .clamp(ZSTD_MIN_WINDOW_BITS, ZSTD_MAX_WINDOW_BITS)
}

enum Source<'a> {
    /// Blocks that are left.
    Lz4(&'a [u8]),
    /// The decoder, and what it has not read.
    Zstd(Box<FrameDecoder>, &'a [u8]),
}

/// Unpacking under way.
pub struct Unpacker<'a> {
    source: Source<'a>,
    size: u64,
    written: usize,
}

impl<'a> Unpacker<'a> {
    /// Begins. A Zstandard kernel allocates [`scratch_needed`] here, in one piece.
    ///
    /// # Errors
    /// [`UnpackError::Damaged`].
    pub fn new(payload: &Payload<'a>) -> Result<Self, UnpackError> {
        let source = match payload.packing {
            Packing::Lz4 => Source::Lz4(payload.packed.get(MAGIC..).unwrap_or_default()),
            Packing::Zstd => zstd(payload)?,
        };
        Ok(Self {
            source,
            size: payload.size,
            written: 0,
        })
    }

    /// Bytes the kernel unpacks to.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Unpacks some more into `output`, which is the same at every step. Returns whether that was the last.
    ///
    /// # Errors
    /// [`UnpackError::Damaged`], [`UnpackError::Room`].
    pub fn step(&mut self, output: &mut [u8]) -> Result<bool, UnpackError> {
        let room = output.len() as u64;
        if self.size > room {
            return Err(UnpackError::Room {
                needed: self.size,
                room,
            });
        }
        let output = output
            .get_mut(self.written..self.size as usize)
            .ok_or(UnpackError::Damaged("longer than it says"))?;
        let (written, done) = match &mut self.source {
            Source::Lz4(rest) => lz4_block(rest, output)?,
            Source::Zstd(decoder, rest) => zstd_step(decoder, rest, output)?,
        };
        self.written = self.written.saturating_add(written);
        if done && self.written as u64 != self.size {
            return Err(UnpackError::Damaged("shorter than it says"));
        }
        Ok(done)
    }
}

/// One block: its packed size, then its bytes.
fn lz4_block(rest: &mut &[u8], output: &mut [u8]) -> Result<(usize, bool), UnpackError> {
    let cut = UnpackError::Damaged("cut off");
    let length = u32::from_le_bytes(array_at(rest, 0).ok_or(cut)?) as usize;
    let body = rest.get(4..).ok_or(cut)?;
    let (block, left) = body.split_at_checked(length).ok_or(cut)?;
    let written =
        lz4_flex::block::decompress_into(block, output).map_err(|_| UnpackError::Damaged("a block of lz4"))?;
    *rest = left;
    Ok((written, left.is_empty()))
}

fn zstd<'a>(payload: &Payload<'a>) -> Result<Source<'a>, UnpackError> {
    let damaged = UnpackError::Damaged("the frame header");
    let mut header: [u8; ZSTD_HEADER] = array_at(payload.packed, 0).ok_or(damaged)?;
    // Neither single segment, nor content size, nor dictionary: what a pipe into the zstd tool makes.
    let plain = u8_at(&header, 4).is_some_and(|descriptor| descriptor & 0b1110_0011 == 0);
    if !plain {
        return Err(UnpackError::Damaged("a frame header of another kind"));
    }
    // The tool says 128 MB; so much is not needed.
    if let Some(window) = header.last_mut() {
        *window = (window_bits(payload.size).saturating_sub(ZSTD_MIN_WINDOW_BITS) << 3) as u8;
    }
    let rest = payload.packed.get(ZSTD_HEADER..).ok_or(damaged)?;
    let mut decoder = Box::new(FrameDecoder::new());
    decoder.set_max_window_size(1 << ZSTD_MAX_WINDOW_BITS);
    // Twice: the first makes the buffers, the second has them hold a whole window, so that they never grow by copying.
    for _ in 0..2 {
        decoder.init(header.as_slice()).map_err(|_| damaged)?;
    }
    Ok(Source::Zstd(decoder, rest))
}

fn zstd_step(decoder: &mut FrameDecoder, rest: &mut &[u8], output: &mut [u8]) -> Result<(usize, bool), UnpackError> {
    let damaged = UnpackError::Damaged("a block of Zstandard");
    let longer = UnpackError::Damaged("longer than it says");
    if decoder.is_finished() {
        return zstd_collect(decoder, output);
    }
    let done = decoder
        .decode_blocks(&mut *rest, BlockDecodingStrategy::UptoBytes(ZSTD_STEP))
        .map_err(|_| damaged)?;
    // The window holds everything, so that it comes out at the end only.
    if decoder.can_collect() > if done { output.len() } else { 0 } {
        return Err(longer);
    }
    if done {
        return zstd_collect(decoder, output);
    }
    Ok((0, false))
}

/// Takes some of what a finished frame has unpacked to.
fn zstd_collect(decoder: &mut FrameDecoder, output: &mut [u8]) -> Result<(usize, bool), UnpackError> {
    let damaged = UnpackError::Damaged("a block of Zstandard");
    let room = output.len().min(STEP);
    let taken = decoder
        .read(output.get_mut(..room).unwrap_or_default())
        .map_err(|_| damaged)?;
    let left = decoder.can_collect();
    if taken == 0 && left > 0 {
        return Err(damaged);
    }
    Ok((taken, left == 0))
}
