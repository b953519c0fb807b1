//! Types by number and by name.

use crate::raw::{name_at, u32_at};
use crate::types::{Enumerator, HEAD};
use crate::{BtfError, Kind, Type, TypeId};
use alloc::string::ToString;
use alloc::vec::Vec;
use hashbrown::HashTable;

/// `BTF_MAGIC`.
const MAGIC: u32 = 0xEB9F;
/// The smallest header: `struct btf_header` up to `str_len`.
const MIN_HEADER: usize = 24;

/// A parsed blob. Holds the offset of every type and hash tables of the named ones and of enumeration constants; names and
/// records stay where they are.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Offset in `types` of each own record.
    offsets: Vec<u32>,
    /// Numbers of the named own types, by kind and name. Of several types of one kind and name it holds the first.
    names: HashTable<u32>,
    /// Constants of all own enumerations. Of several of one name it holds the first.
    constants: HashTable<Enumerator>,
    /// What a module's BTF continues: its numbers and string offsets start where this one ends.
    base: Option<&'a Btf<'a>>,
}

impl<'a> Btf<'a> {
    /// Indexes the BTF of a kernel.
    ///
    /// # Errors
    /// The header, a section or a type record is not what it has to be.
    pub fn parse(blob: &'a [u8]) -> Result<Self, BtfError> {
        Self::build(blob, None)
    }

    /// Indexes the BTF of a module, which continues that of its kernel (split BTF, Linux 5.11, 951bb64621b8).
    ///
    /// # Errors
    /// As for [`Btf::parse`].
    pub fn parse_split(blob: &'a [u8], base: &'a Btf<'a>) -> Result<Self, BtfError> {
        Self::build(blob, Some(base))
    }

    fn build(blob: &'a [u8], base: Option<&'a Btf<'a>>) -> Result<Self, BtfError> {
        let word = |offset| u32_at(blob, offset).ok_or(BtfError::Header("cut off"));
        let first = word(0)?;
        if first & 0xFFFF != MAGIC {
            return Err(BtfError::Header("magic number is not 0xEB9F"));
        }
        let version = (first >> 16) as u8;
        if version != 1 {
            return Err(BtfError::Version(version));
        }
        let header = word(4)? as usize;
        if header < MIN_HEADER {
            return Err(BtfError::Header("header length is too small"));
        }
        let section = |offset: usize, length: usize, name| {
            let start = header.checked_add(offset).ok_or(BtfError::Section(name))?;
            blob.get(start..)
                .and_then(|tail| tail.get(..length))
                .ok_or(BtfError::Section(name))
        };
        let types = section(word(8)? as usize, word(12)? as usize, "type")?;
        let strings = section(word(16)? as usize, word(20)? as usize, "string")?;

        let mut btf = Self {
            types,
            strings,
            offsets: Vec::new(),
            names: HashTable::new(),
            constants: HashTable::new(),
            base,
        };
        btf.index_types()?;
        Ok(btf)
    }

    /// Notes where every record starts, then puts the named ones into the hash table.
    fn index_types(&mut self) -> Result<(), BtfError> {
        // 20 bytes is a little less than the average record of a kernel.
        self.offsets.reserve(self.types.len().checked_div(20).unwrap_or(0));
        let first = self.first_own();
        let mut offset = 0usize;
        let mut named = 0usize;
        while offset < self.types.len() {
            let id = u32::try_from(self.offsets.len())
                .ok()
                .and_then(|n| n.checked_add(first))
                .map(TypeId)
                .ok_or(BtfError::TooManyTypes)?;
            let truncated = BtfError::Truncated(id);
            let name = u32_at(self.types, offset).ok_or(truncated.clone())?;
            let info = u32_at(self.types, offset.saturating_add(4)).ok_or(truncated.clone())?;
            let (raw, vlen, _) = Type::split_info(info);
            let kind = Kind::from_raw(raw)
                .filter(|&k| k != Kind::Void)
                .ok_or(BtfError::UnknownKind { id, kind: raw })?;
            let next = offset.saturating_add(HEAD).saturating_add(kind.body_size(vlen));
            if next > self.types.len() {
                return Err(truncated);
            }
            self.offsets
                .push(u32::try_from(offset).map_err(|_| BtfError::TooManyTypes)?);
            named = named.saturating_add(usize::from(name != 0));
            offset = next;
        }

        let mut names = HashTable::with_capacity(named);
        for (number, &offset) in (first..).zip(&self.offsets) {
            let Some((kind, name)) = self.kind_and_name(offset as usize) else {
                continue;
            };
            if name.is_empty() {
                continue;
            }
            let entry = names.entry(
                hash(kind, name),
                |&other| self.same_name(other, kind, name),
                |&other| self.own_hash(other),
            );
            entry.or_insert(number);
        }
        self.names = names;
        self.index_constants();
        Ok(())
    }

    fn index_constants(&mut self) {
        let enumerations = || {
            self.own_types()
                .filter(|(_, ty)| matches!(ty.kind, Kind::Enum | Kind::Enum64))
        };
        let count = enumerations().map(|(_, ty)| ty.enumerators().count()).sum();
        let mut constants = HashTable::with_capacity(count);
        for constant in enumerations().flat_map(|(_, ty)| ty.enumerators()) {
            let name_of = |constant: &Enumerator| self.string_bytes(constant.name).unwrap_or_default();
            let name = name_of(&constant);
            let entry = constants.entry(
                hash(Kind::Enum, name),
                |other| name_of(other) == name,
                |other| hash(Kind::Enum, name_of(other)),
            );
            entry.or_insert(constant);
        }
        self.constants = constants;
    }

