//! The salvager over the memory of real kernels: one guest a kernel is made to panic with structures in it whose
//! contents are known (`truth-kmod`), its memory is written to a file, and the host's tests run over that.

use crate::agent::Agent;
use crate::artefacts::{build_truth_module, Artefacts};
use crate::exec;
use crate::kernels::{Kernel, Series};
use crate::machine::Plan;
use crate::paths::Paths;
use crate::progress::Step;
use crate::run;
use crate::scenario::Scenario;
use anyhow::{Context, Result};
use regex::Regex;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// MiB of the guest: enough for a stock kernel, and little to search.
const RAM: u32 = 512;
/// For a command in the guest.
const SHORT: Duration = Duration::from_secs(60);
/// Bytes of the disk on which the guest leaves its type information.
const TYPES_DISK: u64 = 32 << 20;

/// A test's name without the kernel, the package and target it is in, and what it runs over.
type Named = (&'static str, &'static str, &'static str);

/// Tests over the image of a dead guest.
const OVER_IMAGE: [Named; 8] = [
    ("salvager against the truth module", "salvage", "truth"),
    ("salvager over a dead kernel", "salvage", "image"),
    ("salvager over stacks of a dead kernel", "salvage", "stacks"),
    ("salvager over processes, whole and overwritten", "salvage", "processes"),
    ("BTF of another kernel", "salvage", "foreign_btf"),
    ("salvager over hostile images", "salvage", "hostile_image"),
    ("salvager over a damaged file cache", "salvage", "damaged_files"),
    ("orthros-inspect over a dead kernel", "inspect", "cli"),
];
/// Tests over the guest's type information.
const OVER_TYPES: [Named; 2] = [
    ("BTF against pahole", "btf", "pahole"),
    ("BTF of modules", "btf", "split"),
];

/// The name under which [`check`] is listed; the names of what it runs follow from it.
#[must_use]
pub fn name(series: Series) -> String {
    format!("salvager on {series}")
}

/// Makes the image and runs every test over it. Returns their names and failures.
///
/// # Errors
/// When the guest does not get far enough to leave an image.
pub fn check(paths: &Paths, artefacts: &Artefacts, series: Series) -> Result<Vec<(String, Option<String>)>> {
    let dir = paths.target.join("images").join(series.name());
    crate::cache::remove(&dir)?;
    let dead = Dead::make(paths, artefacts, series, &dir)?;
    let mut results = Vec::new();
    for test in OVER_IMAGE.iter().chain(&OVER_TYPES) {
        let (what, package, target) = test;
        let step = format!("{}: {what}", name(series));
        let _shown = Step::start(step.clone());
        let result = exec::quiet(
            Command::new("cargo")
                .args(["test", "--quiet", "-p", package_name(package), "--test", target])
                .args(["--", "--ignored"])
                .env("ORTHROS_IMAGE_DIR", &dead.images)
                .env("ORTHROS_TRUTH_DIR", &dead.images)
                .env("ORTHROS_BTF", dead.types.join("vmlinux"))
                .env("ORTHROS_BTF_MODULES", dead.types.join("modules"))
                .env("CARGO_TARGET_DIR", &paths.target)
                .current_dir(&paths.root),
        );
        results.push((step, result.err().map(|error| format!("{error:#}"))));
    }
    if results.iter().all(|(_, failure)| failure.is_none()) {
        crate::cache::remove(&dir)?;
    }
    Ok(results)
}

fn package_name(short: &str) -> &str {
    match short {
        "inspect" => "orthros-inspect",
        other => other,
    }
}

/// What a dead guest has left.
struct Dead {
    /// A folder with `<series>.mem`, and the guest's own view of itself in `con.<series>.log`.
    images: PathBuf,
    /// A folder with the kernel's type information, `vmlinux`, and that of modules in `modules/*.btf`.
    types: PathBuf,
}

impl Dead {
    fn make(paths: &Paths, artefacts: &Artefacts, series: Series, dir: &Path) -> Result<Self> {
        let _step = Step::start(format!("an image of a dead {series} guest with known structures"));
        let images = dir.join("images");
        let types = dir.join("types");
        fs::create_dir_all(&images)?;
        fs::create_dir_all(&types)?;
        let truth = build_truth_module(paths, &Kernel::find(paths, series)?)?;
        let tar = dir.join("types.tar");
        fs::File::create(&tar)?.set_len(TYPES_DISK)?;

        let mut scenario = Scenario::read(&paths.root.join("apps-tests/scenarios/smoke"))?;
        scenario.guest.ram = RAM;
        let mut plan = Plan::new(series, series, dir.join("guest"));
        plan.stock = true;
        // Two raw disks pass the module in and type information out: /dev/vdb and /dev/vdc.
        for (id, file, more) in [("truth", &truth, ",readonly=on"), ("types", &tar, "")] {
            let drive = format!("if=none,id={id},format=raw,file={}{more}", file.display());
            let device = format!("virtio-blk-pci,drive={id}");
            plan.qemu.extend(["-drive".into(), drive, "-device".into(), device]);
        }
        let mut machine = run::ready_machine(paths, artefacts, &scenario, &plan)?;
        let own_view = prepare(&mut machine.agent).map_err(|error| machine.explain(error))?;
        fs::write(images.join(format!("con.{series}.log")), own_view)?;
        let console = machine.qemu.console.position();
        machine.agent.send("echo c >/proc/sysrq-trigger")?;
        let end = Regex::new("end Kernel panic")?;
        machine.qemu.console.wait_for(console, &end, SHORT)?;
        machine
            .qemu
            .save_memory(&images.join(format!("{series}.mem")), u64::from(RAM) << 20)?;
        drop(machine);
        unpack_types(&tar, &types)?;
        Ok(Self { images, types })
    }
}

/// Builds the known structures, saves the type information, and returns how the guest sees itself: a line
/// `TASK <pid>/task/<tid> <comm>` for each thread, and symbols as `/proc/kallsyms` shows them.
fn prepare(agent: &mut Agent) -> Result<String> {
    agent.check(
        "dd if=/dev/vdb of=/run/truth.ko bs=64k && /usr/lib/orthros-tests/busybox insmod /run/truth.ko",
        SHORT,
    )?;
    // tar takes sysfs' short reads for files that shrink.
    agent.check(
        "mkdir /run/btf && for file in /sys/kernel/btf/*; do cat $file >/run/btf/${file##*/} || exit; done; \
         tar -C /run/btf -cf /dev/vdc . && sync",
        SHORT,
    )?;
    agent.check(
        "cd /proc; for thread in [0-9]*/task/[0-9]*; do read -r comm <$thread/comm && echo \"TASK $thread $comm\"; done; \
         for number in $(seq 40); do echo $number >/var/$number; done; \
         grep -E ' (init_task|init_uts_ns|panic|super_blocks|modules|prb|_stext|vfs_read)$' kallsyms",
        SHORT,
    )
}

fn unpack_types(tar: &Path, to: &Path) -> Result<()> {
    exec::quiet(Command::new("tar").arg("-C").arg(to).arg("-xf").arg(tar))?;
    let modules = to.join("modules");
    fs::create_dir_all(&modules)?;
    for entry in fs::read_dir(to)? {
        let path = entry?.path();
        let name = path.file_name().context("an entry has a name")?.to_string_lossy();
        if path.is_file() && name != "vmlinux" {
            fs::rename(&path, modules.join(format!("{name}.btf")))?;
        }
    }
    Ok(())
}
