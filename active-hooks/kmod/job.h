/* SPDX-License-Identifier: GPL-2.0 */
/* Runs of frames for one process, cut into chunks. */
#ifndef ORTHROS_JOB_H
#define ORTHROS_JOB_H

#include <linux/atomic.h>
#include <linux/spinlock.h>
#include "adopt.h"

struct job {
	struct mm_struct *mm;
	struct orthros_frame_run *runs;
	struct chunk *chunks;
	u32 count, chunk_count;
	/* The next chunk that nobody has taken. */
	atomic_t next;
	/* Under the lock: pages of the chunks that were tried, what became of them, where it stopped. */
	spinlock_t lock;
	u64 asked, adopted, copied;
	u32 stopped_at;
	int error;
	/* Whoever made the job. */
	void *data;
};

/* Does one chunk. */
typedef int (*job_step)(struct job *job, u32 index, struct adoption *adoption);

/* The address space of a process, to be put; NULL if there is none. */
struct mm_struct *job_target(u64 pid);

/* Copies the runs from the caller; does not hold the address space. */
struct job *job_make(struct mm_struct *mm, u64 user_runs, u64 count);
void job_free(struct job *job);
u64 job_pages(const struct job *job);
void job_share_out(struct job *job, job_step step);
void job_report(const struct job *job);
void job_account(struct job *job, struct adoption *adoption, u64 asked, int error);

#endif
