// SPDX-License-Identifier: GPL-2.0
/*
 * Reading frames of the dead kernel. One that is no RAM of this kernel is mapped
 * for that; in the dead kernel's nursery, with all of the 2 MB around it: frames
 * that lie side by side are read one after the other, and undoing a mapping
 * interrupts every CPU.
 */
#include <linux/io.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include "orthros.h"
#include "window.h"

#define WINDOW_SIZE SZ_2M

void window_close(struct window *window)
{
	if (window->base)
		memunmap(window->base);
	window->base = NULL;
}

void *window_on(struct window *window, u64 pfn)
{
	u64 other = region_other_nursery();

	if (pfn_to_online_page(pfn))
		return page_address(pfn_to_page(pfn));
	if (!window->base || pfn - window->first >= window->frames) {
		/* Only of the nursery is it certain that all around the frame is of one kind. */
		bool alone = !other || PFN_PHYS(pfn) - other >= ORTHROS_NURSERY_SIZE;

		window_close(window);
		window->frames = alone ? 1 : PHYS_PFN(WINDOW_SIZE);
		window->first = ALIGN_DOWN(pfn, window->frames);
		window->base = memremap(PFN_PHYS(window->first), PFN_PHYS(window->frames),
					MEMREMAP_WB);
	}
	return window->base ? window->base + PFN_PHYS(pfn - window->first) : NULL;
}
