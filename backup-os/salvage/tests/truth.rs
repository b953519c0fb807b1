//! The walkers against structures whose contents are known, in the memory of real kernels.
//!
//! `apps-tests/truth-kmod` builds the structures in a guest, some of them broken on purpose, and leaves a table of them
//! in one page. Ignored unless asked for: `ORTHROS_TRUTH_DIR` names a folder of images of such guests, `*.mem`.

use salvage::addr::{Kva, PhysAddr};
use salvage::containers::hlist::Hlist;
use salvage::containers::list::List;
use salvage::containers::rbtree::RbTree;
use salvage::error::WalkError;
use salvage::kernel::Kernel;
use salvage::memory::{Image, PhysMem};
use salvage::prepared::Prepared;

const MAGIC: &[u8; 8] = b"ORTRUTH1";
const PAGE: usize = 4096;
const HEAD: usize = 32;
const ENTRY: usize = 80;
/// Errors a broken structure may yield: one for each of its nodes at most.
const MAX_ERRORS: usize = 2_000;

/// `enum truth_kind` of the module.
mod kind {
    pub const LIST: u64 = 1;
    pub const HLIST: u64 = 2;
    pub const RBTREE: u64 = 3;
    pub const XARRAY: u64 = 4;
    pub const MAPLE: u64 = 5;
}

struct Entry {
    kind: u64,
    broken: bool,
    address: Kva,
    member: u32,
    elements: u64,
    sum: u64,
    name: String,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The table, found by its magic and its own address; the offset of the value in an item.
fn table(image: &Image<'_>, kernel: &Kernel<'_, Image<'_>>) -> Option<(Vec<Entry>, u64)> {
    for (number, page) in image.bytes().chunks_exact(PAGE).enumerate() {
        if !page.starts_with(MAGIC) {
            continue;
        }
        let phys = image.phys_of_offset((number * PAGE) as u64);
        if kernel.mem.translate(Kva(word(page, 8))).ok() != phys {
            continue; // a copy, not the table itself
        }
        let count = word(page, 16) as usize;
        let entries = (0..count)
            .map(|index| {
                let raw = &page[HEAD + index * ENTRY..][..ENTRY];
                let name = raw[48..].split(|&byte| byte == 0).next().unwrap_or_default();
                Entry {
                    kind: word(raw, 0),
                    broken: word(raw, 8) != 0,
                    address: Kva(word(raw, 16)),
                    member: word(raw, 24) as u32,
                    elements: word(raw, 32),
                    sum: word(raw, 40),
                    name: String::from_utf8_lossy(name).into_owned(),
                }
            })
            .collect();
        return Some((entries, word(page, 24)));
    }
    None
}

/// The addresses of the items of a structure, in order, and what was wrong on the way.
fn walk<M: PhysMem>(kernel: &Kernel<'_, M>, entry: &Entry) -> (Vec<Kva>, Vec<WalkError>) {
    // Walks of trees count their nodes against the bound as well.
    let bound = 2 * entry.elements + 16;
    let types = kernel.types;
    let steps: Box<dyn Iterator<Item = Result<Kva, WalkError>> + '_> = match entry.kind {
        kind::LIST => Box::new(List::new(&kernel.mem, &types.list_head, entry.address, entry.member).bounded(bound)),
        kind::HLIST => Box::new(Hlist::new(&kernel.mem, &types.hlist_node, entry.address, entry.member).bounded(bound)),
        kind::RBTREE => {
            let tree = RbTree::new(&kernel.mem, &types.rb_node, entry.address, entry.member);
            Box::new(tree.expect("the root can be read").bounded(bound))
        }
        kind::XARRAY => {
            let array = kernel.xarray(entry.address).expect("the head can be read");
            Box::new(array.bounded(bound).map(|step| step.map(|found| Kva(found.value))))
        }
        kind::MAPLE => {
            let tree = kernel.maple(entry.address).expect("the head can be read");
            Box::new(tree.bounded(bound).map(|step| step.map(|found| Kva(found.value))))
        }
        other => panic!("{}: unknown kind {other}", entry.name),
    };
    let (mut items, mut errors) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Ok(item) => items.push(item),
            Err(error) => errors.push(error),
        }
        assert!(
            items.len() as u64 <= bound,
            "{}: more elements than the bound",
            entry.name
        );
        assert!(errors.len() <= MAX_ERRORS, "{}: errors without end", entry.name);
    }
    (items, errors)
}

