/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * liborthros: what a process has to say about a failover.
 *
 * A process that Orthros protects goes on after a failure of the kernel without knowing of it. One that wants to know
 * registers a handler, which runs before any other instruction of the process, and hooks, each of which decides how an
 * interrupted system call of one number ends. Nothing changes for a process that is not protected, or on a machine without
 * Orthros: the functions succeed and nothing is ever called.
 *
 * Handler and hooks run like the handler of a signal, with all other signals blocked, on a stack of the library's own
 * (100 KB or so), while all threads of the process stand still: first the handler, in the main thread, then the hooks, each
 * in the thread whose call was interrupted, one after the other. Only async-signal-safe functions may be called
 * (signal-safety(7)), they must return, and all of them together should do so before the deadline.
 *
 * A child made by fork() has nothing registered until it registers itself, and neither has a program started by exec.
 *
 * All functions return 0 or an error number (errno.h).
 */
#ifndef ORTHROS_H
#define ORTHROS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of the name of a kernel's release, the NUL included. */
#define ORTHROS_RELEASE_SIZE 72

/* Why a failover took place: orthros_failover.cause. */
enum orthros_cause {
	ORTHROS_CAUSE_UNKNOWN = 0,
	ORTHROS_CAUSE_PANIC = 1,
	/* A planned update. */
	ORTHROS_CAUSE_UPDATE = 2,
	/* Hangs: all CPUs, one CPU, a CPU without turns for threads, one without turns for ordinary threads. */
	ORTHROS_CAUSE_ALL_CPUS_HUNG = 3,
	ORTHROS_CAUSE_CPU_HUNG = 4,
	ORTHROS_CAUSE_SOFT_LOCKUP = 5,
	ORTHROS_CAUSE_LIVE_LOCK = 6,
	/* It was taking over from another kernel and gave no sign of life any more. */
	ORTHROS_CAUSE_SILENT = 7,
};

/* A failover. Times are in nanoseconds. Later versions may append members: see size. */
struct orthros_failover {
	uint32_t size;			/* bytes of this structure */
	uint32_t cause;			/* enum orthros_cause */
	uint64_t count;			/* failovers since the machine was started, this one included */
	uint64_t monotonic_before;	/* CLOCK_MONOTONIC at the last instant of the old kernel */
	uint64_t monotonic_after;	/* CLOCK_MONOTONIC when this was written: the difference is the gap */
	int64_t realtime_before;	/* the same for CLOCK_REALTIME */
	int64_t realtime_after;
	char release_before[ORTHROS_RELEASE_SIZE];	/* uname -r of the old kernel */
	char release_after[ORTHROS_RELEASE_SIZE];	/* and of the new one */
};

/* How an interrupted call goes on if no hook says otherwise: orthros_call.planned. */
enum orthros_plan {
	/* Made again from the start: it has had no effect. */
	ORTHROS_PLAN_RETRY = 0,
	/* Goes on with the time that is left. */
	ORTHROS_PLAN_CONTINUE = 1,
	/* Ends with orthros_call.result: -EINTR. */
	ORTHROS_PLAN_RESULT = 2,
	/* It cannot be told whether it has had its effect. Unless the hook decides, the process is lost. */
	ORTHROS_PLAN_UNKNOWN = 3,
};

/* An interrupted system call. A call that has had an effect has its exact result, and no hook is asked about it. */
struct orthros_call {
	uint32_t size;			/* bytes of this structure */
	uint32_t number;		/* SYS_read, ... */
	uint32_t tid;			/* its thread, in which the hook runs */
	uint32_t planned;		/* enum orthros_plan */
	uint64_t arguments[6];
	int64_t result;			/* the planned result, or 0 */
	uint64_t left;			/* nanoseconds left of its time-out; UINT64_MAX if there is none or it is not known */
	uint64_t at;			/* address of its syscall instruction */
};

/* What a hook says: orthros_answer.action. */
enum orthros_action {
	/* As planned. */
	ORTHROS_PLANNED = 0,
	/* Make the call again from the start, with its full time-out. */
	ORTHROS_RETRY = 1,
	/* End it with orthros_answer.result, an error as the kernel returns it: -EIO, not -1. */
	ORTHROS_RESULT = 2,
};

struct orthros_answer {
	uint64_t action;		/* enum orthros_action */
	int64_t result;
};

typedef void (*orthros_handler)(const struct orthros_failover *failover, void *argument);
typedef struct orthros_answer (*orthros_hook)(const struct orthros_call *call, void *argument);

/*
 * Registers the handler in place of the one before; NULL takes it back.
 * EBUSY: a handler or hook is running. ENOMEM, EPERM ...: no memory for the table.
 */
int orthros_on_failover(orthros_handler handler, void *argument);

/*
 * Registers the hook for a system call in place of the one before; NULL takes it back.
 * ENOSPC: there are hooks for 64 calls already. EINVAL: not the number of a call. Others as above.
 */
int orthros_on_call(long number, orthros_hook hook, void *argument);

/*
 * Sets how long handler and hooks may take together before the other threads go on: 1 to 30000 ms, 5000 unless set. What
 * runs then goes on beside them; hooks that were not asked yet are not asked, and `orthros-ctl report` says so.
 */
int orthros_set_deadline(unsigned int milliseconds);

#ifdef __cplusplus
}
#endif

#endif
