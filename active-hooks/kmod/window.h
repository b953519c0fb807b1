/* SPDX-License-Identifier: GPL-2.0 */
#ifndef ORTHROS_WINDOW_H
#define ORTHROS_WINDOW_H

#include <linux/types.h>

/* A piece of memory that is not this kernel's, mapped. Zeros are a closed one. */
struct window {
	u64 first, frames;
	void *base;
};

/* Where a frame can be read until the window is used again; NULL if it cannot. */
void *window_on(struct window *window, u64 pfn);
void window_close(struct window *window);

#endif
