// SPDX-License-Identifier: GPL-2.0
/*
 * What a process had not read from a socket of netlink: only the kernel's own
 * sockets send in the name of the kernel.
 */
#include <linux/net.h>
#include <linux/netlink.h>
#include <linux/skbuff.h>
#include <linux/uaccess.h>
#include <net/sock.h>
#include "orthros.h"

/* More than a message can have (netlink_sendmsg(), netlink_dump()). */
#define LONGEST (1 << 20)

static int append(struct sock *sk, const struct orthros_netlink *request)
{
	struct sk_buff *skb;

	if (request->length > LONGEST)
		return -EINVAL;
	skb = alloc_skb(request->length, GFP_KERNEL);
	if (!skb)
		return -ENOMEM;
	if (copy_from_user(skb_put(skb, request->length), u64_to_user_ptr(request->data),
			   request->length)) {
		kfree_skb(skb);
		return -EFAULT;
	}
	NETLINK_CB(skb).portid = request->port;
	NETLINK_CB(skb).dst_group = request->group;
	NETLINK_CREDS(skb)->pid = request->process;
	NETLINK_CREDS(skb)->uid = KUIDT_INIT(request->user);
	NETLINK_CREDS(skb)->gid = KGIDT_INIT(request->gid);
	/* As __netlink_sendskb() does it. */
	skb_set_owner_r(skb, sk);
	skb_queue_tail(&sk->sk_receive_queue, skb);
	sk->sk_data_ready(sk);
	return 0;
}

int netlink_put(const struct orthros_netlink *request)
{
	struct socket *socket;
	int error;

	socket = sockfd_lookup(request->fd, &error);
	if (!socket)
		return error;
	if (socket->sk->sk_family != AF_NETLINK) {
		error = -EINVAL;
	} else if (request->length) {
		error = append(socket->sk, request);
	} else {
		/* As netlink_overrun(): a message that did not fit was dropped. */
		WRITE_ONCE(socket->sk->sk_err, ENOBUFS);
		sk_error_report(socket->sk);
		error = 0;
	}
	sockfd_put(socket);
	return error;
}
