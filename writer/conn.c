/* SPDX-License-Identifier: MIT
 * One connection: bytes in, frames out of them, answers back (control.h draws what it may wait for). libuv's streams do
 * not pass descriptors of our kind, so the descriptor is polled and read with recvmsg here; that also lets an answer
 * leave in the same turn of the loop in which its request came, with one send. Control thread only. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"
#include "log.h"
#include "registry.h"
#include "rpc.h"
#include "watch.h"

#define TURN_NS 250000u     /* how long one connection may keep the loop with what it has buffered */
#define LOOKS_NS 2000000u   /* how long berth.sock's requests may keep one turn of the loop */
#define ANSWERS_SOFT 65536u /* bytes of answers before they are sent, whatever else is buffered */
#define SPARE_MAX 262144u   /* larger buffers are not kept for the next connection */

const char *conn_who(struct conn *c)
{
	char path[40], comm[20] = "?";
	ssize_t n = 0;
	int fd;

	if (c->who[0])
		return c->who;
	snprintf(path, sizeof(path), "/proc/%d/comm", c->pid);
	fd = c->pid > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd >= 0) {
		n = read(fd, comm, sizeof(comm) - 1);
		close(fd);
	}
	for (ssize_t i = 0; i < n; i++) {
		if (comm[i] <= ' ' || comm[i] > '~' || comm[i] == '"')
			comm[i] = i == n - 1 ? '\0' : '?';
	}
	if (n > 0)
		comm[n] = '\0';
	snprintf(c->who, sizeof(c->who), "uid=%u pid=%d comm=%s", (unsigned)c->uid, c->pid, comm);
	return c->who;
}

int conn_take_fd(struct conn *c)
{
	int fd = c->passed_fd;

	c->passed_fd = -1;
	return fd;
}

static void drop_passed(struct conn *c)
{
	int fd = conn_take_fd(c);

	if (fd >= 0)
		close(fd);
}

static void drop_sent(struct conn *c)
{
	for (unsigned i = 0; i < 2; i++) {
		if (c->send_fds[i] >= 0)
			close(c->send_fds[i]);
		c->send_fds[i] = -1;
	}
}

static void conn_unqueue(struct conn *c)
{
	if (c->server->waiting_admin == c)
		c->server->waiting_admin = TAILQ_PREV(c, conn_list, queue_link);
	if (c->queued)
		TAILQ_REMOVE(c->queued, c, queue_link);
	c->queued = NULL;
}

static void conn_queue(struct conn *c, struct conn_list *list)
{
	struct server *s = c->server;

	conn_unqueue(c);
	c->queued = list;
	if (!c->admin || list != &s->waiting) {
		TAILQ_INSERT_TAIL(list, c, queue_link);
		return;
	}
	if (s->waiting_admin)
		TAILQ_INSERT_AFTER(list, s->waiting_admin, c, queue_link);
	else
		TAILQ_INSERT_HEAD(list, c, queue_link);
	s->waiting_admin = c;
}

/* Of those who wait for their turn; NULL: none. */
static struct conn *first_looking(const struct server *s)
{
	return s->waiting_admin ? TAILQ_NEXT(s->waiting_admin, queue_link) : TAILQ_FIRST(&s->waiting);
}

static void conn_free(uv_handle_t *handle)
{
	free(handle->data);
}

void conn_close(struct conn *c)
{
	struct server *s = c->server;

	if (c->closed)
		return;
	c->closed = true;
	conn_unqueue(c);
	if (c->watching)
		TAILQ_REMOVE(&s->watchers, c, watch_link);
	TAILQ_REMOVE(&s->conns, c, link);
	s->n_conns--;
	s->backlog -= c->counted;
	if (c->load)
		load_abandon(c->load);
	completing_end(c);
	if (c->attached && !s->stopping) {
		registry_hint(table_registry(core_table(s->core)), c->slot, c->attach);
		upkeep_soon(s, 1);
	}
	drop_passed(c);
	drop_sent(c);
	buffer_free(&c->in);
	buffer_free(&c->out);
	uv_close((uv_handle_t *)&c->poll, conn_free); /* takes the descriptor out of the poll at once */
	close(c->fd);
}

