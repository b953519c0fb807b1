//! What watching costs the watched: the same work on a kernel that Orthros guards, and on one that is alone.
//!
//! Instructions are counted (`-icount`): one is a nanosecond of the guest, and all CPUs take turns, so that even what
//! the reserved core does beside the work is found in the time the work takes.

use crate::artefacts::Artefacts;
use crate::kernels::Series;
use crate::machine::Plan;
use crate::paths::Paths;
use crate::progress::Step;
use crate::qemu::Accelerator;
use crate::run;
use crate::scenario::{Check, Scenario};
use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// For all the work, under instruction counting.
const PATIENCE: Duration = Duration::from_secs(3600);
/// MiB that Orthros sets aside, which the kernel that is alone must do without as well.
const RESERVED: u32 = 512;

/// Instructions of each round, by kind of work.
type Rounds = BTreeMap<String, Vec<u64>>;

/// The same work with and without a watcher.
#[derive(Debug, Clone)]
pub struct Cost {
    armed: Rounds,
    alone: Rounds,
}

/// Runs the work in two guests with one CPU for Linux each.
///
/// # Errors
/// When a guest does not come up or the work fails.
pub fn measure(paths: &Paths, artefacts: &Artefacts, scenario: &Scenario, series: Series) -> Result<Cost> {
    let run = |stock: bool| {
        let name = if stock { "alone" } else { "armed" };
        let _step = Step::start(format!("work on a kernel that is {name}"));
        let mut scenario = scenario.clone();
        // Protected, and out of the way of the work.
        scenario.protect.command = Some("exec sleep infinity".into());
        scenario.protect.ready = Check {
            command: Some("pidof sleep".into()),
            console: None,
            timeout: PATIENCE.as_secs(),
        };
        scenario.guest.cpus = if stock { 1 } else { 2 };
        if stock {
            scenario.guest.ram -= RESERVED;
        }
        let mut plan = Plan::new(series, series, paths.target.join("bench/cost").join(name));
        plan.accelerator = Some(Accelerator::InstructionCount);
        plan.stock = stock;
        let mut machine = run::ready_machine(paths, artefacts, &scenario, &plan)?;
        let text = machine.agent.check("/opt/orthros-tests/cost", PATIENCE)?;
        read(&text)
    };
    Ok(Cost {
        armed: run(false)?,
        alone: run(true)?,
    })
}

/// Reads the lines of the program `cost`: the CPU time of each round.
fn read(text: &str) -> Result<Rounds> {
    let mut rounds = Rounds::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("cost") {
            continue;
        }
        let name = words.next().context("a line without a name")?;
        let cpu = words.next().context("a line without a number")?.parse()?;
        rounds.entry(name.to_owned()).or_default().push(cpu);
    }
    ensure!(!rounds.is_empty(), "the work has said nothing: {text}");
    Ok(rounds)
}

/// Smallest, middle and largest.
fn spread(rounds: &[u64]) -> [u64; 3] {
    let mut sorted = rounds.to_vec();
    sorted.sort_unstable();
    let at = |index: usize| sorted.get(index).copied().unwrap_or(0);
    [at(0), at(sorted.len() / 2), at(sorted.len().saturating_sub(1))]
}

impl Cost {
    /// Kind of work, both spreads, and by how much the median is larger with the watcher.
    fn rows(&self) -> impl Iterator<Item = (&str, [u64; 3], [u64; 3], f64)> {
        self.armed.iter().filter_map(|(name, armed)| {
            let (armed, alone) = (spread(armed), spread(self.alone.get(name)?));
            let more = armed[1] as f64 / alone[1].max(1) as f64 - 1.0;
            Some((name.as_str(), armed, alone, more))
        })
    }

    /// A table in Markdown.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::from(
            "| work | with the watcher: median | from | to | alone: median | from | to | difference |\n|---|---|---|---|---|---|---|---|\n",
        );
        for (name, armed, alone, more) in self.rows() {
            let [low, median, high] = armed;
            let [alone_low, alone_median, alone_high] = alone;
            let more = more * 100.0;
            let _ = writeln!(
                text,
                "| {name} | {median} | {low} | {high} | {alone_median} | {alone_low} | {alone_high} | {more:+.3} % |"
            );
        }
        text
    }

    /// As JSON, every round.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({ "armed_instructions": self.armed, "alone_instructions": self.alone })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_work() {
        let rounds = read("x\ncost cpu 5 9\ncost cpu 7 9\ncost files 1 2\n").unwrap();
        assert_eq!(rounds["cpu"], [5, 7]);
        assert_eq!(rounds["files"], [1]);
        assert!(read("nothing").is_err());
        assert_eq!(spread(&[3, 1, 2]), [1, 2, 3]);
        let cost = Cost {
            armed: read("cost cpu 101 1").unwrap(),
            alone: read("cost cpu 100 1").unwrap(),
        };
        assert!(cost
            .text()
            .contains("| cpu | 101 | 101 | 101 | 100 | 100 | 100 | +1.000 % |"));
    }
}
