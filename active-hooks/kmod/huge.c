// SPDX-License-Identifier: GPL-2.0
/*
 * A transparent huge page of the dead kernel becomes one of this kernel, in
 * place: what __do_huge_pmd_anonymous_page() does, with frames that have their
 * contents already.
 */
#include <linux/mm.h>
#include <linux/swap.h>
#include <asm/pgalloc.h>
#include "adopt.h"
#include "orthros.h"

static pmd_t *alloc_pmd(struct mm_struct *mm, unsigned long address)
{
	pgd_t *pgd = pgd_offset(mm, address);
	p4d_t *p4d;
	pud_t *pud;

	if (pgd_none(*pgd) && static_call(orthros_p4d_alloc)(mm, pgd, address))
		return NULL;
	p4d = p4d_offset(pgd, address);
	if (p4d_none(*p4d) && static_call(orthros_pud_alloc)(mm, p4d, address))
		return NULL;
	pud = pud_offset(p4d, address);
	if (pud_none(*pud) && static_call(orthros_pmd_alloc)(mm, pud, address))
		return NULL;
	return pmd_offset(pud, address);
}

static void make_compound(struct page *head)
{
	unsigned int i;

	for (i = 0; i < HPAGE_PMD_NR; i++) {
		adopt_claim(head + i);
		/* Tails of an allocated huge page are not referenced. */
		if (i)
			set_page_count(head + i, 0);
	}
	static_call(orthros_prep_compound_page)(head, HPAGE_PMD_ORDER);
#if KERNEL_HAS_FOLIO_RMAP
	folio_set_large_rmappable(page_folio(head));
#else
	static_call(orthros_prep_transhuge_page)(head);
#endif
	__SetPageUptodate(head);
}

/* Back to what withheld frames are: each for itself, as __init_single_page() leaves it. */
static void unmake_compound(struct page *head)
{
	unsigned int i;

	for (i = 0; i < HPAGE_PMD_NR; i++) {
		struct page *page = head + i;
		unsigned long links = page->flags & ~PAGEFLAGS_MASK;

		memset(page, 0, sizeof(*page));
		page->flags = links;
		init_page_count(page);
		atomic_set(&page->_mapcount, -1);
		INIT_LIST_HEAD(&page->lru);
		__SetPageReserved(page);
	}
}

static void map(struct adoption *adoption, unsigned long address, pmd_t *pmd,
		struct page *head, pgtable_t table)
{
	struct vm_area_struct *vma = adoption->vma;
	pmd_t entry = pmd_mkhuge(mk_pmd(head, vma->vm_page_prot));
	spinlock_t *lock = pmd_lock(adoption->mm, pmd);

	entry = pmd_mkyoung(pmd_mkdirty(entry));
#if KERNEL_HAS_FOLIO_RMAP
	if (vma->vm_flags & VM_WRITE)
		entry = pmd_mkwrite_novma(entry);
	static_call(orthros_add_new_anon_rmap)(page_folio(head), vma, address,
					       RMAP_EXCLUSIVE);
	static_call(orthros_add_lru)(page_folio(head), vma);
#else
	if (vma->vm_flags & VM_WRITE)
		entry = pmd_mkwrite(entry);
	static_call(orthros_add_new_anon_rmap)(head, vma, address);
	static_call(orthros_add_lru)(head, vma);
#endif
	static_call(orthros_trans_huge_deposit)(adoption->mm, pmd, table);
	set_pmd_at(adoption->mm, address, pmd, entry);
	if (!adoption->counted)
		adopt_count_rss(adoption->mm, HPAGE_PMD_NR);
	mm_inc_nr_ptes(adoption->mm);
	spin_unlock(lock);
}

/* All frames or none: a huge page with one frame missing is no huge page. */
static bool take_frames(u64 pfn)
{
	unsigned int i;

	for (i = 0; i < HPAGE_PMD_NR && hotadd_take(pfn + i); i++)
		;
	if (i == HPAGE_PMD_NR &&
	    page_zone(pfn_to_page(pfn)) == page_zone(pfn_to_page(pfn + HPAGE_PMD_NR - 1)))
		return true;
	while (i--)
		hotadd_put_back(pfn + i);
	return false;
}

int huge_adopt(struct adoption *adoption, unsigned long address, u64 pfn)
{
	struct vm_area_struct *vma = adoption->vma;
	struct page *head;
	pgtable_t table;
	unsigned int i;
	pmd_t *pmd;
	int error;

	if (!has_transparent_hugepage() || !vma_is_anonymous(vma) ||
	    vma->vm_flags & VM_NOHUGEPAGE || address + HPAGE_PMD_SIZE > vma->vm_end)
		return 1;
	pmd = alloc_pmd(adoption->mm, address);
	if (!pmd)
		return -ENOMEM;
	if (!pmd_none(*pmd) || !take_frames(pfn))
		return 1;
	table = static_call(orthros_pte_alloc_one)(adoption->mm);
	if (!table) {
		error = -ENOMEM;
		goto put_back;
	}
	head = pfn_to_page(pfn);
	make_compound(head);
	error = adopt_charge(head, adoption->mm);
	if (error) {
		unmake_compound(head);
		pte_free(adoption->mm, table);
		goto put_back;
	}
	adjust_managed_page_count(head, HPAGE_PMD_NR);
	keep_page(head);
	map(adoption, address, pmd, head, table);
	adoption->adopted += HPAGE_PMD_NR;
	cond_resched();
	return 0;

put_back:
	for (i = 0; i < HPAGE_PMD_NR; i++)
		hotadd_put_back(pfn + i);
	return error;
}
