// SPDX-License-Identifier: GPL-2.0
/*
 * Finds what the kernel does not export, and refuses by name what is missing
 * or not what this code was written for.
 *
 * kallsyms_lookup_name() itself has not been exported since 5.7; a kprobe
 * placed on it tells its address.
 */
#include <linux/io_uring_types.h>
#include <linux/kprobes.h>
#include <linux/memory_hotplug.h>
#include <linux/netlink.h>
#include <linux/sched.h>
#include <linux/tcp.h>
#include <net/af_unix.h>
#include <net/request_sock.h>
#include "btf.h"
#include "inotify_event.h"
#include "orthros.h"
#include "symbols.h"

unsigned long proto_lookup_name(const char *name);
DEFINE_STATIC_CALL_RET0(orthros_lookup_name, proto_lookup_name);

DEFINE_STATIC_CALL_RET0(orthros_anon_vma_prepare, proto_anon_vma_prepare);
DEFINE_STATIC_CALL_RET0(orthros_mem_cgroup_charge, proto_mem_cgroup_charge);
DEFINE_STATIC_CALL_NULL(orthros_add_new_anon_rmap, proto_add_new_anon_rmap);
DEFINE_STATIC_CALL_NULL(orthros_add_lru, proto_add_lru);
DEFINE_STATIC_CALL_RET0(orthros_init_memory_mapping, proto_init_memory_mapping);
DEFINE_STATIC_CALL_RET0(orthros_p4d_alloc, proto_p4d_alloc);
DEFINE_STATIC_CALL_RET0(orthros_pud_alloc, proto_pud_alloc);
DEFINE_STATIC_CALL_RET0(orthros_pmd_alloc, proto_pmd_alloc);
DEFINE_STATIC_CALL_RET0(orthros_pte_alloc_one, proto_pte_alloc_one);
DEFINE_STATIC_CALL_NULL(orthros_trans_huge_deposit, proto_trans_huge_deposit);
DEFINE_STATIC_CALL_NULL(orthros_prep_compound_page, proto_prep_compound_page);
#if !KERNEL_HAS_FOLIO_RMAP
DEFINE_STATIC_CALL_NULL(orthros_prep_transhuge_page, proto_prep_transhuge_page);
#endif

struct orthros_symbols symbols;

struct function {
	struct static_call_key *key;
	void *trampoline;
	const char *name;
};
#define FUNCTION(call, symbol) \
	{ &STATIC_CALL_KEY(call), STATIC_CALL_TRAMP_ADDR(call), symbol }

static const struct function functions[] = {
	FUNCTION(orthros_anon_vma_prepare, "__anon_vma_prepare"),
	FUNCTION(orthros_mem_cgroup_charge, "__mem_cgroup_charge"),
	FUNCTION(orthros_init_memory_mapping, "init_memory_mapping"),
	FUNCTION(orthros_p4d_alloc, "__p4d_alloc"),
	FUNCTION(orthros_pud_alloc, "__pud_alloc"),
	FUNCTION(orthros_pmd_alloc, "__pmd_alloc"),
	FUNCTION(orthros_pte_alloc_one, "pte_alloc_one"),
	FUNCTION(orthros_trans_huge_deposit, "pgtable_trans_huge_deposit"),
	FUNCTION(orthros_prep_compound_page, "prep_compound_page"),
#if KERNEL_HAS_FOLIO_RMAP
	FUNCTION(orthros_add_new_anon_rmap, "folio_add_new_anon_rmap"),
	FUNCTION(orthros_add_lru, "folio_add_lru_vma"),
#else
	FUNCTION(orthros_add_new_anon_rmap, "page_add_new_anon_rmap"),
	FUNCTION(orthros_add_lru, "lru_cache_add_inactive_or_unevictable"),
	FUNCTION(orthros_prep_transhuge_page, "prep_transhuge_page"),
#endif
};

