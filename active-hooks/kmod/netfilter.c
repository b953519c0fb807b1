// SPDX-License-Identifier: GPL-2.0
/*
 * Keeps a copy of the rules of nf_tables, as the kernel tells them through
 * netlink, and says where it lies and where connections are tracked.
 *
 * A successor puts the rules back before it takes anything from the wire. The
 * kernel's own structures are those of dozens of kinds of expressions, in
 * modules; the messages are an interface that does not change. The copy is made
 * anew after every change, and every few seconds for counters and for what
 * packets add to sets. Whether it was up to date when the kernel died, the
 * salvager sees by the number of the generation, which the kernel raises with
 * every change.
 */
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/vmalloc.h>
#include <net/net_namespace.h>
#include <net/netfilter/nf_tables.h>
#include <net/netlink.h>
#include <net/netns/generic.h>
#include <net/sock.h>
#include "orthros.h"
#include "symbols.h"

/* The most that one message or a part of a list takes, and all of them. */
#define CHUNK SZ_64K
#define MOST ORTHROS_NETFILTER_MOST
/* Between two copies without a change; no more than a thousandth of the time. */
#define PERIOD (10 * HZ)
#define SHARE 1000
/* After a copy that did not come about. */
#define AGAIN (HZ / 10)

struct copy {
	void *data;
	size_t length, room;
};

struct orthros_netfilter netfilter_words;

/* Held while a copy is made, so that nf_tables does not go away meanwhile. */
static DEFINE_MUTEX(lock);
static struct task_struct *copier;
static const unsigned int *generation;
static struct mutex *commits;

static void publish(const struct copy *copy, unsigned int of)
{
	void *old = (void *)(uintptr_t)netfilter_words.rules;

	smp_store_release(&netfilter_words.seq, netfilter_words.seq | 1);
	smp_wmb();
	netfilter_words.rules = (uintptr_t)copy->data;
	netfilter_words.length = copy->length;
	netfilter_words.generation = of;
	smp_store_release(&netfilter_words.seq, (netfilter_words.seq | 1) + 1);
	kvfree(old);
}

static int append(struct copy *copy, const void *data, size_t length)
{
	if (copy->length + length > copy->room) {
		size_t room = max(copy->room * 2, copy->length + length);
		void *larger;

		if (room > MOST)
			return -EFBIG;
		larger = kvmalloc(room, GFP_KERNEL);
		if (!larger)
			return -ENOMEM;
		memcpy(larger, copy->data, copy->length);
		kvfree(copy->data);
		copy->data = larger;
		copy->room = room;
	}
	memcpy(copy->data + copy->length, data, length);
	copy->length += length;
	return 0;
}

/* Through the file the kernel tells that root asks. */
static struct file *open_socket(void)
{
	struct socket *sock;
	int error = sock_create_kern(&init_net, PF_NETLINK, SOCK_RAW,
				     NETLINK_NETFILTER, &sock);

	if (error)
		return ERR_PTR(error);
	sock->sk->sk_rcvtimeo = HZ;
	/* Lets the socket go if there is no file. */
	return sock_alloc_file(sock, 0, "orthros");
}

/* Takes what is in the buffer. 1 at the end of the list. */
static int take(struct copy *copy, struct nlmsghdr *message, int left)
{
	for (; nlmsg_ok(message, left); message = nlmsg_next(message, &left)) {
		int error;

		if (message->nlmsg_flags & NLM_F_DUMP_INTR)
			return -EAGAIN;
		switch (message->nlmsg_type) {
		case NLMSG_DONE:
			return 1;
		case NLMSG_ERROR:
			return -EIO;
		}
		error = append(copy, message, NLMSG_ALIGN(message->nlmsg_len));
		if (error)
			return error;
	}
	return 0;
}

