/* SPDX-License-Identifier: MIT
 * The nodes of splice_place.h: one thread, any number of connections. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "splice_nodes.h"

#define HEAD_MAX 65536

struct peer {
	int fd, node;
	char *in, *out;
	size_t in_len, in_size, out_at, out_len;
	uint64_t due_ms; /* its request is answered then; 0: none waits */
	bool held, ends, slow, ended;
	struct peer *next;
};

struct request {
	size_t head, all; /* bytes; all 0: more to come */
	char act[128];
	unsigned id;
	bool is_head, bad;
};

static const char *header(const char *head, const char *name, char *value, size_t size)
{
	const char *at = strcasestr(head, name);
	size_t n = 0;

	value[0] = '\0';
	if (!at)
		return NULL;
	for (at += strlen(name); *at && *at != '\r' && n + 1 < size; at++)
		value[n++] = *at;
	value[n] = '\0';
	return value;
}

static size_t number(const char *act, const char *name, size_t otherwise)
{
	const char *at = strstr(act, name);

	return at ? strtoul(at + strlen(name), NULL, 10) : otherwise;
}

/* A whole request, or one that is to be answered early. */
static bool parse(const struct peer *p, struct request *r)
{
	char *end = p->in_len ? memmem(p->in, p->in_len, "\r\n\r\n", 4) : NULL, head[4096], value[64];
	size_t len = 0;

	memset(r, 0, sizeof(*r));
	if (!end)
		return false;
	r->head = (size_t)(end - p->in) + 4;
	memcpy(head, p->in, r->head < sizeof(head) ? r->head : sizeof(head) - 1);
	head[r->head < sizeof(head) ? r->head : sizeof(head) - 1] = '\0';
	header(head, "\r\nX-Do: ", r->act, sizeof(r->act));
	if (header(head, "\r\nX-Id: ", value, sizeof(value)))
		r->id = (unsigned)strtoul(value, NULL, 10);
	r->is_head = strncmp(head, "HEAD ", 5) == 0;
	if (header(head, "\r\nContent-Length: ", value, sizeof(value)))
		len = strtoul(value, NULL, 10);
	if (header(head, "\r\nTransfer-Encoding: ", value, sizeof(value))) {
		end = memmem(p->in + r->head, p->in_len - r->head, "0\r\n\r\n", 5);
		if (!end)
			return false;
		len = (size_t)(end - p->in) + 5 - r->head;
	} else if (strstr(r->act, "early")) {
		r->all = p->in_len < r->head + len ? p->in_len : r->head + len;
		return true;
	} else {
		for (size_t i = 0; i < len && r->head + i < p->in_len; i++)
			r->bad |= p->in[r->head + i] != splice_byte(i);
	}
	if (p->in_len < r->head + len)
		return false;
	r->all = r->head + len;
	return true;
}

static void say(struct peer *p, const void *bytes, size_t len)
{
	p->out = realloc(p->out, p->out_len + len + 1);
	memcpy(p->out + p->out_len, bytes, len);
	p->out_len += len;
}

static void say_pattern(struct peer *p, size_t from, size_t len)
{
	p->out = realloc(p->out, p->out_len + len + 1);
	for (size_t i = 0; i < len; i++)
		p->out[p->out_len++] = splice_byte(from + i);
}

static void answer(struct splice_nodes *n, struct peer *p, const struct request *r)
{
	static const char *const names[NODES] = {"fb", "c1", "c2", "c3"};
	size_t len = number(r->act, "len=", 10), status = number(r->act, "status=", 200), at = 0;
	char head[256];
	int written;

	atomic_fetch_add(&n->n_requests[p->node], 1);
	atomic_fetch_add(&n->n_bad, r->bad);
	if (r->id) {
		atomic_fetch_add(&n->seen[p->node][r->id % SPLICE_IDS], 1);
		if (n->may && !n->may(n->arg, p->node, r->id))
			atomic_fetch_add(&n->n_wrong, 1);
	}
	p->slow = strstr(r->act, "slow");
	p->ends = strstr(r->act, "drop") || strstr(r->act, "close=") || strstr(r->act, "cut=");
	if (strstr(r->act, "drop"))
		return;
	if (strstr(r->act, "informed"))
		say(p, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 40);
	written = snprintf(head, sizeof(head), "HTTP/1.1 %zu Said\r\nServer: test\r\nX-Node: %s\r\n", status,
			   names[p->node]);
	say(p, head, (size_t)written);
	if (strstr(r->act, "chunked=")) {
		say(p, "Transfer-Encoding: chunked\r\n\r\n", 30);
		for (len = number(r->act, "chunked=", 0); at < len;) {
			size_t n_chunk = len - at < 6000 ? len - at : 6000;

			written = snprintf(head, sizeof(head), "%zx;ext=1\r\n", n_chunk);
			say(p, head, (size_t)written);
			say_pattern(p, at, n_chunk);
			say(p, "\r\n", 2);
			at += n_chunk;
		}
		say(p, "0\r\n\r\n", 5);
	} else if (strstr(r->act, "close=")) {
		say(p, "\r\n", 2);
		say_pattern(p, 0, number(r->act, "close=", 0));
	} else if (strstr(r->act, "cut=")) {
		len = number(r->act, "cut=", 0);
		written = snprintf(head, sizeof(head), "Content-Length: %zu\r\n\r\n", len);
		say(p, head, (size_t)written);
		say_pattern(p, 0, len / 2);
	} else {
		bool none = status == 204 || status == 304;

		written = snprintf(head, sizeof(head), "Content-Length: %zu\r\n\r\n", len);
		say(p, none ? "\r\n" : head, none ? 2 : (size_t)written);
		if (!none && !r->is_head)
			say_pattern(p, 0, len);
	}
}