/* ---- sending ----------------------------------------------------------------------------------------------- */

static ssize_t send_some(struct conn *c)
{
	char *data = c->out.data + c->out.head;
	size_t left = buffer_left(&c->out);
	struct iovec iov = {.iov_base = data, .iov_len = left};
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(c->send_fds))];
	} control;
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes};
	size_t size = c->send_fds[1] >= 0 ? sizeof(c->send_fds) : sizeof(int);
	ssize_t n;

	if (c->send_fds[0] < 0)
		return send(c->fd, data, left, MSG_NOSIGNAL | MSG_DONTWAIT);
	memset(&control, 0, sizeof(control));
	control.header =
		(struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(size)};
	memcpy(CMSG_DATA(&control.header), c->send_fds, size);
	m.msg_controllen = CMSG_SPACE(size);
	n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n > 0)
		drop_sent(c);
	return n;
}

/* Sends what the socket takes now. False when the connection is gone. */
static bool conn_flush(struct conn *c)
{
	while (buffer_left(&c->out) > 0) {
		ssize_t n = send_some(c);

		if (n > 0) {
			buffer_take(&c->out, (size_t)n);
			c->sent_ms = uv_now(&c->server->loop);
		} else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			return true;
		} else if (n == 0 || errno != EINTR) {
			conn_close(c);
			return false;
		}
	}
	if (c->out.failed) { /* not even a refusal found room: better no answer than half of one */
		conn_close(c);
		return false;
	}
	return true;
}

/* Buffers are lent to whoever has something to say: an idle connection owns none. */
static void out_borrow(struct conn *c)
{
	if (!c->out.data) {
		c->out = c->server->spare;
		memset(&c->server->spare, 0, sizeof(c->server->spare));
	}
}

static void out_return(struct conn *c)
{
	if (c->closed || !c->out.data || buffer_left(&c->out) > 0)
		return;
	if (!c->server->spare.data && c->out.size <= SPARE_MAX) {
		c->server->spare = c->out;
		memset(&c->out, 0, sizeof(c->out));
	} else {
		buffer_free(&c->out);
	}
}

/* ---- frames ------------------------------------------------------------------------------------------------ */

/* Handles whole frames of data[0..n) until there is none, or the connection has to wait for something, or its time is
 * up. Returns the bytes that are done with; c->scanned is set for the rest. */
static size_t conn_eat(struct conn *c, const char *data, size_t n)
{
	uint64_t until = 0;
	size_t used = 0;

	for (;;) {
		const char *end;
		size_t len;

		if (c->closed || c->closing)
			return n;
		if (c->load || buffer_left(&c->out) >= ANSWERS_SOFT)
			break;
		end = memchr(data + used + c->scanned, '\n', n - used - c->scanned);
		len = end ? (size_t)(end - data) - used : n - used;
		if (len > FRAME_MAX) {
			struct refusal r = {.code = R_DONE};

			refuse(&r, R_PARSE,
			       "the line is longer than %u bytes: send less at once; `load` takes any number of "
			       "partitions",
			       FRAME_MAX);
			rpc_refuse(&c->out, NULL, &r);
			c->closing = true; /* where the next request begins is anybody's guess */
			return n;
		}
		if (!end) {
			c->scanned = len;
			return used;
		}
		if (until == 0)
			until = uv_hrtime() + TURN_NS;
		else if (uv_hrtime() > until)
			break;
		switch (rpc_handle(c, data + used, len)) {
		case RPC_PARKED:
			conn_queue(c, &c->server->parked);
			c->scanned = 0;
			return used;
		case RPC_WAITS:
			conn_queue(c, &c->server->completing);
			c->scanned = 0;
			return used;
		case RPC_AGAIN:
			c->scanned = 0;
			return used;
		case RPC_ANSWERED:
		case RPC_LATER:
			if (c->completing && c->server->stopping)
				c->closing = true; /* what came behind it is not done any more */
			completing_end(c);
			break;
		}
		c->server->n_requests++;
		c->asked = true;
		c->heard_ms = uv_now(&c->server->loop);
		used += len + 1;
		c->scanned = 0;
	}
	c->scanned = 0;
	return used;
}

