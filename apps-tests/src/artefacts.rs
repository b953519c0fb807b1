//! Building Orthros: host programs, static programs for the guest, the two bare-metal
//! programs, and the kernel module for each kernel.

use crate::exec;
use crate::kernels::Kernel;
use crate::paths::Paths;
use crate::progress::Step;
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Target of programs that run in the guest whatever C library that has.
const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";
/// Target of loader and backup OS.
const BARE_TARGET: &str = "x86_64-unknown-none";
/// Packages of the workspace with programs for the guest.
const GUEST_PACKAGES: [&str; 3] = ["orthros-init", "orthros-ctl", "test-programs"];
/// Example programs of liborthros, in Rust and in C.
const EXAMPLES: [&str; 2] = ["failover", "failover-c"];
/// Where liborthros is.
const LIBRARY: &str = "active-hooks/lib";
/// Debian's newer compiler, which can build for bare metal from its own library source.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Where built parts are found.
#[derive(Debug, Clone)]
pub struct Artefacts {
    guest: PathBuf,
    bare: PathBuf,
    modules: PathBuf,
}

impl Artefacts {
    /// The places, whether anything was built or not.
    #[must_use]
    pub fn at(paths: &Paths) -> Self {
        Self {
            guest: paths.target.join(GUEST_TARGET).join("release"),
            bare: paths.target.join("bare").join(BARE_TARGET).join("release"),
            modules: paths.target.join("kmod"),
        }
    }

    /// A static program for the guest.
    ///
    /// # Errors
    /// When it was not built.
    pub fn guest_program(&self, name: &str) -> Result<PathBuf> {
        built(self.guest.join(name))
    }

    /// All test programs, as the package `test-programs` declares them.
    ///
    /// # Errors
    /// When cargo cannot say or one was not built.
    pub fn test_programs(&self, paths: &Paths) -> Result<Vec<PathBuf>> {
        let metadata = exec::text(
            Command::new("cargo")
                .args(["metadata", "--no-deps", "--format-version=1"])
                .current_dir(paths.root.join("apps-tests/programs")),
        )?;
        let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
        let items = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
        let mut programs = Vec::new();
        for package in items(&metadata["packages"])
            .iter()
            .filter(|package| package["name"] == "test-programs")
        {
            for target in items(&package["targets"])
                .iter()
                .filter(|target| target["kind"][0] == "bin")
            {
                let name = target["name"].as_str().context("cargo names its targets")?;
                programs.push(built(self.guest.join(name))?);
            }
        }
        for example in EXAMPLES {
            programs.push(built(self.guest.join("examples").join(example))?);
        }
        Ok(programs)
    }

    /// `loader` or `backup-os`.
    ///
    /// # Errors
    /// When it was not built.
    pub fn bare_program(&self, name: &str) -> Result<PathBuf> {
        built(self.bare.join(name))
    }

    /// The module for a kernel.
    ///
    /// # Errors
    /// When it was not built.
    pub fn module(&self, kernel: &Kernel) -> Result<PathBuf> {
        built(self.modules.join(&kernel.release).join("orthros.ko"))
    }
}

fn built(path: PathBuf) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("{} is not there: it has not been built", path.display());
    }
    Ok(path)
}

/// Builds everything for the given kernels.
///
/// # Errors
/// When a compiler is missing or something does not compile.
pub fn build(paths: &Paths, kernels: &[Kernel]) -> Result<Artefacts> {
    build_guest_programs(paths)?;
    for program in ["loader", "backup-os"] {
        build_bare(paths, program)?;
    }
    for kernel in kernels {
        build_module(paths, kernel)?;
    }
    Ok(Artefacts::at(paths))
}

/// Builds the programs that run in the guest.
///
/// # Errors
/// When something does not compile.
pub fn build_guest_programs(paths: &Paths) -> Result<()> {
    let _step = Step::start("building the programs for the guest");
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--quiet", "--release", "--bins", "--target", GUEST_TARGET])
        .args(GUEST_PACKAGES.iter().flat_map(|package| ["-p", package]))
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_TARGET_DIR", &paths.target)
        .current_dir(&paths.root);
    exec::quiet(&mut cargo)?;
    build_examples(paths)
}

