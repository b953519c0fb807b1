// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that is handed over while its process runs already.
 *
 * The process must not be able to tell. So a page that is not there yet is put
 * in before anybody can look at its place:
 *
 *   touched      Every fault, of user mode or on behalf of a system call, goes
 *                through handle_mm_fault(). As long as there is such memory that
 *                function is led here first, as live patches do (ftrace).
 *   given up     MADV_DONTNEED and MADV_FREE are told by an MMU notifier before
 *                they look for pages.
 *   moved, split, protected, copied by fork, dumped ...
 *                need the lock of the address space for writing. It is held for
 *                reading until the last page is in, so they wait that long.
 *
 * The mappings themselves are what they are: no flag, no handler, nothing to be
 * seen but that pages become resident (mincore(), smaps), as if swapped in.
 *
 * A process goes through these states: PREPARED, while it is stopped and the
 * agent finishes it; HELD, from just before it runs; and gone from the list.
 */
#include <linux/ftrace.h>
#include <linux/jiffies.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched/coredump.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/srcu.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include "adopt.h"
#include "job.h"
#include "orthros.h"

/* Chunks that can be worked at side by side, but for chance. */
#define LOCKS 64
/*
 * The processes are let go one after the other, and should not have to share the
 * CPUs with the sweep. Tests make it long.
 */
static unsigned int sweep_delay = 20;
module_param(sweep_delay, uint, 0444);
MODULE_PARM_DESC(sweep_delay, "ms that a process runs before its memory is completed unasked");

struct lazy {
	struct list_head list;
	struct mm_struct *mm;
	struct pid *pid;
	struct job *job;
	unsigned long *done;         /* a bit for each chunk */
	struct mutex locks[LOCKS];   /* by chunk */
	struct mmu_notifier notifier;
	struct delayed_work sweep;
	bool held;
	/* The process does without huge pages. */
	bool without_huge;
};

/* Changes under the mutex, walks under SRCU: what a fault needs may sleep. */
static LIST_HEAD(all);
static DEFINE_MUTEX(all_lock);
DEFINE_STATIC_SRCU(lazy_srcu);
/* Faults that were led here and have not gone back. */
static atomic_t inside;
/* Those on the list and those that are about to be freed. */
static atomic_t unfinished;
static DECLARE_WAIT_QUEUE_HEAD(finished);

static struct lazy *find(struct mm_struct *mm)
{
	struct lazy *lazy;

	list_for_each_entry_srcu(lazy, &all, list,
				 srcu_read_lock_held(&lazy_srcu) ||
				 lockdep_is_held(&all_lock))
		if (lazy->mm == mm)
			return lazy;
	return NULL;
}

