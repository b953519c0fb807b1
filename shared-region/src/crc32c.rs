//! CRC-32C as file systems of Linux use it.

/// Without the inversions at both ends: any state can be gone on from.
static CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::Algorithm {
    width: 32,
    poly: 0x1EDC_6F41,
    init: 0,
    refin: true,
    refout: true,
    xorout: 0,
    check: 0,
    residue: 0,
});

/// `crc32c()` of the kernel.
pub fn crc32c(state: u32, bytes: &[u8]) -> u32 {
    let mut digest = CRC.digest_with_initial(state.reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    #[test]
    fn it_is_that_of_the_kernel() {
        // RFC 3720, B.4: 32 bytes of zeros, with the inversions that the kernel leaves out.
        assert_eq!(!crc32c(!0, &[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(crc32c(5, b"ab"), b"cd"), crc32c(5, b"abcd"));
    }
}