    /// The value of a constant of any `ENUM` or `ENUM64`. Of constants of the same name the first counts, and this blob's
    /// own before those of its base.
    pub fn enum_constant(&self, name: &str) -> Option<i64> {
        let bytes = name.as_bytes();
        let is_wanted = |constant: &Enumerator| self.string_bytes(constant.name) == Some(bytes);
        match self.constants.find(hash(Kind::Enum, bytes), is_wanted) {
            Some(constant) => Some(constant.value),
            None => self.base?.enum_constant(name),
        }
    }

    /// Number of the first type of this blob itself.
    fn first_own(&self) -> u32 {
        self.base.map_or(1, Btf::end)
    }

    /// The number after the last type.
    pub fn end(&self) -> u32 {
        self.first_own()
            .saturating_add(u32::try_from(self.offsets.len()).unwrap_or(u32::MAX))
    }

    /// How many bytes of strings come before this blob's own.
    fn base_strings(&self) -> u32 {
        self.base.map_or(0, |base| {
            base.base_strings()
                .saturating_add(u32::try_from(base.strings.len()).unwrap_or(u32::MAX))
        })
    }

    /// Bytes of the name at a string offset, wherever it lies.
    pub(crate) fn string_bytes(&self, offset: u32) -> Option<&'a [u8]> {
        match offset.checked_sub(self.base_strings()) {
            Some(own) => name_at(self.strings, own),
            None => self.base?.string_bytes(offset),
        }
    }

    /// The string at an offset of [`Type::name`] and its like.
    ///
    /// # Errors
    /// [`BtfError::Name`] if there is no string there.
    pub fn string(&self, offset: u32) -> Result<&'a str, BtfError> {
        let bytes = self.string_bytes(offset).ok_or(BtfError::Name(offset))?;
        core::str::from_utf8(bytes).map_err(|_| BtfError::Name(offset))
    }

    /// Kind and name of the own record at an offset.
    fn kind_and_name(&self, offset: usize) -> Option<(Kind, &'a [u8])> {
        let (kind, ..) = Type::split_info(u32_at(self.types, offset.checked_add(4)?)?);
        let name = u32_at(self.types, offset)?;
        Some((
            Kind::from_raw(kind)?,
            if name == 0 { &[] } else { self.string_bytes(name)? },
        ))
    }

    fn own_kind_and_name(&self, number: u32) -> Option<(Kind, &'a [u8])> {
        let index = number.checked_sub(self.first_own())?;
        self.kind_and_name(*self.offsets.get(index as usize)? as usize)
    }

    fn same_name(&self, number: u32, kind: Kind, name: &[u8]) -> bool {
        self.own_kind_and_name(number) == Some((kind, name))
    }

    fn own_hash(&self, number: u32) -> u64 {
        self.own_kind_and_name(number)
            .map_or(0, |(kind, name)| hash(kind, name))
    }

    /// The record of a type.
    ///
    /// # Errors
    /// [`BtfError::NoSuchType`].
    pub fn get(&self, id: TypeId) -> Result<Type<'a>, BtfError> {
        if id.0 == 0 {
            return Ok(Type::VOID);
        }
        let Some(index) = id.0.checked_sub(self.first_own()) else {
            return self.base.ok_or(BtfError::NoSuchType(id))?.get(id);
        };
        let offset = *self.offsets.get(index as usize).ok_or(BtfError::NoSuchType(id))?;
        self.types
            .get(offset as usize..)
            .and_then(Type::read)
            .ok_or(BtfError::Truncated(id))
    }

    /// Name of a type; empty if it has none.
    ///
    /// # Errors
    /// The type does not exist or its name is no string.
    pub fn name(&self, id: TypeId) -> Result<&'a str, BtfError> {
        match self.get(id)?.name {
            0 => Ok(""),
            offset => self.string(offset),
        }
    }

    /// The first type of that kind and name; a module's own types come before those of its kernel.
    pub fn find(&self, kind: Kind, name: &str) -> Option<TypeId> {
        let bytes = name.as_bytes();
        self.names
            .find(hash(kind, bytes), |&number| self.same_name(number, kind, bytes))
            .map(|&number| TypeId(number))
            .or_else(|| self.base?.find(kind, name))
    }

    /// The structure, union or typedef of one of that name, in this order of preference.
    ///
    /// # Errors
    /// [`BtfError::NotFound`].
    pub fn find_struct(&self, name: &str) -> Result<TypeId, BtfError> {
        [Kind::Struct, Kind::Union, Kind::Typedef]
            .into_iter()
            .find_map(|kind| self.find(kind, name))
            .ok_or_else(|| BtfError::NotFound(name.to_string()))
    }

    /// All types of this blob itself, in the order of their numbers.
    pub fn own_types(&self) -> impl Iterator<Item = (TypeId, Type<'a>)> + '_ {
        (self.first_own()..)
            .zip(&self.offsets)
            .filter_map(|(number, &offset)| Some((TypeId(number), Type::read(self.types.get(offset as usize..)?)?)))
    }

    /// The BTF this one continues.
    pub fn base(&self) -> Option<&'a Btf<'a>> {
        self.base
    }
}

/// Mixes eight bytes of the name at a time: names are short, and a kernel has a hundred thousand. Collisions can be
/// chosen; they make a lookup as slow as a walk over all names, not endless.
fn hash(kind: Kind, name: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut state = (kind as u64).wrapping_mul(MULTIPLIER) ^ name.len() as u64;
    let (chunks, rest) = name.as_chunks::<8>();
    let mut tail = [0; 8];
    for (to, from) in tail.iter_mut().zip(rest) {
        *to = *from;
    }
    for chunk in chunks.iter().chain([&tail]) {
        state = (state ^ u64::from_le_bytes(*chunk)).wrapping_mul(MULTIPLIER);
        state ^= state >> 29;
    }
    state
}
