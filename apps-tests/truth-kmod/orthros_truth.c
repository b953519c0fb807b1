// SPDX-License-Identifier: GPL-2.0
/*
 * Known structures in a real kernel's memory, for tests of the salvager.
 *
 * Builds lists, trees, xarrays and maple trees with contents the test knows,
 * some of them broken on purpose, and writes a table of them into one page
 * that can be found in a memory image by its first bytes. The walkers must
 * return the contents of the good ones and an error, within bounds, for the
 * broken ones. The layout of the table stands in
 * backup-os/salvage/tests/truth.rs as well.
 */
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/maple_tree.h>
#include <linux/module.h>
#include <linux/rbtree.h>
#include <linux/rbtree_augmented.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#define TRUTH_MAGIC 0x314854555254524full /* "ORTRUTH1" */
#define WILD ((void *)0xffffc0dedeadb000ul)
#define UNMAPPED ((void *)0x0000123456789000ul)

enum truth_kind {
	TRUTH_LIST = 1,
	TRUTH_HLIST = 2,
	TRUTH_RBTREE = 3,
	TRUTH_XARRAY = 4,
	TRUTH_MAPLE = 5,
};

/* One structure: what it is, where, and what is in it. */
struct truth_entry {
	u64 kind;
	u64 broken; /* 0 if a walk has to succeed */
	u64 address;
	u64 member; /* offset of the node in struct truth_item */
	u64 elements; /* for a broken one: at most so many before the error */
	u64 sum; /* of value × (position + 1), over the elements in order */
	char name[32];
};

struct truth_table {
	u64 magic;
	u64 self; /* virtual address of this table */
	u64 count;
	u64 item_value; /* offset of the value in struct truth_item */
	struct truth_entry entries[48];
};

struct truth_item {
	u64 value;
	struct list_head list;
	struct hlist_node hlist;
	struct rb_node rb;
};

static_assert(sizeof(struct truth_table) <= PAGE_SIZE);

static struct truth_table *table;

static void put(enum truth_kind kind, const char *name, bool broken, const void *address,
		u64 member, u64 elements, u64 sum)
{
	struct truth_entry *entry = &table->entries[table->count];

	if (table->count >= ARRAY_SIZE(table->entries))
		return;
	entry->kind = kind;
	entry->broken = broken;
	entry->address = (u64)address;
	entry->member = member;
	entry->elements = elements;
	entry->sum = sum;
	strscpy(entry->name, name, sizeof(entry->name));
	table->count++;
}

/* Values that are unlike pointers, flags and each other. */
static u64 value_of(u64 n)
{
	return (n + 1) * 0x9e3779b97f4a7c15ull >> 20 | 1;
}

static u64 sum_of(u64 n)
{
	u64 sum = 0, i;

	for (i = 0; i < n; i++)
		sum += value_of(i) * (i + 1);
	return sum;
}

static struct truth_item *new_item(u64 n)
{
	struct truth_item *item = kzalloc(sizeof(*item), GFP_KERNEL);

	if (item)
		item->value = value_of(n);
	return item;
}

static struct list_head *make_list(u64 n)
{
	struct list_head *head = kzalloc(sizeof(*head), GFP_KERNEL);
	u64 i;

	if (!head)
		return NULL;
	INIT_LIST_HEAD(head);
	for (i = 0; i < n; i++) {
		struct truth_item *item = new_item(i);

		if (!item)
			return NULL;
		list_add_tail(&item->list, head);
	}
	return head;
}

static struct list_head *nth(struct list_head *head, u64 n)
{
	while (n--)
		head = head->next;
	return head;
}

static int lists(void)
{
	static const u64 sizes[] = { 0, 1, 1000 };
	u64 member = offsetof(struct truth_item, list);
	struct list_head *head;
	int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		head = make_list(sizes[i]);
		if (!head)
			return -ENOMEM;
		put(TRUTH_LIST, "list", false, head, member, sizes[i], sum_of(sizes[i]));
	}
	head = make_list(10);
	if (!head)
		return -ENOMEM;
	nth(head, 10)->next = nth(head, 3); /* runs in a circle, without the head */
	put(TRUTH_LIST, "list with a cycle", true, head, member, 20, 0);

	head = make_list(10);
	if (!head)
		return -ENOMEM;
	nth(head, 5)->next = WILD;
	put(TRUTH_LIST, "list with a wild pointer", true, head, member, 10, 0);

	head = make_list(10);
	if (!head)
		return -ENOMEM;
	nth(head, 5)->next = UNMAPPED;
	put(TRUTH_LIST, "list with a user pointer", true, head, member, 10, 0);

	head = make_list(10);
	if (!head)
		return -ENOMEM;
	/* As a CPU leaves it that is stopped between the stores of list_del(). */
	nth(head, 6)->prev = nth(head, 4);
	put(TRUTH_LIST, "torn list", true, head, member, 10, 0);

	head = make_list(10);
	if (!head)
		return -ENOMEM;
	nth(head, 5)->next = (void *)&container_of(nth(head, 6), struct truth_item, list)->rb;
	put(TRUTH_LIST, "list into a tree's node", true, head, member, 10, 0);
	return 0;
}

