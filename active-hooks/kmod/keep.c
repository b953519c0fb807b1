// SPDX-License-Identifier: GPL-2.0
/*
 * Keeps the frames of processes that do not run yet.
 *
 * While no process has run, this kernel may fail and be replaced, and the next
 * one hands the same frames over once more. So a frame that has been adopted
 * must stay what it is: a reference keeps it from being freed with a process
 * that is given up, and from being merged, moved, collapsed or swapped out.
 *
 * Frames that a file did not take are kept longer: what is in them is still to be
 * saved elsewhere.
 */
#include <linux/mm.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include "orthros.h"

static unsigned long *kept;
static unsigned long *refused;
static u64 kept_frames;    /* bits in each bitmap */
static bool ended;

int keep_make(u64 frames)
{
	kept = vzalloc(BITS_TO_LONGS(frames) * sizeof(long));
	refused = vzalloc(BITS_TO_LONGS(frames) * sizeof(long));
	kept_frames = frames;
	if (kept && refused)
		return 0;
	vfree(kept);
	vfree(refused);
	kept = refused = NULL;
	return -ENOMEM;
}

/* Of a huge page the first stands for all. */
void keep_page(struct page *page)
{
	u64 pfn = page_to_pfn(page);

	if (READ_ONCE(ended))
		return;
	get_page(page);
	set_bit(pfn, kept);
	smp_mb__after_atomic();
	/* Whoever clears the bit drops the reference. */
	if (READ_ONCE(ended) && test_and_clear_bit(pfn, kept))
		put_page(page);
}

/* One that a file did not take. */
void keep_refused(struct page *page)
{
	get_page(page);
	if (test_and_set_bit(page_to_pfn(page), refused))
		put_page(page);
}

static void drop_all(unsigned long *frames)
{
	u64 pfn;

	for (pfn = find_first_bit(frames, kept_frames); pfn < kept_frames;
	     pfn = find_next_bit(frames, kept_frames, pfn + 1)) {
		if (test_and_clear_bit(pfn, frames))
			put_page(pfn_to_page(pfn));
		cond_resched();
	}
}

/* Nothing of the dead kernel is to be saved any more. */
void keep_settle(void)
{
	if (refused)
		drop_all(refused);
}

static void drop(struct work_struct *work)
{
	drop_all(kept);
}

static DECLARE_WORK(dropping, drop);

/* In the background: the processes need not wait for it. */
void keep_end(void)
{
	if (ended || !kept)
		return;
	WRITE_ONCE(ended, true);
	smp_mb();
	queue_work(system_unbound_wq, &dropping);
}

void keep_stop(void)
{
	keep_end();
	flush_work(&dropping);
	keep_settle();
	vfree(kept);
	vfree(refused);
	kept = refused = NULL;
}
