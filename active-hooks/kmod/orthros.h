/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of the module owe each other. Every part has one file and one
 * pair of functions called by main.c; nothing else is shared but the mapped
 * region and the resolved symbols (symbols.h).
 */
#ifndef ORTHROS_H
#define ORTHROS_H

#include <linux/kernel.h>
#include <linux/types.h>
#include "region_abi.h"

struct address_space;
struct file;
struct page;
struct pt_regs;
struct task_struct;

/* main.c */
extern bool orthros_allow_test;
int orthros_wake(struct orthros_wake *reply);

/* region.c: the mapping of the region, whole, cached, kernel-writable */
struct orthros_region {
	u64 phys;
	void *base;
	struct orthros_header *header;
	struct orthros_control *control;
	struct orthros_timeline *timeline;
	struct orthros_standby *standby;
	struct orthros_facts *facts;
	struct orthros_protect_table *protect;
	unsigned long *retained; /* one bit for each page frame */
};
extern struct orthros_region region;
#define ORTHROS_RETAINED_FRAMES (ORTHROS_RETAINED_SIZE * 8)

int region_map(u64 phys);
void region_unmap(void);
bool region_is_successor(void);
/* Goes to a level of the commit point; -ECANCELED if this kernel is being replaced. */
int region_reach(u64 level);
void region_alive(void);
/* The nursery that is not part of this kernel's RAM; 0 if neither or both are. */
u64 region_other_nursery(void);

/*
 * Words that the other side writes or watches. On x86 a plain move has the
 * ordering of acquire and release; these keep the compiler to it.
 */
#define word_read(word) smp_load_acquire(&region.control->word)
#define word_write(word, value) smp_store_release(&region.control->word, (u64)(value))

/* facts.c */
int facts_publish(void);
void facts_withdraw(void);

/* stop.c */
int stop_register(void);
void stop_unregister(void);
struct orthros_park_slot *stop_slot(u32 apic_id);
/* With interrupts off and every other CPU waiting. Comes back if nobody takes over. */
void stop_offer_update(u64 interrupted);

/* rest.c */
int rest_begin(struct orthros_rest *reply);
void rest_end(void);

/* hang.c */
bool hang_answer(struct pt_regs *regs);
int hang_start(void);
void hang_stop(void);
int hang_configure(const struct orthros_configure *request);

/* netfilter.c: published with the facts, by address */
extern struct orthros_netfilter netfilter_words;
int netfilter_start(void);
void netfilter_stop(void);

/* update.c */
int update_go(struct orthros_update *request);

/* stage.c */
int stage_begin(struct orthros_stage_begin *reply);
int stage_write(const struct orthros_stage_write *request);
int stage_commit(struct orthros_stage_commit *request);

/* protect.c */
void protect_start(void);
/* The process has been rebuilt: its start is another in this kernel's time. */
/* The leader of a process that is protected by its id, NULL if there is none. Under RCU. */
struct task_struct *protect_any(void);
void protect_follow(u64 tgid, u64 start_boottime);
int protect_add(const struct orthros_protect *wish);
int protect_remove(const struct orthros_protect *wish);
/* Between the two nobody changes the table, and protect_covers() may be asked. */
void protect_prepare(void);
void protect_prepared(void);
/* Whether a process is protected, by itself or as a descendant. Under RCU. */
bool protect_covers(struct task_struct *leader);

/* hotadd.c */
int hotadd_add(struct orthros_add_memory *request);
int hotadd_release(struct orthros_release *reply);
void hotadd_stop(void);
/* To be called when all that was to be copied from it has been. */
void hotadd_free_other_nursery(void);
u64 hotadd_withheld_count(void);
/* Whether the frame is retained, its RAM was added, and nobody has it yet. */
bool hotadd_is_withheld(u64 pfn);
bool hotadd_are_withheld(u64 pfn, u64 pages);
/* Takes one withheld frame; false if somebody was faster. */
bool hotadd_take(u64 pfn);
void hotadd_put_back(u64 pfn);
/* Whether the contents of the frame may still be read for a copy. */
bool hotadd_is_readable(u64 pfn);

/* keep.c */
int keep_make(u64 frames);
/* The page was just adopted in place. */
void keep_page(struct page *page);
/* Processes may run. */
void keep_end(void);
/* A file did not take the page, which is to stay what it is until keep_settle(). */
void keep_refused(struct page *page);
void keep_settle(void);
void keep_stop(void);

/* resources.c */
int resources_clear(u64 start, u64 end);
int resources_enter_ram(u64 start, u64 end);
void resources_enter_firmware(u64 start, u64 end);

/* fill.c */
struct frame_range {
	u64 first, end;        /* frames */
	unsigned long *kept;   /* bit per frame: not for the page allocator */
};
void fill_keep_own(const struct frame_range *range);
int fill_open(const struct frame_range *range, u64 first, u64 end);

/* job.c */
int adopt_frames(struct orthros_adopt *request);

/* lazy.c */
int lazy_go(struct orthros_lazy *request);
void lazy_finish(void);
void lazy_stop(void);

/* cache.c */
int cache_write(struct orthros_cache *request);
/* A frame in the cache, locked and not up to date; NULL if it is not to be had or the cache has a page there. */
struct page *cache_place(struct address_space *mapping, pgoff_t index, u64 pfn);
/*
 * Calls `frame` for each frame of a list of runs in user memory, which name pages of
 * a file that has so many, until it returns an error.
 */
typedef int (*cache_frame_fn)(pgoff_t index, u64 pfn, void *data);
int cache_each_frame(u64 runs, u64 count, u64 pages, cache_frame_fn frame, void *data);
/* Whether pages of files of this kind come about as is known here. */
bool cache_serves(struct file *file);

/* warm.c */
int warm_put(struct orthros_warm *request);
/* How many megabytes the next failover keeps. */
int warm_configure(u64 value);

/* peer.c */
int peer_credentials(const struct orthros_peer_credentials *request);

/* tcp.c */
int tcp_go(const struct orthros_tcp *request);
int tcp_end(const struct orthros_tcp_end *request);

/* netlink.c */
int netlink_put(const struct orthros_netlink *request);

/* inotify.c */
int inotify_put(const struct orthros_inotify_event *request);

/* io_uring.c */
int io_uring_go_on(const struct orthros_io_uring *request);
/* Whether a thread has requests under way. Every other CPU waits with interrupts off. */
bool io_uring_is_busy(struct task_struct *task);

/* resume.c */
int resume_call(const struct orthros_resume_call *request);
int resume_task_state(const struct orthros_task_state *request);

/* test.c */
int test_fail(const struct orthros_test *request);
void test_stop(void);
/* In NMI context: does not come back for a CPU that a test hangs there. */
void test_hang_in_nmi(void);

/* corrupt.c: for tests. Does not come back if there was something to damage. */
int corrupt_and_panic(u64 seed, u64 user_path);

/* device.c */
int orthros_device_register(void);
void orthros_device_unregister(void);

#endif
