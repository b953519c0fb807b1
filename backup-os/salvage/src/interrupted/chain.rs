//! The functions a thread was in, from the innermost out to the entry from user mode.
//!
//! Calls begin at a random depth of the stack (`randomize_kstack_offset`), so that what earlier calls left there looks
//! like this one's. Only the frames of the chain are this call's, and where in the chain a thread was tells what it has
//! done.

use crate::addr::Kva;
use crate::context::Context;
use crate::heartbeat;
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::modules;
use crate::orc::Unwind;
use crate::registers::{Place, Registers};
use crate::tasks::{self, PT_REGS};
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

/// Functions that switch to another task, and what lies between these and a function that waits.
const WAITS: [&str; 10] = [
    "__schedule",
    "schedule",
    "schedule_timeout",
    "schedule_hrtimeout",
    "schedule_hrtimeout_range",
    "schedule_hrtimeout_range_clock",
    "do_wait_intr",
    "do_wait_intr_irq",
    "wait_woken",
    "io_schedule",
];
/// Functions that run before the function of the call does.
const BEFORE: [&str; 6] = [
    "syscall_enter_from_user_mode",
    "syscall_enter_from_user_mode_work",
    "syscall_trace_enter",
    "__secure_computing",
    "fdget_pos",
    "__fdget_pos",
];
/// Where a page fault enters: the one interrupt that is part of what the function does.
const PAGE_FAULT: &str = "asm_exc_page_fault";

/// Functions that are shown to people.
const SHOWN: usize = 16;

/// A function of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name, without what the compiler appends to parts and copies; in the text of a module that of the module, in brackets.
    pub name: String,
    /// What it has on the stack.
    pub frame: Range<Kva>,
    /// Whether it was interrupted rather than calls the link before: it can be at any of its instructions.
    pub interrupted: bool,
    /// Where its registers were saved then.
    pub registers: Option<Kva>,
}

/// A chain of calls, the innermost first, without what interrupts did on top of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    links: Vec<Link>,
}

/// The frames that a thread has on its stack.
fn unwind<'k, 'm, M: PhysMem + ?Sized>(
    kernel: &'k Kernel<'m, M>,
    task: Kva,
    registers: &Registers,
) -> Option<Unwind<'k, 'm, M>> {
    match registers.place {
        Place::Off => Unwind::sleeping(kernel, task).ok(),
        Place::At(start) => Some(Unwind::new(kernel, start)),
        Place::Unknown => None,
    }
}

/// The innermost functions that a thread was in, for people to read: `a < b < c`.
pub fn place<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, task: Kva, registers: &Registers) -> String {
    unwind(kernel, task, registers).map_or_else(String::new, |unwind| in_words(kernel, unwind))
}

/// The innermost functions of a chain, as far as they are found.
pub fn in_words<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, unwind: Unwind<'_, '_, M>) -> String {
    let frames = unwind.map_while(Result::ok).take(SHOWN);
    let names: Vec<String> = frames.map(|frame| heartbeat::place(kernel, frame.text().0)).collect();
    names.join(" < ")
}

impl Chain {
    /// The chain of a thread. `None` if it does not lead to the registers at the top of the thread's own stack.
    pub fn of<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva, registers: &Registers) -> Option<Self> {
        let kernel = context.kernel;
        let (_, top) = tasks::stack(kernel, task).ok()?;
        let (frames, user) = unwind(kernel, task, registers)?.to_user_mode()?;
        if user != top.back(PT_REGS) {
            return None;
        }
        let links = frames.iter().map(|frame| {
            Some(Link {
                name: modules::name_of_text(kernel, frame.text())?,
                frame: frame.sp..frame.end,
                interrupted: frame.interrupted,
                registers: frame.registers,
            })
        });
        Some(Self::from_links(links.collect::<Option<Vec<_>>>()?))
    }

    fn from_links(all: Vec<Link>) -> Self {
        let mut links: Vec<Link> = Vec::new();
        for mut link in all {
            link.name.truncate(link.name.find('.').unwrap_or(link.name.len()));
            if link.interrupted && links.last().is_some_and(|inner| inner.name != PAGE_FAULT) {
                links.clear();
            }
            links.push(link);
        }
        Self { links }
    }

    /// What all of them have on the stack.
    pub fn frames(&self) -> Option<Range<Kva>> {
        Some(self.links.first()?.frame.start..self.links.last()?.frame.end)
    }

    /// The innermost of the functions with one of these names, by its place.
    pub fn find(&self, names: &[&str]) -> Option<usize> {
        self.links.iter().position(|link| names.contains(&link.name.as_str()))
    }

    /// Whether it passes through the text of a module.
    pub fn passes_a_module(&self) -> bool {
        self.links.iter().any(|link| link.name.starts_with('['))
    }

    /// Whether one of these functions is in the chain.
    pub fn has(&self, names: &[&str]) -> bool {
        self.find(names).is_some()
    }

    /// All functions with one of these names.
    pub fn all<'s>(&'s self, names: &'s [&str]) -> impl Iterator<Item = &'s Link> + 's {
        self.links
            .iter()
            .filter(move |link| names.contains(&link.name.as_str()))
    }

    /// The function that the one at `at` was calling; `None` if it was itself at work, at an instruction that nothing
    /// is known of.
    pub fn called_by(&self, at: usize) -> Option<&Link> {
        let link = self.links.get(at)?;
        self.links.get(at.checked_sub(1)?).filter(|_| !link.interrupted)
    }

    /// Whether one of these functions lies below the one at `at`.
    pub fn is_below(&self, at: usize, names: &[&str]) -> bool {
        self.find(names).is_some_and(|found| found < at)
    }

    /// Whether one of the outer functions is calling one of the inner ones.
    pub fn calls(&self, outer: &[&str], inner: &[&str]) -> bool {
        self.find(outer)
            .and_then(|at| self.called_by(at))
            .is_some_and(|called| inner.contains(&called.name.as_str()))
    }

    /// Whether the thread gave its CPU up of its own accord, instead of being stopped at any instruction.
    pub fn is_off(&self) -> bool {
        self.links
            .first()
            .is_some_and(|link| !link.interrupted && WAITS.contains(&link.name.as_str()))
    }

    /// Whether the function at `at` itself waits: nothing but the way to another task lies below it. Not for functions of
    /// that way.
    pub fn waits(&self, at: usize) -> bool {
        let below = self.links.get(..at).unwrap_or_default();
        self.is_off() && !below.is_empty() && below.iter().all(|link| WAITS.contains(&link.name.as_str()))
    }

    /// The function at `at`, or one below it, if that is in a page fault and has one of these names.
    pub fn faulting(&self, at: usize, names: &[&str]) -> Option<&Link> {
        let below = self.links.get(..=at)?;
        let mut pairs = below.iter().zip(below.iter().skip(1));
        let found = pairs.find(|(inner, outer)| {
            inner.name == PAGE_FAULT && outer.interrupted && names.contains(&outer.name.as_str())
        });
        found.map(|(_, outer)| outer)
    }

    /// Whether there is one.
    pub fn faults(&self, at: usize, names: &[&str]) -> bool {
        self.faulting(at, names).is_some()
    }

    /// Whether the function of the call has not been reached, or has not looked at anything yet.
    pub fn is_before_the_call(&self) -> bool {
        self.has(&BEFORE)
            || self
                .links
                .first()
                .is_some_and(|link| link.interrupted && link.name.starts_with("entry_SYSCALL_64"))
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
pub mod tests;
