/* SPDX-License-Identifier: MIT
 * What goes through splice's process: requests whose upstream is not connected yet, or that are long; answers that the
 * programs do not frame; and tunnels to the fallback, from the first request that cannot be framed until the connection
 * ends. Each direction has one buffer, and is read only when that is empty: a slow receiver slows its sender down.
 * Called by splice_connection.c.
 *
 * G1 A write is sent only under its lease: TAKEN becomes SENT before the first byte. A lease that is gone ends the client.
 * G2 `outstanding` becomes 0 when the last bytes of an answer are sure to be taken by the client's socket: so whatever
 *    comes behind it, by way of the programs, comes behind it.
 * G3 An answer that is copied comes behind what the programs have sent: they begin a request only when that is acknowledged.
 *    One that ends before its node's TCP has the whole request leaves the lease unknown and ends the connection: what is
 *    left of the request must not come behind, or before, the next. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "splice_internal.h"

#define TAIL 512 /* of an answer: a socket that can be written to takes so much whole */

static struct splice_buffer *buffer_of(struct splice_client *k, struct splice_buffer **b)
{
	if (!*b) {
		*b = malloc(sizeof(**b));
		if (!*b) {
			flow_close(k);
			return NULL;
		}
		(*b)->at = (*b)->len = 0;
	}
	return *b;
}

void copy_free(struct splice_client *k)
{
	free(k->up);
	free(k->down);
	k->up = k->down = NULL;
}

static bool would_wait(ssize_t n)
{
	return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
}

/* ---- requests ---- */

/* G1 */
static bool may_send(struct splice_client *k)
{
	return k->tunnel || !k->c->leased || load32(&k->c->lease) == SPLICE_SENT ||
	       change32(&k->c->lease, SPLICE_TAKEN, SPLICE_SENT);
}

/* False: not now, or the client is closed. */
static bool send_up(struct splice_client *k, struct splice_upstream *u)
{
	struct splice_buffer *b = k->up;
	ssize_t n;

	if (!u->connected || u->blocked)
		return false;
	if (!may_send(k)) {
		flow_close(k);
		return false;
	}
	/* counted before it is sent: the answer, and the next request, may come before this returns */
	if (!k->tunnel)
		atomic_fetch_sub((_Atomic __u64 *)&k->c->relay_left, b->len);
	n = send(u->end.fd, b->bytes + b->at, b->len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0 && !would_wait(n)) {
		flow_fail(k);
		return false;
	}
	u->blocked = n < 0;
	b->at += n < 0 ? 0 : (size_t)n;
	b->len -= n < 0 ? 0 : (size_t)n;
	if (!k->tunnel)
		atomic_fetch_add((_Atomic __u64 *)&k->c->relay_left, b->len);
	return n >= 0;
}

/* The next may have begun already: it has a buffer, and a look at its upstream's address, of its own. */
static void request_over(struct splice_client *k)
{
	k->s->counts->n_relayed++;
	free(k->up);
	k->up = NULL;
}

void copy_request(struct splice_client *k)
{
	while (!k->closed && (k->tunnel || load64(&k->c->relay_left))) {
		if (!k->up)
			k->up_left = load64(&k->c->relay_left);
		struct splice_upstream *u = upstream_get(k, k->c->upstream);
		struct splice_buffer *b = u ? buffer_of(k, &k->up) : NULL;
		size_t want = SPLICE_COPY;
		ssize_t n;

		if (!b)
			return;
		if (b->len) {
			if (!send_up(k, u))
				return;
			if (!k->tunnel && !b->len && !k->up_left)
				request_over(k);
			continue;
		}
		if (k->up_ended) {
			if (u->connected && !k->up_shut) {
				k->up_shut = true;
				shutdown(u->end.fd, SHUT_WR);
			}
			return;
		}
		if (!k->tunnel && k->up_left < want)
			want = (size_t)k->up_left;
		n = recv(k->end.fd, b->bytes, want, MSG_DONTWAIT);
		if (would_wait(n))
			return;
		if (n < 0 || (n == 0 && !k->tunnel)) { /* in the middle of a request */
			flow_close(k);
			return;
		}
		k->up_ended = n == 0;
		k->n_up += (uint64_t)n;
		k->up_left -= k->tunnel ? 0 : (uint64_t)n;
		b->at = 0;
		b->len = (size_t)n;
	}
}

/* ---- answers ---- */

