//! `orthros-ctl check-machine`: whether this machine can run Orthros, also before it is started through the loader.

mod encryption;
mod kernel;
mod memory;

use crate::exit::Exit;
use crate::root::Root;
use anyhow::Result;
use serde_json::json;

/// How an item came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it has to be.
    Good,
    /// It works, with a drawback, or it cannot be seen from here.
    Doubtful,
    /// Orthros cannot run.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Name.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found, and the way out if it is not good.
    pub text: String,
}

impl Item {
    fn good(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, Verdict::Good, text)
    }

    fn doubtful(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, Verdict::Doubtful, text)
    }

    fn bad(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, Verdict::Bad, text)
    }

    fn new(name: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { name, verdict, text }
    }
}

/// The flags line of the first CPU.
fn cpu_flags(root: &Root) -> Vec<String> {
    let text = root.read("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'))
        .map(|(_, flags)| flags.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// The region's address if the machine was started through the loader.
fn region(root: &Root) -> Option<String> {
    let line = root.line("/proc/cmdline")?;
    let region = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("orthros.region="))?;
    Some(region.to_owned())
}

/// Looks at everything.
pub fn items(root: &Root) -> Vec<Item> {
    let flags = cpu_flags(root);
    let mut items = vec![long_mode(&flags), cpus(root)];
    items.push(memory::room(root));
    items.push(memory::block_size(root));
    items.push(encryption::memory(root, &flags));
    items.extend(kernel::items(root));
    items
}

fn long_mode(flags: &[String]) -> Item {
    match flags.iter().any(|flag| flag == "lm") {
        true => Item::good("processor", "64-bit x86"),
        false => Item::bad("processor", "no long mode: only x86_64 machines are supported"),
    }
}

fn cpus(root: &Root) -> Item {
    let text = root.read("/proc/cpuinfo").unwrap_or_default();
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    match (count, region(root).is_some()) {
        (0, _) => Item::doubtful("CPUs", "/proc/cpuinfo cannot be read"),
        (count, true) => Item::good("CPUs", format!("{count} for Linux, one reserved")),
        (1, false) => Item::bad("CPUs", "one CPU only: one is reserved, and Linux needs another"),
        (count, false) => Item::good("CPUs", format!("{count}, of which one will be reserved")),
    }
}

/// Prints the items. Fails if one is bad.
pub fn run(json: bool) -> Result<Exit> {
    let items = items(&Root::system());
    let fits = items.iter().all(|item| item.verdict != Verdict::Bad);
    if json {
        let list: Vec<_> = items
            .iter()
            .map(|item| {
                json!({
                    "name": item.name,
                    "verdict": format!("{:?}", item.verdict).to_lowercase(),
                    "text": item.text,
                })
            })
            .collect();
        println!("{:#}", json!({"version": 1, "fits": fits, "items": list}));
    } else {
        print!("{}", text(&items));
    }
    Ok(if fits { Exit::Fine } else { Exit::No })
}

/// For people.
fn text(items: &[Item]) -> String {
    let mut out = String::new();
    for item in items {
        let mark = match item.verdict {
            Verdict::Good => "ok ",
            Verdict::Doubtful => " ? ",
            Verdict::Bad => "NO ",
        };
        out += &format!("{mark} {:<18} {}\n", item.name, item.text);
    }
    let bad = items.iter().filter(|item| item.verdict == Verdict::Bad).count();
    out += &match bad {
        0 => "This machine can run Orthros.\n".to_owned(),
        count => format!("This machine cannot run Orthros: {count} of {} points.\n", items.len()),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str) -> Root {
        Root::at(format!("{}/tests/trees/{name}", env!("CARGO_MANIFEST_DIR")))
    }

    #[test]
    fn a_machine_that_fits() {
        let expected = "\
ok  processor          64-bit x86
ok  CPUs               4, of which one will be reserved
ok  room               2047 MB of RAM; the region would lie at 0x68000000, the nurseries at 0x58000000 and 0x48000000
ok  memory blocks      128 MB
ok  memory encryption  not active
ok  kernel             6.1.0-56-cloud-amd64
ok  type information   BTF of the kernel is there
ok  symbols            kallsyms is there
ok  Secure Boot        off
ok  module             installed for this kernel
This machine can run Orthros.
";
        assert_eq!(text(&items(&tree("good-machine"))), expected);
    }

    #[test]
    fn a_machine_that_does_not_fit_is_told_why() {
        let items = items(&tree("bad-machine"));
        let bad: Vec<_> = items
            .iter()
            .filter(|item| item.verdict == Verdict::Bad)
            .map(|item| item.name)
            .collect();
        assert_eq!(
            bad,
            [
                "processor",
                "CPUs",
                "room",
                "memory blocks",
                "memory encryption",
                "type information",
                "symbols",
                "Secure Boot"
            ]
        );
        assert!(text(&items).ends_with("This machine cannot run Orthros: 8 of 10 points.\n"));
    }
}
