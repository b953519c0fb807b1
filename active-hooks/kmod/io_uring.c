// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel counts of a ring of io_uring for itself, beside what stands in
 * the memory that it shares with the process: no call sets it.
 */
#include <linux/file.h>
#include <linux/io_uring_types.h>
#include <linux/percpu_counter.h>
#include <linux/sched.h>
#include "orthros.h"
#include "symbols.h"

/* The next completion finds its place by the count: none has been cached (io_cqe_cache_refill()). */
static int count(struct io_ring_ctx *ctx, const struct orthros_io_uring *request)
{
	if (ctx->cached_sq_head || ctx->cached_cq_tail || ctx->cqe_cached)
		return -EBUSY;
	if (READ_ONCE(ctx->rings->sq.head) != request->taken ||
	    READ_ONCE(ctx->rings->cq.tail) != request->completed)
		return -EINVAL;
	ctx->cached_sq_head = request->taken;
	ctx->cached_cq_tail = request->completed;
	ctx->evfd_last_cq_tail = request->completed;
	ctx->cq_extra = request->extra;
	atomic_set(&ctx->cq_timeouts, request->timeouts);
	ctx->cq_last_tm_flush = request->timeouts_flushed;
	ctx->drain_disabled = request->drain_disabled;
	return 0;
}

int io_uring_go_on(const struct orthros_io_uring *request)
{
	struct file *file = fget(request->fd);
	int error = -EINVAL;

	if (!file)
		return -EBADF;
	if (file->f_op == symbols.io_uring_fops) {
		struct io_ring_ctx *ctx = file->private_data;

		mutex_lock(&ctx->uring_lock);
		spin_lock(&ctx->completion_lock);
		error = count(ctx, request);
		spin_unlock(&ctx->completion_lock);
		mutex_unlock(&ctx->uring_lock);
	}
	fput(file);
	return error;
}

/* The counter has the references as well that the thread keeps for its next requests. */
bool io_uring_is_busy(struct task_struct *task)
{
	struct io_uring_task *requests = task->io_uring;

	return requests && percpu_counter_sum(&requests->inflight) != requests->cached_refs;
}
