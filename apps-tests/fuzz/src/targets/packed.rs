//! Packed images of sleeping kernels: what is packed comes back, and nothing else is taken for it.

use failover::fingerprint::{Chunk, CHUNK, PAGE};
use failover::packed::{PackError, Packer, Unpacker};

/// The first byte says how long the memory is; the rest is what it holds, and what is unpacked into it.
pub fn packed(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let length = (usize::from(first) % 16 + 1) * PAGE;
    let mut memory = rest.to_vec();
    memory.resize(length, 0);
    let chunk = Chunk::of(&memory);
    let mut room = vec![0; 2 * CHUNK];
    let used = Packer::default()
        .pack(&chunk, &memory, &mut room)
        .expect("there is room");
    assert!(used <= chunk.pages() * PAGE);

    let mut unpacker = Unpacker::default();
    let mut found = vec![0xA5; length];
    assert_eq!(
        unpacker.unpack(&chunk, rest, &mut found.clone()),
        unpacker.unpack(&chunk, rest, &mut found)
    );
    if found.iter().any(|&byte| byte != 0xA5) {
        assert_eq!(found, memory, "something else was taken for what was packed");
    }
    let mut found = vec![0xA5; length];
    unpacker
        .unpack(&chunk, &room[..used], &mut found)
        .expect("what was packed");
    assert_eq!(found, memory);

    // Whatever is packed here, it is not a chunk of text.
    let text = Chunk::of(&b"some text "[..].repeat(length / 10 + 1)[..length]);
    if !text.matches(&memory) && unpacker.unpack(&text, rest, &mut found).is_ok() {
        assert!(text.matches(&found));
    }
    assert!(matches!(
        unpacker.unpack(&chunk, &room[..used], &mut found[PAGE..]),
        Ok(_) | Err(PackError::Damaged)
    ));
}
