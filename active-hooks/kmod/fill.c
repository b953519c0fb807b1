// SPDX-License-Identifier: GPL-2.0
/*
 * Fills the holes of memory blocks that this kernel has a part of already.
 *
 * A block that is partly present cannot be hot-added. That is the first block
 * of every successor: its real-mode memory below 1 MB is there, the rest of the
 * block was the dead kernel's. The struct pages of such a hole exist, as
 * reserved pages (init_unavailable_range()); what is missing is the direct map,
 * the entry in /proc/iomem, and the accounting.
 */
#include <linux/bitmap.h>
#include <linux/ioport.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <asm/dma.h>
#include "orthros.h"
#include "symbols.h"

static void init_page(u64 pfn)
{
	struct page *page = pfn_to_page(pfn);

	/* A hole's pages were given to the zone of the RAM behind it. */
	if (pfn < MAX_DMA_PFN)
		set_page_zone(page, ZONE_DMA);
	__ClearPageReserved(page);
}

/* Makes the frames [first, end) reachable and known. */
static int open_run(u64 first, u64 end)
{
	struct zone *zone = page_zone(pfn_to_page(end - 1));
	u64 pfn;
	int error = resources_clear(PFN_PHYS(first), PFN_PHYS(end)) ?:
		    resources_enter_ram(PFN_PHYS(first), PFN_PHYS(end));

	if (error)
		return error;
	static_call(orthros_init_memory_mapping)(PFN_PHYS(first), PFN_PHYS(end),
						 PAGE_KERNEL);
	for (pfn = first; pfn < end; pfn++)
		init_page(pfn);
	/* Nobody else adds memory meanwhile; see hotadd.c. */
	zone->present_pages += end - first;
	zone->zone_pgdat->node_present_pages += end - first;
	return 0;
}

static int keep_own(struct resource *ram, void *data)
{
	const struct frame_range *range = data;
	u64 first = max(PFN_DOWN(ram->start), range->first);
	u64 end = min(PFN_UP(ram->end + 1), range->end);

	if (first < end)
		bitmap_set(range->kept, first - range->first, end - first);
	return 0;
}

/* This kernel's own RAM in the range is not for anybody. */
void fill_keep_own(const struct frame_range *range)
{
	walk_iomem_res_desc(IORES_DESC_NONE, IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY,
			    PFN_PHYS(range->first), PFN_PHYS(range->end) - 1,
			    (void *)range, keep_own);
}

/*
 * Opens the holes of one block: the frames whose bit in `kept` is clear. EEXIST
 * if there are none.
 */
int fill_open(const struct frame_range *range, u64 first, u64 end)
{
	u64 size = end - range->first, at = first - range->first, stop;
	bool any = false;

	for (at = find_next_zero_bit(range->kept, size, at); at < size;
	     at = find_next_zero_bit(range->kept, size, stop)) {
		int error;

		stop = find_next_bit(range->kept, size, at);
		error = open_run(range->first + at, range->first + stop);
		if (error)
			return error;
		any = true;
	}
	return any ? 0 : -EEXIST;
}
