//! `selfcheck CELL`: sets one state up, prints `READY`, waits for a failover in a named place, and checks everything
//! it can observe of that state.
//!
//! Prints `CELL OK`, `CELL FAIL <what>` or `CELL SKIP <why>` and exits with 0, 1 or 77. With `--mutate` it alters its
//! own state or expectation after READY, so that the check has to fail: the proof that it can. A mutation that cannot
//! be applied proves nothing and is `CELL BROKEN`, exit code 2.

mod cell;
mod cells;
mod place;
mod run;
mod sys;
mod table;
mod watch;

use anyhow::{Context as _, Result};
use clap::Parser;
use place::Place;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    about = "Programs that check themselves after a failover",
    arg_required_else_help = true
)]
struct Arguments {
    /// Cell to run.
    cell: Option<String>,
    /// List the cells.
    #[arg(long)]
    list: bool,
    /// With --list: as JSON.
    #[arg(long)]
    json: bool,
    /// Print the coverage table in Markdown.
    #[arg(long)]
    coverage: bool,
    /// Alter the state or the expectation after READY: the check has to fail.
    #[arg(long)]
    mutate: bool,
    /// Where the thread of a resource cell waits.
    #[arg(long, value_enum, default_value = "nanosleep")]
    at: Place,
    /// Do not wait for a failover; assume one so many milliseconds after READY.
    #[arg(long, value_name = "MS")]
    assume_failover_after_ms: Option<u64>,
    /// Length of timed waits in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 15_000)]
    period_ms: u64,
    /// Folder for the files of the cells.
    #[arg(long, default_value = "/var/tmp/selfcheck")]
    directory: PathBuf,
    /// Start every cell that matches as a process of its own and wait until all are ready.
    #[arg(long)]
    start_all: bool,
    /// After a failover: wait for the results of --start-all and sum them up.
    #[arg(long)]
    collect: bool,
    /// With --start-all and --collect: only cells whose name contains this; given again, one of these.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// With --start-all and --collect: no cells whose name contains this.
    #[arg(long, value_name = "TEXT")]
    except: Vec<String>,
    /// With --start-all and --collect: part I of N of the cells.
    #[arg(long, value_name = "I/N", default_value = "1/1")]
    shard: run::Shard,
    /// With --start-all and --collect: seconds to wait.
    #[arg(long, value_name = "S", default_value_t = 120)]
    deadline_s: u64,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list {
        print!("{}", table::list(arguments.json));
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.coverage {
        print!("{}", table::coverage());
        return Ok(ExitCode::SUCCESS);
    }
    let options = cell::Options {
        mutate: arguments.mutate,
        place: arguments.at,
        assume_after_ms: arguments.assume_failover_after_ms,
        period_ms: arguments.period_ms,
        directory: arguments.directory,
    };
    let selection = run::Selection {
        only: arguments.only,
        except: arguments.except,
        shard: arguments.shard,
        deadline_s: arguments.deadline_s,
    };
    if arguments.start_all {
        return run::start_all(&options, &selection);
    }
    if arguments.collect {
        return run::collect(&options, &selection);
    }
    let name = arguments.cell.context("no cell named; see --list")?;
    let cell = cells::find(&name).with_context(|| format!("there is no cell `{name}`; see --list"))?;
    Ok(run::one(cell, options))
}
