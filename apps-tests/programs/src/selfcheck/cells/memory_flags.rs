//! Protection, locks, advice and policy of mappings.

use crate::cell::{same, Cell, Context};
use crate::sys::memory::{self, Region, PAGE};
use crate::sys::process::{self, fork};
use anyhow::{ensure, Result};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "memory/protection",
        what: "read-only and inaccessible pages fault, and hold what they held once they are opened",
        covers: &["Mapping.prot"],
        caught: None,
        run: protection,
    },
    Cell {
        name: "memory/grows-down",
        what: "a MAP_GROWSDOWN mapping still grows",
        covers: &["Mapping.map_flags"],
        caught: None,
        run: grows_down,
    },
    Cell {
        name: "memory/locked",
        what: "mlock and MLOCK_ONFAULT: the flags and VmLck",
        covers: &["Mapping.map_flags", "Mapping.lock_on_fault"],
        caught: None,
        run: locked,
    },
    Cell {
        name: "memory/lock-future",
        what: "mlockall(MCL_FUTURE) holds for mappings made afterwards",
        covers: &["AddressSpace.def_flags"],
        caught: None,
        run: lock_future,
    },
    Cell {
        name: "memory/advice",
        what: "every lasting madvise: no fork, no dump, wipe on fork, huge, no huge, mergeable, random, sequential",
        covers: &["Mapping.advice"],
        caught: None,
        run: advice,
    },
    Cell {
        name: "memory/wipe-on-fork",
        what: "a child made afterwards finds zeros under MADV_WIPEONFORK",
        covers: &["Mapping.advice"],
        caught: None,
        run: wipe_on_fork,
    },
    Cell {
        name: "memory/no-reserve",
        what: "MAP_NORESERVE",
        covers: &["Mapping.map_flags"],
        caught: None,
        run: no_reserve,
    },
    Cell {
        name: "memory/name",
        what: "the name given by PR_SET_VMA_ANON_NAME",
        covers: &["Mapping.name"],
        caught: None,
        run: name,
    },
    Cell {
        name: "memory/thp-disable",
        what: "PR_SET_THP_DISABLE",
        covers: &["AddressSpace.thp_disable"],
        caught: None,
        run: thp_disable,
    },
    Cell {
        name: "memory/policy",
        what: "the NUMA policy of the thread",
        covers: &["Thread.mempolicy"],
        caught: None,
        run: policy,
    },
];

/// Expects a child that touches a word to die of SIGSEGV.
fn expect_fault(what: &str, memory: &Region, index: usize, write: bool) -> Result<()> {
    let child = fork(|| {
        // A core of the expected fault helps nobody.
        process::set_limit(libc::RLIMIT_CORE, 0, 0)?;
        crate::sys::signal::ignore(libc::SIGSEGV, false)?;
        if write {
            memory.set(index, 1);
        } else {
            std::hint::black_box(memory.get(index));
        }
        Ok(())
    })?;
    let status = child.status()?;
    ensure!(
        status & 0x7F == libc::SIGSEGV,
        "{what}: no fault (wait status {status:#x})"
    );
    Ok(())
}

fn protection(context: &mut Context) -> Result<()> {
    let memory = Region::private(64)?;
    memory.fill(20, 0..64);
    memory.protect(16..32, libc::PROT_READ)?;
    memory.protect(32..48, libc::PROT_NONE)?;
    context.failover(|| memory.protect(0..64, libc::PROT_READ | libc::PROT_WRITE))?;
    memory.verify("readable page", 20, (0..32).chain(48..64))?;
    expect_fault("write to a read-only page", &memory, 16 * memory::PAGE_WORDS, true)?;
    expect_fault("read of an inaccessible page", &memory, 40 * memory::PAGE_WORDS, false)?;
    memory.protect(0..64, libc::PROT_READ | libc::PROT_WRITE)?;
    memory.verify("page opened again", 20, 0..64)
}

fn flags_of(memory: &Region) -> Result<Vec<String>> {
    let volatile = ["sd", "ac", "me", "mw", "mr", "ms"];
    let mut flags = memory::mapping_of(memory.address())?.flags;
    flags.retain(|flag| !volatile.contains(&flag.as_str()));
    flags.sort();
    Ok(flags)
}

/// Compares flags as two kernels show them: one that a kernel has no letters for is `??`.
fn same_flags(what: &str, now: &[String], before: &[String]) -> Result<()> {
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|flag| !those.contains(flag)).cloned().collect()
    };
    let (new, old) = (only(now, before), only(before, now));
    let unnamed = |flags: &[String]| flags.iter().all(|flag| flag == "??");
    ensure!(
        new.len() == old.len() && (unnamed(&new) || unnamed(&old)),
        "{what}: {now:?}, was {before:?}"
    );
    Ok(())
}

fn expect_flag(memory: &Region, flag: &str) -> Result<()> {
    let flags = flags_of(memory)?;
    ensure!(flags.iter().any(|f| f == flag), "VmFlags lacks `{flag}`: {flags:?}");
    Ok(())
}

