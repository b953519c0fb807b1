//! How long a scan of 1 GiB of 4 KB pages takes, with the page tables out of the caches.
//!
//! Prints milliseconds for a GiB, the median of several rounds: entries looked at, and entries grouped into runs where
//! no two frames follow one another (the worst case) and where they come in pairs.

use salvage::addr::{PhysAddr, Uva};
use salvage::memory::Image;
use salvage::paging::{runs, Leaf, Levels, PageTables, Pte};
use std::hint::black_box;
use std::time::{Duration, Instant};

const PAGES: u64 = 1 << 18;
const TABLE: u64 = 0x27;
const PAGE: u64 = 0x8000_0000_0000_0067;
const ROUNDS: usize = 15;

fn put(image: &mut [u8], at: u64, value: u64) {
    image[at as usize..][..8].copy_from_slice(&value.to_le_bytes());
}

/// Tables that map 1 GiB from address 0 on: root at 0, then one table each of levels 3 and 2, then 512 last-level ones.
fn build(step: u64) -> Vec<u8> {
    let mut image = vec![0; (3 + 512) << 12];
    put(&mut image, 0, 0x1000 | TABLE);
    put(&mut image, 0x1000, 0x2000 | TABLE);
    for table in 0..512 {
        put(&mut image, 0x2000 + table * 8, (0x3000 + table * 0x1000) | TABLE);
    }
    for page in 0..PAGES {
        let frame = if step == 1 {
            page * 7919 % PAGES
        } else {
            page / step * 7919 % PAGES * step + page % step
        };
        put(&mut image, 0x3000 + page * 8, (frame << 12) | PAGE);
    }
    image
}

fn median(mut run: impl FnMut()) -> Duration {
    let mut flush = vec![0u8; 64 << 20];
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|round| {
            // Writing more than the last-level cache holds puts the tables out of it.
            flush.fill(round as u8);
            black_box(&flush);
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

fn main() {
    let tables = PageTables {
        root: PhysAddr(0),
        levels: Levels::Four,
    };
    let bytes = build(1);
    let image = Image::flat(&bytes);
    let looked = median(|| {
        let mut present = 0u64;
        tables
            .scan(&image, Uva(0), Uva(PAGES << 12), &mut |leaf| {
                if let Leaf::Table { entries, .. } = leaf {
                    for entry in entries {
                        present += u64::from(Pte(u64::from_le_bytes(*entry)).is_mapped());
                    }
                }
            })
            .expect("tables are sound");
        assert_eq!(black_box(present), PAGES);
    });
    println!("entries looked at:     {:.3} ms/GiB", looked.as_secs_f64() * 1e3);
    for (step, name) in [
        (1, "runs of one page: "),
        (2, "runs of two pages:"),
        (512, "runs of 2 MB:     "),
    ] {
        let bytes = build(step);
        let image = Image::flat(&bytes);
        let time = median(|| {
            let mut count = 0u64;
            tables
                .scan(&image, Uva(0), Uva(PAGES << 12), &mut |leaf| {
                    if let Leaf::Table { start, entries, .. } = leaf {
                        runs(start, entries, |run| count += run.pages);
                    }
                })
                .expect("tables are sound");
            assert_eq!(black_box(count), PAGES);
        });
        println!("{name}     {:.3} ms/GiB", time.as_secs_f64() * 1e3);
    }
}
