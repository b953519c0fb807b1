//! `bench gaps`: how long a service is silent.

use super::scenario::prepared;
use anyhow::{ensure, Context, Result};
use clap::Args;
use harness::gaps::{self, Measured, Method, Task};
use harness::kernels::Series;
use harness::paths::Paths;
use harness::scenario::Scenario;
use std::fs;
use std::path::PathBuf;

#[derive(Args)]
pub struct Options {
    /// The kernel, before and after
    #[arg(long, value_enum, default_value = "6.1")]
    kernel: Series,
    /// Only these methods
    #[arg(long, value_enum, value_delimiter = ',')]
    method: Vec<Method>,
    /// Content of the service in MB, one or several
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000])]
    megabytes: Vec<u32>,
    /// Events for each method and content
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Folder for gaps.json, gaps.md, gaps.png and gaps.svg (default: target/bench)
    #[arg(long)]
    out: Option<PathBuf>,
    /// Use what was built before
    #[arg(long)]
    no_build: bool,
}

pub fn run(paths: &Paths, options: &Options) -> Result<bool> {
    let artefacts = prepared(paths, &[options.kernel], options.no_build)?;
    let scenario = Scenario::read(&super::scenario_dir(paths, "beat"))?;
    let out = options.out.clone().unwrap_or_else(|| paths.target.join("bench"));
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut list: Vec<Measured> = Vec::new();
    let mut whole = true;
    for megabytes in &options.megabytes {
        for method in Method::ALL {
            if !options.method.is_empty() && !options.method.contains(&method) {
                continue;
            }
            let task = Task {
                scenario: &scenario,
                kernel: options.kernel,
                method,
                megabytes: *megabytes,
                runs: options.runs,
            };
            match gaps::measure(paths, &artefacts, &task) {
                Ok(measured) => list.push(measured),
                // The others are still worth having.
                Err(error) => {
                    eprintln!("error: {method} with {megabytes} MB: {error:#}");
                    whole = false;
                }
            }
            // Kept after each, so that a run that is broken off leaves what it has.
            fs::write(
                out.join("gaps.json"),
                serde_json::to_string_pretty(&gaps::json(&list))? + "\n",
            )?;
            fs::write(out.join("gaps.md"), gaps::text(&list))?;
        }
    }
    ensure!(!list.is_empty(), "nothing could be measured");
    print!("{}", gaps::text(&list));
    for file in gaps::draw(&list, &out)? {
        println!("{}", file.display());
    }
    Ok(whole)
}
