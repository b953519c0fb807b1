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
#include "orthros.h"

struct warm {
	struct inode *inode;
	struct orthros_warm *request;
};

/* A frame that cannot be had is left out. The inode is locked. */
static int warm_frame(pgoff_t index, u64 pfn, void *data)
{
	struct warm *warm = data;
	struct inode *inode = warm->inode;
	struct page *page = cache_place(inode->i_mapping, index, pfn);
	loff_t size = i_size_read(inode);
	bool same;

	if (!page)
		return 0;
	same = inode_peek_iversion(inode) == warm->request->version;
	if (same) {
		/* A mapping may have written behind the end of the file. */
		if (index == size >> PAGE_SHIFT)
			zero_user_segment(page, offset_in_page(size), PAGE_SIZE);
		SetPageUptodate(page);
		warm->request->pages++;
	}
	unlock_page(page);
	put_page(page);
	return same ? 0 : -ESTALE;
}

static int warm_frames(struct inode *inode, struct orthros_warm *request)
{
	struct warm warm = { .inode = inode, .request = request };

	if (i_size_read(inode) != request->size)
		return -ESTALE;
	return cache_each_frame(request->runs, request->count,
				DIV_ROUND_UP_ULL(request->size, PAGE_SIZE), warm_frame, &warm);
}

/* Without a version, or with pages that are not what is on the disk, there is no telling. */
static bool is_served(struct file *file)
{
	struct inode *inode = file_inode(file);

	return cache_serves(file) && IS_I_VERSION(inode) && !IS_ENCRYPTED(inode) &&
	       !IS_VERITY(inode);
}

int warm_configure(u64 value)
{
	if (value > ORTHROS_WARM_CACHE_MOST_MB && value != ORTHROS_HANG_LIMIT_OFF)
		return -EINVAL;
	word_write(warm_cache, value);
	return 0;
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
		error = warm_frames(inode, request);
	else
		request->version = inode_query_iversion(inode);
	inode_unlock(inode);
	fput(file);
	request->nanoseconds = ktime_get_ns() - begin;
	return error;
}