/* Asks for a list; of the elements of a set if one is named. */
static int list(struct socket *sock, void *buffer, struct copy *copy, u8 family,
		u16 kind, const struct nlattr *table, const struct nlattr *set)
{
	struct nlmsghdr *request = buffer;
	struct nfgenmsg *head = nlmsg_data(request);
	struct msghdr none = {};
	struct kvec vector = { .iov_base = buffer };
	int done;

	memset(buffer, 0, NLMSG_SPACE(sizeof(*head)));
	request->nlmsg_len = NLMSG_SPACE(sizeof(*head));
	request->nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | kind;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	head->nfgen_family = family;
	head->version = NFNETLINK_V0;
	if (set) {
		/* Their numbers in a list of sets are those in a request for elements. */
		memcpy(buffer + request->nlmsg_len, table, NLA_ALIGN(table->nla_len));
		request->nlmsg_len += NLA_ALIGN(table->nla_len);
		memcpy(buffer + request->nlmsg_len, set, NLA_ALIGN(set->nla_len));
		request->nlmsg_len += NLA_ALIGN(set->nla_len);
	}
	vector.iov_len = request->nlmsg_len;
	done = kernel_sendmsg(sock, &none, &vector, 1, vector.iov_len);
	if (done < 0)
		return done;
	do {
		struct msghdr got = {};

		vector = (struct kvec){ .iov_base = buffer, .iov_len = CHUNK };
		done = kernel_recvmsg(sock, &got, &vector, 1, CHUNK, 0);
		if (done < 0)
			return done;
		if (got.msg_flags & MSG_TRUNC)
			return -EMSGSIZE;
		done = take(copy, buffer, done);
	} while (!done);
	return min(done, 0);
}

static int list_elements(struct socket *sock, void *buffer, struct copy *copy,
			 size_t sets, size_t end)
{
	int error = 0;

	while (!error && sets < end) {
		struct nlmsghdr *message = copy->data + sets;
		const struct nfgenmsg *head = nlmsg_data(message);
		const struct nlattr *table = nlmsg_find_attr(message, sizeof(*head), NFTA_SET_TABLE);
		const struct nlattr *set = nlmsg_find_attr(message, sizeof(*head), NFTA_SET_NAME);

		sets += NLMSG_ALIGN(message->nlmsg_len);
		if (!table || !set)
			return -EINVAL;
		error = list(sock, buffer, copy, head->nfgen_family, NFT_MSG_GETSETELEM,
			     table, set);
	}
	return error;
}

static int list_all(struct socket *sock, void *buffer, struct copy *copy)
{
	/* What others refer to comes first. */
	static const u16 kinds[] = {
		NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETFLOWTABLE,
		NFT_MSG_GETOBJ, NFT_MSG_GETSET, NFT_MSG_GETRULE,
	};
	size_t i;

	BUILD_BUG_ON((int)NFTA_SET_TABLE != (int)NFTA_SET_ELEM_LIST_TABLE ||
		     (int)NFTA_SET_NAME != (int)NFTA_SET_ELEM_LIST_SET);
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		size_t start = copy->length;
		int error = list(sock, buffer, copy, NFPROTO_UNSPEC, kinds[i], NULL, NULL);

		if (!error && kinds[i] == NFT_MSG_GETSET)
			error = list_elements(sock, buffer, copy, start, copy->length);
		if (error)
			return error;
	}
	return 0;
}

static int make_copy(void *buffer)
{
	struct copy copy = {};
	struct file *file = open_socket();
	unsigned int of;
	int error;

	if (IS_ERR(file))
		return PTR_ERR(file);
	/* A change that has begun raises the number before it is done. */
	mutex_lock(commits);
	of = READ_ONCE(*generation);
	mutex_unlock(commits);
	error = list_all(sock_from_file(file), buffer, &copy);
	fput(file);
	if (!error && of != READ_ONCE(*generation))
		error = -EAGAIN;
	if (error)
		kvfree(copy.data);
	else
		publish(&copy, of);
	return error;
}

/* Whether the kernel has told of a change. What it is does not matter. */
static bool is_told(struct socket *sock)
{
	char first;
	bool told = false;
	int got;

	do {
		struct msghdr none = {};
		struct kvec vector = { .iov_base = &first, .iov_len = 1 };

		got = kernel_recvmsg(sock, &none, &vector, 1, 1, MSG_DONTWAIT);
		told |= got >= 0 || got == -ENOBUFS;
	} while (got >= 0);
	return told;
}