/* The first chunk whose page table reaches beyond an address. */
static u32 chunk_beyond(const struct job *job, unsigned long address)
{
	u32 low = 0, high = job->chunk_count;

	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if ((job->chunks[middle].start & PMD_MASK) + PMD_SIZE <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Rather none than one that finds zeros where its memory was. */
static void end_process(struct lazy *lazy, u32 index, int error)
{
	pr_err("process %d is killed: its memory at %#lx cannot be completed (%d)\n",
	       pid_nr(lazy->pid), lazy->job->chunks[index].start, error);
	kill_pid(lazy->pid, SIGKILL, 1);
}

/* Puts a chunk in, unless it is. The address space is locked. */
static int complete_chunk(struct lazy *lazy, u32 index)
{
	struct mutex *lock = &lazy->locks[index % LOCKS];
	struct job *job = lazy->job;
	struct adoption *adoption;
	int error = 0;

	if (test_bit_acquire(index, lazy->done))
		return 0;
	adoption = adopt_make(lazy->mm);
	if (!adoption) {
		end_process(lazy, index, -ENOMEM);
		return -ENOMEM;
	}
	adoption->counted = true;
	mutex_lock(lock);
	if (!test_bit(index, lazy->done)) {
		error = adopt_chunk(adoption, job->runs, &job->chunks[index]);
		job_account(job, adoption, job->chunks[index].pages, error);
		if (error) {
			end_process(lazy, index, error);
		} else {
			smp_mb__before_atomic();
			set_bit(index, lazy->done);
		}
	}
	mutex_unlock(lock);
	adopt_free(adoption);
	return error;
}

static int complete_range(struct lazy *lazy, unsigned long start, unsigned long end)
{
	struct job *job = lazy->job;
	u32 index;
	int error = 0;

	for (index = chunk_beyond(job, start);
	     !error && index < job->chunk_count && job->chunks[index].start < end; index++)
		error = complete_chunk(lazy, index);
	return error;
}

/* Completes the memory in the reach of the page table at `table`. */
static vm_fault_t before_fault(struct vm_area_struct *vma, unsigned long table,
			       unsigned int flags)
{
	int cookie = srcu_read_lock(&lazy_srcu), error = 0;
	struct lazy *lazy = find(vma->vm_mm);

#if KERNEL_HAS_FOLIO_RMAP
	/* With the lock of one mapping alone the others might change. */
	if (lazy && !READ_ONCE(lazy->held) && flags & FAULT_FLAG_VMA_LOCK) {
		srcu_read_unlock(&lazy_srcu, cookie);
		vma_end_read(vma);
		return VM_FAULT_RETRY;
	}
#endif
	if (lazy) {
		/* As in handle_mm_fault(): the fault may lie between going to sleep and sleeping. */
		__set_current_state(TASK_RUNNING);
		error = complete_range(lazy, table, table + PMD_SIZE);
	}
	srcu_read_unlock(&lazy_srcu, cookie);
	return !error ? 0 : error == -ENOMEM ? VM_FAULT_OOM : VM_FAULT_SIGBUS;
}

static vm_fault_t fault(struct vm_area_struct *vma, unsigned long address,
			unsigned int flags, struct pt_regs *regs)
{
	vm_fault_t result;

	atomic_inc(&inside);
	result = before_fault(vma, address & PMD_MASK, flags);
	if (!result)
		result = handle_mm_fault(vma, address, flags, regs);
	/* A jump instead of the call would not seem to come from here. */
	atomic_dec(&inside);
	return result;
}

static void notrace divert(unsigned long ip, unsigned long parent_ip,
			   struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	if (within_module(parent_ip, THIS_MODULE))
		return;
#if KERNEL_HAS_FOLIO_RMAP
	ftrace_regs_set_instruction_pointer(fregs, (unsigned long)fault);
#else
	ftrace_instruction_pointer_set(fregs, (unsigned long)fault);
#endif
}

static struct ftrace_ops diversion = {
	.func = divert,
	.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_IPMODIFY |
		 FTRACE_OPS_FL_PERMANENT,
};
static bool diverted;

static int divert_faults(void)
{
	int error;

	if (diverted)
		return 0;
	error = ftrace_set_filter_ip(&diversion, (unsigned long)handle_mm_fault, 0, 0);
	if (error)
		return error;
	error = register_ftrace_function(&diversion);
	if (error)
		ftrace_set_filter_ip(&diversion, (unsigned long)handle_mm_fault, 1, 0);
	else
		diverted = true;
	return error;
}

/*
 * Waits until every task has left its CPU by itself, because one may have been
 * put aside in what led there (synchronize_rcu_tasks(), which nothing expedites):
 * seconds on a busy machine. Nobody else waits for that; meanwhile faults take
 * a way round and find nothing to do.
 */
static void undivert_faults(struct work_struct *work)
{
	mutex_lock(&all_lock);
	if (diverted && list_empty(&all)) {
		unregister_ftrace_function(&diversion);
		ftrace_set_filter_ip(&diversion, (unsigned long)handle_mm_fault, 1, 0);
		diverted = false;
	}
	mutex_unlock(&all_lock);
}

static DECLARE_WORK(undiverting, undivert_faults);

/*
 * Reclaim and migration tell of pages that are there: they hold locks that may
 * not be waited under, and nothing is to be put in for them.
 */
static int before_clearing(struct mmu_notifier *notifier,
			   const struct mmu_notifier_range *range)
{
	struct lazy *lazy = container_of(notifier, struct lazy, notifier);

	if (range->event != MMU_NOTIFY_CLEAR || !mmu_notifier_range_blockable(range) ||
	    current->mm != lazy->mm || current->flags & PF_MEMALLOC)
		return 0;
	/* The caller cannot refuse any more; a process that lacks memory is killed. */
	complete_range(lazy, range->start, range->end);
	return 0;
}

static const struct mmu_notifier_ops notifier_ops = {
	.invalidate_range_start = before_clearing,
};

/* Nobody but us has the address space any more. */
static bool is_dead(const struct lazy *lazy)
{
	return atomic_read(&lazy->mm->mm_users) == 1;
}

static int sweep_chunk(struct job *job, u32 index, struct adoption *adoption)
{
	struct lazy *lazy = job->data;

	return is_dead(lazy) ? 0 : complete_chunk(lazy, index);
}

static void unmake(struct lazy *lazy)
{
	put_pid(lazy->pid);
	kvfree(lazy->done);
	job_free(lazy->job);
	kfree(lazy);
}

/* All that is not in is put in. Until it is, or the process dead, faults are led here. */
static void complete_rest(struct lazy *lazy)
{
	u32 count = lazy->job->chunk_count, hole;

	job_share_out(lazy->job, sweep_chunk);
	hole = find_first_zero_bit(lazy->done, count);
	if (hole < count && !is_dead(lazy))
		end_process(lazy, hole, -ENOMEM);
	/* What is to die may need the lock for it. */
	mmap_read_unlock_non_owner(lazy->mm);
	while (hole < count && !is_dead(lazy))
		schedule_timeout_uninterruptible(1);
}

/* What a process that has died did not get is withheld still. */
static void finish(struct lazy *lazy)
{
	struct job *job = lazy->job;
	struct mm_struct *mm = lazy->mm;

	if (lazy->held)
		complete_rest(lazy);
	mutex_lock(&all_lock);
	list_del_rcu(&lazy->list);
	job_report(job);
	mutex_unlock(&all_lock);
	synchronize_srcu(&lazy_srcu);
	mmu_notifier_unregister(&lazy->notifier, mm);
	adopt_count_rss(mm, (long)(job->adopted + job->copied) - (long)job_pages(job));
	unmake(lazy);
	mmput(mm);
	if (atomic_dec_and_test(&unfinished))
		wake_up_all(&finished);
}

static void sweep(struct work_struct *work)
{
	finish(container_of(to_delayed_work(work), struct lazy, sweep));
	module_put(THIS_MODULE);
}

/* Frames in a window are copied: they can be read until the last page is in. */
static bool can_take(u64 pfn, u64 pages)
{
	u64 end = pfn + pages;

	if (hotadd_are_withheld(pfn, pages))
		return true;
	while (pfn < end && adopt_can_take(pfn))
		pfn++;
	return pfn == end;
}

/*
 * Everything about the memory that could be wrong is looked at before the
 * process depends on it.
 */
static int check(struct lazy *lazy)
{
	struct job *job = lazy->job;
	struct vm_area_struct *vma = NULL;
	unsigned long last = 0;
	u32 i;

	for (i = 0; i < job->count; i++) {
		const struct orthros_frame_run *run = &job->runs[i];
		unsigned long at = run->va, end = at + (run_pages(run) << PAGE_SHIFT);
		u64 pfn = run_pfn(run);

		if (at < last || (run_kind(run) != ORTHROS_FRAME_OWN &&
				  run_kind(run) != ORTHROS_FRAME_HUGE))
			return -EINVAL;
		last = end;
		if (!can_take(pfn, run_pages(run)))
			return -EPERM;
		while (at < end) {
			int error;

			if (!vma || at < vma->vm_start || at >= vma->vm_end) {
				vma = vma_lookup(lazy->mm, at);
				error = vma ? adopt_prepare_vma(vma) : -EFAULT;
				if (error)
					return error;
			}
			at = vma->vm_end;
		}
	}
	return 0;
}

static struct lazy *make(struct mm_struct *mm, const struct orthros_lazy *request)
{
	struct lazy *lazy = kzalloc(sizeof(*lazy), GFP_KERNEL);
	u32 i;

	if (!lazy)
		return ERR_PTR(-ENOMEM);
	lazy->mm = mm;
	lazy->job = job_make(mm, request->runs, request->count);
	if (IS_ERR(lazy->job)) {
		int error = PTR_ERR(lazy->job);

		kfree(lazy);
		return ERR_PTR(error);
	}
	lazy->done = kvcalloc(BITS_TO_LONGS(lazy->job->chunk_count), sizeof(long), GFP_KERNEL);
	if (!lazy->done) {
		job_free(lazy->job);
		kfree(lazy);
		return ERR_PTR(-ENOMEM);
	}
	for (i = 0; i < LOCKS; i++)
		mutex_init(&lazy->locks[i]);
	INIT_DELAYED_WORK(&lazy->sweep, sweep);
	lazy->notifier.ops = &notifier_ops;
	lazy->job->data = lazy;
	lazy->pid = find_get_pid(request->pid);
	return lazy;
}

static int publish(struct lazy *lazy)
{
	int error = lazy->job->error;

	if (!error && mmap_read_lock_killable(lazy->mm))
		error = -EINTR;
	if (error)
		return error;
	error = check(lazy);
	mmap_read_unlock(lazy->mm);
	if (error)
		return error;
	mutex_lock(&all_lock);
	error = find(lazy->mm) ? -EEXIST : divert_faults();
	if (!error) {
		/* khugepaged would fill the gaps, until it is kept out by the lock. */
		lazy->without_huge = test_and_set_bit(MMF_DISABLE_THP, &lazy->mm->flags);
		error = mmu_notifier_register(&lazy->notifier, lazy->mm);
		if (!error) {
			atomic_inc(&unfinished);
			list_add_rcu(&lazy->list, &all);
		} else if (!lazy->without_huge) {
			clear_bit(MMF_DISABLE_THP, &lazy->mm->flags);
		}
	}
	mutex_unlock(&all_lock);
	return error;
}

static int begin(struct orthros_lazy *request)
{
	struct mm_struct *mm = job_target(request->pid);
	struct lazy *lazy;
	int error;

	if (!mm)
		return -ESRCH;
	__module_get(THIS_MODULE);
	lazy = make(mm, request);
	if (IS_ERR(lazy)) {
		error = PTR_ERR(lazy);
		goto put;
	}
	error = publish(lazy);
	if (!error) {
		request->pages = job_pages(lazy->job);
		adopt_count_rss(mm, request->pages);
		return 0;
	}
	unmake(lazy);
put:
	mmput(mm);
	module_put(THIS_MODULE);
	return error;
}

static int hold(const struct orthros_lazy *request)
{
	struct mm_struct *mm = job_target(request->pid);
	struct lazy *lazy;
	int error = 0;

	if (!mm)
		return -ESRCH;
	mutex_lock(&all_lock);
	lazy = find(mm);
	if (!lazy)
		error = -ENOENT;
	else if (lazy->held)
		error = -EALREADY;
	else
		error = mmap_read_lock_killable(mm);
	if (!error) {
		if (!lazy->without_huge)
			clear_bit(MMF_DISABLE_THP, &mm->flags);
		WRITE_ONCE(lazy->held, true);
		queue_delayed_work(system_unbound_wq, &lazy->sweep,
				   msecs_to_jiffies(sweep_delay));
	}
	mutex_unlock(&all_lock);
	mmput(mm);
	return error;
}

/*
 * Text is patched and every CPU waited for: millions of instructions that a
 * kernel which is going to take over has time for before there is anything to
 * take over. lazy_finish() undoes it, whether there was such memory or not.
 */
static int get_ready(void)
{
	int error;

	mutex_lock(&all_lock);
	error = divert_faults();
	mutex_unlock(&all_lock);
	return error;
}

static bool may_go(u64 step)
{
	if (step == ORTHROS_LAZY_READY && smp_load_acquire(&region.standby->state) ==
						  ORTHROS_STANDBY_STARTING)
		return true;
	return region_is_successor() && (step == ORTHROS_LAZY_READY ||
					 word_read(salvage_gate) == ORTHROS_GATE_OPEN);
}

int lazy_go(struct orthros_lazy *request)
{
	u64 start = ktime_get_ns();
	int error;

	request->pages = 0;
	if (!may_go(request->step))
		return -EPERM;
	switch (request->step) {
	case ORTHROS_LAZY_READY:
		error = get_ready();
		break;
	case ORTHROS_LAZY_BEGIN:
		error = begin(request);
		break;
	case ORTHROS_LAZY_HOLD:
		error = hold(request);
		break;
	default:
		error = -EINVAL;
	}
	request->nanoseconds = ktime_get_ns() - start;
	return error;
}

/* One that will not run, because its process was refused. */
static struct lazy *take_abandoned(void)
{
	struct lazy *lazy, *found = NULL;

	mutex_lock(&all_lock);
	list_for_each_entry(lazy, &all, list)
		if (!lazy->held)
			found = lazy;
	mutex_unlock(&all_lock);
	return found;
}

/*
 * Until every process has all of its memory, or is dead. The caller lets no other
 * request in meanwhile, and none for such memory afterwards.
 */
void lazy_finish(void)
{
	struct lazy *lazy;

	while ((lazy = take_abandoned())) {
		finish(lazy);
		module_put(THIS_MODULE);
	}
	wait_event(finished, !atomic_read(&unfinished));
	queue_work(system_unbound_wq, &undiverting);
}

/* Nobody may come back into this module. */
void lazy_stop(void)
{
	queue_work(system_unbound_wq, &undiverting);
	flush_work(&undiverting);
	while (atomic_read(&inside))
		schedule_timeout_uninterruptible(1);
	synchronize_rcu_tasks();
}
