//! Everything that can be wrong with a blob, or with a question put to it.

use crate::TypeId;
use alloc::string::String;
use core::fmt;

/// Why BTF could not be read or does not answer a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BtfError {
    /// The blob ends inside its header, or the header does not start with the magic number 0xEB9F.
    Header(&'static str),
    /// A header version other than 1.
    Version(u8),
    /// A section of the blob (types or strings) lies outside it.
    Section(&'static str),
    /// The record of a type ends after the end of the type section.
    Truncated(TypeId),
    /// A type has a kind this reader does not know, so that the length of its record is unknown too.
    UnknownKind {
        /// The type.
        id: TypeId,
        /// Its kind.
        kind: u32,
    },
    /// There are more types than 32-bit numbers for them.
    TooManyTypes,
    /// A type number beyond the last type.
    NoSuchType(TypeId),
    /// A name lies outside the string section, has no NUL or is not UTF-8.
    Name(u32),
    /// A chain of typedefs, qualifiers, arrays or anonymous members is longer than any real one: a cycle.
    TooDeep(TypeId),
    /// The type has no size (void, a function, a forward declaration).
    NoSize(TypeId),
    /// A size or offset does not fit its integer.
    Overflow(TypeId),
    /// There is no type of that name.
    NotFound(String),
    /// A structure or union has no such member, not in its anonymous members either.
    NoMember {
        /// Name of the structure.
        of: String,
        /// The path that was asked for.
        path: String,
    },
    /// A member path goes on behind something that is not a structure or union.
    NotAggregate {
        /// Name of the structure.
        of: String,
        /// The path that was asked for.
        path: String,
    },
}

impl fmt::Display for BtfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(what) => write!(f, "BTF header: {what}"),
            Self::Version(version) => write!(f, "BTF header: version {version}, expected 1"),
            Self::Section(name) => write!(f, "BTF {name} section lies outside the blob"),
            Self::Truncated(id) => write!(f, "BTF type {id} is cut off"),
            Self::UnknownKind { id, kind } => write!(f, "BTF type {id} has the unknown kind {kind}"),
            Self::TooManyTypes => write!(f, "BTF has more types than can be numbered"),
            Self::NoSuchType(id) => write!(f, "BTF has no type {id}"),
            Self::Name(offset) => write!(f, "BTF name at string offset {offset:#x} is not a string"),
            Self::TooDeep(id) => write!(f, "BTF type {id} refers to itself"),
            Self::NoSize(id) => write!(f, "BTF type {id} has no size"),
            Self::Overflow(id) => write!(f, "BTF type {id} is larger than memory"),
            Self::NotFound(name) => write!(f, "BTF has no type `{name}`"),
            Self::NoMember { of, path } => write!(f, "`struct {of}` has no member `{path}`"),
            Self::NotAggregate { of, path } => {
                write!(
                    f,
                    "member path `{path}` of `struct {of}` goes through something that has no members"
                )
            }
        }
    }
}

impl core::error::Error for BtfError {}
