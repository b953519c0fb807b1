//! `orthros-ctl stage`: another kernel is put where the backup OS boots it from.
//!
//! Everything is checked in user land first; then the slot that the running kernel is not from is filled, and made the
//! current one by one word. Until then, and if the backup OS refuses it, the kernel before takes over.

mod drivers;
mod images;
pub mod slots;

use crate::cli;
use crate::exit::Exit;
use crate::root::Root;
use crate::snapshot::{libc_errno, open_region, Snapshot};
use crate::units::bytes;
use anyhow::{anyhow, bail, ensure, Result};
pub use images::check_options;
use images::Images;
use orthros_device::{Device, Region};
use serde_json::{json, Value};
use shared_region::device::{StageCommit, STAGE_WRITE_MOST};
use shared_region::stage::{digest, StageState};
use std::time::{Duration, Instant};

/// How long the backup OS may take to check what was staged: it has half a second to copy and digest 40 MB.
const CHECKED: Duration = Duration::from_secs(30);
/// And to unpack it, a step between two looks. It could take over before that is done.
const UNPACKED: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(20);

fn progress(text: &str) {
    eprintln!("stage: {text}");
}

/// Stages, or shows what is staged.
pub fn run(wish: &cli::Stage) -> Result<Exit> {
    check_options(&wish.images)?;
    let (device, region) = open_region()?;
    if wish.images.kernel.is_some() {
        ensure!(device.lock(), "an update or another stage is under way");
        stage(&device, &region, &wish.images)?;
    }
    let slots = slots::read(&region, &Snapshot::take(&region));
    if wish.json {
        println!("{:#}", json(&region, &slots));
    } else if slots.is_empty() {
        println!("nothing is staged");
    } else {
        slots.iter().for_each(|slot| println!("{}", slot.text()));
        if let Some(text) = slots::state_text(&slots::answer(&region)) {
            println!("state: {text}");
        }
        if let Some(text) = Snapshot::take(&region).standby.text() {
            println!("standby: {text}");
        }
    }
    Ok(if slots.iter().any(|slot| slot.next) {
        Exit::Fine
    } else {
        Exit::No
    })
}

fn json(region: &Region, slots: &[slots::Slot]) -> Value {
    json!({
        "version": 1,
        "slots": slots.iter().map(slots::Slot::json).collect::<Vec<_>>(),
        "state": slots::state_text(&slots::answer(region)),
        "standby": Snapshot::take(region).standby.name(),
    })
}

/// Puts a kernel into a slot and waits until the backup OS has it ready.
///
/// # Errors
/// What is wrong with it. What was staged before is still staged if it is wrong itself.
pub fn stage(device: &Device, region: &Region, wish: &cli::Images) -> Result<()> {
    progress("checking kernel and initramfs");
    let before = slots::read(region, &Snapshot::take(region));
    let cmdline = before.first().map_or(&[][..], |slot| slot.staged.cmdline());
    let images = Images::prepare(wish, &Root::system(), cmdline)?;
    for warning in &images.warnings {
        progress(&format!("warning: {warning}"));
    }
    let request = write(device, &images)?;
    progress(&format!("kernel {} is staged", images.release));
    wait(region, request)
}

/// Fills the slot. Returns the number of the request.
fn write(device: &Device, images: &Images) -> Result<u64> {
    let begun = device.stage_begin().map_err(refused)?;
    let total = images.initramfs_offset() + images.initramfs.len() as u64;
    ensure!(
        total <= begun.room,
        "kernel and initramfs need {}, the slot has {}",
        bytes(total),
        bytes(begun.room)
    );
    for (at, content) in [(0, &images.kernel), (images.initramfs_offset(), &images.initramfs)] {
        for (index, piece) in content.chunks(STAGE_WRITE_MOST as usize).enumerate() {
            let offset = at + index as u64 * STAGE_WRITE_MOST;
            if offset.is_multiple_of(8 * STAGE_WRITE_MOST) {
                progress(&format!(
                    "writing into slot {}: {} of {}",
                    begun.slot,
                    bytes(offset),
                    bytes(total)
                ));
            }
            device.stage_write(offset, piece).map_err(refused)?;
        }
    }
    let request = StageCommit {
        kernel_len: images.kernel.len() as u64,
        initramfs_offset: images.initramfs_offset(),
        initramfs_len: images.initramfs.len() as u64,
        kernel_digest: digest(&images.kernel).into(),
        initramfs_digest: digest(&images.initramfs).into(),
        ..StageCommit::default()
    };
    device.stage_commit(request, &images.cmdline).map_err(refused)
}

fn refused(error: orthros_device::DeviceError) -> anyhow::Error {
    match error.errno() {
        Some(libc_errno::EBUSY) => anyhow!("the last failover is still being handed over; try again in a moment"),
        _ => error.into(),
    }
}

/// Waits until the backup OS has looked at a request and unpacked the kernel.
fn wait(region: &Region, request: u64) -> Result<()> {
    let start = Instant::now();
    let mut told = false;
    loop {
        let answer = slots::answer(region);
        if answer.request >= request {
            match answer.state {
                Some(StageState::Ready) => {
                    progress("it is ready");
                    return Ok(());
                }
                Some(StageState::Refused) => bail!("the backup OS refuses it: {}", answer.why),
                Some(StageState::Placed) if !told => {
                    progress("it could take over, and is being unpacked");
                    told = true;
                }
                _ => {}
            }
            if start.elapsed() > UNPACKED {
                progress("warning: it is not unpacked yet; it would unpack itself at a failover");
                return Ok(());
            }
        } else if start.elapsed() > CHECKED {
            bail!("the backup OS has not looked at it within {CHECKED:?}; `orthros-ctl status` says what it is doing");
        }
        std::thread::sleep(STEP);
    }
}
