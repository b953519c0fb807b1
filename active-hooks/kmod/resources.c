// SPDX-License-Identifier: GPL-2.0
/*
 * The tree of physical addresses (/proc/iomem) where it stands in the way of
 * the dead kernel's RAM.
 *
 * PCI has been enumerated and nothing is plugged while the agent works, so the
 * top level is walked without its lock, which is not for modules.
 */
#include <linux/ioport.h>
#include <linux/slab.h>
#include <asm/e820/types.h>
#include "orthros.h"

static bool is_removable(const struct resource *entry)
{
	return entry->desc == IORES_DESC_RESERVED ||
	       entry->desc == IORES_DESC_ACPI_TABLES ||
	       entry->desc == IORES_DESC_ACPI_NV_STORAGE;
}

/* Cuts [start, end) out of one entry of the top level. */
static int cut(struct resource *entry, u64 start, u64 end)
{
	struct resource *tail = NULL;

	if (entry->start < start && entry->end >= end) {
		tail = kmemdup(entry, sizeof(*entry), GFP_KERNEL);
		if (!tail)
			return -ENOMEM;
		tail->start = end;
		tail->parent = tail->sibling = tail->child = NULL;
	}
	if (remove_resource(entry)) {
		kfree(tail);
		return -EBUSY;
	}
	if (entry->start < start) {
		entry->end = start - 1;
		insert_resource(&iomem_resource, entry);
	} else if (entry->end >= end) {
		entry->start = end;
		insert_resource(&iomem_resource, entry);
	}
	if (tail)
		insert_resource(&iomem_resource, tail);
	return 0;
}

/*
 * The firmware's reserved areas, and the dead kernel's RAM if it was hidden as
 * such, are entries that RAM would collide with. What lies outside of
 * [start, end) stays.
 */
int resources_clear(u64 start, u64 end)
{
	struct resource *entry = iomem_resource.child;
	int error;

	while (entry) {
		if (entry->end < start || entry->start >= end) {
			entry = entry->sibling;
			continue;
		}
		if (!is_removable(entry)) {
			pr_err("%pR \"%s\" lies in [%#llx, %#llx)\n", entry,
			       entry->name, start, end);
			return -EEXIST;
		}
		error = cut(entry, start, end);
		if (error)
			return error;
		/* Its children have moved up. */
		entry = iomem_resource.child;
	}
	return 0;
}

static int enter(u64 start, u64 end, const char *name, unsigned long flags,
		 unsigned long desc)
{
	struct resource *entry = kzalloc(sizeof(*entry), GFP_KERNEL);
	int error;

	if (!entry)
		return -ENOMEM;
	entry->name = name;
	entry->start = start;
	entry->end = end - 1;
	entry->flags = flags;
	entry->desc = desc;
	error = insert_resource(&iomem_resource, entry);
	if (error)
		kfree(entry);
	return error;
}

/* Enters [start, end) as RAM, as add_memory() does. */
int resources_enter_ram(u64 start, u64 end)
{
	return enter(start, end, "System RAM", IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY,
		     IORES_DESC_NONE);
}

/* Takes [start, end) out of the RAM entry around it. */
static int carve(u64 start, u64 end)
{
	struct resource *ram = iomem_resource.child;
	u64 ram_end;

	while (ram && !(ram->start <= start && ram->end >= end - 1))
		ram = ram->sibling;
	if (!ram || !(ram->flags & IORESOURCE_SYSRAM))
		return -ENOENT;
	ram_end = ram->end + 1;
	if (ram->start == start)
		return adjust_resource(ram, end, ram_end - end);
	return adjust_resource(ram, ram->start, start - ram->start) ?:
	       (end < ram_end ? resources_enter_ram(end, ram_end) : 0);
}

/*
 * add_memory() enters whole blocks as RAM. What the firmware keeps of them is
 * entered as what it is again: who maps ACPI tables later looks here.
 */
void resources_enter_firmware(u64 start, u64 end)
{
	const struct orthros_header *header = region.header;
	int i;

	for (i = 0; i < header->ram_count; i++) {
		u64 from = max(header->ram[i].start, start);
		u64 to = min(header->ram[i].end, end);
		const char *name = "Reserved";
		unsigned long desc = IORES_DESC_RESERVED;

		if (header->ram[i].kind == E820_TYPE_RAM || from >= to)
			continue;
		if (header->ram[i].kind == E820_TYPE_ACPI) {
			name = "ACPI Tables";
			desc = IORES_DESC_ACPI_TABLES;
		} else if (header->ram[i].kind == E820_TYPE_NVS) {
			name = "ACPI Non-volatile Storage";
			desc = IORES_DESC_ACPI_NV_STORAGE;
		}
		if (carve(from, to) || enter(from, to, name, IORESOURCE_MEM, desc))
			pr_warn("[%#llx, %#llx) is shown as RAM, but is %s\n", from, to, name);
	}
}
