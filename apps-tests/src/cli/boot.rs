//! `boot`: one guest step by step, for looking at what happens.

use anyhow::{bail, Result};
use clap::Args;
use harness::artefacts::Artefacts;
use harness::kernels::Series;
use harness::machine::{Machine, Plan};
use harness::paths::Paths;
use harness::qemu::Accelerator;
use harness::scenario::Scenario;
use regex::Regex;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
pub struct Options {
    /// Kernel that runs first
    #[arg(long, value_enum, default_value = "6.1")]
    active: Series,
    /// Kernel that takes over
    #[arg(long, value_enum, default_value = "6.1")]
    successor: Series,
    /// Scenario whose guest is used: a folder, or a name below apps-tests/scenarios/
    #[arg(long, default_value = "smoke")]
    scenario: String,
    /// RAM in MiB instead of the scenario's
    #[arg(long)]
    ram: Option<u32>,
    /// CPUs instead of the scenario's
    #[arg(long)]
    cpus: Option<u32>,
    /// q35 or pc instead of the scenario's
    #[arg(long)]
    machine: Option<String>,
    /// Folder for com1.log (Linux, loader), com2.log (backup OS), com3.log (agent), qemu.log
    #[arg(long, default_value = "target/boot")]
    keep_logs: PathBuf,
    /// Seconds for each thing waited for
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    /// Boot the kernel directly with QEMU, without loader and backup OS
    #[arg(long)]
    stock: bool,
    /// First program of the initramfs instead of orthros-init
    #[arg(long)]
    init: Option<PathBuf>,
    /// Options for the loader
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    loader_options: String,
    /// More words for the kernels' command lines
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Only wait for a line matching this on COM1 (loader and Linux), not for the agent
    #[arg(long)]
    until_console: Option<Regex>,
    /// Only wait for a line matching this on COM2 (backup OS), not for the agent
    #[arg(long)]
    until_backup: Option<Regex>,
    /// Shell command for the guest once it is up (may be repeated)
    #[arg(long = "run")]
    commands: Vec<String>,
    /// Then panic the kernel through sysrq and wait for the successor's agent
    #[arg(long)]
    panic: bool,
    /// Shell command for the guest after the failover (may be repeated)
    #[arg(long = "then")]
    after: Vec<String>,
    /// At the end, write the guest's physical memory to this file
    #[arg(long)]
    dump: Option<PathBuf>,
    /// Let a reset restart the machine instead of ending it
    #[arg(long)]
    reboot: bool,
    /// Count instructions: slower, but figures repeat
    #[arg(long)]
    icount: bool,
    /// More arguments for QEMU (may be repeated)
    #[arg(long, allow_hyphen_values = true)]
    qemu: Vec<String>,
}

pub fn run(paths: &Paths, options: &Options) -> Result<bool> {
    let mut scenario = Scenario::read(&super::scenario_dir(paths, &options.scenario))?;
    let guest = &mut scenario.guest;
    guest.ram = options.ram.unwrap_or(guest.ram);
    guest.cpus = options.cpus.unwrap_or(guest.cpus);
    guest.machine = options.machine.clone().unwrap_or_else(|| guest.machine.clone());
    let plan = Plan {
        stock: options.stock,
        init: options.init.clone(),
        loader_options: options.loader_options.clone(),
        kernel_parameters: options.append.clone(),
        accelerator: options.icount.then_some(Accelerator::InstructionCount),
        reboot: options.reboot,
        qemu: options.qemu.clone(),
        ..Plan::new(
            options.active,
            options.successor,
            std::path::absolute(&options.keep_logs)?,
        )
    };
    let mut machine = Machine::start(paths, &Artefacts::at(paths), &scenario, &plan)?;
    println!(
        "QEMU runs as process {}, logs in {}",
        machine.qemu.pid(),
        plan.dir.display()
    );
    let result = steps(&mut machine, options).map_err(|error| machine.explain(error));
    if let Some(file) = &options.dump {
        let size = u64::from(scenario.guest.ram) << 20;
        machine.qemu.save_memory(&std::path::absolute(file)?, size)?;
        println!("physical memory is in {}", file.display());
    }
    result.map(|()| true)
}

fn steps(machine: &mut Machine, options: &Options) -> Result<()> {
    let within = Duration::from_secs(options.timeout);
    for (serial, pattern) in [
        (&machine.qemu.console, &options.until_console),
        (&machine.qemu.backup, &options.until_backup),
    ] {
        if let Some(pattern) = pattern {
            let (line, _) = serial.wait_for(0, pattern, within)?;
            println!("{:9.3} {}", line.at.as_secs_f64(), line.text);
        }
    }
    if options.until_console.is_some() || options.until_backup.is_some() {
        return Ok(());
    }
    let first = machine.agent.wait_ready(within)?;
    println!("{:9.3} up: {}", first.at.as_secs_f64(), first.release);
    commands(machine, &options.commands, within)?;
    if options.panic {
        machine.agent.send("echo c >/proc/sysrq-trigger")?;
        println!("{:9.3} panic asked for", machine.qemu.start.elapsed().as_secs_f64());
        let second = machine.agent.wait_ready(within)?;
        println!("{:9.3} up again: {}", second.at.as_secs_f64(), second.release);
        if second.boot_id == first.boot_id {
            bail!("the agent started anew, but on the same boot of the kernel: nothing panicked");
        }
        commands(machine, &options.after, within)?;
    }
    Ok(())
}

fn commands(machine: &mut Machine, list: &[String], within: Duration) -> Result<()> {
    for command in list {
        let outcome = machine.agent.run(command, within)?;
        println!(
            "{:9.3} $ {command}  (status {})",
            machine.qemu.start.elapsed().as_secs_f64(),
            outcome.status
        );
        print!("{}", outcome.output);
    }
    Ok(())
}