fn grows_down(context: &mut Context) -> Result<()> {
    // A hole with the mapping at its upper end: more than the guard gap stays free below it.
    let hole = Region::private(4096)?;
    let top = hole.address() + 4000 * PAGE;
    drop(hole);
    let memory = Region::private_at(top, 4, libc::MAP_GROWSDOWN)?;
    memory.fill(21, 0..4);
    let mut flag = "gd";
    context.failover(|| {
        flag = "not";
        Ok(())
    })?;
    expect_flag(&memory, flag)?;
    memory.verify("memory", 21, 0..4)?;
    let child = fork(|| {
        for page in 1..=16 {
            memory::touch_below(&memory, page * PAGE);
        }
        let start = memory::mapping_of(top)?.start;
        ensure!(start <= top - 16 * PAGE, "the mapping starts at {start:#x}");
        Ok(())
    })?;
    child.join("growing")
}

fn locked(context: &mut Context) -> Result<()> {
    let now = Region::private(16)?;
    let on_fault = Region::private(16)?;
    now.fill(22, 0..16);
    now.lock(0)?;
    on_fault.lock(1)?;
    let pid = process::getpid()?;
    let before = (
        flags_of(&now)?,
        flags_of(&on_fault)?,
        process::status_field(pid, "VmLck")?,
    );
    context.failover(|| now.unlock())?;
    same_flags("flags of locked memory", &flags_of(&now)?, &before.0)?;
    same_flags("flags of memory locked on fault", &flags_of(&on_fault)?, &before.1)?;
    same("VmLck", process::status_field(pid, "VmLck")?, before.2)?;
    now.verify("locked memory", 22, 0..16)
}

fn lock_future(context: &mut Context) -> Result<()> {
    let (soft, _) = process::limit(libc::RLIMIT_MEMLOCK)?;
    if soft < 64 << 20 && process::ids(false)?[1] != 0 {
        return context.skip("RLIMIT_MEMLOCK is too small");
    }
    memory::mlockall((libc::MCL_FUTURE).into())?;
    context.failover(|| memory::munlockall().map(drop))?;
    let later = Region::private(16)?;
    expect_flag(&later, "lo")?;
    memory::munlockall().map(drop)
}

fn advice(context: &mut Context) -> Result<()> {
    let list = [
        libc::MADV_DONTFORK,
        libc::MADV_DONTDUMP,
        libc::MADV_WIPEONFORK,
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
        libc::MADV_RANDOM,
        libc::MADV_SEQUENTIAL,
        libc::MADV_MERGEABLE,
    ];
    let mut advised = Vec::new();
    for advice in list {
        let memory = Region::private(16)?;
        memory.fill(advice as u64, 0..16);
        match memory.advise(advice) {
            Ok(()) => advised.push((advice, flags_of(&memory)?, memory)),
            // KSM is an option of the kernel.
            Err(_) if advice == libc::MADV_MERGEABLE => {}
            Err(error) => return Err(error),
        }
    }
    context.failover(|| advised[0].2.advise(libc::MADV_DOFORK))?;
    for (advice, flags, memory) in &advised {
        same(
            &format!("flags under advice {advice}"),
            flags_of(memory)?,
            flags.clone(),
        )?;
        memory.verify(&format!("memory under advice {advice}"), *advice as u64, 0..16)?;
    }
    Ok(())
}

fn wipe_on_fork(context: &mut Context) -> Result<()> {
    let memory = Region::private(16)?;
    memory.fill(23, 0..16);
    memory.advise(libc::MADV_WIPEONFORK)?;
    context.failover(|| memory.advise(libc::MADV_KEEPONFORK))?;
    memory.verify("the parent's memory", 23, 0..16)?;
    fork(|| memory.verify_zero("the child's memory", 0..16))?.join("wiping")
}

fn no_reserve(context: &mut Context) -> Result<()> {
    let memory = Region::anonymous(64, libc::MAP_PRIVATE | libc::MAP_NORESERVE)?;
    memory.fill(24, 0..8);
    if !flags_of(&memory)?.iter().any(|flag| flag == "nr") {
        return context.skip("the overcommit policy ignores MAP_NORESERVE");
    }
    let mut flag = "nr";
    context.failover(|| {
        flag = "not";
        Ok(())
    })?;
    expect_flag(&memory, flag)?;
    memory.verify("memory", 24, 0..8)?;
    memory.verify_zero("untouched page", 8..64)
}

fn name(context: &mut Context) -> Result<()> {
    let memory = Region::private(16)?;
    memory.fill(25, 0..16);
    if memory.name(c"selfcheck").is_err() {
        return context.skip("this kernel does not name anonymous memory");
    }
    let before = memory::mapping_of(memory.address())?.name;
    context.failover(|| memory.name(c"other"))?;
    same("name", memory::mapping_of(memory.address())?.name, before)
}

fn thp_disable(context: &mut Context) -> Result<()> {
    process::THP_DISABLE.set(1)?;
    context.failover(|| process::THP_DISABLE.set(0))?;
    same("PR_GET_THP_DISABLE", process::THP_DISABLE.get()?, 1)
}

fn policy(context: &mut Context) -> Result<()> {
    const MPOL_BIND: i32 = 2;
    if memory::set_mempolicy(MPOL_BIND, 1).is_err() {
        return context.skip("this kernel has no NUMA policies");
    }
    context.failover(|| memory::set_mempolicy(0, 0))?;
    same("policy", memory::mempolicy()?, (MPOL_BIND, 1))
}
