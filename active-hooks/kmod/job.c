// SPDX-License-Identifier: GPL-2.0
/*
 * A list of runs, handed to a process by all CPUs at once.
 *
 * The list is cut into chunks, each in the reach of one page table. The CPUs
 * take chunk after chunk; two of them meet only at the locks that any two
 * threads which fault in memory would meet at.
 */
#include <linux/cpumask.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include "adopt.h"
#include "job.h"
#include "orthros.h"

/* Another CPU is asked for help for so many chunks each. */
#define CHUNKS_PER_HELPER 4
#define MAX_HELPERS 15

static bool is_sound(const struct orthros_frame_run *run)
{
	u64 kind = run_kind(run);

	return (kind == ORTHROS_FRAME_OWN || kind == ORTHROS_FRAME_HUGE ||
		kind == ORTHROS_FRAME_SHARED || kind == ORTHROS_FRAME_COPIED) &&
	       IS_ALIGNED(run->va, PAGE_SIZE) && run->va < TASK_SIZE_MAX &&
	       run_pages(run) <= (TASK_SIZE_MAX - run->va) >> PAGE_SHIFT;
}

/*
 * Cuts the runs into chunks; with no room to put them only counts them. Stops at
 * a run that is not sound, which is what job->stopped_at then is.
 */
static u32 cut(struct job *job, struct chunk *chunks)
{
	struct chunk *last = NULL, scratch = {};
	u32 count = 0, i;

	for (i = 0; i < job->count; i++) {
		const struct orthros_frame_run *run = &job->runs[i];
		u64 skip = 0;

		if (!is_sound(run))
			break;
		while (skip < run_pages(run)) {
			unsigned long at = run->va + (skip << PAGE_SHIFT);
			u64 reach = (pmd_addr_end(at, TASK_SIZE_MAX) - at) >> PAGE_SHIFT;
			u64 pages = min(reach, run_pages(run) - skip);

			if (!last || (last->start ^ at) & PMD_MASK ||
			    last->pages + pages > PTRS_PER_PTE) {
				last = chunks ? &chunks[count] : &scratch;
				count++;
				*last = (struct chunk){ .start = at, .skip = skip, .run = i };
			}
			last->pages += pages;
			skip += pages;
		}
	}
	job->stopped_at = i;
	return count;
}

struct job *job_make(struct mm_struct *mm, u64 user_runs, u64 count)
{
	struct job *job;
	int error = -ENOMEM;

	if (!count || count > ORTHROS_RETAINED_FRAMES)
		return ERR_PTR(-EINVAL);
	job = kzalloc(sizeof(*job), GFP_KERNEL);
	if (!job)
		return ERR_PTR(-ENOMEM);
	job->mm = mm;
	job->count = count;
	spin_lock_init(&job->lock);
	job->runs = vmalloc(array_size(count, sizeof(*job->runs)));
	if (!job->runs)
		goto free;
	error = -EFAULT;
	if (copy_from_user(job->runs, u64_to_user_ptr(user_runs),
			   count * sizeof(*job->runs)))
		goto free;
	job->chunk_count = cut(job, NULL);
	if (job->stopped_at < count)
		job->error = -EINVAL;
	error = -ENOMEM;
	job->chunks = vmalloc(array_size(max(job->chunk_count, 1U), sizeof(*job->chunks)));
	if (!job->chunks)
		goto free;
	cut(job, job->chunks);
	return job;

free:
	job_free(job);
	return ERR_PTR(error);
}

void job_free(struct job *job)
{
	vfree(job->chunks);
	vfree(job->runs);
	kfree(job);
}

/* Adds up what was done for the job; of several errors the first in the list counts. */
void job_account(struct job *job, struct adoption *adoption, u64 asked, int error)
{
	spin_lock(&job->lock);
	job->asked += asked;
	job->adopted += adoption->adopted;
	job->copied += adoption->copied;
	if (error && (!job->error || adoption->failed_run < job->stopped_at)) {
		job->error = error;
		job->stopped_at = adoption->failed_run;
	}
	spin_unlock(&job->lock);
	adoption->adopted = adoption->copied = 0;
}

