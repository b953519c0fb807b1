//! How long salvage takes over an image, single-threaded.
//!
//! `ORTHROS_IMAGE_DIR` names a folder of images (`*.mem`, RAM from address 0 on); without it nothing is measured. Every
//! process of an image but init is salvaged, over and over; the fastest run counts.

use salvage::failover::{run, Input, Protected, Stopped};
use salvage::kernel::Kernel;
use salvage::memory::{Image, PhysMem};
use salvage::prepared::Prepared;
use std::time::{Duration, Instant};

const ROUNDS: usize = 15;
/// Bytes of the area for records.
const AREA: usize = 64 << 20;

fn main() {
    let Some(dir) = std::env::var_os("ORTHROS_IMAGE_DIR") else {
        println!("ORTHROS_IMAGE_DIR is not set: nothing to measure");
        return;
    };
    let mut area = vec![0u8; AREA];
    for entry in std::fs::read_dir(dir).expect("image folder can be read") {
        let path = entry.expect("folder entry can be read").path();
        if path.extension().is_none_or(|extension| extension != "mem") {
            continue;
        }
        let bytes = std::fs::read(&path).expect("image can be read");
        let image = Image::flat(&bytes);
        let prepared = Prepared::find(&image).expect("the image holds a kernel");
        let mut retained = vec![0u8; (image.end().pfn().0 / 8 + 1) as usize];
        let input = Input {
            facts: None,
            protected: Protected::All,
            stopped: Stopped::Image,
            readings: None,
            failover: 1,
            suspect: None,
            warm_pages: 0,
            by_file: false,
        };
        let mut best = Duration::MAX;
        let mut saved = None;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let kernel = Kernel::new(&image, &prepared);
            saved = Some(run(&kernel, &input, &mut area, &mut retained).expect("the area is large enough"));
            best = best.min(start.elapsed());
        }
        println!("{}: {:.3} ms", path.display(), best.as_secs_f64() * 1e3);
        println!("  {:?}", saved.expect("at least one run"));
    }
}
