//! Functions of a vDSO image: its dynamic symbol table (System V gABI chapters 4 and 5, 64-bit little-endian).
//!
//! The image may be an old kernel's and is read with bounds on everything.

use std::collections::BTreeMap;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_GNU_HASH: u64 = 0x6FFF_FEF5;
const STT_FUNC: u8 = 2;
/// `Elf64_Sym` is this long.
const SYMBOL_SIZE: usize = 24;
/// A vDSO has a dozen symbols.
const MOST_SYMBOLS: usize = 256;

/// A function in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Bytes from the start of the image.
    pub offset: u64,
    /// Bytes of code.
    pub size: u64,
}

fn bytes<const N: usize>(image: &[u8], at: u64) -> Option<[u8; N]> {
    let at = usize::try_from(at).ok()?;
    image.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(image: &[u8], at: u64) -> Option<u16> {
    bytes(image, at).map(u16::from_le_bytes)
}

fn u32_at(image: &[u8], at: u64) -> Option<u32> {
    bytes(image, at).map(u32::from_le_bytes)
}

fn u64_at(image: &[u8], at: u64) -> Option<u64> {
    bytes(image, at).map(u64::from_le_bytes)
}

/// The exported functions by name; `None` if the image is not an ELF of the expected form.
pub fn functions(image: &[u8]) -> Option<BTreeMap<String, Function>> {
    if image.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let headers = u64_at(image, 32)?;
    let (size, count) = (u16_at(image, 54)?, u16_at(image, 56)?);
    let (mut load, mut dynamic) = (None, None);
    for index in 0..u64::from(count) {
        let header = headers.checked_add(index * u64::from(size))?;
        match u32_at(image, header)? {
            // p_vaddr - p_offset: what addresses in the tables are ahead of the image.
            PT_LOAD => load = Some(u64_at(image, header + 16)?.wrapping_sub(u64_at(image, header + 8)?)),
            PT_DYNAMIC => dynamic = Some((u64_at(image, header + 8)?, u64_at(image, header + 32)?)),
            _ => {}
        }
    }
    let bias = load?;
    let (dynamic, length) = dynamic?;
    let mut tables = BTreeMap::new();
    for entry in 0..(length / 16).min(MOST_SYMBOLS as u64) {
        let at = dynamic.checked_add(entry * 16)?;
        tables.insert(u64_at(image, at)?, u64_at(image, at + 8)?.wrapping_sub(bias));
    }
    let (strings, symbols) = (*tables.get(&DT_STRTAB)?, *tables.get(&DT_SYMTAB)?);
    let count = match tables.get(&DT_HASH) {
        Some(&hash) => u32_at(image, hash.checked_add(4)?)? as usize,
        // The string table follows the symbols in every vDSO that has a GNU hash table only.
        None if tables.contains_key(&DT_GNU_HASH) => usize::try_from(strings.checked_sub(symbols)?).ok()? / SYMBOL_SIZE,
        None => return None,
    };
    let mut found = BTreeMap::new();
    for index in 0..count.min(MOST_SYMBOLS) {
        let at = symbols.checked_add((index * SYMBOL_SIZE) as u64)?;
        let [info] = bytes(image, at + 4)?;
        let section = u16_at(image, at + 6)?;
        if info & 0xF != STT_FUNC || section == 0 {
            continue;
        }
        let function = Function {
            offset: u64_at(image, at + 8)?.wrapping_sub(bias),
            size: u64_at(image, at + 16)?,
        };
        found.insert(name(image, strings.checked_add(u32_at(image, at)?.into())?)?, function);
    }
    Some(found)
}

fn name(image: &[u8], at: u64) -> Option<String> {
    let text = image.get(usize::try_from(at).ok()?..)?;
    let end = text.iter().position(|&byte| byte == 0)?;
    String::from_utf8(text[..end].to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::vdso::Vdso;

    #[test]
    fn this_kernels_clock_function_is_found() {
        let image = Vdso::of_this_kernel().unwrap().image;
        let functions = functions(&image).unwrap();
        let clock = functions["__vdso_clock_gettime"];
        assert!(clock.size >= 12 && clock.offset < image.len() as u64);
    }

    #[test]
    fn torn_images_have_no_functions() {
        let image = Vdso::of_this_kernel().unwrap().image;
        for cut in (0..image.len()).step_by(97) {
            let _ = functions(&image[..cut]);
        }
        assert_eq!(functions(b"\x7fELF"), None);
    }

    #[test]
    fn altered_images_do_no_harm() {
        let image = Vdso::of_this_kernel().unwrap().image;
        for at in 0..2048 {
            let mut altered = image.clone();
            altered[at] = altered[at].wrapping_add(0x7F);
            let _ = functions(&altered);
        }
    }
}
