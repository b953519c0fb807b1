// SPDX-License-Identifier: GPL-2.0
/*
 * Makes this kernel fail in a chosen way, for tests: only with allow_test=1.
 */
#include <linux/completion.h>
#include <linux/console.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/fdtable.h>
#include <linux/hrtimer.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/panic.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/smp.h>
#include <linux/uaccess.h>
#include <asm/smp.h>
#include "orthros.h"

/* shared_region::control::inject: what the stop and the salvager do, and where the successor fails. */
#define ALL_INJECTIONS (0xff | 0x3f << 24)
/* A spinner that nobody stops gives its CPU back after this long. */
#define SPIN_LIMIT_S 60
/* The same for a hang, which takes longer to be noticed. */
#define HANG_LIMIT_S 600

static DECLARE_COMPLETION(spinner_runs);
static struct hrtimer bug_timer;
static bool bug_timer_used;
static struct task_struct *stalled;
/* Where the kernel panics, and how often it comes by before. */
static char probe_place[KSYM_NAME_LEN];
static atomic_long_t probe_passes;
static struct kprobe probe;
/* The CPU that hangs in its next NMI, -1 if none is to. */
static int nmi_victim = -1;

static int panic_thread(void *unused)
{
	panic("orthros: asked for by a test");
	return 0;
}

static int null_thread(void *unused)
{
	*(volatile int *)NULL = 0;
	return 0;
}

/* Fails once, as soon as the kernel says that it panics. */
static void failing_write(struct console *console, const char *text, unsigned int length)
{
	static unsigned long failed;

	if (oops_in_progress && !test_and_set_bit(0, &failed))
		*(volatile int *)NULL = 0;
}

static struct console failing_console = {
	.name = "orthros",
	.write = failing_write,
	.flags = CON_ENABLED,
	.index = -1,
};

static int panic_in_panic_thread(void *unused)
{
	register_console(&failing_console);
	panic("orthros: asked for by a test, and a console fails");
	return 0;
}

/* Whether the lock was free within some milliseconds. Interrupts are off. */
static bool try_for_long(spinlock_t *lock)
{
	u64 end = rdtsc() + (u64)tsc_khz * 20;

	while (!spin_trylock(lock)) {
		if (rdtsc() > end)
			return false;
		cpu_relax();
	}
	return true;
}

/*
 * Takes what others want who deal with a protected process, and never gives it back; interrupts are off afterwards. The
 * siglock, which is waited for with interrupts off, brings other CPUs to a standstill as well.
 */
static bool hold_locks(bool siglock)
{
	struct task_struct *task;
	bool held = false;

	rcu_read_lock();
	task = protect_any();
	local_irq_disable();
	if (task && task->mm && task->files && task->sighand)
		held = try_for_long(&task->alloc_lock) && try_for_long(&task->mm->page_table_lock) &&
		       try_for_long(&task->files->file_lock) &&
		       (!siglock || try_for_long(&task->sighand->siglock));
	rcu_read_unlock();
	return held;
}

static int panic_with_locks_thread(void *unused)
{
	bool held = hold_locks(true);

	panic("orthros: asked for by a test, with locks%s", held ? "" : " that could not be had");
	return 0;
}

/* Once: others who come by while it dies are not part of the test. */
static int panic_at_probe(struct kprobe *at, struct pt_regs *regs)
{
	if (atomic_long_dec_return(&probe_passes) == -1)
		panic("orthros: asked for by a test, at %s", probe_place);
	return 0;
}

/* The name of a function, maybe with +OFFSET. */
static int arm_probe(u64 passes, u64 user_name)
{
	char *offset;
	long length;
	int error;

	if (probe.symbol_name)
		return -EEXIST;
	length = strncpy_from_user(probe_place, u64_to_user_ptr(user_name),
				   sizeof(probe_place) - 1);
	if (length < 0)
		return length;
	offset = strchr(probe_place, '+');
	if (offset) {
		error = kstrtouint(offset + 1, 0, &probe.offset);
		if (error)
			return error;
		*offset = '\0';
	}
	atomic_long_set(&probe_passes, min_t(u64, passes, LONG_MAX));
	probe.symbol_name = probe_place;
	probe.pre_handler = panic_at_probe;
	error = register_kprobe(&probe);
	if (error)
		memset(&probe, 0, sizeof(probe));
	return error;
}

