//! Mirror structures: where the members of a kernel structure lie.
//!
//! A mirror holds only the members that are used, under the kernel's own names. It is filled once from BTF, while the
//! kernel is healthy; salvage itself looks nothing up. Members that changed their name or place are given as
//! alternatives, newest first; [`mirrors!`](crate::mirrors) declares a mirror.

use alloc::string::ToString;
use btf::{Btf, BtfError, TypeId};

/// Where a member lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the start of the structure.
    pub offset: u32,
    /// Bytes of the whole member.
    pub size: u32,
    /// Bytes of one element, if it is an array; else the same as `size`.
    pub element: u32,
    /// First bit, counted from `offset`, of a bit-field; else 0.
    pub bit: u8,
    /// Bits of a bit-field; else 0.
    pub bit_size: u8,
}

impl Field {
    /// Number of elements, if it is an array; else 1. A flexible array has none.
    pub const fn count(&self) -> u32 {
        match self.size.checked_div(self.element) {
            Some(count) => count,
            None => 0,
        }
    }

    /// A member of `size` bytes at `offset`; for structures that have no BTF, and for tests.
    pub const fn plain(offset: u32, size: u32) -> Self {
        Self {
            offset,
            size,
            element: size,
            bit: 0,
            bit_size: 0,
        }
    }
}

