// SPDX-License-Identifier: GPL-2.0
/*
 * Stages a kernel while another one runs: fills the slot that the running one
 * is not from, and makes it the current one with one word.
 *
 * What was staged before is given up only when its slot is needed, and then the
 * running kernel's own slot takes its place until the new one is whole: a
 * failure at any moment finds a kernel that can take over.
 */
#include <linux/mm.h>
#include <linux/uaccess.h>
#include "orthros.h"

static int open_slot = -1;

static struct orthros_stage_table *table(void)
{
	return region.base + ORTHROS_STAGE_TABLE_OFFSET;
}

static u64 slot_offset(int slot)
{
	return slot ? ORTHROS_STAGED_1_OFFSET : ORTHROS_STAGED_0_OFFSET;
}

/* Until the hand-over is complete the slots are the backup OS's. */
static bool handing_over(void)
{
	u64 state = word_read(watch_state);

	return state != ORTHROS_WATCH_ARMED && state != ORTHROS_WATCH_UNARMED;
}

int stage_begin(struct orthros_stage_begin *reply)
{
	u64 running = word_read(successor_slot);
	struct orthros_stage_table *stage = table();
	int slot;

	if (handing_over())
		return -EBUSY;
	/* The running kernel is what a failover goes back to. */
	slot = running < 2 ? !running : !(stage->current_slot & 1);
	if (stage->current_slot == slot && running < 2 && stage->slots[running].valid == 1)
		smp_store_release(&stage->current_slot, running);
	smp_store_release(&stage->slots[slot].valid, 0);
	open_slot = slot;
	reply->slot = slot;
	reply->room = ORTHROS_STAGED_SIZE;
	return 0;
}

int stage_write(const struct orthros_stage_write *request)
{
	void *to;

	if (open_slot < 0)
		return -EBADFD;
	if (handing_over())
		return -EBUSY;
	if (request->length > ORTHROS_STAGE_WRITE_MOST)
		return -EINVAL;
	if (request->offset > ORTHROS_STAGED_SIZE ||
	    request->length > ORTHROS_STAGED_SIZE - request->offset)
		return -EFBIG;
	to = region.base + slot_offset(open_slot) + request->offset;
	if (copy_from_user(to, u64_to_user_ptr(request->data), request->length))
		return -EFAULT;
	return 0;
}

static bool lies_in_slot(const struct orthros_stage_commit *request)
{
	return request->kernel_len && request->kernel_len <= ORTHROS_STAGED_SIZE &&
	       PAGE_ALIGNED(request->initramfs_offset) &&
	       request->initramfs_offset >= request->kernel_len &&
	       request->initramfs_offset <= ORTHROS_STAGED_SIZE &&
	       request->initramfs_len <= ORTHROS_STAGED_SIZE - request->initramfs_offset;
}

int stage_commit(struct orthros_stage_commit *request)
{
	struct orthros_stage_words *words = region.base + ORTHROS_STAGE_WORDS_OFFSET;
	struct orthros_stage_table *stage = table();
	struct orthros_staged_kernel *staged;
	u64 address;

	if (open_slot < 0)
		return -EBADFD;
	if (handing_over())
		return -EBUSY;
	if (!lies_in_slot(request) || request->cmdline_len >= ORTHROS_CMDLINE_SIZE)
		return -EINVAL;
	staged = &stage->slots[open_slot];
	address = region.phys + slot_offset(open_slot);
	memset(staged, 0, sizeof(*staged));
	if (copy_from_user(staged->cmdline, u64_to_user_ptr(request->cmdline),
			   request->cmdline_len))
		return -EFAULT;
	staged->kernel = address;
	staged->kernel_len = request->kernel_len;
	staged->initramfs = address + request->initramfs_offset;
	staged->initramfs_len = request->initramfs_len;
	staged->kernel_digest = request->kernel_digest;
	staged->initramfs_digest = request->initramfs_digest;
	stage->failed[open_slot] = 0;
	smp_store_release(&staged->valid, 1);
	smp_store_release(&stage->current_slot, open_slot);
	request->request = words->request + 1;
	smp_store_release(&words->request, request->request);
	open_slot = -1;
	return 0;
}
