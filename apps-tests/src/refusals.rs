//! What the loader refuses: machines and discs that cannot work, each of which must be named on the console.

use crate::accelerator;
use crate::artefacts::Artefacts;
use crate::disc::{self, Module};
use crate::initramfs::{self, Parts};
use crate::kernels::{Kernel, Series};
use crate::machine;
use crate::paths::Paths;
use crate::progress::Step;
use crate::qemu::{Accelerator, Boot, Config, Qemu};
use anyhow::{Context, Result};
use regex::Regex;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name under which [`check`] is listed.
pub const NAME: &str = "loader refuses";
/// For a refusal to show, GRUB included.
const WITHIN: Duration = Duration::from_secs(90);

/// A change to the list of modules that GRUB is given.
#[derive(Clone, Copy)]
enum Change {
    /// None.
    Whole,
    /// The module of this role is left out.
    Without(&'static str),
    /// The module of this role is a text.
    Text(&'static str),
    /// The module of this role is given once more.
    Twice(&'static str),
    /// The module of this role has a role that nobody knows.
    Renamed(&'static str),
}

/// A machine or disc, and what the console must say.
struct Case {
    what: &'static str,
    change: Change,
    cpus: u32,
    ram: u32,
    machine: &'static str,
    qemu: &'static [&'static str],
    says: &'static str,
}

/// One that works.
const FINE: Case = Case {
    what: "",
    change: Change::Whole,
    cpus: 2,
    ram: 1024,
    machine: "q35",
    qemu: &[],
    says: "",
};

const CASES: [Case; 10] = [
    Case {
        what: "a CPU without long mode",
        qemu: &["-cpu", "qemu32"],
        says: "the CPU has no 64-bit long mode",
        ..FINE
    },
    Case {
        what: "too little RAM",
        ram: 512,
        says: r"too little RAM: the machine has \d+ MB, 1024 MB are needed",
        ..FINE
    },
    Case {
        what: "RAM in pieces that do not fit",
        ram: 2048,
        machine: "pc,max-ram-below-4g=512M",
        says: r"no room for the nursery 0: it needs 256 MB below 4 GB",
        ..FINE
    },
    Case {
        what: "one CPU only",
        cpus: 1,
        says: "only one CPU: two are needed",
        ..FINE
    },
    Case {
        what: "a missing module",
        change: Change::Without("successor-initramfs"),
        says: "module `successor-initramfs` is missing",
        ..FINE
    },
    Case {
        what: "a text as kernel",
        change: Change::Text("kernel"),
        says: "module `kernel`: ",
        ..FINE
    },
    Case {
        what: "a text as backup OS",
        change: Change::Text("backup-os"),
        says: "module `backup-os`: ",
        ..FINE
    },
    Case {
        what: "a text as initramfs",
        change: Change::Text("initramfs"),
        says: "module `initramfs` is neither a cpio archive nor compressed",
        ..FINE
    },
    Case {
        what: "a module given twice",
        change: Change::Twice("successor-kernel"),
        says: "module `successor-kernel` is given twice",
        ..FINE
    },
    Case {
        what: "an unknown module",
        change: Change::Renamed("initramfs"),
        says: "module with the unknown role `unheard-of`",
        ..FINE
    },
];

/// Runs every case until the loader has said its reason. Returns names and failures.
///
/// # Errors
/// When the parts of a disc are missing.
pub fn check(paths: &Paths, artefacts: &Artefacts) -> Result<Vec<(String, Option<String>)>> {
    let dir = paths.target.join("runs/loader-refuses");
    crate::cache::remove(&dir)?;
    fs::create_dir_all(&dir)?;
    let busybox = machine::busybox()?;
    let accelerator = accelerator::choose(paths, &busybox)?;
    let disc = Disc::new(paths, artefacts, &dir, busybox)?;
    let mut results = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        let name = format!("{NAME} {}", case.what);
        let _shown = Step::start(name.clone());
        let result = disc.refused(case, accelerator, &dir.join(number.to_string()));
        results.push((name, result.err().map(|error| format!("{error:#}"))));
    }
    Ok(results)
}

/// A sound disc's parts.
struct Disc {
    loader: PathBuf,
    modules: Vec<Module>,
    text: PathBuf,
}

impl Disc {
    fn new(paths: &Paths, artefacts: &Artefacts, dir: &Path, busybox: PathBuf) -> Result<Self> {
        let kernel = Kernel::find(paths, Series::V6_1)?;
        let parts = Parts {
            init: artefacts.guest_program("orthros-init")?,
            module: Some(artefacts.module(&kernel)?),
            busybox,
            without_disk: false,
            drivers: Vec::new(),
        };
        let initramfs = initramfs::make(paths, &kernel, &parts)?;
        let text = dir.join("text");
        fs::write(&text, "This is a text, not what its role says.\n".repeat(2000))?;
        let module = |role: &str, file: &Path| Module {
            role: role.to_owned(),
            file: file.to_path_buf(),
            words: String::new(),
        };
        Ok(Self {
            loader: artefacts.bare_program("loader")?,
            modules: vec![
                module("backup-os", &artefacts.bare_program("backup-os")?),
                module("kernel", &kernel.image),
                module("initramfs", &initramfs),
                module("successor-kernel", &kernel.image),
                module("successor-initramfs", &initramfs),
            ],
            text,
        })
    }

    fn changed(&self, change: Change) -> Vec<Module> {
        let mut modules = self.modules.clone();
        let at = |role: &str| self.modules.iter().position(|module| module.role == role);
        match change {
            Change::Whole => {}
            Change::Without(role) => modules.retain(|module| module.role != role),
            Change::Text(role) => {
                for module in modules.iter_mut().filter(|module| module.role == role) {
                    module.file.clone_from(&self.text);
                }
            }
            Change::Twice(role) => modules.extend(at(role).map(|index| self.modules[index].clone())),
            Change::Renamed(role) => {
                for module in modules.iter_mut().filter(|module| module.role == role) {
                    module.role = "unheard-of".into();
                }
            }
        }
        modules
    }

    fn refused(&self, case: &Case, accelerator: Accelerator, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        let iso = dir.join("disc.iso");
        disc::write(&iso, &self.loader, "", &self.changed(case.change))?;
        let config = Config {
            machine: case.machine.into(),
            cpus: case.cpus,
            ram: case.ram,
            extra: case.qemu.iter().map(|&word| word.to_owned()).collect(),
            ..Config::new(accelerator, Boot::Disc(iso.clone()))
        };
        let qemu = Qemu::start(&config, dir)?;
        let says = Regex::new(&format!("Orthros cannot start this machine: .*{}", case.says))?;
        let (line, _) = qemu
            .console
            .wait_for(0, &says, WITHIN)
            .with_context(|| format!("logs: {}", dir.display()))?;
        println!("     {}", line.text.trim());
        crate::cache::remove(&iso)
    }
}
