// SPDX-License-Identifier: GPL-2.0
/*
 * Takes the dead kernel's RAM over, block by block, and keeps the frames whose
 * contents must outlive it out of the page allocator.
 *
 * Every frame of an added range is in one of these states:
 *   given      the page allocator has it
 *   withheld   retained (the salvager's bitmap says so) and waiting for its
 *              process: bit set in `withheld`
 *   forbidden  not RAM by the firmware's map, or in a window or in low memory
 *              that belongs to other kernels: never given, never adopted
 * A withheld frame leaves by adoption (adopt.c) or release.
 */
#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/ioport.h>
#include <linux/ktime.h>
#include <linux/memory.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <asm/e820/types.h>
#include "orthros.h"
#include "symbols.h"

/* Real-mode memory is shared out between the kernels for ever. */
#define LOW_MEMORY_END SZ_1M
/* Largest piece given to the allocator at once: a page block, within its limits. */
#define PIECE_ORDER pageblock_order
/* A request that gives frames back ends after so long: others wait for their turn. */
#define RELEASE_NS (20 * NSEC_PER_MSEC)

static unsigned long *withheld;
static u64 withheld_frames;  /* bits in the bitmap */
static atomic64_t withheld_count;
/* Every process has its memory: the other retained frames may become anybody's. */
static bool released;

/* The range being added. */
static struct frame_range range;
static u64 range_withheld, range_given;

u64 hotadd_withheld_count(void)
{
	return atomic64_read(&withheld_count);
}

bool hotadd_is_withheld(u64 pfn)
{
	return withheld && pfn < withheld_frames && test_bit(pfn, withheld);
}

bool hotadd_are_withheld(u64 pfn, u64 pages)
{
	u64 end = pfn + pages;

	return withheld && end <= withheld_frames &&
	       find_next_zero_bit(withheld, end, pfn) >= end;
}

bool hotadd_take(u64 pfn)
{
	if (!hotadd_is_withheld(pfn) || !test_and_clear_bit(pfn, withheld))
		return false;
	atomic64_dec(&withheld_count);
	return true;
}

void hotadd_put_back(u64 pfn)
{
	set_bit(pfn, withheld);
	atomic64_inc(&withheld_count);
}

static bool is_retained(u64 pfn)
{
	return word_read(salvage_gate) == ORTHROS_GATE_OPEN &&
	       pfn < ORTHROS_RETAINED_FRAMES && test_bit(pfn, region.retained);
}

bool hotadd_is_readable(u64 pfn)
{
	return !released && region_is_successor() && is_retained(pfn);
}

static int make_bitmap(void)
{
	u64 end = 0;
	int i, error;

	if (withheld)
		return 0;
	for (i = 0; i < region.header->ram_count; i++)
		if (region.header->ram[i].kind == E820_TYPE_RAM)
			end = max(end, region.header->ram[i].end);
	withheld_frames = min_t(u64, PHYS_PFN(end), ORTHROS_RETAINED_FRAMES);
	withheld = vzalloc(BITS_TO_LONGS(withheld_frames) * sizeof(long));
	if (!withheld)
		return -ENOMEM;
	error = keep_make(withheld_frames);
	if (error) {
		vfree(withheld);
		withheld = NULL;
	}
	return error;
}

/* Sets or clears the bits of [start, end) bytes, as far as they lie in the range. */
static void mark_range(u64 start, u64 end, bool kept)
{
	u64 first = clamp_t(u64, PFN_UP(start), range.first, range.end);
	u64 last = clamp_t(u64, PFN_DOWN(end), range.first, range.end);

	if (kept) {
		first = clamp_t(u64, PFN_DOWN(start), range.first, range.end);
		last = clamp_t(u64, PFN_UP(end), range.first, range.end);
	}
	if (first >= last)
		return;
	if (kept)
		bitmap_set(range.kept, first - range.first, last - first);
	else
		bitmap_clear(range.kept, first - range.first, last - first);
}

static void forbid(void)
{
	const struct orthros_header *header = region.header;
	int i;

	bitmap_fill(range.kept, range.end - range.first);
	for (i = 0; i < header->ram_count; i++)
		if (header->ram[i].kind == E820_TYPE_RAM)
			mark_range(header->ram[i].start, header->ram[i].end, false);
	for (i = 0; i < header->ram_count; i++)
		if (header->ram[i].kind != E820_TYPE_RAM)
			mark_range(header->ram[i].start, header->ram[i].end, true);
	mark_range(0, LOW_MEMORY_END, true);
	mark_range(region.phys, region.phys + ORTHROS_REGION_SIZE, true);
	if (region_other_nursery())
		mark_range(region_other_nursery(),
			   region_other_nursery() + ORTHROS_NURSERY_SIZE, true);
}

