/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Tells of each failover what it saw, and how the calls that its threads were in have ended.
 *
 *	cc -I include examples/failover.c -lorthros -lpthread -o failover
 *	orthros-ctl protect -- ./failover
 *
 * The same in Rust: failover.rs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <orthros.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000
#define HOUR_MS 3600000

/* What the handler leaves for the main thread, which may print it. */
static struct orthros_failover seen;
static atomic_uint runs;
static atomic_bool still;
/* CLOCK_MONOTONIC as the other thread has last read it, and as it read it first after the handler. */
static atomic_uint_least64_t last, first = UINT64_MAX;

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

/* Async-signal-safe: copies what it is told, and looks for a while whether another thread runs. */
static void handler(const struct orthros_failover *failover, void *argument)
{
	uint64_t before = last, until = now() + 20 * MS;

	(void)argument;
	seen = *failover;
	while (now() < until)
		;
	still = last == before && before <= failover->monotonic_before;
	first = 0;
	runs++;
}

/* A blocked read ends with an error. */
static struct orthros_answer on_read(const struct orthros_call *call, void *argument)
{
	struct orthros_answer answer = { ORTHROS_PLANNED, 0 };

	if (call->planned == ORTHROS_PLAN_RETRY && (int)call->arguments[0] == *(int *)argument) {
		answer.action = ORTHROS_RESULT;
		answer.result = -EIO;
	}
	return answer;
}

/* A sleep is over at once if there is much left of it. */
static struct orthros_answer on_sleep(const struct orthros_call *call, void *argument)
{
	struct orthros_answer answer = { ORTHROS_PLANNED, 0 };

	(void)argument;
	if (call->planned == ORTHROS_PLAN_CONTINUE && call->left > 60ULL * 1000 * MS && call->left != UINT64_MAX) {
		answer.action = ORTHROS_RESULT;
		answer.result = -EINTR;
	}
	return answer;
}

/* A poll ends as if its time was over. */
static struct orthros_answer on_poll(const struct orthros_call *call, void *argument)
{
	struct orthros_answer answer = { ORTHROS_RESULT, 0 };

	(void)argument;
	if (call->arguments[2] != HOUR_MS)
		answer.action = ORTHROS_PLANNED;
	return answer;
}

/* Nobody can tell what an interrupted vmsplice has done: without this hook it would cost the process. */
static struct orthros_answer on_splice(const struct orthros_call *call, void *argument)
{
	struct orthros_answer answer = { ORTHROS_PLANNED, 0 };

	(void)argument;
	if (call->planned == ORTHROS_PLAN_UNKNOWN) {
		answer.action = ORTHROS_RESULT;
		answer.result = -EAGAIN;
	}
	return answer;
}

static void *reader(void *descriptor)
{
	char byte;

	for (;;) {
		ssize_t result = read(*(int *)descriptor, &byte, 1);

		printf("read %zd %s\n", result, result < 0 ? strerrorname_np(errno) : "-");
	}
	return NULL;
}

static void *poller(void *argument)
{
	(void)argument;
	for (;;)
		printf("poll %d\n", poll(NULL, 0, HOUR_MS));
	return NULL;
}

/* There is no hook for this call: it sleeps on for the time that is left. */
static void *sleeper(void *argument)
{
	struct timespec time = { .tv_sec = 30 };

	(void)argument;
	for (;;) {
		uint64_t start = now();
		int result = clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);

		printf("sleep %d %s\n", result, now() - start >= 30ULL * 1000 * MS ? "whole" : "short");
	}
	return NULL;
}

/* Waits for room in a full pipe. */
static void *splicer(void *argument)
{
	static char byte;
	struct iovec piece = { &byte, 1 };
	int full[2];

	(void)argument;
	if (pipe2(full, O_NONBLOCK))
		return NULL;
	while (write(full[1], &byte, 1) == 1)
		;
	fcntl(full[1], F_SETFL, 0);
	for (;;) {
		ssize_t result = vmsplice(full[1], &piece, 1, 0);

		printf("vmsplice %zd %s\n", result, result < 0 ? strerrorname_np(errno) : "-");
	}
	return NULL;
}

static void *ticker(void *argument)
{
	(void)argument;
	for (;;) {
		last = now();
		/* Not the reading above: that may have been before the failover. */
		if (!first)
			first = now();
	}
	return NULL;
}

int main(void)
{
	void *(*threads[])(void *) = { reader, poller, sleeper, splicer, ticker };
	static int ends[2];
	uint64_t told = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (pipe(ends) || orthros_on_failover(handler, NULL) || orthros_on_call(SYS_read, on_read, &ends[0]) ||
	    orthros_on_call(SYS_nanosleep, on_sleep, NULL) || orthros_on_call(SYS_poll, on_poll, NULL) ||
	    orthros_on_call(SYS_vmsplice, on_splice, NULL))
		return 1;
	for (int i = 0; i < 5; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, threads[i], &ends[0]))
			return 1;
	}
	puts("ready");
	for (;;) {
		struct timespec hour = { .tv_sec = 3600 };
		long result = syscall(SYS_nanosleep, &hour, NULL);

		printf("nanosleep %ld %s\n", result, result ? strerrorname_np(errno) : "-");
		if (seen.count == told)
			continue;
		told = seen.count;
		while (!first)
			usleep(1000);
		printf("failover %lu, run %u, cause %u, from %s to %s, gap %lu ms, by the wall clock %lu ms, others %s, %s\n",
		       told, runs, seen.cause, seen.release_before, seen.release_after,
		       (seen.monotonic_after - seen.monotonic_before) / MS,
		       (unsigned long)(seen.realtime_after - seen.realtime_before) / MS, still ? "still" : "ran",
		       first >= seen.monotonic_after ? "in order" : "too early");
	}
}
