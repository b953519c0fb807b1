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

/* Enters [start, end) as RAM, as add_memory() does. */
int resources_enter_ram(u64 start, u64 end)
{
	struct resource *entry = kzalloc(sizeof(*entry), GFP_KERNEL);
	int error;

	if (!entry)
		return -ENOMEM;
	entry->name = "System RAM";
	entry->start = start;
	entry->end = end - 1;
	entry->flags = IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY;
	error = insert_resource(&iomem_resource, entry);
	if (error)
		kfree(entry);
	return error;
}