static struct hlist_head *make_hlist(u64 n)
{
	struct hlist_head *head = kzalloc(sizeof(*head), GFP_KERNEL);

	if (!head)
		return NULL;
	while (n-- > 0) {
		struct truth_item *item = new_item(n);

		if (!item)
			return NULL;
		hlist_add_head(&item->hlist, head);
	}
	return head;
}

static int hlists(void)
{
	static const u64 sizes[] = { 0, 1, 100 };
	u64 member = offsetof(struct truth_item, hlist);
	struct hlist_head *head;
	int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		head = make_hlist(sizes[i]);
		if (!head)
			return -ENOMEM;
		put(TRUTH_HLIST, "hlist", false, head, member, sizes[i], sum_of(sizes[i]));
	}
	head = make_hlist(10);
	if (!head)
		return -ENOMEM;
	head->first->next->next->next = head->first;
	put(TRUTH_HLIST, "hlist with a cycle", true, head, member, 10, 0);

	head = make_hlist(10);
	if (!head)
		return -ENOMEM;
	head->first->next->next = WILD;
	put(TRUTH_HLIST, "hlist with a wild pointer", true, head, member, 10, 0);

	head = make_hlist(10);
	if (!head)
		return -ENOMEM;
	/* As between the stores of __hlist_del(): the next one leads back past a node. */
	head->first->next->next->pprev = &head->first->next;
	put(TRUTH_HLIST, "torn hlist", true, head, member, 10, 0);
	return 0;
}

static struct rb_root *make_tree(u64 n)
{
	struct rb_root *root = kzalloc(sizeof(*root), GFP_KERNEL);
	u64 i;

	if (!root)
		return NULL;
	/* Appending in order: the order of the tree is that of the numbers. */
	for (i = 0; i < n; i++) {
		struct rb_node **link = &root->rb_node, *parent = NULL;
		struct truth_item *item = new_item(i);

		if (!item)
			return NULL;
		while (*link) {
			parent = *link;
			link = &parent->rb_right;
		}
		rb_link_node(&item->rb, parent, link);
		rb_insert_color(&item->rb, root);
	}
	return root;
}

static int trees(void)
{
	static const u64 sizes[] = { 0, 1, 777 };
	u64 member = offsetof(struct truth_item, rb);
	struct rb_root *root;
	int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		root = make_tree(sizes[i]);
		if (!root)
			return -ENOMEM;
		put(TRUTH_RBTREE, "rb-tree", false, root, member, sizes[i], sum_of(sizes[i]));
	}
	root = make_tree(20);
	if (!root)
		return -ENOMEM;
	root->rb_node->rb_left->rb_left = root->rb_node;
	put(TRUTH_RBTREE, "rb-tree with a cycle", true, root, member, 20, 0);
	root = make_tree(20);
	if (!root)
		return -ENOMEM;
	root->rb_node->rb_right->rb_left = WILD;
	put(TRUTH_RBTREE, "rb-tree with a wild pointer", true, root, member, 20, 0);
	root = make_tree(20);
	if (!root)
		return -ENOMEM;
	/* As in a rotation: a child still names the parent it had before. */
	rb_set_parent(root->rb_node->rb_right->rb_right, root->rb_node);
	put(TRUTH_RBTREE, "torn rb-tree", true, root, member, 20, 0);
	root = make_tree(20);
	if (!root)
		return -ENOMEM;
	root->rb_node->rb_left = (void *)&rb_entry(root->rb_node->rb_left, struct truth_item, rb)->list;
	put(TRUTH_RBTREE, "rb-tree into a list's node", true, root, member, 20, 0);
	return 0;
}

/* Indices from one to all six levels of a tree. */
static unsigned long index_of(u64 n)
{
	return n < 100 ? n : n * n * 0x10001;
}

static struct xarray *make_xarray(u64 n)
{
	struct xarray *xa = kzalloc(sizeof(*xa), GFP_KERNEL);
	u64 i;

	if (!xa)
		return NULL;
	xa_init(xa);
	for (i = 0; i < n; i++) {
		struct truth_item *item = new_item(i);

		if (!item || xa_err(xa_store(xa, index_of(i), item, GFP_KERNEL)))
			return NULL;
		if (i % 3 == 0)
			xa_set_mark(xa, index_of(i), XA_MARK_0);
	}
	return xa;
}

