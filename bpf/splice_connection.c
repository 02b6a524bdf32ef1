/* SPDX-License-Identifier: MIT
 * A client connection of splice: made, given to the programs, watched, ended. What goes through this process is
 * splice_copy.c's. Called by the loop of splice_run.c.
 *
 * G1 A socket is in the sockmap before anything is read from it or sent on it. What had arrived before is then shown to the
 *    program by socket_settle.
 * G2 TCP tells of a peer's end before it shows the last data to the program: socket_settle, then look at the record.
 * G3 A client is closed, or written to behind an answer that the programs have sent, only when that is in its TCP
 *    (flow_is_out): it may still wait behind the sockmap, closing throws it away, and what is written here overtakes it.
 * G4 splice_state ends the lease of a write: as unknown when its upstream's socket is closed and something was sent there,
 *    as done when the client's is closed and nothing was. So upstreams are closed first. What a program took meanwhile is
 *    ended when both are closed: no lease is left when a slot is given back.
 * G5 Bytes for the client are counted (from_process) before this process sends them, and before it says that their answer
 *    has ended: so the programs do not take them for acknowledged. */
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "../shm/lease.h"
#include "splice_internal.h"

#define LINGER_MS 30000

uint64_t splice_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void watch(struct splice_client *k, struct splice_end *end, uint32_t interest)
{
	struct epoll_event e = {.events = interest, .data.ptr = end};

	if (end->interest == interest)
		return;
	if (epoll_ctl(k->s->epoll_fd,
		      !interest       ? EPOLL_CTL_DEL
		      : end->interest ? EPOLL_CTL_MOD
				      : EPOLL_CTL_ADD,
		      end->fd, &e) == 0)
		end->interest = interest;
}

void flow_arm(struct splice_client *k)
{
	uint32_t interest = EPOLLHUP;

	if (k->closed)
		return;
	if (!k->done && !k->tunnel)
		interest |= EPOLLRDHUP;
	if (k->up && !k->up->len && !k->up_ended && (k->tunnel || load64(&k->c->relay_left)))
		interest |= EPOLLIN;
	if (k->blocked)
		interest |= EPOLLOUT;
	watch(k, &k->end, interest);
	for (struct splice_upstream *u = k->upstreams; u; u = u->next) {
		bool reading = (k->copying || k->tunnel) && !k->answered && u->number == k->c->upstream;

		interest = EPOLLHUP;
		if (!u->ended && !(k->tunnel && reading))
			interest |= EPOLLRDHUP;
		if (reading && !u->ended && !(k->down && k->down->len))
			interest |= EPOLLIN;
		if (!u->connected || u->blocked)
			interest |= EPOLLOUT;
		watch(k, &u->end, u->hung ? 0 : interest);
	}
}

/* ---- slots ---- */

/* One whose lease slot is clear, if there is: a write in another makes an unknown outcome count for all partitions. */
static bool take_slot(struct splicer *s, uint32_t *index)
{
	for (uint32_t i = 0; i < s->n_free; i++) {
		*index = s->free_slots[s->first_free];
		s->first_free = (s->first_free + 1) % SPLICE_CONNECTIONS;
		if (i + 1 == s->n_free || !load64(&s->leases[*index].hash)) {
			s->n_free--;
			return true;
		}
		s->free_slots[(s->first_free + s->n_free - 1) % SPLICE_CONNECTIONS] = *index;
	}
	return false;
}

static void give_slot(struct splicer *s, uint32_t index)
{
	s->free_slots[(s->first_free + s->n_free++) % SPLICE_CONNECTIONS] = index;
}

void lease_end_done(struct splice_client *k)
{
	if (swap32(&k->c->lease, SPLICE_NO_LEASE))
		atomic_exchange((_Atomic __u64 *)&k->s->leases[k->index].hash,
				0); /* as berth_write_end of lease.bpf.h */
}

