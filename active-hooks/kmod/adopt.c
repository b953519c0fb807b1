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
 * The work goes by spans: pages of one page table, in one mapping, of one kind.
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
#include "orthros.h"
#include "symbols.h"

/* Runs read from the caller at once. */
#define RUNS_AT_ONCE 128

struct adoption {
	struct mm_struct *mm;
	struct vm_area_struct *vma;
	unsigned long first;                /* address of pages[0] */
	struct page *pages[PTRS_PER_PTE];
	u64 adopted, copied;
};

struct frame_span {
	unsigned long address;
	u64 pfn;
	unsigned int count;
};

/* A withheld frame is made to look like a page that was just allocated. */
static void claim(struct page *page)
{
#if KERNEL_HAS_FOLIO_RMAP
	/* 6.11 began to mark hot-added frames as offline instead of reserved. */
	if (PageOffline(page))
		__ClearPageOffline(page);
#endif
	__ClearPageReserved(page);
	__SetPageUptodate(page);
}

static void unclaim(struct page *page)
{
	ClearPageUptodate(page);
	__SetPageReserved(page);
}

static void count_managed(struct page *first, struct page *last, unsigned int count)
{
	if (page_zone(first) == page_zone(last)) {
		adjust_managed_page_count(first, count);
		return;
	}
	while (count--)
		adjust_managed_page_count(first + count, 1);
}

static void count_rss(struct mm_struct *mm, long pages)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	percpu_counter_add(&mm->rss_stat[MM_ANONPAGES], pages);
#else
	atomic_long_add(pages, &mm->rss_stat.count[MM_ANONPAGES]);
#endif
}

static int charge(struct page *page, struct mm_struct *mm)
{
	if (mem_cgroup_disabled())
		return 0;
	return static_call(orthros_mem_cgroup_charge)(page_folio(page), mm, GFP_KERNEL);
}

static int expect_empty(pte_t *pte, unsigned long address, void *data)
{
	return pte_none(*pte) ? 0 : -EEXIST;
}

