// SPDX-License-Identifier: MIT
/* Splice: requests of kept-alive client connections, each forwarded in the kernel to the cluster of its tenant, and the
 * answers back. The process of splice_run.c accepts, connects, puts sockets into the maps below and does whatever is
 * rare; these programs do the rest, on each piece of data that arrives at one of its sockets:
 *
 *   splice_client    from a client: frames the request, looks its tenant up, takes a lease for a write, sends it on
 *   splice_upstream  from a cluster: frames the answer, ends the lease when it has ended, sends it on
 *   splice_state     a connection ends, also because the process was killed: ends its lease as unknown
 *
 * No stream parser: a client sends its next request after the answer, so a request begins where a piece does; who does
 * otherwise is handed to the fallback. SK_PASS leaves a piece to the process, which reads it from the socket.
 *
 * G1 `outstanding` is 1, and `upstream` and `lease` say what they are to, before a request is sent on.
 * G2 The lease ends, then `outstanding` becomes 0, before the last piece of an answer is sent on; both by fetching
 *    atomics. So the next request finds the connection idle, and who has an answer has no lease.
 * G3 `watched` and `mode` are loaded after `outstanding` became 0 (a full barrier); the process stores them by a fetching
 *    atomic before it loads `outstanding`. So it finds the answer ended, or is told.
 * G4 A lease is ended by whoever takes `lease` from not 0 to 0: nobody ends it twice.
 * G5 A request is forwarded only when the client's TCP has acknowledged all that was sent to it, by programs and process:
 *    so nothing is behind the sockmap then, and what either sends next comes behind it. A segment's acknowledgement is
 *    taken before its data is shown (tcp_rcv_established), so a client that has read its answer has acknowledged it.
 * G6 An answer ends its lease as done, and leaves its upstream for the next request, only when the node's TCP has
 *    acknowledged the whole request. Else the lease is unknown and the connection ends behind the answer, for part of the
 *    request may still wait behind the sockmap or with the process, and the next one would overtake it.
 * G7 What comes from an upstream that has once sent something while no request was out to it is dropped, and none is sent
 *    there again (`spoiled`): it is nobody's answer.
 * Linux 5.15 with BTF has all that this needs, as far as its source tells; it was run on 6.18 alone. */
#define BERTH_USE_CLUSTERS
#define BERTH_USE_STATS
#define BERTH_USE_EVENTS
#define BERTH_USE_LEASES
#include "lease.bpf.h"
#include "message.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SPLICE_CONNECTIONS);
	__type(key, __u32);
	__type(value, struct splice_connection);
} connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SPLICE_CONNECTIONS + SPLICE_UPSTREAMS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct splice_socket);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, SPLICE_CONNECTIONS);
	__type(key, __u32);
	__type(value, __u64);
} clients SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, SPLICE_UPSTREAMS);
	__type(key, struct splice_key);
	__type(value, __u64);
} upstreams SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SPLICE_UPSTREAMS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct splice_key);
	__type(value, struct splice_address);
} addresses SEC(".maps");

/* Numbers of connections that the process is to look at; one is in it once at most, so it is never full. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, SPLICE_CONNECTIONS * 32);
} attention SEC(".maps");

/* Of the kernel's: where the field is, its BTF says. */
struct tcp_sock {
	__u64 bytes_acked;
} __attribute__((preserve_access_index));

/* The other side of this piece's socket has acknowledged so much. */
static __always_inline int has_acked(struct __sk_buff *skb, __u64 bytes)
{
	struct bpf_sock *sk = skb->sk;
	struct tcp_sock *t = sk ? bpf_skc_to_tcp_sock(sk) : 0;

	return t && t->bytes_acked >= bytes;
}

static __always_inline struct splice_socket *socket_of(__u64 cookie)
{
	return bpf_map_lookup_elem(&sockets, &cookie);
}

static __always_inline void ask_for_attention(struct splice_connection *c, __u32 connection)
{
	__u64 value = connection;

	if (!__sync_lock_test_and_set(&c->attention, 1))
		bpf_ringbuf_output(&attention, &value, sizeof(value), 0);
}

