//! Words by which a running kernel shows that its CPUs are alive. The kernel moves them anyway; looking costs it nothing
//! but the cache lines.
//!
//! Their physical addresses are worked out once, while the kernel is healthy; after that a look reads them and nothing
//! else.

use crate::addr::{Kva, PhysAddr};
use crate::error::{About, Reason, WalkError};
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::modules;
use crate::overview;
use alloc::string::String;
use alloc::vec::Vec;

/// Elements of `kernel_cpustat.cpustat` for user mode: CPUTIME_USER and CPUTIME_NICE (`include/linux/kernel_stat.h`).
const USER: [u64; 2] = [0, 1];

crate::mirrors! {
    /// A CPU's run queue.
    pub struct Rq = "rq" {
        /// Switches from thread to thread.
        nr_switches: Field,
        /// The thread that runs.
        curr: Field,
        /// The CPU's idle task.
        idle: Field,
        /// Threads that began an uninterruptible sleep here, less those woken here. Only the sum over all CPUs counts them.
        nr_uninterruptible: Field,
    }

    /// A CPU's time by kind.
    pub struct KernelCpustat = "kernel_cpustat" {
        /// Nanoseconds.
        cpustat: Field,
    }

    /// Interrupts of the processor's own. That of NMIs is left out: a CPU with interrupts off takes those as well.
    pub struct IrqStat = "irq_cpustat_t" {
        /// The local timer.
        timer: Field = "apic_timer_irqs",
        /// Wanted by another CPU: to look for another thread.
        resched: Field = "irq_resched_count",
        /// Wanted by another CPU: to call a function.
        call: Field = "irq_call_count",
        /// Wanted by itself.
        work: Field = "apic_irq_work_irqs",
        /// The timer of Hyper-V.
        hyperv_timer: Option<Field> = "hyperv_stimer0_count",
    }

    /// Interrupts on a CPU.
    pub struct KernelStat = "kernel_stat" {
        /// Of devices.
        irqs_sum: Field,
    }
}

/// Where one CPU's words lie.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Places {
    /// 32-bit counters of interrupts.
    interrupts: Vec<PhysAddr>,
    irqs_sum: PhysAddr,
    switches: PhysAddr,
    curr: PhysAddr,
    idle: PhysAddr,
    uninterruptible: PhysAddr,
    user: [PhysAddr; 2],
}

/// Where the words lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeats {
    cpus: Vec<Places>,
    online: PhysAddr,
    debugger: Option<PhysAddr>,
}

/// What one CPU's words say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Whether it is among the CPUs in use.
    pub online: bool,
    /// Changes with every interrupt.
    pub interrupts: u64,
    /// Switches from thread to thread.
    pub switches: u64,
    /// Time in user mode in nanoseconds.
    pub user: u64,
    /// Whether the idle task runs.
    pub idle: bool,
    /// Its part of the number of threads in uninterruptible sleep; add up with wrapping.
    pub uninterruptible: u64,
}

impl Heartbeats {
    /// Finds the words.
    ///
    /// # Errors
    /// The kernel lacks one, or it is not mapped.
    pub fn find<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>) -> Result<Self, WalkError> {
        let globals = &kernel.prepared.globals;
        let layouts = &kernel.types.layouts;
        let missing = |name: &'static str| WalkError::new(name, Kva::NULL, Reason::Null);
        let queues = globals.runqueues.ok_or(missing("runqueues"))?;
        let irq_stat = globals.irq_stat.ok_or(missing("irq_stat"))?;
        let stat = globals.kstat.ok_or(missing("kstat"))?;
        let times = globals.kernel_cpustat.ok_or(missing("kernel_cpustat"))?;
        let online = globals.cpu_online_mask.ok_or(missing("__cpu_online_mask"))?;
        let rq = layouts.rq.as_ref().ok_or(missing("rq"))?;
        let irqs = layouts.irq_stat.as_ref().ok_or(missing("irq_cpustat_t"))?;
        let counters = [
            Some(irqs.timer),
            Some(irqs.resched),
            Some(irqs.call),
            Some(irqs.work),
            irqs.hyperv_timer,
        ];
        let stat_type = layouts.kernel_stat.as_ref().ok_or(missing("kernel_stat"))?;
        let times_type = layouts.kernel_cpustat.as_ref().ok_or(missing("kernel_cpustat"))?;

        let physical = |name: &'static str, at: Kva| kernel.mem.translate(at).about(name);
        let mut cpus = Vec::new();
        for cpu in 0..kernel.cpu_count() {
            let own = |variable: Kva, offset: u64| {
                let base = kernel.per_cpu(cpu, variable).unwrap_or(Kva::NULL);
                physical("per-CPU area", base.offset(offset))
            };
            let member = |variable: Kva, field: Field| own(variable, u64::from(field.offset));
            let time = |element: u64| {
                own(
                    times,
                    u64::from(times_type.cpustat.offset).wrapping_add(element.wrapping_mul(8)),
                )
            };
            let [user, nice] = USER;
            cpus.push(Places {
                interrupts: counters
                    .into_iter()
                    .flatten()
                    .map(|field| member(irq_stat, field))
                    .collect::<Result<_, _>>()?,
                irqs_sum: member(stat, stat_type.irqs_sum)?,
                switches: member(queues, rq.nr_switches)?,
                curr: member(queues, rq.curr)?,
                idle: member(queues, rq.idle)?,
                uninterruptible: member(queues, rq.nr_uninterruptible)?,
                user: [time(user)?, time(nice)?],
            });
        }
        Ok(Self {
            cpus,
            online: physical("__cpu_online_mask", online)?,
            debugger: globals.kgdb_active.and_then(|at| kernel.mem.translate(at).ok()),
        })
    }

    /// Number of CPUs.
    pub fn count(&self) -> usize {
        self.cpus.len()
    }

    /// Reads one CPU's words. `None` if they are not RAM.
    pub fn beat<M: PhysMem + ?Sized>(&self, memory: &M, cpu: usize) -> Option<Beat> {
        let at = self.cpus.get(cpu)?;
        let mask = word(memory, self.online.checked_add((cpu as u64 >> 6).wrapping_mul(8))?)?;
        let mut interrupts = word(memory, at.irqs_sum)?;
        for &counter in &at.interrupts {
            let mut bytes = [0; 4];
            memory.read(counter, &mut bytes).ok()?;
            interrupts = interrupts.wrapping_add(u64::from(u32::from_le_bytes(bytes)));
        }
        let [user, nice] = at.user;
        Some(Beat {
            online: mask.wrapping_shr(cpu as u32 & 63) & 1 == 1,
            interrupts,
            switches: word(memory, at.switches)?,
            user: word(memory, user)?.wrapping_add(word(memory, nice)?),
            idle: word(memory, at.curr)? == word(memory, at.idle)?,
            uninterruptible: word(memory, at.uninterruptible)?,
        })
    }

    /// Whether the kernel debugger has stopped the kernel.
    pub fn in_debugger<M: PhysMem + ?Sized>(&self, memory: &M) -> bool {
        let mut active = [0xFF; 4];
        let read = self.debugger.is_some_and(|at| memory.read(at, &mut active).is_ok());
        // −1: no CPU is in it.
        read && active != [0xFF; 4]
    }
}

