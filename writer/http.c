/* SPDX-License-Identifier: MIT
 * HTTP on a thread of its own: http.h. libmicrohttpd is driven by our thread (its descriptor is polled beside an
 * eventfd), because that thread registers with RCU when it starts and unregisters before it ends.
 *
 * G1 A snapshot is immutable once it is published, and freed a grace period after the next one took its place.
 * G2 The thread's read sections copy the snapshot and do nothing else, so that grace periods are short. */
#include "http.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <urcu/urcu-memb.h>

#include "log.h"
#include "status.h"

#define CONNECTIONS_MAX 64u
#define TIMEOUT_S 10u
#define LOOK_MS 500 /* after CONNECTIONS_MAX was reached, libmicrohttpd listens again only in its next turn */

/* ThreadSanitizer does not see what liburcu orders (membarrier, and the library is not instrumented): it is told. */
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define ORDER_BEFORE(p) __tsan_release(p)
#define ORDER_AFTER(p) __tsan_acquire(p)
#else
#define ORDER_BEFORE(p) ((void)(p))
#define ORDER_AFTER(p) ((void)(p))
#endif

struct snapshot {
	struct rcu_head rcu;
	struct status status;
};

struct http {
	struct snapshot *now; /* RCU */
	struct MHD_Daemon *mhd;
	pthread_t thread;
	int stop_fd;
};

/* ---- pages ------------------------------------------------------------------------------------------------- */

static const struct page {
	const char *path, *type;
	void (*render)(const struct status *, struct buffer *);
} pages[] = {
	{"/", "text/html; charset=utf-8", status_page},
	{"/metrics", "text/plain; version=0.0.4; charset=utf-8", status_metrics},
	{"/status", "application/json", status_json},
};

static enum MHD_Result answer(struct MHD_Connection *c, unsigned status, const char *type, void *text, size_t len,
			      enum MHD_ResponseMemoryMode mode)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(len, text, mode);
	enum MHD_Result result;

	if (!response) {
		if (mode == MHD_RESPMEM_MUST_FREE)
			free(text);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	result = MHD_queue_response(c, status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result answer_text(struct MHD_Connection *c, unsigned status, const char *text)
{
	return answer(c, status, "text/plain; charset=utf-8", (void *)(uintptr_t)text, strlen(text),
		      MHD_RESPMEM_PERSISTENT);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url, const char *method,
				  const char *version, const char *body, size_t *body_len, void **state)
{
	static const char seen = 1;
	struct http *h = arg;
	struct snapshot *now;
	struct status status;
	struct buffer b = {0};

	(void)version;
	(void)body;
	if (!*state) { /* the headers are there; a body may follow, and is thrown away */
		*state = (void *)(uintptr_t)&seen;
		return MHD_YES;
	}
	if (*body_len > 0) {
		*body_len = 0;
		return MHD_YES;
	}
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return answer_text(c, MHD_HTTP_METHOD_NOT_ALLOWED,
				   "only GET and HEAD: changes go through admin.sock\n");
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
		if (strcmp(url, pages[i].path) != 0)
			continue;
		urcu_memb_read_lock(); /* G2 */
		now = rcu_dereference(h->now);
		ORDER_AFTER(now); /* the publication */
		status = now->status;
		ORDER_BEFORE(now); /* its end */
		urcu_memb_read_unlock();
		pages[i].render(&status, &b);
		if (b.failed) {
			buffer_free(&b);
			return answer_text(c, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory: retry\n");
		}
		return answer(c, MHD_HTTP_OK, pages[i].type, b.data, b.len, MHD_RESPMEM_MUST_FREE);
	}
	return answer_text(c, MHD_HTTP_NOT_FOUND, "there are /, /status and /metrics\n");
}

static void *serve(void *arg)
{
	struct http *h = arg;
	struct pollfd fds[2] = {
		{.fd = MHD_get_daemon_info(h->mhd, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd, .events = POLLIN},
		{.fd = h->stop_fd, .events = POLLIN},
	};

	urcu_memb_register_thread();
	while (!(fds[1].revents & POLLIN)) {
		MHD_UNSIGNED_LONG_LONG within;
		int wait = LOOK_MS;

		if (MHD_get_timeout(h->mhd, &within) == MHD_YES && within < LOOK_MS)
			wait = (int)within;
		if (poll(fds, 2, wait) < 0 && errno != EINTR)
			break;
		MHD_run(h->mhd);
	}
	urcu_memb_unregister_thread();
	return NULL;
}

/* ---- control thread ---------------------------------------------------------------------------------------- */

static void free_snapshot(struct rcu_head *rcu)
{
	struct snapshot *old = caa_container_of(rcu, struct snapshot, rcu);

	ORDER_AFTER(old); /* all reads */
	free(old);
}

void http_publish(struct server *s)
{
	struct snapshot *next, *last;

	if (!s->http)
		return;
	next = calloc(1, sizeof(*next));
	if (!next)
		return; /* the numbers stay those of the last second */
	status_collect(s, &next->status);
	ORDER_BEFORE(next);
	last = rcu_xchg_pointer(&s->http->now, next); /* G1 */
	if (last)
		urcu_memb_call_rcu(&last->rcu, free_snapshot);
	s->published_ms = uv_now(&s->loop);
	s->published_changes = core_changes(s->core);
}

/* ADDR:PORT, to be freed by the caller; NULL with *r filled. */
static struct addrinfo *address_of(const char *text, struct refusal *r)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found = NULL;
	const char *colon = strrchr(text, ':'), *from = text;
	char host[64] = "127.0.0.1";
	size_t n = colon ? (size_t)(colon - text) : 0;

	if (n > 1 && from[0] == '[' && from[n - 1] == ']') {
		from++;
		n -= 2;
	}
	if (colon && n > 0 && n < sizeof(host)) {
		memcpy(host, from, n);
		host[n] = '\0';
	}
	if (!colon || n >= sizeof(host) || !colon[1] || getaddrinfo(host, colon + 1, &hints, &found) != 0) {
		refuse(r, R_INVALID, "--http %.100s: give ADDR:PORT, [ADDR6]:PORT or :PORT, in numbers", text);
		return NULL;
	}
	return found;
}

enum refusal_code http_check(const char *address, struct refusal *r)
{
	struct addrinfo *found = address_of(address, r);

	if (!found)
		return r->code;
	freeaddrinfo(found);
	return R_DONE;
}

/* A listening socket; the port that it got is put into *port. */
static int listen_at(const char *address, unsigned *port, struct refusal *r)
{
	struct addrinfo *found = address_of(address, r);
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} bound = {.v6 = {0}};
	socklen_t len = sizeof(bound);
	const int on = 1;
	int fd;

	if (!found)
		return -1;
	fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
	    bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 64) != 0 ||
	    getsockname(fd, &bound.any, &len) != 0) {
		refuse(r, R_BACKEND, "--http %.100s: %s: give another address or port", address, strerror(errno));
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(found);
	/* IPv4 and IPv6 keep the port in the same place. */
	*port = ntohs(bound.v4.sin_port);
	return fd;
}

