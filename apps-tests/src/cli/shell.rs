//! `shell`: commands typed here run in a guest.

use super::scenario::prepared;
use anyhow::Result;
use clap::Args;
use harness::kernels::Series;
use harness::machine::{Machine, Plan};
use harness::paths::Paths;
use harness::scenario::Scenario;
use std::io::{BufRead as _, Write as _};
use std::time::Duration;

/// A command of a person may take long, but a hung guest must not hold the terminal.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Args)]
pub struct Options {
    /// Scenario whose guest is used
    #[arg(default_value = "smoke")]
    dir: String,
    /// Kernel that runs first
    #[arg(long, value_enum, default_value = "6.1")]
    active: Series,
    /// Kernel that takes over (default: the same)
    #[arg(long, value_enum)]
    successor: Option<Series>,
    /// Use what was built before
    #[arg(long)]
    no_build: bool,
}

pub fn run(paths: &Paths, options: &Options) -> Result<bool> {
    let scenario = Scenario::read(&super::scenario_dir(paths, &options.dir))?;
    let successor = options.successor.unwrap_or(options.active);
    let artefacts = prepared(paths, &[options.active, successor], options.no_build)?;
    let plan = Plan::new(options.active, successor, paths.target.join("runs/shell"));
    let mut machine = Machine::start(paths, &artefacts, &scenario, &plan)?;
    machine.agent.wait_ready(PATIENCE)?;
    println!("The guest is up; its consoles are in {}/com*.log.", plan.dir.display());
    println!("Each line runs as root in a shell of its own. `!panic` panics the kernel; end with Ctrl-D.");
    let mut input = std::io::stdin().lock().lines();
    loop {
        print!("guest# ");
        std::io::stdout().flush()?;
        let Some(line) = input.next().transpose()? else {
            println!();
            return Ok(true);
        };
        let result = match line.trim() {
            "" => continue,
            "!panic" => fail_over(&mut machine),
            command => machine.agent.run(command, PATIENCE).map(|outcome| {
                print!("{}", outcome.output);
                if outcome.status != 0 {
                    println!("(status {})", outcome.status);
                }
            }),
        };
        if let Err(error) = result {
            println!("{error:#}");
        }
        if machine.qemu.ended()? {
            println!("The machine has ended.");
            return Ok(true);
        }
    }
}

fn fail_over(machine: &mut Machine) -> Result<()> {
    machine.agent.send("echo c >/proc/sysrq-trigger")?;
    let asked = machine.qemu.start.elapsed();
    let hello = machine.agent.wait_ready(PATIENCE)?;
    println!(
        "{} took over after {:.3} s.",
        hello.release,
        (hello.at.saturating_sub(asked)).as_secs_f64()
    );
    Ok(())
}