static int xarrays(void)
{
	static const u64 sizes[] = { 0, 1, 500 };
	struct xarray *xa;
	struct xa_node *node;
	int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		xa = make_xarray(sizes[i]);
		if (!xa)
			return -ENOMEM;
		put(TRUTH_XARRAY, "xarray", false, xa, 0, sizes[i], sum_of(sizes[i]));
	}
	xa = make_xarray(200);
	if (!xa)
		return -ENOMEM;
	node = (void *)((unsigned long)xa->xa_head & ~3ul);
	node->slots[0] = (void *)((unsigned long)node | 2); /* its own child */
	put(TRUTH_XARRAY, "xarray with a cycle", true, xa, 0, 200, 0);
	xa = make_xarray(200);
	if (!xa)
		return -ENOMEM;
	node = (void *)((unsigned long)xa->xa_head & ~3ul);
	node->slots[0] = (void *)((unsigned long)WILD | 2);
	put(TRUTH_XARRAY, "xarray with a wild pointer", true, xa, 0, 200, 0);
	xa = make_xarray(200);
	if (!xa)
		return -ENOMEM;
	xa->xa_head = (void *)((unsigned long)new_item(0) | 2);
	put(TRUTH_XARRAY, "xarray whose node is an item", true, xa, 0, 200, 0);
	xa = make_xarray(200);
	if (!xa)
		return -ENOMEM;
	node = (void *)((unsigned long)xa->xa_head & ~3ul);
	node = (void *)((unsigned long)node->slots[0] & ~3ul);
	node->parent = (void *)node; /* as of a node that is being moved */
	put(TRUTH_XARRAY, "torn xarray", true, xa, 0, 200, 0);
	return 0;
}

static struct maple_tree *make_maple(u64 n, unsigned int flags)
{
	struct maple_tree *tree = kzalloc(sizeof(*tree), GFP_KERNEL);
	u64 i;

	if (!tree)
		return NULL;
	mt_init_flags(tree, flags);
	for (i = 0; i < n; i++) {
		struct truth_item *item = new_item(i);
		unsigned long first = i * 0x10000 + 0x1000;

		/* Ranges of one to eight pages, as of mappings. */
		if (!item || mtree_store_range(tree, first, first + (i % 8 + 1) * 0x1000 - 1,
					       item, GFP_KERNEL))
			return NULL;
	}
	return tree;
}

/* A child of the topmost node. */
static struct maple_node *maple_child(struct maple_tree *tree, int slot)
{
	struct maple_node *top = (void *)((unsigned long)tree->ma_root & ~0xfful);

	return (void *)((unsigned long)top->ma64.slot[slot] & ~0xfful);
}

static int maples(void)
{
	static const u64 sizes[] = { 0, 1, 10, 2000 };
	struct maple_tree *tree;
	int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		tree = make_maple(sizes[i], 0);
		if (!tree)
			return -ENOMEM;
		put(TRUTH_MAPLE, "maple tree", false, tree, 0, sizes[i], sum_of(sizes[i]));
		tree = make_maple(sizes[i], MT_FLAGS_ALLOC_RANGE);
		if (!tree)
			return -ENOMEM;
		put(TRUTH_MAPLE, "maple tree of gaps", false, tree, 0, sizes[i], sum_of(sizes[i]));
	}
	tree = make_maple(2000, MT_FLAGS_ALLOC_RANGE);
	if (!tree)
		return -ENOMEM;
	((struct maple_node *)((unsigned long)tree->ma_root & ~0xfful))->ma64.slot[1] = tree->ma_root;
	put(TRUTH_MAPLE, "maple tree with a cycle", true, tree, 0, 2000, 0);
	tree = make_maple(2000, MT_FLAGS_ALLOC_RANGE);
	if (!tree)
		return -ENOMEM;
	((struct maple_node *)((unsigned long)tree->ma_root & ~0xfful))->ma64.slot[1] = WILD;
	put(TRUTH_MAPLE, "maple tree, wild pointer", true, tree, 0, 2000, 0);
	tree = make_maple(2000, MT_FLAGS_ALLOC_RANGE);
	if (!tree)
		return -ENOMEM;
	/* The type of a node stands in bits 3 to 6 of what leads to it; there is no type 15. */
	tree->ma_root = (void *)((unsigned long)tree->ma_root | 0x78);
	put(TRUTH_MAPLE, "maple tree of no known type", true, tree, 0, 2000, 0);
	tree = make_maple(2000, MT_FLAGS_ALLOC_RANGE);
	if (!tree)
		return -ENOMEM;
	maple_child(tree, 1)->parent = maple_child(tree, 0)->parent; /* the slot is another's */
	put(TRUTH_MAPLE, "torn maple tree", true, tree, 0, 2000, 0);
	return 0;
}

static int __init truth_init(void)
{
	int error;

	table = (void *)get_zeroed_page(GFP_KERNEL);
	if (!table)
		return -ENOMEM;
	table->self = (u64)table;
	table->item_value = offsetof(struct truth_item, value);
	error = lists() ?: hlists() ?: trees() ?: xarrays() ?: maples();
	if (error)
		return error;
	/* Last: a table without its magic is not whole. */
	WRITE_ONCE(table->magic, TRUTH_MAGIC);
	pr_info("orthros_truth: %llu structures\n", table->count);
	return 0;
}

/* The structures stay until the machine ends: broken ones cannot be freed. */
module_init(truth_init);
MODULE_DESCRIPTION("Known structures for tests of the Orthros salvager");
MODULE_LICENSE("GPL");