static const struct {
	void **address;
	const char *name;
} addresses[] = {
	{ (void **)&symbols.init_top_pgt, "init_top_pgt" },
	{ (void **)&symbols.vmcoreinfo_data, "vmcoreinfo_data" },
	{ (void **)&symbols.vmcoreinfo_size, "vmcoreinfo_size" },
	{ (void **)&symbols.panic_cpu, "panic_cpu" },
	{ &symbols.asm_exc_nmi, "asm_exc_nmi" },
	{ (void **)&symbols.mhp_default_online_type, "mhp_default_online_type" },
	{ &symbols.btf_start, "__start_BTF" },
	{ &symbols.btf_stop, "__stop_BTF" },
	{ (void **)&symbols.inotify_fops, "inotify_fops" },
	{ (void **)&symbols.io_uring_fops, "io_uring_fops" },
	{ (void **)&symbols.sleep_restart, "hrtimer_nanosleep_restart" },
	{ (void **)&symbols.futex_restart, "futex_wait_restart" },
	{ (void **)&symbols.poll_restart, "do_restart_poll" },
};

static struct expected_function expected_functions[] = {
	{ "kallsyms_lookup_name", "long unsigned int(char*)" },
	{ "__anon_vma_prepare", "int(vm_area_struct*)" },
	{ "__mem_cgroup_charge", "int(folio*,mm_struct*,gfp_t)" },
	{ "init_memory_mapping",
	  "long unsigned int(long unsigned int,long unsigned int,pgprot_t)" },
	{ "__p4d_alloc", "int(mm_struct*,pgd_t*,long unsigned int)" },
	{ "__pud_alloc", "int(mm_struct*,p4d_t*,long unsigned int)" },
	{ "__pmd_alloc", "int(mm_struct*,pud_t*,long unsigned int)" },
	{ "pte_alloc_one", "pgtable_t(mm_struct*)" },
	{ "pgtable_trans_huge_deposit", "void(mm_struct*,pmd_t*,pgtable_t)" },
	{ "prep_compound_page", "void(page*,unsigned int)" },
#if KERNEL_HAS_FOLIO_RMAP
	{ "folio_add_new_anon_rmap",
	  "void(folio*,vm_area_struct*,long unsigned int,rmap_t)" },
	{ "folio_add_lru_vma", "void(folio*,vm_area_struct*)" },
#else
	{ "page_add_new_anon_rmap",
	  "void(page*,vm_area_struct*,long unsigned int)" },
	{ "lru_cache_add_inactive_or_unevictable",
	  "void(page*,vm_area_struct*)" },
	{ "prep_transhuge_page", "void(page*)" },
#endif
	{ "hrtimer_nanosleep_restart", "long int(restart_block*)" },
	{ "futex_wait_restart", "long int(restart_block*)" },
	{ "do_restart_poll", "long int(restart_block*)" },
};

