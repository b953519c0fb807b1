// SPDX-License-Identifier: GPL-2.0
/*
 * What TCP_REPAIR does not reach: the end of what a peer sends, and connections
 * that nobody has accepted yet.
 */
#include <linux/err.h>
#include <linux/net.h>
#include <linux/tcp.h>
#include <net/inet_connection_sock.h>
#include <net/request_sock.h>
#include <net/sock.h>
#include <net/tcp.h>
#include "orthros.h"

static bool is_tcp(const struct sock *sk)
{
	return sk && (sk->sk_family == AF_INET || sk->sk_family == AF_INET6) &&
	       sk->sk_type == SOCK_STREAM && sk->sk_protocol == IPPROTO_TCP;
}

/* As tcp_fin() does, without the segment. */
static int receive_fin(struct sock *sk)
{
	struct tcp_sock *tp = tcp_sk(sk);

	if (sk->sk_state != TCP_ESTABLISHED || !tp->repair)
		return -EINVAL;
	WRITE_ONCE(tp->rcv_nxt, tp->rcv_nxt + 1);
	WRITE_ONCE(sk->sk_shutdown, sk->sk_shutdown | RCV_SHUTDOWN);
	sock_set_flag(sk, SOCK_DONE);
	tcp_set_state(sk, TCP_CLOSE_WAIT);
	return 0;
}

static int cross_fin(struct sock *sk)
{
	if (sk->sk_state != TCP_LAST_ACK)
		return -EINVAL;
	tcp_set_state(sk, TCP_CLOSING);
	return 0;
}

/*
 * The end of a repair sends a probe with a number that the peer has had, which
 * a Linux answers without a look at the window in it (tcp_validate_incoming()).
 * An acknowledgement as after data is taken: it is due at the next tick.
 *
 * And a connection under repair took the size of its segments (536 bytes) from
 * a peer that had told nothing, and looks again only when the way has changed.
 */
static int speak(struct sock *sk)
{
	if ((1 << sk->sk_state) & (TCPF_CLOSE | TCPF_LISTEN | TCPF_SYN_SENT) ||
	    tcp_sk(sk)->repair)
		return -EINVAL;
	inet_csk(sk)->icsk_pmtu_cookie = 0;
	inet_csk_schedule_ack(sk);
	inet_csk_reset_xmit_timer(sk, ICSK_TIME_DACK, 1, TCP_RTO_MAX);
	return 0;
}

/* As tcp_reset() tells a process, of a connection that was only asked for. */
static int fail(struct sock *sk, u64 error)
{
	if (sk->sk_state != TCP_CLOSE || !error || error > MAX_ERRNO)
		return -EINVAL;
	WRITE_ONCE(sk->sk_err, error);
	sk_error_report(sk);
	return 0;
}

/* As tcp_check_urg() and tcp_urg() do. */
static int receive_urgent(struct sock *sk, u32 seq, u64 data)
{
	struct tcp_sock *tp = tcp_sk(sk);

	if (sk->sk_state != TCP_ESTABLISHED || !tp->repair)
		return -EINVAL;
	if (!(data & ~0xffull) ||
	    data & ~(TCP_URG_VALID | TCP_URG_NOTYET | TCP_URG_READ | 0xffull))
		return -EINVAL;
	/* 16 bits lead from a segment to what is urgent. */
	if (before(seq, tp->copied_seq) || after(seq, tp->rcv_nxt + 0xffff))
		return -EINVAL;
	WRITE_ONCE(tp->urg_seq, seq);
	WRITE_ONCE(tp->urg_data, data);
	tp->pred_flags = 0;
	return 0;
}

/* As tcp_mark_urg() does. */
static int send_urgent(struct sock *sk, u32 end)
{
	struct tcp_sock *tp = tcp_sk(sk);

	if (sk->sk_state != TCP_ESTABLISHED || !tp->repair ||
	    !after(end, tp->snd_una))
		return -EINVAL;
	tp->snd_up = end;
	return 0;
}

/*
 * Takes a connection away from its descriptor and puts it into the queue of a
 * listening socket, as a SYN cookie's would be (tcp_get_cookie_sock()). The
 * reference of the one becomes that of the other.
 */
static int let_wait(struct socket *socket, struct sock *listener)
{
	struct sock *sk = socket->sk;
	struct request_sock *req;

	if (!is_tcp(listener) || listener->sk_state != TCP_LISTEN ||
	    listener->sk_family != sk->sk_family || !listener->sk_prot->rsk_prot)
		return -EINVAL;
	if (!((1 << sk->sk_state) & (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT)))
		return -EINVAL;
	req = inet_reqsk_alloc(listener->sk_prot->rsk_prot, listener, false);
	if (!req)
		return -ENOMEM;
	tcp_rsk(req)->tfo_listener = false;
	refcount_set(&req->rsk_refcnt, 1);

	write_lock_bh(&sk->sk_callback_lock);
	sk_set_socket(sk, NULL);
	rcu_assign_pointer(sk->sk_wq, NULL);
	socket->sk = NULL;
	write_unlock_bh(&sk->sk_callback_lock);

	local_bh_disable();
	/* If nobody listens any more it ends the connection. */
	if (!inet_csk_reqsk_queue_add(listener, req, sk))
		reqsk_put(req);
	else
		listener->sk_data_ready(listener);
	local_bh_enable();
	return 0;
}