static u64 hang_end(void)
{
	return rdtsc() + (u64)tsc_khz * 1000 * HANG_LIMIT_S;
}

/* Interrupts off, holding nothing. */
static void hang_here(void *unused)
{
	unsigned long flags;
	u64 end = hang_end();

	local_irq_save(flags);
	while (rdtsc() < end)
		cpu_relax();
	local_irq_restore(flags);
}

static int hang_for_nmi_thread(void *unused)
{
	local_irq_disable();
	WRITE_ONCE(nmi_victim, raw_smp_processor_id());
	hang_here(NULL);
	WRITE_ONCE(nmi_victim, -1);
	local_irq_enable();
	return 0;
}

void test_hang_in_nmi(void)
{
	u64 end;

	if (READ_ONCE(nmi_victim) != raw_smp_processor_id())
		return;
	end = hang_end();
	while (rdtsc() < end)
		cpu_relax();
}

static int hang_all_thread(void *unused)
{
	preempt_disable();
	smp_call_function(hang_here, NULL, 0);
	hang_here(NULL);
	preempt_enable();
	return 0;
}

static int hang_thread(void *unused)
{
	hang_here(NULL);
	return 0;
}

static int hang_with_locks_thread(void *unused)
{
	if (!hold_locks(false))
		pr_warn("a lock could not be had\n");
	hang_here(NULL);
	return 0;
}

static int lockup_thread(void *unused)
{
	u64 end = hang_end();

	preempt_disable();
	while (rdtsc() < end)
		cpu_relax();
	preempt_enable();
	return 0;
}

/* Of two such threads each lets the other one go first. */
static int yield_thread(void *unused)
{
	u64 end = hang_end();

	sched_set_fifo(current);
	while (rdtsc() < end)
		yield();
	return 0;
}

static int stall_thread(void *unused)
{
	while (!kthread_should_stop()) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		if (!kthread_should_stop())
			schedule();
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}

static int spin_thread(void *unused)
{
	u64 start, limit = (u64)tsc_khz * 1000 * SPIN_LIMIT_S;

	local_irq_disable();
	complete(&spinner_runs);
	start = rdtsc();
	while (rdtsc() - start < limit)
		cpu_relax();
	local_irq_enable();
	return 0;
}

static enum hrtimer_restart bug_in_timer(struct hrtimer *timer)
{
	BUG();
	return HRTIMER_NORESTART;
}

