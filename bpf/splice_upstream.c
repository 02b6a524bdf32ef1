/* SPDX-License-Identifier: MIT
 * Upstreams of a client connection of splice: connected, given to the programs, closed. Called by splice_connection.c and
 * splice_copy.c. The guarantees are those of splice_connection.c. */
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "splice_internal.h"

/* ---- sockets ---- */

void socket_no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* Waits until the kernel is done with what it was doing to this socket, and has it show what has arrived to the program
 * once more: Linux does that when the low-water mark is set (tcp_set_rcvlowat). */
void socket_settle(int fd)
{
	int one = 1;

	setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof(one));
}

int socket_register(struct splice_client *k, int fd, uint32_t number, uint64_t *cookie)
{
	struct splice_socket value = {.connection = k->index, .number = number};
	socklen_t len = sizeof(*cookie);

	if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, cookie, &len) != 0)
		return -1;
	return bpf_map_update_elem(k->s->sockets_fd, cookie, &value, BPF_ANY);
}

/* ---- upstreams ---- */

struct splice_upstream *upstream_find(struct splice_client *k, uint32_t number)
{
	struct splice_upstream *u = k->upstreams;

	while (u && u->number != number)
		u = u->next;
	return u;
}

void upstream_close(struct splice_client *k, struct splice_upstream *u)
{
	struct splice_key key = {.connection = k->index, .number = u->number};
	struct splice_upstream **at = &k->upstreams;

	while (*at != u)
		at = &(*at)->next;
	*at = u->next;
	close(u->end.fd);
	bpf_map_delete_elem(k->s->sockets_fd, &u->cookie);
	bpf_map_delete_elem(k->s->addresses_fd, &key);
	u->end.client = NULL;
	u->end.fd = -1;
	/* events of this round may still name it: it is freed with the client's closed ones */
	u->next = k->s->dead_upstreams;
	k->s->dead_upstreams = u;
}

void upstream_close_idle(struct splice_client *k, struct splice_upstream *u)
{
	uint32_t number = u->number;

	upstream_close(k, u);
	if (!load32(&k->c->outstanding) || k->c->upstream != number)
		return;
	socket_settle(k->end.fd); /* the programs are done with the request: sent to the closed one, or left to us */
	if (!k->c->relayed)
		flow_fail(k);
}

/* bytes_acked: what its peer's TCP has acknowledged */
static uint64_t socket_acked(int fd)
{
	struct tcp_info i = {0};
	socklen_t len = sizeof(i);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &len) == 0 ? i.tcpi_bytes_acked : 0;
}

static bool look_up(struct splice_client *k, const struct splice_upstream *u, struct splice_address *a)
{
	struct splice_key key = {.connection = k->index, .number = u->number};

	return bpf_map_lookup_elem(k->s->addresses_fd, &key, a) == 0;
}

bool upstream_is_spoiled(struct splice_client *k, struct splice_upstream *u)
{
	struct splice_address a;

	return !look_up(k, u, &a) || a.spoiled;
}

bool upstream_has_all(struct splice_client *k, struct splice_upstream *u)
{
	struct splice_address a;

	return look_up(k, u, &a) && socket_acked(u->end.fd) >= a.acked;
}

/* 0: the cluster has no address that can be spliced to. */
static socklen_t address_of(struct splicer *s, uint32_t number, struct sockaddr_storage *a, uint32_t *sequence)
{
	const volatile struct mirror_cluster *m = &s->clusters[number & (MIRROR_CLUSTERS - 1)];
	struct mirror_cluster c;

	memset(a, 0, sizeof(*a));
	if (number == SPLICE_FALLBACK) {
		*a = s->options->other;
		return a->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
	}
	for (int i = 0;; i++) {
		*sequence = __atomic_load_n(&m->sequence, __ATOMIC_ACQUIRE);
		memcpy(&c, (const void *)m, sizeof(c));
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (!(*sequence & 1) && __atomic_load_n(&m->sequence, __ATOMIC_RELAXED) == *sequence)
			break;
		if (i == 1000) /* its writer died over it */
			return 0;
	}
	if (c.tls)
		return 0;
	if (c.family == MIRROR_IPV4) {
		struct sockaddr_in *in = (struct sockaddr_in *)a;

		in->sin_family = AF_INET;
		in->sin_port = c.port;
		memcpy(&in->sin_addr, c.address, sizeof(in->sin_addr));
		return sizeof(*in);
	}
	if (c.family == MIRROR_IPV6) {
		struct sockaddr_in6 *in = (struct sockaddr_in6 *)a;

		in->sin6_family = AF_INET6;
		in->sin6_port = c.port;
		memcpy(&in->sin6_addr, c.address, sizeof(in->sin6_addr));
		return sizeof(*in);
	}
	return 0;
}

