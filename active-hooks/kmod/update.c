// SPDX-License-Identifier: GPL-2.0
/*
 * A planned update: finds a moment in which every protected thread can be
 * stopped exactly, and hands the machine to the backup OS in that moment.
 *
 * stop_machine() takes every CPU out of whatever thread it runs, so that no
 * protected thread is in the middle of an instruction stream of the kernel
 * without having been preempted there; one look then tells whether each is in
 * user mode or asleep in a call that starts again without a trace. If one is
 * not, the machine goes on for a moment and is looked at again.
 */
#include <linux/delay.h>
#include <linux/io_uring.h>
#include <linux/ktime.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include <linux/stop_machine.h>
#include <asm/syscall.h>
#include <asm/unistd.h>
#include "orthros.h"

/* Between two looks. */
#define PAUSE_US 1000
#define DEADLINE_MAX_US 10000000ULL

enum readiness {
	READY,
	/* Asleep in a call that a stop would end with EINTR. */
	INTERRUPTED,
	IN_THE_WAY,
};

/* The pointer to the time-out of a waiting call; NULL waits for ever. */
static enum readiness by_timeout(u64 pointer)
{
	return pointer ? INTERRUPTED : READY;
}

/*
 * A thread asleep, interruptibly, in a system call. What is READY here the
 * salvager restarts without a trace, with the time that remains
 * (backup-os/salvage/src/calls.rs).
 */
static enum readiness asleep_in(const struct pt_regs *regs)
{
	switch (regs->orig_ax) {
	case __NR_nanosleep:
	case __NR_clock_nanosleep:
	case __NR_futex:
	case __NR_poll:
	case __NR_pause:
	case __NR_rt_sigsuspend:
	case __NR_wait4:
	case __NR_waitid:
	case __NR_restart_syscall:
	/* Asleep before anything was moved: they return with the first bytes. */
	case __NR_read:
	case __NR_readv:
		return READY;
	case __NR_epoll_wait:
	case __NR_epoll_pwait:
		return (int)regs->r10 < 0 ? READY : INTERRUPTED;
	case __NR_epoll_pwait2:
		return by_timeout(regs->r10);
	case __NR_select:
	case __NR_pselect6:
		return by_timeout(regs->r8);
	case __NR_ppoll:
	case __NR_rt_sigtimedwait:
		return by_timeout(regs->dx);
	case __NR_io_uring_enter:
		/* With requests to take, it has an answer already. */
		if ((u32)regs->si)
			return IN_THE_WAY;
		/* Only there can a time-out be. */
		return regs->r10 & IORING_ENTER_EXT_ARG ? INTERRUPTED : READY;
	default:
		return IN_THE_WAY;
	}
}

static bool signal_waits(struct task_struct *task)
{
	sigset_t set;

	sigorsets(&set, &task->pending.signal, &task->signal->shared_pending.signal);
	sigandnsets(&set, &set, &task->blocked);
	return !sigisemptyset(&set);
}

/*
 * A call that has ended with EINTR in the freezer. One that waits for ever, and
 * for no signal that is there, the salvager starts again as well
 * (backup-os/salvage/src/interrupted/frozen.rs).
 */
static enum readiness ended_by_freezer(struct task_struct *task, const struct pt_regs *regs)
{
	switch (regs->orig_ax) {
	case __NR_epoll_wait:
	case __NR_epoll_pwait:
	case __NR_epoll_pwait2:
	case __NR_rt_sigtimedwait:
	case __NR_io_uring_enter:
		return signal_waits(task) ? INTERRUPTED : asleep_in(regs);
	default:
		return INTERRUPTED;
	}
}

static enum readiness readiness(struct task_struct *task)
{
	const struct pt_regs *regs = task_pt_regs(task);
	unsigned int state = READ_ONCE(task->__state);

	/* The kernel was entered by an interrupt or an exception. */
	if ((long)regs->orig_ax < 0)
		return READY;
	/* On its way back to user mode, stopped or frozen: the call has its answer. */
	if (task->frozen || state & (__TASK_STOPPED | __TASK_TRACED)) {
		if ((long)regs->ax != -EINTR)
			return READY;
		return state & (__TASK_STOPPED | __TASK_TRACED) ? INTERRUPTED :
								  ended_by_freezer(task, regs);
	}
	if (state & TASK_INTERRUPTIBLE)
		return asleep_in(regs);
	return IN_THE_WAY;
}

static void look(struct orthros_update *request)
{
	struct task_struct *process, *thread;

	request->threads = 0;
	request->interrupted = 0;
	request->tid = 0;
	rcu_read_lock();
	for_each_process(process) {
		if (!protect_covers(process))
			continue;
		for_each_thread(process, thread) {
			enum readiness found;
			bool busy;

			/* Workers of io_uring have nothing of their own: the next kernel makes new ones. */
			if (thread->exit_state || thread->flags & (PF_EXITING | PF_IO_WORKER))
				continue;
			request->threads++;
			/* Whatever the thread does meanwhile: nobody knows how far a device has come. */
			busy = io_uring_is_busy(thread) &&
			       !(request->flags & ORTHROS_UPDATE_ALLOW_BUSY);
			found = busy ? IN_THE_WAY : readiness(thread);
			if (found == INTERRUPTED)
				request->interrupted++;
			if (found == READY ||
			    (found == INTERRUPTED &&
			     request->flags & ORTHROS_UPDATE_ALLOW_INTERRUPTED) ||
			    request->tid)
				continue;
			request->tid = task_pid_nr(thread);
			request->call = busy ? __NR_io_uring_enter :
					       task_pt_regs(thread)->orig_ax;
		}
	}
	rcu_read_unlock();
}

/* Every other CPU waits with interrupts off. */
static int look_and_leave(void *data)
{
	struct orthros_update *request = data;

	look(request);
	if (request->tid)
		return -EAGAIN;
	if (request->flags & ORTHROS_UPDATE_DRY_RUN)
		return 0;
	/* Does not come back if the backup OS takes over. */
	stop_offer_update(request->interrupted);
	return -ETIMEDOUT;
}

int update_go(struct orthros_update *request)
{
	const u64 known = ORTHROS_UPDATE_DRY_RUN | ORTHROS_UPDATE_ALLOW_INTERRUPTED |
			  ORTHROS_UPDATE_ALLOW_BUSY;
	ktime_t end = ktime_add_us(ktime_get(), min(request->deadline, DEADLINE_MAX_US));
	int error;

	if (request->flags & ~known)
		return -EINVAL;
	if (word_read(watch_state) != ORTHROS_WATCH_ARMED)
		return -ENODEV;
	request->attempts = 0;
	protect_prepare();
	for (;;) {
		request->attempts++;
		error = stop_machine(look_and_leave, request, NULL);
		if (error != -EAGAIN || ktime_after(ktime_get(), end) ||
		    signal_pending(current))
			break;
		usleep_range(PAUSE_US / 2, PAUSE_US);
	}
	protect_prepared();
	return error;
}
