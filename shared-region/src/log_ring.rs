//! The log of the backup OS: bytes of UTF-8 text, the oldest overwritten first.
//!
//! Writer: the backup OS alone. `written` grows for ever; the byte number `n` is at `n % capacity`. Reader: anybody,
//! by copying and then looking at `written` again (what moved past the copy's start meanwhile is dropped).

use core::sync::atomic::AtomicU64;

/// Bytes before the text.
pub const HEADER_SIZE: usize = 64;

/// Head of a ring; the text follows [`HEADER_SIZE`] bytes after its start.
#[derive(Debug)]
#[repr(C)]
pub struct LogRing {
    /// Bytes ever written. Release.
    pub written: AtomicU64,
    /// Bytes the text area holds.
    pub capacity: AtomicU64,
    /// Zero.
    pub reserved: [AtomicU64; 6],
}

const _: () = assert!(core::mem::size_of::<LogRing>() == HEADER_SIZE);

/// Puts the text of a ring copied from memory into reading order.
///
/// `text` is the text area, `written` the word read before it was copied.
pub fn unroll(text: &[u8], written: u64) -> alloc::vec::Vec<u8> {
    let capacity = text.len();
    let Ok(written_len) = usize::try_from(written) else {
        return text.to_vec();
    };
    if written_len <= capacity {
        return text[..written_len].to_vec();
    }
    let start = (written % capacity.max(1) as u64) as usize;
    let mut out = alloc::vec::Vec::with_capacity(capacity);
    out.extend_from_slice(&text[start..]);
    out.extend_from_slice(&text[..start]);
    out
}

#[cfg(test)]
mod tests {
    use super::unroll;

    #[test]
    fn short_text_is_returned_as_written() {
        assert_eq!(unroll(b"abc\0\0", 3), b"abc");
    }

    #[test]
    fn overwritten_text_starts_with_the_oldest_byte() {
        assert_eq!(unroll(b"67345", 7), b"34567");
    }

    #[test]
    fn an_empty_area_is_empty() {
        assert_eq!(unroll(b"", 9), b"");
    }
}