struct splice_upstream *upstream_get(struct splice_client *k, uint32_t number)
{
	struct splice_upstream *u = upstream_find(k, number);
	struct sockaddr_storage a;
	uint32_t sequence = 0;
	socklen_t len;

	/* between requests it may be another address, and be spoiled */
	if (u && !k->up &&
	    ((number != SPLICE_FALLBACK && k->s->clusters[number].sequence != u->sequence) ||
	     (u->connected && upstream_is_spoiled(k, u)))) {
		upstream_close(k, u);
		u = NULL;
	}
	if (u)
		return u;
	len = address_of(k->s, number, &a, &sequence);
	if (!len) { /* https, or a name: the fallback's affair. Nothing has been sent */
		lease_end_done(k);
		k->c->leased = 0;
		k->c->upstream = SPLICE_FALLBACK;
		u = upstream_find(k, SPLICE_FALLBACK);
		if (u) /* the programs have not counted this request for it: a new one does */
			upstream_close(k, u);
		return upstream_get(k, SPLICE_FALLBACK);
	}
	u = calloc(1, sizeof(*u));
	if (!u) {
		flow_fail(k);
		return NULL;
	}
	u->number = number;
	u->sequence = sequence;
	u->end.kind = END_UPSTREAM;
	u->end.client = k;
	u->next = k->upstreams;
	k->upstreams = u;
	u->end.fd = socket(a.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	/* known before it connects, so that splice_state watches it */
	if (u->end.fd < 0 || socket_register(k, u->end.fd, number, &u->cookie) != 0 ||
	    (connect(u->end.fd, (struct sockaddr *)&a, len) != 0 && errno != EINPROGRESS)) {
		flow_fail(k);
		return NULL;
	}
	socket_no_delay(u->end.fd);
	return u;
}

static bool upstream_connected(struct splice_client *k, struct splice_upstream *u)
{
	struct splice_key key = {.connection = k->index, .number = u->number};
	struct splice_address a = {.sequence = u->sequence};
	uint64_t value = (uint64_t)u->end.fd;
	int error = 0;
	socklen_t len = sizeof(error);

	if (getsockopt(u->end.fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error)
		return false;
	/* nothing of the request that it is made for has been sent */
	a.acked = socket_acked(u->end.fd) + load64(&k->c->relay_left);
	if (bpf_map_update_elem(k->s->addresses_fd, &key, &a, BPF_ANY) != 0 ||
	    bpf_map_update_elem(k->s->upstreams_fd, &key, &value, BPF_ANY) != 0) /* G1 */
		return false;
	socket_settle(u->end.fd);
	u->connected = true;
	return true;
}

void upstream_event(struct splice_client *k, struct splice_upstream *u, uint32_t events)
{
	struct splice_connection *c = k->c;

	if (!u->connected && events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
		if (!upstream_connected(k, u)) {
			flow_fail(k);
			return;
		}
		events &= EPOLLRDHUP | EPOLLHUP | EPOLLERR;
		copy_request(k);
	}
	if (events & EPOLLOUT && !k->closed) {
		u->blocked = false;
		copy_request(k);
	}
	if (!u->end.client) /* closed meanwhile */
		events = 0;
	if (events & (EPOLLHUP | EPOLLERR))
		u->hung = true;
	if (!k->closed && events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
		socket_settle(u->end.fd); /* G2 */
		if (k->tunnel && u->number == SPLICE_FALLBACK) {
			copy_answer(k, u);
		} else if (!load32(&c->outstanding) || c->upstream != u->number) {
			upstream_close_idle(k, u);
		} else if (c->answer == SPLICE_COPIED) {
			u->ended = true;
			copy_start_answer(k);
		} else if (c->answer == SPLICE_AWAITED) {
			flow_fail(k);
		} else { /* what came of the answer is still to go out */
			swap32(&c->mode, SPLICE_DEAD);
			upstream_close(k, u);
		}
	} else if (!k->closed && events & EPOLLIN) {
		copy_answer(k, u);
	}
	flow_attend(k);
}
