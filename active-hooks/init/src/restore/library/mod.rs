//! What a process registered through liborthros ([`shared_region::library`]): a handler that runs in it first, and hooks
//! that decide how interrupted calls end.
//!
//! What we know on entry: every thread has the state it goes on with, and none runs. What we are responsible for: the
//! handler and the hooks run one after the other on the table's stack, each in its thread as the handler of a signal
//! would, while the other threads are held; then every thread goes on exactly where it was, but for what a hook said.
//! A process whose table is unsound goes on without its handlers, and the report says why.
//!
//! [`frame`] builds what the dispatcher returns through, [`calls`] tells which calls a hook is asked about, [`run`] drives
//! it all. While the agent waits, it sees the dispatcher's return and puts the thread's state back itself: a call that goes
//! on with what is left of its time could not survive `rt_sigreturn`, and no filter can forbid it. Once the deadline is
//! over the agent lets go, and the frame alone leads the thread back.

pub mod calls;
pub mod frame;
pub mod run;

use super::{threads, user_memory::UserMemory, world::Member, world::Space, world::World, Refusal, Restored};
use shared_region::{
    context::{Backing, Caught, Mapping, Resume, Thread},
    library::{turn, Memory, Table, MAPPING},
    PAGE_SIZE,
};
use std::collections::{BTreeSet, VecDeque};

/// Most tables of one process: each copy of the library in it has one.
const MOST_TABLES: usize = 4;

/// A sound table.
#[derive(Clone, Debug)]
pub struct Registered {
    /// Its address.
    pub at: u64,
    /// What it says.
    pub table: Table,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The handler's.
    Handler,
    /// The hook's for the call that the thread was in.
    Hook,
    /// That of one that was running when the kernel died; it goes on.
    Unfinished,
}

/// Something to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What.
    pub what: What,
    /// Index of the table.
    pub table: usize,
    /// Index of the thread.
    pub thread: usize,
}

/// What is to be run in a process before it goes on.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Its tables.
    pub tables: Vec<Registered>,
    /// In this order.
    pub turns: VecDeque<Turn>,
    /// For each thread the restartable sequence it was in, if any.
    pub sections: Vec<Option<u64>>,
    /// Threads that cannot go on before their hook has decided.
    pub undecided: BTreeSet<usize>,
}

/// The mappings of a process, for checks of a table.
struct Map<'a>(&'a [Mapping]);

impl Memory for Map<'_> {
    fn is_code(&self, at: u64) -> bool {
        let holds = |mapping: &&Mapping| (mapping.start..mapping.end).contains(&at);
        let mapping = self.0.iter().find(holds);
        mapping.is_some_and(|mapping| mapping.prot & libc::PROT_EXEC as u32 != 0)
    }

    fn is_own(&self, start: u64, end: u64) -> bool {
        let both = (libc::PROT_READ | libc::PROT_WRITE) as u32;
        let mapping = self
            .0
            .iter()
            .find(|mapping| mapping.start <= start && end <= mapping.end);
        mapping.is_some_and(|mapping| {
            mapping.prot & both == both && matches!(mapping.backing, Backing::Anonymous | Backing::FilePrivate)
        })
    }
}

/// Addresses of what may be tables.
fn candidates(space: &Space<'_>, world: &World<'_>) -> Vec<u64> {
    let is_one = |mapping: &&Mapping| {
        let shared = world.shared.get(&mapping.inode);
        mapping.backing == Backing::FilePrivate
            && mapping.offset == 0
            && mapping.end - mapping.start >= PAGE_SIZE
            && shared.is_some_and(|shared| shared.record.name == MAPPING.as_bytes())
    };
    let found = space.mappings.iter().filter(is_one);
    found.map(|mapping| mapping.start).collect()
}

/// What is to be run in a process, which must have its memory; `sections` are the restartable sequences of its threads.
/// What is wrong with it goes to `remarks`.
///
/// # Errors
/// A call cannot be decided without a hook, and there is none.
pub fn plan(
    space: &Space<'_>,
    member: &Member,
    world: &World<'_>,
    sections: &[Option<u64>],
    remarks: &mut Vec<String>,
) -> Restored<Option<Plan>> {
    let mut plan = find(space, member, world, sections, remarks);
    for (index, thread) in member.threads.iter().enumerate() {
        if thread.resume != Resume::Undecided {
            continue;
        }
        let is_asked = |turn: &&Turn| turn.what == What::Hook && turn.thread == index;
        let plan = plan
            .as_mut()
            .filter(|plan| plan.turns.iter().any(|turn| is_asked(&turn)));
        match plan {
            Some(plan) => plan.undecided.insert(index),
            None => return Err(undecided(thread)),
        };
    }
    Ok(plan)
}

