// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/orthros, for root alone: ioctls, the region to look at, and the contents
 * of retained frames. The interface is shared-region/src/device.rs.
 */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <asm/tsc.h>
#include "orthros.h"

/* One request at a time: the successor's agent is the only one in a hurry. */
static DEFINE_MUTEX(request_lock);

union request {
	struct orthros_info info;
	struct orthros_protect protect;
	struct orthros_add_memory add_memory;
	struct orthros_adopt adopt;
	struct orthros_lazy lazy;
	struct orthros_cache cache;
	struct orthros_warm warm;
	struct orthros_release release;
	struct orthros_resume_call resume_call;
	struct orthros_mark mark;
	struct orthros_write_report write_report;
	struct orthros_test test;
	struct orthros_task_state task_state;
	struct orthros_wake wake;
	struct orthros_rest rest;
	struct orthros_configure configure;
	struct orthros_commit commit;
	struct orthros_stage_begin stage_begin;
	struct orthros_stage_write stage_write;
	struct orthros_stage_commit stage_commit;
	struct orthros_update update;
	struct orthros_peer_credentials peer_credentials;
	struct orthros_tcp tcp;
	struct orthros_inotify_event inotify_event;
	struct orthros_tcp_end tcp_end;
	struct orthros_netlink netlink;
	struct orthros_io_uring io_uring;
	struct orthros_rescue_area rescue_area;
};

static void fill_info(struct orthros_info *info)
{
	*info = (struct orthros_info){
		.abi_version = ORTHROS_ABI_VERSION,
		.region = region.phys,
		.successor = region_is_successor(),
		.withheld = hotadd_withheld_count(),
	};
}

static int configure(const struct orthros_configure *request)
{
	switch (request->limit) {
	case ORTHROS_WARM_CACHE_LIMIT:
		return warm_configure(request->value);
	/* Words that the backup OS believes only if they are addresses that somebody can have. */
	case ORTHROS_STATUS_ADDRESS:
		word_write(status_address, request->value);
		return 0;
	case ORTHROS_LOG_TARGET:
		word_write(log_target, request->value);
		return 0;
	default:
		return hang_configure(request);
	}
}

/* The backup OS believes none of it while the state is 0, and looks when this kernel is dead. */
static int name_rescue_area(const struct orthros_rescue_area *wanted)
{
	struct orthros_rescue_area *words = region.base + ORTHROS_RESCUE_WORDS_OFFSET;
	u64 within = wanted->within[0], end;

	if (wanted->state > ORTHROS_RESCUE_FILE ||
	    check_add_overflow(within, wanted->within[1], &end) || end > wanted->disk_sectors ||
	    wanted->sectors > wanted->within[1] || wanted->start < within || wanted->start > end)
		return -EINVAL;
	smp_store_release(&words->state, 0);
	words->function = wanted->function;
	words->start = wanted->start;
	words->sectors = wanted->sectors;
	words->disk_sectors = wanted->disk_sectors;
	memcpy(words->id, wanted->id, sizeof(words->id));
	memcpy(words->serial, wanted->serial, sizeof(words->serial));
	memcpy(words->within, wanted->within, sizeof(words->within));
	smp_store_release(&words->state, wanted->state);
	return 0;
}

/* Only instants of the successor, and only forward: the rest is the backup OS's. */
static int mark(const struct orthros_mark *request)
{
	bool stamp = request->event != U64_MAX, move = request->phase != U64_MAX;

	if (stamp && request->event != ORTHROS_EVENT_NETWORK_WANTED &&
	    (request->event < ORTHROS_EVENT_INIT_STARTED ||
	     request->event > ORTHROS_EVENT_COMPLETE))
		return -EINVAL;
	if (move && (request->phase > ORTHROS_PHASE_COMPLETE ||
		     request->phase < word_read(successor_phase)))
		return -EINVAL;
	if (move && request->phase >= ORTHROS_PHASE_MEMORY_ADDED &&
	    region_reach(ORTHROS_COMMIT_MEMORY))
		return -ECANCELED;
	if (stamp)
		WRITE_ONCE(region.timeline->tsc[request->event],
			   request->tsc ?: rdtsc_ordered());
	word_write(processes_resumed,
		   word_read(processes_resumed) + request->resumed);
	region_alive();
	if (move) {
		/* What this kernel is now differs from what it was when loaded. */
		if (request->phase == ORTHROS_PHASE_COMPLETE) {
			/* Without it hangs are not noticed; panics are. */
			if (hang_start())
				pr_warn("hangs of this kernel will not be noticed\n");
			facts_publish();
		}
		word_write(successor_phase, request->phase);
	}
	return 0;
}

static int write_report(const struct orthros_write_report *request)
{
	if (request->length > ORTHROS_REPORT_SIZE)
		return -EFBIG;
	if (copy_from_user(region.base + ORTHROS_REPORT_OFFSET,
			   u64_to_user_ptr(request->data), request->length))
		return -EFAULT;
	return 0;
}

static int commit(const struct orthros_commit *request)
{
	bool processes = request->level == ORTHROS_COMMIT_PROCESSES;
	int error = region_is_successor() ? 0 : -EPERM;

	/* From then on a failure of this kernel is like any other's. */
	if (!error && processes)
		error = facts_publish();
	error = error ?: region_reach(request->level);
	if (!error && processes) {
		hotadd_free_other_nursery();
		keep_end();
	}
	return error;
}

