// SPDX-License-Identifier: GPL-2.0
/*
 * Reads the kernel's BTF (Documentation/bpf/btf.rst) as far as prototypes and
 * member offsets need it. The kernel's own reader is not for modules.
 *
 * The blob is the running kernel's and trusted to be well-formed, but every
 * access is bounded all the same: an unknown future kind makes the module
 * refuse to load, nothing more.
 */
#include <linux/vmalloc.h>
#include <uapi/linux/btf.h>
#include "btf.h"
#include "orthros.h"

/* Nesting of modifiers, pointers and anonymous structures that is followed. */
#define DEPTH 16
#define PROTOTYPE_SIZE 256

struct reader {
	const u8 *types;
	u32 types_size;
	const char *strings;
	u32 strings_size;
	u32 *offsets; /* of type id - 1 */
	u32 count;
};

static int open_blob(struct reader *reader, const void *btf, size_t size)
{
	const struct btf_header *header = btf;
	size_t body;

	if (size < sizeof(*header) || header->magic != BTF_MAGIC ||
	    header->version != BTF_VERSION || header->hdr_len > size)
		return -EINVAL;
	body = size - header->hdr_len;
	if (header->type_off > body || header->type_len > body - header->type_off ||
	    header->str_off > body || header->str_len > body - header->str_off ||
	    !header->str_len)
		return -EINVAL;
	reader->types = btf + header->hdr_len + header->type_off;
	reader->types_size = header->type_len;
	reader->strings = btf + header->hdr_len + header->str_off;
	reader->strings_size = header->str_len;
	return reader->strings[header->str_len - 1] ? -EINVAL : 0;
}

/* Bytes of a type with what follows it; 0 for an unknown kind. */
static u32 type_size(const struct btf_type *type)
{
	u32 vlen = BTF_INFO_VLEN(type->info), extra;

	switch (BTF_INFO_KIND(type->info)) {
	case BTF_KIND_PTR:
	case BTF_KIND_FWD:
	case BTF_KIND_TYPEDEF:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_CONST:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_FUNC:
	case BTF_KIND_FLOAT:
	case BTF_KIND_TYPE_TAG:
		extra = 0;
		break;
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		extra = 4;
		break;
	case BTF_KIND_ARRAY:
		extra = sizeof(struct btf_array);
		break;
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		extra = vlen * sizeof(struct btf_member);
		break;
	case BTF_KIND_ENUM:
		extra = vlen * sizeof(struct btf_enum);
		break;
	case BTF_KIND_ENUM64:
		extra = vlen * sizeof(struct btf_enum64);
		break;
	case BTF_KIND_FUNC_PROTO:
		extra = vlen * sizeof(struct btf_param);
		break;
	case BTF_KIND_DATASEC:
		extra = vlen * sizeof(struct btf_var_secinfo);
		break;
	default:
		return 0;
	}
	return sizeof(*type) + extra;
}

static const struct btf_type *type_at(const struct reader *reader, u32 id)
{
	if (!id || id > reader->count)
		return NULL;
	return (const void *)(reader->types + reader->offsets[id - 1]);
}

static const char *name_at(const struct reader *reader, u32 offset)
{
	return offset < reader->strings_size ? reader->strings + offset : "";
}

static int index_types(struct reader *reader)
{
	u32 at = 0, room = reader->types_size / sizeof(struct btf_type);

	reader->offsets = vmalloc_array(room, sizeof(*reader->offsets));
	if (!reader->offsets)
		return -ENOMEM;
	while (at < reader->types_size) {
		const struct btf_type *type = (const void *)(reader->types + at);
		u32 size;

		if (reader->types_size - at < sizeof(*type))
			return -EINVAL;
		size = type_size(type);
		if (!size || size > reader->types_size - at)
			return -EINVAL;
		reader->offsets[reader->count++] = at;
		at += size;
	}
	return 0;
}

/* Skips typedef-less modifiers; counts pointers on the way. */
static const char *type_name(const struct reader *reader, u32 id, int *pointers)
{
	int depth;

	*pointers = 0;
	for (depth = 0; depth < DEPTH && id; depth++) {
		const struct btf_type *type = type_at(reader, id);

		if (!type)
			return "?";
		switch (BTF_INFO_KIND(type->info)) {
		case BTF_KIND_PTR:
			++*pointers;
			fallthrough;
		case BTF_KIND_CONST:
		case BTF_KIND_VOLATILE:
		case BTF_KIND_RESTRICT:
		case BTF_KIND_TYPE_TAG:
			id = type->type;
			break;
		default:
			return name_at(reader, type->name_off);
		}
	}
	return id ? "?" : "void";
}

static int append_type(const struct reader *reader, u32 id, char *text, int at)
{
	int pointers;

	at += scnprintf(text + at, PROTOTYPE_SIZE - at, "%s",
			type_name(reader, id, &pointers));
	while (pointers-- > 0)
		at += scnprintf(text + at, PROTOTYPE_SIZE - at, "*");
	return at;
}