/// A thread in uninterruptible sleep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sleeper {
    /// Its `struct task_struct`.
    pub task: Kva,
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// Nanoseconds for which it has run; the same again if it has slept all the time.
    pub ran: u64,
}

/// The threads in uninterruptible sleep. The kernel runs meanwhile: what cannot be read, or is torn, is left out.
pub fn sleepers<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>) -> Vec<Sleeper> {
    let ran = kernel.types.layouts.task.sum_exec_runtime;
    overview::processes(kernel, |_| {})
        .into_iter()
        .flat_map(|process| process.threads)
        .filter(|thread| thread.state == 'D')
        .filter_map(|thread| {
            Some(Sleeper {
                task: thread.task,
                pid: thread.pid,
                comm: thread.comm,
                ran: kernel.mem.uint(thread.task, ran).ok()?,
            })
        })
        .collect()
}

fn word<M: PhysMem + ?Sized>(memory: &M, at: PhysAddr) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read(at, &mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// An instruction pointer as text: `symbol+offset`, `[module]+offset`, or the address.
pub fn place<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, ip: u64) -> String {
    let at = Kva(ip);
    if kernel.prepared.space.image.contains(&at) {
        if let Some(symbol) = kernel.kallsyms.symbolize(at) {
            return alloc::format!("{}+{:#x}", symbol.name, symbol.offset);
        }
    }
    for module in modules::modules(kernel).flatten() {
        let within = ip.wrapping_sub(module.base.0);
        if within < module.size {
            return alloc::format!("[{}]+{within:#x}", module.name);
        }
    }
    alloc::format!("{at}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::SparseMemory;

    /// One CPU, number 0 of two, whose words lie one after the other.
    fn world() -> (Heartbeats, SparseMemory) {
        let at = |index: u64| PhysAddr(0x1000 + 8 * index);
        let places = |first: u64| Places {
            interrupts: Vec::from([at(first), PhysAddr(at(first).0 + 4)]),
            irqs_sum: at(first + 1),
            switches: at(first + 2),
            curr: at(first + 3),
            idle: at(first + 4),
            uninterruptible: at(first + 5),
            user: [at(first + 6), at(first + 7)],
        };
        let beats = Heartbeats {
            cpus: Vec::from([places(0), places(8)]),
            online: at(16),
            debugger: Some(at(17)),
        };
        let mut memory = SparseMemory::new();
        for index in 0..18 {
            memory.write_u64(at(index), 0);
        }
        memory.write_u64(at(16), 1);
        memory.write_u64(at(17), u64::from(u32::MAX));
        (beats, memory)
    }

    #[test]
    fn each_word_shows_in_its_own_sign() {
        let (beats, mut memory) = world();
        let before = beats.beat(&memory, 0).unwrap();
        assert!(before.online && before.idle);
        // Both counters of one 64-bit word, the device interrupts, a switch, a thread that runs, time as nice.
        memory.write_u64(PhysAddr(0x1000), 1 << 32 | 1);
        memory.write_u64(PhysAddr(0x1008), 1);
        assert_eq!(beats.beat(&memory, 0).unwrap().interrupts, before.interrupts + 3);
        memory.write_u64(PhysAddr(0x1010), 9);
        memory.write_u64(PhysAddr(0x1018), 0xFFFF_8880_0000_0000);
        memory.write_u64(PhysAddr(0x1038), 4);
        let after = beats.beat(&memory, 0).unwrap();
        assert_eq!((after.switches, after.idle, after.user), (9, false, 4));
    }

    #[test]
    fn a_cpu_that_is_out_or_unknown_is_told_apart() {
        let (beats, memory) = world();
        assert!(!beats.beat(&memory, 1).unwrap().online);
        assert_eq!(beats.beat(&memory, 2), None);
        assert_eq!(beats.beat(&SparseMemory::new(), 0), None);
    }

    #[test]
    fn the_debugger_is_seen() {
        let (beats, mut memory) = world();
        assert!(!beats.in_debugger(&memory));
        memory.write_u64(PhysAddr(0x1000 + 8 * 17), 1);
        assert!(beats.in_debugger(&memory));
        assert!(!beats.in_debugger(&SparseMemory::new()));
    }
}