fn check<M: PhysMem>(kernel: &Kernel<'_, M>, entry: &Entry, value_offset: u64) {
    let (items, errors) = walk(kernel, entry);
    if entry.broken {
        assert!(!errors.is_empty(), "{}: walked without an error", entry.name);
        assert!(
            items.len() as u64 <= entry.elements,
            "{}: {} elements",
            entry.name,
            items.len()
        );
        return;
    }
    assert_eq!(errors, [], "{}", entry.name);
    assert_eq!(items.len() as u64, entry.elements, "{}", entry.name);
    let mut sum = 0u64;
    for (position, &item) in items.iter().enumerate() {
        let value = kernel.mem.u64(Kva(item.0 + value_offset)).expect("an item can be read");
        sum = sum.wrapping_add(value.wrapping_mul(position as u64 + 1));
    }
    assert_eq!(sum, entry.sum, "{}: other elements, or in another order", entry.name);
}

/// Memory in which one page reads as noise.
struct Torn<'a> {
    image: &'a Image<'a>,
    page: u64,
    noise: u8,
}

impl PhysMem for Torn<'_> {
    fn read(&self, pa: PhysAddr, buf: &mut [u8]) -> Result<(), salvage::error::MemError> {
        self.image.read(pa, buf)?;
        for (at, byte) in buf.iter_mut().enumerate() {
            let address = pa.0 + at as u64;
            if address / PAGE as u64 == self.page {
                *byte ^= self.noise.rotate_left((address % 8) as u32);
            }
        }
        Ok(())
    }

    fn slice(&self, _: PhysAddr, _: usize) -> Option<&[u8]> {
        None
    }

    fn end(&self) -> PhysAddr {
        self.image.end()
    }
}

fn each_image(test: impl Fn(&Image<'_>, &Prepared, &[Entry], u64)) {
    let dir = std::env::var_os("ORTHROS_TRUTH_DIR").expect("ORTHROS_TRUTH_DIR names a folder of images");
    let mut images = 0;
    for file in std::fs::read_dir(dir).expect("image folder can be read") {
        let path = file.expect("folder entry can be read").path();
        if path.extension().is_none_or(|extension| extension != "mem") {
            continue;
        }
        let bytes = std::fs::read(&path).expect("image can be read");
        let image = Image::flat(&bytes);
        let prepared = Prepared::find(&image).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let kernel = Kernel::new(&image, &prepared);
        let (entries, value) = table(&image, &kernel).unwrap_or_else(|| panic!("{}: no table", path.display()));
        assert!(entries.len() > 20, "{}: {} structures", path.display(), entries.len());
        test(&image, &prepared, &entries, value);
        images += 1;
    }
    assert!(images > 0, "the image folder holds no *.mem file");
}

#[test]
#[ignore = "needs ORTHROS_TRUTH_DIR"]
fn known_structures_are_read_and_broken_ones_are_errors() {
    each_image(|image, prepared, entries, value| {
        let kernel = Kernel::new(image, prepared);
        for entry in entries {
            check(&kernel, entry, value);
        }
    });
}

/// Whatever a page turns into, a walk ends within its bounds.
#[test]
#[ignore = "needs ORTHROS_TRUTH_DIR"]
fn a_page_of_noise_ends_no_walk_badly() {
    each_image(|image, prepared, entries, _| {
        let whole = Kernel::new(image, prepared);
        for entry in entries {
            let (items, _) = walk(&whole, entry);
            let places = items.iter().step_by(items.len() / 4 + 1).chain([&entry.address]);
            for place in places {
                let Ok(phys) = whole.mem.translate(*place) else {
                    continue;
                };
                for noise in [0x01, 0x80, 0xFF, 0x5A] {
                    let torn = Torn {
                        image,
                        page: phys.0 / PAGE as u64,
                        noise,
                    };
                    let kernel = Kernel::new(&torn, prepared);
                    let unreadable_head = match entry.kind {
                        kind::XARRAY => kernel.xarray(entry.address).is_err(),
                        kind::MAPLE => kernel.maple(entry.address).is_err(),
                        _ => false,
                    };
                    if !unreadable_head {
                        walk(&kernel, entry);
                    }
                }
            }
        }
    });
}