/* False: the connection has ended. */
static bool flush_out(struct peer *p)
{
	while (p->out_at < p->out_len) {
		size_t len = p->slow ? 1 : p->out_len - p->out_at;
		ssize_t n = send(p->fd, p->out + p->out_at, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0)
			return errno == EAGAIN;
		p->out_at += (size_t)n;
	}
	p->out_at = p->out_len = 0;
	return !p->ends;
}

static bool serve(struct splice_nodes *n, struct peer *p)
{
	struct request r;

	while (!p->out_len && !p->ends && parse(p, &r)) {
		if (!p->due_ms) {
			p->held = strstr(r.act, "hold");
			p->due_ms = test_now_ms() + number(r.act, "delay=", 0);
			atomic_fetch_add(&n->n_waiting, 1);
		}
		if (test_now_ms() < p->due_ms || (p->held && atomic_load(&n->hold)))
			break;
		p->due_ms = 0;
		atomic_fetch_sub(&n->n_waiting, 1);
		answer(n, p, &r);
		memmove(p->in, p->in + r.all, p->in_len - r.all);
		p->in_len -= r.all;
		if (!flush_out(p))
			return false;
	}
	return true;
}

static bool take(struct peer *p)
{
	for (;;) {
		ssize_t got;

		if (p->in_size - p->in_len < HEAD_MAX)
			p->in = realloc(p->in, p->in_size = 2 * p->in_size + 2 * HEAD_MAX);
		got = recv(p->fd, p->in + p->in_len, p->in_size - p->in_len, MSG_DONTWAIT);
		if (got <= 0)
			return got < 0 && errno == EAGAIN;
		p->in_len += (size_t)got;
	}
}

/* It has sent all, and has all its answers. */
static bool is_over(const struct peer *p)
{
	return p->ended && !p->due_ms && !p->out_len;
}

static void end(struct splice_nodes *n, struct peer *p)
{
	if (p->due_ms)
		atomic_fetch_sub(&n->n_waiting, 1);
	close(p->fd);
	p->fd = -1;
	p->due_ms = 0;
	atomic_fetch_sub(&n->n_connections, 1);
}

static void *run(void *arg)
{
	struct splice_nodes *n = arg;
	struct epoll_event events[64];
	struct peer *all = NULL;

	while (!atomic_load(&n->stop)) {
		int count = epoll_wait(n->epoll_fd, events, 64, atomic_load(&n->n_waiting) ? 1 : 20);

		for (int i = 0; i < count; i++) {
			struct peer *p = events[i].data.ptr;

			if (p->fd < 0)
				continue;
			if (p->in == NULL && p->in_size == 1) { /* a listener */
				int one = 1, fd = accept4(p->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
				struct peer *made = fd >= 0 ? calloc(1, sizeof(*made)) : NULL;

				if (!made)
					continue;
				setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
				made->fd = fd;
				made->node = p->node;
				made->next = all;
				all = made;
				atomic_fetch_add(&n->n_connections, 1);
				epoll_ctl(n->epoll_fd, EPOLL_CTL_ADD, fd,
					  &(struct epoll_event){.events = EPOLLIN | EPOLLOUT | EPOLLET,
								.data.ptr = made});
				continue;
			}
			p->ended |= !take(p);
			if (!flush_out(p) || !serve(n, p) || events[i].events & (EPOLLERR | EPOLLHUP) || is_over(p))
				end(n, p);
		}
		for (struct peer *p = all; p; p = p->next)
			if (p->fd >= 0 && p->due_ms && (!serve(n, p) || is_over(p)))
				end(n, p);
	}
	while (all) {
		struct peer *p = all;

		all = p->next;
		if (p->fd >= 0)
			close(p->fd);
		free(p->in);
		free(p->out);
		free(p);
	}
	return NULL;
}

struct splice_nodes *splice_nodes_start(void)
{
	static struct peer listeners[NODES];
	struct splice_nodes *n = calloc(1, sizeof(*n));

	assert_non_null(n);
	n->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	for (int i = 0; i < NODES; i++) {
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		socklen_t len = sizeof(a);
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

		assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
		assert_int_equal(listen(fd, 4096), 0);
		assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
		n->ports[i] = ntohs(a.sin_port);
		n->listeners[i] = fd;
		listeners[i] = (struct peer){.fd = fd, .node = i, .in_size = 1};
		assert_int_equal(epoll_ctl(n->epoll_fd, EPOLL_CTL_ADD, fd,
					   &(struct epoll_event){.events = EPOLLIN, .data.ptr = &listeners[i]}),
				 0);
	}
	assert_int_equal(pthread_create(&n->thread, NULL, run, n), 0);
	return n;
}

void splice_nodes_stop(struct splice_nodes **at)
{
	struct splice_nodes *n = *at;

	if (!n)
		return;
	*at = NULL;
	atomic_store(&n->stop, true);
	pthread_join(n->thread, NULL);
	for (int i = 0; i < NODES; i++)
		close(n->listeners[i]);
	close(n->epoll_fd);
	free(n);
}
