// SPDX-License-Identifier: GPL-2.0
/*
 * Hands page frames of the dead kernel to a file as pages of its cache that the
 * disk does not have yet, as if they had just been written to it.
 *
 * What generic_perform_write() does for a whole page happens here, but for the
 * copy: the frame goes into the cache first, up to date, and write_begin() of the
 * file system finds it there. A frame that is not to be had in place, because it
 * lies in memory that is not this kernel's or the cache has another page there,
 * is copied into the page that write_begin() brings.
 *
 * The lock of the inode is held, as by any write. Only file systems of which it
 * is known that their pages come about in this way are served.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include "adopt.h"
#include "orthros.h"
#include "window.h"

/* Runs that are fetched from user memory at once. */
#define RUNS 32

/* The page has a reference for the caller. */
struct page *cache_place(struct address_space *mapping, pgoff_t index, u64 pfn)
{
	struct page *page;

	if (!hotadd_take(pfn))
		return NULL;
	page = pfn_to_page(pfn);
	adopt_claim(page);
	if (filemap_add_folio(mapping, page_folio(page), index,
			      mapping_gfp_constraint(mapping, GFP_KERNEL))) {
		adopt_unclaim(page);
		hotadd_put_back(pfn);
		return NULL;
	}
	/* It is RAM of this kernel now, whatever becomes of the write. */
	keep_page(page);
	adjust_managed_page_count(page, 1);
	return page;
}

/* As it is. NULL if it cannot be had. The page is not locked. */
static struct page *put_in_place(struct address_space *mapping, pgoff_t index, u64 pfn)
{
	struct page *page = cache_place(mapping, index, pfn);

	if (page) {
		SetPageUptodate(page);
		unlock_page(page);
	}
	return page;
}

/* What the file did not take must not look as if it had: nobody would write it. */
static void take_out(struct address_space *mapping, struct page *page)
{
	lock_page(page);
	if (page->mapping == mapping && !PageDirty(page) && !PageWriteback(page))
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
		/* 6.8: a folio instead of a page. */
		generic_error_remove_folio(mapping, page_folio(page));
#else
		generic_error_remove_page(mapping, page);
#endif
	unlock_page(page);
}

/* 1 if the frame itself is in the cache now, 0 if it was copied. */
static int write_page(struct file *file, loff_t at, u64 pfn, struct window *window)
{
	struct address_space *mapping = file->f_mapping;
	const struct address_space_operations *operations = mapping->a_ops;
	struct page *placed = put_in_place(mapping, at >> PAGE_SHIFT, pfn);
	void *source = NULL;
	void *private = NULL;
	int error;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	/* 1da86618bdce (6.12): a folio instead of a page. */
	struct folio *target;
#else
	struct page *target;
#endif

	if (!placed) {
		source = window_on(window, pfn);
		if (!source)
			return -EPERM;
	}
	error = operations->write_begin(file, mapping, at, PAGE_SIZE, &target, &private);
	if (error)
		goto out;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	if (source)
		copy_page(folio_address(target), source);
	flush_dcache_folio(target);
#else
	if (source)
		copy_page(page_address(target), source);
	flush_dcache_page(target);
#endif
	error = operations->write_end(file, mapping, at, PAGE_SIZE, PAGE_SIZE, target,
				      private);
	if (error >= 0)
		error = error == PAGE_SIZE ? 0 : -EIO;
out:
	if (placed && error) {
		keep_refused(placed);
		take_out(mapping, placed);
	}
	if (placed)
		put_page(placed);
	return error ?: placed != NULL;
}

struct write {
	struct file *file;
	struct window window;
	struct orthros_cache *request;
};

static int write_frame(pgoff_t index, u64 pfn, void *data)
{
	struct write *write = data;
	int done = hotadd_is_readable(pfn) ?
		write_page(write->file, (loff_t)index << PAGE_SHIFT, pfn, &write->window) :
		-EPERM;

	if (done < 0)
		return done;
	write->request->pages++;
	write->request->copied += !done;
	return 0;
}

static int each_frame_of_run(const struct orthros_frame_run *run, u64 pages,
			     cache_frame_fn frame, void *data)
{
	u64 page;

	if (!IS_ALIGNED(run->va, PAGE_SIZE) || run_pages(run) > pages ||
	    run->va >> PAGE_SHIFT > pages - run_pages(run))
		return -EINVAL;
	for (page = 0; page < run_pages(run); page++) {
		int error = frame((run->va >> PAGE_SHIFT) + page, run_pfn(run) + page, data);

		if (error)
			return error;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

int cache_each_frame(u64 address, u64 count, u64 pages, cache_frame_fn frame, void *data)
{
	const struct orthros_frame_run __user *user = u64_to_user_ptr(address);
	struct orthros_frame_run runs[RUNS];
	u64 from = 0;
	int error = 0;

	while (from < count && !error) {
		u64 some = min_t(u64, count - from, RUNS), i;

		error = copy_from_user(runs, user + from, some * sizeof(runs[0])) ?
				-EFAULT : 0;
		for (i = 0; i < some && !error; i++)
			error = each_frame_of_run(&runs[i], pages, frame, data);
		from += some;
	}
	return error;
}

/* ext4 serves the older two as well, and says so by its operations alone. */
bool cache_serves(struct file *file)
{
	const char *type = file_inode(file)->i_sb->s_type->name;
	const struct address_space_operations *operations = file->f_mapping->a_ops;

	return S_ISREG(file_inode(file)->i_mode) &&
	       (!strcmp(type, "ext4") || !strcmp(type, "ext3") || !strcmp(type, "ext2")) &&
	       operations->write_begin && operations->write_end &&
	       !IS_SWAPFILE(file_inode(file)) && !IS_DAX(file_inode(file));
}

int cache_write(struct orthros_cache *request)
{
	u64 begin = ktime_get_ns();
	struct write write = { .request = request };
	struct inode *inode;
	struct file *file;
	int error;

	request->pages = request->copied = 0;
	if (!region_is_successor() || word_read(salvage_gate) != ORTHROS_GATE_OPEN)
		return -EPERM;
	file = fget(request->fd);
	if (!file)
		return -EBADF;
	if (!(file->f_mode & FMODE_WRITE) || !cache_serves(file)) {
		fput(file);
		return -EOPNOTSUPP;
	}
	inode = file_inode(file);
	file_start_write(file);
	inode_lock(inode);
	write.file = file;
	error = cache_each_frame(request->runs, request->count,
				 i_size_read(inode) >> PAGE_SHIFT, write_frame, &write);
	window_close(&write.window);
	inode_unlock(inode);
	file_end_write(file);
	fput(file);
	request->nanoseconds = ktime_get_ns() - begin;
	return error;
}