static __always_inline int leave(struct splice_connection *c, __u32 connection, __u32 mode)
{
	__sync_lock_test_and_set(&c->mode, mode);
	ask_for_attention(c, connection);
	return SK_PASS;
}

/* ---- requests ---- */

/* Of the upstream for this request. 0: there is none, or it is spoiled, or its cluster has another endpoint now: the
 * process connects. */
static __always_inline struct splice_address *address_of(const struct splice_connection *c, __u32 connection)
{
	struct splice_key key = {.connection = connection, .number = c->upstream};
	const volatile struct mirror_cluster *cluster;
	struct splice_address *a = bpf_map_lookup_elem(&addresses, &key);

	if (!a || *(volatile __u32 *)&a->spoiled)
		return 0;
	if (key.number == SPLICE_FALLBACK)
		return a;
	cluster = bpf_map_lookup_elem(&berth_clusters, &key.number);
	return cluster && cluster->sequence == a->sequence ? a : 0;
}

static __always_inline int send_request(struct __sk_buff *skb, const struct splice_connection *c, __u32 connection)
{
	struct splice_key key = {.connection = connection, .number = c->upstream};

	return bpf_sk_redirect_hash(skb, &upstreams, &key, 0);
}

/* Where this request goes: a cluster, with a lease when it is a write, or the fallback. */
static __always_inline __u32 place(const struct message *m, __u32 connection, __u32 bytes, __u32 *leased)
{
	struct berth_answer answer = {};
	struct mirror_counts *counts;
	struct berth_key key;
	int code;

	*leased = 0;
	if ((m->flags & (MESSAGE_TENANT | MESSAGE_ELSEWHERE)) != MESSAGE_TENANT) {
		if (!(m->flags & MESSAGE_TENANT))
			berth_event(MIRROR_EVENT_NO_TENANT);
		return SPLICE_FALLBACK;
	}
	berth_key_set(&key, m->tenant, m->tenant_len);
	if (m->flags & MESSAGE_WRITE) {
		code = berth_write_begin(&key, 0, connection, &answer);
		*leased = code == BERTH_BPF_OK;
	} else {
		code = berth_lookup(&key, &answer);
	}
	if (code == BERTH_BPF_PASS || code == BERTH_BPF_UNKNOWN)
		berth_event(answer.why);
	if (code != BERTH_BPF_OK)
		return SPLICE_FALLBACK;
	counts = berth_counts(&answer);
	if (counts) {
		counts->packets++;
		counts->bytes += bytes;
		counts->requests++;
		counts->writes += *leased;
	}
	return answer.cluster;
}

static __always_inline int begin_request(struct __sk_buff *skb, struct splice_connection *c, __u32 connection)
{
	struct message m = {.is_request = 1};
	struct splice_address *a;
	__u32 leased;
	__u64 all;

	message_scan(skb, &m);
	if (m.end && !(m.flags & MESSAGE_ODD))
		message_request_line(skb, &m);
	all = m.end + m.length;
	if (!m.end || m.flags & MESSAGE_ODD || skb->len > all) {
		berth_event(m.end ? MIRROR_EVENT_NOT_HTTP : MIRROR_EVENT_CUT);
		berth_event(MIRROR_EVENT_FALLBACK);
		return leave(c, connection, SPLICE_LEAVING);
	}
	c->upstream = place(&m, connection, skb->len, &leased);
	c->leased = leased;
	c->is_head = !!(m.flags & MESSAGE_HEAD);
	c->answer = SPLICE_AWAITED;
	c->request_left = all - skb->len;
	c->relayed = m.length > SPLICE_UPLOAD_MAX;
	__sync_lock_test_and_set(&c->lease, leased ? SPLICE_SENT : SPLICE_NO_LEASE);
	__sync_lock_test_and_set(&c->outstanding, 1); /* G1 */
	berth_event(c->upstream == SPLICE_FALLBACK ? MIRROR_EVENT_FALLBACK : MIRROR_EVENT_SPLICED);
	a = address_of(c, connection);
	if (a)
		*(volatile __u64 *)&a->acked += all; /* G6 */
	if (!c->relayed && a && send_request(skb, c, connection) == SK_PASS) {
		c->n_spliced++;
		return SK_PASS;
	}
	/* It has no such upstream, or is too long. When splice_state ended the lease meanwhile, the process finds it so. */
	c->relayed = 1;
	c->relay_left = all;
	__sync_val_compare_and_swap(&c->lease, SPLICE_SENT, SPLICE_TAKEN);
	ask_for_attention(c, connection);
	return SK_PASS;
}

