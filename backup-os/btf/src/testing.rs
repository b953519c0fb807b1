//! Builds small blobs for the tests of this crate.

use alloc::vec;
use alloc::vec::Vec;

/// A blob under construction. Types are numbered in the order they are added, from 1 on.
pub struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    string_base: u32,
    next: u32,
}

impl Builder {
    pub fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            string_base: 0,
            next: 1,
        }
    }

    /// Continues another blob with so many types and bytes of strings.
    pub fn split(types: u32, strings: u32) -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            string_base: strings,
            next: types + 1,
        }
    }

    pub fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32 + self.string_base;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    pub fn strings_len(&self) -> u32 {
        self.strings.len() as u32
    }

    pub fn add(&mut self, name: &str, kind: u32, vlen: u32, flag: bool, size: u32, body: &[u32]) -> u32 {
        let name = self.string(name);
        for word in [name, kind << 24 | vlen | u32::from(flag) << 31, size]
            .iter()
            .chain(body)
        {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        self.next += 1;
        self.next - 1
    }

    pub fn int(&mut self, name: &str, size: u32, signed: bool) -> u32 {
        self.add(name, 1, 0, false, size, &[(u32::from(signed) << 24) | (size * 8)])
    }

    /// A structure or union (`kind` 4 or 5) of members `(name, type, offset word)`.
    pub fn aggregate(
        &mut self,
        kind: u32,
        name: &str,
        size: u32,
        bit_fields: bool,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let mut body = Vec::new();
        for (name, id, offset) in members {
            body.extend([self.string(name), *id, *offset]);
        }
        self.add(name, kind, members.len() as u32, bit_fields, size, &body)
    }

    pub fn finish(&self) -> Vec<u8> {
        let types = self.types.len() as u32;
        let mut blob = Vec::new();
        for word in [0x1_EB9F, 24, 0, types, types, self.strings.len() as u32] {
            blob.extend_from_slice(&word.to_le_bytes());
        }
        blob.extend_from_slice(&self.types);
        blob.extend_from_slice(&self.strings);
        blob
    }
}
