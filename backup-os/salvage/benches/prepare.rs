//! How long it takes to learn a kernel: BTF, offsets, symbols.
//!
//! `ORTHROS_IMAGE_DIR` names a folder of images (`*.mem`, RAM from address 0 on); without it nothing is measured.

use salvage::btf::Btf;
use salvage::globals::Globals;
use salvage::kallsyms::{Kallsyms, KallsymsTables};
use salvage::kernel_memory::KernelMemory;
use salvage::memory::Image;
use salvage::mirror::Mirror;
use salvage::orc::OrcSymbols;
use salvage::prepared::{KernelFacts, Prepared, Symbols};
use salvage::symbols;
use salvage::types::Types;
use std::time::Instant;

/// Milliseconds of the fastest of a few runs.
fn time<T>(name: &str, mut run: impl FnMut() -> T) {
    let best = (0..7)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(run());
            start.elapsed()
        })
        .min()
        .expect("several runs");
    println!("  {name:<22} {:8.3} ms", best.as_secs_f64() * 1e3);
}

fn main() {
    let Some(dir) = std::env::var_os("ORTHROS_IMAGE_DIR") else {
        println!("ORTHROS_IMAGE_DIR is not set: nothing to measure");
        return;
    };
    for entry in std::fs::read_dir(dir).expect("image folder can be read") {
        let path = entry.expect("folder entry can be read").path();
        if path.extension().is_none_or(|extension| extension != "mem") {
            continue;
        }
        let bytes = std::fs::read(&path).expect("image can be read");
        let image = Image::flat(&bytes);
        let prepared = Prepared::find(&image).expect("the image holds a kernel");
        println!("{}: {}", path.display(), prepared.info.release());
        let memory = KernelMemory::new(&image, prepared.space.clone());
        let symbols = &prepared.symbols;
        let len = symbols.stop_btf.0 - symbols.start_btf.0;
        let blob = memory.bytes(symbols.start_btf, len as usize).expect("BTF can be read");
        let btf = Btf::parse(&blob).expect("BTF is sound");
        println!("  {} types, {} symbols", btf.end() - 1, prepared.kallsyms.len());
        time("BTF index", || Btf::parse(&blob));
        time("offsets", || Types::load(&btf));
        let tables = KallsymsTables::from_vmcoreinfo(&prepared.info).expect("addresses of the tables");
        time("kallsyms copied", || Kallsyms::read(&memory, &tables));
        let sets = [Symbols::GROUPS, Globals::GROUPS, OrcSymbols::GROUPS];
        time("symbols found", || symbols::find(&prepared.kallsyms, &sets).count());
        time("symbol of an address", || {
            prepared.kallsyms.symbolize(symbols.init_task.offset(8))
        });
        let facts = KernelFacts {
            tables: prepared.space.tables,
            info: prepared.info.clone(),
        };
        time("all", || Prepared::new(&image, facts.clone()));
    }
}