/* Arms the poll for what the connection waits for now. */
static void conn_settle(struct conn *c)
{
	int events = 0;

	if (c->closed)
		return;
	c->server->backlog += buffer_left(&c->out) - c->counted;
	c->counted = buffer_left(&c->out);
	if (buffer_left(&c->out) > 0) {
		events = UV_WRITABLE;
	} else if (c->closing) {
		conn_close(c);
		return;
	} else if (c->load || c->queued) {
		events = 0;
	} else if (c->scanned < buffer_left(&c->in)) {
		conn_queue(c, &c->server->waiting);
		upkeep_wake(c->server);
	} else if (c->eof) {
		conn_close(c);
		return;
	} else {
		events = UV_READABLE;
	}
	out_return(c);
	if (events == c->events)
		return;
	c->events = events;
	if (events == 0)
		uv_poll_stop(&c->poll);
	else
		uv_poll_start(&c->poll, events, c->poll.poll_cb);
}

void conn_run(struct conn *c)
{
	if (c->closed || !conn_flush(c))
		return;
	if (buffer_left(&c->out) == 0 && !c->queued && buffer_left(&c->in) > 0) {
		size_t used;

		out_borrow(c);
		used = conn_eat(c, c->in.data + c->in.head, buffer_left(&c->in));
		if (c->closed)
			return;
		buffer_take(&c->in, used);
		if (buffer_left(&c->in) == 0) {
			buffer_free(&c->in);
			drop_passed(c);
		}
		if (!conn_flush(c))
			return;
	}
	conn_settle(c);
	watch_flush(c->server);
}

/* ---- receiving --------------------------------------------------------------------------------------------- */

/* The first descriptor of a message is kept for the request that it came with; nobody has a use for more. */
static void keep_passed(struct conn *c, struct msghdr *m)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		size_t n = h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS
				   ? (h->cmsg_len - CMSG_LEN(0)) / sizeof(int)
				   : 0;

		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(int));
			if (c->passed_fd < 0)
				c->passed_fd = fd;
			else
				close(fd);
		}
	}
}

static ssize_t receive(struct conn *c, char *data, size_t room)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = data, .iov_len = room};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (!c->admin) /* without room for them the kernel closes what descriptors come along */
		return recv(c->fd, data, room, MSG_DONTWAIT);
	m.msg_control = control.bytes;
	m.msg_controllen = sizeof(control);
	n = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n >= 0)
		keep_passed(c, &m);
	return n;
}

static void conn_read(struct conn *c)
{
	struct server *s = c->server;
	size_t left = buffer_left(&c->in), used;
	char *data = s->input;
	ssize_t n;

	c->unread = false;
	if (left > 0) { /* the rest of a frame whose beginning is here already */
		if (!buffer_reserve(&c->in, FRAME_MAX + 1 - left < 4096 ? FRAME_MAX + 1 - left : 4096)) {
			conn_close(c);
			return;
		}
		data = c->in.data + c->in.len;
		n = receive(c, data,
			    c->in.size - c->in.len < FRAME_MAX + 1 - left ? c->in.size - c->in.len
									  : FRAME_MAX + 1 - left);
	} else {
		n = receive(c, data, FRAME_MAX + 1);
	}
	if (n < 0) {
		if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
			conn_close(c);
		conn_settle(c); /* it may have come from server.waiting, where nothing is armed */
		return;
	}
	if (n == 0) {
		c->eof = true; /* a peer that only closed its sending half still gets what it asked for */
		conn_run(c);
		return;
	}
	if (left > 0) {
		c->in.len += (size_t)n;
		conn_run(c);
		return;
	}
	out_borrow(c);
	used = conn_eat(c, data, (size_t)n);
	if (c->closed)
		return;
	buffer_add(&c->in, data + used, (size_t)n - used);
	if (c->in.failed) {
		conn_close(c);
		return;
	}
	if (buffer_left(&c->in) == 0)
		drop_passed(c);
	if (conn_flush(c))
		conn_settle(c);
	watch_flush(s);
}

