// SPDX-License-Identifier: GPL-2.0
/*
 * For tests: a kernel that dies with a damaged file cache.
 *
 * Objects are chosen at random among those that hold what the disk has not got yet:
 * nodes of page caches with dirty pages, their inodes, or the buffer heads of the
 * journal. In each some words get a bit changed or a pointer to anywhere, and the
 * kernel panics before anybody else can stumble over them.
 */
#include <linux/blkdev.h>
#include <linux/buffer_head.h>
#include <linux/fs.h>
#include <linux/limits.h>
#include <linux/mm.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/panic.h>
#include <linux/prandom.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/xarray.h>
#include "orthros.h"

/* Objects that are damaged, and words of each. */
#define OBJECTS 6
#define WORDS 2
/* Of a file system's own part of an inode, which lies before the common one. */
#define OWN_BYTES 192

enum { NODES, INODES, BUFFERS, KINDS };

struct choice {
	struct rnd_state random;
	unsigned int kind;
	u64 seen;
	struct {
		void *start;
		size_t size;
	} objects[OBJECTS];
};

static u64 draw(struct choice *choice, u64 below)
{
	return (((u64)prandom_u32_state(&choice->random) << 32) |
		prandom_u32_state(&choice->random)) % below;
}

/* Every object that is offered has the same chance. */
static void offer(struct choice *choice, void *start, size_t size)
{
	u64 at = choice->seen++;

	if (at >= OBJECTS)
		at = draw(choice, choice->seen);
	if (at >= OBJECTS)
		return;
	choice->objects[at].start = start;
	choice->objects[at].size = size;
}

static bool is_new(struct address_space *mapping)
{
	return mapping_tagged(mapping, PAGECACHE_TAG_DIRTY) ||
	       mapping_tagged(mapping, PAGECACHE_TAG_WRITEBACK);
}

static void offer_nodes(struct choice *choice, struct address_space *mapping)
{
	void *head = rcu_dereference_raw(mapping->i_pages.xa_head);

	if (xa_is_node(head))
		offer(choice, xa_to_node(head), sizeof(struct xa_node));
	else
		offer(choice, &mapping->i_pages, sizeof(mapping->i_pages));
}

static void offer_buffers(struct choice *choice, struct address_space *mapping)
{
	unsigned long index;
	void *entry;

	rcu_read_lock();
	xa_for_each(&mapping->i_pages, index, entry) {
		struct buffer_head *first, *buffer;

		first = xa_is_value(entry) ? NULL : folio_buffers(entry);
		for (buffer = first; buffer; buffer = buffer->b_this_page) {
			/* With a journal's head. */
			if (buffer->b_private)
				offer(choice, buffer, sizeof(*buffer));
			if (buffer->b_this_page == first)
				break;
		}
	}
	rcu_read_unlock();
}

static void choose(struct choice *choice, struct super_block *super)
{
	struct inode *inode;

	if (choice->kind == BUFFERS) {
		if (super->s_bdev)
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
			offer_buffers(choice, super->s_bdev->bd_mapping);
#else
			offer_buffers(choice, super->s_bdev->bd_inode->i_mapping);
#endif
		return;
	}
	spin_lock(&super->s_inode_list_lock);
	list_for_each_entry(inode, &super->s_inodes, i_sb_list) {
		if (!S_ISREG(inode->i_mode) || !is_new(inode->i_mapping))
			continue;
		if (choice->kind == NODES)
			offer_nodes(choice, inode->i_mapping);
		else
			offer(choice, (u8 *)inode - OWN_BYTES, OWN_BYTES + sizeof(*inode));
	}
	spin_unlock(&super->s_inode_list_lock);
}

static void damage(struct choice *choice)
{
	static const char *const names[KINDS] = { "node", "inode", "buffer" };
	unsigned int i, word;

	for (i = 0; i < min_t(u64, choice->seen, OBJECTS); i++) {
		for (word = 0; word < WORDS; word++) {
			u64 at = draw(choice, choice->objects[i].size / sizeof(u64));
			u64 *place = (u64 *)choice->objects[i].start + at;
			u64 old = *place;

			if (draw(choice, 3))
				*place ^= BIT_ULL(draw(choice, 64));
			else
				*place = (u64)__va(draw(choice, (u64)totalram_pages() << PAGE_SHIFT) & ~7ULL);
			pr_emerg("damaged: %s, word %llu of %px: %llx is %llx\n", names[choice->kind], at,
				 choice->objects[i].start, old, *place);
		}
	}
}

int corrupt_and_panic(u64 seed, u64 user_path)
{
	struct choice *choice;
	struct path path;
	char *name;
	long length;
	int error;

	name = kzalloc(PATH_MAX, GFP_KERNEL);
	choice = kzalloc(sizeof(*choice), GFP_KERNEL);
	if (!name || !choice) {
		error = -ENOMEM;
		goto out;
	}
	length = strncpy_from_user(name, u64_to_user_ptr(user_path), PATH_MAX - 1);
	error = length < 0 ? length : kern_path(name, LOOKUP_FOLLOW, &path);
	if (error)
		goto out;
	prandom_seed_state(&choice->random, seed);
	choice->kind = seed % KINDS;
	choose(choice, path.dentry->d_sb);
	path_put(&path);
	error = -ENOENT;
	if (!choice->seen)
		goto out;
	local_irq_disable();
	damage(choice);
	panic("orthros: asked for by a test, with a damaged file cache");
out:
	kfree(choice);
	kfree(name);
	return error;
}