SEC("sk_skb")
int splice_client(struct __sk_buff *skb)
{
	const struct splice_socket *s = socket_of(bpf_get_socket_cookie(skb));
	struct splice_connection *c;
	__u32 connection;

	if (!s)
		return SK_PASS;
	if (!skb->len) /* its end comes so */
		return SK_DROP;
	connection = s->connection;
	c = bpf_map_lookup_elem(&connections, &connection);
	if (!c)
		return SK_PASS;
	if (*(volatile __u32 *)&c->mode != SPLICE_KERNEL)
		return c->mode == SPLICE_DEAD ? SK_DROP : SK_PASS;
	if (c->request_left) { /* more of its body */
		if (skb->len > c->request_left)
			return leave(c, connection, SPLICE_DEAD);
		c->request_left -= skb->len;
		if (c->relayed)
			return SK_PASS;
		if (send_request(skb, c, connection) == SK_PASS)
			return SK_PASS;
		return leave(c, connection, SPLICE_DEAD);
	}
	if (*(volatile __u32 *)&c->outstanding ||
	    !has_acked(skb, *(volatile __u64 *)&c->to_client + *(volatile __u64 *)&c->from_process)) {
		/* pipelined, or the last answer is not out: G5 */
		berth_event(MIRROR_EVENT_FALLBACK);
		return leave(c, connection, SPLICE_LEAVING);
	}
	if (c->relayed && *(volatile __u64 *)&c->relay_left)
		return leave(c, connection, SPLICE_DEAD);
	return begin_request(skb, c, connection);
}

/* ---- answers ---- */

/* All of the request has come, and the node's TCP has acknowledged it. */
static __always_inline int node_has_request(struct __sk_buff *skb, const struct splice_connection *c, __u32 connection)
{
	struct splice_key key = {.connection = connection, .number = c->upstream};
	const struct splice_address *a = bpf_map_lookup_elem(&addresses, &key);

	return !c->request_left && a && has_acked(skb, a->acked);
}

/* G2, G3, G6 */
static __always_inline void end_answer(struct __sk_buff *skb, struct splice_connection *c, __u32 connection)
{
	int early = !node_has_request(skb, c, connection);

	if (early)
		leave(c, connection, SPLICE_DEAD);
	if (c->lease && __sync_lock_test_and_set(&c->lease, SPLICE_NO_LEASE)) /* G4 */
		berth_write_end(connection,
				c->answer == SPLICE_FORWARDED && !early ? BERTH_BPF_DONE : BERTH_BPF_NOT_KNOWN);
	__sync_lock_test_and_set(&c->outstanding, 0);
	if (*(volatile __u32 *)&c->watched || *(volatile __u32 *)&c->mode != SPLICE_KERNEL || c->relayed)
		ask_for_attention(c, connection);
}

