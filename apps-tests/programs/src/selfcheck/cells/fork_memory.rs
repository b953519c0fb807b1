//! Memory shared copy-on-write after fork.

use crate::cell::{Cell, Context};
use crate::sys::memory::{Region, PAGE_WORDS};
use crate::sys::process::{self, fork};
use anyhow::{ensure, Result};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "fork/shared-pages",
        what: "parent and child share pages copy-on-write; each changed some; later writes stay private",
        covers: &["frame_kind.SHARED", "frame_kind.OWN"],
        caught: None,
        run: shared_pages,
    },
    Cell {
        name: "fork/dead-parent",
        what: "two children share pages of a parent that has exited",
        covers: &["frame_kind.SHARED"],
        caught: None,
        run: dead_parent,
    },
    Cell {
        name: "fork/three-generations",
        what: "pages of grandparent, parent and child, each changed by one of them",
        covers: &["frame_kind.SHARED"],
        caught: None,
        run: three_generations,
    },
];

const PAGES: usize = 600;

fn shared_pages(context: &mut Context) -> Result<()> {
    let memory = Region::private(PAGES)?;
    memory.fill(30, 0..PAGES);
    let child = fork(|| {
        memory.fill(31, 100..200);
        context.wait()?;
        memory.verify("the child's shared page", 30, (0..100).chain(200..PAGES))?;
        memory.verify("the child's own page", 31, 100..200)?;
        memory.fill(32, 0..PAGES);
        memory.verify("the child's page written afterwards", 32, 0..PAGES)
    })?;
    memory.fill(33, 300..400);
    context.failover(|| {
        memory.set(0, 0);
        Ok(())
    })?;
    child.join("child")?;
    memory.verify("the parent's shared page", 30, (0..300).chain(400..PAGES))?;
    memory.verify("the parent's own page", 33, 300..400)
}

fn dead_parent(context: &mut Context) -> Result<()> {
    process::set_subreaper(true)?;
    let ready = Region::shared(1)?;
    let pids = Region::shared(1)?;
    let mutate = context.mutate();
    let parent = fork(|| {
        let memory = Region::private(PAGES)?;
        memory.fill(34, 0..PAGES);
        for which in 0..2 {
            let child = fork(|| {
                memory.fill(35 + which, 50 * which as usize..50 * (which as usize + 1));
                if mutate && which == 1 {
                    memory.set(PAGE_WORDS * 300, 1);
                }
                ready.set(which as usize, 1);
                context.wait()?;
                let own = 50 * which as usize..50 * (which as usize + 1);
                memory.verify("shared page", 34, (0..PAGES).filter(|page| !own.contains(page)))?;
                memory.verify("own page", 35 + which, own.clone())?;
                memory.fill(37 + which, 0..PAGES);
                memory.verify("page written afterwards", 37 + which, 0..PAGES)
            })?;
            pids.set(which as usize, child.pid as u64);
        }
        // Drops `memory` in this process only, by exiting.
        process::exit_now(0)
    })?;
    parent.join("the parent that dies")?;
    while ready.get(0) == 0 || ready.get(1) == 0 {
        process::sched_yield()?;
    }
    context.failover(|| Ok(()))?;
    for which in 0..2 {
        process::Child {
            pid: pids.get(which) as i64,
        }
        .join("orphan")?;
    }
    Ok(())
}

fn three_generations(context: &mut Context) -> Result<()> {
    let memory = Region::private(PAGES)?;
    memory.fill(40, 0..PAGES);
    let mutate = context.mutate();
    let child = fork(|| {
        memory.fill(41, 100..300);
        let grandchild = fork(|| {
            memory.fill(42, 200..400);
            if mutate {
                memory.set(0, 7);
            }
            context.wait()?;
            memory.verify("the grandchild's view of the first", 40, (0..100).chain(400..PAGES))?;
            memory.verify("the grandchild's view of the second", 41, 100..200)?;
            memory.verify("the grandchild's own page", 42, 200..400)
        })?;
        context.wait()?;
        memory.verify("the child's view of the first", 40, (0..100).chain(300..PAGES))?;
        memory.verify("the child's own page", 41, 100..300)?;
        grandchild.join("grandchild")
    })?;
    context.failover(|| Ok(()))?;
    memory.verify("the first's page", 40, 0..PAGES)?;
    ensure!(child.pid > 0, "no child");
    child.join("child")
}
