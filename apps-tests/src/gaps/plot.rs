//! The results as bars, drawn by gnuplot.

use super::{Measured, Method};
use crate::exec;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const GNUPLOT: &str = "/usr/bin/gnuplot";

/// Writes `gaps.png` and `gaps.svg` into a folder and returns their paths.
///
/// # Errors
/// When gnuplot cannot be installed or fails.
pub fn draw(list: &[Measured], dir: &Path) -> Result<[PathBuf; 2]> {
    if !Path::new(GNUPLOT).exists() {
        exec::quiet(Command::new("apt-get").args(["install", "-y", "-q", "--no-install-recommends", "gnuplot-nox"]))?;
    }
    let mut sizes: Vec<u32> = list.iter().map(|measured| measured.megabytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let data = dir.join("gaps.dat");
    fs::write(&data, rows(list, &sizes)).with_context(|| format!("cannot write {}", data.display()))?;
    let outputs = [("pngcairo", "gaps.png"), ("svg", "gaps.svg")].map(|(terminal, name)| (terminal, dir.join(name)));
    for (terminal, file) in &outputs {
        let script = dir.join("gaps.gnuplot");
        fs::write(&script, commands(terminal, file, &data, &sizes))?;
        exec::quiet(Command::new(GNUPLOT).arg(&script))?;
        fs::remove_file(&script)?;
    }
    fs::remove_file(&data)?;
    Ok(outputs.map(|(_, file)| file))
}

/// A line for each method: its name, then the median in seconds for each size, `?` where there is none.
fn rows(list: &[Measured], sizes: &[u32]) -> String {
    let mut text = String::new();
    for method in Method::ALL {
        let of = |size: u32| {
            list.iter()
                .find(|measured| measured.method == method && measured.megabytes == size)
        };
        if !sizes.iter().any(|size| of(*size).is_some()) {
            continue;
        }
        let _ = write!(text, "\"{method}\"");
        for size in sizes {
            match of(*size) {
                Some(measured) => {
                    let _ = write!(text, " {:.4}", measured.median().as_secs_f64());
                }
                None => text.push_str(" ?"),
            }
        }
        text.push('\n');
    }
    text
}

fn commands(terminal: &str, output: &Path, data: &Path, sizes: &[u32]) -> String {
    let mut text = format!(
        "set terminal {terminal} size 960,540\nset output '{}'\nset datafile missing '?'\n\
         set style data histograms\nset style histogram clustered gap 1\nset style fill solid 0.8 noborder\n\
         set logscale y\nset ylabel 'gap in seconds, median'\nset grid y\nset xtics rotate by -25\n\
         set rmargin 12\nset key top right\nset yrange [0.01:*]\nplot ",
        output.display()
    );
    for (index, size) in sizes.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let column = index + 2;
        let _ = write!(
            text,
            "{comma}'{}' using {column}:xtic(1) title '{size} MB of content'",
            data.display()
        );
    }
    text.push('\n');
    text
}