static int wait_at(struct socket *socket, u64 fd)
{
	struct socket *listener;
	int error;

	listener = sockfd_lookup(fd, &error);
	if (!listener)
		return error;
	/* Nobody else has either of them. */
	error = let_wait(socket, listener->sk);
	sockfd_put(listener);
	return error;
}

/* Holds the file until sockfd_put(). */
static struct socket *tcp_lookup(u64 fd)
{
	struct socket *socket;
	int error;

	socket = sockfd_lookup(fd, &error);
	if (!socket)
		return ERR_PTR(error);
	if (is_tcp(socket->sk))
		return socket;
	sockfd_put(socket);
	return ERR_PTR(-EINVAL);
}

int tcp_go(const struct orthros_tcp *request)
{
	struct socket *socket = tcp_lookup(request->fd);
	int error;

	if (IS_ERR(socket))
		return PTR_ERR(socket);
	if (request->step == ORTHROS_TCP_WAIT) {
		error = wait_at(socket, request->listener);
	} else {
		lock_sock(socket->sk);
		if (request->step == ORTHROS_TCP_FIN)
			error = receive_fin(socket->sk);
		else if (request->step == ORTHROS_TCP_CROSSED)
			error = cross_fin(socket->sk);
		else if (request->step == ORTHROS_TCP_SPEAK)
			error = speak(socket->sk);
		else if (request->step == ORTHROS_TCP_FAIL)
			error = fail(socket->sk, request->listener);
		else if (request->step == ORTHROS_TCP_URGENT_RECEIVED)
			error = receive_urgent(socket->sk, request->listener,
					       request->listener >> 32);
		else if (request->step == ORTHROS_TCP_URGENT_TO_SEND)
			error = send_urgent(socket->sk, request->listener);
		else
			error = -EINVAL;
		release_sock(socket->sk);
	}
	sockfd_put(socket);
	return error;
}

static void set_address(struct sock *sk, bool local, const u8 *address)
{
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6)
		memcpy(local ? &sk->sk_v6_rcv_saddr : &sk->sk_v6_daddr, address, 16);
	else
#endif
		memcpy(local ? &sk->sk_rcv_saddr : &sk->sk_daddr, address, 4);
}

/* As tcp_reset() or tcp_fin() do, and tcp_done(), where something is left to be read. */
static void end_with_data(struct sock *sk, const struct orthros_tcp_end *request)
{
	struct tcp_sock *tp = tcp_sk(sk);

	/* The peer's end takes a number behind the data. */
	if (request->done)
		WRITE_ONCE(tp->rcv_nxt, tp->rcv_nxt + 1);
	if (!request->bound)
		sk->sk_userlocks &= ~(SOCK_BINDPORT_LOCK | SOCK_BINDADDR_LOCK);
	tcp_done(sk);
}

/* What tcp_done() and those before it leave behind. */
static int end_unused(struct socket *socket, const struct orthros_tcp_end *request)
{
	struct sock *sk = socket->sk;
	struct inet_sock *inet = inet_sk(sk);

	if (sk->sk_shutdown || inet->inet_dport ||
	    socket->state != SS_UNCONNECTED)
		return -EINVAL;
	/* In a table where it is bound, in none else. */
	if (!inet->inet_num) {
		inet->inet_sport = htons(request->ports[0]);
		set_address(sk, true, request->local);
	}
	inet->inet_dport = htons(request->ports[1]);
	set_address(sk, false, request->peer);
	WRITE_ONCE(sk->sk_shutdown, SHUTDOWN_MASK);
	return 0;
}

static int end(struct socket *socket, const struct orthros_tcp_end *request)
{
	struct sock *sk = socket->sk;
	int error = 0;

	if (request->state < SS_UNCONNECTED || request->state > SS_CONNECTED ||
	    request->error > MAX_ERRNO)
		return -EINVAL;
	if (sk->sk_state == TCP_CLOSE)
		error = end_unused(socket, request);
	else if (sk->sk_state == TCP_ESTABLISHED && tcp_sk(sk)->repair)
		end_with_data(sk, request);
	else
		error = -EINVAL;
	if (error)
		return error;
	if (request->done)
		sock_set_flag(sk, SOCK_DONE);
	WRITE_ONCE(sk->sk_err, request->error);
	socket->state = request->state;
	return 0;
}

int tcp_end(const struct orthros_tcp_end *request)
{
	struct socket *socket = tcp_lookup(request->fd);
	int error;

	if (IS_ERR(socket))
		return PTR_ERR(socket);
	lock_sock(socket->sk);
	error = end(socket, request);
	release_sock(socket->sk);
	sockfd_put(socket);
	return error;
}
