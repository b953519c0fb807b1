//! One type record: its head, and the members, enumerators or parameters behind it.

use crate::raw::{u32_at, words};
use crate::Kind;
use core::fmt;

/// Number of a type; 0 is `void`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub u32);

impl fmt::Display for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A type record, read in place (`struct btf_type`).
#[derive(Clone, Copy, Debug)]
pub struct Type<'a> {
    /// What it describes.
    pub kind: Kind,
    /// Offset of its name in the strings, 0 if it has none; see [`crate::Btf::string`].
    pub name: u32,
    /// For a structure: whether member offsets carry bit-field sizes. For an enumeration: whether values are signed.
    pub flag: bool,
    /// Its size in bytes or the type it refers to, depending on the kind.
    size_or_type: u32,
    body: &'a [u8],
}

/// A member as it stands in its own structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawMember {
    /// Offset of the name in the strings, 0 for an anonymous member.
    pub name: u32,
    /// Its type.
    pub id: TypeId,
    /// Bits from the start of the structure.
    pub bit_offset: u32,
    /// Bits of a bit-field, 0 if it is none.
    pub bit_size: u32,
}

/// A constant of an enumeration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enumerator {
    /// Offset of the name in the strings.
    pub name: u32,
    /// Its value; an unsigned 64-bit value above `i64::MAX` shows as its two's complement.
    pub value: i64,
}

/// Bytes of a record's head.
pub(crate) const HEAD: usize = 12;

impl<'a> Type<'a> {
    /// `void`, which has no record.
    pub(crate) const VOID: Self = Type {
        kind: Kind::Void,
        name: 0,
        flag: false,
        size_or_type: 0,
        body: &[],
    };

    /// Kind number, `vlen` and flag of a record's `info` word.
    pub(crate) fn split_info(info: u32) -> (u32, u16, bool) {
        ((info >> 24) & 0x1F, (info & 0xFFFF) as u16, info >> 31 == 1)
    }

    /// Reads the record at the start of `record`.
    pub(crate) fn read(record: &'a [u8]) -> Option<Self> {
        let (kind, vlen, flag) = Self::split_info(u32_at(record, 4)?);
        let kind = Kind::from_raw(kind)?;
        let body = record.get(HEAD..)?.get(..kind.body_size(vlen))?;
        Some(Self {
            kind,
            name: u32_at(record, 0)?,
            flag,
            size_or_type: u32_at(record, 8)?,
            body,
        })
    }

    /// Bytes the record itself states, for kinds that state it.
    pub fn stated_size(&self) -> Option<u32> {
        matches!(
            self.kind,
            Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Float | Kind::DataSection
        )
        .then_some(self.size_or_type)
    }

    /// The type a pointer, typedef, qualifier, function or variable refers to.
    pub fn target(&self) -> Option<TypeId> {
        (self.kind.is_alias()
            || matches!(
                self.kind,
                Kind::Pointer | Kind::Function | Kind::FunctionPrototype | Kind::Variable | Kind::DeclTag
            ))
        .then_some(TypeId(self.size_or_type))
    }

    /// Element type and number of elements of an array.
    pub fn array(&self) -> Option<(TypeId, u32)> {
        if self.kind != Kind::Array {
            return None;
        }
        Some((TypeId(u32_at(self.body, 0)?), u32_at(self.body, 8)?))
    }

    /// Whether an integer or enumeration is signed (`BTF_INT_SIGNED`).
    pub fn is_signed(&self) -> bool {
        match self.kind {
            Kind::Int => u32_at(self.body, 0).is_some_and(|encoding| encoding & (1 << 24) != 0),
            Kind::Enum | Kind::Enum64 => self.flag,
            _ => false,
        }
    }

    /// Members of a structure or union, in the order of their offsets; nothing for other kinds.
    pub fn members(&self) -> impl Iterator<Item = RawMember> + 'a {
        let body: &[u8] = if self.kind.is_aggregate() { self.body } else { &[] };
        let bit_fields = self.flag;
        words(body).map(move |[name, id, offset]| RawMember {
            name,
            id: TypeId(id),
            bit_offset: if bit_fields { offset & 0x00FF_FFFF } else { offset },
            bit_size: if bit_fields { offset >> 24 } else { 0 },
        })
    }

    /// Constants of an enumeration; nothing for other kinds.
    pub fn enumerators(&self) -> impl Iterator<Item = Enumerator> + 'a {
        let signed = self.flag;
        let (narrow, wide): (&[u8], &[u8]) = match self.kind {
            Kind::Enum => (self.body, &[]),
            Kind::Enum64 => (&[], self.body),
            _ => (&[], &[]),
        };
        let narrow = words(narrow).map(move |[name, value]| Enumerator {
            name,
            value: if signed {
                i64::from(value as i32)
            } else {
                i64::from(value)
            },
        });
        let wide = words(wide).map(|[name, low, high]| Enumerator {
            name,
            value: (u64::from(low) | u64::from(high) << 32) as i64,
        });
        narrow.chain(wide)
    }

    /// Names and types of the parameters of a function prototype; nothing for other kinds.
    pub fn parameters(&self) -> impl Iterator<Item = (u32, TypeId)> + 'a {
        let body: &[u8] = if self.kind == Kind::FunctionPrototype {
            self.body
        } else {
            &[]
        };
        words(body).map(|[name, id]| (name, TypeId(id)))
    }

    /// The member a declaration tag speaks of (`component_idx`), −1 for the type as a whole.
    pub fn tagged_component(&self) -> Option<i32> {
        (self.kind == Kind::DeclTag)
            .then(|| u32_at(self.body, 0))
            .flatten()
            .map(|index| index as i32)
    }
}
