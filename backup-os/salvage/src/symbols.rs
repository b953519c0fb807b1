//! Addresses of the kernel's global variables, found once by name.

use crate::addr::Kva;
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

/// Finds the symbols of a set with one pass over the table. `groups` are the alternatives of each.
pub fn find_symbols(table: &crate::kallsyms::Kallsyms, groups: &[&[&str]]) -> Vec<Vec<Option<Kva>>> {
    let names: Vec<&str> = groups.concat();
    let mut addresses = table.lookup_all(&names).into_iter();
    groups
        .iter()
        .map(|group| addresses.by_ref().take(group.len()).collect())
        .collect()
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
            /// Finds all of them.
            ///
            /// # Errors
            /// One that is not optional is missing.
            pub fn load(
                table: &$crate::kallsyms::Kallsyms,
            ) -> ::core::result::Result<Self, $crate::symbols::MissingSymbol> {
                let groups: &[&[&str]] = &[$( $crate::mirrors!(@names $field $(, $first $(, $more)*)?) ),*];
                let mut found = $crate::symbols::find_symbols(table, groups).into_iter();
                let mut names = groups.iter();
                Ok(Self {
                    $( $field: $crate::symbols::FromSymbol::take(
                        &found.next().unwrap_or_default(), names.next().copied().unwrap_or_default(),
                    )?, )*
                })
            }
        }
    };
}
