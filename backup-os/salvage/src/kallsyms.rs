//! kallsyms: the kernel's own table of symbols (`kernel/kallsyms.c`, `scripts/kallsyms.c`).
//!
//! Names are sequences of tokens of one byte each; addresses are 32-bit numbers, counted down from a base unless they
//! are absolute (`CONFIG_KALLSYMS_ABSOLUTE_PERCPU`). The tables stand in different orders in different kernels (offsets
//! before the names in 6.1, after the tokens in 6.12); each is found by its own address in VMCOREINFO. Names and numbers
//! are copied while the kernel is healthy.

use crate::addr::Kva;
use crate::error::{ReadError, Reason, WalkError};
use crate::kernel_memory::KernelMemory;
use crate::memory::PhysMem;
use crate::vmcoreinfo::VmCoreInfo;
use alloc::string::String;
use alloc::vec::Vec;
use hashbrown::HashMap;

/// Symbols between two notes of where their names start.
const MARK_EVERY: usize = 64;
/// More symbols than any kernel has (a debug build of everything has under a million).
const MAX_SYMBOLS: u32 = 4 << 20;
/// Longest name with its type letter (`KSYM_NAME_LEN` is 512).
const MAX_NAME: usize = 1024;
/// More than the bytes of all names of `MAX_SYMBOLS` symbols of a kernel take on average.
const MAX_NAME_BYTES: u64 = 64 << 20;

/// The table, copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kallsyms {
    /// As stored: for each symbol, ascending by address.
    offsets: Vec<i32>,
    relative_base: u64,
    /// For each symbol a length (one byte, two if the first has bit 7) and that many token numbers.
    names: Vec<u8>,
    /// Offset in `names` of every [`MARK_EVERY`]-th symbol.
    marks: Vec<u32>,
    /// Where each token starts in `tokens`, and after the last one its end.
    token_bounds: Vec<(u16, u16)>,
    tokens: Vec<u8>,
}

/// An address, and the symbol it lies behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbolized {
    /// Name of the symbol.
    pub name: String,
    /// Bytes from the symbol to the address.
    pub offset: u64,
}

/// Where the tables lie in kernel memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KallsymsTables {
    /// `kallsyms_num_syms`, a u32.
    pub num_syms: Kva,
    /// `kallsyms_names`.
    pub names: Kva,
    /// `kallsyms_token_table`.
    pub token_table: Kva,
    /// `kallsyms_token_index`, 256 u16.
    pub token_index: Kva,
    /// `kallsyms_offsets`, i32 each.
    pub offsets: Kva,
    /// `kallsyms_relative_base`, a u64.
    pub relative_base: Kva,
}

impl KallsymsTables {
    /// Takes the addresses from VMCOREINFO.
    ///
    /// # Errors
    /// The name of the first one that is missing.
    pub fn from_vmcoreinfo(info: &VmCoreInfo) -> Result<Self, &'static str> {
        let symbol = |name: &'static str| info.symbol(name).ok_or(name);
        Ok(Self {
            num_syms: symbol("kallsyms_num_syms")?,
            names: symbol("kallsyms_names")?,
            token_table: symbol("kallsyms_token_table")?,
            token_index: symbol("kallsyms_token_index")?,
            offsets: symbol("kallsyms_offsets")?,
            relative_base: symbol("kallsyms_relative_base")?,
        })
    }
}

impl Kallsyms {
    /// Copies and checks the tables.
    ///
    /// # Errors
    /// A table cannot be read or is not what it has to be.
    pub fn read<M: PhysMem + ?Sized>(memory: &KernelMemory<'_, M>, at: &KallsymsTables) -> Result<Self, WalkError> {
        let bad = |address, reason| WalkError::new("kallsyms", address, reason);
        let about = |error: ReadError| bad(error.address, error.reason);

        let count = memory.u32(at.num_syms).map_err(about)?;
        if count == 0 || count > MAX_SYMBOLS {
            return Err(bad(
                at.num_syms,
                Reason::BadValue("number of symbols", u64::from(count)),
            ));
        }
        let relative_base = memory.u64(at.relative_base).map_err(about)?;
        let raw = memory
            .bytes(at.offsets, (count as usize).saturating_mul(4))
            .map_err(about)?;
        let offsets = raw
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| i32::from_le_bytes(*word))
            .collect();

