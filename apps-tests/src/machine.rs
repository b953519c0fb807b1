//! A guest made ready: every part built or found, put on a disc and a disk, and booted.

use crate::accelerator;
use crate::agent::Agent;
use crate::artefacts::Artefacts;
use crate::disc::{self, Contents, Staged};
use crate::initramfs::{self, Parts};
use crate::kernels::{Kernel, Series};

use crate::paths::Paths;
use crate::qemu::{Accelerator, Boot, Config, Qemu};
use crate::rootfs::{self, File, Spec};
use crate::scenario::Scenario;
use anyhow::{bail, Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What differs from run to run besides the scenario.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The kernel that runs first.
    pub active: Series,
    /// The kernel that takes over.
    pub successor: Series,
    /// Where logs and disks of this run go.
    pub dir: PathBuf,
    /// Boot the kernel directly, without loader and backup OS.
    pub stock: bool,
    /// Have GRUB boot it all the same.
    pub grub: bool,
    /// More files for the guest.
    pub files: Vec<File>,
    /// Options for the loader.
    pub loader_options: String,
    /// More words for both kernels' command lines.
    pub kernel_parameters: String,
    /// A first program for the initramfs instead of orthros-init.
    pub init: Option<PathBuf>,
    /// Use this accelerator instead of the best one.
    pub accelerator: Option<Accelerator>,
    /// Keep the guest's RAM in a file of the run's folder.
    pub memory_file: bool,
    /// A reset restarts the machine instead of ending it.
    pub reboot: bool,
    /// More arguments for QEMU.
    pub qemu: Vec<String>,
}

impl Plan {
    /// The plain plan: Orthros with all its defaults.
    #[must_use]
    pub const fn new(active: Series, successor: Series, dir: PathBuf) -> Self {
        Self {
            active,
            successor,
            dir,
            stock: false,
            grub: false,
            files: Vec::new(),
            init: None,
            loader_options: String::new(),
            kernel_parameters: String::new(),
            accelerator: None,
            memory_file: false,
            reboot: false,
            qemu: Vec::new(),
        }
    }
}

/// A running guest with its agent.
pub struct Machine {
    /// The process and its serial lines.
    pub qemu: Qemu,
    /// For commands in the guest.
    pub agent: Agent,
    /// The kernel that runs first.
    pub active: Kernel,
    /// The kernel that takes over.
    pub successor: Kernel,
    config: Config,
}

/// What an emulated machine needs of a kernel. Its time-stamp counters agree, but its CPUs do not promise it
/// (X86_FEATURE_CONSTANT_TSC), so that Linux 6.1 takes those of several CPUs for unsynchronised (`unsynchronized_tsc()`) and
/// reads the HPET instead: a device access for each look at the clock. And they pass for CPUs that need ten milliseconds
/// to take an INIT, which Linux spends for each at every boot and awakening (`smp_quirk_init_udelay()`); hardware of the last
/// twenty years does not.
const EMULATED: &str = "tsc=reliable cpu_init_udelay=0";

/// Debian's static busybox on the host, used inside the guest.
///
/// # Errors
/// When it is not installed.
pub fn busybox() -> Result<PathBuf> {
    let path = PathBuf::from("/bin/busybox");
    if !path.is_file() {
        bail!("/bin/busybox is missing: apt install busybox-static");
    }
    Ok(path)
}

impl Machine {
    /// Makes disc and disks from parts that were built before, and starts the machine.
    ///
    /// # Errors
    /// When a part is missing or QEMU does not start.
    pub fn start(paths: &Paths, artefacts: &Artefacts, scenario: &Scenario, plan: &Plan) -> Result<Self> {
        std::fs::create_dir_all(&plan.dir)?;
        let active = Kernel::find(paths, plan.active)?;
        let successor = Kernel::find(paths, plan.successor)?;
        let busybox = busybox()?;
        let accelerator = match plan.accelerator {
            Some(accelerator) => accelerator,
            None => accelerator::choose(paths, &busybox)?,
        };
        let boot = boot(paths, artefacts, scenario, plan, [&active, &successor], &busybox)?;
        let disks = disks(paths, artefacts, scenario, plan, (busybox, &active))?;
        let config = Config {
            machine: scenario.guest.machine.clone(),
            cpus: scenario.guest.cpus,
            cpu_features: scenario.guest.cpu_features.clone(),
            ram: scenario.guest.ram,
            disks,
            refusing: scenario.refusing(),
            ports: scenario.guest.ports.clone(),
            forwards: scenario.guest.forwards.clone(),
            reboot: plan.reboot || scenario.restarts(),
            stay: scenario.ends_in_reset(),
            memory: plan.memory_file.then(|| plan.dir.join("memory")),
            capture: scenario.verdict.capture,
            wire: scenario.guest.wire,
            extra: plan.qemu.clone(),
            ..Config::new(accelerator, boot)
        };
        let qemu = Qemu::start(&config, &plan.dir)?;
        let agent = Agent::new(qemu.agent.clone());
        Ok(Self {
            qemu,
            agent,
            active,
            successor,
            config,
        })
    }