/// Why a process cannot go on without an answer.
pub fn undecided(thread: &Thread) -> Refusal {
    let call = match thread.caught {
        Caught::Syscall(number) => format!("system call {number}"),
        _ => "a system call".into(),
    };
    Refusal::new(
        format!("thread {}", thread.tid),
        format!("{call} can be neither repeated nor completed, and no hook decided"),
    )
}

fn find(
    space: &Space<'_>,
    member: &Member,
    world: &World<'_>,
    sections: &[Option<u64>],
    remarks: &mut Vec<String>,
) -> Option<Plan> {
    let candidates = candidates(space, world);
    if candidates.is_empty() {
        return None;
    }
    let pid = member.record.tgid;
    let mut plan = Plan {
        sections: sections.to_vec(),
        ..Plan::default()
    };
    let found = UserMemory::of(pid).and_then(|memory| {
        for &at in candidates.iter().take(MOST_TABLES) {
            let bytes: [u8; PAGE_SIZE as usize] = memory.read(at)?;
            let map = Map(&space.mappings);
            let parsed = Table::parse(&bytes, pid, &map).map_err(|flaw| Refusal::new("its failover handlers", flaw))?;
            let own = |table: &Table| map.is_own(at, at + size_of_val(table) as u64);
            match parsed {
                Some(table) if own(&table) => plan.tables.push(Registered { at, table }),
                Some(_) => return Err(Refusal::new("its failover handlers", "their table cannot be written")),
                None => {}
            }
        }
        Ok(memory)
    });
    if let Err(refusal) = &found {
        remarks.push(refusal.to_string());
    }
    let memory = found.ok()?;
    for index in 0..plan.tables.len() {
        match turns(&plan.tables[index].table, index, member, &memory) {
            Some(turns) => plan.turns.extend(turns),
            None => remarks.push("its failover handlers: one was left and never returned".into()),
        }
    }
    (!plan.turns.is_empty()).then_some(plan)
}

/// What a table asks for. `None` if it cannot be told what is on its stack.
fn turns(table: &Table, index: usize, member: &Member, memory: &UserMemory) -> Option<Vec<Turn>> {
    let turn = |what, thread| Turn {
        what,
        table: index,
        thread,
    };
    let on_stack = |thread: &Thread| table.on_stack(thread.regs[super::tracee::RSP]);
    let unfinished = member.threads.iter().position(on_stack);
    if unfinished.is_none() && table.turn != turn::NONE {
        return None;
    }
    let mut turns: Vec<Turn> = unfinished
        .map(|thread| turn(What::Unfinished, thread))
        .into_iter()
        .collect();
    if table.handler != 0 {
        turns.push(turn(What::Handler, 0));
    }
    for (thread, record) in member.threads.iter().enumerate() {
        let hooked = calls::of(record, memory).is_some_and(|call| table.hook_for(call.number).is_some());
        if hooked && unfinished != Some(thread) {
            turns.push(turn(What::Hook, thread));
        }
    }
    Some(turns)
}

/// The critical section that a thread's registers are in, as the address where its abort goes on. `None` if they are in
/// none.
pub fn abort_of(thread: &Thread, section: u64, memory: &UserMemory) -> Restored<Option<u64>> {
    // struct rseq_cs (include/uapi/linux/rseq.h): version, flags, start, length, abort.
    let word = |index: u64| memory.word(section.wrapping_add(8 * index));
    let (start, length, abort) = (word(1)?, word(2)?, word(3)?);
    let at = threads::registers(thread)[super::tracee::RIP];
    if at.wrapping_sub(start) >= length {
        return Ok(None);
    }
    let signature: [u8; 4] = memory.read(abort.wrapping_sub(4))?;
    if u32::from_le_bytes(signature) != thread.rseq.2 {
        return Err(Refusal::new("restartable sequence", "its abort has another signature"));
    }
    Ok(Some(abort))
}
