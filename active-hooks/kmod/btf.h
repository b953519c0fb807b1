/* SPDX-License-Identifier: GPL-2.0 */
/* Compares what the code was written for with the running kernel's BTF. */
#ifndef ORTHROS_BTF_H
#define ORTHROS_BTF_H

#include <linux/types.h>

/*
 * A function that must have this prototype: "result(argument,argument)", each
 * type by its name with '*' for a pointer; const, volatile and restrict left out.
 */
struct expected_function {
	const char *name;
	const char *prototype;
	bool seen;
};

/* A member, possibly inside anonymous structures, that must lie at this offset. */
struct expected_member {
	const char *structure;
	const char *member;
	u32 offset;
	bool seen;
};

int btf_compare(const void *btf, size_t size,
		struct expected_function *functions, size_t function_count,
		struct expected_member *members, size_t member_count);

#endif
