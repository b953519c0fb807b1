//! `orthros-ctl`: shows what Orthros would do and has done, and says which processes to keep.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod check;
mod cli;
mod config;
mod exit;
mod freezer;
mod hang_test;
mod log;
mod machine;
mod man;
mod panic_test;
mod protect;
mod report;
mod rescue;
mod rescue_area;
mod root;
mod services;
mod snapshot;
mod stage;
mod standby;
mod status;
mod units;
mod update;

use clap::Parser;
use cli::{Arguments, Command};
use exit::Exit;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("orthros-ctl: {error:#}");
            Exit::Unable.into()
        }
    }
}

fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Status { json } => status::run(json),
        Command::Protect(wish) => protect::protect(&wish),
        Command::Unprotect(wish) => protect::unprotect(&wish),
        Command::Check { pids, all, json } => check::run(&pids, all, json),
        Command::Report { json, full } => report::run(json, full),
        Command::PanicTest(test) => panic_test::run(&test),
        Command::HangTest(test) => hang_test::run(&test),
        Command::Stage(wish) => stage::run(&wish),
        Command::Update(wish) => update::run(&wish),
        Command::Config { name, value, json } => config::run(name.as_deref(), value.as_deref(), json),
        Command::RescueArea(wish) => rescue_area::run(&wish),
        Command::Rescue(wish) => rescue::run(&wish),
        Command::CheckMachine { json } => machine::run(json),
        Command::Log { epitaph } => log::run(epitaph),
        Command::Man => {
            man::write(&mut std::io::stdout())?;
            Ok(Exit::Fine)
        }
    }
}
