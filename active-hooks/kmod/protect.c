// SPDX-License-Identifier: GPL-2.0
/*
 * The table of processes that the administrator asked to keep.
 *
 * The salvager reads it out of a dead machine, so an entry is filled first and
 * gets its kind last; a free slot has kind 0.
 */
#include <linux/mutex.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include "orthros.h"

static DEFINE_MUTEX(table_lock);

static void write_begin(void)
{
	smp_store_release(&region.protect->seq, region.protect->seq | 1);
	smp_wmb();
}

static void write_end(void)
{
	smp_store_release(&region.protect->seq, (region.protect->seq | 1) + 1);
}

static void clear_entry(struct orthros_protect_entry *entry)
{
	smp_store_release(&entry->kind, ORTHROS_PROTECT_FREE);
	memset(entry, 0, sizeof(*entry));
}

static bool process_lives(const struct orthros_protect_entry *entry)
{
	struct task_struct *task;
	bool lives;

	rcu_read_lock();
	task = pid_task(find_pid_ns(entry->tgid, &init_pid_ns), PIDTYPE_TGID);
	lives = task && (!entry->start_boottime ||
			 task->start_boottime == entry->start_boottime);
	rcu_read_unlock();
	return lives;
}

struct task_struct *protect_any(void)
{
	struct task_struct *task = NULL;
	int i;

	for (i = 0; !task && i < ORTHROS_PROTECT_ENTRIES; i++) {
		const struct orthros_protect_entry *entry = &region.protect->entries[i];

		if (entry->kind == ORTHROS_PROTECT_PROCESS)
			task = pid_task(find_pid_ns(entry->tgid, &init_pid_ns), PIDTYPE_TGID);
	}
	return task;
}

/*
 * While a failover is being handed over the processes are not back yet: their
 * entries stay.
 */
static void reap(void)
{
	int i;

	if (region_is_successor())
		return;
	for (i = 0; i < ORTHROS_PROTECT_ENTRIES; i++) {
		struct orthros_protect_entry *entry = &region.protect->entries[i];

		if (entry->kind == ORTHROS_PROTECT_PROCESS && !process_lives(entry))
			clear_entry(entry);
	}
}

/* Puts the process id of the caller's namespace into the terms of the table. */
static int resolve(const struct orthros_protect *wish,
		   struct orthros_protect_entry *entry)
{
	struct task_struct *task;

	*entry = (struct orthros_protect_entry){
		.kind = wish->kind,
		.flags = wish->flags,
	};
	if (wish->flags & ~ORTHROS_PROTECT_DESCENDANTS)
		return -EINVAL;
	switch (wish->kind) {
	case ORTHROS_PROTECT_COMM:
		memcpy(entry->comm, wish->comm, sizeof(entry->comm) - 1);
		return entry->comm[0] ? 0 : -EINVAL;
	case ORTHROS_PROTECT_PROCESS:
		if (!wish->tgid || wish->tgid > PID_MAX_LIMIT)
			return -ESRCH;
		rcu_read_lock();
		task = pid_task(find_vpid(wish->tgid), PIDTYPE_TGID);
		if (task) {
			entry->tgid = task_tgid_nr(task);
			entry->start_boottime = task->start_boottime;
			memcpy(entry->comm, task->comm, sizeof(entry->comm) - 1);
		}
		rcu_read_unlock();
		return task ? 0 : -ESRCH;
	default:
		return -EINVAL;
	}
}

static bool same_subject(const struct orthros_protect_entry *a,
			 const struct orthros_protect_entry *b)
{
	if (a->kind != b->kind)
		return false;
	if (a->kind == ORTHROS_PROTECT_COMM)
		return !memcmp(a->comm, b->comm, sizeof(a->comm));
	return a->tgid == b->tgid && a->start_boottime == b->start_boottime;
}