void lease_make_unknown(struct mirror_lease *lease)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	atomic_exchange(
		(_Atomic __u64 *)&lease->state,
		lease_state(LEASE_UNKNOWN, ((uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec + 999999) / 1000000));
}

void lease_end_left(struct splice_client *k)
{
	struct mirror_lease *lease = &k->s->leases[k->index];

	switch (swap32(&k->c->lease, SPLICE_NO_LEASE)) {
	case SPLICE_TAKEN:
		atomic_exchange((_Atomic __u64 *)&lease->hash, 0);
		break;
	case SPLICE_SENT:
		lease_make_unknown(lease);
		break;
	}
}

/* ---- clients ---- */

void flow_accept(struct splicer *s, int fd)
{
	struct splice_client *k = calloc(1, sizeof(*k));
	uint64_t value = (uint64_t)fd;
	int one = 1;
	char byte;

	if (!k || !take_slot(s, &k->index)) {
		free(k);
		close(fd);
		s->counts->n_failed++;
		return;
	}
	k->s = s;
	k->end.kind = END_CLIENT;
	k->end.fd = fd;
	k->end.client = k;
	k->progress_ms = splice_now_ms();
	k->c = &s->connections[k->index];
	memset(k->c, 0, sizeof(*k->c));
	k->next = s->all;
	if (s->all)
		s->all->previous = k;
	s->all = k;
	s->by_index[k->index] = k;
	s->n_clients++;
	s->counts->n_connections++;
	socket_no_delay(fd);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	if (socket_register(k, fd, 0, &k->cookie) != 0) {
		flow_close(k);
		return;
	}
	if (bpf_map_update_elem(s->clients_fd, &k->index, &value, BPF_ANY) == 0) {
		socket_settle(fd); /* G1 */
	} else if (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
		flow_close(k);
	} else { /* all that it will send has come, and the kernel takes no such socket */
		swap32(&k->c->mode, SPLICE_LEAVING);
	}
	flow_attend(k);
}