#define MEMBER(structure, member) \
	{ #structure, #member, offsetof(struct structure, member) }

static struct expected_member expected_members[] = {
	MEMBER(mm_struct, rss_stat),
	MEMBER(page, _refcount),
	MEMBER(page, _mapcount),
	MEMBER(page, mapping),
	MEMBER(fsnotify_group, notification_lock),
	MEMBER(fsnotify_group, notification_list),
	MEMBER(fsnotify_group, q_len),
	MEMBER(fsnotify_group, max_events),
	MEMBER(fsnotify_group, overflow_event),
	MEMBER(inotify_event_info, fse),
	MEMBER(inotify_event_info, mask),
	MEMBER(inotify_event_info, wd),
	MEMBER(inotify_event_info, sync_cookie),
	MEMBER(inotify_event_info, name_len),
	MEMBER(inotify_event_info, name),
	MEMBER(io_ring_ctx, rings),
	MEMBER(io_ring_ctx, uring_lock),
	MEMBER(io_ring_ctx, completion_lock),
	MEMBER(io_ring_ctx, cached_sq_head),
	MEMBER(io_ring_ctx, cached_cq_tail),
	MEMBER(io_ring_ctx, cq_extra),
	MEMBER(io_ring_ctx, cq_timeouts),
	MEMBER(io_ring_ctx, cq_last_tm_flush),
	MEMBER(io_ring_ctx, evfd_last_cq_tail),
	MEMBER(io_rings, sq),
	MEMBER(io_rings, cq),
	MEMBER(io_uring_task, cached_refs),
	MEMBER(io_uring_task, inflight),
	MEMBER(sock, sk_peer_lock),
	MEMBER(sock, sk_peer_pid),
	MEMBER(sock, sk_peer_cred),
	MEMBER(sock, sk_shutdown),
	MEMBER(sock, sk_err),
	MEMBER(sock, sk_receive_queue),
	MEMBER(netlink_skb_parms, creds),
	MEMBER(netlink_skb_parms, portid),
	MEMBER(netlink_skb_parms, dst_group),
	MEMBER(tcp_sock, rcv_nxt),
	MEMBER(request_sock, rsk_ops),
	MEMBER(tcp_request_sock, tfo_listener),
	MEMBER(unix_sock, peer),
	MEMBER(unix_sock, lock),
	MEMBER(task_struct, restart_block),
	MEMBER(task_struct, start_boottime),
	MEMBER(task_struct, utime),
	MEMBER(task_struct, stime),
	MEMBER(task_struct, prev_cputime),
	MEMBER(task_struct, se),
	MEMBER(sched_entity, sum_exec_runtime),
	MEMBER(vm_area_struct, anon_vma),
	MEMBER(vm_area_struct, vm_page_prot),
};

static int find_lookup_name(void)
{
	struct kprobe probe = {
		.symbol_name = "kallsyms_lookup_name",
		/* Never armed: only the address is wanted. */
		.flags = KPROBE_FLAG_DISABLED,
	};
	int error = register_kprobe(&probe);

	if (error) {
		pr_err("no kprobe on kallsyms_lookup_name (%d): the kernel's symbols cannot be found\n",
		       error);
		return error;
	}
	static_call_update(orthros_lookup_name, (void *)probe.addr);
	unregister_kprobe(&probe);
	return 0;
}

void *symbols_find(const char *name)
{
	return (void *)static_call(orthros_lookup_name)(name);
}

static void *lookup(const char *name)
{
	void *address = symbols_find(name);

	if (!address)
		pr_err("the kernel has no symbol %s\n", name);
	return address;
}

/*
 * Variables have no types in BTF; what they hold tells whether they are the
 * expected ones.
 */
static bool variables_plausible(void)
{
	static const char first[] = "OSRELEASE=";
	bool good = true;

	if (*symbols.vmcoreinfo_size < sizeof(first) - 1 ||
	    *symbols.vmcoreinfo_size > SZ_1M || !*symbols.vmcoreinfo_data ||
	    memcmp(*symbols.vmcoreinfo_data, first, sizeof(first) - 1)) {
		pr_err("vmcoreinfo_data does not hold VMCOREINFO\n");
		good = false;
	}
	if (atomic_read(symbols.panic_cpu) != PANIC_CPU_INVALID) {
		pr_err("panic_cpu is %d, not %d\n", atomic_read(symbols.panic_cpu),
		       PANIC_CPU_INVALID);
		good = false;
	}
	if (!PAGE_ALIGNED(symbols.init_top_pgt) ||
	    !(pgd_val(symbols.init_top_pgt[PTRS_PER_PGD - 1]) & _PAGE_PRESENT)) {
		pr_err("init_top_pgt is no page table\n");
		good = false;
	}
	return good;
}

int symbols_resolve(void)
{
	void *targets[ARRAY_SIZE(functions)];
	bool good = true;
	size_t i;
	int error = find_lookup_name();

	if (error)
		return error;
	for (i = 0; i < ARRAY_SIZE(addresses); i++) {
		*addresses[i].address = lookup(addresses[i].name);
		good &= *addresses[i].address != NULL;
	}
	for (i = 0; i < ARRAY_SIZE(functions); i++) {
		targets[i] = lookup(functions[i].name);
		good &= targets[i] != NULL;
	}
	if (!good)
		return -ENOENT;
	if (!variables_plausible())
		return -ENOEXEC;
	error = btf_compare(symbols.btf_start, symbols.btf_stop - symbols.btf_start,
			    expected_functions, ARRAY_SIZE(expected_functions),
			    expected_members, ARRAY_SIZE(expected_members));
	if (error)
		return error;
	for (i = 0; i < ARRAY_SIZE(functions); i++)
		__static_call_update(functions[i].key, functions[i].trampoline,
				     targets[i]);
	return 0;
}
