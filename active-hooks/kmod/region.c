// SPDX-License-Identifier: GPL-2.0
/*
 * Maps the region and checks that it is one.
 *
 * The region is type 2 in this kernel's e820, so it is in no direct map and
 * nobody else's; a cached memremap reaches it. The mapping stays valid in NMI
 * and panic context.
 */
#include <linux/crc32.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include "orthros.h"

struct orthros_region region;

static_assert(sizeof(struct orthros_header) == ORTHROS_HEADER_SIZE);
static_assert(sizeof(struct orthros_control) == 64 * 8);
static_assert(sizeof(struct orthros_park_slot) == ORTHROS_PARK_SLOT_SIZE);

/* CRC-32/ISO-HDLC of the header page with the digest field as zero. */
static u32 header_digest(const struct orthros_header *header)
{
	const u8 *bytes = (const u8 *)header;
	const size_t at = offsetof(struct orthros_header, digest);
	const u32 zero = 0;
	u32 crc = crc32_le(~0, bytes, at);

	crc = crc32_le(crc, (const u8 *)&zero, sizeof(zero));
	return ~crc32_le(crc, bytes + at + sizeof(zero),
			 sizeof(*header) - at - sizeof(zero));
}

static int header_check(u64 phys, const struct orthros_header *header)
{
	u32 digest;

	if (header->magic != ORTHROS_HEADER_MAGIC) {
		pr_err("no region at %#llx: magic is %#llx, not \"ORTHROS!\"; was the machine started through the Orthros loader?\n",
		       phys, header->magic);
		return -ENODEV;
	}
	if (header->abi_version != ORTHROS_ABI_VERSION) {
		pr_err("the region has ABI version %u, this module speaks version %u; install the matching package\n",
		       header->abi_version, ORTHROS_ABI_VERSION);
		return -EPROTO;
	}
	digest = header_digest(header);
	if (digest != header->digest) {
		pr_err("the region's header was overwritten: digest %#010x does not match the stored %#010x\n",
		       digest, header->digest);
		return -EBADMSG;
	}
	if (header->base != phys || header->size != ORTHROS_REGION_SIZE) {
		pr_err("the region's header says %#llx+%#llx, the parameter says %#llx\n",
		       header->base, header->size, phys);
		return -EINVAL;
	}
	if (header->cpu_count > ORTHROS_MAX_CPUS ||
	    header->ram_count > ORTHROS_MAX_RAM_RANGES) {
		pr_err("the region's header has %llu CPUs and %llu RAM ranges, more than there is room for\n",
		       header->cpu_count, header->ram_count);
		return -EINVAL;
	}
	return 0;
}

int region_map(u64 phys)
{
	struct orthros_header *header;
	int error;

	if (!phys) {
		pr_err("parameter region=ADDRESS is missing; the loader passes it on the kernel command line\n");
		return -EINVAL;
	}
	if (!PAGE_ALIGNED(phys) || phys + ORTHROS_REGION_SIZE > (1ULL << 32)) {
		pr_err("parameter region=%#llx is no page below 4 GB\n", phys);
		return -EINVAL;
	}
	if (region_intersects(phys, ORTHROS_REGION_SIZE, IORESOURCE_SYSTEM_RAM,
			      IORES_DESC_NONE) != REGION_DISJOINT) {
		pr_err("%#llx is RAM of this kernel, not a reserved region\n", phys);
		return -EBUSY;
	}

	/* One page first: a wrong address must not map 256 MB of device registers. */
	header = memremap(phys, ORTHROS_HEADER_SIZE, MEMREMAP_WB);
	if (!header) {
		pr_err("cannot map the page at %#llx\n", phys);
		return -ENOMEM;
	}
	error = header_check(phys, header);
	memunmap(header);
	if (error)
		return error;

	region.base = memremap(phys, ORTHROS_REGION_SIZE, MEMREMAP_WB);
	if (!region.base) {
		pr_err("cannot map the region at %#llx\n", phys);
		return -ENOMEM;
	}
	region.phys = phys;
	region.header = region.base + ORTHROS_HEADER_OFFSET;
	region.control = region.base + ORTHROS_CONTROL_OFFSET;
	region.timeline = region.base + ORTHROS_TIMELINE_OFFSET;
	region.standby = region.base + ORTHROS_STANDBY_OFFSET;
	region.facts = region.base + ORTHROS_FACTS_OFFSET;
	region.protect = region.base + ORTHROS_PROTECT_OFFSET;
	region.retained = region.base + ORTHROS_RETAINED_OFFSET;
	return 0;
}

void region_unmap(void)
{
	memunmap(region.base);
	region.base = NULL;
}

/*
 * A failover is being handed over to this kernel. The gate alone does not say
 * so: it keeps its last value while the machine is armed again.
 */
bool region_is_successor(void)
{
	u64 state = word_read(watch_state);

	return (state == ORTHROS_WATCH_SALVAGING ||
		state == ORTHROS_WATCH_HANDING_OVER) &&
	       word_read(salvage_gate) != ORTHROS_GATE_NONE;
}

/* A sign of life for the backup OS. One that gets lost between two at once is followed by another. */
void region_alive(void)
{
	word_write(successor_heartbeat, word_read(successor_heartbeat) + 1);
}

/* Called before the first act of a level. One that has been reached stays so. */
int region_reach(u64 level)
{
	u64 before = word_read(commit_point);

	if (level != ORTHROS_COMMIT_MEMORY && level != ORTHROS_COMMIT_DISKS &&
	    level != ORTHROS_COMMIT_PROCESSES)
		return -EINVAL;
	while (before != ORTHROS_COMMIT_REVOKED) {
		u64 found;

		if (before >= level)
			return 0;
		found = cmpxchg(&region.control->commit_point, before, level);
		if (found == before)
			return 0;
		before = found;
	}
	pr_err("the backup OS is replacing this kernel\n");
	return -ECANCELED;
}

/*
 * The header's reserved_nursery changes hands at some moment of a failover;
 * which window this kernel lives in does not.
 */
u64 region_other_nursery(void)
{
	u64 other = 0;
	int i, ours = 0;

	for (i = 0; i < 2; i++) {
		u64 window = region.header->nursery[i];

		if (region_intersects(window, ORTHROS_NURSERY_SIZE,
				      IORESOURCE_SYSTEM_RAM,
				      IORES_DESC_NONE) == REGION_DISJOINT)
			other = window;
		else
			ours++;
	}
	return ours == 1 ? other : 0;
}
