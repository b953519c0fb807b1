//! Which processes are to be kept: the administrator's table against the list of processes.

use crate::failover::Protected;
use crate::tasks::ProcessEntry;
use alloc::string::String;
use alloc::vec::Vec;
use hashbrown::{HashMap, HashSet};
use shared_region::protect::{flags, kind, ProtectEntry, ProtectTable, MAX_ENTRIES};
use zerocopy::FromBytes;

/// Longest line of ancestors that is followed.
const MAX_DEPTH: usize = 4096;

/// What was chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Indices of processes, those that started earlier first: parents before their children.
    pub processes: Vec<usize>,
    /// Entries of the table that make no sense, for the report.
    pub bad_entries: Vec<String>,
}

/// Chooses. Kernel threads and init are never among the chosen; a child that has ended and waits to be reaped is, if
/// its parent is.
pub fn choose(protected: Protected<'_>, processes: &[ProcessEntry]) -> Choice {
    let mut choice = Choice::default();
    let wishes = match protected {
        Protected::Table(bytes) => wishes(bytes, &mut choice.bad_entries),
        Protected::All | Protected::One(_) => Vec::new(),
    };
    let by_tgid: HashMap<u32, usize> = processes.iter().enumerate().map(|(i, p)| (p.tgid, i)).collect();
    let mut named: HashSet<u32> = HashSet::new();
    let mut heads: HashSet<u32> = HashSet::new();
    for process in processes.iter().filter(|p| eligible(p)) {
        let matching = wishes.iter().filter(|wish| matches(wish, process));
        let mut any =
            matches!(protected, Protected::All) || matches!(protected, Protected::One(pid) if pid == process.tgid);
        for wish in matching {
            any = true;
            if wish.flags & flags::DESCENDANTS != 0 {
                heads.insert(process.tgid);
            }
        }
        if any {
            named.insert(process.tgid);
        }
    }
    let has_head = |process: &ProcessEntry| {
        let mut at = process.parent;
        for _ in 0..MAX_DEPTH {
            if heads.contains(&at) {
                return true;
            }
            match by_tgid.get(&at).and_then(|&i| processes.get(i)) {
                Some(parent) if parent.parent != at && at != 0 => at = parent.parent,
                _ => return false,
            }
        }
        false
    };
    let inherited: Vec<u32> = processes
        .iter()
        .filter(|p| eligible(p) && has_head(p))
        .map(|p| p.tgid)
        .collect();
    named.extend(inherited);
    let ended: Vec<u32> = processes
        .iter()
        .filter(|p| p.exit_state != 0 && named.contains(&p.parent) && eligible(p))
        .map(|p| p.tgid)
        .collect();
    named.extend(ended);

    choice.processes = (0..processes.len())
        .filter(|&i| processes.get(i).is_some_and(|p| named.contains(&p.tgid) && eligible(p)))
        .collect();
    // What was restored started before this kernel did: at a time below zero.
    choice.processes.sort_by_key(|&i| {
        processes
            .get(i)
            .map_or((0, 0), |p| (p.start_boottime.cast_signed(), p.tgid))
    });
    choice
}

/// Whether a process can be chosen at all.
fn eligible(process: &ProcessEntry) -> bool {
    !process.kernel && process.tgid > 1
}

fn matches(wish: &ProtectEntry, process: &ProcessEntry) -> bool {
    match wish.kind {
        kind::PROCESS => {
            u64::from(process.tgid) == wish.tgid
                && (wish.start_boottime == 0 || wish.start_boottime == process.start_boottime)
        }
        kind::COMM => {
            let end = wish.comm.iter().position(|&byte| byte == 0).unwrap_or(wish.comm.len());
            wish.comm.get(..end).is_some_and(|comm| comm == process.comm.as_slice())
        }
        _ => false,
    }
}

