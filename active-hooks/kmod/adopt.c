// SPDX-License-Identifier: GPL-2.0
/*
 * Hands page frames of the dead kernel to a process as ordinary anonymous
 * memory, as if the process had just touched them.
 *
 * What do_anonymous_page() does for a fresh page happens here for a withheld
 * one: memory cgroup charge (6.12 oopses under swap without it), anon_vma, page
 * table, new-anon reverse map, LRU, rss counter. The address space is locked for
 * writing, so nothing else can put a page into the gap between check and entry.
 *
 * Pages are gathered into a batch as long as they lie side by side in one page
 * table and one mapping, wherever their frames are; a batch is put in at once.
 */
#include <linux/io.h>
#include <linux/ktime.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/uaccess.h>
#include "adopt.h"
#include "orthros.h"
#include "symbols.h"

/* Runs read from the caller at once. */
#define RUNS_AT_ONCE 256

static int expect_empty(pte_t *pte, unsigned long address, void *data)
{
	struct adoption *adoption = data;

	if (pte_none(*pte))
		return 0;
	adoption->count = (address - adoption->first) >> PAGE_SHIFT;
	return -EEXIST;
}

static int touch_table(pte_t *pte, unsigned long address, void *data)
{
	return 0;
}

static int install(pte_t *pte, unsigned long address, void *data)
{
	struct adoption *adoption = data;
	struct vm_area_struct *vma = adoption->vma;
	struct page *page = adoption->batch[(address - adoption->first) >> PAGE_SHIFT].page;
	pte_t entry = pte_mkyoung(pte_mkdirty(mk_pte(page, vma->vm_page_prot)));

#if KERNEL_HAS_FOLIO_RMAP
	if (vma->vm_flags & VM_WRITE)
		entry = pte_mkwrite_novma(entry);
	static_call(orthros_add_new_anon_rmap)(page_folio(page), vma, address,
					       RMAP_EXCLUSIVE);
	static_call(orthros_add_lru)(page_folio(page), vma);
#else
	if (vma->vm_flags & VM_WRITE)
		entry = pte_mkwrite(entry);
	static_call(orthros_add_new_anon_rmap)(page, vma, address);
	static_call(orthros_add_lru)(page, vma);
#endif
	set_pte_at(adoption->mm, address, pte, entry);
	return 0;
}