static int install(pte_t *pte, unsigned long address, void *data)
{
	struct adoption *adoption = data;
	struct vm_area_struct *vma = adoption->vma;
	struct page *page = adoption->pages[(address - adoption->first) >> PAGE_SHIFT];
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
 * Makes sure that the page table is there and its entries for the span empty;
 * from then on installing cannot fail.
 */
static int prepare_table(struct adoption *adoption, const struct frame_span *span)
{
	pmd_t *pmd = find_pmd(adoption->mm, span->address);

	if (pmd && !pmd_none(*pmd)) {
		/* A huge page, or one on its way to swap or another node. */
		if (pmd_bad(*pmd))
			return -EEXIST;
		return apply_to_page_range(adoption->mm, span->address,
					   (unsigned long)span->count << PAGE_SHIFT,
					   expect_empty, NULL);
	}
	return apply_to_page_range(adoption->mm, span->address, PAGE_SIZE,
				   expect_empty, NULL);
}

static int adopt_in_place(struct adoption *adoption, const struct frame_span *span)
{
	unsigned int i;
	int error = prepare_table(adoption, span);

	if (error)
		return error;
	for (i = 0; i < span->count; i++) {
		struct page *page = pfn_to_page(span->pfn + i);

		claim(page);
		error = charge(page, adoption->mm);
		if (error) {
			unclaim(page);
			break;
		}
		hotadd_take(span->pfn + i);
		adoption->pages[i] = page;
	}
	if (!i)
		return error;
	adoption->first = span->address;
	count_managed(adoption->pages[0], adoption->pages[i - 1], i);
	apply_to_page_range(adoption->mm, span->address, (unsigned long)i << PAGE_SHIFT,
			    install, adoption);
	count_rss(adoption->mm, i);
	adoption->adopted += i;
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

static int adopt_copy(struct adoption *adoption, const struct frame_span *span)
{
	unsigned int i;
	int error = prepare_table(adoption, span);

	if (error)
		return error;
	for (i = 0; i < span->count; i++) {
		struct page *page = copy_frame(span->pfn + i);

		if (!page) {
			error = -ENOMEM;
			break;
		}
		error = charge(page, adoption->mm);
		if (error) {
			__free_page(page);
			break;
		}
		adoption->pages[i] = page;
	}
	if (!i)
		return error;
	adoption->first = span->address;
	apply_to_page_range(adoption->mm, span->address, (unsigned long)i << PAGE_SHIFT,
			    install, adoption);
	count_rss(adoption->mm, i);
	adoption->copied += i;
	return error;
}

/* Whether the frame has to be copied: shared with others, or in memory that is not this kernel's. */
static int must_copy(u64 pfn, u64 kind)
{
	if (kind == ORTHROS_FRAME_OWN || kind == ORTHROS_FRAME_HUGE) {
		if (hotadd_is_withheld(pfn))
			return false;
		if (!pfn_to_online_page(pfn) && hotadd_is_readable(pfn))
			return true;
		return -EPERM;
	}
	return hotadd_is_readable(pfn) ? true : -EPERM;
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

/* Pages from here that are in one page table, one mapping and one state. */
static unsigned int span_length(const struct adoption *adoption,
				unsigned long address, u64 pfn, u64 pages, u64 kind,
				int copy)
{
	u64 limit = min_t(u64, pages, (pmd_addr_end(address, adoption->vma->vm_end) -
				       address) >> PAGE_SHIFT);
	u64 count = 1;

	while (count < limit && must_copy(pfn + count, kind) == copy)
		count++;
	return count;
}

static int adopt_run(struct adoption *adoption, const struct orthros_frame_run *run)
{
	u64 kind = run->word & 0xf, pages = (run->word >> 4 & 0xfffff) + 1;
	u64 pfn = run->word >> 24, address = run->va;

	if (kind != ORTHROS_FRAME_OWN && kind != ORTHROS_FRAME_HUGE &&
	    kind != ORTHROS_FRAME_SHARED && kind != ORTHROS_FRAME_KSM)
		return -EINVAL;
	if (!IS_ALIGNED(address, PAGE_SIZE) || address >= TASK_SIZE_MAX ||
	    pages > (TASK_SIZE_MAX - address) >> PAGE_SHIFT)
		return -EINVAL;
	while (pages) {
		struct frame_span span = { .address = address, .pfn = pfn };
		int copy = must_copy(pfn, kind);
		int error = copy < 0 ? copy : prepare_mapping(adoption, address);

		if (error)
			return error;
		if (fatal_signal_pending(current))
			return -EINTR;
		span.count = span_length(adoption, address, pfn, pages, kind, copy);
		error = copy ? adopt_copy(adoption, &span) :
			       adopt_in_place(adoption, &span);
		if (error)
			return error;
		address += (u64)span.count << PAGE_SHIFT;
		pfn += span.count;
		pages -= span.count;
		cond_resched();
	}
	return 0;
}

static int adopt_runs(struct adoption *adoption, struct orthros_adopt *request)
{
	const struct orthros_frame_run __user *user = u64_to_user_ptr(request->runs);
	struct orthros_frame_run *runs;
	int error = 0;
	u64 at;

	runs = kmalloc_array(RUNS_AT_ONCE, sizeof(*runs), GFP_KERNEL);
	if (!runs)
		return -ENOMEM;
	for (at = 0; at < request->count && !error; ) {
		u64 i, batch = min_t(u64, request->count - at, RUNS_AT_ONCE);

		/* Before the lock: the caller may hand over its own memory. */
		if (copy_from_user(runs, user + at, batch * sizeof(*runs))) {
			error = -EFAULT;
			break;
		}
		if (mmap_write_lock_killable(adoption->mm)) {
			error = -EINTR;
			break;
		}
		adoption->vma = NULL;
		for (i = 0; i < batch; i++, at++) {
			error = adopt_run(adoption, &runs[i]);
			if (error)
				break;
		}
		mmap_write_unlock(adoption->mm);
	}
	request->stopped_at = at;
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
	adoption = kzalloc(sizeof(*adoption), GFP_KERNEL);
	if (!adoption)
		return -ENOMEM;
	adoption->mm = target_mm(request->pid);
	if (!adoption->mm) {
		kfree(adoption);
		return -ESRCH;
	}
	error = adopt_runs(adoption, request);
	mmput(adoption->mm);
	request->adopted = adoption->adopted;
	request->copied = adoption->copied;
	request->nanoseconds = ktime_get_ns() - begin;
	word_write(frames_adopted, word_read(frames_adopted) + adoption->adopted);
	word_write(frames_copied, word_read(frames_copied) + adoption->copied);
	kfree(adoption);
	return error;
}
