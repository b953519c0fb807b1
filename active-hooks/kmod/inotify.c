// SPDX-License-Identifier: GPL-2.0
/*
 * Events of inotify that a process had not read: no call puts one into a queue.
 */
#include <linux/file.h>
#include <linux/inotify.h>
#include <linux/limits.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "inotify_event.h"
#include "orthros.h"
#include "symbols.h"

/* The kernel frees it with kfree(), as those of its own (inotify_free_event()). */
static struct inotify_event_info *make(struct fsnotify_group *group,
				       const struct orthros_inotify_event *request)
{
	struct mem_cgroup *old_memcg = set_active_memcg(group->memcg);
	struct inotify_event_info *event =
		kzalloc(sizeof(*event) + request->name_len + 1, GFP_KERNEL_ACCOUNT);

	set_active_memcg(old_memcg);
	if (!event)
		return ERR_PTR(-ENOMEM);
	fsnotify_init_event(&event->fse);
	event->mask = request->mask;
	event->wd = request->wd;
	event->sync_cookie = request->cookie;
	event->name_len = request->name_len;
	if (copy_from_user(event->name, u64_to_user_ptr(request->name), request->name_len)) {
		kfree(event);
		return ERR_PTR(-EFAULT);
	}
	return event;
}

static int append(struct fsnotify_group *group, struct fsnotify_event *event)
{
	int error = 0;

	spin_lock(&group->notification_lock);
	if (group->shutdown)
		error = -EINVAL;
	/* The event that says so comes in addition to those that fit. */
	else if (event != group->overflow_event && group->q_len >= group->max_events)
		error = -ENOSPC;
	else if (!list_empty(&event->list))
		error = -EEXIST;
	if (!error) {
		list_add_tail(&event->list, &group->notification_list);
		group->q_len++;
	}
	spin_unlock(&group->notification_lock);
	if (!error)
		wake_up(&group->notification_waitq);
	return error;
}

static int put(struct fsnotify_group *group, const struct orthros_inotify_event *request)
{
	struct inotify_event_info *event;
	int error;

	if (request->name_len > NAME_MAX)
		return -EINVAL;
	/* The queue has one of these of its own. */
	if (request->mask & IN_Q_OVERFLOW)
		return append(group, group->overflow_event);
	event = make(group, request);
	if (IS_ERR(event))
		return PTR_ERR(event);
	error = append(group, &event->fse);
	if (error)
		kfree(event);
	return error;
}

int inotify_put(const struct orthros_inotify_event *request)
{
	struct file *file = fget(request->fd);
	int error = -EINVAL;

	if (!file)
		return -EBADF;
	if (file->f_op == symbols.inotify_fops)
		error = put(file->private_data, request);
	fput(file);
	return error;
}
