//! Addresses of the kernel's global variables, found once by name.

use crate::addr::Kva;
use crate::kallsyms::Kallsyms;
use alloc::string::String;
use alloc::vec::Vec;

/// A symbol that has to be there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingSymbol(pub String);

/// What a member of a set of symbols can be declared as.
pub trait FromSymbol: Sized {
    /// Takes the first address that exists.
    ///
    /// # Errors
    /// None exists, and the declaration does not allow that.
    fn take(addresses: &[Option<Kva>], names: &[&str]) -> Result<Self, MissingSymbol>;
}

impl FromSymbol for Kva {
    fn take(addresses: &[Option<Kva>], names: &[&str]) -> Result<Self, MissingSymbol> {
        addresses
            .iter()
            .copied()
            .flatten()
            .next()
            .ok_or_else(|| MissingSymbol(names.join(" | ")))
    }
}

/// A symbol that not every kernel has.
impl FromSymbol for Option<Kva> {
    fn take(addresses: &[Option<Kva>], _: &[&str]) -> Result<Self, MissingSymbol> {
        Ok(addresses.iter().copied().flatten().next())
    }
}

/// The names of a set of symbols: the alternatives of each.
pub type Groups = &'static [&'static [&'static str]];

/// Finds the symbols of several sets with one pass over the table: the addresses of the alternatives of each.
pub fn find(table: &Kallsyms, sets: &[Groups]) -> impl Iterator<Item = Vec<Option<Kva>>> {
    let groups = sets.concat();
    let mut addresses = table.lookup_all(&groups.concat()).into_iter();
    groups
        .into_iter()
        .map(move |group| addresses.by_ref().take(group.len()).collect())
}

/// Declares a set of symbols. A symbol without alternatives is looked up by the member's own name; `Option<Kva>` allows
/// it to be missing.
#[macro_export]
macro_rules! symbols {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $( $(#[$field_meta:meta])* $field:ident : $kind:ty $(= $first:literal $(| $more:literal)*)? ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $name {
            $( $(#[$field_meta])* pub $field: $kind, )*
        }

        impl $name {
            /// Their names.
            pub const GROUPS: $crate::symbols::Groups =
                &[$( $crate::mirrors!(@names $field $(, $first $(, $more)*)?) ),*];

            /// Takes as many as there are from what [`find`]($crate::symbols::find) has found.
            ///
            /// # Errors
            /// One that is not optional is missing.
            pub fn take(
                found: &mut impl Iterator<Item = ::alloc::vec::Vec<Option<$crate::addr::Kva>>>,
            ) -> ::core::result::Result<Self, $crate::symbols::MissingSymbol> {
                let mut names = Self::GROUPS.iter();
                Ok(Self {
                    $( $field: $crate::symbols::FromSymbol::take(
                        &found.next().unwrap_or_default(), names.next().copied().unwrap_or_default(),
                    )?, )*
                })
            }
        }
    };
}
