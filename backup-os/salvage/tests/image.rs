//! Reads real kernels out of memory images.
//!
//! Ignored unless asked for (`cargo test -- --ignored`): `ORTHROS_IMAGE_DIR` names a folder with images of guests that
//! have panicked, one `*.mem` file each, RAM below 4 GB from offset 0 on.

use salvage::addr::Pfn;
use salvage::kernel::Kernel;
use salvage::memory::Image;
use salvage::modules::modules;
use salvage::prepared::Prepared;
use salvage::printk::log;
use std::path::PathBuf;

fn images() -> Vec<(PathBuf, Vec<u8>)> {
    let dir = std::env::var_os("ORTHROS_IMAGE_DIR").expect("ORTHROS_IMAGE_DIR names a folder of images");
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .expect("image folder can be read")
        .map(|entry| entry.expect("folder entry can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "mem"))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "the image folder holds no *.mem file");
    found
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).expect("image can be read");
            (path, bytes)
        })
        .collect()
}

#[test]
#[ignore = "needs ORTHROS_IMAGE_DIR"]
fn kernels_are_found_and_prepared() {
    for (path, bytes) in images() {
        let image = Image::flat(&bytes);
        let start = std::time::Instant::now();
        let prepared = Prepared::find(&image).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        println!(
            "{}: {} prepared in {:?}",
            path.display(),
            prepared.info.release(),
            start.elapsed()
        );
        let kernel = Kernel::new(&image, &prepared);
        assert_eq!(
            kernel.symbol_name(prepared.symbols.init_task).as_deref(),
            Some("init_task")
        );
        let page = kernel.pfn_to_page(Pfn(0x100));
        assert_eq!(kernel.page_to_pfn(page), Ok(Pfn(0x100)));
        assert_eq!(kernel.cpu_count(), prepared.per_cpu.len());

        let log: Vec<_> = log(&kernel).expect("the log can be read").collect();
        let log: Vec<_> = log
            .into_iter()
            .map(|record| record.expect("every record can be read"))
            .collect();
        assert!(
            log.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq),
            "records follow one another"
        );
        assert!(
            log[0].text.starts_with(b"Linux version "),
            "the log begins with the banner"
        );
        let panic = b"Kernel panic - not syncing: ";
        assert!(
            log.iter().any(|record| record.text.starts_with(panic)),
            "the log tells of the panic"
        );

        for module in modules(&kernel) {
            let module = module.expect("every module can be read");
            println!("  {} {} {}", module.name, module.base, module.size);
            assert!(module.live && module.size > 0);
        }
    }
}
