//! Handlers and hooks that a process has registered through liborthros, from its own memory.

use super::{Finding, Process};
use shared_region::library::{Flaw, Memory, Table, MAPPING};
use shared_region::PAGE_SIZE;
use std::os::unix::fs::FileExt;

/// A line of `maps`: start, end, permissions, and what follows them.
struct Area<'a> {
    start: u64,
    end: u64,
    permissions: &'a str,
    rest: &'a str,
}

impl<'a> Area<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (permissions, rest) = rest.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            permissions,
            rest,
        })
    }

    /// Offset 0, and the name.
    fn is_table(&self) -> bool {
        let offset = self.rest.split(' ').next().unwrap_or_default();
        let name = self.rest.split_ascii_whitespace().nth(3).unwrap_or_default();
        self.permissions == "rw-p" && u64::from_str_radix(offset, 16) == Ok(0) && name == MAPPING
    }
}

struct Areas<'a>(Vec<Area<'a>>);

impl Memory for Areas<'_> {
    fn is_code(&self, at: u64) -> bool {
        let area = self.0.iter().find(|area| (area.start..area.end).contains(&at));
        area.is_some_and(|area| area.permissions.contains('x'))
    }

    fn is_own(&self, start: u64, end: u64) -> bool {
        let area = self.0.iter().find(|area| area.start <= start && end <= area.end);
        area.is_some_and(|area| area.permissions.starts_with("rw") && area.permissions.ends_with('p'))
    }
}

/// Says what would be run first after a failover.
pub fn check(process: &Process<'_>, findings: &mut Vec<Finding>) {
    let text = process.read("maps").unwrap_or_default();
    let areas = Areas(text.lines().filter_map(Area::parse).collect());
    for area in areas.0.iter().filter(|area| area.is_table()) {
        let text = match read(process, area.start).map(|bytes| Table::parse(&bytes, process.pid, &areas)) {
            Ok(Ok(Some(table))) => says(&table),
            Ok(Ok(None)) => continue,
            Ok(Err(flaw)) => broken(flaw),
            Err(error) => format!("its failover handlers cannot be looked at: {error}"),
        };
        findings.push(Finding::note("process", "failover-handlers", text));
    }
}

fn read(process: &Process<'_>, at: u64) -> std::io::Result<[u8; PAGE_SIZE as usize]> {
    let mut bytes = [0; PAGE_SIZE as usize];
    let memory = std::fs::File::open(process.root.path(&process.path("mem")))?;
    memory.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn says(table: &Table) -> String {
    let mut calls: Vec<u64> = table.registered().map(|hook| hook.number).collect();
    calls.sort_unstable();
    let calls = Vec::from_iter(calls.iter().map(u64::to_string)).join(", ");
    let what = match (table.handler != 0, calls.is_empty()) {
        (true, true) => "its handler".to_owned(),
        (true, false) => format!("its handler, and hooks for the system calls {calls},"),
        (false, _) => format!("hooks for the system calls {calls}"),
    };
    format!(
        "after a failover {what} would run before it goes on, for {} ms at most",
        table.deadline()
    )
}

fn broken(flaw: Flaw) -> String {
    format!("its failover handlers would not run: {flaw}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::Root;
    use shared_region::library::Hook;
    use std::path::PathBuf;
    use zerocopy::IntoBytes;

    const MAPS: &str = "\
00001000-00002000 r-xp 00000000 fe:01 12                         /usr/bin/x
00010000-00011000 rw-p 00000000 00:01 77                         /memfd:orthros (deleted)
00011000-00012000 ---p 00001000 00:01 77                         /memfd:orthros (deleted)
00012000-00032000 rw-p 00002000 00:01 77                         /memfd:orthros (deleted)
";

    /// A folder that goes away with it.
    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// What is said of a process with this table.
    fn found(name: &str, table: &Table) -> Vec<String> {
        let folder = Folder(std::env::temp_dir().join(format!("orthros-ctl-{name}-{}", std::process::id())));
        let proc = folder.0.join("proc/3000");
        std::fs::create_dir_all(&proc).unwrap();
        std::fs::write(proc.join("maps"), MAPS).unwrap();
        let mut memory = vec![0; 0x12000];
        memory[0x10000..0x10000 + size_of::<Table>()].copy_from_slice(table.as_bytes());
        std::fs::write(proc.join("mem"), memory).unwrap();
        let root = Root::at(&folder.0);
        let mut findings = Vec::new();
        check(&Process { root: &root, pid: 3000 }, &mut findings);
        findings.into_iter().map(|finding| finding.text).collect()
    }

    fn table() -> Table {
        Table {
            pid: 3000,
            stack_start: 0x12000,
            stack_end: 0x32000,
            dispatcher: 0x1000,
            restorer: 0x1100,
            handler: 0x1200,
            ..Table::default()
        }
    }

    #[test]
    fn handlers_and_hooks_are_told() {
        let mut with = table();
        let said = "after a failover its handler would run before it goes on, for 5000 ms at most";
        assert_eq!(found("handler", &with), [said]);
        for (slot, number) in [(0, 35), (3, 0)] {
            with.hooks[slot] = Hook {
                number,
                function: 0x1300,
                argument: 0,
            };
        }
        assert!(found("both", &with)[0].contains("hooks for the system calls 0, 35,"));
        with.handler = 0;
        assert!(found("hooks", &with)[0].contains("after a failover hooks for"));
    }

    #[test]
    fn what_would_not_run_is_told_and_what_is_not_registered_is_not() {
        let mut broken = table();
        broken.dispatcher = 0x12000;
        assert!(found("broken", &broken)[0].contains("would not run: its dispatcher at 0x12000 is not code"));
        let mut parents = table();
        parents.pid = 2999;
        assert_eq!(found("child", &parents), [""; 0]);
    }
}