/* G2. False: not now. */
static bool release(struct splice_client *k)
{
	struct pollfd p = {.fd = k->end.fd, .events = POLLOUT};
	struct splice_upstream *u = upstream_find(k, k->c->upstream);
	bool unsure = splice_leaves_unknown(k->frame.status);
	char byte;

	if (k->released)
		return true;
	if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT))
		return false;
	if (load64(&k->c->relay_left) || k->c->request_left || !u || !upstream_has_all(k, u)) { /* G3 */
		unsure = true;
		k->frame.closes = true;
	}
	if (!unsure)
		lease_end_done(k);
	k->released = true;
	/* A gateway's answer leaves the lease: closing the upstream ends it as unknown. */
	if (u && (unsure || k->frame.closes))
		upstream_close(k, u);
	if (k->frame.closes) /* and the client takes no more requests here */
		swap32(&k->c->mode, SPLICE_DEAD);
	swap32(&k->c->outstanding, 0);
	/* Passed up to here, and nobody's answer; what comes from now on the programs drop. No request has begun: the
	 * client does not have all of this answer. */
	if (u && !unsure && !k->frame.closes && recv(u->end.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
		upstream_close(k, u);
	return true;
}

/* False: not now, or the client is closed. */
static bool send_down(struct splice_client *k)
{
	struct splice_buffer *b = k->down;
	size_t len = b->len;
	ssize_t n;

	if (k->answered) {
		if (len > TAIL) {
			len -= TAIL;
		} else if (!release(k)) {
			k->blocked = true;
			return false;
		}
	}
	n = send(k->end.fd, b->bytes + b->at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (would_wait(n)) {
		k->blocked = true;
		return false;
	}
	if (n < 0) {
		flow_close(k);
		return false;
	}
	b->at += (size_t)n;
	b->len -= (size_t)n;
	return true;
}

static void answer_over(struct splice_client *k)
{
	k->s->counts->n_copied++;
	k->copying = k->answered = k->released = false;
	free(k->down);
	k->down = NULL;
	if (k->frame.closes)
		flow_finish(k);
}

/* The upstream has sent all, or is broken. */
static void answer_cut(struct splice_client *k, struct splice_upstream *u)
{
	if (k->tunnel) {
		flow_finish(k);
	} else if (answer_may_close(&k->frame)) {
		k->answered = true;
		if (release(k))
			answer_over(k);
		else
			k->blocked = true;
	} else {
		u->ended = true;
		flow_close(k);
	}
}

void copy_answer(struct splice_client *k, struct splice_upstream *u)
{
	while (!k->closed && (k->copying || k->tunnel)) {
		struct splice_buffer *b = buffer_of(k, &k->down);
		enum answer_verdict v;
		ssize_t n;

		if (!b)
			return;
		if (b->len) {
			if (k->blocked || !send_down(k))
				return;
			continue;
		}
		if (k->answered) {
			if (!release(k)) {
				k->blocked = true;
				return;
			}
			answer_over(k);
			return;
		}
		if (!u || !u->connected)
			return;
		n = recv(u->end.fd, b->bytes, SPLICE_COPY, MSG_DONTWAIT);
		if (would_wait(n))
			return;
		if (n <= 0) {
			answer_cut(k, u);
			return;
		}
		b->at = 0;
		b->len = (size_t)n;
		atomic_fetch_add((_Atomic __u64 *)&k->c->from_process, (size_t)n); /* G5 of splice_connection.c */
		if (k->tunnel)
			continue;
		v = answer_piece(&k->frame, b->bytes, b->len);
		if (v == ANSWER_BROKEN) {
			flow_close(k);
			return;
		}
		k->answered = v == ANSWER_ENDED;
	}
}

void copy_start_answer(struct splice_client *k)
{
	struct splice_upstream *u = upstream_find(k, k->c->upstream);

	if (!u || k->closed)
		return;
	if (!k->copying) {
		k->copying = true;
		answer_begin(&k->frame, k->c->is_head);
	}
	copy_answer(k, u);
}

/* ---- tunnels ---- */

void copy_start_tunnel(struct splice_client *k)
{
	struct splice_upstream *u, *next;

	if (!change32(&k->c->mode, SPLICE_LEAVING, SPLICE_TUNNEL))
		return;
	k->tunnel = true;
	k->s->counts->n_tunnels++;
	k->c->upstream = SPLICE_FALLBACK;
	for (u = k->upstreams; u; u = next) {
		next = u->next;
		if (u->number != SPLICE_FALLBACK || u->ended)
			upstream_close(k, u);
	}
	if (!upstream_get(k, SPLICE_FALLBACK) || !buffer_of(k, &k->up))
		return;
	copy_request(k);
	if (!k->closed)
		copy_answer(k, upstream_find(k, SPLICE_FALLBACK));
}