static __always_inline int begin_answer(struct __sk_buff *skb, struct splice_connection *c, __u32 connection)
{
	struct message m = {};
	__u64 all;

	message_scan(skb, &m);
	message_status_line(skb, &m);
	if (c->is_head || m.status == 204 || m.status == 304)
		m.length = 0;
	else if (!(m.flags & MESSAGE_LENGTH))
		m.flags |= MESSAGE_ODD;
	all = m.end + m.length;
	if (!m.end || m.flags & MESSAGE_ODD || skb->len > all || m.length > SPLICE_DOWNLOAD_MAX) {
		/* What is passed to the process comes behind what waits to be sent on the same socket: perhaps never. */
		if (!c->relayed && !node_has_request(skb, c, connection))
			return leave(c, connection, SPLICE_DEAD);
		c->answer = SPLICE_COPIED;
		ask_for_attention(c, connection);
		return SK_PASS;
	}
	c->answer = splice_leaves_unknown(m.status) ? SPLICE_DOUBTFUL : SPLICE_FORWARDED;
	c->answer_left = all;
	return -1;
}

SEC("sk_skb")
int splice_upstream(struct __sk_buff *skb)
{
	const struct splice_socket *s = socket_of(bpf_get_socket_cookie(skb));
	struct splice_connection *c;
	struct splice_address *a;
	struct splice_key key;
	__u32 connection, number;

	if (!s)
		return SK_PASS;
	if (!skb->len)
		return SK_DROP;
	connection = s->connection;
	number = s->number;
	c = bpf_map_lookup_elem(&connections, &connection);
	if (!c)
		return SK_PASS;
	if (*(volatile __u32 *)&c->mode == SPLICE_TUNNEL)
		return SK_PASS;
	key.connection = connection;
	key.number = number;
	a = bpf_map_lookup_elem(&addresses, &key);
	if (!a || *(volatile __u32 *)&a->spoiled)
		return SK_DROP;
	if (!*(volatile __u32 *)&c->outstanding || c->upstream != number) {
		__sync_lock_test_and_set(&a->spoiled, 1);
		c->stray = number;
		ask_for_attention(c, connection);
		return SK_DROP;
	}
	if (c->answer == SPLICE_AWAITED && *(volatile __u32 *)&c->mode == SPLICE_DEAD)
		return SK_DROP; /* given up: nothing that comes now is the head of an answer */
	if (c->answer == SPLICE_AWAITED && begin_answer(skb, c, connection) == SK_PASS)
		return SK_PASS;
	if (c->answer == SPLICE_COPIED)
		return SK_PASS;
	if (skb->len > c->answer_left)
		return leave(c, connection, SPLICE_DEAD);
	c->answer_left -= skb->len;
	c->to_client += skb->len;
	if (!c->answer_left)
		end_answer(skb, c, connection);
	return bpf_sk_redirect_map(skb, &clients, connection, 0);
}

/* ---- ends ---- */

#define STATE_CLOSE_WAIT 8 /* TCP_CLOSE_WAIT: the other side has sent all; what it sent is still to be looked at */

static __always_inline void socket_ended(const struct splice_socket *s)
{
	struct splice_connection *c;
	__u32 connection = s->connection;

	c = bpf_map_lookup_elem(&connections, &connection);
	if (!c || !c->lease)
		return;
	if (!s->number) {
		/* The client is gone and nothing has been sent: then nothing will be. */
		if (__sync_val_compare_and_swap(&c->lease, SPLICE_TAKEN, SPLICE_NO_LEASE) == SPLICE_TAKEN)
			berth_write_end(connection, BERTH_BPF_DONE);
	} else if (s->number == c->upstream) {
		if (__sync_val_compare_and_swap(&c->lease, SPLICE_SENT, SPLICE_NO_LEASE) == SPLICE_SENT)
			berth_write_end(connection, BERTH_BPF_NOT_KNOWN);
	}
}

SEC("sockops")
int splice_state(struct bpf_sock_ops *ops)
{
	const struct splice_socket *s;

	switch (ops->op) {
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		if (ops->local_port == splice_config.port)
			bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		if (socket_of(bpf_get_socket_cookie(ops)))
			bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		s = socket_of(bpf_get_socket_cookie(ops));
		if (s && ops->args[1] != STATE_CLOSE_WAIT && ops->args[1] != BPF_TCP_ESTABLISHED)
			socket_ended(s);
		break;
	}
	return 1;
}
