//! Call chains of real kernels, out of memory images (see `image.rs`).

use salvage::addr::Kva;
use salvage::kernel::Kernel;
use salvage::memory::Image;
use salvage::orc::{frames, Unwind};
use salvage::overview::processes;
use salvage::prepared::Prepared;

#[test]
#[ignore = "needs ORTHROS_IMAGE_DIR"]
fn chains_end_where_they_should() {
    let dir = std::env::var_os("ORTHROS_IMAGE_DIR").expect("ORTHROS_IMAGE_DIR names a folder of images");
    for entry in std::fs::read_dir(dir).expect("image folder can be read") {
        let path = entry.expect("folder entry can be read").path();
        if path.extension().is_none_or(|extension| extension != "mem") {
            continue;
        }
        let bytes = std::fs::read(&path).expect("image can be read");
        let image = Image::flat(&bytes);
        let prepared = Prepared::find(&image).expect("the image holds a kernel");
        let kernel = Kernel::new(&image, &prepared);
        let names = |chain: &[Kva]| -> Vec<String> {
            let name = |&ip: &Kva| {
                kernel
                    .kallsyms
                    .symbolize(ip.back(1))
                    .map_or("?".into(), |found| found.name)
            };
            chain.iter().map(name).collect()
        };
        let mut panicked = 0;
        let mut asleep = 0;
        for thread in processes(&kernel, |error| panic!("{error}"))
            .into_iter()
            .flat_map(|process| process.threads)
        {
            if let Some(chain) = Unwind::panicking(&kernel, thread.task).expect("the stack can be read") {
                let (chain, error) = frames(chain);
                let names = names(&chain);
                println!("{}: {names:?} {error:?}", String::from_utf8_lossy(&thread.comm));
                assert_eq!(error, None);
                assert_eq!(names.first().map(String::as_str), Some("sysrq_handle_crash"));
                assert!(names.last().is_some_and(|name| name.starts_with("entry_SYSCALL_64")));
                panicked += 1;
            } else if !thread.on_cpu {
                let (chain, error) = frames(Unwind::sleeping(&kernel, thread.task).expect("the stack can be read"));
                let names = names(&chain);
                assert_eq!(error, None, "{}: {names:?}", String::from_utf8_lossy(&thread.comm));
                let last = names.last().expect("a frame").as_str();
                let known = [
                    "ret_from_fork",
                    "ret_from_fork_asm",
                    "entry_SYSCALL_64",
                    "entry_SYSCALL_64_after_hwframe",
                ];
                assert!(
                    known.contains(&last),
                    "{}: {names:?}",
                    String::from_utf8_lossy(&thread.comm)
                );
                asleep += 1;
            }
        }
        println!("{}: {asleep} chains", path.display());
        assert!(panicked == 1 && asleep > 40, "{panicked} {asleep}");
    }
}