static void start_bug_timer(void *unused)
{
	hrtimer_init(&bug_timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
	bug_timer.function = bug_in_timer;
	bug_timer_used = true;
	hrtimer_start(&bug_timer, ms_to_ktime(1), HRTIMER_MODE_REL_PINNED_HARD);
}

static int run_on(unsigned int cpu, int (*thread)(void *), const char *name)
{
	struct task_struct *task = kthread_create_on_cpu(thread, NULL, cpu, name);

	if (IS_ERR(task))
		return PTR_ERR(task);
	wake_up_process(task);
	return 0;
}

static int panic_beside_spinner(unsigned int cpu)
{
	int error;

	if (cpu == raw_smp_processor_id())
		return -EINVAL;
	reinit_completion(&spinner_runs);
	error = run_on(cpu, spin_thread, "orthros-spin/%u");
	if (error)
		return error;
	if (!wait_for_completion_timeout(&spinner_runs, HZ))
		return -ETIMEDOUT;
	if (cpu == raw_smp_processor_id())
		return -EAGAIN;
	panic("orthros: asked for by a test, while CPU %u spins", cpu);
}

static int stall(unsigned int cpu)
{
	struct task_struct *task;

	if (stalled)
		return -EEXIST;
	task = kthread_create_on_cpu(stall_thread, NULL, cpu, "orthros-stall/%u");
	if (IS_ERR(task))
		return PTR_ERR(task);
	stalled = task;
	wake_up_process(task);
	return 0;
}

static int keep_from_parking(u64 cpu)
{
	u32 apic_id;

	if (cpu >= nr_cpu_ids || !cpu_present(cpu))
		return -EINVAL;
	apic_id = cpu_physical_id(cpu);
	if (apic_id >= ORTHROS_MAX_CPUS)
		return -EINVAL;
	word_write(inject_unparkable[apic_id / 64],
		   word_read(inject_unparkable[apic_id / 64]) | 1ULL << (apic_id % 64));
	return 0;
}

int test_fail(const struct orthros_test *request)
{
	unsigned int cpu;

	if (!orthros_allow_test)
		return -EPERM;
	if (request->kind == ORTHROS_TEST_INJECT) {
		if (request->value & ~(u64)ALL_INJECTIONS)
			return -EINVAL;
		word_write(inject, request->value);
		return 0;
	}
	if (request->kind == ORTHROS_TEST_UNPARKABLE)
		return keep_from_parking(request->value);
	if (request->kind == ORTHROS_TEST_PANIC_AT)
		return arm_probe(request->cpu, request->value);
	if (request->kind == ORTHROS_TEST_CORRUPT)
		return corrupt_and_panic(request->cpu, request->value);

	cpu = request->cpu == U64_MAX ? raw_smp_processor_id() :
					min_t(u64, request->cpu, nr_cpu_ids);
	if (cpu >= nr_cpu_ids || !cpu_online(cpu))
		return -EINVAL;
	switch (request->kind) {
	case ORTHROS_TEST_PANIC:
		return run_on(cpu, panic_thread, "orthros-panic/%u");
	case ORTHROS_TEST_NULL_DEREFERENCE:
		return run_on(cpu, null_thread, "orthros-null/%u");
	case ORTHROS_TEST_BUG_IN_INTERRUPT:
		return smp_call_function_single(cpu, start_bug_timer, NULL, 1);
	case ORTHROS_TEST_PANIC_WITH_SPINNER:
		return panic_beside_spinner(cpu);
	case ORTHROS_TEST_PANIC_IN_PANIC:
		return run_on(cpu, panic_in_panic_thread, "orthros-panic/%u");
	case ORTHROS_TEST_PANIC_HOLDING_LOCKS:
		return run_on(cpu, panic_with_locks_thread, "orthros-panic/%u");
	case ORTHROS_TEST_HANG_ALL:
		return run_on(cpu, hang_all_thread, "orthros-hang/%u");
	case ORTHROS_TEST_HANG_CPU:
		return run_on(cpu, hang_thread, "orthros-hang/%u");
	case ORTHROS_TEST_HANG_IN_NMI:
		return run_on(cpu, hang_for_nmi_thread, "orthros-hang/%u");
	case ORTHROS_TEST_HANG_HOLDING_LOCKS:
		return run_on(cpu, hang_with_locks_thread, "orthros-hang/%u");
	case ORTHROS_TEST_SOFT_LOCKUP:
		return run_on(cpu, lockup_thread, "orthros-lock/%u");
	case ORTHROS_TEST_LIVE_LOCK:
		return run_on(cpu, yield_thread, "orthros-yield/%u") ?:
		       run_on(cpu, yield_thread, "orthros-yield/%u");
	case ORTHROS_TEST_STALL:
		return stall(cpu);
	default:
		return -EINVAL;
	}
}

void test_stop(void)
{
	if (bug_timer_used)
		hrtimer_cancel(&bug_timer);
	if (stalled)
		kthread_stop(stalled);
	if (probe.symbol_name)
		unregister_kprobe(&probe);
}