/* The entry of the page-table level above PTEs, NULL if there is none yet. */
static pmd_t *find_pmd(struct mm_struct *mm, unsigned long address)
{
	pgd_t *pgd = pgd_offset(mm, address);
	p4d_t *p4d;
	pud_t *pud;

	if (pgd_none(*pgd) || pgd_bad(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, address);
	if (p4d_none(*p4d) || p4d_bad(*p4d))
		return NULL;
	pud = pud_offset(p4d, address);
	if (pud_none(*pud) || pud_bad(*pud))
		return NULL;
	return pmd_offset(pud, address);
}

/*
 * Makes sure that the page table is there and its entries for the batch empty;
 * from then on installing cannot fail. Cuts the batch off before the first
 * entry that is taken.
 */
static int prepare_table(struct adoption *adoption)
{
	pmd_t *pmd = find_pmd(adoption->mm, adoption->first);
	int error;

	if (pmd && !pmd_none(*pmd)) {
		/* A huge page, or one on its way to swap or another node. */
		if (pmd_bad(*pmd)) {
			adoption->count = 0;
			return -EEXIST;
		}
		return apply_to_page_range(adoption->mm, adoption->first,
					   (unsigned long)adoption->count << PAGE_SHIFT,
					   expect_empty, adoption);
	}
	error = apply_to_page_range(adoption->mm, adoption->first, PAGE_SIZE,
				    touch_table, NULL);
	if (error)
		adoption->count = 0;
	return error;
}

static struct page *copy_frame(u64 pfn)
{
	struct page *page = alloc_page(GFP_HIGHUSER_MOVABLE);
	void *source;

	if (!page)
		return NULL;
	source = memremap(PFN_PHYS(pfn), PAGE_SIZE, MEMREMAP_WB);
	if (!source) {
		__free_page(page);
		return NULL;
	}
	copy_page(page_address(page), source);
	memunmap(source);
	__SetPageUptodate(page);
	return page;
}

/* Gets page `index` of the batch ready to be mapped. */
static int ready_page(struct adoption *adoption, unsigned int index)
{
	typeof(adoption->batch[0]) *entry = &adoption->batch[index];
	int error;

	if (entry->copy) {
		entry->page = copy_frame(entry->pfn);
		if (!entry->page)
			return -ENOMEM;
	} else {
		entry->page = pfn_to_page(entry->pfn);
		adopt_claim(entry->page);
		__SetPageUptodate(entry->page);
	}
	error = adopt_charge(entry->page, adoption->mm);
	if (error && entry->copy)
		__free_page(entry->page);
	else if (error)
		adopt_unclaim(entry->page);
	return error;
}

/* Counts the pages of the batch, those in place as RAM of this kernel as well. */
static void count_pages(struct adoption *adoption)
{
	struct page *page = NULL;
	long in_place = 0;
	unsigned int i;

	for (i = 0; i < adoption->count; i++) {
		if (adoption->batch[i].copy) {
			adoption->copied++;
			continue;
		}
		if (page && page_zone(page) != page_zone(adoption->batch[i].page)) {
			adjust_managed_page_count(page, in_place);
			in_place = 0;
		}
		page = adoption->batch[i].page;
		in_place++;
		adoption->adopted++;
	}
	if (in_place)
		adjust_managed_page_count(page, in_place);
	adopt_count_rss(adoption->mm, adoption->count);
}

/* Puts the batch in; what an error keeps out goes back to the withheld frames. */
static int flush(struct adoption *adoption)
{
	unsigned int i, gathered = adoption->count;
	int error;

	if (!gathered)
		return 0;
	error = prepare_table(adoption);
	for (i = 0; i < adoption->count; i++) {
		int unready = ready_page(adoption, i);

		if (unready) {
			error = unready;
			adoption->count = i;
		}
	}
	if (adoption->count) {
		count_pages(adoption);
		apply_to_page_range(adoption->mm, adoption->first,
				    (unsigned long)adoption->count << PAGE_SHIFT,
				    install, adoption);
	}
	if (adoption->count < gathered)
		adoption->failed_run = adoption->batch[adoption->count].run;
	for (i = adoption->count; i < gathered; i++)
		if (!adoption->batch[i].copy)
			hotadd_put_back(adoption->batch[i].pfn);
	adoption->count = 0;
	cond_resched();
	return error;
}

/*
 * Takes a frame for its page: 0 in place, 1 to be copied (shared with others, or
 * in memory that is not this kernel's), or why not.
 */
static int take_frame(u64 pfn, u64 kind)
{
	if (kind == ORTHROS_FRAME_OWN || kind == ORTHROS_FRAME_HUGE) {
		if (hotadd_take(pfn))
			return 0;
		if (pfn_to_online_page(pfn))
			return -EPERM;
	}
	return hotadd_is_readable(pfn) ? 1 : -EPERM;
}

static int prepare_mapping(struct adoption *adoption, unsigned long address)
{
	struct vm_area_struct *vma = adoption->vma;

	if (vma && address >= vma->vm_start && address < vma->vm_end)
		return 0;
	vma = vma_lookup(adoption->mm, address);
	if (!vma || vma->vm_flags & (VM_SHARED | VM_HUGETLB | VM_PFNMAP | VM_IO | VM_MIXEDMAP))
		return -EFAULT;
#if KERNEL_HAS_FOLIO_RMAP
	/* Faults take the lock of the mapping alone since 6.4. */
	vma_start_write(vma);
#endif
	if (!vma->anon_vma && static_call(orthros_anon_vma_prepare)(vma))
		return -ENOMEM;
	adoption->vma = vma;
	return 0;
}

static int add_page(struct adoption *adoption, unsigned long address, u64 pfn,
		    u64 kind, u32 run)
{
	struct vm_area_struct *vma = adoption->vma;
	typeof(adoption->batch[0]) *entry;
	int copy, error;

	if (adoption->count &&
	    (address != adoption->first + ((unsigned long)adoption->count << PAGE_SHIFT) ||
	     IS_ALIGNED(address, PMD_SIZE) || address >= vma->vm_end)) {
		error = flush(adoption);
		if (error)
			return error;
	}
	adoption->failed_run = run;
	if (!adoption->count) {
		if (fatal_signal_pending(current))
			return -EINTR;
		error = prepare_mapping(adoption, address);
		if (error)
			return error;
		adoption->first = address;
	}
	copy = take_frame(pfn, kind);
	if (copy < 0)
		return copy;
	entry = &adoption->batch[adoption->count++];
	entry->pfn = pfn;
	entry->run = run;
	entry->copy = copy;
	return 0;
}

/*
 * As one huge page if that can be, else its first page alone; the following
 * ones are not aligned and go page by page. Returns how many pages went.
 */
static u64 add_huge(struct adoption *adoption, unsigned long address, u64 pfn,
		    u32 run, int *error)
{
	*error = flush(adoption);
	if (*error)
		return 0;
	adoption->failed_run = run;
	*error = prepare_mapping(adoption, address);
	if (*error)
		return 0;
	*error = huge_adopt(adoption, address, pfn);
	if (*error <= 0)
		return HPAGE_PMD_NR;
	*error = add_page(adoption, address, pfn, ORTHROS_FRAME_HUGE, run);
	return 1;
}

static u64 run_pages(const struct orthros_frame_run *run)
{
	return (run->word >> 4 & 0xfffff) + 1;
}

static int add_run(struct adoption *adoption, const struct orthros_frame_run *run,
		   u32 index)
{
	u64 kind = run->word & 0xf, pages = run_pages(run);
	u64 pfn = run->word >> 24, address = run->va;
	int error = 0;

	adoption->failed_run = index;
	if (kind != ORTHROS_FRAME_OWN && kind != ORTHROS_FRAME_HUGE &&
	    kind != ORTHROS_FRAME_SHARED && kind != ORTHROS_FRAME_KSM)
		return -EINVAL;
	if (!IS_ALIGNED(address, PAGE_SIZE) || address >= TASK_SIZE_MAX ||
	    pages > (TASK_SIZE_MAX - address) >> PAGE_SHIFT)
		return -EINVAL;
	while (pages && !error) {
		u64 step = 1;

		if (kind == ORTHROS_FRAME_HUGE && pages >= HPAGE_PMD_NR &&
		    IS_ALIGNED(address, HPAGE_PMD_SIZE) && IS_ALIGNED(pfn, HPAGE_PMD_NR))
			step = add_huge(adoption, address, pfn, index, &error);
		else
			error = add_page(adoption, address, pfn, kind, index);
		address += step << PAGE_SHIFT;
		pfn += step;
		pages -= step;
	}
	return error;
}

/* Some runs under one lock; failed_run tells where it stopped. */
static int adopt_some(struct adoption *adoption, const struct orthros_frame_run *runs,
		      u32 count)
{
	int error = 0, late;
	u32 i, tried;

	if (mmap_write_lock_killable(adoption->mm)) {
		adoption->failed_run = 0;
		return -EINTR;
	}
	adoption->vma = NULL;
	for (i = 0; i < count && !error; i++)
		error = add_run(adoption, &runs[i], i);
	/* The pages before the failing one are good; if not, they failed first. */
	late = flush(adoption);
	mmap_write_unlock(adoption->mm);
	error = late ?: error;
	tried = error ? adoption->failed_run + 1 : count;
	for (i = 0; i < tried; i++)
		adoption->asked += run_pages(&runs[i]);
	return error;
}

static int adopt_runs(struct adoption *adoption, struct orthros_adopt *request)
{
	const struct orthros_frame_run __user *user = u64_to_user_ptr(request->runs);
	struct orthros_frame_run *runs;
	int error = 0;

	runs = kmalloc_array(RUNS_AT_ONCE, sizeof(*runs), GFP_KERNEL);
	if (!runs)
		return -ENOMEM;
	while (request->stopped_at < request->count && !error) {
		u32 some = min_t(u64, request->count - request->stopped_at, RUNS_AT_ONCE);

		/* Before the lock: the caller may hand over its own memory. */
		if (copy_from_user(runs, user + request->stopped_at, some * sizeof(*runs))) {
			error = -EFAULT;
			break;
		}
		error = adopt_some(adoption, runs, some);
		request->stopped_at += error ? adoption->failed_run : some;
	}
	kfree(runs);
	return error;
}

static struct mm_struct *target_mm(u64 pid)
{
	struct task_struct *task;
	struct mm_struct *mm;

	if (!pid || pid > PID_MAX_LIMIT)
		return NULL;
	task = get_pid_task(find_vpid(pid), PIDTYPE_PID);
	if (!task)
		return NULL;
	mm = get_task_mm(task);
	put_task_struct(task);
	return mm;
}

int adopt_frames(struct orthros_adopt *request)
{
	u64 begin = ktime_get_ns();
	struct adoption *adoption;
	int error;

	request->adopted = request->copied = request->stopped_at = 0;
	if (!region_is_successor() || word_read(salvage_gate) != ORTHROS_GATE_OPEN)
		return -EPERM;
	adoption = kvzalloc(sizeof(*adoption), GFP_KERNEL);
	if (!adoption)
		return -ENOMEM;
	adoption->mm = target_mm(request->pid);
	if (!adoption->mm) {
		kvfree(adoption);
		return -ESRCH;
	}
	error = adopt_runs(adoption, request);
	mmput(adoption->mm);
	request->adopted = adoption->adopted;
	request->copied = adoption->copied;
	request->nanoseconds = ktime_get_ns() - begin;
	word_write(frames_adopted, word_read(frames_adopted) + adoption->adopted);
	word_write(frames_copied, word_read(frames_copied) + adoption->copied);
	word_write(frames_refused, word_read(frames_refused) + adoption->asked -
				   adoption->adopted - adoption->copied);
	kvfree(adoption);
	return error;
}