u64 job_pages(const struct job *job)
{
	u64 pages = 0;
	u32 i;

	for (i = 0; i < job->chunk_count; i++)
		pages += job->chunks[i].pages;
	return pages;
}

/* Tells the watcher, and the report. */
void job_report(const struct job *job)
{
	word_write(frames_adopted, word_read(frames_adopted) + job->adopted);
	word_write(frames_copied, word_read(frames_copied) + job->copied);
	word_write(frames_refused, word_read(frames_refused) + job->asked -
				   job->adopted - job->copied);
}

static void work_on(struct job *job, job_step step, bool killable)
{
	struct adoption *adoption = adopt_make(job->mm);

	/* Without memory a helper leaves the work to the others. */
	if (!adoption) {
		if (killable)
			job->error = -ENOMEM;
		return;
	}
	while (!READ_ONCE(job->error)) {
		u32 index = atomic_fetch_inc(&job->next);

		if (index >= job->chunk_count)
			break;
		if (killable && fatal_signal_pending(current)) {
			job->error = -EINTR;
			break;
		}
		step(job, index, adoption);
	}
	adopt_free(adoption);
}

struct helper {
	struct work_struct work;
	struct job *job;
	job_step step;
};

static void help(struct work_struct *work)
{
	struct helper *helper = container_of(work, struct helper, work);

	work_on(helper->job, helper->step, false);
}

/* Does every chunk, on this CPU and others, until one fails. */
void job_share_out(struct job *job, job_step step)
{
	struct helper helpers[MAX_HELPERS];
	u32 count = min3(num_online_cpus() - 1, job->chunk_count / CHUNKS_PER_HELPER,
			 (u32)MAX_HELPERS), i;

	for (i = 0; i < count; i++) {
		helpers[i].job = job;
		helpers[i].step = step;
		INIT_WORK_ONSTACK(&helpers[i].work, help);
		queue_work(system_unbound_wq, &helpers[i].work);
	}
	work_on(job, step, true);
	for (i = 0; i < count; i++) {
		flush_work(&helpers[i].work);
		destroy_work_on_stack(&helpers[i].work);
	}
}

static int adopt_step(struct job *job, u32 index, struct adoption *adoption)
{
	int error = adopt_chunk(adoption, job->runs, &job->chunks[index]);

	job_account(job, adoption, job->chunks[index].pages, error);
	return error;
}

struct mm_struct *job_target(u64 pid)
{
	struct task_struct *task;
	struct mm_struct *mm;

	if (!pid || pid > PID_MAX_LIMIT)
		return NULL;
	task = get_pid_task(find_vpid(pid), PIDTYPE_PID);
	if (!task)
		return NULL;
	mm = get_task_mm(task);
	put_task_struct(task);
	return mm;
}

static int run_job(struct job *job)
{
	int error = job->error;

	/* What comes before a run that is not sound is handed over all the same. */
	job->error = 0;
	if (mmap_read_lock_killable(job->mm))
		return -EINTR;
	job_share_out(job, adopt_step);
	mmap_read_unlock(job->mm);
	if (job->error)
		return job->error;
	if (!error)
		job->stopped_at = job->count;
	return error;
}

int adopt_frames(struct orthros_adopt *request)
{
	u64 begin = ktime_get_ns();
	struct mm_struct *mm;
	struct job *job;
	int error;

	request->adopted = request->copied = request->stopped_at = 0;
	if (!region_is_successor() || word_read(salvage_gate) != ORTHROS_GATE_OPEN)
		return -EPERM;
	if (!request->count)
		return 0;
	mm = job_target(request->pid);
	if (!mm)
		return -ESRCH;
	job = job_make(mm, request->runs, request->count);
	if (IS_ERR(job)) {
		mmput(mm);
		return PTR_ERR(job);
	}
	error = run_job(job);
	mmput(mm);
	request->adopted = job->adopted;
	request->copied = job->copied;
	request->stopped_at = job->stopped_at;
	request->nanoseconds = ktime_get_ns() - begin;
	job_report(job);
	job_free(job);
	return error;
}