int protect_add(const struct orthros_protect *wish)
{
	struct orthros_protect_entry fresh, *slot = NULL;
	int i, error = resolve(wish, &fresh);

	if (error)
		return error;
	mutex_lock(&table_lock);
	write_begin();
	reap();
	for (i = 0; i < ORTHROS_PROTECT_ENTRIES; i++) {
		struct orthros_protect_entry *entry = &region.protect->entries[i];

		if (entry->kind == ORTHROS_PROTECT_FREE) {
			slot = slot ?: entry;
		} else if (same_subject(entry, &fresh)) {
			/* Only a change of flags is new. */
			error = entry->flags == fresh.flags ? -EEXIST : 0;
			entry->flags = fresh.flags;
			goto out;
		}
	}
	if (slot) {
		slot->flags = fresh.flags;
		slot->tgid = fresh.tgid;
		slot->start_boottime = fresh.start_boottime;
		memcpy(slot->comm, fresh.comm, sizeof(slot->comm));
		smp_store_release(&slot->kind, fresh.kind);
	} else {
		error = -ENOSPC;
	}
out:
	write_end();
	mutex_unlock(&table_lock);
	return error;
}

int protect_remove(const struct orthros_protect *wish)
{
	struct orthros_protect_entry subject = {};
	bool all = !wish->kind, found = all;
	int i, error = all ? 0 : resolve(wish, &subject);

	if (error)
		return error == -ESRCH ? -ENOENT : error;
	mutex_lock(&table_lock);
	write_begin();
	for (i = 0; i < ORTHROS_PROTECT_ENTRIES; i++) {
		struct orthros_protect_entry *entry = &region.protect->entries[i];

		if (all || same_subject(entry, &subject)) {
			found = true;
			clear_entry(entry);
		}
	}
	write_end();
	mutex_unlock(&table_lock);
	return found ? 0 : -ENOENT;
}

/* An entry means the process it names, whose start each kernel counts anew. */
void protect_follow(u64 tgid, u64 start_boottime)
{
	int i;

	if (!region_is_successor())
		return;
	mutex_lock(&table_lock);
	write_begin();
	for (i = 0; i < ORTHROS_PROTECT_ENTRIES; i++) {
		struct orthros_protect_entry *entry = &region.protect->entries[i];

		if (entry->kind == ORTHROS_PROTECT_PROCESS && entry->tgid == tgid &&
		    entry->start_boottime)
			entry->start_boottime = start_boottime;
	}
	write_end();
	mutex_unlock(&table_lock);
}

/* The entries in use, while the table is held. */
static const struct orthros_protect_entry *in_use[ORTHROS_PROTECT_ENTRIES];
static int in_use_count;

void protect_prepare(void)
{
	int i;

	mutex_lock(&table_lock);
	in_use_count = 0;
	for (i = 0; i < ORTHROS_PROTECT_ENTRIES; i++)
		if (region.protect->entries[i].kind != ORTHROS_PROTECT_FREE)
			in_use[in_use_count++] = &region.protect->entries[i];
}

void protect_prepared(void)
{
	mutex_unlock(&table_lock);
}

static bool entry_matches(const struct orthros_protect_entry *entry,
			  const struct task_struct *leader)
{
	if (entry->kind == ORTHROS_PROTECT_COMM)
		return !strncmp(entry->comm, leader->comm, sizeof(entry->comm));
	return entry->tgid == task_tgid_nr((struct task_struct *)leader) &&
	       (!entry->start_boottime ||
		entry->start_boottime == leader->start_boottime);
}

/* As the salvager chooses (backup-os/salvage/src/protected.rs). */
bool protect_covers(struct task_struct *leader)
{
	struct task_struct *at = leader;

	if (leader->flags & PF_KTHREAD || is_global_init(leader))
		return false;
	while (!(at->flags & PF_KTHREAD) && !is_global_init(at)) {
		int i;

		for (i = 0; i < in_use_count; i++)
			if (entry_matches(in_use[i], at) &&
			    (at == leader ||
			     in_use[i]->flags & ORTHROS_PROTECT_DESCENDANTS))
				return true;
		at = rcu_dereference(at->real_parent)->group_leader;
	}
	return false;
}

/*
 * The wishes outlive a failover: processes come back under their ids. At any
 * other start the table belongs to nobody.
 */
void protect_start(void)
{
	int i;

	mutex_lock(&table_lock);
	write_begin();
	for (i = 0; i < ORTHROS_PROTECT_ENTRIES; i++) {
		struct orthros_protect_entry *entry = &region.protect->entries[i];

		if (!region_is_successor() || entry->kind > ORTHROS_PROTECT_COMM)
			clear_entry(entry);
	}
	write_end();
	mutex_unlock(&table_lock);
}
