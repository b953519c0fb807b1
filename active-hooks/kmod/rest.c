// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that a standby has no use for while it sleeps.
 *
 * Most of a small kernel's memory is free. It is held here in blocks that do
 * not move, and given back, unread, after the sleep: so the backup OS need
 * neither pack what is in them, nor look whether it is still the same, nor put
 * it back.
 */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pfn.h>
#include <linux/sizes.h>
#include <linux/swap.h>
#include "orthros.h"

/* What is left free for the way into the sleep and out of it. */
#define LEFT_FREE (SZ_16M >> PAGE_SHIFT)
#define BLOCK_ORDER (21 - PAGE_SHIFT)

static_assert(ORTHROS_IDLE_BLOCK == PAGE_SIZE << BLOCK_ORDER);

static DEFINE_MUTEX(lock);
static struct page *blocks[ORTHROS_MAX_IDLE_BLOCKS];
static unsigned int held;

/* Without urgency: nobody is to be killed, and nothing reclaimed, for it. */
static struct page *take(void)
{
	if (nr_free_pages() < LEFT_FREE + (1UL << BLOCK_ORDER))
		return NULL;
	return alloc_pages(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN |
			   __GFP_NOMEMALLOC, BLOCK_ORDER);
}

int rest_begin(struct orthros_rest *reply)
{
	if (smp_load_acquire(&region.standby->state) != ORTHROS_STANDBY_STARTING)
		return -EPERM;
	mutex_lock(&lock);
	while (held < ARRAY_SIZE(blocks)) {
		struct page *block = take();

		if (!block)
			break;
		WRITE_ONCE(region.standby->idle_blocks[held], PFN_PHYS(page_to_pfn(block)));
		blocks[held++] = block;
	}
	smp_store_release(&region.standby->idle_count, (u64)held);
	reply->blocks = held;
	mutex_unlock(&lock);
	return 0;
}

void rest_end(void)
{
	mutex_lock(&lock);
	while (held)
		__free_pages(blocks[--held], BLOCK_ORDER);
	mutex_unlock(&lock);
}
