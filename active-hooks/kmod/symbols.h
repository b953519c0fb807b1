/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions and variables of the kernel that are not exported, resolved once
 * at load. Functions are called through static calls: those are patched into
 * direct calls, so that a target without ENDBR64 is no fault under IBT.
 */
#ifndef ORTHROS_SYMBOLS_H
#define ORTHROS_SYMBOLS_H

#include <linux/mm_types.h>
#include <linux/rmap.h>
#include <linux/static_call.h>
#include <linux/version.h>
#include <asm/pgtable_types.h>

/* From here on folios replace pages in the reverse map and the LRU. */
#define KERNEL_HAS_FOLIO_RMAP (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0))

int proto_anon_vma_prepare(struct vm_area_struct *vma);
DECLARE_STATIC_CALL(orthros_anon_vma_prepare, proto_anon_vma_prepare);

int proto_mem_cgroup_charge(struct folio *folio, struct mm_struct *mm, gfp_t gfp);
DECLARE_STATIC_CALL(orthros_mem_cgroup_charge, proto_mem_cgroup_charge);

#if KERNEL_HAS_FOLIO_RMAP
void proto_add_new_anon_rmap(struct folio *folio, struct vm_area_struct *vma,
			     unsigned long address, rmap_t flags);
void proto_add_lru(struct folio *folio, struct vm_area_struct *vma);
#else
void proto_add_new_anon_rmap(struct page *page, struct vm_area_struct *vma,
			     unsigned long address);
void proto_add_lru(struct page *page, struct vm_area_struct *vma);
#endif
DECLARE_STATIC_CALL(orthros_add_new_anon_rmap, proto_add_new_anon_rmap);
DECLARE_STATIC_CALL(orthros_add_lru, proto_add_lru);

unsigned long proto_init_memory_mapping(unsigned long start, unsigned long end,
					pgprot_t prot);
DECLARE_STATIC_CALL(orthros_init_memory_mapping, proto_init_memory_mapping);

int proto_p4d_alloc(struct mm_struct *mm, pgd_t *pgd, unsigned long address);
DECLARE_STATIC_CALL(orthros_p4d_alloc, proto_p4d_alloc);
int proto_pud_alloc(struct mm_struct *mm, p4d_t *p4d, unsigned long address);
DECLARE_STATIC_CALL(orthros_pud_alloc, proto_pud_alloc);
int proto_pmd_alloc(struct mm_struct *mm, pud_t *pud, unsigned long address);
DECLARE_STATIC_CALL(orthros_pmd_alloc, proto_pmd_alloc);
pgtable_t proto_pte_alloc_one(struct mm_struct *mm);
DECLARE_STATIC_CALL(orthros_pte_alloc_one, proto_pte_alloc_one);
void proto_trans_huge_deposit(struct mm_struct *mm, pmd_t *pmd, pgtable_t table);
DECLARE_STATIC_CALL(orthros_trans_huge_deposit, proto_trans_huge_deposit);
void proto_prep_compound_page(struct page *page, unsigned int order);
DECLARE_STATIC_CALL(orthros_prep_compound_page, proto_prep_compound_page);
#if !KERNEL_HAS_FOLIO_RMAP
void proto_prep_transhuge_page(struct page *page);
DECLARE_STATIC_CALL(orthros_prep_transhuge_page, proto_prep_transhuge_page);
#endif

/* Variables and places in the kernel's text. */
struct orthros_symbols {
	pgd_t *init_top_pgt;
	unsigned char **vmcoreinfo_data;
	size_t *vmcoreinfo_size;
	atomic_t *panic_cpu;
	void *asm_exc_nmi;
	int *mhp_default_online_type;
	void *btf_start;
	void *btf_stop;
	const struct file_operations *inotify_fops;
	const struct file_operations *io_uring_fops;
	/* Functions of which only the address is used. */
	long (*sleep_restart)(struct restart_block *block);
	long (*futex_restart)(struct restart_block *block);
	long (*poll_restart)(struct restart_block *block);
};
extern struct orthros_symbols symbols;

int symbols_resolve(void);
/* A symbol of the kernel or of a module, NULL if there is none. */
void *symbols_find(const char *name);

#endif
