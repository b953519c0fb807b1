// SPDX-License-Identifier: GPL-2.0
/*
 * Tells the backup OS about this kernel: where it keeps what, and how the CPUs
 * save their state. Field by field in shared-region/src/facts.rs.
 */
#include <linux/kernel.h>
#include <linux/kallsyms.h>
#include <linux/memory.h>
#include <linux/mm.h>
#include <linux/panic.h>
#include <linux/utsname.h>
#include <asm/apic.h>
#include <asm/fpu/xcr.h>
#include <asm/io.h>
#include <asm/smp.h>
#include <asm/tsc.h>
#include "orthros.h"
#include "symbols.h"

/* CPUID leaf 0x0D (Intel SDM vol. 1, 13.2). */
#define XSTATE_LEAF 0x0d
/* FXSAVE area and XSAVE header; what a CPU without XSAVE leaves us with. */
#define XSAVE_MINIMUM 576

/* "name+0x0/0xsize" of kallsyms; 0 if it cannot be told. */
static u64 text_size(void *text)
{
	char symbol[KSYM_SYMBOL_LEN];
	const char *slash;
	u64 size;

	sprint_symbol(symbol, (unsigned long)text);
	slash = strrchr(symbol, '/');
	if (!slash || kstrtou64(slash + 1, 16, &size))
		return 0;
	return size;
}

static u64 physical(const void *kernel_address)
{
	return __pa_symbol((unsigned long)kernel_address);
}

static int read_build_id(u8 id[20])
{
	static const char key[] = "BUILD-ID=";
	const char *text = *symbols.vmcoreinfo_data;
	const char *found = strnstr(text, key, *symbols.vmcoreinfo_size);
	const char *digits;

	if (!found)
		return -ENOENT;
	digits = found + sizeof(key) - 1;
	if (digits + 40 > text + *symbols.vmcoreinfo_size)
		return -ENOENT;
	return hex2bin(id, digits, 20);
}

static int fill_xstate(struct orthros_facts *facts)
{
	u32 eax, ebx, ecx, edx;
	int i;

	if (!boot_cpu_has(X86_FEATURE_OSXSAVE)) {
		facts->xcr0 = XFEATURE_MASK_FPSSE;
		facts->xsave_size = XSAVE_MINIMUM;
		return 0;
	}
	facts->xcr0 = xgetbv(XCR_XFEATURE_ENABLED_MASK);
	cpuid_count(XSTATE_LEAF, 0, &eax, &ebx, &ecx, &edx);
	facts->xsave_size = ebx;
	for (i = 2; i < ARRAY_SIZE(facts->xstate); i++) {
		struct orthros_xstate_component *component = &facts->xstate[i];

		cpuid_count(XSTATE_LEAF, i, &component->size, &component->offset,
			    &component->flags, &edx);
	}
	if (facts->xsave_size > ORTHROS_PARK_XSAVE_SIZE) {
		pr_err("the CPUs' XSAVE area has %llu bytes, a parking slot only %d\n",
		       facts->xsave_size, ORTHROS_PARK_XSAVE_SIZE);
		return -E2BIG;
	}
	return 0;
}

static int fill(struct orthros_facts *facts)
{
	unsigned int cpu;
	int error = fill_xstate(facts);

	if (error)
		return error;
	if (nr_cpu_ids > ORTHROS_MAX_CPUS) {
		pr_err("this kernel has %u CPUs, there is room for %d\n",
		       nr_cpu_ids, ORTHROS_MAX_CPUS);
		return -E2BIG;
	}
	if (read_build_id(facts->build_id)) {
		pr_err("VMCOREINFO has no BUILD-ID\n");
		return -ENOENT;
	}
	facts->panic_size = text_size(panic);
	if (!facts->panic_size) {
		pr_err("the size of panic() cannot be told\n");
		return -ENOENT;
	}
	strscpy(facts->release, init_utsname()->release, sizeof(facts->release));
	facts->root_table_phys = physical(symbols.init_top_pgt);
	facts->la57 = pgtable_l5_enabled();
	facts->phys_base = phys_base;
	facts->vmcoreinfo_phys = virt_to_phys(*symbols.vmcoreinfo_data);
	facts->vmcoreinfo_len = *symbols.vmcoreinfo_size;
	facts->panic_cpu_phys = physical(symbols.panic_cpu);
	facts->panic_cpu_invalid = (u64)(s64)PANIC_CPU_INVALID;
	facts->asm_exc_nmi_phys = physical(symbols.asm_exc_nmi);
	facts->panic_phys = physical(panic);
	facts->nr_cpu_ids = nr_cpu_ids;
	facts->tsc_khz = tsc_khz;
	facts->memory_block_size = memory_block_size_bytes();
	facts->total_ram_pages = totalram_pages();
	facts->netfilter = (uintptr_t)&netfilter_words;
	facts->published_tsc = rdtsc_ordered();
	for (cpu = 0; cpu < ORTHROS_MAX_CPUS; cpu++)
		facts->apic_id_of_cpu[cpu] =
			cpu_present(cpu) ? (u16)cpu_physical_id(cpu) : 0xffff;
	return 0;
}

/*
 * The reader copies while seq is even and the same before and after; the magic
 * comes last, so that half a structure of a first publication is none.
 */
int facts_publish(void)
{
	struct orthros_facts *facts = region.facts;
	struct orthros_facts *fresh;
	u64 seq = READ_ONCE(facts->seq) | 1;
	const size_t body = offsetofend(struct orthros_facts, seq);
	int error;

	fresh = kzalloc(sizeof(*fresh), GFP_KERNEL);
	if (!fresh)
		return -ENOMEM;
	error = fill(fresh);
	if (!error) {
		smp_store_release(&facts->seq, seq);
		smp_wmb();
		memcpy((void *)facts + body, (void *)fresh + body,
		       sizeof(*facts) - body);
		facts->abi_version = ORTHROS_ABI_VERSION;
		facts->size = sizeof(*facts);
		smp_store_release(&facts->seq, seq + 1);
		smp_store_release(&facts->magic, ORTHROS_FACTS_MAGIC);
		word_write(module_abi, ORTHROS_ABI_VERSION);
	}
	kfree(fresh);
	return error;
}

void facts_withdraw(void)
{
	smp_store_release(&region.facts->magic, 0);
	word_write(module_abi, 0);
}
