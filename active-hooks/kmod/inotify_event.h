/* SPDX-License-Identifier: GPL-2.0 */
#ifndef ORTHROS_INOTIFY_EVENT_H
#define ORTHROS_INOTIFY_EVENT_H

#include <linux/fsnotify_backend.h>

/* As in fs/notify/inotify/inotify.h; compared at load. */
struct inotify_event_info {
	struct fsnotify_event fse;
	u32 mask;
	int wd;
	u32 sync_cookie;
	int name_len;
	char name[];
};

#endif