        // The token table stands behind the names in every order; what lies between the end of the names and it is cut
        // off below.
        let length = at
            .token_table
            .0
            .checked_sub(at.names.0)
            .filter(|&length| length <= MAX_NAME_BYTES);
        let length = length.ok_or(bad(at.names, Reason::BadValue("token table address", at.token_table.0)))?;
        let names = memory.bytes(at.names, length as usize).map_err(about)?;

        let index = memory.array::<512>(at.token_index).map_err(about)?;
        let starts: Vec<u16> = index
            .as_chunks::<2>()
            .0
            .iter()
            .map(|word| u16::from_le_bytes(*word))
            .collect();
        let last = usize::from(starts.last().copied().unwrap_or(0));
        let tokens = memory
            .bytes(at.token_table, last.saturating_add(MAX_NAME))
            .map_err(about)?;

        Self::build(offsets, relative_base, names, &starts, tokens).map_err(|reason| bad(at.names, reason))
    }

    /// Checks tables that have been read. `names` may go on behind the last name, `tokens` behind the last token.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn build(
        offsets: Vec<i32>,
        relative_base: u64,
        mut names: Vec<u8>,
        token_starts: &[u16],
        tokens: Vec<u8>,
    ) -> Result<Self, Reason> {
        let mut token_bounds = Vec::with_capacity(token_starts.len());
        for &start in token_starts {
            let tail = tokens.get(usize::from(start)..).unwrap_or(&[]);
            let len = tail
                .iter()
                .position(|&byte| byte == 0)
                .ok_or(Reason::BadNode("token without end"))?;
            let end = u16::try_from(len).ok().and_then(|len| start.checked_add(len));
            token_bounds.push((start, end.ok_or(Reason::BadNode("token table too long"))?));
        }

        let mut marks = Vec::with_capacity(offsets.len().div_ceil(MARK_EVERY));
        let mut at = 0usize;
        for number in 0..offsets.len() {
            if number.is_multiple_of(MARK_EVERY) {
                marks.push(u32::try_from(at).map_err(|_| Reason::TooLarge(at as u64))?);
            }
            let (_, next) = name_tokens(&names, at).ok_or(Reason::BadNode("name behind the end of the names"))?;
            at = next;
        }
        names.truncate(at);
        Ok(Self {
            offsets,
            relative_base,
            names,
            marks,
            token_bounds,
            tokens,
        })
    }

    /// Number of symbols.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there are no symbols.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Address of a symbol by its number (`kallsyms_sym_address`).
    fn address(&self, offset: i32) -> Kva {
        if offset >= 0 {
            // Absolute: a per-CPU offset.
            Kva(offset as u64)
        } else {
            Kva(self
                .relative_base
                .wrapping_sub(1)
                .wrapping_sub(i64::from(offset) as u64))
        }
    }

    /// Writes type letter and name from token numbers into `out`, at most [`MAX_NAME`] bytes.
    fn expand(&self, tokens: &[u8], out: &mut Vec<u8>) {
        out.clear();
        for &token in tokens {
            let Some(&(start, end)) = self.token_bounds.get(usize::from(token)) else {
                continue;
            };
            let text = self.tokens.get(usize::from(start)..usize::from(end)).unwrap_or(&[]);
            if out.len().saturating_add(text.len()) > MAX_NAME {
                return;
            }
            out.extend_from_slice(text);
        }
    }

    /// Shows name and address of every symbol with such an end to `visit`, ascending by address.
    fn for_each(&self, ends: &Ends, mut visit: impl FnMut(&[u8], Kva)) {
        let mut at = 0;
        let mut text = Vec::with_capacity(MAX_NAME);
        for &offset in &self.offsets {
            let Some((tokens, next)) = name_tokens(&self.names, at) else {
                return;
            };
            at = next;
            if !self.end(tokens).is_some_and(|(length, last)| ends.holds(length, last)) {
                continue;
            }
            self.expand(tokens, &mut text);
            if let Some((_, name)) = text.split_first() {
                visit(name, self.address(offset));
            }
        }
    }

    /// Length and last byte of a name, type letter not counted.
    fn end(&self, tokens: &[u8]) -> Option<(usize, u8)> {
        let bounds = |&token: &u8| self.token_bounds.get(usize::from(token));
        let length = |&(start, end): &(u16, u16)| usize::from(end).saturating_sub(usize::from(start));
        let whole: usize = tokens.iter().filter_map(bounds).map(length).sum();
        let (_, end) = bounds(tokens.last()?)?;
        let last = self.tokens.get(usize::from(*end).checked_sub(1)?)?;
        Some((whole.checked_sub(1)?, *last))
    }

    /// Looks up several names in one pass. Of symbols of the same name the one with the lowest address counts.
    pub fn lookup_all(&self, names: &[&str]) -> Vec<Option<Kva>> {
        let mut wanted: HashMap<&[u8], Vec<usize>> = HashMap::with_capacity(names.len());
        for (place, name) in names.iter().enumerate() {
            wanted.entry(name.as_bytes()).or_default().push(place);
        }
        let mut found = alloc::vec![None; names.len()];
        self.for_each(&Ends::of(names), |name, address| {
            for &place in wanted.get(name).into_iter().flatten() {
                if let Some(slot) = found.get_mut(place) {
                    slot.get_or_insert(address);
                }
            }
        });
        found
    }

    /// Every address a name has: static symbols of different files can share one.
    pub fn lookup_each(&self, wanted: &str) -> Vec<Kva> {
        let mut found = Vec::new();
        self.for_each(&Ends::of(&[wanted]), |name, address| {
            if name == wanted.as_bytes() {
                found.push(address);
            }
        });
        found
    }

    /// Looks up one name; see [`Kallsyms::lookup_all`].
    pub fn lookup(&self, name: &str) -> Option<Kva> {
        self.lookup_all(&[name]).first().copied().flatten()
    }

    /// The symbol an address lies at or behind; of several at one address the first. Takes a binary search and the
    /// expansion of at most 64 names. `None` for addresses below the kernel image.
    pub fn symbolize(&self, address: Kva) -> Option<Symbolized> {
        let after = self.offsets.partition_point(|&offset| self.address(offset) <= address);
        let start = self.address(*self.offsets.get(after.checked_sub(1)?)?);
        let number = self.offsets.partition_point(|&offset| self.address(offset) < start);
        let name = self.name(number)?;
        let offset = address.0.checked_sub(start.0)?;
        // Absolute symbols are offsets into per-CPU areas, not addresses.
        (*self.offsets.get(number)? < 0).then_some(Symbolized { name, offset })
    }

    /// Name of the symbol that starts exactly at an address, such as a table of functions.
    pub fn name_at(&self, address: Kva) -> Option<String> {
        self.symbolize(address)
            .filter(|found| found.offset == 0)
            .map(|found| found.name)
    }

    /// Name of a symbol by its number.
    fn name(&self, number: usize) -> Option<String> {
        let mut at = *self.marks.get(number.checked_div(MARK_EVERY)?)? as usize;
        for _ in 0..number.checked_rem(MARK_EVERY)? {
            at = name_tokens(&self.names, at)?.1;
        }
        let mut text = Vec::new();
        self.expand(name_tokens(&self.names, at)?.0, &mut text);
        Some(String::from_utf8_lossy(text.get(1..)?).into_owned())
    }
}

