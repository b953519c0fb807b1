//! Times salvage over an image of a guest's memory: `bench-salvage IMAGE [PID] [ROUNDS]`.
//!
//! Every user process counts as protected, or the one named. Times are the best and the median of the rounds, single-threaded.

use salvage::failover::{run, Input, Protected, Stopped};
use salvage::kernel::Kernel;
use salvage::memory::Image;
use salvage::prepared::Prepared;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: bench-salvage IMAGE [PID] [ROUNDS]")?;
    let pid: Option<u32> = arguments.next().map(|text| text.parse()).transpose()?;
    let rounds: usize = arguments.next().map_or(Ok(20), |text| text.parse())?;
    let bytes = std::fs::read(&path)?;
    let image = Image::flat(&bytes);
    let start = Instant::now();
    let prepared = Prepared::find(&image)?;
    println!("prepared in {:?}", start.elapsed());
    let input = Input {
        facts: None,
        protected: pid.map_or(Protected::All, Protected::One),
        stopped: Stopped::Image,
        readings: None,
        failover: 0,
        suspect: None,
        warm_pages: 0,
        by_file: false,
    };
    let mut area = vec![0; 46 << 20];
    let mut retained = vec![0; 4 << 20];
    let mut times = Vec::new();
    let mut saved = None;
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        let kernel = Kernel::new(&image, &prepared);
        saved = Some(run(&kernel, &input, &mut area, &mut retained)?);
        times.push(start.elapsed());
    }
    times.sort();
    if let Some(saved) = saved {
        println!("{:?}, {} bytes of context", saved.summary, saved.bytes);
    }
    println!("salvage: best {:?}, median {:?}", times[0], times[times.len() / 2]);
    Ok(())
}
