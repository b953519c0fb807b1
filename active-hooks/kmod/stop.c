// SPDX-License-Identifier: GPL-2.0
/*
 * Hands the CPUs over when the backup OS asks for them.
 *
 * The request comes as an NMI with stop_request not zero. The CPU then saves
 * what only it knows into its slot and leaves this kernel for the parking code
 * in the region; it never comes back. Nothing here takes a lock, allocates or
 * prints: the kernel around may be in any state.
 *
 * A CPU that is in the middle of a user thread's call may end it first, as long
 * as stop_gently equals the request: what a call has done is known exactly when
 * it is over. It then parks on its way to user mode, or at a further NMI that
 * finds it there, idle or in a kernel thread. When stop_gently has been cleared
 * the next NMI parks it wherever it is.
 *
 * panic() is met before it has stopped the other CPUs itself: a CPU in
 * stop_this_cpu() counts as offline and no longer answers NMIs with handlers
 * (arch_cpu_is_offline() in exc_nmi()), and its FPU would be out of reach.
 */
#include <linux/panic.h>
#include <linux/panic_notifier.h>
#include <linux/reboot.h>
#include <linux/sched.h>
#include <linux/sched/task_stack.h>
#include <linux/user-return-notifier.h>
#include <asm/cpufeature.h>
#include <asm/debugreg.h>
#include <asm/fpu/xcr.h>
#include <asm/msr.h>
#include <asm/nmi.h>
#include <asm/smp.h>
#include <asm/tlbflush.h>
#include <asm/tsc.h>
#include "orthros.h"
#include "symbols.h"

#define HANDLER_NAME "orthros"
/*
 * How long panic() waits for the backup OS to stop all CPUs before it goes its
 * own way. The watcher looks every millisecond; a virtual machine may be slow.
 */
#define STOP_WAIT_MS 2000
/* The same while it arms: it looks when it has read this kernel's types and placed the next one. */
#define ARMING_WAIT_MS 10000
/* The longest that an NMI is on its way from the reserved core, with room. */
#define NMI_FLIGHT_US 20

/* A stop that was going on when this kernel booted is not meant for it. */
static u64 stale_request;
static void (*native_stop)(int wait);
static void (*native_crash_stop)(void);
static u64 xcr0;

/* leave.S */
void __noreturn orthros_leave(u64 root, u64 entry, u64 slot);

static_assert(sizeof(struct pt_regs) ==
	      sizeof_field(struct orthros_park_slot, regs));
static_assert(offsetof(struct orthros_park_slot, xsave) % 64 == 0);

static u64 stop_requested(void)
{
	u64 request = word_read(stop_request);

	return request == stale_request ? 0 : request;
}

/* CPUID.1:EBX[31:24], by which the slots are indexed. */
static u32 initial_apic_id(void)
{
	return cpuid_ebx(1) >> 24;
}

static bool kept_from_parking(u32 apic_id)
{
	return word_read(inject_unparkable[apic_id / 64]) >> (apic_id % 64) & 1;
}

static u64 park_root(void)
{
	u64 root = pgtable_l5_enabled() ? word_read(park_root_l5) :
					  word_read(park_root_l4);
	u64 first = region.phys + ORTHROS_PARKING_CODE_OFFSET;

	if (!PAGE_ALIGNED(root) || root < first ||
	    root >= first + ORTHROS_PARKING_CODE_SIZE)
		return 0;
	return root;
}

/*
 * The text this runs in must be mapped under the parking root for the one
 * instruction after CR3 is loaded: the root gets the kernel's last entry, which
 * maps kernel and module text (Documentation/arch/x86/x86_64/mm.rst).
 */
static int prepare_park_root(void)
{
	u64 root = park_root();
	pgd_t *table;

	if (!root) {
		pr_warn("no parking page table yet: CPUs cannot be stopped by NMI\n");
		return -ENOENT;
	}
	table = region.base + (root - region.phys);
	WRITE_ONCE(table[PTRS_PER_PGD - 1],
		   symbols.init_top_pgt[PTRS_PER_PGD - 1]);
	return 0;
}

