// SPDX-License-Identifier: GPL-2.0
/*
 * Whom SO_PEERCRED names: the kernel notes who makes a connection of AF_UNIX, and
 * the restore agent makes them all. No call changes it afterwards.
 */
#include <linux/cred.h>
#include <linux/net.h>
#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/uaccess.h>
#include <net/af_unix.h>
#include <net/sock.h>
#include "orthros.h"

static int set_further_groups(struct cred *cred, const struct orthros_peer_credentials *request)
{
	const u32 __user *user = u64_to_user_ptr(request->groups);
	struct group_info *groups;
	u32 id;
	u64 i;

	if (request->count > NGROUPS_MAX)
		return -EINVAL;
	groups = groups_alloc(request->count);
	if (!groups)
		return -ENOMEM;
	for (i = 0; i < request->count; i++) {
		if (get_user(id, user + i)) {
			put_group_info(groups);
			return -EFAULT;
		}
		groups->gid[i] = make_kgid(&init_user_ns, id);
	}
	groups_sort(groups);
	set_groups(cred, groups);
	put_group_info(groups);
	return 0;
}

static struct cred *make_cred(const struct orthros_peer_credentials *request)
{
	kuid_t user = make_kuid(&init_user_ns, request->user);
	kgid_t group = make_kgid(&init_user_ns, request->group);
	struct cred *cred;
	int error;

	if (!uid_valid(user) || !gid_valid(group))
		return ERR_PTR(-EINVAL);
	cred = prepare_creds();
	if (!cred)
		return ERR_PTR(-ENOMEM);
	cred->uid = cred->euid = cred->suid = cred->fsuid = user;
	cred->gid = cred->egid = cred->sgid = cred->fsgid = group;
	error = set_further_groups(cred, request);
	if (error) {
		abort_creds(cred);
		return ERR_PTR(error);
	}
	return cred;
}

/* Takes over both references. */
static void name_peer(struct sock *sk, struct pid *pid, const struct cred *cred)
{
	const struct cred *old_cred;
	struct pid *old_pid;

	spin_lock(&sk->sk_peer_lock);
	old_pid = sk->sk_peer_pid;
	old_cred = sk->sk_peer_cred;
	sk->sk_peer_pid = pid;
	sk->sk_peer_cred = cred;
	spin_unlock(&sk->sk_peer_lock);
	put_pid(old_pid);
	put_cred(old_cred);
}

/* The socket that is meant, with a reference. */
static struct sock *find(struct socket *socket, bool of_peer)
{
	struct sock *sk = socket->sk;

	if (sk->sk_family != AF_UNIX)
		return ERR_PTR(-EINVAL);
	if (of_peer) {
		unix_state_lock(sk);
		sk = unix_peer(sk);
		if (sk)
			sock_hold(sk);
		unix_state_unlock(socket->sk);
	} else {
		sock_hold(sk);
	}
	return sk ?: ERR_PTR(-ENOTCONN);
}

int peer_credentials(const struct orthros_peer_credentials *request)
{
	struct socket *socket;
	struct cred *cred;
	struct pid *pid;
	struct sock *sk;
	int error;

	socket = sockfd_lookup(request->fd, &error);
	if (!socket)
		return error;
	sk = find(socket, request->of_peer);
	if (IS_ERR(sk)) {
		error = PTR_ERR(sk);
		goto out;
	}
	cred = make_cred(request);
	if (IS_ERR(cred)) {
		error = PTR_ERR(cred);
		goto put;
	}
	pid = find_get_pid(request->process);
	if (!pid) {
		abort_creds(cred);
		error = -ESRCH;
		goto put;
	}
	name_peer(sk, pid, cred);
	error = 0;
put:
	sock_put(sk);
out:
	sockfd_put(socket);
	return error;
}