/* What remains and is retained is withheld, and kept as well. */
static void withhold(void)
{
	u64 end = min(range.end, withheld_frames), pfn;

	if (word_read(salvage_gate) != ORTHROS_GATE_OPEN)
		return;
	for (pfn = find_next_bit(region.retained, end, range.first); pfn < end;
	     pfn = find_next_bit(region.retained, end, pfn + 1)) {
		if (__test_and_set_bit(pfn - range.first, range.kept))
			continue;
		__set_bit(pfn, withheld);
		range_withheld++;
	}
}

/* Gives [first, end) in the largest aligned pieces. */
static void give(u64 first, u64 end)
{
	while (first < end) {
		unsigned int order = min_t(unsigned int, __fls(end - first),
					   min_t(unsigned int, __ffs(first), PIECE_ORDER));

		generic_online_page(pfn_to_page(first), order);
		range_given += 1ULL << order;
		first += 1ULL << order;
	}
}

static void give_unkept(u64 pfn, u64 end)
{
	while (pfn < end) {
		u64 stop = range.first + find_next_bit(range.kept, end - range.first,
						       pfn - range.first);

		give(pfn, stop);
		pfn = range.first + find_next_zero_bit(range.kept, end - range.first,
						       stop - range.first);
	}
}

/*
 * A forbidden frame is a reserved page, whatever added memory begins as (6.12:
 * offline): ioremap() of what the firmware keeps there insists on it.
 */
static void reserve_forbidden(u64 pfn, u64 end)
{
	u64 size = end - range.first, at = pfn - range.first;

	for (at = find_next_bit(range.kept, size, at); at < size;
	     at = find_next_bit(range.kept, size, at + 1)) {
		struct page *page = pfn_to_page(range.first + at);

		if (hotadd_is_withheld(range.first + at))
			continue;
#if KERNEL_HAS_FOLIO_RMAP
		if (PageOffline(page))
			__ClearPageOffline(page);
#endif
		__SetPageReserved(page);
	}
}

/* Called for each aligned piece of a block that comes online. */
static void online_page(struct page *page, unsigned int order)
{
	u64 pfn = page_to_pfn(page), end = pfn + (1ULL << order);

	if (pfn < range.first || end > range.end) {
		generic_online_page(page, order);
		return;
	}
	give_unkept(pfn, end);
	reserve_forbidden(pfn, end);
}

static int add_and_online(u64 start, u64 size)
{
	u64 block = memory_block_size_bytes(), at;
	int saved = *symbols.mhp_default_online_type;
	int error = resources_clear(start, start + size);

	if (error)
		return error;
	error = set_online_page_callback(online_page);
	if (error) {
		pr_err("another driver handles the onlining of memory\n");
		return error;
	}
	WRITE_ONCE(*symbols.mhp_default_online_type, MMOP_ONLINE);
	error = add_memory(0, start, size, MHP_NONE);
	WRITE_ONCE(*symbols.mhp_default_online_type, saved);
	restore_online_page_callback(online_page);
	if (error) {
		pr_err("memory [%#llx, %#llx) cannot be added (%d)\n", start,
		       start + size, error);
		return error;
	}
	resources_enter_firmware(start, start + size);
	/* Blocks that do not come online are no error of add_memory(). */
	for (at = start; at < start + size; at += block)
		if (!pfn_to_online_page(PHYS_PFN(at))) {
			pr_err("memory block %#llx did not come online\n", at);
			return -EIO;
		}
	return 0;
}

/*
 * A block that lies in a window is never added; with blocks larger than a
 * window the window's part of the block is forbidden instead.
 */
static bool has_block_in(u64 window, u64 window_size, u64 start, u64 size)
{
	u64 block = memory_block_size_bytes();

	return window && block <= window_size && start < window + window_size &&
	       window < start + size;
}

static int check_request(const struct orthros_add_memory *request)
{
	u64 block = memory_block_size_bytes();
	u64 gate = word_read(salvage_gate);

	if (!region_is_successor() ||
	    (gate != ORTHROS_GATE_OPEN && gate != ORTHROS_GATE_FAILED) || released)
		return -EPERM;
	if (!request->size || !IS_ALIGNED(request->start | request->size, block) ||
	    request->start + request->size < request->start ||
	    PHYS_PFN(request->start + request->size) > ORTHROS_RETAINED_FRAMES)
		return -EINVAL;
	if (has_block_in(region.phys, ORTHROS_REGION_SIZE, request->start, request->size) ||
	    has_block_in(region_other_nursery(), ORTHROS_NURSERY_SIZE, request->start,
			 request->size))
		return -EINVAL;
	return 0;
}

/* Takes the bits of frames back that never got a struct page. */
static void forget_withheld(void)
{
	u64 pfn;

	for (pfn = range.first; pfn < min(range.end, withheld_frames); pfn++)
		if (!pfn_to_online_page(pfn) && test_bit(pfn, withheld)) {
			__clear_bit(pfn, withheld);
			range_withheld--;
		}
}