/// How names end that are looked for. Nearly all of a kernel's names end otherwise, and need not be put together to be
/// compared.
struct Ends([u64; 64]);

impl Ends {
    fn of(names: &[&str]) -> Self {
        let mut ends = Self([0; 64]);
        names.iter().for_each(|name| ends.add(name.as_bytes()));
        ends
    }

    fn add(&mut self, name: &[u8]) {
        let Some(last) = name.last() else { return };
        if let Some(lasts) = self.0.get_mut(name.len() % 64) {
            *lasts |= 1 << (last % 64);
        }
    }

    fn holds(&self, length: usize, last: u8) -> bool {
        self.0
            .get(length % 64)
            .is_some_and(|lasts| lasts & 1 << (last % 64) != 0)
    }
}

/// Token numbers of the name at an offset, and the offset of the next name.
fn name_tokens(names: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let low = *names.get(at)?;
    // "Big" symbols, Linux 6.1, 73bbb94466fd.
    let (length, start) = if low & 0x80 == 0 {
        (usize::from(low), at.checked_add(1)?)
    } else {
        (
            usize::from(low & 0x7F) | usize::from(*names.get(at.checked_add(1)?)?) << 7,
            at.checked_add(2)?,
        )
    };
    let end = start.checked_add(length)?;
    Some((names.get(start..end)?, end))
}
