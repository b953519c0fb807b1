//! A successor that was booted ahead of time: goes to sleep before anything is mounted or added, and goes on from there
//! when it is woken.
//!
//! What we know on entry: the module is loaded, nothing else is, and the region says whether this is such a start. What
//! we are responsible for: drivers are loaded on return, or before it; what sleeps has seen no disk, since others will write to it meanwhile; two kernels woken from
//! one image do not draw the same random numbers; and a standby that cannot sleep ends at once, so that the machine does
//! not wait for it.

mod drivers;
pub mod rehearsal;
mod scrub;

use crate::{
    boot::{log, modules},
    restore::meter::{self, Part},
    takeover::{clock, haste::Haste, network},
};
use anyhow::{bail, Context, Result};
use orthros_device::{Device, Region};
use shared_region::{layout, standby::StandbyState};
use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsRawFd,
};

const MEM_SLEEP: &str = "/sys/power/mem_sleep";
const STATE: &str = "/sys/power/state";
const BLOCK: &str = "/sys/class/block";

/// What there is after [`rest`].
#[derive(Debug)]
pub struct Rested {
    /// The time-stamp counter at this program's start, or at its first instruction after the sleep.
    pub started: u64,
    /// Of a successor: everybody waits.
    pub haste: Option<Haste>,
}

/// Loads the drivers, and sleeps if this kernel was started to do so.
pub fn rest(device: Option<&Device>, started: u64, successor: bool) -> Rested {
    // What is wrong with the region is told when the role is looked for.
    let region = device.and_then(|device| Some((device, device.region().ok()?)));
    let sleeps = |(_, region): &(_, Region)| region.standby() == Ok(StandbyState::Starting);
    let Some((device, region)) = region.filter(sleeps) else {
        let haste = successor.then(Haste::begin);
        let held = |device: &Device| Some(network::is_held(&device.region().ok()?));
        let network_later = successor && device.and_then(held) == Some(true);
        modules::load_list(modules::LIST, network_later);
        return Rested { started, haste };
    };
    let woken = sleep(device, &region).and_then(|(rested, joining)| {
        go_on(device, &region, &joining)?;
        Ok(rested)
    });
    match woken {
        Ok(rested) => rested,
        Err(error) => {
            log::error(format_args!("standby: {error:#}"));
            // The end of process 1 is a panic, which the backup OS sees at once.
            std::process::exit(1);
        }
    }
}

fn sleep(device: &Device, region: &Region) -> Result<(Rested, drivers::Joining)> {
    let parted = drivers::part().context("/sys/bus")?;
    modules::load_list(modules::LIST, false);
    let joining = parted.joining();
    let disks = disks()?;
    if !disks.is_empty() {
        bail!(
            "disks are there already, and what is known of them would be stale: {}",
            disks.join(" ")
        );
    }
    prepare_lazily(device);
    if let Err(refusal) = rehearsal::rehearse(&rehearsal::Stage(device)) {
        log::warning(format_args!(
            "standby: processes will not be rebuilt on this kernel: {refusal}"
        ));
    }
    // Without it the image is larger.
    let idle = device.rest().unwrap_or_else(|error| {
        log::warning(format_args!("standby: {error}"));
        0
    });
    let empty = scrub::free_memory();
    log::info(format_args!(
        "standby: going to sleep, {} MB of memory idle, {} MB empty",
        idle >> 20,
        empty >> 20
    ));
    let haste = Haste::begin();
    fs::write(MEM_SLEEP, "deep").with_context(|| format!("{MEM_SLEEP} = deep"))?;
    fs::write(STATE, "mem").with_context(|| format!("{STATE} = mem"))?;
    let woken = clock::tsc();
    meter::begin();
    match region.standby() {
        Ok(StandbyState::Waking) => {
            let rested = Rested {
                started: woken,
                haste: Some(haste),
            };
            Ok((rested, joining))
        }
        other => bail!("the sleep ended by itself: {other:?}"),
    }
}

/// Does now what the first process whose memory comes late would wait for.
pub fn prepare_lazily(device: &Device) {
    // Without it memory comes before its process runs.
    if let Err(error) = device.prepare_lazily() {
        log::warning(format_args!("memory cannot come late: {error}"));
    }
}

/// Block devices with something behind them.
fn disks() -> Result<Vec<String>> {
    let entries = fs::read_dir(BLOCK).with_context(|| BLOCK)?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !["loop", "ram", "zram"].iter().any(|kind| name.starts_with(kind)))
        .collect())
}

fn go_on(device: &Device, region: &Region, joining: &drivers::Joining) -> Result<()> {
    device.wake()?;
    // A warning, so that whoever watches the console sees that this kernel takes over.
    log::warning(format_args!("standby: woken"));
    if let Err(error) = stir(region) {
        log::warning(format_args!(
            "standby: the random-number generator was not stirred: {error}"
        ));
    }
    meter::at(Part::Devices, || joining.join());
    // This kernel's tables promise a sleep that nobody would wake it from; the default is to be one that needs nobody.
    if let Err(error) = fs::write(MEM_SLEEP, "s2idle") {
        log::warning(format_args!("{MEM_SLEEP} = s2idle: {error}"));
    }
    Ok(())
}

/// Makes this kernel's random numbers its own: the time-stamp counter, and what the dead kernel's CPUs had in their
/// registers and the backup OS in its log, which no other awakening has.
fn stir(region: &Region) -> std::io::Result<()> {
    /// `_IO('R', 0x07)` (include/uapi/linux/random.h): the generator takes its new key from the pool now.
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    let mut random = File::options().write(true).open("/dev/urandom")?;
    random.write_all(&clock::tsc().to_le_bytes())?;
    for part in [layout::CONTROL, layout::TIMELINE, layout::LOG] {
        random.write_all(&region.copy(part, STIRRED))?;
    }
    for slot in 0..layout::MAX_CPUS {
        let start = layout::PARKING_SLOTS.offset + (slot * shared_region::parking::SLOT_SIZE) as u64;
        let words = (0..SLOT_WORDS).map(|word| region.word(start + 8 * word));
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        if bytes.iter().any(|&byte| byte != 0) {
            random.write_all(&bytes)?;
        }
    }
    // SAFETY: takes no argument; concerns the generator alone.
    let done = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) };
    if done == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Bytes of each part that are stirred in.
const STIRRED: usize = 16 << 10;
/// Words at the head of a parking slot: registers and the instant.
const SLOT_WORDS: u64 = 40;