static void spell_prototype(const struct reader *reader, u32 id, char *text)
{
	const struct btf_type *proto = type_at(reader, id);
	const struct btf_param *params;
	u32 i;
	int at;

	text[0] = 0;
	if (!proto || BTF_INFO_KIND(proto->info) != BTF_KIND_FUNC_PROTO)
		return;
	params = (const void *)(proto + 1);
	at = append_type(reader, proto->type, text, 0);
	for (i = 0; i < BTF_INFO_VLEN(proto->info); i++) {
		at += scnprintf(text + at, PROTOTYPE_SIZE - at, i ? "," : "(");
		at = append_type(reader, params[i].type, text, at);
	}
	scnprintf(text + at, PROTOTYPE_SIZE - at, i ? ")" : "()");
}

static bool compare_function(const struct reader *reader,
			     const struct btf_type *type,
			     struct expected_function *expected)
{
	char text[PROTOTYPE_SIZE];

	spell_prototype(reader, type->type, text);
	expected->seen = true;
	if (!strcmp(text, expected->prototype))
		return true;
	pr_err("%s is \"%s\" in this kernel, the module was written for \"%s\"\n",
	       expected->name, text, expected->prototype);
	return false;
}

/* Offset in bytes of a member, -1 if the structure has none of that name. */
static s64 find_member(const struct reader *reader, const struct btf_type *type,
		       const char *name, int depth)
{
	const struct btf_member *members = (const void *)(type + 1);
	bool bitfields = BTF_INFO_KFLAG(type->info);
	u32 i;

	for (i = 0; i < BTF_INFO_VLEN(type->info); i++) {
		u32 bits = bitfields ? BTF_MEMBER_BIT_OFFSET(members[i].offset) :
				       members[i].offset;
		const char *found = name_at(reader, members[i].name_off);
		const struct btf_type *inner;
		s64 offset;

		if (!strcmp(found, name))
			return bits / 8;
		if (*found || depth >= DEPTH)
			continue;
		inner = type_at(reader, members[i].type);
		if (!inner || (BTF_INFO_KIND(inner->info) != BTF_KIND_STRUCT &&
			       BTF_INFO_KIND(inner->info) != BTF_KIND_UNION))
			continue;
		offset = find_member(reader, inner, name, depth + 1);
		if (offset >= 0)
			return bits / 8 + offset;
	}
	return -1;
}

static bool compare_member(const struct reader *reader,
			   const struct btf_type *type,
			   struct expected_member *expected)
{
	s64 offset = find_member(reader, type, expected->member, 0);

	expected->seen = true;
	if (offset == expected->offset)
		return true;
	pr_err("%s.%s lies at %lld in this kernel, the module was built for %u\n",
	       expected->structure, expected->member, offset, expected->offset);
	return false;
}

/*
 * Which names may be wanted, by their first bytes: the kernel has some 60,000
 * functions, and this runs while processes wait to be resumed.
 */
struct filter {
	DECLARE_BITMAP(wanted, 512);
};

static unsigned int start_hash(const char *name)
{
	unsigned int hash = 0, i;

	for (i = 0; i < 6 && name[i]; i++)
		hash = hash * 31 + (u8)name[i];
	return hash % 512;
}

static void want(struct filter *filter, const char *name)
{
	__set_bit(start_hash(name), filter->wanted);
}

static bool may_be_wanted(const struct filter *filter, const char *name)
{
	return test_bit(start_hash(name), filter->wanted);
}

int btf_compare(const void *btf, size_t size,
		struct expected_function *functions, size_t function_count,
		struct expected_member *members, size_t member_count)
{
	struct filter wanted_functions = {}, wanted_structures = {};
	struct reader reader = {};
	bool good = true;
	size_t i;
	u32 id;
	int error = open_blob(&reader, btf, size) ?: index_types(&reader);

	if (error) {
		pr_err("the kernel's BTF cannot be read (%d)\n", error);
		goto out;
	}
	for (i = 0; i < function_count; i++)
		want(&wanted_functions, functions[i].name);
	for (i = 0; i < member_count; i++)
		want(&wanted_structures, members[i].structure);
	for (id = 1; id <= reader.count; id++) {
		const struct btf_type *type = type_at(&reader, id);
		const char *name = name_at(&reader, type->name_off);

		switch (BTF_INFO_KIND(type->info)) {
		case BTF_KIND_FUNC:
			if (!may_be_wanted(&wanted_functions, name))
				break;
			for (i = 0; i < function_count; i++)
				if (!functions[i].seen && !strcmp(name, functions[i].name))
					good &= compare_function(&reader, type, &functions[i]);
			break;
		case BTF_KIND_STRUCT:
			if (!may_be_wanted(&wanted_structures, name))
				break;
			for (i = 0; i < member_count; i++)
				if (!members[i].seen && !strcmp(name, members[i].structure))
					good &= compare_member(&reader, type, &members[i]);
			break;
		}
	}
	for (i = 0; i < function_count; i++)
		if (!functions[i].seen) {
			pr_err("the kernel's BTF has no function %s\n", functions[i].name);
			good = false;
		}
	for (i = 0; i < member_count; i++)
		if (!members[i].seen) {
			pr_err("the kernel's BTF has no struct %s\n", members[i].structure);
			good = false;
		}
	error = good ? 0 : -ENOEXEC;
out:
	vfree(reader.offsets);
	return error;
}
