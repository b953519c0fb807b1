//! Sizes, arrays and member paths.

use crate::{Btf, BtfError, Kind, TypeId};
use alloc::string::ToString;

/// Longest chain of typedefs and qualifiers, arrays of arrays, or anonymous members in one another, that is followed.
/// Real kernels stay below ten.
const MAX_DEPTH: u32 = 32;
/// Most anonymous members looked into for one name; bounds the work on a blob whose aggregates share children.
const MAX_ANONYMOUS: u32 = 4096;

/// Where a member lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bits from the start of the outermost structure.
    pub bit_offset: u64,
    /// Bits of a bit-field; 0 if the member is none.
    pub bit_size: u32,
    /// Its type, as declared.
    pub id: TypeId,
}

impl Member {
    /// Bytes from the start of the outermost structure to the byte that holds the first bit.
    pub const fn offset(&self) -> u64 {
        self.bit_offset >> 3
    }

    /// Bits from [`Member::offset`] to the first bit; 0 unless it is a bit-field.
    pub const fn bit(&self) -> u32 {
        (self.bit_offset & 7) as u32
    }
}

impl Btf<'_> {
    /// Follows typedefs, qualifiers and type tags to the type they stand for.
    ///
    /// # Errors
    /// A type is missing, or the chain is a cycle.
    pub fn resolve(&self, id: TypeId) -> Result<TypeId, BtfError> {
        let mut at = id;
        for _ in 0..MAX_DEPTH {
            let ty = self.get(at)?;
            match ty.target() {
                Some(next) if ty.kind.is_alias() => at = next,
                _ => return Ok(at),
            }
        }
        Err(BtfError::TooDeep(id))
    }

    /// Bytes a value of the type takes.
    ///
    /// # Errors
    /// The type has no size, refers to a missing type or to itself.
    pub fn size_of(&self, id: TypeId) -> Result<u64, BtfError> {
        let mut at = id;
        let mut elements = 1u64;
        for _ in 0..MAX_DEPTH {
            at = self.resolve(at)?;
            let ty = self.get(at)?;
            let size = if let Some((element, count)) = ty.array() {
                elements = elements.checked_mul(u64::from(count)).ok_or(BtfError::Overflow(id))?;
                at = element;
                continue;
            } else if ty.kind == Kind::Pointer {
                8
            } else {
                u64::from(ty.stated_size().ok_or(BtfError::NoSize(at))?)
            };
            return size.checked_mul(elements).ok_or(BtfError::Overflow(id));
        }
        Err(BtfError::TooDeep(id))
    }

    /// Element type and number of elements, if the type is an array (of one dimension: of arrays, if there are more).
    ///
    /// # Errors
    /// As for [`Btf::resolve`].
    pub fn array(&self, id: TypeId) -> Result<Option<(TypeId, u32)>, BtfError> {
        Ok(self.get(self.resolve(id)?)?.array())
    }

    /// The type a pointer points to; `None` if the type is no pointer.
    ///
    /// # Errors
    /// As for [`Btf::resolve`].
    pub fn pointee(&self, id: TypeId) -> Result<Option<TypeId>, BtfError> {
        let ty = self.get(self.resolve(id)?)?;
        Ok(ty.target().filter(|_| ty.kind == Kind::Pointer))
    }

    /// Finds a member by its path, `"a.b.c"`. Each step also looks into anonymous structures and unions.
    ///
    /// # Errors
    /// [`BtfError::NoMember`] or [`BtfError::NotAggregate`] with the path; or the blob is malformed.
    pub fn member(&self, of: TypeId, path: &str) -> Result<Member, BtfError> {
        let mut at = Member {
            bit_offset: 0,
            bit_size: 0,
            id: of,
        };
        for name in path.split('.') {
            let aggregate = self.resolve(at.id)?;
            if !self.get(aggregate)?.kind.is_aggregate() {
                return Err(BtfError::NotAggregate {
                    of: self.name(of)?.to_string(),
                    path: path.to_string(),
                });
            }
            let mut budget = MAX_ANONYMOUS;
            let found = self.member_in(aggregate, name, 0, &mut budget)?;
            let Some(found) = found else {
                return Err(BtfError::NoMember {
                    of: self.name(of)?.to_string(),
                    path: path.to_string(),
                });
            };
            at = Member {
                bit_offset: at
                    .bit_offset
                    .checked_add(found.bit_offset)
                    .ok_or(BtfError::Overflow(of))?,
                ..found
            };
        }
        Ok(at)
    }

    /// Finds `name` in one aggregate and the anonymous members in it.
    fn member_in(&self, of: TypeId, name: &str, depth: u32, budget: &mut u32) -> Result<Option<Member>, BtfError> {
        if depth > MAX_DEPTH {
            return Err(BtfError::TooDeep(of));
        }
        let aggregate = self.get(of)?;
        let direct = aggregate.members().find(|member| {
            member.name != 0
                && self
                    .string_bytes(member.name)
                    .is_some_and(|bytes| bytes == name.as_bytes())
        });
        if let Some(member) = direct {
            return Ok(Some(Member {
                bit_offset: u64::from(member.bit_offset),
                bit_size: member.bit_size,
                id: member.id,
            }));
        }
        for member in aggregate.members().filter(|member| member.name == 0) {
            *budget = budget.checked_sub(1).ok_or(BtfError::TooDeep(of))?;
            let inner = self.resolve(member.id)?;
            if !self.get(inner)?.kind.is_aggregate() {
                continue;
            }
            if let Some(found) = self.member_in(inner, name, depth.saturating_add(1), budget)? {
                let bit_offset = found
                    .bit_offset
                    .checked_add(u64::from(member.bit_offset))
                    .ok_or(BtfError::Overflow(of))?;
                return Ok(Some(Member { bit_offset, ..found }));
            }
        }
        Ok(None)
    }
}
