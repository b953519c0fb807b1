// SPDX-License-Identifier: GPL-2.0
/*
 * Sets what no system call can set on a thread that is stopped by ptrace: the
 * restart block, from which restart_syscall() goes on with an interrupted call,
 * and the times of its life so far.
 */
#include <linux/pid.h>
#include <linux/poll.h>
#include <linux/restart_block.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/version.h>
#include <uapi/linux/futex.h>
#include "orthros.h"
#include "symbols.h"

/* kernel/futex/futex.h, which is private; changed with futex2 in 6.7. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
#define FLAGS_SIZE_32 0x0002
#define FLAGS_SHARED 0x0010
#define FLAGS_CLOCKRT 0x0020
#define FLAGS_HAS_TIMEOUT 0x0040
#else
#define FLAGS_SIZE_32 0x00
#define FLAGS_SHARED 0x01
#define FLAGS_CLOCKRT 0x02
#define FLAGS_HAS_TIMEOUT 0x04
#endif

/* The thread, with a reference; it stays stopped as long as its tracer wants. */
static struct task_struct *stopped_thread(u64 tid)
{
	struct task_struct *task;

	if (!tid || tid > PID_MAX_LIMIT)
		return ERR_PTR(-ESRCH);
	task = get_pid_task(find_vpid(tid), PIDTYPE_PID);
	if (!task)
		return ERR_PTR(-ESRCH);
	if (task_is_traced(task))
		return task;
	put_task_struct(task);
	return ERR_PTR(-EBUSY);
}

static int fill_sleep(struct restart_block *block,
		      const struct orthros_resume_call *request)
{
	if (request->a >= MAX_CLOCKS)
		return -EINVAL;
	block->nanosleep.clockid = request->a;
	block->nanosleep.type = request->b ? TT_NATIVE : TT_NONE;
	block->nanosleep.rmtp = u64_to_user_ptr(request->b);
	block->nanosleep.expires = request->expires;
	block->fn = symbols.sleep_restart;
	return 0;
}

static int fill_futex(struct restart_block *block,
		      const struct orthros_resume_call *request)
{
	u32 flags = (u32)request->c, bitset = request->c >> 32;

	if (!bitset || flags & ~(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME))
		return -EINVAL;
	block->futex.uaddr = u64_to_user_ptr(request->b);
	block->futex.val = request->a;
	block->futex.bitset = bitset;
	block->futex.time = request->expires;
	block->futex.flags = FLAGS_SIZE_32 | FLAGS_HAS_TIMEOUT |
			     (flags & FUTEX_PRIVATE_FLAG ? 0 : FLAGS_SHARED) |
			     (flags & FUTEX_CLOCK_REALTIME ? FLAGS_CLOCKRT : 0);
	block->fn = symbols.futex_restart;
	return 0;
}

static int fill_poll(struct restart_block *block,
		     const struct orthros_resume_call *request)
{
	u32 nanoseconds;

	if (request->a > INT_MAX)
		return -EINVAL;
	block->poll.ufds = u64_to_user_ptr(request->b);
	block->poll.nfds = request->a;
	block->poll.has_timeout = 1;
	block->poll.tv_sec = div_u64_rem(request->expires, NSEC_PER_SEC, &nanoseconds);
	block->poll.tv_nsec = nanoseconds;
	block->fn = symbols.poll_restart;
	return 0;
}

int resume_call(const struct orthros_resume_call *request)
{
	struct restart_block block = {};
	struct task_struct *task;
	int error;

	switch (request->kind) {
	case ORTHROS_RESUME_SLEEP:
		error = fill_sleep(&block, request);
		break;
	case ORTHROS_RESUME_FUTEX:
		error = fill_futex(&block, request);
		break;
	case ORTHROS_RESUME_POLL:
		error = fill_poll(&block, request);
		break;
	default:
		error = -EINVAL;
	}
	if (error)
		return error;
	task = stopped_thread(request->tid);
	if (IS_ERR(task))
		return PTR_ERR(task);
	task->restart_block = block;
	put_task_struct(task);
	return 0;
}

/*
 * What /proc, times() and the CPU-time clocks show: they scale utime and stime
 * to sum_exec_runtime and never let them fall below prev_cputime
 * (cputime_adjust(), kernel/sched/cputime.c).
 */
static void set_cpu_times(struct task_struct *task, u64 utime, u64 stime)
{
	unsigned long flags;

	task->utime = utime;
	task->stime = stime;
	task->se.sum_exec_runtime = utime + stime;
	raw_spin_lock_irqsave(&task->prev_cputime.lock, flags);
	task->prev_cputime.utime = utime;
	task->prev_cputime.stime = stime;
	raw_spin_unlock_irqrestore(&task->prev_cputime.lock, flags);
}

/* As audit_set_loginuid(), which gives each login a new session (kernel/audit.c). */
static void set_login(struct task_struct *task, u64 login)
{
#ifdef CONFIG_AUDIT
	task->loginuid = KUIDT_INIT(lower_32_bits(login));
	task->sessionid = upper_32_bits(login);
#endif
}

int resume_task_state(const struct orthros_task_state *request)
{
	struct task_struct *task = stopped_thread(request->tid);

	if (IS_ERR(task))
		return PTR_ERR(task);
	/* May be "negative": before this kernel's own start. */
	if (request->start_boottime) {
		task->start_boottime = request->start_boottime;
		if (thread_group_leader(task))
			protect_follow(task_tgid_nr(task), request->start_boottime);
	}
	if (request->utime || request->stime)
		set_cpu_times(task, request->utime, request->stime);
	if (request->login)
		set_login(task, request->login);
	put_task_struct(task);
	return 0;
}
