//! The kinds of types (`enum` of `BTF_KIND_*` in `include/uapi/linux/btf.h`).

/// What a type record describes. The numbers are the format's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // The names are the format's own.
pub enum Kind {
    Void = 0,
    Int = 1,
    Pointer = 2,
    Array = 3,
    Struct = 4,
    Union = 5,
    Enum = 6,
    Forward = 7,
    Typedef = 8,
    Volatile = 9,
    Const = 10,
    Restrict = 11,
    Function = 12,
    FunctionPrototype = 13,
    Variable = 14,
    DataSection = 15,
    Float = 16,
    /// Linux 5.16, b5ea834dde6b.
    DeclTag = 17,
    /// Linux 5.17, 8c42d2fa4eeab.
    TypeTag = 18,
    /// Linux 6.0, 6089fb325cf7.
    Enum64 = 19,
}

impl Kind {
    /// The kind for a number in the blob, if it is known.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::Void,
            1 => Self::Int,
            2 => Self::Pointer,
            3 => Self::Array,
            4 => Self::Struct,
            5 => Self::Union,
            6 => Self::Enum,
            7 => Self::Forward,
            8 => Self::Typedef,
            9 => Self::Volatile,
            10 => Self::Const,
            11 => Self::Restrict,
            12 => Self::Function,
            13 => Self::FunctionPrototype,
            14 => Self::Variable,
            15 => Self::DataSection,
            16 => Self::Float,
            17 => Self::DeclTag,
            18 => Self::TypeTag,
            19 => Self::Enum64,
            _ => return None,
        })
    }

    /// Bytes that follow the 12-byte head of a record with `vlen` parts.
    pub const fn body_size(self, vlen: u16) -> usize {
        let parts = vlen as usize;
        match self {
            Self::Int | Self::Variable | Self::DeclTag => 4,
            Self::Array => 12,
            Self::Struct | Self::Union | Self::DataSection | Self::Enum64 => parts.saturating_mul(12),
            Self::Enum | Self::FunctionPrototype => parts.saturating_mul(8),
            _ => 0,
        }
    }

    /// Whether the type stands for another one with the same layout.
    pub const fn is_alias(self) -> bool {
        matches!(
            self,
            Self::Typedef | Self::Volatile | Self::Const | Self::Restrict | Self::TypeTag
        )
    }

    /// Whether the type has members.
    pub const fn is_aggregate(self) -> bool {
        matches!(self, Self::Struct | Self::Union)
    }
}