    /// Adds to an error that the machine has ended, and why, if it has.
    #[must_use]
    pub fn explain(&mut self, error: anyhow::Error) -> anyhow::Error {
        // The event may come a moment after the serial lines were closed.
        let _ = self.qemu.wait_end(std::time::Duration::from_millis(300));
        match self.qemu.ended() {
            Ok(true) => {
                let reason = self.qemu.qmp.end_reason();
                error.context(format!(
                    "the machine ended ({})",
                    reason.as_deref().unwrap_or("QEMU gives no reason")
                ))
            }
            _ => error,
        }
    }

    /// Saves the machine's state, to go on from with [`Machine::go_back`].
    ///
    /// # Errors
    /// When QEMU cannot.
    pub fn save(&mut self, state: &str) -> Result<()> {
        self.qemu.save_state(state)?;
        self.config.state = Some(state.to_owned());
        Ok(())
    }

    /// Ends the machine and starts it anew from the saved state, with its logs in `dir`.
    ///
    /// # Errors
    /// When nothing was saved or QEMU does not start.
    pub fn go_back(&mut self, dir: &Path) -> Result<()> {
        if self.config.state.is_none() {
            bail!("no state of the machine was saved");
        }
        self.qemu.end();
        self.qemu = Qemu::start(&self.config, dir)?;
        self.agent = Agent::new(self.qemu.agent.clone());
        Ok(())
    }
}

/// The disc with loader, backup OS and both kernels, or the active kernel alone.
fn boot(
    paths: &Paths,
    artefacts: &Artefacts,
    scenario: &Scenario,
    plan: &Plan,
    [active, successor]: [&Kernel; 2],
    busybox: &Path,
) -> Result<Boot> {
    // The module fails on request only if it is told at load that it may.
    let test = if scenario.injects() { "orthros.allow_test=1" } else { "" };
    let words = [
        "root=/dev/vda rw console=ttyS0",
        EMULATED,
        &scenario.guest.kernel_parameters,
        &plan.kernel_parameters,
        test,
    ];
    let command_line = words.join(" ").trim().to_owned();
    let init = match &plan.init {
        Some(init) => init.clone(),
        None => artefacts.guest_program("orthros-init")?,
    };
    let staged = |kernel: &Kernel, init: PathBuf, wrong_module: bool, without_disk: bool| -> Result<Staged> {
        let module = match wrong_module {
            false => artefacts.module(kernel),
            true => artefacts.module(&Kernel::find(paths, kernel.series.other())?),
        };
        let module = match module {
            Ok(module) => Some(module),
            Err(_) if plan.stock => None,
            Err(error) => return Err(error),
        };
        let parts = Parts {
            init,
            module,
            busybox: busybox.to_path_buf(),
            without_disk,
            drivers: scenario.guest.drivers.clone(),
        };
        Ok(Staged {
            image: kernel.image.clone(),
            initramfs: initramfs::make(paths, kernel, &parts)?,
            command_line: command_line.clone(),
        })
    };
    let wrong = &scenario.guest.wrong;
    let first = staged(active, init.clone(), wrong.active_module, false)?;
    if plan.stock && plan.grub {
        let iso = plan.dir.join("disc.iso");
        disc::make_stock(&iso, &first)?;
        return Ok(Boot::Disc(iso));
    }
    if plan.stock {
        return Ok(Boot::Kernel {
            image: first.image,
            initramfs: first.initramfs,
            command_line: first.command_line,
        });
    }
    let successor_init = wrong
        .successor_init
        .as_ref()
        .map_or(init, |file| scenario.dir.join(file));
    let mut second = staged(
        successor,
        successor_init,
        wrong.successor_module,
        wrong.successor_driver,
    )?;
    if wrong.successor_image {
        second.image = garbled(&second.image, &plan.dir)?;
    }
    let iso = plan.dir.join("disc.iso");
    let contents = Contents {
        loader: artefacts.bare_program("loader")?,
        loader_options: loader_options(scenario, plan),
        backup_os: artefacts.bare_program("backup-os")?,
        active: first,
        successor: second,
    };
    disc::make(&iso, &contents)?;
    Ok(Boot::Disc(iso))
}