static long copy_now(void *buffer)
{
	unsigned long since = jiffies;
	int error = 0;

	mutex_lock(&lock);
	if (generation)
		error = make_copy(buffer);
	mutex_unlock(&lock);
	if (!error)
		return max_t(long, PERIOD, (jiffies - since) * SHARE);
	if (error != -EAGAIN)
		pr_warn_once("the rules of nf_tables cannot be read (%d): after a failover the network waits for the new system's\n",
			     error);
	return AGAIN;
}

static int copy_on_change(void *data)
{
	struct sockaddr_nl groups = {
		.nl_family = AF_NETLINK,
		.nl_groups = 1 << (NFNLGRP_NFTABLES - 1),
	};
	struct file *file = data;
	struct socket *sock = sock_from_file(file);
	void *buffer = kvmalloc(CHUNK, GFP_KERNEL);
	int error = buffer ? kernel_bind(sock, (struct sockaddr *)&groups, sizeof(groups)) : -ENOMEM;

	if (error)
		pr_warn("changes of nf_tables are not told (%d): its rules are read every %d s\n",
			error, PERIOD / HZ);
	while (buffer && !kthread_should_stop()) {
		long wait = copy_now(buffer);

		wait_event_interruptible_timeout(*sk_sleep(sock->sk),
						 is_told(sock) || kthread_should_stop(), wait);
	}
	kvfree(buffer);
	wait_event_interruptible(*sk_sleep(sock->sk), kthread_should_stop());
	fput(file);
	return 0;
}

static void start_copier(void)
{
	struct file *file = open_socket();

	if (IS_ERR(file)) {
		pr_warn("no socket for the rules of nf_tables (%ld)\n", PTR_ERR(file));
		return;
	}
	copier = kthread_run(copy_on_change, file, "orthros/rules");
	if (IS_ERR(copier)) {
		pr_warn("no thread for the rules of nf_tables (%ld)\n", PTR_ERR(copier));
		copier = NULL;
		fput(file);
	}
}

/* In one half of the kernels it belongs to the module, in the other to the namespace. */
static void find_tables(void)
{
	const unsigned int *id = symbols_find("nf_tables_net_id");
	struct nftables_pernet *tables = id ? net_generic(&init_net, *id) : NULL;

	if (!tables)
		return;
	mutex_lock(&lock);
	commits = &tables->commit_mutex;
#ifdef NFT_GENERATION_OF_NET
	generation = &init_net.nft.base_seq;
#else
	generation = &tables->base_seq;
#endif
	WRITE_ONCE(netfilter_words.generation_at, (uintptr_t)generation);
	mutex_unlock(&lock);
	if (!copier)
		start_copier();
	else
		wake_up_process(copier);
}

static void forget_tables(void)
{
	static const struct copy none;

	mutex_lock(&lock);
	generation = NULL;
	WRITE_ONCE(netfilter_words.generation_at, 0);
	publish(&none, 0);
	mutex_unlock(&lock);
}

static void find_connections(void)
{
	netfilter_words.connections_count = (uintptr_t)symbols_find("nf_conntrack_htable_size");
	smp_store_release(&netfilter_words.connections,
			  (uintptr_t)symbols_find("nf_conntrack_hash"));
}

static int module_changed(struct notifier_block *block, unsigned long state, void *data)
{
	const struct module *module = data;
	bool tables = !strcmp(module->name, "nf_tables");
	bool connections = !strcmp(module->name, "nf_conntrack");

	if (state == MODULE_STATE_LIVE && tables)
		find_tables();
	else if (state == MODULE_STATE_LIVE && connections)
		find_connections();
	else if (state == MODULE_STATE_GOING && tables)
		forget_tables();
	else if (state == MODULE_STATE_GOING && connections)
		smp_store_release(&netfilter_words.connections, 0);
	return NOTIFY_OK;
}

static struct notifier_block modules = { .notifier_call = module_changed };

int netfilter_start(void)
{
	int error = register_module_notifier(&modules);

	if (error)
		return error;
	find_connections();
	find_tables();
	return 0;
}

void netfilter_stop(void)
{
	unregister_module_notifier(&modules);
	if (copier)
		kthread_stop(copier);
	copier = NULL;
	forget_tables();
}