/* Reads from a connection of berth.sock, or puts it off: what looking costs may be many times what a change does. */
static void conn_read_looking(struct conn *c)
{
	struct server *s = c->server;
	uint64_t from;

	if (s->looks_ms != uv_now(&s->loop)) {
		s->looks_ms = uv_now(&s->loop);
		s->looks_ns = 0;
	}
	if (s->looks_ns > LOOKS_NS || first_looking(s)) { /* nobody comes before those who were put off */
		c->unread = true;
		conn_queue(c, &s->waiting);
		conn_settle(c);
		upkeep_wake(s);
		return;
	}
	from = uv_hrtime();
	conn_read(c);
	s->looks_ns += uv_hrtime() - from;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct conn *c = poll->data;

	if (status < 0)
		conn_close(c);
	else if (events & UV_WRITABLE)
		conn_run(c);
	else if (!(events & UV_READABLE))
		return;
	else if (c->admin)
		conn_read(c);
	else
		conn_read_looking(c);
}

struct conn *conn_open(struct server *s, int fd, bool admin, uid_t uid, pid_t pid)
{
	struct conn *c = calloc(1, sizeof(*c));

	if (!c || uv_poll_init(&s->loop, &c->poll, fd) != 0) {
		close(fd);
		free(c);
		return NULL;
	}
	c->server = s;
	c->fd = fd;
	c->admin = admin;
	c->uid = uid;
	c->pid = pid;
	c->passed_fd = c->send_fds[0] = c->send_fds[1] = -1;
	c->heard_ms = c->sent_ms = uv_now(&s->loop);
	c->poll.data = c;
	c->events = UV_READABLE;
	TAILQ_INSERT_TAIL(&s->conns, c, link);
	s->n_conns++;
	if (uv_poll_start(&c->poll, UV_READABLE, on_poll) != 0) {
		conn_close(c);
		return NULL;
	}
	return c;
}

bool conn_gone(const struct conn *c)
{
	struct pollfd p = {.fd = c->fd};

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
}

/* It was first on server.waiting: now it is its turn. Who has more afterwards queues up again at the end. */
static void conn_turn(struct conn *c)
{
	conn_unqueue(c);
	if (conn_gone(c))
		conn_close(c);
	else if (c->unread && c->scanned == buffer_left(&c->in) && buffer_left(&c->out) == 0)
		conn_read(c);
	else
		conn_run(c);
}

bool conns_run_waiting(struct server *s)
{
	uint64_t until = uv_hrtime() + 2 * TURN_NS;
	struct conn *c;

	while (s->waiting_admin && uv_hrtime() < until)
		conn_turn(TAILQ_FIRST(&s->waiting));
	until = uv_hrtime() + 2 * TURN_NS;
	while ((c = first_looking(s)) && uv_hrtime() < until)
		conn_turn(c);
	return !TAILQ_EMPTY(&s->waiting);
}

void conns_unpark(struct server *s)
{
	struct conn *c;

	while ((c = TAILQ_FIRST(&s->parked)))
		conn_queue(c, &s->waiting);
	if (!TAILQ_EMPTY(&s->waiting))
		upkeep_wake(s);
}

void conn_again(struct conn *c)
{
	conn_queue(c, &c->server->waiting);
	upkeep_wake(c->server);
}

/* No other request that waits is answered any more: whoever sent it learns that nothing was done. */
void conns_answer_completing(struct server *s)
{
	struct conn *c;

	while ((c = TAILQ_FIRST(&s->completing)))
		conn_queue(c, &s->waiting);
	while ((c = TAILQ_FIRST(&s->waiting))) {
		conn_unqueue(c);
		if (c->completing && !conn_gone(c))
			conn_run(c);
	}
}
