// SPDX-License-Identifier: GPL-2.0
/*
 * Puts page frames of the dead kernel into the cache of files whose disks have
 * what is in them, so that nobody need read it again.
 *
 * Processes run meanwhile, and may change the file. Its version says so: ext4
 * keeps it on the disk, and increments it with the first change after it was
 * read from there (i_version). The frame goes into the cache locked and not up
 * to date; from then on nobody can bring in another page for it, and if the
 * version is still the recorded one, nobody has before. If it is not, whoever
 * wants the page reads it from the disk.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/iversion.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include "adopt.h"
#include "orthros.h"

/* Runs that are fetched from user memory at once. */
#define RUNS 32

/* 1 if the frame is in the cache now, 0 if it cannot be. The inode is locked. */
static int warm_page(struct inode *inode, pgoff_t index, u64 pfn, u64 version)
{
	struct page *page = cache_place(inode->i_mapping, index, pfn);
	loff_t size = i_size_read(inode);
	bool same;

	if (!page)
		return 0;
	same = inode_peek_iversion(inode) == version;
	if (same) {
		/* A mapping may have written behind the end of the file. */
		if (index == size >> PAGE_SHIFT)
			zero_user_segment(page, offset_in_page(size), PAGE_SIZE);
		SetPageUptodate(page);
	}
	unlock_page(page);
	put_page(page);
	return same ? 1 : -ESTALE;
}

static int warm_run(struct inode *inode, const struct orthros_frame_run *run,
		    struct orthros_warm *request)
{
	u64 pages = DIV_ROUND_UP_ULL(request->size, PAGE_SIZE), page;

	if (!IS_ALIGNED(run->va, PAGE_SIZE) || run_pages(run) > pages ||
	    run->va >> PAGE_SHIFT > pages - run_pages(run))
		return -EINVAL;
	for (page = 0; page < run_pages(run); page++) {
		int done = warm_page(inode, (run->va >> PAGE_SHIFT) + page,
				     run_pfn(run) + page, request->version);

		if (done < 0)
			return done;
		request->pages += done;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static int warm_runs(struct inode *inode, struct orthros_warm *request)
{
	const struct orthros_frame_run __user *user = u64_to_user_ptr(request->runs);
	struct orthros_frame_run runs[RUNS];
	u64 from = 0;
	int error = 0;

	if (i_size_read(inode) != request->size)
		return -ESTALE;
	while (from < request->count && !error) {
		u64 count = min_t(u64, request->count - from, RUNS), i;

		error = copy_from_user(runs, user + from, count * sizeof(runs[0])) ?
				-EFAULT : 0;
		for (i = 0; i < count && !error; i++)
			error = warm_run(inode, &runs[i], request);
		from += count;
	}
	return error;
}

/* Without a version, or with pages that are not what is on the disk, there is no telling. */
static bool is_served(struct file *file)
{
	struct inode *inode = file_inode(file);

	return cache_serves(file) && IS_I_VERSION(inode) && !IS_ENCRYPTED(inode) &&
	       !IS_VERITY(inode);
}

int warm_put(struct orthros_warm *request)
{
	u64 begin = ktime_get_ns();
	struct inode *inode;
	struct file *file;
	int error = 0;

	request->pages = 0;
	if (!region_is_successor() || word_read(salvage_gate) != ORTHROS_GATE_OPEN)
		return -EPERM;
	file = fget(request->fd);
	if (!file)
		return -EBADF;
	if (!is_served(file)) {
		fput(file);
		return -EOPNOTSUPP;
	}
	inode = file_inode(file);
	inode_lock(inode);
	if (request->count)
		error = warm_runs(inode, request);
	else
		request->version = inode_query_iversion(inode);
	inode_unlock(inode);
	fput(file);
	request->nanoseconds = ktime_get_ns() - begin;
	return error;
}