/// A structure of offsets.
pub trait Mirror: Sized {
    /// Fills the mirror.
    ///
    /// # Errors
    /// The kernel has no such structure, or it lacks a member that is not optional.
    fn load(btf: &Btf<'_>) -> Result<Self, BtfError>;
}

/// A structure that not every kernel has. If it is there it has to be whole.
impl<T: Mirror> Mirror for Option<T> {
    fn load(btf: &Btf<'_>) -> Result<Self, BtfError> {
        match T::load(btf) {
            Err(BtfError::NotFound(_)) => Ok(None),
            other => other.map(Some),
        }
    }
}

/// What a member of a mirror can be declared as.
pub trait FromMember: Sized {
    /// Finds the member by the first of the paths that exists.
    ///
    /// # Errors
    /// None of them exists, or BTF is malformed.
    fn find(btf: &Btf<'_>, of: TypeId, paths: &[&str]) -> Result<Self, BtfError>;
}

impl FromMember for Field {
    fn find(btf: &Btf<'_>, of: TypeId, paths: &[&str]) -> Result<Self, BtfError> {
        let mut first = None;
        for path in paths {
            let member = match btf.member(of, path) {
                Ok(member) => member,
                Err(error @ (BtfError::NoMember { .. } | BtfError::NotAggregate { .. })) => {
                    first.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let narrow = |value: u64| u32::try_from(value).map_err(|_| BtfError::Overflow(member.id));
            let size = narrow(btf.size_of(member.id)?)?;
            let element = match btf.array(member.id)? {
                Some((element, _)) => narrow(btf.size_of(element)?)?,
                None => size,
            };
            let bit_field = member.bit_size != 0;
            return Ok(Self {
                offset: narrow(member.offset())?,
                size,
                element,
                bit: if bit_field { member.bit() as u8 } else { 0 },
                bit_size: member.bit_size as u8,
            });
        }
        Err(first.unwrap_or(BtfError::NoMember {
            of: btf.name(of)?.to_string(),
            path: paths.join(" | "),
        }))
    }
}

/// A member that not every kernel has.
impl FromMember for Option<Field> {
    fn find(btf: &Btf<'_>, of: TypeId, paths: &[&str]) -> Result<Self, BtfError> {
        match Field::find(btf, of, paths) {
            Err(BtfError::NoMember { .. } | BtfError::NotAggregate { .. }) => Ok(None),
            other => other.map(Some),
        }
    }
}

/// What a member of a set of constants can be declared as.
pub trait FromConstant: Sized {
    /// Takes the first value that exists.
    ///
    /// # Errors
    /// None exists, and the declaration does not allow that.
    fn take(values: &[Option<i64>], names: &[&str]) -> Result<Self, BtfError>;
}

impl FromConstant for i64 {
    fn take(values: &[Option<i64>], names: &[&str]) -> Result<Self, BtfError> {
        values
            .iter()
            .copied()
            .flatten()
            .next()
            .ok_or_else(|| BtfError::NotFound(names.join(" | ")))
    }
}

impl FromConstant for u32 {
    fn take(values: &[Option<i64>], names: &[&str]) -> Result<Self, BtfError> {
        u32::try_from(i64::take(values, names)?).map_err(|_| BtfError::NotFound(names.join(" | ")))
    }
}

/// A constant that not every kernel has.
impl<T: FromConstant> FromConstant for Option<T> {
    fn take(values: &[Option<i64>], names: &[&str]) -> Result<Self, BtfError> {
        Ok(T::take(values, names).ok())
    }
}

/// Declares mirror structures.
///
/// ```
/// use salvage::mirror::Field;
///
/// salvage::mirrors! {
///     /// A file descriptor table.
///     pub struct FdTable = "fdtable" {
///         /// Number of slots.
///         max_fds: Field,
///         /// Member with two names, newest first.
///         state: Field = "__state" | "state",
///         /// Member that need not be there.
///         resize: Option<Field> = "resize_wait",
///     }
/// }
/// ```
///
/// A member without alternatives is looked up by its own name; paths like `"f_path.dentry"` go through nested
/// structures. Each mirror also has `struct_size`, in bytes.
#[macro_export]
macro_rules! mirrors {
    ($(
        $(#[$meta:meta])*
        $vis:vis struct $name:ident = $kernel:literal {
            $( $(#[$field_meta:meta])* $field:ident : $kind:ty $(= $first:literal $(| $more:literal)*)? ),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $name {
            /// Bytes of the whole structure.
            pub struct_size: u32,
            $( $(#[$field_meta])* pub $field: $kind, )*
        }

        impl $crate::mirror::Mirror for $name {
            fn load(btf: &$crate::btf::Btf<'_>) -> ::core::result::Result<Self, $crate::btf::BtfError> {
                let of = btf.find_struct($kernel)?;
                let size = btf.size_of(of)?;
                Ok(Self {
                    struct_size: u32::try_from(size).map_err(|_| $crate::btf::BtfError::Overflow(of))?,
                    $( $field: $crate::mirror::FromMember::find(
                        btf, of, $crate::mirrors!(@names $field $(, $first $(, $more)*)?),
                    )?, )*
                })
            }
        }
    )*};
    (@names $field:ident) => { &[stringify!($field)] };
    (@names $field:ident, $($path:literal),+) => { &[$($path),+] };
}

/// Declares a structure of mirrors, which is a mirror itself: all are loaded together.
#[macro_export]
macro_rules! mirror_set {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident { $( $(#[$field_meta:meta])* $field:ident : $kind:ty ),* $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $name {
            $( $(#[$field_meta])* pub $field: $kind, )*
        }

        impl $crate::mirror::Mirror for $name {
            fn load(btf: &$crate::btf::Btf<'_>) -> ::core::result::Result<Self, $crate::btf::BtfError> {
                Ok(Self { $( $field: <$kind as $crate::mirror::Mirror>::load(btf)?, )* })
            }
        }
    };
}

/// Declares a set of enumeration constants, found by name in any enumeration.
///
/// ```
/// salvage::constants! {
///     /// Bits of `page.flags`.
///     pub struct PageFlags {
///         /// Set while the page is newer than the disk.
///         dirty: u32 = "PG_dirty",
///         /// Gone in newer kernels.
///         error: Option<u32> = "PG_error",
///     }
/// }
/// ```
#[macro_export]
macro_rules! constants {
    ($(
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $( $(#[$field_meta:meta])* $field:ident : $kind:ty = $($constant:literal)|+ ),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $name {
            $( $(#[$field_meta])* pub $field: $kind, )*
        }

        impl $crate::mirror::Mirror for $name {
            fn load(btf: &$crate::btf::Btf<'_>) -> ::core::result::Result<Self, $crate::btf::BtfError> {
                Ok(Self {
                    $( $field: $crate::mirror::FromConstant::take(
                        &[$( btf.enum_constant($constant) ),+], &[$($constant),+],
                    )?, )*
                })
            }
        }
    )*};
}