static void save_fpu(struct orthros_park_slot *slot)
{
	/* The header must be zero where XSAVE does not write it (SDM vol. 1, 13.7). */
	memset(slot->xsave + 512, 0, 64);
	if (xcr0)
		asm volatile("xsave64 %0"
			     : "+m"(slot->xsave)
			     : "a"((u32)xcr0), "d"((u32)(xcr0 >> 32))
			     : "memory");
	else {
		asm volatile("fxsave64 %0" : "+m"(slot->xsave) : : "memory");
		*(u64 *)(slot->xsave + 512) = XFEATURE_MASK_FPSSE;
	}
	slot->xsave_valid = 1;
}

static void save_cpu(struct orthros_park_slot *slot, u64 request,
		     const struct pt_regs *regs)
{
	smp_store_release(&slot->state, ORTHROS_PARK_SAVING);
	slot->tsc = rdtsc_ordered();
	slot->cpu = raw_smp_processor_id();
	slot->current_task = (u64)current;
	slot->cr2 = native_read_cr2();
	slot->cr3 = __native_read_cr3();
	slot->fs_base = __rdmsr(MSR_FS_BASE);
	slot->kernel_gs_base = __rdmsr(MSR_KERNEL_GS_BASE);
	memcpy(slot->regs, regs, sizeof(slot->regs));
	save_fpu(slot);
	slot->nmis = 0;
	slot->generation = request;
	smp_store_release(&slot->state, ORTHROS_PARK_SAVED);
}

static u64 slot_offset(u32 apic_id)
{
	return ORTHROS_PARKING_SLOTS_OFFSET + (u64)apic_id * ORTHROS_PARK_SLOT_SIZE;
}

struct orthros_park_slot *stop_slot(u32 apic_id)
{
	return region.base + slot_offset(apic_id);
}

static void let_nmis_arrive(void)
{
	u64 start = rdtsc();

	do
		cpu_relax();
	while (rdtsc() - start < (u64)tsc_khz * NMI_FLIGHT_US / 1000);
}

/*
 * Leaves this kernel. Does not return once a slot has been filled; returns if
 * the backup OS has not said where to go.
 */
static void park(u64 request, const struct pt_regs *regs)
{
	u32 apic_id = initial_apic_id();
	u64 root = park_root(), entry = word_read(park_entry);
	struct orthros_park_slot *slot = stop_slot(apic_id);
	u64 first = region.phys + ORTHROS_PARKING_CODE_OFFSET;

	if (!root || entry < first || entry >= first + ORTHROS_PARKING_CODE_SIZE ||
	    kept_from_parking(apic_id))
		return;

	local_irq_disable();
	save_cpu(slot, request, regs);
	/*
	 * Between the parking root and the parking code's IDT no NMI may come. In
	 * the handler none can; elsewhere one that is on its way finds the slot
	 * taken (on_nmi()), and none is sent any more.
	 */
	if (!in_nmi())
		let_nmis_arrive();
	/* Breakpoints and indirect-branch tracking end with this kernel. */
	native_set_debugreg(7, 0);
	if (boot_cpu_has(X86_FEATURE_IBT))
		native_wrmsrl(MSR_IA32_S_CET, 0);
	/* The PCID in the low bits of the root is 0, as CR4.PCIDE may be set. */
	orthros_leave(root, entry, region.phys + slot_offset(apic_id));
}

#ifdef CONFIG_USER_RETURN_NOTIFIER
static DEFINE_PER_CPU(struct user_return_notifier, way_out);

/* The last thing before user mode, interrupts off: the call is over. */
static void on_user_return(struct user_return_notifier *notifier)
{
	u64 request = stop_requested();

	if (request)
		park(request, task_pt_regs(current));
}

