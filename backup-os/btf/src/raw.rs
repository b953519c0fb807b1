//! Reading integers and names out of the blob. Everything is little-endian, as x86_64 kernels write it.

/// The 32-bit word at byte `offset`.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*word))
}

/// The bytes from `offset` up to the next NUL, without it. `None` if there is no NUL.
pub(crate) fn name_at(strings: &[u8], offset: u32) -> Option<&[u8]> {
    let tail = strings.get(offset as usize..)?;
    tail.get(..tail.iter().position(|&byte| byte == 0)?)
}

/// Splits a section into records of `N` 32-bit words.
pub(crate) fn words<const N: usize>(bytes: &[u8]) -> impl ExactSizeIterator<Item = [u32; N]> + Clone + '_ {
    let size = const { 4 * N };
    bytes.chunks_exact(size).map(|record| {
        let mut out = [0; N];
        for (word, chunk) in out.iter_mut().zip(record.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*chunk);
        }
        out
    })
}
