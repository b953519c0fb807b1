//! Running host programs with errors that say what was run and what it printed.

use anyhow::{bail, Context, Result};
use std::fmt::Write as _;
use std::process::{Command, Output, Stdio};

/// The command as one would type it, for messages.
#[must_use]
pub fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        let arg = arg.to_string_lossy();
        if arg.is_empty() || arg.contains([' ', '"', '\'', '$', ';']) {
            let _ = write!(line, " '{}'", arg.replace('\'', r"'\''"));
        } else {
            let _ = write!(line, " {arg}");
        }
    }
    line
}

/// Runs to the end and returns standard output and error.
///
/// # Errors
/// When the program cannot be started or fails; the message ends with the last lines
/// it printed.
pub fn output(command: &mut Command) -> Result<Output> {
    let result = command.stdin(Stdio::null()).output().with_context(|| {
        format!(
            "cannot run `{}` (is it installed?)",
            command.get_program().to_string_lossy()
        )
    })?;
    if !result.status.success() {
        bail!("`{}` failed ({})\n{}", shown(command), result.status, tail(&result));
    }
    Ok(result)
}

/// Runs to the end and returns standard output as text.
///
/// # Errors
/// As [`output`].
pub fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?.stdout).into_owned())
}

/// Runs a program quietly; its output is shown only if it fails.
///
/// # Errors
/// As [`output`].
pub fn quiet(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// The last lines of what a program printed, standard error last.
fn tail(result: &Output) -> String {
    const LINES: usize = 40;
    let mut all = String::from_utf8_lossy(&result.stdout).into_owned();
    all.push_str(&String::from_utf8_lossy(&result.stderr));
    let lines: Vec<&str> = all.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