/*
 * The mark moves from task to task with the CPU (propagate_user_return_notify())
 * and can get lost if this NMI came in the middle of that; the next one sets it
 * again. KVM changes the same list with interrupts off only: an entry that gets
 * lost here is made up for by the NMIs as well.
 */
static void watch_way_out(void)
{
	struct user_return_notifier *notifier = this_cpu_ptr(&way_out);

	notifier->on_user_return = on_user_return;
	if (hlist_unhashed(&notifier->link))
		user_return_notifier_register(notifier);
	else
		set_tsk_thread_flag(current, TIF_USER_RETURN_NOTIFY);
}
#else
static void watch_way_out(void)
{
}
#endif

/*
 * Whether this NMI, which counts itself, came into an interrupt, what follows
 * one, or a section that must not be left: a CPU that parks with a lock keeps
 * all others that spin for it from ending their calls. An idle task is never
 * preemptible (init_idle_preempt_count()).
 */
static bool holds_something(void)
{
	unsigned int idle = is_idle_task(current) ? PREEMPT_DISABLE_OFFSET : 0;

	return softirq_count() || hardirq_count() > HARDIRQ_OFFSET ||
	       (preempt_count() & PREEMPT_MASK) > idle;
}

/*
 * Kernel threads have no call to end, but may have an operation on a file
 * system under way (journal_info): without it its journal is whole. What came
 * from the network is dealt with in the interrupt of whoever runs, with a socket
 * locked. The CPU that panics has nothing to come back to.
 */
static bool may_go_on(u64 request, struct pt_regs *regs)
{
	return word_read(stop_gently) == request && !user_mode(regs) &&
	       (!(current->flags & PF_KTHREAD) || current->journal_info ||
		holds_something()) &&
	       atomic_read(symbols.panic_cpu) != raw_smp_processor_id();
}

static int on_nmi(unsigned int reason, struct pt_regs *regs)
{
	u64 request = stop_requested();
	struct orthros_park_slot *slot;

	if (unlikely(orthros_allow_test))
		test_hang_in_nmi();
	if (!request)
		return hang_answer(regs) ? NMI_HANDLED : NMI_DONE;
	slot = stop_slot(initial_apic_id());
	/* This NMI came while the CPU was parking of its own accord. */
	if (READ_ONCE(slot->state) != ORTHROS_PARK_RUNNING)
		return NMI_HANDLED;
	if (may_go_on(request, regs)) {
		watch_way_out();
		smp_store_release(&slot->let_go_on, slot->let_go_on + 1);
		return NMI_HANDLED;
	}
	park(request, regs);
	return NMI_DONE;
}

static void ring(u64 why, u64 interrupted)
{
	word_write(doorbell_tsc, rdtsc_ordered());
	word_write(doorbell, why | (u64)raw_smp_processor_id() << 8 |
			     interrupted << 40);
}

/* Registers of this very place, for a CPU that parks of its own accord. */
static noinline void park_here(u64 request)
{
	struct pt_regs regs = {
		.ip = _THIS_IP_,
		.sp = current_stack_pointer,
		.bp = (unsigned long)__builtin_frame_address(0),
		.cs = __KERNEL_CS,
		.ss = __KERNEL_DS,
		.flags = native_save_fl(),
		.orig_ax = -1,
	};

	park(request, &regs);
}

/*
 * Waits until the backup OS asks for all CPUs, this one included. Of the time
 * between two looks no more than a tick counts: where this CPU was kept from
 * running the reserved core probably was too, and panic() on its own way makes
 * the other CPUs deaf to NMIs.
 */
static void wait_for_stop(u64 patience_ms)
{
	u64 last = rdtsc(), patience = tsc_khz * patience_ms;

	for (;;) {
		u64 request = stop_requested(), now = rdtsc();
		u64 passed = min(now - last, (u64)tsc_khz);

		if (request) {
			park_here(request);
			return;
		}
		if (passed >= patience)
			return;
		patience -= passed;
		last = now;
		cpu_relax();
	}
}

/*
 * panic() is about to stop the other CPUs. Ring, and wait until the backup OS
 * asks for all CPUs, this one included; if it does not, panic() goes on.
 */