/// The entries in use. Each stands for itself; one that makes no sense is reported and skipped.
fn wishes(bytes: &[u8], bad: &mut Vec<String>) -> Vec<ProtectEntry> {
    let first = core::mem::offset_of!(ProtectTable, entries);
    let size = core::mem::size_of::<ProtectEntry>();
    let entries = bytes.get(first..).unwrap_or(&[]).chunks_exact(size).take(MAX_ENTRIES);
    let mut wishes = Vec::new();
    for (number, bytes) in entries.enumerate() {
        let Ok(entry) = ProtectEntry::read_from_bytes(bytes) else {
            continue;
        };
        match entry.kind {
            kind::FREE => {}
            kind::PROCESS if entry.tgid > 1 && u32::try_from(entry.tgid).is_ok() => wishes.push(entry),
            kind::COMM if entry.comm.first().is_some_and(|&byte| byte != 0) => wishes.push(entry),
            other => bad.push(alloc::format!(
                "entry {number} of the table of protected processes (kind {other})"
            )),
        }
    }
    wishes
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use zerocopy::IntoBytes;

    fn process(tgid: u32, parent: u32, start: u64, comm: &str) -> ProcessEntry {
        ProcessEntry {
            leader: crate::addr::Kva(u64::from(tgid)),
            tgid,
            parent,
            start_boottime: start,
            comm: comm.as_bytes().to_vec(),
            kernel: false,
            exit_state: 0,
            state: 0,
        }
    }

    fn table(entries: &[ProtectEntry]) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        for entry in entries {
            bytes.extend_from_slice(entry.as_bytes());
        }
        bytes
    }

    fn comm(name: &str) -> [u8; 16] {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name.as_bytes());
        comm
    }

    fn chosen(bytes: &[u8], processes: &[ProcessEntry]) -> Vec<u32> {
        let choice = choose(Protected::Table(bytes), processes);
        choice.processes.iter().map(|&i| processes[i].tgid).collect()
    }

    #[test]
    fn a_recycled_id_is_not_mistaken() {
        let wish = ProtectEntry {
            kind: kind::PROCESS,
            tgid: 30,
            start_boottime: 5,
            ..Default::default()
        };
        let bytes = table(&[wish]);
        assert_eq!(chosen(&bytes, &[process(30, 1, 5, "a")]), [30]);
        assert_eq!(chosen(&bytes, &[process(30, 1, 6, "a")]), [] as [u32; 0]);
    }

    #[test]
    fn descendants_come_after_their_parents_and_zombies_with_theirs() {
        let wish = ProtectEntry {
            kind: kind::COMM,
            flags: flags::DESCENDANTS,
            comm: comm("sh"),
            ..Default::default()
        };
        let mut zombie = process(50, 40, 9, "gone");
        zombie.exit_state = crate::tasks::EXIT_ZOMBIE;
        let all = [
            zombie,
            process(41, 40, 8, "grep"),
            process(40, 1, 7, "sh"),
            process(60, 1, 3, "other"),
        ];
        assert_eq!(chosen(&table(&[wish]), &all), [40, 41, 50]);
        let alone = ProtectEntry { flags: 0, ..wish };
        assert_eq!(chosen(&table(&[alone]), &all), [40, 50]);
    }

    #[test]
    fn what_was_restored_before_started_below_zero() {
        let all = [
            process(41, 40, 8, "child"),
            process(40, 1, 5u64.wrapping_neg(), "parent"),
            process(39, 1, 7, "other"),
        ];
        assert_eq!(choose(Protected::All, &all).processes, [1, 2, 0]);
    }

    #[test]
    fn init_and_kernel_threads_are_never_chosen() {
        let mut thread = process(2, 0, 0, "kthreadd");
        thread.kernel = true;
        let all = [process(1, 0, 0, "init"), thread, process(9, 1, 1, "x")];
        assert_eq!(choose(Protected::All, &all).processes, [2]);
    }

    #[test]
    fn senseless_entries_are_named_and_a_cycle_of_parents_ends() {
        let bad = ProtectEntry {
            kind: 77,
            ..Default::default()
        };
        let wish = ProtectEntry {
            kind: kind::COMM,
            flags: flags::DESCENDANTS,
            comm: comm("x"),
            ..Default::default()
        };
        let bytes = table(&[bad, wish]);
        let all = [process(5, 6, 1, "a"), process(6, 5, 1, "b")];
        let choice = choose(Protected::Table(&bytes), &all);
        assert_eq!((choice.processes.len(), choice.bad_entries.len()), (0, 1));
    }
}
