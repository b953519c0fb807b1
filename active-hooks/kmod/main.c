// SPDX-License-Identifier: GPL-2.0
/*
 * orthros.ko: the hooks in the running kernel.
 *
 * What we know on entry: the loader has reserved the region named by the
 * parameter and written its header. The backup OS may be watching (this is the
 * active) or handing a dead kernel's machine over (this is the successor).
 *
 * What we are responsible for: nothing is registered before the region and the
 * kernel were found to be what this code was written for; facts are published
 * last and withdrawn first.
 */
#include <linux/init.h>
#include <linux/module.h>
#include <asm/tsc.h>
#include "orthros.h"
#include "symbols.h"

static unsigned long long region_address;
module_param_named(region, region_address, ullong, 0444);
MODULE_PARM_DESC(region, "physical address of the region (required)");

bool orthros_allow_test;
module_param_named(allow_test, orthros_allow_test, bool, 0444);
MODULE_PARM_DESC(allow_test, "let the TEST ioctl make this kernel fail");

/* The module's words of an earlier kernel mean nothing to this one. */
static void reset_words(void)
{
	bool successor = region_is_successor();
	int i;

	for (i = 0; i < ARRAY_SIZE(region.control->inject_unparkable); i++)
		word_write(inject_unparkable[i], 0);
	word_write(inject, 0);
	word_write(nursery_free, 0);
	word_write(module_features, 0);
	word_write(successor_heartbeat, 0);
	word_write(processes_resumed, 0);
	word_write(frames_adopted, 0);
	word_write(frames_copied, 0);
	word_write(frames_refused, 0);
	/* A successor may have been revoked already. */
	if (!successor)
		word_write(commit_point, ORTHROS_COMMIT_OPEN);
	word_write(successor_phase,
		   successor ? ORTHROS_PHASE_MODULE : ORTHROS_PHASE_NONE);
	if (successor)
		WRITE_ONCE(region.timeline->tsc[ORTHROS_EVENT_MODULE_LOADED],
			   rdtsc_ordered());
}

/*
 * This kernel was booted ahead of the one that has died, and slept since: what
 * was done at load was done for a kernel that nobody needed yet.
 */
int orthros_wake(struct orthros_wake *reply)
{
	if (!region_is_successor())
		return -EPERM;
	rest_end();
	reset_words();
	protect_start();
	reply->successor = 1;
	return facts_publish();
}

static int __init orthros_init(void)
{
	int error = region_map(region_address);

	if (error)
		return error;
	error = symbols_resolve();
	if (error)
		goto unmap;
	reset_words();
	protect_start();
	error = stop_register();
	if (error)
		goto unmap;
	error = orthros_device_register();
	if (error)
		goto unregister_stop;
	if (!region_is_successor()) {
		error = hang_start();
		if (error)
			goto unregister_device;
	}
	error = netfilter_start();
	if (error)
		goto stop_answers;
	error = facts_publish();
	if (error)
		goto stop_netfilter;
	pr_info("region at %#llx, %s\n", region.phys,
		region_is_successor() ? "successor" : "active");
	return 0;

stop_netfilter:
	netfilter_stop();
stop_answers:
	hang_stop();
unregister_device:
	orthros_device_unregister();
unregister_stop:
	stop_unregister();
unmap:
	region_unmap();
	return error;
}

static void __exit orthros_exit(void)
{
	facts_withdraw();
	netfilter_stop();
	orthros_device_unregister();
	test_stop();
	rest_end();
	lazy_stop();
	keep_stop();
	hotadd_stop();
	hang_stop();
	stop_unregister();
	region_unmap();
}

module_init(orthros_init);
module_exit(orthros_exit);

MODULE_DESCRIPTION("Orthros: publishes facts about this kernel, hands CPUs over, takes memory over");
MODULE_VERSION("0.1.0");
MODULE_LICENSE("Dual MIT/GPL");
