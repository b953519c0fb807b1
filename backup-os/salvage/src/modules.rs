//! Loadable modules (`kernel/module/`).

use crate::addr::Kva;
use crate::error::{About, WalkError};
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use alloc::string::String;

/// More modules than a kernel loads.
const MAX_MODULES: u64 = 4096;

crate::mirrors! {
    /// A module.
    pub struct Module = "module" {
        /// Its place among the modules.
        list: Field,
        /// Its life: `enum module_state`.
        state: Field,
        /// Its name.
        name: Field,
        /// Memory by kind, Linux 6.4 (ac3b43283923).
        mem: Option<Field> = "mem",
        /// Memory that stays, before.
        core_base: Option<Field> = "core_layout.base",
        /// Its bytes.
        core_size: Option<Field> = "core_layout.size",
        /// How many entries its ORC tables have.
        num_orcs: Option<Field> = "arch.num_orcs",
        /// Where the text of each begins.
        orc_ips: Option<Field> = "arch.orc_unwind_ip",
        /// The entries.
        orc_entries: Option<Field> = "arch.orc_unwind",
    }

    /// Memory of one kind of a module.
    pub struct ModuleMemory = "module_memory" {
        /// Where.
        base: Field,
        /// Bytes.
        size: Field,
    }
}

crate::constants! {
    /// Kinds of memory of a module and states of it.
    pub struct ModuleKinds {
        /// First kind that is freed after the module has started.
        init: Option<u32> = "MOD_INIT_TEXT",
        /// The module runs.
        live: u32 = "MODULE_STATE_LIVE",
    }
}

crate::mirror_set! {
    /// The mirrors of modules.
    pub struct ModuleTypes {
        /// `struct module`.
        module: Module,
        /// `struct module_memory`.
        memory: Option<ModuleMemory>,
        /// Constants.
        kinds: ModuleKinds,
    }
}

/// A module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its `struct module`.
    pub address: Kva,
    /// Its name.
    pub name: String,
    /// Where its text lies.
    pub base: Kva,
    /// Bytes it holds while it runs.
    pub size: u64,
    /// Whether it has started and does not go.
    pub live: bool,
}

/// The ORC tables of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrcTables {
    /// Where the text of each entry begins, relative to the word itself.
    pub ips: Kva,
    /// How many there are.
    pub count: u64,
    /// The entries.
    pub entries: Kva,
}

/// The module an address of text belongs to, and its ORC tables, if it has some.
///
/// # Errors
/// The list of modules cannot be read.
pub fn of_text<M: PhysMem + ?Sized>(
    kernel: &Kernel<'_, M>,
    text: Kva,
) -> Result<Option<(Loaded, Option<OrcTables>)>, WalkError> {
    let types = &kernel.types.modules;
    for module in modules(kernel) {
        let module = module?;
        if !(0..text_size(kernel, &module)?).contains(&text.0.wrapping_sub(module.base.0)) {
            continue;
        }
        let member = |field: Option<Field>| field.and_then(|field| kernel.mem.uint(module.address, field).ok());
        let tables = (|| {
            Some(OrcTables {
                ips: Kva(member(types.module.orc_ips)?),
                count: member(types.module.num_orcs)?,
                entries: Kva(member(types.module.orc_entries)?),
            })
        })();
        return Ok(Some((module, tables)));
    }
    Ok(None)
}

/// The function that an address of text is in, or the module, in brackets.
pub fn name_of_text<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, text: Kva) -> Option<String> {
    if kernel.prepared.space.image.contains(&text) {
        return kernel.kallsyms.symbolize(text).map(|found| found.name);
    }
    let (module, _) = of_text(kernel, text).ok()??;
    Some(alloc::format!("[{}]", module.name))
}

/// Bytes of a module from its base on that can be text.
fn text_size<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, module: &Loaded) -> Result<u64, WalkError> {
    let types = &kernel.types.modules;
    match (types.module.mem, &types.memory) {
        // Text is the first kind.
        (Some(field), Some(memory)) => {
            let text = module.address.offset(u64::from(field.offset));
            kernel.mem.uint(text, memory.size).about("module")
        }
        _ => Ok(module.size),
    }
}

/// All modules, the youngest first, as `/proc/modules` shows them.
pub fn modules<'k, M: PhysMem + ?Sized>(
    kernel: &'k Kernel<'_, M>,
) -> impl Iterator<Item = Result<Loaded, WalkError>> + use<'k, M> {
    let list = kernel.types.modules.module.list;
    kernel
        .list(kernel.symbols.modules, list)
        .bounded(MAX_MODULES)
        .map(|module| read(kernel, module?))
}

fn read<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, address: Kva) -> Result<Loaded, WalkError> {
    let object = "module";
    let types = &kernel.types.modules;
    let name = kernel.mem.text(address, types.module.name).about(object)?;
    let (base, size) = match (types.module.mem, &types.memory) {
        (Some(field), Some(memory)) => {
            let kinds = types.kinds.init.unwrap_or(field.count()).min(field.count());
            let kind = |number: u32| {
                let offset = u64::from(number).wrapping_mul(u64::from(field.element));
                address.offset(u64::from(field.offset)).offset(offset)
            };
            let mut size = 0u64;
            for number in 0..kinds {
                size = size.saturating_add(kernel.mem.uint(kind(number), memory.size).about(object)?);
            }
            (kernel.mem.ptr(kind(0), memory.base).about(object)?, size)
        }
        _ => {
            let member = |field: Option<Field>| field.map_or(Ok(0), |field| kernel.mem.uint(address, field));
            (
                Kva(member(types.module.core_base).about(object)?),
                member(types.module.core_size).about(object)?,
            )
        }
    };
    let state = kernel.mem.uint(address, types.module.state).about(object)?;
    let name = String::from_utf8_lossy(&name).into_owned();
    Ok(Loaded {
        address,
        name,
        base,
        size,
        live: state == u64::from(types.kinds.live),
    })
}