static void discard(struct splice_client *k)
{
	static char bytes[SPLICE_COPY];

	for (int i = 0; i < 64 && recv(k->end.fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0; i++)
		;
}

void flow_close(struct splice_client *k)
{
	struct splicer *s = k->s;

	if (k->closed)
		return;
	k->closed = true;
	swap32(&k->c->mode, SPLICE_DEAD);
	while (k->upstreams) /* G4 */
		upstream_close(k, k->upstreams);
	discard(k); /* unread bytes would make a reset of it, which may overtake the answer */
	close(k->end.fd);
	lease_end_left(k); /* G4 */
	bpf_map_delete_elem(s->sockets_fd, &k->cookie);
	s->counts->n_spliced += k->c->n_spliced;
	s->by_index[k->index] = NULL;
	if (k->previous)
		k->previous->next = k->next;
	else
		s->all = k->next;
	if (k->next)
		k->next->previous = k->previous;
	give_slot(s, k->index);
	s->n_clients--;
	copy_free(k);
	k->next = s->closed;
	s->closed = k;
}

void flow_free_closed(struct splicer *s)
{
	while (s->closed) {
		struct splice_client *k = s->closed;

		s->closed = k->next;
		free(k);
	}
	while (s->dead_upstreams) {
		struct splice_upstream *u = s->dead_upstreams;

		s->dead_upstreams = u->next;
		free(u);
	}
}

/* Called now and then: an answer that makes no progress is not waited for, and its write's outcome is unknown; nor is a
 * client that asks for nothing. */
void flow_expire(struct splice_client *k, uint64_t now_ms)
{
	uint64_t progress = load64(&k->c->from_process) - (k->down ? k->down->len : 0) + k->n_up +
			    load64(&k->c->to_client) - load64(&k->c->relay_left) - k->c->request_left;
	uint32_t outstanding = !k->tunnel && load32(&k->c->outstanding);

	if (outstanding != k->was_outstanding || progress != k->progress)
		k->progress_ms = now_ms;
	k->was_outstanding = outstanding;
	k->progress = progress;
	if (outstanding && now_ms - k->progress_ms > k->s->options->answer_ms)
		flow_fail(k);
	else if (!outstanding && now_ms - k->progress_ms > k->s->options->idle_ms)
		flow_close(k);
}

/* All that was meant for the client is in its TCP's hands. */
bool flow_is_out(struct splice_client *k)
{
	struct tcp_info i;
	socklen_t len = sizeof(i);

	if (getsockopt(k->end.fd, IPPROTO_TCP, TCP_INFO, &i, &len) != 0)
		return true;
	return i.tcpi_bytes_sent - i.tcpi_bytes_retrans + i.tcpi_notsent_bytes >=
	       load64(&k->c->to_client) + k->c->from_process;
}

void flow_finish(struct splice_client *k)
{
	if (k->closed || k->linger_end)
		return;
	if (flow_is_out(k) || (k->down && k->down->len)) /* or an answer breaks off in it */
		flow_close(k);
	else
		k->linger_end = splice_now_ms() + LINGER_MS;
}

void flow_fail(struct splice_client *k)
{
	static const char answer[] = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

	if (k->closed)
		return;
	swap32(&k->c->mode, SPLICE_DEAD);
	k->s->counts->n_failed++;
	if (k->c->answer == SPLICE_AWAITED && flow_is_out(k)) /* G3 */
		send(k->end.fd, answer, sizeof(answer) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	flow_close(k);
}

void flow_event(struct splice_client *k, uint32_t events)
{
	if (events & EPOLLERR || (events & EPOLLHUP && !(events & EPOLLIN))) {
		flow_close(k);
		return;
	}
	if (events & EPOLLRDHUP && !k->done) {
		k->done = true;
		swap32(&k->c->watched, 1);
		socket_settle(k->end.fd); /* G2 */
	}
	if (events & EPOLLIN)
		copy_request(k);
	if (events & EPOLLOUT && !k->closed) {
		struct splice_upstream *u = upstream_find(k, k->c->upstream);

		k->blocked = false;
		if (u || k->down)
			copy_answer(k, u);
	}
	flow_attend(k);
}

void flow_attend(struct splice_client *k)
{
	struct splice_connection *c = k->c;
	struct splice_upstream *u;
	uint32_t stray, mode;

	if (k->closed)
		return;
	swap32(&c->attention, 0);
	mode = load32(&c->mode);
	if (mode == SPLICE_DEAD) {
		if (k->answered) /* the end of a copied answer is still to be sent */
			flow_arm(k);
		else if (load32(&c->outstanding) && c->answer == SPLICE_AWAITED)
			flow_fail(k);
		else
			flow_finish(k);
		return;
	}
	if (k->done && !k->tunnel && c->request_left) { /* it has ended in the middle of a request */
		flow_close(k);
		return;
	}
	stray = swap32(&c->stray, 0);
	u = stray ? upstream_find(k, stray) : NULL;
	if (u && u->connected && upstream_is_spoiled(k, u))
		upstream_close_idle(k, u);
	if (!k->closed && c->relayed && load64(&c->relay_left) && mode != SPLICE_TUNNEL) {
		if (!load32(&c->outstanding)) { /* answered before it was sent */
			flow_finish(k);
			return;
		}
		copy_request(k);
	}
	if (!k->closed && !k->tunnel && load32(&c->outstanding) && c->answer == SPLICE_COPIED)
		copy_start_answer(k);
	if (!k->closed && !k->tunnel && !load32(&c->outstanding) && !k->copying) {
		if (load32(&c->mode) == SPLICE_LEAVING && !flow_is_out(k)) { /* G3 */
			if (!k->leaving_end)
				k->leaving_end = splice_now_ms() + LINGER_MS;
			return;
		}
		k->leaving_end = 0;
		if (load32(&c->mode) == SPLICE_LEAVING)
			copy_start_tunnel(k);
		else if (k->done || k->s->draining)
			flow_finish(k);
	}
	flow_arm(k);
}
