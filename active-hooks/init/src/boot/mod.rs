//! What any first program of an initramfs does.

pub mod cmdline;
pub mod emergency;
pub mod ext4;
pub mod log;
pub mod modules;
pub mod mounts;
pub mod pids;
pub mod quiet;
pub mod root;
pub mod superblock;
pub mod switch;

use crate::{
    restore::meter::{self, Part},
    standby,
    takeover::{self, Role},
};
use anyhow::{Context, Result};
use cmdline::Cmdline;
use shared_region::fail_at::FailAt;
use std::convert::Infallible;

/// Where the root file system is mounted before it becomes the root.
pub const SYSROOT: &str = "/sysroot";
/// User space of every armed kernel starts at this process id, so that ids of daemons do not meet those of the early
/// programs of a successor.
const FIRST_USER_PID: u32 = 2000;
const DEFAULT_INIT: &str = "/sbin/init";

/// Boots; returns only with an error.
///
/// # Errors
/// What keeps the distribution's init from being started, by name.
pub fn run() -> Result<Infallible> {
    let started = takeover::clock::tsc();
    mounts::early().context("cannot mount the kernel's own file systems")?;
    let cmdline = Cmdline::of_this_kernel().context("cannot read /proc/cmdline")?;
    let device = modules::load_orthros(&cmdline);
    if device.is_none() && cmdline.is_successor() {
        takeover::gate::leave_it_to_another(format_args!(
            "a successor without its module can take nothing over, and must not touch the disks of what it leaves behind"
        ));
    }
    // Disks are looked for after the sleep: the kernel that runs meanwhile may divide them anew.
    let rested = standby::rest(device.as_ref(), started, cmdline.is_successor());
    let role = Role::find(device, rested.started);

    if let Role::Successor { .. } = role {
        // Every later kernel would find the disks written to.
        if let Err(error) = meter::at(Part::Looking, || root::look(&cmdline)) {
            takeover::gate::leave_it_to_another(format_args!("{error:#}"));
        }
    }
    let mut takeover = takeover::prepare(role, rested.haste)?;
    takeover.before_mount()?;
    meter::at(Part::Mounts, || root::mount(&cmdline, SYSROOT))?;
    let old_root = switch::to(SYSROOT).with_context(|| format!("cannot make {SYSROOT} the root directory"))?;
    pids::start_at(FIRST_USER_PID);
    let hand_over = takeover.complete()?;
    takeover::network::let_in();
    takeover::fail_at::here(FailAt::Init);

    let init = cmdline
        .value("orthros.init")
        .or_else(|| cmdline.value("init"))
        .unwrap_or(DEFAULT_INIT);
    switch::exec(old_root, init, hand_over.arguments(init)).with_context(|| format!("cannot start {init}"))
}
