//! Showing what a long step is doing: a spinner on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// One long step. Prints its name at the start and its duration at the end.
pub struct Step {
    bar: Option<ProgressBar>,
    name: String,
    start: Instant,
}

impl Step {
    /// Starts showing a step.
    #[must_use]
    pub fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_message(name.clone());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("… {name}");
        }
        Self {
            bar,
            name,
            start: Instant::now(),
        }
    }

    /// Says what the step is at now.
    pub fn at(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {what}", self.name));
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("· {} ({:.1} s)", self.name, self.start.elapsed().as_secs_f64());
    }
}
