//! Reads real kernels out of memory images.
//!
//! Ignored unless asked for (`cargo test -- --ignored`): `ORTHROS_IMAGE_DIR` names a folder with images of guests that
//! have panicked, one `*.mem` file each, RAM below 4 GB from offset 0 on.

use salvage::addr::{Kva, Pfn};
use salvage::kernel::Kernel;
use salvage::memory::Image;
use salvage::modules::modules;
use salvage::prepared::Prepared;
use salvage::printk::log;
use salvage::vmcoreinfo;
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

/// Texts of earlier kernels stay in memory after a failover; none of them may be taken for the kernel that ran last.
#[test]
#[ignore = "needs ORTHROS_IMAGE_DIR"]
fn stale_copies_do_not_mislead() {
    for (path, mut bytes) in images() {
        let right = Prepared::find(&Image::flat(&bytes)).expect("the image holds a kernel");
        let text = |info: &str, edit: &dyn Fn(&str) -> String| -> String {
            info.lines().map(|line| edit(line) + "\n").collect()
        };
        let (at, _) = vmcoreinfo::find_all(&Image::flat(&bytes))
            .into_iter()
            .find(|(_, info)| *info == right.info)
            .expect("the text is there");
        let start = at.0 as usize;
        let end = start
            + bytes[start..]
                .iter()
                .position(|&byte| byte == 0)
                .expect("the text ends");
        let original = String::from_utf8(bytes[start..end].to_vec()).expect("text");
        let moved = text(&original, &|line| match line.split_once("NUMBER(phys_base)=") {
            Some((_, base)) => format!(
                "NUMBER(phys_base)={}",
                base.parse::<i64>().expect("a number") + 0x20_0000
            ),
            None => line.to_string(),
        });
        let other = text(&original, &|line| match line.split_once("OSRELEASE=") {
            Some(_) => "OSRELEASE=5.10.0-stale".to_string(),
            None => line.to_string(),
        });
        // Low memory is not the kernel's: the copies come first in a scan.
        for (place, copy) in [(0x2000, moved), (0x4000, other)] {
            bytes[place..][..copy.len()].copy_from_slice(copy.as_bytes());
            bytes[place + copy.len()] = 0;
        }
        let found = Prepared::find(&Image::flat(&bytes)).expect("the image still holds a kernel");
        assert!(found == right, "{}", path.display());
    }
}

/// The guest's console shows `/proc/kallsyms` lines: `<address> <type> <name>`.
#[test]
#[ignore = "needs ORTHROS_IMAGE_DIR"]
fn symbols_are_those_of_proc_kallsyms() {
    for (path, bytes) in images() {
        let name = format!("con.{}.log", path.file_stem().expect("a name").to_string_lossy());
        let Ok(console) = std::fs::read(path.with_file_name(name)) else {
            continue;
        };
        let prepared = Prepared::find(&Image::flat(&bytes)).expect("the image holds a kernel");
        let mut compared = 0;
        for line in String::from_utf8_lossy(&console).lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [address, kind, name] = words[..] else { continue };
            let Ok(address) = u64::from_str_radix(address, 16) else {
                continue;
            };
            if kind.len() != 1 || address < 1 << 63 {
                continue;
            }
            assert!(prepared.kallsyms.lookup_each(name).contains(&Kva(address)), "{line}");
            compared += 1;
        }
        assert!(compared >= 5, "{compared} symbols compared");
    }
}