/* Whether this kernel has a part of the block already. */
static bool is_present(u64 start)
{
	return pfn_to_online_page(PHYS_PFN(start)) != NULL;
}

/* Before frames are withheld, so that withheld ones are mapped as well. */
static int open_present_blocks(u64 start, u64 end)
{
	u64 block = memory_block_size_bytes(), at;
	int error;

	for (at = start; at < end; at += block) {
		error = is_present(at) ?
			fill_open(&range, PHYS_PFN(at), PHYS_PFN(at + block)) : 0;
		if (error)
			return error;
	}
	return 0;
}

static int add_blocks(u64 start, u64 end)
{
	u64 block = memory_block_size_bytes(), stop;
	int error = 0;

	for (; start < end && !error; start = stop) {
		bool present = is_present(start);

		stop = start + block;
		while (stop < end && is_present(stop) == present)
			stop += block;
		if (present)
			give_unkept(PHYS_PFN(start), PHYS_PFN(stop));
		else
			error = add_and_online(start, stop - start);
	}
	return error;
}

int hotadd_add(struct orthros_add_memory *request)
{
	u64 begin = ktime_get_ns(), start = request->start, end = start + request->size;
	int error = check_request(request) ?: make_bitmap() ?:
		    region_reach(ORTHROS_COMMIT_MEMORY);

	if (error)
		return error;
	region_alive();
	range_withheld = range_given = 0;
	range.first = PHYS_PFN(start);
	range.end = PHYS_PFN(end);
	range.kept = vzalloc(BITS_TO_LONGS(range.end - range.first) * sizeof(long));
	if (!range.kept)
		return -ENOMEM;
	forbid();
	fill_keep_own(&range);
	error = open_present_blocks(start, end);
	if (!error) {
		withhold();
		error = add_blocks(start, end);
		if (error)
			forget_withheld();
	}
	vfree(range.kept);
	atomic64_add(range_withheld, &withheld_count);
	request->withheld = range_withheld;
	request->given = range_given;
	request->nanoseconds = ktime_get_ns() - begin;
	memset(&range, 0, sizeof(range));
	return error;
}

/*
 * Frame by frame: one with program text in it takes an emulator up to a tenth of a
 * second, and the allocator puts neighbours together by itself.
 */
static void release_frame(u64 pfn)
{
	struct page *page = pfn_to_page(pfn);

	clear_page(page_address(page));
	__ClearPageReserved(page);
	__clear_bit(pfn, withheld);
	generic_online_page(page, 0);
	atomic64_dec(&withheld_count);
}

/* No frame in the other window is needed any more: the next kernel may boot there. */
void hotadd_free_other_nursery(void)
{
	u64 other = region_other_nursery();
	int i;

	for (i = 0; i < ARRAY_SIZE(region.header->nursery); i++)
		if (other && region.header->nursery[i] == other)
			word_write(nursery_free, i + 1);
}

/*
 * A very busy machine needs long until every process has all of its memory. That
 * ordinary threads get their turn meanwhile is what there is to say.
 */
static void say_alive(struct work_struct *work)
{
	region_alive();
	schedule_delayed_work(to_delayed_work(work), HZ);
}

static DECLARE_DELAYED_WORK(alive, say_alive);

/* Until nothing of the dead kernel is needed any more but by those who have it. */
static void settle(void)
{
	schedule_delayed_work(&alive, HZ);
	keep_end();
	lazy_finish();
	released = true;
	keep_settle();
	hotadd_free_other_nursery();
	cancel_delayed_work_sync(&alive);
}

/* The first request only makes sure that nobody can want a frame any more. */
int hotadd_release(struct orthros_release *reply)
{
	u64 begin = ktime_get_ns(), pfn = 0;

	reply->released = 0;
	if (!released) {
		/* Until then another successor may need them. */
		int error = region_is_successor() ?
				region_reach(ORTHROS_COMMIT_PROCESSES) : -EPERM;

		if (error)
			return error;
		settle();
	} else if (hotadd_withheld_count()) {
		/* One at least, however long this thread had to wait for its turn. */
		do {
			pfn = find_next_bit(withheld, withheld_frames, pfn);
			if (pfn >= withheld_frames)
				break;
			release_frame(pfn);
			reply->released++;
			cond_resched();
		} while (hotadd_withheld_count() && ktime_get_ns() - begin < RELEASE_NS);
	}
	reply->left = hotadd_withheld_count();
	reply->nanoseconds = ktime_get_ns() - begin;
	return 0;
}

/* Withheld frames stay what they are: lost to this kernel, but unharmed. */
void hotadd_stop(void)
{
	if (hotadd_withheld_count())
		pr_warn("%llu retained frames were neither adopted nor released\n",
			hotadd_withheld_count());
	vfree(withheld);
	withheld = NULL;
}
