//! `orthros-inspect`: shows what a dead Linux kernel's memory holds, from an image of it.
//!
//! The very code that salvages processes on the reserved core reads the image here; nothing about the kernel has to be
//! known beforehand.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`image`] | opening an image and finding its kernel |
//! | [`context`] | what the salvager would save of it |
//! | [`report`] | what is shown, one section a file, as text and as JSON |
#![warn(missing_docs)]

mod cli;
mod context;
mod image;
mod report;

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

/// The image cannot be read, or holds no kernel.
const FAILED: u8 = 1;
/// The report is not whole: something in the image makes no sense, and the report names it.
const INCOMPLETE: u8 = 3;

fn main() -> ExitCode {
    let args = cli::Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(INCOMPLETE),
        Err(error) => {
            eprintln!("orthros-inspect: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// Prints the report; says whether it is whole.
fn run(args: &cli::Args) -> anyhow::Result<bool> {
    let file = image::File::open(&args.image)?;
    let opened = image::find_kernel(&file, args.ram_below_4g)?;
    let report = report::Report::gather(&opened, args);
    let mut out = std::io::stdout().lock();
    let printed = if args.json {
        serde_json::to_writer_pretty(&mut out, &report)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        report.write_text(&mut out)
    };
    match printed {
        // A reader that has seen enough (`| head`) is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(report.is_whole()),
        other => {
            other?;
            Ok(report.is_whole())
        }
    }
}