/// Builds liborthros and its examples.
fn build_examples(paths: &Paths) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--quiet", "--release", "--lib", "--examples", "-p", "orthros"])
        .args(["--target", GUEST_TARGET])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_TARGET_DIR", &paths.target)
        .current_dir(&paths.root);
    exec::quiet(&mut cargo)?;
    let built = Artefacts::at(paths).guest;
    let library = paths.root.join(LIBRARY);
    let mut compiler = Command::new("cc");
    compiler
        .args(["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(library.join("include"))
        .arg(library.join("examples/failover.c"))
        .arg(built.join("liborthros.a"))
        .arg("-o")
        .arg(built.join("examples/failover-c"));
    exec::quiet(&mut compiler)
}

/// Builds one of the bare-metal programs: with the toolchain's own library for the
/// target if it is installed, else with Debian's compiler and library source.
///
/// # Errors
/// When neither is there or it does not compile.
pub fn build_bare(paths: &Paths, program: &str) -> Result<()> {
    let _step = Step::start(format!("building {program}"));
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--quiet", "--release", "--target", BARE_TARGET])
        .env("CARGO_TARGET_DIR", paths.target.join("bare"))
        .env_remove("RUSTFLAGS")
        .current_dir(paths.root.join(program));
    bare_toolchain(paths, &mut cargo)?;
    exec::quiet(&mut cargo)
}

/// Adds to a cargo command what a build for bare metal needs on this host.
///
/// # Errors
/// When no compiler can do it.
pub fn bare_toolchain(paths: &Paths, cargo: &mut Command) -> Result<()> {
    let targets = exec::text(
        Command::new("rustup")
            .args(["target", "list", "--installed"])
            .current_dir(&paths.root),
    );
    if targets.is_ok_and(|list| list.lines().any(|line| line == BARE_TARGET)) {
        return Ok(());
    }
    let library = exec::text(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]))
        .map(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library"));
    if !library.is_ok_and(|library| library.is_dir()) {
        bail!(
            "no compiler for {BARE_TARGET}: run `rustup target add {BARE_TARGET}`, or install Debian's rustc-web and rust-web-src"
        );
    }
    let linkers = linker_folder(paths)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(linkers).chain(std::env::split_paths(&path)))?;
    cargo
        .arg("-Zbuild-std=core,alloc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", DEBIAN_RUSTC)
        .env("PATH", path);
    Ok(())
}

/// A folder with `rust-lld`, which the target links with: rustup's, else one that leads
/// to Debian's lld.
fn linker_folder(paths: &Paths) -> Result<PathBuf> {
    let sysroot = exec::text(
        Command::new("rustc")
            .args(["--print", "sysroot"])
            .current_dir(&paths.root),
    )?;
    let own = Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(GUEST_TARGET)
        .join("bin");
    if own.join("rust-lld").is_file() {
        return Ok(own);
    }
    let debian = Path::new("/usr/bin/lld-19");
    if !debian.exists() {
        bail!("no linker for {BARE_TARGET}: neither rustup's rust-lld nor Debian's lld-19 is there");
    }
    let dir = paths.target.join("tools");
    fs::create_dir_all(&dir)?;
    let link = dir.join("rust-lld");
    if !link.exists() {
        std::os::unix::fs::symlink(debian, &link)?;
    }
    Ok(dir)
}

/// Builds the kernel module in a copy of its source, so that the tree stays clean.
/// Returns what the build printed, for whoever counts warnings.
///
/// # Errors
/// When the headers are missing or it does not compile.
pub fn build_module(paths: &Paths, kernel: &Kernel) -> Result<String> {
    let _step = Step::start(format!("building the module for {}", kernel.release));
    let dir = paths.target.join("kmod").join(&kernel.release);
    make_module(kernel, &paths.root.join("active-hooks/kmod"), &dir)
}

/// Builds the module that puts known structures into a kernel's memory.
///
/// # Errors
/// As [`build_module`].
pub fn build_truth_module(paths: &Paths, kernel: &Kernel) -> Result<PathBuf> {
    let _step = Step::start(format!("building the truth module for {}", kernel.release));
    let dir = paths.target.join("truth-kmod").join(&kernel.release);
    make_module(kernel, &paths.root.join("apps-tests/truth-kmod"), &dir)?;
    built(dir.join("orthros_truth.ko"))
}

/// Builds a module in `dir`, a copy of its source, against a kernel's headers.
fn make_module(kernel: &Kernel, source: &Path, dir: &Path) -> Result<String> {
    let headers = kernel.headers()?;
    fs::create_dir_all(dir)?;
    copy_changed(source, dir)?;
    let result = exec::output(
        Command::new("make")
            .arg("-C")
            .arg(headers)
            .arg(format!("M={}", dir.display()))
            .args(["-j2", "modules"]),
    )?;
    Ok(String::from_utf8_lossy(&result.stdout).into_owned() + &String::from_utf8_lossy(&result.stderr))
}

/// Copies a tree, leaving files alone that are equal already, so that make rebuilds
/// only what changed.
fn copy_changed(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let source = entry?.path();
        let target = to.join(source.file_name().context("an entry has a name")?);
        if source.is_dir() {
            copy_changed(&source, &target)?;
            continue;
        }
        let content = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
        if fs::read(&target).ok().as_ref() != Some(&content) {
            fs::write(&target, content).with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}
