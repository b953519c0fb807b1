/* SPDX-License-Identifier: GPL-2.0 */
/* Handing frames to one process: what adopt.c and huge.c share. */
#ifndef ORTHROS_ADOPT_H
#define ORTHROS_ADOPT_H

#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/version.h>
#include "orthros.h"
#include "symbols.h"
#include "window.h"

/* Pages of consecutive runs in the reach of one page table. */
struct chunk {
	unsigned long start;   /* address of the first */
	u64 skip;              /* pages of the first run before it */
	u32 run;               /* the first run */
	u32 pages;
};

/* One CPU's work on one process. */
struct adoption {
	struct mm_struct *mm;
	struct vm_area_struct *vma;
	/* The process's counter of resident pages has them already. */
	bool counted;
	/* What is copied from. */
	struct window window;
	/* What became of the pages. */
	u64 adopted, copied;
	/* The batch: pages side by side from `first` on. */
	unsigned long first;
	unsigned int count, installed;
	u32 failed_run;
	struct {
		u64 pfn;
		struct page *page;
		u32 run;            /* index of its run among those at hand */
		bool copy;
	} batch[PTRS_PER_PTE];
};

static inline u64 run_pages(const struct orthros_frame_run *run)
{
	return (run->word >> 4 & 0xfffff) + 1;
}

static inline u64 run_kind(const struct orthros_frame_run *run)
{
	return run->word & 0xf;
}

static inline u64 run_pfn(const struct orthros_frame_run *run)
{
	return run->word >> 24;
}

/* A withheld frame is made to look like a page that was just allocated. */
static inline void adopt_claim(struct page *page)
{
#if KERNEL_HAS_FOLIO_RMAP
	/* 6.11 began to mark hot-added frames as offline instead of reserved. */
	if (PageOffline(page))
		__ClearPageOffline(page);
#endif
	__ClearPageReserved(page);
}

static inline void adopt_unclaim(struct page *page)
{
	ClearPageUptodate(page);
	__SetPageReserved(page);
}

/* The process had the memory before: no limit keeps it from having it now. */
static inline int adopt_charge(struct page *page, struct mm_struct *mm)
{
	if (mem_cgroup_disabled())
		return 0;
	return static_call(orthros_mem_cgroup_charge)(page_folio(page), mm,
						      GFP_KERNEL | __GFP_NOFAIL);
}

static inline void adopt_count_rss(struct mm_struct *mm, long pages)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	percpu_counter_add(&mm->rss_stat[MM_ANONPAGES], pages);
#else
	atomic_long_add(pages, &mm->rss_stat.count[MM_ANONPAGES]);
#endif
}

/* adopt.c */
struct adoption *adopt_make(struct mm_struct *mm);
void adopt_free(struct adoption *adoption);
/* Whether a process's own frame can be adopted in place or copied. */
bool adopt_can_take(u64 pfn);
/* Whether anonymous pages can be put into a mapping; its address space is locked. */
int adopt_prepare_vma(struct vm_area_struct *vma);
/* failed_run tells where it stopped. The address space is locked. */
int adopt_chunk(struct adoption *adoption, const struct orthros_frame_run *runs,
		const struct chunk *chunk);

/* huge.c: 0 if the huge page was adopted, 1 if it has to go page by page. */
int huge_adopt(struct adoption *adoption, unsigned long address, u64 pfn);

#endif
