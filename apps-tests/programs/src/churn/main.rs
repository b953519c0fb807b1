//! Changes files at random, for ever, and tells the host of each operation that the kernel has acknowledged; afterwards,
//! under whatever kernel, judges whether the files are what they have to be.
//!
//! The host is told over a port that takes a byte and has it (`isa-debugcon`): what was written is out, and no driver or
//! buffer of the kernel is in between. As operations follow from a seed, their number is all there is to tell.

mod check;
mod encrypt;
mod model;
mod op;

use anyhow::{ensure, Context, Result};
use clap::{Parser, Subcommand};
use model::Model;
use op::{Op, Random};
use std::path::PathBuf;

/// Where the harness puts the first `isa-debugcon`. No two programs use one: their bytes would mix.
const FIRST_PORT: u16 = 0x2F0;

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Works in a directory until the machine dies
    Run {
        /// Empty directory to work in
        #[arg(long)]
        dir: PathBuf,
        /// Which of the eight ports is its own
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// What this worker is called on the port, one word
        #[arg(long)]
        name: String,
        /// What the operations are drawn from
        #[arg(long)]
        seed: u64,
        /// End after so many
        #[arg(long)]
        operations: Option<u64>,
        /// The file system has no links, holes, attributes or modes
        #[arg(long)]
        plain: bool,
    },
    /// Lets what will be made in a directory be encrypted, with a key that dies with the kernel
    Encrypt {
        /// Empty directory
        #[arg(long)]
        dir: PathBuf,
    },
    /// Tells the host what comes from the standard input
    Tell {
        /// Which of the eight ports is its own
        #[arg(long)]
        port: u16,
    },
    /// Compares what is there with what was acknowledged
    Check {
        /// The directory
        #[arg(long)]
        dir: PathBuf,
        /// What the worker was called
        #[arg(long)]
        name: String,
        /// What its operations were drawn from
        #[arg(long)]
        seed: u64,
        /// What the port said last of every worker: `NAME NUMBER`, separated by commas
        #[arg(long)]
        acknowledged: String,
        /// As it was told to work
        #[arg(long)]
        plain: bool,
    },
}

fn main() -> Result<()> {
    match Options::parse().command {
        Command::Run {
            dir,
            port,
            name,
            seed,
            operations,
            plain,
        } => {
            if operations.is_none() {
                open_port(FIRST_PORT + port)?;
            }
            let mut model = Model::new(plain);
            let mut random = Random::new(seed);
            for number in 0..operations.unwrap_or(u64::MAX) {
                let op = Op::draw(&model, &mut random);
                op.run(number, &dir, plain)
                    .with_context(|| format!("operation {number}: {op:?}"))?;
                model.apply(number, &op);
                if operations.is_none() {
                    tell(FIRST_PORT + port, &format!("{name} {}\n", number + 1));
                }
            }
            Ok(())
        }
        Command::Tell { port } => {
            open_port(FIRST_PORT + port)?;
            for line in std::io::stdin().lines() {
                tell(FIRST_PORT + port, &(line? + "\n"));
            }
            Ok(())
        }
        Command::Encrypt { dir } => encrypt::encrypt(&dir),
        Command::Check {
            dir,
            name,
            seed,
            acknowledged,
            plain,
        } => {
            let number = acknowledged
                .split(',')
                .find_map(|one| one.trim().strip_prefix(&name)?.strip_prefix(' ')?.parse().ok())
                .with_context(|| format!("nothing of {name} was acknowledged in \"{acknowledged}\""))?;
            let judgement = check::check(&dir, seed, number, plain)?;
            println!("{name}: {number} acknowledged, {judgement}");
            ensure!(judgement.is_good(), "{name}: operations are lost");
            Ok(())
        }
    }
}

fn open_port(port: u16) -> Result<()> {
    // SAFETY: takes integers; what the port does is known.
    let done = unsafe { libc::ioperm(port.into(), 1, 1) };
    ensure!(done == 0, "ioperm: {}", std::io::Error::last_os_error());
    Ok(())
}

fn tell(port: u16, text: &str) {
    for byte in text.bytes() {
        // SAFETY: (1) leave was given in `open_port`; (2) the port has no effect on this machine.
        unsafe {
            std::arch::asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack, preserves_flags))
        };
    }
}
