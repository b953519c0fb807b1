// SPDX-License-Identifier: GPL-2.0
/*
 * Hands page frames of the dead kernel to a process as ordinary anonymous
 * memory, as if the process had just touched them.
 *
 * What do_anonymous_page() does for a fresh page happens here for a withheld
 * one: memory cgroup charge (6.12 oopses under swap without it), anon_vma, page
 * table, new-anon reverse map, LRU, rss counter. As there, the address space is
 * locked for reading, and the lock of the page table keeps others from an entry
 * while it is looked at and set: several CPUs can work on one process (job.c).
 *
 * Pages are gathered into a batch as long as they lie side by side in one page
 * table and one mapping, wherever their frames are; a batch is put in at once.
 */
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include "adopt.h"
#include "orthros.h"
#include "symbols.h"

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

	/* Somebody was faster since the entries were found empty. */
	if (unlikely(!pte_none(*pte)))
		return -EEXIST;
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
	adoption->installed++;
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
 * Makes sure that the page table is there and its entries for the batch empty.
 * Cuts the batch off before the first entry that is taken.
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

static struct page *copy_frame(struct adoption *adoption, u64 pfn)
{
	void *source = window_on(&adoption->window, pfn);
	struct page *page = source ? alloc_page(GFP_HIGHUSER_MOVABLE) : NULL;

	if (!page)
		return NULL;
	copy_page(page_address(page), source);
	__SetPageUptodate(page);
	return page;
}

/* Gets page `index` of the batch ready to be mapped. */
static int ready_page(struct adoption *adoption, unsigned int index)
{
	typeof(adoption->batch[0]) *entry = &adoption->batch[index];
	int error;

	if (entry->copy) {
		entry->page = copy_frame(adoption, entry->pfn);
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
	else if (!entry->copy)
		keep_page(entry->page);
	return error;
}

/* Counts pages that are in, those in place as RAM of this kernel as well. */
static void count_pages(struct adoption *adoption)
{
	struct page *page = NULL;
	long in_place = 0;
	unsigned int i;

	for (i = 0; i < adoption->installed; i++) {
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
	if (!adoption->counted)
		adopt_count_rss(adoption->mm, adoption->installed);
}

/*
 * What somebody else's page kept out: the process will not run, and its frame
 * is a free page of this kernel like any other.
 */
static void drop_page(struct page *page, bool in_place)
{
	if (in_place)
		adjust_managed_page_count(page, 1);
	put_page(page);
}

/* Puts the batch in; what an error keeps out goes back to the withheld frames. */
static int flush(struct adoption *adoption)
{
	unsigned int i, gathered = adoption->count, ready;
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
	ready = adoption->count;
	adoption->installed = 0;
	if (ready) {
		int taken = apply_to_page_range(adoption->mm, adoption->first,
						(unsigned long)ready << PAGE_SHIFT,
						install, adoption);

		if (taken)
			error = taken;
		count_pages(adoption);
		for (i = adoption->installed; i < ready; i++)
			drop_page(adoption->batch[i].page, !adoption->batch[i].copy);
	}
	if (adoption->installed < gathered)
		adoption->failed_run = adoption->batch[adoption->installed].run;
	for (i = ready; i < gathered; i++)
		if (!adoption->batch[i].copy)
			hotadd_put_back(adoption->batch[i].pfn);
	adoption->count = 0;
	cond_resched();
	return error;
}

bool adopt_can_take(u64 pfn)
{
	return hotadd_is_withheld(pfn) ||
	       (!pfn_to_online_page(pfn) && hotadd_is_readable(pfn));
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

int adopt_prepare_vma(struct vm_area_struct *vma)
{
	if (vma->vm_flags & (VM_SHARED | VM_HUGETLB | VM_PFNMAP | VM_IO | VM_MIXEDMAP))
		return -EFAULT;
	if (!vma->anon_vma && static_call(orthros_anon_vma_prepare)(vma))
		return -ENOMEM;
	return 0;
}

static int prepare_mapping(struct adoption *adoption, unsigned long address)
{
	struct vm_area_struct *vma = adoption->vma;

	int error;

	if (vma && address >= vma->vm_start && address < vma->vm_end)
		return 0;
	vma = vma_lookup(adoption->mm, address);
	error = vma ? adopt_prepare_vma(vma) : -EFAULT;
	if (!error)
		adoption->vma = vma;
	return error;
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

/* Pages of one run that lie in one page table's reach. */
static int add_part(struct adoption *adoption, const struct orthros_frame_run *run,
		     u64 skip, u64 pages, u32 index)
{
	u64 kind = run_kind(run), pfn = run_pfn(run) + skip;
	unsigned long address = run->va + (skip << PAGE_SHIFT);
	int error = 0;

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

struct adoption *adopt_make(struct mm_struct *mm)
{
	struct adoption *adoption = kvmalloc(sizeof(*adoption), GFP_KERNEL);

	/* But for the batch, which is larger than all the rest. */
	if (adoption) {
		memset(adoption, 0, offsetof(struct adoption, batch));
		adoption->mm = mm;
	}
	return adoption;
}

void adopt_free(struct adoption *adoption)
{
	window_close(&adoption->window);
	kvfree(adoption);
}

int adopt_chunk(struct adoption *adoption, const struct orthros_frame_run *runs,
		const struct chunk *chunk)
{
	u64 left = chunk->pages, skip = chunk->skip;
	u32 index = chunk->run;
	int error = 0, late;

	adoption->vma = NULL;
	adoption->failed_run = index;
	while (left && !error) {
		u64 pages = min_t(u64, left, run_pages(&runs[index]) - skip);

		error = add_part(adoption, &runs[index], skip, pages, index);
		left -= pages;
		skip = 0;
		index++;
	}
	/* The pages before the failing one are good; if not, they failed first. */
	late = flush(adoption);
	return late ?: error;
}