static int dispatch(unsigned int command, union request *request)
{
	switch (command) {
	case ORTHROS_INFO:
		fill_info(&request->info);
		return 0;
	case ORTHROS_PROTECT:
		return protect_add(&request->protect);
	case ORTHROS_UNPROTECT:
		return protect_remove(&request->protect);
	case ORTHROS_ADD_MEMORY:
		return hotadd_add(&request->add_memory);
	case ORTHROS_ADOPT:
		return adopt_frames(&request->adopt);
	case ORTHROS_LAZY:
		return lazy_go(&request->lazy);
	case ORTHROS_CACHE:
		return cache_write(&request->cache);
	case ORTHROS_WARM:
		return warm_put(&request->warm);
	case ORTHROS_RELEASE:
		return hotadd_release(&request->release);
	case ORTHROS_RESUME:
		return resume_call(&request->resume_call);
	case ORTHROS_MARK:
		return mark(&request->mark);
	case ORTHROS_WRITE_REPORT:
		return write_report(&request->write_report);
	case ORTHROS_TEST:
		return test_fail(&request->test);
	case ORTHROS_TASK_STATE:
		return resume_task_state(&request->task_state);
	case ORTHROS_WAKE:
		return orthros_wake(&request->wake);
	case ORTHROS_COMMIT:
		return commit(&request->commit);
	case ORTHROS_STAGE_BEGIN:
		return stage_begin(&request->stage_begin);
	case ORTHROS_STAGE_WRITE:
		return stage_write(&request->stage_write);
	case ORTHROS_STAGE_COMMIT:
		return stage_commit(&request->stage_commit);
	case ORTHROS_REST:
		return rest_begin(&request->rest);
	case ORTHROS_CONFIGURE:
		return configure(&request->configure);
	case ORTHROS_UPDATE:
		return update_go(&request->update);
	case ORTHROS_PEER_CREDENTIALS:
		return peer_credentials(&request->peer_credentials);
	case ORTHROS_TCP:
		return tcp_go(&request->tcp);
	case ORTHROS_INOTIFY_EVENT:
		return inotify_put(&request->inotify_event);
	case ORTHROS_TCP_END:
		return tcp_end(&request->tcp_end);
	case ORTHROS_NETLINK:
		return netlink_put(&request->netlink);
	case ORTHROS_IO_URING:
		return io_uring_go_on(&request->io_uring);
	case ORTHROS_RESCUE_AREA:
		return name_rescue_area(&request->rescue_area);
	default:
		return -ENOTTY;
	}
}

static long device_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	void __user *user = (void __user *)argument;
	union request request = {};
	size_t size = _IOC_SIZE(command);
	long error;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (size > sizeof(request))
		return -ENOTTY;
	if (copy_from_user(&request, user, size))
		return -EFAULT;
	if (mutex_lock_interruptible(&request_lock))
		return -EINTR;
	error = dispatch(command, &request);
	mutex_unlock(&request_lock);
	/* Even a failed call tells how far it came. */
	if (error != -ENOTTY && copy_to_user(user, &request, size))
		return -EFAULT;
	return error;
}

static int device_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long size = vma->vm_end - vma->vm_start;
	u64 offset = (u64)vma->vm_pgoff << PAGE_SHIFT;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (vma->vm_flags & VM_WRITE)
		return -EACCES;
	if (offset >= ORTHROS_REGION_SIZE || size > ORTHROS_REGION_SIZE - offset)
		return -EINVAL;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_clear(vma, VM_MAYWRITE);
#else
	vma->vm_flags &= ~VM_MAYWRITE;
#endif
	return remap_pfn_range(vma, vma->vm_start, PHYS_PFN(region.phys + offset),
			       size, vma->vm_page_prot);
}

/*
 * A physical address as file position. Frames are mapped one by one: they may
 * lie in RAM that was added, or in a window that never will be.
 */
static ssize_t device_read(struct file *file, char __user *user, size_t count,
			   loff_t *position)
{
	size_t done = 0;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (*position < 0)
		return -EINVAL;
	while (done < count) {
		u64 address = *position;
		size_t offset = offset_in_page(address);
		size_t part = min(count - done, PAGE_SIZE - offset);
		unsigned long left;
		void *frame;

		if (fatal_signal_pending(current))
			return done ?: -EINTR;
		mutex_lock(&request_lock);
		frame = hotadd_is_readable(PHYS_PFN(address)) ?
				memremap(address & PAGE_MASK, PAGE_SIZE, MEMREMAP_WB) :
				NULL;
		left = frame ? copy_to_user(user + done, frame + offset, part) : part;
		if (frame)
			memunmap(frame);
		mutex_unlock(&request_lock);
		if (!frame)
			return done ?: -ENXIO;
		if (left)
			return done ?: -EFAULT;
		done += part;
		*position += part;
		cond_resched();
	}
	return done;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = device_ioctl,
	.mmap = device_mmap,
	.read = device_read,
	.llseek = default_llseek,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "orthros",
	.fops = &operations,
	.mode = 0600,
};

int orthros_device_register(void)
{
	return misc_register(&device);
}

void orthros_device_unregister(void)
{
	misc_deregister(&device);
}
