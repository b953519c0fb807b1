// SPDX-License-Identifier: GPL-2.0
#include <linux/errno.h>
#include "orthros.h"
int hotadd_add(struct orthros_add_memory *request) { return -EOPNOTSUPP; }
int hotadd_release(struct orthros_release *reply) { return -EOPNOTSUPP; }
void hotadd_stop(void) {}
u64 hotadd_withheld_count(void) { return 0; }
bool hotadd_is_readable(u64 pfn) { return false; }