static void offer_cpus(void)
{
	u64 state, level;

	if (atomic_read(symbols.panic_cpu) == PANIC_CPU_INVALID)
		return;
	ring(ORTHROS_DOORBELL_PANIC, 0);
	/*
	 * It may have seen the panic before the bell, and be about to ask: a
	 * panic() that went its own way now would make the other CPUs deaf to it.
	 * A kernel in which restored processes run is taken over from, armed or not.
	 */
	state = word_read(watch_state);
	level = word_read(commit_point);
	if (state == ORTHROS_WATCH_ARMED || state == ORTHROS_WATCH_STOPPING)
		wait_for_stop(STOP_WAIT_MS);
	else if (level == ORTHROS_COMMIT_PROCESSES)
		wait_for_stop(ARMING_WAIT_MS);
}

void stop_offer_update(u64 interrupted)
{
	ring(ORTHROS_DOORBELL_UPDATE, min(interrupted, (1ULL << 24) - 1));
	wait_for_stop(STOP_WAIT_MS);
	/* A panic may have rung meanwhile; that stands. */
	if ((word_read(doorbell) & 0xff) == ORTHROS_DOORBELL_UPDATE)
		word_write(doorbell, ORTHROS_DOORBELL_QUIET);
}

static void offer_then_stop(int wait)
{
	offer_cpus();
	native_stop(wait);
}

static void offer_then_crash_stop(void)
{
	offer_cpus();
	native_crash_stop();
}

static int on_panic(struct notifier_block *block, unsigned long event, void *message)
{
	if ((word_read(doorbell) & 0xff) != ORTHROS_DOORBELL_PANIC)
		ring(ORTHROS_DOORBELL_PANIC, 0);
	return NOTIFY_DONE;
}

/* An orderly end is no failure: the watcher is to disarm and look away. */
static int on_reboot(struct notifier_block *block, unsigned long event, void *command)
{
	facts_withdraw();
	return NOTIFY_DONE;
}

static struct notifier_block panic_block = {
	.notifier_call = on_panic,
	.priority = INT_MAX,
};
static struct notifier_block reboot_block = {
	.notifier_call = on_reboot,
	.priority = INT_MAX,
};

int stop_register(void)
{
	int error;

	word_write(doorbell, ORTHROS_DOORBELL_QUIET);
	stale_request = word_read(stop_request);
	xcr0 = boot_cpu_has(X86_FEATURE_OSXSAVE) ?
		       xgetbv(XCR_XFEATURE_ENABLED_MASK) : 0;
	prepare_park_root();

	error = register_nmi_handler(NMI_LOCAL, on_nmi, NMI_FLAG_FIRST, HANDLER_NAME);
	if (error) {
		pr_err("no NMI handler (%d)\n", error);
		return error;
	}
	error = register_reboot_notifier(&reboot_block);
	if (error) {
		unregister_nmi_handler(NMI_LOCAL, HANDLER_NAME);
		return error;
	}
	atomic_notifier_chain_register(&panic_notifier_list, &panic_block);
	native_stop = smp_ops.stop_other_cpus;
	WRITE_ONCE(smp_ops.stop_other_cpus, offer_then_stop);
	if (smp_ops.crash_stop_other_cpus) {
		native_crash_stop = smp_ops.crash_stop_other_cpus;
		WRITE_ONCE(smp_ops.crash_stop_other_cpus, offer_then_crash_stop);
	}
	return 0;
}

void stop_unregister(void)
{
	if (native_crash_stop)
		WRITE_ONCE(smp_ops.crash_stop_other_cpus, native_crash_stop);
	WRITE_ONCE(smp_ops.stop_other_cpus, native_stop);
	atomic_notifier_chain_unregister(&panic_notifier_list, &panic_block);
	unregister_reboot_notifier(&reboot_block);
	unregister_nmi_handler(NMI_LOCAL, HANDLER_NAME);
}
