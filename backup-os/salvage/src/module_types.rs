//! Structures of a module, by the BTF that it has brought along (`kernel/bpf/btf.c`).

use crate::btf::Btf;
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::{Field, Mirror};
use crate::prepared::kernel_btf;
use alloc::rc::Rc;
use core::cell::OnceCell;

/// Modules with BTF.
const MAX_MODULES: u64 = 4096;
/// Bytes of the BTF of a module.
const MAX_BTF: u64 = 16 << 20;

crate::mirrors! {
    /// BTF of a module.
    #[allow(missing_docs)]
    pub struct BtfModule = "btf_module" {
        list: Field,
        btf: Field,
    }

    /// BTF.
    #[allow(missing_docs)]
    pub struct BtfBlob = "btf" {
        data: Field,
        data_size: Field,
        name: Field,
    }
}

/// A module whose structures are looked up when they are first asked for, and once.
#[derive(Debug)]
pub struct Module<T> {
    name: &'static str,
    structures: OnceCell<Option<Rc<T>>>,
}

impl<T: Mirror> Module<T> {
    /// The module of a name.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            structures: OnceCell::new(),
        }
    }

    /// Its structures; `None` if it is not loaded, has no BTF, or has other structures.
    pub fn structures<M: PhysMem + ?Sized>(&self, kernel: &Kernel<'_, M>) -> Option<Rc<T>> {
        self.structures
            .get_or_init(|| load(kernel, self.name).map(Rc::new))
            .clone()
    }
}

fn load<T: Mirror, M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, name: &str) -> Option<T> {
    let own = kernel_btf(&kernel.mem, kernel.symbols).ok()?;
    let own = Btf::parse(&own).ok()?;
    let (module, blob) = (BtfModule::load(&own).ok()?, BtfBlob::load(&own).ok()?);
    let head = kernel.prepared.globals.btf_modules?;
    let mut all = kernel.list(head, module.list).bounded(MAX_MODULES).flatten();
    let bytes = all.find_map(|at| {
        let btf = kernel.mem.ptr(at, module.btf).ok()?;
        let is_it = kernel.mem.text(btf, blob.name).ok()? == name.as_bytes();
        let length = kernel.mem.uint(btf, blob.data_size).ok()?;
        let data = kernel.mem.ptr(btf, blob.data).ok()?;
        (is_it && length <= MAX_BTF).then(|| kernel.mem.bytes(data, length as usize).ok())?
    })?;
    let split = Btf::parse_split(&bytes, &own).ok()?;
    T::load(&split).ok()
}
