// SPDX-License-Identifier: GPL-2.0
/*
 * Answers the backup OS when it asks a CPU whether it hangs.
 *
 * The backup OS watches words that the kernel moves anyway and asks only when
 * they stand still: it writes the number of a question into the CPU's slot and
 * sends an NMI. The answers come in three steps, each of which needs more of
 * the kernel: the NMI handler says where the CPU is; an irq_work, that it takes
 * interrupts; a thread of ordinary priority, that its scheduler works.
 */
#include <linux/irq_work.h>
#include <linux/kthread.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include "orthros.h"

/* answer_flags: above RFLAGS. */
#define ANSWER_USER_MODE (1ULL << 32)

struct answerer {
	struct irq_work interrupt;
	struct task_struct *thread;
	struct orthros_park_slot *slot;
	u64 asked;    /* the question on its way, written in the NMI */
	u64 woken;    /* the question for the thread, written in the interrupt */
};
static DEFINE_PER_CPU(struct answerer, answerers);
static bool running;

static void from_interrupt(struct irq_work *work)
{
	struct answerer *own = container_of(work, struct answerer, interrupt);

	smp_store_release(&own->slot->answer_interrupt, own->asked);
	WRITE_ONCE(own->woken, own->asked);
	if (own->thread)
		wake_up_process(own->thread);
}

static int from_thread(void *data)
{
	struct answerer *own = data;
	u64 answered = 0;

	while (!kthread_should_stop()) {
		u64 question;

		/* Not "D": nobody is to take this for a stalled thread. */
		set_current_state(TASK_IDLE);
		question = READ_ONCE(own->woken);
		if (question == answered && !kthread_should_stop()) {
			schedule();
			continue;
		}
		__set_current_state(TASK_RUNNING);
		answered = question;
		smp_store_release(&own->slot->answer_thread, question);
	}
	return 0;
}

/* In NMI context. Whether there was a question that was not answered yet. */
bool hang_answer(struct pt_regs *regs)
{
	struct answerer *own;
	struct orthros_park_slot *slot;
	u64 question;

	if (!READ_ONCE(running))
		return false;
	own = this_cpu_ptr(&answerers);
	slot = own->slot;
	if (!slot)
		return false;
	question = smp_load_acquire(&slot->question);
	if (!question || question == slot->answer_nmi)
		return false;
	slot->answer_ip = regs->ip;
	slot->answer_flags = (u32)regs->flags |
			     (user_mode(regs) ? ANSWER_USER_MODE : 0);
	slot->answer_tid = current->pid;
	own->asked = question;
	smp_store_release(&slot->answer_nmi, question);
	irq_work_queue(&own->interrupt);
	return true;
}

/* From now on this CPU's questions are answered. */
static void listen(struct answerer *own)
{
	own->slot->answer_nmi = ORTHROS_NO_QUESTION;
	own->slot->answer_interrupt = ORTHROS_NO_QUESTION;
	own->slot->answer_thread = ORTHROS_NO_QUESTION;
	/* A CPU that comes later answers nobody, and is not asked. */
	smp_store_release(&own->slot->question, ORTHROS_NO_QUESTION);
}

static void announce(void)
{
	smp_store_release(&running, true);
	word_write(module_features,
		   word_read(module_features) | ORTHROS_FEATURE_ANSWERS);
}

/*
 * A kernel that slept as a standby has its threads since before its sleep, but
 * the slots have been another kernel's meanwhile.
 */
static void listen_again(void)
{
	unsigned int cpu;

	for_each_possible_cpu(cpu) {
		struct answerer *own = per_cpu_ptr(&answerers, cpu);

		if (own->thread)
			listen(own);
	}
	announce();
}

int hang_start(void)
{
	unsigned int cpu;

	if (running) {
		listen_again();
		return 0;
	}
	for_each_online_cpu(cpu) {
		struct answerer *own = per_cpu_ptr(&answerers, cpu);
		u32 apic_id = cpu_physical_id(cpu);
		struct task_struct *thread;

		if (apic_id >= ORTHROS_MAX_CPUS)
			continue;
		thread = kthread_create_on_cpu(from_thread, own, cpu, "orthros/%u");
		if (IS_ERR(thread)) {
			hang_stop();
			return PTR_ERR(thread);
		}
		init_irq_work(&own->interrupt, from_interrupt);
		own->thread = thread;
		own->slot = stop_slot(apic_id);
		listen(own);
		wake_up_process(thread);
	}
	announce();
	return 0;
}

void hang_stop(void)
{
	unsigned int cpu;

	word_write(module_features,
		   word_read(module_features) & ~(u64)ORTHROS_FEATURE_ANSWERS);
	WRITE_ONCE(running, false);
	/* No NMI handler is in the middle of an answer behind this. */
	synchronize_rcu();
	for_each_possible_cpu(cpu) {
		struct answerer *own = per_cpu_ptr(&answerers, cpu);

		if (!own->thread)
			continue;
		irq_work_sync(&own->interrupt);
		kthread_stop(own->thread);
		own->thread = NULL;
		own->slot->question = 0;
		own->slot = NULL;
	}
}

int hang_configure(const struct orthros_configure *request)
{
	u64 value = request->value;

	if (request->limit >= ORTHROS_HANG_LIMITS)
		return -EINVAL;
	if (value && value != ORTHROS_HANG_LIMIT_OFF &&
	    (value < ORTHROS_HANG_LIMIT_LEAST_MS || value > ORTHROS_HANG_LIMIT_MOST_MS))
		return -EINVAL;
	word_write(hang_limits[request->limit], value);
	return 0;
}