enum refusal_code http_open(struct server *s, const char *address, struct refusal *r)
{
	struct http *h = calloc(1, sizeof(*h));
	sigset_t all, before;
	unsigned port = 0;
	int fd, rc;

	if (!h)
		return refuse(r, R_FULL, "no memory to serve HTTP: give the daemon more");
	fd = listen_at(address, &port, r);
	if (fd < 0) {
		free(h);
		return r->code;
	}
	h->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (h->stop_fd >= 0)
		h->mhd = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, h, MHD_OPTION_LISTEN_SOCKET, fd,
					  MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
					  TIMEOUT_S, MHD_OPTION_END);
	if (!h->mhd) {
		rc = errno;
		close(fd); /* else it is the server's */
		goto fail;
	}
	s->http = h;
	http_publish(s); /* before anybody reads */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before); /* signals are the control thread's */
	rc = h->now ? pthread_create(&h->thread, NULL, serve, h) : ENOMEM;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc == 0) {
		log_event(LEVEL_INFO, "http", LOG_S("address", address), LOG_N("port", port));
		return R_DONE;
	}
fail:
	if (h->mhd)
		MHD_stop_daemon(h->mhd);
	if (h->stop_fd >= 0)
		close(h->stop_fd);
	free(h->now);
	free(h);
	s->http = NULL;
	return refuse(r, R_BACKEND, "--http %.100s: the server did not start: %s", address, strerror(rc));
}

void http_close(struct server *s)
{
	struct http *h = s->http;
	const uint64_t one = 1;

	if (!h)
		return;
	if (write(h->stop_fd, &one, sizeof(one)) < 0)
		return; /* cannot be: then the thread ends with the process */
	pthread_join(h->thread, NULL);
	MHD_stop_daemon(h->mhd);
	close(h->stop_fd);
	urcu_memb_barrier(); /* the snapshots that wait for a grace period */
	free(h->now);
	free(h);
	s->http = NULL;
}