/// A copy of a kernel image whose header is sound and whose compressed kernel is not.
fn garbled(image: &Path, dir: &Path) -> Result<PathBuf> {
    let mut bytes = std::fs::read(image)?;
    let start = bytes.len() / 4;
    for byte in bytes.iter_mut().skip(start).step_by(64) {
        *byte ^= 0x5A;
    }
    let copy = dir.join("garbled-image");
    std::fs::write(&copy, bytes)?;
    Ok(copy)
}

fn loader_options(scenario: &Scenario, plan: &Plan) -> String {
    let standby = match scenario.guest.standby {
        Some(true) => "standby=on",
        Some(false) => "standby=off",
        None => "",
    };
    // The run's own options come last, and win.
    [standby, &scenario.guest.loader_options, &plan.loader_options]
        .join(" ")
        .trim()
        .to_owned()
}

/// A kernel as if it were installed, but for the image's name (`/boot/vmlinuz-6.1`): the modules that a guest needs, with
/// what depmod says of all, and ours.
fn installed(artefacts: &Artefacts, kernel: &Kernel) -> Result<Vec<File>> {
    let Kernel { release, modules, .. } = kernel;
    let home = format!("/lib/modules/{release}");
    let mut files = vec![
        File {
            from: kernel.image.clone(),
            to: format!("/boot/vmlinuz-{}", kernel.series),
        },
        File {
            from: artefacts.module(kernel)?,
            to: format!("/usr/lib/orthros/modules/{release}/orthros.ko"),
        },
    ];
    let lists = ["modules.dep", "modules.builtin", "modules.alias"].map(|name| modules.join(name));
    for file in lists.into_iter().chain(initramfs::modules(kernel)?) {
        let below = file.strip_prefix(modules)?.display().to_string();
        files.push(File {
            from: file,
            to: format!("{home}/{below}"),
        });
    }
    Ok(files)
}

/// Modules of a kernel's firewall, where modprobe looks for them.
fn firewall(Kernel { release, modules, .. }: &Kernel) -> Result<Vec<File>> {
    let lists = fs::read_dir(modules).with_context(|| format!("cannot read {}", modules.display()))?;
    let lists = lists.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let lists = lists.collect::<Result<Vec<_>>>()?;
    let lists = lists.into_iter().filter(|name| name.starts_with("modules."));
    let folders = ["net/netfilter", "net/ipv4/netfilter", "net/ipv6/netfilter", "lib"];
    let folders = folders.map(|folder| format!("kernel/{folder}"));
    let file = |below: String| File {
        from: modules.join(&below),
        to: format!("/lib/modules/{release}/{below}"),
    };
    Ok(lists.chain(folders).map(file).collect())
}

/// The root disk of this run and the scenario's empty ones.
fn disks(
    paths: &Paths,
    artefacts: &Artefacts,
    scenario: &Scenario,
    plan: &Plan,
    (busybox, active): (PathBuf, &Kernel),
) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if let Ok(control) = artefacts.guest_program("orthros-ctl") {
        files.push(File {
            from: control,
            to: "/usr/sbin/orthros-ctl".into(),
        });
    }
    for program in artefacts.test_programs(paths)? {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push(File {
            from: program,
            to: format!("/opt/orthros-tests/{name}"),
        });
    }
    if scenario.guest.modules {
        let other = Kernel::find(paths, active.series.other())?;
        for (kernel, name) in [(active, "orthros"), (&other, "other-kernel")] {
            files.push(File {
                from: artefacts.module(kernel)?,
                to: format!("/opt/orthros-tests/modules/{name}.ko"),
            });
        }
    }
    if scenario.guest.kernels {
        files.push(File {
            from: artefacts.guest_program("orthros-init")?,
            to: "/usr/lib/orthros/orthros-init".into(),
        });
        for series in Series::ALL {
            files.extend(installed(artefacts, &Kernel::find(paths, series)?)?);
        }
    }
    if scenario.guest.firewall {
        for series in Series::ALL {
            files.extend(firewall(&Kernel::find(paths, series)?)?);
        }
    }
    for file in &scenario.guest.files {
        files.push(File {
            from: scenario.dir.join(&file.from),
            to: file.to.clone(),
        });
    }
    files.extend(plan.files.iter().cloned());
    let spec = Spec {
        packages: scenario.guest.packages.iter().cloned().collect(),
        init: scenario.guest.init,
        files,
        busybox,
        free: scenario.guest.free,
    };
    let root = plan.dir.join("root.qcow2");
    rootfs::overlay(&rootfs::make(paths, &spec)?, &root)?;
    let mut disks = vec![root];
    for (index, size) in scenario.guest.disks.iter().enumerate() {
        let disk = plan.dir.join(format!("disk{}.qcow2", index + 1));
        rootfs::empty_disk(&disk, size)?;
        disks.push(disk);
    }
    Ok(disks)
}
