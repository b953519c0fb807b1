//! Values of enumeration constants.

use crate::{Btf, Kind};
use alloc::vec;
use alloc::vec::Vec;
use hashbrown::HashMap;

impl Btf<'_> {
    /// Looks up several constants of any `ENUM` or `ENUM64` in one pass over the blob and its base. Of constants of the
    /// same name the first counts.
    pub fn enum_constants(&self, names: &[&str]) -> Vec<Option<i64>> {
        let mut wanted: HashMap<&[u8], Vec<usize>> = HashMap::with_capacity(names.len());
        for (place, name) in names.iter().enumerate() {
            wanted.entry(name.as_bytes()).or_default().push(place);
        }
        let mut found = vec![None; names.len()];
        let mut layer = Some(self);
        while let Some(btf) = layer {
            for (_, ty) in btf
                .own_types()
                .filter(|(_, ty)| matches!(ty.kind, Kind::Enum | Kind::Enum64))
            {
                for constant in ty.enumerators() {
                    let places = btf.string_bytes(constant.name).and_then(|name| wanted.get(name));
                    for &place in places.into_iter().flatten() {
                        if let Some(value) = found.get_mut(place) {
                            value.get_or_insert(constant.value);
                        }
                    }
                }
            }
            layer = btf.base();
        }
        found
    }

    /// Looks up one constant; see [`Btf::enum_constants`].
    pub fn enum_constant(&self, name: &str) -> Option<i64> {
        self.enum_constants(&[name]).first().copied().flatten()
    }
}
